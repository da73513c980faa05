"""`raremap predict`: a bundle and scenes to maps."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raremap.errors import BundleError, ConfigError, OutputError, RaremapError, RaremapWarning, nearest
from raremap.jobs import progress

if TYPE_CHECKING:
    import numpy as np

    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.exported import Exported
    from raremap.labels import LabelScheme
    from raremap.maps.drawing import Drawing
    from raremap.maps.export import MapSummary
    from raremap.maps.stream import Network
    from raremap.measure.decision import Decision
    from raremap.models.precision import Precision
    from raremap.workflows.predict_on_ray import Given as OnRay
    from raremap.workflows.scenes import Given, SceneToMap


@dataclass(frozen=True)
class Maps:
    """What was mapped: one summary a scene."""

    maps: tuple[MapSummary, ...]

    @property
    def kept(self) -> int:
        """How many stood finished before, made of the same scene by the same model and options."""
        return sum(m.kept for m in self.maps)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary."""
        return {"maps": [m.to_dict() for m in self.maps], "kept": self.kept}

    def __str__(self) -> str:
        told = f"{self.kept} of {len(self.maps)} maps stood finished and were kept; remove one to have it made again"
        return "\n".join([*map(str, self.maps), *([told] if self.kept else [])])


def predict(
    bundle: Bundle | Ensemble | Exported | str | Path,
    scenes: Given | Sequence[Given],
    out: str | Path,
    probabilities: Literal["float32", "uint8"] | None = None,
    argmax: bool = False,
    window: int | None = None,
    overlap: float | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    prior: Mapping[str, float] | str | Path | None = None,
    nodata: float | None = None,
    tta: str | bool | None = None,
    scales: Sequence[float] | None = None,
    quiet: bool = False,
    confidence: bool = False,
    entropy: bool = False,
    level: int = 0,
    ray: str | None = None,
    workers: int | None = None,
    layers: Mapping[str, str | Path] | None = None,
    tags: Mapping[str, str] | None = None,
    compiled: bool = False,
) -> Maps:
    """Map scenes with a bundle, an ensemble or an exported model: for one scene `out` is the map's file, for several a folder.

    A scene is a raster file, or what the section `scenes` of a YAML file finds, such as an experiment's own: images with
    layers, a file a band, several dates as they were trained (masks are not needed; `Experiment.scenes` does, too). Its map is called as
    the scene. `layers` are bands in files of their own, such as `{"dem": "dem.tif"}`, on the grid of all scenes.

    `probabilities` ("float32" or "uint8") also writes a band a class as `NAME.probs.tif`, after the decision's
    temperature. `argmax` leaves the fitted decision aside. `prior` are the class shares expected in the
    scenes, by name or as a JSON file of them: probabilities are moved to them, and the bias, which belongs to
    the shares of the training, is left aside. `nodata` marks no data in the scenes (default: `scenes.nodata` of
    their YAML file, else of the training, else the files' own tags).

    `tta` averages over flips ("flips") or flips and quarter turns ("d4", or True), `scales` over resolutions; see
    `PredictOptions`. With another `window`, `overlap`, `tta` or `scales` the decision is the one that was fitted for
    that way (`raremap calibrate`); where there is none the bundle's own is used, and a warning says so.

    `confidence` and `entropy` also write `NAME.confidence.tif` (probability of the class that the map gives) and
    `NAME.entropy.tif` (0 sure, 1 all classes alike). `level` maps so many steps up the tree of classes: the
    probabilities of a group's classes are summed, and the most probable group is mapped; the bias, which
    belongs to the classes, is left aside.

    `precision` is "float32", "bf16", "float16" or "auto": what was settled when the bundle was made, else on the
    scene's first windows. `compiled` has `torch.compile` make the network faster, which takes up to a minute first and a
    C++ compiler (see docs/speed.md). `tags` are what the maps' files say of themselves besides.

    In a folder a map is kept that stands finished there and was made of the same files by the same model and options, so
    that a stopped job goes on; one that is called by its own file is made anew. Unless `quiet`, a line on standard error
    says the precision, the window and how many windows at once were settled.

    `ray` is the address of a Ray cluster whose `workers` map strips of the scenes, or "local"; see
    `workflows.predict_on_ray`.

    Raises `BundleError` where a scene lacks the bundle's bands, before anything is mapped, `OutputError` where two
    scenes would write one map. Where a scene fails in the middle its map is not there; those before it stay.
    """
    from raremap.cluster import maybe_joined
    from raremap.exported import load_model
    from raremap.maps.drawing import Drawing
    from raremap.maps.export import finished, settled, write_map
    from raremap.models.precision import checked
    from raremap.ways import predicting, unfitted
    from raremap.workflows.days import date_tag
    from raremap.workflows.predict_on_ray import Given, broken_off, map_on
    from raremap.workflows.scenes import scenes_to_map

    checked(precision)
    if probabilities not in (None, "float32", "uint8"):
        raise ConfigError(f"probabilities is '{probabilities}', expected float32 or uint8")
    own = load_model(bundle) if isinstance(bundle, (str, Path)) else bundle
    bundle = predicting(own, window, overlap, tta, scales)
    # Every scene is opened before the first is mapped: a wrong one is found in the first second.
    found = scenes_to_map(bundle, scenes, nodata, layers)
    targets = _targets(found, Path(out))
    if not argmax and prior is None and not level and (doubt := unfitted(bundle)):
        warnings.warn(doubt, RaremapWarning, stacklevel=2)
    decision = moved(bundle, prior) if prior is not None else None if argmax else bundle.decision
    scheme, decide, soften = _deciding(bundle.scheme, decision, level)
    quantities = tuple(name for name, asked in (("confidence", confidence), ("entropy", entropy)) if asked)
    given = Given(bundle, Drawing(scheme, decide, soften, probabilities, quantities), device, compiled)
    told = tags_of(bundle, decision, level, compiled)
    more, rule = dict(tags or {}), repr((decision, level))
    pairs = list(zip(found, targets, strict=True))
    keys = {} if targets == [Path(out)] else _keys(given, pairs, rule, told | more, precision)
    stand = {target: finished(target, given.drawing, key) for target, key in keys.items()}
    done = {target: summary for target, summary in stand.items() if summary is not None}
    left = [pair for pair in pairs if pair[1] not in done]
    if not left:
        return Maps(tuple(done[target] for target in targets))
    if older := _older([target for _, target in left], given.drawing):
        warnings.warn(older, RaremapWarning, stacklevel=2)
    with maybe_joined(ray, workers) as cluster:
        if cluster is not None:
            map_on(cluster, given, left, rule, told | more, precision, quiet, keys, done)
            return Maps(tuple(done[target] for target in targets))
    network = network_of(bundle, device, precision, compiled, quiet)
    said = ""
    for number, (scene, target) in enumerate(left, start=1):
        try:
            with (
                scene.opened(bundle) as reader,
                progress(scene.name, reader.grid.height, quiet) as bar,
            ):
                done[target] = write_map(
                    reader, network, target, scheme, bundle.predict, decide=decide, soften=soften,
                    probabilities=probabilities, tags={**told, **date_tag(scene), **more}, progress=bar,
                    quantities=quantities, network_classes=bundle.scheme.num_classes, job=keys.get(target),
                )  # fmt: skip
                line = settled(done[target].precision, done[target].batch, bundle.predict.window)
                if line != said:  # which is known at the end of a map
                    bar.note(line)
                said = line
        except RaremapError as error:
            raise broken_off(error, len(done), len(left) - number) from None
    return Maps(tuple(done[target] for target in targets))


def network_of(
    bundle: Bundle | Ensemble | Exported, device: str, precision: str, compiled: bool, quiet: bool
) -> Network:
    """The network to map with; unless `quiet`, a line says where it has to be compiled."""
    if not compiled:
        return bundle.network(device, precision)
    with progress("compiling", 1, quiet) as bar:
        bar.note("the network is compiled: up to a minute, seconds where this machine did it before")
        network = bundle.network(device, precision, compiled=True)
        bar.advance()
    return network


def _keys(
    given: OnRay, pairs: list[tuple[SceneToMap, Path]], rule: str, tags: dict[str, str], precision: str
) -> dict[Path, str]:
    """By map, a checksum of all that it follows from: the scene's files, the model, and what was asked for."""
    from raremap.workflows.predict_on_ray import stamp

    digest = given.digest(rule)

    def key(scene: SceneToMap) -> str:
        said = (digest, stamp(scene.record, scene.record.image_files), sorted(tags.items()), precision)
        return hashlib.sha256(repr(said).encode()).hexdigest()[:24]

    return {target: key(scene) for scene, target in pairs}


def _older(targets: Sequence[Path], drawing: Drawing) -> str:
    """That rasters stand beside the maps to be made that are not made with them, in a line; empty where there are none."""
    from raremap.maps.export import paths_of
    from raremap.maps.quantities import beside

    found = [p for t in targets for p in beside(t) if p not in paths_of(t, drawing).values()]
    if not found:
        return ""
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{found[0]}{more} will be of an older map; remove what is not needed, or predict it anew"


def _deciding(scheme: LabelScheme, decision: Decision | None, level: int) -> tuple[LabelScheme, Any, Any]:
    """The classes of the map, and how the network's probabilities become classes and probabilities that are written."""
    soften = decision.posterior if decision is not None and decision.softens else None
    if not level:
        return scheme, decision.apply if decision is not None else None, soften
    from raremap.classtree import level as level_of
    from raremap.measure.decision import most_likely

    up = level_of(scheme, level)

    def summed(probs: np.ndarray) -> np.ndarray:
        return up.summed(probs if soften is None else soften(probs))

    return up.scheme, lambda probs: most_likely(summed(probs)), summed


def _targets(scenes: list[SceneToMap], out: Path) -> list[Path]:
    from rasterio.drivers import raster_driver_extensions

    from raremap.scene.cog import check_name

    if len(scenes) == 1 and not out.is_dir() and out.suffix.lower() in (".tif", ".tiff"):
        targets = [out]
    else:
        if out.suffix.lower() in (".tif", ".tiff") and not out.is_dir():
            raise OutputError(f"{len(scenes)} scenes cannot share the map {out}; give a folder with -o")
        if out.suffix.lower()[1:] in raster_driver_extensions() and not out.is_dir():
            check_name(out)  # which tells of it
        targets = [out / f"{scene.name}.map.tif" for scene in scenes]
    for scene, target in zip(scenes, targets, strict=True):
        if target.exists() and any(Path(p).exists() and target.samefile(p) for p in scene.record.files):
            raise OutputError(f"the map {target} would overwrite its own scene; choose another -o")
        if targets.count(target) > 1:
            raise OutputError(
                f"two scenes would write {target}; give scenes of different names, or map them one by one"
            )
    return targets


def tags_of(
    bundle: Bundle | Ensemble | Exported, decision: Decision | None, level: int = 0, compiled: bool = False
) -> dict[str, str]:
    """What a map says of itself: the software, the model, and how classes were computed, decided and averaged."""
    how = (
        f"argmax at level {level}"
        if level
        else "argmax"
        if decision is None or not decision.fitted
        else "given shares"
        if decision.shift
        else "fitted"
    )
    averaged = bundle.predict.averaged
    if members := getattr(bundle, "members", ()):
        averaged = f"{len(members)} networks" + (f", {averaged}" if averaged else "")
    way = bundle.predict
    return {
        "TIFFTAG_SOFTWARE": f"raremap {version('raremap')}",
        "raremap_model": bundle.name,
        "raremap_decision": how,
        "raremap_windows": f"{way.window} pixels, overlap {way.overlap:g}, {way.blend}",
        **({"raremap_averaged": averaged} if averaged else {}),
        **({"raremap_compiled": "torch.compile"} if compiled else {}),
    }


def moved(bundle: Bundle | Ensemble | Exported, prior: Mapping[str, float] | str | Path) -> Decision:
    """The decision for ground of given class shares; raises `ConfigError` or `BundleError` where it cannot be made."""
    from raremap.measure.decision import Decision

    if isinstance(prior, (str, Path)):
        try:
            prior = json.loads(Path(prior).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"class shares {prior} cannot be read ({error}); give a JSON file such as "
                f"{json.dumps(dict.fromkeys(bundle.scheme.names, 0.1))}"
            ) from None
    names = bundle.scheme.names
    shares = dict(prior) if isinstance(prior, Mapping) else {}
    odd = [n for n in shares if n not in names]
    if odd:
        raise ConfigError(f"class shares name '{odd[0]}', which is not a class; {nearest(odd[0], names)}")
    missing = [n for n in names if n not in shares]
    if missing:
        raise ConfigError(f"class shares lack {', '.join(repr(n) for n in missing)}; give one for each class")
    values = [shares[n] for n in names]
    if not all(isinstance(v, (int, float)) and 0 <= v < float("inf") for v in values):
        raise ConfigError(f"class shares are {values}, expected numbers from 0 to 1")
    if abs(sum(values) - 1) > 0.01:
        raise ConfigError(f"class shares add up to {sum(values):.4g}, expected 1")
    if bundle.prior is None:
        raise BundleError(
            f"bundle {bundle.name} does not say which class shares it has learned; none can be moved"
        )
    unknown = [n for n, new, old in zip(names, values, bundle.prior, strict=True) if new > 0 and old <= 0]
    if unknown:
        raise ConfigError(
            f"class shares give '{unknown[0]}' {shares[unknown[0]]:g}, but bundle {bundle.name} has learned from no "
            "pixel of it and cannot tell where it is; give it 0"
        )
    decision = bundle.decision or Decision((0.0,) * len(names))
    return decision.moved_to(tuple(map(float, values)), bundle.prior)

"""`raremap predict`: a bundle and scenes to maps."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raremap.errors import (
    BundleError,
    ConfigError,
    OutputError,
    RaremapError,
    RaremapWarning,
    SceneError,
    nearest,
)  # fmt: skip
from raremap.jobs import progress

if TYPE_CHECKING:
    import numpy as np

    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.exported import Exported
    from raremap.labels import LabelScheme
    from raremap.maps.export import MapSummary
    from raremap.measure.decision import Decision
    from raremap.scene.raster import Image, ImageReader


@dataclass(frozen=True)
class Maps:
    """What was mapped: one summary a scene."""

    maps: tuple[MapSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary."""
        return {"maps": [m.to_dict() for m in self.maps]}

    def __str__(self) -> str:
        return "\n".join(str(m) for m in self.maps)


def predict(
    bundle: Bundle | Ensemble | Exported | str | Path,
    scenes: str | Path | Sequence[str | Path],
    out: str | Path,
    probabilities: Literal["float32", "uint8"] | None = None,
    argmax: bool = False,
    window: int | None = None,
    overlap: float | None = None,
    device: str = "auto",
    precision: str = "auto",
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
) -> Maps:
    """Map scenes with a bundle, an ensemble or an exported model: for one scene `out` is the map's file, for several a folder.

    `probabilities` ("float32" or "uint8") also writes a band a class as `NAME.probs.tif`, after the decision's
    temperature. `argmax` leaves the fitted decision aside. `prior` are the class shares expected in the
    scenes, by name or as a JSON file of them: probabilities are moved to them, and the bias, which belongs to
    the shares of the training, is left aside. `nodata` marks no data in scenes whose files name no such value
    (default: what the training had).

    `tta` averages over flips ("flips") or flips and quarter turns ("d4", or True), `scales` over resolutions; see
    `PredictOptions`. With another `window`, `overlap`, `tta` or `scales` the decision is the one that was fitted for
    that way (`raremap calibrate`); where there is none the bundle's own is used, and a warning says so.

    `confidence` and `entropy` also write `NAME.confidence.tif` (probability of the class that the map gives) and
    `NAME.entropy.tif` (0 sure, 1 all classes alike). `level` maps so many steps up the tree of classes: the
    probabilities of a group's classes are summed, and the most probable group is mapped; the bias, which
    belongs to the classes, is left aside.

    `ray` is the address of a Ray cluster whose `workers` map strips of the scenes, or "local"; see
    `workflows.predict_on_ray`.

    Raises `BundleError` where a scene lacks the bundle's bands, before anything is mapped, `OutputError` where two
    scenes would write one map. Where a scene fails in the middle its map is not there; those before it stay.
    """
    from raremap.cluster import maybe_joined
    from raremap.exported import load_model
    from raremap.maps.export import write_map
    from raremap.ways import predicting, unfitted

    own = load_model(bundle) if isinstance(bundle, (str, Path)) else bundle
    bundle = predicting(own, window, overlap, tta, scales)
    # Not as Path, which makes s3:/ of s3://.
    paths = [str(s) for s in ([scenes] if isinstance(scenes, (str, Path)) else scenes)]
    targets = _targets([Path(p) for p in paths], Path(out))
    if not argmax and prior is None and not level and (told := unfitted(bundle)):
        warnings.warn(told, RaremapWarning, stacklevel=2)
    decision = moved(bundle, prior) if prior is not None else None if argmax else bundle.decision
    nodata = bundle.nodata if nodata is None else nodata
    scheme, decide, soften = _deciding(bundle.scheme, decision, level)
    quantities = [name for name, asked in (("confidence", confidence), ("entropy", entropy)) if asked]
    # Every scene is opened before the first is mapped: a wrong one is found in the first second.
    for path in paths:
        with open_for(bundle, path, nodata):
            pass
    tags = tags_of(bundle, decision, level)
    with maybe_joined(ray, workers) as cluster:
        if cluster is not None:
            from raremap.workflows.predict_on_ray import Drawing, Given, map_on

            drawing = Drawing(scheme, decide, soften, probabilities, tuple(quantities))
            given = Given(bundle, drawing, nodata, device)
            rule = repr((decision, level))
            pairs = list(zip(paths, targets, strict=True))
            return Maps(tuple(map_on(cluster, given, pairs, rule, tags, precision, quiet)))
    network = bundle.network(device=device, precision=precision)
    done = []
    for path, target in zip(paths, targets, strict=True):
        try:
            with (
                open_for(bundle, path, nodata) as reader,
                progress(Path(path).name, reader.grid.height, quiet) as bar,
            ):
                done.append(
                    write_map(
                        reader, network, target, scheme, bundle.predict, decide=decide, soften=soften,
                        probabilities=probabilities, tags=tags, progress=bar,
                        quantities=quantities, network_classes=bundle.scheme.num_classes,
                    )
                )  # fmt: skip
        except RaremapError as error:
            if not done:
                raise
            left = len(paths) - len(done) - 1
            raise type(error)(
                f"{error}; maps finished before and kept: {len(done)}, scenes not begun: {left}"
            ) from None
    return Maps(tuple(done))


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


def open_for(bundle: Bundle | Ensemble | Exported, path: str | Path, nodata: float | None) -> Image:
    """The bundle's bands of a scene (`open_bands`), with its features."""
    return bundle.opened(open_bands(bundle.bands, path, nodata))


def open_bands(bands: tuple[str, ...], path: str | Path, nodata: float | None) -> ImageReader:
    """The bands that a bundle needs of a scene, by name; by order where the scene names none and has as many.

    `nodata` counts where the scene's file names no such value.
    """
    from raremap.scene.raster import open_image

    reader = open_image(path)
    nodata = nodata if reader.nodata is None else None
    missing = [b for b in bands if b not in reader.bands]
    if not missing:
        return open_image(path, bands=bands, nodata=nodata)
    if not reader.named:
        with suppress(SceneError):  # another number of bands: told below
            return open_image(path, names=bands, nodata=nodata)
    raise BundleError(
        f"scene {path} has no band '{missing[0]}'; the bundle needs {', '.join(bands)}, "
        f"the scene has {', '.join(reader.bands)}; {nearest(missing[0], reader.bands)}"
    )


def _targets(paths: list[Path], out: Path) -> list[Path]:
    if len(paths) == 1 and not out.is_dir() and out.suffix.lower() in (".tif", ".tiff"):
        targets = [out]
    else:
        if out.suffix.lower() in (".tif", ".tiff") and not out.is_dir():
            raise OutputError(f"{len(paths)} scenes cannot share the map {out}; give a folder with -o")
        targets = [out / f"{p.stem}.map.tif" for p in paths]
    for path, target in zip(paths, targets, strict=True):
        if target.exists() and path.exists() and target.samefile(path):
            raise OutputError(f"the map {target} would overwrite its own scene; choose another -o")
        if targets.count(target) > 1:
            raise OutputError(
                f"two scenes would write {target}; give scenes of different names, or map them one by one"
            )
    return targets


def tags_of(
    bundle: Bundle | Ensemble | Exported, decision: Decision | None, level: int = 0
) -> dict[str, str]:
    """What a map says of itself: the software, the model, and how classes were decided and averaged."""
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

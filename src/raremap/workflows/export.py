"""`raremap export`: a bundle as ONNX, for small devices and for machines without torch."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import BundleError, ConfigError, MissingExtra, OutputError, RaremapWarning
from raremap.files import written
from raremap.jobs import progress
from raremap.measure.decision import Decision
from raremap.scene.window import Window

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.exported import Exported
    from raremap.maps.runtime import RuntimeNetwork
    from raremap.tiles.catalog import Catalog

PARITY = 1e-4
"""The most that a probability of a float32 graph may differ from the bundle's."""


@dataclass(frozen=True)
class Deviation:
    """Probabilities beside the bundle's: greatest and mean difference, and the share of pixels of another class."""

    greatest: float
    mean: float
    changed: float


@dataclass(frozen=True)
class Export:
    """What was written, how far it is from the bundle, and its scores beside the bundle's where they were asked for.

    `parity` is the float32 graph on made-up windows; `int8` the eight-bit graph on the windows of its calibration. Where
    the bundle itself computes in another precision, `own_precision`, `own` is how far that is from float32 on the
    made-up windows: as far as the graph's maps are from the bundle's.
    """

    path: Path
    sidecar: Path
    precision: str
    size_bytes: int
    parity: Deviation
    int8: Deviation | None = None
    before: tuple[str, ...] = ()
    scores: dict[str, dict[str, Any]] | None = None
    own_precision: str = "float32"
    own: Deviation | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "path": str(self.path), "sidecar": str(self.sidecar)}

    def __str__(self) -> str:
        lines = [
            f"{self.path}  {self.precision}, {self.size_bytes / 1e6:.2f} MB",
            f"{self.sidecar}",
            f"float32 beside the bundle in float32: greatest difference {self.parity.greatest:.1e}",
        ]
        if self.own is not None:
            lines.append(
                f"float32 beside the bundle in {self.own_precision}, in which it computes: greatest difference "
                f"{self.own.greatest:.3f}, mean {self.own.mean:.4f}, {self.own.changed:.2%} of the pixels of another class"
            )
        if self.int8 is not None:
            lines.append(
                f"int8 beside float32, on calibration tiles: greatest difference {self.int8.greatest:.3f}, "
                f"mean {self.int8.mean:.4f}, {self.int8.changed:.2%} of the pixels of another class"
            )
        if self.before:
            lines.append(f"made before the graph: {', '.join(self.before)}")
        if self.scores is not None:
            first, second = self.scores["bundle"], self.scores["exported"]
            lines += ["", f"{'test places':<24}{'bundle':>10}{'exported':>10}"]
            rows = [("macro-F1", first["macro_f1"], second["macro_f1"])]
            rows += [(f"F1 {n}", f, second["f1"][n]) for n, f in first["f1"].items()]
            lines += [f"{name:<24}{_shown(a):>10}{_shown(b):>10}" for name, a, b in rows]
        return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def export(
    bundle: Bundle | str | Path,
    out: str | Path,
    int8: bool = False,
    calibrate: Catalog | str | Path | None = None,
    evaluate: Catalog | str | Path | None = None,
    opset: int = 17,
    fixed: tuple[int, int] | None = None,
    tiles: int = 64,
    quiet: bool = False,
) -> Export:
    """Write a bundle as `out` (.onnx) with everything else that it tells as `out`.json; `predict` takes it as it is.

    The graph holds normalisation, the features that are arithmetic on single pixels, the network, the temperature and
    the decision; it takes any height, width and batch, or one image of `fixed` (height, width). Features that need a
    pixel's surroundings or the scene's range are made before it, by `predict`.

    `int8` writes weights and the tensors between layers as bytes; their ranges come from `tiles` training tiles of the
    catalog `calibrate`. With the catalog `evaluate` both are scored on its test places.

    Raises `ConfigError` for arguments that make no sense, `BundleError` where the graph cannot be made or differs from
    the bundle by more than `PARITY`, `OutputError` where the files cannot be written.
    """
    from raremap.bundle import Bundle, item_of
    from raremap.exported import SUFFIX, Exported, describe, sidecar
    from raremap.files import sha256_of
    from raremap.models.quantize import quantize
    from raremap.scene.features.channels import with_features

    _refuse_ensembles(bundle)
    try:
        from raremap.models.graph import NET, write_graph
    except ImportError as error:  # the light install maps with what was exported, and exports nothing
        raise MissingExtra(str(error.name or "torch").split(".")[0], "train") from None
    out = Path(out)
    if out.suffix.lower() != SUFFIX:
        raise OutputError(f"{out} does not end in {SUFFIX}; give the file to write, such as -o model{SUFFIX}")
    if not 13 <= opset <= 20:
        raise ConfigError(f"opset is {opset}, expected 13 to 20")
    if fixed is not None and min(fixed) < 1:
        raise ConfigError(
            f"fixed is {fixed[0]},{fixed[1]}, expected a height and a width of 1 pixel at least"
        )
    if int8 and calibrate is None:
        raise ConfigError("int8 takes its ranges from training tiles; give their catalog with --calibrate")
    if calibrate is not None and not int8:
        raise ConfigError("a catalog to calibrate with is for int8; add --int8, or leave --calibrate out")
    if isinstance(bundle, (str, Path)):
        bundle = Bundle.load(bundle)
    if fixed is not None and bundle.predict.window > min(fixed):
        bundle = replace(bundle, predict=bundle.predict.model_copy(update={"window": min(fixed)}))
    graph = _graph(bundle, fixed)
    # Catalogs are read first: a wrong one is found in the first second.
    batches = [] if calibrate is None else _batches(bundle, _catalog(calibrate, bundle), tiles, fixed)
    scored_on = None if evaluate is None else _catalog(evaluate, bundle)
    before = [n for f in _before(bundle) for n in f.channels]
    facts: dict[str, Any] = {
        "file": out.name,
        "opset": opset,
        "precision": "int8" if int8 else "float32",
        "temperature": graph.temperature,
        "fixed": list(fixed) if fixed else None,
        "before": before,
        "in_graph": [c for c in bundle.channels[len(bundle.bands) :] if c not in before],
        "made_with": {p: version(p) for p in ("raremap", "torch", "onnx", "onnxruntime")},
    }
    with written(out) as fresh, written(sidecar(out)) as beside, tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "exact.onnx" if int8 else fresh
        write_graph(graph, exact, opset)
        parity = _parity(bundle, _runtime(exact, facts), fixed)
        facts["parity"] = asdict(parity)
        own_precision, own = _own(bundle, fixed)
        if own is not None:
            facts["beside_bundle"] = {"precision": own_precision, **asdict(own)}
        moved = None
        if int8:
            quantize(exact, fresh, batches, NET)
            moved = _moved(_runtime(exact, facts), _runtime(fresh, facts), batches)
            facts["int8"] = {**asdict(moved), "tiles": len(batches)}
        item = item_of(bundle)
        channels = item["properties"]["mlm:input"][0]["bands"]
        facts |= {"bytes": fresh.stat().st_size, "sha256": sha256_of(fresh)}
        names = with_features(bundle.bands, _before(bundle))
        channels = [c for c in channels if (c if isinstance(c, str) else c["name"]) in names]
        beside.write_text(describe(item, facts, channels, bundle.scheme), encoding="utf-8")
    scores = None if scored_on is None else _scores(bundle, Exported.load(out), scored_on, quiet)
    return Export(
        out, sidecar(out), facts["precision"], facts["bytes"], parity, moved, tuple(facts["before"]), scores,
        own_precision, own,
    )  # fmt: skip


def _refuse_ensembles(bundle: object) -> None:
    """Raise `BundleError` for an ensemble, or the folder of one."""
    from raremap.bundle import ENSEMBLE
    from raremap.ensembles import Ensemble

    folder = Path(bundle) if isinstance(bundle, (str, Path)) else None
    if isinstance(bundle, Ensemble) or (folder is not None and (folder / ENSEMBLE).is_file()):
        told = f"{folder} is an ensemble" if folder is not None else "this is an ensemble"
        where = f", such as {folder / 'members' / '0'}" if folder is not None else ""
        raise BundleError(f"{told}, which has no ONNX form yet; export its members{where}")


def _graph(bundle: Bundle, fixed: tuple[int, int] | None) -> Any:
    """The bundle's graph as a module; raises `BundleError` for a decision that belongs to other class shares."""
    from raremap.models.graph import Choice, Graph

    decision = bundle.decision or Decision((0.0,) * bundle.scheme.num_classes)
    if any(decision.shift):
        raise BundleError(
            f"the decision of {bundle.name} moves to other class shares; export it with its own decision, and give "
            "the shares to predict with --prior"
        )
    scheme = bundle.scheme
    choice = Choice(decision.temperature, decision.factors, scheme.values, scheme.map_nodata)
    return Graph(bundle.module.cpu(), bundle.bands, bundle.features, bundle.normalization, choice, fixed)


def _before(bundle: Bundle) -> tuple[Any, ...]:
    """The features that a graph cannot make."""
    from raremap.models.graph import in_graph

    return tuple(f for f in bundle.features if not in_graph(f))


def _catalog(catalog: Catalog | str | Path, bundle: Bundle) -> Catalog:
    from raremap.tiles.catalog import Catalog
    from raremap.workflows.scoring import check_fits

    catalog = Catalog.load(catalog) if isinstance(catalog, (str, Path)) else catalog
    catalog.check_sources()
    check_fits(bundle, catalog)
    return catalog


def _runtime(path: Path, facts: dict[str, Any]) -> RuntimeNetwork:
    from raremap.maps.runtime import RuntimeNetwork

    fixed = facts["fixed"]
    return RuntimeNetwork(path, facts["temperature"], tuple(fixed) if fixed else None, "cpu")


def _batches(
    bundle: Bundle, catalog: Catalog, tiles: int, fixed: tuple[int, int] | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training tiles as the graph wants them, the classes taking turns, so that the ranges hold what is rare too."""
    from raremap.scene.features.reader import featured
    from raremap.workflows.scoring import rows_of
    from raremap.workflows.uses import uses_for

    uses, remarks = uses_for(bundle, catalog)
    for remark in remarks:
        warnings.warn(remark, RaremapWarning, stacklevel=3)
    out = []
    for row in taking_turns(rows_of(uses, "train"), catalog.counts, tiles):
        name, window = str(catalog.scene_names[row]), catalog.windows[row]
        if fixed is not None:
            window = Window(
                window.row_off, window.col_off, min(window.height, fixed[0]), min(window.width, fixed[1])
            )
        with featured(catalog.scenes[name].open_image(bundle.bands), _before(bundle)) as image:
            pixels, valid = image.read(window)
        pixels, valid = pixels.astype(np.float32)[None], valid[None]
        if fixed is not None:
            more = ((0, fixed[0] - window.height), (0, fixed[1] - window.width))
            pixels = np.pad(pixels, ((0, 0), (0, 0), *more), "edge")
            valid = np.pad(valid, ((0, 0), *more), "edge")
        out.append((pixels, valid))
    return out


def taking_turns(rows: np.ndarray, counts: np.ndarray, most: int) -> list[int]:
    """At most `most` of the rows: each class in turn, from rare to common, gives the tile that holds most of it.

    >>> taking_turns(np.array([4, 5, 6]), np.array([[9, 0]] * 4 + [[9, 0], [5, 4], [8, 1]]), 2)
    [5, 4]
    """
    left, out = [int(r) for r in rows], []
    order = np.argsort(counts[rows].sum(0), kind="stable")
    while left and len(out) < most:
        for k in order[: most - len(out)]:
            if left:
                best = max(left, key=lambda r: counts[r][k])
                left.remove(best)
                out.append(best)
    return out


_SIZES = [(1, 64, 96), (2, 97, 130), (1, 256, 200), (1, 33, 7)]


def _own(bundle: Bundle, fixed: tuple[int, int] | None) -> tuple[str, Deviation | None]:
    """The precision that the bundle computes in, and how far that is from float32 on a made-up window.

    It is what was settled when the bundle was made, wherever that is fast, else what settles here.
    """
    from raremap.models.forward import TorchNetwork

    def network(precision: str) -> TorchNetwork:
        return TorchNetwork(bundle.module, bundle.normalization, device="cpu", precision=precision)

    own = network(bundle.info.get("precision", "auto"))
    _, channels, valid = _made_up(bundle, np.random.default_rng(0), (1, *(fixed or _SIZES[2][1:])))
    probs = own(channels, valid)
    if own.precision == "float32":
        return "float32", None
    decision = bundle.decision or Decision((0.0,) * bundle.scheme.num_classes)
    exact = network("float32")(channels, valid)
    apart = np.abs(decision.posterior(probs[0]) - decision.posterior(exact[0]))[:, valid[0]]
    changed = (decision.apply(probs[0]) != decision.apply(exact[0]))[valid[0]]
    return own.precision, Deviation(float(apart.max()), float(apart.mean()), float(changed.mean()))


def _parity(bundle: Bundle, network: RuntimeNetwork, fixed: tuple[int, int] | None) -> Deviation:
    """The graph beside the bundle on windows of several sizes, with gaps; raises `BundleError` where they differ.

    A tracer may have written a size into the graph that should have stayed free: other sizes and two images at once
    show it.
    """
    from raremap.models.forward import TorchNetwork

    exact = TorchNetwork(bundle.module, bundle.normalization, device="cpu", precision="float32")
    sizes = [(1, *fixed)] if fixed else _SIZES
    rng = np.random.default_rng(0)
    found = []
    for count, height, width in sizes:
        image, channels, valid = _made_up(bundle, rng, (count, height, width))
        try:
            probs, classes = network.run(image, valid)
        except BundleError as error:
            raise BundleError(f"{error}; the network may ask for one size: try --fixed 256,256") from None
        found.append(_beside(bundle, exact(channels, valid), probs, classes, valid))
    worst = Deviation(
        *(max(values) for values in zip(*((d.greatest, d.mean, d.changed) for d in found), strict=True))
    )
    if not worst.greatest <= PARITY or worst.changed > 0:
        raise BundleError(
            f"the graph's probabilities differ from the bundle's by up to {worst.greatest:.2g} (allowed: {PARITY:g}), "
            f"its classes at {worst.changed:.2%} of the pixels; try --fixed 256,256, or another --opset"
        )
    return worst


def _made_up(
    bundle: Bundle, rng: np.random.Generator, size: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows as the graph gets them, as the bundle's network gets them, and their validity.

    Values are about as far from the normalisation's middle as those of the training; features follow from the bands
    where the graph makes them, and are numbers of their own where it does not.
    """
    from raremap.models.graph import in_graph
    from raremap.scene.features.pixels import Pixels

    count, height, width = size
    shift, scale = (
        np.asarray(v, np.float32)[:, None, None]
        for v in (bundle.normalization.shift, bundle.normalization.scale)
    )
    channels = (shift + rng.normal(size=(count, len(shift), height, width)) / scale).astype(np.float32)
    valid = rng.random(size) > 0.1
    given = list(range(len(bundle.bands)))
    for i in range(count):
        at = len(bundle.bands)
        pixels = Pixels(channels[i, :at], valid[i], bundle.bands)
        for feature in bundle.features:
            n = len(feature.channels)
            if in_graph(feature):
                channels[i, at : at + n] = feature(pixels)
            elif i == 0:
                given += range(at, at + n)
            at += n
    return channels[:, given], channels, valid


def _beside(
    bundle: Bundle, raw: np.ndarray, probs: np.ndarray, classes: np.ndarray, valid: np.ndarray
) -> Deviation:
    """Probabilities and classes of a graph beside what the bundle and its decision say; a tie may fall either way."""
    decision = bundle.decision or Decision((0.0,) * bundle.scheme.num_classes)
    values = np.array(bundle.scheme.values, np.uint8)
    differences, changed = [], 0
    if probs.shape != raw.shape:
        raise BundleError(
            f"the graph gives probabilities of shape {probs.shape}, the bundle {raw.shape}; try --fixed 256,256"
        )
    for own, theirs, values_found, ok in zip(raw, probs, classes, valid, strict=True):
        differences.append(np.abs(decision.posterior(own) - theirs)[:, ok])
        scores = np.sort(own * np.asarray(decision.factors, np.float32)[:, None, None], axis=0)
        tie = scores[-1] - scores[-2] <= PARITY * scores[-1]
        wrong = np.where(
            ok, (values[decision.apply(own)] != values_found) & ~tie, values_found != bundle.scheme.map_nodata
        )
        changed += int(wrong.sum())
    every = np.concatenate(differences, axis=1)
    return Deviation(
        float(every.max(initial=0)), float(every.mean()) if every.size else 0.0, changed / valid.size
    )


def _moved(
    exact: RuntimeNetwork, fast: RuntimeNetwork, batches: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Deviation:
    """The eight-bit graph beside the exact one on windows of real pixels."""
    greatest, total, changed, count = 0.0, 0.0, 0, 0
    for image, valid in batches:
        (one, own), (other, theirs) = exact.run(image, valid), fast.run(image, valid)
        difference = np.abs(one - other).max(1)[valid]
        greatest = max(greatest, float(difference.max(initial=0)))
        total, changed = total + float(difference.sum()), changed + int((own != theirs)[valid].sum())
        count += difference.size
    return Deviation(greatest, total / max(1, count), changed / max(1, count))


def _scores(bundle: Bundle, exported: Exported, catalog: Catalog, quiet: bool) -> dict[str, dict[str, Any]]:
    """Scores on test places of both, each by its whole way from the scene to the decision."""
    from raremap.workflows.rare import rare_in
    from raremap.workflows.scoring import rows_of, tally
    from raremap.workflows.uses import uses_for

    uses, remarks = uses_for(bundle, catalog)
    for remark in remarks:
        warnings.warn(remark, RaremapWarning, stacklevel=3)
    rows, rare = rows_of(uses, "test"), rare_in(catalog)
    out = {}
    with progress("evaluate", 2 * len(rows), quiet) as bar:
        for key, model in (("bundle", bundle), ("exported", exported)):
            network = model.network(device="cpu")
            decided, _ = tally(model, network, catalog, rows, progress=bar)
            scores = decided.scores(catalog.scheme.names, rare)
            out[key] = {
                "macro_f1": float(scores.macro_f1),
                "rare_f1": float(scores.rare_f1) if rare else None,
                "f1": {
                    n: None if np.isnan(f) else float(f) for n, f in zip(scores.names, scores.f1, strict=True)
                },
            }
    return out

"""`raremap table fuse`: an image model and a table's model to one map and one table of alarms."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import (
    ConfigError,
    LabelError,
    OutputError,
    RaremapWarning,
    SplitError,
    TableError,
    nearest,
    refuse,
)
from raremap.files import written
from raremap.jobs import progress
from raremap.workflows.fuse_files import SCORES, centres, code_of, write_map, write_units
from raremap.workflows.fuse_units import Laid, lay

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.maps.zonal import Summary
    from raremap.tabular.folds import Places
    from raremap.tabular.fusion import Fusion
    from raremap.tabular.gains import Gains
    from raremap.tabular.model import TableModel
    from raremap.tabular.read import Source


@dataclass(frozen=True)
class Fused:
    """What was written, units and alarms, and what the fusion gains (None where it was given).

    `crs` is that of x and y in `units` and of `alarms`, as a code.
    """

    units: Path
    alarms: Path
    maps: tuple[Path, ...]
    fusion_file: Path
    fusion: Fusion
    count: int
    known: dict[str, int]
    alarm_count: int
    double_check: bool
    gains: Gains | None = None
    crs: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "units": str(self.units),
            "alarms": str(self.alarms),
            "maps": [str(p) for p in self.maps],
            "fusion_file": str(self.fusion_file),
            "fusion": self.fusion.to_dict(),
            "count": self.count,
            "known": self.known,
            "alarm_count": self.alarm_count,
            "double_check": self.double_check,
            "gains": self.gains.to_dict() if self.gains else None,
            "crs": self.crs,
        }

    def __str__(self) -> str:
        w = self.fusion.weights
        kind = "both sides confirm each other" if self.double_check else "the fused evidence suffices"
        lines = [
            f"{self.count:,} units: {self.known['both']:,} known to both, {self.known['image']:,} to the image alone, "
            f"{self.known['table']:,} to the table alone",
            f"weights: image {w[0]:.2f}, table {w[1]:.2f} (1 and 1: nothing shared; ½ and ½: all shared)",
            f"{self.alarm_count:,} alarms where {kind}: {self.alarms}",
            f"units: {self.units}{f' (places in {self.crs})' if self.crs else ''}",
            *(f"map: {p}" for p in self.maps),
        ]
        return "\n".join([*lines, *([str(self.gains)] if self.gains else []), f"fusion: {self.fusion_file}"])


def table_fuse(
    bundle: Bundle | Ensemble | str | Path,
    table_bundle: TableModel | str | Path,
    scenes: str | Path | Sequence[str | Path],
    units: str | Path | Sequence[str | Path],
    out: str | Path,
    rows: str | Path | None = None,
    key: str = "unit",
    scene_column: str | None = None,
    label: str | None = None,
    positive: str | None = None,
    fusion: str | Path | None = None,
    landslide: str | None = None,
    group: str | None = None,
    block_m: float | None = None,
    double_check: bool = False,
    prior: float | None = None,
    top: int | None = None,
    folds: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    layer: str | None = None,
    quiet: bool = False,
) -> Fused:
    """Fuse what an image model says of the pixels of each unit with what a table's model says of its row.

    `units` are rasters of unit numbers, one a scene and on its grid, with the table `rows` (its column `key` are the
    numbers, `scene_column` the scene's file name without suffix); or one file of polygons that have the attributes: slope
    units, or the objects of a map. `landslide` names the image model's class (default: the second of two).

    Rows with a value in the column `label` are the calibration places: nothing else may have used them. The fusion is
    fitted on them, and what it gains is measured on them, cross-fitted over `folds` (5) of places: the values of `group`,
    square blocks of `block_m` metres, or else the scenes. A unit's image score is of its `top` (4) surest pixels. With
    `fusion`, a fusion.json of an earlier run, nothing is fitted, and what belongs to a fit is refused. `prior` is the
    share of positive units to expect.

    Writes under `out`: units.csv, alarms.gpkg, a map NAME.fused.tif a scene (bands fused, image, table: each
    unit's probability), and fusion.json. Places of units and alarms are in the CRS of the scenes (EPSG:4326 where scenes
    have several), or of the polygons. Raises one line where files do not fit each other.
    """
    from raremap.ensembles import load_bundle
    from raremap.tabular.columns import Faults
    from raremap.tabular.fusion import Fusion
    from raremap.tabular.gains import cross_fit, gains
    from raremap.tabular.model import TableModel

    if (label is None) == (fusion is None):
        raise ConfigError(
            "give --label to fit the fusion on rows with truth, or --fusion with one that was fitted"
        )
    if fusion is not None:
        refuse(
            "with --fusion, where nothing is fitted", positive=positive, group=group, block_m=block_m, top=top,
            folds=folds, seed=seed,
        )  # fmt: skip
    top, folds, seed = 4 if top is None else top, 5 if folds is None else folds, seed or 0
    if prior is not None and not 0 < prior < 1:
        raise ConfigError(f"the prior is {prior}, expected a share between 0 and 1")
    if top < 1:
        raise ConfigError(f"top is {top}, expected 1 pixel or more")
    image_model = load_bundle(bundle) if isinstance(bundle, (str, Path)) else bundle
    model = TableModel.load(table_bundle) if isinstance(table_bundle, (str, Path)) else table_bundle
    given = None
    if fusion is not None:
        past = read_fusion(Path(fusion), image_model.name, model.name)
        given, top = past.fusion, past.top
        landslide = past.landslide_of(image_model.scheme.names, landslide)
    which = class_of(image_model.scheme.names, landslide)
    paths = _names(scenes)
    if label is not None:
        _enough_places(len(paths), folds, group, block_m)
    stems = [Path(p).stem for p in paths]
    if double := [s for s in stems if stems.count(s) > 1]:
        raise OutputError(f"two scenes are called {double[0]}, and would write one map; fuse them one by one")
    laid = lay(paths, _names(units), rows, key, scene_column, layer, model.columns.missing)
    table = laid.source.table
    _attributes(model, table.column_names, laid)
    truth = _truth(laid.source, label, positive) if label is not None else None
    faults = Faults()
    table_logits = model.logits(model.columns.values(table, faults, laid.source.path))
    for line in faults.lines():
        warnings.warn(f"{laid.source.path}: {line}", RaremapWarning, stacklevel=2)
    summary, scene_of = _asked(image_model, which, paths, laid, top, device, quiet)
    image_logits = summary.logits
    found = None
    if given is None:
        assert truth is not None
        labelled, y = truth
        names = _groups(laid, group, scene_of, paths)
        _unused(image_model, names[labelled])
        places = _places(names, group) if block_m is None else _blocks(laid, block_m, summary, scene_of)
        i, t = image_logits[labelled], table_logits[labelled]
        if not (known := ~np.isnan(i)).any() or y[known].all() or not y[known].any():
            raise LabelError(
                f"{laid.source.path}: {int(y[known].sum())} of the {int(known.sum())} labelled units that the scenes show are "
                "positive; both classes are needed to fit the fusion"
            )
        found = gains(cross_fit(i, t, y, places.of(labelled), folds, seed), seed=seed)
        given = Fusion.fit(i, t, y)
    alarms = given.alarms(image_logits, table_logits)
    chosen = alarms.double_check if double_check else alarms.fused
    probs = _probabilities(given, image_logits, table_logits, prior)
    seen = {
        "both": ~np.isnan(image_logits) & ~np.isnan(table_logits),
        "image": ~np.isnan(image_logits) & np.isnan(table_logits),
        "table": np.isnan(image_logits) & ~np.isnan(table_logits),
    }
    out = Path(out)
    files = write_units(out, laid, probs, alarms, chosen, summary, scene_of, paths, key)
    tags = {"raremap_image_model": image_model.name, "raremap_table_model": model.name}
    tags |= {} if prior is None else {"raremap_prior": f"{prior:g}"}
    maps = tuple(
        write_map(out, path, grid, units_of, probs, tags, quiet)
        for path, grid, units_of in zip(paths, laid.grids, laid.readers, strict=True)
    )
    target = out / "fusion.json"
    with written(target) as fresh:
        told = {
            "fusion": given.to_dict(),
            "gains": found.to_dict() if found else None,
            "top": top,
            "landslide": image_model.scheme.names[which],
            "models": [image_model.name, model.name],
        }
        fresh.write_text(json.dumps(told, indent=1), encoding="utf-8")
    return Fused(
        *files, maps, target, given, len(chosen), {k: int(v.sum()) for k, v in seen.items()},
        int(chosen.sum()), double_check, found, code_of(laid.crs),
    )  # fmt: skip


def _names(given: str | Path | Sequence[str | Path]) -> list[str]:
    """Files as they are called: Path would make s3:/ of s3://."""
    return [str(given)] if isinstance(given, (str, Path)) else [str(p) for p in given]


def class_of(names: Sequence[str], name: str | None) -> int:
    """Which of the image model's classes is looked for; raises `ConfigError`."""
    if name is None:
        if len(names) == 2:
            return 1
        if "landslide" in names:
            return names.index("landslide")
        raise ConfigError(
            f"the image model has {len(names)} classes ({', '.join(names)}); say with --landslide which is looked for"
        )
    if name not in names:
        raise ConfigError(f"the image model has no class '{name}'; {nearest(name, names)}")
    return names.index(name)


@dataclass(frozen=True)
class PastFusion:
    """A fusion.json: of how many pixels a unit's image score was in its fit, and of which class (None: not recorded)."""

    path: Path
    fusion: Fusion
    top: int
    landslide: str | None = None

    def landslide_of(self, names: Sequence[str], asked: str | None) -> str:
        """The class that it was fitted for, where the image model has it; raises `ConfigError` where another is asked for."""
        own = self.landslide or asked
        if own is not None and asked is not None and own != asked:
            raise ConfigError(
                f"{self.path} was fitted for the class '{own}', and '{asked}' is asked for; fit one for it with --label"
            )
        return names[class_of(names, own)]


def read_fusion(path: Path, *models: str) -> PastFusion:
    """A fusion.json; raises `ConfigError`. Warns where it was fitted with others than the `models` of these names."""
    from raremap.tabular.fusion import Fusion

    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        fusion = Fusion.from_dict(told["fusion"])
        past = PastFusion(path, fusion, int(told.get("top", 4)), told.get("landslide"))
        fitted = [str(name) for name in told.get("models", models)]
    except OSError as error:
        raise ConfigError(
            f"fusion {path} cannot be read ({error.strerror}); give a fusion.json of `raremap table fuse`"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{path} is no fusion; give a fusion.json of `raremap table fuse --label`"
        ) from None
    if models and fitted != list(models):
        warnings.warn(
            f"{path} was fitted for the models {' and '.join(fitted)}, and these are {' and '.join(models)}: its "
            "calibration is not of them; fit one anew with --label",
            RaremapWarning,
            stacklevel=3,
        )
    return past


def _attributes(model: TableModel, there: Sequence[str], laid: Laid) -> None:
    """Raise `TableError` where units lack an attribute, such as objects of a map, which carry no terrain."""
    from raremap.workflows.unit_terrain import lacking

    missing = lacking(model.columns.names, there)
    if laid.shapes is not None and missing == [n for n in model.columns.names if n not in there] != []:
        raise TableError(
            f"{laid.source.path} has no column '{missing[0]}', which the model reads; it follows from heights: add it, such as by "
            "zonal statistics of a raster, or fuse with --date, which fetches them"
        )
    model.columns.check(there, laid.source.path)


def _truth(source: Source, label: str, positive: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows that have a label, and their truth."""
    from raremap.tabular.labels import read_truth

    found = read_truth(source.table, label, positive, source.path)
    return np.flatnonzero(found.labelled), found.positive


def _asked(
    bundle: Any, which: int, paths: list[str], laid: Laid, top: int, device: str, quiet: bool
) -> tuple[Summary, np.ndarray]:
    """What the image model says of every unit, and the first scene that shows it (-1: none)."""
    from raremap.maps.stream import stream
    from raremap.maps.zonal import Zonal
    from raremap.workflows.scenes import scenes_to_map

    scenes = scenes_to_map(bundle, paths)  # a wrong one is found in the first second
    network = bundle.network(device=device)
    decision = bundle.decision
    soften = decision.posterior if decision is not None and decision.softens else None
    zonal = Zonal(laid.source.table.num_rows, top)
    scene_of = np.full(len(zonal.pixels), -1)
    for number, (scene, units) in enumerate(zip(scenes, laid.readers, strict=True)):
        with (
            scene.opened(bundle) as reader,
            progress(scene.name, reader.grid.height, quiet) as bar,
        ):
            for strip in stream(reader, network, bundle.scheme.num_classes, bundle.predict, progress=bar):
                probs = strip.probs if soften is None else soften(strip.probs)
                zonal.add(units.read(strip.window), probs[which], strip.valid, strip.window)
        scene_of[(scene_of < 0) & (zonal.pixels > 0)] = number
    if (scene_of < 0).all():
        raise TableError(
            f"{laid.source.path}: no unit lies on a valid pixel of the scenes; do they show the same ground?"
        )
    return zonal.summary(), scene_of


def _groups(laid: Laid, group: str | None, scene_of: np.ndarray, paths: list[str]) -> np.ndarray:
    """The group of each row by name, or its scene."""
    if group is None:
        return np.array([*(Path(p).stem for p in paths), ""])[scene_of]
    names = laid.source.table.column_names
    if group not in names:
        raise TableError(f"{laid.source.path} has no column '{group}' to group by; {nearest(group, names)}")
    values = laid.source.table[group]
    if values.null_count:
        raise TableError(f"{laid.source.path}: {values.null_count:,} rows have no group in column '{group}'")
    return np.array([str(v) for v in values.to_pylist()])


def _enough_places(scenes: int, folds: int, group: str | None, block_m: float | None) -> None:
    """Raise in one line, before any pixel is mapped, where the places to cross-fit over are not right."""
    if folds < 2:
        raise ConfigError(f"folds is {folds}, expected 2 or more")
    if group is not None and block_m is not None:
        raise ConfigError("--group and --block-m are two ways to make places; give one")
    if block_m is not None and block_m <= 0:
        raise ConfigError(f"blocks of {block_m:g} m are none; give a length above 0")
    if group is None and block_m is None and scenes < folds:
        raise SplitError(
            f"without --group or --block-m scenes are the places, and {scenes} scene{'s are' if scenes > 1 else ' is'} too few "
            f"for {folds} folds; give --block-m, the side of blocks of ground in metres, or --group, a column of places"
        )


def _places(names: np.ndarray, group: str | None) -> Places:
    from raremap.tabular.folds import by_group

    return replace(by_group(names), kind="scene" if group is None else "group")


def _blocks(laid: Laid, block_m: float, summary: Summary, scene_of: np.ndarray) -> Places:
    """Square blocks of ground; units that no scene shows share one, as nothing is fitted or measured on them."""
    from pyproj import CRS

    from raremap.tabular.folds import Places, by_block

    xy = laid.source.xy if laid.shapes is not None else None
    xy = centres(laid, summary, scene_of) if xy is None else xy
    crs = CRS.from_user_input(laid.crs.to_wkt()) if laid.crs is not None else None
    degrees = crs is not None and crs.is_geographic
    unit_m = crs.axis_info[0].unit_conversion_factor if crs is not None and not degrees else 1.0
    index = np.zeros(len(xy), np.intp)
    there = np.isfinite(xy).all(1)
    index[there] = by_block(xy[there], block_m, degrees, unit_m).index
    return Places("block", index)


def _unused(bundle: Any, places: np.ndarray) -> None:
    """Warn of calibration places that the image model was trained on, where their names tell."""
    from raremap.workflows.uses import members_of

    known = {
        p
        for m in members_of(bundle)
        for use in ("train", "monitor")
        for p in m.info.get("places", {}).get(use, ())
    }
    if seen := sorted(known & set(places.tolist())):
        warnings.warn(
            f"the image model was trained on {len(seen)} of the calibration places ({', '.join(seen[:4])}): it looks better on them "
            "than it is, and weighs too much; leave their labels empty",
            RaremapWarning,
            stacklevel=3,
        )


def _probabilities(
    fusion: Fusion, image: np.ndarray, table: np.ndarray, prior: float | None
) -> dict[str, np.ndarray]:
    from raremap.tabular.calibration import sigmoid

    logits = (fusion.logits(image, table), *fusion.sides(image, table))
    return {name: sigmoid(z + fusion.moved(prior)) for name, z in zip(SCORES, logits, strict=True)}

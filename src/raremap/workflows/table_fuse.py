"""`raremap table fuse`: an image model and a table's model to one map and one table of alarms."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import ConfigError, LabelError, OutputError, RaremapWarning, TableError, nearest
from raremap.files import written
from raremap.jobs import progress

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.maps.zonal import Summary, Units
    from raremap.tabular.fusion import Alarms, Fusion
    from raremap.tabular.gains import Gains
    from raremap.tabular.model import TableModel
    from raremap.tabular.read import Source

_RASTERS = frozenset({".tif", ".tiff"})


@dataclass(frozen=True)
class Fused:
    """What was written, units and alarms, and what the fusion gains (None where it was given)."""

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
        }

    def __str__(self) -> str:
        w = self.fusion.weights
        kind = "both sides confirm each other" if self.double_check else "the fused evidence suffices"
        lines = [
            f"{self.count:,} units: {self.known['both']:,} known to both, {self.known['image']:,} to the image alone, "
            f"{self.known['table']:,} to the table alone",
            f"weights: image {w[0]:.2f}, table {w[1]:.2f} (1 and 1: nothing shared; ½ and ½: all shared)",
            f"{self.alarm_count:,} alarms where {kind}: {self.alarms}",
            f"units: {self.units}",
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
    double_check: bool = False,
    prior: float | None = None,
    top: int = 4,
    folds: int = 5,
    seed: int = 0,
    device: str = "auto",
    layer: str | None = None,
    quiet: bool = False,
) -> Fused:
    """Fuse what an image model says of the pixels of each unit with what a table's model says of its row.

    `units` are rasters of unit numbers, one a scene and on its grid, with the table `rows` (its column `key` are the
    numbers, `scene_column` the scene's file name without suffix); or one file of polygons that have the attributes: slope
    units, or the objects of a map. `landslide` names the image model's class (default: the second of two).

    Rows with a value in the column `label` are the calibration places: nothing else may have used them. The fusion is
    fitted on them, and what it gains is measured on them, cross-fitted over `group` (default: scenes). With `fusion`, a
    fusion.json of an earlier run, nothing is fitted, and `top` is as in its fit. `prior` is the share of positive units to expect.

    Writes under `out`: units.csv, alarms.gpkg, a map NAME.fused.tif a scene (bands fused, image, table: each
    unit's probability), and fusion.json. Raises one line where files do not fit each other.
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
    if prior is not None and not 0 < prior < 1:
        raise ConfigError(f"the prior is {prior}, expected a share between 0 and 1")
    if top < 1:
        raise ConfigError(f"top is {top}, expected 1 pixel or more")
    image_model = load_bundle(bundle) if isinstance(bundle, (str, Path)) else bundle
    model = TableModel.load(table_bundle) if isinstance(table_bundle, (str, Path)) else table_bundle
    which = class_of(image_model.scheme.names, landslide)
    given = None
    if fusion is not None:
        given, top = read_fusion(Path(fusion))
    paths = _paths(scenes)
    if double := [p.stem for p in paths if [q.stem for q in paths].count(p.stem) > 1]:
        raise OutputError(f"two scenes are called {double[0]}, and would write one map; fuse them one by one")
    laid = _lay(paths, _paths(units), rows, key, scene_column, layer)
    table = laid.source.table
    model.columns.check(table.column_names, laid.source.path)
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
        names = _groups(laid, group, scene_of, paths)[labelled]
        _unused(image_model, names)
        from raremap.tabular.folds import by_group

        i, t = image_logits[labelled], table_logits[labelled]
        if not (known := ~np.isnan(i)).any() or y[known].all() or not y[known].any():
            raise LabelError(
                f"{laid.source.path}: {int(y[known].sum())} of the {int(known.sum())} labelled units that the scenes show are "
                "positive; both classes are needed to fit the fusion"
            )
        found = gains(cross_fit(i, t, y, by_group(names), folds, seed), seed=seed)
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
    files = _write_units(out, laid, probs, alarms, chosen, summary, scene_of, paths, key)
    maps = tuple(
        _write_map(out, path, grid, units_of, probs, quiet)
        for path, grid, units_of in zip(paths, laid.grids, laid.readers, strict=True)
    )
    target = out / "fusion.json"
    with written(target) as fresh:
        told = {"fusion": given.to_dict(), "gains": found.to_dict() if found else None, "top": top}
        fresh.write_text(json.dumps(told, indent=1), encoding="utf-8")
    return Fused(
        *files, maps, target, given, len(chosen), {k: int(v.sum()) for k, v in seen.items()},
        int(chosen.sum()), double_check, found,
    )  # fmt: skip


def _paths(given: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(given)] if isinstance(given, (str, Path)) else [Path(p) for p in given]


@dataclass(frozen=True)
class _Laid:
    """The rows of all units, their polygons (in `crs`) where they have any, and how each scene's pixels find them."""

    source: Source
    readers: list[Units]
    shapes: np.ndarray | None
    crs: Any
    grids: list[Any]
    key: np.ndarray


def _lay(
    scenes: list[Path],
    units: list[Path],
    rows: str | Path | None,
    key: str,
    scene_column: str | None,
    layer: str | None,
) -> _Laid:
    from raremap.scene.raster import open_image

    grids = []
    for path in scenes:
        with open_image(path) as reader:
            grids.append(reader.grid)
    if all(p.suffix.lower() in _RASTERS for p in units):
        return _lay_rasters(scenes, grids, units, rows, key, scene_column, layer)
    if len(units) > 1:
        raise TableError(
            f"{len(units)} files of units are given; give one raster a scene, or one file of polygons"
        )
    if rows is not None:
        raise TableError(
            f"{units[0]} holds polygons, whose own columns are the rows; leave {rows} out, or give rasters of units"
        )
    return _lay_polygons(units[0], grids, key, layer)


def _lay_rasters(
    scenes: list[Path], grids: list[Any], units: list[Path], rows: str | Path | None, key: str,
    scene_column: str | None, layer: str | None,
) -> _Laid:  # fmt: skip
    from raremap.maps.zonal import RasterUnits
    from raremap.tabular.read import read_table

    if rows is None:
        raise TableError("rasters of unit numbers need the table of their rows; give --rows")
    if len(units) != len(scenes):
        raise TableError(
            f"{len(units)} rasters of units for {len(scenes)} scenes; give one a scene, in the same order"
        )
    source = read_table(rows, layer)
    names = source.table.column_names
    for column in (key, *([scene_column] if scene_column else [])):
        if column not in names:
            raise TableError(f"{rows} has no column '{column}'; {nearest(column, names)}")
    if scene_column is None and len(scenes) > 1:
        raise TableError(
            f"{len(scenes)} scenes share {rows}; say with --scene-column which scene a row belongs to"
        )
    try:
        numbers = np.asarray(source.table[key].to_pylist()).astype(np.int64)
    except (TypeError, ValueError):
        raise TableError(
            f"{rows}: column '{key}' does not hold whole numbers of units in every row"
        ) from None
    stems = np.array([str(v) for v in source.table[scene_column].to_pylist()]) if scene_column else None
    readers: list[Units] = []
    for path, grid, raster in zip(scenes, grids, units, strict=True):
        own = np.arange(len(numbers)) if stems is None else np.flatnonzero(stems == path.stem)
        if not len(own):
            raise TableError(
                f"{rows} has no row whose '{scene_column}' is '{path.stem}', as scene {path} is called"
            )
        if len(np.unique(numbers[own])) < len(own):
            raise TableError(
                f"{rows}: units of scene {path.stem} come twice in column '{key}'; each needs one row"
            )
        readers.append(RasterUnits(raster, grid, numbers[own], own))
    return _Laid(source, readers, None, grids[0].crs, grids, numbers)


def _lay_polygons(path: Path, grids: list[Any], key: str, layer: str | None) -> _Laid:
    import geopandas as gpd

    from raremap.maps.zonal import PolygonUnits
    from raremap.tabular.read import read_table

    source = read_table(path, layer)
    if path.suffix.lower() in (".parquet", ".geoparquet", ".pq"):
        frame = gpd.read_parquet(path)
    else:
        frame = gpd.read_file(path, **({"layer": layer} if layer else {}))
    if (
        not isinstance(frame, gpd.GeoDataFrame)
        or not frame.geometry.geom_type.isin(["Polygon", "MultiPolygon"]).all()
    ):
        raise TableError(
            f"{path} does not hold polygons in every row; units are rasters of numbers, or polygons"
        )
    if frame.crs is None and any(g.crs is not None for g in grids):
        raise TableError(f"{path} has no CRS, the scenes have one; write it into the file")
    shapes = []
    for grid in grids:
        moved = frame if grid.crs is None or frame.crs is None else frame.to_crs(grid.crs.to_wkt())
        shapes.append(moved.geometry.to_numpy())
    readers: list[Units] = [PolygonUnits(s, g) for s, g in zip(shapes, grids, strict=True)]
    names = frame[key].to_numpy() if key in frame.columns else np.arange(len(frame))
    return _Laid(source, readers, frame.geometry.to_numpy(), frame.crs, grids, names)


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


def read_fusion(path: Path) -> tuple[Fusion, int]:
    """The fusion of a fusion.json, and of how many pixels a unit's image score was in its fit; raises `ConfigError`."""
    from raremap.tabular.fusion import Fusion

    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Fusion.from_dict(told["fusion"]), int(told.get("top", 4))
    except OSError as error:
        raise ConfigError(
            f"fusion {path} cannot be read ({error.strerror}); give a fusion.json of `raremap table fuse`"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{path} is no fusion; give a fusion.json of `raremap table fuse --label`"
        ) from None


def _truth(source: Source, label: str, positive: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows that have a label, and their truth."""
    from raremap.tabular.labels import read_truth

    found = read_truth(source.table, label, positive, source.path)
    return np.flatnonzero(found.labelled), found.positive


def _asked(
    bundle: Any, which: int, paths: list[Path], laid: _Laid, top: int, device: str, quiet: bool
) -> tuple[Summary, np.ndarray]:
    """What the image model says of every unit, and the first scene that shows it (-1: none)."""
    from raremap.maps.stream import stream
    from raremap.maps.zonal import Zonal
    from raremap.workflows.predict import open_for

    for path in paths:  # a wrong one is found in the first second
        with open_for(bundle, path, bundle.nodata):
            pass
    network = bundle.network(device=device)
    decision = bundle.decision
    soften = decision.posterior if decision is not None and decision.softens else None
    zonal = Zonal(laid.source.table.num_rows, top)
    scene_of = np.full(len(zonal.pixels), -1)
    for number, (path, units) in enumerate(zip(paths, laid.readers, strict=True)):
        with (
            open_for(bundle, path, bundle.nodata) as reader,
            progress(path.name, reader.grid.height, quiet) as bar,
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


def _groups(laid: _Laid, group: str | None, scene_of: np.ndarray, paths: list[Path]) -> np.ndarray:
    """The place of each row, by name."""
    if group is None:
        return np.array([*(p.stem for p in paths), ""])[scene_of]
    names = laid.source.table.column_names
    if group not in names:
        raise TableError(f"{laid.source.path} has no column '{group}' to group by; {nearest(group, names)}")
    values = laid.source.table[group]
    if values.null_count:
        raise TableError(f"{laid.source.path}: {values.null_count:,} rows have no group in column '{group}'")
    return np.array([str(v) for v in values.to_pylist()])


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


_SCORES = ("fused", "image", "table")


def _probabilities(
    fusion: Fusion, image: np.ndarray, table: np.ndarray, prior: float | None
) -> dict[str, np.ndarray]:
    from raremap.tabular.calibration import sigmoid

    logits = (fusion.logits(image, table), *fusion.sides(image, table))
    return {name: sigmoid(z + fusion.moved(prior)) for name, z in zip(_SCORES, logits, strict=True)}


def _centres(laid: _Laid, summary: Summary, scene_of: np.ndarray) -> np.ndarray:
    """Where each unit is `[n, 2]`: a point in its polygon, or the mean of its pixels, in the CRS of its scene."""
    import shapely

    if laid.shapes is not None:
        inside = shapely.point_on_surface(laid.shapes)
        return np.column_stack([shapely.get_x(inside), shapely.get_y(inside)])
    xy = np.full((len(scene_of), 2), np.nan)
    for number, grid in enumerate(laid.grids):
        own, t = scene_of == number, grid.transform
        col, row = summary.col[own], summary.row[own]
        xy[own] = np.column_stack([t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f])
    return xy


def _write_units(
    out: Path, laid: _Laid, probs: dict[str, np.ndarray], alarms: Alarms, chosen: np.ndarray, summary: Summary,
    scene_of: np.ndarray, paths: list[Path], key: str,
) -> tuple[Path, Path]:  # fmt: skip
    """units.csv of all, alarms.gpkg of the alarms, the surest first."""
    import geopandas as gpd
    import pandas as pd
    import shapely

    xy = _centres(laid, summary, scene_of)
    frame = pd.DataFrame(
        {
            key: laid.key,
            "scene": np.array([*(p.stem for p in paths), ""], object)[scene_of],
            "x": xy[:, 0],
            "y": xy[:, 1],
            "pixels": summary.pixels,
            **{f"p_{name}": p for name, p in probs.items()},
            "alarm": alarms.fused.astype(np.int8),
            "double_check": alarms.double_check.astype(np.int8),
        }
    )
    units, target = out / "units.csv", out / "alarms.gpkg"
    with written(units) as fresh:
        frame.to_csv(fresh, index=False, float_format="%.10g")  # millimetres of a northing
    shapes = laid.shapes if laid.shapes is not None else shapely.points(np.nan_to_num(xy))
    # A unit that no scene shows has no place unless it is a polygon.
    placed = chosen & (np.isfinite(xy).all(1))
    if lost := int((chosen & ~placed).sum()):
        warnings.warn(
            f"{lost:,} alarms are of units that no scene shows; they stand in {units} alone",
            RaremapWarning,
            stacklevel=3,
        )
    order = np.flatnonzero(placed)[np.argsort(-probs["fused"][placed], kind="stable")]
    crs = laid.crs.to_wkt() if laid.crs is not None else None
    table = gpd.GeoDataFrame(frame.iloc[order].reset_index(drop=True), geometry=shapes[order], crs=crs)
    kind = "Point" if laid.shapes is None else "MultiPolygon"
    with written(target) as fresh:
        fresh.unlink()  # GDAL wants no empty file
        table.to_file(
            fresh,
            driver="GPKG",
            layer="alarms",
            engine="pyogrio",
            geometry_type=kind,
            promote_to_multi=kind != "Point",
        )
    return units, target


def _write_map(
    out: Path, scene: Path, grid: Any, units: Units, probs: dict[str, np.ndarray], quiet: bool
) -> Path:
    """Each unit's probabilities on the scene's grid, window by window."""
    from raremap.maps.strips import strips
    from raremap.scene.cog import CogWriter

    target = out / f"{scene.stem}.fused.tif"
    values = np.stack([probs[name] for name in _SCORES]).astype(np.float32)
    values = np.concatenate([values, np.full((len(_SCORES), 1), np.nan, np.float32)], 1)  # row -1: no unit
    tags = {"TIFFTAG_SOFTWARE": f"raremap {version('raremap')}"}
    with (
        CogWriter(target, grid, "float32", _SCORES, float("nan"), overviews="average", tags=tags) as writer,
        progress(target.name, grid.height, quiet) as bar,
    ):
        for window in strips(grid, 32):
            writer.write(window, values[:, units.read(window)])
            bar.advance(window.height)
    return target

"""Places: which tiles belong to one block of ground, and which fold the block is in."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raremap.errors import SplitError, nearest
from raremap.scene.sources import expand
from raremap.tiles.holdout import held_out, listed
from raremap.tiles.options import SplitOptions

if TYPE_CHECKING:
    from rasterio.crs import CRS

    from raremap.tiles.catalog import Catalog

_MANY_SCENES = 10
# A degree of the sphere of the earth's mean radius; on the ellipsoid it is 0.6 % shorter to 0.5 % longer.
_DEGREE_M = 111_195.0


def assign_places(catalog: Catalog, split: SplitOptions, root: str | None = None) -> Catalog:
    """The catalog with `place` and `fold` of every tile; raises `SplitError` where places cannot be made."""
    places = _places(catalog, split, root)
    table = catalog.table.copy()
    table["place"] = places
    kept = ~listed(places, held_out(split), "split.holdout")
    fold = np.full(len(places), -1)  # of places that are held out
    fold[kept] = _folds(places[kept], catalog.counts[kept], split.folds, split.seed)
    table["fold"] = fold.astype("int32")
    return replace(catalog, table=table, split=split, listed=digest_of_lists(split, root))


def digest_of_lists(split: SplitOptions, root: str | None = None) -> str:
    """Checksum of what the files of a split say: the places of its scenes, and those that are held out."""
    places = split.places
    by_scene = _read_places(Path(expand(places, root))) if isinstance(places, str) else places
    text = json.dumps([by_scene, held_out(split)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _places(catalog: Catalog, split: SplitOptions, root: str | None) -> np.ndarray:
    if split.block_m is not None:
        return _ground_blocks(catalog, split.block_m)
    if split.block_px is not None:
        return _pixel_blocks(catalog, split.block_px, catalog.scene_names)
    if isinstance(split.places, str):
        by_scene = _from_file(catalog, expand(split.places, root))
    elif split.places is not None:
        by_scene = _from_wildcard(catalog, split.places)
    elif len(catalog.scenes) >= _MANY_SCENES:
        by_scene = _overlapping_scenes(catalog)
    else:
        return _default_blocks(catalog)
    places = np.array([by_scene[scene] for scene in catalog.scene_names], object)
    if split.within is not None:
        scenes = np.array([f"{p}/{s}" for p, s in zip(places, catalog.scene_names, strict=True)], object)
        places = _pixel_blocks(catalog, split.within, scenes)
    return places


def _default_blocks(catalog: Catalog) -> np.ndarray:
    """Blocks of two tiles: on the ground where every scene has a metric CRS, else in pixels."""
    size = 2 * catalog.tile_options.size
    grids = [s.grid for s in catalog.scenes.values()]
    if all(g.crs is not None and g.crs.is_projected for g in grids):
        pixel = max(abs(g.transform.a) * g.crs.linear_units_factor[1] for g in grids if g.crs is not None)
        # A pixel of Web Mercator is shorter on the ground than it says.
        return _ground_blocks(catalog, size * pixel * (1 if _true_crs(catalog) else _shrinkage(catalog)))
    return _pixel_blocks(catalog, size, catalog.scene_names)


def _ground_blocks(catalog: Catalog, block_m: float) -> np.ndarray:
    """Square blocks of `block_m` metres by the tiles' centres, the same for all scenes and dates.

    They follow the axes of the CRS that the scenes share, where a metre of it is one on the ground. Else
    (degrees, Web Mercator, several zones) they stand in rows of latitude, each divided by the length that
    a degree has there, and are square to 1 % everywhere.
    """
    from shapely import centroid, get_x, get_y

    for name, scene in catalog.scenes.items():
        if scene.grid.crs is None:
            raise SplitError(
                f"scene {name} has no CRS, so split.block_m has no meaning; use split.block_px or split.places"
            )
    footprints = catalog.table.geometry
    if crs := _true_crs(catalog):
        centres = footprints.to_crs(crs).centroid
        factor = crs.linear_units_factor[1]
        rows = np.floor(centres.y.to_numpy() * factor / block_m).astype(int)
        cols = np.floor(centres.x.to_numpy() * factor / block_m).astype(int)
    else:
        points = centroid(footprints.to_numpy())
        rows = np.floor(get_y(points) * _DEGREE_M / block_m).astype(int)
        middle = np.radians((rows + 0.5) * block_m / _DEGREE_M)
        cols = np.floor(get_x(points) * _DEGREE_M * np.cos(middle) / block_m).astype(int)
    return np.array([f"{r}_{c}" for r, c in zip(rows, cols, strict=True)], object)


def _true_crs(catalog: Catalog) -> CRS | None:
    """The projected CRS that all scenes share, if lengths in it are those on the ground to 5 %."""
    first = next(iter(catalog.scenes.values())).grid.crs
    if first is None or not first.is_projected:
        return None
    if any(s.grid.crs != first for s in catalog.scenes.values()):
        return None
    return first if abs(_shrinkage(catalog) - 1) < 0.05 else None


def _shrinkage(catalog: Catalog) -> float:
    """Metres on the ground in a metre of the scenes' projected CRS, where it is furthest from 1."""
    from shapely import area, bounds, centroid, get_y

    footprints = catalog.table.geometry.to_numpy()
    west, _, east, _ = bounds(footprints).T
    known = east - west < 180  # a footprint across the date line goes around the world instead
    if not known.any():
        return 1.0
    ground = area(footprints) * _DEGREE_M**2 * np.cos(np.radians(get_y(centroid(footprints))))
    pixel = {}
    for name, scene in catalog.scenes.items():
        assert scene.grid.crs is not None
        pixel[name] = abs(scene.grid.transform.determinant) * scene.grid.crs.linear_units_factor[1] ** 2
    said = [
        w.height * w.width * pixel[name] for name, w in zip(catalog.scene_names, catalog.windows, strict=True)
    ]
    ratio = np.sqrt(ground / np.array(said))[known]
    return float(ratio[np.argmax(np.abs(np.log(ratio)))])


def _pixel_blocks(catalog: Catalog, size: int, scenes: np.ndarray) -> np.ndarray:
    """Square blocks of `size` pixels inside each scene, by the tiles' centres."""
    return np.array(
        [
            f"{scene}/{(w.row_off + w.height // 2) // size}_{(w.col_off + w.width // 2) // size}"
            for scene, w in zip(scenes, catalog.windows, strict=True)
        ],
        object,
    )


def _from_wildcard(catalog: Catalog, number: int) -> dict[str, str]:
    out = {}
    for name, scene in catalog.scenes.items():
        if not 1 <= number <= len(scene.groups):
            raise SplitError(
                f"split.places is {number}, but the pattern of {scene.images[0]} has {len(scene.groups)} wildcards; "
                "give the number of the wildcard that names the place, counted from 1"
            )
        out[name] = scene.groups[number - 1]
    return out


def _from_file(catalog: Catalog, path: str) -> dict[str, str]:
    """Place of each scene by its file name, its stem or its scene name."""
    listed = _read_places(Path(path))
    out: dict[str, str] = {}
    missing = []
    for name, scene in catalog.scenes.items():
        image = Path(scene.images[0])
        key = next((k for k in (image.name, image.stem, name) if k in listed), None)
        if key is None:
            missing.append(image.name)
        else:
            out[name] = listed[key]
    if missing:
        more = f" and {len(missing) - 1} more scenes" if len(missing) > 1 else ""
        raise SplitError(
            f"{path} has no place for {missing[0]}{more}; {nearest(missing[0], list(listed)[:1000])}"
        )
    return out


def _read_places(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".csv":
            rows = [row for row in csv.reader(text.splitlines()) if row]
            pairs = {row[0]: row[1] for row in rows}
        else:
            pairs = json.loads(text)
        if not isinstance(pairs, dict):
            raise ValueError("it holds no pairs")
        return {str(k): str(v) for k, v in pairs.items()}
    except FileNotFoundError:
        raise SplitError(f"places file {path} does not exist; check split.places and scenes.root") from None
    except (ValueError, IndexError, OSError) as error:
        raise SplitError(
            f"places file {path} is not a JSON object or two-column CSV of scene and place ({error})"
        ) from None


def _overlapping_scenes(catalog: Catalog) -> dict[str, str]:
    """Each scene a place; scenes that share ground (dates, overlapping footprints) are one place."""
    from shapely import STRtree

    names = list(catalog.scenes)
    table = catalog.table
    if table.geometry.isna().any():
        return {name: name for name in names}
    hulls = table.dissolve("scene").geometry.convex_hull
    names = [n for n in names if n in hulls.index]
    shapes = [hulls[n] for n in names]
    parent = {n: n for n in names}

    def root(n: str) -> str:
        while parent[n] != n:
            n = parent[n]
        return n

    tree = STRtree(shapes)
    for i, j in tree.query(shapes, predicate="intersects").T:
        share = shapes[i].intersection(shapes[j]).area / min(shapes[i].area, shapes[j].area)
        if i < j and share > 1e-3:
            a, b = sorted((root(names[i]), root(names[j])))
            parent[b] = a
    return {n: root(n) for n in names}


def _folds(places: np.ndarray, counts: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Fold of each tile: places dealt one by one to the fold that stays most even in every class.

    Every class weighs the same, whatever its share, so that rare classes are spread first; all labelled
    pixels together count as one class more.
    """
    names, inverse = np.unique(places, return_inverse=True)
    content = np.zeros((len(names), counts.shape[1]))
    np.add.at(content, inverse, counts)
    content = np.column_stack([content, content.sum(1)])
    shares = content / np.maximum(content.sum(0), 1)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-shares[order].max(1), kind="stable")]
    load = np.zeros((folds, shares.shape[1]))
    fold = np.zeros(len(names), int)
    for place in order:
        # Adding v to the load L raises the sum of squares by 2 L·v + v·v; v·v is the same for all folds.
        fold[place] = int(np.argmin(load @ shares[place]))
        load[fold[place]] += shares[place]
    return fold[inverse]

"""Places: which tiles belong to one block of ground, and which fold the block is in."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raremap.errors import SplitError, nearest
from raremap.scene.sources import expand
from raremap.tiles.ground import DEGREE_M, check_comparable, connected, has_place, shrinkage, true_crs
from raremap.tiles.holdout import held_out, listed
from raremap.tiles.options import SplitOptions

if TYPE_CHECKING:
    from raremap.tiles.catalog import Catalog

_MANY = 10
TOUCHING = "touching"


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
    in_file = isinstance(places, str) and places != TOUCHING
    by_scene = _read_places(Path(expand(str(places), root))) if in_file else places
    text = json.dumps([by_scene, held_out(split)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _places(catalog: Catalog, split: SplitOptions, root: str | None) -> np.ndarray:
    if split.block_m is not None:
        return _ground_blocks(catalog, split.block_m)
    if split.block_px is not None:
        check_comparable(catalog)
        return _pixel_blocks(catalog, split.block_px, catalog.sites)
    if split.places == TOUCHING:
        check_comparable(catalog)
        by_scene = connected(catalog, touching=True)
    elif isinstance(split.places, str):
        by_scene = _from_file(catalog, expand(split.places, root))
    elif split.places is not None:
        by_scene = _from_wildcard(catalog, split.places)
    elif split.block_files is not None:
        check_comparable(catalog)
        by_scene = dict.fromkeys(catalog.scenes, "")
    else:
        check_comparable(catalog)
        if len(set(catalog.sites)) < _MANY:
            return _default_blocks(catalog)
        by_scene = _of_sites(catalog)
    if split.block_files is not None:
        by_scene = _runs(catalog, by_scene, split.block_files)
    places = np.array([by_scene[scene] for scene in catalog.scene_names], object)
    if split.within is not None:
        sites = np.array([f"{p}/{s}" for p, s in zip(places, catalog.sites, strict=True)], object)
        places = _pixel_blocks(catalog, split.within, sites)
    return places


def _default_blocks(catalog: Catalog) -> np.ndarray:
    """Blocks of two tiles (of the largest size): on the ground where every scene has a metric CRS, else in pixels."""
    size = 2 * catalog.tile_options.largest
    grids = [s.grid for s in catalog.scenes.values()]
    if all(g.crs is not None and g.crs.is_projected for g in grids):
        pixel = max(abs(g.transform.a) * g.crs.linear_units_factor[1] for g in grids if g.crs is not None)
        # A pixel of Web Mercator is shorter on the ground than it says.
        return _ground_blocks(catalog, size * pixel * (1 if true_crs(catalog) else shrinkage(catalog)))
    return _pixel_blocks(catalog, size, catalog.sites)


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
    if crs := true_crs(catalog):
        centres = footprints.to_crs(crs).centroid
        factor = crs.linear_units_factor[1]
        rows = np.floor(centres.y.to_numpy() * factor / block_m).astype(int)
        cols = np.floor(centres.x.to_numpy() * factor / block_m).astype(int)
    else:
        points = centroid(footprints.to_numpy())
        rows = np.floor(get_y(points) * DEGREE_M / block_m).astype(int)
        middle = np.radians((rows + 0.5) * block_m / DEGREE_M)
        cols = np.floor(get_x(points) * DEGREE_M * np.cos(middle) / block_m).astype(int)
    return np.array([f"{r}_{c}" for r, c in zip(rows, cols, strict=True)], object)


def _pixel_blocks(catalog: Catalog, size: int, sites: np.ndarray) -> np.ndarray:
    """Square blocks of `size` pixels inside each site, the same for all its dates, by the tiles' centres."""
    return np.array(
        [
            f"{site}/{(w.row_off + w.height // 2) // size}_{(w.col_off + w.width // 2) // size}"
            for site, w in zip(sites, catalog.windows, strict=True)
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
        key = next((k for k in (image.name, image.stem, name, scene.site) if k in listed), None)
        if key is None:
            missing.append(image.name)
        else:
            out[name] = listed[key]
    if missing:
        more = f" and {len(missing) - 1} more scenes" if len(missing) > 1 else ""
        raise SplitError(
            f"{path} has no place for {missing[0]}{more}; {nearest(missing[0], list(listed)[:1000])}"
        )
    of_site: dict[str, str] = {}
    for name, place in out.items():
        site = catalog.scenes[name].site or name
        if of_site.setdefault(site, place) != place:
            raise SplitError(
                f"{path} puts {name} into the place '{place}' and another date of it into '{of_site[site]}'; "
                "all dates of a place stay together"
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


def _of_sites(catalog: Catalog) -> dict[str, str]:
    """Each site a place, together with what overlaps it.

    Of scenes with coordinates but no CRS, which often are the files of one mosaic, those that touch are one
    place as well, as long as there are many places.
    """
    if any(has_place(s.grid) for s in catalog.scenes.values()):
        places = connected(catalog, touching=True)
        if len(set(places.values())) >= _MANY:
            return places
    return connected(catalog, touching=False)


def _runs(catalog: Catalog, places: dict[str, str], length: int) -> dict[str, str]:
    """Runs of so many sites inside each place, in the order of their file names, where 9 comes before 10."""
    files: dict[tuple[str, str], str] = {}
    for name, scene in catalog.scenes.items():
        key = places[name], scene.site or name
        files[key] = min(files.get(key, scene.images[0]), scene.images[0])
    called: dict[tuple[str, str], str] = {}
    for place in set(places.values()):
        order = sorted((key for key in files if key[0] == place), key=lambda key: _natural(files[key]))
        for i, key in enumerate(order):
            first = i // length * length
            run = f"files {first + 1}-{min(first + length, len(order))}"
            called[key] = f"{place}/{run}" if place else run
    return {name: called[places[name], scene.site or name] for name, scene in catalog.scenes.items()}


def _natural(path: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in a text by their value."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", path)]


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

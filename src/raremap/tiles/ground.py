"""Where tiles lie: outlines that can be compared with each other, in a CRS, in plain coordinates or in pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raremap.errors import SplitError

if TYPE_CHECKING:
    from rasterio.crs import CRS

    from raremap.scene.grid import Grid
    from raremap.tiles.catalog import Catalog

# A degree of the sphere of the earth's mean radius; on the ellipsoid it is 0.6 % shorter to 0.5 % longer.
DEGREE_M = 111_195.0


@dataclass(frozen=True)
class Outlines:
    """Outlines of the catalog rows `rows`, all in the same coordinates; `metre` is one metre there, by row (NaN
    where nobody knows)."""

    rows: np.ndarray
    shapes: np.ndarray
    pixel: np.ndarray
    metre: np.ndarray

    def meeting(self, order: np.ndarray) -> np.ndarray:
        """Which share more than half a pixel of ground with an outline of lower `order`, bool `[n]`."""
        from shapely import STRtree, area, intersection

        a, b = STRtree(self.shapes).query(self.shapes, predicate="intersects")
        yields = order[a] > order[b]
        a, b = a[yields], b[yields]
        # Half a pixel is the least that counts: outlines that only touch have no area, but for rounding.
        meets = area(intersection(self.shapes[a], self.shapes[b])) > 0.5 * self.pixel[a] ** 2
        out = np.zeros(len(self.rows), bool)
        out[a[meets]] = True
        return out

    def within(self, reach: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Which are nearer than `reach [n]` (the larger of two) to an outline of lower `order`, bool `[n]`."""
        from shapely import STRtree, distance

        out = np.zeros(len(self.rows), bool)
        for use in np.unique(order)[:-1]:
            low, high = np.flatnonzero(order == use), np.flatnonzero(order > use)
            widest = np.maximum(reach[high], reach[low].max())
            a, b = STRtree(self.shapes[low]).query(self.shapes[high], predicate="dwithin", distance=widest)
            a, b = high[a], low[b]
            limit = np.maximum(reach[a], reach[b])
            out[a[distance(self.shapes[a], self.shapes[b]) < limit * (1 - 1e-9)]] = True
        return out


def has_place(grid: Grid) -> bool:
    """Whether a grid without a CRS has coordinates that say more than the size of its pixels."""
    return grid.crs is None and grid.georeferenced and (grid.transform.c, grid.transform.f) != (0, 0)


def check_comparable(catalog: Catalog) -> None:
    """Raise `SplitError` where some scenes have a CRS and others have none: nobody knows what ground they share."""
    known: dict[bool, str] = {}
    for scene in catalog.scenes.values():
        known.setdefault(scene.grid.crs is None, scene.images[0])
    if len(known) == 2:
        raise SplitError(
            f"{known[True]} has no CRS, but {known[False]} has one; give both the same (gdal_edit.py -a_srs) "
            "or say which scene is in which place in split.places"
        )


def true_crs(catalog: Catalog) -> CRS | None:
    """The projected CRS that all scenes share, if lengths in it are those on the ground to 5 %."""
    first = next(iter(catalog.scenes.values())).grid.crs
    if first is None or not first.is_projected:
        return None
    if any(s.grid.crs != first for s in catalog.scenes.values()):
        return None
    return first if abs(shrinkage(catalog) - 1) < 0.05 else None


def shrinkage(catalog: Catalog) -> float:
    """Metres on the ground in a metre of the scenes' projected CRS, where it is furthest from 1."""
    from shapely import area, bounds, centroid, get_y

    footprints = catalog.table.geometry.to_numpy()
    west, _, east, _ = bounds(footprints).T
    known = east - west < 180  # a footprint across the date line goes around the world instead
    if not known.any():
        return 1.0
    ground = area(footprints) * DEGREE_M**2 * np.cos(np.radians(get_y(centroid(footprints))))
    pixel = {}
    for name, scene in catalog.scenes.items():
        assert scene.grid.crs is not None
        pixel[name] = abs(scene.grid.transform.determinant) * scene.grid.crs.linear_units_factor[1] ** 2
    said = [
        w.height * w.width * pixel[name] for name, w in zip(catalog.scene_names, catalog.windows, strict=True)
    ]
    ratio = np.sqrt(ground / np.array(said))[known]
    return float(ratio[np.argmax(np.abs(np.log(ratio)))])


def outlines(catalog: Catalog, in_metres: bool = False) -> list[Outlines]:
    """All tiles, in groups that can be compared.

    Tiles with a CRS are one group: in the CRS that they share, which is exact, else in degrees. Tiles of
    scenes with coordinates but no CRS are another; all others are compared inside their site, in pixels.
    `in_metres` asks for coordinates in which short lengths are known: where it is no projected CRS that keeps
    them, conformal ones.
    """
    grids = {name: scene.grid for name, scene in catalog.scenes.items()}
    kinds: dict[str, list[int]] = {}
    for row, name in enumerate(catalog.scene_names):
        grid = grids[name]
        kind = "crs" if grid.crs is not None else "plain" if has_place(grid) else f"site {catalog.sites[row]}"
        kinds.setdefault(kind, []).append(row)
    out = []
    for kind, listed in kinds.items():
        rows = np.array(listed)
        metre = np.nan
        if kind == "crs":
            shared = true_crs(catalog) if in_metres else _shared_crs(catalog, rows)
            if shared is None:
                out.append(_conformal(catalog, rows) if in_metres else _degrees(catalog, rows))
                continue
            metre = 1 / shared.linear_units_factor[1] if in_metres else np.nan
        shapes = np.empty(len(rows), object)
        for name in set(catalog.scene_names[rows]):
            here = catalog.scene_names[rows] == name
            windows = np.array([catalog.windows[r] for r in rows[here]])
            grid = grids[name] if not kind.startswith("site") else _pixels(grids[name])
            shapes[here] = _polygons(grid.corners(windows))
        out.append(_group(catalog, rows, shapes, np.full(len(rows), metre)))
    return out


def _shared_crs(catalog: Catalog, rows: np.ndarray) -> CRS | None:
    crs = {catalog.scenes[name].grid.crs for name in set(catalog.scene_names[rows])}
    return crs.pop() if len(crs) == 1 else None


def _polygons(corners: np.ndarray) -> np.ndarray:
    from shapely import polygons

    return np.asarray(polygons(corners), object)


def _pixels(grid: Grid) -> Grid:
    from raremap.scene.grid import Grid

    return Grid(grid.height, grid.width)


def _degrees(catalog: Catalog, rows: np.ndarray) -> Outlines:
    shapes = catalog.table.geometry.to_numpy()[rows]
    return _group(catalog, rows, shapes, np.full(len(rows), np.nan))


def _conformal(catalog: Catalog, rows: np.ndarray) -> Outlines:
    """In Mercator's coordinates on the sphere: a metre is longer by one over the cosine of the latitude."""
    from shapely import bounds, transform

    def mercator(points: np.ndarray) -> np.ndarray:
        lon, lat = np.radians(points).T
        return DEGREE_M * np.degrees(1) * np.column_stack([lon, np.arcsinh(np.tan(lat))])

    degrees = catalog.table.geometry.to_numpy()[rows]
    _, south, _, north = bounds(degrees).T
    furthest = np.radians(np.minimum(np.maximum(np.abs(south), np.abs(north)), 89.0))
    return _group(catalog, rows, transform(degrees, mercator), 1 / np.cos(furthest))


def _group(catalog: Catalog, rows: np.ndarray, shapes: np.ndarray, metre: np.ndarray) -> Outlines:
    from shapely import area

    pixels = np.array([catalog.windows[r].height * catalog.windows[r].width for r in rows])
    return Outlines(rows, shapes, np.sqrt(area(shapes) / pixels), metre)


def connected(catalog: Catalog, touching: bool) -> dict[str, str]:
    """The place of each scene: scenes that share ground, directly or through others, are one.

    All dates of a site are one place in any case. `touching`: scenes whose outlines only touch are one, too.
    """
    from shapely import STRtree, area, convex_hull, distance, geometrycollections, intersection

    names = list(catalog.scenes)
    parent = {n: n for n in names}

    def root(n: str) -> str:
        while parent[n] != n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    def join(one: str, other: str) -> None:
        a, b = sorted((root(one), root(other)))
        parent[b] = a

    first: dict[str, str] = {}
    for name, scene in catalog.scenes.items():
        join(first.setdefault(scene.site or name, name), name)
    for group in outlines(catalog):
        here = catalog.scene_names[group.rows]
        known, inverse = np.unique(here.astype(str), return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        hulls = np.asarray(
            convex_hull(geometrycollections(group.shapes[order], indices=inverse[order])), object
        )
        pixel = np.zeros(len(known))
        np.maximum.at(pixel, inverse, group.pixel)
        a, b = STRtree(hulls).query(hulls, predicate="dwithin", distance=0.5 * pixel)
        a, b = a[a < b], b[a < b]
        if touching:
            close = distance(hulls[a], hulls[b]) < 0.5 * np.minimum(pixel[a], pixel[b])
        else:
            share = area(intersection(hulls[a], hulls[b])) / np.minimum(area(hulls[a]), area(hulls[b]))
            close = share > 1e-3
        for i, j in zip(a[close], b[close], strict=True):
            join(str(known[i]), str(known[j]))
    # A place is called by its ground where that is all it is: two dates are one place by the site's name.
    members: dict[str, list[str]] = {}
    for n in names:
        members.setdefault(root(n), []).append(n)
    called = {r: min(catalog.scenes[n].site or n for n in group) for r, group in members.items()}
    return {n: called[root(n)] for n in names}

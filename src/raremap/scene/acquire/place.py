"""`Place`: ground by a box, a polygon or a point, and the grid that its imagery gets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from raremap.errors import AcquireError, reason
from raremap.scene.grid import Grid

if TYPE_CHECKING:
    from shapely import Polygon
    from shapely.geometry.base import BaseGeometry

_DEGREES = CRS.from_epsg(4326)
_SOUTH, _NORTH = -80.0, 84.0  # where UTM ends
_WIDEST = 12.0  # degrees of longitude, beyond which one UTM zone stretches distances by more than 1 %


@dataclass(frozen=True)
class Place:
    """Ground as a geometry of longitudes and latitudes; `shaped` where its outline, and not its box, is meant."""

    geometry: BaseGeometry
    shaped: bool = False

    @classmethod
    def box(cls, west: float, south: float, east: float, north: float) -> Place:
        """A box in degrees; raises `AcquireError`."""
        from shapely import box

        given = f"bbox {west:g},{south:g},{east:g},{north:g}"
        if not all(map(math.isfinite, (west, south, east, north))):
            raise AcquireError(f"{given} is not of numbers; give W,S,E,N in degrees")
        if abs(west) > 180 or abs(east) > 180 or abs(south) > 90 or abs(north) > 90:
            raise AcquireError(
                f"{given} is not on the earth; give W,S,E,N in degrees of longitude and latitude"
            )
        if south >= north:
            raise AcquireError(f"{given} has its south above its north; give W,S,E,N")
        if west > east:
            raise AcquireError(
                f"{given} crosses the antimeridian, or has its west in the east; acquire it in two parts: "
                f"{west:g},{south:g},180,{north:g} and -180,{south:g},{east:g},{north:g}"
            )
        if west == east:
            raise AcquireError(f"{given} has no width; give W,S,E,N")
        return cls(_usable(box(west, south, east, north), given, wraps=False))

    @classmethod
    def point(cls, lon: float, lat: float, buffer_m: float) -> Place:
        """The square of `buffer_m` to each side of a point; raises `AcquireError`."""
        from pyproj import Transformer
        from shapely import box, segmentize

        given = f"point {lon:g},{lat:g}"
        if not (abs(lon) <= 180 and abs(lat) <= 90):
            raise AcquireError(f"{given} is not on the earth; give LON,LAT in degrees, longitude first")
        if not _SOUTH < lat < _NORTH:
            raise AcquireError(
                f"{given} is nearer to a pole than UTM and Sentinel-2 go ({_SOUTH:g} to {_NORTH:g})"
            )
        if not (math.isfinite(buffer_m) and buffer_m > 0):
            raise AcquireError(
                f"buffer of {buffer_m:g} m around {given}; give a length above 0 with --buffer-m"
            )
        utm = _utm(lon, lat)
        x, y = Transformer.from_crs(_DEGREES.to_wkt(), utm.to_wkt(), always_xy=True).transform(lon, lat)
        square = segmentize(box(x - buffer_m, y - buffer_m, x + buffer_m, y + buffer_m), buffer_m / 8)
        return cls(_usable(_moved(square, utm, _DEGREES), f"{given} with {buffer_m:g} m around it"))

    @classmethod
    def file(cls, path: str | Path) -> Place:
        """The polygons of a vector file, in any CRS; raises `AcquireError`."""
        import geopandas

        if not Path(path).is_file():
            raise AcquireError(f"polygon {path} does not exist; give a GeoJSON, GeoPackage or Shapefile")
        try:
            layer = geopandas.read_file(path)
        except Exception as error:  # pyogrio's and GDAL's own kinds
            raise AcquireError(
                f"polygon {path} cannot be read ({reason(error)}); is it a vector file?"
            ) from None
        if not hasattr(layer, "geometry") or layer.empty:
            raise AcquireError(f"polygon {path} has no feature; draw the ground that is wanted")
        if layer.crs is None:
            raise AcquireError(f"polygon {path} does not say its CRS; save it again with one")
        shapes: Any = layer.geometry[layer.geometry.notna() & ~layer.geometry.is_empty]
        odd = sorted({str(t) for t in shapes.geom_type if t not in ("Polygon", "MultiPolygon")})
        if odd or shapes.empty:
            raise AcquireError(
                f"polygon {path} holds {', '.join(odd) or 'nothing'}, expected polygons; "
                "for a point use --point and --buffer-m"
            )
        whole = shapes.to_crs(_DEGREES.to_wkt()).make_valid().union_all()
        return cls(_usable(whole, f"polygon {path}"), shaped=True)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees."""
        return self.geometry.bounds

    def grid(self, resolution_m: float) -> Grid:
        """The place in the UTM zone of its middle, pixel borders at multiples of the resolution, as Sentinel-2's."""
        from rasterio.warp import transform_bounds

        west, south, east, north = self.bounds
        crs = _utm((west + east) / 2, (south + north) / 2)
        box = transform_bounds(_DEGREES, crs, *self.bounds, densify_pts=41)
        # A thousandth of a pixel is rounding, and makes no row of its own.
        low = [math.floor(v / resolution_m + 1e-3) * resolution_m for v in box[:2]]
        high = [math.ceil(v / resolution_m - 1e-3) * resolution_m for v in box[2:]]
        width, height = (max(1, round((b - a) / resolution_m)) for a, b in zip(low, high, strict=True))
        affine = Affine.translation(low[0], high[1]) * Affine.scale(resolution_m, -resolution_m)
        return Grid(height, width, crs, affine)

    def on(self, crs: CRS) -> BaseGeometry:
        """The geometry in another CRS."""
        from shapely import segmentize

        return _moved(segmentize(self.geometry, 0.01), _DEGREES, crs)


def degrees_of(grid: Grid) -> Polygon:
    """The outline of a grid in longitudes and latitudes, a little wider than it is."""
    from rasterio.warp import transform_bounds
    from shapely import box

    assert grid.crs is not None
    west, south, east, north = transform_bounds(grid.crs, _DEGREES, *grid.bounds(), densify_pts=21)
    return box(west - 1e-3, south - 1e-3, east + 1e-3, north + 1e-3)


def read_numbers(text: str | Sequence[float], count: int, option: str, shape: str) -> list[float]:
    """So many numbers with commas between, or a sequence of them; raises `AcquireError` naming the option."""
    parts = text.split(",") if isinstance(text, str) else list(text)
    try:
        found = [float(part) for part in parts]
    except (TypeError, ValueError):
        found = []
    if len(found) != count:
        raise AcquireError(f"{option} is '{text}', expected {shape} in degrees")
    return found


def _usable(geometry: BaseGeometry, given: str, wraps: bool = True) -> BaseGeometry:
    """The geometry where one grid can show it; one that `wraps` and spans half the earth crosses the antimeridian."""
    west, south, east, north = geometry.bounds
    if not all(map(math.isfinite, geometry.bounds)) or geometry.area == 0:
        raise AcquireError(f"{given} covers no ground; is its CRS right?")
    if wraps and east - west > 180:
        raise AcquireError(
            f"{given} crosses the antimeridian; acquire what lies on either side of it by itself"
        )
    if south < _SOUTH or north > _NORTH:
        raise AcquireError(
            f"{given} reaches from {south:.4g} to {north:.4g} degrees of latitude; "
            f"UTM and Sentinel-2 go from {_SOUTH:g} to {_NORTH:g}"
        )
    if east - west > _WIDEST:
        raise AcquireError(
            f"{given} is {east - west:.3g} degrees wide, more than one UTM grid can show ({_WIDEST:g}); "
            "acquire it in parts"
        )
    return geometry


def _moved(geometry: BaseGeometry, source: CRS, target: CRS) -> BaseGeometry:
    from pyproj import Transformer
    from shapely import transform

    there = Transformer.from_crs(source.to_wkt(), target.to_wkt(), always_xy=True)
    return transform(geometry, lambda xy: np.stack(there.transform(xy[:, 0], xy[:, 1]), 1))


def _utm(lon: float, lat: float) -> CRS:
    zone = min(60, int((lon + 180) // 6) + 1)
    return CRS.from_epsg((32600 if lat >= 0 else 32700) + zone)

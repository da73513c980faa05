"""Polygons of strangers: their well-known binary, looked at before a library reads it.

GEOS reads collections within collections by calling itself, and a megabyte of them ends the process (GEOS 3.14). Here a
polygon is a list of rings and a multipolygon a list of polygons, and nothing else is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from raremap.errors import TableError

_ENVELOPES = {0: 0, 1: 32, 2: 48, 3: 48, 4: 64}
_POLYGON, _MULTIPOLYGON = 3, 6


def read_polygons(blobs: Sequence[bytes | None], name: str) -> np.ndarray:
    """Polygons and multipolygons of a GeoPackage's geometries, flat, as an array of shapely's.

    Raises `TableError` for what is missing, empty, of another kind, cut short, or crosses itself.
    """
    import shapely

    texts = [_unwrapped(blob, f"{name}: the geometry of row {i}") for i, blob in enumerate(blobs, 1)]
    try:
        shapes = shapely.force_2d(shapely.from_wkb(texts))
    except shapely.errors.GEOSException as error:
        raise TableError(f"{name} has a polygon that cannot be read ({str(error)[:80].strip()})") from None
    wrong = ~shapely.is_valid(shapes) | shapely.is_empty(shapes)
    if wrong.any():
        raise TableError(
            f"{name}: the polygon of row {int(np.argmax(wrong)) + 1} crosses itself or has no inside; repair it, "
            "as ogr2ogr -makevalid does"
        )
    return shapes


def _unwrapped(blob: bytes | None, where: str) -> bytes:
    """The well-known binary within GeoPackage's own header (OGC 12-128r19, 2.1.3)."""
    if not isinstance(blob, bytes) or len(blob) < 8 or blob[:2] != b"GP":
        raise TableError(f"{where} is missing, or none of a GeoPackage's; units are polygons")
    flags = blob[3]
    envelope = _ENVELOPES.get(flags >> 1 & 7)
    if envelope is None or flags & 0x20 or len(blob) < 8 + envelope + 5:
        raise TableError(f"{where} has a header that is not understood; write the layer again with ogr2ogr")
    text = blob[8 + envelope :]
    try:
        end = _end(text)
    except struct.error:
        raise TableError(f"{where} is cut short; write the layer again with ogr2ogr") from None
    except _Other as other:
        raise TableError(f"{where} is of kind {other}, expected a polygon or multipolygon") from None
    if end != len(text):
        raise TableError(f"{where} is {len(text):,} bytes long and says {end:,}; write the layer again")
    return text


class _Other(Exception):
    """Another kind of geometry."""


def _end(text: bytes) -> int:
    """Where a polygon or multipolygon ends by its own counts."""
    order, kind = _kind(text, 0)
    if kind % 1000 == _POLYGON:
        return _polygon_end(text, 0)
    if kind % 1000 != _MULTIPOLYGON:
        raise _Other(kind)
    (count,) = struct.unpack_from(f"{order}I", text, 5)
    at = 9
    for _ in range(count):
        at = _polygon_end(text, at)
    return at


def _polygon_end(text: bytes, at: int) -> int:
    order, kind = _kind(text, at)
    if kind % 1000 != _POLYGON:
        raise _Other(kind)
    point = 8 * (2 + (kind > 1000) + (kind > 3000))
    (rings,) = struct.unpack_from(f"{order}I", text, at + 5)
    at += 9
    for _ in range(rings):
        (points,) = struct.unpack_from(f"{order}I", text, at)
        at += 4 + points * point
    return at


def _kind(text: bytes, at: int) -> tuple[str, int]:
    mark, *_ = struct.unpack_from("B", text, at)
    if mark > 1:
        raise _Other(f"{mark:#x}")
    order = "<" if mark else ">"
    (kind,) = struct.unpack_from(f"{order}I", text, at + 1)
    if kind > 3999:
        raise _Other(kind)
    return order, kind

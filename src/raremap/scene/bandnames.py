"""What sensors, catalogues and features call their bands: one table for all who look for one by its name."""

from __future__ import annotations

import re

SENTINEL2 = {
    "B01": ("coastal", "coastal_aerosol"),
    "B02": ("blue",),
    "B03": ("green",),
    "B04": ("red",),
    "B05": ("rededge1", "rededge071"),
    "B06": ("rededge2", "rededge075"),
    "B07": ("rededge3", "rededge078"),
    "B08": ("nir", "nir_broad", "near_infrared", "infrared"),
    "B8A": ("nir08", "rededge4", "nir2", "nir_narrow"),
    "B09": ("nir09", "water_vapour", "water_vapor"),
    "B10": ("cirrus",),
    "B11": ("swir1", "swir16", "swir"),
    "B12": ("swir2", "swir22"),
}
"""Sentinel-2's numbers, and the names that earth-search, STAC and our own features use; the first of them is ours."""

# Landsat's numbers mean other colours: 5 and 7 (TM, ETM+), 8 and 9 (OLI, TIRS).
_LANDSAT = {
    "TM": ("blue", "green", "red", "nir", "swir1", "thermal", "swir2", "pan"),
    "OLI": ("coastal", "blue", "green", "red", "nir", "swir1", "swir2", "pan", "cirrus", "thermal", "thermal2"),
}  # fmt: skip


def plain(name: str) -> str:
    """A name without what does not count: case, signs and blanks, and zeros before a number.

    >>> plain("Band 04"), plain("red_edge_1"), plain("B8A")
    ('b4', 'rededge1', 'b8a')
    """
    text = re.sub("[^a-z0-9]", "", name.lower())
    text = re.sub(r"^band(?=\d)", "b", text)
    return re.sub(r"(?<=[a-z])0+(?=\d)", "", text)


_COLOURS = {plain(n): others[0] for number, others in SENTINEL2.items() for n in (number, *others)}


def colour(name: str) -> str:
    """Our name of a band, whatever else it is called; numbers are Sentinel-2's. Other names come back plain.

    >>> [colour(n) for n in ("B04", "red_edge_1", "swir16", "NIR_NARROW", "nir", "Elevation")]
    ['red', 'rededge1', 'swir1', 'nir08', 'nir', 'elevation']
    """
    key = plain(name)
    return _COLOURS.get(key, key)


def landsat_colour(name: str, sensor: str) -> str:
    """Our name of the band that a Landsat `sensor` ("TM", which ETM+ numbers alike, or "OLI") numbers so.

    >>> landsat_colour("SR_B4", "OLI"), landsat_colour("B4", "TM"), landsat_colour("B6_VCID_1", "TM")
    ('red', 'nir', 'thermal')
    """
    found = re.search(r"B0*(\d+)", name)
    names = _LANDSAT[sensor]
    return names[int(found[1]) - 1] if found and 0 < int(found[1]) <= len(names) else name

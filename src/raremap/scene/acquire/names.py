"""Which file of a scene holds a band: Sentinel-2's bands by number, by colour, and by the names of the catalogues."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from raremap.errors import AcquireError, nearest
from raremap.scene.bandnames import SENTINEL2, plain

if TYPE_CHECKING:
    from pystac import Asset, Item

SCL = "SCL"
"""Sentinel-2's scene classification."""

# Level 2A has no B10; its scene classification is a band of its own.
_OTHERS = {number: tuple(map(plain, others)) for number, others in SENTINEL2.items() if number != "B10"} | {
    SCL: ("scl",)
}
NUMBERS = tuple(_OTHERS)
"""The bands of Sentinel-2's level 2A."""


def sentinel2(name: str) -> str | None:
    """Sentinel-2's number of a band; None where it has no such band.

    >>> sentinel2("B4"), sentinel2("red"), sentinel2("swir1"), sentinel2("b8a"), sentinel2("thermal")
    ('B04', 'B04', 'B11', 'B8A', None)
    """
    key = plain(name)
    return next((n for n, others in _OTHERS.items() if key in (plain(n), *others)), None)


def require_sentinel2(names: Iterable[str]) -> dict[str, str]:
    """Sentinel-2's number of each band; raises `AcquireError` naming the one that it has not."""
    found = {}
    for name in names:
        number = sentinel2(name)
        if number is None:
            known = [*NUMBERS, *(o for number in NUMBERS for o in SENTINEL2.get(number, ("scl",)))]
            raise AcquireError(
                f"Sentinel-2 has no band '{name}' (dem and slope are made of heights); {nearest(name, known)}"
            )
        found[name] = number
    return found


def asset_of(item: Item, band: str) -> str | None:
    """The key of the asset that holds a band alone: by its key, its band's name, or its common name; the finest first."""
    number = sentinel2(band)
    words = {plain(band)} if number is None else {plain(number), *_OTHERS[number]}
    rasters = {key: asset for key, asset in item.assets.items() if _is_raster(asset)}
    for spellings in (_by_key, _by_band, _by_colour):
        hits = [key for key, asset in rasters.items() if spellings(key, asset) in words]
        if hits:
            return min(hits, key=lambda key: (_metres(key, rasters[key]), len(key)))
    return None


def require_asset(item: Item, band: str) -> str:
    """`asset_of`, or an `AcquireError` that names the scene."""
    key = asset_of(item, band)
    if key is None:
        raise AcquireError(
            f"scene {item.id} of {item.collection_id} has no band '{band}'; {nearest(band, item.assets)}"
        )
    return key


def bands_of(asset: Asset) -> list[Mapping[str, Any]]:
    """The bands that an item says an asset has (STAC 1.1, or the eo extension before it)."""
    return asset.extra_fields.get("bands") or asset.extra_fields.get("eo:bands") or []


def _by_key(key: str, asset: Asset) -> str:
    return plain(re.sub(r"_\d+m$", "", key))


def _by_band(key: str, asset: Asset) -> str | None:
    bands = bands_of(asset)
    return plain(str(bands[0].get("name", ""))) if len(bands) == 1 else None


def _by_colour(key: str, asset: Asset) -> str | None:
    bands = bands_of(asset)
    if len(bands) != 1:
        return None
    return plain(bands[0].get("eo:common_name") or bands[0].get("common_name") or "")


def _is_raster(asset: Asset) -> bool:
    roles, kind = asset.roles or [], str(asset.media_type or "image/")
    return kind.startswith("image/") and not {"thumbnail", "overview", "metadata"} & set(roles)


def _metres(key: str, asset: Asset) -> float:
    if found := re.search(r"_(\d+)m$", key):
        return float(found.group(1))
    return float(asset.extra_fields.get("gsd") or 0)

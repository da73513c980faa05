"""Which band is red: bands by name, whatever the sensor's files call them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from raremap.errors import SceneError, nearest

_ALIASES = {
    "blue": ("b2",),
    "green": ("b3",),
    "red": ("b4",),
    "nir": ("b8", "nearinfrared", "infrared"),
    "swir1": ("b11", "swir16", "swir"),
    "swir2": ("b12", "swir22"),
    "dem": ("dtm", "elevation", "altitude", "height"),
}


def find_band(name: str, bands: Sequence[str]) -> str | None:
    """The band that is meant by `name`: itself, or one of its other names; None where there is none.

    Case, zeros, blanks and signs between do not count. `blue`, `green`, `red`, `nir`, `swir1` and `swir2` are
    also found by Sentinel-2's numbers, `dem` as dtm, elevation, altitude or height.

    >>> find_band("nir", ("B04", "B08")), find_band("dem", ("Elevation",)), find_band("swir1", ("red",))
    ('B08', 'Elevation', None)
    """
    if name in bands:
        return name
    plain = {_plain(band): band for band in reversed(bands)}
    key = _plain(name)
    role = key if key in _ALIASES else next((r for r, others in _ALIASES.items() if key in others), key)
    for word in (key, role, *_ALIASES.get(role, ())):
        if word in plain:
            return plain[word]
    return None


def require_band(name: str, bands: Sequence[str], of: str) -> str:
    """`find_band`, or a `SceneError` that names the feature `of`."""
    band = find_band(name, bands)
    if band is None:
        also = _ALIASES.get(_plain(name))
        known = f" (or {', '.join(also[:3])})" if also else ""
        raise SceneError(
            f"the feature '{of}' needs the band '{name}'{known}, the scenes have {', '.join(bands)}; "
            f"{nearest(name, bands)}, or name the bands with scenes.bands"
        )
    return band


def _plain(name: str) -> str:
    """Lower case, letters and numbers only, without leading zeros."""
    text = re.sub("[^a-z0-9]", "", name.lower())
    text = re.sub(r"^band(?=\d)", "b", text)
    return re.sub(r"(?<=[a-z])0+(?=\d)", "", text)

"""Which band is red: bands by name, whatever the sensor's files call them."""

from __future__ import annotations

from collections.abc import Sequence

from raremap.errors import SceneError, nearest
from raremap.scene.bandnames import SENTINEL2, plain

# Our name → what else it is called, Sentinel-2's number first.
_ALIASES = {
    **{ours: (plain(number), *map(plain, others)) for number, (ours, *others) in SENTINEL2.items()},
    "dem": ("dtm", "elevation", "altitude", "height"),
}


def find_band(name: str, bands: Sequence[str]) -> str | None:
    """The band that is meant by `name`: itself, or one of its other names; None where there is none.

    Case, zeros, blanks and signs between do not count. Sentinel-2's bands are also found by its numbers and
    by what the catalogues call them, `dem` as dtm, elevation, altitude or height.

    >>> find_band("nir", ("B04", "B08")), find_band("dem", ("Elevation",)), find_band("swir1", ("red",))
    ('B08', 'Elevation', None)
    """
    if name in bands:
        return name
    own = {plain(band): band for band in reversed(bands)}
    key = plain(name)
    role = key if key in _ALIASES else next((r for r, others in _ALIASES.items() if key in others), key)
    for word in (key, role, *_ALIASES.get(role, ())):
        if word in own:
            return own[word]
    return None


def require_band(name: str, bands: Sequence[str], of: str) -> str:
    """`find_band`, or a `SceneError` that names the feature `of`."""
    band = find_band(name, bands)
    if band is None:
        also = _ALIASES.get(plain(name))
        known = f" (or {', '.join(also[:3])})" if also else ""
        raise SceneError(
            f"the feature '{of}' needs the band '{name}'{known}, the scenes have {', '.join(bands)} "
            f"({nearest(name, bands)}); name the bands with scenes.bands"
        )
    return band

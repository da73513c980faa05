"""What a bundle wants of imagery: its bands, their scale, the size of its pixels."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from raremap.errors import AcquireError
from raremap.scene.acquire.options import PIXEL_M, TERRAIN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from raremap.scene.normalize import Normalization

_REFLECTANCE, _DN = 3.0, 255.0
_FINER = 1.5  # Web Mercator draws Sentinel-2's pixels up to so many times as fine, up to 48 degrees


def scale_of(
    normalization: Normalization, bands: Sequence[str], name: str
) -> Literal["dn", "reflectance"] | None:
    """Whether a network learned reflectance or ten thousand times it, by the middle of its bands; None where it tells nothing.

    Means of the bands (or middles of their ranges) below 3 are reflectance, above 255 ten thousand times it.
    Raises `AcquireError` between the two, which are numbers of some other scale.
    """
    told = zip(bands, normalization.middles or (), strict=False)  # features follow the bands
    middles = [middle for band, middle in told if band.lower() not in TERRAIN]
    if not middles:
        return None
    middle = median(middles)
    if middle < _REFLECTANCE:
        return "reflectance"
    if middle > _DN:
        return "dn"
    raise AcquireError(
        f"bundle {name} learned numbers of about {middle:.4g}, which is neither reflectance (0 to 1) nor ten thousand "
        "times it; say with --scale what Sentinel-2 should be given as"
    )


def resolution_of(info: Mapping[str, Any], name: str) -> float:
    """Metres along the pixels that a network learned, Sentinel-2's where it does not tell.

    Raises `AcquireError` where they are finer than Sentinel-2's: what is small in them is not in the imagery.
    """
    learned = info.get("resolution_m") or PIXEL_M
    if learned * _FINER < PIXEL_M:
        raise AcquireError(
            f"bundle {name} was trained on pixels of {learned:.3g} m, and Sentinel-2's are {PIXEL_M:g} m: it needs imagery of "
            "its own kind"
        )
    return float(learned)

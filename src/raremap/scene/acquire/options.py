"""What is acquired and where it comes from, as options; no heavy import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from raremap.options import Options

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""Sentinel-2's bands of 10 and 20 m, which are acquired where nothing else is asked for."""

PIXEL_M = 10.0
"""Metres along a pixel of Sentinel-2's finest bands."""

HUB = "sentinelhub"
"""The source that is no STAC API."""

TERRAIN = ("dem", "slope")
"""Bands that are made of heights."""


class StacApi(Options):
    """A STAC API: its address, the collections of imagery and of heights, and what its files ask for.

    `sign` has every address signed by planetary-computer; `gdal` are settings of GDAL for its files, `keys`
    the environment variables that must be set before they can be read.
    """

    url: str
    collection: str = "sentinel-2-l2a"
    heights: str = "cop-dem-glo-30"
    sign: bool = False
    gdal: dict[str, str] = Field(default_factory=dict)
    keys: tuple[str, ...] = ()


STAC_APIS = {
    # Collection 1: what is stored keeps the offset of its baseline, and the items say so. The older
    # sentinel-2-l2a has items whose flag is wrong (Element84/earth-search issues 66 and 71).
    "earth-search": StacApi(url="https://earth-search.aws.element84.com/v1", collection="sentinel-2-c1-l2a"),
    "planetary-computer": StacApi(url="https://planetarycomputer.microsoft.com/api/stac/v1", sign=True),
    "cdse": StacApi(
        url="https://stac.dataspace.copernicus.eu/v1",
        heights="cop-dem-glo-30-dged-cog",
        gdal={"AWS_S3_ENDPOINT": "eodata.dataspace.copernicus.eu", "AWS_VIRTUAL_HOSTING": "FALSE"},
        keys=("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    ),
}
"""Public STAC APIs by name."""


class AcquireOptions(Options):
    """What each date's file holds.

    `bands` are names, by Sentinel-2's numbers or by colour; `dem` and `slope` among them are made of heights.
    `max_cloud` is the cloud cover of a whole scene, percent. `clouds` keeps Sentinel-2's scene classification in a
    file beside the image (`file`), as its last band (`band`), or makes clouded pixels nodata (`mask`). `scale` is
    reflectance times 10000 (`dn`, stored as uint16) or reflectance (stored as float32); `nodata` marks what is
    missing (default: 0, or NaN in float32). `dem` also writes heights and slopes in files of their own.
    """

    bands: tuple[str, ...] = Field(default=BANDS, min_length=1)
    resolution_m: float = Field(default=PIXEL_M, ge=1, le=1000)
    max_cloud: float = Field(default=30.0, ge=0, le=100)
    clouds: Literal["file", "band", "mask"] = "file"
    scale: Literal["dn", "reflectance"] = "dn"
    nodata: float | None = None
    mosaic: Literal["none", "median", "least-cloud"] = "none"
    dem: bool = False
    clip: bool = False

    @field_validator("bands")
    @classmethod
    def _different(cls, bands: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [b for i, b in enumerate(bands) if b in bands[:i]]:
            raise ValueError(f"band '{twice[0]}' is named twice")
        return bands

    @property
    def dtype(self) -> str:
        """Number type of the images: uint16 where it holds all that is asked for."""
        whole = self.nodata is None or (self.nodata == int(self.nodata) and 0 <= self.nodata <= 65535)
        heights = any(b.lower() in TERRAIN for b in self.bands)
        return "uint16" if self.scale == "dn" and whole and not heights else "float32"

    @property
    def missing(self) -> float:
        """The value that marks no data in the images."""
        if self.nodata is not None:
            return self.nodata
        return 0.0 if self.dtype == "uint16" else float("nan")

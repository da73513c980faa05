"""Items as the public catalogues have them: their keys and bands, cut down to what names a band."""

from __future__ import annotations

from datetime import datetime

import pytest
from pystac import Asset, Item

from raremap.errors import AcquireError
from raremap.scene.acquire.names import asset_of, require_asset, require_sentinel2

_TIFF, _JP2 = "image/tiff; application=geotiff; profile=cloud-optimized", "image/jp2"


def _item(assets: dict[str, Asset]) -> Item:
    item = Item("S2", None, None, datetime(2024, 5, 1), {}, collection="sentinel-2-l2a")
    for key, asset in assets.items():
        item.add_asset(key, asset)
    return item


def _eo(name: str, common: str | None = None, kind: str = _TIFF, **more: object) -> Asset:
    band = {"name": name} | ({"common_name": common} if common else {})
    return Asset("http://x/y.tif", media_type=kind, roles=["data"], extra_fields={"eo:bands": [band], **more})


EARTH_SEARCH = _item(
    {
        "red-jp2": _eo("red", "red", _JP2),
        "visual": Asset(
            "http://x", media_type=_TIFF, extra_fields={"eo:bands": [{"name": n} for n in "rgb"]}
        ),
        "thumbnail": Asset("http://x", media_type="image/jpeg", roles=["thumbnail"]),
        "red": _eo("red", "red"),
        "nir": _eo("nir", "nir"),
        "nir08": _eo("nir08", "nir08"),
        "rededge1": _eo("rededge1", "rededge"),
        "rededge2": _eo("rededge2", "rededge"),
        "swir16": _eo("swir16", "swir16"),
        "scl": Asset("http://x/scl.tif", media_type=_TIFF, roles=["data"]),
        "granule_metadata": Asset("http://x/m.xml", media_type="application/xml"),
    }
)
PLANETARY = _item(
    {"AOT": _eo("AOT"), "B04": _eo("B04", "red"), "B8A": _eo("B8A", "rededge"), "B08": _eo("B08", "nir"),
     "B11": _eo("B11", "swir16"), "SCL": _eo("SCL"), "B05": _eo("B05", "rededge"), "B06": _eo("B06", "rededge")}
)  # fmt: skip
CDSE = _item(
    {f"{name}_{metres}m": Asset("s3://eodata/x.jp2", media_type=_JP2, roles=["data"], extra_fields={"gsd": metres})
     for name in ("B04", "B8A", "B08", "B11", "SCL", "B05", "B06") for metres in (60, 20, 10)
     if metres >= (10 if name in ("B04", "B08") else 20)}
)  # fmt: skip


@pytest.mark.parametrize(
    ("item", "keys"),
    [
        (EARTH_SEARCH, ["red", "nir", "nir08", "rededge1", "rededge2", "swir16", "scl"]),
        (PLANETARY, ["B04", "B08", "B8A", "B05", "B06", "B11", "SCL"]),
        (CDSE, ["B04_10m", "B08_10m", "B8A_20m", "B05_20m", "B06_20m", "B11_20m", "SCL_20m"]),
    ],
)
def test_bands_are_found_by_number_and_by_colour_in_the_public_catalogues(item, keys):
    numbers = ["B04", "B08", "B8A", "B05", "B06", "B11", "SCL"]
    colours = ["red", "nir", "nir08", "rededge1", "rededge2", "swir1", "scl"]
    assert [asset_of(item, n) for n in numbers] == keys
    assert [asset_of(item, n) for n in colours] == keys
    assert [asset_of(item, n) for n in ("B4", "b8", "band8a")] == keys[:3]


def test_an_unknown_band_is_told_with_the_scene():
    with pytest.raises(AcquireError, match=r"scene S2 of sentinel-2-l2a has no band 'B09'"):
        require_asset(PLANETARY, "B09")
    with pytest.raises(AcquireError, match="Sentinel-2 has no band 'thermal'"):
        require_sentinel2(["red", "thermal"])
    with pytest.raises(AcquireError, match="did you mean 'swir1'"):
        require_sentinel2(["swir17"])

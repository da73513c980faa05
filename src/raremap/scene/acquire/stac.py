"""Imagery and heights of a STAC API."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import AcquireError, MissingExtra, RaremapWarning, nearest
from raremap.scene.acquire.names import SCL, bands_of, require_asset
from raremap.scene.acquire.options import STAC_APIS, StacApi
from raremap.scene.acquire.place import Place, degrees_of
from raremap.scene.acquire.source import ATTEMPTS, WAIT_S, Overpass, patiently, said

if TYPE_CHECKING:
    from pystac import Item
    from pystac_client import Client
    from shapely.geometry.base import BaseGeometry

    from raremap.scene.acquire.period import Period
    from raremap.scene.grid import Grid

_TIMEOUT_S = (10.0, 60.0)
_READS = 8  # files of a window that are read at once

# A file that is opened over the net is asked for its head and its blocks, and for nothing beside it.
_GDAL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": str(ATTEMPTS - 1),
    "GDAL_HTTP_RETRY_DELAY": str(WAIT_S),
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "VSI_CACHE": "TRUE",
}

_OFFSET, _DN = -1000.0, 1e4
"""What is added to the stored numbers of Sentinel-2 from processing baseline 04.00 on; how many make reflectance 1."""


def stac_api(source: str, collection: str | None = None) -> StacApi:
    """The API of a name, or of an address; raises `AcquireError`."""
    if source in STAC_APIS:
        api = STAC_APIS[source]
    elif source.startswith(("http://", "https://")):
        api = StacApi(url=source)
    else:
        raise AcquireError(
            f"source '{source}' is not known; {nearest(source, [*STAC_APIS, 'sentinelhub'])}, or give a STAC API's address"
        )
    return api if collection is None else api.model_copy(update={"collection": collection})


class StacSource:
    """A STAC API whose scenes are read with odc-stac, window by window."""

    def __init__(self, api: StacApi, name: str | None = None) -> None:
        self.name, self.collection = name or api.url, api.collection
        self._api = api
        self._client: Client | None = None
        self._patch = _signer() if api.sign else _plain_address
        self._scaled: dict[tuple[str, str], tuple[float, float]] = {}
        if missing := [key for key in api.keys if not os.environ.get(key)]:
            raise AcquireError(
                f"{self.name} gives its files to those with keys only; set the environment variables "
                f"{' and '.join(missing)} (S3 keys of your account there), or use --source earth-search"
            )

    def overpasses(self, place: Place, period: Period, max_cloud: float) -> list[Overpass]:
        """The days that have imagery of a place; scenes with more clouds are left out, older processings too."""
        day = timedelta(days=1)  # of the sun there: the search is wider, what is too much is left out
        found = self._items(
            place.geometry,
            self._api.collection,
            datetime=f"{period.first - day}T00:00:00Z/{period.last + day}T23:59:59Z",
            max_cloud=max_cloud,
        )
        lon = place.geometry.centroid.x
        days: dict[str, list[Item]] = {}
        for item in _newest(found):
            cloud = item.properties.get("eo:cloud_cover")
            local = _moment(item) + timedelta(hours=lon / 15)
            if (cloud is None or cloud <= max_cloud) and period.first <= local.date() <= period.last:
                days.setdefault(local.date().isoformat(), []).append(item)
        return [_overpass(date, items) for date, items in sorted(days.items())]

    def read(self, overpass: Overpass, bands: tuple[str, ...], grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of a window: each from the first scene that has it, all bands of a pixel from one scene."""
        out = np.full((len(bands), grid.height, grid.width), np.nan, np.float32)
        classes = np.zeros((grid.height, grid.width), np.uint8)
        for item in _touching(overpass.items, grid):
            keys = [require_asset(item, band) for band in bands]
            scl = require_asset(item, SCL)
            loaded = self._load(
                [item], list(dict.fromkeys([*keys, scl])), grid, {"*": "bilinear", scl: "nearest"}
            )
            part = np.empty_like(out)
            for i, key in enumerate(keys):
                times, plus = self._scaling(item, key)
                stored = loaded[key]
                part[i] = np.where(_stored(stored, item, key), stored * times + plus, np.nan)
            fresh = np.isnan(out[0]) & ~np.isnan(part).any(0)
            out[:, fresh] = part[:, fresh]
            classes[fresh] = loaded[scl][fresh].astype(np.uint8)
            if not np.isnan(out[0]).any():
                break
        return out, classes

    def heights(self, grid: Grid) -> Callable[[Grid], np.ndarray]:
        """Heights of the API's collection of them, interpolated."""
        around = degrees_of(grid)
        items = self._items(around, self._api.heights)
        if not items:
            raise AcquireError(
                f"{self.name} has no heights in {self._api.heights} at {_corners(around)}; "
                "leave out --dem, or use another --source"
            )

        def read(window: Grid) -> np.ndarray:
            out = np.full((window.height, window.width), np.nan, np.float32)
            for item in _touching(items, window):
                key = _height_asset(item)
                part = self._load([item], [key], window, {"*": "bilinear"})[key]
                fresh = np.isnan(out) & _stored(part, item, key)
                out[fresh] = part[fresh]
            return out

        return read

    def close(self) -> None:
        """Nothing is held: files are closed as soon as a window is read."""

    def _items(
        self, geometry: BaseGeometry, collection: str, max_cloud: float | None = None, **more: Any
    ) -> list[Item]:
        from pystac_client.exceptions import APIError
        from requests.exceptions import RequestException
        from shapely.geometry import mapping

        def search() -> list[Item]:
            client = self._opened()
            asked = dict(more)
            if max_cloud is not None and client.conforms_to("QUERY"):
                asked["query"] = {"eo:cloud_cover": {"lte": max_cloud}}
            search = client.search(collections=[collection], intersects=mapping(geometry), limit=100, **asked)
            return list(search.items())

        try:
            items = patiently(
                search,
                (RequestException, OSError),
                f"{self._api.url} cannot be reached",
                "check the network, or use another --source",
            )
        except APIError as error:  # the library has tried again what may pass
            if "ConnectionError" in repr(error) or "Max retries" in str(error):
                raise AcquireError(
                    f"{self._api.url} cannot be reached ({said(error)}); check the network, or use another --source"
                ) from None
            raise AcquireError(
                f"{self._api.url} did not answer a search in {collection} ({said(error)}); "
                "check --source and --collection"
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            raise AcquireError(
                f"{self._api.url} does not answer as a STAC API ({said(error)}); check the address"
            ) from None
        return items

    def _opened(self) -> Client:
        if self._client is None:
            try:
                from pystac_client import Client
                from pystac_client.stac_api_io import StacApiIO
                from urllib3 import Retry
            except ImportError:
                raise MissingExtra("pystac-client", "acquire") from None
            again = Retry(
                total=ATTEMPTS - 1,
                backoff_factor=WAIT_S,
                status_forcelist=[429, 500, 502, 503, 504],
                allowed_methods=["GET", "POST"],
            )
            self._client = Client.open(
                self._api.url, stac_io=StacApiIO(max_retries=again, timeout=_TIMEOUT_S)
            )
        return self._client

    def _load(
        self, items: list[Item], keys: list[str], grid: Grid, how: dict[str, str]
    ) -> dict[str, np.ndarray]:
        """Stored numbers `[h, w]` of assets on a grid, by key."""
        try:
            from odc.geo.geobox import GeoBox
            from odc.stac import configure_rio, load
        except ImportError:
            raise MissingExtra("odc-stac", "acquire") from None
        from rasterio.errors import RasterioError

        assert grid.crs is not None
        box = GeoBox((grid.height, grid.width), grid.transform, grid.crs.to_wkt())
        # What a catalogue does not say of its files; heights are no whole numbers, classes have no need of more.
        known = {"*": {"assets": {"*": {"data_type": "uint16", "nodata": 0}}}}
        if items[0].collection_id == self._api.heights:
            known = {"*": {"assets": {"*": {"data_type": "float32", "nodata": float("nan")}}}}

        def fetch() -> dict[str, np.ndarray]:
            configure_rio(**_GDAL, **self._api.gdal)
            data = load(
                items, bands=keys, geobox=box, resampling=how, stac_cfg=known, patch_url=self._patch,
                pool=_READS, fail_on_error=True,
            )  # fmt: skip
            return {key: data[key].values[0] for key in keys}

        return patiently(
            fetch,
            (RasterioError, OSError),
            f"scene {items[0].id} of {self.name} cannot be read",
            "try again later: what is finished is kept",
        )

    def _scaling(self, item: Item, key: str) -> tuple[float, float]:
        """Factor and summand that make stored numbers reflectance times 10000."""
        if (item.id, key) not in self._scaled:
            self._scaled[item.id, key] = scaling(item, key)
        return self._scaled[item.id, key]


def scaling(item: Item, key: str) -> tuple[float, float]:
    """Factor and summand that make the stored numbers of an asset reflectance times 10000.

    `earthsearch:boa_offset_applied` says that the offset is in the numbers already. Else the asset's own scale and
    offset count (`raster:bands`, or STAC 1.1's `raster:scale`), else Sentinel-2's processing baseline: from 04.00
    on 1000 is taken off.
    """
    properties = item.properties
    asset = item.assets[key]
    said = [asset.extra_fields, *asset.extra_fields.get("raster:bands", [])[:1], *bands_of(asset)[:1]]
    scale = _first(said, "raster:scale", "scale")
    offset = _first(said, "raster:offset", "offset")
    times = _DN * scale if scale else 1.0
    if properties.get("earthsearch:boa_offset_applied") is True:
        return times, 0.0
    if offset is not None:
        return times, _DN * offset
    return times, _OFFSET if _baseline(item) >= (4, 0) else 0.0


def _first(places: Iterable[Any], *names: str) -> float | None:
    for place in places:
        for name in names:
            if place.get(name) is not None:
                return float(place[name])
    return None


def _baseline(item: Item) -> tuple[int, ...]:
    """The processing baseline as numbers; (0,) where the item does not say it.

    It is `s2:processing_baseline`, else `processing:version`, of which only Sentinel-2's form (05.11) counts.
    """
    for name in ("s2:processing_baseline", "processing:version"):
        parts = str(item.properties.get(name, "")).split(".")
        if len(parts) == 2 and all(part.isdigit() for part in parts):
            return tuple(map(int, parts))
    return (0,)


def _stored(array: np.ndarray, item: Item, key: str) -> np.ndarray:
    """Where an asset has data, by its own nodata value (imagery: 0 where it names none)."""
    if np.issubdtype(array.dtype, np.floating):
        present = ~np.isnan(array)
    else:
        present = array != 0
    asset = item.assets[key]
    said = [asset.extra_fields, *asset.extra_fields.get("raster:bands", [])[:1], *bands_of(asset)[:1]]
    nodata = _first([{k: v for k, v in s.items() if v != "nan"} for s in said], "nodata")
    return present if nodata is None or np.isnan(nodata) else present & (array != nodata)


def _newest(items: Iterable[Item]) -> list[Item]:
    """The items, of those of one tile and moment only the one processed last; newer processings first."""
    best: dict[tuple[str, str], Item] = {}
    for item in items:
        tile = item.properties.get("grid:code") or item.properties.get("s2:mgrs_tile") or str(item.bbox)
        key = str(tile).removeprefix("MGRS-").lstrip("T"), _moment(item).strftime("%Y%m%d%H%M")
        if key not in best or _age(item) > _age(best[key]):
            best[key] = item
    return sorted(best.values(), key=lambda item: (_age(item), item.id), reverse=True)


def _age(item: Item) -> tuple[Any, ...]:
    return _baseline(item), str(item.properties.get("created") or item.properties.get("updated") or "")


def _moment(item: Item) -> Any:
    moment = item.datetime or item.common_metadata.start_datetime
    if moment is None:
        raise AcquireError(f"scene {item.id} of {item.collection_id} does not say its time")
    return moment


def _overpass(date: str, items: list[Item]) -> Overpass:
    clouds = [item.properties.get("eo:cloud_cover") for item in items]
    told = [float(c) for c in clouds if c is not None]
    # The clearer scene of two that overlap goes first.
    ordered = sorted(items, key=lambda i: i.properties.get("eo:cloud_cover") or 0.0)
    return Overpass(
        date, tuple(sorted(i.id for i in items)), float(np.mean(told)) if told else None, tuple(ordered)
    )


def _touching(items: Iterable[Item], grid: Grid) -> list[Item]:
    from shapely.geometry import shape

    here = degrees_of(grid)
    return [i for i in items if i.geometry is None or shape(i.geometry).intersects(here)]


def _height_asset(item: Item) -> str:
    for key in ("data", "dem", "elevation"):
        if key in item.assets:
            return key
    raise AcquireError(f"{item.id} of {item.collection_id} has no heights, it has {', '.join(item.assets)}")


def _corners(outline: BaseGeometry) -> str:
    return ",".join(f"{v:.4f}" for v in outline.bounds)


def _plain_address(url: str) -> str:
    # rasterio asks boto3 for what GDAL finds in the environment by itself.
    return "/vsis3/" + url.removeprefix("s3://") if url.startswith("s3://") else url


def _signer() -> Callable[[str], str]:
    try:
        import planetary_computer  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise AcquireError(
            "planetary-computer is not installed, and the Planetary Computer reads signed addresses only: "
            "pip install planetary-computer, or use --source earth-search"
        ) from None
    return planetary_computer.sign


def warn_if_dark(share: float, date: str, name: str) -> None:
    """Say that many numbers are below 0, which is how a wrong offset shows."""
    if share > 0.25:
        warnings.warn(
            f"{date} of {name}: {share:.0%} of the numbers are 0 or below after the offset that its items tell; "
            "the offset may have been taken off before, compare with another --source",
            RaremapWarning,
            stacklevel=3,
        )

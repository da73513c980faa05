"""Imagery and heights of a STAC API."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from raremap.errors import AcquireError, MissingExtra, RaremapWarning, nearest
from raremap.scene.acquire.names import SCL, bands_of, require_asset
from raremap.scene.acquire.options import STAC_APIS, StacApi
from raremap.scene.acquire.place import Place, degrees_of
from raremap.scene.acquire.source import ATTEMPTS, WAIT_S, Overpass, patiently, said
from raremap.scene.acquire.warped import Warped

if TYPE_CHECKING:
    from pystac import Item
    from pystac_client import Client
    from shapely.geometry.base import BaseGeometry

    from raremap.scene.acquire.period import Period
    from raremap.scene.grid import Grid
    from raremap.scene.window import Window

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
    # GDAL would remember for good that a file could not be read once.
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/",
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
            f"source '{source}' is not known ({nearest(source, [*STAC_APIS, 'sentinelhub'])}); a STAC API's address works too"
        )
    return api if collection is None else api.model_copy(update={"collection": collection})


class StacSource:
    """A STAC API whose scenes are read window by window."""

    def __init__(self, api: StacApi, name: str | None = None) -> None:
        self.name, self.collection = name or api.url, api.collection
        self._api = api
        self._client: Client | None = None
        self._patch = _signer() if api.sign else _plain_address
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

    @contextmanager
    def day(
        self, overpass: Overpass, bands: tuple[str, ...], grid: Grid
    ) -> Iterator[Callable[[Window], tuple[np.ndarray, np.ndarray]]]:
        """Each pixel is from the first scene that has it, all bands of a pixel from one scene."""
        scenes = [_Scene(self, item, bands, grid) for item in overpass.items]

        def read(window: Window) -> tuple[np.ndarray, np.ndarray]:
            out = np.full((len(bands), window.height, window.width), np.nan, np.float32)
            classes = np.zeros((window.height, window.width), np.uint8)
            here = degrees_of(grid.shifted(window))
            for scene in scenes:
                if not _touches(scene.item, here):
                    continue
                pixels, kinds = scene.read(window, pool)
                fresh = np.isnan(out[0]) & ~np.isnan(pixels).any(0)
                out[:, fresh] = pixels[:, fresh]
                classes[fresh] = kinds[fresh]
                if not np.isnan(out[0]).any():
                    break
            return out, classes

        try:
            # The threads end first: one that still reads a file while it is closed takes the process with it.
            with ThreadPoolExecutor(_READS, thread_name_prefix="raremap-acquire") as pool:
                yield read
        finally:
            for scene in scenes:
                scene.close()

    @contextmanager
    def heights(self, grid: Grid) -> Iterator[Callable[[Window], np.ndarray]]:
        """Heights of the API's collection of them, interpolated."""
        around = degrees_of(grid)
        items = self._items(around, self._api.heights)
        if not items:
            raise AcquireError(
                f"{self.name} has no heights in {self._api.heights} at {_corners(around)}; "
                "leave out --dem, or use another --source"
            )
        tiles = [(item, self.opened(item, _height_asset(item), grid, "bilinear")) for item in items]

        def read(window: Window) -> np.ndarray:
            out = np.full((window.height, window.width), np.nan, np.float32)
            here = degrees_of(grid.shifted(window))
            for item, tile in tiles:
                if _touches(item, here):
                    part, there = tile.read(window)
                    fresh = np.isnan(out) & there
                    out[fresh] = part[fresh]
            return out

        try:
            yield read
        finally:
            for _, tile in tiles:
                tile.close()

    def opened(self, item: Item, key: str, grid: Grid, method: Literal["bilinear", "nearest"]) -> Warped:
        """An asset on a grid; opened when it is read. Raises `AcquireError` where its address is none."""
        address = item.assets[key].get_absolute_href() or ""
        if not address.startswith(("http://", "https://", "s3://")):
            raise AcquireError(
                f"scene {item.id} of {self.name} has its '{key}' at '{address[:80]}', expected http(s):// or s3://"
            )
        name = f"'{key}' of scene {item.id} of {self.name}"
        nodata = _first(_said(item, key), "nodata")
        if nodata is None and item.collection_id != self._api.heights:
            nodata = 0.0
        return Warped(lambda: self._patch(address), grid, method, nodata, {**_GDAL, **self._api.gdal}, name)

    def _items(
        self, geometry: BaseGeometry, collection: str, max_cloud: float | None = None, **more: Any
    ) -> list[Item]:
        from pystac_client.exceptions import APIError
        from requests.exceptions import RequestException
        from shapely.geometry import mapping

        def search() -> list[Item]:
            client = self._opened()
            told = {link.extra_fields.get("method") or "GET" for link in client.get_links("search")}
            asked = {**more, "method": "GET" if told == {"GET"} else "POST"}
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


class _Scene:
    """The bands and the classes of one scene on a grid, read side by side."""

    def __init__(self, source: StacSource, item: Item, bands: tuple[str, ...], grid: Grid) -> None:
        self.item = item
        keys = [require_asset(item, band) for band in bands]
        self._scalings = [scaling(item, key) for key in keys]
        self._bands = [source.opened(item, key, grid, "bilinear") for key in keys]
        self._classes = source.opened(item, require_asset(item, SCL), grid, "nearest")

    def read(self, window: Window, pool: Executor) -> tuple[np.ndarray, np.ndarray]:
        """Reflectance times 10000 `[bands, h, w]`, NaN where there is none, and classes `[h, w]`."""
        files = [*self._bands, self._classes]
        *bands, (kinds, known) = pool.map(lambda file: file.read(window), files)
        out = np.empty((len(bands), window.height, window.width), np.float32)
        for i, ((stored, there), (times, plus)) in enumerate(zip(bands, self._scalings, strict=True)):
            out[i] = np.where(there, stored * np.float32(times) + np.float32(plus), np.nan)
        return out, np.where(known, kinds, 0).astype(np.uint8)

    def close(self) -> None:
        """Close the files."""
        for file in (*self._bands, self._classes):
            file.close()


def scaling(item: Item, key: str) -> tuple[float, float]:
    """Factor and summand that make the stored numbers of an asset reflectance times 10000.

    `earthsearch:boa_offset_applied` says that the offset is in the numbers already. Else the asset's own scale and
    offset count (`raster:bands`, or STAC 1.1's `raster:scale`), else Sentinel-2's processing baseline: from 04.00
    on 1000 is taken off.
    """
    told = _said(item, key)
    scale = _first(told, "raster:scale", "scale")
    offset = _first(told, "raster:offset", "offset")
    times = _DN * scale if scale else 1.0
    if item.properties.get("earthsearch:boa_offset_applied") is True:
        return times, 0.0
    if offset is not None:
        return times, _DN * offset
    return times, _OFFSET if _baseline(item) >= (4, 0) else 0.0


def _said(item: Item, key: str) -> list[Mapping[str, Any]]:
    """What an item says of an asset's numbers, in STAC 1.1's places and in those of the raster extension before it."""
    asset = item.assets[key]
    fields = asset.extra_fields
    return [fields, *fields.get("raster:bands", [])[:1], *bands_of(asset)[:1]]


def _first(places: Iterable[Mapping[str, Any]], *names: str) -> float | None:
    for place in places:
        for name in names:
            if isinstance(place.get(name), (int, float)):
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


def _newest(items: Iterable[Item]) -> list[Item]:
    """The items, of those of one tile and moment only the one processed last; newer processings first."""
    best: dict[tuple[str, str], Item] = {}
    for item in items:
        tile = item.properties.get("grid:code") or item.properties.get("s2:mgrs_tile") or str(item.bbox)
        key = str(tile).removeprefix("MGRS-").lstrip("T"), _moment(item).strftime("%Y%m%d%H%M%S")
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


def _touches(item: Item, outline: BaseGeometry) -> bool:
    from shapely.geometry import shape

    return item.geometry is None or shape(item.geometry).intersects(outline)


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

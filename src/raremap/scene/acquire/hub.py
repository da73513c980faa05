"""Imagery and heights of Sentinel Hub: its catalog and its process API, with the user's own credentials."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from raremap.errors import AcquireError, MissingExtra
from raremap.scene.acquire.names import SCL, require_sentinel2
from raremap.scene.acquire.source import Overpass, said

if TYPE_CHECKING:
    from raremap.scene.acquire.period import Period
    from raremap.scene.acquire.place import Place
    from raremap.scene.grid import Grid
    from raremap.scene.window import Window

T = TypeVar("T")


class HubSource:
    """Sentinel Hub's Sentinel-2 L2A. Its numbers are harmonised: no offset of a baseline is left in them.

    Credentials and addresses are those of `sentinelhub`'s own configuration, so that Copernicus Data Space's
    deployment works as well. Bands of 20 m are repeated on finer grids, as the scene classes must be.
    """

    name = "sentinelhub"
    collection = "sentinel-2-l2a"

    def __init__(self) -> None:
        try:
            from sentinelhub.config import SHConfig
            from sentinelhub.data_collections import DataCollection
        except ImportError:
            raise MissingExtra("sentinelhub", "acquire") from None
        self._config = SHConfig()
        if not (self._config.sh_client_id and self._config.sh_client_secret):
            raise AcquireError(
                "Sentinel Hub wants credentials and none are configured; set SH_CLIENT_ID and SH_CLIENT_SECRET, "
                "or run: sentinelhub.config --sh_client_id ID --sh_client_secret SECRET"
            )
        # A collection carries the address of its service; another deployment has the same collections.
        url = self._config.sh_base_url
        self._imagery, self._elevation = (
            kind if kind.service_url == url else kind.define_from(f"{kind.name} at {url}", service_url=url)
            for kind in (DataCollection.SENTINEL2_L2A, DataCollection.DEM_COPERNICUS_30)
        )

    def overpasses(self, place: Place, period: Period, max_cloud: float) -> list[Overpass]:
        """The days that have imagery of a place, by the catalog; scenes with more clouds are left out."""
        from sentinelhub.api.catalog import SentinelHubCatalog
        from sentinelhub.constants import CRS
        from sentinelhub.geometry import Geometry

        day = timedelta(days=1)  # of the sun there: the search is wider, what is too much is left out
        found = self._told(
            lambda: list(
                SentinelHubCatalog(config=self._config).search(
                    self._imagery,
                    geometry=Geometry(place.geometry, CRS.WGS84),  # pyright: ignore[reportArgumentType]
                    time=(str(period.first - day), str(period.last + day)),
                    filter=f"eo:cloud_cover <= {max_cloud:g}",
                    fields={
                        "include": ["id", "properties.datetime", "properties.eo:cloud_cover"],
                        "exclude": [],
                    },
                )
            ),
            "catalog",
        )
        shift = timedelta(hours=place.geometry.centroid.x / 15)
        days: dict[str, list[tuple[datetime, str, float | None]]] = {}
        for item in found:
            moment = datetime.fromisoformat(item["properties"]["datetime"].replace("Z", "+00:00"))
            cloud = item["properties"].get("eo:cloud_cover")
            local = (moment + shift).date()
            if period.first <= local <= period.last and (cloud is None or cloud <= max_cloud):
                days.setdefault(local.isoformat(), []).append((moment, item["id"], cloud))
        return [_overpass(date, items) for date, items in sorted(days.items())]

    @contextmanager
    def day(
        self, overpass: Overpass, bands: tuple[str, ...], grid: Grid
    ) -> Iterator[Callable[[Window], tuple[np.ndarray, np.ndarray]]]:
        """Each window is one request."""
        numbers = tuple(require_sentinel2(bands).values())
        asked = tuple(dict.fromkeys([*numbers, SCL, "dataMask"]))
        script = evalscript(asked, "UINT16", "DN")
        first, last, cloud = overpass.items

        def read(window: Window) -> tuple[np.ndarray, np.ndarray]:
            data = self._process(
                script, self._imagery, grid.shifted(window), times=(first, last), maxcc=cloud / 100,
                other={"processing": {"harmonizeValues": True}},
            )  # fmt: skip
            layer = dict(zip(asked, np.moveaxis(data, 2, 0), strict=True))
            there = layer["dataMask"] > 0
            values = np.stack([layer[n] for n in numbers]).astype(np.float32)
            return np.where(there, values, np.float32(np.nan)), np.where(there, layer[SCL], 0).astype(
                np.uint8
            )

        yield read

    @contextmanager
    def heights(self, grid: Grid) -> Iterator[Callable[[Window], np.ndarray]]:
        """Heights of Copernicus GLO-30, interpolated; Sentinel Hub gives 0 at sea."""
        other = {"processing": {"upsampling": "BILINEAR", "downsampling": "BILINEAR"}}
        script = evalscript(("DEM", "dataMask"), "FLOAT32", "METERS")

        def read(window: Window) -> np.ndarray:
            data = self._process(script, self._elevation, grid.shifted(window), other=other)
            return np.where(data[..., 1] > 0, data[..., 0], np.nan).astype(np.float32)

        yield read

    def _process(
        self,
        script: str,
        collection: Any,
        grid: Grid,
        times: tuple[datetime, datetime] | None = None,
        maxcc: float | None = None,
        other: dict[str, Any] | None = None,
    ) -> np.ndarray:
        """The answer `[h, w, bands]` to one request of the process API."""
        from sentinelhub.api.process import SentinelHubRequest
        from sentinelhub.constants import CRS, MimeType
        from sentinelhub.geometry import BBox

        assert grid.crs is not None
        request = SentinelHubRequest(
            evalscript=script,
            input_data=[
                SentinelHubRequest.input_data(collection, time_interval=times, maxcc=maxcc, other_args=other)
            ],
            responses=[SentinelHubRequest.output_response("default", MimeType.TIFF)],
            bbox=BBox(grid.bounds(), CRS(grid.crs.to_epsg())),
            size=(grid.width, grid.height),
            config=self._config,
        )
        data = self._told(lambda: request.get_data()[0], "process API")
        data = data if data.ndim == 3 else data[..., None]
        if data.shape[:2] != (grid.height, grid.width):
            raise AcquireError(
                f"Sentinel Hub answered with {data.shape[1]}x{data.shape[0]} pixels, "
                f"asked for {grid.width}x{grid.height}; try again later"
            )
        return data

    def _told(self, step: Callable[[], T], what: str) -> T:
        """Do a step; its faults become one line. The library itself tries again what may pass."""
        from oauthlib.oauth2 import OAuth2Error
        from requests.exceptions import HTTPError, RequestException
        from sentinelhub.exceptions import DownloadFailedException

        try:
            return step()
        except OAuth2Error as error:
            raise AcquireError(
                f"Sentinel Hub refuses the credentials ({said(error)}); check sh_client_id, sh_client_secret and "
                "sh_token_url in sentinelhub's configuration"
            ) from None
        except (DownloadFailedException, RequestException) as error:
            cause = getattr(error, "request_exception", None) or error
            answer = cause.response if isinstance(cause, HTTPError) else None
            if answer is None:
                raise AcquireError(
                    f"Sentinel Hub at {self._config.sh_base_url} cannot be reached ({said(cause)}); "
                    "check the network and sh_base_url"
                ) from None
            mend = {
                401: "check sentinelhub's credentials",
                403: "check what your account may do, and what is left of its processing units",
                429: "its limit of requests is reached, try again later",
            }.get(answer.status_code, "try again later: what is finished is kept")
            text = " ".join(answer.text.split())[:160]
            raise AcquireError(
                f"Sentinel Hub's {what} answers {answer.status_code} ({text}); {mend}"
            ) from None


def evalscript(bands: Sequence[str], sample_type: str, units: str) -> str:
    """A script of Sentinel Hub's version 3 that gives bands as they are, in that order.

    >>> print(evalscript(("B04", "dataMask"), "UINT16", "DN"))
    //VERSION=3
    function setup() {
      return {
        input: [{bands: ["B04", "dataMask"], units: "DN"}],
        output: {bands: 2, sampleType: "UINT16"}
      };
    }
    function evaluatePixel(sample) {
      return [sample.B04, sample.dataMask];
    }
    """
    names = ", ".join(f'"{b}"' for b in bands)
    values = ", ".join(f"sample.{b}" for b in bands)
    return "\n".join(
        [
            "//VERSION=3",
            "function setup() {",
            "  return {",
            f'    input: [{{bands: [{names}], units: "{units}"}}],',
            f'    output: {{bands: {len(bands)}, sampleType: "{sample_type}"}}',
            "  };",
            "}",
            "function evaluatePixel(sample) {",
            f"  return [{values}];",
            "}",
        ]
    )


def _overpass(date: str, items: list[tuple[datetime, str, float | None]]) -> Overpass:
    minute = timedelta(minutes=1)
    moments = [m.astimezone(UTC) for m, _, _ in items]
    told = [c for _, _, c in items if c is not None]
    span = (min(moments) - minute, max(moments) + minute, 100.0 if not told else max(told))
    mean = sum(told) / len(told) if told else None
    return Overpass(date, tuple(sorted(name for _, name, _ in items)), mean, span)

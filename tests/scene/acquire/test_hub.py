"""Sentinel Hub by a stand-in that answers as its published interface says: tokens, catalog, process API."""

from __future__ import annotations

import io
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile
from rasterio.warp import transform_bounds
from tests.scene.acquire.scenes import BANDS, CRS, ORIGIN, SIZE

from raremap.errors import AcquireError
from raremap.workflows.acquire import acquire

BBOX = transform_bounds(CRS, "EPSG:4326", 300_100, 4_639_300, 300_700, 4_639_800)


@dataclass
class Hub:
    """What the stand-in has, and what it was asked."""

    image: np.ndarray
    classes: np.ndarray
    asked: list[dict[str, Any]] = field(default_factory=list)
    searched: list[dict[str, Any]] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)
    url: str = ""

    def answer(self, request: dict[str, Any]) -> bytes:
        """The TIFF that the request describes: its evalscript's bands over its bounds."""
        found = re.search(r"input: \[\{bands: \[([^\]]*)\], units: \"(\w+)\"\}\]", request["evalscript"])
        made = re.search(r"return \[([^\]]*)\];", request["evalscript"])
        assert found
        assert made
        names = [n.strip().strip('"') for n in found[1].split(",")]
        assert [n.strip() for n in made[1].split(",")] == [f"sample.{n}" for n in names]
        kind = re.search(r'output: \{bands: (\d+), sampleType: "(\w+)"\}', request["evalscript"])
        assert kind
        assert int(kind[1]) == len(names)
        left, _, _, top = request["input"]["bounds"]["bbox"]
        assert request["input"]["bounds"]["properties"]["crs"].endswith("/EPSG/0/32631")
        height, width = request["output"]["height"], request["output"]["width"]
        row, col = round((ORIGIN[1] - top) / 10), round((left - ORIGIN[0]) / 10)
        layers = dict(zip(BANDS, self.image, strict=True)) | {
            "SCL": self.classes,
            "dataMask": (self.image[0] > 0).astype(np.uint16),
            "DEM": np.full((SIZE, SIZE), 321.5),
        }
        dtype = {"UINT16": "uint16", "FLOAT32": "float32"}[kind[2]]
        out = np.stack([layers[n][row : row + height, col : col + width] for n in names]).astype(dtype)
        with MemoryFile() as memory:
            with memory.open(
                driver="GTiff", height=height, width=width, count=len(names), dtype=dtype
            ) as file:
                file.write(out)
            return memory.read()


@pytest.fixture
def hub(valley, tmp_path, monkeypatch):
    """A stand-in on the loopback, and sentinelhub's own configuration file that names it."""
    hub = Hub(valley, np.full((SIZE, SIZE), 4, np.uint8))
    hub.classes[20:40, 20:40] = 9

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if code := hub.refuse.get(self.path):
                self._send(json.dumps({"error": {"message": "no units left"}}).encode(), code)
            elif self.path == "/token":
                token = {
                    "access_token": "a.b.c",
                    "expires_in": 3600,
                    "expires_at": 4e9,
                    "token_type": "Bearer",
                }
                self._send(json.dumps(token).encode())
            elif self.headers["Authorization"] != "Bearer a.b.c":
                self._send(b"{}", 401)
            elif self.path.endswith("/search"):
                hub.searched.append(json.loads(body))
                self._send(json.dumps(_features()).encode())
            else:
                assert self.path == "/api/v1/process"
                hub.asked.append(json.loads(body))
                self._send(hub.answer(hub.asked[-1]), kind="image/tiff")

        def _send(self, body: bytes, code: int = 200, kind: str = "application/json") -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    (tmp_path / "sentinelhub").mkdir()
    (tmp_path / "sentinelhub" / "config.toml").write_text(
        f'[default-profile]\nsh_client_id = "me"\nsh_client_secret = "secret"\nsh_base_url = "{hub.url}"\n'
        f'sh_token_url = "{hub.url}/token"\nmax_download_attempts = 1\ndownload_sleep_time = 0.0\n'
    )
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    for name in ("SH_CLIENT_ID", "SH_CLIENT_SECRET", "SH_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


def _features() -> dict[str, Any]:
    days = {"S2A_1": ("2024-04-03T10:50:31Z", 12.0), "S2B_2": ("2024-04-13T10:50:31Z", 55.0)}
    return {
        "type": "FeatureCollection",
        "features": [
            {"id": name, "properties": {"datetime": moment, "eo:cloud_cover": cloud}}
            for name, (moment, cloud) in days.items()
        ],
        "links": [],
        "context": {"limit": 100, "returned": 2},
    }


def _run(out, **more):
    given = {
        "dates": "2024-04",
        "bbox": BBOX,
        "source": "sentinelhub",
        "bands": ["B04", "nir"],
        "quiet": True,
    }
    return acquire(out, **(given | more))


def test_a_day_of_sentinel_hub_has_its_numbers_at_its_places(hub, tmp_path):
    result = _run(tmp_path / "out")
    assert [d.date for d in result.days] == ["2024-04-03"]  # the other is too cloudy
    with rasterio.open(result.images[0]) as file:
        image, t = file.read(), file.transform
        assert file.descriptions == ("B04", "nir")
    row, col = round((ORIGIN[1] - t.f) / 10), round((t.c - ORIGIN[0]) / 10)
    here = np.s_[row : row + image.shape[1], col : col + image.shape[2]]
    np.testing.assert_array_equal(image, hub.image[[1, 2]][(slice(None), *here)])
    with rasterio.open(tmp_path / "out" / "scl" / "2024-04-03.tif") as file:
        np.testing.assert_array_equal(file.read(1), hub.classes[here])


def test_the_request_is_as_the_process_api_wants_it(hub, tmp_path):
    _run(tmp_path / "out")
    (asked,) = hub.asked
    (data,) = asked["input"]["data"]
    assert data["type"] == "sentinel-2-l2a"
    assert data["processing"] == {"harmonizeValues": True}
    span = data["dataFilter"]["timeRange"]
    assert (span["from"], span["to"]) == ("2024-04-03T10:49:31Z", "2024-04-03T10:51:31Z")
    assert data["dataFilter"]["maxCloudCoverage"] == 12
    assert asked["output"]["responses"] == [{"identifier": "default", "format": {"type": "image/tiff"}}]
    assert '"B04", "B08", "SCL", "dataMask"' in asked["evalscript"]
    assert 'units: "DN"' in asked["evalscript"]
    (searched,) = hub.searched
    assert searched["collections"] == ["sentinel-2-l2a"]
    assert searched["filter"] == "eo:cloud_cover <= 30"
    assert searched["intersects"]["type"] == "Polygon"


def test_heights_come_from_sentinel_hub_as_well(hub, tmp_path):
    result = _run(tmp_path / "out", dem=True)
    with rasterio.open(result.dem) as file:
        assert (file.read(1) == 321.5).all()
    with rasterio.open(result.slope) as file:
        assert (file.read(1) == 0).all()
    assert hub.asked[0]["input"]["data"][0]["type"] == "dem"
    assert hub.asked[0]["input"]["data"][0]["dataFilter"] == {"demInstance": "COPERNICUS_30"}


def test_without_credentials_it_says_where_they_go(hub, tmp_path, monkeypatch):
    (tmp_path / "sentinelhub" / "config.toml").write_text("[default-profile]\n")
    with pytest.raises(AcquireError, match="set SH_CLIENT_ID and SH_CLIENT_SECRET, or run: sentinelhub"):
        _run(tmp_path / "out")


@pytest.mark.parametrize(
    ("path", "code", "says"),
    [
        (
            "/api/v1/process",
            403,
            r"process API answers 403 \(.*no units left.*\); check what your account may do",
        ),
        ("/api/v1/process", 500, "process API answers 500"),
    ],
)
def test_what_sentinel_hub_refuses_is_told(hub, tmp_path, path, code, says):
    hub.refuse[path] = code
    with pytest.raises(AcquireError, match=says):
        _run(tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.tif"))


def test_a_stand_in_speaks_tiff(hub):
    """The stand-in itself: what it sends is what tifffile, which sentinelhub reads with, takes for it."""
    import tifffile

    request = {
        "evalscript": 'input: [{bands: ["B04", "SCL"], units: "DN"}], output: {bands: 2, sampleType: "UINT16"} '
        "return [sample.B04, sample.SCL];",
        "input": {
            "bounds": {"bbox": [*ORIGIN[:1], 0, 0, ORIGIN[1]], "properties": {"crs": "x/EPSG/0/32631"}}
        },
        "output": {"height": 8, "width": 8},
    }
    data = tifffile.imread(io.BytesIO(hub.answer(request)))
    assert data.shape == (8, 8, 2)
    np.testing.assert_array_equal(data[..., 0], hub.image[1, :8, :8])

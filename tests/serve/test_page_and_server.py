"""The page on the real server with a tiny bundle: from a scene that is dropped to a map, a pixel and a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rasterio
from rasterio.warp import transform
from tests.serve import service
from tests.serve.browser import Page, chromium, serving

from raremap.serve.app import create_app
from raremap.serve.options import ServeOptions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def page(bundle_folder: Path, downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    options = ServeOptions(data=tmp_path_factory.mktemp("served"), max_upload_mb=2)
    with chromium(downloads) as browser, serving(create_app([bundle_folder], options)) as address:
        yield Page(browser, address, downloads)


def test_a_scene_becomes_a_map_a_pixel_and_a_file(page: Page, tmp_path: Path) -> None:
    page.open()
    page.ready()
    page.drop(service.scene(tmp_path / "scene.tif"))
    page.find("#result")
    colors = {tuple(c) for c in page.drawn("classes")}
    assert len(page.drawn("image")) > 20
    page.find("#map").click()
    told = page.find(".pixel h3").text
    shares = [float(text.split()[-2]) for text in page.texts(".pixel .bars li")]
    assert sum(shares) == pytest.approx(100, abs=1.5)
    page.find("#files button").click()
    saved = page.js("return location.hash.slice(1, 9)") + "-map.tif"
    page.downloaded(saved)
    with rasterio.open(page.downloads / saved) as found:
        (x,), (y,) = transform("EPSG:4326", found.crs, *([v] for v in page.js(_CENTRE)))
        value = next(found.sample([(x, y)]))[0]
        palette = found.colormap(1)
        present = set(found.read(1).ravel().tolist())
    assert told == service.SCHEME.names[service.SCHEME.values.index(value)]
    # A tile shows colours of the map only, each with its class in it.
    assert colors <= {palette[v][:3] for v in present}
    assert page.texts("#areas tbody th")[0] == "slide RARE"
    assert [line for line in page.browser.get_log("browser") if line["level"] != "INFO"] == []


# The centre of the prediction, which the map shows in its middle, as longitude and latitude.
_CENTRE = """
const request = new XMLHttpRequest();
request.open("GET", "api/predictions/" + location.hash.slice(1), false);
request.send();
const [w, s, e, n] = JSON.parse(request.responseText).bounds;
const mercator = (lat) => Math.asinh(Math.tan(lat * Math.PI / 180));
return [(w + e) / 2, Math.atan(Math.sinh((mercator(s) + mercator(n)) / 2)) * 180 / Math.PI];
"""


def test_what_the_server_refuses_is_told(page: Page, tmp_path: Path) -> None:
    page.open()
    page.ready()
    damaged: Any = service.scene(tmp_path / "scene.tif").read_bytes()[:200]
    (tmp_path / "damaged.tif").write_bytes(damaged)
    page.drop(tmp_path / "damaged.tif")
    assert "damaged.tif" in page.find("#error").text
    assert page.find("#start")

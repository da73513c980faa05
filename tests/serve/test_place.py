"""A place and a date: which day is fetched, what is told of it, and what is refused at once."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from fastapi.testclient import TestClient
from pydantic import ValidationError
from rasterio.warp import transform_bounds
from tests.scene.acquire.scenes import CRS, ORIGIN, SIZE, add_scene
from tests.scene.acquire.stac import Api, served
from tests.serve import service

from raremap.bundle import Bundle
from raremap.errors import AcquireError, RaremapWarning, SceneError
from raremap.labels import LabelScheme
from raremap.models.options import UNet
from raremap.scene.acquire.place import Place
from raremap.scene.normalize import Normalization
from raremap.serve import place, schemas
from raremap.serve.app import create_app
from raremap.serve.models import Model, described
from raremap.serve.options import ServeOptions
from raremap.workflows.nearest import acquire_nearest

BBOX = transform_bounds(CRS, "EPSG:4326", 300_100, 4_639_300, 300_700, 4_639_800)
_GRID = Place.box(*BBOX).grid(10.0)
HEIGHT, WIDTH = _GRID.height, _GRID.width
TOP, LEFT = round((ORIGIN[1] - _GRID.transform.f) / 10), round((_GRID.transform.c - ORIGIN[0]) / 10)
MODEL = Model("m", "", "m", "", ("B04",), (), 255, None, None, {})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    from raremap.scene.acquire import source, stac

    monkeypatch.setattr(source, "WAIT_S", 0.0)
    monkeypatch.setattr(stac, "WAIT_S", 0.0)
    with served(Api()) as api:
        yield api


def bundle(resolution_m: float | None = None, bands: tuple[str, ...] = ("B04",)) -> Bundle:
    torch.manual_seed(0)
    net = UNet(kind="unet", width=4, depth=1)
    normal = Normalization("standard", (2000.0,) * len(bands), (1e-3,) * len(bands))
    info = {"name": "m", **({"resolution_m": resolution_m} if resolution_m else {})}
    scheme = LabelScheme({0: "other", 1: "slide"})
    return Bundle(net.build(len(bands), 2).eval(), scheme, bands, normal, net, info=info)


def day(
    api: Api, folder: Path, name: str, clouded: float = 0.0, there: float = 1.0, cloud: float = 5.0
) -> None:
    """A day of 2000s; clouds lie over the first rows of the box, data in its first columns."""
    image, classes = np.full((4, SIZE, SIZE), 2000, np.uint16), np.full((SIZE, SIZE), 4, np.uint8)
    classes[: TOP + round(HEIGHT * clouded)] = 9
    image[:, :, LEFT + round(WIDTH * there) :] = 0
    add_scene(api, folder, name, f"{name}T10:50:00Z", image, classes, cloud=cloud)


def nearest(api: Api, out: Path, **more):
    return acquire_nearest(out, date(2024, 7, 10), bundle(), bbox=BBOX, source=api.url, **more)


def test_a_clouded_day_and_a_sliver_are_left_for_the_next_clear_one(api: Api, tmp_path: Path) -> None:
    day(api, tmp_path, "2024-07-10", clouded=1.0, cloud=20.0)
    day(api, tmp_path, "2024-07-09", there=0.1)
    day(api, tmp_path, "2024-07-12", clouded=0.04)
    found = nearest(api, tmp_path / "out")
    assert [d.date for d in found.days] == ["2024-07-12"]
    with rasterio.open(found.images[0]) as file:
        # What is clouded is no data: two rows of fifty or so; scene classes have pixels of 20 m.
        assert (file.read(1) == 0).mean() == pytest.approx(0.04, abs=0.02)


def test_the_best_of_unclear_days_is_taken_with_a_word(api: Api, tmp_path: Path) -> None:
    day(api, tmp_path, "2024-07-10", clouded=0.8)
    day(api, tmp_path, "2024-07-13", there=0.5, clouded=0.2)
    with pytest.warns(
        RaremapWarning,
        match="2024-07-13 is the best of 2 tried, with data in 50% of the place, (19|20|21|22)% of",
    ):
        found = nearest(api, tmp_path / "out")
    assert found.days[0].date == "2024-07-13"


def test_a_place_that_is_clouded_all_over_is_not_mapped(api: Api, tmp_path: Path) -> None:
    day(api, tmp_path, "2024-07-10", clouded=1.0)
    with pytest.raises(SceneError, match="no imagery of the box within 15 days of 2024-07-10 is clear"):
        nearest(api, tmp_path / "out")


def test_a_scene_has_the_pixels_of_the_training(api: Api, tmp_path: Path) -> None:
    day(api, tmp_path, "2024-07-10")
    found = acquire_nearest(tmp_path / "out", date(2024, 7, 10), bundle(20.0), bbox=BBOX, source=api.url)
    # A box of degrees is a little askew.
    assert [n * 20 for n in found.size] == pytest.approx([500, 600], abs=60)


def test_what_can_be_known_at_once_is_refused_at_once(tmp_path: Path) -> None:
    options, today = ServeOptions(data=tmp_path, max_pixels=150), date(2024, 7, 10)
    with pytest.raises(SceneError, match=r"the box is 6. x 5. pixels, at most 150 in all are taken"):
        place.wanted(MODEL, BBOX, today, options)
    with pytest.raises(AcquireError, match="UTM and Sentinel-2 go from -80 to 84"):
        place.wanted(MODEL, (2.0, 85.0, 2.1, 85.5), today, options)
    fine = described(bundle(0.6), tmp_path, "m")
    with pytest.raises(AcquireError, match="it needs imagery of its own kind"):
        place.wanted(fine, BBOX, today, options)
    assert described(bundle(10.0), tmp_path, "m").unfit is None
    assert "'thermal'" in (described(bundle(bands=("thermal",)), tmp_path, "m").unfit or "")
    large = replace(MODEL, resolution_m=60.0)
    assert place.wanted(large, BBOX, today, options)["max_pixels"] == 150


@pytest.mark.parametrize(
    "given",
    ["0001-01-01", "9999-12-31", "2015-06-01", 1719792000, "1719792000", "2024-07-01T00:00:00", "20240701", "2024-W27-1",
     (datetime.now(UTC) + timedelta(2)).date().isoformat()],
)  # fmt: skip
def test_a_date_without_imagery_or_not_written_as_a_day_is_refused(given) -> None:
    with pytest.raises(ValidationError, match="date"):
        schemas.Ground.model_validate({"bbox": [2.0, 41.0, 2.1, 41.1], "date": given})
    good = schemas.Ground.model_validate({"bbox": [2.0, 41.0, 2.1, 41.1], "date": "2024-07-01"})
    assert good.date == date(2024, 7, 1)


def test_a_date_outside_of_the_calendar_of_the_satellites_is_a_line_from_python_too(tmp_path: Path) -> None:
    with pytest.raises(
        AcquireError, match=r"there is imagery from 2015-06-23 to .*, and 0001-01-01 is not in between"
    ):
        acquire_nearest(tmp_path, date(1, 1, 1), bundle(), bbox=BBOX)


def test_from_a_place_to_a_map_that_says_what_it_is_of(api: Api, tmp_path: Path) -> None:
    day(api, tmp_path, "2024-07-08", clouded=0.5)
    day(api, tmp_path, "2024-07-13", there=0.75)
    bundle().save(tmp_path / "bundle")
    options = ServeOptions(data=tmp_path / "data", rate=0, source=api.url)
    with TestClient(create_app([tmp_path / "bundle"], options), base_url="http://localhost") as client:
        assert client.get("/api/models/m").json()["no_place"] is None
        asked = {"model": "m", "bbox": BBOX, "date": "2024-07-09"}
        done = service.finished(client, client.post("/api/predictions", json=asked))
        assert done["status"] == "done", done
        assert done["scene"] == {
            "name": None, "date": "2024-07-13", "scenes": ["2024-07-13"], "source": f"{api.url} sentinel-2-l2a",
            "covered": pytest.approx(0.75, abs=0.01), "cloud": 0.0,
        }  # fmt: skip
        (note,) = done["notes"]
        assert note.startswith(
            "no day near 2024-07-09 shows the place clearly: 2024-07-13 is the best of 2 tried"
        )
        with rasterio.open(io.BytesIO(client.get(done["files"]["map"]).content)) as file:
            tags = file.tags()
            assert (file.read(1) == 255).mean() == pytest.approx(0.25, abs=0.01)
        assert (tags["raremap_date"], tags["raremap_scenes"]) == ("2024-07-13", "2024-07-13")
        assert tags["raremap_source"] == f"{api.url} sentinel-2-l2a"


@pytest.mark.parametrize("there", [True, False])
def test_places_are_taken_where_the_extra_is_installed(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(place, "find_spec", lambda name: object() if there else None)
    assert place.can_fetch() is there
    assert "raremap[acquire]" in place.missing_line()
    assert (place.no_place(MODEL) is None) is there

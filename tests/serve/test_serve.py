"""A scene goes up, a map comes down: the API as a program meets it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import rasterio
from fastapi.testclient import TestClient
from PIL import Image
from rasterio.warp import Resampling, reproject
from tests.serve import service

import raremap

LON, LAT = 1.808300, 41.541436  # the middle of the scene, by PROJ


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 x 120 pixels of 10 m in UTM 31N; the first five columns hold no data."""
    array = service.pixels(90, 120)
    array[:, :, :5] = 0
    return service.scene(tmp_path_factory.mktemp("scene") / "valley.tif", array=array, nodata=0)


@pytest.fixture(scope="module")
def done(client: TestClient, scene: Path) -> dict:
    return service.finished(client, service.send(client, scene.read_bytes(), "valley.tif"))


@pytest.fixture(scope="module")
def classes(client: TestClient, done: dict) -> tuple[np.ndarray, dict]:
    with rasterio.open(io.BytesIO(client.get(done["files"]["map"]).content)) as file:
        return file.read(1), file.profile


def test_models_are_listed_with_cards_and_classes(client: TestClient) -> None:
    (model,) = client.get("/api/models").json()
    assert model == client.get(f"/api/models/{service.MODEL}").json()
    assert model["name"] == "Tiny, valleys"
    assert model["card_markdown"].startswith("# Tiny, valleys")
    assert model["bands"] == list(service.BANDS)
    assert [(c["value"], c["name"], c["rare"]) for c in model["classes"]] == [
        (1, "meadow", False), (2, "water", False), (7, "slide", True),
    ]  # fmt: skip


def test_the_map_is_what_predict_writes(scene: Path, classes, bundle_folder: Path, tmp_path: Path) -> None:
    raremap.predict(bundle_folder, scene, tmp_path / "map.tif", quiet=True)
    with rasterio.open(tmp_path / "map.tif") as file:
        np.testing.assert_array_equal(classes[0], file.read(1))
        assert (classes[1]["crs"], classes[1]["transform"]) == (file.crs, file.transform)
    assert set(np.unique(classes[0])) == {1, 2, 7, 255}


def test_areas_are_those_of_the_pixels_on_the_ground_rare_classes_first(done: dict, classes) -> None:
    assert done["areas"][0]["name"] == "slide"
    counts = {a["name"]: (classes[0] == a["value"]).sum() for a in done["areas"]}
    for area in done["areas"]:
        # UTM's pixels are 10 m on the map; this far west of the central meridian the ground is 0.07 % larger at most.
        assert area["area_m2"] == pytest.approx(counts[area["name"]] * 100, rel=2e-3)
        assert area["share"] == pytest.approx(counts[area["name"]] / (90 * 115), rel=1e-3)


def test_bounds_are_degrees(done: dict) -> None:
    west, south, east, north = done["bounds"]
    assert west < LON < east
    assert south < LAT < north
    assert east - west == pytest.approx(1200 / 83_300, rel=0.03)  # metres of a degree at that latitude


def test_polygons_preview_and_rasters_are_files(client: TestClient, done: dict, tmp_path: Path) -> None:
    import geopandas as gpd

    (tmp_path / "p.gpkg").write_bytes(client.get(done["files"]["polygons"]).content)
    frame = gpd.read_file(tmp_path / "p.gpkg")
    assert set(frame["name"]) == {"meadow", "water", "slide"}
    assert frame.area.sum() == pytest.approx(90 * 115 * 100)
    answer = client.get(done["files"]["preview"])
    picture = Image.open(io.BytesIO(answer.content)).convert("RGBA")
    assert picture.size == (120, 90)
    assert picture.getpixel((2, 40))[3] == 0
    for kind in ("confidence", "probabilities"):
        with rasterio.open(io.BytesIO(client.get(done["files"][kind]).content)) as file:
            assert file.count == (1 if kind == "confidence" else 3)
    assert answer.headers["content-type"] == "image/png"


@pytest.mark.parametrize("layer", ["image", "classes", "confidence"])
def test_tiles_are_pictures_with_nothing_outside(client: TestClient, done: dict, layer: str) -> None:
    got = client.get(f"/api/predictions/{done['id']}/tiles/{layer}/14/8274/6106.png")
    assert got.headers["content-type"] == "image/png"
    picture = np.asarray(Image.open(io.BytesIO(got.content)).convert("RGBA"))
    assert picture.shape == (256, 256, 4)
    far = client.get(f"/api/predictions/{done['id']}/tiles/{layer}/14/0/0.png")
    assert not np.asarray(Image.open(io.BytesIO(far.content)).convert("RGBA"))[..., 3].any()


def test_a_tile_of_classes_is_gdal_s_warp_of_the_map_in_the_classes_colours(
    client: TestClient, done: dict, classes
) -> None:
    z, x, y = _tile(LON, LAT, 15)
    half = 20037508.342789244
    side = 2 * half / 2**z
    transform = rasterio.transform.from_bounds(
        x * side - half, half - (y + 1) * side, (x + 1) * side - half, half - y * side, 256, 256
    )
    warped = np.full((256, 256), 255, np.uint8)
    reproject(
        classes[0], warped, src_transform=classes[1]["transform"], src_crs=classes[1]["crs"], src_nodata=255,
        dst_transform=transform, dst_crs="EPSG:3857", dst_nodata=255, resampling=Resampling.nearest,
    )  # fmt: skip
    got = client.get(f"/api/predictions/{done['id']}/tiles/classes/{z}/{x}/{y}.png")
    picture = np.asarray(Image.open(io.BytesIO(got.content)).convert("RGBA"))
    colors = {a["value"]: [int(a["color"][i : i + 2], 16) for i in (1, 3, 5)] for a in done["areas"]}
    wanted = np.zeros((256, 256, 4), np.uint8)
    for value, color in colors.items():
        wanted[warped == value] = [*color, 255]
    # Where a pixel's centre falls between two pixels of the map either is right.
    assert (picture == wanted).all(-1).mean() > 0.98
    assert (wanted[..., 3] > 0).mean() > 0.2


def _tile(lon: float, lat: float, z: int) -> tuple[int, int, int]:
    n = 2**z
    y = (1 - np.arcsinh(np.tan(np.radians(lat))) / np.pi) / 2
    return z, int((lon + 180) / 360 * n), int(y * n)


def test_a_pixel_tells_its_class_and_probabilities(client: TestClient, done: dict, classes) -> None:
    from pyproj import Transformer

    x, y = Transformer.from_crs(4326, 32631, always_xy=True).transform(LON, LAT)
    col, row = ~classes[1]["transform"] * (x, y)
    got = client.get(f"/api/predictions/{done['id']}/pixel", params={"lon": LON, "lat": LAT}).json()
    assert got["value"] == classes[0][int(row), int(col)]
    assert sum(p["p"] for p in got["probabilities"]) == pytest.approx(1, abs=0.01)
    assert got["probabilities"][0]["name"] == got["name"]


def test_a_pixel_without_data_is_null_and_one_outside_is_not_there(client: TestClient, done: dict) -> None:
    west = done["bounds"][0]
    got = client.get(f"/api/predictions/{done['id']}/pixel", params={"lon": west + 2e-4, "lat": LAT})
    assert got.json() == {"value": None, "name": None, "probabilities": []}
    assert client.get(f"/api/predictions/{done['id']}/pixel?lon=20&lat=2").status_code == 404


def test_a_removed_prediction_is_gone_with_its_files(client: TestClient, scene: Path) -> None:
    job = service.finished(client, service.send(client, scene.read_bytes()))
    folder = client.app.state.runner.folder(job["id"])
    assert folder.is_dir()
    assert client.delete(f"/api/predictions/{job['id']}").status_code == 204
    assert not folder.exists()
    for last in ("", "/map.tif", "/tiles/image/1/1/1.png"):
        answer = client.get(f"/api/predictions/{job['id']}{last}")
        assert answer.status_code == 404
        assert "may have been removed" in answer.json()["error"]


def test_pixels_that_cannot_be_unpacked_end_in_a_line(client: TestClient, tmp_path: Path) -> None:
    path = service.scene(tmp_path / "a.tif", compress="deflate")
    data = bytearray(path.read_bytes())
    with rasterio.open(path) as file:
        at = int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    data[at : at + 40] = b"\xff" * 40
    job = service.finished(client, service.send(client, bytes(data), "broken.tif"))
    assert job["status"] == "failed"
    assert job["error"].startswith("broken.tif cannot be read (")
    assert "/" not in job["error"].replace("and/or", "")
    assert client.get(f"/api/predictions/{job['id']}/map.tif").status_code == 409


def test_a_scene_without_data_ends_in_a_line(client: TestClient, tmp_path: Path) -> None:
    path = service.scene(tmp_path / "a.tif", array=np.zeros((4, 40, 40), np.uint8), nodata=0)
    job = service.finished(client, service.send(client, path.read_bytes(), "empty.tif"))
    assert job["error"] == "empty.tif holds no valid pixel: all of it is nodata (0); nothing was written"


@pytest.mark.parametrize(
    "kind", ["bigtiff", "tiled", "planar", "float", "alpha", "degrees", "rotated", "bigendian"]
)
def test_ordinary_geotiffs_of_all_kinds_are_mapped(client: TestClient, tmp_path: Path, kind: str) -> None:
    more: dict = {
        "bigtiff": {"bigtiff": "yes"},
        "tiled": {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "lzw", "predictor": 2},
        "planar": {"interleave": "band", "compress": "zstd"},
        "float": {"array": service.pixels(90, 120).astype(np.float32)},
        "alpha": {"array": np.concatenate([service.pixels(90, 120), np.full((1, 90, 120), 255, np.uint8)]), "alpha": "yes"},
        "degrees": {"crs": "EPSG:4326", "origin": (2.0, 41.0), "pixel": 1e-4},
        "bigendian": {"endianness": "big"},
        "rotated": {},
    }[kind]  # fmt: skip
    path = service.scene(tmp_path / "a.tif", **more)
    if kind == "rotated":
        with rasterio.open(path, "r+") as file:
            file.transform = rasterio.Affine(8, 6, 4e5, 6, -8, 4.6e6)
    job = service.finished(client, service.send(client, path.read_bytes()))
    assert job["status"] == "done", job
    assert sum(a["share"] for a in job["areas"]) == pytest.approx(1)

"""Rows go up, probabilities come down; a scene and units, a fused map: the API as a program meets it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from fastapi.testclient import TestClient
from PIL import Image
from tests.serve import service, tables
from tests.serve.tables import log_odds, probability

from raremap.errors import ConfigError, RaremapWarning
from raremap.serve.app import create_app
from raremap.serve.options import ServeOptions

ROWS = "/api/tables/predictions"
FUSED = "/api/fused/predictions"


@pytest.fixture(scope="module")
def client(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One model of scenes, one of tables, and their fusion; small tables only."""
    folder = tmp_path_factory.mktemp("joined")
    table = tables.model().save(folder / "table")
    options = ServeOptions(
        data=folder / "data", rate=0, max_pixels=1_000_000, max_table_mb=0.3, max_rows=1000, landslide="slide",
        fusion=tables.save_fusion(folder / "fusion.json"),
    )  # fmt: skip
    app = create_app([bundle_folder, table], options)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 x 120 pixels of 10 m; the first five columns hold no data."""
    array = service.pixels(90, 120)
    array[:, :, :5] = 0
    return service.scene(tmp_path_factory.mktemp("scene") / "valley.tif", array=array, nodata=0)


def ask(client: TestClient, rows: list[dict[str, Any]], **more: Any) -> Any:
    return client.post(ROWS, json={"model": tables.MODEL, "rows": rows, **more})


def upload(client: TestClient, data: bytes, name: str = "units.csv", **fields: str) -> Any:
    return client.post(ROWS, data={"model": tables.MODEL, **fields}, files={"file": (name, data)})


def fuse(client: TestClient, units: bytes, scene: Path | None, **fields: str) -> Any:
    files = {"units": ("units.gpkg", units)}
    if scene is not None:
        files["scene"] = ("valley.tif", scene.read_bytes())
    return client.post(FUSED, data=fields, files=files)


def test_models_are_listed_by_kind(client: TestClient) -> None:
    image, table, fused = client.get("/api/models").json()
    assert [m["kind"] for m in (image, table, fused)] == ["image", "table", "fused"]
    assert table == client.get(f"/api/models/{tables.MODEL}").json()
    assert table["attributes"] == [
        {"name": "slope", "kind": "numeric", "categories": []},
        {"name": "rock", "kind": "categorical", "categories": ["marl", "schist"]},
    ]
    assert (table["label"], table["positive"], table["prior"], table["least"]) == ("landslide", "1", 0.2, 0.5)
    assert (fused["image"], fused["table"], fused["landslide"]) == (service.MODEL, tables.MODEL, "slide")
    assert fused["weights"] == [0.5, 1.0]
    assert client.get("/healthz").json()["models"] == 3


def test_rows_of_json_have_the_probability_of_their_log_odds(client: TestClient) -> None:
    rows = [
        {"slope": 10, "rock": "marl"}, {"slope": 45.0, "rock": "schist"}, {"slope": None, "rock": "schist"},
        {"slope": "30", "rock": "chalk"}, {"rock": "schist", "unit": "=1+1"},
    ]  # fmt: skip
    got = ask(client, rows, keep=["unit"]).json()
    expected = [log_odds(10, "marl"), log_odds(45, "schist"), log_odds(None, "schist"), log_odds(30, None), log_odds(None, "schist")]  # fmt: skip
    assert [r["probability"] for r in got["rows"]] == pytest.approx(
        [probability(z) for z in expected], abs=1e-5
    )
    assert [r["alarm"] for r in got["rows"]] == [z >= 0 for z in expected]
    assert [r["kept"] for r in got["rows"]] == [{"unit": None}] * 4 + [{"unit": "=1+1"}]
    assert got["alarms"] == sum(z >= 0 for z in expected)
    assert got["notes"] == ["column 'rock' has 1 rows of categories not met in training (such as 'chalk'); taken as missing"]  # fmt: skip


def test_a_prior_moves_probabilities_and_no_alarm(client: TestClient) -> None:
    rows = [{"slope": s, "rock": "marl"} for s in (10, 31, 60)]
    plain, moved = ask(client, rows).json(), ask(client, rows, prior=0.02).json()
    shift = np.log(0.02 / 0.98) - np.log(0.2 / 0.8)
    expected = [probability(log_odds(r["slope"], "marl") + shift) for r in rows]
    assert [r["probability"] for r in moved["rows"]] == pytest.approx(expected, abs=1e-5)
    assert [r["alarm"] for r in moved["rows"]] == [r["alarm"] for r in plain["rows"]] == [False, True, True]
    assert moved["least"] == pytest.approx(probability(shift))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_gives_what_its_rows_give(client: TestClient, separator: str) -> None:
    frame = pd.DataFrame({"unit": [7, 8], "slope": [31.5, 4.0], "rock": ["schist", "marl"], "more": ["=cmd|' /C calc'!A0", ""]})  # fmt: skip
    text = frame.to_csv(index=False, sep=separator)
    got = upload(client, text.encode("utf-8-sig"), keep="unit,more", prior="0.1").json()
    same = ask(client, frame[["slope", "rock"]].to_dict("records"), prior=0.1).json()
    assert [r["probability"] for r in got["rows"]] == [r["probability"] for r in same["rows"]]
    assert got["rows"][0]["kept"] == {"unit": "7", "more": "=cmd|' /C calc'!A0"}


def test_a_geopackage_gives_what_its_rows_give(client: TestClient, tmp_path: Path) -> None:
    path = tables.geopackage(tmp_path / "u.gpkg")
    got = upload(client, path.read_bytes(), "anything.csv", keep="unit").json()
    expected = [log_odds(10, "marl"), log_odds(45, "schist"), log_odds(None, "schist"), log_odds(30, None)]
    assert [r["probability"] for r in got["rows"]] == pytest.approx(
        [probability(z) for z in expected], abs=1e-5
    )
    assert [r["kept"]["unit"] for r in got["rows"]] == [11, 12, 13, 14]


def test_a_model_is_asked_for_what_it_can(client: TestClient, scene: Path) -> None:
    answer = service.send(client, scene.read_bytes(), model=tables.MODEL)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("no model is called 'tiny-units'; known: tiny-valleys")
    answer = client.post(ROWS, json={"model": service.MODEL, "rows": [{"slope": 1, "rock": "marl"}]})
    assert answer.status_code == 422
    assert "known: tiny-units" in answer.json()["error"]


@pytest.fixture(scope="module")
def done(client: TestClient, scene: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    units = tables.units(unit=["a", "=1+1", "b", "c"]).to_crs(4326)
    path = tables.geopackage(tmp_path_factory.mktemp("units") / "u.gpkg", units)
    return service.finished(client, fuse(client, path.read_bytes(), scene))


def fetched(client: TestClient, done: dict, kind: str) -> io.BytesIO:
    answer = client.get(done["files"][kind])
    assert answer.status_code == 200, answer.text
    return io.BytesIO(answer.content)


def test_a_fused_map_is_what_the_command_line_writes(
    client: TestClient, done: dict, scene: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    import raremap

    assert done["status"] == "done", done
    path = tmp_path / "u.gpkg"
    tables.geopackage(path, tables.units().to_crs(4326))
    with pytest.warns(RaremapWarning, match="chalk"):
        alone = raremap.table_fuse(
            bundle_folder, tables.model(), scene, path, tmp_path / "out", landslide="slide",
            fusion=tables.save_fusion(tmp_path / "f.json"), quiet=True,
        )  # fmt: skip
    with rasterio.open(fetched(client, done, "map")) as file, rasterio.open(alone.maps[0]) as other:
        np.testing.assert_array_equal(file.read(), other.read())
        assert file.descriptions == ("fused", "image", "table")
        assert (file.crs, file.transform) == (other.crs, other.transform)
        # By hand: the middle of the second square says what the table says of it.
        table = file.read(3)
        assert table[15, 45] == pytest.approx(probability(log_odds(45, "schist")), abs=1e-5)
        assert np.isnan(table[60, 45])
    units = pd.read_csv(fetched(client, done, "units"))
    theirs = pd.read_csv(alone.units)
    pd.testing.assert_frame_equal(
        units.drop(columns=["unit", "scene"]), theirs.drop(columns=["unit", "scene"])
    )
    assert units["unit"].tolist() == ["a", "'=1+1", "b", "c"]
    assert done["fused"]["units"] == 4
    assert done["fused"]["alarms"] == int(units["alarm"].sum())
    assert any("'chalk'" in note and note.startswith("units.gpkg: ") for note in done["fused"]["notes"])


def test_fused_results_are_files_tiles_and_pixels(client: TestClient, done: dict, tmp_path: Path) -> None:
    import geopandas as gpd

    assert set(done["files"]) == {"map", "alarms", "units", "preview"}
    (tmp_path / "a.gpkg").write_bytes(fetched(client, done, "alarms").read())
    alarms = gpd.read_file(tmp_path / "a.gpkg")
    assert len(alarms) == done["fused"]["alarms"]
    picture = Image.open(fetched(client, done, "preview")).convert("RGBA")
    assert picture.size == (120, 90)
    assert picture.getpixel((45, 15))[3] == 255
    assert picture.getpixel((45, 60))[3] == 0
    at = f"/api/predictions/{done['id']}"
    assert (
        client.get(f"{at}/confidence.tif").json()["error"].startswith("this prediction has no confidence.tif")
    )
    assert client.get(f"{at}/tiles/classes/1/0/0.png").status_code == 404
    west, south, east, north = done["bounds"]
    lon, lat = west + (east - west) * 45.5 / 120, north - (north - south) * 15.5 / 90
    got = client.get(f"{at}/pixel", params={"lon": lon, "lat": lat}).json()
    told = {p["name"]: p["p"] for p in got["probabilities"]}
    assert told["table"] == pytest.approx(probability(log_odds(45, "schist")), abs=1e-4)
    assert got["name"] == ("alarm" if told["fused"] >= 0.5 else "no alarm")
    below = client.get(f"{at}/pixel", params={"lon": lon, "lat": south + (north - south) / 9}).json()
    assert below == {"value": None, "name": None, "probabilities": []}
    z, n = 15, 2**15
    y = (1 - np.arcsinh(np.tan(np.radians(lat))) / np.pi) / 2
    tile = client.get(f"{at}/tiles/fused/{z}/{int((lon + 180) / 360 * n)}/{int(y * n)}.png")
    assert np.asarray(Image.open(io.BytesIO(tile.content)).convert("RGBA"))[..., 3].any()


def test_a_fetched_scene_brings_the_slopes_that_units_lack(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's part, with a stand-in for the download: ground of 45 degrees everywhere."""
    from tests.rasters import write

    from raremap.ensembles import load_bundle
    from raremap.serve import place
    from raremap.serve.fusing import fuse_scene
    from raremap.serve.units import ingest_units

    told = {"name": None, "date": "2024-07-01", "scenes": [], "source": "s", "covered": 1.0, "cloud": 0.0}

    def fetch(task: dict, *_: Any) -> tuple[Path, dict]:
        assert task["dem"]
        for name, value in (("dem", 300), ("slope", 45)):
            write(tmp_path / "fetched" / "terrain" / f"{name}.tif", np.full((90, 120), value, np.float32))
        return service.scene(tmp_path / "fetched" / "day.tif"), told

    monkeypatch.setattr(place, "fetch", fetch)
    path = tables.geopackage(
        tmp_path / "u.gpkg", tables.units(rock=["marl", "schist"] * 2).drop(columns="slope")
    )
    ingest_units(path, tmp_path / "units.parquet", "u", tables.model().columns, "unit", 10, spare=["slope"])
    task = {
        "image": "m", "bbox": [1, 2, 3, 4], "date": "2024-07-01", "called": "the scene", "units_called": "u", "key": "unit",
        "double_check": True, "landslide": "slide", "fusion": str(tables.save_fusion(tmp_path / "f.json")),
    }  # fmt: skip
    bundle = load_bundle(bundle_folder)
    made = fuse_scene(bundle, tables.model(), task, tmp_path, lambda _: None)
    assert made["scene"] == told
    units = pd.read_csv(tmp_path / "units.csv")
    expected = [probability(log_odds(45, rock)) for rock in ("marl", "schist", "marl", "schist")]
    np.testing.assert_allclose(units["p_table"], expected, atol=1e-5)
    assert made["least"] == pytest.approx([None, probability(-1.0), probability(0.5)])
    assert made["fused"]["double_check"]
    assert not (tmp_path / "fetched").exists()


def test_units_elsewhere_are_refused_at_once(client: TestClient, scene: Path, tmp_path: Path) -> None:
    far = tables.geopackage(tmp_path / "u.gpkg", tables.units(origin=(5e5, 4.7e6)))
    answer = fuse(client, far.read_bytes(), scene)
    assert answer.status_code == 422
    assert "they share no ground" in answer.json()["error"]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "send either a scene, or a date"),
        ({"date": "2024-13-01"}, "date: "),
        ({"date": "2024-07-01", "bbox": "1,2,3"}, "bbox"),
        ({"date": "2024-07-01", "bbox": "20,41,21,42"}, "they share no ground"),
        ({"date": "2024-07-01", "double_check": "perhaps"}, "double_check is 'perhaps', expected true or false"),
        ({"date": "2024-07-01", "double-check": "1"}, "the form has a field 'double-check' that is not known"),
        ({"date": "2024-07-01", "layer": "none"}, "units.gpkg has no layer 'none'"),
        ({"model": "other", "date": "2024-07-01"}, "no model is called 'other'"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_told(client: TestClient, tmp_path: Path, fields: dict, line: str) -> None:
    answer = fuse(client, tables.geopackage(tmp_path / "u.gpkg").read_bytes(), None, **fields)
    assert answer.status_code == 422
    assert line in answer.json()["error"]


def test_what_a_model_knows_as_no_value_is_none_in_a_request() -> None:
    from raremap.serve.rows import of_json
    from raremap.tabular.columns import Column, Columns, Faults

    columns = Columns((Column("slope", "numeric"), Column("rock", "categorical", ("marl",))), ("?", "-1"))
    sent = [{"slope": "?", "rock": "marl"}, {"slope": -1, "rock": "?"}, {"slope": "4", "rock": None}]
    values = columns.values(of_json(sent, columns, ()).table, Faults())
    np.testing.assert_array_equal(values, np.float32([[np.nan, 0], [np.nan, np.nan], [4, np.nan]]))


def test_a_server_of_tables_alone_answers(tmp_path: Path) -> None:
    app = create_app([tables.model().save(tmp_path / "t")], ServeOptions(data=tmp_path / "d", rate=0))
    with TestClient(app, base_url="http://localhost") as client:
        assert ask(client, [{"slope": 31, "rock": "marl"}]).json()["rows"][0]["alarm"]
        assert client.post(FUSED, files={"units": ("u.gpkg", b"x")}).status_code == 501


def test_a_fusion_that_fits_no_models_ends_the_start(tmp_path: Path) -> None:
    table = tables.model().save(tmp_path / "t")
    options = ServeOptions(data=tmp_path / "d", fusion=tables.save_fusion(tmp_path / "f.json"))
    with pytest.raises(ConfigError, match="joins one model of imagery and one of tables; 0 and 1 are given"):
        create_app([table], options).state.runner.start()


def test_the_description_s_example_is_read_by_its_schema(client: TestClient) -> None:
    body = client.get("/openapi.json").json()["paths"][ROWS]["post"]["requestBody"]["content"][
        "application/json"
    ]
    answer = client.post(ROWS, json=body["example"] | {"model": tables.MODEL})
    # It is of another model, whose columns are others; all else is as it has to be.
    assert answer.json()["error"].startswith("the request has no column 'slope'")

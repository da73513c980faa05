"""Hostile tables: each is refused in a line, and none reaches what it should not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.serve import hostile_tables, tables
from tests.serve.watch import Watch

from raremap.serve.app import create_app
from raremap.serve.models import Class, Model, Table, joined_of
from raremap.serve.options import ServeOptions


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """Models that nothing is mapped with: no worker starts. Whoever gets through is queued."""
    options = ServeOptions(
        data=tmp_path / "data", rate=0, max_table_mb=0.4, max_rows=1000, queue=1000,
        fusion=tables.save_fusion(tmp_path / "fusion.json"),
    )  # fmt: skip
    app = create_app([], options)
    runner = app.state.runner
    classes = (Class(1, "meadow", "#112233", False), Class(7, "slide", "#445566", True))
    runner.models["tiny-valleys"] = Model(
        "tiny-valleys", "", "tiny", "", ("red",), classes, 255, None, None, {}
    )
    runner.tables[tables.MODEL] = Table(tables.MODEL, "", tables.model())
    runner.joined = joined_of(options.fusion, None, runner.models, runner.tables)
    (options.data / "predictions").mkdir(parents=True)
    yield TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    app.state.jobs.close()


def test_each_is_refused_in_a_line_and_leaves_nothing(client: TestClient, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    canary = secret / "canary.csv"
    canary.write_text("slope,rock\n77777,marl\n")
    watch = Watch(secret)
    data = client.app.state.options.data
    wrong, count = [], 0
    for name, request in hostile_tables.everything(tmp_path, canary):
        count += 1
        answer = client.request(**request)
        try:
            line = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            line = f"no line: {answer.text[:80]}"
        clear = line.strip() and "\n" not in line and len(line) < 500 and not line.startswith("no line")
        leaks = (
            str(data) in answer.text or "rows.csv" in line or "units.sent" in line or "77777" in answer.text
        )
        if not 400 <= answer.status_code < 500 or not clear or leaks or (opened := watch.opened()):
            wrong.append(
                f"{name}: {answer.status_code} {line[:200]} {leaks} {opened if 'opened' in locals() else ''}"
            )
    watch.close()
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong)
    assert count >= 200
    assert client.app.state.jobs.ids() == set()
    assert os.listdir(data / "predictions") == []


def test_a_key_of_formulas_becomes_text(tmp_path: Path) -> None:
    import geopandas as gpd

    from raremap.serve.units import ingest_units

    path = tables.geopackage(tmp_path / "u.gpkg", tables.units(unit=["=1+1", "@x", "-3", "a"]))
    ingest_units(path, tmp_path / "u.parquet", "u", tables.model().columns, "unit", 10)
    assert gpd.read_parquet(tmp_path / "u.parquet")["unit"].tolist() == ["'=1+1", "'@x", "'-3", "a"]


def test_polygons_of_all_kinds_are_those_that_went_in(tmp_path: Path) -> None:
    """Multipolygons, holes, heights and either byte order, as GDAL writes and reads them."""
    import struct

    import shapely

    from raremap.serve.polygons import read_polygons

    hole = shapely.Polygon([(0, 0), (9, 0), (9, 9), (0, 9)], [[(2, 2), (2, 4), (4, 4), (4, 2)]])
    shapes = [
        hole, shapely.MultiPolygon([hole, shapely.box(20, 20, 21, 21)]), shapely.force_3d(hole, 7.0),
        shapely.MultiPolygon([shapely.force_3d(hole, 7.0)]),
    ]  # fmt: skip
    for order in (0, 1):
        blobs = [
            b"GP\0\3"
            + struct.pack("<i", 4326)
            + b"\0" * 32
            + shapely.to_wkb(s, byte_order=order, flavor="iso")
            for s in shapes
        ]
        assert shapely.equals_exact(
            read_polygons(blobs, "u"), shapely.force_2d(shapes), normalize=False
        ).all()

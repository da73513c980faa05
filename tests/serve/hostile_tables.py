"""Tables that mean harm, or are just broken; each has a name."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.serve import tables
from tests.serve.hostile import Request

ROWS, FUSED = "/api/tables/predictions", "/api/fused/predictions"
GOOD = {"slope": 31.0, "rock": "marl"}
HEAD = b"slope,rock\n"


def upload(data: bytes, name: str = "units.csv", model: str = tables.MODEL, **fields: str) -> Request:
    return {
        "method": "POST", "url": ROWS, "data": {"model": model, **fields}, "files": {"file": (name, data)},
    }  # fmt: skip


def posted(text: str | bytes) -> Request:
    data = text if isinstance(text, bytes) else text.encode()
    return {"method": "POST", "url": ROWS, "content": data, "headers": {"content-type": "application/json"}}


def fused(units: bytes, name: str = "units.gpkg", **fields: str) -> Request:
    files = {"units": (name, units)}
    return {"method": "POST", "url": FUSED, "data": {"date": "2024-07-01", **fields}, "files": files}


def everything(folder: Path, canary: Path) -> Iterator[tuple[str, Request]]:
    """All of them. `canary` is a file on the server's disk that none may reach."""
    yield from json_rows()
    yield from forms(canary)
    for name, data in csvs(canary):
        yield f"csv: {name}", upload(data)
    for name, data in geopackages(folder, canary):
        yield f"geopackage: {name}", upload(data, "a.gpkg")
        yield f"units: {name}", fused(data)
    for name, data in shapes(folder):
        yield f"shapes: {name}", fused(data)
    good = tables.geopackage(folder / "good.gpkg").read_bytes()
    for name in ("../../etc/passwd", str(canary), "a\0b", "=cmd", "x" * 3000):
        yield f"units called {name[:20]!r}", fused(b"nothing", name)
        yield f"layer {name[:20]!r}", upload(good, layer=name)
        yield f"key {name[:20]!r} and no date", fused(good, date="", key=name)
    yield (
        "no units",
        {"method": "POST", "url": FUSED, "data": {"date": "2024-07-01"}, "files": {"x": (None, "1")}},
    )
    yield "a file of another name", {"method": "POST", "url": FUSED, "files": {"units": ("u", good), "evil": ("e", b"1")}}  # fmt: skip
    yield "two files of units", {"method": "POST", "url": FUSED, "files": [("units", ("u", good)), ("units", ("u", good))]}  # fmt: skip
    yield "units with a scene that is none", {"method": "POST", "url": FUSED, "files": {"units": ("u", good), "scene": ("s.tif", b"II*\0" + b"\0" * 90)}}  # fmt: skip


def json_rows() -> Iterator[tuple[str, Request]]:
    good: dict[str, Any] = {"model": tables.MODEL, "rows": [GOOD]}
    for key, values in {
        "rows": ([], {}, None, "all", [[]], [{}], [None], [1], [{"slope": 1}], [{"rock": "marl"}], [{"Slope": 1, "rock": "marl"}],
                 [{**GOOD, "slope": "steep"}], [{**GOOD, "slope": [1]}], [{**GOOD, "slope": {"a": 1}}], [{**GOOD, "slope": "=1+1"}],
                 [{**GOOD, "slope": float("nan")}], [{**GOOD, "slope": float("inf")}], [{**GOOD, "rock": "x" * 2000}],
                 [{**GOOD, "slope": "=cmd|' /C calc'!A0"}], [GOOD] * 10_001, [{f"c{i}": 1 for i in range(2000)}], [{"__proto__": 1}]),
        "model": ("none", "", 5, None, "../tiny", "m" * 5000, "tiny-valleys"),
        "prior": (0, 1, -1, 2, float("nan"), "half", [0.5]),
        "keep": ("slope", ["none"], [5], ["x" * 300], ["slope"] * 30, [["slope"]]),
        "layer": ("units",), "path": ("/etc/passwd",),
    }.items():  # fmt: skip
        for value in values:
            yield f"{key} is {str(value)[:30]}", posted(json.dumps({**good, key: value}))
    for name, text in {
        "nothing": "", "not json": "{", "a list": "[]", "deep": "[" * 100_000, "deep objects": '{"rows":' * 50_000, "half": json.dumps(good)[:-3],
        "deep rows": json.dumps(good).replace("31.0", "[" * 5000 + "]" * 5000), "no text": b"\xff\xfe{}",
        "too large": json.dumps(good) + " " * 1_100_000, "many empty rows": '{"rows":[' + "{}," * 300_000 + "{}]}",
        "a long number in text": json.dumps(good).replace("31.0", '"' + "9" * 900 + "x" + '"'),
    }.items():  # fmt: skip
        yield f"rows: {name}", posted(text)


def forms(canary: Path) -> Iterator[tuple[str, Request]]:
    good = HEAD + b"31,marl\n"
    for name in ("none", "", "../tiny", "x" * 4000, "tiny-units\0", "'--", "tiny-valleys"):
        yield f"model {name[:12]!r}", upload(good, model=name)
    for prior in ("0", "1", "nan", "inf", "-1", "half", "1e999", "0,5"):
        yield f"prior {prior}", upload(good, prior=prior)
    yield "a column to keep that is not there", upload(good, keep="unit")
    yield "a layer of a csv", upload(good, layer="units")
    yield "a field that is not known", upload(good, path=str(canary))
    yield "an empty file", upload(b"")
    yield "no file", {"method": "POST", "url": ROWS, "data": {"model": tables.MODEL}}
    yield "too large", upload(HEAD + b"1,marl\n" * 60_000)
    yield "text", {"method": "POST", "url": ROWS, "content": good, "headers": {"content-type": "text/csv"}}
    for method in ("GET", "PUT", "DELETE"):
        yield f"{method} rows", {"method": method, "url": ROWS}


def csvs(canary: Path) -> Iterator[tuple[str, bytes]]:
    yield "no rows", HEAD
    yield "no columns", b"\n\n1,2\n"
    yield "another column", b"slop,rock\n1,marl\n"
    yield "one column", b"slope\n1\n"
    yield "two of a name", b"slope,slope,rock\n1,2,marl\n"
    yield "text for a number", HEAD + b"1,marl\nsteep,marl\n"
    yield "a formula for a number", HEAD + b"=1+1,marl\n"
    yield "a command for a number", HEAD + b"=cmd|' /C calc'!A0,marl\n"
    yield "a path for a number", HEAD + str(canary).encode() + b",marl\n"
    yield "too few cells", HEAD + b"1\n"
    yield "too many cells", HEAD + b"1,marl,2,3\n"
    yield "a quote without an end", HEAD + b'1,"marl\n2,schist\n'
    yield "a quote in the header without an end", b'slope,"rock\n1,marl\n'
    yield "many rows", HEAD + b"1,marl\n" * 1001
    yield "many columns", b",".join(b"c%d" % i for i in range(5000)) + b"\n1\n"
    yield "a long first line", b"x" * 200_000
    yield "bytes", bytes(range(256)) * 20
    yield "zeros", b"\0" * 900
    yield "nul in a name", b"slope,ro\0ck\n1,marl\n"
    yield "utf-16", "slope,rock\n1,marl\n".encode("utf-16")
    yield "latin-1", HEAD + "1,m\xe4rl\n".encode("latin-1")
    for kind, magic in {
        "zip": b"PK\3\4", "gzip": b"\x1f\x8b\x08", "parquet": b"PAR1", "xlsx": b"PK\3\4[Content_Types].xml", "pickle": b"\x80\x04c", "arrow": b"ARROW1\0\0",
        "html": b"<!doctype html><script>alert(1)</script>", "vrt": b'<OGRVRTDataSource><SrcDataSource>/etc/passwd</SrcDataSource></OGRVRTDataSource>',
        "geojson": b'{"type": "FeatureCollection", "features": []}', "path": str(canary).encode(), "vsi": b"/vsicurl/http://127.0.0.1:9/a.csv",
    }.items():  # fmt: skip
        yield kind, magic + b"\n" * (kind != "path") + b"1\n"


def geopackages(folder: Path, canary: Path) -> Iterator[tuple[str, bytes]]:
    """Databases that hold more than rows, or less than they say."""
    good = tables.geopackage(folder / "plain.gpkg").read_bytes()
    for cut in (16, 100, 1000, 4096, len(good) // 2):
        yield f"cut at {cut}", good[:cut]
    yield "zeros behind the head", good[:100] + b"\0" * 4000
    yield "noise in the middle", good[:5000] + bytes(range(256)) * 40 + good[15_240:]
    yield "sqlite and no geopackage", changed(folder, "DROP TABLE gpkg_contents")
    yield "no layer", changed(folder, "DELETE FROM gpkg_contents")
    yield "a layer that is not there", changed(folder, "UPDATE gpkg_contents SET table_name = 'gone'", "UPDATE gpkg_geometry_columns SET table_name = 'gone'")  # fmt: skip
    yield "no rows", changed(folder, "DELETE FROM units")
    yield "many rows", changed(
        folder, "INSERT INTO units (slope, rock) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1001) SELECT 1, 'marl' FROM n",
    )  # fmt: skip
    yield "a view", changed(folder, *_as("CREATE VIEW units AS SELECT * FROM other"))
    yield "a view without an end", changed(
        folder, *_as("CREATE VIEW units AS WITH RECURSIVE n(slope) AS (SELECT 1 UNION ALL SELECT slope + 1 FROM n) SELECT slope, 'marl' AS rock FROM n"),
    )  # fmt: skip
    yield "contents are a view", changed(folder, "ALTER TABLE gpkg_contents RENAME TO c", "CREATE VIEW gpkg_contents AS SELECT * FROM c")  # fmt: skip
    for module in (
        f"VirtualText('{canary}', 'UTF-8', 1, COMMA, NONE)", f"VirtualShape('{canary}', 'UTF-8', 4326)", f"VirtualOGR('{canary}')",
        "VirtualOGR('/vsicurl/http://127.0.0.1:9/a.gpkg')", f"VirtualXL('{canary}')", "VirtualPG('host=127.0.0.1 port=9', public, a)", "dbstat",
        f"csv(filename='{canary}')", "fts4(slope, rock)", "rtree(id, a, b)",
    ):  # fmt: skip
        yield f"virtual table {module[:20]}", virtual(folder, module)
    yield "a computed column", changed(folder, "ALTER TABLE units ADD COLUMN more AS (slope * 2)")
    yield "a computed column that calls", changed(folder, "ALTER TABLE units DROP COLUMN rock", "ALTER TABLE units ADD COLUMN rock AS (upper(hex(slope)))")  # fmt: skip
    yield "bytes for a number", changed(folder, "UPDATE units SET slope = x'00ff'")
    yield "text for a number", changed(folder, "UPDATE units SET slope = 'steep'")
    yield "a formula for a number", changed(folder, "UPDATE units SET slope = '=1+1'")
    yield "text that is none", changed(folder, "UPDATE units SET rock = CAST(x'ff00fe' AS TEXT)")
    yield "no column", changed(folder, "ALTER TABLE units DROP COLUMN rock")
    yield "more text than there are bytes", changed(
        folder, "ALTER TABLE units ADD COLUMN wide TEXT DEFAULT '" + "x" * 150_000 + "'", "ALTER TABLE units DROP COLUMN rock",
        "ALTER TABLE units RENAME COLUMN wide TO rock",
        "INSERT INTO units (slope) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 900) SELECT 1 FROM n",
        "UPDATE sqlite_master SET sql = sql WHERE 0",
    )  # fmt: skip
    yield "two layers", changed(
        folder, "CREATE TABLE more (slope REAL, rock TEXT)", "INSERT INTO gpkg_contents (table_name, data_type) VALUES ('more', 'attributes')",
    )  # fmt: skip


def shapes(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Rows are right, their polygons are not."""
    import shapely

    for name, text in {
        "a point": shapely.to_wkb(shapely.Point(4e5, 4.6e6)), "a line": shapely.to_wkb(shapely.LineString([(0, 0), (1, 1)])),
        "crosses itself": shapely.to_wkb(shapely.Polygon([(0, 0), (9, 9), (9, 0), (0, 9)])), "empty": shapely.to_wkb(shapely.Polygon()),
        "not numbers": struct.pack("<BIII8d", 1, 3, 1, 4, *[float("nan")] * 8), "open": struct.pack("<BIII8d", 1, 3, 1, 4, 0, 0, 0, 9, 9, 9, 9, 1),
        "a ring of 4 billion points": struct.pack("<BIII", 1, 3, 1, 0xFFFFFFFF) + b"\0" * 90, "4 billion rings": struct.pack("<BII", 1, 3, 0xFFFFFFFF) + b"\0" * 90,
        "nested without an end": struct.pack("<BII", 1, 6, 1) * 20_000 + struct.pack("<BII", 1, 3, 0),
        "collections in collections": struct.pack("<BII", 1, 7, 1) * 20_000 + struct.pack("<BII", 1, 3, 0),
        "an unknown kind": struct.pack("<BII", 1, 99, 1), "another order": struct.pack("<BII", 7, 3, 1), "more bytes than it says": shapely.to_wkb(shapely.box(0, 0, 1, 1)) + b"\0" * 8,
        "nothing": b"", "far away": shapely.to_wkb(shapely.box(1e300, 1e300, 1e301, 1e301)),
    }.items():  # fmt: skip
        yield (
            name,
            changed(
                folder, "UPDATE units SET geom = ?", values=[b"GP\0\1" + struct.pack("<i", 25831) + text]
            ),
        )
    yield "no header", changed(folder, "UPDATE units SET geom = x'0103'")
    yield "missing", changed(folder, "UPDATE units SET geom = NULL")
    yield "no geometry at all", changed(folder, "DELETE FROM gpkg_geometry_columns")
    for crs in ("file:/etc/passwd", "https://127.0.0.1:9/crs", "NONE", "EPSG"):
        yield f"crs {crs}", changed(folder, f"UPDATE gpkg_spatial_ref_sys SET organization = '{crs}', organization_coordsys_id = 999999")  # fmt: skip


def changed(folder: Path, *statements: str, values: list[Any] | None = None) -> bytes:
    """The good GeoPackage after some statements of SQLite alone."""
    path = tables.geopackage(folder / "changed.gpkg")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f'DROP TRIGGER "{name}"')  # they call functions of GDAL's
        db.execute("PRAGMA writable_schema=ON")
        for statement in statements:
            db.execute(statement, values or [])
    data = path.read_bytes()
    path.unlink()
    return data


def virtual(folder: Path, module: str) -> bytes:
    """The layer is a virtual table, of whatever module."""
    sql = f'CREATE VIRTUAL TABLE "units" USING {module}'.replace("'", "''")
    entry = f"INSERT INTO sqlite_master VALUES ('table', 'units', 'units', 0, '{sql}')"
    return changed(folder, "ALTER TABLE units RENAME TO other", entry)


def _as(view: str) -> tuple[str, ...]:
    return ("ALTER TABLE units RENAME TO other", view)

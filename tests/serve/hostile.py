"""Uploads and requests that mean harm, or are just broken; each has a name."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from tests.serve import service

Request = dict[str, Any]  # what httpx's `request` takes
ID = "0123456789abcdef01234567"
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _ROWS = 256, 257, 258, 259, 277, 278
_TILE_WIDTH, _TILE_HEIGHT, _TILE_AT, _TILE_BYTES, _FORMAT = 322, 323, 324, 325, 339


def upload(data: bytes, name: str = "scene.tif", model: str = service.MODEL) -> Request:
    return {
        "method": "POST", "url": "/api/predictions", "data": {"model": model}, "files": {"file": (name, data)},
    }  # fmt: skip


def everything(folder: Path, canary: Path) -> Iterator[tuple[str, Request]]:
    """All of them. `canary` is a raster on the server's disk that none may reach."""
    good = service.scene(
        folder / "good.tif", tiled=True, blockxsize=32, blockysize=32, compress="deflate"
    ).read_bytes()
    for name, data in [*truncated(folder, good), *other_types(canary), *patched(good), *metadata(folder, canary),
                       *grids(folder), *bombs(folder), *wrong_bands(folder)]:  # fmt: skip
        yield name, upload(data)
    yield from names_of_files(canary)
    yield from forms(good)
    yield from addresses(canary)
    yield from places()


def truncated(folder: Path, good: bytes) -> Iterator[tuple[str, bytes]]:
    big = service.scene(folder / "big.tif", bigtiff="yes", compress="lzw").read_bytes()
    plain = service.scene(folder / "plain.tif", endianness="big").read_bytes()
    for kind, data in (("tiled", good), ("bigtiff", big), ("strips", plain)):
        cuts = {*range(1, 24, 3), *np.linspace(24, len(data) - 1, 20).astype(int).tolist(), len(data) - 1}
        for cut in sorted(cuts):
            yield f"{kind} cut at {cut}", data[:cut]


def other_types(canary: Path) -> Iterator[tuple[str, bytes]]:
    source = f'<SimpleSource><SourceFilename relativeToVRT="0">{canary}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
    band = f'<VRTRasterBand dataType="Byte" band="1">{source}</VRTRasterBand>'
    head = '<VRTDataset rasterXSize="20" rasterYSize="20"><SRS>EPSG:32631</SRS><GeoTransform>4e5,10,0,46e5,0,-10</GeoTransform>'
    vrt = f"{head}{band}</VRTDataset>"
    raw = (
        f'{head}<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand"><SourceFilename '
        f'relativetoVRT="0">{canary}</SourceFilename></VRTRasterBand></VRTDataset>'
    )
    python = (
        f'{head}<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand"><PixelFunctionType>f</PixelFunctionType>'
        f"<PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionCode>open({str(canary)!r}).read()"
        f"</PixelFunctionCode>{source}</VRTRasterBand></VRTDataset>"
    )
    warped = f'<VRTDataset subClass="VRTWarpedDataset"><GDALWarpOptions><SourceDataset>{canary}</SourceDataset></GDALWarpOptions></VRTDataset>'
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("scene.tif", b"II*\0" + b"\0" * 100)
        archive.writestr("../../evil.tif", b"x")
    yield "vrt", vrt.encode()
    yield "vrt with spaces before", b"\n  \t" + vrt.encode()
    yield "vrt with a byte order mark", b"\xef\xbb\xbf" + vrt.encode()
    yield "vrt in utf-16", vrt.encode("utf-16")
    yield "raw vrt", raw.encode()
    yield "python vrt", python.encode()
    yield "warped vrt", warped.encode()
    yield "vrt of the net", vrt.replace(str(canary), "/vsicurl/http://127.0.0.1:9/a.tif").encode()
    yield (
        "tile index",
        f"<GDALTileIndexDataset><IndexDataset>{canary}</IndexDataset></GDALTileIndexDataset>".encode(),
    )
    yield (
        "wms",
        b"<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:9/</ServerUrl></Service></GDAL_WMS>",
    )
    yield (
        "svg with an entity",
        f'<!DOCTYPE svg [<!ENTITY x SYSTEM "file://{canary}">]><svg>&x;</svg>'.encode(),
    )
    yield "tiff that goes on as vrt", b"II*\0" + vrt.encode()
    yield "big tiff that goes on as vrt", b"MM\0+" + vrt.encode()
    yield "hdf5 within tiff", b"II*\0" + b"\0" * 508 + b"\x89HDF\r\n\x1a\n" + b"\0" * 600
    yield "zip", zipped.getvalue()
    yield "names a folder within", f"GTIFF_DIR:1:{canary}".encode()
    yield "names a nested path", f"/vsizip/{canary}/a.tif".encode()
    yield "path alone", str(canary).encode()
    for kind, magic in {
        "png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff\xe0", "gif": b"GIF89a", "webp": b"RIFF\0\0\0\0WEBP",
        "jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n", "hdf5": b"\x89HDF\r\n\x1a\n", "netcdf": b"CDF\x01", "gzip": b"\x1f\x8b\x08",
        "sqlite": b"SQLite format 3\0", "pdf": b"%PDF-1.7", "elf": b"\x7fELF", "html": b"<!doctype html><script>alert(1)",
        "json": b'{"type": "FeatureCollection"}', "text": b"hello", "zeros": b"\0", "nitf": b"NITF02.10", "grib": b"GRIB",
        "envi": b"ENVI\nsamples = 9", "bmp": b"BM", "fits": b"SIMPLE  =", "pickle": b"\x80\x04c", "tar": b"a.tif\0",
        "wrong tiff version": b"II\x2b\x01", "tiff of both orders": b"IM*\0", "bmp in front of tiff": b"BMII*\0",
    }.items():  # fmt: skip
        yield kind, magic + b"\0" * 600
    yield "one byte", b"I"
    yield "magic alone", b"II*\0"


def entries(data: bytes) -> dict[int, int]:
    """Where each tag's entry lies in a little-endian classic TIFF."""
    at = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, at)[0]
    places = range(at + 2, at + 2 + 12 * count, 12)
    return {struct.unpack_from("<H", data, p)[0]: p for p in places}


def patched(good: bytes) -> Iterator[tuple[str, bytes]]:
    """One number of the header changed."""
    where = entries(good)

    def put(at: int, form: str, *values: int) -> bytes:
        out = bytearray(good)
        struct.pack_into(form, out, at, *values)
        return bytes(out)

    def tag(number: int, value: int) -> bytes:
        return put(where[number] + 2, "<HII", 4, 1, value)

    for number, values in {
        _WIDTH: (0, 1 << 20, (1 << 31) - 1, (1 << 32) - 1, 65_536),
        _HEIGHT: (0, 1 << 20, (1 << 31) - 1, (1 << 32) - 1, 65_536),
        _SAMPLES: (0, 400, 65_535, 1 << 30),
        _TILE_WIDTH: (0, 1, 16, 1 << 16, (1 << 31) - 16),
        _TILE_HEIGHT: (0, 1, 16, 1 << 16, (1 << 32) - 16),
        _COMPRESSION: (0, 2, 3, 6, 34_712, 50_002, 65_000),
        _BITS: (0, 1, 7, 12, 128, 65_535),
        _TILE_AT: (0, 8, (1 << 32) - 1),
        _TILE_BYTES: ((1 << 32) - 1, 1 << 30),
    }.items():
        for value in values:
            yield f"tag {number} is {value}", tag(number, value)
    for number in (_TILE_AT, _TILE_BYTES, _BITS):
        yield f"tag {number} is as long as can be", put(where[number] + 4, "<I", (1 << 32) - 1)
        yield f"tag {number} lies beyond the end", put(where[number] + 8, "<I", (1 << 32) - 9)
    first = struct.unpack_from("<I", good, 4)[0]
    count = struct.unpack_from("<H", good, first)[0]
    following = first + 2 + 12 * count
    yield "a chain of images in a ring", put(following, "<I", first)
    yield "another image beyond the end", put(following, "<I", len(good) + 100)
    yield "another image in the middle of pixels", put(following, "<I", len(good) // 2)
    yield "no image", put(4, "<I", 0)
    yield "the first image is the header", put(4, "<I", 2)
    yield "more tags than there are", put(first, "<H", 65_535)
    yield "no tags", put(first, "<H", 0)
    yield "unknown kinds of numbers", put(where[_WIDTH] + 2, "<H", 99)
    yield "width in text", put(where[_WIDTH] + 2, "<H", 2)
    for tag_number in (_WIDTH, _HEIGHT, _TILE_AT, _TILE_BYTES):
        yield f"without tag {tag_number}", put(where[tag_number], "<H", 64_999)


def metadata(folder: Path, canary: Path) -> Iterator[tuple[str, bytes]]:
    """GDAL's own metadata within the file names another file, in several spellings."""
    for i, item in enumerate(
        [
            f'<Item name="OVERVIEW_FILE" domain="OVERVIEWS">{canary}</Item>',
            f"<Item name='OVERVIEW_FILE' domain='OVERVIEWS'>{canary}</Item>",
            f'<Item name="OVERVIEW_FILE" domain="&#79;VERVIEWS">{canary}</Item>',
            f'<Item name="OVERVIEW_FILE" DOMAIN="OVERVIEWS">{canary}</Item>',
            f'<Item name="OVERVIEW_FILE" domain = "OVERVIEWS">{canary}</Item>',
            '<Item name="OVERVIEW_FILE" domain="OVERVIEWS">/vsicurl/http://127.0.0.1:9/a.tif</Item>',
            f'<Item name="X_DATASET" domain="GEOLOCATION">{canary}</Item>',
            f'<Item name="SUBDATASET_1_NAME" domain="SUBDATASETS">{canary}</Item>',
            f'<Item name="a" domain="xml:VRT">&lt;VRTDataset>{canary}</Item>',
        ]
    ):
        path = service.scene(folder / "meta.tif")
        with rasterio.open(path, "r+") as file:
            file.update_tags(filler="x" * 400)
        data = path.read_bytes()
        at = data.index(b"<GDALMetadata>")
        room = data.index(b"</GDALMetadata>") + len(b"</GDALMetadata>") - at
        text = f"<GDALMetadata>{item}</GDALMetadata>".encode()
        assert len(text) <= room
        yield f"metadata {i}", data[:at] + text.ljust(room, b" ") + data[at + room :]


def grids(folder: Path) -> Iterator[tuple[str, bytes]]:
    """No place on the ground, or one that a web map cannot show."""
    local = 'LOCAL_CS["mine",UNIT["metre",1]]'
    for name, more in {
        "no crs": {"crs": None},
        "local crs": {"crs": local},
        "degrees beyond the globe": {"crs": "EPSG:4326", "origin": (0, 4_000), "pixel": 1.0},
        "far in utm": {"origin": (1e12, 1e12)},
        "pixels of a continent": {"pixel": 1e8},
        "at the pole": {"crs": "EPSG:4326", "origin": (0, 89.9), "pixel": 1e-4},
    }.items():
        yield name, service.scene(folder / "grid.tif", **more).read_bytes()
    path = service.scene(folder / "affine.tif")
    good = path.read_bytes()
    scale = entries(good)[33550]
    at = struct.unpack_from("<I", good, scale + 8)[0]
    for value in (0.0, float("nan"), float("inf"), 1e300):
        data = bytearray(good)
        struct.pack_into("<dd", data, at, value, value)
        yield f"pixels of {value} m", bytes(data)


def bombs(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Little on the wire, much unpacked."""
    for name, (height, width, bands) in {"square": (1100, 1100, 1), "long": (1, 1_100_000, 4), "deep": (700, 700, 20)}.items():  # fmt: skip
        path = service.scene(
            folder / "bomb.tif", array=np.zeros((bands, height, width), np.uint8), compress="zstd"
        )
        yield f"{name} bomb of {path.stat().st_size} bytes", path.read_bytes()
    path = folder / "sparse.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=60_000, width=60_000, count=4, dtype="float64", tiled=True, sparse_ok=True,
        bigtiff="yes", crs="EPSG:32631", transform=rasterio.transform.from_origin(4e5, 4.6e6, 1, 1),
    ):  # fmt: skip
        pass
    yield "115 GB of nothing", path.read_bytes()[: 1 << 20]


def wrong_bands(folder: Path) -> Iterator[tuple[str, bytes]]:
    for bands in (1, 2, 3, 5):
        array = service.pixels(40, 40, bands)
        yield f"{bands} bands", service.scene(folder / "b.tif", array=array).read_bytes()
    named = service.scene(folder / "n.tif", names=("red", "green", "blue", "swir"))
    yield "a band of another name", named.read_bytes()
    for dtype in ("complex64", "int64", "uint64"):
        array = service.pixels(40, 40).astype(dtype)
        yield f"{dtype}", service.scene(folder / "c.tif", array=array).read_bytes()


def names_of_files(canary: Path) -> Iterator[tuple[str, Request]]:
    """The name of an upload is a path, and its content is nothing."""
    for name in (
        "../../../etc/passwd", "/etc/passwd", "..\\..\\windows\\win.ini", "C:\\boot.ini", str(canary), "a\0b.tif", "x" * 5_000,
        "scene.tif\r\nX-Evil: 1", "/vsicurl/http://127.0.0.1:9/a.tif", "<script>alert(1)</script>.tif", ".", "..", "~root/.ssh", "%2e%2e%2f",
        "\u202efit.enecs", "'; DROP TABLE jobs; --",
    ):  # fmt: skip
        yield f"called {name[:40]!r}", upload(b"no tiff", name=name)


def forms(good: bytes) -> Iterator[tuple[str, Request]]:
    """The form itself is wrong."""
    post: Request = {"method": "POST", "url": "/api/predictions"}
    kind = {"content-type": "multipart/form-data; boundary=b"}

    def raw(body: bytes, content_type: str = kind["content-type"]) -> Request:
        return {**post, "content": body, "headers": {"content-type": content_type}}

    part = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    model = part % (b"model", b"", service.MODEL.encode())
    file = part % (b"file", b'; filename="a.tif"', good)
    yield "no body", post
    yield "no file", {**post, "files": {"model": (None, service.MODEL)}}
    yield "no model", {**post, "files": {"file": ("a.tif", good)}}
    for name in ("none", "", "../tiny", "x" * 4_000, "tiny-valleys\0", "'--", "*"):
        yield f"model {name[:12]!r}", upload(good, model=name)
    yield "an empty file", upload(b"")
    yield "two files", raw(model + file + file + b"--b--\r\n")
    yield "the end is missing", raw(model + file)
    yield "half a form", raw((model + file)[:-3000])
    yield "no parts", raw(b"--b--\r\n")
    yield "another boundary", raw((model + file).replace(b"--b", b"--c") + b"--c--\r\n")
    yield "no boundary", raw(model + file + b"--b--\r\n", "multipart/form-data")
    yield "a boundary of 1000", raw(model, "multipart/form-data; boundary=" + "b" * 1000)
    yield "mixed", raw(model + file + b"--b--\r\n", "multipart/mixed; boundary=b")
    yield "many parts", raw(part % (b"a", b"", b"1") * 40 + file + b"--b--\r\n")
    yield "a long field", raw(part % (b"model", b"", b"m" * 10_000) + file + b"--b--\r\n")
    yield "long headers", raw(b"--b\r\nX: " + b"y" * 10_000 + b"\r\n\r\n1\r\n--b--\r\n")
    yield "many headers", raw(b"--b\r\n" + b"X: y\r\n" * 100 + b"\r\n1\r\n--b--\r\n")
    yield "too large", upload(b"II*\0" + b"\0" * 2_200_000)
    yield "too large without saying so", {**post, "content": iter([model, b"\0" * 1_500_000, b"\0" * 1_500_000]), "headers": kind}  # fmt: skip
    yield "a length that is none", {**raw(model), "headers": {**kind, "content-length": "many"}}
    yield "a length below nothing", {**raw(model), "headers": {**kind, "content-length": "-1"}}
    for content_type in (
        "text/plain",
        "image/tiff",
        "application/xml",
        "",
        "application/x-www-form-urlencoded",
        "x" * 900,
    ):
        yield f"sent as {content_type[:20]!r}", raw(good[:500], content_type)


def addresses(canary: Path) -> Iterator[tuple[str, Request]]:
    """Ids, tiles and files that are paths or not there."""
    for bad in (
        "..", "../../etc/passwd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%5c..%5cwin.ini", "%00", ID + "%00", ID.upper(),
        ID[:-1], ID + "0", "x" * 3_000, "'%20OR%201=1--", str(canary).replace("/", "%2f"), "%ff%fe", ID, "é" * 24, "0x" + ID[:-2],
    ):  # fmt: skip
        for last in ("", "/map.tif", "/preview.png", "/pixel?lon=1&lat=1", "/tiles/image/1/0/0.png"):
            yield f"id {bad[:30]!r}{last}", {"method": "GET", "url": f"/api/predictions/{bad}{last}"}
        yield f"remove {bad[:30]!r}", {"method": "DELETE", "url": f"/api/predictions/{bad}"}
    for tile in (
        "none/1/0/0.png", "image/99/0/0.png", "image/-1/0/0.png", "image/1/2/0.png", "image/1.5/0/0.png", "image/1/0/0.jpg",
        "image/1/0/../../map.tif", "../scene.tif/1/0/0.png", "image/9999999999999999999999/0/0.png", "image/nan/0/0.png",
    ):  # fmt: skip
        yield f"tile {tile}", {"method": "GET", "url": f"/api/predictions/{ID}/tiles/{tile}"}
    for query in (
        "",
        "lon=1",
        "lon=nan&lat=1",
        "lon=inf&lat=1",
        "lon=1e400&lat=1",
        "lon=200&lat=1",
        "lon=a&lat=b",
        "lon=1&lat=-91",
    ):
        yield f"pixel {query}", {"method": "GET", "url": f"/api/predictions/{ID}/pixel?{query}"}
    for path in ("/scene.tif", "/upload.tif", "/jobs.sqlite", "/map.qml", "/../jobs.sqlite", "/map.tif/x"):
        yield f"file {path}", {"method": "GET", "url": f"/api/predictions/{ID}{path}"}
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%5c..%5capp.py",
        "/app.py",
        "/.git/config",
        "/api",
        "/page/",
        "//etc/passwd",
    ):
        yield f"page {path}", {"method": "GET", "url": "http://localhost" + path}
    for method in ("PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"):
        yield f"{method} of models", {"method": method, "url": "/api/models"}
    for model in ("none", "..%2f", "x" * 500):
        yield f"model {model[:9]}", {"method": "GET", "url": f"/api/models/{model}"}
    yield "another host", {"method": "GET", "url": "/api/models", "headers": {"host": "evil.example"}}
    yield "another site's page", {**upload(b"II*\0"), "headers": {"origin": "https://evil.example"}}
    yield "no site's page", {**upload(b"II*\0"), "headers": {"origin": "null"}}


def places() -> Iterator[tuple[str, Request]]:
    good: dict[str, Any] = {"model": service.MODEL, "bbox": [2.0, 41.0, 2.1, 41.1], "date": "2024-07-01"}
    texts = {
        f"{key} is {str(value)[:20]}": json.dumps({**good, key: value})
        for key, values in {
            "bbox": ([], [1, 2, 3], [1, 2, 3, 4, 5], [2, 41, 1, 42], [2, 42, 3, 41], [0, 0, 400, 1], [0, -99, 1, 1], "all", None,
                     ["a"] * 4, [float("nan")] * 4, [1e308] * 4, {"w": 1}),
            "date": ("", "yesterday", "2024-13-01", "2024-02-30", 5, None, "2024-07-01T00:00:00; rm -rf /", ["2024-07-01"]),
            "model": ("none", "", 5, None, "../tiny", "m" * 5_000),
            "file": ("/etc/passwd",),
        }.items()
        for value in values
    }  # fmt: skip
    texts |= {"not json": "{", "a list": "[]", "nothing": "", "deep": "[" * 20_000, "a number": "1e999", "no bytes": "\0", "large": json.dumps(good) + " " * 100_000}  # fmt: skip
    for name, text in texts.items():
        yield f"place: {name}", {
            "method": "POST", "url": "/api/predictions", "content": text.encode(), "headers": {"content-type": "application/json"},
        }  # fmt: skip

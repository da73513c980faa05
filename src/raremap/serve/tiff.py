"""The header of a TIFF, read without GDAL: how large it is unpacked, and whether all of it is there.

Nothing is decoded and nothing but the file itself is touched; memory is bounded by `_MOST_BLOCKS`. Classic TIFF and
BigTIFF, of either byte order (TIFF 6.0; BigTIFF design of 2004).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from raremap.errors import SceneError

_Order = Literal["<", ">"]

MAGIC: dict[bytes, tuple[_Order, bool]] = {
    b"II*\0": ("<", False),
    b"MM\0*": (">", False),
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
}
"""First four bytes → byte order, and whether it is a BigTIFF."""

_MOST_DIRECTORIES = 64
_MOST_ENTRIES = 512
_MOST_BLOCKS = 1 << 22
_MOST_TEXT = 1 << 20
_BLOCK_BYTES = 256 << 20
_TILE_SIDE = 8192

_KINDS = {1: "u1", 2: "S1", 3: "u2", 4: "u4", 5: "u8", 6: "i1", 7: "u1", 8: "i2", 9: "i4", 10: "u8", 11: "f4",
          12: "f8", 13: "u4", 16: "u8", 17: "i8", 18: "u8"}  # fmt: skip
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _ROWS, _PLANAR = 256, 257, 258, 259, 277, 278, 284
_STRIP_AT, _STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_AT, _TILE_BYTES = 273, 279, 322, 323, 324, 325
_FORMAT, _GDAL_METADATA = 339, 42112
_PACKINGS = {
    1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate", 34887: "LERC", 34925: "LZMA",
    50000: "ZSTD", 50001: "WebP",
}  # fmt: skip
# Metadata may name other files (`OVERVIEW_FILE`, `X_DATASET`), which GDAL would open: only these rooms of it may be there.
_DOMAIN = re.compile(rb"domain", re.IGNORECASE)
_HARMLESS = re.compile(rb'domain="(IMAGE_STRUCTURE|COLOR_PROFILE|TILING_SCHEME|TIFF|)"')


@dataclass(frozen=True)
class Header:
    """Size in pixels, bands, and the bytes that all of it takes unpacked."""

    height: int
    width: int
    bands: int
    decoded_bytes: int


def read_header(path: Path, name: str, max_pixels: int, max_decoded_bytes: int) -> Header:
    """The header of the first image; `name` is how messages call the file.

    Raises `SceneError` where it is no TIFF, is cut short, is larger than allowed, or is packed in a way that is not
    known to be safe. Overviews and masks behind the first image are looked at in the same way.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        reader = _Reader(file, size, name)
        first: Header | None = None
        seen: set[int] = set()
        at = reader.first
        while at:
            if at in seen or len(seen) >= _MOST_DIRECTORIES:
                raise SceneError(
                    f"{name} has a chain of images without an end; write it again with gdal_translate"
                )
            seen.add(at)
            tags, at = reader.directory(at)
            header = reader.image(tags, max_pixels, max_decoded_bytes)
            first = first or header
    if first is None:
        raise SceneError(f"{name} holds no image; it is no complete GeoTIFF")
    return first


class _Reader:
    """A TIFF's numbers, in its own byte order."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self.file, self.size, self.name = file, size, name
        magic = self.bytes(0, 4) if size >= 8 else b""
        if magic not in MAGIC:
            raise SceneError(f"{name} is no GeoTIFF (it begins {_shown(magic)}); upload a .tif file")
        self.order, self.big = MAGIC[magic]
        if self.big and (size < 16 or self.number(4, "u2") != 8):
            raise SceneError(f"{name} is no complete GeoTIFF; upload it again")
        self.first = self.number(8, "u8") if self.big else self.number(4, "u4")

    def bytes(self, at: int, count: int) -> bytes:
        """Bytes of the file; raises `SceneError` where it ends before."""
        if at < 0 or count < 0 or at + count > self.size:
            raise SceneError(
                f"{self.name} is cut short: byte {at + count:,} is needed and it has {self.size:,}; upload it again"
            )
        self.file.seek(at)
        return self.file.read(count)

    def numbers(self, at: int, count: int, kind: str) -> np.ndarray:
        """Numbers of a kind such as "u4"."""
        dtype = np.dtype(self.order + kind)
        return np.frombuffer(self.bytes(at, count * dtype.itemsize), dtype)

    def number(self, at: int, kind: str) -> int:
        """One number."""
        return int(self.numbers(at, 1, kind)[0])

    def directory(self, at: int) -> tuple[dict[int, np.ndarray], int]:
        """The tags that matter of one image, and where the next begins (0: nowhere)."""
        head, entry, inline, count_kind = (8, 20, 8, "u8") if self.big else (2, 12, 4, "u4")
        entries = self.number(at, "u8" if self.big else "u2")
        if not 0 < entries <= _MOST_ENTRIES:
            raise SceneError(f"{self.name} has {entries} tags in an image, expected 1 to {_MOST_ENTRIES}")
        self.bytes(at + head, entries * entry)
        tags: dict[int, np.ndarray] = {}
        seen: set[int] = set()
        for place in range(at + head, at + head + entries * entry, entry):
            tag, kind = (int(v) for v in self.numbers(place, 2, "u2"))
            count = self.number(place + 4, count_kind)
            if tag in seen:
                raise SceneError(f"{self.name} says tag {tag} twice; write it again with gdal_translate")
            seen.add(tag)
            if kind not in _KINDS:
                continue  # as the standard says
            length = count * np.dtype(_KINDS[kind]).itemsize
            if length > self.size:
                raise SceneError(
                    f"{self.name} is cut short: tag {tag} is longer than the file; upload it again"
                )
            value_at = place + 4 + (8 if self.big else 4)
            if length > inline:
                value_at = self.number(value_at, "u8" if self.big else "u4")
            if value_at + length > self.size:
                raise SceneError(f"{self.name} is cut short: tag {tag} lies beyond its end; upload it again")
            if tag == _GDAL_METADATA:
                self._harmless(self.bytes(value_at, min(length, _MOST_TEXT + 1)))
            elif tag in _WANTED and _KINDS[kind][0] in "u":
                if count > _MOST_BLOCKS:
                    raise SceneError(
                        f"{self.name} is stored in {count:,} blocks, at most {_MOST_BLOCKS:,} are taken; "
                        "write it again with gdal_translate -co TILED=YES"
                    )
                tags[tag] = self.numbers(value_at, count, _KINDS[kind])
        return tags, self.number(at + head + entries * entry, "u8" if self.big else "u4")

    def _harmless(self, text: bytes) -> None:
        if len(text) > _MOST_TEXT or len(_DOMAIN.findall(text)) != len(_HARMLESS.findall(text)):
            raise SceneError(
                f"{self.name} holds GDAL metadata that may name other files; write it again with gdal_translate -nomd"
            )

    def image(self, tags: dict[int, np.ndarray], max_pixels: int, max_decoded: int) -> Header:
        """Look at one image: its size, its blocks, and whether all of them are in the file."""

        def one(tag: int, default: int | None = None) -> int:
            value = tags.get(tag)
            if value is None or not len(value):
                if default is None:
                    raise SceneError(
                        f"{self.name} does not say its {_WANTED[tag]}; it is no complete GeoTIFF"
                    )
                return default
            return int(value[0])

        width, height, bands = one(_WIDTH), one(_HEIGHT), one(_SAMPLES, 1)
        bits = max((int(b) for b in np.atleast_1d(tags.get(_BITS, np.array([1])))[:4096]), default=1)
        packing = one(_COMPRESSION, 1)
        if min(width, height, bands) < 1:
            raise SceneError(f"{self.name} is {width} x {height} pixels of {bands} bands; it holds no image")
        if width * height > max_pixels:
            raise SceneError(
                f"{self.name} is {width:,} x {height:,} pixels, at most {max_pixels:,} in all are taken; cut it into parts"
            )
        if bits not in (8, 16, 32, 64):
            raise SceneError(f"{self.name} has {bits} bits a sample, expected 8, 16, 32 or 64")
        decoded = width * height * bands * bits // 8
        if decoded > max_decoded:
            raise SceneError(
                f"{self.name} takes {decoded / 1e6:,.0f} MB unpacked ({bands} bands), at most {max_decoded / 1e6:,.0f} MB "
                "are taken; cut it into parts, or keep the bands that are needed"
            )
        if packing not in _PACKINGS:
            raise SceneError(
                f"{self.name} is packed in a way (TIFF compression {packing}) that is not taken; "
                "write it again with gdal_translate -co COMPRESS=DEFLATE"
            )
        apart = one(_PLANAR, 1) == 2
        tiled = _TILE_WIDTH in tags
        block_width = one(_TILE_WIDTH) if tiled else width
        block_height = one(_TILE_HEIGHT) if tiled else min(height, one(_ROWS, height))
        if min(block_width, block_height) < 1:
            raise SceneError(f"{self.name} is stored in blocks without pixels; it is damaged")
        if tiled and max(block_width, block_height) > _TILE_SIDE:
            raise SceneError(
                f"{self.name} is stored in tiles of {block_width:,} x {block_height:,} pixels, at most {_TILE_SIDE:,} a "
                "side are taken; write it again with gdal_translate -co TILED=YES"
            )
        block = block_width * block_height * (1 if apart else bands) * bits // 8
        if block > _BLOCK_BYTES:
            raise SceneError(
                f"{self.name} is stored in blocks of {block / 1e6:,.0f} MB, at most {_BLOCK_BYTES / 1e6:,.0f} MB are "
                "taken; write it again with gdal_translate -co TILED=YES"
            )
        blocks = -(-width // block_width) * -(-height // block_height) * (bands if apart else 1)
        self._present(tags, _TILE_AT if tiled else _STRIP_AT, _TILE_BYTES if tiled else _STRIP_BYTES, blocks)
        return Header(height, width, bands, decoded)

    def _present(self, tags: dict[int, np.ndarray], at: int, lengths: int, blocks: int) -> None:
        """Raise `SceneError` unless every block lies in the file."""
        starts, sizes = (np.asarray(tags.get(t, ()), np.uint64) for t in (at, lengths))
        if len(starts) < blocks or len(sizes) < blocks:
            raise SceneError(
                f"{self.name} lists {min(len(starts), len(sizes)):,} of its {blocks:,} blocks; it is damaged"
            )
        starts, sizes = starts[:blocks], sizes[:blocks]
        beyond = (sizes > self.size) | (starts > self.size) | (starts + sizes > self.size)
        if beyond.any():
            raise SceneError(
                f"{self.name} is cut short: {int(beyond.sum()):,} of its {len(starts):,} blocks lie beyond its end; "
                "upload it again"
            )


_WANTED = {
    _WIDTH: "width", _HEIGHT: "height", _BITS: "bits", _COMPRESSION: "compression", _SAMPLES: "bands",
    _ROWS: "rows a strip", _PLANAR: "band order", _STRIP_AT: "strips", _STRIP_BYTES: "strips", _FORMAT: "number format",
    _TILE_WIDTH: "tile width", _TILE_HEIGHT: "tile height", _TILE_AT: "tiles", _TILE_BYTES: "tiles",
}  # fmt: skip


def _shown(magic: bytes) -> str:
    return " ".join(f"{b:02x}" for b in magic) if magic else "with nothing"

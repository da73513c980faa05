"""Rasters in plain bytes, written by window, which GDAL reads through a small file that says how they lie.

They are written by system calls alone. GDAL keeps blocks that are half written in a cache that all threads share, and
a thread that reads another file may have to write one of them out to make room. Blocks were lost so when the cache
was made smaller meanwhile; no other loss was seen, but none can be ruled out. Here no block is half written, and a
full disk is told by the write that meets it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from raremap.scene.grid import Grid
from raremap.scene.window import Window

_TYPES = {
    "uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "float32": "Float32", "float64": "Float64",
}  # fmt: skip
_FILL_BYTES = 8 << 20
STRIPE = 512
"""Rows that are filled together."""


def raw_bytes(grid: Grid, dtype: str, bands: int) -> int:
    """Size of the raster on disk."""
    return grid.height * grid.width * np.dtype(dtype).itemsize * bands


def raw_room(grid: Grid, dtype: str, bands: int, rows: Sequence[tuple[int, int]], step: int = 1) -> int:
    """Bytes of disk that it takes where no rows but `rows` (first, end) are written to; one in `step` of them is its own."""
    stripes = {
        s for first, end in rows for s in range(first // step // STRIPE, (end - 1) // step // STRIPE + 1)
    }
    held = sum(max(0, min(STRIPE, grid.height - s * STRIPE)) for s in stripes)
    return held * grid.width * np.dtype(dtype).itemsize * bands


class RawRaster:
    """Bands one after the other, rows without gaps; filled with `fill` where nothing is written. One thread writes.

    Stripes of rows that nothing is written to stay holes of the file, which take no room, and GDAL is told that they
    are not there.
    """

    def __init__(self, path: Path, grid: Grid, dtype: str, bands: int, fill: float | None) -> None:
        self.path, self.grid, self.bands, self.fill = path, grid, bands, fill
        self.dtype = np.dtype(dtype)
        self._touched: set[int] = set()
        self._file = path.open("wb", buffering=0)
        try:
            self._file.truncate(raw_bytes(grid, dtype, bands))
        except BaseException:
            self._file.close()
            raise

    def write(self, window: Window, array: np.ndarray) -> None:
        """Put in `[bands, h, w]`; raises `OSError`."""
        grid = self.grid
        if window.intersect(grid.window) != window and not window.empty:
            raise OSError(f"{window} lies outside of {grid.width}x{grid.height}")
        array = np.ascontiguousarray(array, self.dtype)
        for stripe in range(window.row_off // STRIPE, -(-window.row_end // STRIPE)):
            self._touch(stripe)
        for number, band in enumerate(array):
            first = (number * grid.height + window.row_off) * grid.width + window.col_off
            rows = band.reshape(1, -1) if window.width == grid.width else band
            for i, row in enumerate(rows):
                self._put((first + i * grid.width) * self.dtype.itemsize, row)

    def _touch(self, stripe: int) -> None:
        """Fill a stripe when it is met for the first time."""
        if stripe in self._touched:
            return
        self._touched.add(stripe)
        if not self.fill:  # as holes are; NaN is not
            return
        grid, item = self.grid, self.dtype.itemsize
        top = stripe * STRIPE
        count = (min(grid.height, top + STRIPE) - top) * grid.width
        line = np.full(min(count, _FILL_BYTES // item), self.fill, self.dtype)
        for number in range(self.bands):
            first = (number * grid.height + top) * grid.width
            for done in range(0, count, line.size):
                self._put((first + done) * item, line[: count - done])

    def _runs(self) -> list[tuple[int, int]]:
        """First row and end of the stripes that were written to, those side by side as one."""
        out: list[tuple[int, int]] = []
        for stripe in sorted(self._touched):
            top, end = stripe * STRIPE, min(self.grid.height, (stripe + 1) * STRIPE)
            out.append((out.pop()[0] if out and out[-1][1] == top else top, end))
        return out

    def _put(self, at: int, values: np.ndarray) -> None:
        rest = values.reshape(-1).view(np.uint8).data
        self._file.seek(at)
        while len(rest):
            rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        """Close the file, which stays."""
        self._file.close()

    def describe(
        self,
        names: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        colors: Mapping[int, tuple[int, int, int]] | None = None,
        scale: float | None = None,
        overviews: Sequence[Path] = (),
    ) -> Path:
        """Write beside it the VRT that GDAL opens; `overviews` are VRTs of smaller ones. Gives its path."""
        grid, runs = self.grid, self._runs()
        whole = runs == [(0, grid.height)]
        inner = self.path.with_suffix(".whole.vrt")
        if not whole:
            bands = "".join(self._band(b, raw=True) + "</VRTRasterBand>" for b in range(self.bands))
            inner.write_text(
                f'<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}">{bands}</VRTDataset>',
                encoding="utf-8",
            )
        text = [f'<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}">']
        if grid.georeferenced:
            if grid.crs is not None:
                text.append(f"<SRS>{escape(grid.crs.to_wkt())}</SRS>")
            text.append(
                f"<GeoTransform>{','.join(map(repr, map(float, grid.transform.to_gdal())))}</GeoTransform>"
            )
        text.append("<Metadata>")
        text += [f"<MDI key={quoteattr(k)}>{escape(str(v))}</MDI>" for k, v in (tags or {}).items()]
        text.append("</Metadata>")
        for b in range(self.bands):
            text.append(self._band(b, raw=whole))
            if b < len(names):
                text.append(f"<Description>{escape(names[b])}</Description>")
            if self.fill is not None:
                text.append(f"<NoDataValue>{float(self.fill)!r}</NoDataValue>")
            if scale is not None:
                text.append(f"<Scale>{scale!r}</Scale>")
            if colors is not None and b == 0:
                text.append("<ColorInterp>Palette</ColorInterp><ColorTable>")
                for value in range(max(colors, default=-1) + 1):
                    red, green, blue = colors.get(value, (0, 0, 0))
                    text.append(f'<Entry c1="{red}" c2="{green}" c3="{blue}" c4="255"/>')
                text.append("</ColorTable>")
            for top, end in [] if whole else runs:
                rect = f'xOff="0" yOff="{top}" xSize="{grid.width}" ySize="{end - top}"'
                text.append(
                    f'<SimpleSource><SourceFilename relativeToVRT="1">{escape(inner.name)}</SourceFilename>'
                    f"<SourceBand>{b + 1}</SourceBand><SrcRect {rect}/><DstRect {rect}/></SimpleSource>"
                )
            text += [
                f'<Overview><SourceFilename relativeToVRT="1">{escape(o.name)}</SourceFilename>'
                f"<SourceBand>{b + 1}</SourceBand></Overview>"
                for o in overviews
            ]
            text.append("</VRTRasterBand>")
        path = self.path.with_suffix(".vrt")
        path.write_text("".join([*text, "</VRTDataset>"]), encoding="utf-8")
        return path

    def _band(self, b: int, raw: bool) -> str:
        """How a band's element begins; `raw`: with where its bytes lie."""
        head = f'<VRTRasterBand dataType="{_TYPES[self.dtype.name]}" band="{b + 1}"'
        if not raw:
            return f"{head}>"
        size, grid = self.dtype.itemsize, self.grid
        return (
            f'{head} subClass="VRTRawRasterBand">'
            f'<SourceFilename relativeToVRT="1">{escape(self.path.name)}</SourceFilename>'
            f"<ImageOffset>{b * grid.height * grid.width * size}</ImageOffset><PixelOffset>{size}</PixelOffset>"
            f"<LineOffset>{grid.width * size}</LineOffset>"
            f"<ByteOrder>{'LSB' if sys.byteorder == 'little' else 'MSB'}</ByteOrder>"
        )

"""A raster read on another raster's grid, by nearest pixel: what is coarser (Sentinel-2's SCL of 20 m) beside an image."""

from __future__ import annotations

from contextlib import suppress

import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from raremap.errors import SceneError
from raremap.scene.gdal import open_file, short
from raremap.scene.grid import Grid
from raremap.scene.raster import ImageReader


class OnGrid(ImageReader):
    """The image of `reader` on a `grid`: each pixel is the one that holds its centre, whatever CRS or ratio.

    What lies beyond the file is not valid; it holds its nodata value, or 0. Raises `SceneError` where one of the two has no CRS, or
    where they do not overlap.
    """

    def __init__(self, reader: ImageReader, grid: Grid) -> None:
        super().__init__(
            reader.paths, grid, reader.bands, reader._where, reader.dtype, reader.nodata, reader._masks, reader.named
        )  # fmt: skip
        # Where nothing marks gaps an alpha band of GDAL's own tells what the file covers.
        self._covers = reader.nodata is None and not reader._masks
        if self._covers:
            self._masks = tuple((i, reader._file(i).count + 1) for i in range(len(reader.paths)))
        self._sources: dict[int, rasterio.DatasetReader] = {}
        path = reader.paths[0]
        if reader.grid.crs is None or grid.crs is None:
            raise SceneError(
                f"{path} has {reader.grid.difference(grid)} as its image has, and not both have a CRS that says "
                "where they meet; bring it to the image's grid first"
            )
        try:
            left, bottom, right, top = transform_bounds(grid.crs, reader.grid.crs, *grid.bounds())
        except RasterioError as error:
            raise SceneError(f"{path} cannot be brought to its image's CRS ({short(error)})") from None
        west, south, east, north = reader.grid.bounds()
        if right <= west or left >= east or top <= south or bottom >= north:
            raise SceneError(f"{path} does not overlap its image; check that they are of the same ground")

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_sources": {}}

    def close(self) -> None:
        """Close the files; the next read opens them again."""
        super().close()
        for file in self._sources.values():
            with suppress(RasterioError):
                file.close()
        self._sources = {}

    def _file(self, i: int) -> rasterio.DatasetReader:
        if i not in self._files:
            file = self._sources[i] = open_file(self.paths[i])
            # Also where the file's own tag is left aside.
            alpha = {"src_nodata": None, "nodata": None, "add_alpha": True} if self._covers else {}
            # Every place exactly, so that windows and the whole agree. (rasterio 1.4 fails with 0 itself.)
            self._files[i] = WarpedVRT(
                file, crs=self.grid.crs, transform=self.grid.transform, height=self.grid.height,
                width=self.grid.width, resampling=Resampling.nearest, tolerance=1e-6, **alpha,
            )  # fmt: skip
        return self._files[i]

"""GDAL's own terrain analysis (`gdaldem`), called in the library that rasterio brings along."""

from __future__ import annotations

import ctypes
import glob
from pathlib import Path

import numpy as np
import pytest
import rasterio


def dem(path: Path, processing: str, *arguments: str) -> np.ndarray:
    """What `gdaldem PROCESSING` makes of a file of heights; the test is skipped where the library is not found."""
    found = glob.glob(str(Path(rasterio.__file__).parents[1] / "rasterio.libs" / "libgdal*"))
    if not found:
        pytest.skip("no libgdal beside rasterio; gdaldem cannot be asked")
    gdal = ctypes.CDLL(found[0])
    pointer = ctypes.c_void_p
    gdal.GDALAllRegister()
    gdal.GDALOpen.restype = gdal.GDALDEMProcessingOptionsNew.restype = gdal.GDALDEMProcessing.restype = (
        pointer
    )
    words = (ctypes.c_char_p * (len(arguments) + 1))(*(a.encode() for a in arguments), None)
    options = pointer(gdal.GDALDEMProcessingOptionsNew(words, None))
    source = pointer(gdal.GDALOpen(str(path).encode(), 0))
    out = path.with_name(f"{path.stem}-{processing}.tif")
    fault = ctypes.c_int()
    made = gdal.GDALDEMProcessing(
        str(out).encode(), source, processing.encode(), None, options, ctypes.byref(fault)
    )
    assert made
    assert not fault.value
    gdal.GDALClose(pointer(made))
    gdal.GDALClose(source)
    with rasterio.open(out) as file:
        return file.read(1)

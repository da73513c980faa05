"""A map as polygons, written while it is read: GeoPackage or GeoParquet."""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import shapely

from raremap.errors import ConfigError, OutputError, RaremapWarning
from raremap.files import written
from raremap.jobs import Progress
from raremap.maps.classmap import ClassMap
from raremap.maps.exact import ExactAreas
from raremap.maps.legend import Legend
from raremap.maps.outlines import Outlines, Tracer, batches, joined
from raremap.maps.packagestyle import store_style
from raremap.maps.probabilities import UNIT, Probabilities
from raremap.maps.rings import polygons
from raremap.maps.strips import read_index, strips
from raremap.maps.style import categorized

if TYPE_CHECKING:
    import geopandas as gpd

SUFFIXES = (".gpkg", ".parquet", ".geoparquet")


_MANY = 40  # classes; of more, as a map of changes has, the style shows those that occur


class Vectors:
    """What was written: polygons and square metres by class index `[K]`."""

    def __init__(self, classes: int) -> None:
        self.polygons, self.area_m2 = np.zeros(classes, np.int64), np.zeros(classes)


def write_vectors(
    source: ClassMap,
    out: Path,
    wanted: np.ndarray,
    simplify_px: float | None,
    probabilities: Probabilities | None,
    progress: Progress,
) -> Vectors:
    """Write the polygons of the classes `wanted` (bool `[K]`), with a QGIS style beside them.

    A polygon is a component of pixels that share sides; its columns are `class` (the stored value), `name`,
    `area_m2` (of its pixels, on the ground), `pixels` and `confidence` (mean probability of its class; null without
    probabilities). It is written when the last row that it reaches has been read, so memory is that of a strip
    and of unfinished polygons. With `simplify_px` all polygons are held until the end and simplified together, and
    neighbours keep their common borders.
    """
    legend = Legend.of(source)
    result = Vectors(len(legend.names))
    exact = ExactAreas(source.grid) if source.grid.crs is not None else None
    found = _outlines(source, wanted, exact, probabilities, progress)
    with _writer(out, source) as sink:
        if simplify_px is not None:
            everything = joined(list(found))
            found = iter([everything])
        else:
            found = batches(found)
        for outlines in found:
            shapes = polygons(outlines)
            if simplify_px is not None:
                shapes = _simplified(shapes, simplify_px)
            sink.write(_frame(shapes, outlines, source, legend, exact, probabilities is not None))
            result.polygons += np.bincount(outlines.cls, minlength=len(legend.names))
            if exact is not None:
                result.area_m2 += np.bincount(
                    outlines.cls, outlines.area / exact.scale, minlength=len(legend.names)
                )
        many = len(wanted) > _MANY
        shown = [i for i, keep in enumerate(wanted) if keep and (result.polygons[i] or not many)]
        sink.style(categorized("name", [legend.names[i] for i in shown], [legend.colors[i] for i in shown]))
    return result


def _outlines(
    source: ClassMap,
    wanted: np.ndarray,
    exact: ExactAreas | None,
    probabilities: Probabilities | None,
    progress: Progress,
) -> Iterator[Outlines]:
    tracer = Tracer(source.grid.width, wanted)
    for window in strips(source.grid, 60 + (8 * len(wanted) if probabilities else 0)):
        areas = np.zeros((window.height, 1), np.int64) if exact is None else exact.areas(window)
        probs = probabilities.read(window) if probabilities else None
        yield tracer.add(read_index(source, window), areas, probs)
        progress.advance(window.height)
    yield tracer.finish()


def _simplified(shapes: np.ndarray, tolerance: float) -> np.ndarray:
    """Shapes of one coverage with fewer points; neighbours share every pixel's corner first, as a coverage must."""
    if shapely.geos_version < (3, 12, 0):
        have = ".".join(map(str, shapely.geos_version))
        raise ConfigError(
            f"to simplify needs GEOS 3.12, shapely here was built with {have}; install shapely from PyPI, or leave --simplify out"
        )
    if not len(shapes):
        return shapes
    dense = shapely.transform(shapely.segmentize(shapes, 1.0), np.rint)
    return shapely.coverage_simplify(dense, tolerance)


def _frame(
    shapes: np.ndarray,
    outlines: Outlines,
    source: ClassMap,
    legend: Legend,
    exact: ExactAreas | None,
    confident: bool,
) -> gpd.GeoDataFrame:
    import geopandas as gpd

    t = source.grid.transform

    def to_ground(xy: np.ndarray) -> np.ndarray:
        x, y = xy.T
        return np.stack([t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f], 1)

    nothing = np.full(len(shapes), np.nan)
    columns = {
        "class": np.array(legend.values, np.int32)[outlines.cls],
        "name": np.array(legend.names, object)[outlines.cls],
        "area_m2": outlines.area / exact.scale if exact is not None else nothing,
        "pixels": outlines.pixels,
        "confidence": outlines.prob / (UNIT * np.maximum(outlines.pixels, 1)) if confident else nothing,
    }
    crs = source.grid.crs.to_wkt() if source.grid.crs is not None else None
    return gpd.GeoDataFrame(columns, geometry=shapely.transform(shapes, to_ground), crs=crs)


class _Sink(Protocol):
    def write(self, frame: gpd.GeoDataFrame) -> None: ...

    def style(self, text: str) -> None: ...


def _styled(out: Path, text: str) -> bool:
    """Write a layer's style beside it, but not over that of a raster of the same name; whether it was written."""
    beside = out.with_suffix(".qml")
    if beside.exists() and "<rasterrenderer" in beside.read_text(encoding="utf-8"):
        return False
    with written(beside) as fresh:
        fresh.write_text(text, encoding="utf-8")
    return True


@contextmanager
def _writer(out: Path, source: ClassMap) -> Iterator[_Sink]:
    """Where batches go; the file takes its name at the end."""
    kind = _Package if out.suffix.lower() == ".gpkg" else _Parquet
    with written(out) as fresh:
        sink = kind(fresh, out)
        try:
            yield sink
        finally:
            sink.close()


class _Package:
    """A GeoPackage that grows."""

    def __init__(self, fresh: Path, out: Path) -> None:
        fresh.unlink()  # GDAL wants no empty file
        self._fresh, self._out, self._begun = fresh, out, False

    def write(self, frame: gpd.GeoDataFrame) -> None:
        """Append a batch."""
        import pyogrio
        from pyogrio.errors import DataSourceError

        try:
            pyogrio.write_dataframe(
                frame, self._fresh, layer=self._out.stem, driver="GPKG", append=self._begun,
                geometry_type="Polygon", promote_to_multi=False,
            )  # fmt: skip
        except (DataSourceError, OSError) as error:
            raise OutputError(
                f"{self._out} cannot be written ({str(error)[:120]}); nothing was changed"
            ) from None
        self._begun = True

    def style(self, text: str) -> None:
        """Put the style beside it; inside, which other readers take for a layer, where that is the style of a map."""
        if _styled(self._out, text):
            return
        with closing(sqlite3.connect(self._fresh)) as base, base:
            store_style(base, self._out.stem, "classes", text)

    def close(self) -> None:
        """Nothing is open between batches."""


class _Parquet:
    """A GeoParquet file, a row group for each batch."""

    def __init__(self, fresh: Path, out: Path) -> None:
        self._fresh, self._out, self._writer = fresh, out, None
        self._bounds = [np.inf, np.inf, -np.inf, -np.inf]

    def write(self, frame: gpd.GeoDataFrame) -> None:
        """Append a batch."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {
            name: pa.array(frame[name], from_pandas=True) for name in frame.columns[:-1]
        }
        columns["confidence"] = columns["confidence"].cast(pa.float64())
        columns["name"] = columns["name"].cast(pa.string())
        columns["geometry"] = pa.array(shapely.to_wkb(frame.geometry.to_numpy()), pa.binary())
        table = pa.table(columns)
        if self._writer is None:
            crs = frame.crs.to_json_dict() if frame.crs is not None else None
            geo = {
                "version": "1.0.0",
                "primary_column": "geometry",
                "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": crs}},
            }
            schema = table.schema.with_metadata({"geo": json.dumps(geo)})
            self._writer = pq.ParquetWriter(self._fresh, schema, compression="zstd")
        self._writer.write_table(table.cast(self._writer.schema))

    def style(self, text: str) -> None:
        """Put the style beside it, unless that of a map of the same name stands there."""
        if not _styled(self._out, text):
            warnings.warn(
                f"{self._out.with_suffix('.qml')} is the style of a raster and is kept, so {self._out} has none; "
                "give it another name than the map's, or write a .gpkg, which holds its own",
                RaremapWarning,
                stacklevel=4,
            )

    def close(self) -> None:
        """Write the footer."""
        if self._writer is not None:
            self._writer.close()

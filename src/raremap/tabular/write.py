"""Scored rows to CSV, Parquet or GeoPackage, part by part."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from raremap.errors import OutputError, RaremapWarning
from raremap.files import written
from raremap.tabular.read import Parts


def written_parts(out: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], source: Parts) -> None:
    """Write record batches as they come; the file takes its name when all are there.

    The geometry of `source` goes into Parquet (as GeoParquet) and GeoPackage; a CSV has none, with a warning. Raises `OutputError` for another
    kind of file, or a GeoPackage of rows without geometry.
    """
    suffix = out.suffix.lower()
    if suffix not in (".csv", ".parquet", ".gpkg"):
        raise OutputError(f"{out} is no name for scores; give one that ends in .csv, .parquet or .gpkg")
    if suffix == ".gpkg" and source.geometry is None:
        raise OutputError(f"{out}: the rows have no geometry; write .csv or .parquet")
    if suffix == ".csv" and source.geometry is not None:
        warnings.warn(
            f"{out} holds no geometry, its rows stand in the table's order; write .gpkg or .parquet to keep it",
            RaremapWarning,
            stacklevel=4,
        )
    with written(out) as fresh:
        if suffix == ".csv":
            from pyarrow import csv

            options = csv.WriteOptions(quoting_style="needed")
            with csv.CSVWriter(fresh, schema, write_options=options) as file:
                for batch in batches:
                    file.write_batch(batch)
        elif suffix == ".parquet":
            from pyarrow import parquet

            schema = schema.with_metadata(_geo(source))
            with parquet.ParquetWriter(fresh, schema) as file:
                for batch in batches:
                    file.write_batch(batch.replace_schema_metadata(schema.metadata))
        else:
            from pyogrio.raw import write_arrow

            fresh.unlink()  # GDAL makes the file; an empty one is no GeoPackage
            write_arrow(
                pa.RecordBatchReader.from_batches(schema, batches), fresh, driver="GPKG", layer="scores",
                geometry_name=source.geometry, geometry_type=source.geometry_type, crs=source.crs,
            )  # fmt: skip


def _geo(source: Parts) -> dict[bytes, bytes] | None:
    """GeoParquet's metadata of the geometry column."""
    if source.geometry is None:
        return None
    about: dict[str, Any] = {"encoding": "WKB", "geometry_types": []}
    if source.crs:
        from pyproj import CRS

        about["crs"] = CRS.from_user_input(source.crs).to_json_dict()
    else:
        about["crs"] = None
    text = {"version": "1.0.0", "primary_column": source.geometry, "columns": {source.geometry: about}}
    return {b"geo": json.dumps(text).encode()}

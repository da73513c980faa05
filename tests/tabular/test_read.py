"""Tables part by part."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from raremap.tabular.read import CHUNK_ROWS, open_parts


def test_what_was_read_of_a_parquet_does_not_stay_in_memory(tmp_path):
    path, groups = tmp_path / "rows.parquet", 12
    values = np.random.default_rng(0).random(CHUNK_ROWS)
    schema = pa.schema([("slope", pa.float64())])
    with parquet.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
        for _ in range(groups):
            file.write_table(pa.table([values], schema=schema))
    held = []
    before = pa.total_allocated_bytes()
    with open_parts(path) as parts:
        for batch in parts.batches:
            assert batch.num_rows == CHUNK_ROWS
            held.append((pa.total_allocated_bytes() - before) / values.nbytes)
    assert len(held) == groups
    assert max(held) < 4  # of twelve

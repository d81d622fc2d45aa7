"""Rows on their way from all entries into tables, on the local disk, so that memory does not grow with the catalog."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather

from ursa_pipelines.catalog.tables.schemas import PARTITION, SCHEMAS


class Spool:
    """Keeps the rows of a table apart by month, below a directory that the caller removes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._portions = 0

    def add(self, name: str, rows: pa.Table) -> None:
        """Takes a further portion of a table's rows."""
        self._portions += 1
        for at, month in enumerate(pc.unique(rows[PARTITION]).to_pylist()):
            # A month comes from an entry: it does not name a file by itself.
            directory = self._directory / name / month.encode().hex()
            directory.mkdir(parents=True, exist_ok=True)
            portion = rows.filter(pc.equal(rows[PARTITION], month))
            feather.write_feather(portion, directory / f"{self._portions:08d}-{at:04d}", compression="lz4")

    def reader(self, name: str) -> pa.RecordBatchReader:
        """All rows of a table, month after month."""
        return pa.RecordBatchReader.from_batches(SCHEMAS[name], self._batches(name))

    def _batches(self, name: str) -> Iterator[pa.RecordBatch]:
        for path in sorted((self._directory / name).glob("*/*")):
            yield from feather.read_table(path, memory_map=False).cast(SCHEMAS[name]).to_batches()

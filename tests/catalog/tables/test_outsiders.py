"""The tables as others read them: DuckDB, Polars and pandas, with nothing of this package but where they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable
from duckdb_extensions import import_extension

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.catalog.tables.fold import fold
from ursa_pipelines.recordings.rows import Row

FIRST, SECOND, THIRD = "rec_20260520_195628_aaaa", "rec_20260521_195628_bbbb", "rec_20260601_000000_cccc"
RECORDINGS = (
    (FIRST, ("camera_a", "camera_b", "eeg_4559"), "Aria Lin"),
    (SECOND, ("eeg_a", "eeg_b", "mic"), "Bo Kim"),
    (THIRD, ("notes", "notes_b"), None),
)


@dataclass(frozen=True)
class Published:
    """What an outsider is told: where the tables are, at which versions, and how the store is reached."""

    tables: str
    versions: dict[str, int]
    options: dict[str, str]

    def at_head(self, table: str) -> DeltaTable:
        return DeltaTable(f"{self.tables}/{table}", version=self.versions[table], storage_options=self.options)


@pytest.fixture
def published(lab: Lab) -> Published:
    """Three recordings that were folded twice, so that the tables have a history."""
    prefix = lab.data.catalog.prefix
    for rec_id, workers, participant in RECORDINGS:
        files = {f"{worker}/seg_0000.bin": f"{rec_id} {worker}".encode() for worker in workers}
        lab.data.ingest(source_dir=write_recording(lab.nas, rec_id, files, participant=participant))
        if rec_id != SECOND:
            fold(lab.assets, prefix, by="somebody")
    raw, _ = lab.assets.get(f"{prefix}/HEAD.json")
    return Published(f"s3://{lab.assets.name}/{prefix}/tables", json.loads(raw)["versions"], lab.assets.table_options())


@pytest.fixture
def duck(published: Published) -> Iterator[duckdb.DuckDBPyConnection]:
    import_extension("httpfs")
    import_extension("delta")
    connection = duckdb.connect()
    connection.execute("load httpfs; load delta; set timezone = 'UTC'")
    scheme, _, address = published.options["aws_endpoint"].partition("://")
    connection.execute(
        f"""create secret (type s3, key_id '{published.options["aws_access_key_id"]}',
        secret '{published.options["aws_secret_access_key"]}', endpoint '{address}', url_style 'path',
        region '{published.options["aws_region"]}', use_ssl {str(scheme == "https").lower()})"""
    )
    yield connection
    connection.close()


def row_as_told(row: Row) -> dict[str, Any]:
    """The fields of a row as its columns have them, JSON parsed."""
    told = dict(row)
    if "duration" in told:
        told["duration_us"] = told.pop("duration") // timedelta(microseconds=1)
    return {key: value.value if hasattr(value, "value") else value for key, value in told.items()}


def as_told(record: dict[str, Any], columns: set[str]) -> dict[str, Any]:
    """The same columns of what an engine gave."""
    told = {key: record[key] for key in columns}
    for key in columns & {"metadata", "device_info"}:
        told[key] = json.loads(told[key]) if told[key] else None
    return told


def by_key(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True, default=str))


def test_every_engine_reads_the_rows_that_we_list(lab: Lab, published: Published, duck: duckdb.DuckDBPyConnection):
    listed: dict[str, list[Row]] = {
        "recordings": [*lab.data.list_recordings()],
        "modalities": [*lab.data.list_modalities()],
        "participants": [*lab.data.list_participants()],
    }
    assert [len(rows) for rows in listed.values()] == [3, 8, 2]
    for table, rows in listed.items():
        ours = by_key([row_as_told(row) for row in rows])
        columns = set(ours[0])
        uri, version = f"{published.tables}/{table}", published.versions[table]
        engines: dict[str, list[dict[str, Any]]] = {
            "duckdb": duck.sql(f"from delta_scan('{uri}', version = {version})").to_arrow_table().to_pylist(),
            "polars": pl.scan_delta(uri, version=version, storage_options=published.options).collect().to_dicts(),
            "pyarrow": published.at_head(table).to_pyarrow_table().to_pylist(),
        }
        for engine, records in engines.items():
            assert by_key([as_told(record, columns) for record in records]) == ours, (table, engine)


def test_pandas_reads_times_numbers_and_texts_as_such(lab: Lab, published: Published):
    frame = published.at_head("recordings").to_pandas().sort_values("start_time")

    assert list(frame["rec_id"]) == [FIRST, SECOND, THIRD]
    assert str(frame["start_time"].dtype) == "datetime64[us, UTC]"
    assert frame["start_time"].iloc[2] == datetime(2026, 6, 1, tzinfo=UTC)
    assert list(frame["duration_us"]) == [60_000_000] * 3
    assert list(frame["started_month"]) == ["2026-05", "2026-05", "2026-06"]
    assert [list(people) for people in frame["participant_ids"]] == [
        row.participant_ids for row in lab.data.list_recordings()
    ]


def test_sql_joins_recordings_with_their_modalities_and_participants(
    published: Published, duck: duckdb.DuckDBPyConnection
):
    for table, version in published.versions.items():
        duck.execute(f"create view {table} as from delta_scan('{published.tables}/{table}', version = {version})")

    eeg = duck.sql(
        """
        select r.rec_id, count(*) as workers, any_value(p.metadata ->> 'display_name') as who
        from recordings r
        join modalities m using (recording_hash)
        join participants p on list_contains(r.participant_ids, p.participant_id)
        where m.modality = 'eeg' and r.started_month = '2026-05' group by 1 order by 1
        """
    ).fetchall()

    assert eeg == [(FIRST, 1, "Aria Lin"), (SECOND, 2, "Bo Kim")]
    assert duck.sql("select count(*), count(distinct txn) from events").fetchone() == (3, 3)
    (bytes_of_all,) = duck.sql("select sum(bytes)::bigint from modalities").fetchone() or (0,)
    assert bytes_of_all == sum(len(f"{rec_id} {worker}") for rec_id, workers, _ in RECORDINGS for worker in workers)

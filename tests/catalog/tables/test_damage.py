"""Tables that say what no entry has said: the nightly pass compares them value by value, and makes them anew."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.catalog.tables.folded import BY, PREFIX, delete_tables, rows, rows_in_tables, rows_of_entries, write
from tests.lab import Lab
from ursa_pipelines.catalog.edits import write_edit
from ursa_pipelines.catalog.entries import Entry
from ursa_pipelines.catalog.tables import differences
from ursa_pipelines.catalog.tables.fold import fold, refold, repair
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.rows import Rows

Change = Callable[[pa.Table], pa.Table]


@pytest.fixture
def folded(lab: Lab) -> Lab:
    """A lab with recordings of two months, of several folds, one of them changed and one without modalities."""
    for number in range(3):
        write(lab, rows(number, day=20 * number, participants=("Aria", "Bo")[: number % 3]))
    fold(lab.assets, PREFIX, by="test")
    write(lab, rows(1, size=5, participants=("Bo",)))
    bare = rows(7)
    write(lab, Rows(bare.recording, (), bare.participants))
    write_edit(
        lab.assets,
        PREFIX,
        "p_bo",
        lambda edit: edit.model_copy(update={"display_name": "Bo B."}),
        op="rename",
        writer=BY,
    )
    fold(lab.assets, PREFIX, by="test")
    return lab


def renamed(column: str) -> Change:
    return lambda table: table.rename_columns(
        [name if name != column else f"{name[:-1]}~" for name in table.schema.names]
    )


def negated(column: str) -> Change:
    return lambda table: table.set_column(
        table.schema.get_field_index(column), column, pc.negate(table[column].cast(pa.int64()))
    )


def swapped(column: str) -> Change:
    """The values of a column, in the order of other rows."""
    return lambda table: table.set_column(table.schema.get_field_index(column), column, table[column][::-1])


def doubled(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table])


def test_sound_tables_are_found_sound(folded: Lab):
    done = repair(folded.assets, PREFIX, by="test")

    assert (done.entries, done.damaged, done.gave_up) == (0, False, False)
    refold(folded.assets, PREFIX, by="test")
    assert not repair(folded.assets, PREFIX, by="test").damaged


def test_entries_are_read_some_at_a_time_however_many_there_are(folded: Lab, monkeypatch: pytest.MonkeyPatch):
    read = differences._read
    sizes: list[int] = []

    def reading(assets: Bucket, prefix: str, listed: Mapping[str, str]) -> list[tuple[Entry, str]]:
        sizes.append(len(listed))
        return read(assets, prefix, listed)

    monkeypatch.setattr(differences, "_read", reading)
    monkeypatch.setattr(differences, "_ENTRIES_AT_ONCE", 3)

    assert not repair(folded.assets, PREFIX, by="test").damaged
    assert sizes == [3, 1]


def test_what_is_not_folded_yet_is_no_damage(folded: Lab):
    write(folded, rows(1, size=9, participants=("Cleo",)))
    write(folded, rows(8))

    done = repair(folded.assets, PREFIX, by="test")

    assert (done.entries, done.damaged, done.marks_left) == (2, False, 0)
    assert rows_in_tables(folded) == rows_of_entries(folded)


def test_recordings_that_are_all_of_another_version_are_no_damage(folded: Lab):
    for number in (0, 1, 2, 7):
        write(folded, rows(number, size=9))
    for info in list(folded.assets.list_objects(f"{PREFIX}/tail/")):
        folded.assets.remove(info.key)

    done = repair(folded.assets, PREFIX, by="test")

    assert (done.entries, done.damaged) == (4, False)
    assert rows_in_tables(folded) == rows_of_entries(folded)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("recordings", renamed("duration_us")),
        ("recordings", renamed("recording_hash")),
        ("recordings", negated("duration_us")),
        ("modalities", renamed("format")),
        ("modalities", swapped("bytes")),
        ("modalities", doubled),
        ("events", renamed("txn")),
        ("participants", renamed("participant_id")),
    ],
    ids=lambda one: one if isinstance(one, str) else one.__qualname__.partition(".")[0],
)
def test_rows_that_no_entry_has_written_are_found_and_made_anew(folded: Lab, table: str, change: Change):
    before = rows_of_entries(folded)
    refold(folded.assets, PREFIX, by="test")
    files = [info.key for info in folded.assets.list_objects(f"{PREFIX}/tables/{table}/") if "parquet" in info.key]
    for key in files:
        raw, info = folded.assets.get(key)
        damaged = io.BytesIO()
        pq.write_table(change(pq.read_table(io.BytesIO(raw), partitioning=None)), damaged)
        folded.assets.replace(key, damaged.getvalue(), info.etag)

    done = repair(folded.assets, PREFIX, by="test")

    assert done.damaged
    assert rows_in_tables(folded) == before
    assert not repair(folded.assets, PREFIX, by="test").damaged


def test_tables_that_are_gone_are_no_damage(folded: Lab):
    delete_tables(folded)

    assert not repair(folded.assets, PREFIX, by="test").damaged
    assert rows_in_tables(folded) == rows_of_entries(folded)

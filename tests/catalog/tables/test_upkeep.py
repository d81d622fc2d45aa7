"""Compaction and vacuum change which files there are, and no row that anybody reads."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from deltalake import DeltaTable

from tests.catalog.tables.folded import BY, PREFIX, marks, rows, rows_in_tables, rows_of_entries, write
from tests.faults.proxy import Fault, Proxy
from tests.lab import Lab
from ursa_pipelines.catalog.edits import write_edit
from ursa_pipelines.catalog.tables.delta import open_table
from ursa_pipelines.catalog.tables.fold import fold
from ursa_pipelines.catalog.tables.head import read_head
from ursa_pipelines.catalog.tables.schemas import TABLES
from ursa_pipelines.catalog.tables.upkeep import compact
from ursa_pipelines.objects.store import Bucket

FOLDS = 6
NOTHING_KEPT = timedelta(0)


@pytest.fixture
def crowded(lab: Lab) -> Lab:
    """A lab whose tables have one small file for each of several folds."""
    for number in range(FOLDS):
        write(lab, rows(number, participants=(f"P{number}",)))
        fold(lab.assets, PREFIX, by="test")
    return lab


def test_a_dry_run_tells_what_would_be_done_and_writes_nothing(crowded: Lab):
    before = crowded.everything()

    told = compact(crowded.assets, PREFIX, by="test", dry_run=True)

    assert [(one.table, one.files_before, one.files_after) for one in told] == [(name, FOLDS, 1) for name in TABLES]
    assert {one.table: one.compacted for one in told}["recordings"] == ("2026-05",)
    assert crowded.everything() == before


def test_compaction_makes_one_file_of_many_and_head_names_it(crowded: Lab):
    done = compact(crowded.assets, PREFIX, by="test", dry_run=False)

    assert [(one.files_before, one.files_after, one.gave_up) for one in done] == [(FOLDS, 1, False)] * len(TABLES)
    assert len(table_of(crowded, "recordings").file_uris()) == 1
    assert rows_in_tables(crowded) == rows_of_entries(crowded)


@pytest.mark.parametrize("content", [b"[7]", b"[" * 100_000], ids=["no object", "deep"])
def test_a_damaged_note_of_the_last_checkpoint_is_written_anew(crowded: Lab, content: bytes):
    key = f"{PREFIX}/tables/recordings/_delta_log/_last_checkpoint"
    crowded.assets.multipart_client.put_object(Bucket=crowded.assets.name, Key=key, Body=content)

    compact(crowded.assets, PREFIX, by="test", dry_run=False)

    assert json.loads(crowded.assets.get(key)[0])["version"] == table_of(crowded, "recordings").version()
    assert rows_in_tables(crowded) == rows_of_entries(crowded)


def test_files_that_nothing_names_any_more_go_when_the_retention_is_over(crowded: Lab):
    compact(crowded.assets, PREFIX, by="test", dry_run=False)
    assert [one.files_vacuumed for one in upkeep(crowded, timedelta(days=7))] == [0] * len(TABLES)

    assert [one.files_vacuumed for one in upkeep(crowded, NOTHING_KEPT)] == [FOLDS] * len(TABLES)

    assert rows_in_tables(crowded) == rows_of_entries(crowded)
    write(crowded, rows(2, size=7))
    assert not fold(crowded.assets, PREFIX, by="test").gave_up
    assert rows_in_tables(crowded) == rows_of_entries(crowded)


def test_vacuum_keeps_the_files_of_an_older_version_that_head_names(crowded: Lab):
    before = rows_in_tables(crowded)
    newest = open_table(crowded.assets, PREFIX, "recordings")
    assert newest is not None
    newest.delete(f"recording_hash = '{3:064x}'")

    done = {one.table: one for one in upkeep(crowded, NOTHING_KEPT)}

    assert done["recordings"].gave_up
    assert rows_in_tables(crowded) == before


def test_a_fold_that_comes_between_keeps_upkeep_from_swapping(crowded: Lab, proxied_assets: Bucket, proxy: Proxy):
    write(crowded, rows(1, size=9))

    class FoldBetween(Fault):
        """A fold does its work while upkeep is about to commit."""

        done = False

        def before(self, request: str) -> None:
            if not self.done and request.startswith("PUT") and "/events/_delta_log/" in request:
                self.done = True
                assert not fold(crowded.assets, PREFIX, by="other").gave_up

    proxy.fault = FoldBetween()
    done = compact(proxied_assets, PREFIX, by="test", dry_run=False)

    assert proxy.fault.done
    assert any(one.gave_up for one in done)
    assert marks(crowded) == []
    assert rows_in_tables(crowded) == rows_of_entries(crowded)
    fold_after_upkeep(crowded)


def test_an_edit_is_folded_into_compacted_tables(crowded: Lab):
    compact(crowded.assets, PREFIX, by="test", dry_run=False)
    write_edit(
        crowded.assets,
        PREFIX,
        "p_p1",
        lambda edit: edit.model_copy(update={"display_name": "Other"}),
        op="rename",
        writer=BY,
    )

    fold_after_upkeep(crowded)


def fold_after_upkeep(lab: Lab) -> None:
    write(lab, rows(4, size=11))
    assert not fold(lab.assets, PREFIX, by="test").gave_up
    assert rows_in_tables(lab) == rows_of_entries(lab)


def upkeep(lab: Lab, retention: timedelta):
    return compact(lab.assets, PREFIX, by="test", retention=retention, dry_run=False)


def table_of(lab: Lab, name: str) -> DeltaTable:
    found = read_head(lab.assets, PREFIX)
    assert found is not None
    table = open_table(lab.assets, PREFIX, name, found[0].versions[name])
    assert table is not None
    return table

"""Reading many rows: tables and tail as one view, whatever happens to either meanwhile."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pytest

from tests.faults.proxy import Fault, Proxy, Refuse
from tests.lab import Lab
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.edits import write_edit
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.catalog.tables.fold import fold
from ursa_pipelines.catalog.tables.scan import Snapshot
from ursa_pipelines.catalog.tables.schemas import SCHEMAS
from ursa_pipelines.catalog.tail import mark
from ursa_pipelines.errors import CatalogError, StoreUnavailable
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.rows import ModalityRow, ParticipantRow, RecordingRow, Rows, StorageFormat

MAY, JUNE, JULY = (datetime(2026, month, 10, 12, tzinfo=UTC) for month in (5, 6, 7))
A, B, C = "a" * 64, "b" * 64, "c" * 64
WRITER = Writer("somebody@somewhere")


@pytest.fixture
def catalog(lab: Lab) -> Catalog:
    return Catalog.open(lab.assets)


def put(
    catalog: Catalog,
    name: str,
    start: datetime,
    *,
    people: Iterable[str | tuple[str, str]] = (),
    workers: Iterable[tuple[str, str | None]] = (("eeg", "a"),),
    **metadata: Any,
) -> None:
    """Registers a recording with these rows, whatever was registered before."""
    named = dict((one, None) if isinstance(one, str) else one for one in people)
    rows = Rows(
        RecordingRow(
            recording_hash=name,
            start_time=start,
            duration=timedelta(minutes=1),
            participant_ids=list(named),
            metadata=metadata or None,
        ),
        tuple(
            ModalityRow(
                recording_hash=name, modality=family, worker_id=worker, format=StorageFormat.RAW_BINARY, bytes=7
            )
            for family, worker in workers
        ),
        tuple(
            ParticipantRow(participant_id=key, enrolled_at=start, metadata={"display_name": said} if said else None)
            for key, said in named.items()
        ),
    )
    catalog.write(name, lambda _: lambda current: rows, rec_id=None, hash_is_stated=True, op="test", writer=WRITER)


def folded(catalog: Catalog) -> None:
    fold(catalog.assets, catalog.prefix, by="somebody")


def everything(catalog: Catalog) -> dict[str, Any]:
    """All rows, as a catalog that was opened anew gives them."""
    anew = Catalog(catalog.assets, catalog.prefix)
    return {
        "recordings": anew.list_recordings(),
        "modalities": anew.list_modalities(),
        "participants": anew.list_participants(),
        "events": sorted(
            (event["recording_hash"], event["seq"], event["txn"])
            for batch in anew.scan("events")
            for event in batch.to_pylist()
        ),
        "query": list(anew.query()),
    }


def starts(catalog: Catalog) -> dict[str, datetime]:
    return {row.recording_hash: row.start_time for row in catalog.list_recordings()}


def test_what_is_newer_than_the_tables_is_seen_once_and_whole(catalog: Catalog):
    put(catalog, A, MAY, workers=[("eeg", "a"), ("mic", None)])
    put(catalog, B, JUNE)
    folded(catalog)
    put(catalog, A, JULY, workers=[("camera", "x")])
    put(catalog, C, MAY)

    seen = everything(catalog)

    assert starts(catalog) == {A: JULY, B: JUNE, C: MAY}
    assert [(row.recording_hash, row.modality) for row in seen["modalities"]] == [(A, "camera"), (B, "eeg"), (C, "eeg")]
    assert [(name, seq) for name, seq, _ in seen["events"]] == [(A, 1), (A, 2), (B, 1), (C, 1)]
    assert {table: catalog.count(table) for table in SCHEMAS} == {
        "recordings": 3,
        "modalities": 3,
        "participants": 0,
        "events": 4,
    }
    assert catalog.list_recordings({"start_time": ("between", MAY, JUNE)})[0].recording_hash == C
    folded(catalog)
    assert everything(catalog) == seen


def test_a_row_comes_back_from_the_tables_as_its_entry_has_it(catalog: Catalog):
    put(catalog, A, MAY, people=[("p_1", "Aria")], nodes=["green"], nested={"a": [1, None, "\u00e9"]})
    before = everything(catalog)

    folded(catalog)

    assert everything(catalog) == before
    assert before["recordings"] == [catalog.entry(A).recording]
    assert before["modalities"] == catalog.entry(A).modalities


def test_a_mark_without_an_entry_is_nothing(catalog: Catalog):
    put(catalog, A, MAY)
    mark(catalog.assets, catalog.prefix, B, "txn")
    mark(catalog.assets, catalog.prefix, "p_nobody", "txn")

    assert list(starts(catalog)) == [A]
    assert catalog.list_participants() == []
    assert catalog.count("recordings") == 1


class _Between(Fault):
    """Does something once the first of LIST tail and GET HEAD.json was answered."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act

    def after(self, request: str) -> None:
        if self._act and ("tail" in request or "HEAD.json" in request):
            act, self._act = self._act, None
            act()


def test_a_fold_between_tail_and_head_hides_nothing(catalog: Catalog, proxied_assets: Bucket, proxy: Proxy):
    put(catalog, A, MAY)
    folded(catalog)
    put(catalog, A, JUNE)
    put(catalog, B, JUNE)
    proxy.fault = _Between(lambda: folded(catalog))

    rows = Catalog.open(proxied_assets).list_recordings()

    assert [(row.recording_hash, row.start_time) for row in rows] == [(A, JUNE), (B, JUNE)]


def test_a_snapshot_stays_as_it_was_while_the_catalog_moves_on(catalog: Catalog):
    put(catalog, A, MAY)
    folded(catalog)
    snapshot = catalog.snapshot()
    put(catalog, A, JUNE)
    put(catalog, B, JUNE)
    folded(catalog)

    assert [row.recording_hash for row in snapshot.rows("recordings")] == [A]
    assert [row.recording_hash for row in catalog.snapshot().rows("recordings")] == [A, B]


def test_a_warm_read_lists_the_tail_reads_head_and_opens_only_the_months_asked_for(
    catalog: Catalog, proxied_assets: Bucket, proxy: Proxy
):
    for name, start in ((A, MAY), (B, JUNE), (C, JULY)):
        put(catalog, name, start)
    folded(catalog)
    reader = Catalog.open(proxied_assets)
    reader.list_recordings()
    reads: list[tuple[Callable[[], object], set[str]]] = [
        (lambda: reader.list_recordings({"start_time": ("between", JUNE, JUNE + timedelta(days=7))}), {"2026-06"}),
        (lambda: reader.list_recordings({"start_time": [MAY, JUNE]}), {"2026-05", "2026-06"}),
        (lambda: reader.list_recordings({"started_month": "2026-07"}), {"2026-07"}),
        (lambda: reader.list_recordings({"start_time": ("between", JULY + timedelta(days=60), None)}), set()),
        (lambda: reader.count("recordings"), set()),
    ]
    for read, months in reads:
        proxy.seen.clear()
        read()
        requests = [unquote(one.request) for one in proxy.seen]
        others = [one for one in requests if ".parquet" not in one]
        assert {one.partition("started_month=")[2][:7] for one in requests if ".parquet" in one} == months
        assert [one.partition(" ")[0] for one in others] == ["GET", "GET"]
        assert "list-type=2" in others[0] and "tail" in others[0]
        assert others[1].endswith("HEAD.json")


def test_both_sides_of_a_query_open_only_the_months_asked_for(catalog: Catalog, proxied_assets: Bucket, proxy: Proxy):
    for name, start in ((A, MAY), (B, JUNE), (C, JULY)):
        put(catalog, name, start, people=["p_1"] if name == B else [])
        # So that no file can be left out for the hashes in it.
        for letter in "0f":
            put(catalog, letter * 60 + f"{start:%m%d}", start - timedelta(days=7))
    folded(catalog)
    reader = Catalog.open(proxied_assets)
    queries: list[tuple[dict[str, Any], str]] = [
        ({"started_after": JUNE, "started_before": JUNE + timedelta(days=1)}, "recordings modalities"),
        ({"started_after": JUNE, "started_before": JUNE + timedelta(days=1), "modalities": ["eeg"]}, "recordings"),
        ({"participants": ["p_1"]}, "modalities"),
    ]
    for filters, tables in queries:
        proxy.seen.clear()
        assert [result.recording_hash for result in reader.query(**filters)] == [B]
        for table in tables.split():
            opened = [unquote(one.request) for one in proxy.seen if f"tables/{table}/started_month" in one.request]
            assert opened and all("started_month=2026-06" in one for one in opened)


def test_recordings_that_are_named_are_read_without_the_tables(catalog: Catalog, proxied_assets: Bucket, proxy: Proxy):
    for name, start in ((A, MAY), (B, JUNE), (C, JULY)):
        put(catalog, name, start)
    folded(catalog)
    reader = Catalog.open(proxied_assets)
    proxy.seen.clear()

    assert [row.recording_hash for row in reader.list_recordings({"recording_hash": [C, A, "0" * 64]})] == [A, C]
    assert len(proxy.seen) == 3
    assert reader.count("modalities", {"recording_hash": {A, B}, "modality": "eeg"}) == 2
    assert reader.list_recordings({"rec_id": ["../ACTIVE", "rec_20260520_195628_b1dd"]}) == []
    assert not [one for one in proxy.seen if "/tables/" in one.request or "/tail" in one.request]
    many = [A, *(secrets.token_hex(32) for _ in range(64))]
    proxy.seen.clear()
    assert [row.recording_hash for row in reader.list_recordings({"recording_hash": many})] == [A]
    assert not [one for one in proxy.seen if "/entries/" in one.request]


def test_tables_that_are_gone_are_told_with_the_remedy(catalog: Catalog):
    put(catalog, A, MAY)
    folded(catalog)
    for info in list(catalog.assets.list_objects(f"{catalog.prefix}/tables/recordings/")):
        if info.key.endswith(".parquet"):
            catalog.assets.wire.delete(info.key)

    with pytest.raises(CatalogError, match="ursa catalog fold") as caught:
        Catalog(catalog.assets, catalog.prefix).list_recordings()
    assert "tables/recordings" in str(caught.value)

    for info in list(catalog.assets.list_objects(f"{catalog.prefix}/tables/recordings/")):
        catalog.assets.wire.delete(info.key)
    with pytest.raises(CatalogError, match="ursa catalog fold"):
        Catalog(catalog.assets, catalog.prefix).list_recordings()
    assert catalog.list_recordings({"recording_hash": A})


def test_a_store_that_refuses_is_told_as_such(catalog: Catalog, proxied_assets: Bucket, proxy: Proxy):
    put(catalog, A, MAY)
    folded(catalog)
    proxy.fault = Refuse(r"\.parquet", 400, "InvalidRequest")

    with pytest.raises(StoreUnavailable, match="tables/recordings"):
        Catalog.open(proxied_assets).list_recordings()


def test_a_damaged_head_is_told(catalog: Catalog):
    catalog.assets.create(f"{catalog.prefix}/HEAD.json", json.dumps({"gen": "many"}).encode())

    with pytest.raises(CatalogError, match=r"HEAD\.json"):
        catalog.list_recordings()


def test_a_scan_gives_batches_of_the_columns_asked_for(catalog: Catalog):
    put(catalog, A, MAY)
    folded(catalog)
    put(catalog, B, JUNE)

    for table, schema in SCHEMAS.items():
        batches = list(catalog.scan(table))
        assert all(batch.schema == schema for batch in batches)
    narrow = pa.Table.from_batches(catalog.scan("recordings", {"start_time": MAY}, ["start_time", "recording_hash"]))
    assert narrow.to_pylist() == [{"start_time": MAY, "recording_hash": A}]
    with pytest.raises(ValueError, match="has no column 'colour'"):
        catalog.scan("recordings", columns=["colour"])
    with pytest.raises(ValueError, match="has no column 'colour'"):
        catalog.scan("recordings", {"colour": "green"})


def change_names(catalog: Catalog, participant_id: str, **changes: Any) -> None:
    write_edit(
        catalog.assets,
        catalog.prefix,
        participant_id,
        lambda edit: edit.model_copy(update=changes),
        op="test",
        writer=WRITER,
    )


def test_participants_are_read_as_a_fold_would_leave_them(catalog: Catalog):
    steps: list[Callable[[], None]] = [
        lambda: put(catalog, A, JUNE, people=[("p_1", "Aria L"), ("p_2", "Bo")]),
        lambda: put(catalog, B, JULY, people=[("p_1", "Aria Lin")]),
        lambda: put(catalog, C, MAY, people=["p_1", ("p_3", "Aria Lyn")]),
        lambda: change_names(catalog, "p_3", merged_into="p_1"),
        lambda: put(catalog, A, JULY, people=[("p_2", "Bo Kim")]),
        lambda: change_names(catalog, "p_2", display_name="Bo K."),
        lambda: put(catalog, C, JULY, people=[("p_4", "New")]),
        lambda: change_names(catalog, "p_3", merged_into=None),
    ]
    seen = []
    for step in steps:
        step()
        unfolded = everything(catalog)["participants"]
        folded(catalog)
        assert everything(catalog)["participants"] == unfolded
        seen.append({row.participant_id: (row.metadata or {}).get("display_name") for row in unfolded})

    assert seen[0] == {"p_1": "Aria L", "p_2": "Bo"}
    assert seen[-1] == {"p_1": "Aria Lin", "p_2": "Bo K.", "p_4": "New"}


def test_a_query_for_a_participant_finds_the_spellings_merged_into_them(catalog: Catalog):
    put(catalog, A, MAY, people=["p_1"])
    put(catalog, B, JUNE, people=["p_2"])
    put(catalog, C, JULY, people=["p_3"])
    change_names(catalog, "p_2", merged_into="p_1")
    change_names(catalog, "p_3", merged_into="p_2")

    def found(participant: str, **filters: Any) -> list[str]:
        return [result.recording_hash for result in catalog.query(participants=[participant], **filters)]

    for _ in range(2):
        assert (found("p_1"), found("p_2"), found("p_3")) == ([A, B, C], [B, C], [C])
        assert found("p_1", recording_hash=B) == [B]
        assert found("p_2", recording_hash=A) == []
        folded(catalog)
    change_names(catalog, "p_2", merged_into=None)
    assert (found("p_1"), found("p_2")) == ([A], [B, C])


def test_a_snapshot_of_named_recordings_is_made_only_where_few_are_named(catalog: Catalog):
    tables = catalog.snapshot().tables
    put(catalog, A, MAY)

    named = Snapshot.of_those_named(tables, {"recording_hash": [A, B]})

    assert named is not None and [entry.recording.recording_hash for entry, _ in named.newer] == [A]
    for where in (
        None,
        {},
        {"recording_hash": None},
        {"start_time": MAY},
        {"recording_hash": [str(n) for n in range(65)]},
    ):
        assert Snapshot.of_those_named(tables, where) is None

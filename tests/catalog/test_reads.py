"""Reading rows: filters, queries with their modalities, tables for notebooks, and what is not there."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.faults.proxy import Proxy
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import DataInterface, QueryResultList
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.tables.fold import fold
from ursa_pipelines.errors import CatalogRowNotFound
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.identity import derive_participant_id

FIRST, SECOND, THIRD = "rec_20260520_195628_aaaa", "rec_20260521_195628_bbbb", "rec_20260601_000000_cccc"
MAY_20 = datetime(2026, 5, 20, 19, 56, 28, tzinfo=UTC)
MAY_21 = MAY_20 + timedelta(days=1)
JUNE_1 = datetime(2026, 6, 1, tzinfo=UTC)
ARIA, BO = derive_participant_id("Aria Lin"), derive_participant_id("Bo Kim")


@pytest.fixture(params=["unfolded", "folded"])
def data(lab: Lab, request: pytest.FixtureRequest) -> DataInterface:
    """Three recordings: cameras and one EEG; two EEGs; notes that were processed and have no participant."""
    for rec_id, workers, participant in (
        (SECOND, ("eeg_a", "eeg_b", "mic"), "Bo Kim"),
        (FIRST, ("camera_a", "camera_b", "eeg_4559"), "Aria Lin"),
        (THIRD, ("notes", "notes_b"), None),
    ):
        files = {f"{worker}/seg_0000.bin": f"{rec_id} {worker}".encode() for worker in workers}
        lab.data.ingest(source_dir=write_recording(lab.nas, rec_id, files, participant=participant))
    for row in lab.data.list_modalities({"modality": "notes"}):
        lab.data.register_modality(**row.model_dump() | {"ingestion_status": "processed"}, on_conflict="overwrite")
    (second,) = lab.data.list_recordings({"rec_id": SECOND})
    lab.data.register_recording(
        **second.model_dump()
        | {"participant_ids": [ARIA, BO], "metadata": (second.metadata or {}) | {"study": "sleep"}},
        on_conflict="overwrite",
    )
    if request.param == "folded":
        fold(lab.assets, lab.data.catalog.prefix, by="somebody")
    return lab.interface(writes=False)


def test_where_filters_recordings(data: DataInterface):
    hashes = {row.rec_id: row.recording_hash for row in data.list_recordings()}
    filters: list[tuple[dict[str, Any] | None, list[str]]] = [
        (None, [FIRST, SECOND, THIRD]),
        ({}, [FIRST, SECOND, THIRD]),
        ({"recording_hash": hashes[SECOND]}, [SECOND]),
        ({"recording_hash": [hashes[SECOND], hashes[THIRD]]}, [SECOND, THIRD]),
        ({"recording_hash": "0" * 64}, []),
        ({"rec_id": FIRST}, [FIRST]),
        ({"participant_ids": ARIA}, [FIRST, SECOND]),
        ({"participant_ids": [BO, "p_nobody"]}, [SECOND]),
        ({"participant_ids": "p_nobody"}, []),
        ({"start_time": MAY_21}, [SECOND]),
        ({"start_time": ("between", MAY_20, MAY_21)}, [FIRST]),
        ({"start_time": ("between", MAY_20, JUNE_1 + timedelta(seconds=1))}, [FIRST, SECOND, THIRD]),
        ({"participant_ids": ARIA, "start_time": ("between", MAY_21, JUNE_1)}, [SECOND]),
        ({"recording_hash": hashes[FIRST], "participant_ids": BO}, []),
    ]

    assert [[row.rec_id for row in data.list_recordings(where)] for where, _ in filters] == [
        expected for _, expected in filters
    ]


def test_where_filters_modalities_and_participants(data: DataInterface):
    (first,) = data.list_recordings({"rec_id": FIRST})

    assert [
        (row.modality, row.worker_id) for row in data.list_modalities(where={"recording_hash": first.recording_hash})
    ] == [("camera", "a"), ("camera", "b"), ("eeg", "4559")]
    assert [row.worker_id for row in data.list_modalities({"modality": ["eeg", "mic"], "worker_id": ["a", None]})] == [
        "a",
        None,
    ]
    assert {row.modality for row in data.list_modalities({"ingestion_status": "processed"})} == {"notes"}
    assert data.list_modalities({"recording_hash": "0" * 64}) == []
    assert [row.participant_id for row in data.list_participants({"participant_id": BO})] == [BO]


def test_a_column_that_does_not_exist_is_told(data: DataInterface):
    for list_rows in (data.list_recordings, data.list_modalities, data.list_participants):
        with pytest.raises(ValueError, match="has no column 'colour'"):
            list_rows({"colour": "green"})


def test_query_names_a_modality_by_its_worker_only_where_the_family_has_several(data: DataInterface):
    assert {result.recording.rec_id: list(result.modalities) for result in data.query()} == {
        FIRST: ["camera_a", "camera_b", "eeg"],
        SECOND: ["eeg_a", "eeg_b", "mic"],
        THIRD: ["notes", "notes_b"],
    }
    assert {result.recording.rec_id: list(result.modalities) for result in data.query(modalities=["eeg"])} == {
        FIRST: ["eeg"],
        SECOND: ["eeg_a", "eeg_b"],
    }
    (result,) = data.query(modalities=["mic"])
    assert (result.recording.rec_id, result.recording_hash) == (SECOND, result.recording.recording_hash)
    assert result.modalities["mic"].raw_storage_uri == f"r2://{data.profile.buckets.raw}/recordings/{SECOND}/mic/"


def test_query_filters(data: DataInterface):
    hashes = {row.rec_id: row.recording_hash for row in data.list_recordings()}
    queries: list[tuple[dict[str, Any], list[str]]] = [
        ({}, [FIRST, SECOND, THIRD]),
        ({"recording_hash": hashes[THIRD]}, [THIRD]),
        ({"participants": ["Bo Kim"]}, [SECOND]),
        ({"participants": ["  aria  LIN "]}, [FIRST, SECOND]),
        ({"participants": [ARIA, "Bo Kim"]}, [FIRST, SECOND]),
        ({"participants": ["nobody"]}, []),
        ({"participants": []}, []),
        ({"modalities": ["camera", "notes"]}, [FIRST, THIRD]),
        ({"modalities": ["gaze"]}, []),
        ({"status": "raw"}, [FIRST, SECOND]),
        ({"status": "ingested"}, [THIRD]),
        ({"status": None}, [FIRST, SECOND, THIRD]),
        ({"status": "raw", "modalities": ["notes"]}, []),
        ({"started_after": MAY_21}, [SECOND, THIRD]),
        ({"started_before": MAY_21}, [FIRST]),
        ({"started_after": MAY_20, "started_before": JUNE_1}, [FIRST, SECOND]),
        ({"metadata": {"study": "sleep"}}, [SECOND]),
        ({"metadata": {"study": "sleep", "manifest_recording_id": FIRST}}, []),
        ({"metadata": {"study": None}}, []),
        ({"recording_hash": hashes[FIRST], "modalities": ["mic"]}, []),
        ({"modalities": "eeg", "participants": "Bo Kim"}, [SECOND]),
        ({"modalities": ["eeg_b"]}, [SECOND]),
        ({"modalities": ["camera"], "metadata": {"manifest_recording_id": FIRST}}, [FIRST]),
        ({"participants": ["Bo Kim"], "metadata": {"manifest_recording_id": FIRST}}, []),
        ({"participants": ["Aria Lin"], "modalities": ["mic"], "status": "raw"}, [SECOND]),
    ]

    assert [[result.recording.rec_id for result in data.query(**filters)] for filters, _ in queries] == [
        expected for _, expected in queries
    ]
    with pytest.raises(ValueError, match="'raw', 'ingested' or None"):
        data.query(status="processed")  # type: ignore[arg-type]


def test_query_results_are_a_table(data: DataInterface):
    results = data.query()

    table = results.to_arrow()

    assert table.column("rec_id").to_pylist() == [FIRST, SECOND, THIRD]
    assert table.column("start_time").to_pylist() == [MAY_20, MAY_21, JUNE_1]
    assert table.column("duration").to_pylist() == [timedelta(minutes=1)] * 3
    assert table.column("participant_ids").to_pylist() == [[ARIA], [ARIA, BO] if ARIA < BO else [BO, ARIA], []]
    assert table.column("modalities").to_pylist()[2] == ["notes", "notes_b"]
    assert table.column("ingestion_status").to_pylist() == ["raw", "raw", "processed"]
    assert table.column("bytes").to_pylist()[0] == sum(row.bytes for row in results[0].modalities.values())
    assert QueryResultList().to_arrow().schema == table.schema

    frame = results.to_pandas()
    assert list(frame["recording_hash"]) == [result.recording_hash for result in results]
    assert str(frame["start_time"].dtype) == "datetime64[us, UTC]"
    assert FIRST in results._repr_html_()


def test_a_participant_is_enrolled_at_their_earliest_recording(data: DataInterface):
    row = data.get_participant(ARIA)

    assert (row.participant_id, row.enrolled_at) == (ARIA, MAY_20)
    assert (row.metadata or {})["display_name"] == "Aria Lin"
    assert [one.participant_id for one in data.list_participants()] == sorted([ARIA, BO])


def test_rows_that_are_not_there_are_told_by_name(data: DataInterface):
    missing: list[tuple[Callable[[], object], str]] = [
        (lambda: data.get_recording("0" * 64), "0" * 64),
        (lambda: data.get_recording("../ACTIVE"), "../ACTIVE"),
        (lambda: data.get_recording(""), "there is no recording"),
        (lambda: data.get_participant("p_nobody"), "p_nobody"),
        (lambda: data.query(recording_hash="0" * 64), "0" * 64),
    ]
    for read, told in missing:
        with pytest.raises(CatalogRowNotFound) as caught:
            read()
        assert told in str(caught.value)


def test_one_recording_or_its_modalities_are_one_request(
    lab: Lab, data: DataInterface, proxied_assets: Bucket, proxy: Proxy
):
    catalog = Catalog.open(proxied_assets)
    recording_hash = data.list_recordings()[0].recording_hash
    for read in (
        lambda: catalog.entry(recording_hash),
        lambda: catalog.list_modalities({"recording_hash": recording_hash}),
        lambda: catalog.list_recordings({"recording_hash": recording_hash}),
    ):
        proxy.seen.clear()
        assert read()
        assert len(proxy.seen) == 1


def test_an_empty_catalog_gives_empty_lists(lab: Lab):
    data = lab.interface(writes=False)

    assert data.list_recordings() == data.list_modalities() == data.list_participants() == data.query() == []
    assert data.query().to_pandas().empty

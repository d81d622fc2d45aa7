"""The conflict policies: each row of the table in DESIGN section 6, and what must hold in whatever order they come."""

from __future__ import annotations

import string
from datetime import UTC, datetime, timedelta
from functools import reduce
from itertools import permutations
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import DataInterface
from ursa_pipelines.catalog import policies
from ursa_pipelines.errors import CatalogConflict, CatalogRowExists, CatalogRowNotFound
from ursa_pipelines.recordings.identity import derive_participant_id
from ursa_pipelines.recordings.rows import ModalityRow, ParticipantRow, RecordingRow, Rows, StorageFormat

REC, HASH = "rec_20260520_195628_b1dd", "a" * 64
START = datetime(2026, 5, 20, 19, 56, 28, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
FILES = {"mic/seg_0000.wav": b"audio", "camera_a/seg_0000.mp4": b"video"}
PEER = {"eeg_4559/seg_0000.edf": b"eeg"}
ARIA, BO = derive_participant_id("Aria Lin"), derive_participant_id("Bo Kim")

randomized = settings(derandomize=True, deadline=None, max_examples=150)


def test_register_recording_error(lab: Lab):
    register(lab.data, metadata={"manifest_recording_id": REC, "operator": "Kim"})
    before = lab.everything()

    register(
        lab.data,
        metadata={"manifest_recording_id": REC, "operator": "Kim", "registered_by": "someone else", "bytes": 7},
    )
    assert lab.everything() == before

    for difference in (
        {"duration": 2 * MINUTE},
        {"start_time": START - MINUTE},
        {"participant_ids": [ARIA]},
        {"device_info": {"rig": "green"}},
        {"metadata": {"manifest_recording_id": REC, "operator": "Bo"}},
        {"metadata": {"manifest_recording_id": REC}},
    ):
        with pytest.raises(CatalogRowExists, match=next(iter(difference))) as caught:
            register(lab.data, **{"metadata": {"manifest_recording_id": REC, "operator": "Kim"}} | difference)
        assert (caught.value.table, caught.value.primary_key) == ("recordings", (("recording_hash", HASH),))
        assert caught.value.recording == REC
    assert lab.everything() == before


def test_register_recording_extend(lab: Lab):
    register(lab.data, participant_ids=[ARIA], metadata={"manifest_recording_id": REC, "operator": "Kim"})
    register_camera(lab.data)
    before = lab.everything()

    register(lab.data, on_conflict="extend", duration=MINUTE / 2)
    register(lab.data, on_conflict="extend", duration=MINUTE)
    assert lab.everything() == before

    row = register(
        lab.data,
        on_conflict="extend",
        duration=5 * MINUTE,
        start_time=START - MINUTE,
        participant_ids=[BO],
        metadata={"manifest_recording_id": REC, "operator": "Bo"},
    )

    assert (row.start_time, row.duration, row.ended_at) == (START, 5 * MINUTE, START + 5 * MINUTE)
    assert row.participant_ids == [ARIA]
    assert row.metadata == {"manifest_recording_id": REC, "operator": "Kim"}
    assert [one.modality for one in lab.data.list_modalities()] == ["camera"]
    assert lab.data.get_recording(HASH) == row


def test_register_recording_merge_participants(lab: Lab):
    register(lab.data, participant_ids=[BO])
    before = lab.everything()

    register(lab.data, on_conflict="merge_participants", participant_ids=[BO])
    register(lab.data, on_conflict="merge_participants")
    assert lab.everything() == before
    with pytest.raises(CatalogConflict, match="duration") as caught:
        register(lab.data, on_conflict="merge_participants", participant_ids=[ARIA], duration=2 * MINUTE)
    assert type(caught.value) is CatalogConflict
    assert lab.everything() == before

    row = register(lab.data, on_conflict="merge_participants", participant_ids=[ARIA])

    assert row.participant_ids == sorted([ARIA, BO])
    assert lab.data.get_recording(HASH) == row
    assert [one.participant_id for one in lab.data.list_participants()] == sorted([ARIA, BO])


def test_register_recording_overwrite(lab: Lab):
    register(lab.data, participant_ids=[ARIA], duration=9 * MINUTE, device_info={"rig": "green"})
    register_camera(lab.data)

    row = register(lab.data, on_conflict="overwrite", participant_ids=[BO], metadata={"operator": "Kim"})

    assert (row.duration, row.ended_at, row.device_info) == (MINUTE, START + MINUTE, None)
    assert row.participant_ids == [BO]
    assert (row.rec_id, (row.metadata or {})["operator"]) == (REC, "Kim")
    assert [one.modality for one in lab.data.list_modalities()] == ["camera"]
    before = lab.everything()
    register(lab.data, on_conflict="overwrite", participant_ids=[BO], metadata={"operator": "Kim"})
    assert lab.everything() == before


def test_register_recording_knows_no_other_policy(lab: Lab):
    before = lab.everything()

    for policy in ("merge", "", None):
        with pytest.raises(ValueError, match="error, extend, merge_participants and overwrite"):
            register(lab.data, on_conflict=policy)

    assert lab.everything() == before


@pytest.mark.parametrize("duration", [timedelta.max, timedelta(days=365 * 8_000), -MINUTE, timedelta.min])
def test_a_duration_that_no_time_or_column_can_tell_is_a_value_error(lab: Lab, duration: timedelta):
    before = lab.everything()

    for policy in ("error", "extend", "overwrite"):
        with pytest.raises(ValueError, match="duration"):
            register(lab.data, duration=duration, on_conflict=policy)

    assert lab.everything() == before


def test_a_duration_that_ends_after_all_time_stops_no_others(lab: Lab):
    register(lab.data)
    too_long = recording(recording_hash=HASH, duration=timedelta(days=365 * 8_000))
    other = recording(recording_hash="b" * 64, ended_at=None).model_copy(update={"metadata": None})

    refused, done = lab.data.register_recordings([too_long, other], on_conflict="extend")

    assert isinstance(refused, CatalogConflict)
    assert "9999" in str(refused)
    assert isinstance(done, RecordingRow)
    assert lab.data.get_recording(HASH).duration == MINUTE


def test_register_modality_error_and_overwrite(lab: Lab):
    with pytest.raises(CatalogRowNotFound, match=HASH):
        register_camera(lab.data)
    register(lab.data)
    register_camera(lab.data, segment_count=1)
    before = lab.everything()

    register_camera(lab.data, segment_count=1)
    with pytest.raises(CatalogRowExists, match="segment_count") as caught:
        register_camera(lab.data, segment_count=2)
    assert caught.value.table == "modalities"
    assert dict(caught.value.primary_key) == {"recording_hash": HASH, "modality": "camera", "worker_id": "a"}
    for policy in ("extend", "merge_participants", None):
        with pytest.raises(ValueError, match="only error and overwrite"):
            register_camera(lab.data, on_conflict=policy)
    assert lab.everything() == before

    register_camera(lab.data, segment_count=2, on_conflict="overwrite")
    register_camera(lab.data, worker_id="b")
    assert [(row.worker_id, row.segment_count) for row in lab.data.list_modalities()] == [("a", 2), ("b", 0)]


def test_ingest_without_overwrite(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    recording = lab.data.ingest(source_dir=directory).recording
    assert recording is not None
    before = lab.everything()

    assert lab.data.ingest(source_dir=directory).outcome == "unchanged"
    assert lab.everything() == before

    wrong = recording.model_copy(update={"duration": timedelta(days=1), "ended_at": recording.start_time + MINUTE})
    lab.data.register_recording(**wrong.model_dump(), on_conflict="overwrite")
    before = lab.everything()
    with pytest.raises(CatalogRowExists, match="duration") as caught:
        lab.data.ingest(source_dir=directory)
    assert caught.value.table == "recordings"
    assert lab.everything() == before


def test_an_ingest_gives_an_end_to_a_row_that_has_none():
    ended = Rows(recording(), (modality("mic", 1, []),), ())
    without = Rows(recording(duration=timedelta(0), ended_at=None), ended.modalities, ())

    assert ingested(without, ended).recording == ended.recording
    assert ingested(without, ended, ended) == ended
    for other in (recording(start_time=START - MINUTE), recording(source="elsewhere")):
        with pytest.raises(CatalogRowExists):
            ingested(without, Rows(other, ended.modalities, ()))
    with pytest.raises(CatalogRowExists, match="ended_at"):
        ingested(Rows(recording(duration=MINUTE, ended_at=None), ended.modalities, ()), ended)


def test_ingest_with_overwrite(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin", node="mantis")
    recording = lab.data.ingest(source_dir=directory).recording
    lab.data.ingest(source_dir=write_recording(lab.usb, REC, PEER, participant="Bo Kim", node="motor"))
    assert recording is not None
    both = lab.data.get_recording(recording.recording_hash)
    modalities = lab.data.list_modalities()
    (camera,) = (row for row in modalities if row.modality == "camera")
    wrong = both.model_copy(update={"duration": timedelta(days=1)})
    lab.data.register_recording(**wrong.model_dump(), on_conflict="overwrite")
    lab.data.register_modality(**camera.model_dump() | {"segment_count": 99}, on_conflict="overwrite")
    objects = lab.objects(REC)

    result = lab.data.ingest(source_dir=directory, overwrite=True)

    assert result.outcome == "changed"
    assert lab.objects(REC) == objects
    assert lab.data.get_recording(recording.recording_hash).comparable() == both.comparable()
    assert [row.comparable() for row in lab.data.list_modalities()] == [row.comparable() for row in modalities]
    assert {row.participant_id for row in lab.data.list_participants()} == {ARIA, BO}
    lab.check_invariants()


moments = st.integers(-600, 600).map(lambda seconds: START + timedelta(seconds=seconds))
durations = st.integers(0, 1000).map(lambda seconds: timedelta(seconds=seconds))
names = st.lists(st.sampled_from(["Aria Lin", "aria  LIN", "Bo Kim", "Cy"]), max_size=3, unique=True)
people = st.lists(st.text(string.ascii_letters, min_size=1, max_size=4), max_size=4)
counts = st.integers(1, 5)


@st.composite
def halves(draw: st.DrawFn) -> tuple[Rows, Rows, Rows]:
    """The rows of one node's half, of the other's, and of both together, as each ingest would compute them."""
    workers = draw(st.lists(st.sampled_from(["camera_a", "camera_b", "eeg", "screen"]), min_size=2, unique=True))
    split = draw(st.integers(1, len(workers) - 1))
    nodes = {"mantis": workers[:split], "motor": workers[split:]}
    shared = draw(st.booleans())
    segments = {worker: draw(counts) for worker in workers}
    times = {node: sorted((draw(moments), draw(moments))) for node in nodes}
    display_names = {node: draw(names) for node in nodes}
    own_infos = {node: draw(st.none() | st.just({f"rig of {node}": 1})) for node in nodes}

    def rows(*present: str) -> Rows:
        start, end = min(times[node][0] for node in present), max(times[node][1] for node in present)
        every_name = sorted((name for node in present for name in display_names[node]), reverse=True)
        spellings = {derive_participant_id(name): name for name in every_name}
        infos = [own_infos[node] or {} for node in present]
        found = {worker: (segments[worker], [node]) for node in present for worker in nodes[node]}
        if shared:
            found["mic"] = (3 * len(present), sorted(present))
        return Rows(
            RecordingRow(
                recording_hash=HASH,
                participant_ids=sorted(spellings),
                start_time=start,
                duration=end - start,
                ended_at=end,
                device_info=reduce(lambda one, other: one | other, infos) or None,
                metadata={
                    "manifest_recording_id": REC,
                    "nodes": sorted(present),
                    "nodes_missing": [],
                    "files": sum(count for count, _ in found.values()),
                },
            ),
            tuple(modality(worker, count, owners) for worker, (count, owners) in sorted(found.items())),
            tuple(
                ParticipantRow(participant_id=key, enrolled_at=start, metadata={"display_name": name})
                for key, name in sorted(spellings.items())
            ),
        )

    return rows("mantis"), rows("motor"), rows("mantis", "motor")


@randomized
@given(halves())
def test_ingests_of_halves_come_to_the_same_rows_in_every_order(found: tuple[Rows, Rows, Rows]):
    host, motor, both = found
    for order in permutations((host, motor, both)):
        assert told(ingested(None, *order)) == told(both), [one.recording.metadata for one in order]


@randomized
@given(halves())
def test_ingests_of_halves_that_know_nothing_of_each_other_commute(found: tuple[Rows, Rows, Rows]):
    host, motor, _ = found
    assume(not set(keys(host)) & set(keys(motor)))

    assert told(ingested(None, host, motor)) == told(ingested(None, motor, host))


@randomized
@given(halves(), st.booleans())
def test_an_ingest_again_gives_back_the_very_rows(found: tuple[Rows, Rows, Rows], overwrite: bool):
    host, motor, both = found
    for order in ((host,), (host, both), (motor, host, both)):
        rows = ingested(None, *order)
        assert policies.ingest(order[-1], overwrite=overwrite)(rows) is rows


@randomized
@given(halves())
def test_an_ingest_with_overwrite_replaces_its_own_half_and_keeps_the_others(found: tuple[Rows, Rows, Rows]):
    host, motor, both = found
    assume(not set(keys(host)) & set(keys(motor)))
    wrong = host.recording.model_copy(update={"metadata": {"manifest_recording_id": REC, "nodes": ["mantis"]}})
    damaged = Rows(wrong, tuple(row.model_copy(update={"segment_count": 99}) for row in host.modalities), ())
    existing = ingested(None, damaged, motor)

    rows = policies.ingest(host, overwrite=True)(existing)

    assert told(rows)["modalities"] == told(both)["modalities"]
    assert told(rows)["participants"] == told(both)["participants"]
    assert rows.recording.comparable() == both.recording.comparable()


@randomized
@given(durations, st.lists(durations, min_size=1, max_size=4))
def test_extends_commute_and_keep_the_longest(first: timedelta, more: list[timedelta]):
    start = Rows(recording(duration=first, ended_at=START + first), (modality("camera_a", 1, []),), ())

    results = [registered(start, "extend", *order) for order in permutations([recording(duration=one) for one in more])]

    longest = max(first, *more)
    for rows in results:
        assert (rows.recording.duration, rows.recording.ended_at) == (longest, START + longest)
        assert rows.modalities == start.modalities
    assert registered(results[0], "extend", recording(duration=longest)) is results[0]


@randomized
@given(people, st.lists(people, min_size=1, max_size=3))
def test_merges_of_participants_commute_and_lose_nobody(first: list[str], more: list[list[str]]):
    start = policies.register_recording(recording(participant_ids=first), "error")(None)
    new = [recording(participant_ids=one) for one in more]

    results = [registered(start, "merge_participants", *order) for order in permutations(new)]

    everybody = sorted({*first, *(one for ids in more for one in ids)})
    for rows in results:
        assert rows.recording.participant_ids == everybody
        assert [row.participant_id for row in rows.participants] == everybody
        assert rows.recording.model_copy(update={"participant_ids": []}) == recording()
    assert registered(results[0], "merge_participants", *new) is results[0]


@randomized
@given(durations, people, durations, people)
def test_extend_and_merge_participants_do_not_disturb_each_other(
    length: timedelta, first: list[str], longer: timedelta, more: list[str]
):
    start = policies.register_recording(
        recording(duration=length, ended_at=START + length, participant_ids=first), "error"
    )(None)
    extend = policies.register_recording(recording(duration=longer), "extend")

    extended_first = extend(start)
    merge = recording(
        duration=extended_first.recording.duration,
        ended_at=extended_first.recording.ended_at,
        participant_ids=more,
    )
    one = policies.register_recording(merge, "merge_participants")(extended_first)
    merge = recording(duration=length, ended_at=START + length, participant_ids=more)
    other = extend(policies.register_recording(merge, "merge_participants")(start))

    assert one == other


def register(data: DataInterface, **fields: Any) -> RecordingRow:
    values = {
        "recording_hash": HASH,
        "start_time": START,
        "duration": MINUTE,
        "metadata": {"manifest_recording_id": REC},
    }
    return data.register_recording(**values | fields)


def register_camera(data: DataInterface, **fields: Any) -> ModalityRow:
    values = {"recording_hash": HASH, "modality": "camera", "worker_id": "a", "format": "raw_video"}
    return data.register_modality(**values | fields)


def recording(**fields: Any) -> RecordingRow:
    values = {"recording_hash": HASH, "start_time": START, "duration": MINUTE, "ended_at": START + MINUTE}
    return RecordingRow(metadata={"manifest_recording_id": REC}, **values | fields)


def modality(worker: str, segment_count: int, nodes: list[str]) -> ModalityRow:
    family, _, worker_id = worker.partition("_")
    return ModalityRow(
        recording_hash=HASH,
        modality=family,
        worker_id=worker_id or None,
        format=StorageFormat.RAW_BINARY,
        segment_count=segment_count,
        bytes=10 * segment_count,
        metadata={"nodes": nodes},
    )


def registered(rows: Rows, policy: policies.RecordingPolicy, *new: RecordingRow) -> Rows:
    return reduce(lambda known, row: policies.register_recording(row, policy)(known), new, rows)


def ingested(rows: Rows | None, *new: Rows) -> Rows:
    for one in new:
        rows = policies.ingest(one, overwrite=False)(rows)
    assert rows is not None
    return rows


def keys(rows: Rows) -> list[tuple]:
    return [row.primary_key for row in rows.modalities]


def told(rows: Rows) -> dict[str, Any]:
    """Everything the rows say, bookkeeping about nodes and files included."""
    return {
        "recording": rows.recording.model_dump(),
        "modalities": [row.model_dump() for row in rows.modalities],
        "participants": [row.model_dump() for row in rows.participants],
    }

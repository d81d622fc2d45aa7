"""A catalog made anew from the raw bucket says the same, and what only the live one knew survives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.cutover import cutover, rollback
from ursa_pipelines.catalog.diff import diff
from ursa_pipelines.catalog.edits import ParticipantEdit, read_edit, write_edit
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.catalog.pointer import DEFAULT_PREFIX, read_pointer
from ursa_pipelines.errors import CatalogError
from ursa_pipelines.maintenance.rebuild import Rebuilt, rebuild
from ursa_pipelines.objects.keys import raw_key

NEW = "ursa/catalog-2"
WRITER = Writer(by="test")


def test_a_rebuilt_catalog_says_what_the_live_one_says(lab: Lab):
    ingested(lab, 3)
    before, told = lab.everything(), list[tuple[int, int]]()

    rebuilt = run(lab, progress=lambda done, of: told.append((done, of)))

    assert told == [(1, 3), (2, 3), (3, 3)]
    assert (rebuilt.created, rebuilt.failed, rebuilt.waiting, rebuilt.ok) == (3, (), (), True)
    assert diff(Catalog.open(lab.assets), new(lab)).is_empty
    assert [row.rec_id for row in new(lab).list_recordings()] == [rec_id(number) for number in range(3)]
    after = lab.everything()
    assert {key: after[key] for key in before} == before
    assert all(f"/{NEW}/" in key for key in after.keys() - before.keys())


def test_an_interrupted_rebuild_is_made_good_by_a_rerun_which_passes_over_what_is_there(lab: Lab):
    ingested(lab, 3)
    asked = iter([False])

    paused = run(lab, should_pause=lambda: next(asked, True))
    first = run(lab)
    entries = entries_of(lab)
    again = run(lab)

    assert (paused.paused, paused.folded, paused.ok) == (True, False, False)
    assert (paused.created, first.created, first.unchanged) == (1, 2, 1)
    assert (again.created, again.changed, again.unchanged) == (0, 0, 3)
    assert again.started_at == paused.started_at
    assert entries_of(lab) == entries


def test_shards_rebuild_the_whole_between_them(lab: Lab):
    ingested(lab, 5)

    parts = [run(lab, shard=(number, 2)) for number in (1, 2)]

    assert sum(part.created for part in parts) == sum(part.recordings for part in parts) == 5
    assert not any(part.folded for part in parts)
    assert diff(Catalog.open(lab.assets), new(lab)).is_empty


def test_a_recording_without_manifest_or_objects_is_told_and_not_invented(lab: Lab):
    ingested(lab, 1)
    lab.raw.create(raw_key(rec_id(7), "mic/seg_0000.wav"), b"audio")
    directory = write_recording(lab.nas, rec_id(8), {"mic/seg_0000.wav": b"never sent"})
    lab.raw.create(raw_key(rec_id(8), "manifest.json"), (directory / "manifest.json").read_bytes())

    rebuilt = run(lab)

    assert rebuilt.waiting == (rec_id(7),)
    assert [name for name, _ in rebuilt.failed] == [rec_id(8)]
    assert "mic/seg_0000.wav" in rebuilt.failed[0][1]
    assert [row.rec_id for row in new(lab).list_recordings()] == [rec_id(0)]
    assert set(lab.objects(rec_id(7))) == {"mic/seg_0000.wav"}


def test_the_level_is_what_the_commit_marker_proves(lab: Lab):
    ingested(lab, 1)

    run(lab)

    assert [(row.metadata or {})["verification"] for row in new(lab).list_recordings()] == ["sha256"]


def test_the_hash_of_the_first_half_survives(lab: Lab):
    name = rec_id(0)
    lab.data.ingest(source_dir=write_recording(lab.nas, name, {"mic/seg_0000.wav": b"audio"}, node="green-mantis"))
    lab.data.ingest(source_dir=write_recording(lab.usb, name, {"eeg/seg_0000.edf": b"eeg"}, node="green-motor"))

    run(lab)

    assert diff(Catalog.open(lab.assets), new(lab)).is_empty
    assert len(new(lab).list_modalities()) == 2


def test_what_was_processed_named_and_measured_by_hand_survives(lab: Lab):
    files = {"mic/seg_0000.wav": b"audio", "camera_a/seg_0000.mp4": b"video"}
    directory = write_recording(lab.nas, rec_id(0), files, manifest=False)
    recording = lab.data.ingest(source_dir=directory, participant="Aria Lin").recording
    assert recording is not None and not recording.duration
    lab.data.register_recording(
        recording_hash=recording.recording_hash,
        start_time=recording.start_time,
        duration=timedelta(minutes=7),
        on_conflict="extend",
    )
    mic = next(row for row in lab.data.list_modalities() if row.modality == "mic")
    processed = {"ingestion_status": "processed", "storage_uri": "r2://assets/mic.zarr", "format": "zarr"}
    catalog = Catalog.open(lab.assets)
    catalog.register_modality(type(mic).model_validate(mic.model_dump() | processed), "overwrite", WRITER)

    run(lab)

    [row] = new(lab).list_recordings()
    assert (row.duration, row.participant_ids) == (timedelta(minutes=7), recording.participant_ids)
    assert diff(catalog, new(lab)).is_empty
    live, rebuilt = catalog.entry(recording.recording_hash), new(lab).entry(recording.recording_hash)
    assert [item.txn for item in rebuilt.log[:-1]] == [item.txn for item in live.log]
    assert rebuilt.log[-1].op == "rebuild"


def test_edits_of_participants_are_copied_with_their_history(lab: Lab):
    def merged(edit: ParticipantEdit) -> ParticipantEdit:
        return edit.model_copy(update={"merged_into": "p_other"})

    made = write_edit(lab.assets, DEFAULT_PREFIX, "p_one", merged, op="merge", writer=WRITER)

    run(lab)
    run(lab)

    found = read_edit(lab.assets, NEW, "p_one")
    assert found is not None
    assert found[0].merged_into == "p_other"
    assert [item.txn for item in found[0].log[:-1]] == [item.txn for item in made.log]
    assert (found[0].log[-1].op, found[0].log[-1].merged_into) == ("rebuild", "p_other")


def test_rows_without_bytes_are_missing_and_not_copied(lab: Lab):
    [recording_hash] = ingested(lab, 1)
    start = lab.data.get_recording(recording_hash).start_time
    lab.data.register_recording(recording_hash="by_hand", start_time=start, duration=timedelta(minutes=1))

    run(lab)

    recordings = diff(Catalog.open(lab.assets), new(lab)).tables[0]
    assert [key[0] for key in recordings.missing] == ["by_hand"]
    assert (recordings.added, recordings.changed) == ((), ())


def test_a_damaged_live_entry_is_told_and_rebuilt_from_the_bucket(lab: Lab):
    [recording_hash] = ingested(lab, 1)
    key = f"{DEFAULT_PREFIX}/entries/{recording_hash[:2]}/{recording_hash}.json"
    lab.assets.replace(key, b"{", lab.assets.get(key)[1].etag)

    rebuilt = run(lab)

    assert [name for name, _ in rebuilt.without_live] == [rec_id(0)]
    assert new(lab).entry(recording_hash).recording.rec_id == rec_id(0)


def test_what_was_registered_while_it_ran_comes_with_the_cutover(lab: Lab):
    ingested(lab, 1)
    run(lab)
    directory = write_recording(lab.nas, rec_id(5), {"mic/seg_0000.wav": b"late"}, participant="Aria Lin")
    late = lab.data.ingest(source_dir=directory).recording
    assert late is not None

    done = cutover(lab.assets, NEW, writer=WRITER, reason="test")

    assert (done.ok, done.swapped, done.source) == (True, True, DEFAULT_PREFIX)
    assert lab.interface().get_recording(late.recording_hash) == late
    assert lab.interface().ingest(source_dir=directory).outcome == "unchanged"
    lab.check_invariants()


@pytest.mark.parametrize(
    "prefix", [DEFAULT_PREFIX, f"{DEFAULT_PREFIX}/entries", "ursa", "ursa/../other", "ursa/occupied"]
)
def test_a_prefix_that_is_not_free_is_refused(lab: Lab, prefix: str):
    lab.assets.create("ursa/occupied/notes.json", b"{}")
    before = lab.everything()

    with pytest.raises(CatalogError):
        run(lab, prefix=prefix)

    assert lab.everything() == before


def test_a_prefix_that_was_live_is_not_rebuilt_into(lab: Lab):
    run(lab)
    cutover(lab.assets, NEW, writer=WRITER, reason="test")
    rollback(lab.assets, writer=WRITER, reason="test")

    with pytest.raises(CatalogError, match="live"):
        run(lab)

    assert read_pointer(lab.assets).prefix == DEFAULT_PREFIX


@pytest.mark.parametrize("shard", [(0, 4), (5, 4), (1, 0)])
def test_a_shard_that_does_not_exist_is_refused(lab: Lab, shard: tuple[int, int]):
    with pytest.raises(ValueError, match="shard"):
        run(lab, shard=shard)


def run(
    lab: Lab,
    *,
    prefix: str = NEW,
    shard: tuple[int, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    should_pause: Callable[[], bool] | None = None,
) -> Rebuilt:
    context = replace(lab.data.ingest_context(raw_role="raw_ro"), writer=WRITER)
    live = Catalog.open(lab.assets)
    return rebuild(context, live, prefix, shard=shard, progress=progress, should_pause=should_pause)


def ingested(lab: Lab, count: int) -> list[str]:
    """Recordings on the NAS, ingested; their hashes."""
    hashes = []
    for number in range(count):
        files = {"mic/seg_0000.wav": b"audio%d" % number, "camera_a/seg_0000.mp4": b"video%d" % number}
        directory = write_recording(lab.nas, rec_id(number), files, participant="Aria Lin")
        recording = lab.data.ingest(source_dir=directory).recording
        assert recording is not None
        hashes.append(recording.recording_hash)
    return hashes


def new(lab: Lab) -> Catalog:
    return Catalog.open(lab.assets, prefix=NEW)


def entries_of(lab: Lab) -> dict[str, str]:
    return {info.key: info.etag for info in lab.assets.list_objects(f"{NEW}/entries/")}


def rec_id(number: int) -> str:
    return f"rec_20260520_1956{number:02d}_{number:04x}"

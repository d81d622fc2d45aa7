"""A catalog made anew from the raw bucket says the same, and what only the live one knew survives.

A rebuild writes below its prefix, and one thing outside of it: claims, in the live catalog, of recordings that nobody
has registered. Which hash a recording has must be decided in one place, or the cutover would meet two (DESIGN section
6: "where no manifest states a recording_hash, the first half's derived one stays").
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.faults.detour import Detour
from tests.faults.proxy import Fault, Hold
from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, recording_hash_of, write_recording
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.claims import claim_key, read_claim
from ursa_pipelines.catalog.cutover import cutover, rollback
from ursa_pipelines.catalog.diff import diff
from ursa_pipelines.catalog.edits import ParticipantEdit, read_edit, write_edit
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.catalog.pointer import DEFAULT_PREFIX, read_pointer
from ursa_pipelines.catalog.tables.fold import refold, repair
from ursa_pipelines.errors import CatalogError
from ursa_pipelines.maintenance.rebuild import Rebuilt, rebuild
from ursa_pipelines.maintenance.reconciliation import reconcile
from ursa_pipelines.objects.keys import raw_key

NEW = "ursa/catalog-2"
HOST, MOTOR = {"mic/seg_0000.wav": b"audio"}, {"eeg_4559/seg_0000.edf": b"eeg"}
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


def test_what_nobody_has_registered_is_claimed_in_the_live_catalog_and_nothing_else_is_written_there(lab: Lab):
    ingested(lab, 1)
    in_bucket(lab, rec_id(5), HOST)
    # One whose manifest states its hash has no need of it.
    in_bucket(lab, rec_id(6), MOTOR, stated_hash=True)
    before = lab.everything()

    assert run(lab).created == 3
    after = lab.everything()
    assert run(lab).unchanged == 3

    outside = {key: etag for key, etag in after.items() if f"/{NEW}/" not in key}
    claimed = f"{lab.assets.name}/{claim_key(DEFAULT_PREFIX, rec_id(5))}"
    assert outside == before | {claimed: outside[claimed]}
    assert {key: etag for key, etag in lab.everything().items() if f"/{NEW}/" not in key} == outside
    derived = recording_hash_of(HOST)
    assert (read_claim(lab.assets, DEFAULT_PREFIX, rec_id(5)), read_claim(lab.assets, NEW, rec_id(5))) == (derived,) * 2


def test_a_claim_without_an_entry_is_seen_by_nobody(lab: Lab):
    ingested(lab, 1)
    lab.data.fold()
    in_bucket(lab, rec_id(5), HOST)
    seen = seen_of(lab)

    run(lab)

    assert seen_of(lab) == seen
    assert not lab.data.list_recordings({"rec_id": rec_id(5)})
    assert not lab.data.query(metadata={"manifest_recording_id": rec_id(5)})
    assert Catalog.open(lab.assets).entry_of_rec_id(rec_id(5)) is None
    assert [key[1] for key in diff(Catalog.open(lab.assets), new(lab)).tables[0].added] == [rec_id(5)]
    with pytest.raises(CatalogError, match="writer is at work"):
        lab.data.release_claim(rec_id(5))
    lab.check_invariants()
    # It is registered as if it were not there.
    assert lab.data.ingest_from_r2(rec_id=rec_id(5)).outcome == "created"
    assert cutover(lab.assets, NEW, writer=WRITER, reason="test").ok
    assert [row.rec_id for row in lab.interface().list_recordings()] == [rec_id(0), rec_id(5)]
    lab.check_invariants()


def test_what_both_halves_are_registered_as_while_it_runs_is_what_it_comes_to(lab: Lab):
    in_bucket(lab, rec_id(0), HOST)
    registered = list[str]()

    def meanwhile() -> bool:
        # It is asked before each recording, when the claims are carried over already.
        if not registered:
            lab.data.ingest_from_r2(rec_id=rec_id(0))
            half = write_recording(lab.nas, rec_id(0), MOTOR, node="green-motor")
            recording = lab.data.ingest(source_dir=half).recording
            assert recording is not None
            registered.append(recording.recording_hash)
        return False

    assert run(lab, should_pause=meanwhile).ok

    assert registered == [recording_hash_of(HOST)]
    assert diff(Catalog.open(lab.assets), new(lab)).is_empty
    assert cutover(lab.assets, NEW, writer=WRITER, reason="test").ok


def test_a_half_that_is_registered_after_its_recording_was_listed_comes_with_the_cutover(lab: Lab, detour: Detour):
    in_bucket(lab, rec_id(0), HOST)
    lab.data.ingest_from_r2(rec_id=rec_id(0))
    held = detour.proxy.fault = Hold(rf"GET .*/{rec_id(0)}/manifest\.json")
    context = detour.interface().ingest_context(raw_role="raw_ro")
    with ThreadPoolExecutor(1) as pool:
        rebuilt = pool.submit(rebuild, context, Catalog.open(lab.assets), NEW)
        try:
            assert held.reached.wait(60)
            lab.data.ingest(source_dir=write_recording(lab.nas, rec_id(0), MOTOR, node="green-motor"))
        finally:
            detour.proxy.fault = Fault()
            held.ended.set()
    assert rebuilt.result().ok
    assert [row.modality for row in new(lab).list_modalities()] == ["mic"]

    assert cutover(lab.assets, NEW, writer=WRITER, reason="test").ok

    assert sorted(row.modality for row in lab.interface().list_modalities()) == ["eeg", "mic"]
    lab.check_invariants()


@pytest.mark.parametrize("begun", [{"shard": (1, 2)}, {"prefix": "ursa/catalog-3"}], ids=["shards", "two prefixes"])
def test_a_rebuild_in_parts_and_later_halves_come_to_one_hash(lab: Lab, begun: dict[str, Any]):
    for number in range(4):
        in_bucket(lab, rec_id(number), {"mic/seg_0000.wav": b"audio%d" % number})
    run(lab, **begun)
    for number in range(4):
        half = {"eeg_4559/seg_0000.edf": b"eeg%d" % number}
        lab.data.ingest(source_dir=write_recording(lab.nas, rec_id(number), half, node="green-motor"))
    run(lab, **{"shard": (2, 2)} if "shard" in begun else {})
    refold(lab.assets, NEW, by="test")

    for prefix in (NEW, begun.get("prefix", NEW)):
        assert cutover(lab.assets, prefix, writer=WRITER, reason="test").conflicts == ()
        rows = lab.interface().list_recordings()
        assert [(row.rec_id, (row.metadata or {})["files"]) for row in rows] == [(rec_id(n), 2) for n in range(4)]
        lab.check_invariants()


def test_the_same_content_under_another_name_leaves_no_claim(lab: Lab):
    in_bucket(lab, rec_id(0), HOST)
    lab.data.ingest_from_r2(rec_id=rec_id(0))
    in_bucket(lab, rec_id(1), HOST)

    rebuilt = run(lab)

    assert [name for name, _ in rebuilt.failed] == [rec_id(1)]
    assert read_claim(lab.assets, DEFAULT_PREFIX, rec_id(1)) is None


@pytest.mark.parametrize("damaged", ["claim", "catalog", "entry"])
def test_a_live_catalog_that_is_damaged_decides_nothing_and_is_left_as_it_is(lab: Lab, damaged: str):
    in_bucket(lab, rec_id(0), HOST)
    derived = recording_hash_of(HOST)
    # Opened before: it is not opened for writing where the version is not known.
    lab.data.ingest_context()
    if damaged == "claim":
        lab.assets.create(claim_key(DEFAULT_PREFIX, rec_id(0)), b"[" * 100_000)
    elif damaged == "entry":
        lab.assets.create(f"{DEFAULT_PREFIX}/entries/{derived[:2]}/{derived}.json", b"{")
    else:
        lab.assets.multipart_client.delete_object(Bucket=lab.assets.name, Key=f"{DEFAULT_PREFIX}/CATALOG.json")
    before = lab.everything()

    rebuilt = run(lab)

    assert [name for name, _ in rebuilt.without_live] == [rec_id(0)]
    assert [row.recording_hash for row in new(lab).list_recordings()] == [derived]
    assert {key: etag for key, etag in lab.everything().items() if f"/{NEW}/" not in key} == before


def test_nothing_is_claimed_in_a_live_catalog_that_a_newer_version_has_taken_over(lab: Lab):
    in_bucket(lab, rec_id(0), HOST)
    lab.data.ingest_context()
    key = f"{DEFAULT_PREFIX}/CATALOG.json"
    raw, info = lab.assets.get(key)
    lab.assets.replace(key, json.dumps(json.loads(raw) | {"version": 3}).encode(), info.etag)
    before = lab.everything()

    rebuilt = run(lab)

    assert [name for name, _ in rebuilt.failed] == [rec_id(0)]
    assert "unknown version 3" in rebuilt.failed[0][1]
    assert {key: etag for key, etag in lab.everything().items() if f"/{NEW}/" not in key} == before


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


def in_bucket(lab: Lab, name: str, files: dict[str, bytes], *, stated_hash: bool = False) -> None:
    """As a rig leaves it, which uploads without registering."""
    manifest = json.dumps(manifest_of(name, files, stated_hash=stated_hash)).encode()
    for path, content in (files | {"manifest.json": manifest}).items():
        lab.raw.create(raw_key(name, path), content)


def seen_of(lab: Lab) -> list[object]:
    """What those tell of the live catalog who look at all of it."""
    return [
        lab.data.list_recordings(),
        list(reconcile(lab.data.reading_context, lab.data.sources)),
        repair(lab.assets, DEFAULT_PREFIX, by="test").entries,
    ]


def new(lab: Lab) -> Catalog:
    return Catalog.open(lab.assets, prefix=NEW)


def entries_of(lab: Lab) -> dict[str, str]:
    return {info.key: info.etag for info in lab.assets.list_objects(f"{NEW}/entries/")}


def rec_id(number: int) -> str:
    return f"rec_20260520_1956{number:02d}_{number:04x}"

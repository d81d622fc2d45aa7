"""What a plan says of a recording: it agrees with what the ingest then does, and nothing is written for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import media_files
from tests.faults.detour import Detour
from tests.faults.proxy import Refuse
from tests.ingest.rig import upload_as_rig
from tests.ingest.test_batch import Outage
from tests.ingest.test_two_halves import HOST, MOTOR, node_manifests_of_both, own_manifests
from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, recording_hash_of, write_recording
from tests.snapshot import snapshot
from ursa_pipelines.catalog.claims import claim_key
from ursa_pipelines.errors import ObjectConflict, RecordingIncomplete, RecordingNotSettled
from ursa_pipelines.ingest.plan import IngestPlan, plan_many
from ursa_pipelines.ingest.targets import Targets

REC, OTHER = "rec_20260520_195628_b1dd", "rec_20260521_080000_c0de"
VIDEO, AUDIO = "camera_a/seg_0000.mp4", "mic/seg_0000.wav"
FILES = {VIDEO: b"video" * 100, AUDIO: b"audio" * 10}
SIZE = 550


def plan_of(lab: Lab, *what: Path | str, overwrite: bool = False, allow_partial: bool = False) -> IngestPlan:
    """The plan of the one recording that is meant."""
    reading = lab.interface(writes=False)
    (plan,) = reading.plan_many(what, overwrite=overwrite, allow_partial=allow_partial)
    return plan


def test_a_new_recording_is_told_with_all_that_will_be_sent(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")

    plan = plan_of(lab, directory)

    assert plan == IngestPlan(
        REC,
        path="A",
        files=2,
        bytes=SIZE,
        files_to_send=2,
        bytes_to_send=SIZE,
        directories=(str(directory),),
        action="ingest",
        nodes=("green-mantis",),
        fingerprint=plan.fingerprint,
        source=plan.source,
    )
    assert plan.source
    assert plan.fingerprint.startswith("4-")


def test_a_plan_writes_nothing_anywhere_and_reads_no_segment(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, manifest=False)
    before = snapshot(lab.nas), lab.everything()
    for path in FILES:
        (directory / path).chmod(0)

    plan = plan_of(lab, directory)
    for path in FILES:
        (directory / path).chmod(0o644)

    assert (plan.action, plan.path, plan.bytes_to_hash) == ("ingest", "C+A", SIZE)
    assert (snapshot(lab.nas), lab.everything()) == before


def test_a_registered_recording_needs_nothing_and_its_entry_is_named(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    (item,) = lab.data.ingest_many([directory])

    plan = plan_of(lab, directory)

    assert (plan.action, plan.files_to_send, plan.bytes_to_send) == ("nothing", 0, 0)
    assert plan.recording_hash == item.recording_hash
    assert plan.entry == f"{item.recording_hash}@1"
    assert "Aria" not in repr(plan)


@pytest.mark.parametrize("manifest", [True, False], ids=["attested", "without a manifest"])
def test_nothing_is_said_only_of_what_an_ingest_leaves_as_it_is(lab: Lab, manifest: bool):
    directory = write_recording(lab.nas, REC, FILES, manifest=manifest)
    lab.data.ingest_many([directory])
    before = lab.everything()

    assert plan_of(lab, directory).action == "nothing"
    lab.interface().ingest_many([directory])

    assert lab.everything() == before


@pytest.mark.parametrize("manifest", [False, {"files": []}], ids=["without a manifest", "stub"])
def test_nothing_is_not_said_of_a_file_whose_bytes_are_not_known_to_be_those_that_are_stored(
    lab: Lab, manifest: bool | dict
):
    directory = write_recording(lab.nas, REC, FILES, manifest=manifest)
    lab.data.ingest_many([directory])
    assert plan_of(lab, directory).action == "nothing"
    write_recording(lab.nas, REC, {AUDIO: b"AUDIO" * 10}, manifest=False)

    assert plan_of(lab, directory).action == "ingest"
    (item,) = lab.interface().ingest_many([directory])

    assert (item.status, item.error_type) == ("FAIL", "RecordingConflict")


def test_a_participant_file_that_the_bucket_lacks_is_something_to_do(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    lab.data.ingest_many([directory])
    assert plan_of(lab, directory).action == "nothing"
    (directory / "participant.txt").write_text("Aria Lin \n\n")

    assert plan_of(lab, directory).action == "ingest"
    lab.interface().ingest_many([directory])

    assert plan_of(lab, directory).action == "nothing"


def test_what_came_since_is_all_that_is_sent(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    lab.data.ingest_many([directory])
    (directory / "mic" / "seg_0001.wav").write_bytes(b"more")

    plan = plan_of(lab, directory)
    (item,) = lab.data.ingest_many([directory])

    assert (plan.action, plan.files, plan.files_to_send, plan.bytes_to_send, plan.bytes_to_hash) == (
        "ingest",
        3,
        1,
        4,
        4,
    )
    assert (item.files_uploaded, item.bytes_uploaded) == (1, 4)


def test_a_new_participant_is_something_to_do_although_nothing_is_sent(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    lab.data.ingest_many([directory])
    (directory / "participant.txt").write_text("Aria Lin\n")

    plan = plan_of(lab, directory)

    assert (plan.action, plan.files_to_send) == ("ingest", 0)


def test_bytes_that_a_rig_has_sent_are_not_sent_again_but_registered(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    upload_as_rig(lab, directory)

    plan, copy = plan_of(lab, directory), plan_of(lab, OTHER)

    assert (plan.action, plan.files_to_send, plan.entry) == ("ingest", 0, "")
    assert (copy.action, copy.error_type) == ("refused", "SourceNotFound")


@pytest.mark.parametrize(("except_for", "path", "to_hash"), [(None, "B", 0), ("manifest.json", "C+B", SIZE)])
def test_the_copy_in_the_bucket_is_planned_by_its_rec_id(
    lab: Lab, tmp_path: Path, except_for: str | None, path: str, to_hash: int
):
    upload_as_rig(lab, write_recording(tmp_path / "rig", REC, FILES), except_for=except_for)

    plan = plan_of(lab, REC)
    (item,) = lab.data.ingest_many([plan])

    assert (plan.action, plan.path, plan.files, plan.bytes) == ("ingest", path, 2, SIZE)
    assert (plan.files_to_send, plan.bytes_to_hash, plan.directories) == (0, to_hash, ())
    assert any("the bucket has no manifest" in note for note in plan.notes) == (path == "C+B")
    assert (item.status, item.path) == ("OK", path)
    assert plan_of(lab, REC).action == "nothing"


def test_a_person_who_names_a_recording_without_a_manifest_in_the_bucket_does_not_wait(lab: Lab, tmp_path: Path):
    profile = lab.config.read_text().replace("reconstruct_after_bucket: 0", "reconstruct_after_bucket: 86400")
    lab.config.write_text(profile)
    upload_as_rig(lab, write_recording(tmp_path / "rig", REC, FILES), except_for="manifest.json")

    (item,) = lab.interface().ingest_many([REC])

    assert (item.status, item.path) == ("OK", "C+B")


def test_halves_are_one_recording_whose_nodes_are_told(lab: Lab):
    halves = node_manifests_of_both(lab)

    one, both = plan_of(lab, halves.motor), plan_of(lab, halves.host, halves.motor)

    assert (one.nodes, one.nodes_missing, one.files, one.files_absent) == ((MOTOR,), (HOST,), 2, 2)
    assert (both.nodes, both.nodes_missing, both.files, both.files_absent) == ((HOST, MOTOR), (), 4, 0)
    assert both.directories == (str(halves.host), str(halves.motor))
    assert both.fingerprint.count("+") == 1


def test_a_late_half_is_something_to_do_and_both_are_then_done(lab: Lab):
    halves = own_manifests(lab)
    lab.data.ingest_many([halves.host])

    late = plan_of(lab, halves.motor)
    lab.data.ingest_many([halves.motor])

    assert (late.action, late.files_to_send) == ("ingest", 2)
    assert [plan_of(lab, half).action for half in (halves.host, halves.motor)] == ["nothing", "nothing"]


def test_copies_are_counted_once(lab: Lab):
    copies = [write_recording(root, REC, FILES) for root in (lab.nas, lab.usb)]

    plan = plan_of(lab, *copies)

    assert (plan.files, plan.bytes, plan.bytes_to_send) == (2, SIZE, SIZE)


def test_without_a_name_all_sources_are_planned(lab: Lab):
    for root, rec_id in ((lab.nas, REC), (lab.usb, OTHER)):
        write_recording(root, rec_id, {AUDIO: rec_id.encode()})
    told: list[str] = []

    plans = lab.data.plan_many(on_planned=lambda plan: told.append(plan.rec_id))

    assert [plan.rec_id for plan in plans] == [REC, OTHER] == sorted(told)


# What is refused or waits


def other_size_in_the_bucket(lab: Lab, directory: Path) -> None:
    lab.raw.create(f"recordings/{REC}/{VIDEO}", b"another")


def other_digest_in_the_marker(lab: Lab, directory: Path) -> None:
    there = lab.raw.create(f"recordings/{REC}/{VIDEO}", b"VIDEO" * 100)
    files = {VIDEO: {"size_bytes": 500, "sha256": "b" * 64, "etag": there.etag}}
    document = {"format": "ursa_pipelines/1", "recording_hash": "a" * 64, "files": files}
    lab.raw.create(f"manifests/{REC}/manifest.json", json.dumps(document).encode())


def other_manifest_in_the_bucket(lab: Lab, directory: Path) -> None:
    document = manifest_of(REC, FILES | {VIDEO: b"VIDEO" * 100})
    lab.raw.create(f"recordings/{REC}/manifest.json", json.dumps(document).encode())


def other_copy_on_a_drive(lab: Lab, directory: Path) -> None:
    write_recording(lab.usb, REC, FILES | {VIDEO: b"another"}, manifest=False)
    (directory / "manifest.json").unlink()


def same_content_registered_under_another_name(lab: Lab, directory: Path) -> None:
    lab.data.ingest_many([write_recording(lab.usb, OTHER, FILES)])


def stated_hash_that_is_another_recordings(lab: Lab, directory: Path) -> None:
    theirs = write_recording(lab.usb, OTHER, {AUDIO: b"theirs"}, manifest={"recording_hash": "c" * 64})
    lab.data.ingest_many([theirs])
    write_recording(lab.nas, REC, FILES, manifest={"recording_hash": "c" * 64})


def rec_id_registered_with_another_hash(lab: Lab, directory: Path) -> None:
    lab.data.ingest_many([directory])
    write_recording(lab.nas, REC, FILES, manifest={"recording_hash": "d" * 64})


def damaged_claim(lab: Lab, directory: Path) -> None:
    lab.assets.create(claim_key(lab.data.catalog.prefix, REC), b"not json")


def damaged_manifest(lab: Lab, directory: Path) -> None:
    (directory / "manifest.json").write_text("{")


def missing_file(lab: Lab, directory: Path) -> None:
    (directory / VIDEO).unlink()


def no_directory(lab: Lab, directory: Path) -> None:
    directory.rename(directory.with_name("gone"))


@pytest.mark.parametrize(
    ("spoil", "error_type", "told"),
    [
        (other_size_in_the_bucket, "ObjectConflict", "the bucket has 7 bytes under this path, not 500"),
        (other_digest_in_the_marker, "ObjectConflict", f"SHA-256 {'b' * 64}"),
        (other_manifest_in_the_bucket, "RecordingConflict", "the bucket's manifests say otherwise"),
        (other_copy_on_a_drive, "RecordingConflict", "in one of its directories"),
        (same_content_registered_under_another_name, "RecordingConflict", f"already catalogued as {OTHER}"),
        (stated_hash_that_is_another_recordings, "RecordingConflict", f"already catalogued as {OTHER}"),
        (rec_id_registered_with_another_hash, "RecordingConflict", "is registered"),
        (damaged_claim, "CatalogError", "the claim of the rec_id is damaged"),
        (damaged_manifest, "ManifestInvalid", "manifest.json"),
        (missing_file, "RecordingIncomplete", VIDEO),
        (no_directory, "SourceNotFound", "does not exist"),
    ],
    ids=lambda one: one.__name__ if callable(one) else None,
)
def test_a_conflict_is_refused_with_its_reason_before_anything_is_written(lab: Lab, spoil, error_type: str, told: str):
    directory = write_recording(lab.nas, REC, FILES)
    spoil(lab, directory)
    before = lab.everything()
    what = [root / REC for root in (lab.nas, lab.usb) if root == lab.nas or (root / REC).exists()]

    plan = plan_of(lab, *what)

    assert (plan.action, plan.error_type) == ("refused", error_type)
    assert told in plan.reason
    assert REC in plan.reason
    assert plan.remedy
    assert lab.everything() == before
    (item,) = lab.interface().ingest_many(what)
    assert item.status == "FAIL", "a plan that refuses is right"


def test_rows_that_differ_are_refused_without_overwrite(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    lab.data.ingest_many([directory])
    row = lab.data.list_recordings()[0]
    lab.data.register_recording(
        recording_hash=row.recording_hash,
        start_time=row.start_time,
        duration=row.duration * 2,
        device_info=row.device_info,
        metadata=row.metadata,
        on_conflict="overwrite",
    )

    refused, replaced = plan_of(lab, directory), plan_of(lab, directory, overwrite=True)

    assert (refused.action, refused.error_type) == ("refused", "CatalogRowExists")
    assert "--overwrite" in refused.remedy
    assert replaced.action == "ingest"


def test_a_partial_recording_is_refused_with_what_is_there_and_allowed_on_the_operators_word(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    missing_file(lab, directory)

    refused, allowed = plan_of(lab, directory), plan_of(lab, directory, allow_partial=True)

    assert (refused.action, refused.files, refused.files_absent) == ("refused", 1, 1)
    assert (allowed.action, allowed.files, allowed.files_absent) == ("ingest", 1, 1)
    assert any(VIDEO in note for note in allowed.notes)


def test_a_recording_that_is_being_written_waits(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    (directory / "session.lock").touch()

    plan = plan_of(lab, directory)

    assert (plan.action, plan.error_type) == ("waits", "RecordingNotSettled")
    assert "session.lock" in plan.reason


def test_a_copy_in_the_bucket_that_is_still_being_written_waits(lab: Lab, tmp_path: Path):
    upload_as_rig(lab, write_recording(tmp_path / "rig", REC, FILES | {"session.lock": b""}, manifest=False))

    assert plan_of(lab, REC).action == "waits"


def test_a_file_that_is_still_growing_waits(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, age_s=0)
    (directory / VIDEO).write_bytes(b"vid")

    assert plan_of(lab, directory).action == "waits"


def test_a_plan_of_one_raises_what_an_ingest_would(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)

    missing_file(lab, directory)
    with pytest.raises(RecordingIncomplete):
        lab.data.plan(directory)
    (directory / "session.lock").touch()
    with pytest.raises(RecordingNotSettled):
        lab.data.plan(directory)
    other = write_recording(lab.usb, REC, FILES)
    other_size_in_the_bucket(lab, other)
    with pytest.raises(ObjectConflict):
        lab.data.plan(other)


def test_one_that_cannot_be_planned_does_not_stop_the_others(lab: Lab):
    good = write_recording(lab.nas, REC, FILES)
    targets = Targets({"\0": (lab.nas / "\0",), OTHER: (lab.nas / OTHER,), REC: (good,)}, {})

    plans = plan_many(lab.data.reading_context, targets)

    assert [plan.action for plan in plans] == ["refused", "refused", "ingest"]


def test_a_store_that_refuses_is_told_for_each_recording(lab: Lab, detour: Detour):
    directory = write_recording(lab.nas, REC, FILES)
    data = detour.interface()
    assert data.plan(directory).action == "ingest"
    detour.proxy.fault = Refuse("GET", 403, "AccessDenied")

    (plan,) = data.plan_many([directory])

    assert (plan.action, plan.error_type) == ("refused", "StoreDenied")
    assert plan.remedy


def test_a_short_outage_of_the_store_refuses_nothing(lab: Lab, detour: Detour):
    directory = write_recording(lab.nas, REC, FILES)
    data = detour.interface()
    assert data.plan(directory).action == "ingest"
    outage = detour.proxy.fault = Outage(answers=True)

    (plan,) = data.plan_many([directory])

    assert plan.action == "ingest"
    assert outage.met > 0


# What is noted


def test_notes_tell_of_clutter_and_of_what_changed_just_now(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES | {"._seg": b"", ".DS_Store": b""}, manifest=False)

    plan = plan_of(lab, directory)

    assert plan.files_ignored == 2
    assert "ignored: 2 files (.DS_Store, ._seg)" in plan.notes
    assert any(note.startswith("changed 0 s ago: wait if it is still being copied") for note in plan.notes)


def test_media_that_are_cut_off_are_told_before_and_after_the_ingest(lab: Lab):
    lab.config.write_text(lab.config.read_text().replace("media_probe: false", "media_probe: true"))
    cut = {f"mic/seg_{number:04d}.wav": media_files.wav()[:-100] for number in range(22)}
    directory = write_recording(lab.nas, REC, cut)
    data = lab.interface()

    (plan,) = data.plan_many([directory])
    (item,) = data.ingest_many([plan])

    assert (plan.action, item.status) == ("ingest", "OK")
    assert plan.notes[0] == "mic/seg_0000.wav: truncated: 100 bytes are missing at its end"
    assert plan.notes[20:] == ("and 2 more media files",)
    assert item.warnings == plan.notes
    assert data.plan_many([directory])[0].action == "nothing"
    data.close()


def test_a_recording_that_its_manifest_attests_needs_no_rest(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, age_s=0)

    assert plan_of(lab, directory).notes == ()


# What is compared before a plan is applied


def test_what_is_compared_changes_with_what_it_stands_for(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    first = plan_of(lab, directory)

    (directory / "mic" / "seg_0001.wav").write_bytes(b"more")
    grown = plan_of(lab, directory)
    lab.raw.create(f"recordings/{REC}/{AUDIO}", FILES[AUDIO])
    sent = plan_of(lab, directory)
    lab.data.ingest_many([directory])
    registered = plan_of(lab, directory)

    assert first.fingerprint != grown.fingerprint == sent.fingerprint == registered.fingerprint
    assert first.stored == grown.stored == ""
    assert len({grown.stored, sent.stored, registered.stored}) == 3
    assert first.entry == sent.entry == ""
    assert registered.entry


def test_a_stated_hash_is_not_made_up_from_digests(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, stated_hash=True)
    lab.data.ingest_many([directory])

    assert plan_of(lab, directory).recording_hash == recording_hash_of(FILES)


def test_a_recording_costs_few_requests(lab: Lab, detour: Detour):
    directories = [write_recording(lab.nas, rec_id, {AUDIO: rec_id.encode()}) for rec_id in (REC, OTHER)]
    lab.data.ingest_many(directories)
    data = detour.interface()
    data.plan_many(directories[:1])
    before = len(detour.proxy.seen)

    data.plan_many(directories[1:])

    assert len(detour.proxy.seen) - before <= 6

"""A plan in a file: what may stand in one, and that it is applied as it was looked at or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ingest.rig import upload_as_rig
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import DataInterface
from ursa_pipelines.errors import PlanDrifted, PlanInvalid
from ursa_pipelines.ingest import plan_file
from ursa_pipelines.ingest.plan import IngestPlan
from ursa_pipelines.ingest.plan_file import PlanFile, drift, read_plan, require_no_drift, write_plan

REC, OTHER = "rec_20260520_195628_b1dd", "rec_20260521_080000_c0de"
VIDEO, AUDIO = "camera_a/seg_0000.mp4", "mic/seg_0000.wav"
FILES = {VIDEO: b"video" * 100, AUDIO: b"audio" * 10}


def planned(lab: Lab, path: Path, *what: Path | str) -> PlanFile:
    """A plan that was written and read again."""
    write_plan(lab.data.plan_file(lab.data.plan_many(what)), path)
    return read_plan(path)


def drifted(lab: Lab, before: PlanFile) -> list[str]:
    """What has changed since."""
    return [str(one) for one in drift(before, lab.interface().plan_again(before))]


def test_a_plan_is_read_as_it_was_written(lab: Lab, tmp_path: Path):
    write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    (lab.nas / OTHER).mkdir()
    plan = lab.data.plan_file(lab.data.plan_many([lab.nas]), overwrite=True)

    write_plan(plan, tmp_path / "plan.json")

    assert read_plan(tmp_path / "plan.json") == plan
    assert [one.rec_id for one in plan.to_ingest] == [REC]
    assert "Aria" not in (tmp_path / "plan.json").read_text()
    assert [path.name for path in tmp_path.glob("*plan.json*")] == ["plan.json"]


def test_a_plan_of_which_nothing_drifted_is_applied(lab: Lab, tmp_path: Path):
    directory = write_recording(lab.nas, REC, FILES)
    before = planned(lab, tmp_path / "plan.json", directory)

    now = lab.data.plan_again(before)
    require_no_drift(drift(before, now))
    (item,) = lab.data.ingest_many(now.to_ingest)

    assert (item.status, item.files_uploaded) == ("OK", before.to_ingest[0].files_to_send)


def file_added(lab: Lab, directory: Path) -> None:
    (directory / "mic" / "seg_0001.wav").write_bytes(b"more")
    (directory / "mic" / "seg_0002.wav").write_bytes(b"even more")


def file_removed(lab: Lab, directory: Path) -> None:
    (directory / AUDIO).unlink()


def file_touched(lab: Lab, directory: Path) -> None:
    os.utime(directory / AUDIO)


def directory_removed(lab: Lab, directory: Path) -> None:
    directory.rename(lab.nas / "elsewhere")


def recording_again(lab: Lab, directory: Path) -> None:
    (directory / "session.lock").touch()


def bytes_sent_meanwhile(lab: Lab, directory: Path) -> None:
    upload_as_rig(lab, directory, except_for=VIDEO)


def registered_meanwhile(lab: Lab, directory: Path) -> None:
    lab.interface().ingest_many([directory])


def same_content_registered(lab: Lab, directory: Path) -> None:
    lab.interface().ingest_many([write_recording(lab.usb, OTHER, FILES)])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (file_added, [f"{REC}: source: 2 files more than planned, 13 bytes more than planned"]),
        (file_removed, [f"{REC}: source: 1 file fewer than planned, 50 bytes fewer than planned"]),
        (file_touched, [f"{REC}: source: files have changed since"]),
        (directory_removed, [f"{REC}: source: /"]),
        (recording_again, [f"{REC}: source: /"]),
        (bytes_sent_meanwhile, [f"{REC}: bucket: 1 of its files are there that were not"]),
        (
            registered_meanwhile,
            [
                f"{REC}: bucket: 2 of its files are there that were not",
                f"{REC}: catalog: it is registered meanwhile",
            ],
        ),
        (same_content_registered, [f"{REC}: catalog: the same content is already catalogued as {OTHER}"]),
    ],
    ids=lambda one: one.__name__ if callable(one) else None,
)
def test_what_drifted_is_told_in_words(lab: Lab, tmp_path: Path, change: Callable[[Lab, Path], None], told: list[str]):
    directory = write_recording(lab.nas, REC, FILES, manifest=change is not file_removed)
    before = planned(lab, tmp_path / "plan.json", directory)

    change(lab, directory)
    found = drifted(lab, before)

    assert len(found) == len(told)
    assert all(one.startswith(words) for one, words in zip(found, told, strict=True)), found


def in_place(path: Path, content: bytes) -> None:
    """Other bytes, as many, with the mtime of those that were there."""
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size


def renamed(lab: Lab, directory: Path) -> None:
    (directory / AUDIO).rename(directory / "mic" / "seg_0009.wav")


def swapped(lab: Lab, directory: Path) -> None:
    for path, other in ((AUDIO, "aside"), (VIDEO, AUDIO), ("aside", VIDEO)):
        (directory / path).rename(directory / other)


def bytes_replaced(lab: Lab, directory: Path) -> None:
    in_place(directory / AUDIO, b"AUDIO" * 10)


def participant_replaced(lab: Lab, directory: Path) -> None:
    in_place(directory / "participant.txt", b"Bria Lin\n")


def manifest_replaced(lab: Lab, directory: Path) -> None:
    path = directory / "manifest.json"
    in_place(path, path.read_bytes().replace(b"green-mantis", b"green-mantiz"))


@pytest.mark.parametrize("change", [renamed, swapped, bytes_replaced, participant_replaced, manifest_replaced])
def test_a_change_that_neither_count_nor_size_nor_newest_time_shows_is_drift(
    lab: Lab, tmp_path: Path, change: Callable[[Lab, Path], None]
):
    # A manifest would tell of the others.
    directory = write_recording(lab.nas, REC, FILES, manifest=change is manifest_replaced, participant="Aria Lin")
    before = planned(lab, tmp_path / "plan.json", directory)
    assert drifted(lab, before) == []

    change(lab, directory)

    assert [one.split(":")[1] for one in drifted(lab, before)] == [" source"]


def test_what_changes_after_the_last_look_is_refused_for_that_recording(lab: Lab, tmp_path: Path):
    directories = [write_recording(lab.nas, rec_id, {AUDIO: rec_id.encode()}) for rec_id in (REC, OTHER)]
    before = planned(lab, tmp_path / "plan.json", *directories)
    participant_added = directories[0] / "participant.txt"
    participant_added.write_text("Aria Lin\n")

    refused, done = lab.data.ingest_many(before.to_ingest, as_planned=True)

    assert (refused.status, refused.error_type, refused.retryable) == ("FAIL", "PlanDrifted", False)
    assert f"{REC}: the source is not as planned any more" in refused.reason
    assert (done.rec_id, done.status) == (OTHER, "OK")
    assert lab.objects(REC) == {}


def test_a_plan_keeps_what_it_leaves_out(lab: Lab, tmp_path: Path):
    waiting = write_recording(lab.nas, REC, FILES)
    (waiting / "session.lock").touch()
    plans = [*lab.data.plan_many([waiting]), *(IngestPlan("no rec id", action="refused", reason="none") for _ in "ab")]

    write_plan(lab.data.plan_file(plans, unavailable={"usb": "it is not mounted"}), tmp_path / "plan.json")
    plan = read_plan(tmp_path / "plan.json")

    assert [(one.rec_id, one.action) for one in plan.left_out] == [(REC, "waits"), ("no rec id", "refused")]
    assert plan.unavailable == {"usb": "it is not mounted"}
    assert plan.to_ingest == []


def test_a_row_that_was_changed_meanwhile_is_drift(lab: Lab, tmp_path: Path):
    directory = write_recording(lab.nas, REC, FILES)
    lab.data.ingest_many([directory])
    (directory / "participant.txt").write_text("Aria Lin\n")
    before = planned(lab, tmp_path / "plan.json", directory)
    assert before.to_ingest

    row = lab.data.list_recordings()[0]
    lab.data.register_recording(
        recording_hash=row.recording_hash,
        start_time=row.start_time,
        duration=row.duration * 2,
        metadata=row.metadata,
        on_conflict="extend",
    )

    assert f"{REC}: catalog: its rows were changed meanwhile" in drifted(lab, before)


def test_what_a_plan_would_not_ingest_may_change(lab: Lab, tmp_path: Path):
    waiting = write_recording(lab.nas, REC, FILES)
    (waiting / "session.lock").touch()
    before = planned(lab, tmp_path / "plan.json", waiting)

    (waiting / "session.lock").unlink()

    assert drifted(lab, before) == []


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("profile", "r2", "the plan is for r2, this is lab. If r2 is meant, say so: `--profile r2`"),
        ("family", "production", "the plan is for the family production, this is local"),
        ("buckets", {"raw": "theirs", "assets": "theirs-too"}, "the buckets theirs-too, theirs, these are"),
        ("endpoint", "0123456789abcdef", "another object store"),
        ("catalog_prefix", "ursa/catalog-2", "catalog: the live catalog is"),
    ],
)
def test_a_plan_for_another_place_is_never_applied(lab: Lab, tmp_path: Path, field: str, value: Any, told: str):
    before = planned(lab, tmp_path / "plan.json", write_recording(lab.nas, REC, FILES))

    with pytest.raises(PlanDrifted, match=told) as raised:
        lab.data.plan_again(before.model_copy(update={field: value}))

    assert "ursa plan --out" in raised.value.remedy


def test_an_endpoint_is_compared_but_never_written(lab: Lab, tmp_path: Path):
    document = yaml.safe_load(lab.config.read_text()) | {"store": "s3", "endpoint": "https://account.example.com"}
    document["credentials"] = {
        role: {"access_key_id": "op://v/i/id", "secret_access_key": "op://v/i/key"}
        for role in ("assets_ro", "assets_rw", "raw_ro", "raw_rw")
    }
    lab.config.write_text(yaml.safe_dump(document | {"catalog_prefix": "ursa/catalog"}))
    elsewhere = DataInterface(config_path=lab.config)
    elsewhere.__dict__["catalog"] = lab.data.catalog

    there, here = elsewhere.plan_file([]), lab.data.plan_file([])

    assert there.endpoint != here.endpoint
    assert "account" not in there.model_dump_json()


def test_drift_of_many_is_told_within_a_screen():
    found = [plan_file.Drift(f"rec_20260520_1956{number:02d}_b1dd", "source", "files") for number in range(9)]

    with pytest.raises(PlanDrifted, match="and 4 more") as raised:
        require_no_drift(found)

    assert raised.value.problem.count("rec_") == 5
    require_no_drift([])


# What is no plan


Spoil = Callable[[dict[str, Any]], Any]

PLAN = PlanFile(
    profile="lab",
    family="local",
    buckets={"raw": "recordings", "assets": "rows"},
    endpoint="0123456789abcdef",
    catalog_prefix="ursa/catalog",
    made_at=datetime(2026, 5, 20, tzinfo=UTC),
    made_by="lena@rig",
    recordings=[IngestPlan(REC, path="A", files=2, bytes=550, directories=(f"/nas/{REC}",), notes=("a note",))],
)


def _with(**changes: Any) -> Spoil:
    return lambda document: {**document, **changes}


def _first(**changes: Any) -> Spoil:
    return lambda document: {**document, "recordings": [{**document["recordings"][0], **changes}]}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda document: [], "should be an object"),
        (_with(format="ursa_plan/2"), "format"),
        (_with(surprise=1), "surprise"),
        (_with(overwrite="yes"), "overwrite"),
        (_with(made_at="yesterday"), "made_at"),
        (_with(profile="\x1b[31mr2"), "profile: it holds the control, bidi or invisible character U+001B"),
        (_with(recordings={}), "recordings"),
        (lambda document: document | {"recordings": document["recordings"] * 2}, "is planned twice"),
        (_first(rec_id="rec_20260520_195628_B1DD"), "its rec_id is none"),
        (_first(action="delete"), "recordings.0.action"),
        (_first(files="2"), "recordings.0.files"),
        (_first(files=-1), "no count of files or bytes"),
        (_first(bytes_to_send=2**63), "no count of files or bytes"),
        (_first(surprise=1), "recordings.0.surprise"),
        (_first(reason="one\nother"), "recordings.0.reason"),
        (_first(notes=["\u202eevil"]), "recordings.0.notes"),
        (_first(directories=[f"nas/{REC}"]), "not named by its full path"),
        (_first(directories=[f"/nas/../{REC}"]), "not named by its full path"),
        (_first(directories=[f"/nas/{REC}/"]), "not named by its full path"),
        (_first(directories=[f"C:\\nas\\{REC}"]), "not named by its full path"),
        (_first(directories=["/etc"]), f"is not {REC}'s"),
    ],
)
def test_what_is_no_plan_is_refused_and_its_place_named(tmp_path: Path, spoil: Spoil, told: str):
    path = tmp_path / "plan.json"
    write_plan(PLAN, path)
    assert read_plan(path) == PLAN
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))

    with pytest.raises(PlanInvalid) as raised:
        read_plan(path)

    assert told in str(raised.value)
    assert str(path) in str(raised.value)
    assert str(raised.value).isprintable()
    assert "ursa plan --out" in raised.value.remedy


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": NaN}', b"null"])
def test_bytes_that_are_no_plan_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / "plan.json").write_bytes(content)

    with pytest.raises(PlanInvalid):
        read_plan(tmp_path / "plan.json")


def test_what_is_no_file_of_a_reasonable_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plan_file, "PLAN_BYTES_LIMIT", 1000)
    (tmp_path / "large.json").write_bytes(b" " * 1001)
    os.mkfifo(tmp_path / "pipe.json")

    for name, told in (("large.json", "more than 1,000"), ("pipe.json", "no regular"), ("none.json", "No such file")):
        with pytest.raises(PlanInvalid, match=told):
            read_plan(tmp_path / name)
    with pytest.raises(PlanInvalid):
        read_plan(tmp_path)
    with pytest.raises(PlanInvalid):
        read_plan(tmp_path / "with\0nul")


def test_a_plan_is_not_written_where_nothing_is_ever_written(lab: Lab, tmp_path: Path):
    directory = write_recording(lab.nas, REC, FILES)
    plan = lab.data.plan_file(lab.data.plan_many([directory]))
    os.mkfifo(tmp_path / "pipe")

    (tmp_path / "link").symlink_to(directory)
    for place in (directory, tmp_path / "link", write_recording(tmp_path / "drive", OTHER, FILES) / "mic", lab.usb):
        with pytest.raises(PlanInvalid, match="where nothing is ever written"):
            write_plan(plan, place / "plan.json", sources=[lab.nas, lab.usb])
        assert not (place / "plan.json").exists()
    with pytest.raises(PlanInvalid, match="no file"):
        write_plan(plan, tmp_path / "pipe")
    with pytest.raises(OSError, match="No such file"):
        write_plan(plan, tmp_path / "nowhere" / "plan.json")


def test_a_plan_of_a_hundred_thousand_recordings_can_be_read_again(tmp_path: Path):
    def one(number: int) -> IngestPlan:
        rec_id = f"rec_20260520_195628_{number:06x}"
        return replace(
            IngestPlan(rec_id, path="A", files=5, bytes=10**9, files_to_send=5, bytes_to_send=10**9),
            directories=tuple(f"/{drive * 60}/{rec_id}" for drive in "ab"),
            nodes=("green-mantis", "green-motor"),
            notes=("ignored: 2 files (.DS_Store, camera_a/._seg_0000.mp4)",),
            fingerprint="6-1000000000-1795410113811545787",
            source="0" * 32,
            stored="0" * 16,
        )

    write_plan(PLAN.model_copy(update={"recordings": [one(number) for number in range(1000)]}), tmp_path / "plan.json")

    assert (tmp_path / "plan.json").stat().st_size * 100 < plan_file.PLAN_BYTES_LIMIT
    assert len(read_plan(tmp_path / "plan.json").recordings) == 1000


def test_a_plan_too_large_to_be_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plan_file, "PLAN_BYTES_LIMIT", 300)

    with pytest.raises(PlanInvalid, match="Plan fewer"):
        write_plan(PLAN, tmp_path / "plan.json")

    assert list(tmp_path.iterdir()) == []


def test_a_drive_whose_name_has_a_space_that_does_not_break_is_planned(lab: Lab, tmp_path: Path):
    directory = write_recording(tmp_path / "My\u00a0Drive", REC, FILES)

    assert planned(lab, tmp_path / "plan.json", directory).to_ingest[0].directories == (str(directory),)


def test_a_plan_that_could_not_be_read_again_is_not_written(lab: Lab, tmp_path: Path):
    directory = write_recording(lab.nas / "two\nlines", REC, FILES)
    plan = lab.data.plan_file(lab.data.plan_many([directory]))

    with pytest.raises(PlanInvalid, match="directories"):
        write_plan(plan, tmp_path / "plan.json")

    assert not (tmp_path / "plan.json").exists()

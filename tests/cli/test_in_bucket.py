"""`ursa register`, `reconstruct` and `verify`: recordings whose bytes are in the bucket."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cli.test_commands import BAD, FILES, GOOD, LATE, OTHER, Command, stored_without_a_row
from tests.cli.test_commands import ursa as ursa  # the fixture
from tests.lab import Lab
from tests.recordings_on_disk import write_recording

EEG = {"eeg_4559/seg_0000.bin": b"eeg"}


def rec_ids(lab: Lab) -> list[str | None]:
    return sorted(row.rec_id for row in lab.data.list_recordings())


def test_register_writes_the_rows_of_what_the_bucket_has(ursa: Command, lab: Lab, tmp_path: Path):
    stored_without_a_row(lab, write_recording(tmp_path, GOOD, FILES))
    stored_without_a_row(lab, write_recording(tmp_path, OTHER, EEG))

    told = ursa("register", GOOD, OTHER, "--participant", "Aria Lin", "--yes")

    assert told.index("write its rows") < told.index(f"OK {GOOD}: created, 2 files, verified by size")
    assert f"OK {OTHER}: created, 1 files, verified by size" in told
    assert "Aria" not in told
    assert [row.metadata["display_name"] for row in lab.data.list_participants() if row.metadata] == ["Aria Lin"]
    assert ursa("register", GOOD) == f"OK {GOOD}: registered already\n"
    (item,) = ursa.json("register", GOOD)["items"]
    assert (item["status"], item["outcome"], item["what"]) == ("OK", "unchanged", "nothing to do")


def test_register_goes_on_after_a_recording_that_the_bucket_lacks_part_of(ursa: Command, lab: Lab, tmp_path: Path):
    directory = write_recording(tmp_path, BAD, FILES)
    (directory / "mic/seg_0000.wav").unlink()
    stored_without_a_row(lab, directory)
    stored_without_a_row(lab, write_recording(tmp_path, LATE, FILES, manifest=False))
    stored_without_a_row(lab, write_recording(tmp_path, GOOD, FILES))

    document = ursa.json("register", BAD, LATE, GOOD, "--yes", code=1)

    found = {item["rec_id"]: (item["status"], item["reason"]) for item in document["items"]}
    assert found[BAD][0] == "FAIL"
    assert "mic/seg_0000.wav" in found[BAD][1]
    assert "ursa reconstruct" in found[LATE][1]
    assert found[GOOD] == ("OK", "")
    assert document["summary"] == {"OK": 1, "FAIL": 2, "SKIP": 0}
    assert rec_ids(lab) == [GOOD]


def test_a_dry_run_only_says_what_would_be_done(ursa: Command, lab: Lab, tmp_path: Path):
    stored_without_a_row(lab, write_recording(tmp_path, GOOD, FILES))
    stored_without_a_row(lab, write_recording(tmp_path, OTHER, EEG, manifest=False))
    before = lab.everything()

    assert re.search(rf"{GOOD} +2 +550 bytes +write its rows", ursa("register", GOOD, "--dry-run"))
    assert "write a manifest" in ursa("reconstruct", OTHER, "--dry-run")
    (item,) = ursa.json("verify", GOOD, "--deep", "--dry-run")["items"]

    assert (item["status"], item["bytes"]) == (None, 550)
    assert lab.everything() == before


def test_reconstruct_makes_the_manifests_that_are_missing(ursa: Command, lab: Lab, tmp_path: Path):
    stored_without_a_row(lab, write_recording(tmp_path, GOOD, FILES, manifest=False))
    stored_without_a_row(lab, write_recording(tmp_path, OTHER, EEG))

    told = ursa("reconstruct", GOOD, OTHER, "--yes")
    ursa("register", GOOD, "--yes")

    assert told.endswith(f"OK {GOOD}: manifest of 2 files written\nOK {OTHER}: has a manifest already\n")
    assert rec_ids(lab) == [GOOD]


def test_reconstruct_goes_on_after_a_recording_that_is_not_there(ursa: Command, lab: Lab, tmp_path: Path):
    stored_without_a_row(lab, write_recording(tmp_path, OTHER, FILES, manifest=False))

    told = ursa("reconstruct", BAD, "rec_nonsense", OTHER, "--yes", code=1)

    assert f"FAIL {BAD}: " in told
    assert "FAIL rec_nonsense: " in told
    assert f"OK {OTHER}: manifest of 2 files written" in told


def test_verify_tells_each_recording_apart(ursa: Command, lab: Lab):
    for rec_id in (GOOD, OTHER):
        lab.data.ingest(source_dir=write_recording(lab.nas, rec_id, {**FILES, "notes/a.jsonl": rec_id.encode()}))
    told = ursa("verify", GOOD, OTHER)
    assert told.endswith(f"OK {GOOD}: 3 files by size\nOK {OTHER}: 3 files by size\n")
    key = f"recordings/{GOOD}/mic/seg_0000.wav"
    lab.raw.multipart_client.put_object(Bucket=lab.raw.name, Key=key, Body=b"noise" * 10)

    told = ursa("verify", BAD, GOOD, OTHER, "--deep", "--no-record", code=1)
    document = ursa.json("verify", BAD, GOOD, OTHER, "--deep", "--no-record", code=1)

    assert f"FAIL {GOOD}: 1 problem in 3 files compared by sha256:\n     mic/seg_0000.wav has SHA-256" in told
    assert f"OK {OTHER}: 3 files by sha256" in told
    assert f"FAIL {BAD}: it is not in the catalog" in told
    assert [(item["status"], item.get("level")) for item in document["items"]] == [
        ("FAIL", None),
        ("FAIL", "sha256"),
        ("OK", "sha256"),
    ]

"""`ursa participants` as an operator uses it: dry until --commit, names in tables only, what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_commands import Command
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.recordings.identity import derive_participant_id

FIRST, SECOND = (f"rec_20260520_19562{digit}_b1dd" for digit in "12")
ARIA, ARYA = map(derive_participant_id, ("Aria Lin", "Arya Lin"))


@pytest.fixture
def ursa(lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(lab.config, capsys, monkeypatch)


def recorded(lab: Lab, rec_id: str, participant: str | None = None, *, told: bytes | None = None) -> None:
    files = {"mic/seg_0000.wav": rec_id.encode()}
    lab.data.ingest(source_dir=write_recording(lab.nas, rec_id, files, participant=participant))
    if told is not None:
        lab.raw.create(f"recordings/{rec_id}/participant.txt", told)


def ids_of(lab: Lab) -> list[list[str]]:
    return [row.participant_ids for row in lab.data.list_recordings()]


def test_a_backfill_is_dry_until_it_is_committed(ursa: Command, lab: Lab):
    recorded(lab, FIRST, told=b"Aria Lin")
    before = lab.everything()

    dry = ursa("participants", "backfill")

    assert "Aria Lin" in dry
    assert "Nothing was written; --commit" in dry
    assert "--yes" in ursa("participants", "backfill", "--commit", code=2)
    assert lab.everything() == before

    assert "1 rows written" in ursa("participants", "backfill", "--commit", "--yes")
    assert ids_of(lab) == [[ARIA]]
    assert "Nothing to do" in ursa("participants", "backfill", "--all", "--commit")


def test_an_unreadable_name_is_told_and_exits_with_1(ursa: Command, lab: Lab):
    recorded(lab, FIRST, told=b"\xff")
    recorded(lab, SECOND, told=b"Aria Lin")

    told = ursa("participants", "backfill", "--commit", "--yes", code=1)

    assert f"FAIL {FIRST}: participant.txt is not UTF-8" in told
    assert ids_of(lab) == [[], [ARIA]]


def test_json_has_ids_and_no_names(ursa: Command, lab: Lab):
    recorded(lab, FIRST, told=b"Aria Lin")
    recorded(lab, SECOND, "Arya Lin")

    (item,) = ursa.json("participants", "backfill", "--commit", "--yes")["items"]
    (finding,) = ursa.json("participants", "audit", code=1)["items"]
    people = ursa.json("participants", "list")["items"]
    (merge,) = ursa.json("participants", "merge", ARYA, ARIA, "--commit", "--yes")["items"]
    ursa("participants", "rename", ARIA, "Aria Li", "--commit", "--yes")
    history = ursa.json("participants", "history", ARIA)["items"]

    assert (item["rec_id"], item["state"], item["bucket"], item["outcome"]) == (FIRST, "add", [ARIA], "written")
    assert (finding["kind"], finding["others"]) == ("near spelling", [max(ARIA, ARYA)])
    assert {one["participant_id"] for one in people} == {ARIA, ARYA}
    assert merge == {"kind": "merge", "participant_id": ARYA, "merged_into": ARIA, "recordings": 1, "written": True}
    assert [one["op"] for one in history] == ["rename"]
    assert "Lin" not in str((item, finding, people, merge, history))


def test_the_audit_shows_names_and_what_to_do_and_exits_with_1_if_anything_is_doubtful(ursa: Command, lab: Lab):
    recorded(lab, FIRST, "Aria Lin")
    assert "nothing is doubtful" in ursa("participants", "audit")
    recorded(lab, SECOND, "Arya Lin")

    told = ursa("participants", "audit", code=1)

    assert "Aria Lin" in told
    assert "Arya Lin" in told
    assert "ursa participants merge p_" in told
    assert "1 findings" in told


def test_a_merge_is_dry_until_committed_and_unmerge_takes_it_back(ursa: Command, lab: Lab):
    recorded(lab, FIRST, "Aria Lin")
    recorded(lab, SECOND, "Arya Lin")
    before = lab.everything()

    assert "Nothing was written" in ursa("participants", "merge", "Arya Lin", "Aria Lin")
    assert lab.everything() == before
    assert "Written." in ursa("participants", "merge", "Arya Lin", "Aria Lin", "--commit", "--yes")
    assert "It is so already" in ursa("participants", "merge", ARYA, ARIA, "--commit")
    assert "nothing is doubtful" in ursa("participants", "audit")
    assert "Written." in ursa("participants", "unmerge", ARYA, "--commit", "--yes")

    told = ursa("participants", "history", "Arya Lin")
    assert f"merge:{ARIA}" in told
    assert f"unmerge:{ARIA}" in told
    assert "nobody has edited it" in ursa("participants", "history", ARIA)


def test_what_is_refused_has_exit_code_3_and_repeats_no_name(ursa: Command, lab: Lab):
    recorded(lab, FIRST, "Aria Lin")

    assert "into itself" in ursa("participants", "merge", "Aria Lin", ARIA, code=3)
    assert "Zoe" not in ursa("participants", "merge", "Zoe Z", ARIA, code=3)
    assert "--original" in ursa("participants", "rename", ARIA, code=2)


def test_a_hostile_name_does_not_reach_the_terminal_as_it_is(ursa: Command, lab: Lab):
    recorded(lab, FIRST, told="[red]A‮B[/red]".encode())

    told = ursa("participants", "backfill")

    assert "[red]A\\u202eB[/red]" in told


def test_the_script_is_the_command(lab: Lab):
    script = Path(__file__).parents[2] / "scripts" / "backfill_participants.py"
    recorded(lab, FIRST, told=b"Aria Lin")
    command = [sys.executable, str(script), "--config", str(lab.config), "--commit", "--yes"]

    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=script.parents[1])

    assert "1 rows written" in told.stdout
    assert ids_of(lab) == [[ARIA]]

"""Several processes and threads write at once: one entry, one winner, nobody misled, nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.catalog.by_hand import PREFIX, rec_id, row
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.claims import read_claim
from ursa_pipelines.catalog.entries import Writer

ROUNDS = 6

# Each line on its standard input is the starting shot for one more write; the answer tells what came of it.
RACER = """
import json, signal, sys
from ursa_pipelines import DataInterface, RecordingRow, UrsaError
from ursa_pipelines.catalog.entries import Writer

signal.alarm(300)
data = DataInterface(config_path=sys.argv[1])
data.enable_writes(roles=("assets_rw", "raw_rw"))
catalog = data.catalog
print("ready", flush=True)
for line in sys.stdin:
    task = json.loads(line)
    try:
        if "directory" in task:
            outcome = data.ingest(source_dir=task["directory"]).outcome
        else:
            row = RecordingRow.model_validate(task["row"])
            outcome = catalog.register_recording(row, task["policy"], Writer(by=sys.argv[2])).outcome
    except UrsaError as error:
        outcome = type(error).__name__
    print(json.dumps(outcome), flush=True)
"""


class Racer:
    """A process that writes when told to."""

    def __init__(self, lab: Lab, name: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RACER, str(lab.config), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def start(self, task: dict) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()


@pytest.fixture
def racers(lab: Lab) -> Iterator[list[Racer]]:
    """Two processes that have opened the catalog and wait for the starting shot."""
    racers = [Racer(lab, name) for name in ("one", "other")]
    assert [racer.answer() for racer in racers] == ["ready\n", "ready\n"]
    yield racers
    for racer in racers:
        racer.process.kill()
        racer.process.communicate()


def test_of_two_processes_that_register_one_recording_one_creates_it_and_the_other_is_told(
    lab: Lab, racers: list[Racer]
):
    for number in range(ROUNDS):
        task = {"row": row(number).model_dump(mode="json"), "policy": "error"}

        assert race(racers, task, task) == Counter({"created": 1, "unchanged": 1})

    _require_one_entry_each(lab, ROUNDS)
    assert all(len(entry.log) == 1 for entry in lab.data.catalog.entries())


def test_of_two_processes_with_different_rows_the_loser_is_refused(lab: Lab, racers: list[Racer]):
    for number in range(ROUNDS):
        tasks = [{"row": row(number, minutes=minutes).model_dump(mode="json"), "policy": "error"} for minutes in (1, 2)]

        assert race(racers, *tasks) == Counter({"created": 1, "CatalogRowExists": 1})

    _require_one_entry_each(lab, ROUNDS)


def test_merges_by_two_processes_lose_nothing(lab: Lab, racers: list[Racer]):
    catalog = Catalog.open(lab.assets)
    for number in range(ROUNDS):
        catalog.register_recording(row(number), "error", Writer(by="test"))
        tasks = [
            {
                "row": row(number, participant_ids=[participant]).model_dump(mode="json"),
                "policy": "merge_participants",
            }
            for participant in ("p_one", "p_other")
        ]

        assert race(racers, *tasks) == Counter({"changed": 2})

    assert [one.participant_ids for one in catalog.list_recordings()] == [["p_one", "p_other"]] * ROUNDS
    assert all([item.seq for item in entry.log] == [1, 2, 3] for entry in catalog.entries())


def test_of_two_processes_that_ingest_one_directory_one_creates_the_rows(lab: Lab, racers: list[Racer]):
    files = {"mic/seg_0000.wav": b"audio", "camera_a/seg_0000.mp4": b"video"}
    for number in range(3):
        contents = {path: content + bytes([number]) for path, content in files.items()}
        task = {"directory": str(write_recording(lab.nas, rec_id(number), contents, participant="Aria Lin"))}

        assert race(racers, task, task) == Counter({"created": 1, "unchanged": 1})

    _require_one_entry_each(lab, 3)
    lab.check_invariants()


def test_forty_recordings_of_eight_threads_are_all_there(lab: Lab):
    catalog = Catalog.open(lab.assets)

    with ThreadPoolExecutor(8) as pool:
        registrations = list(
            pool.map(lambda number: catalog.register_recording(row(number), "error", Writer(by="test")), range(40))
        )

    assert {registration.outcome for registration in registrations} == {"created"}
    assert [one.rec_id for one in catalog.list_recordings()] == [rec_id(number) for number in range(40)]
    _require_one_entry_each(lab, 40)


def race(racers: list[Racer], *tasks: dict) -> Counter[str]:
    for racer, task in zip(racers, tasks, strict=True):
        racer.start(task)
    return Counter(json.loads(racer.answer()) for racer in racers)


def _require_one_entry_each(lab: Lab, count: int) -> None:
    entries = list(lab.assets.list_objects(f"{PREFIX}/entries/"))
    rows = lab.interface().list_recordings()
    assert len(entries) == len(rows) == count
    assert len({one.rec_id for one in rows}) == count
    for one in rows:
        assert read_claim(lab.assets, PREFIX, one.rec_id or "") == one.recording_hash

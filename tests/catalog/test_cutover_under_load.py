"""Several processes register without a pause while the live catalog changes: what was acknowledged is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.claims import read_claim
from ursa_pipelines.catalog.cutover import cutover, rollback
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.catalog.pointer import create_catalog
from ursa_pipelines.catalog.tables import fold
from ursa_pipelines.catalog.writing import transplant
from ursa_pipelines.recordings.rows import RecordingRow

SEED = 20260520
NEW = "ursa/catalog-2"
WRITER = Writer(by="test")
START = datetime(2026, 5, 20, 19, 56, 28, tzinfo=UTC)
SHARED = 6
ENOUGH = 5
"""Writes of each process before the next move."""

# Writes until its standard input is closed, and tells each write when it was acknowledged. Recordings whose number is
# even are extended, odd ones get participants; both get modalities. Now and then the interface is opened anew.
WRITING = """
import json, random, signal, sys, threading
from datetime import datetime, timedelta
from ursa_pipelines import DataInterface

signal.alarm(300)
config, name, shared = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
chance, stop, own = random.Random(name), threading.Event(), []
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
start = datetime.fromisoformat(sys.argv[4])

def told(**ack):
    print(json.dumps(ack), flush=True)

count = 0
while not stop.is_set():
    if count % 7 == 0:
        data = DataInterface(config_path=config)
        data.enable_writes()
    count += 1
    kind = chance.choice(["new", "more", "more", "modality"])
    if kind == "new" or (not own and not shared):
        recording = f"{name}_{len(own):04d}"
        rec_id = f"rec_20260520_195628_{int(name[-1]):02x}{len(own):04x}"
        data.register_recording(
            recording_hash=recording, start_time=start, duration=timedelta(seconds=1),
            metadata={"manifest_recording_id": rec_id},
        )
        own.append([recording, rec_id])
        told(kind="new", recording=recording, rec_id=rec_id)
        continue
    recording, rec_id = chance.choice(shared + own)
    if kind == "modality":
        worker = f"{name}_{count}"
        data.register_modality(recording_hash=recording, modality="mic", worker_id=worker, format="raw_audio")
        told(kind="modality", recording=recording, worker=worker)
    elif int(recording[-1]) % 2:
        data.register_recording(
            recording_hash=recording, start_time=start, duration=timedelta(seconds=1),
            metadata={"manifest_recording_id": rec_id}, participant_ids=[f"p_{name}_{count}"],
            on_conflict="merge_participants",
        )
        told(kind="participant", recording=recording, participant=f"p_{name}_{count}")
    else:
        data.register_recording(
            recording_hash=recording, start_time=start, duration=timedelta(seconds=count), on_conflict="extend",
        )
        told(kind="extend", recording=recording, seconds=count)
"""


class Writing:
    """A process that writes until it is stopped; `acks` are the writes it was told of as done."""

    def __init__(self, lab: Lab, name: str, shared: list[tuple[str, str]]) -> None:
        self.acks: list[dict[str, Any]] = []
        self._heard = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITING, str(lab.config), name, json.dumps(shared), START.isoformat()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            text=True,
        )
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def wait_for_more(self, count: int) -> None:
        with self._heard:
            wanted = len(self.acks) + count
            assert self._heard.wait_for(lambda: len(self.acks) >= wanted or self.process.poll() is not None, 60)
            assert len(self.acks) >= wanted, "a writer ended"

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        self._listening.join(60)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._heard:
                self.acks.append(json.loads(line))
                self._heard.notify_all()
        with self._heard:
            self._heard.notify_all()


@pytest.fixture
def writers(lab: Lab) -> Iterator[list[Writing]]:
    """Three processes that write to recordings of their own and to some that they share."""
    shared = [(f"shared_{number}", f"rec_20260520_195628_ff{number:04x}") for number in range(SHARED)]
    for recording_hash, rec_id in shared:
        lab.data.register_recording(
            recording_hash=recording_hash,
            start_time=START,
            duration=timedelta(seconds=1),
            metadata={"manifest_recording_id": rec_id},
        )
    writers = [Writing(lab, f"w{SEED}_{number}", shared) for number in range(3)]
    yield writers
    for writer in writers:
        writer.process.kill()
        writer.process.wait()


def test_nothing_that_was_acknowledged_is_lost_on_the_way_there_back_and_there_again(lab: Lab, writers: list[Writing]):
    _let_them_write(writers)
    _prepare_copy(lab)
    _let_them_write(writers)
    moves = [cutover(lab.assets, NEW, writer=WRITER, reason="test")]
    _let_them_write(writers)
    moves.append(rollback(lab.assets, writer=WRITER, reason="test"))
    _let_them_write(writers)
    moves.append(cutover(lab.assets, NEW, writer=WRITER, reason="test"))
    _let_them_write(writers)
    for writer in writers:
        writer.stop()

    assert [(move.ok, move.conflicts) for move in moves] == [(True, ())] * 3
    assert all(move.swapped for move in moves)
    catalog = Catalog.open(lab.assets)
    assert catalog.prefix == NEW
    _require_everything(catalog, [ack for writer in writers for ack in writer.acks])


def _let_them_write(writers: list[Writing]) -> None:
    for writer in writers:
        writer.wait_for_more(ENOUGH)


def _prepare_copy(lab: Lab) -> None:
    """What a rebuild leaves: every entry that was there when it came to it, with its history, and tables."""
    create_catalog(lab.assets, NEW, by="test")
    for entry in Catalog.open(lab.assets).entries():
        transplant(lab.assets, NEW, entry, op="rebuild", writer=WRITER)
    fold.refold(lab.assets, NEW, by="test")


def _require_everything(catalog: Catalog, acks: list[dict[str, Any]]) -> None:
    rows: dict[str, RecordingRow] = {row.recording_hash: row for row in catalog.list_recordings()}
    modalities = Counter((row.recording_hash, row.worker_id) for row in catalog.list_modalities())
    new = {ack["recording"]: ack["rec_id"] for ack in acks if ack["kind"] == "new"}
    shared = {f"shared_{number}" for number in range(SHARED)}
    assert len(catalog.list_recordings()) == len(rows)
    assert rows.keys() == new.keys() | shared
    assert {key: rows[key].rec_id for key in new} == new
    assert all(read_claim(catalog.assets, catalog.prefix, rec_id) == key for key, rec_id in new.items())
    assert modalities == Counter((ack["recording"], ack["worker"]) for ack in acks if ack["kind"] == "modality")
    for key, row in rows.items():
        mine = [ack for ack in acks if ack["recording"] == key]
        seconds = max((ack["seconds"] for ack in mine if ack["kind"] == "extend"), default=1)
        assert row.duration == timedelta(seconds=seconds), key
        assert set(row.participant_ids) == {ack["participant"] for ack in mine if ack["kind"] == "participant"}, key
        log = [item.txn for item in catalog.entry(key).log]
        assert len(set(log)) == len(log)

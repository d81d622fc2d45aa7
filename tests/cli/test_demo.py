"""`ursa demo`: what somebody sees who has just cloned the repository."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ursa_pipelines import DataInterface
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.objects.store import Bucket, Endpoint

OUTCOMES = {
    "rec_20260520_195628_b1dd": "OK created A ",
    "rec_20260521_101502_4c7e": "OK created C+A ",
    "rec_20260521_143310_9a02": "OK created C+A ",
    "rec_20260522_090145_d41f": "OK created A ",
    "rec_20260522_160722_07ab": "OK created B ",
    "rec_20260523_112859_e3c6": "FAIL A ",
    "rec_20260524_083017_5f18": "SKIP waits ",
}


@pytest.fixture
def fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with nothing in it, in which this process reads what the command has written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    yield tmp_path
    open_store(tmp_path / ".ursa").release()


def run_demo() -> str:
    command = [str(Path(sys.executable).with_name("ursa")), "demo"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def what_is_stored(state: Path) -> dict[str, str]:
    names = DataInterface("local").profile.buckets
    store = open_store(state)
    endpoint = Endpoint(store.endpoint, "auto", lambda: (store.access_key_id, store.secret_access_key, None))
    buckets = (Bucket(names.raw, endpoint), Bucket(names.assets, endpoint))
    return {f"{bucket.name}/{info.key}": info.etag for bucket in buckets for info in bucket.list_objects("")}


def words(text: str) -> list[str]:
    """Lines with single spaces, so that columns can be read whatever their width."""
    return [" ".join(line.split()) + " " for line in text.splitlines()]


def test_the_demo_shows_every_case_and_running_it_again_changes_nothing(fresh_directory: Path):
    first = run_demo()

    told = words(first)
    for rec_id, outcome in OUTCOMES.items():
        assert any(line.startswith(f"{rec_id} {outcome}") for line in told), (rec_id, first)
    assert "eeg_4559/seg_0000.edf: its SHA-256 is" in first
    assert "camera_a/seg_0002.mp4.part is still being copied" in first
    assert "p_" in first.partition("What the catalog has")[2]
    assert "ursa dev" in first.partition("Next:")[2]
    registered = {rec_id for rec_id, outcome in OUTCOMES.items() if outcome.startswith("OK")}
    assert {row.rec_id for row in DataInterface("local").list_recordings()} == registered

    before = what_is_stored(fresh_directory / ".ursa")
    rows = DataInterface("local").list_recordings()
    second = run_demo()

    assert "Nothing to do" in second
    told = words(second)
    for rec_id, outcome in OUTCOMES.items():
        again = outcome.replace("created", "unchanged")
        assert any(line.startswith(f"{rec_id} {again}") for line in told), (rec_id, second)
    assert what_is_stored(fresh_directory / ".ursa") == before
    assert DataInterface("local").list_recordings() == rows

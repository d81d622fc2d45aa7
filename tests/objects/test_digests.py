"""Digests that are kept: found again for the same bytes only, by any number of processes, and never in the way."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.recordings_on_disk import write_recording
from ursa_pipelines.objects.digests import DigestCache
from ursa_pipelines.objects.store import ObjectInfo
from ursa_pipelines.recordings.inventory import Inventory, take_inventory

REC = "rec_20260520_195628_b1dd"
CAMERA, MIC = "camera_a/seg_0000.mp4", "mic/seg_0000.wav"
FILES = {CAMERA: b"video" * 100, MIC: b"audio" * 10}
SHA256 = {path: hashlib.sha256(content).hexdigest() for path, content in FILES.items()}
OBJECT = ObjectInfo("recordings/rec/mic/seg_0000.wav", 50, '"9e107d9d372bb6826bd81d3542a419d6"')


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "nas", REC, FILES, manifest=False)


def keep(cache: DigestCache, inventory: Inventory) -> None:
    recall = cache.recall(inventory, list(inventory.files.values()))
    for path, file in inventory.files.items():
        recall.keep(file, SHA256[path])
    cache.flush()


def known(state: Path, directory: Path) -> dict[str, str]:
    """What a process that starts now knows of the files as they are now."""
    inventory = take_inventory(directory)
    return DigestCache(state).recall(inventory, list(inventory.files.values())).digests


def test_a_digest_outlives_the_process_that_found_it(directory: Path, tmp_path: Path):
    state = tmp_path / "not" / "there" / "yet"
    assert known(state, directory) == {}

    keep(DigestCache(state), take_inventory(directory))

    assert known(state, directory) == SHA256


def write_over(file: Path) -> None:
    file.write_bytes(b"AUDIO" * 10)


def replace_with_same_mtime(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"AUDIO" * 10)
    shutil.copystat(file, other)
    other.replace(file)


def write_over_and_restore_mtime(file: Path) -> None:
    before = file.stat()
    deadline = time.monotonic() + 60
    while file.stat().st_ctime_ns == before.st_ctime_ns:
        # The clock of change times ticks every few milliseconds.
        assert time.monotonic() < deadline
        file.write_bytes(b"AUDIO" * 10)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def touch(file: Path) -> None:
    os.utime(file)


def grow(file: Path) -> None:
    before = file.stat()
    with file.open("ab") as stream:
        stream.write(b"more")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [write_over, replace_with_same_mtime, write_over_and_restore_mtime, touch, grow])
def test_a_file_that_may_have_changed_is_not_known(directory: Path, tmp_path: Path, change: Callable[[Path], None]):
    keep(DigestCache(tmp_path), take_inventory(directory))

    change(directory / MIC)

    assert known(tmp_path, directory) == {CAMERA: SHA256[CAMERA]}


def test_a_file_that_changed_after_it_was_listed_is_not_kept(directory: Path, tmp_path: Path):
    inventory = take_inventory(directory)
    touch(directory / MIC)

    keep(DigestCache(tmp_path), inventory)

    assert known(tmp_path, directory) == {CAMERA: SHA256[CAMERA]}


def test_a_file_that_changed_while_it_was_hashed_is_not_known_afterwards(directory: Path, tmp_path: Path):
    inventory = take_inventory(directory)
    cache = DigestCache(tmp_path)
    recall = cache.recall(inventory, list(inventory.files.values()))
    write_over_and_restore_mtime(directory / MIC)

    recall.keep(inventory.files[MIC], SHA256[MIC])
    cache.flush()

    assert known(tmp_path, directory) == {}


def test_a_file_under_another_path_is_not_known(directory: Path, tmp_path: Path):
    keep(DigestCache(tmp_path), take_inventory(directory))
    moved = tmp_path / "usb" / REC
    moved.parent.mkdir()
    directory.rename(moved)

    assert known(tmp_path, moved) == {}


@pytest.mark.parametrize("age", [1.0, -3600.0], ids=["just written", "from the future"])
def test_a_file_that_is_younger_than_its_clock_can_tell_is_not_kept(tmp_path: Path, age: float):
    directory = write_recording(tmp_path / "nas", REC, FILES, manifest=False, age_s=age)

    keep(DigestCache(tmp_path), take_inventory(directory))

    assert known(tmp_path, directory) == {}


def test_what_turned_out_to_be_wrong_is_forgotten(directory: Path, tmp_path: Path):
    cache, inventory = DigestCache(tmp_path), take_inventory(directory)
    keep(cache, inventory)
    cache.recall(inventory, [inventory.files[MIC]]).keep(inventory.files[MIC], SHA256[CAMERA])

    cache.forget(inventory, inventory.files[MIC])
    cache.flush()

    assert known(tmp_path, directory) == {CAMERA: SHA256[CAMERA]}


def test_a_name_that_is_no_text_does_no_harm(tmp_path: Path):
    nas = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    directory = write_recording(nas, REC, FILES, manifest=False)

    keep(DigestCache(tmp_path), take_inventory(directory))

    assert known(tmp_path, directory) == SHA256


def test_an_objects_digest_holds_for_its_key_etag_and_size(tmp_path: Path):
    first = DigestCache(tmp_path)
    first.keep_object("raw", OBJECT, SHA256[MIC])
    assert first.of_object("raw", OBJECT) == SHA256[MIC]

    cache = DigestCache(tmp_path)

    assert cache.of_object("raw", replace(OBJECT, modified=5.0)) == SHA256[MIC]
    assert cache.of_object("other", OBJECT) is None
    for change in ({"key": "recordings/other"}, {"etag": '"0"'}, {"size": 51}):
        assert cache.of_object("raw", replace(OBJECT, **change)) is None


def test_digests_go_after_thirty_days(directory: Path, tmp_path: Path):
    cache = DigestCache(tmp_path)
    keep(cache, take_inventory(directory))
    cache.keep_object("raw", OBJECT, SHA256[MIC])
    cache.flush()
    with sqlite3.connect(tmp_path / "digests.sqlite") as database:
        database.execute(
            "UPDATE digests SET kept_at = ? WHERE CAST(place AS TEXT) LIKE '%wav'", (time.time() - 31 * 86_400,)
        )

    assert known(tmp_path, directory) == {CAMERA: SHA256[CAMERA]}
    assert DigestCache(tmp_path).of_object("raw", OBJECT) is None


def test_many_threads_and_processes_keep_digests_at_once(tmp_path: Path):
    program = """
import sys, threading
from pathlib import Path
from ursa_pipelines.objects.digests import DigestCache
from ursa_pipelines.objects.store import ObjectInfo
state, name = Path(sys.argv[1]), sys.argv[2]
cache = DigestCache(state)
def keep(thread):
    for number in range(50):
        info = ObjectInfo(f"{name}/{thread}/{number}", number, "etag")
        cache.keep_object("raw", info, "a" * 64)
        assert cache.of_object("raw", info) == "a" * 64
threads = [threading.Thread(target=keep, args=(thread,)) for thread in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
cache.flush()
"""
    processes = [_start(program, tmp_path, name) for name in "abcd"]

    assert [process.communicate(timeout=60) for process in processes] == [(b"", b"")] * 4

    cache = DigestCache(tmp_path)
    infos = [ObjectInfo(f"{name}/{thread}/{i}", i, "etag") for name in "abcd" for thread in range(4) for i in range(50)]
    assert {cache.of_object("raw", info) for info in infos} == {"a" * 64}


def test_a_killed_process_leaves_what_it_had_found(tmp_path: Path):
    program = """
import itertools, sys
from pathlib import Path
from ursa_pipelines.objects.digests import DigestCache
from ursa_pipelines.objects.store import ObjectInfo
cache = DigestCache(Path(sys.argv[1]))
for number in itertools.count():
    cache.keep_object("raw", ObjectInfo(f"key/{number}", 1024**2, "etag"), "a" * 64)
    print(number, flush=True)
"""
    process = _start(program, tmp_path)
    assert process.stdout is not None
    for _ in range(200):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)

    cache = DigestCache(tmp_path)

    # All but the last ones, whose reading takes no time to speak of.
    assert {cache.of_object("raw", ObjectInfo(f"key/{i}", 1024**2, "etag")) for i in range(200 - 16)} == {"a" * 64}


def _garbage(file: Path) -> None:
    file.write_bytes(b"this is no database" * 1000)


def _half(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:4096] + bytes(len(content) - 4096))


@pytest.mark.parametrize("damage", [_garbage, _half])
def test_a_damaged_file_is_replaced(
    directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
):
    inventory = take_inventory(directory)
    first = DigestCache(tmp_path)
    keep(first, inventory)
    for number in range(100):
        first.keep_object("raw", replace(OBJECT, key=f"key/{number}"), SHA256[MIC])
    first.flush()
    damage(tmp_path / "digests.sqlite")
    caplog.clear()

    cache = DigestCache(tmp_path)
    keep(cache, inventory)

    assert known(tmp_path, directory) == SHA256
    assert [record.name for record in caplog.records] == ["ursa.register.orchestrator"]
    assert "damaged" in caplog.text


def test_a_file_that_is_damaged_while_it_is_open_is_replaced_once(directory: Path, tmp_path: Path):
    inventory = take_inventory(directory)
    caches = [DigestCache(tmp_path) for _ in range(2)]
    for cache in caches:
        keep(cache, inventory)
    file = tmp_path / "digests.sqlite"
    _garbage(file)

    for cache in caches:
        keep(cache, inventory)
    caches[0].keep_object("raw", OBJECT, SHA256[MIC])
    caches[0].flush()

    assert caches[1].of_object("raw", OBJECT) == SHA256[MIC]
    assert known(tmp_path, directory) == SHA256


def _a_file_in_its_place(state: Path) -> None:
    state.write_text("not a directory")


def _a_directory_in_its_place(state: Path) -> None:
    (state / "digests.sqlite").mkdir(parents=True)


def _another_database(state: Path) -> None:
    state.mkdir()
    with sqlite3.connect(state / "digests.sqlite") as database:
        database.execute("CREATE TABLE digests (something TEXT)")


def _read_only(state: Path) -> None:
    state.mkdir(mode=0o500)
    if os.access(state, os.W_OK):
        pytest.skip("this user may write everywhere")


@pytest.mark.parametrize("harm", [_a_file_in_its_place, _a_directory_in_its_place, _another_database, _read_only])
def test_without_a_usable_file_it_goes_on_and_warns_once(
    directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None]
):
    state, inventory = tmp_path / "state", take_inventory(directory)
    harm(state)
    cache = DigestCache(state)

    keep(cache, inventory)
    cache.keep_object("raw", OBJECT, SHA256[MIC])
    cache.forget(inventory, inventory.files[MIC])

    assert cache.recall(inventory, list(inventory.files.values())).digests == {}
    assert cache.of_object("raw", OBJECT) is None
    assert [(record.name, record.levelno) for record in caplog.records] == [
        ("ursa.register.orchestrator", logging.WARNING)
    ]
    assert str(state) in caplog.text


def test_a_locked_file_does_not_hold_up_anything(directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    keep(DigestCache(tmp_path), take_inventory(directory))
    other = sqlite3.connect(tmp_path / "digests.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    cache = DigestCache(tmp_path, patience=0.1)
    began = time.monotonic()

    threads = [threading.Thread(target=cache.of_object, args=("raw", OBJECT)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert time.monotonic() - began < 5
    assert len(caplog.records) == 1
    assert "locked" in caplog.text
    other.close()
    assert known(tmp_path, directory) == SHA256


def test_a_full_disk_does_not_hold_up_anything(tmp_path: Path):
    program = """
import logging, resource, sys
from pathlib import Path
from ursa_pipelines.objects.digests import DigestCache
from ursa_pipelines.objects.store import ObjectInfo
logging.basicConfig(stream=sys.stdout, format="%(message)s")
cache = DigestCache(Path(sys.argv[1]))
cache.keep_object("raw", ObjectInfo("key", 1, "etag"), "a" * 64)
cache.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for number in range(1000):
    cache.keep_object("raw", ObjectInfo(f"key/{number}", 1, "etag"), "a" * 64)
    cache.flush()
"""
    told, errors = _start(program, tmp_path).communicate(timeout=60)

    assert errors == b""
    assert told.decode().count("digests are not kept") == 1
    assert DigestCache(tmp_path).of_object("raw", ObjectInfo("key", 1, "etag")) == "a" * 64


def _start(program: str, state: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(state), *arguments],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

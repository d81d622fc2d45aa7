"""Faults 23 to 25: files of any size and number, in bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.on_a_drive import MIB, MIC, REC, profile_of
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.objects.transfers import TransferLimits

_PEAK_MEMORY = """
import sys
from pathlib import Path
{imports}
{work}
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) // 1024)
"""


def test_fault_23_a_sparse_file_takes_bounded_memory(lab: Lab):
    """2 GiB are hashed, and 384 MiB hashed and sent in parts."""
    write_recording(lab.nas, REC, {MIC: b"audio"}, manifest=False)
    with (lab.nas / REC / MIC).open("r+b") as stream:
        stream.truncate(384 * MIB)
    ingest = "data = DataInterface(config_path=sys.argv[1]); data.enable_writes(roles=('assets_rw', 'raw_rw'))"
    peak = _peak_memory_mib(
        "from ursa_pipelines import DataInterface",
        f"{ingest}\nassert data.ingest(source_dir=sys.argv[2]).bytes_uploaded == {384 * MIB}",
        profile_of(lab, part_size=16 * MIB),
        lab.nas / REC,
    )
    assert peak < 300

    os.truncate(lab.nas / REC / MIC, 2048 * MIB)
    peak = _peak_memory_mib(
        "from ursa_pipelines.objects.hashing import hash_files\n"
        "from ursa_pipelines.recordings.inventory import take_inventory",
        "inventory = take_inventory(Path(sys.argv[1]))\nassert hash_files(inventory, inventory.files.values())",
        lab.nas / REC,
    )
    assert peak < 100


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system in memory, if there is one: a hundred thousand files are made in a second there."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as directory:
        yield Path(directory)


def test_fault_24_a_hundred_thousand_files_are_listed_in_bounded_memory(in_memory: Path):
    directory = write_recording(in_memory, REC, {MIC: b"audio"}, manifest=False)
    for worker in range(100):
        parent = directory / f"camera_{worker}"
        parent.mkdir()
        for segment in range(1000):
            os.close(os.open(parent / f"seg_{segment:04}.mp4", os.O_CREAT | os.O_WRONLY))
    peak = _peak_memory_mib(
        "from ursa_pipelines.recordings.inventory import take_inventory",
        "assert len(take_inventory(Path(sys.argv[1])).files) == 100_001",
        directory,
    )
    assert peak < 200


@pytest.mark.parametrize("first", [5 * MIB, 16 * MIB, 1024 * MIB])
@pytest.mark.parametrize("size", [1, 5 * MIB, 16 * MIB * 9_000, 16 * MIB * 9_000 + 1, 4 * 1024**4])
def test_fault_25_a_file_of_any_size_has_at_most_9000_equal_parts_from_the_start(first: int, size: int):
    part_size = TransferLimits(part_size=first).part_size_for(size)

    assert -(-size // part_size) <= 9_000
    assert part_size % first == 0
    assert part_size <= 5 * 1024 * MIB
    assert part_size == first or -(-size // (part_size // 2)) > 9_000


def _peak_memory_mib(imports: str, work: str, *arguments: Path) -> int:
    """The most memory that a process of its own had resident. (What `getrusage` tells includes the parent's.)"""
    command = [sys.executable, "-c", _PEAK_MEMORY.format(imports=imports, work=work), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)

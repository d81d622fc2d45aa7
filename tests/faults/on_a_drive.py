"""A recording on a drive that fails on demand, and what must hold after an ingest of it failed."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.faults.final_state import final_state
from tests.faults.mounts import Answer, Fails, Fault, Mount, mounted
from tests.lab import Lab, make_lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import DataInterface

States = dict[bool, dict[str, Any]]

MIB = 1024**2
REC, OTHER_REC, LAST_REC = "rec_20260520_195628_b1dd", "rec_20260521_080000_c0de", "rec_20260522_080000_cafe"
CAMERA, MIC = "camera_a/seg_0000.mp4", "mic/seg_0000.wav"
FILES = {CAMERA: b"video frame;" * (9 * MIB // 12), MIC: b"audio" * 100, "eeg_4559/seg_0000.edf": b"eeg" * 100}
SMALL_FILES = {path: content for path, content in FILES.items() if path != CAMERA}
IN_THE_SECOND_PART = 6 * MIB

HASHED_OR_SENT = pytest.mark.parametrize("manifest", [False, True], ids=["hashed", "sent"])
"""Without a manifest a file is first read for its digest, with one it is first read to be sent."""

BOTH_SIZES = pytest.mark.parametrize(
    ("path", "offset"), [(CAMERA, IN_THE_SECOND_PART), (MIC, 0)], ids=["in parts", "in one request"]
)


BESIDE_THE_SEGMENTS = pytest.mark.parametrize(
    ("kind", "path", "nth"),
    [
        ("list", f"{REC}/mic", 1),
        ("open", f"{REC}/manifest.json", 1),
        ("read", f"{REC}/participant.txt", 1),
        ("read", f"{REC}/participant.txt", 2),
    ],
    ids=["at a directory", "at the manifest", "at the participant", "after the segments"],
)
"""What is read of a recording besides its segments; participant.txt is read once more when it is sent."""


@pytest.fixture
def drive(lab: Lab, tmp_path: Path) -> Iterator[Mount]:
    """The lab's `nas`, mounted: tests write to `lab.nas`, and ingest from `drive.point`."""
    with mounted(lab.nas, tmp_path / "drive") as drive:
        yield drive


@pytest.fixture(scope="module")
def uninterrupted(store_state: Path, tmp_path_factory: pytest.TempPathFactory) -> States:
    """The final states of the recording after ingests that nothing disturbed, with a manifest and without."""
    states = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(store_state / "dagster"))
        for manifest in (True, False):
            lab = make_lab(store_state, tmp_path_factory.mktemp("uninterrupted"))
            interface(lab).ingest(source_dir=write_recording(lab.nas, REC, FILES, participant="A", manifest=manifest))
            states[manifest] = final_state(lab)
    return states


def profile_of(lab: Lab, **settings: Any) -> Path:
    """The lab's profile with parts of 5 MiB and these settings."""
    profile = yaml.safe_load(lab.config.read_text())
    profile["settings"] |= {"part_size": 5 * MIB} | settings
    config = lab.config.with_name("drive.yaml")
    config.write_text(yaml.safe_dump(profile))
    return config


def interface(lab: Lab, **settings: Any) -> DataInterface:
    """A further interface to the lab, as another process would open it."""
    data = DataInterface(config_path=profile_of(lab, **settings))
    data.enable_writes(roles=("assets_rw", "raw_rw"))
    return data


def break_down(drive: Mount, error: int) -> Answer:
    """From now on every access to the drive gives this error; with ENOTCONN because its process is dead."""
    if error == errno.ENOTCONN:
        drive.die()
    else:
        drive.fault = Fails(error)
    return Answer(error=error)


def repair(drive: Mount) -> None:
    """The drive is mounted anew, and works."""
    drive.fault = Fault()
    drive.mount()


def open_uploads(lab: Lab) -> list[str]:
    """The keys of unfinished uploads."""
    answer = lab.raw.multipart_client.list_multipart_uploads(Bucket=lab.raw.name)
    return [upload["Key"] for upload in answer.get("Uploads", ())]


def require_nothing_registered(lab: Lab, *, without: str | None = None) -> None:
    """Sound files may stay, whole; nothing that counts them, and nothing of the file `without`."""
    stored = lab.objects(REC).keys() - {"participant.txt"}
    assert stored <= FILES.keys() - {without}
    for path in stored:
        assert lab.raw.get(f"recordings/{REC}/{path}")[0] == FILES[path]
    assert list(lab.raw.list_objects(f"manifests/{REC}/")) == []
    assert REC not in {row.rec_id for row in lab.data.list_recordings()}
    lab.check_invariants()

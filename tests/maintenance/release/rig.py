"""A lab in which room may be freed: ages are nothing, so that what is ingested now may leave at once."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import DataInterface, failpoints
from ursa_pipelines.maintenance.release.certificate import Certificate
from ursa_pipelines.maintenance.release.judging import Desk
from ursa_pipelines.maintenance.release.ledger import Release

REC, OTHER = "rec_20260520_195628_b1dd", "rec_20260521_080000_c0de"
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "camera_a/seg_0001.mp4": b"more" * 50, "mic/seg_0000.wav": b"audio"}
ROLES = ("source_rw", "assets_rw")
TRASH = ".ursa_trash"
DAY = 86_400.0


def allowing(lab: Lab, **rules: Any) -> DataInterface:
    """An interface to the lab's profile with the switch on, and both roles asked for."""
    config = lab.config.with_name("releasing.yaml")
    told = {"enabled": True, "retention_days": 0, "grace_days": 0} | rules
    config.write_text(yaml.safe_dump(yaml.safe_load(lab.config.read_text()) | {"release": told}))
    data = DataInterface(config_path=config)
    lab._opened.append(data)
    data.enable_writes(roles=ROLES)
    return data


def ingested(lab: Lab, rec_id: str = REC, files: dict[str, bytes] | None = None, **more: Any) -> Path:
    """A recording on the NAS that is ingested."""
    directory = write_recording(lab.nas, rec_id, files or FILES, **more)
    lab.data.ingest(source_dir=directory)
    return directory


def desk_of(data: DataInterface, *, ahead: float = 0.0, clock: Callable[[], float] | None = None) -> Desk:
    """The desk at which `data` releases, with a clock that is so many seconds ahead."""
    return replace(data.release_desk(commit=True), clock=clock or (lambda: time.time() + ahead))


def only(found: list[Release]) -> Release:
    (one,) = found
    return one


def trash_of(lab: Lab) -> list[str]:
    """What lies in the trash of the NAS."""
    trash = lab.nas / TRASH
    return sorted(one.name for one in trash.iterdir()) if trash.is_dir() else []


@contextmanager
def bound(shown: Path, point: Path) -> Iterator[None]:
    """Mounts a directory a second time, which takes root. It has the device of the file system that it lies on."""
    if subprocess.run(["mount", "--bind", str(shown), str(point)], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=True)


@contextmanager
def upon(name: str, deed: Callable[[], object]) -> Iterator[list[str]]:
    """Does `deed` when the package comes to that fail point, once; yields the points it has passed."""
    passed: list[str] = []

    def reached(point: str) -> None:
        passed.append(point)
        if passed.count(point) == 1 and point == name:
            deed()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(failpoints, "reached", reached)
        yield passed
    assert name in passed


def certificates(lab: Lab) -> list[Certificate]:
    """Every certificate that is stored."""
    infos = lab.assets.list_objects("ursa/releases/")
    found = [lab.assets.get(info.key)[0] for info in infos if info.key.count(".") == 1]
    return [Certificate.model_validate_json(one) for one in found]

"""Faults 1 and 2: an ingest is killed with SIGKILL between any two steps, and run again.

Most steps follow one another, so that after one is before the next; where they do not, both sides are tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.detour import Detour, make_detour
from tests.faults.final_state import final_state
from tests.faults.proxy import Hold
from tests.lab import Lab, make_lab
from tests.recordings_on_disk import write_recording
from tests.snapshot import snapshot
from ursa_pipelines.embedded.store import open_store

REC = "rec_20260520_195628_b1dd"
FILES = {
    "camera_a/seg_0000.mp4": b"video frame;" * (9 * 1024**2 // 12),
    "mic/seg_0000.wav": b"audio" * 100,
    "mic/seg_0001.wav": b"more audio" * 100,
    "eeg_4559/seg_0000.edf": b"eeg" * 100,
}
STEPS = {
    "first segment": (r"PUT /raw[^?]*/(mic|eeg_4559)/[^?]*$", 1),
    "last segment": (r"PUT /raw[^?]*/(mic|eeg_4559)/[^?]*$", 3),
    "multipart upload opened": (r"POST /raw.*\?uploads", 1),
    "part": (r"PUT /raw.*partNumber=", 2),
    "multipart upload completed": (r"POST /raw.*\?uploadId=", 1),
    "participant.txt": (r"PUT /raw.*/participant\.txt", 1),
    "manifest": (r"PUT /raw[^/]*/recordings/.*/manifest\.json", 1),
    "commit marker": (r"PUT /raw[^/]*/manifests/", 1),
    "tail marker": (r"PUT .*/tail/", 1),
    "claim of the rec_id": (r"PUT .*/rec_ids/", 1),
    "entry": (r"PUT .*/entries/", 1),
}


@pytest.fixture(scope="module")
def uninterrupted(store_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The final states of the same recordings after runs that nothing disturbed: with a manifest, and without."""
    states = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(store_state / "dagster"))
        for name, manifest in (("with a manifest", True), ("without a manifest", False)):
            place = tmp_path_factory.mktemp("uninterrupted")
            lab = make_lab(store_state, place)
            detour = make_detour(lab, open_store(store_state), place)
            patch.setenv("PATH", str(detour.programs), prepend=":")
            detour.interface().ingest(source_dir=_recording(lab, manifest=manifest))
            detour.proxy.close()
            states[name] = final_state(lab)
    yield states


@pytest.mark.parametrize("step", STEPS)
def test_fault_1_a_kill_before_a_step_is_made_good_by_a_rerun(
    lab: Lab, detour: Detour, uninterrupted: dict[str, Any], step: str
):
    directory = _recording(lab)

    _kill_ingest(detour, directory, Hold(*STEPS[step]))
    lab.check_invariants()
    detour.interface().ingest(source_dir=directory)

    assert final_state(lab) == uninterrupted["with a manifest"]
    lab.check_invariants()


@pytest.mark.parametrize("step", ["last segment", "multipart upload completed", "claim of the rec_id", "entry"])
def test_fault_2_a_kill_after_a_steps_effect_is_made_good_by_a_rerun(
    lab: Lab, detour: Detour, uninterrupted: dict[str, Any], step: str
):
    directory = _recording(lab)

    _kill_ingest(detour, directory, Hold(*STEPS[step], after=True))
    lab.check_invariants()
    detour.interface().ingest(source_dir=directory)

    assert final_state(lab) == uninterrupted["with a manifest"]
    lab.check_invariants()


@pytest.mark.parametrize("step", ["manifest", "commit marker"])
def test_fault_1_a_killed_reconstruction_is_made_good_by_a_rerun(
    lab: Lab, detour: Detour, uninterrupted: dict[str, Any], step: str
):
    directory = _recording(lab, manifest=False)

    _kill_ingest(detour, directory, Hold(*STEPS[step]))
    lab.check_invariants()
    detour.interface().ingest(source_dir=directory)

    assert final_state(lab) == uninterrupted["without a manifest"]
    lab.check_invariants()


def _recording(lab: Lab, *, manifest: bool = True) -> Path:
    return write_recording(lab.nas, REC, FILES, participant="Aria Lin", manifest=manifest)


def _kill_ingest(detour: Detour, directory: Path, hold: Hold) -> None:
    before = snapshot(directory)
    detour.kill_ingest(directory, hold)
    assert snapshot(directory) == before

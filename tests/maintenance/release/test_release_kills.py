"""A release that is killed at any moment: nothing is lost, and the same line again comes to the same end.

The long form kills at every moment: `URSA_FAULTS=long uv run pytest tests/maintenance/release/test_release_kills.py`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kills import ForkServer
from tests.lab import Lab
from tests.maintenance.release.killed import CHANGES, VERBS
from tests.maintenance.release.rig import TRASH, allowing, certificates, ingested, trash_of
from ursa_pipelines import DataInterface
from ursa_pipelines.embedded.store import open_store

POINTS = {
    "move": {"release.certified", "release.moved"},
    "purge": {"release.purging", "release.file_removed", "release.emptied"},
    "restore": {"release.moved_back"},
}
END = {"move": {"in trash"}, "purge": {"purged"}, "restore": {"restored", "unused"}}


@pytest.fixture(scope="module")
def forks(store_state: Path) -> Iterator[ForkServer]:
    open_store(store_state)
    server = ForkServer(store_state / "dagster", "tests.maintenance.release.killed")
    yield server
    server.close()


@pytest.mark.parametrize("verb", VERBS)
def test_a_killed_release_loses_nothing_and_is_made_good_by_a_rerun(
    verb: str, lab: Lab, forks: ForkServer, tmp_path: Path
):
    data, number = allowing(lab), 0

    def run(at: int) -> tuple[str, dict[str, int]]:
        nonlocal number
        number += 1
        rec_id = f"rec_20260520_1956{number:02}_b1dd"
        _prepare(lab, data, rec_id, verb)
        forks.start(
            verb=verb,
            rec_id=rec_id,
            at=at,
            config=str(lab.config.with_name("releasing.yaml")),
            output=str(tmp_path / "output.txt"),
            passed=str(tmp_path / "passed.txt"),
        )
        return rec_id, forks.ended()

    rec_id, ended = run(0)
    assert ended == {"exit": 0}, (tmp_path / "output.txt").read_text()
    moments = (tmp_path / "passed.txt").read_text().splitlines()
    assert POINTS[verb] <= set(moments) and CHANGES & set(moments) and moments.count("created") >= 1
    for at in _chosen(moments):
        rec_id, ended = run(at)
        where = f"{verb} at {at}, {moments[at - 1]}"
        assert ended == {"signal": signal.SIGKILL}, where
        _require_nothing_lost(lab, rec_id, where)
        if verb != "move" or (lab.nas / rec_id).is_dir():
            VERBS[verb](data, rec_id)
        _require_nothing_lost(lab, rec_id, where)
        states = {one.state for one in data.releases([rec_id])}
        assert states <= END[verb] | {"unused"} and states & END[verb], (where, states)
        assert (lab.nas / rec_id).is_dir() == (verb == "restore"), where
        assert any(name.startswith(rec_id) for name in trash_of(lab)) == (verb == "move"), where


def _chosen(moments: list[str]) -> list[int]:
    """Every moment in the long form; else the first of each kind, and the second file that is removed."""
    if os.environ.get("URSA_FAULTS") == "long":
        return list(range(1, len(moments) + 1))
    most = {"os.remove": 2}
    return [at for at, name in enumerate(moments, start=1) if moments[: at - 1].count(name) < most.get(name, 1)]


def _prepare(lab: Lab, data: DataInterface, rec_id: str, verb: str) -> None:
    directory = ingested(
        lab, rec_id, {"mic/seg_0000.wav": rec_id.encode(), "camera_a/seg_0000.mp4": rec_id.encode() * 2}
    )
    (directory / ".DS_Store").write_text("clutter")
    if verb == "move":
        # So that the first of them makes it.
        trash = lab.nas / TRASH
        if trash.is_dir() and not trash_of(lab):
            trash.rmdir()
    else:
        assert VERBS["move"](data, rec_id)[0].state == "released"


def _require_nothing_lost(lab: Lab, rec_id: str, where: str) -> None:
    """What is on the source no more has a certificate, and every byte is in the bucket."""
    assert lab.data.verify(rec_id, deep=True).ok, where
    if not (lab.nas / rec_id).is_dir():
        assert any(one.rec_id == rec_id for one in certificates(lab)), where

"""Fault 68, and goal 4: 2 to 8 processes ingest the same recordings at once, and there is one set of rows of each.

The short form runs a fixed list of seeds. The long one runs 1,000:

    URSA_FAULTS=long uv run pytest tests/faults/test_many_ingesters.py

What a failure names, `URSA_FAULTS=seed:17 uv run pytest tests/faults/test_many_ingesters.py` does again, with others
than 17 after a comma or a range: `seed:17,100-149`. A seed decides who does what and which requests are held, not
how the machine shares its processors among them: what is rare may need several tries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.faults.figures import record
from tests.faults.ingesters import KINDS, Plan, Ran, run, undisturbed
from tests.faults.ingesting import RUNS
from tests.faults.killed import REBUILT, REC
from tests.faults.kills import ForkServer
from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, write_recording
from ursa_pipelines.catalog.cutover import cutover
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.maintenance.rebuild import rebuild
from ursa_pipelines.objects.keys import raw_key

_ASKED = os.environ.get("URSA_FAULTS", "")

SHORT = (161, 1124, 1378, 1808)
"""Few and short; together they have every kind of recording and every operation, with 2, 3 and 6 processes."""
LONG = tuple(range(1, 1001))
PORTIONS = 20 if _ASKED == "long" else 1
"""Into how many tests the seeds are divided."""


@pytest.fixture(scope="module")
def forks(store_state: Path) -> Iterator[ForkServer]:
    open_store(store_state)
    server = ForkServer(store_state / "dagster", "tests.faults.ingesting")
    yield server
    server.close()


@pytest.fixture(scope="module")
def expected(
    store_state: Path, forks: ForkServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Any]]:
    """What every recording comes to where nothing disturbs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(store_state / "dagster"))
        kinds = sorted({name for seed in _seeds() for name in Plan.of(seed).kinds})
        yield undisturbed(kinds, store_state, tmp_path_factory.mktemp("undisturbed") / "lab", forks)


@pytest.mark.parametrize("portion", range(PORTIONS))
def test_fault_68_many_ingesters_come_to_one_set_of_rows(
    portion: int, store_state: Path, tmp_path: Path, forks: ForkServer, expected: Mapping[str, Any]
):
    seeds = _seeds()[portion::PORTIONS]
    done = []
    for seed in seeds:
        done.append(run(Plan.of(seed), expected, store_state, tmp_path / str(seed), forks))
        _record(done[-1])

    failures = [
        f"URSA_FAULTS=seed:{one.plan.seed} uv run pytest tests/faults/test_many_ingesters.py\n{one.plan}\n"
        + "\n".join(one.violations)
        for one in done
        if one.violations
    ]
    assert not failures, f"{len(failures)} of {len(seeds)} seeds:\n" + "\n\n".join(failures)


def test_the_seeds_have_every_kind_of_recording_and_every_operation():
    for seeds in (SHORT, LONG):
        plans = [Plan.of(seed) for seed in seeds]

        assert {name for plan in plans for name in plan.kinds} == KINDS.keys()
        assert {one[0] for plan in plans for one in plan.operations} == RUNS.keys()
        assert {len(plan.ingesters) for plan in plans} <= set(range(2, 9))
    assert {len(plan.ingesters) for plan in plans} == set(range(2, 9))


def test_a_second_half_that_comes_after_a_rebuild_keeps_its_hash_at_the_cutover(lab: Lab):
    # Seed 23 met it: the first half was in the bucket, but not yet in the catalog, when the rebuild came to it.
    host, motor = {"mic/seg_0000.wav": b"audio"}, {"eeg_4559/seg_0000.edf": b"eeg"}
    for path, content in (host | {"manifest.json": json.dumps(manifest_of(REC, host)).encode()}).items():
        lab.raw.create(raw_key(REC, path), content)
    rebuild(lab.data.ingest_context(), lab.data.catalog, REBUILT)
    half = write_recording(lab.nas, REC, motor, node="green-motor")
    acknowledged = lab.data.ingest(source_dir=half).recording

    done = cutover(lab.assets, REBUILT, writer=lab.data.writer, reason="test")

    assert not done.conflicts
    with closing(lab.interface()) as data:
        assert acknowledged is not None
        assert [row.recording_hash for row in data.list_recordings()] == [acknowledged.recording_hash]


def _seeds() -> list[int]:
    if not _ASKED.startswith("seed:"):
        return list(LONG if _ASKED == "long" else SHORT)
    parts = [part.partition("-") for part in _ASKED.removeprefix("seed:").split(",")]
    return [seed for first, _, last in parts for seed in range(int(first), int(last or first) + 1)]


def _record(ran: Ran) -> None:
    record(
        "many ingesters",
        scenario="1,000 seeds" if _ASKED == "long" else "fixed seeds",
        seeds=1,
        processes=len(ran.plan.ingesters),
        recordings=len(ran.plan.kinds),
        operations=len(ran.plan.operations),
        requests=ran.requests,
        requests_held=ran.held,
        reruns=ran.reruns,
        violations=len(ran.violations),
    )

"""Faults 1 and 2: every scenario is killed at every moment, run again, and comes to the same end.

In the short form each fail point strikes once, and a seeded sample of the requests. The long form kills at every
request in each of three ways, at every fail point and then at random moments:

    URSA_FAULTS=long uv run pytest tests/faults/test_kill_matrix.py

What a failure names, `URSA_FAULTS='ingest/effect/7' uv run pytest tests/faults/test_kill_matrix.py` does again.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import timeit
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.figures import record
from tests.faults.kill_labs import PREPARED
from tests.faults.killed import RUNS
from tests.faults.kills import (
    HOWS_OF_REQUESTS,
    ForkServer,
    Kill,
    Killed,
    Undisturbed,
    kill_and_rerun,
    undisturbed,
)
from ursa_pipelines import failpoints
from ursa_pipelines.embedded.store import open_store

_ASKED = os.environ.get("URSA_FAULTS", "")

SEED = 20260520
RANDOM_KILLS = 600
"""Some come after the end; at least 500 are to strike."""
PORTIONS = 6
"""Into how many tests the long form of a scenario is divided."""
SAMPLED = {"ingest": 3, "ingest two halves": 2, "download": 2}
"""How many requests of a scenario are sampled in the short form; of others one."""
NAMED = {
    "ingest": ("upload.recorded", "upload.part_stored", "upload.completed"),
    "ingest without a manifest": ("ingest.discovered", "ingest.hashed", "ingest.manifest_made"),
    "ingest over a stub": ("upload.file_stored", "upload.manifests_stored", "upload.marked_complete"),
    "ingest two halves": ("upload.participants_stored", "ingest.uploaded"),
    "ingest many": ("upload.segments_stored",),
    "reconstruct and register": ("reconstruct.hashed", "reconstruct.manifest_stored"),
    "register": ("register.marked", "register.claimed", "register.entry_written"),
    "first fold": ("refold.table_written",),
    "fold": ("fold.stamped", "fold.table_written", "fold.head_swapped", "fold.marks_removed"),
    "compact": ("compact.table_done", "compact.head_swapped"),
    "upgrade": ("upgrade.pointer_swapped", "upgrade.document_swapped"),
    "rebuild": (
        "rebuild.begun",
        "rebuild.carried_over",
        "rebuild.claimed_in_live",
        "rebuild.recording_done",
        "rebuild.recordings_done",
        "rebuild.folded",
    ),
    "cut over": ("cutover.pointer_swapped", "cutover.swept"),
    "roll back": ("cutover.finished",),
    "download": ("download.file_complete", "download.file_renamed"),
    "merge participants": ("participants.edit_written",),
    "verify and record": ("verify.compared",),
    "import": ("register.batch_marked", "import.chunk_written", "import.merge_written"),
}
"""Where each fail point strikes in the short form."""

ELSEWHERE = {
    "release": "tests/maintenance/release/test_release_kills.py",
    "scrub": "tests/maintenance/test_scrub.py",
}
"""Rooms whose fail points strike in tests of their own: only a release changes a source, which is watched here; a scrub
writes nothing but its own ledger.
"""

_CALL = re.compile(r'failpoints\.reached\("([a-z_.]+)"\)')


@pytest.fixture(scope="module")
def forks(store_state: Path) -> Iterator[ForkServer]:
    open_store(store_state)
    server = ForkServer(store_state / "dagster")
    yield server
    server.close()


@pytest.mark.parametrize("portion", range(PORTIONS if _ASKED == "long" else 1))
@pytest.mark.parametrize("scenario", RUNS)
def test_fault_1_and_2_a_killed_run_is_made_good_by_a_rerun(
    scenario: str, portion: int, store_state: Path, tmp_path: Path, forks: ForkServer, monkeypatch: pytest.MonkeyPatch
):
    asked = Kill.parse(_ASKED) if "/" in _ASKED else None
    if asked and asked.scenario != scenario:
        pytest.skip("another kill was asked for")
    monkeypatch.setenv("DAGSTER_HOME", str(store_state / "dagster"))
    expected = undisturbed(scenario, store_state, tmp_path / "undisturbed", forks)
    planned, by_chance = ([asked] if asked else _sample(scenario, expected)), list[Kill]()
    if _ASKED == "long":
        planned, by_chance = (kills[portion::PORTIONS] for kills in _all(scenario, expected))
    kills = planned + by_chance

    done, failures = list[tuple[Killed, bool]](), list[str]()
    for number, kill in enumerate(kills):
        try:
            one = kill_and_rerun(kill, expected, store_state, tmp_path / str(number), forks)
            done.append((one, number < len(planned)))
        except AssertionError as failure:
            failures.append(f"URSA_FAULTS='{kill}': {failure}")

    _record(scenario, done, len(failures))
    assert not failures, f"{len(failures)} of {len(kills)} (seed {SEED}):\n" + "\n\n".join(failures)
    missed = [str(one.kill) for one, _ in done if one.kill.how == "name" and not one.struck]
    assert not missed, f"never came to {missed}"


def test_every_fail_point_of_the_package_strikes_in_the_short_form():
    package = Path(__file__).parents[2] / "ursa_pipelines"
    named = Counter(name for path in package.rglob("*.py") for name in _CALL.findall(path.read_text()))

    here = {name for name in named if name.partition(".")[0] not in ELSEWHERE}
    assert Counter(itertools.chain.from_iterable(NAMED.values())).keys() == here
    for name in named.keys() - here:
        assert f'"{name}"' in (package.parent / ELSEWHERE[name.partition(".")[0]]).read_text(), name
    assert max(named.values()) == 1
    assert NAMED.keys() == PREPARED.keys() == RUNS.keys()


def test_a_fail_point_costs_next_to_nothing_and_does_nothing():
    seconds = min(timeit.repeat(lambda: failpoints.reached("upload.file_stored"), number=100_000, repeat=5)) / 100_000
    record("fail point", nanoseconds=round(seconds * 1e9))

    assert seconds < 2e-6
    assert failpoints.reached.__module__ == failpoints.__name__


def _sample(scenario: str, expected: Undisturbed) -> list[Kill]:
    """The fail points that are its, and some of its requests."""
    seeded = random.Random(f"{SEED} {scenario}")
    moments = [Kill(scenario, how, nth) for nth in range(1, expected.requests + 1) for how in HOWS_OF_REQUESTS]
    chosen = seeded.sample(moments, SAMPLED.get(scenario, 1))
    named = [Kill(scenario, "name", seeded.randint(1, expected.passed.get(name, 1)), name) for name in NAMED[scenario]]
    return named + chosen


def _record(scenario: str, done: list[tuple[Killed, bool]], failed: int) -> None:
    """For the report; beside each kill stands whether it was planned. A request is one point, killed in three ways."""
    struck = [(one.kill, is_planned) for one, is_planned in done if one.struck]
    of_a_point = {"before", "name"} if _ASKED == "long" else {*HOWS_OF_REQUESTS, "name"}
    record(
        "kill matrix",
        scenario=scenario,
        points=len({(kill.name, kill.nth) for kill, is_planned in struck if is_planned and kill.how in of_a_point}),
        kills=len(struck),
        at_random=sum(not is_planned for _, is_planned in struck),
        ended_before=len(done) - len(struck),
        reruns_converged=len(done),
        failed=failed,
    )


def _all(scenario: str, expected: Undisturbed) -> tuple[list[Kill], list[Kill]]:
    """Every request in each way and every pass of every fail point; and this scenario's share of the random ones."""
    seeded = random.Random(f"{SEED} {scenario}")
    requests = [Kill(scenario, how, nth) for nth in range(1, expected.requests + 1) for how in HOWS_OF_REQUESTS]
    named = [
        Kill(scenario, "name", nth, name) for name, count in expected.passed.items() for nth in range(1, count + 1)
    ]
    share = random.Random(SEED).choices(list(RUNS), k=RANDOM_KILLS).count(scenario)
    milliseconds = max(1, round(expected.seconds * 1000))
    by_chance = [
        seeded.choice([Kill(scenario, "delay", seeded.randint(1, milliseconds)), seeded.choice(requests)])
        for _ in range(share)
    ]
    return requests + named, by_chance

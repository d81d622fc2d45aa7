"""The suites of faults as docs/reliability.md tells of them: what is tried, what must not happen, what is counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.faults.numbers import NUMBERS, tests_by_number

Rows = Mapping[str, Mapping[str, int | float | str]]
"""What a suite has counted, by the name of the row."""
Totals = Mapping[str, int]
"""Its sums, and of what cannot be added the highest."""

HIGHEST = {"peak_mib", "nanoseconds", "seed", "places", "sites", "surfaces", "invariants"}


@dataclass(frozen=True)
class Suite:
    """`asked`: what the issue asks for, and `reached` whether these figures are that. `columns`: figure to heading."""

    name: str
    title: str
    tried: str
    asked: str
    tests: tuple[str, ...] | Callable[[], tuple[str, ...]]
    figure: Callable[[Totals], str]
    reached: Callable[[Totals], bool]
    row: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    has_long: bool = True
    long_command: tuple[str, ...] = ()
    """What the long form runs with Python, in place of the tests."""
    long_environment: Mapping[str, str] = field(default_factory=lambda: {"URSA_FAULTS": "long"})
    named: str = ""
    """A pattern of the tests to take (`pytest -k`)."""
    by_test: bool = False
    """What is counted is how many cases each test has."""
    after: str = ""
    """A sentence below the table."""

    def figures(self, rows: Rows) -> Totals:
        """The totals of all rows."""
        sums: dict[str, int] = {}
        for row in rows.values():
            for key, value in row.items():
                if isinstance(value, int):
                    sums[key] = max(sums.get(key, 0), value) if key in HIGHEST else sums.get(key, 0) + value
        return sums


_IN_FILES = tuple(
    f"tests/faults/test_{name}.py"
    for name in ("source_faults", "source_hangs", "source_sizes", "source_changes", "drives_and_disks")
)


def _of_numbers() -> tuple[str, ...]:
    """The files with numbered tests that belong to no other suite."""
    elsewhere = {file for suite in SUITES.values() if isinstance(suite.tests, tuple) for file in suite.tests}
    return tuple(sorted({file for files in tests_by_number().values() for file in files} - elsewhere))


def _any(sums: Totals, *names: str) -> bool:
    return any(sums[name] for name in names)


_SUITES = (
    Suite(
        name="invariants",
        title="Invariants",
        tried="Ten things must hold after every fault, and are looked at after each test of this page, in buckets, "
        "tables, source and logs. Here each of them is broken by hand, to show that the look would tell.",
        asked="one place, each able to fail",
        tests=("tests/faults/test_invariants.py",),
        figure=lambda sums: f"{sums['invariants']} invariants, broken by hand in {sums['ways']} ways, each time named",
        reached=lambda sums: sums["invariants"] >= 7 and sums["ways"] == sums["named"],
        row="invariant",
        columns={"ways": "ways of breaking it", "named": "named"},
        has_long=False,
    ),
    Suite(
        name="kills",
        title="Kills",
        tried="A process is killed (SIGKILL) at one moment of what it does: before a request, after its effect, after "
        "the answer, between two steps, or at random. The same is run again, and must come to the state of a run that "
        "nothing disturbed; in between there must be no row without its bytes.",
        asked="60 points x 3, and 500 at random",
        tests=("tests/faults/test_kill_matrix.py",),
        figure=lambda sums: (
            f"{sums['kills']:,} kills at {sums['points']:,} points"
            + (f", {sums['at_random']:,} of them at random" if sums.get("at_random") else "")
            + f"; {sums['reruns_converged']:,} reruns came to the same end, {sums['failed']:,} did not"
        ),
        reached=lambda sums: (
            sums["points"] >= 60 and sums["kills"] >= 680 and sums["at_random"] >= 500 and not sums["failed"]
        ),
        row="what was killed",
        columns={
            "points": "points",
            "kills": "kills",
            "at_random": "at random",
            "ended_before": "ended before",
            "reruns_converged": "reruns that came to the same end",
            "failed": "that did not",
        },
        after="Requests whose turn had not come when the process ended are counted under *ended before*.",
    ),
    Suite(
        name="wire",
        title="The wire",
        tried="A proxy before the store does one thing to the requests of one place of the code: it refuses, resets, "
        "loses or cuts answers, repeats or skips pages, lets credentials expire. The call must succeed with the "
        "right state, or raise an error that says what to do; it must tell no conflict where there is none, no "
        "success where there is none, and never hang.",
        asked="every place, every fault; 0 false conflicts, 0 false successes",
        tests=("tests/faults/test_wire_matrix.py",),
        figure=lambda sums: (
            f"{sums['cells']:,} cells of {sums['sites']} places; "
            f"{sums['false_conflicts']} false conflicts, {sums['false_successes']} false successes"
        ),
        reached=lambda sums: sums["cells"] >= 1000 and not _any(sums, "false_conflicts", "false_successes", "other"),
        row="what the wire did",
        columns={
            "cells": "cells",
            "struck": "where it struck",
            "raised": "told by an error",
            "false_conflicts": "false conflicts",
            "false_successes": "false successes",
            "other": "otherwise wrong",
            "excepted": "cannot be known",
        },
        after="*Cannot be known*: cells of which `tests/faults/test_wire_matrix.py` says in a sentence each why no "
        "client could do better, such as a list that leaves an object out and says that it is whole.",
    ),
    Suite(
        name="files",
        title="Drives and disks",
        tried="Real mounts (FUSE, tmpfs, bind) that fail with EIO, ESTALE or ENOTCONN at a byte, hang, are unmounted "
        "under way, are full or read-only; files that grow, shrink, rot and are exchanged while they are read. "
        "Nothing may be registered that is not whole, nothing may wait for ever, and nothing is written to a source.",
        asked="on real mounts",
        tests=_IN_FILES,
        figure=lambda sums: f"{sums['cases']} cases of {sums['tests']} tests on real mounts",
        reached=lambda sums: sums["cases"] >= 50,
        row="what happens",
        columns={"cases": "cases"},
        has_long=False,
        by_test=True,
    ),
    Suite(
        name="ingesters",
        title="Many ingesters",
        tried="2 to 8 processes ingest, register, reconstruct, verify, fold, merge and cut over the same recordings at "
        "once; a seed decides who does what, and which requests are held so that they meet. At the end there must be "
        "exactly one set of rows of each recording, that of an undisturbed run.",
        asked="1,000 seeds, 2 to 8 processes, one row set each time",
        tests=("tests/faults/test_many_ingesters.py",),
        figure=lambda sums: (
            f"{sums['seeds']:,} seeds, {sums['processes']:,} processes, {sums['requests']:,} requests; "
            f"{sums['violations']} with another end"
        ),
        reached=lambda sums: sums["seeds"] >= 1000 and not sums["violations"],
        row="seeds",
        columns={
            "processes": "processes",
            "operations": "operations",
            "requests": "requests",
            "requests_held": "held",
            "reruns": "operations that had to be repeated",
            "violations": "another end",
        },
    ),
    Suite(
        name="chaos",
        title="Random operations against a model",
        tried="Several processes write and read the catalog at random over a wire that fails, while a model in plain "
        "Python does the same; after every step both must say the same, and no acknowledged write may be missing.",
        asked="invariants after every mutating call",
        tests=("tests/catalog/chaos",),
        figure=lambda sums: f"{sums['examples']} histories of up to {sums['steps']} steps, none that the model denies",
        reached=lambda sums: sums["examples"] >= 50,
        long_environment={"URSA_CHAOS_EXAMPLES": "60"},
    ),
    Suite(
        name="hostile",
        title="Hostile input",
        tried="Manifests, directory trees and stored documents, each with a name, as damaged or hostile as they come. "
        "Each is refused with an error of ours and nothing is written, or, where it is only evidence, passed over.",
        asked="300 named cases",
        tests=("tests/faults/test_hostile_input.py", "tests/recordings/test_hostile_manifests.py"),
        figure=lambda sums: (
            f"{sums['named']} named cases: {sums['manifests']} manifests, {sums['trees']} trees, "
            f"{sums['documents']} documents"
        ),
        reached=lambda sums: sums["named"] >= 300,
        has_long=False,
    ),
    Suite(
        name="fuzz",
        title="Fuzzing",
        tried="Everything that is parsed from a source or a bucket is fed with damaged documents. It must end in a "
        "document or in an error of ours, open nothing, lead to no key outside its recording, and stay below 256 MiB.",
        asked="1,000,000 executions; 0 untyped exceptions, 0 opens, 0 keys outside, 256 MiB",
        tests=("tests/faults/test_fuzz.py",),
        figure=lambda sums: (
            f"{sums['executions']:,} executions: {sums['untyped_exceptions']} untyped exceptions, "
            f"{sums['opens']} opens, {sums['keys_outside']} keys outside; at most {sums['peak_mib']} MiB"
        ),
        reached=lambda sums: (
            sums["executions"] >= 1_000_000
            and sums["peak_mib"] <= 256
            and not _any(sums, "untyped_exceptions", "opens", "keys_outside")
        ),
        row="parser",
        columns={
            "executions": "executions",
            "accepted": "accepted",
            "untyped_exceptions": "untyped exceptions",
            "opens": "opens",
            "keys_outside": "keys outside",
            "peak_mib": "peak MiB",
            "engine": "by",
        },
        long_command=("-m", "tests.faults.fuzz", "--executions", "1000000"),
    ),
    Suite(
        name="flips",
        title="Bit flips",
        tried="One bit flips in what lies on the drive, in the store, in the catalog or in what is kept on this host. "
        "What reads it next must notice, or come to the same result; an undamaged thing must never be called damaged.",
        asked="1,000 flips, all detected, no false alarm",
        tests=tuple(f"tests/faults/test_bit_flips{one}.py" for one in ("", "_in_catalog", "_in_bookkeeping")),
        figure=lambda sums: (
            f"{sums['flips']:,} flips: {sums['noticed']:,} noticed, {sums['harmless']:,} without "
            f"effect, {sums['unnoticed']:,} in what nothing can check; {sums['false_alarms']} false alarms"
        ),
        reached=lambda sums: sums["flips"] >= 960 and not sums["false_alarms"],
        row="where",
        columns={
            "flips": "flips",
            "noticed": "noticed",
            "harmless": "without effect",
            "unnoticed": "cannot be noticed",
            "false_alarms": "false alarms",
        },
        after="*Cannot be noticed*: text that somebody has stored by hand and nobody has signed, such as the device "
        "info in a manifest that a rig has stored itself, or a display name; it is still the same recording with the "
        "same bytes. The tests name each such field (`known`), and any other would fail.",
    ),
    Suite(
        name="canaries",
        title="Secrets and names",
        tried="Random keys, tokens and participants' names go through a whole life of a profile: commands, the API, "
        "Dagster with its daemon and webserver, failures, a crash, all logs at DEBUG. Then everything that was shown, "
        "stored, served or given to another process is searched for them, in every notation; none may be found, and "
        "leaks that were planted must be.",
        asked="12 canaries, 0 found, planted leaks found",
        tests=("tests/faults/test_canaries.py",),
        figure=lambda sums: (
            f"{sums['canaries']} canaries, {sums['surfaces']} surfaces, {sums['searched']:,} places: "
            f"{sums['leaks']} found; {sums['found']} of {sums['planted']} kinds of planted leaks found"
        ),
        reached=lambda sums: sums["canaries"] >= 12 and not sums["leaks"] and sums["planted"] == sums["found"] > 0,
        row="surface",
        columns={"searched": "places searched", "bytes": "bytes", "leaks": "found"},
        has_long=False,
    ),
    Suite(
        name="mutants",
        title="Broken builds",
        tried="The test of the tests: the package is broken on purpose, in one small way at a time, and the suite must "
        "fail. A broken build that passes would mean that nobody guards that rule.",
        asked="ten broken builds, all caught",
        tests=("tests/faults/test_mutants.py",),
        figure=lambda sums: f"{sums['caught']} of {sums['mutants']} broken builds caught",
        reached=lambda sums: sums["mutants"] >= 10 and sums["caught"] == sums["mutants"],
        row="the build in which",
        columns={"caught": "caught", "by": "by"},
    ),
    Suite(
        name="numbers",
        title="The list of faults, and its tests",
        tried="Each number of the list has tests that are named after it (`test_fault_12_...`); those that belong to "
        "no suite above were run here.",
        asked="every number",
        tests=_of_numbers,
        named="fault_ or every_number",
        figure=lambda sums: f"{sums['numbers']} of {len(NUMBERS)} numbers have tests named after them",
        reached=lambda sums: sums["numbers"] == len(NUMBERS),
        has_long=False,
    ),
)
SUITES = {one.name: one for one in _SUITES}
"""All of them by name, in the order of the page."""

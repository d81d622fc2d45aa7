"""The test of the tests: builds that are broken on purpose (`tests/faults/mutants.py`) are caught by the suite.

Each mutant names the smallest tests that must catch it. These fail on the broken copy of the package, every one, and
pass on an unbroken one. CI tries some of the mutants, others with every change of the package; all:

    URSA_FAULTS=long uv run pytest tests/faults/test_mutants.py
"""

from __future__ import annotations

import ast
import hashlib
import os
import random
from pathlib import Path

import pytest

from tests.faults.figures import record
from tests.faults.mutants import MUTANTS, PACKAGE, ROOT, Mutant, apply, copy_package, run_tests
from ursa_pipelines.embedded.store import open_store

IS_LONG = os.environ.get("URSA_FAULTS") == "long"
IN_CI = 5
TURNS = range(len(MUTANTS) if IS_LONG else IN_CI)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A directory with a copy of the package."""
    place = tmp_path / "build"
    copy_package(place)
    return place


@pytest.mark.parametrize("turn", TURNS)
def test_a_broken_build_is_caught(turn: int, copied: Path, store_state: Path):
    mutant = tried()[turn]
    open_store(store_state)
    apply(mutant, copied)

    found = run_tests(copied, mutant.tests, store_state, name=str(MUTANTS.index(mutant)))

    survived = [test for test in mutant.tests if not found.of(test) & {"FAILED", "ERROR"}]
    by = ", ".join(sorted({Path(test.partition("::")[0]).stem.removeprefix("test_") for test in mutant.tests}))
    record(f"broken builds, {mutant.name.replace(',', '')}", mutants=1, caught=int(not survived), by=by)
    assert not survived, f"{mutant.name}: not caught by {survived}\n{found.output}"
    assert not found.does_not_run, f"{mutant.name}: it cannot run\n{found.output}"


def test_the_unbroken_build_passes_what_catches_the_broken_ones(copied: Path, store_state: Path):
    open_store(store_state)
    tests = sorted({test for mutant in tried() for test in mutant.tests})

    found = run_tests(copied, tests, store_state, name="none")

    assert {test: found.of(test) for test in tests} == {test: {"PASSED"} for test in tests}, found.output


def test_every_mutant_applies_and_every_test_that_it_names_is_there(copied: Path):
    # One after the other on the same copy would hide what two of them change.
    for mutant in MUTANTS:
        before = {edit.file: (copied / "ursa_pipelines" / edit.file).read_bytes() for edit in mutant.edits}
        apply(mutant, copied)
        for file, content in before.items():
            (copied / "ursa_pipelines" / file).write_bytes(content)
    for file, name in {tuple(test.partition("[")[0].split("::")) for mutant in MUTANTS for test in mutant.tests}:
        functions = {one.name for one in ast.walk(ast.parse((ROOT / file).read_text())) if hasattr(one, "name")}
        assert name in functions, f"{file} has no {name}"


def tried() -> list[Mutant]:
    """All in the long form; else some, which the content of the package decides."""
    if IS_LONG:
        return list(MUTANTS)
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return random.Random(digest).sample(MUTANTS, IN_CI)

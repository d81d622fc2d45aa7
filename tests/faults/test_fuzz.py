"""The short form of `tests/faults/fuzz.py`: the corpus and some thousand seeded mutations for each parser.

`python -m tests.faults.fuzz --executions 1000000` is the long form. A failure is repeated by the seed it tells:
`python -m tests.faults.fuzz --target <parser> --seed <seed>`.
"""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import fuzz

SEED = 20260520
EXECUTIONS = 2_000


@pytest.fixture(scope="module")
def opens() -> fuzz.Opens:
    return fuzz.Opens()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_fault_41_damaged_documents_are_refused_by_name_and_open_nothing(target: str, opens: fuzz.Opens):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    tally = fuzz.run_seeded(target, EXECUTIONS, SEED, opens)

    fuzz.record_tally(replace(tally, peak_bytes=max(0, tally.peak_bytes - before)), "seeded mutations", SEED)
    assert tally.is_clean, f"seed {SEED}: {tally.untyped} {tally.foreign_keys} {tally.opens}"
    assert tally.executions == EXECUTIONS
    assert tally.accepted > EXECUTIONS // 100
    assert tally.peak_bytes - before <= fuzz.MEMORY_LIMIT


def test_the_same_seed_gives_the_same_documents():
    others = fuzz.corpus("manifest")
    once, twice = (
        [fuzz.mutated(others[0], chosen, others) for _ in range(50)]
        for chosen in (fuzz.random.Random(SEED), fuzz.random.Random(SEED))
    )
    assert once == twice
    assert len(set(once)) > 40


def test_an_untyped_exception_a_foreign_key_and_an_open_are_noted(
    opens: fuzz.Opens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "secret").touch()

    def broken(raw: bytes) -> list[str]:
        if raw == b"untyped":
            raise KeyError("files")
        if raw == b"open":
            (tmp_path / "secret").read_bytes()
        return ["recordings/another/x"] if raw == b"key" else []

    monkeypatch.setitem(fuzz.TARGETS, "manifest", broken)
    for raw in (b"untyped", b"open", b"key"):
        tally = fuzz.Tally("manifest")
        fuzz.execute(tally, raw, opens)
        assert not tally.is_clean, raw

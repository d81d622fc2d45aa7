"""The page of the figures: what it says of suites that hold, fail, or were not run, and where figures come from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults import report
from tests.faults.numbers import NUMBERS
from tests.faults.report_page import failing, page
from tests.faults.suites import SUITES, Suite


def of(rows: dict[str, dict[str, Any]], *failed: str, at: str = "2026-11-23 08:00") -> dict[str, Any]:
    """What came of a suite."""
    made = {"at": at, "seconds": 75, "version": "1", "python": "3.11.9", "cores": 2, "cases": 3, "skipped": 0}
    return {**made, "failed": list(failed), "rows": rows}


MUTANTS = {f"build {number}": {"mutants": 1, "caught": 1, "by": "store"} for number in range(12)}


def row_of(suite: str, kept: dict[str, Any]) -> str:
    (row,) = [line for line in page(kept).splitlines() if line.startswith(f"| [{SUITES[suite].title}]")]
    return row


def test_the_page_in_the_repository_is_made_of_the_figures_beside_it():
    assert report.PAGE.read_text() == page(report.read_kept()), "uv run python -m tests.faults.report --page"


def test_no_suite_of_the_page_fails_and_each_is_one_that_there_is():
    kept = report.read_kept()

    assert kept.keys() <= SUITES.keys()
    assert failing(kept) == {}


def test_a_suite_says_what_it_came_to_and_whether_that_is_what_was_asked():
    assert "12 of 12 broken builds caught | **holds** | long, 2026-11-23" in row_of(
        "mutants", {"mutants": {"long": of(MUTANTS)}}
    )
    few = {name: MUTANTS[name] for name in list(MUTANTS)[:3]}
    assert "3 of 3 broken builds caught | holds, in the short form |" in row_of(
        "mutants", {"mutants": {"short": of(few)}}
    )
    assert "| not run yet |" in row_of("mutants", {})


def test_a_suite_that_fails_is_named_at_the_top_and_in_its_section():
    kept = {"mutants": {"long": of(MUTANTS, "tests/faults/test_mutants.py::test_a[3]")}}

    assert "**fails**" in row_of("mutants", kept)
    told = page(kept)
    assert "**A suite fails:**\n\n- mutants, long form: `tests/faults/test_mutants.py::test_a[3]`" in told
    assert told.count("test_a[3]") == 2


def test_what_failed_is_forgotten_when_a_newer_run_of_the_suite_holds():
    later = "2026-11-23 09:00"
    assert failing({"mutants": {"short": of(MUTANTS, "x"), "long": of(MUTANTS, at=later)}}) == {}
    assert failing({"mutants": {"short": of(MUTANTS), "long": of(MUTANTS, "x", at=later)}}) != {}


def test_a_suite_that_counted_nothing_is_told_of_all_the_same():
    assert "nothing was counted | **fails**" in row_of("fuzz", {"fuzz": {"short": of({}, "it ended with 4")}})
    assert "was not counted | holds" in row_of("fuzz", {"fuzz": {"short": of({"entry": {"accepted": 1}})}})


def test_rows_add_up_but_for_what_cannot_be_added():
    recorded = [
        {"name": "kill matrix", "scenario": "fold", "kills": 3, "portion": 1, "nanoseconds": 5},
        {"name": "kill matrix", "scenario": "fold", "kills": 4, "portion": 2, "nanoseconds": 4},
        {"name": "bit flips, tables: log", "flips": 4, "noticed_by": "fold"},
    ]
    assert report.rows_of(recorded) == {
        "fold": {"kills": 7, "nanoseconds": 5},
        "tables: log": {"flips": 4, "noticed_by": "fold"},
    }


def test_every_number_of_the_list_has_a_line_with_its_tests():
    rows = {number: {"tests/faults/test_kill_matrix.py": 2} for number in NUMBERS}
    told = page({"numbers": {"short": of(rows)}})

    for number, (happens, _) in NUMBERS.items():
        (line,) = [line for line in told.splitlines() if line.startswith(f"| {number} | ")]
        assert line.endswith("[kill_matrix](../tests/faults/test_kill_matrix.py) 2 |") and happens in line


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page and its figures in a directory of their own."""
    monkeypatch.setattr(report, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(report, "KEPT", tmp_path / "page.json")
    return tmp_path


def test_one_suite_is_run_alone_and_a_failure_ends_with_1(own: Path, monkeypatch: pytest.MonkeyPatch):
    (own / "page.json").write_text(json.dumps({"flips": {"short": of({"entry": {"flips": 4}})}}))
    monkeypatch.setattr(report, "run", lambda suite, *, is_long: of(MUTANTS, *["x"] * is_long))

    assert report.main(["--only", "mutants"]) == 0
    assert report.main(["--only", "mutants", "--long"]) == 1

    kept = json.loads((own / "page.json").read_text())
    assert {name: set(forms) for name, forms in kept.items()} == {"flips": {"short"}, "mutants": {"short", "long"}}
    assert "mutants, long form: `x`" in (own / "page.md").read_text()


def test_figures_that_come_while_a_suite_runs_stay(own: Path, monkeypatch: pytest.MonkeyPatch):
    def run(suite: Suite, *, is_long: bool) -> dict[str, Any]:
        (own / "page.json").write_text(json.dumps({"flips": {"long": of({"entry": {"flips": 4}})}}))
        return of(MUTANTS)

    monkeypatch.setattr(report, "run", run)

    assert report.main(["--only", "mutants"]) == 0

    assert json.loads((own / "page.json").read_text()).keys() == {"flips", "mutants"}


def test_figures_of_another_tree_are_taken_where_they_are_newer(own: Path):
    (own / "page.json").write_text(json.dumps({"mutants": {"short": of({}), "long": of(MUTANTS)}}))
    other = {"mutants": {"short": of(MUTANTS, at="2026-11-24 08:00"), "long": of({}, at="2026-11-22 08:00")}}
    (own / "other.json").write_text(json.dumps(other))

    assert report.main(["--take", str(own / "other.json")]) == 0

    kept = json.loads((own / "page.json").read_text())
    assert kept == {"mutants": {"short": other["mutants"]["short"], "long": of(MUTANTS)}}


def test_a_run_counts_cases_and_names_what_failed(own: Path, monkeypatch: pytest.MonkeyPatch):
    (own / "test_small.py").write_text(
        "import pytest\n"
        "from tests.faults.figures import record\n"
        "@pytest.mark.parametrize('kind', ['a', 'b'])\n"
        "def test_fault_9_a_drive_that_fails(kind):\n"
        "    record('mutants, it', mutants=1, caught=1)\n"
        "def test_wrong():\n"
        "    assert False\n"
    )
    suite = SUITES["mutants"]
    for by_test, rows in (
        (False, {"it": {"mutants": 2, "caught": 2}}),
        (True, {"9. a drive that fails ...": {"cases": 2, "tests": 1}}),
    ):
        small = replace(suite, tests=(str(own / "test_small.py"),), by_test=by_test)

        came = report.run(small, is_long=False)

        assert (came["rows"], came["cases"], len(came["failed"])) == (rows, 2, 1)
        assert came["failed"][0].endswith("test_wrong")

"""Runs the suites of faults, keeps what they count in docs/reliability.json, and makes docs/reliability.md of that.

    uv run python -m tests.faults.report [--long] [--only NAME ...]

The short forms are what CI runs, some minutes; the long ones (every kill and cell, 1,000 seeds, 1,000 flips, a million
inputs) take an hour or two, and can be run one by one: after each the page is made anew, of the newest figures of every
suite in each form. Figures of another working tree or machine come with `--take FILE`; `--page` makes the page anew
and runs nothing. Exits with 1 if the page tells of a suite that fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.faults.report_page import failing, page
from tests.faults.suites import HIGHEST, SUITES, Suite

ROOT = Path(__file__).parents[2]
PAGE, KEPT = ROOT / "docs" / "reliability.md", ROOT / "docs" / "reliability.json"

_MOST_FAILURES = 10
Kept = dict[str, dict[str, dict[str, Any]]]
"""What came of each suite in each form, "short" and "long"."""


def main(words: list[str] | None = None) -> int:
    every = SUITES
    summary, _, details = (__doc__ or "").partition("\n\n")
    asked = argparse.ArgumentParser(
        prog="python -m tests.faults.report",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    asked.add_argument("--long", action="store_true", help="the long forms, of the suites that have one")
    asked.add_argument("--only", nargs="+", choices=list(every), metavar="NAME", help=f"of these: {', '.join(every)}")
    asked.add_argument("--take", type=Path, metavar="FILE", help="take what is newer in another reliability.json")
    asked.add_argument("--page", action="store_true", help="run nothing: make the page of the figures that are kept")
    given = asked.parse_args(words)
    kept = read_kept()
    if given.take:
        take(kept, json.loads(given.take.read_text(encoding="utf-8")))
    form = "long" if given.long else "short"
    chosen = [] if given.page or given.take else [every[name] for name in given.only or every]
    for suite in chosen:
        if given.long and not suite.has_long:
            continue
        print(f"{suite.name}, {form} form", flush=True)
        done = run(suite, is_long=given.long)
        # Read again: a long form may have ended elsewhere meanwhile.
        kept = read_kept()
        kept.setdefault(suite.name, {})[form] = done
        write(kept)
    write(kept)
    for name, told in failing(kept).items():
        print(f"{name} fails: {'; '.join(told)}", file=sys.stderr)
    return 1 if failing(kept) else 0


def read_kept() -> Kept:
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}


def write(kept: Kept) -> None:
    """Both files; each is whole at any moment."""
    for path, text in ((KEPT, json.dumps(kept, indent=1, sort_keys=True) + "\n"), (PAGE, page(kept))):
        beside = path.with_suffix(".new")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)


def take(kept: Kept, others: Kept) -> None:
    """Takes what is newer in `others`."""
    for name, forms in others.items():
        for form, one in forms.items():
            mine = kept.setdefault(name, {})
            if form not in mine or mine[form]["at"] < one["at"]:
                mine[form] = one


def run(suite: Suite, *, is_long: bool) -> dict[str, Any]:
    """Runs a suite to its end, and gives what it has counted, with the names of tests that failed."""
    with tempfile.TemporaryDirectory() as directory:
        figures, outcomes = Path(directory) / "figures.jsonl", Path(directory) / "outcomes.xml"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("URSA_FAULT")}
        environment |= {"URSA_FAULT_FIGURES": str(figures)} | (dict(suite.long_environment) if is_long else {})
        named = suite.tests if isinstance(suite.tests, tuple) else suite.tests()
        tests = ["-m", "pytest", *named, "--junitxml", str(outcomes), "-o", "junit_duration_report=call"]
        tests += ["-k", suite.named] if suite.named else []
        command = list(suite.long_command) if is_long and suite.long_command else tests
        began = time.monotonic()
        code = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment).returncode
        seconds = time.monotonic() - began
        lines = figures.read_text(encoding="utf-8").splitlines() if figures.exists() else []
        cases = list(ElementTree.parse(outcomes).iter("testcase")) if outcomes.exists() else []
    failed = [_told(case) for case in cases if _came_to(case) == "failed"]
    if code and not failed:
        failed = [f"`python {' '.join(command[:3])}` ended with {code}"]
    return {
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "seconds": round(seconds),
        "version": version("ursa-pipelines"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "cases": sum(_came_to(case) == "passed" for case in cases),
        "skipped": sum(_came_to(case) == "skipped" for case in cases),
        "failed": failed[:_MOST_FAILURES] + ([f"and {len(failed) - _MOST_FAILURES} more"] * (len(failed) > 10)),
        "rows": _by_test(cases) if suite.by_test else rows_of(json.loads(line) for line in lines),
    }


def rows_of(recorded: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was recorded (`figures.py`), by the rows of a table; a row that comes several times is added up."""
    rows: dict[str, dict[str, Any]] = {}
    for one in recorded:
        family, _, rest = one["name"].partition(", ")
        row = rows.setdefault(rest or str(one.get("scenario", family)), {})
        for key, value in one.items():
            if key in {"name", "scenario", "portion", "form"}:
                continue
            if isinstance(value, int):
                row[key] = max(row.get(key, 0), value) if key in HIGHEST else row.get(key, 0) + value
            else:
                row[key] = value
    return rows


def _by_test(cases: Iterable[ElementTree.Element]) -> dict[str, dict[str, Any]]:
    """How many cases of each test have passed, by what the test's name says, with its number."""
    counted = Counter(case.get("name", "").partition("[")[0] for case in cases if _came_to(case) == "passed")
    rows = {}
    for name, count in counted.items():
        sentence = name.removeprefix("test_")
        if sentence.startswith("fault_"):
            number, _, sentence = sentence.removeprefix("fault_").partition("_")
            sentence = f"{number}. {sentence}"
        ends_early = sentence.endswith(("_is", "_fails", "_hangs", "_that"))
        rows[sentence.replace("_", " ") + (" ..." if ends_early else "")] = {"cases": count, "tests": 1}
    return rows


def _came_to(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "passed" if case.find("skipped") is None else "skipped"


def _told(case: ElementTree.Element) -> str:
    module = case.get("classname", "").replace(".", "/")
    return f"{module}.py::{case.get('name')}" if module else str(case.get("name"))


if __name__ == "__main__":
    sys.exit(main())

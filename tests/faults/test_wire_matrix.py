"""Every place where the package asks a store something, times every fault of the wire (studies: faults, G3).

A scenario runs through a proxy that does one thing to the requests of one place. Whatever it is: the call succeeds
with the state of a run that nothing disturbed, or raises an error of ours that names the remedy; the same call then
comes to that state without the fault. No conflict is told where there is none, and no call hangs.

CI takes every place and every kind of fault at least once, paired by the seed `URSA_FAULTS_SEED`. The long form takes
every place with every kind, some 1,200 cells, each in a scenario that the seed chooses, in about half an hour:

    URSA_FAULTS=long uv run pytest tests/faults/test_wire_matrix.py
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults import figures
from tests.faults.proxy import Fault
from tests.faults.scenarios import SCENARIOS, Scenario, ToldInTheResult, make_world, told
from tests.faults.wire_faults import KINDS
from ursa_pipelines.errors import (
    CatalogConflict,
    ContentMismatch,
    ObjectConflict,
    ObjectExists,
    RecordingConflict,
    Retryable,
    UrsaError,
)

LONG = os.environ.get("URSA_FAULTS") == "long"
SEED = int(os.environ.get("URSA_FAULTS_SEED", "7"))
_AT_ONCE = 32 if LONG else 12
_DEADLINE_SECONDS = 400
_FALSE_CONFLICTS = (RecordingConflict, CatalogConflict, ObjectConflict, ObjectExists, ContentMismatch)

_RAW, _ASSETS, _CATALOG = r"/raw-[0-9a-f]+", r"/assets-[0-9a-f]+", r"/assets-[0-9a-f]+/ursa/catalog(?:-2)?"
_REC = _RAW + r"/recordings/rec_\w+"
_LIST = r"^GET {bucket}\?(?:.*&)?list-type=2&prefix={prefix}(?:&|$)"

SITES: dict[str, str] = {
    # Raw objects
    "small segment": rf"^PUT {_REC}/eeg\w*/[^?]*$",
    "segment in chunks": rf"^PUT {_REC}/mic/[^?]*$",
    "CreateMultipart": rf"^POST {_REC}/camera[^?]*\?uploads$",
    "UploadPart": rf"^PUT {_REC}/camera[^?]*\?partNumber=",
    "Complete": rf"^POST {_REC}/camera[^?]*\?uploadId=",
    "Abort": rf"^DELETE {_REC}/camera[^?]*\?uploadId=",
    "ListParts": rf"^GET {_REC}/camera[^?]*\?uploadId=",
    "manifest": rf"^PUT {_REC}/manifest\.json$",
    "node manifest": rf"^PUT {_REC}/_node_manifests/",
    "participant": rf"^PUT {_REC}/participant\.txt$",
    "commit marker": rf"^PUT {_RAW}/manifests/",
    "manifest read": rf"^GET {_REC}/(_node_manifests/\w+|manifest)\.json$",
    "participant read": rf"^GET {_REC}/participant\.txt$",
    "commit marker read": rf"^GET {_RAW}/manifests/",
    "segment read": rf"^GET {_REC}/(camera|mic|eeg)[^?]*$",
    "segment HEAD": rf"^HEAD {_REC}/(camera|mic|eeg)",
    "recording LIST": _LIST.format(bucket=_RAW, prefix=r"recordings%2Frec_\w+%2F"),
    "recordings LIST": rf"^GET {_RAW}\?.*prefix=recordings%2F(&|$)",
    "uploads LIST": rf"^GET {_RAW}\?uploads&",
    "bucket LIST": rf"^GET {_ASSETS}\?.*prefix=recordings%2F",
    "bucket identity": r"^GET /(raw|assets)-[0-9a-f]+/ursa/BUCKET\.json$",
    "store HEAD": r"^(HEAD|GET) (/raw-[0-9a-f]+)?/?$",
    # Records of uploads
    "upload record": rf"^PUT {_ASSETS}/ursa/uploads/",
    "upload record read": rf"^GET {_ASSETS}/ursa/uploads/",
    "upload record removal": rf"^DELETE {_ASSETS}/ursa/uploads/",
    "upload records LIST": _LIST.format(bucket=_ASSETS, prefix="ursa%2Fuploads%2F"),
    # Catalog
    "pointer read": rf"^GET {_ASSETS}/ursa/ACTIVE\.json$",
    "pointer swap": rf"^PUT {_ASSETS}/ursa/ACTIVE\.json$",
    "catalog document read": rf"^(GET|HEAD) {_CATALOG}/(CATALOG|REBUILD)\.json$",
    "catalog document": rf"^PUT {_CATALOG}/(CATALOG|REBUILD)\.json$",
    "catalog LIST": _LIST.format(bucket=_ASSETS, prefix=r"ursa%2Fcatalog-2%2F"),
    "claim read": rf"^GET {_CATALOG}/rec_ids/",
    "claim": rf"^PUT {_CATALOG}/rec_ids/",
    "claims LIST": _LIST.format(bucket=_ASSETS, prefix=r"ursa%2Fcatalog(-2)?%2Frec_ids%2F"),
    "entry read": rf"^GET {_CATALOG}/entries/",
    "entry": rf"^PUT {_CATALOG}/entries/",
    "entries LIST": _LIST.format(bucket=_ASSETS, prefix=r"ursa%2Fcatalog(-2)?%2Fentries%2F"),
    "edit read": rf"^GET {_CATALOG}/participants/",
    "edit": rf"^PUT {_CATALOG}/participants/",
    "edits LIST": _LIST.format(bucket=_ASSETS, prefix=r"ursa%2Fcatalog(-2)?%2Fparticipants%2F"),
    "tail mark": rf"^PUT {_CATALOG}/tail/",
    "tail mark removal": rf"^DELETE {_CATALOG}/tail/",
    "tail LIST": _LIST.format(bucket=_ASSETS, prefix=r"ursa%2Fcatalog(-2)?%2Ftail%2F"),
    # Tables
    "HEAD read": rf"^GET {_CATALOG}/HEAD\.json$",
    "HEAD swap": rf"^PUT {_CATALOG}/HEAD\.json$",
    "tables LIST": rf"^GET {_ASSETS}\?.*prefix=ursa%2Fcatalog(-2)?%2Ftables%2F(\w+%2F)?(&|$)",
    "Delta log LIST": rf"^GET {_ASSETS}\?.*prefix=.*_delta_log%2F",
    "Delta log read": rf"^GET {_CATALOG}/tables/\w+/_delta_log/",
    "Delta log HEAD": rf"^HEAD {_CATALOG}/tables/\w+/_delta_log/\d+\.json$",
    "Delta commit": rf"^PUT {_CATALOG}/tables/\w+/_delta_log/\d+\.json$",
    "Delta checkpoint": rf"^(PUT|HEAD) {_CATALOG}/tables/\w+/_delta_log/.*(checkpoint)",
    "Delta data": rf"^PUT {_CATALOG}/tables/.*\.parquet$",
    "Delta data read": rf"^(GET|HEAD) {_CATALOG}/tables/.*\.parquet$",
}

EXCEPTIONS: list[tuple[str, str, str, str]] = [
    (
        r".*",
        r"Delta log LIST",
        r"200 with an error",
        "delta-rs takes an error with status 200 for an empty page; no store is known to answer a LIST so",
    ),
    (
        r".*",
        r".*LIST",
        r"skips a page",
        "who only lists cannot know of what is left out; an ingest asks for each object by name (fault 64), a fold "
        "leaves the mark, and a nightly pass compares",
    ),
    (
        r".*",
        r"(small segment|segment in chunks|Complete|manifest|node manifest|participant)",
        r"wrong ETag",
        "the marker says an ETag that no object has, and so proves nothing: the next proof is by digest",
    ),
    (
        r".*",
        r"participant read",
        r"wrong size",
        "a text that is cut short, with a length that agrees, is a shorter text; HTTP gives no such answer",
    ),
]
"""Scenario, place and kind (patterns), and why the cell cannot be held to the rule."""


@dataclass(frozen=True)
class Cell:
    scenario: str
    site: str
    kind: str

    @property
    def excepted(self) -> bool:
        return any(
            re.fullmatch(scenario, self.scenario) and re.fullmatch(site, self.site) and re.fullmatch(kind, self.kind)
            for scenario, site, kind, _ in EXCEPTIONS
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a cell. `wrong` is "" where it is as it should be; `struck` is how often the fault happened."""

    cell: Cell
    seconds: float
    struck: int
    error: str = ""
    wrong: str = ""


@dataclass(frozen=True)
class Undisturbed:
    """What a scenario comes to without fault: what it tells, told again, the state, and the places that it asks."""

    told: Any
    told_again: Any
    state: Any
    sites: dict[str, str]
    """Place to a request of it."""


@dataclass
class Bench:
    """Where worlds are made: the store's state directory and a directory for those that are made in it."""

    state: Path
    root: Path

    def __post_init__(self) -> None:
        self._count, self._lock = 0, threading.Lock()

    def directory(self) -> Path:
        with self._lock:
            self._count += 1
            return self.root / f"world_{self._count}"

    def undisturbed(self, scenario: Scenario) -> Undisturbed:
        world = make_world(self.state, self.directory(), scenario)
        try:
            before = scenario.state(world) if scenario.only_reads else None
            first = told(world, scenario)
            requests = [one.request for one in world.detour.proxy.seen]
            state = scenario.state(world)
            assert before is None or before == state
            return Undisturbed(first, told(world, scenario), state, _sites(requests))
        finally:
            world.close()

    def run(self, cell: Cell, undisturbed: Undisturbed) -> Outcome:
        """One cell in a world of its own."""
        began, scenario = time.monotonic(), SCENARIOS[cell.scenario]
        world = make_world(self.state, self.directory(), scenario)
        fault = KINDS[cell.kind].of(SITES[cell.site])
        world.detour.proxy.fault = fault
        error = wrong = ""
        try:
            answer = _within(lambda: told(world, scenario))
            if answer is _HUNG:
                return Outcome(cell, time.monotonic() - began, fault.struck, wrong="it hangs")
            if isinstance(answer, BaseException):
                error = f"{type(answer).__name__}: {answer}"
                wrong = _wrong_in(answer)
            elif answer != undisturbed.told:
                wrong = f"false success: it told {answer}, not {undisturbed.told}"
            world.detour.proxy.fault = Fault()
            world.detour.proxy.wait_until_idle()
            if not error and not wrong and (state := scenario.state(world)) != undisturbed.state:
                wrong = f"false success: {_difference(state, undisturbed.state)}"
            if not wrong:
                wrong = self._converges(world, scenario, undisturbed)
            return Outcome(cell, time.monotonic() - began, fault.struck, error, wrong)
        finally:
            world.close()

    def _converges(self, world: Any, scenario: Scenario, undisturbed: Undisturbed) -> str:
        answer = _within(lambda: told(world, scenario))
        if isinstance(answer, BaseException) or answer is _HUNG:
            return f"again without fault: {type(answer).__name__}: {answer}"
        if answer not in (undisturbed.told, undisturbed.told_again):
            return f"again without fault it told {answer}, not {undisturbed.told}"
        state = scenario.state(world)
        if state != undisturbed.state:
            return f"again without fault: {_difference(state, undisturbed.state)}"
        if scenario.has_bytes:
            world.lab.check_invariants()
        return ""


_HUNG = object()


def _within(call: Any) -> Any:
    """What the call returns or raises, or `_HUNG`; it is left to itself then."""
    done: list[Any] = []

    def run() -> None:
        try:
            done.append(call())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is what the cell is about
            done.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_DEADLINE_SECONDS)
    return done[0] if done else _HUNG


def _wrong_in(error: BaseException) -> str:
    if not isinstance(error, UrsaError):
        return f"an error without a type of ours: {type(error).__name__}: {error}"
    if isinstance(error, _FALSE_CONFLICTS):
        return f"false conflict: {type(error).__name__}: {error}"
    if not isinstance(error, Retryable) and not error.remedy:
        return f"no remedy: {error}"
    if isinstance(error, ToldInTheResult) and re.search("conflict|other bytes|other values", str(error).lower()):
        return f"false conflict, told in the result: {error}"
    return ""


def _difference(one: Any, other: Any) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
        return "; ".join(f"{key}: {_difference(one.get(key), other.get(key))}" for key in keys[:3])
    if isinstance(one, list) and isinstance(other, list):
        return f"{[x for x in one if x not in other][:2]} instead of {[x for x in other if x not in one][:2]}"
    return f"{str(one)[:200]} instead of {str(other)[:200]}"


def _site(request: str) -> str | None:
    return next((name for name, pattern in SITES.items() if re.search(pattern, request)), None)


def _sites(requests: list[str]) -> dict[str, str]:
    return {_site(request) or f"? {request}": request for request in reversed(requests)}


@pytest.fixture(scope="module")
def bench(store_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("wire")
    bench = Bench(store_state, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(store_state / "dagster"))
        programs = root / "programs"
        # The stand-in `op` of the first world is as good as that of any other.
        programs.symlink_to(root / "world_1" / "programs")
        patch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        yield bench


@pytest.fixture(scope="module")
def undisturbed(bench: Bench) -> dict[str, Undisturbed]:
    first, *others = SCENARIOS.values()
    # The first one brings the stand-in `op` for all.
    alone = bench.undisturbed(first)
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(SCENARIOS, [alone, *pool.map(bench.undisturbed, others)], strict=True))


def test_every_request_is_of_a_place_that_is_known_and_every_place_is_met(undisturbed: dict[str, Undisturbed]):
    met = Counter(site for one in undisturbed.values() for site in one.sites)

    assert [site for site in met if site.startswith("? ")] == []
    assert [site for site in SITES if site not in met] == []


def test_no_fault_of_the_wire_is_a_false_conflict_or_a_false_success(bench: Bench, undisturbed: dict[str, Undisturbed]):
    possible = [
        Cell(name, site, kind)
        for name, one in undisturbed.items()
        for site, request in one.sites.items()
        for kind in KINDS
        if re.search(KINDS[kind].takes, request)
    ]
    cells = _each(possible) if LONG else _some(possible)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        outcomes = list(pool.map(lambda cell: bench.run(cell, undisturbed[cell.scenario]), cells))

    wrong = [one for one in outcomes if one.wrong and not one.cell.excepted]
    _record(outcomes, wrong)
    assert {one.cell.site for one in outcomes} == set(SITES)
    again = f"URSA_FAULTS_SEED={SEED} pytest {Path(__file__).name}"
    assert not wrong, "\n".join([again, *(f"{one.cell}: {one.wrong}" for one in wrong)])


def _record(outcomes: list[Outcome], wrong: list[Outcome]) -> None:
    """For the report."""
    figures.record("wire", sites=len({one.cell.site for one in outcomes}))
    for kind in KINDS:
        told = [one for one in outcomes if one.cell.kind == kind]
        of_kind = [one for one in wrong if one.cell.kind == kind]
        figures.record(
            f"wire, {kind.replace(',', '')}",
            cells=len(told),
            struck=sum(one.struck > 0 for one in told),
            raised=sum(bool(one.error) for one in told),
            excepted=sum(bool(one.wrong) and one.cell.excepted for one in told),
            false_conflicts=sum("false conflict" in one.wrong for one in of_kind),
            false_successes=sum("false success" in one.wrong for one in of_kind),
            other=sum("false" not in one.wrong for one in of_kind),
        )


def _each(possible: list[Cell]) -> list[Cell]:
    """Every place with every kind, in a scenario that the seed chooses; those that wait longest begin first."""
    shuffled = random.Random(SEED).sample(possible, len(possible))
    chosen = {(cell.site, cell.kind): cell for cell in shuffled}.values()
    return sorted(chosen, key=lambda cell: not KINDS[cell.kind].lasts)


def _some(possible: list[Cell]) -> list[Cell]:
    """Every place and every kind at least once, by the seed; what does not pass is met once, and begins first."""
    chance = random.Random(SEED)
    open_to = [cell for cell in possible if not KINDS[cell.kind].lasts and not cell.excepted]
    chance.shuffle(open_to)
    kinds, cells = Counter[str](), dict[str, Cell]()
    for site in chance.sample(sorted(SITES), len(SITES)):
        here = [cell for cell in open_to if cell.site == site]
        if here:
            cells[site] = min(here, key=lambda cell: kinds[cell.kind])
            kinds[cells[site].kind] += 1
    missing = [kind for kind in KINDS if kind not in kinds]
    lasting = [
        next(cell for cell in possible if cell.kind == kind and cell.site == "recording LIST") for kind in missing
    ]
    return [*lasting, *cells.values()]

"""Random operations by several processes, over a wire that fails, against a model of the catalog in plain Python.

`URSA_CHAOS_EXAMPLES=200 uv run pytest tests/catalog/chaos` runs longer; a failure tells how to repeat it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.catalog.chaos import model
from tests.catalog.chaos.model import MAYBE, Answer, Operation, Refused, State
from tests.catalog.chaos.reading import (
    Documents,
    check_a_part,
    check_documents,
    check_reads,
    check_tables,
    read_documents,
    read_tables,
    row_of,
)
from tests.catalog.chaos.worker import ANSWER_SECONDS, Worker, recording_row
from tests.faults.detour import Detour, make_detour
from tests.faults.figures import record
from tests.faults.proxy import Fault, Hold, LoseAnswer, Refuse
from tests.lab import Lab, make_lab
from ursa_pipelines.catalog.cutover import carry_claim
from ursa_pipelines.catalog.edits import carry_edit
from ursa_pipelines.catalog.entries import Writer, read_entry
from ursa_pipelines.catalog.pointer import create_catalog
from ursa_pipelines.catalog.tables.fold import fold, refold
from ursa_pipelines.catalog.writing import transplant
from ursa_pipelines.embedded.store import open_store

WORKERS = ("one", "two", "three")
_STEPS = 20
HASHES = tuple(f"{number:x}" * 64 for number in range(6))
REC_IDS = (*(f"rec_20260520_195628_{number:04x}" for number in range(4)), None, "rec_20260520_195628_0000")
STARTS = tuple(datetime(2026, month, 20, 19, 56, 28, tzinfo=UTC) for month in (5, 6))
PEOPLE = ("p_0", "p_1", "p_2", "p_3")
ARE_WRITES = ("register_recording", "register_modality", "register_recordings", "ingest")
MAINTENANCE = ("fold", "fold", "repair", "refold", "compact")

numbers = st.integers(0, len(HASHES) - 1)


@st.composite
def recordings(draw: st.DrawFn, number: int | None = None) -> dict[str, Any]:
    """What somebody tells of a recording: mostly the same, so that policies agree now and then."""
    number = draw(numbers) if number is None else number
    return {
        "hash": HASHES[number],
        "rec_id": REC_IDS[number],
        "participants": sorted(draw(st.sets(st.sampled_from(PEOPLE), max_size=2))),
        "start": draw(st.sampled_from((STARTS[0], STARTS[0], STARTS[1]))) + timedelta(minutes=number),
        "duration": timedelta(minutes=draw(st.integers(1, 2))),
        "study": draw(st.sampled_from((None, None, "sleep"))),
    }


@st.composite
def registrations(draw: st.DrawFn, number: int | None = None) -> Operation:
    policy = draw(st.sampled_from(("error", "extend", "merge_participants", "overwrite")))
    return {"op": "register_recording", "policy": policy, **draw(recordings(number))}


@st.composite
def modalities(draw: st.DrawFn, number: int | None = None) -> Operation:
    return {
        "op": "register_modality",
        "policy": draw(st.sampled_from(("error", "overwrite"))),
        "hash": HASHES[draw(numbers) if number is None else number],
        "modality": draw(st.sampled_from(("eeg", "mic"))),
        "worker": draw(st.sampled_from((None, "4559"))),
        "bytes": draw(st.integers(1, 2)),
    }


@st.composite
def ingests(draw: st.DrawFn, number: int | None = None) -> Operation:
    """A recording with its modalities and named participants, written at once."""
    told = draw(recordings(number))
    named = draw(st.dictionaries(st.sampled_from(PEOPLE), st.sampled_from(("Aria", "Bo")), min_size=1, max_size=2))
    families = draw(st.sets(st.sampled_from((("camera", "a"), ("camera", "b"), ("mic", None))), min_size=1))
    return {
        "op": "ingest",
        **told,
        "participants": named,
        "modalities": sorted(((*family, 7) for family in families), key=lambda one: (one[0], one[1] or "")),
    }


@st.composite
def batches(draw: st.DrawFn, number: int | None = None) -> Operation:
    several = draw(st.lists(numbers, min_size=1, max_size=3)) + ([] if number is None else [number])
    policy = draw(st.sampled_from(("error", "extend", "merge_participants", "overwrite")))
    return {"op": "register_recordings", "policy": policy, "rows": [draw(recordings(one)) for one in several]}


@st.composite
def edits(draw: st.DrawFn) -> Operation:
    """A name, or a merge of a participant into one further up, so that there is no circle."""
    number = draw(st.integers(0, len(PEOPLE) - 1))
    above = st.sampled_from((None, *PEOPLE[:number]))
    change = draw(
        st.fixed_dictionaries({"display_name": st.sampled_from((None, "Dr Lin"))})
        | st.fixed_dictionaries({"merged_into": above})
    )
    return {"op": "edit", "participant": PEOPLE[number], "change": change}


def writes(number: int | None = None) -> st.SearchStrategy[Operation]:
    kinds = (registrations, modalities, ingests, ingests, batches)
    return st.one_of(*(kind(number) for kind in kinds), *([edits()] if number is None else []))


pairs = numbers.flatmap(lambda number: st.tuples(writes(number), writes(number)))

Disturbance = tuple[str, str, int]
OF_WRITES = (r"PUT .*/entries/", r"PUT .*/tail/", r"PUT .*/rec_ids/", r"PUT .*/participants/", r"GET .*ACTIVE\.json")
OF_FOLDS = (
    r"PUT .*HEAD\.json",
    r"PUT .*/_delta_log/",
    r"PUT .*\.parquet",
    r"DELETE .*/tail/",
    r"GET .*/entries/",
    r"GET .*\?.*list-type",
)
OF_CUTOVERS = (r"PUT .*ACTIVE\.json", r"PUT .*/entries/", r"PUT .*/participants/", r"PUT .*/rec_ids/", r"PUT .*/tail/")


def disturbances(patterns: tuple[str, ...]) -> st.SearchStrategy[Disturbance | None]:
    some = st.tuples(st.sampled_from(("lose", "503", "429", "compete")), st.sampled_from(patterns), st.integers(1, 2))
    return st.none() | some


def kills(patterns: tuple[str, ...]) -> st.SearchStrategy[tuple[str, int, bool]]:
    return st.tuples(st.sampled_from(patterns), st.integers(1, 3), st.booleans())


class Compete(Fault):
    """Lets another writer write just before the first request that matches."""

    def __init__(self, pattern: str, write: Callable[[], None]) -> None:
        self._first, self._write = Hold(pattern), write

    def before(self, request: str) -> None:
        if self._first.is_it(request):
            self._write()


class World:
    """The worker processes, which outlive the examples; each example gets buckets of its own."""

    def __init__(self, state: Path, directory: Path) -> None:
        self.state, self._directory, self._count = state, directory, 0
        self._programs: Path | None = None
        self.workers: dict[str, Worker] = {}

    def begin(self) -> tuple[Lab, dict[str, Detour]]:
        self._count += 1
        place = self._directory / str(self._count)
        place.mkdir()
        lab, store = make_lab(self.state, place), open_store(self.state)
        detours = {}
        for name in WORKERS:
            (place / name).mkdir()
            detours[name] = make_detour(lab, store, place / name)
        if self._programs is None:
            self._programs = self._directory / "programs"
            shutil.copytree(detours[WORKERS[0]].programs, self._programs)
            self.renew_all()
        return lab, detours

    def renew_all(self) -> None:
        self.close()
        for name in WORKERS:
            self.renew(name)

    def renew(self, name: str) -> None:
        assert self._programs is not None
        self.workers[name] = Worker(name, self._programs)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.kill()


class Chaos(RuleBasedStateMachine):
    """The catalog under random operations. After each of them everything that was acknowledged is there."""

    world: ClassVar[World]
    how_to_repeat: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.lab, self.detours = self.world.begin()
        self.state, self.sound = State(), True
        self.anew, self.cutovers = set(WORKERS), 0
        self.prepared: list[str] = []
        self.story: list[str] = []
        self.found: Documents | None = None

    @rule(start=st.sampled_from(STARTS), family=st.sampled_from(("eeg", "mic", "camera")))
    def a_fresh_interface_reads_a_part(self, start: datetime, family: str) -> None:
        with self.step("read since", start, family):
            check_a_part(self.lab, self.state, start, family)

    @rule(op=writes(), by=st.sampled_from(WORKERS), disturbed=disturbances(OF_WRITES))
    def one_writes(self, op: Operation, by: str, disturbed: Disturbance | None) -> None:
        with self.step(by, op, disturbed):
            self.settle([*self.run((by, op), disturbed=disturbed)])

    @rule(ops=pairs, disturbed=disturbances(OF_WRITES))
    def two_write_the_same_recording(self, ops: tuple[Operation, Operation], disturbed: Disturbance | None) -> None:
        with self.step(*ops, disturbed):
            self.settle([*self.run((WORKERS[0], ops[0]), (WORKERS[1], ops[1]), disturbed=disturbed)])

    @rule(op=writes(), other=writes(), kind=st.sampled_from(MAINTENANCE), disturbed=disturbances(OF_FOLDS))
    def two_write_while_the_tables_change(
        self, op: Operation, other: Operation, kind: str, disturbed: Disturbance | None
    ) -> None:
        with self.step(op, other, kind, disturbed):
            tasks = ((WORKERS[0], {"op": kind}), (WORKERS[1], op), (WORKERS[2], other))
            self.settle([*self.run(*tasks, disturbed=disturbed)])

    @rule(op=writes(), kind=st.sampled_from(MAINTENANCE), disturbed=disturbances(OF_FOLDS))
    def one_reads_while_another_writes_and_the_tables_change(
        self, op: Operation, kind: str, disturbed: Disturbance | None
    ) -> None:
        with self.step(op, kind, disturbed):
            tasks = ((WORKERS[0], {"op": kind}), (WORKERS[1], op), (WORKERS[2], {"op": "read"}))
            self.settle([*self.run(*tasks, disturbed=disturbed)])

    @rule(op=writes(), kind=st.sampled_from(MAINTENANCE), at=st.sampled_from(OF_WRITES))
    def one_is_held_up_in_its_write_until_the_tables_have_changed(self, op: Operation, kind: str, at: str) -> None:
        with self.step(op, kind, at):
            meanwhile: list[Answer] = []

            def change_the_tables() -> None:
                self.world.workers[WORKERS[1]].start(self.task(WORKERS[1], {"op": kind}))
                meanwhile.append(self.world.workers[WORKERS[1]].answer())

            self.detours[WORKERS[0]].proxy.fault = Compete(at, change_the_tables)
            done = [*self.run((WORKERS[0], op))]
            for answer in meanwhile:
                self.understood({"op": kind}, answer)
            self.settle(done)

    @rule(op=writes(), by=st.sampled_from(WORKERS), kill=kills(OF_WRITES))
    def one_is_killed_while_it_writes(self, op: Operation, by: str, kill: tuple[str, int, bool]) -> None:
        with self.step(by, op, kill):
            self.settle([(op, self.kill(by, op, kill))])

    @rule(kind=st.sampled_from(MAINTENANCE), by=st.sampled_from(WORKERS), disturbed=disturbances(OF_FOLDS))
    def the_tables_change(self, kind: str, by: str, disturbed: Disturbance | None) -> None:
        with self.step(kind, by, disturbed):
            done = [*self.run((by, {"op": kind}), disturbed=disturbed)]
            is_folded = kind != "compact" and disturbed is None
            assert not is_folded or done[0][1] == {"gave_up": False}
            self.settle(done, all_folded=is_folded)

    @rule(kinds=st.tuples(st.sampled_from(MAINTENANCE), st.sampled_from(MAINTENANCE)))
    def two_change_the_tables(self, kinds: tuple[str, str]) -> None:
        with self.step(*kinds):
            self.settle([*self.run(*((by, {"op": kind}) for by, kind in zip(WORKERS, kinds, strict=False)))])

    @rule(kind=st.sampled_from(MAINTENANCE), by=st.sampled_from(WORKERS), kill=kills(OF_FOLDS))
    def one_is_killed_while_it_changes_the_tables(self, kind: str, by: str, kill: tuple[str, int, bool]) -> None:
        with self.step(kind, by, kill):
            self.kill(by, {"op": kind}, kill)
            self.settle([])

    @precondition(lambda self: not self.prepared and self.cutovers < 2)
    @rule()
    def another_prefix_is_prepared(self) -> None:
        """As a rebuild does: it holds what was there when it began."""
        with self.step("prepare"):
            assets, prefix, writer = self.lab.assets, f"ursa/catalog-{self.cutovers}", Writer(by="rebuild")
            create_catalog(assets, prefix, by="rebuild")
            assets.create(f"{prefix}/REBUILD.json", b"{}")
            found = read_documents(assets)
            for rec_id, _ in found.state.claims:
                carry_claim(assets, found.prefix, prefix, rec_id)
            for participant_id, _ in found.state.edits:
                carry_edit(assets, found.prefix, prefix, participant_id, op="rebuild", writer=writer)
            for recording_hash in found.entries:
                entry = read_entry(assets, found.prefix, recording_hash)
                assert entry is not None
                transplant(assets, prefix, entry[0], op="rebuild", writer=writer)
            refold(assets, prefix, by="rebuild")
            self.prepared.append(prefix)
            self.settle([])

    @precondition(lambda self: self.prepared)
    @rule(op=st.none() | writes(), stay=st.booleans())
    def it_becomes_the_live_one(self, op: Operation | None, stay: bool) -> None:
        with self.step("cutover", op, stay):
            self.move({"op": "cutover", "prefix": self.prepared.pop()}, op, stay)

    @precondition(lambda self: self.cutovers)
    @rule(op=st.none() | writes(), stay=st.booleans())
    def the_one_before_becomes_it_again(self, op: Operation | None, stay: bool) -> None:
        with self.step("rollback", op, stay):
            self.move({"op": "rollback"}, op, stay)

    @precondition(lambda self: self.prepared)
    @rule(kill=kills(OF_CUTOVERS))
    def one_is_killed_while_another_becomes_the_live_one(self, kill: tuple[str, int, bool]) -> None:
        with self.step("cutover", kill):
            move = {"op": "cutover", "prefix": self.prepared.pop()}
            self.kill(WORKERS[0], move, kill)
            self.move(move, None, stay=False)

    def move(self, move: Operation, op: Operation | None, stay: bool) -> None:
        """Changes the live prefix, while somebody writes `op`. Those who `stay` go on with the interface they have."""
        self.cutovers += 1
        done = [*self.run((WORKERS[0], move), *([(WORKERS[1], op)] if op else []))]
        if not stay:
            self.anew |= set(WORKERS)
        self.settle(done)

    @contextmanager
    def step(self, *told: Any) -> Iterator[None]:
        text = " ".join(str(_plain(one)) for one in told).replace("'", "")
        self.story.append(re.sub(r"([0-9a-f])\1{63}", r"\1\1\1\1", text))
        self.sound = False
        try:
            yield
        except BaseException as error:
            steps = "\n".join(f"  {number}. {one}" for number, one in enumerate(self.story, 1))
            error.add_note(f"after these steps:\n{steps}\n{self.how_to_repeat}")
            raise
        self.sound = True

    def run(
        self, *tasks: tuple[str, Operation], disturbed: Disturbance | None = None
    ) -> Iterator[tuple[Operation, Answer]]:
        """Starts all tasks, awaits all; what was done, with the answers. The first one's wire is disturbed."""
        competed: list[tuple[Operation, Answer]] = []
        if disturbed:
            self.detours[tasks[0][0]].proxy.fault = self.fault([op for _, op in tasks], disturbed, competed)
        for by, op in tasks:
            self.world.workers[by].start(self.task(by, op))
        for by, op in tasks:
            yield op, self.understood(op, self.world.workers[by].answer())
            self.detours[by].proxy.fault = Fault()
        yield from competed

    def kill(self, by: str, op: Operation, kill: tuple[str, int, bool]) -> Answer:
        """Starts the task and kills its process at that request; its answer, if it never came to it."""
        pattern, nth, after = kill
        proxy, worker = self.detours[by].proxy, self.world.workers[by]
        hold = proxy.fault = Hold(pattern, nth, after=after)
        worker.start(self.task(by, op))
        answer, deadline = None, time.monotonic() + ANSWER_SECONDS
        while answer is None and not hold.reached.is_set() and time.monotonic() < deadline:
            answer = worker.answer(0.01)
        if answer is None:
            assert hold.reached.is_set(), "it neither ended nor came to the request"
            worker.kill()
            hold.ended.set()
            proxy.wait_until_idle()
            self.world.renew(by)
            self.anew.add(by)
        proxy.fault = Fault()
        return MAYBE if answer is None else self.understood(op, answer)

    def settle(self, done: list[tuple[Operation, Answer]], *, all_folded: bool = False) -> None:
        """Checks everything, and takes over what has become of operations of which nobody was told."""
        for number, (op, answer) in enumerate(done):
            if op["op"] == "read":
                touched = set().union(*(model.keys_touched(one) for one, _ in done))
                untouched = {name: one for name, one in answer.items() if name not in touched}
                known = {name: one.seen for name, one in self.state.recordings}
                assert untouched == {name: one for name, one in known.items() if name not in touched}
                done[number] = ({**op, "hashes": sorted(touched)}, answer)
        found = self.found = read_documents(self.lab.assets)
        possible = model.outcomes(self.state, done)
        assert possible, f"no order of these operations explains their answers: {done}"
        assert found.state in possible, f"it holds {found.state}\nbut can only hold {possible}\nafter {done}"
        self.state = found.state
        check_documents(found)
        check_tables(self.lab.assets, found, all_folded=all_folded)
        check_reads(self.lab, found)

    def task(self, by: str, op: Operation) -> dict[str, Any]:
        # Only who writes entries follows the pointer; the others look at it when they begin.
        anew = by in self.anew or op["op"] not in (*ARE_WRITES, "edit")
        self.anew.discard(by)
        return {**_plain(op), "config": str(self.detours[by].config), "anew": anew}

    def fault(self, ops: list[Operation], disturbed: Disturbance, competed: list[tuple[Operation, Answer]]) -> Fault:
        kind, pattern, times = disturbed
        if kind == "lose":
            return LoseAnswer(pattern, times)
        if kind in {"503", "429"}:
            return Refuse(pattern, int(kind), "SlowDown", times=times)
        number = HASHES.index(min({HASHES[-1]}.union(*map(model.keys_touched, ops))))
        rival: dict[str, Any] = {
            "op": "register_recording",
            "policy": "extend",
            "hash": HASHES[number],
            "rec_id": REC_IDS[number],
            "participants": [],
            "start": STARTS[0],
            "duration": timedelta(minutes=9),
            "study": None,
        }

        def compete() -> None:
            catalog = self.lab.interface().ingest_context(raw_role="raw_ro").catalog
            try:
                registration = catalog.register_recording(recording_row(_plain(rival)), "extend", Writer(by="rival"))
            except Exception as error:  # noqa: BLE001 - it is an answer that the model has to explain
                competed.append((rival, Refused(type(error).__name__)))
            else:
                competed.append((rival, row_of(registration.entry.recording.model_dump(mode="json"))))

        return Compete(pattern, compete)

    def understood(self, op: Operation, answer: Mapping[str, Any] | None) -> Answer:
        assert answer is not None, f"no answer to {op}"
        assert "crash" not in answer, answer["told"]
        if "error" in answer:
            assert op["op"] in (*ARE_WRITES, "edit"), answer
            assert answer["error"] != "StoreUnavailable", answer
            return Refused(answer["error"])
        return _understood(op, answer["value"])

    def teardown(self) -> None:
        try:
            if self.sound and self.found:
                with self.step("tables are deleted, and folded again"):
                    self.check_that_tables_can_be_made_again()
        finally:
            for detour in self.detours.values():
                detour.close()
            if not self.sound:
                # They may have tasks left over, of which the next example must not hear.
                self.world.renew_all()

    def check_that_tables_can_be_made_again(self) -> None:
        assets = self.lab.assets
        assert self.found is not None
        assert not fold(assets, self.found.prefix, by="test").gave_up
        self.settle([], all_folded=bool(self.found.entries))
        before = read_tables(assets, self.found)
        for info in assets.list_objects(f"{self.found.prefix}/tables/"):
            assets.multipart_client.delete_object(Bucket=assets.name, Key=info.key)
        assert not fold(assets, self.found.prefix, by="test", check_tables=True).gave_up
        self.settle([], all_folded=True)
        assert read_tables(assets, self.found) == before


@pytest.fixture(scope="module")
def world(store_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The store, and three processes that wait for work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(store_state / "dagster"))
        world = World(store_state, tmp_path_factory.mktemp("chaos"))
        yield world
        world.close()


def test_whatever_processes_do_and_suffer_the_catalog_holds_what_it_acknowledged(world: World):
    examples = int(os.environ.get("URSA_CHAOS_EXAMPLES", "3"))
    number = int(os.environ.get("URSA_CHAOS_SEED") or secrets.randbits(32))
    command = f"URSA_CHAOS_SEED={number} URSA_CHAOS_EXAMPLES={examples} uv run pytest tests/catalog/chaos -n 0"
    print(f"to repeat it: {command}")

    class Here(Chaos):
        pass

    Here.world, Here.how_to_repeat = world, f"to repeat it: {command}"
    run_state_machine_as_test(
        seed(number)(Here),
        settings=settings(
            max_examples=examples,
            stateful_step_count=_STEPS,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            report_multiple_bugs=False,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    record("chaos", examples=examples, steps=_STEPS)


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else value


def _understood(op: Operation, value: Any) -> Answer:
    match op["op"]:
        case "register_recording" | "ingest":
            return row_of(value)
        case "register_recordings":
            return [Refused(one["error"]) if "error" in one else row_of(one) for one in value]
        case "register_modality":
            return (value["modality"], value["worker_id"], value["bytes"])
        case "edit":
            return model.Edit(value["display_name"], value["merged_into"])
        case "read":
            return {name: _as_answered(one) for name, one in value.items()}
        case "cutover" | "rollback":
            assert value["conflicts"] == []
    return value


def _as_answered(result: Mapping[str, Any]) -> Answer:
    rows = ((one["modality"], one["worker_id"], one["bytes"]) for one in result["modalities"])
    return row_of(result["recording"]), frozenset(rows)

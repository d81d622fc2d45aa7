"""Kills a process at one moment of a scenario, runs the scenario again, and checks the invariants after both.

A moment is a request, just before it reaches the store, after its effect but before the answer, or after the answer
was delivered; or one of `ursa_pipelines.failpoints`; or so many milliseconds after the start.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from tests.faults.detour import Detour, make_detour
from tests.faults.final_state import final_state
from tests.faults.invariants import Evidence, require, stored_now
from tests.faults.kill_labs import PREPARED
from tests.faults.killed import ARIA, ARYA, LAST, LATER, REC
from tests.faults.proxy import ConnectionDropped, Fault
from tests.lab import Lab, make_lab
from tests.snapshot import snapshot
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.claims import read_claim
from ursa_pipelines.catalog.edits import read_edits
from ursa_pipelines.catalog.pointer import read_pointer
from ursa_pipelines.embedded.store import open_store

How = Literal["before", "effect", "answer", "name", "delay"]
HOWS_OF_REQUESTS: tuple[How, ...] = ("before", "effect", "answer")

_MUTATING, _READING = r"^(PUT|POST|DELETE) ", r"^GET /raw[^/]*/recordings/"
_RUN_SECONDS = 180


@dataclass(frozen=True)
class Kill:
    """A moment: `nth` counts requests, passes of the fail point `name`, or milliseconds, from 1."""

    scenario: str
    how: How
    nth: int
    name: str = ""

    def __str__(self) -> str:
        return f"{self.scenario}/{self.name or self.how}/{self.nth}"

    @classmethod
    def parse(cls, text: str) -> Kill:
        """The kill that is written as `str` gives it."""
        scenario, how, nth = text.rsplit("/", 2)
        if how in get_args(How):
            return cls(scenario, how, int(nth))  # type: ignore[arg-type]
        return cls(scenario, "name", int(nth), how)


@dataclass(frozen=True)
class Undisturbed:
    """What a run came to that nothing disturbed: its requests that count, the fail points it passed, its seconds."""

    state: dict[str, Any]
    requests: int
    passed: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class Killed:
    """`struck` is the request at which it was killed, or the fail point; "" if it ended before."""

    kill: Kill
    struck: str


class _Strike(Fault):
    """Kills at the `nth` request that matches."""

    def __init__(self, pattern: str, how: How, nth: int) -> None:
        self.pid: Future[int] = Future()
        self.struck = ""
        self.count = 0
        self._pattern, self._how, self._nth = re.compile(pattern), how, nth
        self._lock, self._thread = threading.Lock(), 0

    def before(self, request: str) -> None:
        if not self._pattern.search(request):
            return
        with self._lock:
            self.count += 1
            if self.count != self._nth:
                return
            self._thread = threading.get_ident()
        self._strike("before", request)

    def after(self, request: str) -> None:
        if self._thread == threading.get_ident():
            self._strike("effect", request)

    def delivered(self, request: str) -> None:
        if self._thread == threading.get_ident() and self._how == "answer":
            self._thread = 0
            self._kill(request)

    def _strike(self, how: How, request: str) -> None:
        if how == self._how:
            self._kill(request)
            raise ConnectionDropped

    def _kill(self, request: str) -> None:
        self.struck = request
        os.kill(self.pid.result(_RUN_SECONDS), signal.SIGKILL)


class ForkServer:
    """A process of `tests.faults.killed`, or of another module that answers as that does; one run at a time."""

    def __init__(self, home: Path, module: str = "tests.faults.killed") -> None:
        root = str(Path(__file__).parents[2])
        environment = os.environ | {"PYTHONPATH": root, "DAGSTER_HOME": str(home)}
        command = [sys.executable, "-m", module]
        self._process = subprocess.Popen(
            command, env=environment, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, **order: Any) -> int:
        """The pid of a child that runs the scenario."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._answer()["pid"])

    def ended(self) -> dict[str, int]:
        """How the child ended, once it has."""
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_RUN_SECONDS)

    def _answer(self) -> dict[str, int]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the fork server has ended"
        return json.loads(line)


@dataclass
class World:
    """A lab behind a proxy, prepared for a scenario."""

    scenario: str
    place: Path
    lab: Lab
    detour: Detour
    forks: ForkServer
    sources: dict[Path, dict[str, Any]] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        return self.place / "output.txt"

    def run(self, kill: Kill | None = None) -> tuple[dict[str, int], _Strike]:
        """Runs the scenario in a process of its own, and kills that at the moment that is asked for."""
        # It may be killed before it opens this.
        self.output.touch(mode=0o600)
        pattern = _READING if self.scenario == "download" else _MUTATING
        by_request = kill is not None and kill.how in HOWS_OF_REQUESTS
        strike = _Strike(pattern, kill.how, kill.nth) if kill and by_request else _Strike(pattern, "before", 0)
        self.detour.proxy.fault = strike
        pid = self.forks.start(
            scenario=self.scenario,
            place=str(self.place),
            output=str(self.output),
            passed=str(self.place / "passed.json"),
            at=[kill.name, kill.nth] if kill and kill.how == "name" else None,
        )
        strike.pid.set_result(pid)
        delay = kill.nth / 1000 if kill and kill.how == "delay" else _RUN_SECONDS
        timer = threading.Timer(delay, _kill_if_there, [pid])
        timer.start()
        ended = self.forks.ended()
        timer.cancel()
        self.detour.proxy.wait_until_idle()
        self.detour.proxy.fault = Fault()
        if kill and kill.how in {"name", "delay"} and "signal" in ended:
            strike.struck = kill.name or kill.how
        return ended, strike

    def evidence(self, **more: Any) -> Evidence:
        told = {"the output": self.output.read_text()}
        return Evidence(sources=self.sources, requests=self.detour.proxy.history, told=told, names=(ARIA, ARYA), **more)


@contextmanager
def world_for(scenario: str, state: Path, place: Path, forks: ForkServer) -> Iterator[World]:
    """A new lab in the store of `state`, its files in `place`, in which the scenario can begin."""
    place.mkdir()
    lab = make_lab(state, place)
    detour = make_detour(lab, open_store(state), place)
    world = World(scenario, place, lab, detour, forks)
    try:
        with closing(lab.data):
            PREPARED[scenario](lab, place)
            world.sources = {source: snapshot(source) for source in (lab.nas, lab.usb)}
            yield world
    finally:
        detour.close()
        lab.raw.close()
        lab.assets.close()


def undisturbed(scenario: str, state: Path, place: Path, forks: ForkServer) -> Undisturbed:
    """Runs a scenario to its end, and checks it."""
    with world_for(scenario, state, place, forks) as world:
        stored, began = stored_now(world.lab), time.monotonic()
        ended, strike = world.run()
        seconds = time.monotonic() - began
        assert ended == {"exit": 0}, world.output.read_text()
        _settle(world)
        require(world.lab, world.evidence(stored=stored, at_rest=True))
        passed = json.loads((place / "passed.json").read_text())
        return Undisturbed(settled(world), strike.count, passed, seconds)


def kill_and_rerun(kill: Kill, expected: Undisturbed, state: Path, place: Path, forks: ForkServer) -> Killed:
    """Kills the scenario at that moment, runs it again to its end, and checks the invariants after both."""
    with world_for(kill.scenario, state, place, forks) as world:
        stored = stored_now(world.lab)
        ended, strike = world.run(kill)
        assert ended in ({"signal": signal.SIGKILL}, {"exit": 0}), world.output.read_text()
        require(world.lab, world.evidence(stored=stored))
        _require_whole_files(world, expected)
        stored |= stored_now(world.lab)
        ended, _ = world.run()
        assert ended == {"exit": 0}, world.output.read_text()
        _settle(world)
        found = settled(world)
        require(world.lab, world.evidence(stored=stored, at_rest=True, state=expected.state, found=found))
        return Killed(kill, strike.struck)


def settled(world: World) -> dict[str, Any]:
    """The final state in a form that is the same for every run that ended well.

    Marks are left out, since one whose write never came stays for a day; and so are the names of tables' files.
    """
    lab, catalog = world.lab, Catalog.open(world.lab.assets)
    state = final_state(lab)
    state["catalog"] = [key for key in state["catalog"] if "/tables/" not in key and "/tail/" not in key]
    entries = sorted(catalog.entries(), key=lambda entry: entry.recording.recording_hash)
    pointer = read_pointer(lab.assets)
    state["pointer"] = [pointer.prefix, pointer.previous, pointer.sweep and (pointer.sweep.op, pointer.sweep.finished)]
    state["levels"] = [(entry.recording.metadata or {}).get("verification") for entry in entries]
    state["claims"] = {rec_id: read_claim(lab.assets, catalog.prefix, rec_id) for rec_id in (REC, LATER, LAST)}
    state["edits"] = {
        name: (edit.display_name, edit.merged_into) for name, edit in read_edits(lab.assets, catalog.prefix).items()
    }
    state["downloaded"] = _files_below(world.place / "downloaded")
    return state


def _settle(world: World) -> None:
    """Folds, where there are tables, so that a check reads these alone."""
    catalog = Catalog.open(world.lab.assets)
    if world.lab.assets.head(f"{catalog.prefix}/HEAD.json") is not None:
        with closing(world.lab.interface()) as data:
            data.fold()


def _require_whole_files(world: World, expected: Undisturbed) -> None:
    """A file has its name only when it is whole."""
    for path, digest in _files_below(world.place / "downloaded").items():
        if not path.endswith(".part"):
            assert expected.state["downloaded"][path] == digest, path


def _files_below(directory: Path) -> dict[str, str]:
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _kill_if_there(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return

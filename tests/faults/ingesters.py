"""Many ingesters on the same recordings, whose requests are held here and there, so that they meet in other orders.

A seed decides who does what, and of each ingester's requests which are held, before or after their effect, and for how
long: some milliseconds, or until another ingester has made so many more. When the machine lets each of them go on, it
does not decide, so that a seed may have to be repeated to see a failure again.
"""

from __future__ import annotations

import json
import random
import re
import threading
from collections import ChainMap, Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from tests.faults.detour import Detour, make_detour
from tests.faults.final_state import final_state
from tests.faults.ingesting import RUNS, Operation
from tests.faults.invariants import Evidence, broken, stored_now
from tests.faults.killed import ARIA, ARYA
from tests.faults.kills import ForkServer
from tests.faults.proxy import Fault, Seen
from tests.lab import Lab, make_lab
from tests.recordings_on_disk import manifest_of, recording_hash_of, write_recording
from tests.snapshot import snapshot
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.edits import read_edits
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.recordings.identity import derive_participant_id

_MIB = 1024**2
_MERGED = derive_participant_id(ARYA), derive_participant_id(ARIA)
_HELD_SECONDS, _PAUSE_SECONDS = 0.2, 0.02
_WEIGHTS = {
    "ingest": 50,
    "ingest_many": 20,
    "register": 8,
    "verify": 8,
    "fold": 5,
    "merge": 4,
    "durations": 3,
    "compact": 2,
}
"""How often each is done; what is needed comes beside that."""
_CHOSEN_APART = {"thirds": 0.5, "large": 0.1}
"""Three parts are needed for two changes of one row to meet; much is sent for a large one."""
_MUTATES = re.compile(r"^(PUT|POST|DELETE) ")
_DECIDES = re.compile(r"/entries/|/rec_ids/|ACTIVE|HEAD\.json|manifest")
"""What is read and written on the strength of it."""


@dataclass(frozen=True)
class Kind:
    """A recording, by what lies where: files by source, or in the bucket.

    `manifest` False: none has been written. `in_parts`: each source has other files, of another node.
    """

    rec_id: str
    files: Mapping[str, Mapping[str, bytes]]
    participant: str = ARIA
    manifest: bool | Mapping[str, Any] = True
    in_parts: bool = False

    @property
    def all_files(self) -> dict[str, bytes]:
        return {path: content for files in self.files.values() for path, content in files.items()}

    @property
    def hashes(self) -> set[str]:
        """Those it may have: without a stated one what is registered first decides."""
        if not self.in_parts or self.manifest is not True:
            return {recording_hash_of(self.all_files)}
        some = [
            chosen for count in range(1, len(self.files) + 1) for chosen in combinations(self.files.values(), count)
        ]
        return {recording_hash_of(dict(ChainMap(*map(dict, chosen)))) for chosen in some}

    @property
    def needed(self) -> list[Sequence[Operation]]:
        """Of each of these, one operation must be done for the recording to be there as a whole."""
        if "bucket" in self.files:
            return [[["register" if self.manifest else "reconstruct", self.rec_id]]]
        ways = [["ingest", f"{source}/{self.rec_id}"] for source in self.files]
        return [[way] for way in ways] if self.in_parts else [ways]


def _files(name: str) -> dict[str, bytes]:
    return {"mic/seg_0000.wav": f"{name} audio".encode() * 50, "eeg_4559/seg_0000.edf": f"{name} eeg".encode() * 50}


def _kinds() -> dict[str, Kind]:
    def halves(name: str) -> dict[str, dict[str, bytes]]:
        host, motor = ({path: content} for path, content in _files(name).items())
        return {"nas": host, "usb": motor}

    stated = halves("stated halves")
    thirds = halves("thirds") | {"disk": {"lidar/seg_0000.bin": b"thirds lidar" * 50}}
    whole = {"recording_hash": recording_hash_of(_files("stated halves"))}
    large = {
        "camera_a/seg_0000.mp4": b"resumably" * (11 * _MIB // 9),
        "camera_b/seg_0000.mp4": b"parts" * (6 * _MIB // 5),
    }
    described: dict[str, tuple[Mapping[str, Mapping[str, bytes]], dict[str, Any]]] = {
        # Its manifest says that it ended long after its last segment, which `durations` corrects.
        "attested": ({"nas": _files("attested")}, {"manifest": {"ended_at": "2026-05-20T21:56:28Z"}}),
        "bare": ({"nas": _files("bare")}, {"manifest": False, "participant": ARYA}),
        "halves": (halves("halves"), {"in_parts": True}),
        "stated halves": (stated, {"in_parts": True, "manifest": whole, "participant": ARYA}),
        "copies": (dict.fromkeys(("nas", "usb"), _files("copies")), {}),
        "bare copies": (dict.fromkeys(("nas", "usb"), _files("bare copies")), {"manifest": False}),
        "in the bucket": ({"bucket": _files("in the bucket")}, {"participant": ARYA}),
        "bare in the bucket": ({"bucket": _files("bare in the bucket")}, {"manifest": False}),
        "thirds": (thirds, {"in_parts": True}),
        "large": ({"nas": large}, {}),
    }
    return {
        name: Kind(f"rec_20260520_195628_a{number:03d}", files, **more)
        for number, (name, (files, more)) in enumerate(described.items())
    }


KINDS = _kinds()


@dataclass(frozen=True)
class Plan:
    """What a seed asks for: the recordings, and of each ingester what it does."""

    seed: int
    kinds: tuple[str, ...]
    ingesters: tuple[tuple[Operation, ...], ...]

    @property
    def operations(self) -> list[Operation]:
        return [one for operations in self.ingesters for one in operations]

    @classmethod
    def of(cls, seed: int) -> Plan:
        chosen = random.Random(f"ingesters {seed}")
        small = [name for name in KINDS if name not in _CHOSEN_APART]
        kinds = chosen.sample(small, chosen.randint(1, 4))
        kinds += [name for name, often in _CHOSEN_APART.items() if chosen.random() < often]
        if not any("bucket" not in KINDS[name].files for name in kinds):
            kinds.append("attested")
        work: list[list[Operation]] = [[] for _ in range(chosen.randint(2, 8))]
        for operations in work:
            operations += [_an_operation(chosen, kinds) for _ in range(chosen.randint(1, 3))]
        for ways in (one for name in kinds for one in KINDS[name].needed):
            if not any(way in operations for way in ways for operations in work):
                chosen.choice(work).append(chosen.choice(ways))
        if chosen.random() < 0.2:
            operations = chosen.choice(work)
            operations.insert(chosen.randint(0, len(operations)), ["cut over", "ursa/catalog-2"])
        return cls(seed, tuple(kinds), tuple(map(tuple, work)))


@dataclass
class Ran:
    """What came of a seed: `errors` by class, what was found wrong, and the state at the end."""

    plan: Plan
    errors: Counter[str] = field(default_factory=Counter)
    reruns: int = 0
    requests: int = 0
    held: int = 0
    violations: list[str] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)


def run(plan: Plan, expected: Mapping[str, Any] | None, state: Path, place: Path, forks: ForkServer) -> Ran:
    """Lets the ingesters of a plan loose, reruns once what did not come to its end, and looks at what there is then.

    `expected` is the state by recording of a run that nothing disturbed.
    """
    ran, traffic = Ran(plan), _Traffic(len(plan.ingesters))
    with _world(plan, state, place) as (lab, detours, history):
        sources = {
            source: snapshot(source) for source in (lab.nas, lab.usb, lab.nas.parent / "disk") if source.exists()
        }
        stored = stored_now(lab)
        paces = [_Pace(traffic, number, plan.seed) for number in range(len(detours))]
        for detour, pace in zip(detours, paces, strict=True):
            detour.proxy.fault = pace
        failed = _let_loose(place, forks, plan.ingesters, ran)
        for detour in detours:
            detour.proxy.wait_until_idle()
            detour.proxy.fault = Fault()
        ran.held = sum(pace.held for pace in paces)
        ran.errors = Counter(result["error"] for _, result in failed)
        ran.violations += [f"{one}: {result}" for one, result in failed if not result["settles"]]
        evidence = Evidence(sources=sources, stored=stored, requests=history, names=(ARIA, ARYA))
        ran.violations += [f"after all: {one}" for one in broken(lab, evidence)]
        stored |= stored_now(lab)

        again = sorted((one for one, _ in failed), key=lambda one: list(RUNS).index(one[0]))
        ran.reruns = len(again)
        ran.violations += [f"rerun: {one}: {result}" for one, result in _let_loose(place, forks, [again], ran)]
        there = sorted(entry.recording.rec_id or "" for entry in Catalog.open(lab.assets).entries())
        if there != (named := sorted(KINDS[name].rec_id for name in plan.kinds)):
            ran.violations.append(f"there are rows of {there}, not of {named}")
        closing_pass: list[Operation] = [["durations"], ["fold"]]
        ran.violations += [
            f"at the end: {one}: {result}" for one, result in _let_loose(place, forks, [closing_pass], ran)
        ]
        told = {str(path): path.read_text() for path in place.glob("*/output.txt")}
        ran.state = _settled(lab, plan.kinds)
        wanted = expected and {name: expected[name] for name in plan.kinds}
        evidence = replace(evidence, stored=stored, at_rest=True, told=told, state=wanted, found=ran.state)
        with closing(lab.interface()) as data:
            # The one of the lab reads the catalog that was live before a cutover.
            ran.violations += [f"at the end: {one}" for one in broken(replace(lab, data=data), evidence)]
        edits = read_edits(lab.assets, Catalog.open(lab.assets).prefix).values()
        merges = [(edit.participant_id, edit.merged_into) for edit in edits if edit.merged_into]
        if merges != ([_MERGED] if ["merge"] in plan.operations else []):
            ran.violations.append(f"there are the merges {merges}")
        ran.requests = len(history)
    return ran


def undisturbed(kinds: Sequence[str], state: Path, place: Path, forks: ForkServer) -> dict[str, Any]:
    """The state by recording, where one ingester has sent all of them one after another."""
    operations = tuple(way for name in kinds for ways in KINDS[name].needed for way in ways)
    ran = run(Plan(0, tuple(kinds), (operations,)), None, state, place, forks)
    assert not (ran.violations or ran.errors), ran
    return ran.state


def _an_operation(chosen: random.Random, kinds: Sequence[str]) -> Operation:
    both_spellings = {KINDS[one].participant for one in kinds} == {ARIA, ARYA}
    weights = {**_WEIGHTS, "merge": _WEIGHTS["merge"] * both_spellings}
    name = chosen.choices(list(weights), list(weights.values()))[0]
    kind = KINDS[chosen.choice(kinds)]
    if name == "ingest":
        return chosen.choice([way for ways in kind.needed for way in ways])
    if name == "ingest_many":
        on_sources = sorted({source for one in kinds for source in KINDS[one].files} & {"nas", "usb"}) or ["nas"]
        rec_ids = [KINDS[one].rec_id for one in chosen.sample(kinds, chosen.randint(1, len(kinds)))]
        return [name, chosen.choice([None, on_sources, [chosen.choice(on_sources)], rec_ids, rec_ids])]
    return [name, kind.rec_id] if name in {"register", "verify"} else [name]


class _Traffic:
    """How many requests each ingester has made."""

    def __init__(self, ingesters: int) -> None:
        self.made = [0] * ingesters
        self.changed = threading.Condition()


class _Pace(Fault):
    """Holds some of one ingester's requests, before their effect or after it."""

    def __init__(self, traffic: _Traffic, number: int, seed: int) -> None:
        self.held = 0
        self._traffic, self._number, self._seed = traffic, number, seed
        self._never = threading.Event()

    def before(self, request: str) -> None:
        with self._traffic.changed:
            self._traffic.made[self._number] += 1
            self._traffic.changed.notify_all()
        self._hold(request, "before")

    def after(self, request: str) -> None:
        self._hold(request, "after")

    def _hold(self, request: str, when: str) -> None:
        traffic, number = self._traffic, self._number
        chosen = random.Random(f"{self._seed} {number} {traffic.made[number]} {when}")
        # Between what was read and the write that rests on it others shall come.
        often = 0.03
        if (when == "before") == bool(_MUTATES.match(request)):
            often = 0.3 if _DECIDES.search(request) else 0.1
        others = [one for one in range(len(traffic.made)) if one != number]
        if chosen.random() > often:
            return
        self.held += 1
        if not others or chosen.random() < 0.4:
            self._never.wait(chosen.uniform(0, _PAUSE_SECONDS))
            return
        other, further = chosen.choice(others), chosen.randint(1, 40)
        with traffic.changed:
            awaited = traffic.made[other] + further
            traffic.changed.wait_for(lambda: traffic.made[other] >= awaited, _HELD_SECONDS)


@contextmanager
def _world(plan: Plan, state: Path, place: Path) -> Iterator[tuple[Lab, list[Detour], list[Seen]]]:
    """A lab with the recordings in it, and for each ingester a way there; all requests, in their order."""
    place.mkdir()
    lab, store = make_lab(state, place), open_store(state)
    history: list[Seen] = []
    with ExitStack() as stack:
        for bucket in (lab.raw, lab.assets):
            stack.callback(bucket.close)
        stack.enter_context(closing(lab.data))
        for name in plan.kinds:
            _lay_out(lab, KINDS[name])
        detours = []
        for number in range(len(plan.ingesters)):
            own = place / f"ingester-{number}"
            own.mkdir()
            detour = make_detour(lab, store, own)
            stack.callback(detour.proxy.close)
            detour.proxy.history = history
            detours.append(detour)
        yield lab, detours, history


def _lay_out(lab: Lab, kind: Kind) -> None:
    for number, (where, files) in enumerate(kind.files.items()):
        node = ("green-mantis", "green-motor", "green-moth")[number if kind.in_parts else 0]
        if where != "bucket":
            root = lab.nas.parent / where
            manifest = dict(kind.manifest) if isinstance(kind.manifest, Mapping) else kind.manifest
            write_recording(root, kind.rec_id, dict(files), node=node, manifest=manifest, participant=kind.participant)
            continue
        for path, content in files.items():
            lab.raw.create(raw_key(kind.rec_id, path), content)
        lab.raw.create(raw_key(kind.rec_id, "participant.txt"), f"{kind.participant}\n".encode())
        if kind.manifest:
            document = json.dumps(manifest_of(kind.rec_id, dict(files))).encode()
            lab.raw.create(raw_key(kind.rec_id, "manifest.json"), document)


def _let_loose(
    place: Path, forks: ForkServer, ingesters: Sequence[Sequence[Operation]], ran: Ran
) -> list[tuple[Operation, dict[str, Any]]]:
    """Starts all of them at once, and tells of each operation that did not come to its end, and why."""
    owns = [place / f"ingester-{number}" for number in range(len(ingesters))]
    orders = []
    for number, (own, operations) in enumerate(zip(owns, ingesters, strict=True)):
        # Every other one is on the same host and shares what that knows.
        home = place / f"host-{number % 2}" / "dagster"
        home.mkdir(parents=True, exist_ok=True)
        orders.append({"own": str(own), "place": str(place), "home": str(home), "operations": operations})
    forks.start(ingesters=orders)
    failed: list[tuple[Operation, dict[str, Any]]] = []
    for name, status in forks.ended().items():
        own, operations = owns[int(name)], ingesters[int(name)]
        if status != 0:
            output = (own / "output.txt").read_text()[-2000:]
            ran.violations.append(f"ingester {name} ended with {status}: {output}")
            continue
        results = json.loads((own / "results.json").read_text())
        failed += [(one, result) for one, result in zip(operations, results, strict=True) if result["error"]]
    return failed


def _settled(lab: Lab, kinds: Sequence[str]) -> dict[str, Any]:
    """The final state by recording, in a form that does not depend on who came first.

    Who comes second finds a name taken and stores its manifest or participants under another; so these are compared by
    content. One of the hashes that a recording may have stands for all of them.
    """
    state, found = final_state(lab), dict[str, Any]()
    entries = list(Catalog.open(lab.assets).entries())
    for name in kinds:
        kind = KINDS[name]
        prefix, marker = f"recordings/{kind.rec_id}/", f"manifests/{kind.rec_id}."
        stored = {key.removeprefix(prefix): one for key, one in state["stored"].items() if key.startswith(prefix)}
        rows = [
            [row.comparable() for row in (entry.recording, *entry.modalities, *entry.participants)]
            for entry in entries
            if entry.recording.rec_id == kind.rec_id
        ]
        markers = [json.loads(lab.raw.get(key)[0])["files"] for key in state["stored"] if key.startswith(marker)]
        found[name] = {
            "rows": _with_one_hash(rows, kind, lab.raw.name),
            "segments": {path: etag for path, etag in stored.items() if path in kind.all_files},
            "others": sorted(
                {_with_one_hash(one, kind, lab.raw.name) for path, one in stored.items() if path not in kind.all_files}
            ),
            "marked": {path: one["sha256"] for files in markers for path, one in files.items()},
        }
    return found


def _with_one_hash(document: Any, kind: Kind, bucket: str) -> str:
    text = json.dumps(document, sort_keys=True).replace(bucket, "RAW")
    for one in kind.hashes:
        text = text.replace(one, "HASH")
    return text

"""Everything that the package does with a store, each as one call that can be made again, with the state it leads to.

A scenario is prepared without fault, run through a proxy, and told in a form that two runs can be compared by.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from tests.catalog.by_hand import row
from tests.faults.detour import Detour, make_detour
from tests.faults.final_state import final_state
from tests.faults.proxy import Fault, Refuse
from tests.lab import Lab, make_lab
from tests.recordings_on_disk import manifest_of, write_recording
from ursa_pipelines import DataInterface
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.cutover import cutover
from ursa_pipelines.catalog.tables.upkeep import compact
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.errors import StoreDenied, StoreUnavailable, UrsaError
from ursa_pipelines.ingest.bucket_watch import BucketWatch
from ursa_pipelines.maintenance.checkup.examination import examine
from ursa_pipelines.maintenance.participants_edits import apply_edit, plan_rename
from ursa_pipelines.maintenance.rebuild import rebuild
from ursa_pipelines.objects.keys import UPLOAD_RECORDS, raw_key
from ursa_pipelines.profiles.profile import load_profile
from ursa_pipelines.recordings.rows import StorageFormat

REC, OTHER = "rec_20260520_195628_b1dd", "rec_20260521_080000_c0de"
NEW = "ursa/catalog-2"
CAMERA = "camera_a/seg_0000.mp4"
_ASKS_THE_STORE = re.compile("endpoint|clock|bucket|role|unfinished|catalog")


@cache
def _files(camera_mib: int = 0) -> dict[str, bytes]:
    small = {"mic/seg_0000.wav": b"audio" * 100_000, "eeg_4559/seg_0000.edf": b"eeg" * 100}
    return small | ({CAMERA: b"video frame;" * (camera_mib * 1024**2 // 12)} if camera_mib else {})


class ToldInTheResult(StoreUnavailable):
    """What failed was not raised, but is in what the call returned."""


@dataclass
class World:
    """A lab of one's own behind a proxy, with a directory of a recording and one for what is downloaded."""

    lab: Lab
    detour: Detour
    root: Path

    def interface(self) -> DataInterface:
        return self.detour.interface()

    def close(self) -> None:
        self.detour.close()
        self.lab.data.close()
        self.lab.raw.close()
        self.lab.assets.close()


@dataclass(frozen=True)
class Scenario:
    """`run` is what is put to the test; it returns what its caller was told.

    `only_reads`: the state is as before. `has_bytes`: every row has some, as no row that is registered by hand.
    """

    name: str
    prepare: Callable[[World], object]
    run: Callable[[World, DataInterface], Any]
    only_reads: bool = False
    has_bytes: bool = True
    state: Callable[[World], Any] = lambda world: _state(world.lab)


def make_world(state: Path, directory: Path, scenario: Scenario) -> World:
    """A world of its own, prepared for the scenario. Its programs must be on PATH; the caller closes it."""
    directory.mkdir(parents=True)
    lab = make_lab(state, directory)
    detour = make_detour(lab, open_store(state), directory)
    world = World(lab, detour, directory)
    scenario.prepare(world)
    detour.proxy.wait_until_idle()
    detour.proxy.seen.clear()
    return world


def told(world: World, scenario: Scenario) -> Any:
    """Runs the scenario once, as a process of its own would, and returns what it told without what differs by lab."""
    with closing(world.interface()) as data:
        answer = json.dumps(scenario.run(world, data), default=str, sort_keys=True)
    for name, stands_for in ((world.lab.raw.name, "RAW"), (world.lab.assets.name, "ASSETS"), (str(world.root), "ROOT")):
        answer = answer.replace(name, stands_for)
    return json.loads(answer)


def _state(lab: Lab) -> dict[str, Any]:
    """The final state without bookkeeping, which may stay behind or have gone, and with what a reader sees."""
    state = final_state(lab)
    state["catalog"] = [key for key in state["catalog"] if not re.search("/(tail|tables|uploads)/", key)]
    data = lab.interface(writes=False)
    with closing(data):
        state["people"] = sorted(repr(one.comparable()) for one in data.list_participants())
        state["listed"] = sorted(one.recording_hash for one in data.list_recordings())
    return state


def _write(world: World, files: dict[str, bytes], rec_id: str = REC, **settings: Any) -> Path:
    return write_recording(world.lab.nas, rec_id, files, **{"participant": "Aria Lin"} | settings)


def _ingest(world: World, data: DataInterface) -> Any:
    result = data.ingest(source_dir=world.lab.nas / REC)
    # How much of it was there already depends on what became of answers.
    return [result.outcome, result.files_uploaded + result.files_skipped, result.verification]


def _interrupted(world: World) -> None:
    _write(world, _files(11))
    world.detour.proxy.fault = Refuse(r"PUT /raw.*partNumber=2", 403, "AccessDenied")
    try:
        _ingest(world, world.interface())
    except StoreDenied:
        world.detour.proxy.fault = Fault()
        return
    raise AssertionError("it was not interrupted")


def _ingested(world: World, camera_mib: int = 0) -> None:
    world.lab.data.ingest(source_dir=_write(world, _files(camera_mib)))


def _second_half(world: World) -> None:
    world.lab.data.ingest(source_dir=_write(world, {"mic/seg_0000.wav": b"audio" * 100}, node="green-mantis"))
    whole = {"mic/seg_0000.wav": b"audio" * 100, "eeg_4559/seg_0000.edf": b"eeg" * 100}
    half = {"eeg_4559/seg_0000.edf": whole["eeg_4559/seg_0000.edf"]}
    _write(
        world,
        half
        | {
            f"_node_manifests/{node}.json": json.dumps(manifest_of(REC, files, node=node)).encode()
            for node, files in (("blue-heron", half),)
        },
        manifest=False,
    )


def _in_bucket(world: World, *, manifest: bool = True) -> None:
    for path, content in _files().items():
        world.lab.raw.create(raw_key(REC, path), content)
    world.lab.raw.create(raw_key(REC, "participant.txt"), b"Aria Lin\n")
    if manifest:
        world.lab.raw.create(raw_key(REC, "manifest.json"), json.dumps(manifest_of(REC, _files())).encode())


def _from_bucket(world: World, data: DataInterface) -> Any:
    result = data.ingest_from_r2(rec_id=REC)
    return [result.outcome, result.verification]


def _reconstruct(world: World, data: DataInterface) -> Any:
    data.reconstruct_manifest(REC)
    return _from_bucket(world, data)


def _registered(world: World) -> None:
    _ingested(world)
    world.lab.data.ingest(source_dir=_write(world, {"mic/seg_0000.wav": b"other" * 100}, OTHER))


def _folded(world: World) -> None:
    _ingested(world)
    world.lab.data.fold()
    world.lab.data.ingest(source_dir=_write(world, {"mic/seg_0000.wav": b"other" * 100}, OTHER))


def _register_by_hand(world: World, data: DataInterface) -> Any:
    one = row(0)
    kept = data.register_recording(
        recording_hash=one.recording_hash, start_time=one.start_time, duration=one.duration, on_conflict="extend"
    )
    modality = data.register_modality(
        recording_hash=one.recording_hash, modality="eeg", format=StorageFormat.RAW_BINARY, on_conflict="overwrite"
    )
    return [kept.duration, modality.modality]


def _register_batch(world: World, data: DataInterface) -> Any:
    outcomes = data.register_recordings([row(0), row(1)], "extend")
    for one in outcomes:
        if isinstance(one, UrsaError):
            raise one
    return len(outcomes)


def _tables(world: World) -> Any:
    """What other engines would read of the tables."""
    catalog = Catalog.open(world.lab.assets)
    rows = {
        name: sum(batch.num_rows for batch in catalog.scan(name))
        for name in ("recordings", "modalities", "participants")
    }
    return _state(world.lab) | {"tables": rows}


def _fold(world: World, data: DataInterface) -> Any:
    data.fold()
    return None


def _reads(world: World, data: DataInterface) -> Any:
    (found,) = data.query(recording_hash=None, participants=["Aria Lin"], modalities=["eeg"])[:1]
    rows = data.list_recordings()
    return [
        found.recording.recording_hash,
        sorted(one.recording_hash for one in rows),
        sorted(one.primary_key for one in data.list_modalities({"recording_hash": rows[0].recording_hash})),
        sorted(repr(one.comparable()) for one in data.list_participants()),
        data.get_recording(rows[0].recording_hash).rec_id,
        sum(batch.num_rows for batch in data.scan("modalities", None, ["recording_hash"])),
    ]


def _verify(world: World, data: DataInterface) -> Any:
    found = data.verify(REC, deep=True)
    return [found.problems, found.level, found.files]


def _download(world: World, data: DataInterface) -> Any:
    destination = world.root / "downloaded"
    data.download(data.query(modalities=["camera", "eeg"]), destination)
    return {
        str(path.relative_to(destination)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(destination.rglob("*.*"))
    }


def _get(world: World, data: DataInterface) -> Any:
    return [
        {key: len(content) for family in found.modalities.values() for key, content in family.segments}
        for found in data.get(data.query(modalities=["eeg"]))
    ]


def _doctor(world: World, data: DataInterface) -> Any:
    checks = list(examine(load_profile(None, world.detour.config), world.root / "state"))
    asked = [check for check in checks if _ASKS_THE_STORE.search(check.name)]
    if bad := [check.told for check in asked if check.state in {"failed", "skipped"}]:
        raise ToldInTheResult("; ".join(bad))
    return [[check.name, check.state] for check in asked]


def _clean(world: World, data: DataInterface) -> Any:
    before = len(data.unfinished_uploads())
    data.clean_uploads(idle=timedelta())
    return before


def _records(world: World) -> Any:
    return _state(world.lab) | {"records": [info.key for info in world.lab.assets.list_objects(UPLOAD_RECORDS)]}


def _edit(world: World, data: DataInterface) -> Any:
    proposal = plan_rename(data.catalog, "Aria Lin", "Aria B. Lin")
    return apply_edit(data.ingest_context().catalog, proposal, data.writer).display_name


def _watch(world: World, data: DataInterface) -> Any:
    watch = BucketWatch(data.reading_context.raw, data.catalog, quiet_period=0, reconstruct_after=0)
    names = watch.recordings_since(date(2026, 5, 1))
    arrivals = [watch.look(name, None, None, None, now=datetime.now(UTC).timestamp() + 90000) for name in names]
    return [sorted(watch.rows_since(date(2026, 5, 1))), names, [one and one.reason for one in arrivals]]


def _rebuild(world: World, data: DataInterface) -> Any:
    rebuilt = rebuild(data.ingest_context(raw_role="raw_ro"), data.catalog, NEW)
    if not rebuilt.ok:
        raise ToldInTheResult("; ".join(text for _, text in (*rebuilt.failed, *rebuilt.waiting)))
    return rebuilt.recordings


def _cutover(world: World, data: DataInterface) -> Any:
    done = cutover(data.ingest_context().catalog.assets, NEW, writer=data.writer, reason="test")
    if not done.ok:
        raise ToldInTheResult(str(done))
    return done.ok


def _rebuilt(world: World) -> None:
    _registered(world)
    data = world.lab.interface()
    rebuild(data.ingest_context(), data.catalog, NEW)
    data.register_recording(
        recording_hash="ab" * 32, start_time=datetime(2026, 5, 22, tzinfo=UTC), duration=timedelta(1)
    )


def _upkeep(world: World, data: DataInterface) -> Any:
    catalog = data.ingest_context().catalog
    compact(catalog.assets, catalog.prefix, by="test", retention=timedelta(), dry_run=False)
    return None


def _empty(world: World) -> None:
    """Nothing beforehand."""


SCENARIOS = {
    one.name: one
    for one in (
        Scenario("ingest small files", lambda world: _write(world, _files()), _ingest),
        Scenario("ingest in parts", lambda world: _write(world, _files(9)), _ingest),
        Scenario("ingest resumably", lambda world: _write(world, _files(11)), _ingest),
        Scenario("resume", _interrupted, _ingest),
        Scenario("ingest again", lambda world: _ingested(world, 9), _ingest, only_reads=True),
        Scenario("ingest the second half", _second_half, _ingest),
        Scenario("reconstruct from a directory", lambda world: _write(world, _files(), manifest=False), _ingest),
        Scenario("register from the bucket", _in_bucket, _from_bucket),
        Scenario("reconstruct in the bucket", lambda world: _in_bucket(world, manifest=False), _reconstruct),
        Scenario("register by hand", _empty, _register_by_hand, has_bytes=False),
        Scenario("register a batch", _empty, _register_batch, has_bytes=False),
        Scenario("fold", _registered, _fold, state=_tables),
        Scenario("fold again", _folded, _fold, state=_tables),
        Scenario("upkeep", _folded, _upkeep, state=_tables),
        Scenario("read the catalog", _folded, _reads, only_reads=True),
        Scenario("verify", lambda world: _ingested(world, 9), _verify),
        Scenario("download", lambda world: _ingested(world, 9), _download, only_reads=True),
        Scenario("get", lambda world: _ingested(world), _get, only_reads=True),
        Scenario("doctor", _interrupted, _doctor, only_reads=True),
        Scenario("clean uploads", _interrupted, _clean, state=_records),
        Scenario("edit a participant", _ingested, _edit),
        Scenario("watch the bucket", lambda world: _in_bucket(world, manifest=False), _watch, only_reads=True),
        Scenario("rebuild", _registered, _rebuild),
        Scenario("cut over", _rebuilt, _cutover, has_bytes=False),
    )
}

"""Faults 66 to 72: the catalog's documents and tables when pointers, versions, races and answers go wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from tests.faults.detour import Detour
from tests.faults.invariants import TABLES_AS_ENTRIES, Evidence
from tests.faults.proxy import Fault, Hold, LoseAnswer, Meet, Refuse
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import DataInterface
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.cutover import cutover, rollback
from ursa_pipelines.catalog.edits import write_edit
from ursa_pipelines.catalog.entries import Writer, entry_key, read_entry
from ursa_pipelines.catalog.pointer import create_catalog, read_pointer
from ursa_pipelines.catalog.tables import fold as folding
from ursa_pipelines.catalog.tables import upkeep
from ursa_pipelines.catalog.tables.head import read_head
from ursa_pipelines.catalog.writing import transplant
from ursa_pipelines.errors import (
    BucketMismatch,
    CatalogNotInitialized,
    CatalogPointerInvalid,
    CatalogVersionUnknown,
    StoreDenied,
    UrsaError,
)
from ursa_pipelines.recordings.identity import derive_participant_id

REC = "rec_20260520_195628_b1dd"
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10}
PREFIX, NEW = "ursa/catalog", "ursa/catalog-2"
START = datetime(2026, 5, 20, 19, 56, 28, tzinfo=UTC)
HASH = "a" * 64
WRITER = Writer(by="test")
TABLES = ("modalities", "participants", "events", "recordings")
POINTER = {"version": 1, "prefix": PREFIX, "updated_at": "2026-05-20T19:56:28Z"}

Doors = dict[str, Callable[[], object]]


@pytest.mark.parametrize(
    "content, error",
    [
        (None, CatalogNotInitialized),
        (b"", CatalogPointerInvalid),
        (json.dumps(POINTER).encode()[:-5], CatalogPointerInvalid),
        (json.dumps(POINTER | {"prefix": "r2://elsewhere/ursa/catalog"}).encode(), CatalogPointerInvalid),
        (json.dumps(POINTER | {"prefix": "virgo/catalog"}).encode(), CatalogPointerInvalid),
        (json.dumps(POINTER | {"prefix": "ursa/nowhere"}).encode(), CatalogNotInitialized),
    ],
    ids=["missing", "empty", "cut short", "of another bucket", "outside of ursa", "no catalog there"],
)
def test_fault_66_without_a_good_pointer_nothing_is_written_and_no_prefix_is_guessed(
    lab: Lab, tmp_path: Path, content: bytes | None, error: type[UrsaError], invariants: Evidence
):
    invariants.excused = {TABLES_AS_ENTRIES}
    config = _config_of_family(lab, tmp_path, "test")
    directory = write_recording(lab.nas, REC, FILES)
    _put(lab, "ursa/ACTIVE.json", content)
    before = lab.everything()

    doors: Doors = {
        "ingest": lambda: _writing(config).ingest(source_dir=directory),
        "register": lambda: _register(_writing(config)),
        "fold": lambda: _writing(config).fold(),
    }
    if content is None or b"nowhere" not in content:
        doors["read"] = lambda: DataInterface(config_path=config).list_recordings()
    assert _errors(doors) == dict.fromkeys(doors, error)

    assert lab.everything() == before


def test_fault_66_the_bucket_of_another_family_is_not_written_to(lab: Lab, tmp_path: Path):
    config = tmp_path / "production.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(lab.config.read_text()) | {"family": "production"}))
    before = lab.everything()

    with pytest.raises(BucketMismatch):
        _writing(config)

    assert lab.everything() == before


class Meanwhile(Fault):
    """Does something while the first request that matches `pattern` waits; with `once`, after one that matches it."""

    def __init__(self, pattern: str, act: Callable[[], object], *, once: str = "") -> None:
        self._pattern, self._once, self._act = re.compile(pattern), re.compile(once), act
        self._has_come, self.has_acted = not once, False

    def before(self, request: str) -> None:
        if self._has_come and not self.has_acted and self._pattern.search(request):
            self.has_acted = True
            self._act()

    def after(self, request: str) -> None:
        self._has_come = self._has_come or bool(self._once.search(request))


@pytest.mark.parametrize("at", ["before the entry", "between entry and pointer"])
@pytest.mark.parametrize("known", [False, True], ids=["a new recording", "a known recording"])
def test_fault_67_an_ingest_whose_catalog_is_replaced_meanwhile_is_in_the_new_one(
    lab: Lab, detour: Detour, at: str, known: bool
):
    directory = write_recording(lab.nas, REC, FILES)
    if known:
        lab.data.ingest(source_dir=directory)
        (directory / "participant.txt").write_text("Aria Lin\n")
    _prepare(lab, NEW)
    detour.proxy.fault = fault = (
        Meanwhile(r"PUT .*/entries/", lambda: _cut_over(lab))
        if at == "before the entry"
        else Meanwhile(r"GET .*ursa/ACTIVE\.json", lambda: _cut_over(lab), once=r"PUT .*/entries/")
    )

    process = detour.start_ingest(directory)

    told = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 0, told
    assert fault.has_acted
    data = lab.interface(writes=False)
    assert data.catalog.prefix == NEW
    (row,) = data.list_recordings()
    assert row.rec_id == REC
    assert {one.modality for one in data.list_modalities()} == {"camera", "mic"}
    assert len(data.list_participants()) == known
    old, new = (read_entry(lab.assets, prefix, row.recording_hash) for prefix in (PREFIX, NEW))
    assert old is not None and new is not None
    assert old[0].rows == new[0].rows
    lab.interface().ingest(source_dir=directory)
    assert len(lab.interface().list_recordings()) == 1


def test_fault_67_writes_of_both_prefixes_have_numbers_of_their_own_in_the_history(lab: Lab):
    """What was written under the old prefix after the copy was made comes along with its history."""
    _register(lab.interface())
    _prepare(lab, NEW)
    _register(lab.interface(), on_conflict="extend", duration=timedelta(minutes=2))

    _cut_over(lab)

    entry = lab.interface(writes=False).catalog.entry(HASH)
    seqs = [item.seq for item in entry.log]
    assert seqs == sorted(set(seqs)), [(item.seq, item.op) for item in entry.log]
    assert entry.seq == seqs[-1]
    _check_tables_hold_the_entries(lab)


@pytest.mark.parametrize("tables", ["not yet folded", "folded meanwhile"])
def test_fault_68_of_two_machines_that_register_one_recording_one_wins_and_the_other_agrees(
    lab: Lab, detour: Detour, tables: str
):
    directories = [write_recording(place, REC, FILES, participant="Aria Lin") for place in (lab.nas, lab.usb)]
    detour.proxy.fault = Meet(r"PUT .*/entries/", r"PUT .*/entries/")

    processes = [detour.start_ingest(directory) for directory in directories]

    told = [process.communicate(timeout=60)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    if tables == "folded meanwhile":
        lab.data.fold()
    (entry,) = lab.data.catalog.entries()
    assert len(entry.log) == 1
    assert len(lab.interface().list_recordings()) == 1
    lab.check_invariants()


@pytest.mark.parametrize(
    "lost, nth",
    [
        (r"PUT .*/tail/", 1),
        (r"PUT .*/entries/", 1),
        (r"PUT .*/HEAD\.json", 1),
        (r"PUT .*/HEAD\.json", 2),
        *((rf"PUT .*/tables/{name}/_delta_log/", 1) for name in TABLES),
        *((rf"PUT .*/tables/{name}/.*\.parquet", 1) for name in TABLES),
        (r"DELETE .*/tail/", 1),
    ],
    ids=lambda value: str(value).removeprefix("PUT .*/"),
)
def test_fault_69_a_commit_whose_answer_was_lost_is_read_back_and_nothing_is_deleted(
    lab: Lab, detour: Detour, lost: str, nth: int
):
    _register(lab.data, recording_hash="b" * 64, participant_ids=["p_b"])
    lab.data.fold()
    detour.proxy.fault = fault = LoseAnswer(lost, nth)
    data = detour.interface()

    _register(data, participant_ids=["p_a"])
    data.register_modality(recording_hash=HASH, modality="mic", format="raw_audio")
    data.fold()

    assert fault.lost
    assert all("/tail/" in sent.request for sent in detour.proxy.seen if sent.request.startswith("DELETE "))
    entry = lab.data.catalog.entry(HASH)
    assert [item.seq for item in entry.log] == [1, 2]
    assert len(lab.interface(writes=False).list_modalities()) == 1
    _check_reads(lab, {HASH, "b" * 64})
    lab.data.fold()
    _check_tables_hold_the_entries(lab)
    _check_reads(lab, {HASH, "b" * 64})


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_fault_70_an_ingest_killed_at_any_write_leaves_a_recording_whole_or_invisible(
    lab: Lab, detour: Detour, after: bool
):
    for number, step in enumerate(("tail", "rec_ids", "entries")):
        rec_id = f"rec_20260520_195628_{number:04x}"
        files = {path: content + bytes([number]) for path, content in FILES.items()}
        directory = write_recording(lab.nas, rec_id, files, participant="Aria Lin")

        detour.kill_ingest(directory, Hold(rf"PUT .*/{step}/", after=after))

        _check_whole(lab, rec_id, is_there=step == "entries" and after)
        lab.interface().ingest(source_dir=directory)
        _check_whole(lab, rec_id, is_there=True)
    assert len(lab.interface(writes=False).list_participants()) == 1


@pytest.mark.parametrize("name", TABLES)
def test_fault_70_a_fold_that_ends_anywhere_shows_nobody_a_recording_without_its_modalities(
    lab: Lab, detour: Detour, name: str
):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES, participant="Aria Lin"))
    lab.data.fold()
    later = "rec_20260521_080000_c0de"
    files = {path: content + b"!" for path, content in FILES.items()}
    lab.data.ingest(source_dir=write_recording(lab.nas, later, files, participant="Bo Kim"))
    interface = detour.interface()
    assert interface.catalog
    detour.proxy.fault = Refuse(rf"PUT .*/tables/{name}/_delta_log/", 403, "AccessDenied")

    with pytest.raises(StoreDenied):
        interface.fold()

    for rec_id in (REC, later):
        _check_whole(lab, rec_id, is_there=True)
    newest = {one: _table(lab, one) for one in TABLES}
    assert set(newest["recordings"]["recording_hash"]) <= set(newest["modalities"]["recording_hash"])
    assert set(newest["recordings"].explode("participant_ids")["participant_ids"]) <= set(
        newest["participants"]["participant_id"]
    )
    lab.data.fold()
    _check_tables_hold_the_entries(lab)


DOCUMENTS = {
    "pointer": "ursa/ACTIVE.json",
    "catalog": f"{PREFIX}/CATALOG.json",
    "entry": entry_key(PREFIX, HASH),
    "edit": f"{PREFIX}/participants/p_a.json",
    "head": f"{PREFIX}/HEAD.json",
}
OF_ENTRIES = ("register", "batch", "modality", "fold", "repair", "refold")
STOPPED = {
    "pointer": ("ingest", "edit", *OF_ENTRIES, "compact", "read"),
    "catalog": ("ingest", "edit", *OF_ENTRIES, "compact"),
    "entry": (*OF_ENTRIES, "read"),
    "edit": ("edit", "fold", "repair", "refold"),
    "head": ("fold", "repair", "refold", "compact", "read"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_fault_71_nothing_is_written_where_a_document_has_an_unknown_version(lab: Lab, name: str, invariants: Evidence):
    invariants.excused = {TABLES_AS_ENTRIES}
    directory = write_recording(lab.nas, REC, FILES)
    _register(lab.data, participant_ids=["p_a"])
    lab.data.fold()
    _register(lab.data, on_conflict="extend", duration=timedelta(minutes=3))
    _name(lab, "Dr Lin")
    doors: Doors = {
        "ingest": lambda: lab.interface().ingest(source_dir=directory),
        "register": lambda: _register(lab.interface(), on_conflict="extend", duration=timedelta(hours=1)),
        "batch": lambda: _first_error(lab.interface().register_recordings([row], on_conflict="overwrite")),
        "modality": lambda: lab.interface().register_modality(recording_hash=HASH, modality="mic", format="raw_audio"),
        "edit": lambda: _name(lab, "Somebody else"),
        "fold": lambda: lab.interface().fold(),
        "repair": lambda: folding.repair(lab.assets, _live(lab), by="test"),
        "refold": lambda: folding.refold(lab.assets, _live(lab), by="test"),
        "compact": lambda: upkeep.compact(lab.assets, _live(lab), by="test", dry_run=False),
        "read": lambda: lab.interface(writes=False).list_recordings(),
    }
    row = lab.data.get_recording(HASH).model_copy(update={"duration": timedelta(hours=2)})
    key = DOCUMENTS[name]
    _put(lab, key, json.dumps(json.loads(lab.assets.get(key)[0]) | {"version": 3}).encode())
    before = lab.everything()
    found: dict[str, Any] = {}

    for door in STOPPED[name]:
        error = _errors({door: doors[door]})[door]
        after = lab.everything()
        written = {one for one in after.keys() | before.keys() if after.get(one) != before.get(one)}
        # Who finds out only on the way has stamped HEAD, or marked a batch: neither changes what is read.
        found[door] = (error, {one for one in written if not one.endswith("/HEAD.json") and "/tail/_batch." not in one})
        before = after

    assert found == dict.fromkeys(STOPPED[name], (CatalogVersionUnknown, set()))


def test_fault_72_merges_that_meet_lose_nothing_in_any_order(lab: Lab, detour: Detour):
    _register(lab.data, participant_ids=["p_0"])
    changes: list[dict[str, Any]] = [
        {"on_conflict": "merge_participants", "participant_ids": ["p_1"]},
        {"on_conflict": "merge_participants", "participant_ids": ["p_2"]},
        {"on_conflict": "extend", "duration": timedelta(minutes=3)},
        {"on_conflict": "extend", "duration": timedelta(minutes=2)},
    ]
    interfaces = [detour.interface() for _ in changes]
    for interface in interfaces:
        assert interface.list_recordings()
    # All have read the same version before anyone writes over it.
    detour.proxy.fault = Meet(*[r"PUT .*/entries/"] * len(changes))

    with ThreadPoolExecutor(len(changes)) as pool:
        outcomes = list(pool.map(lambda pair: _outcome(*pair), zip(interfaces, changes, strict=True)))

    # Whoever merges participants says nothing of the duration, but must not contradict it either.
    refused = [change for change, error in zip(changes, outcomes, strict=True) if error]
    assert all(change["on_conflict"] == "merge_participants" for change in refused)
    row = lab.interface(writes=False).get_recording(HASH)
    assert row.duration == timedelta(minutes=3)
    assert row.ended_at == START + row.duration
    kept = {key for change in changes if change not in refused for key in change.get("participant_ids", ())}
    assert set(row.participant_ids) == {"p_0", *kept}
    lab.data.fold()
    _check_tables_hold_the_entries(lab)


@pytest.mark.parametrize("first", [0, 1])
def test_fault_72_halves_that_meet_come_to_the_same_rows_as_one_after_the_other(lab: Lab, detour: Detour, first: int):
    host = write_recording(lab.nas, REC, {"mic/a.wav": b"host"}, node="host", participant="Aria Lin")
    motor = write_recording(lab.usb, REC, {"eeg_1/a.edf": b"motor"}, node="motor", participant="Bo Kim")
    directories = [host, motor] if first == 0 else [motor, host]
    detour.proxy.fault = Meet(r"PUT .*/tail/", r"PUT .*/tail/")

    processes = [detour.start_ingest(directory) for directory in directories]

    told = [process.communicate(timeout=60)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    data = lab.interface(writes=False)
    (row,) = data.list_recordings()
    assert (row.metadata or {})["nodes"] == ["host", "motor"]
    assert row.participant_ids == sorted(map(derive_participant_id, ("Aria Lin", "Bo Kim")))
    assert {one.modality for one in data.list_modalities()} == {"mic", "eeg"}
    assert len(data.list_participants()) == 2
    lab.check_invariants()


def test_tables_that_were_deleted_are_made_again_by_the_next_fold(lab: Lab):
    """docs/catalog.md, Folding: whoever deletes `tables/` runs `ursa catalog fold`."""
    _register(lab.data, participant_ids=["p_a"])
    lab.data.fold()
    before = {name: _table(lab, name).to_dicts() for name in TABLES}
    for info in lab.assets.list_objects(f"{PREFIX}/tables/"):
        lab.assets.multipart_client.delete_object(Bucket=lab.assets.name, Key=info.key)

    lab.interface().fold()

    assert {name: _table(lab, name).to_dicts() for name in TABLES} == before
    _check_reads(lab, {HASH})


def test_going_back_to_a_catalog_that_a_held_up_writer_wrote_to_keeps_what_was_acknowledged(lab: Lab):
    """A process that was opened before the cutover is refused under the new prefix; the rollback does not revive it."""
    _prepare(lab, NEW)
    held_up = lab.interface()
    assert held_up.ingest_context().catalog.prefix == PREFIX
    _cut_over(lab)
    _register(lab.interface())

    with pytest.raises(UrsaError):
        _register(held_up, duration=timedelta(hours=9))
    moved = rollback(lab.assets, writer=WRITER, reason="test")

    assert moved.conflicts == ()
    assert lab.interface(writes=False).get_recording(HASH).duration == timedelta(minutes=1)


def _live(lab: Lab) -> str:
    return read_pointer(lab.assets).prefix


def _register(data: DataInterface, **fields: Any) -> object:
    told: dict[str, Any] = {"recording_hash": HASH, "start_time": START, "duration": timedelta(minutes=1)}
    return data.register_recording(**(told | fields))


def _outcome(data: DataInterface, change: dict[str, Any]) -> type[UrsaError] | None:
    try:
        _register(data, **change)
    except UrsaError as error:
        return type(error)
    return None


def _first_error(outcomes: list[Any]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, UrsaError):
            raise outcome


def _name(lab: Lab, name: str) -> None:
    write_edit(
        lab.assets,
        read_pointer(lab.assets).prefix,
        "p_a",
        lambda edit: edit.model_copy(update={"display_name": name}),
        op="rename",
        writer=WRITER,
    )


def _errors(doors: Doors) -> dict[str, type[UrsaError] | None]:
    found: dict[str, type[UrsaError] | None] = {}
    for name, door in doors.items():
        try:
            door()
        except UrsaError as error:
            found[name] = type(error)
        else:
            found[name] = None
    return found


def _writing(config: Path) -> DataInterface:
    data = DataInterface(config_path=config)
    data.enable_writes(roles=("assets_rw", "raw_rw"))
    return data


def _config_of_family(lab: Lab, directory: Path, family: str) -> Path:
    """A profile that never makes a catalog by itself, and buckets that say they are of its family."""
    for bucket, purpose in ((lab.raw, "raw"), (lab.assets, "assets")):
        _, info = bucket.get("ursa/BUCKET.json")
        bucket.replace("ursa/BUCKET.json", json.dumps({"family": family, "purpose": purpose}).encode(), info.etag)
    config = directory / f"{family}.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(lab.config.read_text()) | {"family": family}))
    return config


def _put(lab: Lab, key: str, content: bytes | None) -> None:
    if content is None:
        lab.assets.multipart_client.delete_object(Bucket=lab.assets.name, Key=key)
    else:
        lab.assets.replace(key, content, lab.assets.get(key)[1].etag)


def _prepare(lab: Lab, prefix: str) -> None:
    """A copy of the live catalog, as a rebuild leaves it."""
    create_catalog(lab.assets, prefix, by="rebuild")
    for entry in Catalog.open(lab.assets).entries():
        transplant(lab.assets, prefix, entry, op="rebuild", writer=WRITER)
    folding.refold(lab.assets, prefix, by="rebuild")


def _cut_over(lab: Lab) -> None:
    assert cutover(lab.assets, NEW, writer=WRITER, reason="test").ok


def _check_reads(lab: Lab, hashes: set[str]) -> None:
    data = lab.interface(writes=False)
    assert [row.recording_hash for row in data.list_recordings()] == sorted(hashes)
    people = {f"p_{one[0]}" for one in hashes}
    assert {row.participant_id for row in data.list_participants()} == people


def _check_whole(lab: Lab, rec_id: str, *, is_there: bool) -> None:
    data = lab.interface(writes=False)
    results = data.query(metadata={"manifest_recording_id": rec_id})
    assert len(results) == is_there
    hashes = [row.recording_hash for row in data.list_recordings() if row.rec_id == rec_id]
    assert hashes == [result.recording_hash for result in results]
    for result in results:
        assert set(result.modalities) == {"camera", "mic"}
        assert len(data.list_modalities({"recording_hash": result.recording_hash})) == 2
        people = {row.participant_id for row in data.list_participants()}
        assert set(result.recording.participant_ids) <= people


def _check_tables_hold_the_entries(lab: Lab) -> None:
    """The tables alone, as HEAD names them, without the entries."""
    prefix = read_pointer(lab.assets).prefix
    found = read_head(lab.assets, prefix)
    assert found is not None
    versions = found[0].versions
    entries = {entry.recording.recording_hash: entry for entry in Catalog.open(lab.assets).entries()}
    tables = {name: _table(lab, name, versions[name]) for name in TABLES}
    assert sorted(tables["recordings"].select("recording_hash", "seq").rows()) == sorted(
        (key, entry.seq) for key, entry in entries.items()
    )
    assert sorted(tables["modalities"].select("recording_hash", "modality", "seq").rows()) == sorted(
        (key, row.modality, entry.seq) for key, entry in entries.items() for row in entry.modalities
    )
    assert sorted(tables["events"].select("recording_hash", "seq", "txn").rows()) == sorted(
        (key, item.seq, item.txn) for key, entry in entries.items() for item in entry.log
    )
    assert sorted(tables["participants"]["participant_id"]) == sorted(
        {key for entry in entries.values() for key in entry.recording.participant_ids}
    )


def _table(lab: Lab, name: str, version: int | None = None) -> pl.DataFrame:
    uri = f"s3://{lab.assets.name}/{read_pointer(lab.assets).prefix}/tables/{name}"
    return pl.scan_delta(uri, version=version, storage_options=lab.assets.table_options()).collect()

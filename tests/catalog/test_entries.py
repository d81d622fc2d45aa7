"""The protocol that writes entries: claims, lost answers, a pointer that moves, and no write where nothing changes."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import Any

import pytest

from tests.catalog.by_hand import NEW_PREFIX, PREFIX, START, WRITER, create_catalog, move_pointer
from tests.faults.bits import put
from tests.faults.proxy import LoseAnswer, Proxy, Refuse
from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, write_recording
from ursa_pipelines.catalog import policies, writing
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.claims import claim_key, read_claim
from ursa_pipelines.catalog.entries import Writer, entry_key, read_entry
from ursa_pipelines.catalog.writing import Registration
from ursa_pipelines.errors import (
    CatalogError,
    CatalogVersionUnknown,
    RecordingConflict,
    RecordingIdInvalid,
    StoreDenied,
)
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.rows import RecordingRow, Rows

REC, OTHER_REC = "rec_20260520_195628_b1dd", "rec_20260521_195628_b1dd"
HASH, OTHER_HASH = "a" * 64, "b" * 64
FILES = {"mic/seg_0000.wav": b"audio", "camera_a/seg_0000.mp4": b"video"}

lost_answers = pytest.mark.parametrize("lost", ["/tail/", "/rec_ids/", "/entries/"])


def test_a_registration_leaves_entry_claim_and_tail_marker_of_one_transaction(lab: Lab):
    registration = _register(Catalog.open(lab.assets))

    (item,) = registration.entry.log
    assert (item.op, item.by, item.run_id, item.seq) == ("test", "tester@bench", "run-1", 1)
    assert registration.entry.months == ["2026-05"]
    assert read_claim(lab.assets, PREFIX, REC) == HASH
    assert _keys(lab, "tail/") == [f"tail/{HASH}.{item.txn}"]
    assert _keys(lab, "entries/") == [f"entries/aa/{HASH}.json"]


def test_a_change_appends_to_the_log_and_keeps_every_month_and_unknown_field(lab: Lab):
    catalog = Catalog.open(lab.assets)
    _register(catalog)
    _edit(lab, entry_key(PREFIX, HASH), {"note": "from a later version"})

    moved = _row(start_time=START + timedelta(days=30))
    registration = catalog.register_recording(moved, "overwrite", Writer(by="other"))

    assert registration.outcome == "changed"
    assert (registration.entry.seq, [item.seq for item in registration.entry.log]) == (2, [1, 2])
    assert len({item.txn for item in registration.entry.log}) == 2
    assert registration.entry.months == ["2026-05", "2026-06"]
    assert json.loads(lab.assets.get(entry_key(PREFIX, HASH))[0])["note"] == "from a later version"


def test_an_unchanged_register_writes_nothing(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    recording = lab.data.ingest(source_dir=directory).recording
    assert recording is not None
    (mic,) = lab.data.list_modalities({"modality": "mic"})
    before = lab.everything()

    lab.data.register_recording(
        **recording.model_dump(include={"recording_hash", "participant_ids", "start_time", "duration", "ended_at"}),
        device_info=recording.device_info,
        metadata=recording.metadata,
    )
    lab.data.register_modality(**mic.model_dump())
    assert lab.data.ingest(source_dir=directory).outcome == "unchanged"
    assert lab.data.ingest(source_dir=directory, overwrite=True).outcome == "unchanged"
    assert lab.data.ingest_from_r2(rec_id=REC).outcome == "unchanged"

    assert lab.everything() == before


def test_a_derived_hash_gives_way_to_the_one_that_owns_the_rec_id(lab: Lab):
    catalog = Catalog.open(lab.assets)
    _register(catalog, recording_hash=HASH)

    registration = _register(catalog, recording_hash=OTHER_HASH, stated=False)

    assert (registration.entry.recording.recording_hash, registration.outcome) == (HASH, "unchanged")
    assert [row.recording_hash for row in catalog.list_recordings()] == [HASH]


def test_a_stated_hash_that_differs_from_the_owner_is_a_conflict_with_a_remedy(lab: Lab):
    catalog = Catalog.open(lab.assets)
    _register(catalog, recording_hash=HASH)
    before = _keys(lab, "entries/"), _keys(lab, "rec_ids/")

    with pytest.raises(RecordingConflict) as caught:
        _register(catalog, recording_hash=OTHER_HASH, stated=True)

    assert caught.value.recording == REC
    assert HASH in caught.value.problem and OTHER_HASH in caught.value.problem
    assert REC in caught.value.remedy
    assert (_keys(lab, "entries/"), _keys(lab, "rec_ids/")) == before


def test_an_ingest_whose_manifest_states_another_hash_is_refused(lab: Lab):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES))
    (row,) = lab.data.list_recordings()

    with pytest.raises(RecordingConflict, match=row.recording_hash):
        lab.data.ingest(source_dir=write_recording(lab.usb, REC, FILES, manifest={"recording_hash": OTHER_HASH}))

    assert lab.data.list_recordings() == [row]


def test_the_same_content_under_a_second_rec_id_is_a_conflict_that_names_the_first(lab: Lab):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES))
    before = _keys(lab, "")

    with pytest.raises(RecordingConflict, match=REC) as caught:
        lab.data.ingest(source_dir=write_recording(lab.nas, OTHER_REC, FILES))

    assert caught.value.recording == OTHER_REC
    assert _keys(lab, "") == before


def test_a_rec_id_that_lost_the_race_for_its_content_has_no_entry(lab: Lab):
    catalog = Catalog.open(lab.assets)

    with pytest.raises(RecordingConflict, match=REC):
        _register(catalog, rec_id=OTHER_REC, meanwhile=lambda: _register(catalog, rec_id=REC))

    assert [row.rec_id for row in catalog.list_recordings()] == [REC]
    assert catalog.entry_of_rec_id(OTHER_REC) is None


@pytest.mark.parametrize(("recording_hash", "stated"), [(OTHER_HASH, False), (HASH, True)], ids=["derived", "stated"])
def test_a_claim_without_an_entry_is_taken_over(lab: Lab, recording_hash: str, stated: bool):
    lab.assets.create(claim_key(PREFIX, REC), json.dumps({"recording_hash": HASH, "txn": "of a killed run"}).encode())

    registration = _register(Catalog.open(lab.assets), recording_hash=recording_hash, stated=stated)

    assert (registration.entry.recording.recording_hash, registration.outcome) == (HASH, "created")
    assert _keys(lab, "entries/") == [f"entries/aa/{HASH}.json"]


def test_a_claim_without_an_entry_does_not_give_way_to_another_stated_hash(lab: Lab):
    lab.assets.create(claim_key(PREFIX, REC), json.dumps({"recording_hash": HASH, "txn": "of a killed run"}).encode())

    with pytest.raises(RecordingConflict, match=HASH):
        _register(Catalog.open(lab.assets), recording_hash=OTHER_HASH, stated=True)

    assert _keys(lab, "entries/") == []


@lost_answers
def test_a_new_entry_whose_answer_was_lost_is_known_as_our_own(
    lab: Lab, proxied_assets: Bucket, proxy: Proxy, lost: str
):
    proxy.fault = fault = LoseAnswer(f"^PUT .*{lost}")

    registration = _register(Catalog.open(proxied_assets))

    assert fault.lost
    assert (registration.outcome, len(registration.entry.log)) == ("created", 1)
    assert _keys(lab, "entries/") == [f"entries/aa/{HASH}.json"]
    assert _keys(lab, "tail/") == [f"tail/{HASH}.{registration.entry.log[0].txn}"]
    assert read_claim(lab.assets, PREFIX, REC) == HASH


@pytest.mark.parametrize("lost", ["/tail/", "/entries/"])
def test_a_change_whose_answer_was_lost_is_known_as_our_own(lab: Lab, proxied_assets: Bucket, proxy: Proxy, lost: str):
    _register(Catalog.open(lab.assets))
    proxy.fault = fault = LoseAnswer(f"^PUT .*{lost}")

    registration = Catalog.open(proxied_assets).register_recording(
        _row(duration=timedelta(hours=1)), "extend", Writer(by="tester")
    )

    assert fault.lost
    assert (registration.outcome, len(registration.entry.log)) == ("changed", 2)
    assert read_entry(lab.assets, PREFIX, HASH) is not None
    assert lab.data.get_recording(HASH).duration == timedelta(hours=1)


def test_a_write_that_is_denied_is_told_at_once_and_leaves_no_entry(lab: Lab, proxied_assets: Bucket, proxy: Proxy):
    proxy.fault = Refuse("^PUT .*/entries/", 403, "AccessDenied")

    with pytest.raises(StoreDenied):
        _register(Catalog.open(proxied_assets))

    assert _keys(lab, "entries/") == []


def test_a_pointer_that_moves_during_a_write_gets_the_same_under_the_new_prefix(lab: Lab):
    catalog = Catalog.open(lab.assets)

    registration = _register(catalog, meanwhile=lambda: move_pointer(lab, NEW_PREFIX))

    assert registration.outcome == "created"
    old, new = read_entry(lab.assets, PREFIX, HASH), read_entry(lab.assets, NEW_PREFIX, HASH)
    assert old is not None and new is not None
    assert old[0].rows == new[0].rows == registration.entry.rows
    assert read_claim(lab.assets, NEW_PREFIX, REC) == HASH
    assert lab.interface().get_recording(HASH).rec_id == REC


def test_a_writer_that_was_held_up_marks_its_entry_anew_before_it_writes(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writing, "_ANNOUNCED_FOR_SECONDS", 0)
    catalog = Catalog.open(lab.assets)
    _register(catalog)
    races = iter([lambda: _extend(catalog, timedelta(hours=1))])

    def resolve(existing: Rows | None) -> Rows:
        next(races, lambda: None)()
        return policies.register_recording(_row(duration=timedelta(hours=2)), "extend")(existing)

    changed = catalog.write(HASH, lambda _: resolve, rec_id=REC, hash_is_stated=True, op="test", writer=WRITER)

    txn = changed.entry.log[-1].txn
    assert {key for key in _keys(lab, "tail/") if txn in key} == {f"tail/{HASH}.{txn}", f"tail/{HASH}.{txn}-1"}


def test_a_write_into_a_staging_prefix_does_not_follow_the_pointer(lab: Lab):
    create_catalog(lab, NEW_PREFIX)
    before = _keys(lab, "")

    _register(Catalog.open(lab.assets, prefix=NEW_PREFIX))

    assert _keys(lab, "") == before
    assert read_entry(lab.assets, NEW_PREFIX, HASH) is not None


def test_an_entry_that_is_not_understood_is_never_written_over(lab: Lab):
    key = entry_key(PREFIX, HASH)
    etag = lab.assets.create(key, b"").etag
    for damage, error in (
        (b"", CatalogError),
        (b"{", CatalogError),
        (b'{"version": 1, "seq": 1}', CatalogError),
        (b'{"version": 2, "body": "of another shape"}', CatalogVersionUnknown),
    ):
        etag = lab.assets.replace(key, damage, etag).etag
        before = lab.everything()
        for call in (lambda: _register(Catalog.open(lab.assets)), lambda: lab.data.get_recording(HASH)):
            with pytest.raises(CatalogError, match=f"{lab.assets.name}/{key}") as caught:
                call()
            assert type(caught.value) is error, damage
        assert lab.everything() == before


def test_an_entry_whose_bytes_are_not_those_that_were_written_is_damaged_to_every_reader(lab: Lab):
    catalog, key = Catalog.open(lab.assets), entry_key(PREFIX, HASH)
    _register(catalog)
    catalog.register_recording(_row(duration=timedelta(minutes=40)), "overwrite", WRITER)
    raw, info = lab.assets.get(key)
    assert info.sha256 == hashlib.sha256(raw).hexdigest()
    put(lab.assets, key, raw.replace(b"PT40M", b"PT48M"))

    for read in (lambda: catalog.entry(HASH), lambda: list(catalog.entries()), lambda: _register(catalog)):
        with pytest.raises(CatalogError, match="not those that were written"):
            read()


def test_an_entry_that_was_written_by_hand_is_read_as_it_is(lab: Lab):
    catalog = Catalog.open(lab.assets)
    _register(catalog)
    _edit(lab, entry_key(PREFIX, HASH), {"note": "by hand"})

    assert lab.assets.get(entry_key(PREFIX, HASH))[1].sha256 is None
    assert catalog.entry(HASH).recording.recording_hash == HASH


def test_a_damaged_claim_stops_the_register_and_names_its_key(lab: Lab):
    lab.assets.create(claim_key(PREFIX, REC), b'["no claim"]')

    with pytest.raises(CatalogError, match=claim_key(PREFIX, REC)):
        _register(Catalog.open(lab.assets))

    assert _keys(lab, "entries/") == []


def test_a_row_whose_rec_id_is_none_is_refused_before_anything_is_written(lab: Lab):
    before = lab.everything()

    for rec_id in ("../ACTIVE", f"{REC}/..", "", "rec_20261399_000000_b1dd", 7):
        with pytest.raises(RecordingIdInvalid):
            lab.data.register_recording(
                recording_hash=HASH,
                start_time=START,
                duration=timedelta(minutes=1),
                metadata={"manifest_recording_id": rec_id},
            )

    assert lab.everything() == before


def test_two_manifests_that_state_one_hash_are_one_recording_whichever_came_first(lab: Lab):
    """A stated hash stays as it is when a later directory brings more files."""
    first = {"camera_a/seg_0000.mp4": b"video"}
    stated = manifest_of(REC, FILES, stated_hash=True)["recording_hash"]
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, first, manifest={"recording_hash": stated}))

    result = lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES, manifest={"recording_hash": stated}))

    assert result.recording is not None
    assert result.recording.recording_hash == stated
    assert {row.modality for row in lab.data.list_modalities()} == {"camera", "mic"}
    assert len(lab.data.list_recordings()) == 1


def _row(rec_id: str = REC, recording_hash: str = HASH, **fields: Any) -> RecordingRow:
    values = {"start_time": START, "duration": timedelta(minutes=1), "ended_at": START + timedelta(minutes=1)}
    return RecordingRow(recording_hash=recording_hash, metadata={"manifest_recording_id": rec_id}, **values | fields)


def _register(
    catalog: Catalog,
    *,
    rec_id: str = REC,
    recording_hash: str = HASH,
    stated: bool = True,
    meanwhile=lambda: None,
) -> Registration:
    """Registers as an ingest does; `meanwhile` runs once, after the entry was read and before it is written."""
    steps = iter([meanwhile])

    def resolve_for(owner: str) -> policies.Resolve:
        def resolve(existing: Rows | None) -> Rows:
            next(steps, lambda: None)()
            return policies.ingest(Rows(_row(rec_id, owner), (), ()), overwrite=False)(existing)

        return resolve

    return catalog.write(recording_hash, resolve_for, rec_id=rec_id, hash_is_stated=stated, op="test", writer=WRITER)


def _extend(catalog: Catalog, duration: timedelta) -> Registration:
    return catalog.register_recording(_row(duration=duration), "extend", WRITER)


def _edit(lab: Lab, key: str, fields: dict[str, Any]) -> None:
    raw, info = lab.assets.get(key)
    lab.assets.replace(key, json.dumps(json.loads(raw) | fields).encode(), info.etag)


def _keys(lab: Lab, below: str) -> list[str]:
    return [info.key.removeprefix(f"{PREFIX}/") for info in lab.assets.list_objects(f"{PREFIX}/{below}")]

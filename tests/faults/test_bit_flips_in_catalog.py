"""Faults 15 and 66: a single bit flips in the catalog, and whatever reads it next notices, or comes to the same result.

The long form and what is told of the flips: `test_bit_flips.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from tests.catalog.by_hand import row
from tests.faults.bits import FILES, FLIPS, REC, Kept, Ledger, Stage, Verdict, changed_fields, put, same
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.claims import claim_key
from ursa_pipelines.catalog.diff import diff
from ursa_pipelines.catalog.edits import edit_key, write_edit
from ursa_pipelines.catalog.entries import entry_key
from ursa_pipelines.catalog.pointer import DEFAULT_PREFIX as PREFIX
from ursa_pipelines.catalog.tables.fold import repair
from ursa_pipelines.maintenance.rebuild import rebuild
from ursa_pipelines.objects.keys import ACTIVE_POINTER, BUCKET_IDENTITY
from ursa_pipelines.recordings.rows import RecordingRow

OTHER = "rec_20260521_080000_c0de"

ARIA = "p_" + hashlib.sha256(b"aria lin").hexdigest()[:16]

_MAY = ("between", datetime(2026, 5, 20, tzinfo=UTC), datetime(2026, 5, 22, tzinfo=UTC))

READS: tuple[Callable[[Catalog], object], ...] = (
    lambda catalog: [row.comparable() for row in catalog.list_recordings()],
    lambda catalog: [row.comparable() for row in catalog.list_modalities()],
    lambda catalog: [row.comparable() for row in catalog.list_participants()],
    lambda catalog: [row.rec_id for row in catalog.list_recordings({"participant_ids": ARIA})],
    lambda catalog: [one.recording.rec_id for one in catalog.query(modalities=["eeg"])],
    lambda catalog: [row.comparable() for row in catalog.list_recordings({"start_time": _MAY})],
)


def test_fault_66_a_flip_in_the_pointer_never_leads_to_another_catalog(ingested: Stage):
    lab, ledger = ingested.lab, Ledger("pointer")
    raw = lab.assets.get(ACTIVE_POINTER)[0]
    good = lab.data.list_recordings()
    for _ in range(FLIPS):
        put(lab.assets, ACTIVE_POINTER, ledger.damaged(raw))
        ledger.look(lambda: same(lab.interface(writes=False).list_recordings() == good, "other rows"))
        ingested.restore()
    ledger.close()


def test_fault_15_a_flip_in_an_entry_is_told_by_whoever_reads_it(ingested: Stage):
    lab, ledger = ingested.lab, Ledger("entry")
    good, key = ingested.entry(), entry_key(PREFIX, ingested.recording_hash)
    raw = lab.assets.get(key)[0]
    for _ in range(FLIPS):
        damaged = ledger.damaged(raw)
        put(lab.assets, key, damaged)
        ledger.look(lambda damaged=damaged: same(ingested.entry() == good and False, changed_fields(raw, damaged)))  # type: ignore[misc]
        ingested.restore()
    ledger.close()


def test_fault_15_a_flip_in_an_entry_without_a_digest_is_told_or_means_nothing_or_a_rebuild_shows_it(ingested: Stage):
    lab, ledger = ingested.lab, Ledger("entry, without a digest")
    good, key = ingested.entry(), entry_key(PREFIX, ingested.recording_hash)
    raw = lab.assets.get(key)[0]
    for number in range(FLIPS):
        damaged = ledger.damaged(raw)
        # As one that was written by hand, or by a version that said none.
        lab.assets.replace(key, damaged, lab.assets.get(key)[1].etag)

        def look(damaged: bytes = damaged, number: int = number) -> Verdict:
            if ingested.entry() == good:
                return "harmless", "the same rows; its history or bookkeeping differs"
            if lab.data.verify(REC).problems:
                return "noticed", "verify"
            live = Catalog.open(lab.assets)
            rebuilt = rebuild(lab.data.ingest_context(), live, f"ursa/rebuilt-{number}")
            if not rebuilt.ok or not diff(live, Catalog(lab.assets, rebuilt.prefix, follows_pointer=False)).is_empty:
                return "noticed", f"rebuild and diff: {changed_fields(raw, damaged)}"
            return "unnoticed", changed_fields(raw, damaged)

        ledger.look(look)
        ingested.restore()
    ledger.close()


def test_fault_15_a_flip_in_a_claim_makes_no_second_row(ingested: Stage):
    lab, ledger = ingested.lab, Ledger("claim")
    key = claim_key(PREFIX, REC)
    raw = lab.assets.get(key)[0]
    for _ in range(FLIPS):
        put(lab.assets, key, ledger.damaged(raw))

        def look() -> Verdict:
            outcome = lab.interface().ingest(source_dir=ingested.directory).outcome
            rows = lab.interface().list_recordings()
            return same(outcome == "unchanged" and len(rows) == 1, f"{len(rows)} rows")

        ledger.look(look)
        ingested.restore()
    ledger.close()


@pytest.mark.parametrize("what", ["_delta_log/", ".parquet", "HEAD.json"], ids=["log", "parquet", "head"])
def test_fault_15_a_flip_in_the_tables_is_told_or_mended_from_the_entries(lab: Lab, what: str):
    for number, rec_id in enumerate((REC, OTHER)):
        directory = write_recording(
            lab.nas, rec_id, {path: body + b"!" * number for path, body in FILES.items()}, participant="Aria Lin"
        )
        lab.data.ingest(source_dir=directory)
        lab.data.fold()
    kept, good, ledger = Kept(lab.assets), reads(lab), Ledger(f"tables: {what}")
    assert len(good[3]) == len(good[4]) == 2  # type: ignore[arg-type]
    keys = [key for key in kept.below(what) if key.startswith(PREFIX)]
    for number in range(FLIPS):
        key = keys[number % len(keys)]
        put(lab.assets, key, ledger.damaged(kept.objects[key][0]))

        def look(key: str = key) -> Verdict:
            if reads(lab) == good:
                return "harmless", "the same rows"
            repair(lab.assets, PREFIX, by="test")
            return ("noticed", "fold --check, which mends it") if reads(lab) == good else ("unnoticed", key)

        ledger.look(look)
        kept.restore()
    assert reads(lab) == good
    assert repair(lab.assets, PREFIX, by="test").entries == 0
    ledger.close()


def test_fault_15_a_flip_in_a_small_document_is_told_or_means_nothing(ingested: Stage):
    """Participants' edits, `CATALOG.json` and the buckets' identity objects."""
    lab, ledger = ingested.lab, Ledger("edit, CATALOG.json, BUCKET.json", ("display_name",))
    write_edit(
        lab.assets,
        PREFIX,
        ARIA,
        lambda edit: edit.model_copy(update={"display_name": "Aria L."}),
        op="rename",
        writer=lab.data.writer,
    )
    kept, good = (Kept(lab.raw), Kept(lab.assets)), reads(lab)
    places = [
        (lab.assets, edit_key(PREFIX, ARIA)),
        (lab.assets, f"{PREFIX}/CATALOG.json"),
        (lab.assets, BUCKET_IDENTITY),
        (lab.raw, BUCKET_IDENTITY),
    ]
    for number in range(FLIPS):
        bucket, key = places[number % len(places)]
        raw = bucket.get(key)[0]
        damaged = ledger.damaged(raw)
        put(bucket, key, damaged)

        def look(raw: bytes = raw, damaged: bytes = damaged) -> Verdict:
            assert lab.interface().ingest(source_dir=ingested.directory).outcome == "unchanged"
            return same(reads(lab) == good, changed_fields(raw, damaged))

        ledger.look(look)
        for one in kept:
            one.restore()
    ledger.close()


def test_fault_15_a_flip_in_a_mark_of_many_is_told_or_mended_from_the_entries(lab: Lab):
    outcomes = lab.data.register_recordings([row(number) for number in range(4)])
    assert all(isinstance(one, RecordingRow) for one in outcomes)
    (key,) = [info.key for info in lab.assets.list_objects(f"{PREFIX}/tail/")]
    kept, good, ledger = Kept(lab.assets), reads(lab), Ledger("mark of a batch")
    for _ in range(FLIPS // 2):
        put(lab.assets, key, ledger.damaged(kept.objects[key][0]))

        def look() -> Verdict:
            if reads(lab) == good:
                return "harmless", "the same rows"
            repair(lab.assets, PREFIX, by="test")
            return (
                ("noticed", "fold --check, which mends it") if reads(lab) == good else ("unnoticed", "rows are missing")
            )

        ledger.look(look)
        kept.restore()
    assert reads(lab) == good
    ledger.close(FLIPS // 2)


def reads(lab: Lab) -> list[object]:
    catalog = Catalog.open(lab.assets)
    return [read(catalog) for read in READS]

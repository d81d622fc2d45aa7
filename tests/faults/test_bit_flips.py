"""Faults 14 to 16: a single bit flips somewhere, and whatever reads it next notices, or comes to the same result.

    URSA_FAULTS=long uv run pytest tests/faults/test_bit_flips.py

is the long form of about 1,000 flips; `URSA_FAULTS_SEED` repeats a failure. What is stored is damaged by writing over
it under the same key with the same metadata. The figures tell by what each flip was noticed; what could not be noticed
at all is named in `known` of each ledger, and nothing else may be.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.catalog.by_hand import row
from tests.faults.bits import FLIPS, Kept, Ledger, Verdict, changed_fields, put, same
from tests.ingest.rig import upload_as_rig
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import DataInterface
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.claims import claim_key
from ursa_pipelines.catalog.diff import diff
from ursa_pipelines.catalog.edits import edit_key, write_edit
from ursa_pipelines.catalog.entries import entry_key
from ursa_pipelines.catalog.pointer import DEFAULT_PREFIX as PREFIX
from ursa_pipelines.catalog.tables.fold import refold, repair
from ursa_pipelines.errors import ContentMismatch, UrsaError
from ursa_pipelines.ingest.context import IngestContext, Watch
from ursa_pipelines.ingest.discover import discover
from ursa_pipelines.ingest.pipeline import ingest
from ursa_pipelines.ingest.reconstruct_manifest import complete_manifest, hash_unattested, reconstruct_in_bucket
from ursa_pipelines.ingest.upload import upload
from ursa_pipelines.ingest.wanted import wanted_files
from ursa_pipelines.maintenance.rebuild import rebuild
from ursa_pipelines.objects.destination import Planned, lay_out
from ursa_pipelines.objects.digests import DigestCache
from ursa_pipelines.objects.keys import ACTIVE_POINTER, BUCKET_IDENTITY, marker_key, raw_key, upload_record_key
from ursa_pipelines.objects.stored import read_stored
from ursa_pipelines.recordings.merge import merge_manifests
from ursa_pipelines.recordings.rows import RecordingRow

REC, OTHER = "rec_20260520_195628_b1dd", "rec_20260521_080000_c0de"
CAMERA = "camera_a/seg_0000.mp4"
FILES = {CAMERA: b"video frame;" * 300, "mic/seg_0000.wav": b"audio" * 40, "eeg_4559/seg_0000.edf": b"eeg" * 50}
MANIFEST_KEY = f"recordings/{REC}/manifest.json"


KNOWN_IN_ENTRIES: tuple[str, ...] = ()
"""Fields of an entry that nothing can check: the entry is the truth about them, and has no checksum."""


@dataclass(frozen=True)
class Ingested:
    """A lab with one recording, and what it comes to; `kept` puts both buckets back."""

    lab: Lab
    directory: Path
    recording_hash: str
    kept: tuple[Kept, Kept]

    def restore(self) -> None:
        for one in self.kept:
            one.restore()

    def entry(self) -> dict[str, Any]:
        return _comparable(Catalog.open(self.lab.assets).entry(self.recording_hash).rows)


@pytest.fixture
def ingested(lab: Lab) -> Iterator[Ingested]:
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    result = lab.data.ingest(source_dir=directory)
    assert result.recording is not None
    found = Ingested(lab, directory, result.recording.recording_hash, (Kept(lab.raw), Kept(lab.assets)))
    yield found
    # No false alarm: as it was before the flips, everything agrees.
    found.restore()
    assert lab.interface().verify(REC, deep=True).problems == ()
    assert lab.interface().ingest(source_dir=directory).outcome == "unchanged"
    lab.check_invariants()


def _comparable(rows: Any) -> dict[str, Any]:
    return {
        "recording": rows.recording.comparable(),
        "modalities": [row.comparable() for row in rows.modalities],
        "participants": [row.comparable() for row in rows.participants],
    }


def _flip_file(path: Path, ledger: Ledger) -> bytes:
    """Flips a bit of a file whose size and times stay; what it held."""
    content, status = path.read_bytes(), path.stat()
    path.write_bytes(ledger.damaged(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return content


def _put_back(path: Path, content: bytes, like: os.stat_result) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(like.st_atime_ns, like.st_mtime_ns))


def test_fault_15_a_flip_in_a_source_file_is_found_by_its_attested_digest(lab: Lab):
    directory, ledger = write_recording(lab.nas, REC, FILES), Ledger("source file, attested")
    nothing = Kept(lab.raw)
    for number in range(FLIPS):
        path = directory / sorted(FILES)[number % len(FILES)]
        status, content = path.stat(), _flip_file(path, ledger)

        def look(path: Path = path) -> Verdict:
            with pytest.raises(ContentMismatch, match=path.name):
                lab.data.ingest(source_dir=directory)
            assert lab.data.list_recordings() == []
            return "noticed", "ingest"

        ledger.look(look)
        _put_back(path, content, status)
        nothing.restore()
    assert lab.data.ingest(source_dir=directory).outcome == "created"
    lab.check_invariants()
    ledger.close()


def test_fault_14_a_flip_between_hashing_and_sending_is_found_while_sending(lab: Lab):
    directory, ledger = write_recording(lab.nas, REC, FILES, manifest=False), Ledger("source file, after hashing")
    nothing = Kept(lab.raw)
    context = lab.data.ingest_context()
    for number in range(FLIPS):
        path = directory / sorted(FILES)[number % len(FILES)]
        discovery = discover(context, directory)
        recording = complete_manifest(context, discovery, hash_unattested(context, discovery, Watch()))
        status, content = path.stat(), _flip_file(path, ledger)

        def look(recording: Any = recording) -> Verdict:
            with pytest.raises(UrsaError) as caught:
                upload(context, recording, Watch())
            assert lab.raw.head(MANIFEST_KEY) is None
            return "noticed", f"upload, {type(caught.value).__name__}"

        ledger.look(look)
        _put_back(path, content, status)
        nothing.restore()
    assert lab.data.ingest(source_dir=directory).outcome == "created"
    lab.check_invariants()
    ledger.close()


def test_fault_15_a_flip_in_a_stored_object_is_named_by_a_deep_look_and_never_downloaded(
    ingested: Ingested, tmp_path: Path
):
    lab, ledger = ingested.lab, Ledger("stored object")
    results = lab.data.query(recording_hash=ingested.recording_hash)
    for number in range(FLIPS):
        path = sorted(FILES)[number % len(FILES)]
        put(lab.raw, f"recordings/{REC}/{path}", ledger.damaged(FILES[path]))

        def look(number: int = number, path: str = path) -> Verdict:
            (problem,) = lab.data.verify(REC, deep=True).problems
            assert path in problem
            with pytest.raises(ContentMismatch, match=path):
                lab.data.download(results, tmp_path / str(number))
            assert not (tmp_path / str(number) / REC / path).exists()
            with pytest.raises(ContentMismatch, match=path):
                lab.data.get(results)
            return "noticed", "verify, download and get"

        ledger.look(look)
        ingested.restore()
    ledger.close()


def test_fault_15_a_flip_in_a_stored_manifest_of_ours_is_named(ingested: Ingested):
    lab, ledger = ingested.lab, Ledger("stored manifest, stored by us")
    raw = lab.raw.get(MANIFEST_KEY)[0]
    for _ in range(FLIPS):
        put(lab.raw, MANIFEST_KEY, ledger.damaged(raw))
        ledger.look(lambda: same(lab.data.verify(REC).ok and False, "verify says nothing"))
        ingested.restore()
    ledger.close()


def test_fault_15_a_flip_in_a_manifest_that_a_rig_stored_is_told_or_means_nothing(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    upload_as_rig(lab, directory)
    assert lab.data.ingest_from_r2(rec_id=REC).outcome == "created"
    kept, raw = (Kept(lab.raw), Kept(lab.assets)), lab.raw.get(MANIFEST_KEY)[0]
    # What a late half may bring is merged by an ingest, so that it is no contradiction.
    known = ("device_info", "started_at", "ended_at", "node")
    ledger = Ledger("stored manifest, stored by a rig", known)
    good = merge_manifests(REC, read_stored(lab.raw, REC).manifests)
    for _ in range(FLIPS):
        damaged = ledger.damaged(raw)
        put(lab.raw, MANIFEST_KEY, damaged)

        def look(damaged: bytes = damaged) -> Verdict:
            if lab.data.verify(REC, deep=True).problems:
                return "noticed", "verify"
            if merge_manifests(REC, read_stored(lab.raw, REC).manifests) == good:
                return "harmless", "the same manifest"
            fields = changed_fields(raw, damaged)
            outcome = lab.data.ingest_from_r2(rec_id=REC).outcome
            return ("harmless", "the same rows") if outcome == "unchanged" else ("unnoticed", fields)

        ledger.look(look)
        for one in kept:
            one.restore()
    assert lab.data.verify(REC, deep=True).ok
    assert lab.data.ingest_from_r2(rec_id=REC).outcome == "unchanged"
    ledger.close()


def test_fault_15_a_flip_in_a_commit_marker_proves_nothing_wrong(ingested: Ingested):
    lab, ledger = ingested.lab, Ledger("commit marker")
    raw, before = lab.raw.get(marker_key(REC))[0], lab.objects(REC)
    for _ in range(FLIPS):
        put(lab.raw, marker_key(REC), ledger.damaged(raw))

        def look() -> Verdict:
            if lab.data.verify(REC, deep=True).problems:
                return "noticed", "verify"
            outcome = lab.data.ingest(source_dir=ingested.directory).outcome
            return same(outcome == "unchanged" and lab.objects(REC) == before, "ingested anew")

        ledger.look(look)
        ingested.restore()
    ledger.close()


def test_fault_66_a_flip_in_the_pointer_never_leads_to_another_catalog(ingested: Ingested):
    lab, ledger = ingested.lab, Ledger("pointer")
    raw = lab.assets.get(ACTIVE_POINTER)[0]
    good = lab.data.list_recordings()
    for _ in range(FLIPS):
        put(lab.assets, ACTIVE_POINTER, ledger.damaged(raw))
        ledger.look(lambda: same(lab.interface(writes=False).list_recordings() == good, "other rows"))
        ingested.restore()
    ledger.close()


def test_fault_15_a_flip_in_an_entry_is_told_or_means_nothing_or_a_rebuild_shows_it(ingested: Ingested):
    lab, ledger = ingested.lab, Ledger("entry", KNOWN_IN_ENTRIES)
    good, key = ingested.entry(), entry_key(PREFIX, ingested.recording_hash)
    raw = lab.assets.get(key)[0]
    for number in range(FLIPS):
        damaged = ledger.damaged(raw)
        put(lab.assets, key, damaged)

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


def test_fault_15_a_flip_in_a_claim_makes_no_second_row(ingested: Ingested):
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


READS: tuple[Callable[[Catalog], object], ...] = (
    lambda catalog: [row.comparable() for row in catalog.list_recordings()],
    lambda catalog: [row.comparable() for row in catalog.list_modalities()],
    lambda catalog: [row.comparable() for row in catalog.list_participants()],
    lambda catalog: [row.rec_id for row in catalog.list_recordings({"participant_ids": _ARIA})],
    lambda catalog: [one.recording.rec_id for one in catalog.query(modalities=["eeg"])],
    lambda catalog: [row.comparable() for row in catalog.list_recordings({"start_time": _MAY})],
)
_ARIA = "p_" + hashlib.sha256(b"aria lin").hexdigest()[:16]
_MAY = ("between", datetime(2026, 5, 20, tzinfo=UTC), datetime(2026, 5, 22, tzinfo=UTC))


def _reads(lab: Lab) -> list[object]:
    catalog = Catalog.open(lab.assets)
    return [read(catalog) for read in READS]


@pytest.mark.parametrize(
    ("what", "known"),
    [("_delta_log/", ()), (".parquet", (".parquet",)), ("HEAD.json", ())],
    ids=["log", "parquet", "head"],
)
def test_fault_15_a_flip_in_the_tables_is_told_or_mended_from_the_entries(lab: Lab, what: str, known: tuple[str, ...]):
    # Of a Parquet file nobody keeps a checksum: a column whose name was hit is taken for one that is not there.
    for number, rec_id in enumerate((REC, OTHER)):
        directory = write_recording(
            lab.nas, rec_id, {path: body + b"!" * number for path, body in FILES.items()}, participant="Aria Lin"
        )
        lab.data.ingest(source_dir=directory)
        lab.data.fold()
    kept, good, ledger = Kept(lab.assets), _reads(lab), Ledger(f"tables: {what}", known)
    assert len(good[3]) == len(good[4]) == 2  # type: ignore[arg-type]
    keys = [key for key in kept.below(what) if key.startswith(PREFIX)]
    for number in range(FLIPS):
        key = keys[number % len(keys)]
        put(lab.assets, key, ledger.damaged(kept.objects[key][0]))

        def look(key: str = key) -> Verdict:
            if _reads(lab) == good:
                return "harmless", "the same rows"
            folded = repair(lab.assets, PREFIX, by="test")
            if _reads(lab) == good:
                return "noticed", "fold --check, which mends it"
            if folded.entries:
                return "noticed", "fold --check"
            refold(lab.assets, PREFIX, by="test")
            assert _reads(lab) == good
            return "unnoticed", f"{key.rpartition('.')[1]}{key.rpartition('.')[2]}; fold --all mends it"

        ledger.look(look)
        kept.restore()
    assert _reads(lab) == good
    assert repair(lab.assets, PREFIX, by="test").entries == 0
    ledger.close()


def test_fault_15_a_flip_in_a_small_document_is_told_or_means_nothing(ingested: Ingested):
    """Participants' edits, `CATALOG.json` and the buckets' identity objects."""
    lab, ledger = ingested.lab, Ledger("edit, CATALOG.json, BUCKET.json", ("display_name",))
    write_edit(
        lab.assets,
        PREFIX,
        _ARIA,
        lambda edit: edit.model_copy(update={"display_name": "Aria L."}),
        op="rename",
        writer=lab.data.writer,
    )
    kept, good = (Kept(lab.raw), Kept(lab.assets)), _reads(lab)
    places = [
        (lab.assets, edit_key(PREFIX, _ARIA)),
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
            return same(_reads(lab) == good, changed_fields(raw, damaged))

        ledger.look(look)
        for one in kept:
            one.restore()
    ledger.close()


def test_fault_15_a_flip_in_a_mark_of_many_is_told_or_mended_from_the_entries(lab: Lab):
    outcomes = lab.data.register_recordings([row(number) for number in range(4)])
    assert all(isinstance(one, RecordingRow) for one in outcomes)
    (key,) = [info.key for info in lab.assets.list_objects(f"{PREFIX}/tail/")]
    kept, good, ledger = Kept(lab.assets), _reads(lab), Ledger("mark of a batch")
    for _ in range(FLIPS // 2):
        put(lab.assets, key, ledger.damaged(kept.objects[key][0]))

        def look() -> Verdict:
            if _reads(lab) == good:
                return "harmless", "the same rows"
            repair(lab.assets, PREFIX, by="test")
            return (
                ("noticed", "fold --check, which mends it")
                if _reads(lab) == good
                else ("unnoticed", "rows are missing")
            )

        ledger.look(look)
        kept.restore()
    assert _reads(lab) == good
    ledger.close(FLIPS // 2)


def _with_cache(lab: Lab, directory: Path) -> IngestContext:
    return replace(lab.data.ingest_context(), digests=DigestCache(directory))


def _in_a_digest(cache: bytes, digests: set[str]) -> Callable[[int], bool]:
    """Whether a byte of the cache is one of a digest: a flip elsewhere mostly hits what nobody reads."""
    places = {
        at + offset for digest in digests for at in _places(cache, digest.encode()) for offset in range(len(digest))
    }
    return places.__contains__


def _places(content: bytes, part: bytes) -> Iterator[int]:
    at = content.find(part)
    while at >= 0:
        yield at
        at = content.find(part, at + 1)


DIGESTS = {hashlib.sha256(content).hexdigest() for content in FILES.values()}


def test_fault_15_a_flip_in_the_digests_of_files_is_not_believed(lab: Lab, tmp_path: Path):
    directory, ledger = write_recording(lab.nas, REC, FILES, manifest=False), Ledger("digest cache, files")
    empty, cache = (Kept(lab.raw), Kept(lab.assets)), tmp_path / "state" / "digests.sqlite"
    result = ingest(_with_cache(lab, cache.parent), directory)
    assert result.recording is not None
    good, raw = result.recording.recording_hash, cache.read_bytes()
    in_a_digest = _in_a_digest(raw, DIGESTS)
    for number in range(FLIPS):
        for one in empty:
            one.restore()
        cache.write_bytes(ledger.damaged(raw, in_a_digest if number % 2 else lambda at: True))

        def look() -> Verdict:
            try:
                again = ingest(_with_cache(lab, cache.parent), directory)
            except ContentMismatch:
                again = ingest(_with_cache(lab, cache.parent), directory)
                assert again.recording is not None and again.recording.recording_hash == good
                return "noticed", "upload; the next try hashes it anew"
            return same(again.recording is not None and again.recording.recording_hash == good, "another hash")

        ledger.look(look)
    lab.check_invariants()
    ledger.close()


def test_fault_15_a_flip_in_the_digests_of_objects_is_not_believed(lab: Lab, tmp_path: Path):
    directory, ledger = write_recording(lab.nas, REC, FILES, manifest=False), Ledger("digest cache, objects")
    upload_as_rig(lab, directory)
    kept, cache = Kept(lab.raw), tmp_path / "state" / "digests.sqlite"

    def digests() -> set[str | None]:
        manifest = reconstruct_in_bucket(_with_cache(lab, cache.parent), REC, Watch())
        assert manifest is not None
        return {file.sha256 for file in manifest.files}

    assert digests() == DIGESTS
    raw = cache.read_bytes()
    in_a_digest = _in_a_digest(raw, DIGESTS)
    for number in range(FLIPS):
        kept.restore()
        cache.write_bytes(ledger.damaged(raw, in_a_digest if number % 2 else lambda at: True))
        ledger.look(lambda: same(digests() == DIGESTS, "a manifest with a wrong digest"))
    ledger.close()


def test_fault_60_a_flip_in_the_record_of_an_upload_costs_at_most_sending_it_again(lab: Lab, tmp_path: Path):
    large = random.Random("large").randbytes(11 * 1024**2)
    directory = write_recording(lab.nas, REC, {CAMERA: large})
    profile = yaml.safe_load(lab.config.read_text())
    profile["settings"] |= {"part_size": 5 * 1024**2, "resume_above": 10 * 1024**2}
    (tmp_path / "parts.yaml").write_text(yaml.safe_dump(profile))
    data = DataInterface(config_path=tmp_path / "parts.yaml")
    data.enable_writes(roles=("assets_rw", "raw_rw"))
    empty, key, ledger = (Kept(lab.raw), Kept(lab.assets)), raw_key(REC, CAMERA), Ledger("upload record")
    for _ in range(FLIPS // 2):
        sent: list[int] = []
        paused = data.ingest(
            source_dir=directory,
            progress=lambda told, sent=sent: sent.append(told.bytes_uploaded),  # type: ignore[misc]
            should_pause=lambda sent=sent: bool(sent) and sent[-1] > 5 * 1024**2,  # type: ignore[misc]
        )
        assert paused.paused
        record_key = upload_record_key(key)
        put(lab.assets, record_key, ledger.damaged(lab.assets.get(record_key)[0]))

        def look() -> Verdict:
            outcome = data.ingest(source_dir=directory).outcome
            return same(outcome == "created" and lab.raw.get(key)[0] == large, "other bytes")

        ledger.look(look)
        lab.check_invariants()
        for one in empty:
            one.restore()
    ledger.close(FLIPS // 2)


def test_fault_15_a_flip_in_what_an_interrupted_download_left_is_fetched_anew(ingested: Ingested, tmp_path: Path):
    lab, ledger = ingested.lab, Ledger("part file of a download")
    results = lab.data.query(recording_hash=ingested.recording_hash)
    for number in range(FLIPS):
        dest = tmp_path / str(number)
        planned = lay_out(wanted_files(lab.raw, results), dest, "by_recording")[number % len(FILES)]
        content = FILES[planned.wanted.path]
        planned.part.parent.mkdir(parents=True)
        planned.part.write_bytes(ledger.damaged(content[: len(content) // 2]))

        def look(planned: Planned = planned, dest: Path = dest, content: bytes = content) -> Verdict:
            lab.data.download(results, dest)
            return same(planned.target.read_bytes() == content and not planned.part.exists(), "other bytes")

        ledger.look(look)
    ledger.close()

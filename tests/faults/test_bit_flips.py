r"""Faults 14 and 15: a single bit flips in a source or in what is stored of it, and whatever reads it next notices.

    URSA_FAULTS=long uv run pytest tests/faults/test_bit_flips.py tests/faults/test_bit_flips_in_catalog.py \
        tests/faults/test_bit_flips_in_bookkeeping.py

is the long form of about 1,000 flips; `URSA_FAULTS_SEED` repeats a failure. What is stored is damaged by writing over
it under the same key with the same metadata. The figures tell by what each flip was noticed; what could not be noticed
at all is named in `known` of each ledger, and nothing else may be.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.faults.bits import FILES, FLIPS, REC, Kept, Ledger, Stage, Verdict, changed_fields, put, same
from tests.ingest.rig import upload_as_rig
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.errors import ContentMismatch, UrsaError
from ursa_pipelines.ingest.context import Watch
from ursa_pipelines.ingest.discover import discover
from ursa_pipelines.ingest.reconstruct_manifest import complete_manifest, hash_unattested
from ursa_pipelines.ingest.upload import upload
from ursa_pipelines.objects.keys import marker_key
from ursa_pipelines.objects.stored import read_stored
from ursa_pipelines.recordings.merge import merge_manifests

MANIFEST_KEY = f"recordings/{REC}/manifest.json"


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
    ingested: Stage, tmp_path: Path
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


def test_fault_15_a_flip_in_a_stored_manifest_of_ours_is_named(ingested: Stage):
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


def test_fault_15_a_flip_in_a_commit_marker_proves_nothing_wrong(ingested: Stage):
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

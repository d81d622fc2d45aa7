"""Faults 15 and 60: a single bit flips in what is only kept to save work, which then is not believed.

The long form and what is told of the flips: `test_bit_flips.py`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from tests.faults.bits import CAMERA, FILES, FLIPS, REC, Kept, Ledger, Stage, Verdict, put, same
from tests.ingest.rig import upload_as_rig
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import DataInterface
from ursa_pipelines.errors import ContentMismatch
from ursa_pipelines.ingest.context import IngestContext, Watch
from ursa_pipelines.ingest.pipeline import ingest
from ursa_pipelines.ingest.reconstruct_manifest import reconstruct_in_bucket
from ursa_pipelines.ingest.wanted import wanted_files
from ursa_pipelines.objects.destination import Planned, lay_out
from ursa_pipelines.objects.digests import DigestCache
from ursa_pipelines.objects.keys import raw_key, upload_record_key

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


def test_fault_15_a_flip_in_what_an_interrupted_download_left_is_fetched_anew(ingested: Stage, tmp_path: Path):
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

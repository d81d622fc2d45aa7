"""Each invariant can fail: it is broken by hand, and named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import obstore
import pytest

from tests.catalog.tables.folded import rows, write
from tests.faults import invariants as checked
from tests.faults.detour import Detour
from tests.faults.figures import record
from tests.faults.final_state import final_state
from tests.faults.invariants import Evidence, broken, stored_now
from tests.faults.source_writes import watched
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from tests.snapshot import snapshot
from ursa_pipelines.catalog import policies
from ursa_pipelines.catalog.entries import Entry, Writer, entry_key
from ursa_pipelines.maintenance.export import export
from ursa_pipelines.objects.keys import marker_key, raw_key
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.rows import ModalityRow, Rows, StorageFormat

REC, OTHER = "rec_20260520_195628_b1dd", "rec_20260521_195628_b1dd"
NAME = "Aria Lindqvist"
MIC = raw_key(REC, "mic/seg_0000.wav")
PREFIX = "ursa/catalog"

Break = Callable[[Lab, Detour, Evidence], None]


@pytest.fixture
def sound(lab: Lab, detour: Detour, invariants: Evidence) -> Lab:
    """A lab with one recording that went through the proxy, folded, of which everything holds."""
    # Each test breaks what the check after it would find.
    invariants.excused = checked.ALL
    data = detour.interface()
    data.ingest(source_dir=_recording(lab, REC))
    data.fold()
    data.close()
    return lab


def evidence_of(lab: Lab, detour: Detour) -> Evidence:
    return Evidence(
        sources={lab.nas: snapshot(lab.nas)},
        stored=stored_now(lab),
        requests=detour.proxy.history,
        state=final_state(lab),
        at_rest=True,
    )


def test_nothing_is_found_where_all_is_well(sound: Lab, detour: Detour):
    assert broken(sound, evidence_of(sound, detour)) == []


def _recording(lab: Lab, rec_id: str) -> Path:
    return write_recording(lab.nas, rec_id, {"mic/seg_0000.wav": rec_id.encode()}, participant=NAME)


def _object_goes(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    lab.raw.wire.delete(MIC)


def _row_without_bytes(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    one = rows(7)
    mic = ModalityRow(
        recording_hash=one.recording.recording_hash,
        modality="mic",
        format=StorageFormat.RAW_AUDIO,
        raw_storage_uri=f"r2://{lab.raw.name}/recordings/{one.recording.rec_id}/mic/",
        segment_count=1,
        bytes=5,
    )
    _written(lab, Rows(one.recording, (mic,), ()))


def _segment_is_shorter(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    _put(lab.raw, MIC, b"short")


def _same_size_other_bytes(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    body, _ = lab.raw.get(MIC)
    evidence.stored = {}
    _put(lab.raw, MIC, body[::-1])


def _other_than_its_writer_says(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    lab.raw.create(raw_key(OTHER, "mic/seg_0000.wav"), b"other", sha256="ab" * 32)


def _half_a_file_of_the_source(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    content = (_recording(lab, OTHER) / "mic/seg_0000.wav").read_bytes()
    evidence.sources = {lab.nas: snapshot(lab.nas)}
    lab.raw.create(raw_key(OTHER, "mic/seg_0000.wav"), content[:-1])


def _unregistered_object_goes(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    key = raw_key(OTHER, "mic/seg_0000.wav")
    evidence.stored = {**evidence.stored, key: lab.raw.create(key, b"audio").etag}
    lab.raw.wire.delete(key)


def _second_row_of_a_rec_id(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    one = rows(7)
    metadata = {"manifest_recording_id": REC}
    _written(lab, Rows(one.recording.model_copy(update={"metadata": metadata}), (), ()))


def _modality_twice(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    entry = _entry(lab)
    _store(lab, entry.model_copy(update={"modalities": entry.modalities * 2}))


def _write_twice_in_the_log(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    entry = _entry(lab)
    _store(lab, entry.model_copy(update={"log": entry.log * 2}))


def _claim_for_another(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    _put(lab.assets, f"{PREFIX}/rec_ids/{REC}.json", json.dumps({"recording_hash": "ab" * 32}).encode())


def _entry_that_nobody_marked(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    entry = _entry(lab)
    _store(lab, entry.model_copy(update={"recording": entry.recording.model_copy(update={"duration": timedelta(9)})}))


def _entry_gone(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    lab.assets.wire.delete(entry_key(PREFIX, _entry(lab).recording.recording_hash))


def _entry_unreadable(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    write(lab, rows(7))
    _put(lab.assets, entry_key(PREFIX, rows(7).recording.recording_hash), b"{}")


def _content_of_the_source(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    path = lab.nas / REC / "mic/seg_0000.wav"
    status = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _times_of_the_source(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    os.utime(lab.nas / REC / "mic", (1, 1))


def _mode_of_the_source(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    (lab.nas / REC / "mic/seg_0000.wav").chmod(0o600)


def _file_in_the_source(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    (lab.nas / REC / "mic/.ingested").touch()


def _written_by_the_package(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    evidence.sources = {}
    with watched(lab.nas) as writes:
        (lab.nas / "by a test").touch()
        assert writes == []
        export(lab.data.catalog, lab.nas / "out", format="parquet")
    evidence.writes = writes


def _raw_object_deleted(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    _through(detour).wire.delete(raw_key(OTHER, "mic/seg_0000.wav"))


def _raw_objects_deleted_at_once(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    objects = {"Objects": [{"Key": raw_key(OTHER, "mic/seg_0000.wav")}]}
    _through(detour).multipart_client.delete_objects(Bucket=lab.raw.name, Delete=objects)


def _raw_object_put_whatever_is_there(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    _put(_through(detour), raw_key(OTHER, "mic/seg_0000.wav"), b"audio")


def _raw_object_replaced(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    bucket = _through(detour)
    body, info = bucket.get(MIC)
    bucket.replace(MIC, body, info.etag)


def _raw_object_completed_whatever_is_there(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    client, place = _through(detour).multipart_client, {"Bucket": lab.raw.name, "Key": raw_key(OTHER, "mic/a.wav")}
    upload = client.create_multipart_upload(**place)["UploadId"]
    etag = client.upload_part(**place, UploadId=upload, PartNumber=1, Body=b"audio")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload=parts)


def _manifest_replaced_twice(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    bucket, key = _through(detour), raw_key(OTHER, "manifest.json")
    etag = bucket.create(key, b"{}").etag
    for body in (b"[]", b"[1]"):
        etag = bucket.replace(key, body, etag).etag


def _manifest_replaced_that_is_no_stub(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    bucket, key = _through(detour), raw_key(OTHER, "manifest.json")
    bucket.replace(key, b"{}", bucket.create(key, b'{"files": [{"path": "mic/a.wav", "size_bytes": 5}]}').etag)


def _manifest_replaced_that_nobody_has_read(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    key = raw_key(OTHER, "manifest.json")
    _through(detour).replace(key, b"[]", lab.raw.create(key, b"{}").etag)


def _marker_loses_a_file(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    bucket = _through(detour)
    raw, info = bucket.get(marker_key(REC))
    bucket.replace(marker_key(REC), json.dumps(json.loads(raw) | {"files": {}}).encode(), info.etag)


def _marker_put_whatever_is_there(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    bucket = _through(detour)
    _put(bucket, marker_key(REC), bucket.get(marker_key(REC))[0])


def _key_of_the_store_in_a_log(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    evidence.told = {"the log": f"signed with {_secret(lab)}"}


def _key_of_the_store_in_a_document(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    lab.assets.create("ursa/uploads/a.json", json.dumps({"by": _secret(lab)}).encode())


def _key_of_the_store_on_disk(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    place = lab.config.parent / "storage"
    place.mkdir()
    (place / "runs.db").write_bytes(b"\x00" + _secret(lab).encode())
    evidence.places = [place]


def _name_in_a_log(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    evidence.told = {"the log": f"ingested {NAME}'s recording"}


def _name_in_a_key(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    lab.raw.create(raw_key(OTHER, f"notes/{NAME}.txt"), b"note")


def _name_in_a_claim(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    lab.assets.create(f"{PREFIX}/rec_ids/{OTHER}.json", json.dumps({"recording_hash": None, "of": NAME}).encode())


def _name_in_a_recordings_row(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    one = rows(7)
    _written(lab, Rows(one.recording.model_copy(update={"metadata": {"who": NAME}}), (), ()))


def _another_end(lab: Lab, detour: Detour, evidence: Evidence) -> None:
    lab.data.ingest(source_dir=_recording(lab, OTHER))


BREAKS: list[tuple[str, Break]] = [
    (checked.BYTES_BEFORE_ROWS, _object_goes),
    (checked.BYTES_BEFORE_ROWS, _row_without_bytes),
    (checked.BYTES_BEFORE_ROWS, _segment_is_shorter),
    (checked.BYTES_UNCHANGED, _object_goes),
    (checked.BYTES_UNCHANGED, _same_size_other_bytes),
    (checked.BYTES_UNCHANGED, _other_than_its_writer_says),
    (checked.BYTES_UNCHANGED, _half_a_file_of_the_source),
    (checked.BYTES_UNCHANGED, _unregistered_object_goes),
    (checked.ROWS_ONCE, _second_row_of_a_rec_id),
    (checked.ROWS_ONCE, _modality_twice),
    (checked.ROWS_ONCE, _write_twice_in_the_log),
    (checked.ROWS_ONCE, _claim_for_another),
    (checked.TABLES_AS_ENTRIES, _entry_that_nobody_marked),
    (checked.TABLES_AS_ENTRIES, _entry_gone),
    (checked.TABLES_AS_ENTRIES, _entry_unreadable),
    (checked.SOURCE_UNTOUCHED, _content_of_the_source),
    (checked.SOURCE_UNTOUCHED, _times_of_the_source),
    (checked.SOURCE_UNTOUCHED, _mode_of_the_source),
    (checked.SOURCE_UNTOUCHED, _file_in_the_source),
    (checked.SOURCE_UNTOUCHED, _written_by_the_package),
    (checked.RAW_WRITTEN_ONCE, _raw_object_deleted),
    (checked.RAW_WRITTEN_ONCE, _raw_objects_deleted_at_once),
    (checked.RAW_WRITTEN_ONCE, _raw_object_put_whatever_is_there),
    (checked.RAW_WRITTEN_ONCE, _raw_object_replaced),
    (checked.RAW_WRITTEN_ONCE, _raw_object_completed_whatever_is_there),
    (checked.RAW_WRITTEN_ONCE, _manifest_replaced_twice),
    (checked.RAW_WRITTEN_ONCE, _manifest_replaced_that_is_no_stub),
    (checked.RAW_WRITTEN_ONCE, _manifest_replaced_that_nobody_has_read),
    (checked.MARKER_GAINS, _marker_loses_a_file),
    (checked.MARKER_GAINS, _marker_put_whatever_is_there),
    (checked.SECRETS_KEPT, _key_of_the_store_in_a_log),
    (checked.SECRETS_KEPT, _key_of_the_store_in_a_document),
    (checked.SECRETS_KEPT, _key_of_the_store_on_disk),
    (checked.NAMES_KEPT, _name_in_a_log),
    (checked.NAMES_KEPT, _name_in_a_key),
    (checked.NAMES_KEPT, _name_in_a_claim),
    (checked.NAMES_KEPT, _name_in_a_recordings_row),
    (checked.CONVERGES, _another_end),
]


@pytest.mark.parametrize(
    ("invariant", "breaks"), BREAKS, ids=[f"{name}-{one.__name__.strip('_')}" for name, one in BREAKS]
)
def test_what_breaks_an_invariant_is_named(sound: Lab, detour: Detour, invariant: str, breaks: Break):
    evidence = evidence_of(sound, detour)

    breaks(sound, detour, evidence)

    found = broken(sound, evidence)
    record(f"invariants, {invariant}", ways=1, named=int(any(one.startswith(f"{invariant}: ") for one in found)))
    assert invariant in {problem.partition(": ")[0] for problem in found}, found
    assert broken(sound, evidence_without(evidence, invariant)) == [
        one for one in found if not one.startswith(f"{invariant}:")
    ]


def test_every_invariant_is_broken_above():
    assert {name for name, _ in BREAKS} == set(checked.ALL)
    record("invariants", invariants=len(checked.ALL))


def evidence_without(evidence: Evidence, invariant: str) -> Evidence:
    return Evidence(**{**vars(evidence), "excused": (invariant,)})


def _written(lab: Lab, new: Rows) -> None:
    lab.data.catalog.write(
        new.recording.recording_hash,
        lambda _: policies.ingest(new, overwrite=True),
        rec_id=None,
        hash_is_stated=True,
        op="ingest",
        writer=Writer(by="test"),
    )


def _entry(lab: Lab) -> Entry:
    (entry,) = lab.data.catalog.entries()
    return entry


def _store(lab: Lab, entry: Entry) -> None:
    _put(lab.assets, entry_key(PREFIX, entry.recording.recording_hash), entry.model_dump_json().encode())


def _put(bucket: Bucket, key: str, body: bytes) -> None:
    obstore.put(bucket._store, key, body)


def _through(detour: Detour) -> Bucket:
    """The raw bucket through the proxy, as somebody with a client of their own has it."""
    return detour.interface()._bucket("raw_rw")


def _secret(lab: Lab) -> str:
    return lab.raw._endpoint.secret()[1]

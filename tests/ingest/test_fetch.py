"""`get`: raw segments in memory, as they were ingested, and never more than fits."""

from __future__ import annotations

import pytest

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import Data, RawBytes
from ursa_pipelines.errors import ContentMismatch, DataTooLarge
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.objects.store import Bucket

REC, OTHER = "rec_20260520_195628_b1dd", "rec_20260521_195628_b1dd"
FILES = {"mic/seg_0001.wav": b"audio 1", "mic/seg_0000.wav": b"audio 0", "eeg_4559/a.edf": b"eeg"}


def test_get_gives_the_bytes_of_each_modality_sorted_by_key(lab: Lab):
    for rec_id in (REC, OTHER):
        lab.data.ingest(source_dir=write_recording(lab.nas, rec_id, FILES | {"notes/id": rec_id.encode()}))
    results = lab.data.query()

    data = results[0].get()
    both = lab.data.get(results)

    assert data.metadata == results[0].recording
    assert list(data.modalities) == ["eeg", "mic", "notes"]
    assert data.modalities["mic"] == RawBytes(
        (
            (raw_key(REC, "mic/seg_0000.wav"), b"audio 0"),
            (raw_key(REC, "mic/seg_0001.wav"), b"audio 1"),
        ),
        results[0].modalities["mic"],
    )
    assert repr(data) == f"Data({REC}, eeg: 1 segment, 3 bytes, mic: 2 segments, 14 bytes, notes: 1 segment, 24 bytes)"
    assert repr(data.modalities["mic"]) == "RawBytes(mic: 2 segments, 14 bytes)"
    assert repr(Data(results[0].recording, {})) == f"Data({REC}, no modalities)"
    assert both == [data, lab.data.get(results[1])]
    assert [one.metadata.rec_id for one in lab.data.query(modalities=["mic"])[1:].get()] == [OTHER]


def test_get_refuses_what_is_too_large_before_it_reads_and_what_is_damaged(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES))
    (result,) = lab.data.query(modalities=["mic"])
    info = lab.raw.head(raw_key(REC, "mic/seg_0001.wav"))
    assert info is not None

    assert lab.data.get(result, max_bytes=14).modalities["mic"].size == 14
    lab.raw.replace(info.key, b"noise 1", info.etag)
    with pytest.raises(ContentMismatch, match=r"mic/seg_0001\.wav"):
        lab.data.get(result)
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "read", None)
        with pytest.raises(DataTooLarge, match=r"14 bytes.*at most 13 bytes.*download\(\.\.\.\)"):
            lab.data.get(result, max_bytes=13)

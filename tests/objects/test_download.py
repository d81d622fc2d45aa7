"""Downloads: planned first, told in six phases, verified, and never over a file with other content."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import DownloadProgress
from ursa_pipelines.errors import ContentMismatch, ObjectsMissing
from ursa_pipelines.objects.download import Layout, WantedFile, download_files, target_of
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.objects.store import Bucket

REC = "rec_20260520_195628_b1dd"
FILES = {
    "camera_a/seg_0000.mp4": b"video a",
    "camera_b/seg_0000.mp4": b"video b",
    "mic/deep/seg_0000.wav": b"audio 0",
    "mic/seg_0001.wav": b"audio 1",
}


def test_six_phases_are_told_in_order_with_what_is_done(lab: Lab, tmp_path: Path):
    events: list[DownloadProgress] = []
    _ingest(lab)

    lab.data.download(lab.data.query(), tmp_path / "out", progress=events.append)

    assert [(event.phase, event.modality, event.current_file) for event in events] == [
        ("start", None, None),
        ("plan_done", None, None),
        ("modality_start", "camera_a", None),
        ("file_done", "camera_a", "camera_a/seg_0000.mp4"),
        ("modality_done", "camera_a", None),
        ("modality_start", "camera_b", None),
        ("file_done", "camera_b", "camera_b/seg_0000.mp4"),
        ("modality_done", "camera_b", None),
        ("modality_start", "mic", None),
        ("file_done", "mic", "mic/deep/seg_0000.wav"),
        ("file_done", "mic", "mic/seg_0001.wav"),
        ("modality_done", "mic", None),
        ("finish", None, None),
    ]
    assert (events[0].files_total, events[0].bytes_total) == (0, 0)
    assert {(event.files_total, event.bytes_total) for event in events[1:]} == {(4, 28)}
    assert [event.files_done for event in events if event.phase == "file_done"] == [1, 2, 3, 4]
    assert (events[-1].files_done, events[-1].bytes_done) == (4, 28)


@pytest.mark.parametrize(
    ("layout", "places"),
    [
        ("by_recording", [f"{REC}/{path}" for path in FILES]),
        (
            "by_modality",
            [
                f"camera_a/{REC}/camera_a/seg_0000.mp4",
                f"camera_b/{REC}/camera_b/seg_0000.mp4",
                f"mic/{REC}/mic/deep/seg_0000.wav",
                f"mic/{REC}/mic/seg_0001.wav",
            ],
        ),
        ("flat", [f"{REC}__{path.replace('/', '__')}" for path in FILES]),
    ],
)
def test_each_layout_has_its_places_and_all_bytes(lab: Lab, tmp_path: Path, layout: Layout, places: list[str]):
    _ingest(lab)

    written = lab.data.download(lab.data.query()[0], tmp_path / "out", layout=layout)

    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == places
    assert [path.read_bytes() for path in written] == list(FILES.values())
    assert _files_below(tmp_path / "out") == sorted(places)


def test_an_unknown_layout_is_refused_before_anything_is_written(lab: Lab, tmp_path: Path):
    _ingest(lab)

    with pytest.raises(ValueError, match="by_recording, by_modality or flat"):
        lab.data.download(lab.data.query(), tmp_path / "out", layout="nested")  # type: ignore[arg-type]

    assert not (tmp_path / "out").exists()


def test_only_the_modalities_that_were_asked_for_come(lab: Lab, tmp_path: Path):
    _ingest(lab)

    written = lab.data.download(lab.data.query(modalities=["camera"], status="raw"), tmp_path)

    assert [path.name for path in written] == ["seg_0000.mp4", "seg_0000.mp4"]


def test_corrupted_bytes_are_found_and_no_file_is_left(lab: Lab, tmp_path: Path):
    _ingest(lab)
    _corrupt(lab, "camera_b/seg_0000.mp4")

    with pytest.raises(ContentMismatch) as caught:
        lab.data.download(lab.data.query(), tmp_path / "out")

    assert (caught.value.recording, caught.value.place) == (REC, "camera_b/seg_0000.mp4")
    assert _files_below(tmp_path / "out") == [f"{REC}/camera_a/seg_0000.mp4"]


def test_a_second_download_keeps_what_is_right_and_brings_the_rest(lab: Lab, tmp_path: Path):
    _ingest(lab)
    first = lab.data.download(lab.data.query(), tmp_path)
    first[0].unlink()
    kept = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in first[1:]]

    again = lab.data.download(lab.data.query(), tmp_path)

    assert again == first
    assert [path.read_bytes() for path in again] == list(FILES.values())
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in first[1:]] == kept


@pytest.mark.parametrize("content", [b"video ?", b"longer than it should be"], ids=["same-size", "other-size"])
def test_a_file_with_other_content_is_refused_and_kept(lab: Lab, tmp_path: Path, content: bytes):
    _ingest(lab)
    mine = tmp_path / REC / "camera_a/seg_0000.mp4"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(content)

    with pytest.raises(FileExistsError, match="other content"):
        lab.data.download(lab.data.query(), tmp_path)

    assert mine.read_bytes() == content


def test_a_segment_that_the_bucket_lost_is_told_before_anything_is_written(lab: Lab, tmp_path: Path):
    _ingest(lab)
    lab.raw.multipart_client.delete_object(Bucket=lab.raw.name, Key=raw_key(REC, "mic/seg_0001.wav"))

    with pytest.raises(ObjectsMissing, match=r"mic/seg_0001\.wav"):
        lab.data.download(lab.data.query(), tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_a_file_that_no_manifest_attests_can_be_downloaded_again(bucket: Bucket, rec_id: str, tmp_path: Path):
    bucket.create(raw_key(rec_id, "mic/a"), b"audio")
    plan = [WantedFile(rec_id, "mic", "mic/a", 5, None)]

    first = download_files(bucket, lambda: plan, tmp_path, layout="flat", progress=None)
    again = download_files(bucket, lambda: plan, tmp_path, layout="flat", progress=None)

    assert first == again
    assert first[0].read_bytes() == b"audio"


def test_two_files_that_would_share_a_flat_name_are_refused_before_anything_is_written(
    bucket: Bucket, rec_id: str, tmp_path: Path
):
    plan = [WantedFile(rec_id, "mic", path, 1, None) for path in ("mic/a__b", "mic/a/b")]
    assert target_of(plan[0], tmp_path, "flat") == target_of(plan[1], tmp_path, "flat")

    with pytest.raises(ValueError, match="flat"):
        download_files(bucket, lambda: plan, tmp_path / "out", layout="flat", progress=None)

    assert not (tmp_path / "out").exists()


def _ingest(lab: Lab) -> None:
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES))


def _corrupt(lab: Lab, path: str) -> None:
    info = lab.raw.head(raw_key(REC, path))
    assert info is not None
    lab.raw.replace(info.key, FILES[path][::-1], info.etag, sha256=info.sha256)


def _files_below(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())

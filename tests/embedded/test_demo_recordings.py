"""The demo's recordings: each case as described, media that play, and making them again changes nothing."""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import time
import wave
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from ursa_pipelines.embedded.demo_recordings import DemoRecording, make_demo_recordings
from ursa_pipelines.recordings.identity import parse_rec_id
from ursa_pipelines.recordings.manifest import parse_manifest

COMPLETE, NO_MANIFEST, STUB, DUAL_NODE, IN_BUCKET, CORRUPTED, COPYING = range(7)
EDF_LABELS = [*(f"EEG {site}" for site in ("Fp1", "Fp2", "C3", "C4", "P3", "P4", "O1", "O2")), "EDF Annotations"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> list[DemoRecording]:
    root = tmp_path_factory.mktemp("demo")
    return make_demo_recordings(root / "nas", root / "usb")


def test_each_case_is_a_recording_of_its_own_id_and_directory(demo: list[DemoRecording]) -> None:
    assert len({recording.rec_id for recording in demo}) == len({recording.case for recording in demo}) == 7
    for recording in demo:
        parse_rec_id(recording.rec_id)
        assert bool(recording.objects) != bool(recording.directories)
        assert all(directory.name == recording.rec_id for directory in recording.directories)
    assert [len(recording.directories) for recording in demo] == [1, 1, 1, 2, 0, 1, 1]


def test_a_complete_manifest_attests_every_file(demo: list[DemoRecording]) -> None:
    contents = contents_of(demo[COMPLETE])
    manifest = json.loads(contents["manifest.json"])
    assert manifest["node"] == "green-mantis"
    assert manifest["participant"] is None
    assert contents["participant.txt"].decode() == "Aria Lin\n"
    assert attested(manifest) == digests(segments_of(contents))
    assert manifest["recording_hash"] == recording_hash(segments_of(contents))
    paths = [file["path"] for file in manifest["files"]]
    assert paths == sorted(paths)


def test_a_recording_without_a_manifest_has_data_and_a_participant(demo: list[DemoRecording]) -> None:
    contents = contents_of(demo[NO_MANIFEST])
    assert segments_of(contents)
    assert set(contents) - set(segments_of(contents)) == {"participant.txt"}
    assert contents["participant.txt"].decode() == "Björn Ek\n"


def test_a_stub_lists_no_files_beside_data(demo: list[DemoRecording]) -> None:
    contents = contents_of(demo[STUB])
    assert json.loads(contents["manifest.json"])["files"] == []
    assert segments_of(contents)


def test_the_halves_of_a_dual_node_session_state_one_hash_over_both(demo: list[DemoRecording]) -> None:
    host_half, eeg_half = demo[DUAL_NODE].directories
    host, eeg = files_below(host_half), files_below(eeg_half)
    assert host_half.parent != eeg_half.parent
    assert {path.split("/")[0] for path in segments_of(host)} == {"camera_a", "mic", "notes"}
    assert {path.split("/")[0] for path in segments_of(eeg)} == {"eeg_4559", "battery"}
    assert "manifest.json" not in host | eeg
    host_manifest = json.loads(host["_node_manifests/green-mantis.json"])
    eeg_manifest = json.loads(eeg["_node_manifests/green-motor.json"])
    assert (host_manifest["node"], eeg_manifest["node"]) == ("green-mantis", "green-motor")
    assert attested(host_manifest) == digests(segments_of(host))
    assert attested(eeg_manifest) == digests(segments_of(eeg))
    stated = {host_manifest["recording_hash"], eeg_manifest["recording_hash"]}
    assert stated == {recording_hash(segments_of(host) | segments_of(eeg))}


def test_the_bucket_only_recording_is_a_set_of_objects_with_its_manifest(demo: list[DemoRecording]) -> None:
    recording = demo[IN_BUCKET]
    assert all(key.startswith(f"recordings/{recording.rec_id}/") for key in recording.objects)
    contents = contents_of(recording)
    assert attested(json.loads(contents["manifest.json"])) == digests(segments_of(contents))


def test_exactly_one_byte_of_the_corrupted_recording_differs_from_its_manifest(demo: list[DemoRecording]) -> None:
    contents = contents_of(demo[CORRUPTED])
    manifest = json.loads(contents["manifest.json"])
    found = segments_of(contents)
    assert {file["path"]: file["size_bytes"] for file in manifest["files"]} == {p: len(c) for p, c in found.items()}
    (damaged,) = [path for path, digest in digests(found).items() if attested(manifest)[path] != digest]
    mended = bytearray(found[damaged])
    mended[len(mended) // 2] ^= 0xFF
    assert hashlib.sha256(mended).hexdigest() == attested(manifest)[damaged]


def test_renaming_the_unfinished_copy_completes_its_recording_for_good(tmp_path: Path) -> None:
    before = time.time()
    recording = make_demo_recordings(tmp_path / "nas", tmp_path / "usb")[COPYING]
    (directory,) = recording.directories
    (unfinished,) = directory.rglob("*.part")
    assert unfinished.stat().st_mtime >= before - 1
    unfinished.rename(unfinished.with_suffix(""))
    make_demo_recordings(tmp_path / "nas", tmp_path / "usb")
    contents = contents_of(recording)
    assert attested(json.loads(contents["manifest.json"])) == digests(segments_of(contents))


def test_all_files_but_an_unfinished_copy_are_as_old_as_their_recording(demo: list[DemoRecording]) -> None:
    for recording in demo:
        began = parse_rec_id(recording.rec_id).timestamp()
        for path in (path for directory in recording.directories for path in directory.rglob("*") if path.is_file()):
            if path.suffix != ".part":
                assert began < path.stat().st_mtime <= began + 60


def test_every_manifest_is_valid(demo: list[DemoRecording]) -> None:
    checked = 0
    for recording in demo:
        for path, content in contents_of(recording).items():
            if path.endswith(".json"):
                manifest = parse_manifest(content, rec_id=recording.rec_id, place=path)
                assert manifest.started_at == parse_rec_id(recording.rec_id)
                checked += 1
    assert checked == 7


def test_no_two_segments_of_the_demo_are_equal(demo: list[DemoRecording]) -> None:
    all_digests = [digest for each in demo for digest in digests(segments_of(contents_of(each))).values()]
    assert len(all_digests) == len(set(all_digests)) > 40


def test_recordings_are_small_enough_for_a_quick_demo(demo: list[DemoRecording]) -> None:
    for recording in demo:
        assert 100_000 <= sum(map(len, contents_of(recording).values())) <= 500_000
    shipped = files("ursa_pipelines.embedded.media")
    assert sum(len(clip.read_bytes()) for clip in shipped.iterdir() if clip.name.endswith(".mp4")) < 2_000_000


def test_the_same_bytes_are_made_in_another_place(tmp_path: Path, demo: list[DemoRecording]) -> None:
    elsewhere = make_demo_recordings(tmp_path / "nas", tmp_path / "usb")
    assert [contents_of(recording) for recording in elsewhere] == [contents_of(recording) for recording in demo]


def test_making_them_again_changes_nothing(tmp_path: Path) -> None:
    first = make_demo_recordings(tmp_path / "nas", tmp_path / "usb")
    before = states_below(tmp_path)
    assert make_demo_recordings(tmp_path / "nas", tmp_path / "usb") == first
    assert states_below(tmp_path) == before


def test_files_of_other_content_stay_and_missing_ones_come_back(tmp_path: Path) -> None:
    recording = make_demo_recordings(tmp_path / "nas", tmp_path / "usb")[CORRUPTED]
    (directory,) = recording.directories
    (directory / "mic" / "seg_0000.wav").write_bytes(b"mine")
    (directory / "mine.txt").write_bytes(b"mine too")
    lost = directory / "notes" / "seg_0000.jsonl"
    content, state = lost.read_bytes(), lost.stat()
    lost.unlink()
    kept = states_below(directory)
    make_demo_recordings(tmp_path / "nas", tmp_path / "usb")
    assert (lost.read_bytes(), lost.stat().st_mtime_ns) == (content, state.st_mtime_ns)
    assert states_below(directory).items() >= kept.items()
    assert not list(tmp_path.glob("*/.demo_*"))


def test_every_video_is_a_whole_h264_mp4_whose_chunks_lie_in_its_data(demo: list[DemoRecording]) -> None:
    videos = media_of(demo, ".mp4")
    assert len(videos) > 15
    for name, content in videos.items():
        boxes = {kind: (start, end) for kind, start, end in mp4_boxes(content, 0, len(content))}
        assert next(iter(boxes)) == b"ftyp"
        assert boxes[b"uuid"][1] == len(content)
        label = json.loads(content[boxes[b"uuid"][0] + 16 : boxes[b"uuid"][1]])["label"]
        assert label == name.removesuffix(".part")
        table = mp4_find(content, boxes[b"moov"], b"trak", b"mdia", b"minf", b"stbl")
        description, _ = mp4_find(content, table, b"stsd")
        assert content[description + 12 : description + 16] == b"avc1"
        chunks, _ = mp4_find(content, table, b"stco")
        (count,) = struct.unpack_from(">I", content, chunks + 4)
        start, end = boxes[b"mdat"]
        assert count > 0
        assert all(start <= offset < end for offset in struct.unpack_from(f">{count}I", content, chunks + 8))


def test_every_sound_is_a_wav_of_three_audible_seconds(demo: list[DemoRecording]) -> None:
    sounds = media_of(demo, ".wav")
    assert len(sounds) == 14
    for content in sounds.values():
        with wave.open(io.BytesIO(content)) as reader:
            assert (reader.getnchannels(), reader.getsampwidth(), reader.getframerate()) == (1, 2, 8_000)
            assert reader.getnframes() == 3 * reader.getframerate()
            samples = struct.unpack(f"<{reader.getnframes()}h", reader.readframes(reader.getnframes()))
        assert 1_000 < max(samples) < 32_767


def test_every_eeg_file_is_edf_plus_with_an_annotations_channel(demo: list[DemoRecording]) -> None:
    of_corrupted = f"{demo[CORRUPTED].rec_id}/eeg_4559/seg_0000.edf"
    recordings = media_of(demo, ".edf")
    assert len(recordings) == 7
    for name, content in recordings.items():
        rec_id = name.split("/")[0]
        header = edf_header(content)
        began = parse_rec_id(rec_id)
        assert (header["reserved"], header["patient"]) == ("EDF+C", "X X X X")
        assert (header["date"], header["time"]) == (f"{began:%d.%m.%y}", f"{began:%H.%M.%S}")
        assert header["recording"] == f"Startdate {began.day}-MAY-2026 {rec_id} X Demo_EEG"
        assert header["labels"] == EDF_LABELS
        assert len(content) == header["header_bytes"] + header["records"] * sum(header["samples"]) * 2
        if name != of_corrupted:
            assert_annotations_and_signals_are_sound(content, header)


def assert_annotations_and_signals_are_sound(content: bytes, header: dict[str, Any]) -> None:
    record_bytes = 2 * sum(header["samples"])
    for record in range(header["records"]):
        start = header["header_bytes"] + record * record_bytes
        annotations = content[start + 2 * sum(header["samples"][:-1]) : start + record_bytes]
        assert annotations.startswith(f"+{record}\x14\x14\0".encode())
        remarks = annotations.rstrip(b"\0").split(b"\0")[1:]
        assert len(remarks) == (record % 2 == 0)
        assert all(re.fullmatch(rb"\+%d\.5\x14[A-Z][a-z ]+\x14" % record, remark) for remark in remarks)
        signals = struct.unpack_from(f"<{sum(header['samples'][:-1])}h", content, start)
        assert len(set(signals)) > 100
        assert max(map(abs, signals)) < 20_000


def test_event_files_are_json_lines_in_the_order_of_their_time(demo: list[DemoRecording]) -> None:
    families = set()
    for name, content in media_of(demo, ".jsonl").items():
        families.add(name.split("/")[1])
        events = [json.loads(line) for line in content.decode().splitlines()]
        stamps = [event["timestamp"] for event in events]
        assert len(stamps) >= 4
        assert stamps == sorted(stamps)
        assert all(0 <= event["seconds"] < 6 for event in events)
        assert all(stamp.startswith(f"{parse_rec_id(name.split('/')[0]):%Y-%m-%dT%H:}") for stamp in stamps)
    assert families == {"notes", "keyboard", "browser", "battery"}


def test_no_participant_is_named_outside_participant_txt(demo: list[DemoRecording]) -> None:
    for recording in demo:
        for path, content in contents_of(recording).items():
            if path != "participant.txt":
                assert b"Aria" not in content
                assert "Björn".encode() not in content


def contents_of(recording: DemoRecording) -> dict[str, bytes]:
    """Path below the recording: content, from all its directories or from its objects."""
    prefix = f"recordings/{recording.rec_id}/"
    contents = {key.removeprefix(prefix): content for key, content in recording.objects.items()}
    for directory in recording.directories:
        contents |= files_below(directory)
    return contents


def files_below(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def segments_of(contents: dict[str, bytes]) -> dict[str, bytes]:
    return {path: content for path, content in contents.items() if "/" in path and not path.startswith("_")}


def media_of(demo: list[DemoRecording], suffix: str) -> dict[str, bytes]:
    return {
        f"{recording.rec_id}/{path}": content
        for recording in demo
        for path, content in contents_of(recording).items()
        if path.removesuffix(".part").endswith(suffix)
    }


def digests(contents: dict[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}


def attested(manifest: dict[str, Any]) -> dict[str, str]:
    return {file["path"]: file["sha256"] for file in manifest["files"]}


def recording_hash(segments: dict[str, bytes]) -> str:
    return hashlib.sha256("\n".join(sorted(digests(segments).values())).encode()).hexdigest()


def states_below(root: Path) -> dict[str, tuple[int, int, int]]:
    """Identity, size and change time of every file."""
    states = {path: path.stat() for path in root.rglob("*") if path.is_file()}
    return {str(path): (state.st_ino, state.st_size, state.st_mtime_ns) for path, state in states.items()}


def mp4_boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each box's payload; the boxes must fill the range exactly."""
    while start < end:
        size, kind = struct.unpack_from(">I4s", content, start)
        assert 8 <= size <= end - start
        yield kind, start + 8, start + size
        start += size


def mp4_find(content: bytes, within: tuple[int, int], *kinds: bytes) -> tuple[int, int]:
    for wanted in kinds:
        within = next((start, end) for kind, start, end in mp4_boxes(content, *within) if kind == wanted)
    return within


def edf_header(content: bytes) -> dict[str, Any]:
    """The fields of https://www.edfplus.info/specs/edf.html, table of the header record."""
    text = content[:256].decode("ascii")
    signals = int(text[252:256])
    header_bytes = int(text[184:192])
    assert header_bytes == 256 * (signals + 1)
    assert text[:8] == "0       "
    assert float(text[244:252]) == 1
    per_signal = content[256:header_bytes].decode("ascii")
    samples_at = signals * (16 + 80 + 8 + 8 + 8 + 8 + 8 + 80)
    return {
        "patient": text[8:88].strip(),
        "recording": text[88:168].strip(),
        "date": text[168:176],
        "time": text[176:184],
        "header_bytes": header_bytes,
        "reserved": text[192:236].strip(),
        "records": int(text[236:244]),
        "labels": [per_signal[16 * index : 16 * index + 16].strip() for index in range(signals)],
        "samples": [int(per_signal[samples_at + 8 * i : samples_at + 8 * i + 8]) for i in range(signals)],
    }

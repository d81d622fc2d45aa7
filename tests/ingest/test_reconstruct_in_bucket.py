"""Reconstruction in the bucket: read once, several at once, stopped and taken up again (DESIGN section 3)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.detour import Detour
from tests.faults.proxy import Fault, Hold, Refuse
from tests.ingest.rig import stored, upload_as_rig
from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, recording_hash_of, write_recording
from ursa_pipelines import UploadProgress
from ursa_pipelines.errors import RecordingNotSettled, StoreDenied, UploadInterrupted
from ursa_pipelines.ingest.context import IngestContext, Watch
from ursa_pipelines.ingest.pipeline import ingest_from_bucket
from ursa_pipelines.ingest.reconstruct_manifest import reconstruct_in_bucket
from ursa_pipelines.objects.digests import DigestCache
from ursa_pipelines.objects.stored import list_recording

REC = "rec_20260520_195628_b1dd"
MIB = 1024 * 1024
CAMERA, MIC = "camera_a/seg_0000.mp4", "mic/seg_0000.wav"
FILES = {CAMERA: b"video" * 800_000, MIC: b"audio" * 10, "eeg_4559/empty.edf": b""}
MANY = {f"mic/seg_{number:04}.wav": b"audio %d" % number for number in range(60)}
MANY |= {f"camera_a/seg_{number:04}.mp4": b"video %d;" % number * 200_000 for number in range(12)}

_RECONSTRUCT = """
import sys
from ursa_pipelines import DataInterface
data = DataInterface(config_path=sys.argv[1])
data.enable_writes(roles=("raw_rw",))
data.reconstruct_manifest(rec_id=sys.argv[2])
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def through_proxy(detour: Detour, state: Path) -> IngestContext:
    """A context through the proxy, with a digest cache of its own."""
    return replace(detour.interface().ingest_context(), digests=DigestCache(state))


def upload_plainly(lab: Lab, files: dict[str, bytes]) -> None:
    """Puts the files into the bucket in a way that leaves no evidence of their SHA-256."""
    for path, content in files.items():
        key = f"recordings/{REC}/{path}"
        lab.raw.multipart_client.put_object(Bucket=lab.raw.name, Key=key, Body=bytearray(content))


def asked_for(detour: Detour, *methods: str) -> list[str]:
    """The paths of the segments that were asked for, once per request."""
    seen = [one.request.partition("?")[0].partition(" ") for one in detour.proxy.seen]
    return [path.partition(f"{REC}/")[2] for method, _, path in seen if method in methods and _is_segment(path)]


def _is_segment(path: str) -> bool:
    return f"{REC}/" in path and path.endswith((".mp4", ".wav", ".edf"))


def finished(state: Path, lab: Lab) -> set[str]:
    """The paths whose digest a process that starts now need not find out again."""
    cache = DigestCache(state)
    return {path for path, info in list_recording(lab.raw, REC).items() if cache.of_object(lab.raw.name, info)}


def attested(lab: Lab) -> dict[str, tuple[int, str]]:
    files = json.loads(stored(lab, REC, "manifest.json"))["files"]
    return {file["path"]: (file["size_bytes"], file["sha256"]) for file in files}


def digests_of(files: dict[str, bytes]) -> dict[str, tuple[int, str]]:
    return {path: (len(content), hashlib.sha256(content).hexdigest()) for path, content in files.items()}


def test_every_object_is_read_and_listed(lab: Lab):
    upload_plainly(lab, FILES)

    manifest = lab.data.reconstruct_manifest(rec_id=REC)

    assert manifest is not None
    assert manifest.recording_hash == recording_hash_of(FILES)
    assert attested(lab) == digests_of(FILES)


def test_progress_counts_files_and_bytes(lab: Lab):
    upload_plainly(lab, FILES)
    told: list[UploadProgress] = []

    lab.data.reconstruct_manifest(rec_id=REC, progress=told.append)

    counted = [one.bytes_uploaded for one in told]
    total = sum(map(len, FILES.values()))
    assert counted == sorted(counted)
    assert (counted[-1], told[-1].bytes_total, told[-1].files_done, told[-1].files_total) == (total, total, 3, 3)


def test_a_stop_in_the_middle_keeps_what_is_finished_and_a_rerun_reads_only_the_rest(
    lab: Lab, detour: Detour, through_proxy: IngestContext, state: Path
):
    upload_plainly(lab, MANY)
    told: list[UploadProgress] = []
    watch = Watch(told.append, should_pause=lambda: bool(told) and told[-1].files_done >= 5)

    with pytest.raises(UploadInterrupted):
        reconstruct_in_bucket(through_proxy, REC, watch)

    done = finished(state, lab)
    assert 5 <= len(done) < len(MANY)
    assert "manifest.json" not in lab.objects(REC)
    detour.proxy.wait_until_idle()
    detour.proxy.seen.clear()

    assert reconstruct_in_bucket(through_proxy, REC, Watch()) is not None

    assert set(asked_for(detour, "GET", "HEAD")) == MANY.keys() - done
    assert attested(lab) == digests_of(MANY)


def test_a_stop_takes_effect_within_a_large_object(lab: Lab, through_proxy: IngestContext, state: Path):
    upload_plainly(lab, {CAMERA: b"video" * (8 * MIB)})
    told: list[UploadProgress] = []

    with pytest.raises(UploadInterrupted):
        reconstruct_in_bucket(through_proxy, REC, Watch(told.append, should_pause=lambda: bool(told)))

    assert told[-1].bytes_uploaded < told[-1].bytes_total
    assert finished(state, lab) == set()


def test_a_killed_reconstruction_keeps_what_is_finished(lab: Lab, detour: Detour):
    upload_plainly(lab, MANY)
    data = detour.interface()
    detour.proxy.fault = hold = Hold(r"^GET .*/mic/", 30)
    process = subprocess.Popen(
        [sys.executable, "-c", _RECONSTRUCT, str(detour.config), REC],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert hold.reached.wait(60)
    _wait_until(lambda: bool(finished(data.state, lab)))
    process.kill()
    process.wait()
    hold.ended.set()
    detour.proxy.wait_until_idle()
    detour.proxy.fault = Fault()
    done = finished(data.state, lab)
    detour.proxy.seen.clear()

    assert data.reconstruct_manifest(rec_id=REC) is not None

    assert set(asked_for(detour, "GET", "HEAD")) == MANY.keys() - done
    assert attested(lab) == digests_of(MANY)


def test_the_first_failure_ends_the_rest(lab: Lab, detour: Detour, through_proxy: IngestContext, state: Path):
    upload_plainly(lab, MANY)
    detour.proxy.fault = Refuse(r"/camera_a/seg_0010", 403, "AccessDenied")

    with pytest.raises(StoreDenied, match="seg_0010"):
        reconstruct_in_bucket(through_proxy, REC, Watch())

    assert [path for path in finished(state, lab) if path.startswith("mic/")] == []
    assert "manifest.json" not in lab.objects(REC)


def test_a_failure_ends_the_reading_of_a_large_object(lab: Lab, detour: Detour, through_proxy: IngestContext):
    upload_plainly(lab, {CAMERA: bytes(128 * MIB), MIC: bytes(2 * MIB)})
    detour.proxy.fault = Refuse(f"/{MIC}", 403, "AccessDenied")
    told: list[UploadProgress] = []

    with pytest.raises(StoreDenied, match=MIC):
        reconstruct_in_bucket(through_proxy, REC, Watch(told.append))

    assert not told or told[-1].bytes_uploaded < 128 * MIB


def test_a_stated_digest_spares_the_reading_of_a_large_object(lab: Lab, detour: Detour, through_proxy: IngestContext):
    for path, (_, sha256) in digests_of(FILES).items():
        lab.raw.create(f"recordings/{REC}/{path}", FILES[path], sha256=sha256)

    reconstruct_in_bucket(through_proxy, REC, Watch())

    assert CAMERA not in asked_for(detour, "GET")
    assert attested(lab) == digests_of(FILES)


def test_small_objects_are_read_in_one_request_each(lab: Lab, detour: Detour, through_proxy: IngestContext):
    small = {path: content for path, content in MANY.items() if len(content) < MIB}
    upload_plainly(lab, small)

    reconstruct_in_bucket(through_proxy, REC, Watch())

    assert sorted(asked_for(detour, "GET", "HEAD")) == sorted(small)


def test_the_marker_tells_the_digests_that_a_manifest_leaves_out(
    lab: Lab, detour: Detour, through_proxy: IngestContext
):
    listed = [{"path": path, "size_bytes": len(content)} for path, content in FILES.items()]
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES, manifest={"files": listed}))

    result = ingest_from_bucket(through_proxy, REC)

    assert result.outcome == "unchanged"
    assert asked_for(detour, "GET", "HEAD") == []


def test_a_registration_again_reads_nothing_again(lab: Lab, detour: Detour, through_proxy: IngestContext):
    listed = [{"path": path, "size_bytes": len(content)} for path, content in FILES.items()]
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, manifest={"files": listed}))
    first = ingest_from_bucket(through_proxy, REC)
    assert first.recording is not None
    assert first.recording.recording_hash == recording_hash_of(FILES)
    detour.proxy.seen.clear()

    assert ingest_from_bucket(through_proxy, REC).outcome == "unchanged"

    assert asked_for(detour, "GET", "HEAD") == []


class Meanwhile(Fault):
    """Does something as soon as the first bytes of a segment were read."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._acts: Iterator[Callable[[], object]] = iter([act])

    def after(self, request: str) -> None:
        if request.startswith("GET ") and _is_segment(request):
            next(self._acts, lambda: None)()


def _replaced(lab: Lab) -> None:
    key = f"recordings/{REC}/{MIC}"
    lab.raw.multipart_client.put_object(Bucket=lab.raw.name, Key=key, Body=bytearray(b"AUDIO" * 10))


def _vanished(lab: Lab) -> None:
    lab.raw.multipart_client.delete_object(Bucket=lab.raw.name, Key=f"recordings/{REC}/{MIC}")


def _another_came(lab: Lab) -> None:
    lab.raw.create(f"recordings/{REC}/mic/seg_0001.wav", b"more")


@pytest.mark.parametrize("change", [_replaced, _vanished, _another_came])
def test_no_manifest_is_made_of_what_changes_while_it_is_read(
    lab: Lab, detour: Detour, through_proxy: IngestContext, change: Callable[[Lab], None]
):
    upload_plainly(lab, FILES)
    detour.proxy.fault = Meanwhile(lambda: change(lab))

    with pytest.raises(RecordingNotSettled, match="mic"):
        reconstruct_in_bucket(through_proxy, REC, Watch())

    assert "manifest.json" not in lab.objects(REC)
    detour.proxy.fault = Fault()
    manifest = reconstruct_in_bucket(through_proxy, REC, Watch())
    assert manifest is not None
    assert attested(lab) == digests_of({path: stored(lab, REC, path) for path in lab.objects(REC) if _is_listed(path)})


def test_a_manifest_that_comes_meanwhile_and_says_the_same_is_no_conflict(lab: Lab):
    upload_plainly(lab, FILES)
    theirs = json.dumps(manifest_of(REC, FILES)).encode()

    def somebody_is_faster(_: UploadProgress) -> None:
        if "manifest.json" not in lab.objects(REC):
            lab.raw.create(f"recordings/{REC}/manifest.json", theirs)

    assert lab.data.reconstruct_manifest(rec_id=REC, progress=somebody_is_faster) is not None
    assert stored(lab, REC, "manifest.json") == theirs


def _is_listed(path: str) -> bool:
    return path.endswith((".mp4", ".wav", ".edf"))


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)

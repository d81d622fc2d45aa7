"""Every refusal that an ingest can come to: typed, naming recording, place and remedy, and with nothing written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, make_lab
from tests.recordings_on_disk import manifest_of, recording_hash_of, set_age, write_recording
from tests.snapshot import snapshot
from ursa_pipelines import DataInterface
from ursa_pipelines.errors import (
    BucketMismatch,
    CatalogPointerInvalid,
    CatalogVersionUnknown,
    ContentMismatch,
    ManifestConflict,
    ManifestInvalid,
    ManifestNotFound,
    ObjectConflict,
    ParticipantInvalid,
    RecordingConflict,
    RecordingIdInvalid,
    RecordingIncomplete,
    RecordingNotSettled,
    RoleNotEnabled,
    SourceChanged,
    SourceNotFound,
    SourceRefused,
    UrsaError,
    WritesNotEnabled,
)

REC = "rec_20260520_195628_b1dd"
OTHER_REC = "rec_20260521_080000_c0de"
CAMERA = "camera_a/seg_0000.mp4"
FILES = {CAMERA: b"video" * 100, "mic/seg_0000.wav": b"audio" * 10}
LARGE_FILES = FILES | {CAMERA: b"video frame;" * (9 * 1024**2 // 12)}
A_HASH = "0" * 64
DAY = 24 * 3600.0

Spoil = Callable[[Lab, Path], object]


@dataclass(frozen=True)
class Refusal:
    """`spoil` turns a good recording directory into a bad one; `told` are parts of what the operator reads."""

    name: str
    spoil: Spoil
    error: type[UrsaError]
    told: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=lambda: FILES)


def writing(path: str, content: bytes = b"x") -> Spoil:
    def spoil(_: Lab, directory: Path) -> None:
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    return spoil


def linking(path: str, target: str) -> Spoil:
    return lambda _, directory: (directory / path).symlink_to(target)


def with_fifo(_: Lab, directory: Path) -> None:
    os.mkfifo(directory / "mic" / "pipe.wav")


def stating(**fields: Any) -> Spoil:
    """A complete manifest with these fields in place of its own."""
    return writing("manifest.json", json.dumps(manifest_of(REC, FILES) | fields).encode())


def listing(**fields: Any) -> Spoil:
    """A manifest whose first file has these fields in place of its own."""
    document = manifest_of(REC, FILES)
    document["files"][0] |= fields
    return writing("manifest.json", json.dumps(document).encode())


def node_manifest(**fields: Any) -> Spoil:
    document = manifest_of(REC, FILES, node="green-motor") | fields
    return writing("_node_manifests/green-motor.json", json.dumps(document).encode())


def huge_manifest(_: Lab, directory: Path) -> None:
    os.truncate(directory / "manifest.json", 64 * 1024**2 + 1)


def changing_content(age_s: float, *, grows: bool = False) -> Spoil:
    def spoil(_: Lab, directory: Path) -> None:
        content = (directory / CAMERA).read_bytes()
        (directory / CAMERA).write_bytes(content + b"!" if grows else b"V" + content[1:])
        set_age(directory, age_s)

    return spoil


def removing_a_file(_: Lab, directory: Path) -> None:
    (directory / CAMERA).unlink()


def storing(content: bytes) -> Spoil:
    return lambda lab, _: lab.raw.create(f"recordings/{REC}/{CAMERA}", content)


def storing_manifest(files: dict[str, bytes], **fields: Any) -> Spoil:
    document = manifest_of(REC, files) | fields
    return lambda lab, _: lab.raw.create(f"recordings/{REC}/manifest.json", json.dumps(document).encode())


def without_data(lab: Lab, directory: Path) -> None:
    for path in FILES:
        (directory / path).unlink()
    stating(files=[])(lab, directory)


def emptied(_: Lab, directory: Path) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def removed(lab: Lab, directory: Path) -> None:
    emptied(lab, directory)
    directory.rmdir()


def replaced_by_a_link(_: Lab, directory: Path) -> None:
    directory.symlink_to(directory.rename(directory.parent / "elsewhere"))


def manifest(text: str | bytes) -> Spoil:
    return writing("manifest.json", text if isinstance(text, bytes) else text.encode())


FIELDS = f'"recording_id": "{REC}", "files": [{{"path": "{CAMERA}", "size_bytes": 500}}]'

OF_THE_DIRECTORY = [
    Refusal("the directory does not exist", removed, SourceNotFound, ("does not exist", "mounted")),
    Refusal("the directory is empty", emptied, SourceNotFound, ("holds no files",)),
    Refusal("there is a stub and no data", without_data, SourceNotFound, ("holds no data",)),
    Refusal("the directory is a link", replaced_by_a_link, SourceRefused, ("link",)),
    Refusal("a file is a link", linking("mic/x.wav", "/etc/hostname"), SourceRefused, ("mic/x.wav", "symbolic link")),
    Refusal("a directory is a link", linking("mic_b", "mic"), SourceRefused, ("mic_b", "symbolic link")),
    Refusal("a link points nowhere", linking("mic/x.wav", "gone"), SourceRefused, ("mic/x.wav", "symbolic link")),
    Refusal("a file is a FIFO", with_fifo, SourceRefused, ("mic/pipe.wav", "FIFO")),
    Refusal("a name holds a backslash", writing("mic/a\\b.wav"), SourceRefused, ("mic/a\\b.wav", "backslash")),
    Refusal("a name holds a bidi character", writing("mic/a\u202eb.wav"), SourceRefused, ("U+202E",)),
    Refusal("two names collide", writing("MIC/seg_0000.wav"), SourceRefused, ("MIC/seg_0000.wav", "collide")),
    Refusal("a key is too long", writing("mic/" + "/".join(["d" * 200] * 6)), SourceRefused, ("1024 bytes",)),
    Refusal("a file lies too deep", writing("d/" * 40 + "x"), SourceRefused, ("levels deep",)),
    Refusal("the rig still records", writing("session.lock"), RecordingNotSettled, ("session.lock", "Wait")),
    Refusal("a file is being copied", writing("mic/b.wav.part"), RecordingNotSettled, ("mic/b.wav.part", "copied")),
    Refusal("the manifest is empty", manifest(""), ManifestInvalid, ("manifest.json", "JSON")),
    Refusal("the manifest is cut off", manifest("{" + FIELDS), ManifestInvalid, ("manifest.json", "JSON")),
    Refusal("the manifest is UTF-16", manifest(f"{{{FIELDS}}}".encode("utf-16")), ManifestInvalid, ("UTF-16",)),
    Refusal("the manifest is a list", manifest("[]"), ManifestInvalid, ("manifest.json", "JSON object")),
    Refusal("the manifest is too large", huge_manifest, ManifestInvalid, ("manifest.json", "67,108,864")),
    Refusal("it is nested too deep", manifest("[" * 65 + "]" * 65), ManifestInvalid, ("64 levels",)),
    Refusal("a key stands twice", manifest(f'{{"files": [], {FIELDS}}}'), ManifestInvalid, ("files", "twice")),
    Refusal("a number is NaN", manifest(f'{{"x": NaN, {FIELDS}}}'), ManifestInvalid, ("NaN",)),
    Refusal("the version is unknown", stating(manifest_version=2), ManifestInvalid, ("manifest_version",)),
    Refusal("it is another recording's", stating(recording_id=OTHER_REC), ManifestInvalid, ("recording_id", OTHER_REC)),
    Refusal("a time has no zone", stating(started_at="2026-05-20T19:56:28"), ManifestInvalid, ("started_at", "zone")),
    Refusal("a path is absolute", listing(path="/etc/passwd"), ManifestInvalid, ("files[0].path",)),
    Refusal("a path climbs", listing(path="mic/../../x"), ManifestInvalid, ("files[0].path", "'..'")),
    Refusal("a path has a drive", listing(path="C:/x"), ManifestInvalid, ("files[0].path", "drive")),
    Refusal("a path has a NUL", listing(path="mic/\0"), ManifestInvalid, ("files[0].path", "U+0000")),
    Refusal("a path is not NFC", listing(path="mic/e\u0301"), ManifestInvalid, ("files[0].path", "NFC")),
    Refusal("two paths collide", listing(path="MIC/seg_0000.wav"), ManifestInvalid, ("files", "collide")),
    Refusal("a size is negative", listing(size_bytes=-1), ManifestInvalid, ("files[0].size_bytes",)),
    Refusal("a size is a truth value", listing(size_bytes=True), ManifestInvalid, ("files[0].size_bytes",)),
    Refusal("a digest is upper case", listing(sha256="A" * 64), ManifestInvalid, ("files[0].sha256",)),
    Refusal("a digest is short", listing(sha256="a" * 63), ManifestInvalid, ("files[0].sha256",)),
    Refusal(
        "manifests list other bytes",
        node_manifest(files=[{"path": CAMERA, "size_bytes": 500, "sha256": A_HASH}]),
        ManifestConflict,
        (CAMERA, "manifest.json", "_node_manifests/green-motor.json"),
    ),
    Refusal(
        "manifests state other hashes",
        lambda lab, directory: (
            stating(recording_hash=A_HASH)(lab, directory),
            node_manifest(recording_hash="1" * 64)(lab, directory),
        ),
        ManifestConflict,
        ("recording_hash", "_node_manifests/green-motor.json"),
    ),
    Refusal("the participant is too long", writing("participant.txt", b"x" * 201), ParticipantInvalid, ("201", "200")),
    Refusal("the participant has two lines", writing("participant.txt", b"A\nB"), ParticipantInvalid, ("line break",)),
    Refusal("a listed file is nowhere", removing_a_file, RecordingIncomplete, (CAMERA, "allow_partial")),
    Refusal("a file has another size", changing_content(DAY, grows=True), ContentMismatch, (CAMERA, "501", "500")),
    Refusal("a file still grows", changing_content(0, grows=True), SourceChanged, (CAMERA, "501", "500")),
]
OF_WHAT_IS_THERE = [
    Refusal("the bucket has another size", storing(b"video"), ObjectConflict, (CAMERA, "5 bytes", "500")),
    Refusal("the bucket has other bytes", storing(b"VIDEO" * 100), ObjectConflict, (CAMERA, "SHA-256")),
    Refusal(
        "the bucket has other bytes of a large file",
        storing(b"VIDEO FRAME;" * (9 * 1024**2 // 12)),
        ObjectConflict,
        (CAMERA, "SHA-256"),
        LARGE_FILES,
    ),
    Refusal(
        "the bucket's manifest lists other bytes",
        storing_manifest(FILES | {CAMERA: b"VIDEO" * 100}),
        RecordingConflict,
        (CAMERA, "bucket"),
    ),
    Refusal(
        "the bucket's manifest states another hash",
        lambda lab, directory: (
            stating(recording_hash=recording_hash_of(FILES))(lab, directory),
            storing_manifest(FILES, recording_hash=A_HASH)(lab, directory),
        ),
        RecordingConflict,
        ("recording_hash", "bucket"),
    ),
]


@pytest.fixture(scope="module")
def empty_lab(store_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab for all tests that prove that nothing is ever written to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(store_state / "dagster"))
        yield make_lab(store_state, tmp_path_factory.mktemp("empty_lab"))


@pytest.mark.parametrize("refusal", OF_THE_DIRECTORY, ids=lambda refusal: refusal.name)
def test_nothing_is_written_if(empty_lab: Lab, tmp_path: Path, refusal: Refusal):
    directory = write_recording(tmp_path, REC, refusal.files, participant="Aria Lin")
    refusal.spoil(empty_lab, directory)
    before, source_before = empty_lab.everything(), snapshot(tmp_path)

    with pytest.raises(refusal.error) as caught:
        empty_lab.data.ingest(source_dir=directory)

    _check_told(caught.value, refusal.error, refusal.told)
    assert snapshot(tmp_path) == source_before
    assert empty_lab.everything() == before
    assert empty_lab.objects(REC) == {}


@pytest.mark.parametrize("refusal", OF_WHAT_IS_THERE, ids=lambda refusal: refusal.name)
def test_nothing_is_registered_if(lab: Lab, refusal: Refusal):
    directory = write_recording(lab.nas, REC, refusal.files, participant="Aria Lin")
    refusal.spoil(lab, directory)
    before, source_before = lab.everything(), snapshot(lab.nas)

    with pytest.raises(refusal.error) as caught:
        lab.data.ingest(source_dir=directory)

    _check_told(caught.value, refusal.error, refusal.told)
    assert snapshot(lab.nas) == source_before
    if refusal.error is ObjectConflict:
        _check_only_segments_came(lab, before)
    else:
        assert lab.everything() == before


@pytest.mark.parametrize("age_s, error", [(DAY, ContentMismatch), (0, SourceChanged)], ids=["old", "fresh"])
@pytest.mark.parametrize("files", [FILES, LARGE_FILES], ids=["in one request", "in parts"])
def test_a_digest_that_differs_is_found_while_sending_and_nothing_is_registered(
    lab: Lab, files: dict[str, bytes], age_s: float, error: type[UrsaError]
):
    directory = write_recording(lab.nas, REC, files)
    attested = manifest_of(REC, files)["files"][0]["sha256"]
    changing_content(age_s)(lab, directory)
    before = lab.everything()

    with pytest.raises(error) as caught:
        lab.data.ingest(source_dir=directory)

    _check_told(caught.value, error, (CAMERA, attested))
    _check_only_segments_came(lab, before)
    assert CAMERA not in lab.objects(REC)


def test_every_damaged_file_is_named_and_the_sound_ones_are_not_sent_again(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, age_s=DAY)
    damaged = sorted(FILES)[:2]
    for path in damaged:
        status = (directory / path).stat()
        (directory / path).write_bytes(bytes(len(FILES[path])))
        os.utime(directory / path, ns=(status.st_atime_ns, status.st_mtime_ns))

    for _ in range(2):
        with pytest.raises(ContentMismatch) as caught:
            lab.data.ingest(source_dir=directory)
        _check_told(caught.value, ContentMismatch, tuple(damaged))
        assert set(lab.objects(REC)) == FILES.keys() - set(damaged)

    for path in damaged:
        (directory / path).write_bytes(FILES[path])
    assert lab.data.ingest(source_dir=directory).files_uploaded == len(damaged)


def test_fault_12_a_file_that_grows_while_it_is_sent_is_not_registered(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)

    def grow() -> bool:
        with (directory / CAMERA).open("ab") as stream:
            stream.write(b"more")
        return False

    with pytest.raises(SourceChanged) as caught:
        lab.data.ingest(source_dir=directory, should_pause=grow)

    _check_told(caught.value, SourceChanged, (CAMERA, "Something is still writing"))
    assert lab.data.list_recordings() == []
    assert CAMERA not in lab.objects(REC)


def test_fault_19_a_file_that_becomes_a_link_after_it_was_listed_is_not_followed(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, manifest=False)
    secret = lab.usb / "secret.txt"
    secret.write_bytes(b"s" * len(FILES["mic/seg_0000.wav"]))

    def swap() -> bool:
        (directory / "mic" / "seg_0000.wav").unlink(missing_ok=True)
        (directory / "mic" / "seg_0000.wav").symlink_to(secret)
        return False

    with pytest.raises(SourceChanged) as caught:
        lab.data.ingest(source_dir=directory, should_pause=swap)

    _check_told(caught.value, SourceChanged, ("mic/seg_0000.wav",))
    assert lab.objects(REC) == {}


def test_an_object_with_other_bytes_is_kept_as_it_is(lab: Lab):
    theirs = lab.raw.create(f"recordings/{REC}/{CAMERA}", b"VIDEO" * 100)
    directory = write_recording(lab.nas, REC, FILES)

    with pytest.raises(ObjectConflict):
        lab.data.ingest(source_dir=directory)

    assert lab.objects(REC)[CAMERA] == theirs.etag


def test_other_bytes_never_take_the_place_of_an_object_that_is_gone(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    listed = [{"path": path, "size_bytes": len(content)} for path, content in FILES.items()]
    (directory / "manifest.json").write_text(json.dumps({"recording_id": REC, "files": listed}))
    lab.data.ingest(source_dir=directory)
    lab.raw.multipart_client.delete_object(Bucket=lab.raw.name, Key=f"recordings/{REC}/{CAMERA}")
    before = lab.everything()
    (directory / CAMERA).write_bytes(FILES[CAMERA].upper())

    with pytest.raises(ContentMismatch, match=r"camera_a/seg_0000\.mp4: its SHA-256 is .* had in the bucket was"):
        lab.data.ingest(source_dir=directory)

    assert lab.everything() == before
    (directory / CAMERA).write_bytes(FILES[CAMERA])
    assert lab.data.ingest(source_dir=directory).files_uploaded == 1
    assert lab.data.verify(REC, deep=True).ok


@pytest.mark.parametrize(
    "name",
    ["rec_20260520_195628", "rec_20260520_195628_B1DD", "rec_20261320_195628_b1dd", "rec_20260520_195628_b1dd\n"],
)
def test_a_directory_whose_name_is_no_recording_id_is_refused(lab: Lab, name: str):
    directory = lab.nas / name
    (directory / "mic").mkdir(parents=True)
    (directory / "mic" / "seg_0000.wav").write_bytes(b"audio")
    before = lab.everything()

    with pytest.raises(RecordingIdInvalid, match=name.strip()):
        lab.data.ingest(source_dir=directory)

    assert lab.everything() == before


def test_a_named_manifest_that_does_not_exist_is_refused(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, manifest=False)
    before = lab.everything()

    with pytest.raises(ManifestNotFound) as caught:
        lab.data.ingest(manifest_path=directory / "manifest.json", source_dir=directory)

    _check_told(caught.value, ManifestNotFound, (str(directory / "manifest.json"), "ursa reconstruct"))
    assert lab.everything() == before


def test_the_name_of_a_participant_is_not_repeated(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)

    with pytest.raises(ParticipantInvalid) as caught:
        lab.data.ingest(source_dir=directory, participant="Aria\u0007Lin")

    assert "Aria" not in str(caught.value)
    assert lab.objects(REC) == {}


def test_fault_46_a_copy_under_another_id_is_not_registered(lab: Lab):
    lab.data.ingest(source_dir=write_recording(lab.nas, OTHER_REC, FILES))
    rows = lab.data.list_recordings()

    with pytest.raises(RecordingConflict) as caught:
        lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES))

    _check_told(caught.value, RecordingConflict, (OTHER_REC,))
    assert lab.data.list_recordings() == rows


def test_a_rec_id_that_stands_for_another_stated_hash_is_not_registered(lab: Lab):
    lab.assets.create(f"ursa/catalog/rec_ids/{REC}.json", json.dumps({"recording_hash": A_HASH}).encode())

    with pytest.raises(RecordingConflict) as caught:
        lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES, stated_hash=True))

    _check_told(caught.value, RecordingConflict, (A_HASH, recording_hash_of(FILES)))
    assert lab.data.list_recordings() == []


def test_a_claim_without_an_entry_is_no_conflict_for_a_derived_hash(lab: Lab):
    lab.assets.create(f"ursa/catalog/rec_ids/{REC}.json", json.dumps({"recording_hash": A_HASH}).encode())

    row = lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES)).recording

    assert row is not None
    assert row.recording_hash == A_HASH
    lab.check_invariants()


@pytest.mark.parametrize("roles, error", [((), WritesNotEnabled), (("assets_rw",), RoleNotEnabled)], ids=str)
def test_fault_82_without_the_role_nothing_is_uploaded(lab: Lab, roles: tuple[Any, ...], error: type[UrsaError]):
    directory = write_recording(lab.nas, REC, FILES)
    data = DataInterface(config_path=lab.config)
    if roles:
        data.enable_writes(roles=roles)
    before = lab.everything()

    with pytest.raises(error, match="enable_writes"):
        data.ingest(source_dir=directory)

    assert lab.everything() == before


@pytest.mark.parametrize("wrong", [{"family": "production"}, {"purpose": "assets"}], ids=str)
def test_fault_83_a_bucket_that_says_it_is_another_is_never_written_to(lab: Lab, wrong: dict[str, str]):
    _, info = lab.raw.get("ursa/BUCKET.json")
    lab.raw.replace("ursa/BUCKET.json", json.dumps({"family": "local", "purpose": "raw"} | wrong).encode(), info.etag)
    before = lab.everything()

    with pytest.raises(BucketMismatch, match=lab.raw.name):
        lab.interface()

    assert lab.everything() == before


@pytest.mark.parametrize(
    "document, error",
    [
        ("{", CatalogPointerInvalid),
        ('{"version": 1, "prefix": "elsewhere/catalog", "updated_at": "2026-01-01T00:00:00Z"}', CatalogPointerInvalid),
        ('{"version": 3, "prefix": "ursa/catalog", "updated_at": "2026-01-01T00:00:00Z"}', CatalogVersionUnknown),
    ],
    ids=["malformed", "another prefix", "unknown version"],
)
def test_fault_66_nothing_is_uploaded_for_a_catalog_that_cannot_be_found(
    lab: Lab, document: str, error: type[UrsaError]
):
    _, info = lab.assets.get("ursa/ACTIVE.json")
    lab.assets.replace("ursa/ACTIVE.json", document.encode(), info.etag)
    directory = write_recording(lab.nas, REC, FILES)
    before = lab.everything()

    with pytest.raises(error, match=r"ursa/ACTIVE\.json"):
        lab.interface().ingest(source_dir=directory)

    assert lab.everything() == before


def test_fault_71_nothing_is_uploaded_for_a_catalog_of_a_newer_version(lab: Lab):
    _, info = lab.assets.get("ursa/catalog/CATALOG.json")
    newer = b'{"version": 3, "created_at": "2026-01-01T00:00:00Z"}'
    lab.assets.replace("ursa/catalog/CATALOG.json", newer, info.etag)
    directory = write_recording(lab.nas, REC, FILES)
    before = lab.everything()

    with pytest.raises(CatalogVersionUnknown, match=r"CATALOG\.json"):
        lab.interface().ingest(source_dir=directory)

    assert lab.everything() == before


def _check_told(error: UrsaError, expected: type[UrsaError], told: tuple[str, ...]) -> None:
    assert type(error) is expected
    assert error.recording == REC
    assert str(error).startswith(f"{REC}: ")
    assert str(error).endswith(error.remedy)
    for part in told:
        assert part in str(error)


def _check_only_segments_came(lab: Lab, before: dict[str, str]) -> None:
    """Files that were sent before the refusal may stay, as they are never overwritten; nothing that counts them."""
    after = lab.everything()
    assert {key: etag for key, etag in after.items() if key in before} == before
    came = {key.removeprefix(f"{lab.raw.name}/recordings/{REC}/") for key in after.keys() - before.keys()}
    assert came <= FILES.keys()
    assert lab.data.list_recordings() == []

"""A recording directory on a real disk: what is listed, what is refused, and what changes under our hands."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import threading
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.recordings_on_disk import set_age, write_recording
from ursa_pipelines.errors import (
    RecordingIdInvalid,
    Retryable,
    SourceChanged,
    SourceNotFound,
    SourceRefused,
    SourceUnavailable,
    UrsaError,
)
from ursa_pipelines.recordings.inventory import (
    Inventory,
    SourceFile,
    open_source,
    read_source,
    reading_source,
    take_inventory,
)

REC = "rec_20260520_195628_b1dd"
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "camera_a/seg_0001.mp4": b"more", "mic/seg_0000.wav": b"audio"}
SEGMENT = "mic/seg_0000.wav"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_recording(tmp_path, REC, FILES, participant="Aria Lin")


def refusal(directory: Path, kind: type[UrsaError] = SourceRefused) -> UrsaError:
    """The error that listing the directory raises, fit for a log."""
    with pytest.raises(kind) as caught:
        take_inventory(directory)
    told = str(caught.value)
    assert type(caught.value) is kind
    assert caught.value.recording == REC
    assert told.isprintable()
    assert len(told) < 1000
    return caught.value


def soon(action: Callable[[], Any]) -> Any:
    """What `action` returns or raises; a failure, not a hanging test, if it blocks."""
    outcome: list[Any] = []

    def act() -> None:
        try:
            outcome.append(action())
        except UrsaError as error:
            outcome.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(60)
    assert outcome, "it blocks"
    return outcome[0]


def listed(inventory: Inventory, path: str = SEGMENT) -> SourceFile:
    return inventory.files[path]


def read(inventory: Inventory, path: str = SEGMENT) -> bytes:
    with open_source(inventory, listed(inventory, path)) as stream:
        return stream.read()


def forbid(path: Path) -> None:
    """Takes the right to read it away; skips the test for a user, such as root, whom that does not stop."""
    mode = path.stat().st_mode
    path.chmod(0)
    if os.access(path, os.R_OK):
        path.chmod(mode)
        pytest.skip("this user may read everything")


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_segments_are_told_from_what_lies_beside_them(directory: Path) -> None:
    write(directory / "_node_manifests" / "green-motor.json", b"{}")
    inventory = take_inventory(directory)
    assert inventory.rec_id == REC
    assert inventory.directory == directory
    assert {path: file.size for path, file in inventory.files.items()} == {p: len(c) for p, c in FILES.items()}
    assert list(inventory.files) == sorted(FILES)
    assert inventory.manifest is not None
    assert inventory.manifest.path == "manifest.json"
    assert inventory.participant is not None
    assert [file.path for file in inventory.node_manifests] == ["_node_manifests/green-motor.json"]
    assert (inventory.locked, inventory.partial_copies, inventory.ignored) == (False, (), ())
    assert inventory.total_bytes == sum(map(len, FILES.values()))


def test_every_segment_can_be_read(directory: Path) -> None:
    inventory = take_inventory(directory)
    assert {path: read(inventory, path) for path in inventory.files} == FILES
    assert inventory.participant is not None
    assert read_source(inventory, inventory.participant, limit=100) == b"Aria Lin\n"


def test_a_file_at_the_root_is_a_segment(directory: Path) -> None:
    write(directory / "README.md", b"notes")
    assert read(take_inventory(directory), "README.md") == b"notes"


def test_a_relative_path_and_a_trailing_slash_name_the_same_directory(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory.parent)
    assert take_inventory(Path(REC)) == take_inventory(Path(f"./{REC}/")) == take_inventory(directory)


def test_a_directory_must_be_named_after_its_recording(tmp_path: Path) -> None:
    directory = write_recording(tmp_path, "recording-1", FILES)
    with pytest.raises(RecordingIdInvalid):
        take_inventory(directory)


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    assert "does not exist" in str(refusal(tmp_path / REC, SourceNotFound))


@pytest.mark.parametrize("clutter", [(), ("camera_a/.DS_Store", "@eaDir/x")], ids=["empty", "only clutter"])
def test_fault_10_a_directory_without_files_is_an_error(tmp_path: Path, clutter: tuple[str, ...]) -> None:
    (tmp_path / REC / "camera_a").mkdir(parents=True)
    for path in clutter:
        write(tmp_path / REC / path)
    assert "holds no files" in str(refusal(tmp_path / REC, SourceNotFound))


def test_fault_12_a_file_that_grew_after_it_was_listed_is_told(directory: Path) -> None:
    inventory = take_inventory(directory)
    with (directory / SEGMENT).open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(SourceChanged) as caught:
        read(inventory)
    assert caught.value.place == SEGMENT
    assert isinstance(caught.value, Retryable)


def test_fault_12_a_file_that_grows_while_it_is_read_is_told(directory: Path) -> None:
    inventory = take_inventory(directory)
    with pytest.raises(SourceChanged), open_source(inventory, listed(inventory)) as stream:
        assert stream.read() == FILES[SEGMENT]
        with (directory / SEGMENT).open("ab") as writer:
            writer.write(b"more")


def test_a_file_larger_than_its_limit_is_not_read(directory: Path) -> None:
    os.truncate(directory / "participant.txt", 1 << 40)
    inventory = take_inventory(directory)
    assert inventory.participant is not None
    with pytest.raises(SourceRefused, match=r"participant\.txt: it has 1,099,511,627,776 bytes; at most 100 are read"):
        read_source(inventory, inventory.participant, limit=100)


def test_a_file_as_large_as_its_limit_is_read(directory: Path) -> None:
    inventory = take_inventory(directory)
    assert inventory.participant is not None
    assert read_source(inventory, inventory.participant, limit=inventory.participant.size) == b"Aria Lin\n"
    with pytest.raises(SourceRefused):
        read_source(inventory, inventory.participant, limit=inventory.participant.size - 1)


def test_what_the_system_cannot_open_is_unavailable(directory: Path, tmp_path: Path) -> None:
    inventory = take_inventory(directory)
    unopenable = replace(listed(inventory), disk_path=f"mic/{'x' * 5000}")
    with pytest.raises(SourceUnavailable), open_source(inventory, unopenable):
        pass
    assert "could not be read" in str(refusal(tmp_path.joinpath(*["x" * 200] * 50, REC), SourceUnavailable))


def test_fault_13_a_file_that_shrank_is_told(directory: Path) -> None:
    inventory = take_inventory(directory)
    os.truncate(directory / SEGMENT, 2)
    with pytest.raises(SourceChanged):
        read(inventory)


def test_fault_14_a_file_that_was_rewritten_in_the_same_size_is_told(directory: Path) -> None:
    inventory = take_inventory(directory)
    (directory / SEGMENT).write_bytes(bytes(len(FILES[SEGMENT])))
    assert (directory / SEGMENT).stat().st_size == listed(inventory).size
    with pytest.raises(SourceChanged):
        read(inventory)


def test_a_file_that_another_was_renamed_over_is_told(directory: Path, tmp_path: Path) -> None:
    inventory = take_inventory(directory)
    twin = write(tmp_path / "twin", FILES[SEGMENT])
    os.utime(twin, ns=(listed(inventory).mtime_ns, listed(inventory).mtime_ns))
    twin.rename(directory / SEGMENT)
    assert (directory / SEGMENT).stat().st_mtime_ns == listed(inventory).mtime_ns
    with pytest.raises(SourceChanged):
        read(inventory)


@pytest.mark.parametrize("path", [SEGMENT, "mic"], ids=["file", "directory"])
def test_what_vanished_after_it_was_listed_is_told(directory: Path, path: str) -> None:
    inventory = take_inventory(directory)
    (directory / path).rename(directory / "gone")
    with pytest.raises(SourceChanged, match="vanished or was replaced"):
        read(inventory)


def test_an_error_while_reading_goes_before_the_comparison_after_it(directory: Path) -> None:
    inventory = take_inventory(directory)
    with pytest.raises(ZeroDivisionError), open_source(inventory, listed(inventory)):
        os.truncate(directory / SEGMENT, 0)
        raise ZeroDivisionError


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENOTCONN], ids=errno.errorcode.get)
def test_fault_9_a_drive_that_fails_while_a_file_is_read_is_unavailable(directory: Path, code: int) -> None:
    inventory = take_inventory(directory)
    with (
        pytest.raises(SourceUnavailable) as caught,
        open_source(inventory, listed(inventory)),
        reading_source(REC, SEGMENT),
    ):
        raise OSError(code, os.strerror(code))
    assert caught.value.place == SEGMENT
    assert "the drive failed" in str(caught.value)


def link_to_a_file(directory: Path, outside: Path) -> None:
    (directory / "mic" / "link").symlink_to(write(outside / "secret"))


def link_to_a_directory(directory: Path, outside: Path) -> None:
    outside.mkdir()
    (directory / "mic" / "link").symlink_to(outside, target_is_directory=True)


def link_to_itself(directory: Path, outside: Path) -> None:
    (directory / "mic" / "link").symlink_to("link")


def link_to_the_recording(directory: Path, outside: Path) -> None:
    (directory / "mic" / "link").symlink_to("..", target_is_directory=True)


def link_to_nothing(directory: Path, outside: Path) -> None:
    (directory / "mic" / "link").symlink_to("nowhere")


def link_within_the_recording(directory: Path, outside: Path) -> None:
    (directory / "mic" / "link").symlink_to("seg_0000.wav")


@pytest.mark.parametrize(
    "make",
    [
        link_to_a_file,
        link_to_a_directory,
        link_to_itself,
        link_to_the_recording,
        link_to_nothing,
        link_within_the_recording,
    ],
)
def test_fault_17_a_symbolic_link_is_refused(
    directory: Path, tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    make(directory, tmp_path / "outside")
    error = refusal(directory)
    assert error.place == "mic/link"
    assert "it is a symbolic link" in str(error)


@pytest.mark.parametrize("name", ["manifest.json", "participant.txt", "session.lock", "_node_manifests"])
def test_fault_17_a_symbolic_link_for_bookkeeping_is_refused(directory: Path, tmp_path: Path, name: str) -> None:
    (directory / name).unlink(missing_ok=True)
    (directory / name).symlink_to(write(tmp_path / "secret"))
    assert refusal(directory).place == name


@pytest.mark.parametrize("ending", ["", "/"])
def test_fault_17_a_directory_given_as_a_symbolic_link_is_refused(directory: Path, tmp_path: Path, ending: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / REC
    link.symlink_to(directory, target_is_directory=True)
    assert "it is a link or a file" in str(refusal(Path(f"{link}{ending}")))


def test_a_file_given_as_directory_is_refused(tmp_path: Path) -> None:
    assert "it is a link or a file" in str(refusal(write(tmp_path / REC)))


def test_links_in_the_way_to_the_recording_are_the_operators_affair(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "mounted").symlink_to(directory.parent, target_is_directory=True)
    assert take_inventory(tmp_path / "mounted" / REC).files.keys() == FILES.keys()


def test_fault_18_a_fifo_is_refused_without_blocking(directory: Path) -> None:
    os.mkfifo(directory / "mic" / "pipe")
    error = soon(lambda: take_inventory(directory))
    assert isinstance(error, SourceRefused)
    assert (error.place, error.problem) == ("mic/pipe", "it is a FIFO")


def test_fault_18_a_file_that_became_a_fifo_is_told_without_blocking(directory: Path) -> None:
    inventory = take_inventory(directory)
    (directory / SEGMENT).unlink()
    os.mkfifo(directory / SEGMENT)
    assert isinstance(soon(lambda: read(inventory)), SourceChanged)


def test_fault_18_a_socket_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory / "mic")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert refusal(directory).problem == "it is a socket"


def test_fault_18_a_device_is_refused(directory: Path) -> None:
    try:
        os.mknod(directory / "mic" / "null", 0o020666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    assert refusal(directory).problem == "it is a device"


def test_fault_19_a_file_swapped_for_a_link_to_its_copy_is_told(directory: Path, tmp_path: Path) -> None:
    inventory = take_inventory(directory)
    (directory / SEGMENT).rename(tmp_path / "moved")
    (directory / SEGMENT).symlink_to(tmp_path / "moved")
    with pytest.raises(SourceChanged):
        read(inventory)


def test_fault_19_a_directory_swapped_for_a_link_to_itself_is_told(directory: Path, tmp_path: Path) -> None:
    inventory = take_inventory(directory)
    (directory / "mic").rename(tmp_path / "moved")
    (directory / "mic").symlink_to(tmp_path / "moved", target_is_directory=True)
    with pytest.raises(SourceChanged):
        read(inventory)


def test_fault_19_a_recording_swapped_for_a_link_to_itself_is_told(directory: Path, tmp_path: Path) -> None:
    inventory = take_inventory(directory)
    directory.rename(tmp_path / "moved")
    directory.symlink_to(tmp_path / "moved", target_is_directory=True)
    with pytest.raises(SourceRefused):
        read(inventory)


def test_fault_20_a_hard_link_is_a_file_like_any_other(directory: Path, tmp_path: Path) -> None:
    os.link(write(tmp_path / "outside", b"twice"), directory / "mic" / "hard.wav")
    assert read(take_inventory(directory), "mic/hard.wav") == b"twice"


def test_fault_21_clutter_is_ignored_and_counted(directory: Path) -> None:
    clutter = [".DS_Store", "._manifest.json", "camera_a/._seg_0000.mp4", "desktop.ini", "mic/Thumbs.db"]
    for path in clutter:
        write(directory / path)
    for path in ("@eaDir/x.jpg", "mic/@eaDir/y/z.jpg", ".Trashes/501/old.mp4", ".fseventsd/0", ".Spotlight-V100/s/t"):
        write(directory / path)
    inventory = take_inventory(directory)
    assert inventory.files.keys() == FILES.keys()
    assert inventory.ignored == tuple(
        sorted([*clutter, "@eaDir/", "mic/@eaDir/", ".Trashes/", ".fseventsd/", ".Spotlight-V100/"])
    )


def test_fault_21_clutter_does_not_change_the_fingerprint(directory: Path) -> None:
    before = take_inventory(directory).fingerprint
    write(directory / "mic" / ".DS_Store", b"x" * 4096)
    assert take_inventory(directory).fingerprint == before


def test_fault_21_what_is_ignored_may_be_a_link_for_it_is_never_opened(directory: Path) -> None:
    (directory / "mic" / "._link").symlink_to("/etc/passwd")
    (directory / "@eaDir").symlink_to("/etc", target_is_directory=True)
    assert take_inventory(directory).ignored == ("@eaDir", "mic/._link")


@pytest.mark.parametrize("name", ["._camera", "Thumbs.db", ".DS_Store", "camera.tmp", "camera.part"])
def test_fault_21_data_in_a_directory_that_is_only_named_like_a_clutter_file_is_kept(
    directory: Path, name: str
) -> None:
    write(directory / name / "seg_0000.mp4", b"kept")
    assert read(take_inventory(directory), f"{name}/seg_0000.mp4") == b"kept"


def test_fault_22_an_empty_file_is_a_file(directory: Path) -> None:
    write(directory / "mic" / "empty.wav", b"")
    inventory = take_inventory(directory)
    assert listed(inventory, "mic/empty.wav").size == 0
    assert read(inventory, "mic/empty.wav") == b""


def test_fault_23_a_sparse_terabyte_is_listed_by_its_size(directory: Path) -> None:
    try:
        os.truncate(write(directory / "mic" / "sparse.wav"), 1 << 40)
    except OSError:
        pytest.skip("this file system has no files of 1 TiB")
    assert take_inventory(directory).total_bytes == (1 << 40) + sum(map(len, FILES.values()))


@pytest.fixture
def deep(directory: Path) -> Iterator[Callable[[int], Path]]:
    """Makes directories one in another below the recording, deeper than a path or a recursion can go."""

    def make(levels: int) -> Path:
        parent = os.open(directory, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir("d", dir_fd=parent)
            child = os.open("d", os.O_RDONLY, dir_fd=parent)
            os.close(parent)
            parent = child
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=parent))
        os.close(parent)
        return directory

    yield make
    subprocess.run([shutil.which("rm") or "rm", "-rf", str(directory)], check=True)


def test_fault_24_a_tree_of_10000_levels_is_refused(deep: Callable[[int], Path]) -> None:
    error = refusal(deep(10_000))
    assert "more than 32 levels deep" in str(error)
    assert (error.place or "").startswith("d/d/d")


@pytest.mark.parametrize("levels", [32, 33])
def test_fault_24_a_file_deeper_than_32_levels_is_refused(deep: Callable[[int], Path], levels: int) -> None:
    assert "more than 32 levels deep" in str(refusal(deep(levels)))


def test_fault_24_a_file_32_levels_deep_is_listed(deep: Callable[[int], Path]) -> None:
    assert "/".join("d" * 31) + "/file" in take_inventory(deep(31)).files


def test_fault_24_thousands_of_files_and_directories_are_listed(directory: Path) -> None:
    for worker in range(50):
        (directory / f"camera_{worker}").mkdir(exist_ok=True)
        for segment in range(60):
            (directory / f"camera_{worker}" / f"{segment}.mp4").touch()
    assert len(take_inventory(directory).files) == 50 * 60 + len(FILES)


@pytest.mark.parametrize("path", [SEGMENT, "participant.txt"])
def test_fault_26_an_unreadable_file_is_refused_by_name(directory: Path, path: str) -> None:
    forbid(directory / path)
    inventory = take_inventory(directory)
    file = inventory.files.get(path) or inventory.participant
    assert file is not None
    with pytest.raises(SourceRefused, match="it may not be read") as caught, open_source(inventory, file):
        pass
    assert caught.value.place == path


def test_fault_26_an_unreadable_directory_is_refused_by_name(directory: Path) -> None:
    forbid(directory / "mic")
    try:
        error = refusal(directory)
    finally:
        (directory / "mic").chmod(0o755)
    assert (error.place or "").startswith("mic")
    assert "right to read" in error.remedy


def test_fault_27_a_file_that_no_manifest_lists_is_kept(directory: Path) -> None:
    write(directory / "eeg_4559" / "seg_0000.edf", b"eeg")
    assert read(take_inventory(directory), "eeg_4559/seg_0000.edf") == b"eeg"


def test_fault_29_the_source_is_left_as_it_was_and_may_be_read_only(directory: Path) -> None:
    tree = [directory, *directory.rglob("*")]
    for path in tree:
        path.chmod(0o555 if path.is_dir() else 0o444)

    def state() -> dict[Path, tuple[int, ...]]:
        return {
            path: (s.st_mode, s.st_ino, s.st_nlink, s.st_uid, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
            for path, s in ((path, path.lstat()) for path in [directory, *directory.rglob("*")])
        }

    before = state()
    try:
        inventory = take_inventory(directory)
        assert {path: read(inventory, path) for path in inventory.files} == FILES
        assert state() == before
    finally:
        for path in tree:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_fault_35_a_name_in_nfd_on_disk_is_recorded_in_nfc_and_read(directory: Path) -> None:
    nfc = "kamera_\u00fc/\u00e9t\u00e9.mp4"
    nfd = unicodedata.normalize("NFD", nfc)
    write(directory / nfd, b"summer")
    inventory = take_inventory(directory)
    assert nfc in inventory.files
    assert nfd not in inventory.files
    assert read(inventory, nfc) == b"summer"
    assert take_inventory(directory).files[nfc].disk_path in {nfc, nfd}


def test_fault_35_one_name_in_nfc_and_in_nfd_is_refused(directory: Path) -> None:
    write(directory / "mic" / "\u00e9")
    if (directory / "mic" / "e\u0301").exists():
        pytest.skip("this file system takes both for one")
    write(directory / "mic" / "e\u0301")
    assert "the names 'mic/\u00e9' and 'mic/\u00e9' collide" in str(refusal(directory))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mic/A", "mic/a"),
        ("mic/k", "mic/\uff2b"),
        ("mic/\u00df", "mic/SS"),
        ("mic/\ufb01", "mic/fi"),
        ("Mic/x", "mic/X"),
    ],
)
def test_fault_36_names_that_collide_are_refused(directory: Path, one: str, other: str) -> None:
    write(directory / one)
    if (directory / other).exists():
        pytest.skip("this file system takes both for one")
    write(directory / other)
    told = str(refusal(directory))
    assert "collide" in told
    assert all(f"'{path}'" in told for path in (one, other))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("new\nline", "U+000A"),
        ("bell\x07", "U+0007"),
        ("\x1b[31mred", "U+001B"),
        ("\u202e4pm.exe", "U+202E"),
        ("a\u2066b", "U+2066"),
        ("a\u200bb", "U+200B"),
        ("a\u00adb", "U+00AD"),
        ("a\ufe0fb", "U+FE0F"),
        ("back\\slash", "holds a backslash"),
        ("..\\..\\x", "holds a backslash"),
        ("C:x", "holds a drive letter"),
    ],
)
@pytest.mark.parametrize("below", ["", "x"], ids=["file", "directory"])
def test_fault_37_an_unsafe_name_is_refused(directory: Path, name: str, says: str, below: str) -> None:
    write(directory / "mic" / name / below if below else directory / "mic" / name)
    error = refusal(directory)
    assert says in str(error)
    assert (error.place or "").startswith("mic/")


@pytest.mark.parametrize("name", [b"\xff\xfe.wav", b"caf\xe9", b"\xed\xa0\x80"])
def test_fault_34_a_name_that_is_no_utf_8_is_refused(directory: Path, name: bytes) -> None:
    try:
        os.close(os.open(os.fsencode(directory / "mic") + b"/" + name, os.O_CREAT | os.O_WRONLY))
    except OSError:
        pytest.skip("this file system has no such names")
    error = refusal(directory)
    assert "unpaired surrogate" in str(error)
    assert str(error).isascii()


def test_fault_38_a_key_of_more_than_1024_bytes_is_refused(directory: Path) -> None:
    write(directory / "/".join(["x" * 200] * 5))
    assert "key of more than 1024 bytes" in str(refusal(directory))


@pytest.mark.parametrize("name", ["Manifest.json", "MANIFEST.JSON", "Participant.txt", "Session.Lock"])
def test_bookkeeping_in_other_letters_is_refused(tmp_path: Path, name: str) -> None:
    directory = write_recording(tmp_path, REC, FILES, manifest=False)
    write(directory / name)
    if (directory / name.lower()).exists():
        pytest.skip("this file system takes both for one")
    error = refusal(directory)
    assert error.place == name
    assert "reserved" in str(error)


@pytest.mark.parametrize(
    "name",
    [
        "_node_manifests/readme.md",
        "_node_manifests/a/b.json",
        "_node_manifests/.json",
        "_node_manifests/.green.json",
        "_node_manifests/green mantis.json",
        "_node_manifests/\u202egreen.json",
        "_node_manifests/gr\u00fcn.json",
        f"_node_manifests/{'g' * 100}.json",
        "_node_participants/green.json",
        "_node_participants/a/b.txt",
        "_Node_Manifests/green.json",
    ],
)
def test_a_file_that_has_no_place_among_the_nodes_bookkeeping_is_refused(directory: Path, name: str) -> None:
    write(directory / name)
    assert (refusal(directory).place or "").startswith("_")


def test_bookkeeping_that_came_back_from_the_bucket_is_no_segment(directory: Path) -> None:
    before = take_inventory(directory)
    names = ["green.json", "green.0123abcd.json", "unnamed.json"]
    for name in names:
        write(directory / "_node_manifests" / name)
        write(directory / "_node_participants" / name.replace(".json", ".txt"))
    inventory = take_inventory(directory)
    assert inventory.files == before.files
    assert [file.path for file in inventory.node_manifests] == sorted(f"_node_manifests/{name}" for name in names)
    assert len(inventory.node_participants) == 3
    assert inventory.fingerprint != before.fingerprint


def test_unfinished_copies_are_named_and_are_no_segments(directory: Path) -> None:
    partial = ["camera_a/a.mp4.part", "camera_a/b.PARTIAL", "manifest.json.tmp", "mic/c.crdownload"]
    for path in partial:
        write(directory / path)
    inventory = take_inventory(directory)
    assert inventory.partial_copies == tuple(sorted(partial))
    assert inventory.files.keys() == FILES.keys()


def test_a_session_lock_is_seen_and_is_no_segment(directory: Path) -> None:
    write(directory / "session.lock", b"")
    inventory = take_inventory(directory)
    assert inventory.locked
    assert inventory.files.keys() == FILES.keys()


def test_a_session_lock_alone_is_a_recording_that_begins(tmp_path: Path) -> None:
    write(tmp_path / REC / "session.lock", b"")
    inventory = take_inventory(tmp_path / REC)
    assert inventory.locked
    assert not inventory.files


def test_the_fingerprint_stays_while_nothing_changes_and_has_no_names(directory: Path) -> None:
    inventory = take_inventory(directory)
    assert take_inventory(directory).fingerprint == inventory.fingerprint
    assert inventory.fingerprint == f"{len(FILES) + 2}-{inventory_bytes(directory)}-{inventory.newest_mtime_ns}"


def inventory_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def grow(directory: Path) -> None:
    with (directory / SEGMENT).open("ab") as stream:
        stream.write(b"more")


def touch(directory: Path) -> None:
    os.utime(directory / SEGMENT)


def add(directory: Path) -> None:
    write(directory / "mic" / "seg_0001.wav", b"")
    set_age(directory, 7200)


def remove(directory: Path) -> None:
    (directory / SEGMENT).unlink()


def name_the_participant(directory: Path) -> None:
    (directory / "participant.txt").write_text("Björn Ek\n")


@pytest.mark.parametrize("change", [grow, touch, add, remove, name_the_participant])
def test_the_fingerprint_changes_when_the_directory_does(directory: Path, change: Callable[[Path], None]) -> None:
    before = take_inventory(directory).fingerprint
    change(directory)
    assert take_inventory(directory).fingerprint != before


def test_no_descriptor_is_left_open(directory: Path) -> None:
    before = sum(1 for _ in Path("/dev/fd").iterdir())
    inventory = take_inventory(directory)
    read(inventory)
    (directory / SEGMENT).unlink()
    with pytest.raises(SourceChanged):
        read(inventory)
    (directory / SEGMENT).symlink_to("x")
    refusal(directory)
    assert sum(1 for _ in Path("/dev/fd").iterdir()) == before

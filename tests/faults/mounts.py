"""A drive that fails on demand: a pass-through file system whose every access is first put to the test.

The file system is a process of its own (this file, run as a script), so that it can die, and so that a read that
hangs hangs as one on a NAS does: in the kernel, until it is answered or its process is killed. It shows a directory
as it is, refuses whatever would change it, and keeps nothing in a cache.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import secrets
import select
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

_HANG_SECONDS = 120
_LOOK_SECONDS = 0.02
_OPTIONS = {"foreground": True, "attr_timeout": 0.0, "entry_timeout": 0.0, "direct_io": True, "use_ino": True}
_CHANGING = (
    *("chmod", "chown", "create", "fallocate", "link", "mkdir", "mknod", "removexattr", "rename", "rmdir"),
    *("setxattr", "symlink", "truncate", "unlink", "utimens", "write"),
)


@dataclass(frozen=True)
class Access:
    """What somebody wants of the drive: to `stat`, `list`, `open`, `read` or `change` something.

    `path` is relative to the drive. `offset` and `size` are the bytes that are wanted of a `read`.
    """

    kind: str
    path: str
    offset: int = 0
    size: int = 0


@dataclass(frozen=True)
class Answer:
    """What becomes of an access: an `error`, bytes of which the one at `flip` is wrong, or `at_most` so many bytes."""

    error: int = 0
    flip: int | None = None
    at_most: int | None = None


class Fault:
    """What happens at each access. This one: nothing. It may be asked by several threads."""

    def at(self, access: Access) -> Answer | None: ...


class Fails(Fault):
    """The whole drive gives this error, as after its cable was pulled."""

    def __init__(self, error: int) -> None:
        self._answer = Answer(error=error)

    def at(self, access: Access) -> Answer:
        return self._answer


class Trickles(Fault):
    """A read gives at most so many bytes."""

    def __init__(self, at_most: int) -> None:
        self._answer = Answer(at_most=at_most)

    def at(self, access: Access) -> Answer:
        return self._answer


class Upon(Fault):
    """Does `deed`, which may answer, before the access is made: an `open` of the file, or a `read` of byte `offset`.

    It is the `nth` such access, and `times - 1` more. `happened` tells how often it was done.
    """

    def __init__(
        self,
        kind: str,
        path: str,
        deed: Callable[[], Answer | None],
        *,
        offset: int = 0,
        nth: int = 1,
        times: int = 1,
    ) -> None:
        self._kind, self._path, self._deed, self._offset = kind, path, deed, offset
        self._wanted, self._count, self._lock = range(nth, nth + times), 0, threading.Lock()
        self.happened = 0

    def at(self, access: Access) -> Answer | None:
        with self._lock:
            if access.kind != self._kind or access.path != self._path or not self._reaches(access):
                return None
            self._count += 1
            if self._count not in self._wanted:
                return None
            self.happened += 1
        return self._deed()

    def _reaches(self, access: Access) -> bool:
        return access.kind != "read" or access.offset <= self._offset < access.offset + access.size


class Hangs(Upon):
    """Every such access hangs, from the `nth` on, until it is `released`."""

    def __init__(self, path: str, *, kind: str = "read", offset: int = 0, nth: int = 1) -> None:
        super().__init__(kind, path, self._hang, offset=offset, nth=nth, times=1000)
        self.reached, self.released = threading.Event(), threading.Event()

    def _hang(self) -> None:
        self.reached.set()
        self.released.wait(_HANG_SECONDS)


class Mount:
    """`source` seen through the mount point `point`. The test sets `fault` and reads what would have been `changes`."""

    def __init__(self, source: Path, point: Path, *, read_only: bool = False) -> None:
        self.source, self.point, self.fault = source, point, Fault()
        self.changes: list[Access] = []
        self.mishaps: list[BaseException] = []
        self._options = ["ro"] if read_only else []
        self._process: subprocess.Popen[bytes] | None = None
        self._questions = _Questions(self)
        point.mkdir(exist_ok=True)
        self.mount()

    def mount(self) -> None:
        """Mounts the drive, again if it was mounted before; what is still open there from before is cut off."""
        self._end()
        command = [sys.executable, __file__, str(self.source), str(self.point), self._questions.address, *self._options]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"mounted\n":
            raise RuntimeError(f"{self.point} could not be mounted")

    def die(self) -> None:
        """The file system's process is gone without a word: every access to the drive gives ENOTCONN."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def unmount(self) -> None:
        """Leaves an empty directory. What is open stays so, as with `umount --lazy`."""
        if self.is_mounted():
            subprocess.run(["fusermount3", "-u", "-z", str(self.point)], check=True)

    def is_mounted(self) -> bool:
        """Whether the kernel has the mount, alive or dead. The drive is not asked."""
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
        points = [line.split()[1].replace("\\040", " ") for line in mounts.splitlines()]
        return str(self.point) in points

    def close(self) -> None:
        """Unmounts the drive and ends its process. Raises what went wrong in a deed of a fault."""
        try:
            self._end()
        finally:
            self._questions.shutdown()
            self._questions.server_close()
        for mishap in self.mishaps:
            raise mishap

    def _end(self) -> None:
        try:
            self.unmount()
        finally:
            if self._process is not None:
                self._process.kill()
                self._process.communicate()

    def at(self, access: Access) -> Answer:
        """What the file system's process is told of an access."""
        if access.kind == "change":
            self.changes.append(access)
            return Answer(error=errno.EROFS)
        try:
            return self.fault.at(access) or Answer()
        except BaseException as mishap:  # noqa: BLE001 - raised by `close`; whoever waits for the drive must go on
            self.mishaps.append(mishap)
            return Answer(error=errno.EIO)


@contextmanager
def sized_disk(point: Path, size: str) -> Iterator[Path]:
    """A file system of its own at `point`, with so much room as `mount` takes it, such as 16m. Skips unless root."""
    import pytest

    point.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root mounts a file system of a given size")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


@contextmanager
def mounted(source: Path, point: Path, *, read_only: bool = False) -> Iterator[Mount]:
    """`source` mounted at `point` for the block; skips the test where that is not possible."""
    import pytest

    if find_library("fuse3") is None or shutil.which("fusermount3") is None:
        pytest.skip("libfuse3 or its fusermount3 is not installed")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("this user cannot use /dev/fuse")
    mount = Mount(source, point, read_only=read_only)
    try:
        yield mount
    finally:
        mount.close()


class _Questions(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, mount: Mount) -> None:
        # An abstract address has no length limit to run into below a long temporary directory.
        self.address = f"ursa-drive-{secrets.token_hex(8)}"
        super().__init__(f"\0{self.address}", _Answers)
        self.mount = mount
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


class _Answers(socketserver.StreamRequestHandler):
    server: _Questions

    def handle(self) -> None:
        for line in self.rfile:
            answer = self.server.mount.at(Access(**json.loads(line)))
            try:
                self.wfile.write(json.dumps(asdict(answer)).encode() + b"\n")
            except OSError:
                # Whoever asked was interrupted, or is dead.
                return


class _Asking:
    """The drive's side: asks the test about an access, and gives up if the one who wants it was killed."""

    def __init__(self, address: str) -> None:
        self._address, self._idle = f"\0{address}", SimpleQueue[socket.socket]()
        self._interrupted = ctypes.CDLL(find_library("fuse3")).fuse_interrupted

    def about(self, kind: str, path: str, offset: int = 0, size: int = 0) -> Answer:
        """The answer, if it is no error: those are raised."""
        asked = json.dumps(asdict(Access(kind, path.lstrip("/"), offset, size))).encode() + b"\n"
        try:
            connection = self._idle.get_nowait()
        except Empty:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(self._address)
        connection.sendall(asked)
        told = b""
        while not told.endswith(b"\n"):
            if not select.select([connection], [], [], _LOOK_SECONDS)[0]:
                if self._interrupted():
                    connection.close()
                    raise OSError(errno.EINTR, "interrupted")
                continue
            received = connection.recv(4096)
            if not received:
                raise OSError(errno.EIO, "nobody answers")
            told += received
        self._idle.put(connection)
        answer = Answer(**json.loads(told))
        if answer.error:
            raise OSError(answer.error, os.strerror(answer.error))
        return answer


def _serve(source: str, point: str, address: str, *options: str) -> None:
    """Mounts and serves until unmounted, or until the process that started this one is gone."""
    import mfusepy

    asking = _Asking(address)

    class PassThrough(mfusepy.Operations):
        use_ns = True

        def init(self, path: str) -> None:
            print("mounted", flush=True)

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            asking.about("stat", path)
            status = os.lstat(source + path)
            names = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blocks")
            times = {name: getattr(status, f"{name}_ns") for name in ("st_atime", "st_mtime", "st_ctime")}
            return times | {name: getattr(status, name) for name in names}

        def opendir(self, path: str) -> int:
            asking.about("open", path)
            return 0

        def readdir(self, path: str, fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
            asking.about("list", path)
            for entry in os.scandir(source + path):
                status = entry.stat(follow_symlinks=False)
                yield entry.name, {"st_mode": status.st_mode, "st_ino": status.st_ino}, 0

        def readlink(self, path: str) -> str:
            return str(Path(source + path).readlink())

        def open(self, path: str, flags: int) -> int:
            asking.about("change" if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC) else "open", path)
            return os.open(source + path, os.O_RDONLY | os.O_NOFOLLOW)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            answer = asking.about("read", path, offset, size)
            content = bytearray(os.pread(fh, size, offset))
            if answer.flip is not None and offset <= answer.flip < offset + len(content):
                content[answer.flip - offset] ^= 1
            return bytes(content[: answer.at_most])

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

    def refuse(self: PassThrough, path: str, *_: object) -> int:
        asking.about("change", path)
        raise AssertionError("the test allowed a change")

    for name in _CHANGING:
        setattr(PassThrough, name, refuse)

    def end_with_the_test() -> None:
        os.read(sys.stdin.fileno(), 1)
        subprocess.run(["fusermount3", "-u", "-z", point], stderr=subprocess.DEVNULL)
        os._exit(0)

    threading.Thread(target=end_with_the_test, daemon=True).start()
    mfusepy.FUSE(PassThrough(), point, **_OPTIONS, **dict.fromkeys(options, True))
    os._exit(0)


if __name__ == "__main__":
    _serve(*sys.argv[1:])

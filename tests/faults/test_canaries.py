"""Faults 73 to 78, 81 and 87: no key, no token and no name is found where it does not belong, whatever happens.

Each canary is random. One life of a profile passes through every door (`canary_life`), with keys of its own for each
role, and everything that it has left or shown is searched. The keys of the embedded store are none of these: they are
made by it and kept in its private directory (`tests/embedded/test_store.py`).
"""

from __future__ import annotations

import base64
import gzip
import json
import logging
import os
import pickle
import re
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from botocore.exceptions import ClientError

from tests.faults.canaries import Canary, Find, Scanner, make_canary
from tests.faults.figures import record
from tests.faults.guarded_store import HOOK, ROLES, GuardedStore, guarded_store, write_op
from tests.faults.proxy import Proxy
from tests.recordings_on_disk import write_recording
from ursa_pipelines.embedded import media
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.errors import UrsaError
from ursa_pipelines.objects.keys import BUCKET_IDENTITY
from ursa_pipelines.objects.store import Bucket, Endpoint

ROOT = Path(__file__).parents[2]
RECORDINGS = {
    name: f"rec_202605{day + 10}_195628_b1dd"
    for day, name in enumerate(("api", "many", "waits", "bad", "fails", "command", "dagster", "last", "crash"))
}
LIFE_SECONDS = 480
SERVICE_ACCOUNT = "OP_SERVICE_ACCOUNT_TOKEN"

GIVEN_THE_TOKEN = {
    *("op", "cat", "tests.faults.canary_life", "dagster", "dagster._daemon", "dagster_webserver"),
    *("tail", "watch_orphans.py", "file", "fc-list"),
}
"""`op`, whose stand-in here runs `cat`, and what runs it need the token. Those of the second line Dagster starts with
all that it was given itself, and matplotlib, once in each home, `fc-list`.
"""


class Canaries:
    """All that must not be seen: `names` of participants, and the rest, `keys`."""

    def __init__(self) -> None:
        self.roles = {
            role: (make_canary(f"access key id of {role}", "AK{}"), make_canary(f"secret key of {role}", "sk/{}+="))
            for role in ROLES
        }
        self.session_token = make_canary("session token", "FwoG{}//==")
        self.webhook = make_canary("webhook URL", "T0/{}")
        self.service_account = make_canary("OP_SERVICE_ACCOUNT_TOKEN", "ops_{}")
        self.of_rig = make_canary("name in participant.txt", 'Zoë "{}" Ünal')
        self.of_manifest = make_canary("name in a manifest", "Manni {} Müller")
        self.typed = make_canary("name that was typed", "Typed <{}> & Söhne")

    @property
    def names(self) -> list[Canary]:
        return [self.of_rig, self.of_manifest, self.typed]

    @property
    def keys(self) -> list[Canary]:
        pairs = [canary for pair in self.roles.values() for canary in pair]
        return [*pairs, self.session_token, self.webhook, self.service_account]

    @property
    def all(self) -> list[Canary]:
        return [*self.keys, *self.names]


def test_fault_74_and_78_no_canary_is_found_on_any_surface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    canaries = Canaries()
    scanner = Scanner(canaries.all)
    found: dict[str, list[Find]] = {}

    def look(surface: str, find: Callable[[], list[Find]]) -> None:
        searched, scanned = scanner.places, scanner.scanned
        found[surface] = find()
        numbers = {"searched": scanner.places - searched, "bytes": scanner.scanned - scanned}
        record(f"canaries, {surface.replace(',', '')}", leaks=len(found[surface]), **numbers)

    buckets = {"raw": "raw-canaries", "assets": "assets-canaries"}
    environment = _prepare(tmp_path, canaries, buckets)
    with guarded_store(tmp_path / "store", canaries.roles) as store:
        _make_buckets(store, buckets)
        _write_profiles(tmp_path, store, buckets)
        with _looking_at_children(scanner) as seen:
            _live(tmp_path, environment)
        look("what op was started with", lambda: _told_by_op(tmp_path / "told_to_op", scanner))
        look("objects in the buckets", lambda: _in_buckets(store, buckets, scanner))
    found["what children were started with"] = list(seen.finds)
    assert {"weed", "media_reader.py"} <= seen.programs, seen.programs
    counts = json.loads((tmp_path / "out" / "counts.json").read_text())
    assert counts["failures"] >= 11
    assert counts["notices"] >= 6
    assert RECORDINGS["dagster"].encode() in b"".join(
        path.read_bytes() for path in (tmp_path / "home" / ".ursa" / "dagster").rglob("*.db")
    )
    home, state = tmp_path / "home", tmp_path / "home" / ".ursa"
    look("logs, streams, tracebacks, reprs, pickles, report, notices", lambda: _in_what_was_told(tmp_path, scanner))
    served = tmp_path / "out" / "graphql.json"
    assert all(told in served.read_text() for told in (RECORDINGS["dagster"], "nas_sensor", "SENSOR"))
    look("what the webserver answers", lambda: scanner.in_bytes(served.read_bytes(), "GraphQL"))
    look("what Dagster stores", lambda: scanner.in_tree(state / "dagster"))
    look("the state directory", lambda: scanner.in_tree(state, without=_is_below("dagster")))
    look("the working and the home directory", lambda: scanner.in_tree(home, without=_is_below(".ursa")))
    look("temporary directories", lambda: scanner.in_tree(tmp_path / "tmp"))
    look("exported tables", lambda: _in_exports(tmp_path, scanner))
    look(
        "what was downloaded",
        lambda: scanner.in_tree(tmp_path / "downloaded", without=lambda path: path.name in BY_THE_RIG),
    )
    record("canaries", canaries=len(canaries.all), surfaces=len(found))
    told = [f"{surface}: {find.canary} in {find.place}" for surface, finds in found.items() for find in finds]
    assert told == [], "\n".join(told)


BY_THE_RIG = {"participant.txt", "manifest.json"}


def _live(directory: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "tests.faults.canary_life", str(directory)]
    with (directory / "out" / "stdout").open("wb") as out, (directory / "out" / "stderr").open("wb") as err:
        life = subprocess.Popen(command, env=environment, cwd=directory / "home", stdout=out, stderr=err)
    patience = threading.Timer(LIFE_SECONDS, life.kill)
    patience.start()
    end = os.waitid(os.P_PID, life.pid, os.WEXITED | os.WNOWAIT)
    patience.cancel()
    assert life.wait() == -signal.SIGABRT, (directory / "out" / "stderr").read_text()[-3000:]
    # Of a process that dumped its memory the kernel says so.
    assert end is not None
    assert end.si_code == os.CLD_KILLED


def _in_what_was_told(directory: Path, scanner: Scanner) -> list[Find]:
    """All of it, but for two things that only who asks for them gets to see.

    With the local variables of its frames the refusal of a name shows it; with RUST_LOG=debug the library of Delta
    Lake writes access key ids, and no secrets (docs/security.md).
    """
    streams = {"stderr", "served.log"}
    finds = scanner.in_tree(directory / "out", without=lambda path: path.name in {"locals.txt", *streams})
    with_locals = scanner.in_bytes((directory / "out" / "locals.txt").read_bytes(), "locals.txt")
    finds += [find for find in with_locals if not find.canary.startswith("name ")]
    for name in streams:
        lines = (directory / "out" / name).read_bytes().splitlines(keepends=True)
        by_delta = [line for line in lines if b" DEBUG deltalake_aws::storage] " in line]
        finds += scanner.in_bytes(b"".join(line for line in lines if line not in by_delta), name)
        told = scanner.in_bytes(b"".join(by_delta), f"{name}, Delta Lake")
        finds += [find for find in told if not find.canary.startswith("access key id")]
    return finds


def _prepare(directory: Path, canaries: Canaries, buckets: dict[str, str]) -> dict[str, str]:
    """Sources, `op` and an empty home; the environment of whoever lives there."""
    for name in ("out", "tmp", "home/.ursa/dagster", "nas", "vault", "told_to_op"):
        (directory / name).mkdir(parents=True)
    vault = directory / "vault"
    values = {}
    for role, (key, secret) in canaries.roles.items():
        values |= {f"op://Vault/{role}/access_key_id": key.value, f"op://Vault/{role}/secret_access_key": secret.value}
    values["op://Vault/Session/token"] = canaries.session_token.value
    write_op(vault, values, directory / "told_to_op")
    (vault / "webhook_path.txt").write_text(canaries.webhook.value)
    (vault / "typed.txt").write_text(canaries.typed.value)
    for name, rec_id in RECORDINGS.items():
        files = {"camera_a/seg_0000.mp4": media.video("front_0", label=name), "mic/seg_0000.wav": name.encode() * 20}
        if name == "waits":
            files["session.lock"] = b""
        person = canaries.of_rig.value + ("\x07" if name == "bad" else "")
        write_recording(
            directory / "nas", rec_id, files, participant=person, manifest={"participant": canaries.of_manifest.value}
        )
    (directory / "home" / ".ursa" / "dagster" / "dagster.yaml").write_text(
        yaml.safe_dump(
            {
                "telemetry": {"enabled": False},
                "python_logs": {"managed_python_loggers": ["root"], "python_log_level": "DEBUG"},
            }
        )
    )
    life = {"recordings": RECORDINGS, "nas": str(directory / "nas"), "buckets": buckets, "doctor": 0}
    (directory / "life.json").write_text(json.dumps(life))
    return {
        "PATH": f"{vault}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(directory / "home"),
        "TMPDIR": str(directory / "tmp"),
        "DAGSTER_HOME": str(directory / "home" / ".ursa" / "dagster"),
        "OP_SERVICE_ACCOUNT_TOKEN": canaries.service_account.value,
        "RUST_LOG": "debug",
        "LC_ALL": "C.UTF-8",
    }


def _make_buckets(store: GuardedStore, buckets: dict[str, str]) -> None:
    for purpose, name in buckets.items():
        bucket = store.bucket(name)
        bucket.multipart_client.create_bucket(Bucket=name)
        bucket.create(BUCKET_IDENTITY, json.dumps({"family": "local", "purpose": purpose}).encode())


def _write_profiles(directory: Path, store: GuardedStore, buckets: dict[str, str]) -> None:
    """The profile, and others: with a session token that the store refuses, with swapped roles, with an item amiss."""

    def references(role: str) -> dict[str, str]:
        return {part: f"op://Vault/{role}/{part}" for part in ("access_key_id", "secret_access_key")}

    profile = {
        "name": "canaries",
        "family": "local",
        "store": "s3",
        "endpoint": store.url,
        "region": "auto",
        "buckets": buckets,
        "credentials": {role: references(role) for role in ROLES},
        "sources": [{"name": "nas", "path": str(directory / "nas")}],
        "settings": {"quiet_period": 5, "reconstruct_after": 5, "reconstruct_after_bucket": 0},
        "notifications": {"webhook": HOOK, "announce_from": 1},
    }
    token = {"session_token": "op://Vault/Session/token"}
    others = {
        "with_token": {role: references(role) | token for role in ROLES},
        "swapped": {role: {**references(role), "secret_access_key": HOOK} for role in ROLES},
        "broken": {role: references("broken") for role in ROLES},
    }
    (directory / "profile.yaml").write_text(yaml.safe_dump(profile))
    for name, credentials in others.items():
        (directory / f"{name}.yaml").write_text(yaml.safe_dump({**profile, "credentials": credentials}))
    (directory / "life.json").write_text(
        json.dumps({**json.loads((directory / "life.json").read_text()), "store": store.url})
    )


def _in_buckets(store: GuardedStore, buckets: dict[str, str], scanner: Scanner) -> list[Find]:
    """Keys nowhere; names in what the rig wrote, in entries, in the table of participants and in decisions on them."""
    finds, held = [], set()
    for name in buckets.values():
        bucket = store.bucket(name)
        for info in bucket.list_objects(""):
            body, info = bucket.get(info.key)
            finds += scanner.in_text(f"{info}", f"about {name}/{info.key}")
            for find in scanner.in_bytes(body, f"{name}/{info.key}"):
                if find.canary.startswith("name ") and _may_hold_names(info.key):
                    held.add(find.canary)
                else:
                    finds.append(find)
    # Of a search that finds nothing where there is something, nothing could be concluded.
    assert held == {"name in participant.txt", "name in a manifest", "name that was typed"}
    return finds


def _may_hold_names(key: str) -> bool:
    parts = key.split("/")
    return parts[-1] in BY_THE_RIG or parts[0] == "manifests" or bool({"entries", "participants"} & set(parts))


def _in_exports(directory: Path, scanner: Scanner) -> list[Find]:
    """Names in the table of participants only."""
    finds, held = [], set()
    for find in [find for exported in directory.glob("exported*") for find in scanner.in_tree(exported)]:
        if find.canary.startswith("name ") and "/participants." in find.place:
            held.add(find.canary)
        else:
            finds.append(find)
    assert {"name in participant.txt", "name that was typed"} <= held
    return finds


def _is_below(*names: str) -> Callable[[Path], bool]:
    return lambda path: bool(set(names) & set(path.parts))


class Seen:
    """What a watch saw: `programs` that ran, and `finds` in their command lines and environments."""

    def __init__(self) -> None:
        self.programs: set[str] = set()
        self.finds: dict[Find, None] = {}


@contextmanager
def _looking_at_children(scanner: Scanner) -> Iterator[Seen]:
    """Looks at the command line and environment of whatever is started by this process and by those it starts."""
    seen, over = Seen(), threading.Event()

    def look() -> None:
        me, known = psutil.Process(), set()
        while not over.wait(0.05):
            for child in me.children(recursive=True):
                if child in known:
                    continue
                try:
                    parent, command, environment = child.parent(), child.cmdline(), child.environ()
                    started_by = parent.cmdline() if parent else []
                except psutil.Error:
                    continue
                # Between fork and exec it still has the command line of its parent.
                if command and command != started_by:
                    known.add(child)
                    programs = {Path(part).name for part in command}
                    seen.programs |= programs
                    of_ours = bool(GIVEN_THE_TOKEN & programs)
                    seen.finds |= dict.fromkeys(_in_process(scanner, command, environment, of_ours))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _in_process(scanner: Scanner, command: list[str], environment: dict[str, str], of_ours: bool) -> list[Find]:
    """Of the programs that may have the token of the service account nothing but that is let pass."""
    given = {name: value for name, value in environment.items() if not (of_ours and name == SERVICE_ACCOUNT)}
    told = "\0".join([*command, *given, *given.values()])
    return scanner.in_text(told, f"a process {command[:4]}")


def _told_by_op(directory: Path, scanner: Scanner) -> list[Find]:
    finds = []
    for path in directory.iterdir():
        entries = path.read_bytes().split(b"\0")
        if path.suffix == ".environ":
            assert any(entry.startswith(SERVICE_ACCOUNT.encode()) for entry in entries)
            entries = [entry for entry in entries if not entry.startswith(SERVICE_ACCOUNT.encode())]
        finds += scanner.in_bytes(b"\0".join(entries), str(path))
    return finds


def test_fault_75_what_signs_a_request_is_in_no_log_whatever_its_level(proxy: Proxy, caplog: pytest.LogCaptureFixture):
    key, secret, token = (make_canary(name) for name in ("key", "secret", "token"))
    bucket = Bucket("raw", Endpoint(proxy.url, "auto", lambda: (key.value, secret.value, token.value)))
    for name in ("", "botocore", "botocore.auth", "botocore.endpoint", "urllib3"):
        caplog.set_level(logging.DEBUG, logger=name)

    with pytest.raises(UrsaError):
        bucket.evidence("recordings/none")
    with pytest.raises(UrsaError):
        bucket.list_directories("recordings/", start_after="recordings/a")
    with pytest.raises(ClientError):
        bucket.multipart_client.head_object(Bucket="raw", Key="recordings/none")

    sent = [one for one in proxy.seen if one.headers.get("x-amz-security-token") == token.value]
    assert len(sent) >= 2
    assert {"botocore", "urllib3"} <= {one.name.partition(".")[0] for one in caplog.records}
    assert Scanner([key, secret, token]).in_text(caplog.text, "logs") == []


def test_fault_78_the_processes_of_the_embedded_store_are_given_nothing_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    canary = make_canary(SERVICE_ACCOUNT)
    monkeypatch.setenv(SERVICE_ACCOUNT, canary.value)
    store = open_store(tmp_path / ".ursa")
    try:
        started = [process for process in psutil.process_iter() if str(tmp_path) in " ".join(_command_line_of(process))]
        told = {process: "\0".join([*process.cmdline(), *process.environ().values()]) for process in started}
    finally:
        store.release()

    assert len(told) >= 2
    assert [Scanner([canary]).in_text(one, "a process") for one in told.values()] == [[] for _ in told]


def _command_line_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _plant_in_a_log(directory: Path, value: str) -> None:
    handler = logging.FileHandler(directory / "debug.log", encoding="utf-8")
    logger = logging.Logger("planted")
    logger.addHandler(handler)
    logger.debug("sent with %s", {"authorization": value})
    handler.close()


def _plant_in_a_database(directory: Path, value: str) -> None:
    # In a text of this length a page ends there, in the middle of the token.
    length, end_of_page = 5523, 1432
    token = re.search("c[0-9a-f]{18}", value)
    assert token is not None
    before = "x" * (end_of_page - len(value[: token.start()].encode()) - 9)
    text = before + value
    connection = sqlite3.connect(directory / "runs.db")
    connection.execute("CREATE TABLE events (event TEXT)")
    connection.execute("INSERT INTO events VALUES (?)", (text + "x" * (length - len(text.encode())),))
    connection.commit()
    connection.close()
    assert token[0].encode() not in (directory / "runs.db").read_bytes()


def _plant_in_a_pickle(directory: Path, value: str) -> None:
    (directory / "result").write_bytes(pickle.dumps({"batch": [value]}))


def _plant_in_a_wheel(directory: Path, value: str) -> None:
    with zipfile.ZipFile(directory / "some.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("some/settings.py", f"KEY = {value!r}\n" * 10)


def _plant_in_an_sdist(directory: Path, value: str) -> None:
    (directory / "settings").write_text(value)
    with tarfile.open(directory / "some.tar.gz", "w:gz") as sdist:
        sdist.add(directory / "settings", "some/.ursa/settings")
    (directory / "settings").unlink()


def _plant_in_a_table(directory: Path, value: str) -> None:
    table = pa.table({"display_name": [value] * 3})
    pq.write_table(table, directory / "recordings.parquet", compression="zstd", use_dictionary=False)


def _plant_in_a_compressed_file(directory: Path, value: str) -> None:
    (directory / "old.log.gz").write_bytes(gzip.compress(value.encode()))


def _plant_in_a_file_name(directory: Path, value: str) -> None:
    (directory / value.replace("/", "")).touch()


def _plant_written_as(write: Callable[[str], bytes]) -> Callable[[Path, str], None]:
    return lambda directory, value: (directory / "kept").write_bytes(b"before " + write(value) + b" after") and None


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(_plant_in_a_log, id="log"),
        pytest.param(_plant_in_a_database, id="database"),
        pytest.param(_plant_in_a_pickle, id="pickle"),
        pytest.param(_plant_in_a_wheel, id="wheel"),
        pytest.param(_plant_in_an_sdist, id="sdist"),
        pytest.param(_plant_in_a_table, id="table"),
        pytest.param(_plant_in_a_file_name, id="file name"),
        pytest.param(_plant_written_as(lambda value: json.dumps(value).encode()), id="JSON"),
        pytest.param(_plant_written_as(lambda value: quote(value, safe="").encode()), id="URL"),
        pytest.param(_plant_written_as(lambda value: value.encode("utf-16")), id="UTF-16"),
        pytest.param(_plant_written_as(lambda value: base64.b64encode(f"me:{value}".encode())), id="base64"),
        pytest.param(_plant_written_as(lambda value: base64.urlsafe_b64encode(f"a{value}b".encode())), id="base64url"),
        pytest.param(_plant_written_as(lambda value: value.encode().hex().encode()), id="hex"),
        pytest.param(_plant_in_a_compressed_file, id="gzip"),
    ],
)
def test_a_planted_leak_is_found(tmp_path: Path, plant: Callable[[Path, str], None]):
    for canary in Canaries().all:
        directory = tmp_path / canary.name.replace(" ", "_")
        directory.mkdir()
        plant(directory, canary.value)
        assert {find.canary for find in Scanner([*Canaries().all, canary]).in_tree(directory)} == {canary.name}
        record("planted leaks", planted=1, found=1)


def test_a_leak_that_is_planted_in_what_a_child_is_started_with_is_found():
    in_environment, in_command = make_canary("environment"), make_canary("command")
    scanner = Scanner([in_environment, in_command])
    with _looking_at_children(scanner) as seen:
        child = subprocess.Popen(
            [sys.executable, "-c", "input()", in_command.value],
            stdin=subprocess.PIPE,
            env={SERVICE_ACCOUNT: in_environment.value},
        )
        deadline = time.monotonic() + 30
        while len(seen.finds) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        child.communicate(b"\n")

    assert {find.canary for find in seen.finds} == {"environment", "command"}

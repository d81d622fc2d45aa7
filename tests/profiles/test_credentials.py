"""Credentials through `op`, played here by a program on PATH that behaves well, slowly, badly or not at all."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shlex
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ursa_pipelines.errors import CredentialsUnavailable
from ursa_pipelines.profiles import Credential, CredentialSource, load_profile

OpMaker = Callable[[str], Path]

KEY, SECRET = "4f1c2b9a7d3e5f60", "s3cr3t-f3b0c44298fc1c149afbf4c8996fb924"
WELL = f"""
if sys.argv[1:3] != ["read", "--no-newline"]: sys.exit("unknown command")
vault, item, field = sys.argv[3].removeprefix("op://").split("/")
answers = {{"endpoint": "https://account.r2.cloudflarestorage.com"}}
sys.stdout.write(answers.get(field, item + "-{KEY}" if field == "access_key_id" else "{SECRET}").replace(" ", "-"))
"""


@pytest.fixture
def op(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpMaker:
    """Puts a program named `op` first on PATH that appends its arguments to the file returned and runs `body`."""
    directory, calls = tmp_path / "bin", tmp_path / "calls"
    directory.mkdir()

    def make(body: str) -> Path:
        code = tmp_path / "op.py"
        code.write_text(
            "import os, sys, time\n"
            f"with open({str(calls)!r}, 'a') as calls: calls.write(' '.join(sys.argv[1:]) + '\\n')\n{body}"
        )
        program = directory / "op"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -S {shlex.quote(str(code))} "$@"\n')
        program.chmod(0o755)
        return calls

    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return make


def source(timeout: float = 60) -> CredentialSource:
    return CredentialSource(load_profile("r2-test"), timeout)


def failure(timeout: float = 60) -> CredentialsUnavailable:
    with pytest.raises(CredentialsUnavailable) as caught:
        source(timeout).credential("raw_rw")
    told = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert KEY not in told
    assert SECRET not in told
    return caught.value


def test_fault_82_a_role_is_opened_with_its_own_keys(op: OpMaker) -> None:
    op(WELL)
    credentials = source()
    assert credentials.credential("raw_ro") == Credential(f"R2-Testing-raw_ro-{KEY}", SECRET, None)
    assert credentials.credential("assets_rw").access_key_id == f"R2-Testing-assets_rw-{KEY}"
    assert credentials.endpoint() == "https://account.r2.cloudflarestorage.com"


def test_nothing_is_asked_before_first_use_and_only_for_the_role_in_use(op: OpMaker) -> None:
    calls = op(WELL)
    credentials = source()
    assert not calls.exists()
    credentials.credential("assets_ro")
    assert [line.split("/")[-2:] for line in calls.read_text().splitlines()] == [
        ["R2 Testing assets_ro", "access_key_id"],
        ["R2 Testing assets_ro", "secret_access_key"],
    ]


def test_each_value_is_asked_for_once_whatever_the_number_of_threads(op: OpMaker) -> None:
    calls = op(f"time.sleep(0.05)\n{WELL}")
    credentials = source()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: credentials.credential("raw_rw"), range(16)))
    assert len(set(found)) == 1
    assert len(calls.read_text().splitlines()) == 2


def test_after_a_failure_it_is_asked_again(op: OpMaker) -> None:
    op("sys.exit('[ERROR] You are not currently signed in.')")
    credentials = source()
    with pytest.raises(CredentialsUnavailable):
        credentials.credential("raw_rw")
    op(WELL)
    assert credentials.credential("raw_rw").secret_access_key == SECRET


def test_a_slow_op_is_waited_for(op: OpMaker) -> None:
    op(f"time.sleep(0.5)\n{WELL}")
    assert source().credential("raw_rw").secret_access_key == SECRET


def test_fault_84_an_op_that_never_answers_is_given_up(op: OpMaker) -> None:
    op(f"sys.stdout.write('{SECRET}'); sys.stdout.flush(); time.sleep(60)")
    begun = time.monotonic()
    error = failure(timeout=0.5)
    assert time.monotonic() - begun < 10
    assert "0.5 s" in str(error)
    assert "Unlock" in error.remedy


def test_op_gets_no_terminal_to_ask_on(op: OpMaker) -> None:
    op(f"if sys.stdin.read(): sys.exit(1)\n{WELL}")
    assert source().credential("raw_rw").secret_access_key == SECRET


@pytest.mark.parametrize(
    "complaint",
    [
        "[ERROR] 2026/05/20 19:56:28 You are not currently signed in. Please run `op signin --help` for instructions",
        "[ERROR] 2026/05/20 19:56:28 session expired, sign in to create a new session",
        "[ERROR] 2026/05/20 19:56:28 authorization prompt dismissed, please try again",
        "[ERROR] 2026/05/20 19:56:28 error initializing client: 1Password app is locked",
        "No accounts configured for use with 1Password CLI.",
        "[ERROR] 2026/05/20 19:56:28 connecting to desktop app: read: connection reset, make sure it is running",
    ],
)
def test_fault_84_a_locked_op_is_told_apart(op: OpMaker, complaint: str) -> None:
    op(f"sys.exit({complaint!r} + ' {SECRET}')")
    error = failure()
    assert "locked or nobody is signed in" in str(error)
    assert "op signin" in error.remedy


@pytest.mark.parametrize(
    "complaint",
    [
        'could not read secret op://Engineering/R2 Testing raw_rw/id: "R2 Testing raw_rw" isn\'t an item in the vault.',
        'could not get item: "Engineering" isn\'t a vault in this account. Specify the vault with its ID or name.',
        "could not find item R2 Testing raw_rw in vault abcdef",
        "item 'Engineering/R2 Testing raw_rw' does not have a field 'access_key_id'",
    ],
)
def test_an_item_that_does_not_exist_is_told_apart(op: OpMaker, complaint: str) -> None:
    op(f"sys.exit({complaint!r} + ' {SECRET}')")
    error = failure()
    assert "no such vault, item or field" in str(error)
    assert error.place == "op://Engineering/R2 Testing raw_rw/access_key_id"
    assert "Compare the reference" in error.remedy


def test_fault_84_a_missing_op_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    error = failure()
    assert "not installed" in str(error)
    assert "Install the 1Password CLI" in error.remedy


def test_fault_84_an_op_in_the_working_directory_is_never_run(
    op: OpMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = op(WELL)
    monkeypatch.chdir(tmp_path / "bin")
    monkeypatch.setenv("PATH", os.pathsep.join([".", "", "bin"]))
    assert "not installed" in str(failure())
    assert not calls.exists()


def test_any_other_failure_tells_the_exit_code_and_nothing_that_op_said(op: OpMaker) -> None:
    op(f"sys.stdout.write('{SECRET}'); sys.stderr.write('dial tcp: {SECRET}'); sys.exit(7)")
    error = failure()
    assert "exit code 7" in str(error)
    assert "op whoami" in error.remedy
    assert "dial" not in str(error)


def test_an_op_that_is_killed_is_a_failure(op: OpMaker) -> None:
    op("os.kill(os.getpid(), 9)")
    assert "op read" in str(failure())


def test_an_op_that_cannot_be_run_is_a_failure(op: OpMaker, tmp_path: Path) -> None:
    op(WELL)
    (tmp_path / "bin" / "op").write_text("#!/nowhere/interpreter\n")
    assert "cannot be run" in str(failure())


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"\n",
        b"  \t ",
        f"{KEY}\n{SECRET}".encode(),
        f"{KEY}\x00".encode(),
        f"\x1b[1m{KEY}\x1b[0m".encode(),
        f"A new version of op is available {KEY}".encode(),
        f"{KEY}\N{RIGHT-TO-LEFT OVERRIDE}".encode(),
        f"{KEY}é".encode(),
        KEY.encode() + b"\xff",
        KEY.encode() * 1000,
    ],
)
def test_fault_76_an_output_that_is_no_key_is_refused(op: OpMaker, output: bytes) -> None:
    op(f"sys.stdout.buffer.write({output!r})")
    error = failure()
    assert "no key" in str(error)
    assert "one line of text" in error.remedy


def test_fault_76_white_space_around_a_key_is_dropped(op: OpMaker) -> None:
    op(f"print(' {SECRET} ')")
    assert source().credential("raw_rw").secret_access_key == SECRET


@pytest.mark.parametrize(
    "output", [SECRET, f"http://{SECRET}.example.org", f"https://[{SECRET}", f"https://x:{SECRET}"]
)
def test_an_endpoint_from_1password_is_checked_like_one_in_the_profile(op: OpMaker, output: str) -> None:
    op(f"sys.stdout.write({output!r})")
    with pytest.raises(CredentialsUnavailable) as caught:
        source().endpoint()
    assert caught.value.place == "op://Engineering/R2 Testing/endpoint"
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_an_endpoint_in_the_profile_is_given_without_op(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    override = tmp_path / "own.yaml"
    override.write_text("endpoint: https://s3.example.org\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert CredentialSource(load_profile("r2", override)).endpoint() == "https://s3.example.org"


def test_a_session_token_is_read_where_the_profile_names_one(op: OpMaker, tmp_path: Path) -> None:
    op("sys.stdout.write(sys.argv[-1].split('/')[-1])")
    override = tmp_path / "own.yaml"
    override.write_text("credentials: {raw_rw: {session_token: 'op://Vault/Item/token'}}\n")
    credentials = CredentialSource(load_profile("r2", override))
    assert credentials.credential("raw_rw").session_token == "token"
    assert credentials.credential("raw_ro").session_token is None


def test_the_service_account_token_of_an_unattended_host_reaches_op(
    op: OpMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OP_SERVICE_ACCOUNT_TOKEN", "ops_token")
    op("sys.stdout.write(os.environ['OP_SERVICE_ACCOUNT_TOKEN'])")
    assert source().credential("raw_rw").access_key_id == "ops_token"


def test_fault_75_a_credential_is_not_shown_pickled_copied_or_turned_into_json(op: OpMaker) -> None:
    op(WELL)
    credentials = source()
    credential = credentials.credential("raw_rw")
    for shown in (repr(credential), str(credential), f"{credential}", repr(credentials), repr([credential])):
        assert KEY not in shown
        assert SECRET not in shown
    for held in (credential, credentials):
        for way in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps):
            with pytest.raises(TypeError):
                way(held)


def test_fault_78_no_secret_reaches_the_environment_or_a_file(
    op: OpMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    op("sys.stdout.write('only-in-' + 'memory')")
    assert source().credential("raw_rw").secret_access_key == "only-in-memory"
    assert [name for name, value in os.environ.items() if "only-in-memory" in value] == []
    assert [path for path in tmp_path.rglob("*") if path.is_file() and b"only-in-memory" in path.read_bytes()] == []


def test_the_embedded_store_makes_its_own_credential_without_op(
    store_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(store_state / "dagster"))
    credentials = CredentialSource(load_profile("local"))
    assert credentials.endpoint().startswith("http://127.0.0.1:")
    assert credentials.credential("raw_ro") == credentials.credential("assets_rw")
    assert credentials.credential("raw_ro").access_key_id

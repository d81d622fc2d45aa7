"""The store's promises: conditional writes, listing, keys, and errors that tell what is wrong but no secret."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote_plus

import pytest

from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.errors import (
    ETagMismatch,
    ObjectExists,
    ObjectNotFound,
    Retryable,
    StoreDenied,
    StoreUnavailable,
    UrsaError,
)
from ursa_pipelines.objects import store, wire
from ursa_pipelines.objects.parts import create_upload
from ursa_pipelines.objects.store import Bucket, Endpoint
from ursa_pipelines.objects.wire import Outflow

SHA256 = "0" * 64
KEY_ID, SECRET, TOKEN = "AKIACANARYKEYID", "canary-secret-access-key", "canary-session-token"

EVERY_CALL: dict[str, Callable[[Bucket], object]] = {
    "get": lambda bucket: bucket.get("dir/key"),
    "stream": lambda bucket: list(bucket.stream("dir/key")),
    "head": lambda bucket: bucket.head("dir/key"),
    "list_objects": lambda bucket: list(bucket.list_objects("dir/")),
    "create": lambda bucket: bucket.create("dir/key", b"new"),
    "replace": lambda bucket: bucket.replace("dir/key", b"new", '"etag"'),
    "multipart": lambda bucket: create_upload(bucket, "dir/key", sha256=SHA256, part_size=5 * 1024**2),
    "wire": lambda bucket: bucket.wire.put("dir/key", Outflow(b"new")),
}

ODD_NAMES = (
    "with space",
    "a%20b",
    "100%",
    "a+b",
    "a&b=c?d#e",
    "ü/é",
    "日本 語",
    "😀",
    'it\'s "quoted"',
    "a~b*(c)[d]{e}",
    "a;b,c!@$^`|<>",
    "C: drive",
    "..two dots",
    ".hidden",
    "x" * 240,
)

MISLEADING_ENVIRONMENT = {
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ENDPOINT": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": TOKEN,
    "AWS_PROFILE": "nowhere",
    "AWS_DEFAULT_REGION": "mars-1",
    "AWS_BUCKET": "another-bucket",
    "AWS_SKIP_SIGNATURE": "true",
    "AWS_CONDITIONAL_PUT": "disabled",
    "AWS_S3_EXPRESS": "true",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported",
}


def test_create_refuses_a_key_that_is_taken_and_keeps_what_stands_there(bucket: Bucket, rec_id: str):
    bucket.create(f"{rec_id}/key", b"first")

    with pytest.raises(ObjectExists, match=f"{bucket.name}/{rec_id}/key"):
        bucket.create(f"{rec_id}/key", b"second")

    assert bucket.get(f"{rec_id}/key")[0] == b"first"


def test_of_many_creates_of_one_key_exactly_one_wins(bucket: Bucket, rec_id: str):
    def create(number: int) -> int | None:
        try:
            bucket.create(f"{rec_id}/key", str(number).encode())
        except ObjectExists:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(create, range(8)) if number is not None]

    assert [str(number).encode() for number in winners] == [bucket.get(f"{rec_id}/key")[0]]


def test_replace_takes_only_the_version_that_was_read(bucket: Bucket, rec_id: str):
    first = bucket.create(f"{rec_id}/key", b"first")
    second = bucket.replace(f"{rec_id}/key", b"second", first.etag)

    with pytest.raises(ETagMismatch):
        bucket.replace(f"{rec_id}/key", b"third", first.etag)

    body, info = bucket.get(f"{rec_id}/key")
    assert (body, info.etag) == (b"second", second.etag)


def test_replace_of_an_object_that_is_gone_creates_nothing(bucket: Bucket, rec_id: str):
    with pytest.raises((ETagMismatch, ObjectNotFound)):
        bucket.replace(f"{rec_id}/key", b"new", '"d41d8cd98f00b204e9800998ecf8427e"')

    assert bucket.head(f"{rec_id}/key") is None


def test_head_tells_size_etag_and_the_stated_digest(bucket: Bucket, rec_id: str):
    written = bucket.create(f"{rec_id}/key", b"content", sha256=SHA256)

    assert bucket.head(f"{rec_id}/key") == written
    assert written.size == 7
    assert written.sha256 == SHA256


def test_head_of_nothing_is_none_and_get_of_nothing_names_the_key(bucket: Bucket, rec_id: str):
    assert bucket.head(f"{rec_id}/key") is None
    for read in (bucket.get, lambda key: list(bucket.stream(key))):
        with pytest.raises(ObjectNotFound, match=f"{bucket.name}/{rec_id}/key"):
            read(f"{rec_id}/key")


def test_stream_gives_the_bytes_in_order_and_nothing_for_an_empty_object(bucket: Bucket, rec_id: str):
    content = bytes(range(256)) * 70_000
    bucket.create(f"{rec_id}/large", content)
    bucket.create(f"{rec_id}/empty", b"")

    assert b"".join(bucket.stream(f"{rec_id}/large")) == content
    assert b"".join(bucket.stream(f"{rec_id}/empty")) == b""


def test_list_goes_past_the_thousand_keys_of_one_page(bucket: Bucket, rec_id: str):
    keys = {f"{rec_id}/{number:05}" for number in range(1003)}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: bucket.create(key, b""), keys))
    bucket.create(f"{rec_id}-other/key", b"")

    found = [info.key for info in bucket.list_objects(f"{rec_id}/")]

    assert len(found) == 1003
    assert set(found) == keys


def test_directories_are_listed_past_the_thousand_of_one_page_and_without_what_is_below(bucket: Bucket, rec_id: str):
    names = [f"{number:04d}" for number in range(1_005)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: bucket.create(f"recordings/{rec_id}/{name}/file", b""), names))
    bucket.create(f"recordings/{rec_id}/file", b"")

    assert bucket.list_directories(f"recordings/{rec_id}/") == names
    assert bucket.list_directories("recordings/rec_of_nobody/") == []


def test_directories_before_a_key_are_not_listed(bucket: Bucket, rec_id: str):
    for name in ("1", "2", "20", "3"):
        bucket.create(f"recordings/{rec_id}/{name}/file", b"")

    assert bucket.list_directories(f"recordings/{rec_id}/", start_after=f"recordings/{rec_id}/1-") == ["2", "20", "3"]
    assert bucket.list_directories(f"recordings/{rec_id}/", start_after=f"recordings/{rec_id}/4") == []


def test_bookkeeping_that_has_ended_is_removed_and_gone_already_is_no_error(bucket: Bucket):
    for key in ("ursa/uploads/0.json", "ursa/catalog/tail/0.1", "ursa/catalog-2026/b/tail/0.1"):
        bucket.create(key, b"")

        bucket.remove(key)
        bucket.remove(key)

        assert bucket.head(key) is None


@pytest.mark.parametrize(
    "key",
    [
        "recordings/rec_20260520_195628_b1dd/mic/tail/0.1",
        "recordings/rec_20260520_195628_b1dd/manifest.json",
        "manifests/rec_20260520_195628_b1dd/manifest.json",
        "ursa/ACTIVE.json",
        "ursa/catalog/entries/00/0.json",
        "ursa/catalog/tail/0/1",
        "ursa/uploads/",
        "ursa/../recordings/tail/0",
        "tail/0.1",
    ],
)
def test_fault_85_nothing_but_bookkeeping_can_be_removed(bucket: Bucket, key: str):
    with pytest.raises(ValueError, match="not disposable"):
        bucket.remove(key)


def test_odd_but_legal_keys_are_the_same_object_to_both_clients(bucket: Bucket, rec_id: str):
    for name in ODD_NAMES:
        bucket.create(f"{rec_id}/single/{name}", name.encode(), sha256=SHA256)
        upload = create_upload(bucket, f"{rec_id}/large/{name}", sha256=SHA256, part_size=5 * 1024**2)
        upload.send(1, memoryview(name.encode()))
        upload.complete()

    client = bucket.multipart_client
    listed = client.list_objects_v2(Bucket=bucket.name, Prefix=f"{rec_id}/", EncodingType="url")["Contents"]
    keys = {f"{rec_id}/{size}/{name}" for size in ("single", "large") for name in ODD_NAMES}
    assert {info.key for info in bucket.list_objects(f"{rec_id}/")} == keys
    assert {unquote_plus(item["Key"]) for item in listed} == keys
    for name in ODD_NAMES:
        assert bucket.get(f"{rec_id}/large/{name}")[0] == name.encode()
        body = client.get_object(Bucket=bucket.name, Key=f"{rec_id}/single/{name}")["Body"].read()
        assert body == name.encode()


def test_a_credential_that_is_refused_is_denied_and_never_shown(bucket: Bucket, store_state: Path):
    refused = Bucket(bucket.name, Endpoint(open_store(store_state).endpoint, "auto", _canaries))

    errors = _errors_of_every_call(refused)

    assert {call: type(error) for call, error in errors.items()} == dict.fromkeys(EVERY_CALL, StoreDenied)
    for error in errors.values():
        assert bucket.name in str(error)
        assert not any(sign in str(error) for sign in ("http", "<", "retries"))
        _require_no_secret(error)


def test_an_endpoint_that_does_not_answer_is_retryable_and_never_shows_secrets(monkeypatch: pytest.MonkeyPatch):
    # They wait twice as long each time.
    monkeypatch.setattr(store, "_RETRIES", 2)
    monkeypatch.setattr(wire, "_ATTEMPTS", 2)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        bucket = Bucket("bucket", Endpoint(f"http://127.0.0.1:{unused.getsockname()[1]}", "auto", _canaries))
        errors = _errors_of_every_call(bucket)

    assert {call: type(error) for call, error in errors.items()} == dict.fromkeys(EVERY_CALL, StoreUnavailable)
    for error in errors.values():
        assert isinstance(error, Retryable)
        assert "127.0.0.1" not in str(error)
        assert "retries" not in str(error)
        _require_no_secret(error)
    assert "nothing takes connections there" in errors["get"].problem


def test_a_bucket_that_does_not_exist_is_not_worth_a_retry(store_state: Path):
    bucket = Bucket("no-such-bucket", _endpoint(store_state))

    errors = _errors_of_every_call(bucket)

    assert errors.pop("head") is None
    assert {type(error) for error in errors.values()} <= {ObjectNotFound, ETagMismatch}
    assert all("no-such-bucket" in str(error) for error in errors.values())


def test_the_environment_does_not_decide_which_store_is_used_or_how(
    bucket: Bucket, rec_id: str, store_state: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as misled:
        for variable, value in MISLEADING_ENVIRONMENT.items():
            misled.setenv(variable, value)
        same = Bucket(bucket.name, _endpoint(store_state))
        same.create(f"{rec_id}/single", b"single", sha256=SHA256)
        with pytest.raises(ObjectExists):
            same.create(f"{rec_id}/single", b"again")
        upload = create_upload(same, f"{rec_id}/large", sha256=SHA256, part_size=5 * 1024**2)
        upload.send(1, memoryview(b"large"))
        upload.complete()

    assert {info.key for info in bucket.list_objects(f"{rec_id}/")} == {f"{rec_id}/single", f"{rec_id}/large"}
    assert bucket.get(f"{rec_id}/single")[0] == b"single"


def test_a_credential_is_renewed_once_for_all_that_were_refused():
    fetched = []
    endpoint = Endpoint("http://127.0.0.1:9", "auto", _canaries, lambda: not fetched.append(True) and len(fetched) == 1)
    bucket = Bucket("bucket", endpoint)

    assert [bucket.renew(0), bucket.renew(0)] == [True, True]
    assert fetched == [True]
    assert not bucket.renew(1)


def test_a_bucket_shows_its_name_and_nothing_of_its_credential():
    bucket = Bucket("bucket", Endpoint("http://127.0.0.1:9", "auto", _canaries))

    assert repr(bucket) == str(bucket) == "Bucket('bucket')"


def _canaries() -> tuple[str, str, str]:
    return KEY_ID, SECRET, TOKEN


def _endpoint(store_state: Path) -> Endpoint:
    store = open_store(store_state)
    return Endpoint(store.endpoint, "auto", lambda: (store.access_key_id, store.secret_access_key, None))


def _errors_of_every_call(bucket: Bucket) -> dict[str, UrsaError | None]:
    def error_of(call: Callable[[Bucket], object]) -> UrsaError | None:
        try:
            call(bucket)
        except UrsaError as error:
            return error
        return None

    with ThreadPoolExecutor(len(EVERY_CALL)) as pool:
        return dict(zip(EVERY_CALL, pool.map(error_of, EVERY_CALL.values()), strict=True))


def _require_no_secret(error: UrsaError | None) -> None:
    assert error is not None
    told = "".join(traceback.format_exception(error)) + repr(error) + repr(error.__dict__)
    for secret in (KEY_ID, SECRET, TOKEN):
        assert secret not in told

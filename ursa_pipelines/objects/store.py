"""One bucket behind one credential, with the few calls that recordings and catalog need.

Every write is conditional: `create` (If-None-Match: *) or `replace` (If-Match: ETag); nothing here deletes or
overwrites a raw object (DESIGN section 5, rule 1). Single requests go through obstore's synchronous API; boto3 opens
and ends multipart uploads, because obstore offers no create-only one; what is sent in chunks, and listings, go over
`wire`.
"""

from __future__ import annotations

import base64
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any

import obstore
from obstore import exceptions as failures
from obstore.store import S3Store

from ursa_pipelines.errors import ClockWrong, ETagMismatch, ObjectExists, ObjectNotFound, StoreDenied, StoreUnavailable
from ursa_pipelines.objects.keys import is_disposable
from ursa_pipelines.objects.listing import pages
from ursa_pipelines.objects.signing_logs import keep_signatures_out_of_logs
from ursa_pipelines.objects.wire import Wire

_RETRIES = 6
_RETRY_SECONDS = 60
_REQUEST_SECONDS = 300
_CONNECT_SECONDS = 10
_CONTROL_SECONDS = 120
_CONTROL_ATTEMPTS = 4
_STATUS = re.compile(r"status code: ([0-9]{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,60})</Code>")
_UNREACHABLE = (
    ("dns error", "its name is not known (DNS)"),
    ("ConnectionRefused", "nothing takes connections there"),
    ("certificate", "its certificate is not accepted"),
    ("TimedOut", "it did not answer in time"),
    ("kind: Timeout", "it did not answer in time"),
    ("kind: Connect", "no connection came about"),
)
"""What obstore's report of an error holds, and what that means."""
_NOT_FROM_ENVIRONMENT = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}
"""For botocore: a profile or file that the user's environment names for other tools is passed over."""
_STREAM_BYTES = 8 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What LIST or HEAD tells of an object: size in bytes, ETag in quotes, and from HEAD its stated SHA-256.

    `modified` is in seconds since 1970 UTC, by the store's clock.
    """

    key: str
    size: int
    etag: str
    sha256: str | None = None
    modified: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Evidence:
    """What the store tells of an object's content in one HEAD.

    `stated_sha256` is what its writer put into the metadata. The others were computed by the store over the whole
    object: `sha256` in hex, `crc64nvme` as a number, None where it has none. `etag` is in quotes.
    """

    size: int
    etag: str
    stated_sha256: str | None
    sha256: str | None
    crc64nvme: int | None


@dataclass(frozen=True)
class Endpoint:
    """Where a bucket is and how it is opened. `secret` returns (access key, secret key, session token).

    `renew` fetches it again and tells whether it is another one now. `keeps_directories` is set for a store that lists
    a prefix for some time after the last object below it is gone, as SeaweedFS does.
    """

    url: str
    region: str
    secret: Callable[[], tuple[str, str, str | None]]
    renew: Callable[[], bool] = lambda: False
    keeps_directories: bool = False


def requests_to_read(size: int) -> int:
    """How many requests `Bucket.read` makes for an object of this size in bytes."""
    return -(-size // _STREAM_BYTES)


class Bucket:
    """A bucket of the object store. Raises `StoreUnavailable` and `StoreDenied` besides what each call names."""

    def __init__(self, name: str, endpoint: Endpoint) -> None:
        self.name = name
        self.renewals = 0
        self._endpoint, self._renewing = endpoint, threading.Lock()

    def __repr__(self) -> str:
        return f"Bucket({self.name!r})"

    def get(self, key: str) -> tuple[bytes, ObjectInfo]:
        """The whole of a small object. Raises `ObjectNotFound`."""
        with self._speaking_of(key):
            result = obstore.get(self._store, key)
            info = _info(key, result.meta, result.attributes)
            body = bytes(result.bytes())
        if not info.etag:
            # Every object has one; what has none is an error that was told with status 200.
            raise StoreUnavailable("the answer is not that of an object", place=f"{self.name}/{key}")
        return body, info

    def stream(self, key: str) -> Iterator[memoryview]:
        """The object's bytes in order. Raises `ObjectNotFound` and what `read` raises."""
        info = self.head(key)
        if info is None:
            raise ObjectNotFound("there is no such object", place=f"{self.name}/{key}")
        return self.read(key, info.size)

    def read(self, key: str, size: int, *, start: int = 0, etag: str | None = None) -> Iterator[memoryview]:
        """The bytes of an object of this size from `start` on, one bounded request after another, all of one version.

        A single request for a large object would run into its time-out on a slow line. Raises `ETagMismatch` if the
        object is not the version of `etag`, or is replaced meanwhile; `ObjectNotFound`, and `StoreUnavailable` for an
        answer that is cut short.
        """
        options: obstore.GetOptions = {"if_match": etag} if etag else {}
        for begin in range(start, size, _STREAM_BYTES):
            end = min(begin + _STREAM_BYTES, size)
            left = end - begin
            with self._speaking_of(key):
                answer = obstore.get(self._store, key, options={**options, "range": (begin, end)})
                options = {"if_match": answer.meta["e_tag"]}
                for chunk in answer.stream(min_chunk_size=_CHUNK_BYTES):
                    left -= len(chunk)
                    yield memoryview(chunk)
            if answer.meta["size"] != size or left:
                raise StoreUnavailable("the object changed, or the answer was cut short", place=f"{self.name}/{key}")

    def head(self, key: str) -> ObjectInfo | None:
        """Size, ETag and stated SHA-256 of an object, or None if there is none."""
        try:
            with self._speaking_of(key):
                result = obstore.get(self._store, key, options={"head": True})
                return _info(key, result.meta, result.attributes)
        except ObjectNotFound:
            return None

    def evidence(self, key: str) -> Evidence | None:
        """What one HEAD tells of the object's content, or None if there is no such object."""
        try:
            headers = self.wire.head(key)
        except ObjectNotFound:
            return None
        # A checksum of checksums, as multipart uploads have, ends in the number of parts and says so in its type.
        whole = headers.get("x-amz-checksum-type", "FULL_OBJECT") == "FULL_OBJECT"
        sha256 = headers.get("x-amz-checksum-sha256", "") if whole else ""
        crc64nvme = headers.get("x-amz-checksum-crc64nvme", "") if whole else ""
        return Evidence(
            int(headers["content-length"]),
            headers.get("etag", ""),
            headers.get("x-amz-meta-sha256"),
            # Some stores do not mark the digest of digests of an object in parts as such.
            (_decoded(sha256, 32).hex() or None) if "-" not in headers.get("etag", "") else None,
            int.from_bytes(_decoded(crc64nvme, 8), "big") if _decoded(crc64nvme, 8) else None,
        )

    @property
    def keeps_directories(self) -> bool:
        """Whether `list_directories` may name what has no objects any more."""
        return self._endpoint.keeps_directories

    def list_objects(self, prefix: str, *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """All objects whose keys begin with `prefix` (which ends in `/`), 1,000 to a request, without metadata.

        With `start_after` only those whose keys sort after that one.
        """
        for page in pages(self.wire, prefix, start_after=start_after):
            for key, size, etag, modified in page.objects:
                # Without bytes and with a slash at its end it is what a console makes for a folder.
                if size or not key.endswith("/"):
                    yield ObjectInfo(key, size, etag, None, modified)

    def list_directories(self, prefix: str, *, start_after: str | None = None, before: str | None = None) -> list[str]:
        """The names directly below `prefix` (which ends in `/`) that have objects below them, in order; or had them
        lately, if the store `keeps_directories`.

        With `start_after` only those whose keys sort after that key, with `before` those that sort before that one;
        what lies beyond is not listed, but for the rest of a page.
        """
        names: dict[str, None] = {}
        for page in pages(self.wire, prefix, delimiter="/", start_after=start_after):
            found = [one for one in page.directories if before is None or one < before]
            names |= dict.fromkeys(one.removeprefix(prefix).rstrip("/") for one in found)
            if len(found) < len(page.directories):
                break
        return sorted(names)

    def create(self, key: str, body: bytes, *, sha256: str | None = None) -> ObjectInfo:
        """Writes an object that must not exist yet, with its digest as metadata. Raises `ObjectExists`.

        After a lost answer `ObjectExists` may speak of our own success; callers compare before they call it
        a conflict.
        """
        with self._speaking_of(key):
            attributes = {"sha256": sha256} if sha256 else None
            result = obstore.put(self._store, key, body, mode="create", attributes=attributes, use_multipart=False)
        return ObjectInfo(key, len(body), result["e_tag"] or "", sha256)

    def replace(self, key: str, body: bytes, etag: str, *, sha256: str | None = None) -> ObjectInfo:
        """Writes over the version with this ETag and no other. Raises `ETagMismatch`."""
        with self._speaking_of(key):
            attributes = {"sha256": sha256} if sha256 else None
            result = obstore.put(
                self._store, key, body, mode={"e_tag": etag}, attributes=attributes, use_multipart=False
            )
        return ObjectInfo(key, len(body), result["e_tag"] or "", sha256)

    def remove(self, key: str) -> None:
        """Removes bookkeeping that has ended (`keys.is_disposable`); gone already is no error.

        Raises `ValueError` for any other key: nothing else is ever deleted.
        """
        if not is_disposable(key):
            raise ValueError(f"{key!r} is not disposable")
        self.wire.delete(key)

    def renew(self, since: int) -> bool:
        """Fetches the credential again, unless somebody has done so since `renewals` was `since`.

        True if it is another one now, with which a refused request may succeed.
        """
        with self._renewing:
            if self.renewals == since and self._endpoint.renew():
                self.renewals += 1
                self.close()
            return self.renewals != since

    def close(self) -> None:
        """Lets go of its connections; the next request opens new ones.

        A bucket that is not closed is never collected: obstore's client, which is none of Python's, holds the function
        that fetches the credential, and with it whatever that function needs.
        """
        for client in ("wire", "multipart_client", "_store"):
            self.__dict__.pop(client, None)

    @cached_property
    def wire(self) -> Wire:
        """The same bucket for bodies that are sent in chunks."""
        return Wire(self.name, self._endpoint)

    @cached_property
    def multipart_client(self) -> Any:
        """A boto3 client to open, list and end multipart uploads (studies: transfer, traps T1, T2, T4)."""
        import boto3
        from botocore.config import Config
        from botocore.session import Session

        keep_signatures_out_of_logs()
        access_key, secret_key, token = self._endpoint.secret()
        session = boto3.Session(
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            aws_session_token=token,
            botocore_session=Session(session_vars=_NOT_FROM_ENVIRONMENT),
        )
        return session.client(
            "s3",
            endpoint_url=self._endpoint.url,
            region_name=self._endpoint.region,
            config=Config(
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"payload_signing_enabled": False, "addressing_style": "path"},
                retries={"mode": "standard", "max_attempts": _CONTROL_ATTEMPTS},
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_CONTROL_SECONDS,
            ),
        )

    def table_options(self) -> dict[str, str]:
        """How Delta Lake and Polars reach this bucket. Holds the secret: never to be logged or kept."""
        # As in `_store`: what is not named here would be taken from the environment.
        access_key, secret_key, token = self._endpoint.secret()
        if token is None and {"aws_session_token", "aws_token"} & {name.lower() for name in os.environ}:
            # Only then, since an empty one is sent as an empty header, which not every store accepts.
            token = ""
        options = {
            "aws_access_key_id": access_key,
            "aws_secret_access_key": secret_key,
            "aws_endpoint": self._endpoint.url,
            "aws_endpoint_url_s3": self._endpoint.url,
            "aws_region": self._endpoint.region,
            "aws_allow_http": str(self._endpoint.url.startswith("http://")).lower(),
            "aws_virtual_hosted_style_request": "false",
            "aws_skip_signature": "false",
            "aws_s3_express": "false",
            "aws_request_payer": "false",
            "aws_conditional_put": "etag",
        }
        return options if token is None else {**options, "aws_session_token": token}

    @cached_property
    def _store(self) -> S3Store:
        # Each setting that the environment could supply instead is named, so that none of it decides
        # which store is written to.
        def credential() -> dict[str, Any]:
            access_key, secret_key, token = self._endpoint.secret()
            return {"access_key_id": access_key, "secret_access_key": secret_key, "token": token, "expires_at": None}

        return S3Store(
            self.name,
            endpoint=self._endpoint.url,
            aws_endpoint_url_s3=self._endpoint.url,
            region=self._endpoint.region,
            virtual_hosted_style_request=False,
            skip_signature=False,
            s3_express=False,
            request_payer=False,
            unsigned_payload=self._endpoint.url.startswith("https://"),
            conditional_put="etag",
            checksum_algorithm="SHA256",
            credential_provider=credential,  # type: ignore[arg-type]
            client_options={
                "allow_http": self._endpoint.url.startswith("http://"),
                "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
                "timeout": timedelta(seconds=_REQUEST_SECONDS),
            },
            retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_SECONDS)},
        )

    @contextmanager
    def _speaking_of(self, key: str) -> Iterator[None]:
        place = f"{self.name}/{key}"
        try:
            yield
        except FileNotFoundError:
            raise ObjectNotFound("there is no such object", place=place) from None
        except failures.AlreadyExistsError:
            raise ObjectExists("an object is there already", place=place) from None
        except failures.PreconditionError:
            raise ETagMismatch("it was changed by somebody else", place=place) from None
        except (failures.PermissionDeniedError, failures.UnauthenticatedError) as error:
            if "RequestTimeTooSkewed" in str(error):
                raise ClockWrong("the object store refused it: RequestTimeTooSkewed", place=place) from None
            raise StoreDenied(f"the object store refused it: {_code_of(error)}", place=place) from None
        except failures.BaseError as error:
            # Some answers reach us without a type of their own.
            status = _STATUS.search(str(error))
            if status and status[1] in {"401", "403"}:
                raise StoreDenied(f"the object store refused it: {_code_of(error)}", place=place) from None
            if status and status[1] == "404":
                raise ObjectNotFound("there is no such bucket", place=place) from None
            raise StoreUnavailable(_told_failure(error), place=place) from None


def _info(key: str, meta: Any, attributes: Any) -> ObjectInfo:
    return ObjectInfo(
        key, meta["size"], meta["e_tag"] or "", attributes.get("sha256"), meta["last_modified"].timestamp()
    )


def _decoded(base64_text: str, length: int) -> bytes:
    try:
        decoded = base64.b64decode(base64_text, validate=True)
    except ValueError:
        return b""
    return decoded if len(decoded) == length else b""


def _code_of(error: Exception) -> str:
    """S3's own code, else the HTTP status. All else that obstore tells holds the endpoint, which may be a secret."""
    told = str(error)
    found = _CODE.search(told) or _STATUS.search(told)
    return found[1] if found else type(error).__name__


def _told_failure(error: Exception) -> str:
    told = str(error)
    if _STATUS.search(told) or _CODE.search(told):
        return f"the object store failed: {_code_of(error)}"
    why = next((why for sign, why in _UNREACHABLE if sign in told), "the connection to it broke")
    return f"the object store cannot be reached: {why}"

"""Bodies sent over pooled connections, chunk by chunk, in requests that botocore signs (DESIGN section 5, Clients).

boto3 sends a body in one go: it can neither be slowed down nor stopped within a part, and costs more CPU. Here each
chunk first waits for its turn. Every request has a Content-Length and an unsigned payload, none has an `Expect`
header or a trailer (studies: transfer, facts 11 and 12, trap T2). A request that failed for a reason that passes is
signed and sent again, at most seven times, over about half a minute; a listing, which obstore does not tell well enough
(`listing`), over some seconds.
"""

from __future__ import annotations

import logging
import re
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import certifi
import urllib3
from tenacity import (
    Retrying,
    before_sleep_log,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from ursa_pipelines.errors import (
    ClockWrong,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreRefused,
    StoreUnavailable,
    UrsaError,
)
from ursa_pipelines.objects.signing_logs import keep_signatures_out_of_logs

if TYPE_CHECKING:
    from ursa_pipelines.objects.store import Endpoint

logger = logging.getLogger("ursa.register.orchestrator")

_CHUNK_BYTES = 256 * 1024
_ATTEMPTS = 8
_CONNECTIONS = 32
# The first is the time for sending a chunk, too.
_TO_SEND = urllib3.Timeout(connect=60, read=300)
_TO_LIST = urllib3.Timeout(connect=10, read=300)
_SECONDS_TO_LIST = 60
_CODE = re.compile(rb"<Code>([A-Za-z0-9]+)</Code>")
_UNREACHABLE: tuple[tuple[type[Exception], str], ...] = (
    (urllib3.exceptions.NameResolutionError, "its name is not known (DNS)"),
    (urllib3.exceptions.NewConnectionError, "nothing takes connections there"),
    (urllib3.exceptions.SSLError, "its certificate is not accepted"),
    (urllib3.exceptions.TimeoutError, "it did not answer in time"),
)
_PASSING_CODES = frozenset(
    {"BadDigest", "IncompleteBody", "InvalidPart", "RequestTimeout", "ConditionalRequestConflict"}
)


class UploadGone(ObjectNotFound):
    """The multipart upload has been completed, aborted, or has expired."""


class _NotReadOn(Exception):
    """Whoever gives the body raised `error`. Errors of its kind would be taken for the connection's."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class Outflow:
    """A body that leaves in chunks. `take(wanted)` returns how many bytes may go now, after it was their turn.

    `on_bytes` is told how many bytes left, and a negative number of those that have to be sent again.
    """

    def __init__(
        self,
        content: bytes | bytearray | memoryview,
        take: Callable[[int], int] = lambda wanted: wanted,
        on_bytes: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._view, self._take, self._on_bytes, self._position = memoryview(content), take, on_bytes, 0

    def __len__(self) -> int:
        return len(self._view)

    def tell(self) -> int:
        return self._position

    def rewind(self) -> None:
        if self._position:
            self._on_bytes(-self._position)
            self._position = 0

    def read(self, _: int = -1) -> memoryview:
        wanted = min(_CHUNK_BYTES, len(self._view) - self._position)
        try:
            count = self._take(wanted) if wanted else 0
            self._position += count
            if count:
                self._on_bytes(count)
        except Exception as error:  # noqa: BLE001 - whatever it is, it passes through the HTTP client as it is
            raise _NotReadOn(error) from None
        return self._view[self._position - count : self._position]


class Wire:
    """Sends signed requests for one bucket."""

    def __init__(self, bucket: str, endpoint: Endpoint) -> None:
        self._bucket, self._endpoint = bucket, endpoint

    def put(
        self,
        key: str,
        body: Outflow,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> Mapping[str, str]:
        """PUTs an object or a part and returns the headers of the answer. `sleep` waits between attempts.

        Raises `ObjectExists` where a condition failed, `UploadGone`, `StoreDenied`, `StoreUnavailable`, and whatever
        `sleep` or the body's `take` raises.
        """
        return self._send("PUT", key, body, query or {}, headers or {}, sleep).headers

    def head(self, key: str) -> Mapping[str, str]:
        """The headers of an object, its checksums among them. Raises `ObjectNotFound`."""
        return self._send("HEAD", key, None, {}, {"x-amz-checksum-mode": "ENABLED"}, None).headers

    def delete(self, key: str) -> None:
        """Removes an object; none being there is no error."""
        self._send("DELETE", key, None, {}, {}, None)

    def listing(self, query: Mapping[str, str]) -> bytes:
        """The answer to a LIST of the bucket, as it is if it came with status 200.

        Raises `ObjectNotFound` for a bucket that is not there, `StoreDenied`, `StoreUnavailable`.
        """
        retrying = Retrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_random_exponential(0.25, max=10),
            stop=stop_after_attempt(_ATTEMPTS) | stop_after_delay(_SECONDS_TO_LIST),
            reraise=True,
        )
        return retrying(self._list_once, query)

    def place(self, key: str) -> str:
        """How errors name a key of this bucket."""
        return f"{self._bucket}/{key}"

    def _list_once(self, query: Mapping[str, str]) -> bytes:
        place = self.place(query["prefix"])
        answer = self._answer("GET", f"{self._endpoint.url}/{self._bucket}", place, None, query, {}, _TO_LIST)
        if answer.status >= 300:
            code = _CODE.search(answer.data)
            raise error_of_answer(answer.status, code[1].decode() if code else "", place)
        return answer.data

    def _send(
        self,
        method: str,
        key: str,
        body: Outflow | None,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        sleep: Callable[[float], None] | None,
    ) -> urllib3.BaseHTTPResponse:
        retrying = Retrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_random_exponential(1, max=20),
            stop=stop_after_attempt(_ATTEMPTS),
            before_sleep=before_sleep_log(logger, logging.WARNING),
            reraise=True,
            **({"sleep": sleep} if sleep else {}),  # type: ignore[arg-type]
        )
        return retrying(self._send_once, method, key, body, query, headers)

    def _send_once(
        self, method: str, key: str, body: Outflow | None, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> urllib3.BaseHTTPResponse:
        place = self.place(key)
        if body is not None:
            body.rewind()
            headers = {**headers, "content-length": str(len(body))}
        url = f"{self._endpoint.url}/{quote(place, safe='/~')}"
        answer = self._answer(method, url, place, body, query, headers, _TO_SEND)
        code = _CODE.search(answer.data)
        # No answer to these requests has a body, unless it tells an error, with whatever status.
        if answer.status >= 300 or code:
            raise error_of_answer(answer.status, code[1].decode() if code else "", place)
        return answer

    def _answer(
        self,
        method: str,
        url: str,
        place: str,
        body: Outflow | None,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        timeout: urllib3.Timeout,
    ) -> urllib3.BaseHTTPResponse:
        if query:
            url += "?" + urlencode(query, quote_via=quote, safe="~")
        try:
            return self._pool.request(
                method,
                url,
                body=body,  # type: ignore[arg-type]
                headers=self._signed(method, url, headers),
                retries=False,
                redirect=False,
                timeout=timeout,
            )
        except _NotReadOn as ended:
            raise ended.error from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            # Its text holds the address, and may hold more.
            raise StoreUnavailable(f"the object store cannot be reached: {_why(error)}", place=place) from None

    def _signed(self, method: str, url: str, headers: Mapping[str, str]) -> dict[str, str]:
        from botocore.awsrequest import AWSRequest
        from botocore.config import Config

        request = AWSRequest(method=method, url=url, headers=dict(headers))
        # Without this it signs the SHA-256 of a body that it has not been given.
        request.context["client_config"] = Config(s3={"payload_signing_enabled": False})
        self._signer.add_auth(request)
        return dict(request.headers.items())

    @cached_property
    def _signer(self) -> Any:
        from botocore.auth import S3SigV4Auth
        from botocore.credentials import Credentials

        keep_signatures_out_of_logs()
        return S3SigV4Auth(Credentials(*self._endpoint.secret()), "s3", self._endpoint.region)

    @cached_property
    def _pool(self) -> urllib3.PoolManager:
        return connections_to(self._endpoint.url, _TO_SEND, at_most=_CONNECTIONS)


def connections_to(url: str, timeout: urllib3.Timeout, *, at_most: int = 1) -> urllib3.PoolManager:
    """Connections to a store, through the proxy that this machine's settings name for it, if they do."""
    settings: dict[str, Any] = {"maxsize": at_most, "timeout": timeout}
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and urllib.request.proxy_bypass(parts.hostname or ""):
        proxy = None
    if proxy or parts.scheme == "https":
        # The system's certificates, and the usual ones for a Python that finds none on its system.
        settings["ssl_context"] = ssl.create_default_context()
        settings["ssl_context"].load_verify_locations(certifi.where())
    return urllib3.ProxyManager(proxy, **settings) if proxy else urllib3.PoolManager(**settings)


def _why(error: Exception) -> str:
    return next((why for kind, why in _UNREACHABLE if isinstance(error, kind)), "the connection to it broke")


def error_of_answer(status: int, code: str, place: str) -> UrsaError:
    """What an answer with this HTTP status and S3 error code means. `StoreUnavailable` may pass by itself."""
    if code == "NoSuchUpload":
        return UploadGone("the unfinished upload is gone", place=place)
    if status == 412 or code == "PreconditionFailed":
        return ObjectExists("an object is there already", place=place)
    if code in {"RequestTimeTooSkewed", "RequestExpired", "ExpiredRequest"}:
        return ClockWrong(f"the object store refused it: {code}", place=place)
    if status in {401, 403} or code == "ExpiredToken":
        return StoreDenied(f"the object store refused it: {code or status}", place=place)
    if status == 404:
        return ObjectNotFound("there is no such object or bucket", place=place)
    if status in {408, 409, 429} or (status >= 500 and status != 501) or status == 200 or code in _PASSING_CODES:
        return StoreUnavailable(f"the object store failed: {code or status}", place=place)
    return StoreRefused(f"the object store refused it: {code or status}", place=place)

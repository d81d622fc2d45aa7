"""A loopback proxy before the object store that holds, loses or refuses chosen requests.

A request is told as `PUT /bucket/key?query`. Its Host header goes on unchanged, because the signature covers it.
"""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import re
import socket
import socketserver
import ssl
import struct
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, urlsplit

_WAIT_SECONDS = 60
_MARKER = re.compile(r"PUT /[^/]+/manifests/")
_MANIFEST = re.compile(r"(GET|PUT) /[^/]+/recordings/[^/]+/manifest\.json$")


Headers = list[tuple[str, str]]
Answer = tuple[int, Headers, bytes]
"""Status, headers and body."""


class ConnectionDropped(Exception):
    """Ends the client's connection without an answer, or resets it; before its body was read, or `in_the_body`."""

    def __init__(self, *, reset: bool = False, in_the_body: bool = False) -> None:
        super().__init__()
        self.reset, self.in_the_body = reset, in_the_body


class AnswerBroken(Exception):
    """Sends the answer up to the middle of its body and ends the connection, or resets it."""

    def __init__(self, answer: Answer, *, reset: bool = False) -> None:
        super().__init__()
        self.answer, self.reset = answer, reset


class RequestRefused(Exception):
    """Answers in the store's place, with this status and S3 error code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


@dataclass
class Seen:
    """A request that was passed on, with its headers (names in lower case) and the SHA-256 of its body.

    `status` is what the store answered, whatever the client was told; None while it has not. `marker` is the body of
    a commit marker, `manifest` that of a recording's manifest as it was written or read, with its `etag`.
    """

    request: str
    headers: dict[str, str]
    body_sha256: bytes
    status: int | None = None
    marker: bytes = b""
    manifest: bytes = b""
    etag: str = ""

    @property
    def condition(self) -> str | None:
        return self.headers.get("if-none-match") or self.headers.get("if-match")

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.request.partition(" ")[2]).query, keep_blank_values=True))

    def matches(self, pattern: str) -> bool:
        return re.search(pattern, self.request) is not None


class Fault:
    """What happens before a request reaches the store and after the store has answered it. This one: nothing."""

    def begun(self, request: str) -> None:
        """Before the body is read."""

    def before(self, request: str) -> None: ...

    def altered(self, request: str, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
        """The request as it reaches the store."""
        return headers, body

    def instead(self, request: str) -> Answer | None:
        """An answer that the store is not asked for."""

    def after(self, request: str) -> None: ...

    def answered(self, request: str, answer: Answer) -> Answer:
        """The answer as it reaches the client."""
        return answer

    def delivered(self, request: str) -> None:
        """After the client was sent the answer."""


class _Nth(Fault):
    """Finds the `nth` request that matches."""

    def __init__(self, pattern: str, nth: int = 1) -> None:
        self._pattern, self._left, self._lock = re.compile(pattern), nth, threading.Lock()

    def is_it(self, request: str) -> bool:
        with self._lock:
            if self._pattern.search(request):
                self._left -= 1
                return self._left == 0
        return False


class Hold(_Nth):
    """Freezes everything at the request, before or after it took effect; what is held never gets an answer."""

    def __init__(self, pattern: str, nth: int = 1, *, after: bool = False) -> None:
        super().__init__(pattern, nth)
        self.reached, self.ended, self._after = threading.Event(), threading.Event(), after

    def before(self, request: str) -> None:
        if not self._after and self.is_it(request):
            self.reached.set()
        self._hold()

    def after(self, request: str) -> None:
        if self._after and self.is_it(request):
            self.reached.set()
        self._hold()

    def _hold(self) -> None:
        if self.reached.is_set():
            self.ended.wait(_WAIT_SECONDS)
            raise ConnectionDropped


class LoseAnswer(_Nth):
    """Lets the request take effect and drops the answer."""

    lost = False

    def after(self, request: str) -> None:
        if self.is_it(request):
            self.lost = True
            raise ConnectionDropped


class BreakOff(_Nth):
    """Drops the connection while the body of the request is on its way."""

    broken = False

    def begun(self, request: str) -> None:
        if self.is_it(request):
            self.broken = True
            raise ConnectionDropped


class Refuse(Fault):
    """Refuses the first requests that match: `times` of them, or all."""

    def __init__(self, pattern: str, status: int, code: str, *, times: float = math.inf) -> None:
        self._pattern, self._status, self._code = re.compile(pattern), status, code
        self.refused, self._times, self._lock = 0, times, threading.Lock()

    def before(self, request: str) -> None:
        with self._lock:
            if self._pattern.search(request) and self.refused < self._times:
                self.refused += 1
                raise RequestRefused(self._status, self._code)


class Damage(_Nth):
    """Turns the last byte of a request's body on its way into another."""

    def altered(self, request: str, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
        return headers, body[:-1] + bytes([body[-1] ^ 1]) if self.is_it(request) else body


class WithoutChecksums(Fault):
    """A store that knows no checksums: it tells of none, or with `refusing` takes no upload that asks for one."""

    def __init__(self, *, refusing: bool = False, damage: Fault | None = None) -> None:
        self._refusing, self._damage = refusing, damage or Fault()

    def altered(self, request: str, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
        if self._refusing and "x-amz-checksum-algorithm" in {name.lower() for name, _ in headers}:
            raise RequestRefused(501, "NotImplemented")
        return self._damage.altered(request, headers, body)

    def answered(self, request: str, answer: Answer) -> Answer:
        status, headers, content = answer
        kept = [(name, value) for name, value in headers if not name.lower().startswith("x-amz-checksum-")]
        return status, kept, content


class Meet(Fault):
    """Holds the first request that matches each pattern until there is one for every pattern.

    A pattern that is given twice stands for the first two that match.
    """

    def __init__(self, *patterns: str) -> None:
        self._expected = [_Nth(pattern, patterns[: at + 1].count(pattern)) for at, pattern in enumerate(patterns)]
        self._barrier = threading.Barrier(len(patterns), timeout=_WAIT_SECONDS)

    def before(self, request: str) -> None:
        arrived = [expected.is_it(request) for expected in self._expected]
        if any(arrived):
            self._barrier.wait()


class Proxy(socketserver.ThreadingTCPServer):
    """Listens on a free loopback port and passes every request on to `upstream`, subject to `fault`.

    With `tls`, clients reach it by https. `seen` is the test's to clear; `history` keeps all.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.upstream = urlsplit(upstream).netloc
        self.fault = Fault()
        self.seen: list[Seen] = []
        self.history: list[Seen] = []
        self._under_way, self._idle = 0, threading.Condition()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.server_address[1]}"

    def wait_until_idle(self) -> None:
        """Returns when no request is under way to the store any more."""
        with self._idle:
            assert self._idle.wait_for(lambda: self._under_way == 0, _WAIT_SECONDS)

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def count(self, difference: int) -> None:
        with self._idle:
            self._under_way += difference
            self._idle.notify_all()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Proxy

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        return

    def _pass_on(self) -> None:
        request = f"{self.command} {self.path}"
        fault = self.server.fault
        try:
            fault.begun(request)
        except ConnectionDropped as dropped:
            if dropped.in_the_body:
                self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self._hang_up(dropped.reset)
            return
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            # The client has gone in the middle of it. The store would wait for the rest.
            self.close_connection = True
            return
        self.server.count(+1)
        try:
            fault.before(request)
            headers = {name.lower(): value for name, value in self.headers.items()}
            marker = body if _MARKER.match(request) else b""
            seen = Seen(request, headers, hashlib.sha256(body).digest(), marker=marker)
            self.server.seen.append(seen)
            self.server.history.append(seen)
            answer = fault.instead(request)
            if answer is None:
                altered, body = fault.altered(request, self.headers.items(), body)
                told = self._ask_the_store(altered, body)
                seen.status = told[0]
                if _MANIFEST.match(request) and told[0] == 200:
                    seen.manifest = told[2] if self.command == "GET" else body
                    seen.etag = next((value for name, value in told[1] if name.lower() == "etag"), "")
                answer = fault.answered(request, told)
            fault.after(request)
        except ConnectionDropped as dropped:
            self._hang_up(dropped.reset)
            return
        except AnswerBroken as broken:
            status, names, content = broken.answer
            self._tell(status, names, content[: len(content) // 2])
            self.wfile.flush()
            self._hang_up(broken.reset)
            return
        except RequestRefused as refusal:
            content = f"<Error><Code>{refusal.code}</Code><Message>refused</Message></Error>".encode()
            answer = refusal.status, [("Content-Length", str(len(content)))], content
        finally:
            self.server.count(-1)
        self._tell(*answer)
        fault.delivered(request)

    def _tell(self, status: int, headers: Headers, content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _hang_up(self, reset: bool) -> None:
        self.close_connection = True
        if reset:
            # Closed without lingering, and before anybody says goodbye, a connection is reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    def _ask_the_store(self, sent: Headers, body: bytes) -> Answer:
        store = http.client.HTTPConnection(self.server.upstream, timeout=_WAIT_SECONDS)
        try:
            store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent:
                if name.lower() not in {"expect", "connection"}:
                    store.putheader(name, value)
            store.endheaders(body)
            answer = store.getresponse()
            content = answer.read()
        finally:
            store.close()
        headers = [
            (name, value)
            for name, value in answer.getheaders()
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}
        ]
        # A HEAD tells the length of a body that it does not have.
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        return answer.status, [*headers, ("Content-Length", length)], content

    do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = _pass_on  # noqa: N815 - http.server asks for these names

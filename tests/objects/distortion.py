"""A store that answers otherwise than SeaweedFS does, and one that changes between two requests."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.faults.proxy import Answer, Fault, Proxy
from tests.objects.peers import Target
from ursa_pipelines.objects.store import Bucket, Endpoint

Distort = Callable[[str, Answer], Answer]
"""Takes a request, told as `GET /bucket/key`, and its answer (status, headers, body); returns the answer to give."""


class Meanwhile(Fault):
    """Somebody else acts just before the nth request that matches is passed on."""

    def __init__(self, pattern: str, act: Callable[[], object], nth: int = 1) -> None:
        self._pattern, self._act, self._left, self._lock = re.compile(pattern), act, nth, threading.Lock()

    def before(self, request: str) -> None:
        with self._lock:
            if self._pattern.search(request):
                self._left -= 1
                if self._left == 0:
                    self._act()


class Distorted(Fault):
    """Each answer passed through `distort`."""

    def __init__(self, distort: Distort) -> None:
        self._distort = distort

    def answered(self, request: str, answer: Answer) -> Answer:
        return self._distort(request, answer)


@contextmanager
def distorted(target: Target, distort: Distort) -> Iterator[tuple[Bucket, Proxy]]:
    """The target's bucket with each answer passed through `distort`, and the proxy that does it."""
    proxy = Proxy(target.store.endpoint)
    proxy.fault = Distorted(distort)
    try:
        secret = (target.store.access_key_id, target.store.secret_access_key, None)
        yield Bucket(target.bucket.name, Endpoint(proxy.url, "auto", lambda: secret)), proxy
    finally:
        proxy.close()


def without_headers(*names: str) -> Distort:
    """A store that does not tell these headers (lower case)."""

    def distort(request: str, answer: Answer) -> Answer:
        status, headers, body = answer
        return status, [(name, value) for name, value in headers if name.lower() not in names], body

    return distort


def with_etag(etag: str) -> Distort:
    """A store whose ETags are no MD5s, as under encryption."""

    def distort(request: str, answer: Answer) -> Answer:
        status, headers, body = answer
        return status, [(name, f'"{etag}"' if name.lower() == "etag" else value) for name, value in headers], body

    return distort


def cut(request: str, answer: Answer) -> Answer:
    """A line that breaks in the middle of every body it was asked for."""
    status, headers, body = answer
    if not request.startswith("GET"):
        return answer
    return status, [*headers, ("Connection", "close")], body[: len(body) // 2]


def short(request: str, answer: Answer) -> Answer:
    """A store that gives half of what it says that it gives."""
    status, headers, body = answer
    if not request.startswith("GET"):
        return answer
    half = body[: len(body) // 2]
    return status, [(name, str(len(half)) if name == "Content-Length" else value) for name, value in headers], half

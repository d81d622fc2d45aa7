"""Bytes of one version of an object, going on from where a broken answer ended."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tenacity import Retrying, retry_if_exception_type, wait_exponential, wait_random
from tenacity.nap import sleep_using_event

from ursa_pipelines.errors import StoreUnavailable
from ursa_pipelines.objects.store import Bucket

# Together more than a minute, which a line that went away is often back after.
_TRIES = 8
_SHORTEST_WAIT, _LONGEST_WAIT = 0.5, 30.0


class Stopped(Exception):
    """A stop was asked for. Whoever asked knows why."""


def fetch(
    raw: Bucket,
    key: str,
    size: int,
    take: Callable[[memoryview], None],
    *,
    etag: str | None,
    start: int = 0,
    stop: threading.Event,
) -> None:
    """Hands the object's bytes from `start` on to `take`, in order.

    Tries again where the answer broke off, until eight in a row brought nothing. Raises `Stopped` once `stop` is set,
    and what `Bucket.read` raises.
    """
    came, in_vain = start, 0

    def go_on() -> None:
        nonlocal came, in_vain
        try:
            for chunk in raw.read(key, size, start=came, etag=etag):
                check(stop)
                take(chunk)
                came, in_vain = came + len(chunk), 0
        except StoreUnavailable:
            check(stop)
            in_vain += 1
            raise

    Retrying(
        retry=retry_if_exception_type(StoreUnavailable),
        stop=lambda _: in_vain >= _TRIES,
        wait=wait_exponential(_SHORTEST_WAIT, _LONGEST_WAIT) + wait_random(0, _SHORTEST_WAIT),
        sleep=sleep_using_event(stop),
        reraise=True,
    )(go_on)


def check(stop: threading.Event) -> None:
    """Raises `Stopped` once `stop` is set."""
    if stop.is_set():
        raise Stopped

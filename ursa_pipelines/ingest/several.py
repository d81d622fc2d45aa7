"""The same work for several recordings at once, in threads that never keep the process from ending, and patiently."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import wait
from typing import TypeVar

from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential_jitter,
)

from ursa_pipelines.errors import StoreUnavailable
from ursa_pipelines.objects.reading import DaemonExecutor

_PATIENCE_AFTER_A_STOP = 10.0
_ATTEMPTS, _IMPATIENT_SECONDS = 4, 15.0

_S = TypeVar("_S")
_T = TypeVar("_T")


def several_at_once(work: Callable[[_S], _T], of: Iterable[_S], limit: int, stop: threading.Event) -> list[_T]:
    """The results in order, `limit` worked on at once. An interrupt of the calling thread sets `stop` and is raised;
    before that, what is under way gets a few seconds to end.
    """
    with DaemonExecutor(limit, "batch") as pool:
        futures = [pool.submit(work, one) for one in of]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            wait([future for future in futures if not future.cancel()], timeout=_PATIENCE_AFTER_A_STOP)
            raise


def patiently(step: Callable[[], _T], sleep: Callable[[float], None]) -> _T:
    """Runs a step again where the store failed it within seconds, as some of its clients give up so soon.

    The step must be repeatable; one that took longer has been patient itself.
    """
    return Retrying(
        retry=retry_if_exception_type(StoreUnavailable),
        wait=wait_exponential_jitter(initial=1, max=8),
        stop=stop_after_attempt(_ATTEMPTS) | stop_after_delay(_IMPATIENT_SECONDS),
        sleep=sleep,
        reraise=True,
    )(step)

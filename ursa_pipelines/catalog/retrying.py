"""How a conditional write that lost a race, or met an overloaded store, is tried again (DESIGN section 6)."""

from __future__ import annotations

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from ursa_pipelines.errors import ETagMismatch, ObjectExists, StoreUnavailable

_ATTEMPTS = 30
_RETRY_SECONDS = 120

LOST_RACES = (ETagMismatch, ObjectExists)


def retrying(*errors: type[Exception]) -> Retrying:
    """The attempts of one logical write: again after these errors and after `StoreUnavailable`; the last is raised."""
    return Retrying(
        retry=retry_if_exception_type((*errors, StoreUnavailable)),
        wait=_pause,
        stop=stop_after_attempt(_ATTEMPTS) | stop_after_delay(_RETRY_SECONDS),
        reraise=True,
    )


def _pause(state: RetryCallState) -> float:
    # R2 takes one write a second per key; after an overload or a lost answer the same txn waits at least that long.
    overloaded = state.outcome is not None and isinstance(state.outcome.exception(), StoreUnavailable)
    jitter = wait_random_exponential(multiplier=0.05, max=2)(state)
    return 1.0 + jitter if overloaded else jitter

"""How looks become checks: one after another, each in a thread of its own that is given up when it takes too long.

A look whose need has failed is passed by and names it. Whatever a look raises is a failed check; of what nobody
foresaw only the type is told, since its text may hold anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Literal

from ursa_pipelines.errors import UrsaError
from ursa_pipelines.objects.reading import DaemonExecutor

State = Literal["ok", "warning", "failed", "skipped"]

_UNFORESEEN = "Report this with the name of the check and of the error."


@dataclass(frozen=True)
class Check:
    """What a look came to. `remedy` says what to do next; empty where nothing is to be done."""

    name: str
    state: State
    told: str
    remedy: str = ""


@dataclass(frozen=True)
class Finding:
    """What a look has found."""

    told: str
    state: State = "ok"
    remedy: str = ""


@dataclass(frozen=True)
class Look:
    """One thing to look at: `look` returns what it found or raises. `needs` are the names of checks before it."""

    name: str
    look: Callable[[], Finding]
    needs: tuple[str, ...] = ()
    seconds: float = 20.0
    if_it_hangs: str = "Check the network and the mounts, then run it again."


def run_looks(looks: Iterable[Look]) -> Iterator[Check]:
    """The checks in order, each as soon as it has ended."""
    failed: dict[str, str] = {}
    for look in looks:
        cause = next((failed[need] for need in look.needs if need in failed), None)
        skipped = Check(look.name, "skipped", f"not looked at, since {cause} failed")
        check = _run(look) if cause is None else skipped
        if cause is not None or check.state == "failed":
            failed[look.name] = cause or look.name
        yield check


def _run(look: Look) -> Check:
    # Daemons: a call that never returns must not keep the process.
    with DaemonExecutor(1, "check") as thread:
        result = thread.submit(look.look)
        if not wait([result], timeout=look.seconds).done:
            return Check(look.name, "failed", f"it gave nothing for {look.seconds:g} s", look.if_it_hangs)
    try:
        found = result.result()
    except UrsaError as error:
        # That of errors without one of their own sends people here.
        remedy = error.remedy if error.remedy != UrsaError.remedy else _UNFORESEEN
        return Check(look.name, "failed", error.told, remedy)
    except OSError as error:
        told = UrsaError(error.strerror or type(error).__name__, place=str(error.filename or "") or None).told
        return Check(look.name, "failed", told, "Mend what the system complains of, then run it again.")
    except Exception as error:  # noqa: BLE001 - the other checks go on, and the operator learns of this one
        return Check(look.name, "failed", f"the look itself failed: {type(error).__name__}", _UNFORESEEN)
    # What was read from a bucket may hold what moves a cursor.
    return Check(look.name, found.state, UrsaError(found.told).told, found.remedy)

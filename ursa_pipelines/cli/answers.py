"""`--json`: one document for every command, with the same fields in each (docs/command.md, "For machines").

`items` are what the command is about, one object each: recordings, participants, checks, tables. They are written as
they come, so that a hundred thousand need no memory. A command that fails answers in the same form, with `error`; if
it fails when items were written already, these stand and the document is closed with the error. There is one document
at most: an interrupt that strikes while a line is written leaves it open, which no parser takes for a whole one.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from pathlib import PurePath
from typing import Any

import typer

from ursa_pipelines.cli.failures import Failure, failure_of

FORMAT = 1


@dataclass
class _Asked:
    command: str
    profile: str | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    is_answered: bool = False


_asked: ContextVar[_Asked | None] = ContextVar("asked", default=None)


def forget_asked() -> None:
    """Begins anew: nothing has been asked yet."""
    _asked.set(None)


def note_asked(context: typer.Context, as_json: bool) -> bool:
    """The callback of `--json`: remembers that the answer is a document, for errors too."""
    _asked.set(_Asked(context.command_path) if as_json else None)
    return as_json


def note_profile(name: str) -> None:
    """Remembers which profile the command works on."""
    if asked := _asked.get():
        asked.profile = name


def note_summary(**told: Any) -> None:
    """Remembers what `summary` tells from now on, even if the command fails."""
    if asked := _asked.get():
        asked.summary |= told


def answer_failure(failure: Failure) -> None:
    """Writes the document of a command that failed, if one was asked for and none was begun.

    Arguments that cannot be understood ask for one if `--json` is among them.
    """
    asked = _asked.get()
    if asked is None:
        arguments = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
        if failure.type != "UsageError" or "--json" not in arguments:
            return
        _asked.set(asked := _Asked(failure.command or "ursa"))
    if not asked.is_answered:
        print_answer((), exit_code=failure.exit_code, error=failure.as_error())


def print_answer(
    items: Iterable[Mapping[str, Any]],
    *,
    summary: Mapping[str, Any] | None = None,
    exit_code: int | Callable[[], int] = 0,
    error: Mapping[str, Any] | None = None,
) -> None:
    """Writes the document to standard output, item by item. `summary` is read after the last item was taken.

    `exit_code` is what the command is about to exit with, or tells it after the last item. What taking an item raises
    is raised here, too, once the document is closed with it.
    """
    asked = _asked.get() or _Asked("ursa")
    asked.is_answered = True
    out = sys.stdout
    head = {"format": FORMAT, "command": asked.command, "profile": asked.profile}
    out.write(f'{_dumped(head)[:-1]}, "items": [')
    failed: list[BaseException] = []
    for number, item in enumerate(_dumped_until_one_fails(items, failed)):
        out.write(f"{',' if number else ''}\n {item}")
    if failed:
        failure = failure_of(failed[0])
        exit_code, error = failure.exit_code, failure.as_error()
    code = exit_code() if callable(exit_code) else exit_code
    tail = {"summary": asked.summary | dict(summary or {}), "error": error, "exit_code": code, "ok": code == 0}
    out.write(f"], {_dumped(tail)[1:]}\n")
    out.flush()
    if failed:
        raise failed[0]


def _dumped_until_one_fails(items: Iterable[Mapping[str, Any]], failed: list[BaseException]) -> Iterator[str]:
    try:
        for item in items:
            yield _dumped(item)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - raised again once the document is closed
        failed.append(error)


def _dumped(document: Mapping[str, Any]) -> str:
    # ASCII: whatever the terminal's encoding, and a hostile name in a path can neither hide nor move a cursor.
    return json.dumps(_plain(document), allow_nan=False)


def _plain(value: Any) -> Any:
    """The value as JSON has it: times in UTC with Z, durations in seconds, no number that is none."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(one) for key, one in value.items()}
    if isinstance(value, Set):
        return sorted(_plain(one) for one in value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return _plain_object(value)


def _plain_object(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, PurePath):
        return str(value)
    if is_dataclass(value):
        # What its repr hides is a name or a secret.
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value) if one.repr}
    # A text made of anything at all could tell what no document tells.
    raise TypeError(f"{type(value).__name__} has no form in JSON")

"""`--json`: one document for every command, with the same fields in each (docs/command.md, "For machines").

`items` are what the command is about, one object each: recordings, participants, checks, tables. They are written as
they come, so that a hundred thousand need no memory. A command that fails answers in the same form, with `error`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import click

FORMAT = 1


@dataclass
class _Asked:
    command: str
    profile: str | None = None
    is_answered: bool = False


_asked: ContextVar[_Asked | None] = ContextVar("asked", default=None)


def note_asked(context: click.Context, as_json: bool) -> bool:
    """The callback of `--json`: remembers that the answer is a document, for errors too."""
    _asked.set(_Asked(context.command_path) if as_json else None)
    return as_json


def note_profile(name: str) -> None:
    """Remembers which profile the command works on."""
    if asked := _asked.get():
        asked.profile = name


def is_asked() -> bool:
    """Whether the command was asked for a document and has not written one yet."""
    asked = _asked.get()
    return asked is not None and not asked.is_answered


def print_answer(
    items: Iterable[Mapping[str, Any]],
    *,
    summary: Mapping[str, Any] | None = None,
    exit_code: int = 0,
    error: Mapping[str, Any] | None = None,
) -> None:
    """Writes the document to standard output, item by item. `summary` is read after the last item was taken."""
    asked = _asked.get() or _Asked("ursa")
    head = {"format": FORMAT, "command": asked.command, "profile": asked.profile}
    out = sys.stdout
    out.write(f'{_dumped(head)[:-1]}, "items": [')
    for number, item in enumerate(items):
        out.write(f"{',' if number else ''}\n {_dumped(item)}")
    tail = {"summary": summary or {}, "error": error, "exit_code": exit_code, "ok": exit_code == 0}
    out.write(f"], {_dumped(tail)[1:]}\n")
    out.flush()
    asked.is_answered = True


def _dumped(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, default=str)

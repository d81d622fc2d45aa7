"""How a command ends: its exit code, and what went wrong, for standard error and for the document (docs/command.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import typer

from ursa_pipelines.errors import UrsaError

EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED, EXIT_INTERRUPTED = 1, 2, 3, 130


class NotConfirmed(UrsaError):
    """The question before a write was not answered with yes."""

    remedy = "Run it again when it is to be done."


class Interrupted(KeyboardInterrupt):
    """An interrupt whose text says what was done by then, without a full stop."""


@dataclass(frozen=True)
class Failure:
    """Why a command ended. `problem` and what names its place are as in `UrsaError`; `message` is all of it in one."""

    exit_code: int
    type: str
    problem: str
    message: str
    recording: str | None = None
    place: str | None = None
    remedy: str | None = None
    command: str | None = None

    def as_error(self) -> dict[str, Any]:
        """The field `error` of the document."""
        names = ("type", "problem", "recording", "place", "remedy", "message")
        return {name: getattr(self, name) for name in names}


def failure_of(error: BaseException) -> Failure:
    """What an error means to whoever ran the command.

    The text of a `KeyboardInterrupt` is what to do next. That of an error that nobody foresaw is not repeated: it may
    hold anything.
    """
    if isinstance(error, UrsaError):
        kind = type(error).__name__
        return Failure(EXIT_REFUSED, kind, error.problem, str(error), error.recording, error.place, error.remedy)
    if isinstance(error, KeyboardInterrupt):
        done, remedy = (str(error), "") if isinstance(error, Interrupted) else ("", str(error))
        problem = f"interrupted; {done}" if done else "interrupted"
        remedy = remedy or "Run it again to go on; what is stored is not sent again."
        told = f"Interrupted. {done}." if done else "Interrupted."
        return Failure(EXIT_INTERRUPTED, "Interrupted", problem, f"{told} {remedy}", remedy=remedy)
    if isinstance(error, OSError):
        # A disk that is full, a pipe nobody reads, a path that cannot be.
        problem = error.strerror or type(error).__name__
        place = str(error.filename or "output")
        return Failure(EXIT_FAILED, type(error).__name__, problem, f"{place}: {problem}", place=place)
    problem = "it failed in a way that nobody foresaw; standard error tells where"
    return Failure(EXIT_FAILED, type(error).__name__, problem, problem, remedy="Report this with what is told there.")


def failure_of_exit(end: SystemExit) -> Failure:
    """What made Typer exit with a code that is not 0. It is told on standard error by then, but for interrupts."""
    cause = end.__context__
    if hasattr(cause, "format_message"):
        return _misused(cause, end.code)
    if isinstance(cause, typer.Abort):
        # A question that was answered with Ctrl-C, or that met the end of the input.
        is_interrupt = isinstance(cause.__context__, KeyboardInterrupt)
        return failure_of(KeyboardInterrupt() if is_interrupt else NotConfirmed("the question was not answered"))
    if end.code == EXIT_INTERRUPTED:
        interrupt = cause.__cause__ if cause else None
        return failure_of(interrupt if isinstance(interrupt, KeyboardInterrupt) else KeyboardInterrupt())
    problem = "it did not end well; standard error tells why"
    return Failure(end.code if isinstance(end.code, int) else EXIT_FAILED, "Exit", problem, problem)


def _misused(error: Any, exit_code: Any) -> Failure:
    message = error.format_message()
    command = context.command_path if (context := getattr(error, "ctx", None)) else None
    remedy = f"`{command or 'ursa'} --help` shows how it is used."
    return Failure(exit_code, "UsageError", message, f"{message.rstrip('.')}. {remedy}", remedy=remedy, command=command)

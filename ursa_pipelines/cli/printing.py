"""How commands print: tables, lines that are not broken, progress on a terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleDimensions
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ursa_pipelines.maintenance.many import Applied

_WIDTH_ELSEWHERE = 240


class _Printed(Console):
    """Away from a terminal there is room: what a program or a file gets is not cut at 80 columns.

    What nobody reads any more, such as behind `| head`, is not printed; the work goes on.
    """

    @property
    def size(self) -> ConsoleDimensions:
        return super().size if self.is_terminal else ConsoleDimensions(_WIDTH_ELSEWHERE, super().size.height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())


console, errors = _Printed(), _Printed(stderr=True)


def new_table(title: str | None, *columns: str) -> Table:
    """A table whose columns stay on one line."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def show_table(title: str, columns: dict[str, bool], rows: Sequence[Sequence[str | None]]) -> None:
    """A table of text, if it has rows; `columns` maps titles to whether a cell must stay on one line."""
    if not rows:
        return
    table = new_table(title)
    for name, no_wrap in columns.items():
        table.add_column(name, no_wrap=no_wrap)
    for row in rows:
        table.add_row(*(escape(cell or "") for cell in row))
    console.print(table)


def show_rows(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Rows with the same keys as a table; what is counted stands on the right, with its thousands apart."""
    if not rows:
        return
    table = new_table(title)
    for name, value in rows[0].items():
        table.add_column(name.replace("_", " "), no_wrap=True, justify="right" if isinstance(value, int) else "left")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else escape(str(value)) for value in row.values()))
    console.print(table)


def counts_of(applied: Sequence[Applied]) -> dict[str, int]:
    """How many rows were written, and how many could not be."""
    return {name: sum(one.outcome == name for one in applied) for name in ("written", "failed")}


def show_applied(applied: Sequence[Applied], *, is_dry: bool) -> None:
    """How many rows were written, and why others were not."""
    for one in applied:
        if one.outcome == "failed":
            line(f"FAIL {one.rec_id or one.recording_hash}: {one.problem}")
    if is_dry:
        line("Nothing was written; --commit writes it.")
    elif applied:
        line(f"{sum(one.outcome == 'written' for one in applied)} rows written.")


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Shows on a terminal how far something has come, of how many where that is known."""
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def line(text: str, *, markup: bool = False) -> None:
    """A line that is not broken to the width of a terminal, so that it can be searched for in a log."""
    console.print(text, highlight=False, soft_wrap=True, markup=markup)

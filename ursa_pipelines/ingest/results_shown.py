"""How results show themselves: one line as text, a small table in a notebook, a table for a list of them.

What is shown is what `_shown()` gives: no byte of a recording, no participant's name, no credential. It costs nothing
but what the object already knows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import ClassVar, TypeVar

_ROWS_SHOWN = 20
_CELL, _CELL_IN_A_NOTEBOOK, _PROBLEMS_SHOWN = 60, 300, 5
_LEFT = 'style="text-align:left;vertical-align:top"'


class Shown:
    """A result. Its `repr` is one line, and a notebook shows it as a table of what `_shown` gives."""

    @abstractmethod
    def _shown(self) -> dict[str, str]:
        """What it tells, by what it is called; what is empty is left out."""

    def __repr__(self) -> str:
        told = ", ".join(f"{name}: {_printable(value)}" for name, value in self._shown().items() if value)
        return f"{type(self).__name__}({told})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th {_LEFT}>{escape(name)}</th><td {_LEFT}>{_html(value)}</td></tr>"
            for name, value in self._shown().items()
            if value
        )
        return f"<table><caption>{type(self).__name__}</caption>{rows}</table>"


_S = TypeVar("_S", bound=Shown)


class ShownList(list[_S]):
    """Results that show themselves as a table, at most 20 of them; empty columns are left out."""

    counted: ClassVar[str] = ""
    """The column whose values are counted below the table."""

    def __repr__(self) -> str:
        columns, rows = self._table()
        cells = [columns, *([_fitted(cell) for cell in row] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
        return "\n".join([*(lines if self else []), *self._below()])

    def _repr_html_(self) -> str:
        columns, rows = self._table()
        head = "".join(f"<th {_LEFT}>{escape(name)}</th>" for name in columns)
        body = "".join(f"<tr>{''.join(f'<td {_LEFT}>{_html(cell)}</td>' for cell in row)}</tr>" for row in rows)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if self else ""
        return f"<div>{table}{''.join(f'<div>{escape(line)}</div>' for line in self._below())}</div>"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        rows = [one._shown() for one in self[:_ROWS_SHOWN]]
        columns = list(dict.fromkeys(name for row in rows for name, value in row.items() if value))
        return columns, [[row.get(name, "") for name in columns] for row in rows]

    def _below(self) -> list[str]:
        more = [f"\u2026 and {len(self) - _ROWS_SHOWN:,} more"] if len(self) > _ROWS_SHOWN else []
        counts = Counter(one._shown().get(self.counted, "") for one in self)
        told = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()) if name)
        noun = "recording" if len(self) == 1 else "recordings"
        return [*more, f"{len(self):,} {noun}{f': {told}' if told else ''}"]


def size_shown(size: int) -> str:
    """Bytes for people, "" for none."""
    from rich.filesize import decimal

    return decimal(size) if size else ""


def some_shown(problems: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(problems) - _PROBLEMS_SHOWN
    return "; ".join(problems[:_PROBLEMS_SHOWN]) + (f"; and {more:,} more" if more > 0 else "")


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _fitted(cell: str) -> str:
    return _cut(_printable(cell), _CELL)


def _html(cell: str) -> str:
    return escape(_cut(_printable(cell), _CELL_IN_A_NOTEBOOK))


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}\u2026"

"""What `where=` means, as an expression that Polars pushes down to the files (ursa-facts section 6.5).

A column maps to a value (None: there is none), to several of which one must be there, or to the half-open
`("between", lo, hi)`, where None leaves a side open. A list column, such as participant_ids, matches if any of its
values does. All conditions must hold.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ursa_pipelines.catalog.results import Where
from ursa_pipelines.catalog.tables.schemas import PARTITION, SCHEMAS, month_of

if TYPE_CHECKING:
    import polars as pl


_JSON = {"metadata", "device_info", "extra"}


def compile_where(table: str, where: Where | None) -> pl.Expr | None:
    """The expression that keeps the rows of `table` that match, or None if all do.

    A condition on start_time names the months too, so that other months' files are not opened. Raises `ValueError` for
    a column that the table does not have or that holds JSON, and for a value that its type cannot be compared with.
    """
    import polars as pl

    conditions = []
    for asked, wanted in (where or {}).items():
        column, of_column = _column(table, asked)
        data_type = SCHEMAS[table].field(column).type
        if is_between(wanted):
            span = tuple(None if bound is None else of_column(bound) for bound in wanted[1:])
            test = _between(*span)
        else:
            values = [None if value is None else of_column(value) for value in _several(wanted)]
            given = [value for value in values if value is not None]
            span = (min(given), max(given)) if given and len(given) == len(values) else (None, None)
            test = _one_of(given, or_null=len(given) < len(values))
        if pa.types.is_list(data_type):
            conditions.append(pl.col(column).list.eval(test(pl.element())).list.any().fill_null(False))
        else:
            conditions.append(test(pl.col(column)))
        if column == "start_time" and PARTITION in SCHEMAS[table].names:
            conditions += _months(*span)
    return pl.all_horizontal(conditions) if conditions else None


def names_asked_for(where: Where | None, column: str) -> tuple[str, ...] | None:
    """The names of which `where` wants the column to be one, or None if it wants something else or nothing."""
    if column not in (where or {}) or is_between((where or {})[column]):
        return None
    names = _several((where or {})[column])
    return tuple(dict.fromkeys(names)) if all(isinstance(name, str) for name in names) else None


def is_between(wanted: Any) -> bool:
    return isinstance(wanted, tuple) and len(wanted) == 3 and wanted[0] == "between"


def _several(wanted: Any) -> list[Any]:
    return list(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]


def _column(table: str, asked: str) -> tuple[str, Callable[[Any], Any]]:
    """The column that is meant, and what makes a value comparable with it."""
    if asked.partition(".")[0] in _JSON & set(SCHEMAS[table].names):
        raise ValueError(f"{asked} cannot be a condition here: use query(metadata={{key: value}})")
    if asked == "duration" and table == "recordings":
        return "duration_us", _microseconds
    if asked not in SCHEMAS[table].names:
        raise ValueError(f"{table} has no column {asked!r}")
    data_type = SCHEMAS[table].field(asked).type
    if pa.types.is_timestamp(data_type):
        return asked, lambda value: _moment(asked, value)
    if pa.types.is_integer(data_type):
        return asked, lambda value: _of_type(asked, value, (int, float), "a number")
    return asked, lambda value: _of_type(asked, value.value if isinstance(value, Enum) else value, (str,), "a text")


def _microseconds(value: Any) -> int:
    return _of_type("duration", value, (timedelta,), "a timedelta") // timedelta(microseconds=1)


def _moment(column: str, value: Any) -> datetime:
    moment = _of_type(column, value, (datetime,), "a datetime")
    if moment.tzinfo is None:
        raise ValueError(f"{column}: {value} has no time zone; say datetime(..., tzinfo=UTC)")
    return moment.astimezone(UTC)


def _of_type(column: str, value: Any, types: tuple[type, ...], told: str) -> Any:
    if not isinstance(value, types):
        raise ValueError(f"{column}: {value!r} is not {told}")
    return value


def _between(lo: Any, hi: Any) -> Callable[[pl.Expr], pl.Expr]:
    import polars as pl

    def test(value: pl.Expr) -> pl.Expr:
        above = value.is_not_null() if lo is None else value >= pl.lit(lo)
        return above if hi is None else above & (value < pl.lit(hi))

    return test


def _one_of(given: list[Any], *, or_null: bool) -> Callable[[pl.Expr], pl.Expr]:
    import polars as pl

    def test(value: pl.Expr) -> pl.Expr:
        found = value.is_in(given) if len(given) > 1 else value == pl.lit(given[0]) if given else pl.lit(False)
        return found | value.is_null() if or_null else found

    return test


def _months(first: datetime | None, last: datetime | None) -> list[pl.Expr]:
    import polars as pl

    above = [] if first is None else [pl.col(PARTITION) >= month_of(first)]
    return above if last is None else [*above, pl.col(PARTITION) <= month_of(last)]

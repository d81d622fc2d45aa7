"""What a query gives: recordings with their modalities, and how they show themselves (ursa-facts section 9.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from ursa_pipelines.recordings.rows import ModalityRow, RecordingRow

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

QueryStatus = Literal["raw", "ingested"]
Where = Mapping[str, Any]
"""Conditions by column: a value, a list of values, or half-open `("between", lo, hi)`."""

_ROWS_SHOWN = 20
_COLUMNS = ("recording", "start (UTC)", "duration", "participants", "modalities", "bytes", "status")
_WIDTHS = (34, 19, 10, 20, 32, 9, 14)
_LEFT = 'style="text-align:left"'


@dataclass(frozen=True)
class QueryResult:
    """One recording and its modalities, keyed `"eeg"`, or `"eeg_<worker_id>"` where it has several of the family."""

    recording: RecordingRow
    modalities: dict[str, ModalityRow] = field(default_factory=dict)

    @property
    def recording_hash(self) -> str:
        return self.recording.recording_hash

    def __repr__(self) -> str:
        name, start, _, _, modalities, *_ = _cells(self)
        return f"QueryResult({name}, {start}, {modalities or 'no modalities'})"


class QueryResultList(list[QueryResult]):
    """Results in order of their start time, which render as a table in notebooks."""

    def to_arrow(self) -> pa.Table:
        """One row per recording: hash, rec_id, start and end (UTC), duration, participants, modalities, bytes."""
        import pyarrow as pa

        schema = pa.schema(
            [
                ("recording_hash", pa.string()),
                ("rec_id", pa.string()),
                ("start_time", pa.timestamp("us", tz="UTC")),
                ("ended_at", pa.timestamp("us", tz="UTC")),
                ("duration", pa.duration("us")),
                ("participant_ids", pa.list_(pa.string())),
                ("modalities", pa.list_(pa.string())),
                ("bytes", pa.int64()),
                ("ingestion_status", pa.string()),
            ]
        )
        return pa.Table.from_pylist([_flat(result) for result in self], schema=schema)

    def to_pandas(self) -> pd.DataFrame:
        """`to_arrow()` as a pandas DataFrame."""
        return self.to_arrow().to_pandas()

    def __repr__(self) -> str:
        rows = [_COLUMNS, *(_cells(result) for result in self[:_ROWS_SHOWN])]
        widest = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(_fitted, row, map(min, widest, _WIDTHS))).rstrip() for row in rows]
        return "\n".join([*(lines if self else []), *self._below()])

    def _repr_html_(self) -> str:
        heads = "".join(f"<th {_LEFT}>{escape(name)}</th>" for name in _COLUMNS)
        rows = "".join(
            f"<tr>{''.join(f'<td {_LEFT}>{escape(cell)}</td>' for cell in _cells(result))}</tr>"
            for result in self[:_ROWS_SHOWN]
        )
        table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>" if self else ""
        return f"<div>{table}{''.join(f'<div>{escape(line)}</div>' for line in self._below())}</div>"

    def _below(self) -> list[str]:
        length = sum((result.recording.duration for result in self), timedelta(0))
        size = sum(_bytes(result) for result in self)
        more = [f"\u2026 and {len(self) - _ROWS_SHOWN:,} more"] if len(self) > _ROWS_SHOWN else []
        noun = "recording" if len(self) == 1 else "recordings"
        return [*more, f"{len(self):,} {noun}, {length / timedelta(hours=1):,.1f} hours, {_readable(size)}"]


def _cells(result: QueryResult) -> list[str]:
    flat = _flat(result)
    cells = (
        flat["rec_id"] or flat["recording_hash"][:16],
        flat["start_time"].strftime("%Y-%m-%d %H:%M:%S"),
        _clock(flat["duration"]),
        ", ".join(flat["participant_ids"]),
        ", ".join(flat["modalities"]),
        _readable(flat["bytes"]),
        flat["ingestion_status"] or "",
    )
    return [_printable(cell) for cell in cells]


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _fitted(cell: str, width: int) -> str:
    return (cell if len(cell) <= width else f"{cell[: width - 1]}\u2026").ljust(width)


def _clock(duration: timedelta) -> str:
    minutes, seconds = divmod(duration // timedelta(seconds=1), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _bytes(result: QueryResult) -> int:
    return sum(row.bytes for row in result.modalities.values())


def _readable(size: int) -> str:
    from rich.filesize import decimal

    return decimal(size)


def _flat(result: QueryResult) -> dict[str, Any]:
    recording = result.recording
    statuses = sorted({str(row.ingestion_status) for row in result.modalities.values()})
    return {
        "recording_hash": recording.recording_hash,
        "rec_id": recording.rec_id,
        "start_time": recording.start_time,
        "ended_at": recording.ended_at,
        "duration": recording.duration,
        "participant_ids": recording.participant_ids,
        "modalities": list(result.modalities),
        "bytes": _bytes(result),
        "ingestion_status": ",".join(statuses) or None,
    }

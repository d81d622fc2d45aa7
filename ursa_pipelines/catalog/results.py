"""What a query gives: recordings with their modalities, and how they show themselves (ursa-facts section 9.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import InitVar, dataclass, field, replace
from datetime import timedelta
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, SupportsIndex, overload

from rich.filesize import decimal

from ursa_pipelines.errors import ResultUnbound
from ursa_pipelines.recordings.rows import ModalityRow, RecordingRow

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from ursa_pipelines.objects.data import Data
    from ursa_pipelines.objects.destination import Layout
    from ursa_pipelines.objects.download import DownloadProgress

QueryStatus = Literal["raw", "ingested"]
Where = Mapping[str, Any]
"""Conditions by column: a value, a list of values, or half-open `("between", lo, hi)`."""

_ROWS_SHOWN = 20
COLUMNS = ("recording", "start (UTC)", "duration", "participants", "modalities", "bytes", "status")
_WIDTHS = (34, 19, 10, 20, 32, 9, 14)
_DELIVERER = "_deliverer"
_LEFT = 'style="text-align:left"'


class Deliverer(Protocol):
    """What brings the segments of results: the interface that was asked."""

    def download(
        self,
        target: Iterable[QueryResult],
        dest: Path | str,
        *,
        layout: Layout = ...,
        progress: Callable[[DownloadProgress], None] | None = ...,
    ) -> list[Path]: ...

    def get(self, target: Iterable[QueryResult], *, max_bytes: int = ...) -> list[Data]: ...


@dataclass(frozen=True)
class QueryResult:
    """One recording and its modalities, keyed `"eeg"`, or `"eeg_<worker_id>"` where it has several of the family."""

    recording: RecordingRow
    modalities: dict[str, ModalityRow] = field(default_factory=dict)
    _deliverer: InitVar[Deliverer | None] = None

    def __post_init__(self, _deliverer: Deliverer | None) -> None:
        if _deliverer is not None:
            self._delivered_by(_deliverer)

    @property
    def recording_hash(self) -> str:
        return self.recording.recording_hash

    def download(
        self,
        dest: Path | str,
        *,
        layout: Layout = "by_recording",
        progress: Callable[[DownloadProgress], None] | None = None,
    ) -> list[Path]:
        """Downloads the raw segments below `dest`; the paths written. See `DataInterface.download`."""
        return _deliverer_of([self]).download([self], dest, layout=layout, progress=progress)

    def get(self, *, max_bytes: int | None = None) -> Data:
        """The raw segments in memory. See `DataInterface.get`."""
        return QueryResultList([self]).get(max_bytes=max_bytes)[0]

    def __repr__(self) -> str:
        name, start, _, _, modalities, *_ = cells_of(self)
        return f"QueryResult({name}, {start}, {modalities or 'no modalities'})"

    def __copy__(self) -> QueryResult:
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> QueryResult:
        return replace(self, recording=deepcopy(self.recording, memo), modalities=deepcopy(self.modalities, memo))

    def _delivered_by(self, deliverer: Deliverer) -> None:
        # No field of the row: it is neither compared, shown, put into dictionaries nor pickled.
        object.__setattr__(self, _DELIVERER, deliverer)

    def __getstate__(self) -> dict[str, Any]:
        # What delivers it holds connections and credentials, which stay in this process.
        return {name: value for name, value in self.__dict__.items() if name != _DELIVERER}


class QueryResultList(list[QueryResult]):
    """Results in order of their start time, which render as a table in notebooks.

    A slice of them, and two of them added, are results again: `results[:3].download("out")`.
    """

    def download(
        self,
        dest: Path | str,
        *,
        layout: Layout = "by_recording",
        progress: Callable[[DownloadProgress], None] | None = None,
    ) -> list[Path]:
        """Downloads the raw segments of all results below `dest`; the paths written. See `DataInterface.download`."""
        return _deliverer_of(self).download(self, dest, layout=layout, progress=progress) if self else []

    def get(self, *, max_bytes: int | None = None) -> list[Data]:
        """The raw segments of each result in memory. See `DataInterface.get`."""
        limit = {} if max_bytes is None else {"max_bytes": max_bytes}
        return _deliverer_of(self).get(self, **limit) if self else []

    def delivered_by(self, deliverer: Deliverer) -> QueryResultList:
        """These results, whose `download` and `get` ask this one."""
        for result in self:
            result._delivered_by(deliverer)
        return self

    @overload
    def __getitem__(self, place: SupportsIndex) -> QueryResult: ...

    @overload
    def __getitem__(self, place: slice) -> QueryResultList: ...

    def __getitem__(self, place: SupportsIndex | slice) -> QueryResult | QueryResultList:
        found = super().__getitem__(place)
        return QueryResultList(found) if isinstance(found, list) else found

    def __add__(self, others: list[QueryResult]) -> QueryResultList:  # type: ignore[override]
        return QueryResultList([*self, *others])

    def copy(self) -> QueryResultList:
        """The same results in a list of their own."""
        return QueryResultList(self)

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
        rows = [COLUMNS, *(cells_of(result) for result in self[:_ROWS_SHOWN])]
        widest = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(_fitted, row, map(min, widest, _WIDTHS))).rstrip() for row in rows]
        return "\n".join([*(lines if self else []), *self._below()])

    def _repr_html_(self) -> str:
        heads = "".join(f"<th {_LEFT}>{escape(name)}</th>" for name in COLUMNS)
        rows = "".join(
            f"<tr>{''.join(f'<td {_LEFT}>{escape(cell)}</td>' for cell in cells_of(result))}</tr>"
            for result in self[:_ROWS_SHOWN]
        )
        table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>" if self else ""
        return f"<div>{table}{''.join(f'<div>{escape(line)}</div>' for line in self._below())}</div>"

    @property
    def totals(self) -> str:
        """How much it is, such as `2 recordings, 3.0 hours, 3.0 MB`."""
        length = sum((result.recording.duration for result in self), timedelta(0))
        noun = "recording" if len(self) == 1 else "recordings"
        return f"{len(self):,} {noun}, {length / timedelta(hours=1):,.1f} hours, {decimal(sum(map(_bytes, self)))}"

    def _below(self) -> list[str]:
        more = [f"\u2026 and {len(self) - _ROWS_SHOWN:,} more"] if len(self) > _ROWS_SHOWN else []
        return [*more, self.totals]


def _deliverer_of(results: list[QueryResult]) -> Deliverer:
    deliverers: dict[int, Deliverer] = {}
    for result in results:
        found = getattr(result, _DELIVERER, None)
        if found is None:
            raise ResultUnbound("these results were made by hand or came from another process")
        deliverers[id(found)] = found
    if len(deliverers) > 1:
        raise ResultUnbound(
            "these results came from several interfaces", remedy="Download the results of each interface on their own."
        )
    return next(iter(deliverers.values()))


def cells_of(result: QueryResult) -> list[str]:
    """What a table tells of a result, under `COLUMNS`."""
    flat = _flat(result)
    cells = (
        flat["rec_id"] or flat["recording_hash"][:16],
        flat["start_time"].strftime("%Y-%m-%d %H:%M:%S"),
        _clock(flat["duration"]),
        ", ".join(flat["participant_ids"]),
        ", ".join(flat["modalities"]),
        decimal(flat["bytes"]),
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

"""What the catalog holds in figures: for plots, for the asset `catalog` and for `ursa report` (DESIGN section 8).

One state of the catalog is read, each table once and in batches; what is kept of a batch are its sums. Only counts and
families of devices come out of it: no ids and no names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING

from ursa_pipelines.catalog.catalog import Catalog

if TYPE_CHECKING:
    import polars as pl

    from ursa_pipelines.catalog.tables.scan import Snapshot

UNKNOWN = "unknown"
_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True)
class DayTotals:
    """What started on one day (UTC)."""

    recordings: int
    bytes: int


@dataclass(frozen=True)
class FamilyTotals:
    """What one family of devices has recorded. A recording with two cameras counts once."""

    recordings: int
    segments: int
    bytes: int


@dataclass(frozen=True)
class Overview:
    """The catalog in figures. Days are of the recordings' start, UTC, in order; families with the most bytes first.

    `partial` recordings lack a node. `verification` counts recordings by the level that was reached. `backlog_hours`
    are the ages of recordings that are known and not registered, or None where nobody has told.
    """

    recordings: int = 0
    bytes: int = 0
    segments: int = 0
    participants: int = 0
    partial: int = 0
    days: dict[date, DayTotals] = field(default_factory=dict)
    families: dict[str, FamilyTotals] = field(default_factory=dict)
    participants_per_recording: dict[int, int] = field(default_factory=dict)
    verification: dict[str, int] = field(default_factory=dict)
    newest_registration: datetime | None = None
    backlog_hours: tuple[float, ...] | None = None


def take_overview(catalog: Catalog, *, backlog_hours: Sequence[float] | None = None) -> Overview:
    """Sums up the catalog as it is now. Raises `CatalogError`, `StoreUnavailable`.

    In memory are a batch at a time, 8 bytes for every modality of a recording, and the participants' ids.
    """
    snapshot = catalog.snapshot()
    families = _families(snapshot)
    days, counts, levels, people, partial, newest = _recordings(snapshot)
    return Overview(
        recordings=sum(one.recordings for one in days.values()),
        bytes=sum(one.bytes for one in days.values()),
        segments=sum(one.segments for one in families.values()),
        participants=people,
        partial=partial,
        days=days,
        families=families,
        participants_per_recording=counts,
        verification=levels,
        newest_registration=newest,
        backlog_hours=None if backlog_hours is None else tuple(sorted(backlog_hours)),
    )


def told_bytes(size: float) -> str:
    """A size for people, such as "1.5 GB"."""
    factor, unit = unit_of_bytes(size)
    told = size / factor
    return f"{told:,.{1 if told < 10 and factor > 1 else 0}f} {unit}"


def unit_of_bytes(largest: float) -> tuple[float, str]:
    """How many bytes the unit has in which sizes up to the largest are told, and its name."""
    return next((one for one in _UNITS if largest >= one[0]), (1, "bytes"))


def _recordings(
    snapshot: Snapshot,
) -> tuple[dict[date, DayTotals], dict[int, int], dict[str, int], int, int, datetime | None]:
    import polars as pl

    days, counts, levels, people, others = [], [], [], [], []
    one = pl.len().cast(pl.Int64).alias("recordings")
    columns = ["start_time", "participant_ids", "bytes", "verification", "nodes_missing", "registered_at"]
    for batch in snapshot.scan("recordings", None, columns):
        frame = pl.DataFrame(pl.from_arrow(batch)).select(
            pl.col("start_time").dt.date().alias("day"),
            pl.col("participant_ids").list.len().fill_null(0).cast(pl.Int64).alias("count"),
            pl.col("participant_ids").alias("people"),
            pl.col("bytes").fill_null(0).clip(lower_bound=0),
            pl.col("verification").fill_null(UNKNOWN).alias("level"),
            (pl.col("nodes_missing").list.len().fill_null(0) > 0).alias("partial"),
            pl.col("registered_at").alias("registered"),
        )
        days.append(frame.group_by("day").agg(one, pl.col("bytes").sum()))
        counts.append(frame.group_by("count").agg(one))
        levels.append(frame.group_by("level").agg(one))
        people.append(frame["people"].explode().drop_nulls().unique())
        others.append(frame.select(pl.col("partial").sum().cast(pl.Int64), pl.col("registered").max()))
    if not days:
        return {}, {}, {}, 0, 0, None
    summed = pl.concat(others).select(pl.col("partial").sum(), pl.col("registered").max())
    return (
        {day: DayTotals(number, size) for day, number, size in _joined(days, "day").iter_rows()},
        dict(_joined(counts, "count").iter_rows()),
        dict(_joined(levels, "level").iter_rows()),
        pl.concat(people).n_unique(),
        int(summed["partial"].item()),
        summed["registered"].item(),
    )


def _families(snapshot: Snapshot) -> dict[str, FamilyTotals]:
    import polars as pl

    sums: list[pl.DataFrame] = []
    seen: dict[str, list[pl.Series]] = {}
    for batch in snapshot.scan("modalities", None, ["recording_hash", "modality", "segment_count", "bytes"]):
        frame = pl.DataFrame(pl.from_arrow(batch))
        sums.append(frame.group_by("modality").agg(pl.col("segment_count", "bytes").fill_null(0).sum()))
        # Workers of one family may be in different batches.
        for (family,), rows in frame.partition_by("modality", as_dict=True).items():
            seen.setdefault(family, []).append(rows["recording_hash"].hash().unique())
    if not sums:
        return {}
    recordings = {family: pl.concat(parts).n_unique() for family, parts in seen.items()}
    totals = _joined(sums, "modality").sort(["bytes", "modality"], descending=[True, False])
    return {family: FamilyTotals(recordings[family], segments, size) for family, segments, size in totals.iter_rows()}


def _joined(parts: list[pl.DataFrame], by: str) -> pl.DataFrame:
    import polars as pl

    return pl.concat(parts).group_by(by).agg(pl.all().sum()).sort(by)

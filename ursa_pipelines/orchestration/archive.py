"""Takes old recordings off the Dagster instance, whose pages and ticks grow with the number of partitions.

Only partitions are deleted: bucket, catalog, sources and the events of the recordings stay as they are, so that
`ursa history`, `ursa status` and the reconciliation tell what they told. What is archived stays known (`partitions`):
sensors go on looking at it in turn, and when its directory or its objects change it arrives, and its partition is back.
Archived is only what needs nobody: it was recorded and registered before the day that was named, all its bytes were
proved by SHA-256, all its nodes are there, and nothing has happened to it since.

Deleting a partition fails every backfill that targets it (Dagster 1.13). So nothing is archived while a backfill is
open, which is asked for again before each few hundred. One that begins in the moment between fails as a whole and
registers nothing wrongly; the next reconciliation takes up what it left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice

import dagster as dg

from ursa_pipelines.errors import Retryable
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.orchestration.arrivals import newest_arrivals
from ursa_pipelines.orchestration.backfills import read_statuses
from ursa_pipelines.orchestration.decisions import retry
from ursa_pipelines.orchestration.partitions import (
    PARTITIONS_PER_REQUEST,
    R2_RECORDING,
    arrival_asset,
    note_archived,
    partitions_in_order,
    recordings,
)
from ursa_pipelines.orchestration.resources import require_profile
from ursa_pipelines.orchestration.states import History, read_histories
from ursa_pipelines.recordings.identity import is_rec_id

LEAST_AGE = timedelta(days=30)
"""What is younger may still get another node's half, or be looked at by somebody."""

_AT_ONCE = 200
_OPEN = {"REQUESTED", "CANCELING", "FAILING"}
_LATEST = 50


@dataclass(frozen=True)
class Old:
    """A recording from before the day that was named, and why it keeps its partition; "" if it need not."""

    rec_id: str
    kept: str = ""


@dataclass(frozen=True)
class _Row:
    """What the catalog tells of a recording. `registered_at` is seconds since 1970 UTC, 0 if it is not told."""

    verification: str
    nodes_missing: bool
    registered_at: float


def find_old(data: DataInterface, instance: dg.DagsterInstance, before: date) -> Iterator[Old]:
    """Every partition of a recording from before this day (UTC), in their order. Reads instance and catalog.

    Raises `ValueError` for a day less than `LEAST_AGE` ago.
    """
    if before > (datetime.now(UTC) - LEAST_AGE).date():
        raise ValueError(f"a day at least {LEAST_AGE.days} days ago")
    first_kept = f"rec_{before:%Y%m%d}"
    old = sorted(key for key in partitions_in_order(instance) if is_rec_id(key) and key < first_kept)
    rows = _rows(data) if old else {}
    statuses = read_statuses(instance, old)
    limit = datetime.combine(before, time(), UTC).timestamp()
    for start in range(0, len(old), PARTITIONS_PER_REQUEST):
        some = old[start : start + PARTITIONS_PER_REQUEST]
        histories = read_histories(instance, some)
        for rec_id in some:
            history = histories.get(rec_id) or History(rec_id)
            yield Old(rec_id, _why_kept(rows.get(rec_id, []), history, statuses.get(rec_id), limit))


def archive(data: DataInterface, instance: dg.DagsterInstance, rec_ids: Collection[str]) -> Iterator[str]:
    """Deletes the partitions of these, which `find_old` has found, and tells each.

    Whatever ends it in between, another one goes on. What has had an event since it was found keeps its partition.
    Raises `Retryable` if a backfill is open.
    """
    require_profile(instance, data.profile)
    require_no_open_backfill(instance)
    began, rest = datetime.now(UTC).timestamp(), iter(sorted(rec_ids))
    while some := list(islice(rest, _AT_ONCE)):
        histories = read_histories(instance, some)
        arrived = _newest_arrivals(data, instance, some)
        statuses = read_statuses(instance, some)
        quiet = [
            rec_id
            for rec_id in some
            if statuses.get(rec_id) == dg.AssetPartitionStatus.MATERIALIZED
            and _is_as_found(histories.get(rec_id), began, arrived.get(rec_id, 0.0))
        ]
        # Known first: what is deleted and not known would be taken for new.
        note_archived(instance, quiet)
        require_no_open_backfill(instance, latest=_LATEST)
        for rec_id in quiet:
            instance.delete_dynamic_partition(str(recordings.name), rec_id)
            yield rec_id
        late = _newest_arrivals(data, instance, quiet)
        retry(data, instance, [rec_id for rec_id in quiet if late.get(rec_id, 0.0) > arrived.get(rec_id, 0.0)])


def require_no_open_backfill(instance: dg.DagsterInstance, *, latest: int | None = None) -> None:
    """Raises `Retryable` if a backfill has not ended; only the `latest` are asked, or all."""
    for backfill in instance.get_backfills(limit=latest):
        if backfill.status.value in _OPEN:
            raise Retryable(
                f"the backfill {backfill.backfill_id} is open, and would fail if a partition of it were deleted",
                place="the Dagster instance",
                remedy="Wait for its end, or cancel it under Runs > Backfills; then run this again.",
            )


def _rows(data: DataInterface) -> dict[str, list[_Row]]:
    import pyarrow as pa

    rows: dict[str, list[_Row]] = {}
    columns = ["rec_id", "verification", "nodes_missing", "registered_at"]
    for batch in data.catalog.scan("recordings", None, columns):
        told = [batch.column(name) for name in columns[:3]]
        at = batch.column("registered_at").cast(pa.int64())
        for rec_id, verification, missing, micros in zip(*(one.to_pylist() for one in (*told, at)), strict=True):
            if rec_id:
                rows.setdefault(rec_id, []).append(_Row(verification or "", bool(missing), (micros or 0) / 1e6))
    return rows


def _why_kept(rows: Sequence[_Row], history: History, status: dg.AssetPartitionStatus | None, limit: float) -> str:
    if len(rows) != 1:
        return "registered more than once" if rows else "not registered"
    if status == dg.AssetPartitionStatus.IN_PROGRESS:
        return "a run has it"
    if history.is_held:
        return "quarantined or waived"
    if status != dg.AssetPartitionStatus.MATERIALIZED or history.registered_at is None or history.last is not None:
        return "its newest run did not register it"
    (row,) = rows
    if row.verification != "sha256":
        return "not all its bytes were proved; `ursa verify --deep` does so"
    if row.nodes_missing:
        return "a node's half is missing"
    if not 0 < max(row.registered_at, history.registered_at) < limit:
        return "registered since then"
    return ""


def _newest_arrivals(data: DataInterface, instance: dg.DagsterInstance, rec_ids: Sequence[str]) -> dict[str, float]:
    """When each arrived last, anywhere, in seconds since 1970 UTC."""
    newest: dict[str, float] = {}
    for asset in (*(arrival_asset(source.name) for source in data.sources), R2_RECORDING):
        for rec_id, arrival in newest_arrivals(instance, asset, rec_ids).items():
            newest[rec_id] = max(newest.get(rec_id, 0.0), arrival.at)
    return newest


def _is_as_found(history: History | None, began: float, arrived: float) -> bool:
    """Whether it is registered, and neither arrived since then, to be taken up soon, nor had anything else happen."""
    if history is None or history.registered_at is None:
        return False
    return history.last is None and not history.is_held and arrived <= history.registered_at < began

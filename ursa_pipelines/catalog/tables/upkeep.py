"""Upkeep of the tables: few large files instead of many small ones, and none that nobody needs (DESIGN section 6).

It stamps HEAD and swaps it like a fold, and only from tables at the very versions that HEAD names: what an interrupted
fold has left is not for readers yet. Vacuum comes before the swap and keeps the files of the versions that HEAD named.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import timedelta

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from ursa_pipelines import failpoints
from ursa_pipelines.catalog.tables import delta
from ursa_pipelines.catalog.tables.head import Head, read_head, stamp, swap
from ursa_pipelines.catalog.tables.schemas import PARTITION, SCHEMAS, TABLES
from ursa_pipelines.errors import CatalogError, ObjectNotFound
from ursa_pipelines.objects.store import Bucket

_FILE_BYTES = 128 * 1024**2
_SMALL_FILES_ALLOWED = 4
_LONGER_THAN_ANY_FOLD = timedelta(days=1)
_OWN_OPERATIONS = frozenset({"OPTIMIZE", "VACUUM START", "VACUUM END"})


@dataclass(frozen=True)
class TableUpkeep:
    """What was, or in a dry run would be, done to a table. `bytes` is the size of its present files.

    `compacted` are months, or `("",)` for a table without. `gave_up`: it was, or came to be, changed by somebody else.
    """

    table: str
    files_before: int
    files_after: int
    bytes: int
    compacted: tuple[str, ...] = ()
    files_vacuumed: int = 0
    gave_up: bool = False


def compact(
    assets: Bucket, prefix: str, *, by: str, retention: timedelta = timedelta(days=7), dry_run: bool
) -> list[TableUpkeep]:
    """Compacts months of many small files, writes checkpoints, and removes files out of use for `retention`.

    What interrupted folds have left unused is removed too if `retention` is at least a day. Empty while nothing was
    folded. Raises `CatalogError` if a table is not there, `StoreUnavailable`.
    """
    found = read_head(assets, prefix)
    if found is None or not found[0].versions:
        return []
    head, etag = found if dry_run else stamp(assets, prefix)
    done: list[TableUpkeep] = []
    versions: dict[str, int] = {}
    for name in TABLES:
        table = delta.open_table(assets, prefix, name)
        if table is None:
            raise CatalogError(
                "the table is not there",
                place=f"{assets.name}/{prefix}/tables/{name}",
                remedy="Run `ursa catalog fold`; the entries hold everything.",
            )
        with delta.speaking_of(assets, prefix, name):
            upkeep = _kept_up(assets, prefix, name, table, head, retention, dry_run)
            if not dry_run:
                failpoints.reached("compact.table_done")
                _checkpoint(assets, prefix, name, table)
        versions[name] = table.version()
        done.append(upkeep)
    if dry_run or versions == head.versions or any(upkeep.gave_up for upkeep in done):
        return done
    is_as_seen = all(delta.is_newest(assets, prefix, name, version) for name, version in versions.items())
    if is_as_seen and swap(assets, prefix, head, etag, versions=versions, epoch=head.epoch, by=by):
        failpoints.reached("compact.head_swapped")
        return done
    return [replace(upkeep, gave_up=True) for upkeep in done]


def _kept_up(
    assets: Bucket, prefix: str, name: str, table: DeltaTable, head: Head, retention: timedelta, dry_run: bool
) -> TableUpkeep:
    opened = table.version()
    sizes = _sizes(table)
    files = sum(len(group) for group in sizes.values())
    crowded = {month: group for month, group in sizes.items() if _small(group) > _SMALL_FILES_ALLOWED}
    upkeep = TableUpkeep(name, files, files, sum(map(sum, sizes.values())), tuple(sorted(crowded)))
    is_as_head_says = opened == head.versions[name]
    if not is_as_head_says:
        upkeep = replace(upkeep, compacted=(), gave_up=True)
    elif dry_run:
        upkeep = replace(upkeep, files_after=files - sum(map(_saved, crowded.values())))
    elif crowded:
        filters = [(PARTITION, "in", sorted(crowded))] if PARTITION in SCHEMAS[name].names else None
        try:
            table.optimize.compact(partition_filters=filters, target_size=_FILE_BYTES)
        except CommitFailedError:
            return replace(upkeep, compacted=(), gave_up=True)
    try:
        vacuumed = table.vacuum(
            retention_hours=int(retention.total_seconds() // 3600),
            dry_run=dry_run,
            enforce_retention_duration=False,
            full=retention >= _LONGER_THAN_ANY_FOLD,
            keep_versions=[head.versions[name]],
        )
    except CommitFailedError:
        return replace(upkeep, gave_up=True)
    upkeep = replace(upkeep, files_vacuumed=len(vacuumed))
    if dry_run:
        return upkeep
    done = delta.operations(assets, prefix, name, range(opened + 1, table.version() + 1))
    files_after = sum(len(group) for group in _sizes(table).values())
    return replace(upkeep, files_after=files_after, gave_up=upkeep.gave_up or not _OWN_OPERATIONS.issuperset(done))


def _sizes(table: DeltaTable) -> dict[str, list[int]]:
    """The sizes of a table's files by month, in bytes."""
    import pyarrow as pa

    sizes: dict[str, list[int]] = defaultdict(list)
    for action in pa.table(table.get_add_actions(flatten=True)).to_pylist():
        sizes[action.get(f"partition.{PARTITION}") or ""].append(action["size_bytes"])
    return sizes


def _small(sizes: list[int]) -> int:
    return sum(size < _FILE_BYTES for size in sizes)


def _saved(sizes: list[int]) -> int:
    """About how many files fewer there will be."""
    small = [size for size in sizes if size < _FILE_BYTES]
    return len(small) - math.ceil(sum(small) / _FILE_BYTES)


def _checkpoint(assets: Bucket, prefix: str, name: str, table: DeltaTable) -> None:
    try:
        raw, _ = assets.get(f"{prefix}/tables/{name}/_delta_log/_last_checkpoint")
        last = json.loads(raw)["version"]
    except (ObjectNotFound, ValueError, KeyError, TypeError, RecursionError):
        # It is an aid to readers, which do without: one that is damaged is written anew.
        last = None
    if last != table.version():
        table.create_checkpoint()

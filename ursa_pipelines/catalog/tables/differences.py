"""What the nightly pass finds: recordings whose rows are not those of their entry (DESIGN section 6, Fold).

A row of another version than its entry is brought up to date by a fold. A row that tells the version of its entry but
not what that entry says, or of which there is no recording, was never written so: the tables are damaged, and only
making them anew helps. Of a Parquet file nobody keeps a checksum, and a reader takes a column whose name was hit for
one that is not there; so the values of all columns are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import pyarrow as pa
from deltalake import DeltaTable

from ursa_pipelines.catalog.edits import read_edits
from ursa_pipelines.catalog.entries import Entry, read_entry
from ursa_pipelines.catalog.tables import delta
from ursa_pipelines.catalog.tables.participants import Accounts
from ursa_pipelines.catalog.tables.schemas import PARTITION, SCHEMAS, events_of, modalities_of, recordings_of
from ursa_pipelines.objects.store import Bucket

if TYPE_CHECKING:
    import polars as pl

_ENTRIES_AT_ONCE = 1_000
_READERS = 64
_OF_ENTRIES: dict[str, Callable[[list[tuple[Entry, str]]], pa.Table]] = {
    "recordings": recordings_of,
    "modalities": modalities_of,
    "events": events_of,
}


@dataclass(frozen=True)
class Differences:
    """For each recording that differs, the months in which the table has rows of it; and whether rows are `damaged`."""

    months: dict[str, set[str]] = field(default_factory=dict)
    damaged: bool = False


def differences(
    assets: Bucket, prefix: str, tables: Mapping[str, DeltaTable], *, agree: bool, at_rest: bool
) -> Differences:
    """The entries that the table of recordings lacks or holds in another version, and its rows without one, or double.

    If the tables `agree` with one another, all rows are compared with what their entries say, value by value; those of
    participants if nothing is under way (`at_rest`, and no recording differs), since they are of many entries.
    The tables were opened before: an entry that is listed and not in it is newer, never one that it has lost sight of.
    In memory are hash, ETag, month and three digests of every recording, about 180 bytes each, and an account of every
    participant; entries are read, and told again, a thousand at a time. Raises `CatalogError` for a damaged entry.
    """
    months: dict[str, set[str]] = {}
    held, is_damaged = _held(assets, prefix, tables, agree=agree)
    if is_damaged:
        return Differences(damaged=True)
    accounts, waiting = Accounts(), dict[str, str]()
    shards = held["recording_hash"].str.slice(0, 2)
    unseen = set(shards.unique())
    directories = assets.list_directories(f"{prefix}/entries/")
    for shard in directories:
        unseen.discard(shard)
        infos = assets.list_objects(f"{prefix}/entries/{shard}/")
        listed = {info.key.rpartition("/")[2].removesuffix(".json"): info.etag for info in infos}
        start, end = shards.search_sorted(shard, "left"), shards.search_sorted(shard, "right")
        _compare(held.slice(start, end - start), listed, months)
        waiting |= {key: etag for key, etag in listed.items() if agree and key not in months}
        while len(waiting) >= _ENTRIES_AT_ONCE or (waiting and shard == directories[-1]):
            pairs = _read(assets, prefix, {key: waiting.pop(key) for key in list(islice(waiting, _ENTRIES_AT_ONCE))})
            accounts.add(entry for entry, _ in pairs)
            if pairs and _are_others(held, pairs):
                return Differences(damaged=True)
    for shard in unseen:
        _compare(held.filter(shards == shard), {}, months)
    is_damaged = agree and at_rest and not months and _participants_differ(assets, prefix, tables, accounts)
    return Differences(months, is_damaged)


def _held(assets: Bucket, prefix: str, tables: Mapping[str, DeltaTable], *, agree: bool) -> tuple[pl.DataFrame, bool]:
    """Hash, ETag and month of each recording, with digests of its rows in each table; and whether some have none."""
    import polars as pl

    with delta.speaking_of(assets, prefix, "recordings"):
        scan = pl.scan_delta(tables["recordings"])
        digest = [_digest("recordings")] if agree else []
        held = scan.select("recording_hash", "etag", PARTITION, *digest).sort("recording_hash").collect()
    if held["recording_hash"].null_count():
        return held, True
    for name in ("modalities", "events") if agree else ():
        with delta.speaking_of(assets, prefix, name):
            told = _told(pl.scan_delta(tables[name]), name).collect(engine="streaming")
        if told.join(held, on="recording_hash", how="anti").height:
            return held, True
        held = held.join(told, on="recording_hash", how="left", maintain_order="left")
    return held, False


def _compare(held: pl.DataFrame, listed: dict[str, str], months: dict[str, set[str]]) -> None:
    rows: dict[str, list[tuple[str, str]]] = {}
    for key, etag, month in held.select("recording_hash", "etag", PARTITION).iter_rows():
        rows.setdefault(key, []).append((etag, month))
    for key in rows.keys() | listed.keys():
        of_key = rows.get(key, [])
        if [etag for etag, _ in of_key] != [listed.get(key)]:
            months[key] = {month for _, month in of_key}


def _read(assets: Bucket, prefix: str, listed: Mapping[str, str]) -> list[tuple[Entry, str]]:
    """These entries, without those that are another version already than was listed."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="compare") as pool:
        found = pool.map(lambda recording_hash: read_entry(assets, prefix, recording_hash), listed)
        return [one for key, one in zip(listed, found, strict=True) if one is not None and one[1] == listed[key]]


def _are_others(held: pl.DataFrame, pairs: Sequence[tuple[Entry, str]]) -> bool:
    """Whether a row is not what the entry says that it was made of."""
    import polars as pl

    hashes = pl.DataFrame({"recording_hash": [entry.recording.recording_hash for entry, _ in pairs]})
    of_pairs = hashes.join(held, on="recording_hash", how="left").rename({name: f"held {name}" for name in _OF_ENTRIES})
    for name, rows_of in _OF_ENTRIES.items():
        expected = _told(pl.DataFrame(pl.from_arrow(rows_of(list(pairs)))).lazy(), name).collect()
        both = of_pairs.join(expected, on="recording_hash", how="left")
        if both.filter(pl.col(name).ne_missing(pl.col(f"held {name}"))).height:
            return True
    return False


def _told(rows: pl.LazyFrame, name: str) -> pl.LazyFrame:
    """For each recording a digest of its rows in a table, in whatever order they come."""
    return rows.group_by("recording_hash").agg(_digest(name).sum().alias(name))


def _digest(name: str) -> pl.Expr:
    """Of each row, 64 bits of all its columns. Who damages a table does not choose how."""
    import polars as pl

    schema = pl.DataFrame(pl.from_arrow(SCHEMAS[name].empty_table())).schema
    columns: list[pl.Expr] = []
    for column, kind in schema.items():
        values = pl.col(column).cast(kind)
        # Lists have no hash of their own.
        columns += [values.list.join("\n"), values.list.len()] if kind == pl.List(pl.String) else [values]
    row = pl.sum_horizontal(values.hash(seed) for seed, values in enumerate(columns))
    return row.hash().alias(name)


def _participants_differ(assets: Bucket, prefix: str, tables: Mapping[str, DeltaTable], accounts: Accounts) -> bool:
    import polars as pl

    with delta.speaking_of(assets, prefix, "participants"):
        held = pl.scan_delta(tables["participants"]).select(SCHEMAS["participants"].names).collect().to_dicts()
    expected = accounts.records(read_edits(assets, prefix))
    return sorted(held, key=_by_id) != sorted(expected, key=_by_id)


def _by_id(record: dict[str, object]) -> str:
    return str(record["participant_id"])

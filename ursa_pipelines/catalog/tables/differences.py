"""What the nightly pass finds: recordings whose rows are not those of their entry (DESIGN section 6, Fold)."""

from __future__ import annotations

from dataclasses import dataclass, field

from deltalake import DeltaTable

from ursa_pipelines.catalog.tables import delta
from ursa_pipelines.catalog.tables.schemas import PARTITION
from ursa_pipelines.objects.store import Bucket


@dataclass(frozen=True)
class Differences:
    """For each recording that differs, the months in which the table has rows of it."""

    months: dict[str, set[str]] = field(default_factory=dict)


def differences(assets: Bucket, prefix: str, recordings: DeltaTable) -> Differences:
    """The entries that the table lacks or holds in another version, and its rows that have no entry or are double.

    The table was opened before: an entry that is listed and not in it is newer, never one that it has lost sight of.
    In memory are hash, ETag and month of every row, about 120 bytes each; the listing is taken piece by piece.
    """
    import polars as pl

    months: dict[str, set[str]] = {}
    with delta.speaking_of(assets, prefix, "recordings"):
        scan = pl.scan_delta(recordings).select("recording_hash", "etag", PARTITION)
        held = scan.sort("recording_hash").collect()
    shards = held["recording_hash"].str.slice(0, 2)
    unseen = set(shards.unique())
    for shard in assets.list_directories(f"{prefix}/entries/"):
        unseen.discard(shard)
        infos = assets.list_objects(f"{prefix}/entries/{shard}/")
        listed = {info.key.rpartition("/")[2].removesuffix(".json"): info.etag for info in infos}
        start, end = shards.search_sorted(shard, "left"), shards.search_sorted(shard, "right")
        _compare(held.slice(start, end - start), listed, months)
    for shard in unseen:
        _compare(held.filter(shards == shard), {}, months)
    return Differences(months)


def _compare(held, listed: dict[str, str], months: dict[str, set[str]]) -> None:
    rows: dict[str, list[tuple[str, str]]] = {}
    for key, etag, month in held.iter_rows():
        rows.setdefault(key, []).append((etag, month))
    for key in rows.keys() | listed.keys():
        of_key = rows.get(key, [])
        if [etag for etag, _ in of_key] != [listed.get(key)]:
            months[key] = {month for _, month in of_key}

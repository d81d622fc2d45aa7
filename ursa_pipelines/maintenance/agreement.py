"""Whether the catalog's tables say what its entries say, looked at in a sample (DESIGN section 6, Fold).

The nightly pass compares everything. This one takes a few of the 256 groups into which entries are sorted by their
hash: a handful of requests, however many recordings there are.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from ursa_pipelines.catalog.catalog import Catalog


@dataclass(frozen=True)
class Sampled:
    """How many entries were looked at, and the recording_hashes of those whose row is missing or another version's."""

    looked_at: int
    differing: tuple[str, ...]


def compare_sample(catalog: Catalog, *, at_least: int = 200) -> Sampled:
    """Compares randomly chosen entries with their rows. Raises `CatalogError`, `StoreUnavailable`."""
    entries = f"{catalog.prefix}/entries/"
    groups = list(catalog.assets.list_directories(entries))
    secrets.SystemRandom().shuffle(groups)
    chosen: list[str] = []
    etags: dict[str, str] = {}
    for group in groups:
        chosen.append(group)
        etags |= _listed(catalog, f"{entries}{group}/")
        if len(etags) >= at_least:
            break
    held: dict[str, str] = {}
    for batch in catalog.snapshot().scan("recordings", {"recording_hash": sorted(etags)}, ["recording_hash", "etag"]):
        held |= dict(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    suspects = {key for key, etag in etags.items() if held.get(key) != etag}
    if suspects:
        # What was written meanwhile has another ETag now, and its mark in the tail.
        now = {key: etag for group in chosen for key, etag in _listed(catalog, f"{entries}{group}/").items()}
        suspects = {key for key in suspects if now.get(key) == etags[key]}
    return Sampled(len(etags), tuple(sorted(suspects)))


def _listed(catalog: Catalog, prefix: str) -> dict[str, str]:
    infos = catalog.assets.list_objects(prefix)
    return {info.key.rpartition("/")[2].removesuffix(".json"): info.etag for info in infos}

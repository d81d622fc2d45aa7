"""A catalog of an older format becomes one of ours (docs/catalog.md, "Versions").

1. The pointer, if this is the live catalog, then `CATALOG.json` are swapped to our version: an older build refuses from
   then on to read and to write, and ours may write. Entries, claims, edits and marks are the same in both formats.
2. The tables are made anew from all entries, as further versions. Folds wait for it, and readers read the old ones.
3. HEAD is swapped to them, as the last step of that.

Each step is one compare-and-swap and is left out where it was done, so that the same call finishes what was
interrupted, and several at once do no harm. There is no way back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from ursa_pipelines import failpoints
from ursa_pipelines.catalog.pointer import (
    CATALOG_VERSION,
    document_key,
    load_document,
    load_pointer,
    require_prefix,
    swap_pointer,
)
from ursa_pipelines.catalog.retrying import retrying
from ursa_pipelines.catalog.tables.head import read_head
from ursa_pipelines.errors import CatalogNotInitialized, ETagMismatch, StoreUnavailable
from ursa_pipelines.objects.keys import ACTIVE_POINTER
from ursa_pipelines.objects.store import Bucket

_TABLES = "tables"
_REFOLDS = 6
_LOOK_AGAIN_SECONDS = 0.5


@dataclass(frozen=True)
class CatalogFormat:
    """Of which format a catalog is. `pointer` is None where another catalog is live, `tables` while there are none."""

    prefix: str
    pointer: int | None
    document: int
    tables: int | None
    newest: int = CATALOG_VERSION

    @property
    def versions(self) -> dict[str, int]:
        """What there is, in the order in which it is upgraded."""
        told = {ACTIVE_POINTER: self.pointer, document_key(self.prefix): self.document, _TABLES: self.tables}
        return {name: version for name, version in told.items() if version is not None}

    @property
    def due(self) -> tuple[str, ...]:
        """What of it an upgrade has to do; empty where there is none due."""
        return tuple(name for name, version in self.versions.items() if version < self.newest)

    @property
    def are_tables_due(self) -> bool:
        return _TABLES in self.due


@dataclass(frozen=True)
class Upgraded:
    """What an upgrade found, and what it did of that; how many entries were read for the tables."""

    before: CatalogFormat
    done: tuple[str, ...]
    entries: int = 0


def format_of(assets: Bucket, prefix: str) -> CatalogFormat:
    """Of which format the catalog under this prefix is. Raises what `require_known_version` and `read_head` raise."""
    require_prefix(prefix)
    document, _ = load_document(assets, prefix)
    pointer, head = None, read_head(assets, prefix)
    # There is none yet if what made the catalog was interrupted.
    with suppress(CatalogNotInitialized):
        pointer, _ = load_pointer(assets)
    return CatalogFormat(
        prefix,
        pointer=pointer.version if pointer and pointer.prefix == prefix else None,
        document=document.version,
        tables=head[0].version if head else None,
    )


def upgrade(assets: Bucket, prefix: str, *, by: str, progress: Callable[[int], None] | None = None) -> Upgraded:
    """Brings a catalog to our format; `progress` is told how many entries were read so far.

    Raises what `format_of` raises, before anything was written, and `StoreUnavailable`, also where others kept on
    changing the tables: after any of these the same call goes on where this one ended.
    """
    before = format_of(assets, prefix)
    if ACTIVE_POINTER in before.due:
        _lift_pointer(assets, prefix)
        failpoints.reached("upgrade.pointer_swapped")
    if document_key(prefix) in before.due:
        _lift_document(assets, prefix)
        failpoints.reached("upgrade.document_swapped")
    # An older build may have begun the first tables, or made this the live one, since we looked.
    after = format_of(assets, prefix)
    if ACTIVE_POINTER in after.due:
        _lift_pointer(assets, prefix)
    entries = _lift_tables(assets, prefix, by, progress) if after.are_tables_due else 0
    return Upgraded(before, tuple(dict.fromkeys((*before.due, *after.due))), entries)


def _lift_pointer(assets: Bucket, prefix: str) -> None:
    for attempt in retrying(ETagMismatch):
        with attempt:
            pointer, info = load_pointer(assets)
            # Where somebody has moved it meanwhile, it is not ours to change.
            if pointer.prefix == prefix and pointer.version < CATALOG_VERSION:
                complete = dict(pointer.complete_until)
                if pointer.sweep and not pointer.sweep.finished:
                    # This write hides when the last swap was, until which its source misses nothing.
                    complete.setdefault(pointer.sweep.source, datetime.fromtimestamp(info.modified, UTC))
                lifted = pointer.model_copy(update={"version": CATALOG_VERSION, "complete_until": complete})
                swap_pointer(assets, lifted, info.etag)


def _lift_document(assets: Bucket, prefix: str) -> None:
    for attempt in retrying(ETagMismatch):
        with attempt:
            document, info = load_document(assets, prefix)
            if document.version < CATALOG_VERSION:
                raised = document.model_copy(update={"version": CATALOG_VERSION})
                assets.replace(document_key(prefix), raised.model_dump_json().encode(), info.etag)


def _lift_tables(assets: Bucket, prefix: str, by: str, progress: Callable[[int], None] | None) -> int:
    from ursa_pipelines.catalog.tables.fold import refold

    for attempt in range(_REFOLDS):
        folded = refold(assets, prefix, by=by, progress=progress)
        # Two that begin at the same moment keep one another from it: one of them has to be let go first.
        pause = random.uniform(0, 2**attempt * folded.seconds)  # noqa: S311 - it guards nothing
        if not folded.gave_up or _are_lifted(assets, prefix, within=pause):
            return folded.entries
    raise StoreUnavailable(
        "somebody else keeps on changing the tables",
        place=f"{assets.name}/{prefix}/tables",
        remedy="Run `ursa catalog upgrade` again when no other upgrade or `ursa catalog fold --all` is under way.",
    )


def _are_lifted(assets: Bucket, prefix: str, *, within: float) -> bool:
    """Whether somebody else has brought the tables to our format, or does so within that many seconds."""
    until = time.monotonic() + within
    while True:
        found = read_head(assets, prefix)
        if found is not None and found[0].version >= CATALOG_VERSION:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(min(_LOOK_AGAIN_SECONDS, within))

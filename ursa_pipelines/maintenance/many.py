"""The same work for many recordings at once, and what came of it for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.catalog.policies import Resolve
from ursa_pipelines.errors import CatalogConflict, CatalogRowNotFound, Retryable

_AT_ONCE = 8

_A = TypeVar("_A")
_B = TypeVar("_B")

Counted = Callable[[int, int], None]
"""Is told how many are done, and of how many."""


@dataclass(frozen=True)
class Applied:
    """What became of one proposed change: `failed` means that its row stands as it stood, `problem` says why."""

    recording_hash: str
    rec_id: str | None
    outcome: Literal["written", "unchanged", "failed"]
    problem: str = ""


def for_each(items: Sequence[_A], work: Callable[[_A], _B], progress: Counted | None) -> Iterator[_B]:
    """The results in the order of the items; several are worked on at once."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="maintenance") as pool:
        for done, result in enumerate(pool.map(work, items), start=1):
            if progress is not None:
                progress(done, len(items))
            yield result


def write_row(
    catalog: Catalog, recording_hash: str, rec_id: str | None, resolve: Resolve, *, op: str, writer: Writer
) -> Applied:
    """Applies one correction in one compare-and-swap.

    Rows that are gone or have changed meanwhile, and a store that does not answer, are told and do not stop others.
    """
    try:
        registration = catalog.write(
            recording_hash, lambda _: resolve, rec_id=None, hash_is_stated=True, op=op, writer=writer
        )
    except (CatalogConflict, CatalogRowNotFound, Retryable) as error:
        return Applied(recording_hash, rec_id, "failed", str(error))
    return Applied(recording_hash, rec_id, "unchanged" if registration.outcome == "unchanged" else "written")

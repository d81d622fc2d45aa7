"""What a source can do about objects that are missing or damaged: whether its copy is good, and sending it again.

A missing object is sent again by an ordinary ingest, which creates and never replaces. A damaged one stays as it is:
nothing here or elsewhere writes over a raw object or removes it, so that is for a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ursa_pipelines.errors import UrsaError
from ursa_pipelines.ingest.batch import Batch, BatchItem
from ursa_pipelines.ingest.context import IngestContext
from ursa_pipelines.ingest.sources import Directories, Source
from ursa_pipelines.ingest.verify import Verification, WrongObject, verify
from ursa_pipelines.objects.hashing import hash_files
from ursa_pipelines.recordings.inventory import Inventory, take_inventory

_AGAINST = ("matches", "differs", "absent", "unread")


@dataclass(frozen=True)
class Copy:
    """What a source has of an object that is wrong in the bucket; `told` says it in a few words.

    `matches`: its bytes, read now, have the SHA-256 that is listed, so that it is good.
    """

    path: str
    source: str
    state: Literal["matches", "differs", "absent", "unread"]
    place: str = ""
    told: str = ""


@dataclass(frozen=True)
class Redriven:
    """What came of sending a recording again: how the ingest ended, and what a look at its bytes has found since."""

    item: BatchItem
    found: Verification | None = None
    problem: str = ""

    @property
    def is_mended(self) -> bool:
        return self.found is not None and self.found.ok


def look_for_copies(
    context: IngestContext, sources: Sequence[Source], rec_id: str, wrong: Sequence[WrongObject]
) -> tuple[list[Copy], list[Source]]:
    """Of each of these objects the best copy that a source has, and the sources that may send.

    An ingest takes whatever a source has of a file that no manifest attests. So one that has another copy of any of
    these, or one that cannot be read, may not send. Only reads; never raises for a source.
    """
    found: dict[str, list[Copy]] = {one.path: [] for one in wrong}
    senders = []
    for source in sources:
        copies = _copies_on(context, source, rec_id, wrong)
        if all(copy.state in {"matches", "absent"} for copy in copies):
            senders.append(source)
        for copy in copies:
            found[copy.path].append(copy)
    nowhere = [Copy(one.path, "", "absent", told="no source that is mounted has it") for one in wrong]
    best = [
        min([*found[copy.path], copy], key=lambda one: _AGAINST.index(one.state) if one.source else len(_AGAINST))
        for copy in nowhere
    ]
    return best, senders


def redrive(context: IngestContext, sources: Sequence[Source], rec_id: str, paths: Sequence[str]) -> Redriven:
    """Ingests a recording from its sources, as anybody would, and then reads these paths in the bucket again.

    `context` may write raw objects. Never raises for the recording.
    """
    item = Batch(context, Directories(sources, context.reading).of).run(rec_id)
    if item.status != "OK":
        return Redriven(item, problem=item.reason)
    try:
        found = verify(context, rec_id, deep=True, among=paths)
    except UrsaError as error:
        return Redriven(item, problem=str(error))
    return Redriven(item, found, "; ".join(found.problems))


def _copies_on(context: IngestContext, source: Source, rec_id: str, wrong: Sequence[WrongObject]) -> list[Copy]:
    try:
        directories = Directories([source], context.reading).of(rec_id)
        if not directories:
            return []
        inventory = context.listing(rec_id, str(directories[0]), partial(take_inventory, directories[0]))
    except UrsaError as error:
        return [
            Copy(one.path, source.name, "unread", told=f"{source.name} cannot be read: {error.told}") for one in wrong
        ]
    return [_copy(context, source, inventory, one) for one in wrong]


def _copy(context: IngestContext, source: Source, inventory: Inventory, wrong: WrongObject) -> Copy:
    place = str(Path(inventory.directory) / wrong.path)
    file = inventory.files.get(wrong.path)
    if file is None:
        return Copy(wrong.path, source.name, "absent", place, f"{source.name} has the recording without this file")
    if wrong.expected_sha256 is None:
        told = f"{place} cannot be compared: nothing attests the file's digest"
        return Copy(wrong.path, source.name, "unread", place, told)
    if file.size != wrong.expected_size:
        told = f"{place} has {file.size:,} bytes, but {wrong.expected_size:,} are listed"
        return Copy(wrong.path, source.name, "differs", place, told)
    try:
        sha256 = hash_files(
            inventory,
            [file],
            workers=context.hash_workers,
            read_timeout=context.transfers.limits.read_timeout,
            check_stop=context.check_stop,
        )[file.path]
    except UrsaError as error:
        return Copy(wrong.path, source.name, "unread", place, f"{place} cannot be read: {error.told}")
    if sha256 != wrong.expected_sha256:
        told = f"{place} is damaged, too: its SHA-256 is {sha256}"
        return Copy(wrong.path, source.name, "differs", place, told)
    return Copy(wrong.path, source.name, "matches", place, f"{place} is good: its SHA-256, read now, is the listed one")

"""What may leave its source, and why not (docs/operating.md, "Free space on the NAS").

Asked is everything that needs no byte of a segment: what lies there, all ages, the row, the commit marker, the
manifests, every object's size, every other copy. What passes is `Examined`, which `proving` proves by its bytes.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from ursa_pipelines.catalog.claims import read_claim
from ursa_pipelines.catalog.entries import Entry, read_entry
from ursa_pipelines.errors import ManifestConflict, ReleaseRefused, SourceChanged, SourceNotFound, SourceUnavailable
from ursa_pipelines.ingest.context import IngestContext
from ursa_pipelines.ingest.discover import read_manifests
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.ingest.verify import verify
from ursa_pipelines.maintenance.release.clutter import clutter_of
from ursa_pipelines.maintenance.release.tree import ROOT, Tree, look, root_of, stamp_of
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.objects.store import ObjectInfo
from ursa_pipelines.objects.stored import (
    StoredRecording,
    is_manifest,
    is_segment,
    read_participants,
    read_stored,
)
from ursa_pipelines.recordings.identity import UNKNOWN_PARTICIPANT, parse_rec_id
from ursa_pipelines.recordings.inventory import Inventory, SourceFile, take_inventory
from ursa_pipelines.recordings.layout import hidden_in, shown
from ursa_pipelines.recordings.merge import MergedManifest, merge_manifests
from ursa_pipelines.recordings.settling import blocked_by_writer

DAY = 86_400.0
CLOCKS_DIFFER = 900.0
"""By how many seconds two clocks may differ: what a store's signatures allow, too."""


@dataclass(frozen=True)
class Desk:
    """Where releases happen: the steps' context, the sources, and the rules, in days. `clock` is in seconds."""

    context: IngestContext
    sources: Sequence[Source]
    retention_days: float
    grace_days: float
    clock: Callable[[], float] = time.time


@dataclass(frozen=True)
class Examined:
    """A directory that may leave if its bytes are proved: what lies there, and the objects that should hold it."""

    source: Source
    rec_id: str
    tree: Tree
    clutter: Tree
    inventory: Inventory
    stored: StoredRecording
    merged: MergedManifest
    entry: Entry
    entry_etag: str
    registered_at: float
    changed_at: float
    objects: Mapping[str, tuple[SourceFile, tuple[ObjectInfo, ...]]] = field(repr=False)
    """By path on the disk: the file, and the objects of its size under the names it may have in the bucket."""

    @property
    def bytes(self) -> int:
        return sum(file.size for file, _ in self.objects.values())


def examine(desk: Desk, source: Source, rec_id: str, held: str = "") -> Examined:
    """All but the bytes. `held` is why somebody else objects, such as a quarantine.

    Raises `ReleaseRefused`, and what reading sources, bucket and catalog raises.
    """
    parse_rec_id(rec_id)
    if held:
        raise ReleaseRefused(held, recording=rec_id)
    tree = look_at(desk, source, rec_id)
    inventory = desk.context.listing(rec_id, source.name, partial(take_inventory, source.root / rec_id))
    clutter = clutter_of(tree)
    files = _files_of(inventory, tree, clutter)
    newest_ns = max(max(one.mtime_ns, one.ctime_ns) for path, one in tree.items() if path not in clutter)
    changed_at = _require_age(desk, rec_id, "the directory was changed", newest_ns / 1e9)
    entry, entry_etag, registered_at = _registered(desk, rec_id)
    stored = read_stored(desk.context.raw, rec_id)
    merged = merge_manifests(rec_id, stored.manifests)
    if merged is None or stored.marker is None:
        raise ReleaseRefused("the bucket has no manifest, or no commit marker of it", recording=rec_id)
    problems = verify(desk.context, rec_id).problems
    if problems:
        raise ReleaseRefused(f"rows, manifests and objects do not agree: {problems[0]}", recording=rec_id)
    objects = {file.disk_path: (file, _candidates(file, stored, merged)) for file in files}
    newest = max((info.modified for _, infos in objects.values() for info in infos), default=0.0)
    registered_at = _require_age(desk, rec_id, "the bucket's copy was written", max(registered_at, newest))
    _require_no_name(desk, rec_id, tree, entry, inventory, stored)
    _require_no_conflict(desk, source, merged, stored)
    return Examined(
        source, rec_id, tree, clutter, inventory, stored, merged, entry, entry_etag, registered_at, changed_at, objects
    )


def look_at(desk: Desk, source: Source, rec_id: str) -> Tree:
    """The recording's directory on a source. Raises `SourceNotFound`, and what `tree.look` raises."""

    def look_now(gets_on: Callable[[], None]) -> Tree:
        with root_of(source) as root:
            tree, place = look(root, rec_id, gets_on), stamp_of(root, ROOT)
        if place is None or tree[ROOT].device != place.device:
            raise ReleaseRefused("it lies on another file system than its source", recording=rec_id)
        return tree

    try:
        return desk.context.listing(rec_id, source.name, look_now)
    except SourceChanged as error:
        if error.place == rec_id:
            raise SourceNotFound(f"{source.name} has no such directory", recording=rec_id) from None
        raise


def _files_of(inventory: Inventory, tree: Tree, clutter: Tree) -> list[SourceFile]:
    """Every file but clutter, each a part of the recording. Raises `ReleaseRefused` for anything else."""
    rec_id, device = inventory.rec_id, next(iter(tree.values())).device
    if blocked := blocked_by_writer(inventory):
        raise ReleaseRefused(blocked, recording=rec_id)
    documents = (inventory.manifest, inventory.participant, *inventory.node_manifests, *inventory.node_participants)
    files = [*inventory.files.values(), *(one for one in documents if one)]
    stamps = {path: stamp for path, stamp in tree.items() if not stamp.is_directory and path not in clutter}
    for path, stamp in tree.items():
        if stamp.device != device:
            raise ReleaseRefused("another file system is mounted there", recording=rec_id, place=shown(path))
        if not stamp.is_directory and (not stamp.is_file or stamp.links != 1):
            told = "it has a second name, a hard link" if stamp.is_file else "it is no regular file"
            raise ReleaseRefused(told, recording=rec_id, place=shown(path))
        if stamp.is_directory and (hidden := hidden_in(path)):
            raise ReleaseRefused(f"the name of a directory {hidden}", recording=rec_id, place=shown(path))
    listed = {one.disk_path: (one.size, one.mtime_ns, one.ctime_ns, one.inode, one.device) for one in files}
    seen = {path: (one.size, one.mtime_ns, one.ctime_ns, one.inode, one.device) for path, one in stamps.items()}
    if listed != seen:
        raise SourceChanged("it changed while it was looked at", recording=rec_id)
    return files


def _require_age(desk: Desk, rec_id: str, what: str, moment: float) -> float:
    now = desk.clock()
    if moment > now + CLOCKS_DIFFER:
        raise ReleaseRefused(f"{what} in the future: a clock is wrong", recording=rec_id)
    if (now - moment) < desk.retention_days * DAY:
        day = datetime.fromtimestamp(moment, UTC)
        raise ReleaseRefused(
            f"{what} on {day:%Y-%m-%d}, less than {desk.retention_days:g} days ago",
            recording=rec_id,
            remedy="Wait; `release: {retention_days: ...}` in the profile is the time that a copy is kept.",
        )
    return moment


def _registered(desk: Desk, rec_id: str) -> tuple[Entry, str, float]:
    """The entry itself, its ETag, and when it was registered."""
    catalog = desk.context.catalog
    owner = read_claim(catalog.assets, catalog.prefix, rec_id)
    found = read_entry(catalog.assets, catalog.prefix, owner) if owner else None
    if found is None or found[0].recording.rec_id != rec_id:
        raise ReleaseRefused(
            "it is not in the catalog", recording=rec_id, remedy=f"`ursa ingest {rec_id}` comes first."
        )
    told = found[0].recording.metadata or {}
    if told.get("nodes_missing"):
        raise ReleaseRefused("it waits for the half of another node", recording=rec_id)
    try:
        return *found, datetime.fromisoformat(str(told.get("registered_at"))).timestamp()
    except (ValueError, OverflowError):
        raise ReleaseRefused("its row does not tell when it was registered", recording=rec_id) from None


def _candidates(file: SourceFile, stored: StoredRecording, merged: MergedManifest) -> tuple[ObjectInfo, ...]:
    """The objects that may hold this file. Manifests and participant files may be stored under another node's name."""
    if is_segment(file.path):
        found = [stored.objects[file.path]] if file.path in stored.objects and file.path in merged.files else []
    else:
        kind = is_manifest(file.path)
        found = [one for path, one in stored.objects.items() if not is_segment(path) and is_manifest(path) == kind]
        found.sort(key=lambda one: one.key != raw_key(stored.rec_id, file.path))
    same = tuple(info for info in found if info.size == file.size)
    if not same:
        raise ReleaseRefused(
            "the bucket has it not, or in another size",
            recording=stored.rec_id,
            place=shown(file.path),
            remedy=f"`ursa ingest {stored.rec_id}` brings it there, if it is a part of the recording.",
        )
    return same


def _require_no_name(
    desk: Desk, rec_id: str, tree: Tree, entry: Entry, inventory: Inventory, stored: StoredRecording
) -> None:
    """A certificate repeats the names of files, and must not hold a participant's."""
    told = [str((row.metadata or {}).get("display_name") or "") for row in entry.participants]
    told += [one.manifest.participant or "" for one in (*stored.manifests, *read_manifests(inventory))]
    told += [raw.decode("utf-8-sig", "replace") for raw in read_participants(desk.context.raw, stored)]
    told += [" ".join(reversed(name.split())) for name in told]
    names = set(map(_squeezed, told)) - {"", _squeezed(UNKNOWN_PARTICIPANT)}
    for path in tree:
        parts = {_squeezed(part) for part in re.split(r"[/._\- ]", path)}
        squeezed = _squeezed(path)
        if any(name in parts or (len(name) > 3 and name in squeezed) for name in names):
            raise ReleaseRefused(
                "the name of a file holds a participant's name, which a certificate must not repeat", recording=rec_id
            )


def _squeezed(text: str) -> str:
    return "".join(one for one in unicodedata.normalize("NFKC", text).casefold() if one.isalnum())


def _require_no_conflict(desk: Desk, source: Source, merged: MergedManifest, stored: StoredRecording) -> None:
    """Another source's directory of this recording must not have a file in another size, or list another digest."""
    rec_id = stored.rec_id
    for other in desk.sources:
        if other.name == source.name:
            continue
        try:
            there = desk.context.listing(rec_id, other.name, partial(take_inventory, other.root / rec_id))
            listed = desk.context.reading(rec_id, other.name, partial(read_manifests, there))
        except (SourceNotFound, SourceUnavailable):
            # A drive that is not plugged in holds nothing that could be released now.
            continue
        try:
            merge_manifests(rec_id, (*listed, *stored.manifests))
        except ManifestConflict as error:
            raise ReleaseRefused(
                f"the copy on {other.name} says otherwise: {error.problem}", recording=rec_id, place=error.place
            ) from None
        for path, file in there.files.items():
            known = merged.files.get(path)
            if known is None or known.size_bytes != file.size:
                raise ReleaseRefused(f"the copy on {other.name} has other files", recording=rec_id, place=shown(path))

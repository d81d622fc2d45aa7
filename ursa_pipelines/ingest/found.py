"""A recording as all its directories and the bucket have it, looked at together: what a plan tells of it.

Conflicts are found as far as names, sizes, manifests and rows show them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice

from ursa_pipelines.catalog import policies
from ursa_pipelines.catalog.claims import read_claim
from ursa_pipelines.catalog.entries import Entry, read_entry
from ursa_pipelines.errors import CatalogRowExists, ManifestConflict, ObjectConflict, RecordingConflict
from ursa_pipelines.ingest.context import IngestContext
from ursa_pipelines.ingest.discover import Discovery
from ursa_pipelines.ingest.sources import changed_at
from ursa_pipelines.ingest.upload import has_participants
from ursa_pipelines.objects.digests import marked_digest
from ursa_pipelines.objects.keys import recording_prefix, uri
from ursa_pipelines.recordings.identity import derive_recording_hash
from ursa_pipelines.recordings.inventory import Inventory, SourceFile
from ursa_pipelines.recordings.layout import shown, some
from ursa_pipelines.recordings.merge import MergedFile, MergedManifest, merge_manifests
from ursa_pipelines.recordings.rows import Rows, rows_of_recording
from ursa_pipelines.recordings.settling import is_satisfied

_SHOWN_IN_A_NOTE, _MEDIA_TOLD = 3, 20


class Found:
    """A recording as all its directories and the bucket have it."""

    def __init__(self, context: IngestContext, rec_id: str, discoveries: Sequence[Discovery]) -> None:
        self._context, self._rec_id, self._discoveries = context, rec_id, discoveries
        self._inventories = [one.inventory for one in discoveries if one.inventory]
        self._stored = discoveries[-1].stored
        self._files: dict[str, SourceFile] = {}
        for inventory in self._inventories:
            self._files = {**inventory.files, **self._files}

    @property
    def path(self) -> str:
        """The way of the runbook that each directory goes."""
        return " then ".join(dict.fromkeys(one.path for one in self._discoveries))

    @property
    def sizes(self) -> list[int]:
        """The bytes of each file that is there, a copy counted once."""
        return [one.size for one in (self._files if self._inventories else self._stored.segments).values()]

    @property
    def sizes_to_send(self) -> list[int]:
        """The bytes of each file that the bucket does not have."""
        return [file.size for path, file in self._files.items() if path not in self._stored.objects]

    @property
    def bytes_to_hash(self) -> int:
        """The bytes whose digest no manifest states."""
        if self._inventories:
            return sum({file.path: file.size for one in self._discoveries for file in one.unattested}.values())
        return sum(file.size_bytes for file in self._merged.files.values() if file.sha256 is None)

    @cached_property
    def absent(self) -> frozenset[str]:
        """The paths that are listed, but nowhere."""
        stored = self._stored.objects
        return frozenset(
            path
            for path, file in self._merged.files.items()
            if path not in self._files and not (path in stored and stored[path].size == file.size_bytes)
        )

    @property
    def ignored(self) -> list[str]:
        """Clutter in the directories."""
        return [path for one in self._inventories for path in one.ignored]

    @property
    def nodes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The nodes whose files are there and those of which none is, as the row would say."""
        metadata = self._rows(self._merged.stated_hash or "unknown").recording.metadata or {}
        return tuple(metadata["nodes"]), tuple(metadata["nodes_missing"])

    @property
    def fingerprint(self) -> str:
        """The directories' fingerprints."""
        return "+".join(one.fingerprint for one in self._inventories)

    @property
    def source(self) -> str:
        """A digest of all that the directories tell without their segments being read, "" without any."""
        if not self._inventories:
            return ""
        digest = hashlib.sha256()
        for found in self._discoveries:
            told = (*(one.raw for one in found.manifests), *(raw for _, raw in found.participants))
            state = found.inventory.state if found.inventory else ""
            for one in (state.encode(errors="surrogatepass"), *told):
                digest.update(hashlib.sha256(one).digest())
        return digest.hexdigest()[:32]

    @property
    def stored(self) -> str:
        """A digest of what the bucket lists of it and of our commit marker, "" if there is nothing."""
        lines = [f"{info.key}\t{info.size}\t{info.etag}\n" for info in self._stored.objects.values()]
        if self._stored.marker:
            lines.append(f"{self._stored.marker.key}\t{self._stored.marker.etag}\n")
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()[:16] if lines else ""

    @property
    def notes(self) -> list[str]:
        """What a person should know who is about to ingest it."""
        notes: list[str] = []
        if self.absent:
            notes.append(f"listed, but not here: {_counted(sorted(self.absent))}")
        if self.ignored:
            notes.append(f"ignored: {_counted(self.ignored)}")
        for found in self._discoveries:
            if found.inventory is not None:
                notes += self._note_of_a_change(found, found.inventory)
            elif found.merged is None:
                newest = max((info.modified for info in found.stored.objects.values()), default=0.0)
                notes.append(
                    f"the bucket has no manifest of it: one is made of the {len(found.stored.segments):,} files that "
                    f"are there, the last of which came {_ago(time.time() - newest)} ago"
                )
            notes += media_problems(found)
        return notes

    def require_no_conflict(self) -> None:
        """Raises `RecordingConflict` for directories that cannot be one recording's, `ObjectConflict` for an object
        that cannot be this file.
        """
        merged, marked = self._merged, self._stored.marker.document["files"] if self._stored.marker else {}
        for inventory in self._inventories:
            for path, file in inventory.files.items():
                if file.size != self._files[path].size:
                    raise RecordingConflict(
                        f"it has {self._files[path].size:,} bytes in one of its directories, {file.size:,} in another",
                        recording=self._rec_id,
                        place=path,
                    )
        for path, file in self._files.items():
            there, digest = self._stored.objects.get(path), merged.files[path].sha256
            if there is None:
                continue
            known = marked.get(path, {})
            proved = known.get("sha256") if known.get("etag") == there.etag else None
            if there.size != file.size:
                problem = f"the bucket has {there.size:,} bytes under this path, not {file.size:,}"
            elif digest and proved and digest != proved:
                problem = f"the bucket has other bytes under this path: SHA-256 {proved}, not {digest}"
            else:
                continue
            raise ObjectConflict(problem, recording=self._rec_id, place=path)

    def entry(self) -> Entry | None:
        """The entry that an ingest would write to, whosever it is. Raises `RecordingConflict`, `CatalogError`."""
        catalog, stated = self._context.catalog, self._merged.stated_hash
        owner = read_claim(catalog.assets, catalog.prefix, self._rec_id)
        if owner and stated and owner != stated:
            raise RecordingConflict(
                f"its manifest states the recording_hash {stated}, but {owner} is registered",
                recording=self._rec_id,
                remedy="Compare both recordings. If the other was never registered, its claim is left over from an "
                f"interrupted run: `ursa doctor --release-claim {self._rec_id}`.",
            )
        digests = [file.sha256 for path, file in self._merged.files.items() if path not in self.absent]
        known = [digest for digest in digests if digest]
        derived = derive_recording_hash(known) if known and len(known) == len(digests) else None
        meant = owner or stated or derived
        found = read_entry(catalog.assets, catalog.prefix, meant) if meant else None
        return found[0] if found else None

    def changes(self, entry: Entry | None, *, overwrite: bool) -> bool:
        """Whether an ingest would write anything. Raises `RecordingConflict`, `CatalogRowExists`."""
        if entry is None:
            return True
        here = self._files if self._inventories else self._stored.segments
        nodes = {node for path in here if path in self._merged.files and (node := self._merged.files[path].node)}
        resolve = policies.ingest(self._rows(entry.recording.recording_hash), overwrite=overwrite, source_nodes=nodes)
        try:
            rows = resolve(entry.rows)
        except CatalogRowExists as error:
            error.recording = self._rec_id
            error.remedy = (
                "Compare the named fields; plan it with --overwrite (overwrite=True) only if the row is known to be "
                "wrong."
            )
            raise
        if rows != entry.rows:
            return True
        return bool(self._inventories) and not (self._is_whole_in_the_bucket() and self._is_known_to_be_the_same())

    @cached_property
    def _merged(self) -> MergedManifest:
        """All manifests together, and the files that none of them lists."""
        merged = self._discoveries[0].merged if len(self._discoveries) == 1 else self._merged_of_all()
        merged = merged or MergedManifest(self._rec_id, {})
        added: dict[str, MergedFile] = {}
        for found in self._discoveries:
            node = next((one.node for one in found.manifests if one.node), None)
            sizes = {path: file.size for path, file in found.inventory.files.items()} if found.inventory else {}
            if not merged.files and not sizes:
                sizes = {path: info.size for path, info in found.stored.segments.items()}
            added |= {path: MergedFile(path, size, node=node) for path, size in sizes.items()}
        return replace(merged, files=added | merged.files)

    def _merged_of_all(self) -> MergedManifest | None:
        manifests = {one.raw: one for found in self._discoveries for one in (*found.manifests, *found.stored.manifests)}
        try:
            return merge_manifests(self._rec_id, manifests.values())
        except ManifestConflict as error:
            raise RecordingConflict(
                f"two directories of it contradict one another: {error.problem}",
                recording=self._rec_id,
                place=error.place,
            ) from None

    def _rows(self, recording_hash: str) -> Rows:
        return rows_of_recording(
            self._merged,
            recording_hash=recording_hash,
            present=self._merged.files.keys() - self.absent,
            display_names={name for one in self._discoveries for name in one.display_names},
            uri_of_worker=lambda worker: uri(self._context.raw.name, f"{recording_prefix(self._rec_id)}{worker}/"),
            bookkeeping={"verification": "sha256" if self._inventories else "size"},
        )

    def _is_whole_in_the_bucket(self) -> bool:
        """Whether every file, manifest, participant file and the commit marker are there."""
        stored, here = self._stored, [one for found in self._discoveries for one in found.manifests]
        known = {one.raw for one in stored.manifests}
        if not self._files.keys() <= stored.objects.keys() or not all(one.raw in known for one in here):
            return False
        if not all(map(has_participants, self._discoveries)):
            return False
        marked = stored.marker.document["files"].keys() if stored.marker else set[str]()
        return bool(self.absent) or self._merged.files.keys() <= marked

    def _is_known_to_be_the_same(self) -> bool:
        """Whether the files that no manifest here attests are known to have the bytes that the bucket's attest.

        What was not hashed since it was written may be anything: an ingest hashes it and ends unchanged, or is refused.
        """
        cache, read_timeout = self._context.digests, self._context.transfers.limits.read_timeout
        for found in self._discoveries:
            if found.inventory is None or not found.unattested:
                continue
            if cache is None:
                return False
            known = cache.recall(
                found.inventory, found.unattested, read_timeout=read_timeout, check_stop=self._context.check_stop
            ).digests
            for path in (file.path for file in found.unattested):
                attested = self._merged.files[path].sha256 or marked_digest(self._stored, path)
                if attested is None or known.get(path) != attested:
                    return False
        return True

    def _note_of_a_change(self, found: Discovery, inventory: Inventory) -> list[str]:
        if found.attested is not None and is_satisfied(inventory, found.attested):
            return []
        directory = inventory.directory
        changed = self._context.listing(
            self._rec_id, shown(str(directory)), lambda gets_on: changed_at(directory, gets_on)
        )
        age = max(time.time() - changed, 0.0)
        if age >= self._context.quiet_period:
            return []
        return [f"changed {_ago(age)} ago: wait if it is still being copied"]


def media_problems(found: Discovery) -> list[str]:
    """What is wrong with media files, a sentence each; of many the first ones and how many there are."""
    problems = found.media.problems if found.media else {}
    told = [f"{shown(path)}: {problem}" for path, problem in islice(problems.items(), _MEDIA_TOLD)]
    more = len(problems) - len(told)
    return [*told, f"and {more:,} more media files"] if more else told


def _counted(paths: Sequence[str]) -> str:
    named = some([shown(path) for path in paths], _SHOWN_IN_A_NOTE)
    return f"{len(paths):,} {'file' if len(paths) == 1 else 'files'} ({named})"


def _ago(seconds: float) -> str:
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"

"""The union of all manifests of one recording (DESIGN section 3, Node manifests).

A path in two manifests must agree in size and digest; start is the earliest, end the latest; nodes are
listed; stated recording_hashes must agree; a stub never counts. What contradicts is refused, never resolved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ursa_pipelines.errors import ManifestConflict
from ursa_pipelines.recordings.layout import (
    NODE_MANIFESTS,
    UNNAMED_NODE,
    colliding_paths,
    node_of_file,
    shown,
    worker_of,
)
from ursa_pipelines.recordings.manifest import Manifest


@dataclass(frozen=True)
class NamedManifest:
    """A parsed manifest, the name it has below the recording's prefix, and its bytes as they were written."""

    name: str
    manifest: Manifest
    raw: bytes = field(repr=False)

    @property
    def node(self) -> str | None:
        """The node that wrote it: as it says itself, else as its file under `_node_manifests/` is called."""
        if self.manifest.node or not self.is_node_manifest or self.manifest.reconstruction:
            return self.manifest.node
        node = node_of_file(self.name.rpartition("/")[2])
        return node if node != UNNAMED_NODE else None

    @property
    def is_node_manifest(self) -> bool:
        return self.name.startswith(f"{NODE_MANIFESTS}/")


@dataclass(frozen=True, slots=True)
class MergedFile:
    """One segment of the recording. `node` is the host whose file it is, where a manifest says so."""

    path: str
    size_bytes: int
    sha256: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    node: str | None = None


@dataclass(frozen=True)
class MergedManifest:
    """What all manifests of a recording say together. `stated_hash` is None where only a derived one is known."""

    rec_id: str
    files: dict[str, MergedFile]
    stated_hash: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    nodes: tuple[str, ...] = ()
    device_info: dict[str, Any] | None = None

    def workers_by_other_nodes(self, present: Iterable[str]) -> frozenset[str]:
        """The workers that belong to nodes none of whose files are among the `present` paths."""
        here = set(present)
        owners: dict[str, set[str | None]] = {}
        present_nodes = {file.node for path, file in self.files.items() if path in here}
        present_workers = {worker_of(path) for path in here}
        for path, file in self.files.items():
            worker = worker_of(path)
            if worker is not None:
                owners.setdefault(worker, set()).add(file.node)
        return frozenset(
            worker
            for worker, nodes in owners.items()
            if (None not in nodes and not nodes & present_nodes)
            or (None in nodes and len(self.nodes) > 1 and worker not in present_workers)
        )


def merge_manifests(rec_id: str, named: Iterable[NamedManifest]) -> MergedManifest | None:
    """The union of all manifests that are not stubs, or None if there are none.

    Raises `ManifestConflict`, naming both places, where two of them contradict one another.
    """
    manifests = [one for one in named if not one.manifest.is_stub]
    if not manifests:
        return None
    files: dict[str, MergedFile] = {}
    listed_in: dict[str, str] = {}
    # The most particular one first, whatever it is stored as: halves merge to the same in either order.
    for one in sorted(manifests, key=lambda one: (len(one.manifest.files), one.raw)):
        owner = _owner_of_files(one)
        for entry in one.manifest.files:
            file = MergedFile(
                entry.path, entry.size_bytes, entry.sha256, entry.started_at, entry.ended_at, owner(entry.path)
            )
            if entry.path in files:
                files[entry.path] = _agree(files[entry.path], file, rec_id, (listed_in[entry.path], one.name))
            else:
                files[entry.path], listed_in[entry.path] = file, one.name
    collision = colliding_paths(files)
    if collision:
        raise ManifestConflict(
            f"the paths '{shown(collision[0])}' and '{shown(collision[1])}' of two manifests collide", recording=rec_id
        )
    starts = [one.manifest.started_at for one in manifests if one.manifest.started_at]
    ends = [one.manifest.ended_at for one in manifests if one.manifest.ended_at]
    return MergedManifest(
        rec_id=rec_id,
        files=dict(sorted(files.items())),
        stated_hash=_stated_hash(rec_id, manifests),
        started_at=min(starts, default=None),
        ended_at=max(ends, default=None),
        nodes=tuple(sorted({node for one in manifests for node in (one.node, *(one.manifest.nodes or ())) if node})),
        device_info=_device_info(rec_id, manifests),
    )


def _owner_of_files(one: NamedManifest) -> Callable[[str], str | None]:
    nodes = one.manifest.nodes
    if isinstance(nodes, dict) and nodes:
        claims = Counter(worker for workers in nodes.values() for worker in set(workers))
        node_of_worker = {
            worker: node if claims[worker] == 1 else None for node, workers in nodes.items() for worker in workers
        }
        return lambda path: node_of_worker.get(worker_of(path) or "", one.node)
    if one.is_node_manifest or not nodes:
        return lambda path: one.node
    only = next(iter(nodes)) if len(nodes) == 1 else None
    return lambda path: only


def _agree(known: MergedFile, other: MergedFile, rec_id: str, places: tuple[str, str]) -> MergedFile:
    both_digests = known.sha256 and other.sha256
    if known.size_bytes != other.size_bytes or (both_digests and known.sha256 != other.sha256):
        raise ManifestConflict(
            f"{shown(places[0])} and {shown(places[1])} list it with different content",
            recording=rec_id,
            place=shown(known.path),
        )
    return replace(
        known,
        sha256=known.sha256 or other.sha256,
        started_at=min(filter(None, (known.started_at, other.started_at)), default=None),
        ended_at=max(filter(None, (known.ended_at, other.ended_at)), default=None),
        node=known.node or other.node,
    )


def _stated_hash(rec_id: str, manifests: list[NamedManifest]) -> str | None:
    stated = {
        one.manifest.recording_hash: one.name
        for one in manifests
        if one.manifest.recording_hash and one.manifest.reconstruction is None
    }
    if len(stated) > 1:
        names = " and ".join(sorted(shown(name) for name in stated.values())[:2])
        raise ManifestConflict(f"{names} state different recording_hashes", recording=rec_id)
    return next(iter(stated), None)


def _device_info(rec_id: str, manifests: list[NamedManifest]) -> dict[str, Any] | None:
    merged: dict[str, Any] = {}
    for one in manifests:
        info = one.manifest.device_info
        for key, value in ({one.node: info} if one.node and info else info or {}).items():
            if merged.setdefault(key, value) != value:
                raise ManifestConflict(f"device_info of '{shown(key)}' differs between manifests", recording=rec_id)
    return merged or None

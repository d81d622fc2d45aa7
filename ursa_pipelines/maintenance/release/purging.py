"""Out of a source's trash for good, file by file, each as the certificate lists it.

1. Nobody objects, the certificate is there, source and bucket are its own, and no clock is wrong.
2. The time of grace is over since the certificate was made and stored, and since the directory was moved.
3. What lies there is exactly what the certificate lists, and clutter. Only once a purge has begun may files be missing.
4. The live catalog has the row; every object is still there in the version that was proved, and so is every manifest.
5. That the purge begins is kept; then each file is looked at once more and removed, then the empty directories.
6. That it is purged is kept.

Ended anywhere, the next purge goes on; anything unexpected ends it, and is told.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

from ursa_pipelines import failpoints
from ursa_pipelines.catalog.entries import read_entry
from ursa_pipelines.catalog.pointer import read_pointer
from ursa_pipelines.errors import ReleaseRefused, SourceChanged, TrashUnexpected
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.maintenance.release.certificate import (
    Certificate,
    Version,
    has_happened,
    listed_clutter,
    note,
    read_certificate,
)
from ursa_pipelines.maintenance.release.clutter import clutter_of
from ursa_pipelines.maintenance.release.judging import CLOCKS_DIFFER, DAY, Desk
from ursa_pipelines.maintenance.release.moving import require_store
from ursa_pipelines.maintenance.release.tree import (
    ROOT,
    Tree,
    look,
    opened,
    remove_empty,
    root_of,
    stamp_of,
    trash_of,
    unlink,
)
from ursa_pipelines.recordings.layout import shown

_HEADS_AT_ONCE = 16


def purge(desk: Desk, source: Source, name: str, held: str = "", *, commit: bool) -> Certificate:
    """Removes what has this name in the trash, and returns its certificate; only looks unless `commit`.

    `held` is why somebody objects: these may be the last good bytes. Raises `ReleaseRefused` for that and if it is not
    yet time, `TrashUnexpected` for anything that is not as certified, and what
    reading source, bucket and catalog raises.
    """
    assets, writer = desk.context.catalog.assets, desk.context.writer
    certificate, stored_at = read_certificate(assets, name)
    if certificate.source != source.name:
        raise _unexpected(certificate, f"its certificate is of the source {certificate.source}")
    if held:
        raise ReleaseRefused(held, recording=certificate.rec_id, remedy="It stays in the trash until that is settled.")
    require_store(desk)
    with root_of(source) as root, trash_of(root) as trash:
        moved = stamp_of(trash, name)
        has_begun = has_happened(assets, certificate, "purging")
        back = stamp_of(root, certificate.directory)
        if moved is None and has_begun and (back is None or back.inode != certificate.inode):
            # Ended just before its last step.
            if commit:
                note(assets, certificate, "purged", writer, desk.clock())
            return certificate
        if moved is None or not moved.is_directory or moved.inode != certificate.inode:
            raise _unexpected(certificate, "it is gone, or another directory has its name")
        due = due_at(desk, certificate, stored_at, moved.ctime_ns / 1e9)
        if desk.clock() < due and not has_begun:
            raise ReleaseRefused(
                f"it waits in the trash until {datetime.fromtimestamp(due, UTC):%Y-%m-%d %H:%M} UTC",
                recording=certificate.rec_id,
                remedy="Nothing to do until then.",
            )
        try:
            tree = look(trash, name)
            clutter = clutter_of(tree)
        except ReleaseRefused as error:
            raise _unexpected(certificate, error.told) from None
        certified = {path: stamp for path, stamp in tree.items() if path not in clutter}
        _require_as_certified(certificate, certified, moved.device, may_lack=has_begun)
        _require_stored(desk, certificate)
        if commit:
            note(assets, certificate, "purging", writer, desk.clock(), listed_clutter(clutter))
            failpoints.reached("release.purging")
            _remove(trash, certificate, tree, clutter)
            note(assets, certificate, "purged", writer, desk.clock())
    return certificate


def due_at(desk: Desk, certificate: Certificate, stored_at: float, moved_at: float) -> float:
    """When a purge may begin, in seconds since 1970 UTC: by the longer of the certificate's grace and today's.

    By the latest of three clocks: this host's, the store's, and that of the source's file system, which says when the
    directory was moved. Raises `ReleaseRefused` if one of these moments has yet to come.
    """
    latest = max(certificate.created_at.timestamp(), stored_at, moved_at)
    if latest > desk.clock() + CLOCKS_DIFFER:
        raise ReleaseRefused("it was moved in the future: a clock is wrong", recording=certificate.rec_id)
    return latest + max(certificate.grace_days, desk.grace_days) * DAY


def _require_as_certified(certificate: Certificate, tree: Tree, device: int, *, may_lack: bool) -> None:
    """Identity, size and times of every file; device numbers are of a mount and may have changed since."""
    listed = {file.path: (file.inode, file.size, file.mtime_ns, file.ctime_ns) for file in certificate.files}
    directories = {one.path: one.inode for one in certificate.directories}
    for path, stamp in tree.items():
        if stamp.device != device:
            raise _unexpected(certificate, f"another file system is mounted at {shown(path)}")
        if path == ROOT:
            continue
        if stamp.is_directory:
            # Clutter that comes and goes changes its times; whatever else does is seen by itself.
            is_it = directories.get(path) == stamp.inode
        else:
            is_it = stamp.is_file and stamp.links == 1
            is_it = is_it and listed.get(path) == (stamp.inode, stamp.size, stamp.mtime_ns, stamp.ctime_ns)
        if not is_it:
            known = path in listed or path in directories
            raise _unexpected(certificate, f"{shown(path)} {'was changed' if known else 'is new'}")
    missing = (listed.keys() | directories.keys()) - tree.keys()
    if missing and not may_lack:
        raise _unexpected(certificate, f"{len(missing):,} files are gone, such as {shown(min(missing))}")


def _require_stored(desk: Desk, certificate: Certificate) -> None:
    """Raises unless its row is there, and every file and manifest in the version that was proved."""
    catalog, raw = desk.context.catalog, desk.context.raw
    if certificate.bucket != raw.name:
        raise _unexpected(certificate, f"its objects were proved in the bucket {certificate.bucket}")
    if read_pointer(catalog.assets).prefix != catalog.prefix:
        raise ReleaseRefused("the catalog it is looked up in is not the live one", recording=certificate.rec_id)
    entry = read_entry(catalog.assets, catalog.prefix, certificate.recording_hash)
    if entry is None or entry[0].recording.rec_id != certificate.rec_id:
        raise _unexpected(certificate, "it is not in the catalog any more")

    def problem(wanted: Version, size: int | None) -> str:
        info = raw.head(wanted.key)
        if info is None:
            return f"{shown(wanted.key)} is not in the bucket any more"
        is_it = info.etag == wanted.etag and size in {None, info.size}
        return "" if is_it else f"{shown(wanted.key)} is another object in the bucket now"

    wanted = [(file, file.size) for file in certificate.files] + [(one, None) for one in certificate.manifests]
    with ThreadPoolExecutor(_HEADS_AT_ONCE, thread_name_prefix="release") as pool:
        for found in pool.map(lambda one: problem(*one), wanted):
            if found:
                raise _unexpected(certificate, found)


def _remove(trash: int, certificate: Certificate, tree: Tree, clutter: Tree) -> None:
    with opened(certificate.name_in_trash, trash) as root:
        # What is gone by itself may be so, as some drives remove clutter with its file; what stays keeps its directory.
        for path, stamp in sorted(clutter.items(), key=lambda one: one[1].is_directory):
            with suppress(SourceChanged):
                if stamp.is_directory:
                    remove_empty(root, path)
                else:
                    unlink(root, path, stamp)
        for file in certificate.files:
            if file.path in tree:
                unlink(root, file.path, tree[file.path])
                failpoints.reached("release.file_removed")
        # What is deeper comes first.
        for one in sorted(certificate.directories, key=lambda one: -one.path.count("/")):
            if one.path in tree:
                remove_empty(root, one.path)
    remove_empty(trash, certificate.name_in_trash)
    failpoints.reached("release.emptied")


def _unexpected(certificate: Certificate, problem: str) -> TrashUnexpected:
    return TrashUnexpected(problem, recording=certificate.rec_id, place=certificate.name_in_trash)

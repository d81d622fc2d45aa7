"""Into a source's trash by one rename, and back (docs/operating.md, "Free space on the NAS").

1. The trash is opened, or made, on the file system of the recordings.
2. Every byte is proved (`proving`).
3. The clocks of this host and of the store agree, and the buckets belong together.
4. The certificate is stored and read back.
5. Source, bucket and catalog are looked at once more: nothing has changed since 2.
6. The directory is renamed to `.ursa_trash/<rec_id>.<certificate>`.
7. What lies there now is what was certified; otherwise it goes back.

Ended anywhere before 6, nothing has happened but that a certificate is kept which no directory has; after it, the
directory waits in the trash under the name of its certificate, whole.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from ursa_pipelines import failpoints
from ursa_pipelines.catalog.entries import entry_key
from ursa_pipelines.errors import (
    BucketMismatch,
    ClockWrong,
    ObjectNotFound,
    ReleaseRefused,
    SourceChanged,
    TrashUnexpected,
    UrsaError,
)
from ursa_pipelines.ingest.context import Watch
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.maintenance.release.certificate import (
    Certificate,
    ReleasedDirectory,
    ReleasedFile,
    StoredManifest,
    Version,
    has_happened,
    listed_clutter,
    note,
    read_certificate,
    store_certificate,
)
from ursa_pipelines.maintenance.release.judging import CLOCKS_DIFFER, Desk, Examined
from ursa_pipelines.maintenance.release.proving import prove, require_unchanged
from ursa_pipelines.maintenance.release.tree import ROOT, Tree, look, rename, root_of, stamp_of, trash_of
from ursa_pipelines.objects.keys import BUCKET_IDENTITY
from ursa_pipelines.objects.store import Bucket


def move(desk: Desk, examined: Examined, *, by_bytes: bool = False, watch: Watch | None = None) -> Certificate:
    """Certifies a directory and moves it into the trash of its source.

    Raises `ReleaseRefused` and what proving raises, with the directory where it was; `TrashUnexpected` if it lies in
    the trash and is not what was certified.
    """
    rec_id = examined.rec_id
    with root_of(examined.source) as root, trash_of(root, create=True) as trash:
        files = prove(desk, examined, by_bytes=by_bytes, watch=watch)
        require_store(desk)
        certificate = _certificate(desk, examined, files)
        store_certificate(desk.context.catalog.assets, certificate)
        failpoints.reached("release.certified")
        require_unchanged(desk, examined, files)
        rename(root, rec_id, trash, certificate.name_in_trash)
        failpoints.reached("release.moved")
        _require_moved_whole(root, trash, examined, certificate)
    return certificate


def restore(desk: Desk, source: Source, name: str, *, commit: bool) -> Certificate:
    """Moves a directory back from the trash, as it is there, and returns its certificate; only looks unless `commit`.

    Raises `ReleaseRefused` if anything is at its place, `TrashUnexpected` if it is not there or its purge has begun.
    """
    assets = desk.context.catalog.assets
    certificate, _ = read_certificate(assets, name)
    if certificate.source != source.name:
        raise TrashUnexpected(f"its certificate is of the source {certificate.source}", place=name)
    _require_no_purge(desk, certificate)
    with root_of(source) as root, trash_of(root) as trash:
        there = stamp_of(trash, name)
        if there is None or not there.is_directory:
            raise TrashUnexpected(
                "it is not in the trash, or is no directory", recording=certificate.rec_id, place=name
            )
        if stamp_of(root, certificate.directory) is not None:
            raise ReleaseRefused(
                "something of its name is at its place, and is left as it is",
                recording=certificate.rec_id,
                place=certificate.source,
                remedy="Move that away first.",
            )
        if commit:
            rename(trash, name, root, certificate.directory)
            failpoints.reached("release.moved_back")
            try:
                # One that began meanwhile holds the directory open, and goes on wherever it lies; one that begins from
                # now on does not find it in the trash.
                _require_no_purge(desk, certificate)
            except UrsaError:
                rename(root, certificate.directory, trash, name)
                raise
            note(assets, certificate, "restored", desk.context.writer, desk.clock())
    return certificate


def require_store(desk: Desk) -> None:
    """Raises `ClockWrong` if this host's clock and the store's differ, by which ages would be told wrongly, and
    `BucketMismatch` unless raw and assets bucket say that they are, and that they belong to the same.
    """
    raw, assets = desk.context.raw, desk.context.catalog.assets
    family = _family_of(assets, "assets")
    if _family_of(raw, "raw") != family:
        raise BucketMismatch(f"it is not of the family {family}, as the catalog is", place=raw.name)
    told = assets.wire.head(BUCKET_IDENTITY).get("Date", "")
    try:
        skew = abs(parsedate_to_datetime(told).timestamp() - desk.clock())
    except ValueError:
        raise ClockWrong("the object store does not tell its time, so no age can be trusted") from None
    if skew > CLOCKS_DIFFER:
        raise ClockWrong(f"this machine's clock and the store's differ by {skew:,.0f} s, so no age can be trusted")


def _family_of(bucket: Bucket, purpose: str) -> str:
    """The family that a bucket says it is of. Raises `BucketMismatch` unless it says that it is for this purpose."""
    with suppress(ObjectNotFound, ValueError, KeyError, TypeError):
        document = json.loads(bucket.get(BUCKET_IDENTITY)[0])
        if document["purpose"] == purpose:
            return str(document["family"])
    raise BucketMismatch(f"it does not say that it is for {purpose}", place=f"{bucket.name}/{BUCKET_IDENTITY}")


def _certificate(desk: Desk, examined: Examined, files: Sequence[ReleasedFile]) -> Certificate:
    now, catalog, stored = datetime.fromtimestamp(desk.clock(), UTC), desk.context.catalog, examined.stored
    recording_hash = examined.entry.recording.recording_hash
    return Certificate(
        certificate_id=f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
        rec_id=examined.rec_id,
        recording_hash=recording_hash,
        source=examined.source.name,
        directory=examined.rec_id,
        inode=examined.tree[ROOT].inode,
        created_at=now,
        by=desk.context.writer.by,
        run_id=desk.context.writer.run_id,
        registered_at=datetime.fromtimestamp(examined.registered_at, UTC),
        source_changed_at=datetime.fromtimestamp(examined.changed_at, UTC),
        retention_days=desk.retention_days,
        grace_days=desk.grace_days,
        bucket=desk.context.raw.name,
        entry=Version(key=entry_key(catalog.prefix, recording_hash), etag=examined.entry_etag),
        manifests=[
            StoredManifest(
                key=stored.objects[one.name].key,
                etag=stored.objects[one.name].etag,
                sha256=hashlib.sha256(one.raw).hexdigest(),
            )
            for one in stored.manifests
        ],
        directories=[
            ReleasedDirectory(path=path, inode=stamp.inode, mtime_ns=stamp.mtime_ns)
            for path, stamp in examined.tree.items()
            if stamp.is_directory and path != ROOT and path not in examined.clutter
        ],
        clutter=listed_clutter(examined.clutter),
        files=list(files),
    )


def _require_no_purge(desk: Desk, certificate: Certificate) -> None:
    if has_happened(desk.context.catalog.assets, certificate, "purging"):
        raise TrashUnexpected(
            "its purge has begun, so that files of it may be gone",
            recording=certificate.rec_id,
            remedy=f"`ursa release purge {certificate.rec_id} --commit` ends that; "
            f"`ursa download {certificate.rec_id} --to DIR` brings the files from the bucket.",
        )


def _require_moved_whole(root: int, trash: int, examined: Examined, certificate: Certificate) -> None:
    """Raises unless what was moved is what was certified; then it goes back to where it was, if that is free."""
    name = certificate.name_in_trash
    try:
        problem = "" if _is_the_same(look(trash, name), examined.tree) else "it changed while it was moved"
    except UrsaError as error:
        problem = error.told
    if not problem:
        return
    try:
        rename(trash, name, root, examined.rec_id)
    except UrsaError as error:
        raise TrashUnexpected(
            f"{problem}; it lies in the trash and could not be put back: {error.told}",
            recording=examined.rec_id,
            place=name,
        ) from None
    raise SourceChanged(f"{problem}; it was put back", recording=examined.rec_id, place=examined.source.name)


def _is_the_same(now: Tree, before: Tree) -> bool:
    """Whether nothing differs but what a rename changes: times of the directory itself."""
    root, was = now[ROOT], before[ROOT]
    moved = replace(root, ctime_ns=was.ctime_ns, mtime_ns=was.mtime_ns)
    return moved == was and {**now, ROOT: was} == before

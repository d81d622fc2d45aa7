"""The certificate of a release: what lay in a directory, and by what each file was proved to be in the bucket.

It is written once, read back before anything is moved, and outlives the files; what happens afterwards are further
documents beside it, each written once, too. No participant's name and no path of a machine is in it. A certificate is
the list by which files are removed, so it is read as strictly as a manifest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.errors import ObjectExists, ObjectNotFound, TrashUnexpected
from ursa_pipelines.maintenance.release.tree import Tree
from ursa_pipelines.objects.keys import RELEASES, recording_prefix, release_key
from ursa_pipelines.objects.proof import Kind
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.identity import is_rec_id
from ursa_pipelines.recordings.layout import shown
from ursa_pipelines.recordings.manifest import Digest, UtcTime

Happened = Literal["purging", "purged", "restored"]
"""`purging` is written before the first file is removed: from then on some may be gone."""

_ID = r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}"
_IN_TRASH = re.compile(rf"(rec_[0-9a-f_]+)\.({_ID})")
_KEY = re.compile(rf"{RELEASES}([^/]+)/({_ID})(?:\.({'|'.join(get_args(Happened))}))?\.json")
_Count = Annotated[int, Field(ge=0)]


def _is_below(path: str) -> str:
    parts = path.split("/")
    if path != str(PurePosixPath(path)) or path.startswith("/") or "\0" in path or {"", ".", ".."} & set(parts):
        raise ValueError("is no path below a recording")
    return path


_Path = Annotated[str, AfterValidator(_is_below)]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class Version(_Document):
    """An object of a bucket, and which version of it."""

    key: str
    etag: str


class StoredManifest(Version):
    sha256: Digest


class ReleasedFile(Version):
    """A file as it lay there (times are nanoseconds since 1970 UTC), the object that holds the same bytes, and by what
    that was proved. `path` is as on the disk.
    """

    path: _Path
    size: _Count
    mtime_ns: int
    ctime_ns: int
    inode: _Count
    sha256: Digest
    evidence: Kind


class ReleasedDirectory(_Document):
    path: _Path
    inode: _Count
    mtime_ns: int


class Clutter(_Document):
    """What an operating system put there (`clutter`). The bucket has it not, and nobody asks what is in it."""

    path: _Path
    size: _Count
    mtime_ns: int
    ctime_ns: int


class Certificate(_Document):
    """All that a release rests on. `registered_at` is when the newest of row and objects was written,
    `source_changed_at` when anything in the directory last was; `bucket` is the one that the objects lie in.
    """

    format: Literal["ursa_release/1"] = "ursa_release/1"
    certificate_id: str = Field(pattern=rf"^{_ID}\z")
    rec_id: str
    recording_hash: str
    source: str
    directory: str
    inode: _Count
    created_at: UtcTime
    by: str
    run_id: str | None = None
    registered_at: UtcTime
    source_changed_at: UtcTime
    retention_days: float
    grace_days: float
    bucket: str
    entry: Version
    manifests: list[StoredManifest]
    directories: list[ReleasedDirectory]
    clutter: list[Clutter]
    files: Annotated[list[ReleasedFile], Field(min_length=1)]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Certificate:
        paths = [one.path for one in self.files] + [one.path for one in self.directories]
        paths += [one.path for one in self.clutter]
        keys = [one.key for one in (*self.files, *self.manifests)]
        is_one = is_rec_id(self.rec_id) and self.directory == self.rec_id and len(set(paths)) == len(paths)
        if not is_one or not all(key.startswith(recording_prefix(self.rec_id)) for key in keys):
            raise ValueError("it contradicts itself")
        return self

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def name_in_trash(self) -> str:
        return f"{self.rec_id}.{self.certificate_id}"

    @property
    def key(self) -> str:
        return release_key(self.rec_id, self.certificate_id)


class Happening(_Document):
    """That something was done with a released directory. `at` is by this host's clock; `clutter` is what was in it when
    its purge began.
    """

    certificate_id: str
    happened: Happened
    at: UtcTime
    by: str
    run_id: str | None = None
    clutter: list[Clutter] = []


def store_certificate(assets: Bucket, certificate: Certificate) -> None:
    """Writes the certificate and reads it back. Raises `TrashUnexpected` if other bytes come back."""
    body = _bytes_of(certificate)
    # The answer to our own write may have been lost; what is read back tells.
    with suppress(ObjectExists):
        assets.create(certificate.key, body)
    if assets.get(certificate.key)[0] != body or read_certificate(assets, certificate.name_in_trash)[0] != certificate:
        raise TrashUnexpected("the certificate that was stored is not the one that was written", place=certificate.key)


def read_certificate(assets: Bucket, name_in_trash: str) -> tuple[Certificate, float]:
    """The certificate of what has this name in a trash, and when it was stored (seconds since 1970 UTC, by the store's
    clock). Raises `TrashUnexpected` if there is none, or it is damaged.
    """
    match = _IN_TRASH.fullmatch(name_in_trash)
    if match is None or not is_rec_id(match[1]):
        raise TrashUnexpected("it is nothing that was released", place=shown(name_in_trash))
    key = release_key(match[1], match[2])
    try:
        raw, info = assets.get(key)
        certificate = Certificate.model_validate_json(raw)
    except ObjectNotFound:
        raise TrashUnexpected("no certificate is stored of it", recording=match[1], place=name_in_trash) from None
    except ValidationError as error:
        told = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(map(str, told["loc"]))
        raise TrashUnexpected(
            f"its certificate is damaged: {told['msg']}", recording=match[1], place=f"{key}: {where}" if where else key
        ) from None
    if certificate.name_in_trash != name_in_trash:
        raise TrashUnexpected("its certificate is that of another release", recording=match[1], place=key)
    return certificate, info.modified


def listed_clutter(tree: Tree) -> list[Clutter]:
    """The files of clutter, as a document lists them."""
    return [
        Clutter(path=path, size=stamp.size, mtime_ns=stamp.mtime_ns, ctime_ns=stamp.ctime_ns)
        for path, stamp in sorted(tree.items())
        if not stamp.is_directory
    ]


def note(
    assets: Bucket,
    certificate: Certificate,
    happened: Happened,
    writer: Writer,
    now: float,
    clutter: Sequence[Clutter] = (),
) -> None:
    """Keeps that something happened, once: whoever was first has done it."""
    told = Happening(
        certificate_id=certificate.certificate_id,
        happened=happened,
        at=datetime.fromtimestamp(now, UTC),
        by=writer.by,
        run_id=writer.run_id,
        clutter=list(clutter),
    )
    with suppress(ObjectExists):
        assets.create(release_key(certificate.rec_id, certificate.certificate_id, happened), _bytes_of(told))


def has_happened(assets: Bucket, certificate: Certificate, happened: Happened) -> bool:
    """Whether that is kept of this release."""
    return assets.head(release_key(certificate.rec_id, certificate.certificate_id, happened)) is not None


def releases_of(assets: Bucket, rec_ids: tuple[str, ...] = ()) -> Iterator[tuple[str, frozenset[str]]]:
    """Every release, by its name in the trash, in order, with what happened with it; or only those of these ids."""
    for prefix in [f"{RELEASES}{rec_id}/" for rec_id in sorted(set(rec_ids))] or [RELEASES]:
        found: dict[str, set[str]] = {}
        for info in assets.list_objects(prefix):
            if match := _KEY.fullmatch(info.key):
                found.setdefault(f"{match[1]}.{match[2]}", set()).update({match[3]} - {None})
        yield from ((name, frozenset(happened)) for name, happened in sorted(found.items()))


def _bytes_of(document: _Document) -> bytes:
    return document.model_dump_json(indent=1).encode()

"""`ursa/ACTIVE.json` in the assets bucket: which catalog prefix is live (runbook, Config selection; DESIGN section 6).

Read in `Catalog.open`; a missing or malformed pointer stops everything, no prefix is ever guessed. It is changed only
by compare-and-swap, by `catalog.cutover`, which keeps in it how far it has come, and by `catalog.upgrade`.

Pointer, `CATALOG.json` and HEAD.json carry the version of the catalog's format. A newer one than ours stops everything;
an older one is read, and not written before it was upgraded. Entries and edits carry a version of their own.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ursa_pipelines.catalog.retrying import retrying
from ursa_pipelines.errors import (
    CatalogNotInitialized,
    CatalogPointerInvalid,
    CatalogUpgradeNeeded,
    CatalogVersionUnknown,
    ETagMismatch,
    ObjectExists,
    ObjectNotFound,
)
from ursa_pipelines.objects.keys import ACTIVE_POINTER
from ursa_pipelines.objects.store import Bucket, ObjectInfo
from ursa_pipelines.recordings.layout import shown
from ursa_pipelines.recordings.manifest import UtcTime

DEFAULT_PREFIX = "ursa/catalog"
CATALOG_VERSION = 2
"""Since 2 the table of recordings has columns for what its metadata tells of an ingest."""

_NO_CATALOG = "there is no catalog under this prefix"
_FIND_CATALOG = "Run `ursa doctor`: it tells which prefix has one, to be named in its place."
_PREFIX = re.compile(r"ursa/[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_PREFIX_LIMIT = 200
"""In bytes: with what stands behind it a key has at most 1,024."""


class Versioned(BaseModel):
    """What every document of a catalog tells first; of what is newer than we know nothing else can be read."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    version: Annotated[int, Field(ge=1)] = CATALOG_VERSION


class Sweep(BaseModel):
    """What a change of the pointer leaves to do: what was written under `source` since then is brought along."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    source: str
    since: UtcTime
    op: str
    finished: bool = False


class Pointer(Versioned):
    """The content of `ursa/ACTIVE.json`.

    `previous` are the prefixes that were live, the last one first. `complete_until` tells for each of them until when
    nothing is missing there, by the store's clock.
    """

    prefix: str
    previous: list[str] = Field(default_factory=list)
    updated_at: UtcTime
    updated_by: str = ""
    reason: str = ""
    sweep: Sweep | None = None
    complete_until: dict[str, UtcTime] = Field(default_factory=dict)


class CatalogDocument(Versioned):
    """The content of `<prefix>/CATALOG.json`."""

    created_at: UtcTime
    created_by: str = ""


_D = TypeVar("_D", Pointer, CatalogDocument)


def read_pointer(assets: Bucket) -> Pointer:
    """The live pointer.

    Raises `CatalogNotInitialized` if there is none, `CatalogPointerInvalid` if it is malformed or names a prefix
    outside of `ursa/`, `CatalogVersionUnknown` if a newer version wrote it.
    """
    return load_pointer(assets)[0]


def load_pointer(assets: Bucket) -> tuple[Pointer, ObjectInfo]:
    """The live pointer with its ETag and the moment of its last change. Raises what `read_pointer` raises."""
    pointer, info = _read(assets, ACTIVE_POINTER, Pointer, "there is no active-catalog pointer")
    require_prefix(pointer.prefix, place=f"{assets.name}/{ACTIVE_POINTER}")
    return pointer, info


def swap_pointer(assets: Bucket, pointer: Pointer, etag: str) -> None:
    """Puts `pointer` in the place of the version with this ETag. Raises `ETagMismatch` if that is live no more."""
    try:
        for attempt in retrying():
            with attempt:
                assets.replace(ACTIVE_POINTER, pointer.model_dump_json().encode(), etag)
    except ETagMismatch:
        # Or it was us, and the answer was lost.
        if read_pointer(assets) != pointer:
            raise


def require_prefix(prefix: str, *, place: str | None = None) -> None:
    """Raises `CatalogPointerInvalid` unless a catalog may lie below this prefix."""
    is_one = len(prefix) <= _PREFIX_LIMIT and _PREFIX.fullmatch(prefix)
    if not is_one or {".", ".."} & set(prefix.split("/")):
        remedy = None if place else "Name a prefix such as ursa/catalog-2026-11."
        told = f"{shown(prefix)!r} is no prefix below ursa/ in this bucket"
        raise CatalogPointerInvalid(told, place=place, remedy=remedy)


def require_known_version(assets: Bucket, prefix: str) -> CatalogDocument:
    """`<prefix>/CATALOG.json`. Raises unless it is there and of a version that can be read: this one or an older."""
    return load_document(assets, prefix)[0]


def require_current_version(assets: Bucket, prefix: str) -> None:
    """Asked before the first write: raises what `require_known_version` raises, and `CatalogUpgradeNeeded`."""
    version = require_known_version(assets, prefix).version
    if version < CATALOG_VERSION:
        raise outdated(assets, prefix, version)


def outdated(assets: Bucket, prefix: str, version: int, *, of: str = "the catalog") -> CatalogUpgradeNeeded:
    """What is raised for a catalog of an older format."""
    return CatalogUpgradeNeeded(
        f"{of} is of format {version}, which this version reads and does not write",
        place=f"{assets.name}/{prefix}",
        remedy=f"Run `ursa catalog upgrade --prefix {prefix}`; every host that writes needs this version from then on.",
    )


def load_document(assets: Bucket, prefix: str) -> tuple[CatalogDocument, ObjectInfo]:
    """`<prefix>/CATALOG.json` with its ETag. Raises what `require_known_version` raises."""
    try:
        return _read(assets, document_key(prefix), CatalogDocument, _NO_CATALOG)
    except CatalogNotInitialized as error:
        raise CatalogNotInitialized(error.problem, place=error.place, remedy=_FIND_CATALOG) from None


def document_key(prefix: str) -> str:
    return f"{prefix}/CATALOG.json"


def init_catalog(assets: Bucket, *, by: str, prefix: str = DEFAULT_PREFIX) -> Pointer:
    """Creates an empty catalog and the pointer to it; what is there already stays, and is returned.

    Raises what `read_pointer` and `require_known_version` raise; the pointer never comes to name a catalog that
    this version does not know.
    """
    with suppress(CatalogNotInitialized):
        return read_pointer(assets)
    version = create_catalog(assets, prefix, by=by).version
    with suppress(ObjectExists):
        now = datetime.now(UTC)
        pointer = Pointer(version=version, prefix=prefix, updated_at=now, updated_by=by, reason="catalog init")
        assets.create(ACTIVE_POINTER, pointer.model_dump_json().encode())
    return read_pointer(assets)


def create_catalog(assets: Bucket, prefix: str, *, by: str) -> CatalogDocument:
    """Creates an empty catalog under a prefix, live or not. Raises what `require_known_version` raises."""
    with suppress(ObjectExists):
        document = CatalogDocument(created_at=datetime.now(UTC), created_by=by)
        assets.create(document_key(prefix), document.model_dump_json().encode())
    return require_known_version(assets, prefix)


def _read(assets: Bucket, key: str, kind: type[_D], absent: str) -> tuple[_D, ObjectInfo]:
    place = f"{assets.name}/{key}"
    try:
        raw, info = assets.get(key)
    except ObjectNotFound:
        raise CatalogNotInitialized(absent, place=place) from None
    try:
        # First, since another version may have another shape.
        version = Versioned.model_validate_json(raw).version
        if version > CATALOG_VERSION:
            raise CatalogVersionUnknown(f"it has the unknown version {version}", place=place)
        return kind.model_validate_json(raw), info
    except ValidationError as error:
        raise CatalogPointerInvalid(f"it is malformed: {error.errors()[0]['msg']}", place=place) from None

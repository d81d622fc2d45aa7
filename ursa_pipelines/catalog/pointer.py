"""`ursa/ACTIVE.json` in the assets bucket: which catalog prefix is live (runbook, Config selection; DESIGN section 6).

Read in `Catalog.open`; a missing or malformed pointer stops everything, no prefix is ever guessed.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ursa_pipelines.errors import (
    CatalogNotInitialized,
    CatalogPointerInvalid,
    CatalogVersionUnknown,
    ObjectExists,
    ObjectNotFound,
)
from ursa_pipelines.objects.keys import ACTIVE_POINTER
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.manifest import UtcTime

DEFAULT_PREFIX = "ursa/catalog"
CATALOG_VERSION = 1

_PREFIX = re.compile(r"ursa/[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


class Pointer(BaseModel):
    """The content of `ursa/ACTIVE.json`."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    version: Annotated[int, Field(ge=1)] = CATALOG_VERSION
    prefix: str
    previous: list[str] = Field(default_factory=list)
    updated_at: UtcTime
    updated_by: str = ""
    reason: str = ""


class CatalogDocument(BaseModel):
    """The content of `<prefix>/CATALOG.json`."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    version: Annotated[int, Field(ge=1)] = CATALOG_VERSION
    created_at: UtcTime
    created_by: str = ""


def read_pointer(assets: Bucket) -> Pointer:
    """The live pointer.

    Raises `CatalogNotInitialized` if there is none, `CatalogPointerInvalid` if it is malformed or names a prefix
    outside of `ursa/`, `CatalogVersionUnknown` if a newer version wrote it.
    """
    place = f"{assets.name}/{ACTIVE_POINTER}"
    try:
        raw, _ = assets.get(ACTIVE_POINTER)
    except ObjectNotFound:
        raise CatalogNotInitialized("there is no active-catalog pointer", place=place) from None
    try:
        pointer = Pointer.model_validate_json(raw)
    except ValidationError as error:
        raise CatalogPointerInvalid(f"it is malformed: {error.errors()[0]['msg']}", place=place) from None
    if pointer.version != CATALOG_VERSION:
        raise CatalogVersionUnknown(f"it has the unknown version {pointer.version}", place=place)
    if not _PREFIX.fullmatch(pointer.prefix) or ".." in pointer.prefix.split("/"):
        raise CatalogPointerInvalid(f"{pointer.prefix!r} is no prefix below ursa/ in this bucket", place=place)
    return pointer


def require_known_version(assets: Bucket, prefix: str) -> None:
    """Raises unless `<prefix>/CATALOG.json` is there and of this version; asked before the first write."""
    key = f"{prefix}/CATALOG.json"
    place = f"{assets.name}/{key}"
    try:
        raw, _ = assets.get(key)
    except ObjectNotFound:
        raise CatalogNotInitialized("there is no catalog under this prefix", place=place) from None
    try:
        document = CatalogDocument.model_validate_json(raw)
    except ValidationError as error:
        raise CatalogPointerInvalid(f"it is malformed: {error.errors()[0]['msg']}", place=place) from None
    if document.version != CATALOG_VERSION:
        raise CatalogVersionUnknown(f"it has the unknown version {document.version}", place=place)


def init_catalog(assets: Bucket, *, by: str, prefix: str = DEFAULT_PREFIX) -> Pointer:
    """Creates an empty catalog and the pointer to it; what is there already stays, and is returned."""
    with suppress(CatalogNotInitialized):
        return read_pointer(assets)
    now = datetime.now(UTC)
    for key, document in (
        (f"{prefix}/CATALOG.json", CatalogDocument(created_at=now, created_by=by)),
        (ACTIVE_POINTER, Pointer(prefix=prefix, updated_at=now, updated_by=by, reason="catalog init")),
    ):
        try:
            assets.create(key, document.model_dump_json().encode())
        except ObjectExists:
            continue
    return read_pointer(assets)

"""`<prefix>/HEAD.json`: which versions of the tables belong together (DESIGN section 6).

Whoever writes the tables stamps it first, with the next generation, and swaps in the new versions last. Of two that
overlap, the one that stamped later wins; what the other committed is in the tables, but not yet seen through HEAD.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ursa_pipelines.catalog.pointer import CATALOG_VERSION, Versioned, outdated, require_current_version
from ursa_pipelines.catalog.retrying import LOST_RACES, retrying
from ursa_pipelines.errors import CatalogError, CatalogVersionUnknown, ETagMismatch, ObjectNotFound
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.manifest import UtcTime

_Count = Annotated[int, Field(ge=0, lt=2**63 - 1)]


class Head(BaseModel):
    """The content of HEAD.json. `version` is the format of the tables that it names, which a catalog that is being
    upgraded has not reached yet; `epoch` counts how often they were begun from nothing.
    """

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    version: Annotated[int, Field(ge=1)] = CATALOG_VERSION
    gen: _Count
    epoch: _Count = 0
    versions: dict[str, _Count] = Field(default_factory=dict)
    folded_at: UtcTime | None = None
    folded_by: str = ""


def read_head(assets: Bucket, prefix: str) -> tuple[Head, str] | None:
    """(head, ETag), or None while nothing was folded. Raises `CatalogVersionUnknown`, `CatalogError` if damaged."""
    key = f"{prefix}/HEAD.json"
    try:
        raw, info = assets.get(key)
    except ObjectNotFound:
        return None
    place = f"{assets.name}/{key}"
    try:
        # First, since another version may have another shape.
        version = Versioned.model_validate_json(raw).version
        if version > CATALOG_VERSION:
            raise CatalogVersionUnknown(f"it has the unknown version {version}", place=place)
        return Head.model_validate_json(raw), info.etag
    except ValidationError as error:
        raise CatalogError(
            f"it is damaged: {error.errors()[0]['msg']}",
            place=place,
            remedy="Remove it with the tables/ beside it, then run `ursa catalog fold`; the entries hold everything.",
        ) from None


def stamp(assets: Bucket, prefix: str, *, anew: bool = False) -> tuple[Head, str]:
    """Announces a change of the tables: the head of the next generation, its versions as they were, and its ETag.

    Raises what `require_current_version` raises: of a catalog that this version does not write nothing is changed. So
    is a table of an older format, but where all of them are begun `anew`.
    """
    require_current_version(assets, prefix)
    for attempt in retrying(*LOST_RACES):
        with attempt:
            found = read_head(assets, prefix)
            if not anew:
                require_current_tables(assets, prefix, found)
            if found is None:
                head = Head(gen=1)
                return head, assets.create(_key(prefix), head.model_dump_json().encode()).etag
            head = found[0].model_copy(update={"gen": found[0].gen + 1})
            return head, assets.replace(_key(prefix), head.model_dump_json().encode(), found[1]).etag
    raise AssertionError("tenacity re-raises the last error")


def require_current_tables(assets: Bucket, prefix: str, found: tuple[Head, str] | None) -> None:
    """Raises `CatalogUpgradeNeeded` if HEAD is of an older format: the upgrade of the catalog is not over."""
    if found is not None and found[0].version < CATALOG_VERSION:
        raise outdated(assets, prefix, found[0].version, of="HEAD.json, and so are the tables,")


def swap(assets: Bucket, prefix: str, head: Head, etag: str, *, versions: dict[str, int], epoch: int, by: str) -> bool:
    """Makes these versions the ones that are read; False if somebody stamped after `head` was."""
    # Whoever came to write tables has written them in our format, or has found them in it.
    told = {"version": CATALOG_VERSION, "folded_at": datetime.now(UTC), "folded_by": by}
    new = head.model_copy(update={"versions": versions, "epoch": epoch, **told})
    try:
        for attempt in retrying():
            with attempt:
                assets.replace(_key(prefix), new.model_dump_json().encode(), etag)
    except ETagMismatch:
        # Or it was us, and the answer was lost.
        found = read_head(assets, prefix)
        return found is not None and found[0] == new
    return True


def _key(prefix: str) -> str:
    return f"{prefix}/HEAD.json"

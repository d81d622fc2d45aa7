"""The catalog: its pointer, the version of its format, and how far its tables are behind."""

from __future__ import annotations

from functools import partial
from itertools import islice

from ursa_pipelines.catalog.pointer import DEFAULT_PREFIX, Pointer, read_pointer
from ursa_pipelines.catalog.tables.schemas import TABLES
from ursa_pipelines.catalog.upgrade import CatalogFormat, format_of
from ursa_pipelines.errors import CatalogNotInitialized
from ursa_pipelines.maintenance.checkup.check import Finding, Look
from ursa_pipelines.maintenance.checkup.doors import Doors
from ursa_pipelines.objects.keys import ACTIVE_POINTER
from ursa_pipelines.objects.store import Bucket

_SECONDS = 40.0
_FOLD_ABOVE = 256
_COUNTED = 100_000
_PREFIXES_TOLD, _PREFIXES_TRIED = 3, 10
_FOLD = "Run `ursa catalog fold`."
_BY_ITSELF = "Nothing to do: the next command that writes upgrades it."


def catalog_looks(doors: Doors) -> list[Look]:
    """They need `assets bucket`."""
    return [
        Look("catalog", partial(_look_at_pointer, doors), ("assets bucket",), _SECONDS),
        Look("catalog tables", partial(_look_at_tables, doors), ("catalog",), _SECONDS),
    ]


def _look_at_pointer(doors: Doors) -> Finding:
    assets, staging = doors.bucket("assets_ro"), doors.profile.catalog_prefix
    pointer = _pointer(doors, assets)
    if pointer is None:
        return Finding("none yet; the first command that uses this profile makes it")
    prefix = staging or pointer.prefix
    try:
        found = format_of(assets, prefix)
    except CatalogNotInitialized as error:
        remedy = _put_back(assets, pointer, in_profile=bool(staging))
        raise CatalogNotInitialized(error.problem, place=error.place, remedy=remedy) from None
    if found.due:
        return _upgrade_due(found, by_itself=doors.profile.family == "local")
    told = f"{prefix}, format {found.document}"
    if staging and staging != pointer.prefix:
        told = f"{told}, which the profile names; live is {pointer.prefix}"
    if pointer.previous:
        more = len(pointer.previous) - _PREFIXES_TOLD
        told += f"; before: {', '.join(pointer.previous[:_PREFIXES_TOLD])}{f' and {more} more' if more > 0 else ''}"
    if pointer.sweep and not pointer.sweep.finished:
        command = "rollback" if pointer.sweep.op == "rollback" else f"cutover {pointer.prefix}"
        remedy = f"Run `ursa catalog {command}` again."
        return Finding(f"{told}; what {pointer.sweep.source} got meanwhile is still to come", "warning", remedy)
    return Finding(told)


def _upgrade_due(found: CatalogFormat, *, by_itself: bool) -> Finding:
    remedy = f"Run `ursa catalog upgrade --prefix {found.prefix}`; every host that writes needs this version then."
    if found.document >= found.newest:
        told = f"its upgrade to format {found.newest} is not over: until then nothing is folded into its tables"
        return Finding(f"{found.prefix}, {told}", "warning", remedy)
    told = f"{found.prefix}, format {found.document}, which this version reads and does not write"
    return Finding(told, "warning", _BY_ITSELF if by_itself else remedy)


def _put_back(assets: Bucket, pointer: Pointer, *, in_profile: bool) -> str:
    # `rollback` needs a live catalog to go back from.
    known = dict.fromkeys([*((pointer.prefix,) if in_profile else ()), *pointer.previous, DEFAULT_PREFIX])
    found = next((name for name in islice(known, _PREFIXES_TRIED) if assets.head(f"{name}/CATALOG.json")), None)
    place = "`catalog_prefix` of the profile" if in_profile else f"`prefix` of {ACTIVE_POINTER} in {assets.name}"
    if found is None:
        return f"Put back by hand into {place} what it was; below the prefix of a catalog there is a CATALOG.json."
    return f"Put {found} back by hand into {place}: there is a catalog."


def _look_at_tables(doors: Doors) -> Finding:
    assets = doors.bucket("assets_ro")
    pointer = _pointer(doors, assets)
    prefix = doors.profile.catalog_prefix or (pointer.prefix if pointer else DEFAULT_PREFIX)
    waiting = sum(1 for _ in islice(assets.list_objects(f"{prefix}/tail/"), _COUNTED))
    missing = sorted(set(TABLES) - set(assets.list_directories(f"{prefix}/tables/")))
    told = f"{waiting:,}{' or more' if waiting == _COUNTED else ''} writes wait to be folded into them"
    if 0 < len(missing) < len(TABLES):
        return Finding(f"{', '.join(missing)} missing; {told}", "warning", _FOLD)
    if missing:
        told = f"none yet, the first fold makes them; {told}"
    return Finding(told, "warning", _FOLD) if waiting > _FOLD_ABOVE else Finding(told)


def _pointer(doors: Doors, assets: Bucket) -> Pointer | None:
    try:
        return read_pointer(assets)
    except CatalogNotInitialized:
        # Elsewhere somebody has to say that a catalog is to be made.
        if doors.profile.family != "local":
            raise
        return None

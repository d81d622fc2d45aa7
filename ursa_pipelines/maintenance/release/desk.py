"""Releases of many recordings, each on its own: what became of it, or why it was left as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from ursa_pipelines.errors import ReleaseRefused, SourceUnavailable, TrashUnexpected, UrsaError
from ursa_pipelines.ingest.context import Watch
from ursa_pipelines.ingest.sources import Source, list_recordings
from ursa_pipelines.maintenance.narrowing import EVERYTHING, Only
from ursa_pipelines.maintenance.release.certificate import Certificate, read_certificate, releases_of
from ursa_pipelines.maintenance.release.judging import Desk, examine
from ursa_pipelines.maintenance.release.ledger import (
    Release,
    State,
    certified,
    chosen_sources,
    counted,
    left,
    names_in_trash,
    until,
)
from ursa_pipelines.maintenance.release.moving import move, restore
from ursa_pipelines.maintenance.release.proving import prove
from ursa_pipelines.maintenance.release.purging import purge


def wanted_of(
    desk: Desk,
    only: Only = EVERYTHING,
    source: str | None = None,
    *,
    on_unavailable: Callable[[SourceUnavailable], None] | None = None,
) -> Iterator[tuple[Source, str]]:
    """The recordings' directories on the sources, or on one of them. Raises `SourceNotFound`.

    `on_unavailable` is told of a source that cannot be read; without it that is raised.
    """
    seen: set[str] = set()
    chosen = chosen_sources(desk, source)
    for one in chosen:
        try:
            rec_ids = desk.context.listing("", one.name, partial(_recordings_of, one))
        except SourceUnavailable as error:
            if on_unavailable is None:
                raise
            on_unavailable(error)
            continue
        for rec_id in filter(only.covers, rec_ids):
            seen.add(rec_id)
            yield one, rec_id
    # Of these it is told that they are not there.
    yield from ((chosen[0], rec_id) for rec_id in only.named if rec_id not in seen)


def release(
    desk: Desk,
    wanted: Iterable[tuple[Source, str]],
    *,
    commit: bool,
    by_bytes: bool = False,
    proving: bool = False,
    held: Mapping[str, str] | None = None,
    watch: Watch | None = None,
) -> Iterator[Release]:
    """Judges directories, and with `commit` certifies and moves those that may leave. Without, bytes are read only if
    `proving`. `held` tells by rec_id why somebody objects, such as a quarantine. Raises `ReleaseRefused` if something
    is to be moved and nobody says what is held.
    """
    objections = _objections(held, commit=commit)
    for source, rec_id in wanted:
        try:
            examined = examine(desk, source, rec_id, objections.get(rec_id, ""))
            found = Release(rec_id, source.name, "eligible", len(examined.objects), examined.bytes)
            if commit:
                certificate = move(desk, examined, by_bytes=by_bytes, watch=watch)
                found = certified(certificate, "released")
                found = replace(found, until=until(desk, source, certificate.name_in_trash))
            elif proving:
                files = prove(desk, examined, by_bytes=by_bytes, watch=watch)
                found = replace(found, evidence=counted(files))
        except UrsaError as error:
            state: State = "stopped" if isinstance(error, TrashUnexpected) else "refused"
            found = Release(rec_id, source.name, state, reason=error.told, remedy=error.remedy)
        yield found


def purge_released(
    desk: Desk,
    rec_ids: Sequence[str] = (),
    source: str | None = None,
    *,
    commit: bool,
    held: Mapping[str, str] | None = None,
) -> Iterator[Release]:
    """Removes what has waited long enough in the trash; of these recordings, or of all. `held` as for `release`."""
    objections = _objections(held, commit=commit)
    for one, name in _in_trash(desk, rec_ids, source):
        if isinstance(name, UrsaError):
            yield left("", one.name, name)
            continue
        do = partial(purge, desk, one, name, objections.get(name.partition(".")[0], ""), commit=commit)
        yield _each(one, name, do, "purged" if commit else "due")


def purge_these(desk: Desk, due: Iterable[Release], held: Mapping[str, str]) -> Iterator[Release]:
    """Removes what was found to be `due`, and nothing else; `held` tells by rec_id why somebody objects."""
    sources = {one.name: one for one in desk.sources}
    for one in due:
        source, name = sources[one.source], f"{one.rec_id}.{one.certificate}"
        do = partial(purge, desk, source, name, held.get(one.rec_id, ""), commit=True)
        yield _each(source, name, do, "purged")


def restore_these(desk: Desk, found: Iterable[Release]) -> Iterator[Release]:
    """Brings back what was found `in trash`, and nothing else."""
    sources = {one.name: one for one in desk.sources}
    for one in found:
        source, name = sources[one.source], f"{one.rec_id}.{one.certificate}"
        yield _each(source, name, partial(restore, desk, source, name, commit=True), "restored")


def restore_released(
    desk: Desk, rec_ids: Sequence[str], source: str | None = None, *, commit: bool
) -> Iterator[Release]:
    """Brings the directories of recordings back from the trash."""
    found = set()
    for one, name in _in_trash(desk, rec_ids, source):
        if isinstance(name, UrsaError):
            yield left("", one.name, name)
            continue
        found.add(name.partition(".")[0])
        yield _each(one, name, partial(restore, desk, one, name, commit=commit), "restored" if commit else "in trash")
    for rec_id in sorted(set(rec_ids) - found):
        reason = f"{rec_id}: it is in no trash of a source that can be read"
        yield Release(rec_id, "", "stopped", reason=reason, remedy="`ursa release list` shows what is.")


def _objections(held: Mapping[str, str] | None, *, commit: bool) -> Mapping[str, str]:
    if commit and held is None:
        raise ReleaseRefused(
            "nobody says which recordings are quarantined or wait for a person",
            remedy="`ursa release` asks Dagster for them. Or pass them as `held`, an empty one if there are none.",
        )
    return held or {}


def _recordings_of(source: Source, gets_on: Callable[[], None]) -> list[str]:
    return list_recordings(source, gets_on=gets_on)


def _each(source: Source, name: str, do: Callable[[], Certificate], state: State) -> Release:
    try:
        return certified(do(), state)
    except UrsaError as error:
        return left(name, source.name, error)


def _in_trash(desk: Desk, rec_ids: Sequence[str], source: str | None) -> Iterator[tuple[Source, str | UrsaError]]:
    """What lies in the trashes, and what a purge that was cut short had there; or why a trash cannot be read."""
    half_done: dict[str, set[str]] = {}
    for name, happened in releases_of(desk.context.catalog.assets, tuple(rec_ids)):
        # One that cannot be read is told of by `releases`.
        with suppress(TrashUnexpected):
            if happened == {"purging"}:
                certificate, _ = read_certificate(desk.context.catalog.assets, name)
                half_done.setdefault(certificate.source, set()).add(name)
    for one in chosen_sources(desk, source):
        try:
            names = {*names_in_trash(one), *half_done.get(one.name, ())}
        except UrsaError as error:
            yield one, error
            continue
        yield from ((one, name) for name in sorted(names) if not rec_ids or name.partition(".")[0] in rec_ids)

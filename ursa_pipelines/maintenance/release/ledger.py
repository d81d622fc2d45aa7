"""What is told of a release, and of every release there ever was.

Nothing is kept but certificates, what happened with them, and the trash itself: all is read from these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Literal

from ursa_pipelines.errors import ReleaseRefused, SourceNotFound, SourceUnavailable, UrsaError
from ursa_pipelines.ingest.results_shown import Shown, size_shown
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.maintenance.release.certificate import Certificate, ReleasedFile, read_certificate, releases_of
from ursa_pipelines.maintenance.release.judging import Desk
from ursa_pipelines.maintenance.release.purging import due_at
from ursa_pipelines.maintenance.release.tree import TRASH, names_in, root_of, stamp_of, trash_of
from ursa_pipelines.recordings.layout import is_clutter, shown

_NAME_LIMIT = 255
"""What a file system takes at most, so that no name is cut."""

State = Literal[
    "eligible",
    "released",
    "refused",
    "in trash",
    "due",
    "purging",
    "purged",
    "restored",
    "unused",
    "stopped",
    "unknown",
]


@dataclass(frozen=True, repr=False)
class Release(Shown):
    """A directory, and what became of it.

    `eligible` may be released, `due` may be purged; `refused` stays on its source, `stopped` stays where it is because
    something is not as its certificate says, and `reason` tells why. `unused` is a certificate by which nothing was
    moved, or whose directory is at its place again; `unknown` is what lies where nobody can look. `evidence` counts the
    files by what proved them. `until` is when a purge may begin.
    """

    rec_id: str
    source: str
    state: State
    files: int = 0
    bytes: int = 0
    certificate: str = ""
    until: datetime | None = None
    evidence: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    remedy: str = ""

    @property
    def is_fine(self) -> bool:
        return self.state not in {"refused", "stopped", "unknown"}

    def _shown(self) -> dict[str, str]:
        return {
            "recording": self.rec_id,
            "source": self.source,
            "state": self.state,
            "files": f"{self.files:,}",
            "bytes": size_shown(self.bytes),
            "reason": self.reason,
        }


def certified(certificate: Certificate, state: State) -> Release:
    """What a certificate tells."""
    return Release(
        certificate.rec_id,
        certificate.source,
        state,
        len(certificate.files),
        certificate.bytes,
        certificate.certificate_id,
        evidence=counted(certificate.files),
    )


def left(name_in_trash: str, source: str, error: UrsaError) -> Release:
    """What was left as it is in a trash, or in all of it if it has no name."""
    state: State = "refused" if isinstance(error, ReleaseRefused) and name_in_trash else "stopped"
    if not name_in_trash and isinstance(error, SourceUnavailable):
        state = "unknown"
    rec_id, _, certificate = shown(name_in_trash, _NAME_LIMIT).partition(".")
    return Release(rec_id, source, state, certificate=certificate, reason=error.told, remedy=error.remedy)


def counted(files: Iterable[ReleasedFile]) -> dict[str, int]:
    """How many files were proved by what."""
    return dict(Counter[str](file.evidence for file in files))


def chosen_sources(desk: Desk, name: str | None) -> Sequence[Source]:
    """The source of this name, or all. Raises `SourceNotFound`."""
    found = [one for one in desk.sources if name in {None, one.name}]
    if not found:
        names = ", ".join(one.name for one in desk.sources) or "none"
        raise SourceNotFound("the profile has no such source", place=name, remedy=f"There are: {names}.")
    return found


def names_in_trash(source: Source) -> list[str]:
    """What lies in the trash of a source, but clutter. Raises `SourceUnavailable`, and `ReleaseRefused` for a link."""
    with root_of(source) as root:
        if stamp_of(root, TRASH) is None:
            return []
        with trash_of(root) as trash:
            return sorted(name for name in names_in(trash, TRASH) if not is_clutter(name))


def until(desk: Desk, source: Source, name_in_trash: str) -> datetime | None:
    """When a purge of it may begin; None if that cannot be told."""
    with suppress(UrsaError):
        certificate, stored_at = read_certificate(desk.context.catalog.assets, name_in_trash)
        with root_of(source) as root, trash_of(root) as trash:
            if moved := stamp_of(trash, name_in_trash):
                return datetime.fromtimestamp(due_at(desk, certificate, stored_at, moved.ctime_ns / 1e9), UTC)
    return None


def releases(desk: Desk, rec_ids: Sequence[str] = (), source: str | None = None) -> Iterator[Release]:
    """Every release there was, a recording's oldest first, and where its directory is now; then what lies in a trash
    without a certificate.
    """
    assets, known = desk.context.catalog.assets, set[str]()
    trashes = {one.name: _trash(one) for one in chosen_sources(desk, source)}
    there = {name for names in trashes.values() if isinstance(names, list) for name in names}
    for _, named in groupby(releases_of(assets, tuple(rec_ids)), key=lambda one: one[0].partition(".")[0]):
        found: list[tuple[Certificate, frozenset[str]]] = []
        for name, happened in named:
            try:
                certificate, _ = read_certificate(assets, name)
            except UrsaError as error:
                yield left(name, "", error)
                known.add(name)
                continue
            if source in {None, certificate.source}:
                known.add(name)
                found.append((certificate, happened))
        moved = {(one.source, one.inode) for one, happened in found if happened or one.name_in_trash in there}
        for certificate, happened in sorted(found, key=lambda one: one[0].created_at):
            yield _standing(desk, certificate, happened, trashes.get(certificate.source), moved)
    for name_of_source, names in trashes.items():
        if isinstance(names, UrsaError):
            yield left("", name_of_source, names)
            continue
        for name in names:
            rec_id = shown(name, _NAME_LIMIT).partition(".")[0]
            if name not in known and (not rec_ids or rec_id in rec_ids):
                reason = f"{TRASH}/{shown(name)} has no certificate, and is never removed"
                yield Release(rec_id, name_of_source, "stopped", reason=reason, remedy="Look at it yourself.")


def _trash(source: Source) -> list[str] | UrsaError:
    try:
        return names_in_trash(source)
    except UrsaError as error:
        return error


def _standing(
    desk: Desk,
    certificate: Certificate,
    happened: frozenset[str],
    trash: list[str] | UrsaError | None,
    moved: Container[tuple[str, int]],
) -> Release:
    """Where the directory of a certificate is; `moved` are those that some certificate has moved."""
    name, inode = certificate.name_in_trash, certificate.inode
    ended: State | None = "purged" if "purged" in happened else "restored" if "restored" in happened else None
    if not isinstance(trash, list):
        reason = trash.told if trash else f"the profile has no source {certificate.source}"
        return certified(certificate, ended) if ended else replace(certified(certificate, "unknown"), reason=reason)
    (source,) = chosen_sources(desk, certificate.source)
    if name in trash and ended != "purged":
        with root_of(source) as root, trash_of(root) as it:
            there = stamp_of(it, name)
        if there is None or there.inode != inode:
            return replace(certified(certificate, "stopped"), reason="another directory has its name in the trash")
        told = certified(certificate, "purging" if "purging" in happened else "in trash")
        return replace(told, until=until(desk, source, name))
    if name in trash:
        return replace(certified(certificate, "stopped"), reason="it was purged, and is in the trash again")
    if ended:
        return certified(certificate, ended)
    with root_of(source) as root:
        back = stamp_of(root, certificate.directory)
    if (back is not None and back.inode == inode) or (not happened and (certificate.source, inode) in moved):
        return certified(certificate, "unused")
    if "purging" in happened:
        remedy = f"`ursa release purge {certificate.rec_id} --commit` ends it."
        return replace(certified(certificate, "purging"), remedy=remedy)
    return replace(certified(certificate, "stopped"), reason="its directory is neither in the trash nor at its place")

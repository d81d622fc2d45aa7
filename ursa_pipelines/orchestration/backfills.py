"""Which recordings a backfill by command takes: named ones, those since a day, failed ones, and uncatalogued ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial

import dagster as dg

from ursa_pipelines.errors import SourceUnavailable
from ursa_pipelines.ingest.sources import Source, directories_of, list_recordings
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.objects.keys import RECORDINGS, recording_prefix
from ursa_pipelines.orchestration.partitions import RECORDING, recordings
from ursa_pipelines.orchestration.states import History, read_histories
from ursa_pipelines.recordings.identity import is_rec_id

BUCKET, CATALOG = "bucket", "catalog"

_SINGLY = 20
"""Up to so many recordings are looked for one by one; for more, everything is listed."""
_LOOKERS = 16


@dataclass(frozen=True)
class Wanted:
    """What an operator asks for; a recording that fits one of these is taken."""

    rec_ids: tuple[str, ...] = ()
    since: date | None = None
    failed: bool = False
    missing: bool = False

    @property
    def is_nothing(self) -> bool:
        return not (self.rec_ids or self.since or self.failed or self.missing)


@dataclass(frozen=True)
class Candidate:
    """A recording, where it is (names of sources, `bucket`, `catalog`), and how it stands, with the reason."""

    rec_id: str
    places: tuple[str, ...] = ()
    state: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Selection:
    """What fits. `held` are quarantined or waived and were not named; `unknown` were named and are nowhere;
    `problems` tell of sources that could not be looked at, so that recordings there may be lacking.
    """

    chosen: tuple[Candidate, ...] = ()
    held: tuple[Candidate, ...] = ()
    unknown: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def rec_ids(self) -> list[str]:
        return [one.rec_id for one in self.chosen]


class Whereabouts:
    """Where recordings are: on the profile's sources, in its raw bucket, in its catalog. Only looks."""

    def __init__(self, data: DataInterface) -> None:
        self._sources = data.sources
        self._context = data.reading_context
        self._problems: dict[str, str] = {}

    @property
    def problems(self) -> tuple[str, ...]:
        """Of every source that could not be looked at, why."""
        return tuple(self._problems.values())

    def of(self, rec_ids: Collection[str]) -> dict[str, tuple[str, ...]]:
        """Where each of these is; nowhere is no place."""
        if len(rec_ids) > _SINGLY:
            everywhere = self.everywhere()
            return {rec_id: everywhere.get(rec_id, ()) for rec_id in rec_ids}
        with ThreadPoolExecutor(_LOOKERS, thread_name_prefix="whereabouts") as pool:
            return dict(zip(rec_ids, pool.map(self._of_one, rec_ids), strict=True))

    def everywhere(self) -> dict[str, tuple[str, ...]]:
        """Where every recording is that is anywhere."""
        places: dict[str, list[str]] = {}
        for name, rec_ids in self._listings():
            for rec_id in rec_ids:
                places.setdefault(rec_id, []).append(name)
        return {rec_id: tuple(names) for rec_id, names in places.items()}

    def _listings(self) -> Iterator[tuple[str, Iterable[str]]]:
        for source in self._sources:
            try:
                yield source.name, self._context.listing("", source.name, partial(_list, source))
            except SourceUnavailable as error:
                self._problems[source.name] = str(error)
        below = self._context.raw.list_directories(RECORDINGS)
        yield BUCKET, (name for name in below if is_rec_id(name))
        rows = self._context.catalog.scan("recordings", None, ["rec_id"])
        yield CATALOG, (str(rec_id) for batch in rows for rec_id in batch.column("rec_id").to_pylist() if rec_id)

    def _of_one(self, rec_id: str) -> tuple[str, ...]:
        if not is_rec_id(rec_id):
            return ()
        found = []
        for source in self._sources:
            try:
                if self._context.listing(rec_id, source.name, partial(_find, source, rec_id)):
                    found.append(source.name)
            except SourceUnavailable as error:
                self._problems[source.name] = str(error)
        if next(self._context.raw.list_objects(recording_prefix(rec_id)), None) is not None:
            found.append(BUCKET)
        if self._context.catalog.entry_of_rec_id(rec_id) is not None:
            found.append(CATALOG)
        return tuple(found)


def select(data: DataInterface, instance: dg.DagsterInstance, wanted: Wanted) -> Selection:
    """The recordings that fit, sorted. Reads sources, bucket, catalog and instance; writes nothing."""
    partitions = instance.get_dynamic_partitions(str(recordings.name))
    named = {rec_id for rec_id in wanted.rec_ids if is_rec_id(rec_id)}
    is_sweep = wanted.since is not None or wanted.missing
    is_any = is_sweep or wanted.failed
    histories = read_histories(instance, None if is_any else named)
    statuses = read_statuses(instance, partitions if is_any else sorted(named.intersection(partitions)))
    fitting = named | (_failed(histories, statuses) if wanted.failed else set())
    whereabouts = Whereabouts(data)
    places = whereabouts.everywhere() if is_sweep else whereabouts.of(sorted(fitting))
    if wanted.since is not None:
        first = f"rec_{wanted.since:%Y%m%d}"
        has_bytes = {rec_id for rec_id, names in places.items() if set(names) != {CATALOG}}
        fitting.update(rec_id for rec_id in has_bytes.union(partitions) if rec_id >= first)
    if wanted.missing:
        fitting.update(rec_id for rec_id, names in places.items() if CATALOG not in names)
    known = {rec_id for rec_id, names in places.items() if names}.union(partitions, histories)
    chosen: list[Candidate] = []
    held: list[Candidate] = []
    for rec_id in sorted(fitting & known):
        history = histories.get(rec_id) or History(rec_id)
        at = places.get(rec_id, ())
        state, reason = describe(history, statuses.get(rec_id), is_catalogued=CATALOG in at)
        passed_by = history.is_held and rec_id not in named
        (held if passed_by else chosen).append(Candidate(rec_id, at, state, reason))
    unknown = sorted(set(wanted.rec_ids) - known)
    return Selection(tuple(chosen), tuple(held), tuple(unknown), whereabouts.problems)


def read_statuses(instance: dg.DagsterInstance, partitions: Sequence[str]) -> dict[str, dg.AssetPartitionStatus]:
    """What colour Dagster gives each of these partitions of `recording`; one it knows nothing of has none."""
    if not partitions:
        return {}
    found = instance.get_status_by_partition(RECORDING, list(partitions), recordings) or {}
    return {key: status for key, status in found.items() if status is not None}


def describe(history: History, status: dg.AssetPartitionStatus | None, *, is_catalogued: bool) -> tuple[str, str]:
    """How a recording stands, in a word or two, and why."""
    last = history.last
    if status == dg.AssetPartitionStatus.IN_PROGRESS:
        return "running", ""
    waived, quarantined = history.waived, history.quarantined
    if waived is not None and not (quarantined and quarantined.at > waived.at):
        return "waived", waived.reason
    if quarantined is not None:
        return "quarantined", quarantined.reason
    if last is not None and last.kind == "failed":
        return f"failed ({'retryable' if last.retryable else 'permanent'})", last.reason
    if last is not None:
        return {"retried": "to be tried again"}.get(last.kind, last.kind), last.reason
    if status == dg.AssetPartitionStatus.FAILED:
        return "failed", ""
    return ("registered" if is_catalogued or history.registered_at is not None else "not ingested"), ""


def _failed(histories: Mapping[str, History], statuses: Mapping[str, dg.AssetPartitionStatus]) -> set[str]:
    """Those that failed, those that somebody wants tried again, and those that are red though no run told why."""
    marked = {rec_id for rec_id, one in histories.items() if one.last and one.last.kind in {"failed", "retried"}}
    red = {rec_id for rec_id, status in statuses.items() if status == dg.AssetPartitionStatus.FAILED}
    untold = {rec_id for rec_id in red if (one := histories.get(rec_id)) is None or one.last is None or one.is_held}
    return marked | untold


def _list(source: Source, gets_on: Callable[[], None]) -> list[str]:
    return list_recordings(source, gets_on=gets_on)


def _find(source: Source, rec_id: str, gets_on: Callable[[], None]) -> bool:
    gets_on()
    return bool(directories_of(rec_id, [source]))

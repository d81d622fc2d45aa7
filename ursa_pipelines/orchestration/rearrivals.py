"""Arrivals that the reconciliation reports, for recordings that the sensors missed or that are due once more.

A recording that arrived after all that is known of it, less than a day ago, is not reported again: a backfill that
takes the night has it. What no sensor has seen settle is looked at again first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import dagster as dg

from ursa_pipelines.errors import SourceUnavailable, UrsaError
from ursa_pipelines.ingest.bucket_watch import BucketWatch
from ursa_pipelines.ingest.watch import REFUSED, Arrival
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.maintenance.reconciliation import Sighted, look_again
from ursa_pipelines.objects.keys import recording_prefix, uri
from ursa_pipelines.orchestration.arrivals import NewestArrival, newest_arrivals
from ursa_pipelines.orchestration.cases import Case
from ursa_pipelines.orchestration.outlook import changed_directories, last_event
from ursa_pipelines.orchestration.partitions import R2_RECORDING, arrival_asset

_KEYS_PER_QUERY = 500
_TAKEN_UP_WITHIN = 20 * 3600.0


class Rearrivals:
    """Decides which recordings arrive, and makes the events. Reads directories and prefixes of candidates only."""

    def __init__(self, data: DataInterface, instance: dg.DagsterInstance, *, now: float) -> None:
        self._data, self._instance, self._now = data, instance, now
        self._sources = {source.name: source for source in data.sources}
        self._hanging: dict[str, str] = {}
        self._context = data.reading_context
        self._settings = settings = data.profile.settings
        self._watch = BucketWatch(
            self._context.raw, self._context.catalog, settings.quiet_period, settings.reconstruct_after_bucket
        )

    def of(self, cases: Iterable[Case]) -> Iterator[tuple[Case, dg.AssetMaterialization | None]]:
        """Each case with the arrival to report, or with None and, as its reason, why it is not reported now."""
        some: list[Case] = []
        for case in cases:
            some.append(case)
            if len(some) == _KEYS_PER_QUERY:
                yield from self._of_some(some)
                some = []
        yield from self._of_some(some)

    def _of_some(self, cases: Sequence[Case]) -> Iterator[tuple[Case, dg.AssetMaterialization | None]]:
        places = [_place(case) for case in cases]
        keys: dict[dg.AssetKey, list[str]] = {}
        for case, place in zip(cases, places, strict=True):
            keys.setdefault(_asset(place), []).append(case.standing.rec_id)
        known = {asset: newest_arrivals(self._instance, asset, rec_ids) for asset, rec_ids in keys.items()}
        elsewhere = {
            rec_id: name
            for name in self._sources
            if R2_RECORDING in keys
            for rec_id in newest_arrivals(self._instance, arrival_asset(name), keys[R2_RECORDING])
        }
        for case, place in zip(cases, places, strict=True):
            rec_id = case.standing.rec_id
            yield self._decide(case, place, known[_asset(place)].get(rec_id), elsewhere.get(rec_id, ""))

    def _decide(
        self, case: Case, place: Sighted | None, before: NewestArrival | None, seen_on: str
    ) -> tuple[Case, dg.AssetMaterialization | None]:
        rec_id = case.standing.rec_id
        fingerprint = (place.fingerprint or REFUSED) if place else ""
        is_as_before = before is not None and (place is None or before.fingerprint == fingerprint)
        if (
            before
            and is_as_before
            and not case.outlook.is_untold
            and before.at > max(last_event(case.history), self._now - _TAKEN_UP_WITHIN)
        ):
            return _but(case, "arrived already, not taken up yet"), None
        try:
            if place is None:
                found = self._watch.look(rec_id, None, None, None, now=self._now)
                if found is None:
                    return _but(case, "in the bucket as the catalog says"), None
                if seen_on and found.reason and not case.standing.marked:
                    # It is not complete: an upload of ours that broke off looks like one of a rig.
                    return _but(case, f"was seen on {seen_on}, which does not have it now: bring that drive"), None
                fingerprint = found.fingerprint
            else:
                found = None if is_as_before else self._look_again(place, rec_id)
        except UrsaError as error:
            return _but(case, str(error)), None
        if found is not None and not found.settled:
            return _but(case, found.reason), None
        return case, self._arrival(rec_id, place, fingerprint)

    def _look_again(self, place: Sighted, rec_id: str) -> Arrival:
        if why := self._hanging.get(place.source):
            raise SourceUnavailable(why, recording=rec_id, place=place.source)
        try:
            found = look_again(
                self._context,
                self._sources[place.source],
                place,
                rec_id,
                now=self._now,
                quiet_period=self._settings.quiet_period,
                reconstruct_after=self._settings.reconstruct_after,
            )
        except SourceUnavailable as error:
            # The next one on it would hang as long.
            self._hanging[place.source] = error.problem
            raise
        if found.fingerprint != (place.fingerprint or REFUSED):
            raise SourceUnavailable("it is changing just now", recording=rec_id, place=place.source)
        return found

    def _arrival(self, rec_id: str, place: Sighted | None, fingerprint: str) -> dg.AssetMaterialization:
        where = (
            dg.MetadataValue.path(str(self._sources[place.source].root / rec_id))
            if place
            else dg.MetadataValue.text(uri(self._context.raw.name, recording_prefix(rec_id)))
        )
        return dg.AssetMaterialization(
            _asset(place),
            partition=rec_id,
            tags={"dagster/data_version": fingerprint},
            metadata={"directory" if place else "prefix": where, "by": dg.MetadataValue.text("reconciliation")},
        )


def _place(case: Case) -> Sighted | None:
    """The directory on which the arrival is reported; None for the bucket."""
    free = [one for one in case.standing.on_sources if not one.blocked and not one.unread]
    changed = changed_directories(case.standing, case.history.fingerprint or "")
    return next((one for one in free if one in changed), free[0] if free else None)


def _asset(place: Sighted | None) -> dg.AssetKey:
    return arrival_asset(place.source) if place else R2_RECORDING


def _but(case: Case, why: str) -> Case:
    told = f"{case.outlook.reason} (not now: {why})"
    return replace(case, outlook=replace(case.outlook, reason=told, due=""))

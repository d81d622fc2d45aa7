"""The sensor of the raw bucket."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial

import dagster as dg

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.errors import SourceUnavailable, StoreDenied, StoreUnavailable, UrsaError
from ursa_pipelines.ingest.bucket_watch import BucketWatch
from ursa_pipelines.ingest.watch import Arrival, Patience, SourceHangs, unread
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.objects.keys import recording_prefix, uri
from ursa_pipelines.orchestration.partitions import R2_RECORDING, RECORDING, arrival_asset, recordings
from ursa_pipelines.orchestration.resources import UrsaResource, require_profile
from ursa_pipelines.orchestration.sensors.cursor import Cursor
from ursa_pipelines.orchestration.sensors.reported import Reported
from ursa_pipelines.orchestration.sensors.rounds import Round, Rules
from ursa_pipelines.orchestration.states import History
from ursa_pipelines.profiles import Profile
from ursa_pipelines.recordings.rows import RecordingRow

_TICK_SECONDS = 20.0
_PATIENCE_SECONDS = 15.0
_LOOKS_AGAIN = 20


def r2_sensor(profile: Profile, *, tick_seconds: float = _TICK_SECONDS) -> dg.SensorDefinition:
    """The sensor of the raw bucket. On `local` it runs from the start, elsewhere once it is turned on.

    It sees recordings of the last `look_back_days` and needs the reading roles only. A tick costs one LIST for every
    thousand of them, one scan of the catalog, one LIST for each of a few that are looked at again, and some requests
    more for each that the catalog lacks.
    """
    is_local = profile.family == "local"
    reported, bucket = Reported(R2_RECORDING), _RawBucket()
    sources = {source.name: Reported(arrival_asset(source.name)) for source in profile.sources}

    @dg.sensor(
        name="r2_sensor",
        minimum_interval_seconds=10 if is_local else 60,
        default_status=dg.DefaultSensorStatus.RUNNING if is_local else dg.DefaultSensorStatus.STOPPED,
        tags={"ursa/source": "r2"},
        description=f"Looks in the raw bucket for recordings of the last {profile.settings.look_back_days} days that "
        "came there by other ways, such as a rig's own upload, and reports those that have settled and are not in "
        "the catalog whole. Click a tick's result to read what waits, and why. Launches nothing. Older ones are found "
        "by the nightly reconciliation.",
    )
    def _sensor(context: dg.SensorEvaluationContext, ursa: UrsaResource):
        require_profile(context.instance, ursa.data().profile)
        settings = ursa.data().profile.settings
        try:
            bucket.begin(ursa)
            return Round(
                context.instance,
                R2_RECORDING,
                reported,
                Rules(
                    tick_seconds,
                    settings.wait_at_most,
                    max(settings.quiet_period, settings.reconstruct_after_bucket),
                    _LOOKS_AGAIN,
                ),
                Cursor.parse(context.cursor),
                bucket.rec_ids,
                bucket.look,
                bucket.about,
                covered=frozenset(bucket.rows),
                not_now=partial(_in_other_hands, reported, sources),
            ).result()
        except StoreDenied:
            # The credential may have been changed: the next tick fetches it again.
            bucket.forget()
            raise

    return _sensor


def _in_other_hands(
    reported: Reported,
    sources: Mapping[str, Reported],
    instance: dg.DagsterInstance,
    settled: Mapping[str, Arrival],
    histories: Mapping[str, History],
) -> dict[str, str]:
    """What an ingest puts into the bucket is no arrival: while it runs, nor what is there of one that broke off."""
    if not settled:
        return {}
    rec_ids = sorted(settled)
    states = instance.get_status_by_partition(RECORDING, rec_ids, recordings) or {}
    running = {rec_id for rec_id in rec_ids if states.get(rec_id) == dg.AssetPartitionStatus.IN_PROGRESS}
    failed = {
        rec_id
        for rec_id in settled.keys() - reported.rec_ids(instance) - running
        if (one := histories.get(rec_id)) and one.last and one.last.kind == "failed"
    }
    incomplete = [rec_id for rec_id in rec_ids if settled[rec_id].reason]
    seen_on = {rec_id: name for name, source in sources.items() for rec_id in source.versions(instance, incomplete)}
    return {
        **{rec_id: f"was seen on {name}; its upload has not been finished" for rec_id, name in seen_on.items()},
        **dict.fromkeys(running, "an ingest of it is running"),
        **dict.fromkeys(failed, "its ingest failed, and is taken up again by `ursa retry` or the reconciliation"),
    }


class _RawBucket:
    """The bucket, tick after tick. Credentials are fetched once in a process, and stay in its memory.

    `rec_ids` are the recordings in the window, and `rows` those of them that are in the catalog.
    """

    def __init__(self) -> None:
        self._patience = Patience()
        self._data: DataInterface | None = None
        self._config: tuple[str | None, str | None] = (None, None)
        self._watch: BucketWatch | None = None
        self.rec_ids: list[str] = []
        self.rows: dict[str, RecordingRow] = {}

    def begin(self, ursa: UrsaResource) -> None:
        """Lists the window. Raises `StoreUnavailable` if the store does not answer in time."""
        if self._data is None or self._config != (ursa.profile, ursa.config_path):
            self._data, self._config = ursa.data(), (ursa.profile, ursa.config_path)
        data, settings = self._data, self._data.profile.settings
        day = (datetime.now(UTC) - timedelta(days=settings.look_back_days)).date()

        def look_around() -> tuple[BucketWatch, list[str], dict[str, RecordingRow]]:
            raw, assets = data.reading_context.raw, data.catalog.assets
            # Opened anew, since the catalog may have moved to another prefix.
            catalog = Catalog.open(assets, prefix=data.profile.catalog_prefix)
            watch = BucketWatch(raw, catalog, settings.quiet_period, settings.reconstruct_after_bucket)
            # The rows first: what is registered in between is looked at once too often, and found to be covered.
            rows = watch.rows_since(day)
            return watch, watch.recordings_since(day), rows

        self._patience.begin()
        try:
            self._watch, self.rec_ids, self.rows = self._patience.call(
                "window", _PATIENCE_SECONDS, _PATIENCE_SECONDS, lambda gets_on: look_around()
            )
        except SourceUnavailable as error:
            raise StoreUnavailable(f"the object store does not answer: {error.problem}") from None

    def look(self, rec_id: str, previous: Arrival | None, version: str | None) -> Arrival | None:
        """See `rounds.Look`."""
        watch, row, now = self._watch, self.rows.get(rec_id), time.time()
        if watch is None:
            raise AssertionError("a look before the round began")
        try:
            return self._patience.call(
                rec_id,
                _PATIENCE_SECONDS,
                _PATIENCE_SECONDS,
                lambda gets_on: watch.look(rec_id, previous, version, row, now=now),
            )
        except (SourceHangs, StoreDenied, StoreUnavailable):
            raise
        except UrsaError as error:
            # What is wrong with one recording must not keep the others from being found.
            return None if version is not None else unread(str(error), previous, now=now)

    def about(self, rec_id: str) -> dict[str, dg.MetadataValue]:
        """What an arrival tells besides its fingerprint."""
        name = self._watch.raw.name if self._watch else ""
        return {"dagster/uri": dg.MetadataValue.text(uri(name, recording_prefix(rec_id)))}

    def forget(self) -> None:
        """Lets go of the credentials."""
        self._data = None

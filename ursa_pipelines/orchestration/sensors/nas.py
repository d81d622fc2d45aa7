"""The sensor of one source."""

import time

import dagster as dg

from ursa_pipelines.embedded.sources import ensure_local_sources
from ursa_pipelines.errors import SourceUnavailable
from ursa_pipelines.ingest.sources import Source, list_recordings
from ursa_pipelines.ingest.watch import UNREAD, Arrival, Patience, SourceHangs, look_at, unread
from ursa_pipelines.orchestration.partitions import arrival_asset
from ursa_pipelines.orchestration.resources import UrsaResource, require_profile
from ursa_pipelines.orchestration.sensors.cursor import Cursor
from ursa_pipelines.orchestration.sensors.reported import Reported
from ursa_pipelines.orchestration.sensors.rounds import Round, Rules
from ursa_pipelines.profiles import Profile
from ursa_pipelines.profiles.profile import IngestSettings
from ursa_pipelines.recordings.settling import QUIET_SECONDS_LIMIT

_TICK_SECONDS = 20.0
_PATIENCE_SECONDS = 10.0
_HANGING_LOOKS = 2
_LOOKS_AGAIN = 200


def nas_sensor(source_name: str, profile: Profile, *, tick_seconds: float = _TICK_SECONDS) -> dg.SensorDefinition:
    """The sensor of one source of the profile. On `local` it runs from the start, elsewhere once it is turned on.

    A tick looks at directories for `tick_seconds`, at one at least. It ends well before the minute that Dagster
    allows, also if the source hangs.
    """
    is_local = profile.family == "local"
    asset = arrival_asset(source_name)
    reported, patience = Reported(asset), Patience(a_round=_HANGING_LOOKS)

    @dg.sensor(
        name=f"{source_name}_sensor",
        minimum_interval_seconds=5 if is_local else 30,
        default_status=dg.DefaultSensorStatus.RUNNING if is_local else dg.DefaultSensorStatus.STOPPED,
        tags={"ursa/source": source_name},
        description=f"Looks for recording directories on the source {source_name} and reports those that have "
        "settled, and again when they have changed. Click a tick's result to read what waits, and why. Launches "
        "nothing. A tick fails while the source is not mounted or does not answer.",
    )
    def _sensor(context: dg.SensorEvaluationContext, ursa: UrsaResource):
        data = ursa.data()
        require_profile(context.instance, data.profile)
        if is_local:
            ensure_local_sources(data.sources)
        source = next(one for one in data.sources if one.name == source_name)
        settings = data.profile.settings
        drive = _Drive(source, settings, patience, tick_seconds)
        known = reported.rec_ids(context.instance)
        return Round(
            context.instance,
            asset,
            reported,
            Rules(tick_seconds, settings.wait_at_most, _settles_within(settings), _LOOKS_AGAIN),
            Cursor.parse(context.cursor),
            drive.recordings(known),
            drive.look,
            lambda rec_id: {"directory": dg.MetadataValue.path(str(source.root / rec_id))},
        ).result()

    return _sensor


class _Drive:
    """A source during one tick. What hangs is given up."""

    def __init__(self, source: Source, settings: IngestSettings, patience: Patience, tick_seconds: float) -> None:
        self._source, self._settings, self._patience = source, settings, patience
        self._seconds = min(_PATIENCE_SECONDS, settings.read_timeout)
        self._at_most = max(tick_seconds, self._seconds)

    def recordings(self, known: set[str]) -> list[str]:
        """Raises `SourceUnavailable` if the source is not there, is empty, or hangs."""
        self._patience.begin()
        return self._patience.call(
            str(self._source.root),
            self._seconds,
            self._at_most,
            lambda gets_on: list_recordings(self._source, known=known, gets_on=gets_on),
        )

    def look(self, rec_id: str, previous: Arrival | None, version: str | None) -> Arrival | None:
        """See `rounds.Look`. A directory that hangs waits; after two of them no other is looked at."""
        directory, now = self._source.root / rec_id, time.time()
        try:
            found = self._patience.call(
                str(directory),
                self._seconds,
                self._at_most,
                lambda gets_on: look_at(
                    directory,
                    previous,
                    now=now,
                    quiet_period=self._settings.quiet_period,
                    reconstruct_after=self._settings.reconstruct_after,
                    gets_on=gets_on,
                ),
            )
        except SourceHangs:
            raise
        except SourceUnavailable as error:
            found = unread(f"the drive gave nothing: {error.problem}", previous, now=now)
        # What is known has changed only if that could be read.
        return None if version is not None and found.fingerprint in {version, UNREAD} else found


def _settles_within(settings: IngestSettings) -> float:
    return max(settings.quiet_period, settings.reconstruct_after, QUIET_SECONDS_LIMIT)

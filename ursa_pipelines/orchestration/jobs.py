"""Jobs beside the ingest: registering what only the bucket has, and looking again at what is stored.

All of them read and write through the same functions as the asset `recording`, and tell what they found on its
partitions.
"""

import hashlib
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial

import dagster as dg
from pydantic import Field

from ursa_pipelines.errors import ManifestNotFound, UploadInterrupted
from ursa_pipelines.ingest.batch import Batch, fold_if_many
from ursa_pipelines.ingest.results_shown import some_shown
from ursa_pipelines.ingest.verify import verify_many
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.orchestration.checks import OBJECTS, ROWS, Looked, problems_of
from ursa_pipelines.orchestration.ops import look_at, put_verdicts, told
from ursa_pipelines.orchestration.partitions import RECORDING, add_partitions, recordings
from ursa_pipelines.orchestration.resources import UrsaResource, require_profile
from ursa_pipelines.orchestration.telling import Progress, materialization
from ursa_pipelines.profiles import Profile

REGISTER_ONLY_JOB, VERIFY_JOB, SCRUB_JOB = "register_only", "verify", "scrub"

_RECORDINGS_AT_A_TIME = 32
_DAYS_OF_A_WEEK = 7


class RecordingsConfig(dg.Config):
    """Which recordings a run takes."""

    recordings: list[str] = Field(
        default=[],
        description="Ids of recordings to take in this one run, if no partition is chosen. A backfill over partitions "
        "makes a run for each of them.",
    )


class RegisterConfig(RecordingsConfig):
    """Settings of `register_only`."""

    overwrite: bool = Field(default=False, description="Replace the catalog's rows by what the bucket's manifests say.")


class VerifyConfig(RecordingsConfig):
    """Settings of `verify`."""

    deep: bool = Field(
        default=False,
        description="Read every byte and compare its SHA-256, not just sizes. What is found sound is noted in the row.",
    )


class ScrubConfig(dg.Config):
    """Settings of `scrub`."""

    rotation_days: int = Field(default=90, ge=1, description="After so many days every recording has been read once.")
    days_at_once: int = Field(
        default=1, ge=1, description="How many days of the rotation this run takes: 7 if it runs once a week."
    )
    minutes: float = Field(
        default=240,
        gt=0,
        description="When this time is up the run ends; what it did not come to is told, and comes earlier next time.",
    )


def jobs() -> list[dg.JobDefinition]:
    """The jobs beside the ingest, for the same partitions."""
    return [_register_only, _verify, _scrub]


def scrub_schedule(profile: Profile) -> dg.ScheduleDefinition:
    """Once a week, a week's share of the rotation; off until somebody turns it on, for it reads a lot."""
    return dg.ScheduleDefinition(
        name="scrub_weekly",
        job=_scrub,
        cron_schedule="0 3 * * 6",
        run_config={"ops": {"read_again": {"config": {"days_at_once": _DAYS_OF_A_WEEK}}}},
        default_status=dg.DefaultScheduleStatus.STOPPED,
        tags={"ursa/trigger": "schedule", "ursa/profile": profile.name},
        description="Reads a week's share of all recordings again, byte by byte, on Saturday at 03:00.",
    )


@dg.op(out=dg.Out(dg.Nothing), pool="catalog", description="Registers recordings by what the bucket has of them.")
def register_from_bucket(context: dg.OpExecutionContext, config: RegisterConfig, ursa: UrsaResource) -> None:
    data = _open(context, ursa, may_write=True)
    bucket = data.profile.buckets.raw
    batch = Batch(
        data.ingest_context(raw_role="raw_ro"),
        lambda rec_id: (),
        overwrite=config.overwrite,
        allow_reconstruction=_never_reconstruct,
        on_progress=Progress(context).tell,
        on_registered=lambda item: context.log_event(materialization(item, bucket)),
    )
    items = batch.run_all(_chosen(context, config))
    fold_if_many(batch.context)
    registered = [item.rec_id for item in items if item.status == "OK"]
    # Of those that were named by their ids; without a partition nobody would see them.
    add_partitions(context.instance, registered)
    look_at(context, ursa, registered)
    for event in told(context, items):
        context.log_event(event)


@dg.op(out=dg.Out(dg.Nothing), description="Compares rows, manifests and objects of recordings.")
def compare(context: dg.OpExecutionContext, config: VerifyConfig, ursa: UrsaResource) -> None:
    data = _open(context, ursa, may_write=config.deep)
    ingest = data.ingest_context(raw_role="raw_ro") if config.deep else data.reading_context
    looked = verify_many(ingest, _chosen(context, config), deep=config.deep, record=config.deep)
    put_verdicts(context, looked)
    _tell_found(context, looked, not_reached=[])


@dg.op(out=dg.Out(dg.Nothing), description="Reads the recordings whose turn it is, byte by byte, until time is up.")
def read_again(context: dg.OpExecutionContext, config: ScrubConfig, ursa: UrsaResource) -> None:
    data = _open(context, ursa, may_write=True)
    deadline = time.monotonic() + config.minutes * 60
    today = datetime.now(UTC).date().toordinal()
    due = in_turn(_registered(data), today, config.rotation_days, config.days_at_once)
    verify_some = partial(
        verify_many,
        data.ingest_context(raw_role="raw_ro"),
        deep=True,
        record=True,
        should_stop=lambda: time.monotonic() >= deadline,
    )
    found: Looked = {}
    for start in range(0, len(due), _RECORDINGS_AT_A_TIME):
        some = verify_some(due[start : start + _RECORDINGS_AT_A_TIME])
        reached = {rec_id: one for rec_id, one in some.items() if not isinstance(one, UploadInterrupted)}
        put_verdicts(context, reached)
        found = {**found, **reached}
        if len(reached) < len(some):
            break
        context.log.info("%d of %d recordings read", start + len(some), len(due))
    _tell_found(context, found, not_reached=[rec_id for rec_id in due if rec_id not in found])


def in_turn(registered: Iterable[tuple[str, str]], today: int, rotation_days: int, days_at_once: int = 1) -> list[str]:
    """The rec_ids whose hash falls on today, or on one of the days before it that are taken at once.

    `registered` are pairs of hash and rec_id, `today` is a day's ordinal. The order differs from rotation to rotation,
    so that a run that never comes to the end does not leave out the same ones each time.
    """
    days = {(today - back) % rotation_days for back in range(min(days_at_once, rotation_days))}
    rotation = today // rotation_days

    def turn(recording_hash: str) -> str:
        return hashlib.sha256(f"{rotation} {recording_hash}".encode()).hexdigest()

    due = [(turn(one), rec_id) for one, rec_id in registered if int(one[:15], 16) % rotation_days in days]
    return [rec_id for _, rec_id in sorted(due)]


@dg.job(
    name=REGISTER_ONLY_JOB,
    partitions_def=recordings,
    description="Registers recordings whose bytes and manifest a rig has put into the bucket (Path B). Only the bucket "
    "is looked at: nothing is uploaded, and no manifest is made.",
)
def _register_only():
    register_from_bucket()


@dg.job(
    name=VERIFY_JOB,
    partitions_def=recordings,
    description="Compares the catalog's rows, the manifests and the objects of recordings; changes none of them. "
    "Fails, naming the recordings that have problems.",
)
def _verify():
    compare()


@dg.job(
    name=SCRUB_JOB,
    description="Reads the recordings whose turn it is today, byte by byte, so that within the rotation every stored "
    "byte has been compared with its SHA-256.",
)
def _scrub():
    read_again()


def _never_reconstruct(rec_id: str) -> None:
    raise ManifestNotFound("it has no manifest that lists files", recording=rec_id)


def _open(context: dg.OpExecutionContext, ursa: UrsaResource, *, may_write: bool) -> DataInterface:
    data = ursa.data(run_id=context.run_id)
    require_profile(context.instance, data.profile)
    if may_write:
        data.enable_writes(roles=("assets_rw",))
    return data


def _chosen(context: dg.OpExecutionContext, config: RecordingsConfig) -> Sequence[str]:
    if config.recordings:
        return list(dict.fromkeys(config.recordings))
    if context.has_partition_key:
        return [context.partition_key]
    raise dg.Failure("No recording was chosen. Choose a partition, or name ids in the setting `recordings`.")


def _registered(data: DataInterface) -> Iterable[tuple[str, str]]:
    for batch in data.scan("recordings", None, ["recording_hash", "rec_id"]):
        for row in batch.to_pylist():
            if row["rec_id"]:
                yield row["recording_hash"], row["rec_id"]


def _tell_found(context: dg.OpExecutionContext, looked: Looked, not_reached: Sequence[str]) -> None:
    problems = {rec_id: problems_of(ROWS, one) + problems_of(OBJECTS, one) for rec_id, one in looked.items()}
    wrong = {rec_id: list(dict.fromkeys(some)) for rec_id, some in problems.items() if some}
    shown = dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "recording": rec_id,
                    "level": getattr(one, "level", ""),
                    "files": getattr(one, "files", 0),
                    "bytes": getattr(one, "bytes", 0),
                    "problems": "; ".join(wrong.get(rec_id, [])),
                }
            )
            for rec_id, one in looked.items()
        ],
        schema=dg.TableSchema(
            [
                dg.TableColumn("recording", "string"),
                dg.TableColumn("level", "string"),
                dg.TableColumn("files", "int"),
                dg.TableColumn("bytes", "int"),
                dg.TableColumn("problems", "string"),
            ]
        ),
    )
    counts = {"recordings": len(looked), "with_problems": len(wrong), "not_reached": len(not_reached)}
    context.log_event(
        dg.AssetObservation(asset_key=RECORDING, description="Looked at again", metadata={**counts, "found": shown})
    )
    if wrong:
        raise dg.Failure(
            "\n".join(f"{rec_id}: {some_shown(some).removeprefix(f'{rec_id}: ')}" for rec_id, some in wrong.items()),
            metadata={**counts, "found": shown},
            allow_retries=False,
        )

"""The scrub in Dagster: what `maintenance.scrub` finds is quarantined, sent again and told (`scrub_failures`), by the
job and its schedule, and by `ursa scrub` in the same way.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import dagster as dg
from pydantic import ByteSize, Field, TypeAdapter, ValidationError

from ursa_pipelines.errors import Retryable, UrsaError
from ursa_pipelines.ingest.results_shown import some_shown
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.maintenance.scrub.ledger import Amount
from ursa_pipelines.maintenance.scrub.run import Scrub
from ursa_pipelines.orchestration import notices
from ursa_pipelines.orchestration.partitions import RECORDING
from ursa_pipelines.orchestration.resources import UrsaResource, require_profile
from ursa_pipelines.orchestration.scrub_failures import Event, Handled, handle_failure, lift_if_sound, read_again_of
from ursa_pipelines.orchestration.sites import sources_at
from ursa_pipelines.orchestration.states import Mark
from ursa_pipelines.profiles import Profile

SCRUB_JOB = "scrub"

TOLD_AT_MOST = 1_000
"""Sound recordings of a run that are told of on their partitions; the ledger has all of them. Every event is read
again by each reconciliation.
"""

_SHOWN = 200
_LOGGED_EVERY_SECONDS = 60.0
_DAY = 86_400.0


class ScrubConfig(dg.Config):
    """Settings of `scrub`; what is not set is as the profile has it."""

    bytes_per_day: str | None = Field(
        default=None, description="How much may be read in a day (UTC), all runs together, such as 50GB."
    )
    requests_per_day: int | None = Field(default=None, gt=0, description="How many requests that may take.")
    rest_days: float | None = Field(
        default=None, ge=0, description="What was read within so many days is not due; 0: everything is."
    )
    minutes: float = Field(
        default=1_320,
        gt=0,
        description="When this time is up the run ends; the next one goes on where it was.",
    )


@dataclass
class Told:
    """What a run comes to; `shown` are the worst, and then the first."""

    counts: Counter[str] = field(default_factory=Counter)
    new: list[Mark] = field(default_factory=list)
    shown: list[Handled] = field(default_factory=list)

    def add(self, handled: Handled) -> None:
        self.counts[handled.outcome] += 1
        if handled.mark is not None and not handled.is_mended:
            self.new.append(handled.mark)
        if handled.outcome != "sound" or len(self.shown) < _SHOWN:
            self.shown.append(handled)


def make_scrub(
    data: DataInterface,
    run: str,
    *,
    bytes_per_day: int | None = None,
    requests_per_day: int | None = None,
    rest_days: float | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    only_look: bool = False,
) -> Scrub:
    """A scrub by the profile's settings, or by those given. With `only_look` it is good for a preview alone."""
    settings = data.profile.scrub
    return Scrub(
        data.reading_context if only_look else data.ingest_context(raw_role="raw_ro"),
        run,
        Amount(bytes_per_day or settings.bytes_per_day, requests_per_day or settings.requests_per_day),
        settings.rest_days if rest_days is None else rest_days,
        should_stop,
    )


def size_of(text: str) -> int:
    """The bytes that a text such as `50GB` means. Raises `ValueError`."""
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        size = 0
    if size <= 0:
        raise ValueError(f"{text!r} is no size such as 50GB")
    return size


def run_scrub(
    scrub: Scrub,
    data: DataInterface,
    instance: dg.DagsterInstance,
    sources: Sequence[Source],
    tell: Callable[[Event], None],
) -> Generator[Handled, None, None]:
    """Reads, quarantines, sends again, and tells of each recording by `tell`; yields what came of it.

    To be closed, as by `contextlib.closing`. Raises what `Scrub.findings` raises.
    """
    quiet = 0
    with closing(scrub.findings()) as findings:
        for finding in findings:
            if finding.outcome == "failed":
                handled = handle_failure(scrub, finding, data, instance, sources, tell)
            else:
                handled = Handled(finding, lifted=lift_if_sound(finding, scrub, instance, tell))
                is_in_turn = finding.outcome == "sound" and finding.due.among is None
                if is_in_turn and not scrub.is_unsound(finding.rec_id) and quiet < TOLD_AT_MOST:
                    quiet += 1
                    tell(read_again_of(finding))
            yield handled


def teller_without_a_run(instance: dg.DagsterInstance) -> Callable[[Event], None]:
    """Reports events outside of any run. Dagster keeps one verdict of a check on a partition for all that is reported
    outside of runs, and refuses a second one: the quarantine tells what the verdict would.
    """

    def tell(event: Event) -> None:
        if not isinstance(event, dg.AssetCheckEvaluation):
            instance.report_runless_asset_event(event)

    return tell


@dg.op(
    out=dg.Out(dg.Nothing),
    description="Reads what was verified longest ago, byte by byte, within the day's budget; quarantines what is not "
    "right, and sends missing objects again from a source whose copy is good.",
)
def read_again(context: dg.OpExecutionContext, config: ScrubConfig, ursa: UrsaResource) -> None:
    data = ursa.data(run_id=context.run_id)
    require_profile(context.instance, data.profile)
    data.enable_writes(roles=("assets_rw",))
    deadline = time.monotonic() + config.minutes * 60
    try:
        size = size_of(config.bytes_per_day) if config.bytes_per_day else None
    except ValueError as error:
        raise dg.Failure(f"bytes_per_day: {error}", allow_retries=False) from None
    scrub = make_scrub(
        data,
        context.run_id,
        bytes_per_day=size,
        requests_per_day=config.requests_per_day,
        rest_days=config.rest_days,
        should_stop=lambda: time.monotonic() >= deadline,
    )
    told = Told()
    logged = time.monotonic()
    try:
        with closing(
            run_scrub(scrub, data, context.instance, sources_at(data.sources, context.run.tags), _teller(context))
        ) as handled:
            for one in handled:
                told.add(one)
                if one.outcome != "sound":
                    context.log.info("%s: %s %s", one.finding.rec_id, one.outcome, some_shown(one.finding.problems))
                if time.monotonic() - logged > _LOGGED_EVERY_SECONDS:
                    logged = time.monotonic()
                    context.log.info("%d recordings, %s bytes", sum(told.counts.values()), f"{scrub.spent.bytes:,}")
    except UrsaError as error:
        raise dg.Failure(str(error), allow_retries=isinstance(error, Retryable)) from error
    finally:
        notices.quarantine(data, told.new)
    metadata = metadata_of(scrub, told)
    context.log_event(dg.AssetObservation(asset_key=RECORDING, description="Read again", metadata=metadata))
    if told.new:
        raise dg.Failure(
            "\n".join(f"{mark.rec_id}: {mark.reason}" for mark in told.new), metadata=metadata, allow_retries=False
        )


def metadata_of(scrub: Scrub, told: Told) -> dict[str, dg.MetadataValue]:
    """What a run shows of itself."""
    value = dg.MetadataValue
    counts = told.counts
    ages = {"oldest_days_before": scrub.oldest_before, "oldest_days_after": scrub.oldest_after}
    return {
        "recordings": value.int(counts["sound"] + counts["failed"] + counts["mended"]),
        "bytes": value.int(scrub.spent.bytes),
        "requests": value.int(scrub.spent.requests),
        "with_problems": value.int(counts["failed"] + counts["mended"]),
        "mended": value.int(counts["mended"]),
        "read_in_part": value.int(counts["part"]),
        "left_for_later": value.int(counts["unread"] + counts["settling"]),
        **{name: value.float(round((scrub.now() - at) / _DAY, 2)) for name, at in ages.items() if at is not None},
        "ended": value.text(scrub.ended),
        "found": _table(sorted(told.shown, key=lambda one: one.outcome == "sound")[:_SHOWN]),
    }


def scrub_schedule(profile: Profile) -> dg.ScheduleDefinition:
    """Once a day; off until somebody turns it on, for it reads a lot, and the line is the lab's."""
    return dg.ScheduleDefinition(
        name="scrub",
        job=scrub_job,
        cron_schedule="0 3 * * *",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        tags={"ursa/trigger": "schedule", "ursa/profile": profile.name},
        description="Reads what was verified longest ago again, as much as the profile allows in a day, from 03:00.",
    )


@dg.job(
    name=SCRUB_JOB,
    tags={"ursa/alone": "scrub"},
    description="Reads stored recordings again, what was verified longest ago first, within the day's budget of bytes "
    "and requests, and compares every byte with its SHA-256.",
)
def scrub_job():
    read_again()


def _teller(context: dg.OpExecutionContext) -> Callable[[Event], None]:
    # It takes check evaluations, too; its type was forgotten.
    return lambda event: context.log_event(event)  # type: ignore[arg-type]


def _table(shown: Sequence[Handled]) -> dg.TableMetadataValue:
    columns = {"recording": "string", "outcome": "string", "files": "int", "bytes": "int", "problems": "string"}
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "recording": one.finding.rec_id,
                    "outcome": one.outcome,
                    "files": one.finding.found.files if one.finding.found else 0,
                    "bytes": one.finding.cost.bytes,
                    "problems": _problems(one),
                }
            )
            for one in shown
        ],
        schema=dg.TableSchema([dg.TableColumn(name, kind) for name, kind in columns.items()]),
    )


def _problems(one: Handled) -> str:
    finding = one.finding
    told = [*finding.problems, *finding.remarks, *(copy.told for copy in one.copies)]
    if finding.outcome == "unread" and finding.error is not None:
        told.append(finding.error.told)
    return some_shown(told)

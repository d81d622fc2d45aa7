"""When people are told: once before a large ingest, once after it ended, and of what is stuck."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import dagster as dg
import pytest
import yaml

from tests.lab import Lab
from tests.webhook import SECRET, Webhook
from ursa_pipelines.errors import ContentMismatch
from ursa_pipelines.ingest.batch import BatchItem
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.orchestration import notices
from ursa_pipelines.orchestration.partitions import RECORDING, arrival_asset, recordings
from ursa_pipelines.orchestration.resources import UrsaResource
from ursa_pipelines.orchestration.states import Mark
from ursa_pipelines.profiles import load_profile

RECS = [f"rec_20260520_1956{number:02d}_b1dd" for number in range(20)]
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
FAILED = Mark("", "failed", f"its digest differs. {ContentMismatch.remedy}", "ContentMismatch")

InOp = Callable[[dg.OpExecutionContext, str], None]


class Config(dg.Config):
    dry_run: bool = False


@pytest.fixture(autouse=True)
def no_secret_in_a_log(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever a test does, the URL's secret part is in no log of any level and on no stream."""
    caplog.set_level(logging.DEBUG)
    yield
    assert "xsecretx" not in caplog.text
    assert "xsecretx" not in "".join(capfd.readouterr())


@pytest.fixture
def config(lab: Lab, webhook: Webhook) -> Path:
    """The lab's profile with a webhook and a cap of 1 MB/s."""
    return configured(lab, webhook.url)


def configured(lab: Lab, url: str) -> Path:
    profile = yaml.safe_load(lab.config.read_text())
    profile["notifications"] = {"webhook": url}
    profile.setdefault("settings", {})["bandwidth"] = "1MB/s"
    config = lab.config.with_name("with_webhook.yaml")
    config.write_text(yaml.safe_dump(profile))
    return config


def going(rec_ids: Sequence[str]) -> list[BatchItem]:
    return [BatchItem(rec_id, path="A", directories=1, files=3, bytes=60_000_000) for rec_id in rec_ids]


def run(
    instance: dg.DagsterInstance,
    rec_ids: Sequence[str],
    in_op: InOp,
    tags: Mapping[str, str] | None = None,
    *,
    dry_run: bool = False,
) -> dg.ExecuteInProcessResult:
    """A run of `ingest` over these recordings, contiguous, that does `in_op(context, rec_id)` for each."""
    instance.add_dynamic_partitions("recordings", RECS)

    @dg.asset(key=RECORDING, partitions_def=recordings, output_required=False)
    def recording(context: dg.AssetExecutionContext, config: Config):
        for rec_id in context.partition_keys:
            in_op(context.op_execution_context, rec_id)
        return
        yield

    job = dg.define_asset_job("ingest", selection=[recording])
    definitions = dg.Definitions(assets=[recording], jobs=[job], executor=dg.in_process_executor)
    return definitions.resolve_job_def("ingest").execute_in_process(
        instance=instance,
        run_config={**QUIET, "ops": {"recording": {"config": {"dry_run": dry_run}}}},
        raise_on_error=False,
        tags={
            "dagster/asset_partition_range_start": rec_ids[0],
            "dagster/asset_partition_range_end": rec_ids[-1],
            **(tags or {}),
        },
    )


def registers(context: dg.OpExecutionContext, rec_id: str) -> None:
    context.log_event(dg.AssetMaterialization(RECORDING, partition=rec_id, metadata={"outcome": "created"}))


def fails(*rec_ids: str) -> InOp:
    """Registers all but these."""

    def in_op(context: dg.OpExecutionContext, rec_id: str) -> None:
        if rec_id in rec_ids:
            context.log_event(Mark(rec_id, "failed", FAILED.reason, FAILED.error_type).observation())
        else:
            registers(context, rec_id)

    return in_op


def announces(config: Path, items: Sequence[BatchItem], told: list[bool]) -> InOp:
    """Calls `begin` once in the run, as `discover` does."""

    def in_op(context: dg.OpExecutionContext, rec_id: str) -> None:
        if rec_id == items[0].rec_id:
            told.append(notices.begin(context, DataInterface(None, config_path=config), items))

    return in_op


def tick(instance: dg.DagsterInstance, config: Path, cursor: str | None = None, quiet: float = 0) -> str:
    """One tick of the sensor; its cursor."""
    (sensor,) = notices.notices_sensors(load_profile(None, config), {"ingest"}, quiet_seconds=quiet)
    resources = {"ursa": UrsaResource(config_path=str(config))}
    with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources) as context:
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    assert not result.run_requests
    assert result.cursor
    return result.cursor


def test_a_large_ingest_is_announced_with_its_sources_and_its_end(
    config: Path, webhook: Webhook, instance: dg.DagsterInstance
):
    instance.report_runless_asset_event(dg.AssetMaterialization(arrival_asset("usb"), partition=RECS[3]))
    told: list[bool] = []

    run(instance, RECS[:10], announces(config, going(RECS[:10]), told), {"ursa/by": "lab@rig-7"})

    assert told == [True]
    (text,) = webhook.texts
    assert text.startswith("*Ingest begins* (lab): 10 recordings, 600.0MB, from usb\nIt runs as lab on rig-7.\n")
    assert "Uploads go at 1.0MB/s, so until about " in text


def test_a_small_ingest_is_not_announced(config: Path, webhook: Webhook, instance: dg.DagsterInstance):
    told: list[bool] = []

    run(instance, RECS[:4], announces(config, going(RECS[:4]), told))

    assert told == [False]
    assert webhook.bodies == []


def test_recordings_that_failed_at_once_or_wait_do_not_make_an_ingest_large(
    config: Path, webhook: Webhook, instance: dg.DagsterInstance
):
    items = [*going(RECS[:4]), BatchItem(RECS[4], state="failed"), BatchItem(RECS[5], state="waiting")]
    told: list[bool] = []

    run(instance, RECS[:6], announces(config, items, told))

    assert told == [False]


def test_a_backfill_of_several_runs_is_announced_once_and_whole(
    config: Path, webhook: Webhook, instance: dg.DagsterInstance
):
    tags = {"dagster/backfill": "abcdefgh"}
    first: list[bool] = []
    second: list[bool] = []

    def in_first(context: dg.OpExecutionContext, rec_id: str) -> None:
        if rec_id == RECS[0]:
            run(instance, RECS[4:8], announces(config, going(RECS[4:8]), second), tags)
        announces(config, going(RECS[:4]), first)(context, rec_id)

    run(instance, RECS[:4], in_first, tags)

    assert (first, second) == ([True], [False])
    (text,) = webhook.texts
    assert "8 recordings, the first 4 of them 240.0MB" in text


def test_a_webhook_that_is_away_fails_no_run(lab: Lab, instance: dg.DagsterInstance):
    told: list[bool] = []

    result = run(
        instance, RECS[:10], announces(configured(lab, f"http://127.0.0.1:9/{SECRET}"), going(RECS[:10]), told)
    )

    assert result.success
    assert told == [False]


def test_without_a_webhook_there_is_no_sensor_and_no_look_at_the_instance(lab: Lab):
    data = DataInterface(None, config_path=lab.config)

    assert notices.notices_sensors(data.profile, {"ingest"}) == []
    assert not notices.begin(None, data, going(RECS))  # type: ignore[arg-type]
    assert not notices.quarantine(data, [Mark(RECS[0], "quarantined")])
    assert not notices.stale(data, {"nas": "it is not mounted"}, {})


def test_an_ended_backfill_is_told_of_once_with_its_failures_by_cause(
    config: Path, webhook: Webhook, instance: dg.DagsterInstance
):
    cursor = tick(instance, config)
    tags = {"dagster/backfill": "abcdefgh"}
    run(instance, RECS[:4], fails(RECS[1]), tags)
    run(instance, RECS[4:8], fails(RECS[5]), tags)

    cursor = tick(instance, config, cursor)
    tick(instance, config, cursor)

    (text,) = webhook.texts
    assert text.startswith("*Ingest ended* (lab) in 2 runs: 6 registered, *2 failed*\n")
    assert f"*ContentMismatch* (2): `{RECS[1]}`, `{RECS[5]}`" in text
    assert ContentMismatch.remedy in text


def test_a_backfill_is_not_told_of_while_more_runs_may_come(
    config: Path, webhook: Webhook, instance: dg.DagsterInstance
):
    cursor = tick(instance, config)
    tags = {"dagster/backfill": "abcdefgh"}
    during: list[str] = []
    run(instance, RECS[:4], registers, tags)
    cursor = tick(instance, config, cursor, quiet=60)
    assert webhook.bodies == []

    def looked_at_meanwhile(context: dg.OpExecutionContext, rec_id: str) -> None:
        registers(context, rec_id)
        if rec_id == RECS[4]:
            during.append(tick(instance, config, cursor))

    run(instance, RECS[4:8], looked_at_meanwhile, tags)
    assert webhook.bodies == []

    tick(instance, config, during[0])

    assert webhook.texts == ["*Ingest ended* (lab) in 2 runs: 8 registered"]


def test_single_runs_that_ended_meanwhile_share_a_notice(config: Path, webhook: Webhook, instance: dg.DagsterInstance):
    cursor = tick(instance, config)
    run(instance, RECS[:1], fails(RECS[0]))
    run(instance, RECS[1:2], fails(RECS[1]))

    tick(instance, config, cursor)

    (text,) = webhook.texts
    assert f"*ContentMismatch* (2): `{RECS[0]}`, `{RECS[1]}`" in text


def test_a_small_ingest_that_went_well_is_no_news(config: Path, webhook: Webhook, instance: dg.DagsterInstance):
    cursor = tick(instance, config)
    run(instance, RECS[:4], registers)

    tick(instance, config, cursor)

    assert webhook.bodies == []


def test_what_ended_before_the_first_look_is_no_news(config: Path, webhook: Webhook, instance: dg.DagsterInstance):
    run(instance, RECS[:4], fails(RECS[0]))

    tick(instance, config, tick(instance, config))

    assert webhook.bodies == []


def test_a_run_that_broke_off_is_told_of_with_what_it_left_undone(
    config: Path, webhook: Webhook, instance: dg.DagsterInstance
):
    def breaks_off(context: dg.OpExecutionContext, rec_id: str) -> None:
        if rec_id == RECS[2]:
            raise RuntimeError("killed")
        registers(context, rec_id)

    cursor = tick(instance, config)
    run(instance, RECS[:4], breaks_off)

    tick(instance, config, cursor)

    assert webhook.texts[0].startswith("*Ingest ended* (lab): 2 registered, 2 not done ")


def test_recordings_registered_long_ago_are_not_counted_again(
    config: Path, webhook: Webhook, instance: dg.DagsterInstance
):
    run(instance, RECS[:4], registers)
    cursor = tick(instance, config)

    def does_nothing(context: dg.OpExecutionContext, rec_id: str) -> None:
        """As a run that was cancelled before its first recording."""

    run(instance, RECS[:4], does_nothing)
    tick(instance, config, cursor)

    assert "0 registered, 4 not done" in webhook.texts[0]


def test_a_dry_run_is_no_news(config: Path, webhook: Webhook, instance: dg.DagsterInstance):
    cursor = tick(instance, config)
    run(instance, RECS[:8], lambda context, rec_id: None, dry_run=True)

    tick(instance, config, cursor)

    assert webhook.bodies == []


def test_quarantine_is_told_of(config: Path, webhook: Webhook):
    marks = [Mark(RECS[0], "quarantined", FAILED.reason, FAILED.error_type), Mark(RECS[1], "waiting", "copying")]

    assert notices.quarantine(DataInterface(None, config_path=config), marks)

    (text,) = webhook.texts
    assert RECS[0] in text
    assert RECS[1] not in text


def test_sources_that_are_away_and_recordings_that_wait_too_long_are_told_of(config: Path, webhook: Webhook):
    data = DataInterface(None, config_path=config)

    assert not notices.stale(data, {}, {RECS[0]: 23.9})
    assert notices.stale(data, {"usb": "it is not mounted"}, {RECS[0]: 23.9, RECS[1]: 24.1})

    (text,) = webhook.texts
    assert "*usb* cannot be read: it is not mounted" in text
    assert RECS[1] in text
    assert RECS[0] not in text

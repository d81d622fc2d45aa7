"""What a Prometheus is told after real ingests, on a Dagster instance on disk and a real store."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Collection, Iterator

import dagster as dg
import pytest
import yaml
from dagster._daemon.types import DaemonHeartbeat
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from tests.lab import Lab
from tests.orchestration.launch import launch
from tests.recordings_on_disk import write_recording
from ursa_pipelines.errors import StoreUnavailable
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.objects.keys import upload_record_key
from ursa_pipelines.orchestration.definitions import build_definitions
from ursa_pipelines.orchestration.metrics import ledger as module
from ursa_pipelines.orchestration.metrics import readings as reading
from ursa_pipelines.orchestration.metrics.exporter import Exporter
from ursa_pipelines.orchestration.metrics.ledger import JOBS, OUTCOMES, REASONS, Ledger
from ursa_pipelines.orchestration.metrics.readings import FINDINGS, Readings
from ursa_pipelines.orchestration.reconciliation import reconciliation
from ursa_pipelines.orchestration.report_data import STATES
from ursa_pipelines.orchestration.resources import UrsaResource
from ursa_pipelines.orchestration.states import Mark

GOOD, BAD, LATE, OTHER = (f"rec_20260520_19562{digit}_b1dd" for digit in "1234")
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10}
SIZE = sum(map(len, FILES.values())) + len(GOOD)
NOON = 1_780_000_000.0
NAME = "Zzyxa Quuxbane"


def files_of(rec_id: str) -> dict[str, bytes]:
    """Of `SIZE` bytes in all, and no two recordings the same."""
    return {**FILES, "notes/notes.jsonl": rec_id.encode()}


Told = dict[tuple[str, ...], float]


def make_exporter(instance: dg.DagsterInstance, lab: Lab) -> Exporter:
    """As a process of its own has it."""
    return Exporter("lab", Readings(instance, lab.interface(writes=False)))


def text_of(exporter: Exporter) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(exporter)
    return generate_latest(registry).decode()


def told_by(exporter: Exporter) -> Told:
    """Values by name and labels' values, as a Prometheus parses them."""
    families = text_string_to_metric_families(text_of(exporter))
    return {
        (sample.name, *map(str, sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def read(instance: dg.DagsterInstance, lab: Lab) -> Told:
    exporter = make_exporter(instance, lab)
    exporter.read_once(60.0)
    return told_by(exporter)


def failed(rec_id: str, error_type: str) -> dg.AssetObservation:
    return Mark(rec_id, "failed", "it hangs", error_type).observation()


@pytest.fixture
def told_of(instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """An instance in memory with the events of one recording that was told_of, and of one that failed."""
    instance.add_dynamic_partitions("recordings", [GOOD, BAD])
    sent: dict[str, str | int] = {"outcome": "created", "bytes_uploaded": SIZE}
    instance.report_runless_asset_event(dg.AssetMaterialization("recording", partition=GOOD, metadata=sent))
    instance.report_runless_asset_event(failed(BAD, "ContentMismatch"))
    return instance


def test_what_ingests_came_to_is_told_and_counted_on_and_is_the_same_after_a_restart(
    lab: Lab, stored_instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    write_recording(lab.nas, GOOD, files_of(GOOD), participant=NAME)
    damaged = write_recording(lab.nas, BAD, files_of(BAD), participant=NAME)
    (damaged / "mic/seg_0000.wav").write_bytes(b"noise" * 10)
    write_recording(lab.nas, BAD, {}, manifest=False)
    launch(lab.config, stored_instance, GOOD, BAD)
    write_recording(lab.usb, LATE, files_of(LATE))
    stored_instance.add_dynamic_partitions("recordings", [LATE])
    stored_instance.add_daemon_heartbeat(DaemonHeartbeat(NOON, "SENSOR", "one", None))
    stored_instance.add_daemon_heartbeat(DaemonHeartbeat(NOON, "NOT_REQUIRED", "one", None))
    exporter = make_exporter(stored_instance, lab)

    exporter.read_once(60.0)
    told = told_by(exporter)
    launch(lab.config, stored_instance, LATE)
    exporter.read_once(60.0)
    later = told_by(exporter)
    exporter.read_once(60.0)

    assert [told["ursa_up", part, "lab"] for part in ("dagster", "recordings", "store", "sources")] == [1, 1, 1, 1]
    states = {state: told["ursa_recordings", state] for state in STATES}
    assert {state: count for state, count in states.items() if count} == {"registered": 1, "failed": 1, "waiting": 1}
    assert told["ursa_uploaded_bytes_total",] == SIZE
    assert told["ursa_ingested_recordings_total", "created"] == 1
    assert told["ursa_ingest_failures_total", "ContentMismatch"] == 1
    assert told["ursa_run_seconds_count", "ingest", "failure"] == 1
    assert told["ursa_run_seconds_sum", "ingest", "failure"] > 0
    assert told["ursa_run_seconds_bucket", "ingest", "+Inf", "failure"] == 1
    assert told["ursa_backlog_oldest_seconds",] > 24 * 3600
    assert told["ursa_catalog_tail_entries",] >= 1
    assert told["ursa_unfinished_uploads",] == 0
    assert told["ursa_source_available", "nas"] == 1
    beats = {name[1]: at for name, at in told.items() if name[0] == "ursa_daemon_heartbeat_timestamp_seconds"}
    assert beats == {"sensor": NOON}

    assert later["ursa_uploaded_bytes_total",] == 2 * SIZE
    assert later["ursa_ingested_recordings_total", "created"] == 2
    assert later["ursa_run_seconds_count", "ingest", "success"] == 1
    assert later["ursa_recordings", "waiting"] == 0
    counters = [name for name in later if name[0].endswith(("_total", "_count", "_bucket", "_sum"))]
    assert all(later[name] >= told.get(name, 0) for name in counters)
    again, anew = told_by(exporter), read(stored_instance, lab)
    # Also when everything that was read is too old to be stored late.
    monkeypatch.setattr(module, "_LATE_SECONDS", -60.0)
    monkeypatch.setattr(module, "_PAGE", 2)
    settled = read(stored_instance, lab)
    for name in counters:
        assert again[name] == anew[name] == settled[name] == later[name], name


def test_an_event_that_was_stored_late_is_not_missed(told_of: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch):
    everything = told_of.fetch_materializations
    hidden = {record.storage_id for record in everything(module.RECORDING, limit=1).records}
    marked = failed(OTHER, "StoreUnavailable")

    def without(*given: object, **how: object) -> dg.EventRecordsResult:
        found = everything(*given, **how)  # type: ignore[arg-type]
        return found._replace(records=[one for one in found.records if one.storage_id not in hidden])

    monkeypatch.setattr(told_of, "fetch_materializations", without)
    ledger = Ledger(told_of)
    assert ledger.advance().uploaded_bytes == 0
    told_of.report_runless_asset_event(marked)
    ledger.advance()

    hidden.clear()

    assert ledger.advance().uploaded_bytes == SIZE
    assert ledger.advance().failures == {"ContentMismatch": 1, "StoreUnavailable": 1}


def test_a_reading_that_broke_off_counts_nothing_twice(
    lab: Lab, told_of: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    exporter = make_exporter(told_of, lab)

    def fails(*_: object, **__: object) -> None:
        raise OSError("the database is gone")

    with monkeypatch.context() as patch:
        patch.setattr(told_of, "fetch_run_status_changes", fails)
        exporter.dagster.refresh()
        assert "ursa_uploaded_bytes_total" not in text_of(exporter)
        assert told_by(exporter)["ursa_up", "dagster", "lab"] == 0
    exporter.read_once(60.0)

    told = told_by(exporter)
    assert told["ursa_uploaded_bytes_total",] == SIZE
    assert told["ursa_up", "dagster", "lab"] == 1


def test_the_last_reconciliation_and_an_unfinished_upload_are_told(lab: Lab, instance: dg.DagsterInstance):
    assert not any(name[0] == "ursa_reconciled_recordings" for name in read(instance, lab))
    write_recording(lab.usb, LATE, files_of(LATE))
    lab.assets.create(upload_record_key(f"recordings/{LATE}/mic/seg_0000.wav"), b"{}")

    dg.materialize(
        [reconciliation],
        instance=instance,
        resources={"ursa": UrsaResource(config_path=str(lab.config))},
        run_config={
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            "ops": {"reconciliation": {"config": {"only_look": True}}},
        },
    )

    told = read(instance, lab)
    assert told["ursa_last_reconciliation_timestamp_seconds",] > 1.7e9
    assert {finding: told["ursa_reconciled_recordings", finding] for finding in FINDINGS} == dict.fromkeys(FINDINGS, 0)
    assert told["ursa_backlog_bytes",] == SIZE
    assert told["ursa_unfinished_uploads",] == 1


def test_while_the_store_is_down_the_rest_is_told(
    lab: Lab, told_of: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    exporter = make_exporter(told_of, lab)
    exporter.read_once(60.0)

    def fails(*_: object, **__: object) -> None:
        raise StoreUnavailable("no answer")

    monkeypatch.setattr("ursa_pipelines.catalog.catalog.Catalog.open", fails)
    exporter.read_once(60.0)
    anew = read(told_of, lab)
    known = told_by(exporter)

    assert [known["ursa_up", part, "lab"] for part in ("dagster", "recordings", "store", "sources")] == [1, 0, 0, 1]
    # What was known stays, with its age; who never knew says nothing.
    assert known["ursa_recordings", "failed"] == 1
    assert known["ursa_read_timestamp_seconds", "store"] < known["ursa_read_timestamp_seconds", "dagster"]
    assert anew["ursa_up", "store", "lab"] == 0
    assert anew["ursa_uploaded_bytes_total",] == SIZE
    assert ("ursa_catalog_tail_entries",) not in anew


def test_a_source_that_is_not_mounted_or_hangs_is_not_available_and_is_not_asked_twice(
    lab: Lab, stored_instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    answers, asked = threading.Event(), []
    mounted = reading._is_mounted

    def hangs(source: Source) -> bool:
        asked.append(source.name)
        return answers.wait(60) if source.name == "nas" else mounted(source)

    monkeypatch.setattr(reading, "_is_mounted", hangs)
    monkeypatch.setattr(reading, "_SOURCE_SECONDS", 0.2)
    (lab.usb / "README.txt").unlink()
    readings = Readings(stored_instance, lab.data)

    assert readings.sources() == {"nas": False, "usb": False}
    assert readings.sources() == {"nas": False, "usb": False}
    assert asked == ["nas", "usb", "usb"]
    answers.set()
    readings._looks["nas"][1].result(10)
    (lab.usb / "README.txt").touch()
    assert readings.sources() == {"nas": True, "usb": True}


def test_a_site_tells_of_its_own_sources_alone_and_others_do_not(lab: Lab, told_of: dg.DagsterInstance):
    profile = yaml.safe_load(lab.config.read_text())
    profile["sources"][1]["site"] = "lab1"
    lab.config.write_text(yaml.safe_dump(profile))
    central = make_exporter(told_of, lab)
    site = Exporter("lab", Readings(told_of, lab.interface(writes=False), site="lab1"), ("sources",))
    central.read_once(60.0)
    site.read_once(60.0)

    assert central.sources.value == {"nas": True}
    told = told_by(site)
    assert {name: value for name, value in told.items() if name[0] != "ursa_read_timestamp_seconds"} == {
        ("ursa_up", "sources", "lab"): 1,
        ("ursa_source_available", "usb"): 1,
    }


def test_every_label_is_of_a_closed_set_and_nothing_tells_a_name(lab: Lab, told_of: dg.DagsterInstance):
    hostile = f'{NAME}"}} 1\nursa_evil 1'
    told_of.report_runless_asset_event(Mark(OTHER, "failed", hostile, hostile, by=hostile).observation())
    told_of.report_runless_asset_event(
        dg.AssetMaterialization("recording", partition=OTHER, metadata={"outcome": hostile, "bytes_uploaded": -7})
    )
    exporter = make_exporter(told_of, lab)
    exporter.read_once(60.0)
    text = text_of(exporter)

    allowed: dict[str, Collection[str] | None] = {
        "part": {part.name for part in exporter.parts},
        "profile": {"lab"},
        "state": set(STATES),
        "outcome": OUTCOMES | {"success", "failure", "canceled"},
        "reason": REASONS,
        "dagster_job": JOBS,
        "finding": set(FINDINGS),
        "source": {"nas", "usb"},
        "daemon": (),
        "le": None,
    }
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            for label, value in sample.labels.items():
                known = allowed[label]
                assert known is None or value in known, (sample.name, label)
    assert {job.name for job in build_definitions(None, lab.config).jobs or ()} <= JOBS
    told = told_by(exporter)
    assert told["ursa_ingest_failures_total", "unforeseen"] == 1
    assert told["ursa_ingested_recordings_total", "other"] == 1
    assert told["ursa_uploaded_bytes_total",] == SIZE
    for hidden in (NAME, "rec_2026", str(lab.nas), "evil", "op://"):
        assert hidden not in text


def test_names_and_texts_are_as_prometheus_wants_them(lab: Lab, told_of: dg.DagsterInstance):
    exporter = make_exporter(told_of, lab)
    exporter.read_once(60.0)

    families = list(exporter.collect())

    assert len({family.name for family in families}) == len(families) <= 16
    for family in families:
        assert re.fullmatch(r"ursa_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        assert not family.name.endswith(("_total", "_count"))
        # These two Prometheus puts on every sample itself.
        assert not {"job", "instance"} & {label for sample in family.samples for label in sample.labels}
        assert family.type != "counter" or all(sample.name.endswith("_total") for sample in family.samples)


def test_it_stays_fresh_by_itself(told_of: dg.DagsterInstance, fresh: Exporter, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ursa_pipelines.orchestration.metrics.exporter._SHARE_OF_TIME", 1)
    for part in fresh.parts:
        part.every = 0.05

    fresh.start()
    _until(fresh, failed=1)
    told_of.report_runless_asset_event(failed(OTHER, "StoreUnavailable"))
    _until(fresh, failed=2)


def _until(exporter: Exporter, *, failed: int) -> None:
    deadline = time.monotonic() + 120
    while told_by(exporter).get(("ursa_recordings", "failed")) != failed:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def fresh(lab: Lab, told_of: dg.DagsterInstance) -> Iterator[Exporter]:
    exporter = make_exporter(told_of, lab)
    yield exporter
    exporter.stop()

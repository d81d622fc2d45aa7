"""When the automation condition of `recording` asks for an ingest (DESIGN section 8, Sensors only discover)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

import dagster as dg
import pytest

from tests.orchestration.launch import RECORDING
from ursa_pipelines.orchestration.definitions import INGEST_JOB, build_definitions
from ursa_pipelines.orchestration.states import Mark, MarkKind

OLD, FIRST, SECOND = (f"rec_20260520_19562{digit}_b1dd" for digit in "123")


class Evaluations:
    """The condition, evaluated again and again as the automation sensor does, beginning with `OLD` asked for."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.definitions = build_definitions("local")
        self._cursor = None
        instance.add_dynamic_partitions("recordings", [OLD])
        self.at_first = self.evaluate()

    def evaluate(self) -> set[str]:
        """The partitions that are requested now."""
        result = dg.evaluate_automation_conditions(self.definitions, self.instance, cursor=self._cursor)
        self._cursor = result.cursor
        return set(result.get_requested_partitions(RECORDING))

    def arrive(self, *rec_ids: str, source: str = "nas_recording", version: str = "1") -> None:
        """What a sensor's tick does."""
        self.instance.add_dynamic_partitions("recordings", list(rec_ids))
        self._report(source, rec_ids, version)

    def register(self, *rec_ids: str) -> None:
        """What an ingest that went well leaves."""
        self._report("recording", rec_ids, "hash")

    def start(self, rec_id: str) -> dg.DagsterRun:
        """A run of the job that has begun."""
        return self.instance.create_run_for_job(
            self.definitions.resolve_job_def(INGEST_JOB),
            tags={"dagster/partition": rec_id},
            asset_selection={RECORDING},
            status=dg.DagsterRunStatus.STARTED,
        )

    def _report(self, asset: str, rec_ids: Iterable[str], version: str) -> None:
        for rec_id in rec_ids:
            self.instance.report_runless_asset_event(
                dg.AssetMaterialization(asset, partition=rec_id, tags={"dagster/data_version": version})
            )


@pytest.fixture
def condition(instance: dg.DagsterInstance) -> Evaluations:
    return Evaluations(instance)


@pytest.mark.parametrize("source", ["nas_recording", "r2_recording"])
def test_an_arrival_from_one_source_alone_is_ingested(source: str, condition: Evaluations):
    condition.arrive(FIRST, SECOND, source=source)

    assert condition.evaluate() == {FIRST, SECOND}


def test_an_arrival_is_handled_once(condition: Evaluations):
    condition.arrive(FIRST)
    assert condition.evaluate() == {FIRST}

    assert condition.evaluate() == set()
    condition.register(FIRST)
    assert condition.evaluate() == set()


def test_a_failed_ingest_is_not_tried_again_at_every_tick(condition: Evaluations):
    condition.arrive(FIRST)
    condition.evaluate()
    run = condition.start(FIRST)
    condition.evaluate()
    condition.instance.report_run_failed(run)

    assert [condition.evaluate() for _ in range(3)] == [set(), set(), set()]


def test_fault_5_a_recording_that_arrives_again_is_ingested_again(condition: Evaluations):
    condition.arrive(FIRST, SECOND)
    condition.evaluate()
    condition.register(FIRST, SECOND)
    condition.evaluate()

    condition.arrive(FIRST, version="2")

    assert condition.evaluate() == {FIRST}


def test_the_second_half_of_a_session_is_ingested_too(condition: Evaluations):
    condition.arrive(FIRST)
    condition.evaluate()
    condition.register(FIRST)
    condition.evaluate()

    condition.arrive(FIRST, source="r2_recording")

    assert condition.evaluate() == {FIRST}


def test_what_arrives_while_the_recording_is_being_ingested_is_ingested_afterwards(condition: Evaluations):
    condition.arrive(FIRST, SECOND)
    condition.evaluate()
    condition.start(FIRST)
    condition.evaluate()

    condition.arrive(FIRST, SECOND, version="2")

    assert condition.evaluate() == {SECOND}
    assert condition.evaluate() == set()
    condition.register(FIRST)
    assert condition.evaluate() == {FIRST}
    assert condition.evaluate() == set()


def test_what_arrives_right_after_a_request_is_not_forgotten(condition: Evaluations):
    condition.arrive(FIRST)
    condition.evaluate()
    condition.start(FIRST)
    condition.arrive(FIRST, version="2")

    assert condition.evaluate() == set()
    condition.register(FIRST)
    assert condition.evaluate() == {FIRST}
    assert condition.evaluate() == set()


def test_what_arrived_before_the_automation_was_switched_on_is_ingested_once(instance: dg.DagsterInstance):
    instance.add_dynamic_partitions("recordings", [FIRST, SECOND])
    for asset, rec_id in (("nas_recording", FIRST), ("nas_recording", SECOND), ("recording", SECOND)):
        instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=rec_id))

    condition = Evaluations(instance)

    assert condition.at_first == {OLD, FIRST}
    assert condition.evaluate() == set()


def test_a_partition_that_an_operator_adds_is_ingested(condition: Evaluations):
    condition.instance.add_dynamic_partitions("recordings", [FIRST])

    assert condition.evaluate() == {FIRST}


def test_events_on_several_sources_at_once_ask_for_one_ingest(condition: Evaluations):
    for source in ("nas_recording", "usb_recording", "r2_recording"):
        condition.arrive(FIRST, source=source)
    condition.arrive(SECOND, source="usb_recording")

    assert condition.evaluate() == {FIRST, SECOND}
    condition.register(FIRST, SECOND)
    assert condition.evaluate() == set()

    condition.arrive(FIRST, source="usb_recording", version="2")

    assert condition.evaluate() == {FIRST}


@pytest.mark.parametrize("kind", get_args(MarkKind))
def test_a_mark_asks_for_nothing(kind: MarkKind, condition: Evaluations):
    condition.arrive(FIRST)
    condition.evaluate()
    condition.register(FIRST)
    condition.evaluate()

    condition.instance.report_runless_asset_event(Mark(FIRST, kind, "because").observation())

    assert [condition.evaluate() for _ in range(2)] == [set(), set()]
    condition.arrive(FIRST, version="2")
    assert condition.evaluate() == {FIRST}

"""What people decide about recordings, what follows, and what is remembered of it."""

from __future__ import annotations

import dagster as dg
import pytest

from tests.lab import Lab
from tests.orchestration.launch import RECORDING, launch
from tests.recordings_on_disk import write_recording
from ursa_pipelines.orchestration.decisions import Decided, audit, clean_reason, decide, held, retry
from ursa_pipelines.orchestration.definitions import build_definitions
from ursa_pipelines.orchestration.states import Mark, read_histories
from ursa_pipelines.recordings.inventory import take_inventory

FIRST, SECOND, ABSENT, THIRD = (f"rec_2026052{day}_195621_b1dd" for day in (0, 1, 2, 3))


def write(lab: Lab, rec_id: str, source: str = "nas") -> None:
    write_recording(getattr(lab, source), rec_id, {"camera_a/seg_0000.mp4": rec_id.encode()})


def test_a_decision_is_kept_with_its_reason_and_by_whom(lab: Lab, instance: dg.DagsterInstance):
    write(lab, FIRST)

    assert decide(lab.data, instance, [FIRST], "quarantined", "  damaged ") == [Decided(FIRST)]

    history = read_histories(instance)[FIRST]
    assert history.last is not None
    assert (history.last.kind, history.last.reason, history.last.by) == ("quarantined", "damaged", lab.data.writer.by)
    assert history.is_held
    assert instance.get_dynamic_partitions("recordings") == []


def test_what_is_not_known_is_refused_and_the_others_are_decided(lab: Lab, instance: dg.DagsterInstance):
    lab.raw.create(f"recordings/{FIRST}/camera_a/seg_0000.mp4", b"video")
    instance.add_dynamic_partitions("recordings", [SECOND])

    first, absent, second, unsafe = decide(
        lab.data, instance, [FIRST, ABSENT, SECOND, "../../etc"], "waived", "only a test"
    )

    assert (first.problem, second.problem) == ("", "")
    assert "no recording of this id" in absent.problem
    assert "no recording of this id" in unsafe.problem
    assert set(read_histories(instance)) == {FIRST, SECOND}


@pytest.mark.parametrize("reason", ["", " \t", "two\nlines", "bidi \u202e", "x" * 501])
def test_a_reason_is_one_printable_line(reason: str):
    with pytest.raises(ValueError):
        clean_reason(reason)


def test_a_retry_makes_the_automation_ask_for_it_although_nothing_has_changed(lab: Lab, instance: dg.DagsterInstance):
    write(lab, FIRST)
    launch(lab.config, instance, FIRST)
    decide(lab.data, instance, [FIRST], "quarantined", "look at it first")
    definitions = build_definitions(None, lab.config)
    before = dg.evaluate_automation_conditions(definitions, instance)

    retry(lab.data, instance, [FIRST])
    retry(lab.data, instance, [FIRST])

    after = dg.evaluate_automation_conditions(definitions, instance, cursor=before.cursor)
    assert after.get_requested_partitions(RECORDING) == {FIRST}
    assert not read_histories(instance)[FIRST].is_held
    again = dg.evaluate_automation_conditions(definitions, instance, cursor=after.cursor)
    assert again.get_requested_partitions(RECORDING) == set()


def test_a_retry_of_what_never_was_a_partition_is_asked_for_once(lab: Lab, instance: dg.DagsterInstance):
    write(lab, FIRST)
    instance.add_dynamic_partitions("recordings", [SECOND])
    definitions = build_definitions(None, lab.config)
    result = dg.evaluate_automation_conditions(definitions, instance)

    retry(lab.data, instance, [FIRST])

    requested = []
    for _ in range(3):
        result = dg.evaluate_automation_conditions(definitions, instance, cursor=result.cursor)
        requested.append(set(result.get_requested_partitions(RECORDING)))
    assert requested == [{FIRST}, set(), set()]


def test_a_retry_reports_every_directory_with_its_present_fingerprint(lab: Lab, instance: dg.DagsterInstance):
    write(lab, FIRST)
    write(lab, FIRST, "usb")

    (decided,) = retry(lab.data, instance, [FIRST])

    assert decided.arrivals == ("nas_recording", "usb_recording")
    event = instance.get_latest_materialization_event(dg.AssetKey("usb_recording"))
    assert event is not None and event.asset_materialization is not None
    version = (event.asset_materialization.tags or {})["dagster/data_version"]
    assert version == take_inventory(lab.usb / FIRST).fingerprint


def test_a_retry_of_what_is_only_in_the_bucket_is_reported_there(lab: Lab, instance: dg.DagsterInstance):
    lab.raw.create(f"recordings/{FIRST}/camera_a/seg_0000.mp4", b"video")

    assert retry(lab.data, instance, [FIRST]) == [Decided(FIRST, ("r2_recording",))]


def test_a_retry_of_what_lies_nowhere_now_changes_nothing(lab: Lab, instance: dg.DagsterInstance):
    instance.report_runless_asset_event(Mark(FIRST, "quarantined", "damaged").observation())

    (decided,) = retry(lab.data, instance, [FIRST])

    assert "neither on a mounted source nor in the bucket" in decided.problem
    assert read_histories(instance)[FIRST].is_held


def test_those_that_failed_and_those_in_quarantine_are_found_but_no_waived_ones(instance: dg.DagsterInstance):
    for mark in (
        Mark(FIRST, "failed", "x", retryable=True),
        Mark(SECOND, "failed", "x"),
        Mark(SECOND, "quarantined", "x"),
        Mark(ABSENT, "waived", "x"),
        Mark(ABSENT, "failed", "x"),
        Mark(THIRD, "quarantined", "x"),
        Mark(THIRD, "failed", "x"),
    ):
        instance.report_runless_asset_event(mark.observation())

    assert held(instance, failed=True, quarantined=False) == [FIRST]
    assert held(instance, failed=False, quarantined=True) == [SECOND, THIRD]
    assert held(instance, failed=True, quarantined=True) == [FIRST, SECOND, THIRD]


def test_the_record_tells_runs_and_the_catalog_once_each(lab: Lab, instance: dg.DagsterInstance):
    write(lab, FIRST)
    lab.data.ingest(source_dir=lab.nas / FIRST)
    launch(lab.config, instance, FIRST)
    decide(lab.data, instance, [FIRST], "waived", "good enough")

    happened = audit(lab.data, instance, FIRST)

    assert [one.what for one in happened] == ["catalog: ingest", "registered (unchanged)", "waived"]
    assert [one.at for one in happened] == sorted(one.at for one in happened)
    assert happened[0].by == lab.data.writer.by
    assert audit(lab.data, instance, ABSENT) == []

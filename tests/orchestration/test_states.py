"""What the events of a recording come to: marks, registrations, and who lifts what."""

from __future__ import annotations

import dagster as dg
import pytest

from ursa_pipelines.orchestration.states import AUTOMATIC_RETRIES, History, Mark, MarkKind, read_histories

REC, OTHER = "rec_20260520_195621_b1dd", "rec_20260520_195622_b1dd"


def history_after(instance: dg.DagsterInstance, *events: Mark | dg.AssetMaterialization) -> History:
    for event in events:
        instance.report_runless_asset_event(event.observation() if isinstance(event, Mark) else event)
    return read_histories(instance, [REC])[REC]


def failed(*, retryable: bool = True) -> Mark:
    return Mark(REC, "failed", "why", retryable=retryable)


def registered(outcome: str = "created") -> dg.AssetMaterialization:
    return dg.AssetMaterialization("recording", partition=REC, metadata={"outcome": outcome, "fingerprint": "1-2-3"})


def test_failures_count_until_it_is_registered(instance: dg.DagsterInstance):
    assert history_after(instance, failed(), failed()).attempts == 2

    history = history_after(instance, registered())

    assert (history.attempts, history.last, history.fingerprint) == (0, None, "1-2-3")


def test_it_may_be_retried_so_often_and_only_if_that_may_help(instance: dg.DagsterInstance):
    for _ in range(AUTOMATIC_RETRIES):
        assert history_after(instance, failed()).may_be_retried
    assert not history_after(instance, failed()).may_be_retried
    assert not history_after(instance, Mark(REC, "retried"), failed(retryable=False)).may_be_retried


@pytest.mark.parametrize("kind", ["failed", "waiting"])
def test_a_launch_that_comes_to_nothing_does_not_lift_a_quarantine(instance: dg.DagsterInstance, kind: MarkKind):
    history = history_after(instance, Mark(REC, "quarantined", "broken"), Mark(REC, kind, "why", retryable=True))

    assert history.is_held
    assert not history.may_be_retried
    assert history.last is not None
    assert history.last.kind == kind


def test_a_registration_or_a_retry_lifts_a_quarantine(instance: dg.DagsterInstance):
    assert history_after(instance, Mark(REC, "quarantined"), Mark(REC, "retried")).quarantined is None
    assert history_after(instance, Mark(REC, "quarantined"), registered()).quarantined is None


def test_a_waiver_outlives_a_registration_that_changes_nothing(instance: dg.DagsterInstance):
    assert history_after(instance, Mark(REC, "waived", "lost"), registered("unchanged")).is_held
    assert not history_after(instance, registered("changed")).is_held


def test_what_is_told_is_read_back_whole(instance: dg.DagsterInstance):
    mark = Mark(REC, "failed", "why", "ContentMismatch", "do this", retryable=True, by="a@b", fingerprint="1-2-3")

    last = history_after(instance, mark).last

    assert last is not None
    assert last.at > 0
    assert Mark(**{**vars(last), "at": 0.0}) == mark
    assert read_histories(instance, [OTHER]) == read_histories(instance, []) == {}


def test_other_observations_say_nothing_of_the_state(instance: dg.DagsterInstance):
    instance.report_runless_asset_event(
        dg.AssetObservation("recording", partition=REC, metadata={"bytes_so_far": 3, "mark": "unheard of"})
    )

    assert read_histories(instance) == {REC: History(REC)}

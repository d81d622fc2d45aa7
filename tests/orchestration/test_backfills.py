"""Which recordings a backfill takes, and that its runs take no other."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from tests.lab import Lab
from tests.orchestration.launch import QUIET, launch, make_job
from tests.recordings_on_disk import write_recording
from ursa_pipelines.ingest.batch import BatchItem
from ursa_pipelines.orchestration.backfills import Selection, Wanted, select
from ursa_pipelines.orchestration.in_process import contiguous, ingest_in_process
from ursa_pipelines.orchestration.launches import DaemonBackfill, Outcome
from ursa_pipelines.orchestration.partitions import add_partitions
from ursa_pipelines.orchestration.states import Mark
from ursa_pipelines.orchestration.webserver import Webserver

FIRST, SECOND, THIRD, FOURTH = (f"rec_202605{day}_195621_b1dd" for day in ("20", "21", "22", "23"))
TAGS = {"ursa/trigger": "backfill", "ursa/by": "me@here"}


def write(source: Path, *rec_ids: str) -> None:
    for rec_id in rec_ids:
        write_recording(source, rec_id, {"camera_a/seg_0000.mp4": rec_id.encode()})


def mark(instance: dg.DagsterInstance, *marks: Mark) -> None:
    for one in marks:
        instance.report_runless_asset_event(one.observation())


def states(selection: Selection) -> dict[str, str]:
    return {one.rec_id: one.state for one in selection.chosen}


def test_keys_are_cut_where_a_partition_between_them_is_not_chosen():
    assert list(contiguous("cabd", "abc", 9)) == [["c", "a", "b"]]
    assert list(contiguous("abcd", "abd", 9)) == [["a", "b"], ["d"]]
    assert list(contiguous("abcde", "abcde", 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(contiguous("abc", "", 2)) == []


@pytest.mark.parametrize("seed", range(20))
def test_the_ranges_between_first_and_last_keys_hold_the_chosen_and_nothing_else(seed: int):
    chance = random.Random(seed)
    order = [str(number) for number in range(60)]
    chance.shuffle(order)
    chosen = {key for key in order if chance.random() < 0.6}

    runs = list(contiguous(order, chosen, 7))

    covered = [key for keys in runs for key in order[order.index(keys[0]) : order.index(keys[-1]) + 1]]
    assert sorted(covered) == sorted(chosen)
    assert max(map(len, runs)) <= 7


def test_nothing_that_was_not_chosen_is_run(lab: Lab, instance: dg.DagsterInstance):
    write(lab.nas, FIRST, SECOND, THIRD, FOURTH)
    add_partitions(instance, [THIRD])
    add_partitions(instance, [FIRST, SECOND, FOURTH])
    told: list[list[BatchItem]] = []

    items = ingest_in_process(
        instance, None, lab.config, [FOURTH, FIRST, THIRD], tags=TAGS, tell=lambda some: told.append(list(some))
    )

    assert [(item.rec_id, item.status) for item in items] == [(FOURTH, "OK"), (FIRST, "OK"), (THIRD, "OK")]
    assert [[item.rec_id for item in some] for some in told] == [[THIRD, FIRST], [FOURTH]]
    assert {row.rec_id for row in lab.data.list_recordings()} == {FIRST, THIRD, FOURTH}
    assert all(record.dagster_run.tags.items() >= TAGS.items() for record in instance.get_run_records())


def test_since_takes_what_is_on_a_source_in_the_bucket_or_a_partition(lab: Lab, instance: dg.DagsterInstance):
    write(lab.nas, FIRST, SECOND)
    lab.raw.create(f"recordings/{THIRD}/camera_a/seg_0000.mp4", b"video")
    add_partitions(instance, [FOURTH])

    selection = select(lab.data, instance, Wanted(since=date(2026, 5, 21)))

    assert [(one.rec_id, one.places) for one in selection.chosen] == [
        (SECOND, ("nas",)),
        (THIRD, ("bucket",)),
        (FOURTH, ()),
    ]


def test_failed_takes_what_the_newest_event_tells_failed_and_passes_by_what_is_held(
    lab: Lab, instance: dg.DagsterInstance
):
    write(lab.nas, FIRST, SECOND, THIRD, FOURTH)
    failed = [Mark(rec_id, "failed", "the drive was pulled", retryable=True) for rec_id in (FIRST, SECOND, THIRD)]
    mark(instance, *failed, Mark(SECOND, "quarantined", "too often"), Mark(FOURTH, "waived", "only a test"))
    launch(lab.config, instance, THIRD)

    selection = select(lab.data, instance, Wanted(failed=True))

    assert states(selection) == {FIRST: "failed (retryable)"}
    assert selection.chosen[0].reason == "the drive was pulled"
    assert states(select(lab.data, instance, Wanted(rec_ids=(SECOND, THIRD)))) == {
        SECOND: "quarantined",
        THIRD: "registered",
    }


def test_failed_takes_what_is_red_although_no_run_lived_to_tell_why(lab: Lab, instance: dg.DagsterInstance):
    add_partitions(instance, [FIRST, SECOND])
    instance.report_runless_asset_event(dg.AssetMaterialization("recording", partition=FIRST))
    with dg.DagsterInstance.ephemeral() as other:
        assert select(lab.data, other, Wanted(failed=True)) == Selection()

    @dg.asset(name="recording", partitions_def=dg.DynamicPartitionsDefinition(name="recordings"))
    def killed() -> None:
        raise dg.Failure("killed")

    dg.materialize([killed], instance=instance, partition_key=SECOND, raise_on_error=False)

    assert states(select(lab.data, instance, Wanted(failed=True))) == {SECOND: "failed"}


def test_several_ways_of_choosing_add_up(lab: Lab, instance: dg.DagsterInstance):
    write(lab.nas, FIRST, THIRD)
    lab.data.ingest(source_dir=lab.nas / FIRST)
    write(lab.usb, FOURTH)
    mark(instance, Mark(SECOND, "failed", "refused"))

    selection = select(lab.data, instance, Wanted(rec_ids=(FIRST,), failed=True, missing=True))

    assert states(selection) == {
        FIRST: "registered",
        SECOND: "failed (permanent)",
        THIRD: "not ingested",
        FOURTH: "not ingested",
    }
    assert selection.chosen[0].places == ("nas", "bucket", "catalog")


def test_names_that_stand_for_nothing_are_told(lab: Lab, instance: dg.DagsterInstance):
    write(lab.nas, FIRST)

    selection = select(lab.data, instance, Wanted(rec_ids=(FIRST, SECOND, "../nas", "rec_20261399_000000_abcd")))

    assert selection.rec_ids == [FIRST]
    assert selection.unknown == ("../nas", SECOND, "rec_20261399_000000_abcd")


def test_a_recording_in_quarantine_stays_there_although_a_launch_by_hand_failed(lab: Lab, instance: dg.DagsterInstance):
    write(lab.nas, FIRST)
    mark(instance, Mark(FIRST, "quarantined", "the clock was wrong"), Mark(FIRST, "failed", "refused"))

    selection = select(lab.data, instance, Wanted(failed=True))

    assert selection.chosen == ()
    assert [(one.state, one.reason) for one in selection.held] == [("quarantined", "the clock was wrong")]


class Daemon(Webserver):
    """A webserver whose one backfill has the status that stands in its `repository`."""

    def launch_backfill(self, rec_ids: Collection[str], tags: Mapping[str, str], title: str) -> str:
        return "here"

    def backfill(self, backfill_id: str) -> tuple[str, str]:
        return self.repository, ""


def test_a_run_that_registers_and_ends_while_it_is_looked_at_has_registered(
    lab: Lab, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    write(lab.nas, FIRST)
    followed = DaemonBackfill.launch(instance, Daemon("", "REQUESTED", ""), [FIRST], tags={})
    real = instance.get_run_records
    looks: list[dg.RunsFilter] = []

    def run_first(filters: dg.RunsFilter) -> Sequence[dg.RunRecord]:
        if not looks:
            looks.append(filters)
            tags = {"dagster/partition": FIRST, "dagster/backfill": "here"}
            make_job(str(lab.config)).execute_in_process(instance=instance, run_config=QUIET, tags=tags)
        return real(filters)

    monkeypatch.setattr(instance, "get_run_records", run_first)

    assert followed.follow(lambda progress: None) == [Outcome(FIRST, "OK", "created")]


def test_what_has_been_registered_since_is_done_whoever_did_it(lab: Lab, instance: dg.DagsterInstance):
    write(lab.nas, FIRST, SECOND)
    launch(lab.config, instance, SECOND)
    followed = DaemonBackfill.launch(instance, Daemon("", "FAILED", ""), [FIRST, SECOND], tags={})
    launch(lab.config, instance, FIRST)

    first, second = followed.follow(lambda progress: None)

    assert (first.status, second.status) == ("OK", "FAIL")

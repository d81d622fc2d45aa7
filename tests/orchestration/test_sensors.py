"""The sensors that look at the sources: they report what has settled, say what waits, and launch nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest

from tests.lab import Lab
from tests.orchestration.ticks import after_a_pause, arrivals, cursor_of, later, patient, quarantined, tick, told
from tests.recordings_on_disk import set_age, write_recording
from tests.snapshot import snapshot
from ursa_pipelines.errors import ProfileInvalid, SourceUnavailable
from ursa_pipelines.orchestration.resources import require_profile
from ursa_pipelines.orchestration.sensors import nas_sensor
from ursa_pipelines.orchestration.states import Mark
from ursa_pipelines.profiles import load_profile

FIRST, SECOND, THIRD = (f"rec_20260520_19562{digit}_b1dd" for digit in "123")
FILES = {"camera_a/seg_0000.mp4": b"video", "mic/seg_0000.wav": b"audio"}


def test_a_settled_directory_becomes_a_partition_and_an_arrival(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, SECOND, FILES)
    write_recording(lab.nas, FIRST, FILES)
    (lab.nas / "not_a_recording").mkdir()
    before = snapshot(lab.nas)

    result = tick(lab, instance)

    assert list(arrivals(result)) == [FIRST, SECOND]
    assert instance.get_dynamic_partitions("recordings") == [FIRST, SECOND]
    assert told(result) == "2 recordings, 2 newly settled, 0 waiting"
    assert snapshot(lab.nas) == before


def test_an_arrival_is_reported_once(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, FILES)
    first = tick(lab, instance)

    second = tick(lab, instance, first)

    assert arrivals(first)
    assert arrivals(second) == {}
    assert not second.dynamic_partitions_requests


def test_a_changed_directory_arrives_again_with_another_version(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, FILES)
    write_recording(lab.nas, SECOND, FILES)
    first = tick(lab, instance)
    write_recording(lab.nas, FIRST, {**FILES, "eeg_4559/seg_0000.edf": b"late"})

    second = tick(lab, instance, first)

    assert list(arrivals(second)) == [FIRST]
    assert arrivals(second)[FIRST] != arrivals(first)[FIRST]
    assert not second.dynamic_partitions_requests


def test_the_tick_says_what_waits_and_why(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, {**FILES, "session.lock": b""})
    write_recording(lab.nas, SECOND, {**FILES, "mic/seg_0001.wav.part": b"half"})
    write_recording(lab.nas, THIRD, FILES, manifest=False)

    result = tick(lab, instance, config=patient(lab, reconstruct_after=3600))

    assert arrivals(result) == {}
    assert instance.get_dynamic_partitions("recordings") == []
    assert "3 recordings, 0 newly settled, 3 waiting" in told(result)
    assert f"{FIRST}: session.lock is present: the rig is still recording" in told(result)
    assert f"{SECOND}: mic/seg_0001.wav.part is still being copied" in told(result)
    assert f"{THIRD}: without a manifest for 0 s of 3600 s" in told(result)


def test_a_copy_arrives_once_its_file_has_its_final_name(lab: Lab, instance: dg.DagsterInstance):
    directory = write_recording(lab.nas, FIRST, FILES)
    (directory / "mic/seg_0000.wav").rename(directory / "mic/seg_0000.wav.part")
    waiting = tick(lab, instance)
    (directory / "mic/seg_0000.wav.part").rename(directory / "mic/seg_0000.wav")

    result = tick(lab, instance, waiting)

    assert arrivals(waiting) == {}
    assert list(arrivals(result)) == [FIRST]


def test_a_directory_without_a_manifest_arrives_after_it_was_left_alone(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, FILES, manifest=False)
    waiting = tick(lab, instance)

    result = tick(lab, instance, later(waiting, 3600))

    assert arrivals(waiting) == {}
    assert list(arrivals(result)) == [FIRST]


def test_a_directory_that_will_be_refused_arrives_so_that_the_refusal_is_seen(lab: Lab, instance: dg.DagsterInstance):
    directory = write_recording(lab.nas, FIRST, FILES)
    (directory / "mic/link.wav").symlink_to("/etc/hostname")
    config = patient(lab, quiet_period=0)

    result = tick(lab, instance, config=config)

    assert list(arrivals(result)) == [FIRST]


@pytest.mark.parametrize("state", ["unmounted", "empty"])
def test_a_source_that_is_not_mounted_is_an_error(state: str, lab: Lab, instance: dg.DagsterInstance):
    shutil.rmtree(lab.nas)
    if state == "empty":
        lab.nas.mkdir()

    with pytest.raises(SourceUnavailable, match="source nas is"):
        tick(lab, instance)

    assert not lab.nas.exists() or not list(lab.nas.iterdir())


def test_what_was_seen_survives_an_unmounted_moment(lab: Lab, instance: dg.DagsterInstance, tmp_path: Path):
    write_recording(lab.nas, FIRST, FILES)
    first = tick(lab, instance)
    lab.nas.rename(tmp_path / "elsewhere")
    with pytest.raises(SourceUnavailable):
        tick(lab, instance, first)
    (tmp_path / "elsewhere").rename(lab.nas)

    assert arrivals(tick(lab, instance, first)) == {}


def test_a_tick_out_of_time_goes_on_where_it_stopped(lab: Lab, instance: dg.DagsterInstance):
    for rec_id in (FIRST, SECOND, THIRD):
        write_recording(lab.nas, rec_id, FILES)
    hurried = nas_sensor("nas", load_profile(None, lab.config), tick_seconds=0)

    results: list[dg.SensorResult] = []
    for _ in range(3):
        results.append(tick(lab, instance, results[-1] if results else None, sensor=hurried))

    assert [list(arrivals(result)) for result in results] == [[FIRST], [SECOND], [THIRD]]


def test_a_tick_out_of_time_comes_round_to_every_settled_directory(lab: Lab, instance: dg.DagsterInstance):
    for rec_id in (FIRST, SECOND, THIRD):
        write_recording(lab.nas, rec_id, FILES)
    hurried = nas_sensor("nas", load_profile(None, lab.config), tick_seconds=0)
    result = tick(lab, instance)
    for rec_id in (FIRST, SECOND, THIRD):
        set_age(lab.nas / rec_id, 60)

    again: list[str | None] = []
    for _ in range(3):
        result = tick(lab, instance, result, sensor=hurried)
        again += arrivals(result)

    assert again == [FIRST, SECOND, THIRD]


def test_a_sensor_of_another_profile_is_refused(lab: Lab, stored_instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, FILES)
    require_profile(stored_instance, "r2")

    with pytest.raises(ProfileInvalid, match="serves the profile 'r2', not 'lab'"):
        tick(lab, stored_instance)


def test_the_cursor_holds_those_that_wait_and_not_those_that_arrived(lab: Lab, instance: dg.DagsterInstance):
    for number in range(30):
        write_recording(lab.nas, f"rec_20260519_1956{number:02}_b1dd", FILES)
    write_recording(lab.nas, FIRST, {**FILES, "session.lock": b""})

    result = tick(lab, instance)

    assert len(arrivals(result)) == 30
    assert list(cursor_of(result)["waiting"]) == [FIRST]
    assert len(result.cursor or "") < 400


@pytest.mark.parametrize("cursor", ["", "{", "[]", '{"waiting": 3}', '{"rec_20260520_195621_b1dd": {"settled": true}}'])
def test_what_arrived_is_known_without_a_cursor(cursor: str, lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, FILES)
    first = tick(lab, instance)

    second = tick(lab, instance, first._replace(cursor=cursor))

    assert arrivals(second) == {}


def test_fault_4_events_that_a_daemon_stored_before_it_died_are_not_repeated(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, FILES)
    write_recording(lab.nas, SECOND, FILES)
    before = tick(lab, instance)
    write_recording(lab.nas, THIRD, FILES)
    tick(lab, instance, before)

    assert arrivals(tick(lab, instance, before)) == {}


def test_a_process_sees_what_another_one_reported(lab: Lab, instance: dg.DagsterInstance):
    sensor = nas_sensor("nas", load_profile(None, lab.config))
    write_recording(lab.nas, FIRST, FILES)
    first = tick(lab, instance, sensor=sensor)
    write_recording(lab.nas, SECOND, FILES)
    assert list(arrivals(tick(lab, instance, first))) == [SECOND]

    assert arrivals(tick(lab, instance, first, sensor=sensor)) == {}


def test_each_source_knows_its_own_arrivals(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, FILES)
    write_recording(lab.usb, FIRST, FILES)
    tick(lab, instance)

    result = tick(lab, instance, name="usb_sensor")

    assert list(arrivals(result, "usb_recording")) == [FIRST]
    assert not result.dynamic_partitions_requests


def test_a_known_directory_that_changed_waits_until_it_settles(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, FILES)
    first = tick(lab, instance)
    write_recording(lab.nas, FIRST, {**FILES, "session.lock": b""})

    waiting = tick(lab, instance, first)
    (lab.nas / FIRST / "session.lock").unlink()
    write_recording(lab.nas, FIRST, {"eeg_4559/seg_0000.edf": b"late"}, manifest=False)
    unlisted = tick(lab, instance, waiting)
    settled = tick(lab, instance, later(unlisted, 3600))

    assert arrivals(waiting) == arrivals(unlisted) == {}
    assert f"{FIRST}: session.lock is present" in told(waiting)
    assert list(arrivals(settled)) == [FIRST]
    assert cursor_of(settled)["waiting"] == {}


def test_a_known_directory_that_is_again_as_it_was_does_not_arrive(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, FILES)
    first = tick(lab, instance)
    (lab.nas / FIRST / "mic/seg_0001.wav").touch()
    waiting = tick(lab, instance, first)
    (lab.nas / FIRST / "mic/seg_0001.wav").unlink()

    result = tick(lab, instance, waiting)

    assert list(cursor_of(waiting)["waiting"]) == [FIRST]
    assert arrivals(result) == {}
    assert cursor_of(result)["waiting"] == {}


def test_a_tick_reports_a_bounded_number_and_goes_on_with_the_next(
    lab: Lab, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ursa_pipelines.orchestration.sensors.rounds.ARRIVALS_PER_TICK", 2)
    for rec_id in (FIRST, SECOND, THIRD):
        write_recording(lab.nas, rec_id, FILES)

    first = tick(lab, instance)

    assert list(arrivals(first)) == [FIRST, SECOND]
    assert told(first) == "3 recordings, 2 newly settled, 0 waiting, 1 not looked at yet"
    assert list(arrivals(tick(lab, instance, first))) == [THIRD]


def test_only_so_many_are_remembered_as_waiting(
    lab: Lab, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ursa_pipelines.orchestration.sensors.rounds.WAITING_AT_MOST", 2)
    for rec_id in (FIRST, SECOND, THIRD):
        write_recording(lab.nas, rec_id, FILES, manifest=False)

    first = tick(lab, instance)
    second = tick(lab, instance, later(first, 3600))
    third = tick(lab, instance, later(tick(lab, instance, second), 3600))

    assert list(cursor_of(first)["waiting"]) == [FIRST, SECOND]
    assert list(arrivals(second)) == [FIRST, SECOND]
    assert list(arrivals(third)) == [THIRD]


def test_what_waits_too_long_is_quarantined_once_and_named(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, {**FILES, "session.lock": b""})
    waiting = tick(lab, instance)

    result = tick(lab, instance, later(waiting, 86_400))
    after = tick(lab, instance, result)

    assert arrivals(result) == quarantined(waiting) == quarantined(after) == {}
    (reason,) = quarantined(result).values()
    assert list(quarantined(result)) == [FIRST]
    assert "24 h after it was found: session.lock is present" in reason
    assert "`ursa retry`" in reason
    assert instance.get_dynamic_partitions("recordings") == [], "a new partition would be launched at once"
    assert f"{FIRST}: quarantined now" in told(result)
    assert f"{FIRST}: quarantined: it does not settle" in told(after)


def test_what_this_tick_did_not_look_at_is_not_quarantined(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, {**FILES, "session.lock": b""})
    waiting = tick(lab, instance)
    write_recording(lab.nas, SECOND, FILES)
    hurried = nas_sensor("nas", load_profile(None, lab.config), tick_seconds=0)

    result = tick(lab, instance, later(waiting, 90_000), sensor=hurried)

    assert list(arrivals(result)) == [SECOND]
    assert quarantined(result) == {}
    assert list(quarantined(tick(lab, instance, result))) == [FIRST]


def test_what_nobody_looked_at_for_days_is_not_quarantined(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, {**FILES, "session.lock": b""})
    waiting = tick(lab, instance)

    result = tick(lab, instance, after_a_pause(waiting, 2 * 86_400))

    assert quarantined(result) == {}
    assert list(quarantined(tick(lab, instance, later(result, 90_000)))) == [FIRST]


def test_those_that_wait_get_their_turn_however_many_are_new(
    lab: Lab, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ursa_pipelines.orchestration.sensors.rounds.WAITING_AT_MOST", 1)
    monkeypatch.setattr("ursa_pipelines.orchestration.sensors.rounds.ARRIVALS_PER_TICK", 2)
    write_recording(lab.nas, THIRD, FILES, manifest=False)
    waiting = tick(lab, instance)
    for number in range(4):
        write_recording(lab.nas, f"rec_20260519_1956{number:02}_b1dd", FILES)

    assert THIRD in arrivals(tick(lab, instance, later(waiting, 3600)))


def test_a_copy_that_gets_on_is_not_quarantined(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, {**FILES, "mic/seg_0001.wav.part": b"half"})
    waiting = tick(lab, instance)
    set_age(lab.nas / FIRST, 60)
    write_recording(lab.nas, FIRST, {"mic/seg_0002.wav": b"more"}, manifest=False)

    assert quarantined(tick(lab, instance, later(waiting, 86_400))) == {}


@pytest.mark.parametrize("kind", ["quarantined", "waived"])
def test_what_a_person_holds_back_is_passed_by_until_a_retry(kind: str, lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, FILES)
    write_recording(lab.nas, SECOND, FILES)
    instance.report_runless_asset_event(Mark(FIRST, kind, "a test recording", by="somebody").observation())  # type: ignore[arg-type]

    held = tick(lab, instance)
    still_held = tick(lab, instance, held)
    instance.report_runless_asset_event(Mark(FIRST, "retried", by="somebody").observation())
    retried = tick(lab, instance, still_held)

    assert list(arrivals(held)) == [SECOND]
    assert arrivals(still_held) == {}
    assert f"1 quarantined or waived; {FIRST}: {kind}: a test recording" in told(still_held)
    assert list(arrivals(retried)) == [FIRST]
    assert cursor_of(retried)["held"] == []


def test_after_a_retry_the_waiting_begins_anew(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, {**FILES, "session.lock": b""})
    held = tick(lab, instance, later(tick(lab, instance), 86_400))
    instance.report_runless_asset_event(Mark(FIRST, "retried", by="somebody").observation())

    waiting = tick(lab, instance, held)
    (lab.nas / FIRST / "session.lock").unlink()

    assert quarantined(held)
    assert quarantined(waiting) == {}
    assert list(cursor_of(waiting)["waiting"]) == [FIRST]
    assert list(arrivals(tick(lab, instance, waiting))) == [FIRST]


def test_a_known_recording_that_is_held_and_changes_is_named_and_not_reported(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, FILES)
    first = tick(lab, instance)
    instance.report_runless_asset_event(Mark(FIRST, "quarantined", "damaged", by="ursa").observation())
    write_recording(lab.nas, FIRST, {**FILES, "eeg_4559/seg_0000.edf": b"late"})

    held = tick(lab, instance, first)
    instance.report_runless_asset_event(Mark(FIRST, "retried", by="somebody").observation())

    assert arrivals(held) == {}
    assert f"{FIRST}: quarantined: damaged" in told(held)
    assert list(arrivals(tick(lab, instance, held))) == [FIRST]

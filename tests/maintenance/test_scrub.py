"""Reading what is stored again: in which order, within which budget, and what counts as a failure."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.detour import Detour
from tests.faults.proxy import Answer, Fault
from tests.ingest.rig import upload_as_rig
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import failpoints
from ursa_pipelines.errors import ProfileInvalid, StoreUnavailable, UrsaError
from ursa_pipelines.ingest.verify import Verification
from ursa_pipelines.maintenance.scrub import queue, reading, run
from ursa_pipelines.maintenance.scrub.ledger import Amount, Purse, Read, note, read_month, read_state
from ursa_pipelines.maintenance.scrub.reading import Finding
from ursa_pipelines.maintenance.scrub.run import Scrub
from ursa_pipelines.profiles import load_profile

FIRST, SECOND, THIRD = (f"rec_20260520_19562{digit}_b1dd" for digit in "123")
MONTH, DAY = "2026-05", 86_400.0
CAMERA, MIC = "camera_a/seg_0000.mp4", "mic/seg_0000.wav"
PLENTY = Amount(10**12, 10**9)


def files_of(rec_id: str, count: int = 1, size: int = 1_000) -> dict[str, bytes]:
    return {f"mic/seg_{number:04}.wav": f"{rec_id}{number} ".encode().ljust(size, b".") for number in range(count)}


def ingested(lab: Lab, *rec_ids: str, **options: int) -> None:
    for rec_id in rec_ids:
        lab.data.ingest(source_dir=write_recording(lab.nas, rec_id, files_of(rec_id, **options)))


def a_scrub(lab: Lab, days: float = 0.0, budget: Amount = PLENTY, run: str = "", **options: object) -> Scrub:
    """A scrub so many days from now, of which everything is due that was verified before; one recording at a time."""
    context = replace(lab.data.ingest_context(raw_role="raw_ro"), recordings_at_once=1)
    began = time.time() + days * DAY
    given = {"rest_days": 0.0, "now": lambda: began, **options}
    return Scrub(context, run or f"run-{days}", budget, **given)  # type: ignore[arg-type]


def found(scrub: Scrub) -> list[Finding]:
    with closing(scrub.findings()) as findings:
        return list(findings)


def outcomes(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(one.rec_id, one.outcome) for one in findings]


def put(lab: Lab, rec_id: str, path: str, content: bytes) -> None:
    """Writes over an object, which nobody should be able to do."""
    key = f"recordings/{rec_id}/{path}"
    lab.raw.multipart_client.put_object(Bucket=lab.raw.name, Key=key, Body=bytearray(content))


def delete(lab: Lab, rec_id: str, path: str) -> None:
    lab.raw.multipart_client.delete_object(Bucket=lab.raw.name, Key=f"recordings/{rec_id}/{path}")


def noon(lab: Lab) -> float:
    """How many days from now it is noon: for what must not fall on two days."""
    return 1.5 - (time.time() % DAY) / DAY


# Order


def test_what_was_verified_longest_ago_comes_first_and_what_was_read_comes_last(lab: Lab):
    ingested(lab, SECOND, FIRST, THIRD)
    assert outcomes(found(a_scrub(lab))) == [(one, "sound") for one in (SECOND, FIRST, THIRD)]
    note(lab.assets, MONTH, {FIRST: Read(time.time() + 5, time.time() + 5, "somebody")})

    again = a_scrub(lab, 1)
    assert outcomes(found(again)) == [(one, "sound") for one in (SECOND, THIRD, FIRST)]

    reads = read_month(lab.assets, MONTH)
    assert set(reads) == {FIRST, SECOND, THIRD}
    assert all(one.at == one.sound_at == again.now() and one.by.startswith("scrub run-1") for one in reads.values())
    assert again.oldest_before is not None
    assert again.oldest_before < again.now() - DAY * 0.9
    assert again.oldest_after == again.now()
    assert (again.spent.bytes, again.ended) == (3_000, "nothing more is due")


def test_what_was_read_lately_is_not_due(lab: Lab):
    ingested(lab, FIRST)

    assert found(a_scrub(lab, 29.9, rest_days=30)) == []
    assert outcomes(found(a_scrub(lab, 30.1, rest_days=30))) == [(FIRST, "sound")]
    assert found(a_scrub(lab, 60, rest_days=30)) == []


def test_what_was_registered_by_sizes_alone_has_never_been_verified(lab: Lab, tmp_path: Path):
    ingested(lab, FIRST)
    upload_as_rig(lab, write_recording(tmp_path, SECOND, files_of(SECOND)))
    lab.data.ingest_from_r2(rec_id=SECOND)

    first, second = found(a_scrub(lab))

    assert [(one.rec_id, one.due.sound_at is None) for one in (first, second)] == [(SECOND, True), (FIRST, False)]
    assert first.found is not None
    assert first.found.recorded


def test_a_month_of_which_nothing_can_be_due_is_not_read(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    others = [f"rec_2026{month:02}01_195621_b1dd" for month in (1, 2, 3)]
    ingested(lab, *others)
    found(a_scrub(lab))
    assert set(read_state(lab.assets).floors) == {"2026-01", "2026-02", "2026-03"}
    note(lab.assets, "2026-02", {others[1]: Read(time.time() + 9, time.time() + 9, "somebody")})
    opened: list[str] = []
    monkeypatch.setattr(queue, "read_month", lambda assets, month: opened.append(month) or read_month(assets, month))

    budget = Amount(1_000, 10**6)
    assert outcomes(found(a_scrub(lab, 400, budget))) == [(others[0], "sound")]

    # The one whose turn it is by the day is looked through in any case.
    assert len(set(opened)) <= 3
    assert opened.count("2026-01") == 1


# Budget


def test_a_days_budget_of_bytes_holds_for_all_runs_of_that_day_and_the_next_day_goes_on(lab: Lab):
    ingested(lab, FIRST, SECOND, THIRD)
    budget, day = Amount(2_500, 10**6), noon(lab)

    one, two, next_day = (a_scrub(lab, day + later, budget) for later in (0, 0.1, 1))

    assert [rec_id for rec_id, _ in outcomes(found(one))] == [FIRST, SECOND]
    assert one.ended == "the day's budget is used up"
    assert found(two) == []
    assert [rec_id for rec_id, _ in outcomes(found(next_day))] == [THIRD, FIRST]


def test_a_days_budget_of_requests_holds(lab: Lab):
    ingested(lab, FIRST, SECOND, THIRD, count=20)
    scrub = a_scrub(lab, budget=Amount(10**9, 60))

    assert [rec_id for rec_id, _ in outcomes(found(scrub))][:1] == [FIRST]
    assert 0 < scrub.spent.requests <= 60


def test_requests_are_counted_as_they_are_made(lab: Lab, detour: Detour):
    large = {"mic/seg_0000.wav": b"s" * 100, CAMERA: b"video" * 4_000_000}
    lab.data.ingest(source_dir=write_recording(lab.nas, FIRST, large))
    context = replace(detour.interface().ingest_context(raw_role="raw_ro"), recordings_at_once=1)
    scrub = Scrub(context, "counted", PLENTY, rest_days=0)

    (finding,) = found(scrub)

    made = [one.request for one in detour.proxy.seen if FIRST in one.request]
    entry_and_marker_beside = 2
    assert finding.outcome == "sound"
    assert len(made) <= scrub.spent.requests <= len(made) + entry_and_marker_beside
    assert scrub.spent.bytes == 20_000_100


@pytest.mark.parametrize("runs", [("one", "two"), ("one", "one")])
def test_two_runs_at_once_share_one_budget(lab: Lab, runs: tuple[str, str]):
    ingested(lab, FIRST, SECOND, THIRD)
    budget, day = Amount(2_500, 10**6), noon(lab)
    # A step that is tried again has the name of its run.
    one, two = (a_scrub(lab, day, budget, run) for run in runs)

    with closing(one.findings()) as first, closing(two.findings()) as second:
        assert next(first).rec_id == next(second).rec_id == FIRST
        rest = [*first, *second]

    assert one.spent.bytes + two.spent.bytes == 2_000
    assert rest == []
    assert read_state(lab.assets).used.bytes == 2_000


def test_a_large_recording_goes_on_where_the_budget_ended_and_counts_from_its_first_day(lab: Lab):
    ingested(lab, FIRST, count=5)
    budget, day = Amount(2_500, 10**6), noon(lab)

    told = [found(a_scrub(lab, day + later, budget)) for later in (0, 1, 2)]

    assert [outcomes(some) for some in told] == [
        [(FIRST, "part")],
        [(FIRST, "part")],
        [(FIRST, "sound")],
    ]
    assert [some[0].cost.bytes for some in told] == [2_000, 2_000, 1_000]
    (read,) = read_month(lab.assets, MONTH).values()
    assert read.sound_at == read.at == pytest.approx(told[0][0].began)


def test_a_file_larger_than_a_days_budget_is_read_all_the_same_and_the_next_days_read_less(lab: Lab):
    lab.data.ingest(source_dir=write_recording(lab.nas, FIRST, files_of(FIRST, size=2_500)))
    ingested(lab, SECOND)
    budget, day = Amount(1_000, 10**6), noon(lab)

    told = [outcomes(found(a_scrub(lab, day + later, budget))) for later in (0, 1, 2)]

    # 2,500 bytes are two and a half days: half of the third is left, which is not enough for 1,000 bytes.
    assert told == [[(FIRST, "sound")], [], []]
    assert outcomes(found(a_scrub(lab, day + 3, budget))) == [(SECOND, "sound")]


def test_midnight_begins_a_new_budget_within_a_run(lab: Lab):
    clock = [10 * DAY - 60]
    purse = Purse(lab.assets, "run", Amount(100, 100), lambda: clock[0])
    under_way = purse.take(Amount(60, 1), Amount(60, 1))
    assert under_way is not None
    assert purse.take(Amount(60, 1), Amount(60, 1)) is None

    clock[0] += 120

    # What was begun before midnight and is not done counts for the new day.
    assert purse.take(Amount(60, 1), Amount(60, 1)) is None
    purse.give_back(under_way, Amount(10, 1))
    assert purse.take(Amount(60, 1), Amount(60, 1)) is not None
    purse.close()
    assert read_state(lab.assets).used == Amount(70, 2)


def test_runs_that_draw_at_once_never_draw_more_than_there_is(lab: Lab):
    budget, got = Amount(1_000, 1_000), []

    def draw(run: str) -> None:
        purse = Purse(lab.assets, run, budget, lambda: 5 * DAY)
        while (taken := purse.take(Amount(70, 1), Amount(70, 1))) is not None:
            got.append(taken.bytes)
            purse.give_back(taken, taken)

    threads = [threading.Thread(target=draw, args=(f"run {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 700 <= sum(got) <= 1_000


def test_the_budget_is_in_the_profile_as_a_size_or_a_number(tmp_path: Path):
    profile = tmp_path / "profile.yaml"
    profile.write_text("scrub: {bytes_per_day: 1.5TB, requests_per_day: 7}")
    assert load_profile("local", profile).scrub.bytes_per_day == 1_500 * 10**9
    assert load_profile("r2").scrub.bytes_per_day == 200 * 10**9
    profile.write_text("scrub: {bytes_per_day: 0}")
    with pytest.raises(ProfileInvalid, match=r"scrub\.bytes_per_day"):
        load_profile("local", profile)


# The ledger


def test_a_ledger_that_many_write_at_once_loses_nothing(lab: Lab):
    names = [f"rec_20260520_1956{number:02}_b1dd" for number in range(16)]
    threads = [threading.Thread(target=note, args=(lab.assets, MONTH, {name: Read(1.0, 1.0, name)})) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    note(lab.assets, MONTH, {names[0]: Read(0.5, None, "late")})

    assert read_month(lab.assets, MONTH) == {name: Read(1.0, 1.0, name) for name in names}


@pytest.mark.parametrize("harm", [lambda raw: b"", lambda raw: raw[:-9], lambda raw: raw[:20] + b"\xff" + raw[21:]])
def test_a_damaged_ledger_only_means_that_things_are_read_again(lab: Lab, harm: Callable[[bytes], bytes]):
    ingested(lab, FIRST, SECOND)
    found(a_scrub(lab))
    for name in ("state.json", f"{MONTH}.jsonl.gz"):
        raw, info = lab.assets.get(f"ursa/scrub/{name}")
        lab.assets.replace(info.key, harm(raw), info.etag)

    assert read_month(lab.assets, MONTH) == {}
    assert outcomes(found(a_scrub(lab, 1))) == [(FIRST, "sound"), (SECOND, "sound")]
    assert set(read_month(lab.assets, MONTH)) == {FIRST, SECOND}
    lab.check_invariants()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["scrub.read", "scrub.noted"])
def test_a_run_that_is_killed_spends_no_more_than_it_drew_and_the_next_one_goes_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, moment: str
):
    ingested(lab, FIRST, SECOND)
    budget, day = Amount(100_000, 10**6), noon(lab)
    reached: list[str] = []

    def die(name: str) -> None:
        reached.append(name)
        if reached.count(moment) == (2 if moment == "scrub.read" else 1):
            # Nothing that would be done on the way out is done.
            patch.setattr(run, "change_state", lambda *_: None)
            patch.setattr(run, "note", lambda *_: None)
            patch.setattr(Purse, "close", lambda _: None)
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "reached", die)
        with pytest.raises(Killed):
            found(a_scrub(lab, day, budget, "killed"))
    used = read_state(lab.assets).used.bytes
    again = a_scrub(lab, day, budget, "again", rest_days=0.1)

    assert 2_000 <= used <= 2_000 + 2 * budget.bytes // 50
    assert {rec_id for rec_id, _ in outcomes(found(again))} == ({FIRST, SECOND} if moment == "scrub.read" else set())
    assert set(read_month(lab.assets, MONTH)) == {FIRST, SECOND}


# Failures


@pytest.mark.parametrize(
    ("harm", "kinds", "told"),
    [
        (lambda lab: delete(lab, FIRST, MIC), {"missing"}, "listed but not in the bucket"),
        (lambda lab: put(lab, FIRST, MIC, b"x" * 1_000), {"bytes"}, "has SHA-256"),
        (lambda lab: put(lab, FIRST, MIC, b"x"), {"size"}, "has 1 bytes in the bucket"),
        (lambda lab: put(lab, FIRST, "manifest.json", b"{"), set(), "manifest.json"),
    ],
)
def test_a_failure_is_told_with_its_evidence_and_looked_at_first_from_then_on(
    lab: Lab, harm: Callable[[Lab], None], kinds: set[str], told: str
):
    ingested(lab, FIRST, SECOND)
    good, info = lab.raw.get(f"recordings/{FIRST}/{MIC}")
    manifest, _ = lab.raw.get(f"recordings/{FIRST}/manifest.json")
    harm(lab)

    first, second = found(a_scrub(lab, rest_days=0))

    assert outcomes([first, second]) == [(FIRST, "failed"), (SECOND, "sound")]
    assert {one.kind for one in first.wrong} == kinds
    assert told in first.problems[0]
    assert first.due.sound_at is not None
    for one in first.wrong:
        assert (one.path, one.expected_size, len(one.expected_sha256 or "")) == (MIC, 1_000, 64)
        assert one.found_sha256 != one.expected_sha256
        assert one.kind == "missing" or (one.etag and one.etag != info.etag)
    assert read_month(lab.assets, MONTH)[FIRST].sound_at == first.due.sound_at
    # It is told again each day, though nothing else is due; and no more once somebody has mended it.
    (again,) = found(a_scrub(lab, 1, rest_days=30))
    assert (again.outcome, again.cost.bytes) == ("failed", 2_000 if kinds == {"bytes"} else 0)
    put(lab, FIRST, MIC, good)
    put(lab, FIRST, "manifest.json", manifest)
    assert outcomes(found(a_scrub(lab, 2, rest_days=30))) == [(FIRST, "sound")]
    assert read_state(lab.assets).unsound == {}


def test_a_recording_with_very_many_damaged_objects_is_free_again_only_once_all_are_sound(lab: Lab):
    good = files_of(FIRST, count=102)
    ingested(lab, FIRST, count=102)
    for path in list(good)[:101]:
        put(lab, FIRST, path, b"#" * 1_000)
    assert outcomes(found(a_scrub(lab))) == [(FIRST, "failed")]
    for path in list(good)[:100]:
        put(lab, FIRST, path, good[path])

    assert outcomes(found(a_scrub(lab, 1, rest_days=30))) == [(FIRST, "failed")]


def test_what_stays_damaged_does_not_keep_all_else_from_being_read(lab: Lab):
    ingested(lab, FIRST, SECOND)
    ingested(lab, THIRD, count=10)
    for path in files_of(THIRD, count=10):
        put(lab, THIRD, path, b"#" * 1_000)
    day, small = noon(lab), Amount(4_000, PLENTY.requests)
    assert outcomes(found(a_scrub(lab, day))) == [(FIRST, "sound"), (SECOND, "sound"), (THIRD, "failed")]

    # What costs more than half of a day comes after all that is due, and then all of it is read.
    due = found(a_scrub(lab, day + 40, small, rest_days=30))
    nothing_due = found(a_scrub(lab, day + 41, small, rest_days=30))

    assert outcomes(due)[:2] == [(FIRST, "sound"), (SECOND, "sound")]
    assert outcomes(nothing_due)[-1] == (THIRD, "failed")


def test_what_nothing_attests_is_not_noted_as_found_sound(lab: Lab, tmp_path: Path):
    content = files_of(FIRST)[MIC]
    directory = write_recording(tmp_path, FIRST, {MIC: content})
    listed = {"recording_id": FIRST, "files": [{"path": MIC, "size_bytes": len(content)}]}
    (directory / "manifest.json").write_text(json.dumps(listed))
    upload_as_rig(lab, directory)
    lab.data.ingest_from_r2(rec_id=FIRST)
    put(lab, FIRST, MIC, b"#" * len(content))

    (read,) = found(a_scrub(lab))

    assert "nothing attests the bytes of 1 files" in read.remarks[0]
    assert read_month(lab.assets, MONTH)[FIRST].sound_at is None


def test_a_row_that_says_something_else_is_a_failure(lab: Lab):
    ingested(lab, FIRST)
    (row,) = lab.data.list_modalities()
    fields = row.model_dump(exclude={"recording_hash", "modality", "format", "worker_id", "segment_count"})
    lab.data.register_modality(
        recording_hash=row.recording_hash,
        modality=row.modality,
        format=row.format,
        on_conflict="overwrite",
        segment_count=7,
        **{name: value for name, value in fields.items() if value is not None},
    )

    (finding,) = found(a_scrub(lab))

    assert finding.outcome == "failed"
    assert "says (7, 1000)" in finding.problems[0]


def test_an_ingest_that_is_under_way_is_no_failure_but_other_bytes_are(lab: Lab):
    ingested(lab, FIRST, count=2)
    delete(lab, FIRST, MIC)
    scrub, later = a_scrub(lab), a_scrub(lab, 2)
    for one in (scrub, later):
        one.context = replace(one.context, reconstruct_after_bucket=DAY)

    assert outcomes(found(scrub)) == [(FIRST, "settling")]
    assert outcomes(found(later)) == [(FIRST, "failed")]

    ingested(lab, SECOND)
    put(lab, SECOND, MIC, b"x" * 1_000)
    scrub = a_scrub(lab)
    scrub.context = replace(scrub.context, reconstruct_after_bucket=DAY)
    assert dict(outcomes(found(scrub)))[SECOND] == "failed"


class FlippedOnce(Fault):
    """An answer whose body has a bit that flipped on the way, once."""

    def __init__(self) -> None:
        self.flipped = 0

    def answered(self, request: str, answer: Answer) -> Answer:
        if request.startswith("GET") and MIC in request and not self.flipped:
            self.flipped += 1
            status, headers, body = answer
            return status, headers, body[:-1] + bytes([body[-1] ^ 1])
        return answer


def test_a_bit_that_flips_on_the_way_is_no_failure(lab: Lab, detour: Detour):
    ingested(lab, FIRST)
    detour.proxy.fault = fault = FlippedOnce()
    context = replace(detour.interface().ingest_context(raw_role="raw_ro"), reconstruct_after_bucket=0)

    (finding,) = found(Scrub(context, "run", PLENTY, rest_days=0))

    assert fault.flipped == 1
    assert (finding.outcome, finding.cost.bytes) == ("sound", 2_000)
    assert "once, and not when it was read again" in finding.remarks[0]


def test_what_nobody_foresaw_with_one_recording_does_not_stop_the_others(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    ingested(lab, FIRST, SECOND)
    put(lab, FIRST, MIC, b"x" * 1_000)
    verify = reading.verify

    def fails(context: object, rec_id: str, **options: object) -> Verification:
        if rec_id == FIRST:
            raise RuntimeError("Aria Lin")
        return verify(context, rec_id, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reading, "verify", fails)

    first, second = found(a_scrub(lab))

    assert outcomes([first, second]) == [(FIRST, "unread"), (SECOND, "sound")]
    assert isinstance(first.error, UrsaError)
    assert "Aria" not in str(first.error)


def failing_for(rec_ids: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    verify = reading.verify

    def unless_unavailable(context: object, rec_id: str, **options: object) -> Verification:
        if rec_id in rec_ids:
            raise StoreUnavailable("it is overloaded", recording=rec_id)
        return verify(context, rec_id, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reading, "verify", unless_unavailable)


def test_a_transient_error_is_no_failure_until_it_stays_where_others_can_be_read(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    ingested(lab, FIRST, SECOND)
    failing_for({FIRST}, monkeypatch)

    told = [dict(outcomes(found(a_scrub(lab, day)))) for day in range(4)]

    assert [one[FIRST] for one in told] == ["unread", "unread", "failed", "failed"]
    assert [one.get(SECOND) for one in told] == ["sound"] * 4


def test_a_store_that_is_down_ends_the_run_and_counts_for_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    names = [f"rec_20260520_1956{number:02}_b1dd" for number in range(9)]
    ingested(lab, *names)
    failing_for(set(names), monkeypatch)

    for day in range(3):
        with pytest.raises(StoreUnavailable):
            found(a_scrub(lab, day))

    assert (read_state(lab.assets).unread, read_state(lab.assets).unsound) == ({}, {})


def test_many_that_cannot_be_read_do_not_keep_others_from_being_read(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    unreadable, readable = [f"rec_20260520_1956{number:02}_b1dd" for number in range(9)], "rec_20260520_195700_b1dd"
    ingested(lab, *unreadable, readable)
    failing_for(set(unreadable), monkeypatch)

    outcomes = {one.rec_id: one.outcome for one in found(a_scrub(lab))}

    assert outcomes[readable] == "sound"
    assert {outcomes[rec_id] for rec_id in unreadable} == {"unread"}
    assert read_state(lab.assets).unread == dict.fromkeys(unreadable, 1)


def test_when_very_many_fail_the_run_ends(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    ingested(lab, FIRST, SECOND, THIRD)
    for rec_id in (FIRST, SECOND, THIRD):
        delete(lab, rec_id, MIC)
    monkeypatch.setattr(run, "FAILURES_AT_MOST", 2)
    scrub = a_scrub(lab)

    assert len(found(scrub)) == 2
    assert "2 recordings failed" in scrub.ended


def test_a_preview_reads_and_writes_nothing(lab: Lab):
    ingested(lab, FIRST, SECOND, THIRD)
    before = lab.everything()

    dues = a_scrub(lab, budget=Amount(2_500, 10**6)).preview()

    assert [(one.rec_id, one.bytes) for one in dues] == [(FIRST, 1_000), (SECOND, 1_000)]
    assert lab.everything() == before


def test_a_stop_ends_it_between_two_chunks_and_is_no_failure(lab: Lab):
    ingested(lab, FIRST, SECOND)
    told: list[Finding] = []
    scrub = a_scrub(lab, should_stop=lambda: len(told) > 0)
    with closing(scrub.findings()) as findings:
        for one in findings:
            told.append(one)

    assert outcomes(told) == [(FIRST, "sound")]
    assert scrub.ended == "a stop was asked for"
    assert math.isclose(scrub.oldest_after or 0, scrub.oldest_before or 0, abs_tol=60)

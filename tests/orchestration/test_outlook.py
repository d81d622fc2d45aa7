"""What a recording has come to, derived from where it is and what became of it."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

import dagster as dg
import pytest
from typer.main import get_command

from ursa_pipelines.cli.main import app
from ursa_pipelines.maintenance.reconciliation import Registered, Sighted, Standing
from ursa_pipelines.orchestration.cases import Case
from ursa_pipelines.orchestration.outlook import Due, State, changed_directories, look_ahead
from ursa_pipelines.orchestration.states import AUTOMATIC_RETRIES, History, Mark
from ursa_pipelines.orchestration.status_lines import StatusLine, evidence, status_line

REC = "rec_20260520_195628_b1dd"
RUNNING, RED = dg.AssetPartitionStatus.IN_PROGRESS, dg.AssetPartitionStatus.FAILED
ON_NAS = Sighted("nas", "2-100-5", bytes=90, changed_at=500.0)
COPIED = Sighted("usb", "1-50-5", blocked="mic/a.wav.part is still being copied")
ROW = Registered("ab" * 32, nodes=("green-mantis",), registered_at=1_000.0)
HALF = replace(ROW, nodes_missing=("green-motor",))
NOWHERE = Standing(REC)
NEW = Standing(REC, on_sources=(ON_NAS,))
STORED = Standing(REC, stored=True)
DONE = Standing(REC, on_sources=(ON_NAS,), stored=True, marked=True, rows=(ROW,))
NO_HISTORY = History(REC)
PASSING = Mark(REC, "failed", "the store is away", retryable=True, fingerprint="2-100-5", at=2_000.0)
ROTTEN = Mark(REC, "quarantined", "rotten", at=2.0)
DAMAGED = Mark(REC, "failed", "the digest is wrong", fingerprint="2-100-5", at=2_000.0)


def after(mark: Mark, attempts: int = 1) -> History:
    return History(REC, last=mark, attempts=attempts)


@pytest.mark.parametrize(
    ("standing", "history", "state", "due", "reason"),
    [
        (NEW, NO_HISTORY, "waiting", "arrive", "not ingested yet"),
        (Standing(REC, on_sources=(COPIED,)), NO_HISTORY, "waiting", "", "mic/a.wav.part is still being copied"),
        (replace(NEW, on_sources=(ON_NAS, COPIED)), NO_HISTORY, "waiting", "", "being copied"),
        (STORED, NO_HISTORY, "waiting", "arrive", "in the bucket, not registered"),
        (replace(STORED, unknown_on=("usb",)), NO_HISTORY, "waiting", "", "usb cannot be read"),
        (Standing(REC, marked=True), NO_HISTORY, "waiting", "", "no bytes yet"),
        (NOWHERE, History(REC, fingerprint="2-100-5", registered_at=5.0), "waiting", "", "in no catalog"),
        (DONE, NO_HISTORY, "registered", "", ""),
        (DONE, History(REC, fingerprint="2-100-5", registered_at=5.0), "registered", "", ""),
        (DONE, History(REC, fingerprint="2-100-4", registered_at=5.0), "waiting", "arrive", "changed since"),
        (replace(DONE, rows=(HALF,)), NO_HISTORY, "partial", "", "1 of 2 nodes; missing: green-motor"),
        (NEW, after(PASSING), "failed", "arrive", "attempt 1 of 4: the store is away"),
        (NEW, after(PASSING, 3), "failed", "arrive", "attempt 3 of 4"),
        (NEW, after(PASSING, 1 + AUTOMATIC_RETRIES), "quarantined", "quarantine", "attempt 4 of 4"),
        (Standing(REC, unknown_on=("usb",)), after(PASSING), "failed", "", "not now: usb cannot be read"),
        (NEW, after(DAMAGED), "quarantined", "quarantine", "the digest is wrong"),
        (NEW, after(replace(DAMAGED, fingerprint="2-100-4")), "failed", "arrive", "changed since"),
        (NEW, after(replace(DAMAGED, fingerprint="")), "quarantined", "quarantine", "the digest is wrong"),
        (NEW, after(replace(DAMAGED, fingerprint="", at=499.0)), "failed", "arrive", "changed since"),
        (Standing(REC, unknown_on=("usb",)), after(DAMAGED), "failed", "", "usb cannot be read"),
        (NEW, History(REC, quarantined=Mark(REC, "quarantined", "damaged")), "quarantined", "", "damaged"),
        (NEW, after(Mark(REC, "retried", at=9.0)), "waiting", "arrive", "retry asked for"),
        (NEW, after(Mark(REC, "waiting", "the upload was interrupted")), "waiting", "arrive", "interrupted"),
        (NEW, History(REC, waived=Mark(REC, "waived", "a test")), "waived", "", "a test"),
        (replace(DONE, rows=(HALF,)), History(REC, waived=Mark(REC, "waived", "lost")), "waived", "", "lost"),
        (
            NEW,
            History(REC, waived=Mark(REC, "waived", "lost", at=1.0), quarantined=ROTTEN),
            "quarantined",
            "",
            "rotten",
        ),
        (NEW, History(REC, waived=Mark(REC, "waived", "lost", at=3.0), quarantined=ROTTEN), "waived", "", "lost"),
    ],
)
def test_a_state_has_its_reason_and_what_is_due(
    standing: Standing, history: History, state: State, due: Due, reason: str
):
    outlook = look_ahead(standing, history)

    assert (outlook.state, outlook.due) == (state, due)
    assert reason in outlook.reason


@pytest.mark.parametrize("history", [NO_HISTORY, after(PASSING), History(REC, waived=Mark(REC, "waived", "a test"))])
def test_what_a_run_has_is_running_and_left_alone(history: History):
    assert look_ahead(NEW, history, RUNNING).state == "running"
    assert look_ahead(NEW, history, RUNNING).due == ""


def test_fault_3_a_run_that_died_without_a_word_is_a_failure_to_try_again():
    outlook = look_ahead(NEW, NO_HISTORY, RED)

    assert (outlook.state, outlook.due, outlook.attempts, outlook.retryable) == ("failed", "arrive", 1, True)
    assert outlook.is_untold


@pytest.mark.parametrize("kind", ["retried", "waiting", "failed"])
def test_a_run_that_died_after_the_last_mark_is_counted_until_it_is_set_aside(kind):
    marked = after(Mark(REC, kind, retryable=True, at=9.0), 2)

    died = look_ahead(NEW, marked, RED, run_began=10.0)
    assert (died.state, died.due, died.attempts, died.is_untold) == ("failed", "arrive", 3, True)
    assert look_ahead(NEW, replace(marked, attempts=3), RED, run_began=10.0).due == "quarantine"
    assert not look_ahead(NEW, marked, RED, run_began=8.0).is_untold
    assert not look_ahead(NEW, marked, run_began=10.0).is_untold


def test_what_waited_in_a_run_that_failed_for_others_has_not_failed():
    waited = after(Mark(REC, "waiting", "still being copied", at=9.0), 0)

    assert look_ahead(NEW, waited, RED).state == "waiting"


def test_an_ingest_by_hand_overtakes_what_failed_before_it():
    assert look_ahead(DONE, after(replace(DAMAGED, at=999.0))).state == "registered"
    assert look_ahead(DONE, after(replace(DAMAGED, at=1_001.0))).state == "quarantined"


def test_an_ingest_by_hand_lifts_a_quarantine():
    mended = Mark(REC, "quarantined", "the digest is wrong", at=999.0)

    assert look_ahead(DONE, History(REC, last=mended, quarantined=mended)).state == "registered"


def test_no_row_from_before_it_and_no_later_failure_lifts_a_quarantine():
    withdrawn = Mark(REC, "quarantined", "withdrawn", by="someone@desk", at=1_001.0)

    for last in (withdrawn, PASSING):
        outlook = look_ahead(DONE, History(REC, last=last, quarantined=withdrawn))
        assert (outlook.state, outlook.due, outlook.reason) == ("quarantined", "", "withdrawn")


def test_what_was_registered_while_the_catalog_was_read_is_registered():
    history = History(REC, fingerprint="2-100-5", registered_at=100.0)

    assert look_ahead(NEW, history, since=99.0).state == "registered"
    assert look_ahead(NEW, history, since=101.0).due == "arrive"


def test_a_copy_that_is_gone_or_not_plugged_in_is_no_change():
    both = replace(NEW, on_sources=(ON_NAS, replace(COPIED, blocked="")))

    assert changed_directories(both, "2-100-5+1-50-5") == []
    assert changed_directories(NEW, "2-100-5+1-50-5") == []
    assert changed_directories(both, "2-100-5") == [both.on_sources[1]]
    assert changed_directories(both, "") == list(both.on_sources)


def told(standing: Standing, history: History = NO_HISTORY, status=None, *, is_automatic: bool = False) -> StatusLine:
    return status_line(Case(standing, history, look_ahead(standing, history, status)), is_automatic=is_automatic)


REFUSED = Sighted("usb", refused=f"{REC}: mic/link: it is a symbolic link.")
TWICE = replace(DONE, rows=(ROW, replace(ROW, recording_hash="cd" * 32)))
UNMARKED = replace(DONE, marked=False, rows=(replace(ROW, ingested_from="nas"),))
FIND = "Find the drive that has it and mount it"
INGEST, RETRY, BACKFILL = (f"`ursa {verb} {REC}`" for verb in ("ingest", "retry", "backfill"))
NAMES = f"`ursa verify {REC}` names the files that"
VERIFY = f"`ursa verify {REC} --deep`"
WAIVE = f'`ursa waive {REC} --reason "..."`'
OTHER = "Bring the drive of green-motor"
USB_AWAY = ("usb",)
SET_ASIDE = History(REC, quarantined=Mark(REC, "quarantined", "damaged", at=2_000.0))
WAIVED = History(REC, waived=Mark(REC, "waived", "a test"))


STEPS: list[tuple[Standing, History, str, str]] = [
    (NEW, NO_HISTORY, "waiting", f"{INGEST}."),
    (replace(NEW, on_sources=(COPIED,)), NO_HISTORY, "waiting", f"Wait until it is whole on usb, then {INGEST}."),
    (replace(NEW, on_sources=(REFUSED,)), NO_HISTORY, "waiting", f"Mend the directory, then {INGEST}."),
    (STORED, NO_HISTORY, "waiting", f"{INGEST}."),
    (replace(STORED, unknown_on=USB_AWAY), NO_HISTORY, "waiting", f"Mount usb, then {INGEST}."),
    (Standing(REC, marked=True), NO_HISTORY, "waiting", f"Bring the drive that has it, then {INGEST}."),
    (NOWHERE, NO_HISTORY, "unknown", "Mount the drive that has it, or check the id."),
    (replace(NOWHERE, unknown_on=USB_AWAY), NO_HISTORY, "unknown", "Mount usb, or check the id."),
    (replace(DONE, stored=False), NO_HISTORY, "lost", f"{INGEST} sends the copy on nas."),
    (replace(DONE, stored=False, on_sources=(), unknown_on=USB_AWAY), NO_HISTORY, "lost", f"Mount usb, then {INGEST}."),
    (replace(DONE, stored=False, on_sources=()), NO_HISTORY, "lost", f"{FIND}, then {INGEST}."),
    (replace(DONE, stored=False), SET_ASIDE, "lost", f"{RETRY} sends the copy on nas."),
    (NOWHERE, History(REC, registered_at=5.0), "lost", f"{FIND}, then {INGEST}."),
    (TWICE, NO_HISTORY, "contradiction", f"`ursa verify {REC}` tells which row the files are of."),
    (UNMARKED, NO_HISTORY, "contradiction", f"{INGEST} writes the marker."),
    (replace(UNMARKED, on_sources=()), NO_HISTORY, "contradiction", f"{VERIFY} settles it if every byte is right."),
    (replace(DONE, rows=(HALF,)), NO_HISTORY, "partial", f"{OTHER}, then {INGEST}; or {WAIVE}."),
    (NEW, after(PASSING), "failed", f"{RETRY}."),
    (NEW, after(replace(DAMAGED, fingerprint="2-100-4")), "failed", f"{RETRY}."),
    (Standing(REC, unknown_on=USB_AWAY), after(DAMAGED), "failed", f"Mount usb, then {RETRY}."),
    (NEW, SET_ASIDE, "quarantined", f"Mend it, then {RETRY}."),
    (DONE, History(REC, fingerprint="2-100-4", registered_at=5.0), "waiting", f"{BACKFILL}."),
    (NEW, after(Mark(REC, "retried", at=9.0)), "waiting", f"{BACKFILL}."),
    (replace(DONE, rows=(replace(ROW, bytes=9),), stored_bytes=8), NO_HISTORY, "lost", f"{NAMES} are gone."),
    (NEW, History(REC, waived=Mark(REC, "waived", "a test")), "waived", "Nothing."),
    (replace(DONE, stored=False), WAIVED, "lost", f"{INGEST} sends the copy on nas."),
    (TWICE, WAIVED, "waived", "Nothing."),
    (DONE, NO_HISTORY, "registered", "Nothing."),
]


@pytest.mark.parametrize(("standing", "history", "state", "step"), STEPS)
def test_every_state_has_one_thing_to_do(standing: Standing, history: History, state: str, step: str):
    line = told(standing, history)

    assert (line.state, line.next_step) == (state, step)


def test_every_command_that_is_proposed_can_be_typed():
    proposed = {command for *_, step in STEPS for command in re.findall("`ursa (.+?)`", step)}

    for command in proposed:
        name, *arguments = shlex.split(command)
        get_command(app).commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
    assert {command.split()[0] for command in proposed} == {"ingest", "retry", "backfill", "verify", "waive"}


def test_a_reason_says_the_recording_its_directory_and_the_writer_once():
    blocked = Sighted("nas", blocked="session.lock is present: the rig is still recording")
    waited = Mark(REC, "waiting", f"{REC}: /mnt/nas/{REC}: {blocked.blocked}. Wait until the copy has finished.")

    reason = told(Standing(REC, on_sources=(blocked,)), after(waited)).reason

    assert reason == f"{blocked.blocked}. Wait until the copy has finished."


@pytest.mark.parametrize(
    ("standing", "history"),
    [
        (NEW, NO_HISTORY),
        (STORED, NO_HISTORY),
        (replace(NEW, on_sources=(COPIED,)), NO_HISTORY),
        (NEW, after(PASSING)),
        (NEW, after(replace(DAMAGED, fingerprint="2-100-4"))),
    ],
)
def test_nobody_is_asked_to_do_what_a_running_dagster_does(standing: Standing, history: History):
    assert told(standing, history, is_automatic=True).next_step.startswith("Nothing: Dagster takes it up")


@pytest.mark.parametrize(
    ("standing", "history"),
    [(replace(NEW, on_sources=(REFUSED,)), NO_HISTORY), (NEW, SET_ASIDE), (replace(DONE, stored=False), NO_HISTORY)],
)
def test_a_running_dagster_does_not_do_what_needs_a_person(standing: Standing, history: History):
    assert REC in told(standing, history, is_automatic=True).next_step


def test_a_run_is_waited_for():
    assert told(replace(DONE, stored=False), NO_HISTORY, RUNNING).next_step == "Nothing: wait for the run."


def test_the_worst_come_first_and_what_may_pass_by_itself_after_what_does_not():
    lines = [
        told(DONE),
        told(NEW, after(PASSING)),
        told(NEW, after(replace(DAMAGED, fingerprint="2-100-4"))),
        told(NEW, SET_ASIDE),
        told(replace(DONE, stored=False)),
        told(NEW),
    ]

    worst_first = [line.state for line in sorted(lines, key=lambda line: line.rank)]

    assert worst_first == ["lost", "quarantined", "failed", "failed", "waiting", "registered"]
    assert lines[2].rank < lines[1].rank


@pytest.mark.parametrize(
    ("standing", "where"),
    [
        (NOWHERE, "nowhere"),
        (replace(NEW, on_sources=(replace(ON_NAS, files=5, bytes=12_000_000),)), "nas 5 files 12 MB"),
        (replace(DONE, on_sources=(), rows=(replace(ROW, verification="sha256"),)), "bucket, marker · catalog sha256"),
        (replace(DONE, on_sources=(), rows=(HALF,), marked=False), "bucket · catalog · 1 of 2 nodes"),
        (replace(TWICE, on_sources=()), "bucket, marker · catalog 2 times"),
        (Standing(REC, marked=True), "bucket: a marker without bytes"),
        (replace(STORED, unknown_on=("usb",)), "usb cannot be read · bucket"),
        (
            replace(DONE, on_sources=(REFUSED,), unknown_on=("nas",)),
            "usb (would be refused) · bucket, marker · catalog",
        ),
    ],
)
def test_the_evidence_tells_where_it_is(standing: Standing, where: str):
    assert evidence(standing) == where

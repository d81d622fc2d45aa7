"""What a recording has come to, derived from where it is and what became of it."""

from __future__ import annotations

from dataclasses import replace

import dagster as dg
import pytest

from ursa_pipelines.maintenance.reconciliation import Registered, Sighted, Standing
from ursa_pipelines.orchestration.outlook import Due, Outlook, State, changed_directories, look_ahead, next_step
from ursa_pipelines.orchestration.states import AUTOMATIC_RETRIES, History, Mark

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
DAMAGED = Mark(REC, "failed", "the digest is wrong", fingerprint="2-100-5", at=2_000.0)


def after(mark: Mark, attempts: int = 1) -> History:
    return History(REC, last=mark, attempts=attempts)


@pytest.mark.parametrize(
    ("standing", "history", "state", "due", "reason"),
    [
        (NEW, NO_HISTORY, "waiting", "arrive", "not ingested yet"),
        (Standing(REC, on_sources=(COPIED,)), NO_HISTORY, "waiting", "", "being copied: mic/a.wav.part"),
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


def test_a_run_that_died_without_a_word_is_a_failure_to_try_again():
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


def test_no_row_and_no_later_failure_lifts_a_quarantine():
    withdrawn = Mark(REC, "quarantined", "withdrawn", by="someone@desk", at=999.0)

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


@pytest.mark.parametrize("state", ["quarantined", "failed", "partial"])
def test_who_must_act_is_told_how(state: State):
    assert REC in next_step(Outlook(REC, state))


def test_nobody_is_asked_to_do_what_happens_by_itself():
    assert REC not in next_step(Outlook(REC, "failed", due="arrive"))
    assert next_step(Outlook(REC, "registered")) == ""

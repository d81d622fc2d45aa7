"""Notices to people: what they say, and that a webhook which fails harms nothing and shows nowhere."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from tests.webhook import SECRET, Webhook
from ursa_pipelines.errors import ContentMismatch, ProfileInvalid, StoreUnavailable
from ursa_pipelines.notifications import (
    CHARACTERS,
    LINES,
    Trouble,
    ingest_begins,
    ingest_ended,
    post,
    quarantined,
    sources_stale,
)
from ursa_pipelines.profiles import Profile, load_profile

RECS = [f"rec_20260520_1956{number:02d}_b1dd" for number in range(60)]

ProfileMaker = Callable[[str | None], Profile]


@pytest.fixture
def profile_with(tmp_path: Path) -> ProfileMaker:
    """The local profile with this webhook."""

    def make(webhook: str | None) -> Profile:
        path = tmp_path / "with_webhook.yaml"
        path.write_text(yaml.safe_dump({"notifications": {"webhook": webhook}}))
        return load_profile("local", path)

    return make


@pytest.fixture(autouse=True)
def no_secret_in_a_log(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever a test does, the URL's secret part is in no log of any level and on no stream."""
    caplog.set_level(logging.DEBUG)
    yield
    assert "xsecretx" not in caplog.text
    assert "xsecretx" not in "".join(capfd.readouterr())


def failed(error: Exception, rec_id: str, retryable: bool = False) -> Trouble:
    return Trouble(rec_id, str(error), type(error).__name__, retryable)


def test_a_notice_is_posted_in_the_format_of_slack(webhook: Webhook, profile_with: ProfileMaker):
    assert post(profile_with(webhook.url), "an *ingest* began")

    assert webhook.bodies == [{"text": "an *ingest* began"}]


def test_without_a_webhook_nothing_is_sent_said_or_logged(
    profile_with: ProfileMaker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)

    assert not post(profile_with(None), "text")

    assert not caplog.records


@pytest.mark.parametrize("passing", [500, 503, 429])
def test_a_webhook_that_fails_once_is_tried_again(passing: int, webhook: Webhook, profile_with: ProfileMaker):
    webhook.answers = [passing]

    assert post(profile_with(webhook.url), "text")

    assert webhook.texts == ["text", "text"]


@pytest.mark.parametrize(("answers", "told"), [([500, 500, 200], "500"), ([404], "404"), ([302], "302")])
def test_a_webhook_that_goes_on_failing_is_a_warning(
    answers: list[int],
    told: str,
    webhook: Webhook,
    profile_with: ProfileMaker,
    caplog: pytest.LogCaptureFixture,
):
    webhook.answers = answers

    assert not post(profile_with(webhook.url), "text")

    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert told in warning.getMessage()
    assert len(webhook.bodies) == (2 if told == "500" else 1)
    assert "/elsewhere" not in webhook.bodies


def test_a_webhook_that_hangs_is_left_after_two_attempts(
    webhook: Webhook, profile_with: ProfileMaker, caplog: pytest.LogCaptureFixture
):
    webhook.answers = [0, 0, 0]
    began = time.monotonic()

    assert not post(profile_with(webhook.url), "text", seconds=0.5)

    assert time.monotonic() - began < 3
    assert len(webhook.bodies) == 2
    assert "in time" in caplog.text


def test_a_webhook_that_refuses_connections_is_a_warning(profile_with: ProfileMaker, caplog: pytest.LogCaptureFixture):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    assert not post(profile_with(f"http://127.0.0.1:{port}/services/{SECRET}"), "text")

    assert "cannot be reached" in caplog.text


def play_op(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Puts a program `op` first on PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    op = programs / "op"
    op.write_text(f"#!{sys.executable} -IS\nimport sys, time\n{body}\n")
    op.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


def test_the_url_comes_from_1password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, webhook: Webhook, profile_with: ProfileMaker
):
    play_op(tmp_path, monkeypatch, f"if sys.argv[3] == 'op://Lab/Slack/webhook': print({webhook.url!r})")

    assert post(profile_with("op://Lab/Slack/webhook"), "text")

    assert webhook.texts == ["text"]


@pytest.mark.parametrize("given", [f"http://hooks.example/{SECRET}", SECRET, f"ftp://hooks.example/{SECRET}"])
def test_what_1password_holds_must_be_a_url_that_keeps_the_secret(
    given: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    profile_with: ProfileMaker,
    caplog: pytest.LogCaptureFixture,
):
    play_op(tmp_path, monkeypatch, f"print({given!r})")

    assert not post(profile_with("op://Lab/Slack/webhook"), "text")

    assert "op://Lab/Slack/webhook" in caplog.text


def test_1password_that_hangs_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile_with: ProfileMaker, caplog: pytest.LogCaptureFixture
):
    play_op(tmp_path, monkeypatch, "time.sleep(5)")
    began = time.monotonic()

    assert not post(profile_with("op://Lab/Slack/webhook"), "text", seconds=0.2)

    assert time.monotonic() - began < 3
    assert "no answer in time" in caplog.text


@pytest.mark.parametrize("url", [f"https://hooks.slack.com/services/{SECRET}", f"http://10.0.0.1/{SECRET}", SECRET])
def test_a_profile_with_a_secret_url_is_refused_without_repeating_it(url: str, profile_with: ProfileMaker):
    with pytest.raises(ProfileInvalid) as refused:
        profile_with(url)

    assert "notifications.webhook" in str(refused.value)
    assert "xsecretx" not in str(refused.value) + repr(vars(refused.value))


def test_the_webhook_is_not_in_what_a_profile_shows(profile_with: ProfileMaker):
    assert "xsecretx" not in repr(profile_with(f"http://127.0.0.1:9/{SECRET}"))


def test_the_beginning_of_a_large_ingest_says_who_what_and_until_when():
    told = ingest_begins(
        "r2",
        "lab@rig-7",
        1200,
        2_500_000_000,
        measured=100,
        sources=["nas", "usb"],
        rate="5.0MB/s",
        until=datetime(2026, 5, 20, 18, 30),
    )

    assert told.splitlines() == [
        "*Ingest begins* (r2): 1,200 recordings, the first 100 of them 2.5GB, from nas, usb",
        "It runs as lab on rig-7.",
        "Uploads go at 5.0MB/s, so until about Wed 20 May 18:30.",
    ]


def test_the_beginning_says_no_more_than_is_known():
    assert ingest_begins("local", "me@here", 7, 7_000) == (
        "*Ingest begins* (local): 7 recordings, 7.0KB\nIt runs as me on here."
    )


def test_failures_are_grouped_by_cause_with_what_to_do():
    damaged = [failed(ContentMismatch("its digest differs", recording=rec), rec) for rec in RECS[:7]]
    unreachable = [failed(StoreUnavailable("no answer", recording=rec), rec, True) for rec in RECS[7:40]]

    told = ingest_ended("r2", 960, [*unreachable, *damaged], waiting=2, unknown=1, runs=10)

    head, *groups = told.splitlines()
    assert head.startswith("*Ingest ended* (r2) in 10 runs: 960 registered, *40 failed*, 2 waiting, 1 not done")
    assert groups[0] == f"*ContentMismatch* (7): {', '.join(f'`{rec}`' for rec in RECS[:5])} and 2 more"
    assert groups[1] == f"&gt; its digest differs. {ContentMismatch.remedy}".replace("&gt;", ">")
    assert groups[2].startswith("*StoreUnavailable* (33, tried again by itself): ")
    assert StoreUnavailable.remedy in groups[3]
    assert len(groups) == 4


def test_an_ingest_without_failures_is_one_line():
    assert ingest_ended("r2", 1, []) == "*Ingest ended* (r2): 1 registered"


def test_quarantine_says_how_to_end_it():
    told = quarantined("r2", [failed(ContentMismatch("its digest differs"), RECS[0])])

    assert told.startswith("*Quarantined* (r2): 1 recording, ")
    assert f"`{RECS[0]}`" in told
    assert "`ursa retry REC_ID`" in told


def test_stale_sources_are_named_and_the_longest_waiting_recordings_first():
    hours = {rec: 24.0 + number for number, rec in enumerate(RECS[:8])}

    told = sources_stale("r2", {"usb": "it is not mounted"}, hours)

    assert "*usb* cannot be read: it is not mounted" in told
    assert f"8 recordings not registered so long after: `{RECS[7]}` (31 h), " in told
    assert told.splitlines()[2].endswith("and 3 more")


HOSTILE = "<!channel> <https://evil.example|click> @everyone @here `code` & \n\nnew *line*\x1b[31m \u202egnp"


@pytest.mark.parametrize(
    "told",
    [
        ingest_begins(HOSTILE, HOSTILE, 5, 5, sources=[HOSTILE], rate=HOSTILE),
        ingest_ended(HOSTILE, 0, [Trouble(HOSTILE, HOSTILE, HOSTILE)]),
        quarantined(HOSTILE, [Trouble(HOSTILE, HOSTILE, HOSTILE)]),
        sources_stale(HOSTILE, {HOSTILE: HOSTILE}, {HOSTILE: 30}),
    ],
    ids=["begins", "ended", "quarantined", "stale"],
)
def test_nothing_that_a_recording_says_mentions_links_or_breaks_out(told: str):
    assert "<" not in told
    assert ">" not in told.replace("\n> ", "")
    assert "@everyone" not in told
    assert "@here" not in told
    assert "`code`" not in told
    assert "&amp;" in told
    assert "\x1b" not in told
    assert "\u202e" not in told
    assert not any(line.startswith("new") for line in told.splitlines())


def test_no_notice_is_longer_than_people_read():
    many = [Trouble(rec, "<" * 1000 + " Mend it.", f"Error{number}") for number, rec in enumerate(RECS)]

    for told in (
        ingest_ended("r2", 0, many),
        quarantined("r2", many),
        sources_stale("r2", dict.fromkeys(RECS, ""), {}),
    ):
        assert len(told) <= CHARACTERS
        assert len(told.splitlines()) <= LINES
        assert "and more" in told


def test_a_long_reason_keeps_its_remedy():
    told = ingest_ended("r2", 0, [failed(ContentMismatch("x" * 900), RECS[0])])

    assert told.endswith(ContentMismatch.remedy)
    assert len(told) < 600

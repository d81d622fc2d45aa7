"""A large ingest is announced before its first byte, and how it ended is told whatever happens to it."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from tests.webhook import Webhook
from ursa_pipelines import DataInterface, UploadProgress, announcing
from ursa_pipelines.announcing import needs_announcement, warn_if_silent
from ursa_pipelines.ingest.batch import BatchItem
from ursa_pipelines.ingest.plan import IngestPlan
from ursa_pipelines.profiles import Profile
from ursa_pipelines.profiles.timetable import Timetable

RECS = [f"rec_20260520_1956{number:02d}_b1dd" for number in range(6)]

Opener = Callable[..., DataInterface]


@pytest.fixture(autouse=True)
def no_secret_in_a_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does, the URL's secret part is in no log of any level."""
    caplog.set_level(logging.DEBUG)
    yield
    assert "xsecretx" not in caplog.text


@pytest.fixture
def open_with(lab: Lab) -> Opener:
    """An interface to the lab with this webhook that announces from three recordings on."""

    def opened(webhook: str | None, **settings: str) -> DataInterface:
        document = yaml.safe_load(lab.config.read_text())
        document["notifications"] = {"webhook": webhook, "announce_from": 3}
        document["settings"] |= settings
        lab.config.write_text(yaml.safe_dump(document))
        return lab.interface()

    return opened


def write(root: Path, count: int) -> list[Path]:
    """Recordings of 100 bytes each."""
    return [write_recording(root, rec_id, {"mic/seg_0000.wav": rec_id.encode().ljust(100)}) for rec_id in RECS[:count]]


def test_a_large_ingest_is_announced_before_its_first_byte_and_after_its_last(
    lab: Lab, webhook: Webhook, open_with: Opener
):
    directories = write(lab.nas, 3)
    at_the_first_byte: list[int] = []

    def progress(rec_id: str, progress: UploadProgress) -> None:
        at_the_first_byte.append(len(webhook.texts))

    open_with(webhook.url, bandwidth="1KB/s").ingest_many(directories, progress=progress)

    begins, ended = webhook.texts
    assert set(at_the_first_byte) == {1}
    assert begins.startswith("*Ingest begins* (lab): 3 recordings, 300B, from nas\nIt runs as ")
    assert "Uploads go at 1.0KB/s, so until about " in begins
    assert ended == "*Ingest ended* (lab): 3 registered"


def test_a_small_ingest_is_no_news(lab: Lab, webhook: Webhook, open_with: Opener):
    open_with(webhook.url).ingest_many(write(lab.nas, 2))

    assert webhook.texts == []


def test_what_is_registered_already_is_not_counted(lab: Lab, webhook: Webhook, open_with: Opener):
    directories = write(lab.nas, 5)
    lab.data.ingest_many(directories[:3])
    data = open_with(webhook.url)

    data.ingest_many(directories)
    assert webhook.texts == []

    write_recording(lab.nas, RECS[5], {"mic/seg_0000.wav": b"six"})
    for directory in directories[:3]:
        (directory / "mic" / "seg_0001.wav").write_bytes(directory.name.encode())
    data.ingest_many(None)

    begins, ended = webhook.texts
    assert "4 recordings" in begins
    assert ended.endswith("4 registered")


def test_plans_are_taken_as_they_are(lab: Lab, webhook: Webhook, open_with: Opener):
    data = open_with(webhook.url)
    plans = data.plan_many(write(lab.usb, 3))

    items = data.ingest_many([plan for plan in plans if plan.action == "ingest"])

    assert [item.status for item in items] == ["OK"] * 3
    assert "3 recordings, 300B, from usb" in webhook.texts[0]


def test_failures_are_told_by_cause_and_no_path_is(lab: Lab, webhook: Webhook, open_with: Opener, tmp_path: Path):
    directories = write(tmp_path / "Aria Lin", 3)
    data = open_with(webhook.url)
    plans = data.plan_many(directories)
    directories[0].rename(tmp_path / "gone")
    (directories[1] / "session.lock").touch()

    data.ingest_many(plans)

    begins, ended = webhook.texts
    assert "from another drive" in begins
    assert ended.startswith("*Ingest ended* (lab): 1 registered, *1 failed*, 1 waiting\n*SourceNotFound* (1): ")
    assert "does not exist" in ended
    assert "Aria" not in begins + ended


def test_a_pause_leaves_recordings_that_are_told_as_not_done(lab: Lab, webhook: Webhook, open_with: Opener):
    pause = threading.Event()

    def on_ended(item: BatchItem) -> None:
        pause.set()

    items = open_with(webhook.url, recordings_at_once=1).ingest_many(
        write(lab.nas, 4), on_ended=on_ended, should_pause=pause.is_set
    )

    assert [item.status for item in items] == ["OK", "SKIP", "SKIP", "SKIP"]
    assert "1 registered, 3 not done" in webhook.texts[1]


def test_an_interrupt_is_told_too(lab: Lab, webhook: Webhook, open_with: Opener):
    data = open_with(webhook.url, recordings_at_once=1)
    ended: list[str] = []
    interrupted = threading.Event()

    def on_ended(item: BatchItem) -> None:
        ended.append(item.rec_id)
        if not interrupted.is_set():
            interrupted.set()
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        data.ingest_many(write(lab.nas, 6), on_ended=on_ended)

    assert len(webhook.texts) == 2
    assert "not done" in webhook.texts[1]
    assert len(ended) == len(set(ended)) < 6


def test_an_interrupt_while_it_is_announced_is_told_too(
    lab: Lab, webhook: Webhook, open_with: Opener, monkeypatch: pytest.MonkeyPatch
):
    data, posted = open_with(webhook.url), announcing.post

    def interrupted_once(profile: Profile, text: str) -> None:
        posted(profile, text)
        monkeypatch.setattr(announcing, "post", posted)
        raise KeyboardInterrupt

    monkeypatch.setattr(announcing, "post", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        data.ingest_many(write(lab.nas, 3))

    assert len(webhook.texts) == 2
    assert "0 registered, 3 not done" in webhook.texts[1]


def test_what_failed_is_told_apart_from_what_was_not_done(lab: Lab, webhook: Webhook, open_with: Opener):
    directories = write(lab.nas, 4)
    data = open_with(webhook.url, recordings_at_once=1)
    plans = data.plan_many(directories)
    (directories[0] / "manifest.json").write_text("{")

    def interrupt(item: BatchItem) -> None:
        if item.state == "failed":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        data.ingest_many(plans, on_ended=interrupt)

    assert "0 registered, *1 failed*, 3 not done" in webhook.texts[1]


def test_a_webhook_that_refuses_keeps_no_recording_back(lab: Lab, open_with: Opener):
    webhook = Webhook(404, 404)

    items = open_with(webhook.url).ingest_many(write(lab.nas, 3))

    webhook.close()
    assert [item.status for item in items] == ["OK"] * 3


def test_without_a_webhook_nothing_is_said_but_the_work_is_done(
    lab: Lab, open_with: Opener, caplog: pytest.LogCaptureFixture
):
    items = open_with(None).ingest_many(write(lab.nas, 3))

    assert [item.status for item in items] == ["OK"] * 3
    assert "nobody is told" not in caplog.text


@pytest.mark.parametrize(
    ("family", "webhook", "actions", "is_needed"),
    [
        ("production", None, ["ingest"] * 3, True),
        ("production", None, ["ingest", "ingest", "nothing", "refused", "waits"], False),
        ("production", "http://127.0.0.1:9/T0/xsecretx", ["ingest"] * 3, False),
        ("local", None, ["ingest"] * 3, False),
    ],
)
def test_a_person_is_handed_the_text_where_nobody_else_would_tell(
    open_with: Opener, family: str, webhook: str | None, actions: list, is_needed: bool
):
    profile = open_with(webhook).profile.model_copy(update={"family": family})
    named = zip(RECS, actions, strict=False)
    plans = [IngestPlan(rec_id, action=action, bytes_to_send=1_000_000) for rec_id, action in named]

    text = needs_announcement(profile, plans, by="lena@rig", timetable=Timetable.parse("1MB/s"))

    assert bool(text) == is_needed
    if is_needed:
        assert "3 recordings, 3.0MB, from the bucket" in text
        assert "lena on rig" in text
        assert "1.0MB/s, so until about" in text


def test_production_without_a_webhook_is_warned_of_and_only_when_it_is_large(
    open_with: Opener, caplog: pytest.LogCaptureFixture
):
    profile: Profile = open_with(None).profile.model_copy(update={"family": "production"})

    warn_if_silent(profile, 2)
    assert caplog.text == ""
    warn_if_silent(profile, 3)

    assert "nobody is told of this ingest of 3 recordings" in caplog.text
    assert "notifications.webhook" in caplog.text


def test_what_names_nothing_fails_on_its_own_and_is_told_once(lab: Lab):
    ended: list[str] = []

    items = lab.data.ingest_many(
        [lab.nas / "typo", *write(lab.nas, 1)], on_ended=lambda item: ended.append(item.rec_id)
    )

    assert [(item.rec_id, item.status, item.error_type) for item in items] == [
        ("typo", "FAIL", "SourceNotFound"),
        (RECS[0], "OK", ""),
    ]
    assert sorted(ended) == sorted(["typo", RECS[0]])
    assert lab.data.ingest_many([]) == []


def test_a_drive_that_is_not_mounted_stops_nothing_else(lab: Lab, tmp_path: Path):
    (tmp_path / "empty").mkdir()

    items = lab.data.ingest_many([tmp_path / "empty", *write(lab.nas, 1)])

    assert [(item.status, item.error_type) for item in items] == [("FAIL", "SourceUnavailable"), ("OK", "")]

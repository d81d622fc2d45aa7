"""`ursa release`: what it shows, what it asks, and that nothing is changed before somebody said so."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.cli.test_commands import Command
from tests.lab import Lab
from tests.maintenance.release.rig import FILES, OTHER, REC, TRASH, allowing, ingested, trash_of
from tests.recordings_on_disk import write_recording
from tests.snapshot import snapshot
from ursa_pipelines.cli import release as cli
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.maintenance.release import purging
from ursa_pipelines.objects.keys import BUCKET_IDENTITY
from ursa_pipelines.rooms import Rooms


@pytest.fixture
def ursa(lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, store_state: Path) -> Command:
    allowing(lab)
    home = store_state / f"dagster-{secrets.token_hex(4)}"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return Command(lab.config.with_name("releasing.yaml"), capsys, monkeypatch)


def test_a_recording_goes_and_comes_back_and_goes_for_good(ursa: Command, lab: Lab):
    directory = ingested(lab)
    write_recording(lab.nas, OTHER, FILES)
    before = snapshot(lab.nas)

    shown = ursa("release", "move")
    assert "eligible" in shown and f"{OTHER} on nas refused: it is waiting" in shown
    assert "Nothing was moved; --commit moves it." in shown
    assert "proved by" in ursa("release", "move", "--prove")
    assert snapshot(lab.nas) == before and not trash_of(lab)

    assert "say --yes" in ursa("release", "move", "--commit", code=2)
    assert snapshot(lab.nas) == before
    moved = ursa("release", "move", REC, "--commit", "--yes")
    assert "released" in moved and "store's sha256 4" in moved and not directory.exists()
    assert "in trash" in ursa("release", "list")
    assert "Nothing was moved" in ursa("release", "restore", REC)
    assert "restored" in ursa("release", "restore", REC, "--commit", "--yes") and directory.is_dir()
    ursa("release", "move", REC, "--source", "nas", "--deep", "--commit", "--yes")
    assert "Nothing was removed; --commit removes it." in ursa("release", "purge")
    assert "purged" in ursa("release", "purge", "--commit", "--yes") and trash_of(lab) == []
    listed = ursa.json("release", "list", REC)
    assert [one["state"] for one in listed["items"]] == ["restored", "purged"]
    assert "registered 1" in ursa("status", REC)


def test_documents_tell_the_same_and_a_refusal_of_a_named_one_is_a_failure(ursa: Command, lab: Lab):
    ingested(lab)

    eligible = ursa.json("release", "move", REC, "--source", "nas")
    assert (eligible["items"][0]["state"], eligible["items"][0]["bytes"] > 700) == ("eligible", True)
    assert eligible["summary"]["states"]["eligible"]["directories"] == 1
    refused = ursa.json("release", "move", OTHER, code=1)["items"][0]
    assert refused["state"] == "refused" and refused["remedy"]
    assert ursa.json("release", "move", "--since", "2026-05-21")["items"] == []
    assert ursa.json("release", "restore", REC, code=1)["items"][0]["state"] == "stopped"
    (lab.nas / TRASH).mkdir()
    (lab.nas / TRASH / "notes").mkdir()
    assert ursa.json("release", "list", code=1)["items"][0]["state"] == "stopped"
    assert ursa.json("release", "purge", "--commit", "--yes", code=1)["items"][0]["state"] == "stopped"


def test_a_drive_that_is_not_plugged_in_keeps_nothing_else_from_leaving(ursa: Command, lab: Lab):
    ingested(lab)
    shutil.rmtree(lab.usb)

    assert ursa.json("release", "move", REC, "--commit", "--yes")["items"][0]["state"] == "released"
    purged = ursa.json("release", "purge", "--commit", "--yes")
    assert {one["source"]: one["state"] for one in purged["items"]} == {"nas": "purged", "usb": "unknown"}
    listed = ursa.json("release", "list")
    assert {one["source"]: one["state"] for one in listed["items"]} == {"nas": "purged", "usb": "unknown"}


def test_what_is_in_quarantine_stays(ursa: Command, lab: Lab):
    directory = ingested(lab)
    ursa("quarantine", REC, "--reason", "somebody looks at it", "--yes")

    found = ursa.json("release", "move", REC, "--source", "nas", "--commit", "--yes", code=1)["items"][0]

    assert found["state"] == "refused" and "it is quarantined: somebody looks at it" in found["reason"]
    assert directory.is_dir()


def test_what_comes_into_quarantine_while_it_waits_is_not_purged(ursa: Command, lab: Lab):
    """The scrub may have found the bucket's bytes rotten: those in the trash are the last good ones."""
    ingested(lab)
    ursa("release", "move", REC, "--source", "nas", "--commit", "--yes")
    ursa("quarantine", REC, "--reason", "its bytes in the bucket are others", "--yes")

    for words in ((), ("--commit", "--yes")):
        found = ursa.json("release", "purge", *words)["items"][0]
        assert found["state"] == "refused" and "it is quarantined: its bytes" in found["reason"]
    assert len(trash_of(lab)) == 1
    ursa("retry", REC, "--yes")
    assert ursa.json("release", "purge", "--commit", "--yes")["items"][0]["state"] == "purged"


def test_nothing_goes_but_what_was_shown(ursa: Command, lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """Of the same recording, what becomes due while somebody thinks about the question stays."""
    for source in (lab.nas, lab.usb):
        lab.data.ingest(source_dir=write_recording(source, REC, FILES))
    ursa("release", "move", REC, "--source", "nas", "--commit", "--yes")
    allowing(lab, grace_days=1)
    ursa("release", "move", REC, "--source", "usb", "--commit", "--yes")
    allowing(lab)
    monkeypatch.setattr(cli, "confirm", lambda *_: monkeypatch.setattr(purging, "due_at", lambda *_: 0.0))

    found = ursa.json("release", "purge", "--commit", "--yes")["items"]

    assert {one["source"]: one["state"] for one in found} == {"nas": "purged", "usb": "refused"}
    assert len(list((lab.usb / TRASH).iterdir())) == 1


def test_what_cannot_be_restored_is_told_once(ursa: Command, lab: Lab):
    for source in (lab.nas, lab.usb):
        lab.data.ingest(source_dir=write_recording(source, REC, FILES))
    ursa("release", "move", REC, "--commit", "--yes")
    (lab.usb / REC).mkdir()

    found = ursa.json("release", "restore", REC, "--commit", "--yes", code=1)["items"]

    assert sorted((one["source"], one["state"]) for one in found) == [("nas", "restored"), ("usb", "refused")]


def test_without_the_switch_a_commit_is_refused_before_anything_is_looked_at(lab: Lab, ursa: Command):
    ingested(lab)
    ursa.config = lab.config

    for words in (["move"], ["purge"], ["restore", REC]):
        assert "release: {enabled: true}" in ursa("release", *words, "--commit", "--yes", code=3)
    # A look needs no switch.
    assert "less than 30 days" in ursa.json("release", "move", REC, "--source", "nas", code=1)["items"][0]["reason"]


def test_against_production_the_bucket_must_be_typed(
    ursa: Command, lab: Lab, store_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    directory, store = ingested(lab), open_store(store_state)
    for bucket, purpose in ((lab.raw, "raw"), (lab.assets, "assets")):
        _, info = bucket.get(BUCKET_IDENTITY)
        document = {"family": "production", "purpose": purpose}
        bucket.replace(BUCKET_IDENTITY, json.dumps(document).encode(), info.etag)
    op = tmp_path / "programs" / "op"
    op.parent.mkdir()
    keys = f"*id) printf %s {store.access_key_id} ;; *) printf %s {store.secret_access_key} ;;"
    op.write_text(f'#!/bin/sh\ncase "$3" in {keys} esac\n')
    op.chmod(0o700)
    monkeypatch.setenv("PATH", str(op.parent), prepend=os.pathsep)
    references = {"access_key_id": "op://Lab/Store/id", "secret_access_key": "op://Lab/Store/key"}
    profile = yaml.safe_load(ursa.config.read_text()) | {
        "family": "production",
        "store": "s3",
        "endpoint": store.endpoint,
        "credentials": dict.fromkeys(("assets_ro", "assets_rw", "raw_ro", "raw_rw"), references),
        "release": {"enabled": True, "retention_days": 1},
    }
    ursa.config = tmp_path / "production.yaml"
    ursa.config.write_text(yaml.safe_dump(profile))
    opened = Rooms.release_desk
    # Nothing here is a day old.
    monkeypatch.setattr(
        Rooms, "release_desk", lambda data, *, commit: replace(opened(data, commit=commit), retention_days=0)
    )
    line = ("release", "move", REC, "--source", "nas", "--commit", "--yes")

    assert "needs a terminal" in ursa(*line, code=3)
    assert "not the raw bucket's name" in ursa(*line, code=3, typed="nas")
    assert directory.is_dir() and not trash_of(lab)
    assert "released" in ursa(*line, typed=lab.raw.name)
    assert not directory.exists()

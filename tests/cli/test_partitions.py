"""`ursa partitions archive`: dry unless it is told otherwise, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.cli.test_commands import Command
from tests.cli.test_operations import FILES, GOOD, OLD, nobody, ursa
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.orchestration import archive
from ursa_pipelines.orchestration.instance import open_instance
from ursa_pipelines.orchestration.partitions import add_partitions
from ursa_pipelines.orchestration.telling import materialization

__all__ = ["nobody", "ursa"]


def test_what_is_old_and_whole_leaves_the_pages_once_it_is_said(
    ursa: Command, lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(archive, "LEAST_AGE", timedelta(days=-3))
    day = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}"
    (item,) = lab.data.ingest_many([write_recording(lab.nas, OLD, FILES)])
    with open_instance("lab") as instance:
        add_partitions(instance, [OLD, GOOD])
        instance.report_runless_asset_event(materialization(item, lab.raw.name))
    told = {"due": {OLD: "due", GOOD: "kept"}, "done": {OLD: "archived", GOOD: "kept"}}

    def states(*arguments: str) -> dict[str, str]:
        items = ursa.json("partitions", "archive", "--before", day, *arguments)["items"]
        return {one["rec_id"]: one["state"] for one in items}

    shown = ursa("partitions", "archive", "--before", day)

    assert "1 of 2 recordings before that day can be archived" in shown
    assert "not registered" in shown and "Nothing was archived" in shown
    assert states() == told["due"]
    assert states("--commit", "--yes") == told["done"]
    assert states("--commit", "--yes") == {GOOD: "kept"}
    with open_instance("lab") as instance:
        assert instance.get_dynamic_partitions("recordings") == [GOOD]
    assert "registered" in ursa("history", OLD)


def test_a_day_that_was_not_long_ago_is_refused(ursa: Command):
    ursa("partitions", "archive", "--before", f"{datetime.now(UTC):%Y-%m-%d}", code=2)

"""`ursa bandwidth`: what it shows, sets and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_commands import Command
from ursa_pipelines.interface import DataInterface


@pytest.fixture
def ursa(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command with a state directory of its own, and a profile that is capped at 25 MB/s."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / ".ursa" / "dagster"))
    config = tmp_path / "profile.yaml"
    config.write_text(
        "{name: lab, family: local, store: embedded, buckets: {raw: raw-lab, assets: assets-lab}, "
        "settings: {bandwidth: 25MB/s}}"
    )
    return Command(config, capsys, monkeypatch)


def test_the_cap_of_the_profile_is_shown_without_writing_anything(ursa: Command, tmp_path: Path):
    told = ursa("bandwidth")

    assert "25.0MB/s now, by the timetable: 25MB/s" in told
    assert "of the profile lab" in told
    assert not (tmp_path / ".ursa").exists()


def test_a_cap_that_is_set_is_followed_by_whoever_uploads_here_until_it_is_cleared(ursa: Command, tmp_path: Path):
    line = DataInterface(config_path=ursa.config).line
    told = ursa("bandwidth", "00:00-12:00 4MB/s, 12:00-24:00 4MB/s")

    assert "4.0MB/s now, by the timetable: 00:00-12:00 4MB/s, 12:00-24:00 4MB/s" in told
    assert "set for this host" in told
    assert str(tmp_path / ".ursa") in told
    assert told == ursa("bandwidth")
    assert line.take(10**9, lambda: None) == 128 * 1024

    assert "unlimited now" in ursa("bandwidth", "off")
    assert DataInterface(config_path=ursa.config).line.capped is False
    assert "25.0MB/s now" in ursa("bandwidth", "--clear")


@pytest.mark.parametrize("arguments", [["5MB"], ["0MB/s"], ["5MB/s", "--clear"]])
def test_what_is_not_understood_changes_nothing(arguments: list[str], ursa: Command):
    before = ursa("bandwidth", "4MB/s")

    assert arguments[0] in ursa("bandwidth", *arguments, code=2) or "--clear" in arguments
    assert ursa("bandwidth") == before


def test_a_state_directory_that_cannot_be_written_is_named(ursa: Command, tmp_path: Path):
    state = tmp_path / ".ursa"
    state.write_text("no directory")

    for argument in ("4MB/s", "--clear"):
        assert f"{state}: the cap cannot be changed: " in ursa("bandwidth", argument, code=3)


def test_a_cap_written_by_hand_that_is_not_understood_is_told(ursa: Command, tmp_path: Path):
    ursa("bandwidth", "4MB/s")
    (tmp_path / ".ursa" / "bandwidth").write_text("4MB")

    told = ursa("bandwidth")

    assert "25.0MB/s now" in told
    assert f"{tmp_path / '.ursa' / 'bandwidth'} is not followed: '4MB' has no rate" in told

"""Timetables of the upload cap: what they mean, which are refused and how, and the one that is set for a host."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ursa_pipelines.errors import ProfileInvalid
from ursa_pipelines.profiles import load_profile
from ursa_pipelines.profiles.timetable import (
    EXAMPLE,
    Bandwidth,
    Timetable,
    clear_override,
    estimate,
    estimated_end,
    set_override,
)

MONDAY = datetime(2026, 5, 18)
OFFICE = "08:00-19:00 5MB/s, 25MB/s"


def at(day: int, clock: str) -> datetime:
    """A moment of the week, 0 being Monday."""
    hour, minute = clock.split(":")
    return MONDAY + timedelta(days=day, hours=int(hour), minutes=int(minute))


@pytest.mark.parametrize(
    ("text", "day", "clock", "rate"),
    [
        ("5MB/s", 0, "12:00", 5e6),
        (OFFICE, 0, "07:59", 25e6),
        (OFFICE, 0, "08:00", 5e6),
        (OFFICE, 6, "18:59", 5e6),
        (OFFICE, 6, "19:00", 25e6),
        ("25MB/s, 08:00-19:00 5MB/s", 2, "12:00", 5e6),
        ("08:00-19:00 5MB/s", 2, "20:00", None),
        ("08:00-19:00 off, 5MB/s", 2, "12:00", None),
        ("22:00-06:00 unlimited, 5MB/s", 2, "23:59", None),
        ("22:00-06:00 unlimited, 5MB/s", 2, "05:59", None),
        ("22:00-06:00 unlimited, 5MB/s", 2, "06:00", 5e6),
        ("Mon-Fri 08:00-19:00 5MB/s, 25MB/s", 4, "12:00", 5e6),
        ("Mon-Fri 08:00-19:00 5MB/s, 25MB/s", 5, "12:00", 25e6),
        ("Fri 22:00-06:00 1MB/s, 2MB/s", 5, "05:00", 1e6),
        ("Fri 22:00-06:00 1MB/s, 2MB/s", 4, "05:00", 2e6),
        ("Sun 22:00-06:00 1MB/s, 2MB/s", 0, "05:00", 1e6),
        ("Sun 22:00-06:00 1MB/s, 2MB/s", 6, "05:00", 2e6),
        ("Sat-Mon 1MB/s, 2MB/s", 0, "00:00", 1e6),
        ("Sat-Mon 1MB/s, 2MB/s", 6, "23:59", 1e6),
        ("Sat-Mon 1MB/s, 2MB/s", 1, "00:00", 2e6),
        ("Mon 00:00-24:00 1MB/s, Tue-Sun 19:00-24:00 2MB/s", 0, "23:59", 1e6),
    ],
)
def test_the_rate_is_that_of_the_window_else_of_the_rest(text: str, day: int, clock: str, rate: float | None):
    assert Timetable.parse(text).rate_at(at(day, clock)) == rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("500kB/s", 500e3),
        ("1.5 MB/s", 1.5e6),
        ("8MiB/s", 8 * 1024**2),
        ("40Mbit/s", 5e6),
        ("5M/s", 5e6),
        ("2 GB / s", 2e9),
    ],
)
def test_rates_are_bytes_or_bits_per_second(text: str, rate: float):
    assert Timetable.parse(text).rate_at(MONDAY) == rate


def test_a_moment_with_a_time_zone_is_taken_as_local_time():
    noon = at(2, "12:00").astimezone(UTC)
    assert Timetable.parse("12:00-12:01 1MB/s").rate_at(noon) == 1e6


@pytest.mark.parametrize(
    "text", [OFFICE, EXAMPLE, "Fri 22:00-06:00 unlimited, Sun 40Mbit/s, 1.5MB/s", "unlimited", "08:00-19:00 5MiB/s"]
)
def test_a_timetable_reads_as_it_was_written(text: str):
    written = "  " + text.replace(" ", "   ").replace("unlimited", "OFF").replace(",", "\n,") + "\n"
    assert str(Timetable.parse(written)) == text
    assert Timetable.parse(str(Timetable.parse(written))) == Timetable.parse(text)


def test_a_profile_without_a_cap_is_unlimited():
    assert str(Bandwidth(None, None).in_force()) == "unlimited"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "''"),
        ("5MB/s,", "''"),
        ("5MB", "'5MB' has no rate"),
        ("5/s", "'5/s' has no rate"),
        ("5MBs/s", "unknown unit 'MBs'"),
        ("5Mb/s", "may mean bytes or bits: write MB or Mbit"),
        ("5mb/s", "may mean bytes or bits"),
        ("0MB/s", "would stop every upload"),
        ("0.5B/s", "would stop every upload"),
        ("-5MB/s", "'-5MB/s' has no rate"),
        ("nan MB/s", "has no rate"),
        ("infMB/s", "has no rate"),
        ("1e400MB/s", "has no rate"),
        ("9" * 400 + "MB/s", "has no rate"),
        ("\N{ARABIC-INDIC DIGIT FIVE}MB/s", "has no rate"),
        ("5MB/s!", "has no rate"),
        ("5MB/s 25MB/s", "has no rate"),
        ("fast", "'fast' has no rate"),
        ("08:00-19:00", "has no rate"),
        ("25MB/s, 08:00-25:00 5MB/s", "'08:00-25:00 5MB/s' has no time of day in '25:00'"),
        ("08:60-19:00 5MB/s", "'08:60'"),
        ("24:00-06:00 5MB/s", "begins when it ends"),
        ("08:00-08:00 5MB/s", "begins when it ends"),
        ("8-19 5MB/s", "has no rate"),
        ("Mon-Fry 5MB/s", "'Mon-Fry 5MB/s' has no rate"),
        ("5MB/s, 25MB/s", "'25MB/s' is a second rate"),
        ("08:00-19:00 5MB/s, 18:00-20:00 1MB/s", "'18:00-20:00 1MB/s' overlaps '08:00-19:00 5MB/s'"),
        ("22:00-06:00 5MB/s, Tue 05:00-07:00 1MB/s", "overlaps '22:00-06:00 5MB/s'"),
        ("Sun 22:00-06:00 5MB/s, Mon 05:00-07:00 1MB/s", "'Mon 05:00-07:00 1MB/s' overlaps 'Sun 22:00-06:00 5MB/s'"),
        ("Mon-Fri 5MB/s, Fri-Sun 1MB/s", "overlaps 'Fri-Sun 1MB/s'"),
    ],
)
def test_a_malformed_timetable_is_refused_with_its_entry_and_an_example(text: str, named: str):
    with pytest.raises(ValueError) as refusal:
        Timetable.parse(text)
    assert named in str(refusal.value)
    assert EXAMPLE in str(refusal.value)


def profile_with(directory: Path, bandwidth: str) -> Path:
    path = directory / "profile.yaml"
    path.write_text(f"settings:\n  bandwidth: {bandwidth}\n")
    return path


@pytest.mark.parametrize(
    ("written", "setting"), [(OFFICE, OFFICE), ("off", "unlimited"), ("unlimited", "unlimited"), ("null", None)]
)
def test_a_profile_names_its_cap(written: str, setting: str | None, tmp_path: Path):
    assert load_profile("local", profile_with(tmp_path, written)).settings.bandwidth == setting


@pytest.mark.parametrize("written", ["5MB", "5", "yes", "0B/s", "[5MB/s]"])
def test_a_malformed_cap_in_a_profile_is_refused_by_its_field(written: str, tmp_path: Path):
    with pytest.raises(ProfileInvalid) as refusal:
        load_profile("local", profile_with(tmp_path, written))
    assert refusal.value.place is not None
    assert refusal.value.place.endswith("settings.bandwidth")


def test_the_cap_set_for_a_host_goes_before_the_profiles_until_it_is_cleared(tmp_path: Path):
    state = tmp_path / "state"
    bandwidth = Bandwidth("25MB/s", state)
    assert bandwidth.rate_at(MONDAY) == 25e6

    for text, rate in (("5MB/s", 5e6), ("off", None), ("7MB/s", 7e6)):
        set_override(state, text)
        assert bandwidth.rate_at(MONDAY) == rate
        assert [path.name for path in state.iterdir()] == ["bandwidth"]
    clear_override(state)
    clear_override(state)

    assert bandwidth.rate_at(MONDAY) == 25e6
    assert bandwidth.override is None


@pytest.mark.parametrize("content", [b"", b"5MB", b"\xff\xfe", b"6MB/s" + b" " * 5000, None])
def test_a_cap_that_cannot_be_followed_is_told_once_and_changes_nothing(
    content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    set_override(tmp_path, "5MB/s")
    bandwidth = Bandwidth("25MB/s", tmp_path)
    assert bandwidth.rate_at(MONDAY) == 5e6
    file = tmp_path / "bandwidth"
    if content is None:
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(content)

    assert [bandwidth.rate_at(MONDAY) for _ in range(3)] == [5e6] * 3
    (record,) = caplog.records
    assert str(file) in record.message
    assert "stays 5MB/s" in record.message
    assert Bandwidth("25MB/s", tmp_path).rate_at(MONDAY) == 25e6


def test_a_malformed_cap_is_not_set(tmp_path: Path):
    with pytest.raises(ValueError, match="'5MB'"):
        set_override(tmp_path, "5MB")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("timetable", "size", "hours"),
    [
        ("1MB/s", 3_600_000_000, 1.0),
        ("08:00-19:00 1MB/s, 4MB/s", 18 * 3_600_000_000, 12.0),
        ("08:00-19:00 1MB/s", 3_600_000_000, 1.0),
        ("08:00-19:00 1MB/s", 40_000_000_000, None),
        ("unlimited", 1, None),
        ("1KB/s", 10**15, None),
    ],
)
def test_the_end_is_estimated_over_the_timetable(timetable: str, size: int, hours: float | None):
    nine = datetime(2026, 5, 20, 9).astimezone()

    end = estimated_end(Timetable.parse(timetable), size, nine)

    took = (end - nine).total_seconds() / 3600 if end else None
    assert took == (None if hours is None else pytest.approx(hours))


@pytest.mark.parametrize(
    ("timetable", "size", "told"),
    [
        ("5MB/s", 3_600_000_000, "about 12 min at 5.0MB/s, until 09:12"),
        ("5MB/s", 1, "about 1 min at 5.0MB/s, until 09:00"),
        ("1MB/s", 9_000_000_000, "about 2 h 30 min at 1.0MB/s, until 11:30"),
        ("1MB/s", 72_000_000_000, "about 20 h 00 min at 1.0MB/s, until Thu 21 May 05:00"),
        ("08:00-19:00 1MB/s", 40_000_000_000, "1.0MB/s now, the end is not known"),
        ("unlimited", 40_000_000_000, "no cap"),
        ("5MB/s", 0, ""),
    ],
)
def test_an_estimate_is_told_in_words_and_never_made_up(timetable: str, size: int, told: str):
    nine = datetime(2026, 5, 20, 9).astimezone()

    assert str(estimate(Timetable.parse(timetable), size, nine)) == told

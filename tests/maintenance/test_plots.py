"""Plots are small pictures of what there is, also where there is nothing, much, or something odd."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta

import pytest
from PIL import Image

from ursa_pipelines.maintenance.overview import DayTotals, FamilyTotals, Overview
from ursa_pipelines.maintenance.plots import draw_plots

FIRST = date(2026, 5, 20)
TITLES = {"Recordings per day", "Modalities", "Participants per recording"}


def overview(days: int, families: int = 3, backlog: tuple[float, ...] | None = (0.5, 30.0, 10_000.0)) -> Overview:
    return Overview(
        recordings=days,
        days={FIRST + timedelta(days=day): DayTotals(day % 7, day * 10**9) for day in range(days)},
        families={f"family{number}": FamilyTotals(2, 3, 10**number) for number in range(families)},
        participants_per_recording={0: 1, 1: 10_000, 40: 2},
        backlog_hours=backlog,
    )


def picture(png: bytes) -> Image.Image:
    assert len(png) < 60_000
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return image


@pytest.mark.parametrize("days", [1, 2, 30, 400, 4_000])
def test_every_plot_is_a_small_picture_on_white(days: int):
    drawn = draw_plots(overview(days, families=30))

    assert set(drawn) == {*TITLES, "Backlog"}
    for png in drawn.values():
        image = picture(png)
        assert 600 <= image.width <= 800
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("wild", [date.min, date(1989, 12, 31), date(2101, 1, 1), date.max])
def test_days_of_a_wild_clock_are_left_out_and_counted(wild: date):
    sound = overview(3)

    one, other = (
        draw_plots(replace(sound, days={**sound.days, wild: DayTotals(number, 1)}))["Recordings per day"]
        for number in (1, 2)
    )

    assert picture(one).size == picture(draw_plots(sound)["Recordings per day"]).size
    assert len({one, other, draw_plots(sound)["Recordings per day"]}) == 3


def test_where_every_clock_was_wild_the_plot_says_so():
    drawn = draw_plots(Overview(days={date.min: DayTotals(1, 1)}))

    assert picture(drawn["Recordings per day"]).height == 120
    assert drawn["Recordings per day"] != draw_plots(Overview())["Recordings per day"]


def test_a_century_of_days_is_drawn_by_year():
    first = date(1990, 1, 1)
    days = {first + timedelta(days=day): DayTotals(1, 10**9) for day in range((date(2100, 12, 31) - first).days + 1)}

    drawn = draw_plots(Overview(days=days))["Recordings per day"]

    assert picture(drawn)
    assert drawn == draw_plots(Overview(days=by_year(days)))["Recordings per day"]


def by_year(days: dict[date, DayTotals]) -> dict[date, DayTotals]:
    counts = Counter(day.year for day in days)
    return {date(year, 1, 1): DayTotals(number, number * 10**9) for year, number in counts.items()}


def test_where_there_is_nothing_a_plot_says_so():
    drawn = draw_plots(Overview(backlog_hours=()))

    assert {picture(png).height for png in drawn.values()} == {120}
    assert len({*drawn.values()}) == 2


def test_the_backlog_is_drawn_only_where_it_is_known():
    assert set(draw_plots(overview(3, backlog=None))) == TITLES


def test_drawing_the_same_gives_the_same_and_other_figures_another_picture():
    assert draw_plots(overview(5)) == draw_plots(overview(5))
    assert all(draw_plots(overview(5))[title] != png for title, png in draw_plots(Overview()).items())


@pytest.mark.parametrize("name", ["$\\frac{", "", "eeg\n\x07", "\u202eabc", "x" * 5_000, "脳波", "\\", "$a$"])
def test_odd_names_of_families_are_drawn_as_they_are(name: str):
    odd = Overview(families={name: FamilyTotals(1, 1, 1)})

    assert picture(draw_plots(odd)["Modalities"])


def test_nothing_is_kept_by_pyplot():
    draw_plots(overview(3))

    from matplotlib import _pylab_helpers

    assert _pylab_helpers.Gcf.get_all_fig_managers() == []

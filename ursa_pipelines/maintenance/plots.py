"""The plots of an `Overview` as small PNGs: in the metadata of the asset `catalog`, and in the page of `ursa report`.

Drawn with matplotlib's objects, without pyplot: nothing is kept between calls, and threads do not meet. White ground,
so that they can be read on a dark page too; 64 colours, since each is kept in Dagster's event log and a page.
"""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta

from matplotlib import dates, ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ursa_pipelines.maintenance.overview import DayTotals, Overview, told_bytes, unit_of_bytes

_DPI = 100
_WIDTH, _HEIGHT = 7.2, 2.8
_COLOURS = 64
_BLUE, _ORANGE, _INK, _GRID = "#2b6cb0", "#c05621", "#1a202c", "#e2e8f0"
_FAMILIES_SHOWN = 10
_LABEL_LETTERS = 18
_DAYS_SHOWN_SINGLY = 92
_DAYS_SHOWN_BY_WEEK = 730
_DAYS_SHOWN_BY_MONTH = 7_300
_FIRST_YEAR, _LAST_YEAR = 1990, 2100
_MANY_PARTICIPANTS = 8
_AGES = (("< 1 h", 1.0), ("1-6 h", 6.0), ("6-24 h", 24.0), ("1-3 d", 72.0), ("3-7 d", 168.0), ("> 7 d", float("inf")))


def draw_plots(overview: Overview) -> dict[str, bytes]:
    """Every plot by its title; that of the backlog only where the backlog is known."""
    drawn: dict[str, Callable[[Overview], bytes]] = {
        "Recordings per day": plot_days,
        "Modalities": plot_families,
        "Participants per recording": plot_participants,
    }
    if overview.backlog_hours is not None:
        drawn["Backlog"] = plot_backlog
    return {title: draw(overview) for title, draw in drawn.items()}


def plot_days(overview: Overview) -> bytes:
    """Recordings and bytes by the day they started (UTC); by week, month or year where there are many days.

    What a wild clock dated outside 1990-2100 is left out, and counted below.
    """
    days = {day: one for day, one in overview.days.items() if _FIRST_YEAR <= day.year <= _LAST_YEAR}
    wild = sum(one.recordings for day, one in overview.days.items() if day not in days)
    left_out = f"left out: {wild:,} recordings dated outside {_FIRST_YEAR}-{_LAST_YEAR}" if wild else ""
    if not days:
        return _nothing_yet(left_out or "nothing yet")
    period, width, totals = _binned(days)
    figure = _figure(_HEIGHT + 0.6)
    above, below = figure.subplots(2, 1, sharex=True)
    # A day's bar stands over its date, a longer period's begins there.
    starts = [float(dates.date2num(day)) - (0.5 if period == "day" else 0.0) for day in totals]
    size, unit = _scaled([one.bytes for one in totals.values()])
    for axes, heights, colour, label in (
        (above, [float(one.recordings) for one in totals.values()], _BLUE, f"recordings\nper {period}"),
        (below, size, _ORANGE, f"{unit} per {period}"),
    ):
        axes.bar(starts, heights, width=[one * 0.9 for one in width], color=colour, align="edge")
        axes.set_ylabel(label)
        _dress(axes, "y")
    above.yaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
    below.yaxis.set_major_locator(ticker.MaxNLocator(4))
    span = starts[-1] + width[-1] - starts[0]
    margin = max((7 - span) / 2, 0.02 * span)
    below.set_xlim(starts[0] - margin, starts[-1] + width[-1] + margin)
    locator = dates.AutoDateLocator(minticks=3, maxticks=8)
    locator.intervald[dates.HOURLY] = [24]
    below.xaxis.set_major_locator(locator)
    below.xaxis.set_major_formatter(dates.DateFormatter("%Y-%m-%d" if span < 366 else "%Y-%m"))
    told = f"start of the recording (UTC), {period}s" if period != "day" else "day of the start (UTC)"
    below.set_xlabel(f"{told}; {left_out}" if wild else told)
    figure.align_ylabels()
    return _png(figure)


def plot_families(overview: Overview) -> bytes:
    """Recordings and bytes of each family of devices; small ones together as "others"."""
    if not overview.families:
        return _nothing_yet()
    shown = list(overview.families.items())[:_FAMILIES_SHOWN]
    rest = list(overview.families.values())[_FAMILIES_SHOWN:]
    labels = [textwrap.shorten(name, _LABEL_LETTERS, placeholder="…") or name[:_LABEL_LETTERS] for name, _ in shown]
    recordings = [float(one.recordings) for _, one in shown]
    counted = [f"{one.recordings:,}" for _, one in shown]
    sizes = [one.bytes for _, one in shown]
    if rest:
        labels.append(f"{len(rest)} others")
        recordings.append(float(max(one.recordings for one in rest)))
        # One recording may have several of them.
        counted.append(f"≥ {recordings[-1]:,.0f}")
        sizes.append(sum(one.bytes for one in rest))
    figure = _figure(max(_HEIGHT, 0.9 + 0.24 * len(labels)))
    left, right = figure.subplots(1, 2, sharey=True)
    places = range(len(labels))
    scaled, unit = _scaled(sizes)
    for axes, lengths, colour, told, label in (
        (left, recordings, _BLUE, counted, "recordings with it"),
        (right, scaled, _ORANGE, [told_bytes(size) for size in sizes], unit),
    ):
        bars = axes.barh(places, lengths, color=colour, height=0.7)
        axes.bar_label(bars, told, padding=3, fontsize=8, color=_INK)
        axes.set_xlabel(label)
        axes.margins(x=0.22)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=axes is left))
        _dress(axes, "x")
    left.set_yticks(places)
    # What looks like a formula in a family's name is none.
    left.set_yticklabels([label.replace("$", r"\$") for label in labels])
    left.invert_yaxis()
    return _png(figure)


def plot_participants(overview: Overview) -> bytes:
    """How many recordings have no participant, one, two and so on."""
    counts = overview.participants_per_recording
    if not counts:
        return _nothing_yet()
    most = min(max(counts), _MANY_PARTICIPANTS)
    heights = [counts.get(number, 0) for number in range(most)]
    heights.append(sum(number for count, number in counts.items() if count >= most))
    labels = [str(number) for number in range(most + 1)]
    if max(counts) > most:
        labels[-1] += "+"
    return _bars(labels, heights, xlabel="participants in a recording", ylabel="recordings")


def plot_backlog(overview: Overview) -> bytes:
    """How long ago the recordings were made that are known and not registered."""
    ages = overview.backlog_hours
    if not ages:
        return _nothing_yet("no backlog")
    found = Counter(next(label for label, below in _AGES if age < below) for age in ages)
    heights = [found[label] for label, _ in _AGES]
    return _bars([label for label, _ in _AGES], heights, xlabel="age of the recording", ylabel="not registered")


def _binned(days: Mapping[date, DayTotals]) -> tuple[str, list[float], dict[date, DayTotals]]:
    """The period's name, how many days each has, and the totals by its first day."""
    span = (max(days) - min(days)).days
    if span <= _DAYS_SHOWN_SINGLY:
        return "day", [1.0] * len(days), dict(days)
    period, width = ("week", 7.0) if span <= _DAYS_SHOWN_BY_WEEK else ("month", 28.0)
    if span > _DAYS_SHOWN_BY_MONTH:
        period, width = "year", 365.0
    totals: dict[date, DayTotals] = {}
    for day, one in days.items():
        first = day - timedelta(days=day.weekday()) if period == "week" else day.replace(day=1)
        first = first.replace(month=1) if period == "year" else first
        so_far = totals.get(first, DayTotals(0, 0))
        totals[first] = DayTotals(so_far.recordings + one.recordings, so_far.bytes + one.bytes)
    return period, [width] * len(totals), totals


def _bars(labels: Sequence[str], heights: Sequence[int], *, xlabel: str, ylabel: str) -> bytes:
    figure = _figure()
    axes = figure.subplots()
    bars = axes.bar(range(len(labels)), heights, width=0.7, color=_BLUE)
    axes.bar_label(bars, [f"{height:,}" if height else "" for height in heights], padding=2, fontsize=8, color=_INK)
    axes.set_xticks(range(len(labels)))
    axes.set_xticklabels(labels)
    axes.set_xlim(-0.6, max(len(labels), 4) - 0.4)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.margins(y=0.15)
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    _dress(axes, "y")
    return _png(figure)


def _nothing_yet(told: str = "nothing yet") -> bytes:
    figure = _figure(1.2)
    figure.text(0.5, 0.5, told, ha="center", va="center", fontsize=14, color="#718096")
    return _png(figure)


def _figure(height: float = _HEIGHT) -> Figure:
    return Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white", layout="constrained")


def _dress(axes: Axes, along: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    (axes.yaxis if along == "y" else axes.xaxis).grid(visible=True, color=_GRID)
    axes.tick_params(labelsize=9, colors=_INK)
    (axes.yaxis if along == "y" else axes.xaxis).set_major_formatter(lambda value, _: f"{value:,.10g}")
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(9)
        label.set_color(_INK)


def _scaled(sizes: Sequence[int]) -> tuple[list[float], str]:
    factor, unit = unit_of_bytes(max(sizes, default=0))
    return [size / factor for size in sizes], unit


def _png(figure: Figure) -> bytes:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba()))
    image = image.convert("RGB").quantize(_COLOURS)
    png = io.BytesIO()
    image.save(png, "PNG", optimize=True)
    return png.getvalue()

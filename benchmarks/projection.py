"""Makes docs/scaling.md: what 10 million recordings and 10 PB cost, by the slopes of `benchmarks/slopes.json`.

uv run python -m benchmarks.projection [--recordings 10000000] [--terabytes 10000] [--files 10] [--print]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.scaling import SLOPES

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"

# https://developers.cloudflare.com/r2/pricing/, Standard storage, US dollars, without the monthly free allowance.
PER_GB_MONTH, PER_MILLION = 0.015, {"A": 4.50, "B": 0.36}
PART_SIZE, IN_PARTS_ABOVE = 16 * 1024**2, 8 * 1024**2
NIGHTS, SCRUB_DAYS, MONTHS = 30, 365, 120
BEGIN, END = "<!-- computed: begin -->\n", "<!-- computed: end -->\n"


@dataclass(frozen=True)
class Size:
    """How much there is. A recording has so many files of the same size."""

    recordings: int
    bytes: int
    files: int

    @property
    def file_bytes(self) -> float:
        return self.bytes / self.recordings / self.files

    @property
    def parts(self) -> int:
        """Of a file."""
        return int(-(-self.file_bytes // PART_SIZE)) if self.file_bytes > IN_PARTS_ABOVE else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=DEFAULT.recordings)
    parser.add_argument("--terabytes", type=float, default=DEFAULT.bytes / 1e12)
    parser.add_argument("--files", type=int, default=DEFAULT.files, help="of each recording")
    parser.add_argument("--write", action="store_true", help="into docs/scaling.md")
    given = parser.parse_args()
    size = Size(given.recordings, int(given.terabytes * 1e12), given.files)
    text = computed(json.loads(SLOPES.read_text(encoding="utf-8")), size)
    if not given.write:
        print(text)
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{text}{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(f"{PAGE.name} is written")


DEFAULT = Size(10_000_000, 10 * 10**15, 10)


def computed(slopes: Mapping[str, Any], size: Size = DEFAULT) -> str:
    """What is worked out for so much, in Markdown."""
    parts = (
        _head(slopes, size),
        _requests(slopes["requests"], size),
        _money(slopes, size),
        _tables(slopes, size),
        _times(slopes, size),
    )
    return "\n".join(parts)


def requests_of(slopes: Mapping[str, Any], step: str, size: Size) -> dict[str, float]:
    """Requests of each class that the step makes for one recording."""
    in_parts = size.files if size.parts else 0
    made_of = {"recording": 1, "file": size.files, "file in parts": in_parts, "part": in_parts * size.parts}
    return {
        name: max(0.0, sum(count * costs[what] for what, count in made_of.items()))
        for name, costs in slopes[step].items()
    }


def _head(slopes: Mapping[str, Any], size: Size) -> str:
    made = slopes["made"]
    parts = f"{size.parts} parts each" if size.parts else "each in one request"
    return f"""For {size.recordings:,} recordings and {_si(size.bytes)}: {size.files} files of {_si(size.file_bytes)} in
each recording, {parts}. Measured {made["date"]} on {made["cores"]} cores, {made["machine"]}, Python {made["python"]}.
"""


def _requests(slopes: Mapping[str, Any], size: Size) -> str:
    rows = [
        (step, *(f"{requests_of(slopes, step, size)[name]:,.0f}" for name in ("A", "B")), _formula(slopes[step]))
        for step in slopes
    ]
    return f"""## Requests of one recording

R2 counts two classes: A changes or lists, B reads; deleting is free.

{_table(("step", "class A", "class B", "made of"), rows)}
One more costs the same among a hundred recordings as among {size.recordings:,}: none of these steps lists or reads what
was there before.
"""


def _formula(costs: Mapping[str, Mapping[str, float]]) -> str:
    """Such as `7 + 1 per file`, for each class."""
    texts = []
    for name, made_of in costs.items():
        per = [f"{made_of['recording']:g}"]
        per += [f"{made_of[what]:g} per {what}" for what in ("file", "file in parts", "part") if made_of[what] > 0]
        texts.append(f"{name}: {' + '.join(per)}")
    return "; ".join(texts)


def _money(slopes: Mapping[str, Any], size: Size) -> str:
    requests = slopes["requests"]
    listed = {"A": 2 * size.recordings / 1000}
    once = {
        "ingest and fold of all": _added(requests_of(requests, "ingest", size), requests_of(requests, "fold", size)),
        "ingest of all again, nothing changed": requests_of(requests, "ingest again", size),
        "rebuild of the catalog": requests_of(requests, "rebuild", size),
        "every stored byte read once (scrub, `verify --deep`)": requests_of(requests, "verify deep", size),
    }
    rows = [(what, _dollars(_cost(per, size.recordings))) for what, per in once.items()]
    rows.append(("one reconciliation (listings by recording)", _dollars(_cost(listed, 1))))
    stored = size.bytes / 1e9 * PER_GB_MONTH
    catalog = _catalog_bytes(slopes, size) / 1e9 * PER_GB_MONTH
    monthly = [
        ("the recordings, Standard storage", _dollars(stored)),
        ("the catalog: entries and tables", _dollars(catalog)),
        (f"{NIGHTS} nightly reconciliations", _dollars(NIGHTS * _cost(listed, 1))),
        (
            f"scrub of all within {SCRUB_DAYS} days",
            _dollars(
                _cost(once["every stored byte read once (scrub, `verify --deep`)"], size.recordings) * 30 / SCRUB_DAYS
            ),
        ),
    ]
    return f"""## Money

At R2's list prices (${PER_GB_MONTH} a GB and month, ${PER_MILLION["A"]:.2f} and ${PER_MILLION["B"]:.2f} a million
requests of class A and B, nothing for what leaves), without the free allowance. Once:

{_table(("what", "US dollars"), rows)}
Every month:

{_table(("what", "US dollars"), monthly)}
"""


def _tables(slopes: Mapping[str, Any], size: Size) -> str:
    catalog = slopes["catalog"]
    entry, row = catalog["entry_bytes"]["each"], catalog["table_bytes"]["each"]
    rows = [
        ("entries, one object a recording", _si(entry), _si(entry * size.recordings)),
        ("tables (Delta, compressed Parquet), all four", _si(row), _si(row * size.recordings)),
        (f"of one month, if they spread over {MONTHS // 12} years", "", _si(row * size.recordings / MONTHS)),
    ]
    return f"""## The catalog

Of recordings with ten modalities.

{_table(("what", "of one recording", "of all"), rows)}
`get_recording` reads one object, whatever their number. A question that is bounded by months reads these months.
"""


def _times(slopes: Mapping[str, Any], size: Size) -> str:
    catalog = slopes["catalog"]
    folds = catalog["fold_seconds"]
    fold = ", ".join(f"{seconds:.1f} s at {int(at):,}" for at, seconds in folds["at"].items())
    refold, rebuild = catalog["refold_seconds"]["each"], slopes["rebuild_seconds"]["each"]
    compared, month = slopes["reconciliation"], size.recordings / MONTHS
    rows = [
        (
            f"fold of {folds['new']:,} new recordings",
            fold,
            "the same: it adds files to their months (0.6 s at 1,000,000, `benchmarks/RESULTS.md`)",
        ),
        ("refold of all entries", f"{refold * 1e3:.2f} ms an entry", _hours(refold * size.recordings)),
        (
            "rebuild, one process",
            f"{rebuild * 1e3:.0f} ms a recording",
            f"{_hours(rebuild * size.recordings)}; {_hours(rebuild * size.recordings / 32)} in 32 shards (`--shard`)",
        ),
        (
            "reconciliation, all still on a source",
            f"{compared['seconds']['each'] * 1e3:.2f} ms and {compared['peak_mib']['each'] * 1024:.1f} KiB a recording",
            f"{_hours(compared['seconds']['each'] * size.recordings)}; a month at a time, of which "
            f"{month:,.0f} recordings take {compared['peak_mib']['each'] * month:,.0f} MiB",
        ),
    ]
    lines = [(f"{name}", _hours(size.bytes * 8 / rate)) for name, rate in (("1 Gbit/s", 1e9), ("10 Gbit/s", 1e10))]
    return f"""## Time

{_table(("what", "measured", f"{size.recordings:,} recordings"), rows)}
The line is what an ingest waits for, not this machine, which hashes and sends more than 7 Gbit/s
(`benchmarks/RESULTS.md`):

{_table((f"{_si(size.bytes)} over", "at least"), lines)}
"""


def _cost(per: Mapping[str, float], times: int) -> float:
    return sum(PER_MILLION[name] * count * times / 1e6 for name, count in per.items())


def _added(*several: Mapping[str, float]) -> dict[str, float]:
    return {name: sum(one[name] for one in several) for name in PER_MILLION}


def _catalog_bytes(slopes: Mapping[str, Any], size: Size) -> float:
    each = slopes["catalog"]["entry_bytes"]["each"] + slopes["catalog"]["table_bytes"]["each"]
    return each * size.recordings


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _si(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000 or unit == "PB":
            break
        count /= 1000
    return f"{count:,.3g} {unit}"


def _hours(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def _dollars(amount: float) -> str:
    return f"{amount:,.2f}" if amount < 100 else f"{amount:,.0f}"


if __name__ == "__main__":
    main()

"""docs/reliability.md, made of what the suites have counted (`report.py`)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from tests.faults.numbers import NUMBERS
from tests.faults.suites import HIGHEST, SUITES, Rows, Suite

Kept = Mapping[str, Mapping[str, Mapping[str, Any]]]

_HEAD = """# Reliability

What was done to lose, change or double something, and what came of it. Each suite breaks one kind of thing, on a real
object store on this machine, and then looks at everything that is left: no row without its bytes, no byte lost or
changed, no row twice, no stored object overwritten or deleted, the source untouched, a rerun comes to the state of an
undisturbed run, no secret and no name where none belongs (`tests/faults/invariants.py`).

    uv run python -m tests.faults.report
    uv run python -m tests.faults.report --long --only kills

The first line runs the short forms of all suites, as CI does, in some minutes; the second the long form of one. After
each suite this page is made anew of the newest figures, which are kept in [reliability.json](reliability.json).
"""

_LIMITS = """## What none of this shows

- **Cloudflare R2 itself.** The store is SeaweedFS, or a proxy that answers as R2 is documented to; what was measured on
  R2 is in no figure here.
- **Real NAS mounts.** FUSE gives the errors that NFS and SMB give, at a byte of our choice; their caches and their
  timing it does not have.
- **A real `op`.** A program of the same name stands in for it.
- **The order in which a machine runs its processes.** A seed decides who does what and which requests are held; the
  same seed may have to be run several times to see a failure again.
- **Power cuts.** Processes are killed; disks are full or fail, but none forgets what it has acknowledged.
"""


def page(kept: Kept) -> str:
    """The page. A suite that fails is named at its top and in its section."""
    every = SUITES
    parts = [_HEAD, *_warning(kept), _overview(every, kept)]
    parts += [_section(suite, kept.get(suite.name, {})) for suite in every.values()]
    return "\n".join([*parts, _LIMITS])


def failing(kept: Kept) -> dict[str, list[str]]:
    """Suite and form to what failed in it, where nothing newer of the same suite has come to a good end."""
    found = {}
    for name, forms in kept.items():
        for form, one in forms.items():
            mended = any(not other["failed"] and other["at"] > one["at"] for other in forms.values())
            if one["failed"] and not mended:
                found[f"{name}, {form} form"] = list(one["failed"])
    return found


def _warning(kept: Kept) -> list[str]:
    told = [f"- {name}: {', '.join(f'`{one}`' for one in failed)}" for name, failed in failing(kept).items()]
    return ["**A suite fails:**\n", *told, ""] if told else []


def _overview(every: Mapping[str, Suite], kept: Kept) -> str:
    lines = [
        "## What was asked, and what came of it\n",
        "| | asked | came of it | verdict | form |",
        "|---|---|---|---|---|",
    ]
    for suite in every.values():
        forms = kept.get(suite.name, {})
        form, one = _told_of(forms)
        came = _figure(suite, one) if one else ""
        anchor = suite.title.lower().replace(",", "").replace(" ", "-")
        when = f"{form if suite.has_long else 'only one'}, {one['at'][:10]}" if one else ""
        lines.append(f"| [{suite.title}](#{anchor}) | {suite.asked} | {came} | {_verdict(suite, forms)} | {when} |")
    return "\n".join(lines) + "\n"


def _told_of(forms: Mapping[str, Mapping[str, Any]]) -> tuple[str, Mapping[str, Any] | None]:
    """The long form if it was ever run to its end, else the short one."""
    long, short = forms.get("long"), forms.get("short")
    if long and (long["rows"] or not short):
        return "long", long
    return "short", short


def _figure(suite: Suite, one: Mapping[str, Any]) -> str:
    if not one["rows"]:
        return "nothing was counted"
    try:
        return suite.figure(suite.figures(one["rows"]))
    except KeyError as missing:
        return f"{missing} was not counted"


def _verdict(suite: Suite, forms: Mapping[str, Mapping[str, Any]]) -> str:
    form, one = _told_of(forms)
    if one is None:
        return "not run yet"
    if failing({suite.name: forms}):
        return "**fails**"
    try:
        is_reached = suite.reached(suite.figures(one["rows"]))
    except KeyError:
        is_reached = False
    if is_reached:
        return "**holds**"
    return "holds, in the short form" if form == "short" and suite.has_long else "holds, in fewer than asked"


def _section(suite: Suite, forms: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"## {suite.title}\n", _filled(suite.tried)]
    for name, failed in failing({suite.name: forms}).items():
        lines.append(f"**Fails** ({name}): {', '.join(f'`{one}`' for one in failed)}.\n")
    _, one = _told_of(forms)
    if one is None:
        return "\n".join([*lines, "It was not run yet.\n"])
    if suite.name == "numbers":
        lines.append(_numbers(one["rows"]))
    elif suite.columns:
        lines.append(_table(suite, one["rows"]))
    lines += [_filled(suite.after)] * bool(suite.after)
    lines.append(_filled(" ".join([*(_made(suite, form, one) for form, one in sorted(forms.items())), _again(suite)])))
    return "\n".join(lines)


def _filled(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n"


def _made(suite: Suite, form: str, one: Mapping[str, Any]) -> str:
    minutes, seconds = divmod(one["seconds"], 60)
    took = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    cases = f", {one['cases']} cases passed" if one["cases"] else ""
    skipped = f", {one['skipped']} skipped" if one["skipped"] else ""
    which = f"The {form} form" if suite.has_long else "It"
    return (
        f"{which} was run on {one['at'][:10]} in {took} on {one['cores']} cores with Python {one['python']}"
        f"{cases}{skipped}."
    )


def _again(suite: Suite) -> str:
    return f"Again with `{'--long ' if suite.has_long else ''}--only {suite.name}`."


def _table(suite: Suite, rows: Rows) -> str:
    told = {name: row for name, row in rows.items() if suite.columns.keys() & row.keys()}
    columns = [key for key in suite.columns if any(key in row for row in told.values())]
    is_text = {key for key in columns for row in told.values() if isinstance(row.get(key), str)}
    lines = [f"| {suite.row} | {' | '.join(suite.columns[key] for key in columns)} |"]
    lines.append(f"|---|{'|'.join('---' if key in is_text else '---:' for key in columns)}|")
    shown = sorted(told.items(), key=lambda item: _in_order(item[0]))
    if len(told) > 1:
        sums = suite.figures(told)
        shown.append(("**all**", {key: sums[key] for key in columns if key in sums}))
    lines += [f"| {name} | {' | '.join(_cell(row.get(key, '')) for key in columns)} |" for name, row in shown]
    highest = [suite.columns[key] for key in columns if key in HIGHEST and len(told) > 1]
    note = f"\nOf *{', '.join(highest)}* the last line has the highest.\n" if highest else ""
    return "\n".join(lines) + "\n" + note


def _in_order(name: str) -> tuple[float, str]:
    number = name.partition(".")[0]
    return (int(number) if number.isdecimal() else float("inf"), name)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _numbers(rows: Rows) -> str:
    lines = ["| | what happens | what must come of it | tests |", "|---:|---|---|---|"]
    for number, (happens, must) in NUMBERS.items():
        files = rows.get(number, {})
        tests = ", ".join(
            f"[{PurePosixPath(file).stem.removeprefix('test_')}](../{file}) {count}" for file, count in files.items()
        )
        lines.append(f"| {number} | {happens} | {must} | {tests} |")
    return "\n".join(lines) + "\n\nBehind each file stands how many of its tests and named cases have that number.\n"

"""What an ingest would do, as an operator reads it: a table, why some are left alone, and what it comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal
from rich.markup import escape

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.cli.options import EXIT_FAILED, told_place
from ursa_pipelines.cli.printing import console
from ursa_pipelines.cli.progress import Expected, counted_noun, say, told_seconds
from ursa_pipelines.cli.tables import notes_about, show_below, show_columns, told_path

if TYPE_CHECKING:
    from rich.console import Console

    from ursa_pipelines.ingest.batch import BatchItem
    from ursa_pipelines.ingest.plan import IngestPlan
    from ursa_pipelines.interface import DataInterface
    from ursa_pipelines.profiles.timetable import Estimate

_WORDS = {
    "ingest": "ingest",
    "nothing": "[dim]nothing to do[/]",
    "waits": "[yellow]waits[/]",
    "refused": "[red]refused[/]",
}
_MOST_ROWS: dict[str, int] = {"ingest": 40, "nothing": 40, "waits": 200, "refused": 200}
_MOST_LINES = 200


@dataclass(frozen=True)
class Planned:
    """The plans of a command, and the sources that could not be read (name: why)."""

    data: DataInterface
    plans: Sequence[IngestPlan]
    unavailable: Mapping[str, str] = field(default_factory=dict)
    overwrite: bool = False
    allow_partial: bool = False

    @property
    def to_ingest(self) -> list[IngestPlan]:
        return [plan for plan in self.plans if plan.action == "ingest"]

    @property
    def exit_code(self) -> int:
        """1 if a recording is refused or waits, or a source is not there; else 0."""
        held = any(plan.action in {"waits", "refused"} for plan in self.plans)
        return EXIT_FAILED if held or self.unavailable else 0

    def summary(self) -> dict[str, Any]:
        """What it comes to, for the document."""
        estimate = self.data.estimate(self.to_ingest)
        return {
            **{action: sum(plan.action == action for plan in self.plans) for action in _WORDS},
            "files": sum(plan.files for plan in self.to_ingest),
            "files_to_send": sum(plan.files_to_send for plan in self.to_ingest),
            "bytes_to_send": sum(plan.bytes_to_send for plan in self.to_ingest),
            "bytes_per_second": estimate.rate,
            "until": estimate.until,
            "unavailable": dict(self.unavailable),
        }

    def answer(self, **more: Any) -> None:
        """Writes the document."""
        items = (asdict(plan) for plan in self.plans)
        print_answer(items, summary=self.summary() | more, exit_code=self.exit_code)

    def show(self, on: Console = console) -> None:
        """Prints the table and the lines below it."""
        self._show_table(on)
        held = [(_WORDS[plan.action], plan.reason) for plan in self.plans if plan.reason]
        notes = [row for plan in self.plans for row in notes_about(plan.rec_id, "[cyan]note[/]", plan.notes)]
        sources = [("[red]source[/]", f"{name} is not read: {why}") for name, why in self.unavailable.items()]
        below = [*sources, *held, *notes]
        show_below(below[:_MOST_LINES], on)
        if len(below) > _MOST_LINES:
            say(on, f"and {len(below) - _MOST_LINES:,} more lines like these; --json tells all")
        for told in self._told():
            say(on, told)
        if self.to_ingest:
            self._tell_of_announcing(on)

    def _show_table(self, on: Console) -> None:
        counts = Counter(plan.action for plan in self.plans)
        left = _MOST_ROWS | ({"nothing": 0} if counts["nothing"] > _MOST_ROWS["nothing"] else {})
        rows = []
        for plan in self.plans:
            left[plan.action] -= 1
            if left[plan.action] >= 0:
                rows.append(plan)
        columns = {
            "recording": [escape(plan.rec_id) for plan in rows],
            "path": [told_path(plan.path) for plan in rows],
            "node": [_told_nodes(plan) for plan in rows],
            "files": [f"{plan.files:,}" if plan.path else "" for plan in rows],
            "bytes": [decimal(plan.bytes) if plan.path else "" for plan in rows],
            "to send": [_told_size(plan.bytes_to_send) if plan.path else "" for plan in rows],
            "what": [_WORDS[plan.action] for plan in rows],
        }
        if rows:
            right = {"files", "bytes", "to send"}
            show_columns("Plan", columns, right=right, drop=["bytes", "path", "files", "node", "to send"], on=on)
        for action, word in (("ingest", "to ingest"), ("waits", "waiting"), ("refused", "refused")):
            if left[action] < 0:
                say(on, f"and {-left[action]:,} more {word}; --json tells all")

    def _told(self) -> Iterator[str]:
        yield f"Profile {self.data.profile.name}: {told_place(self.data)}."
        counts = Counter(plan.action for plan in self.plans)
        others = (
            (counts["nothing"], "already registered"),
            (counts["waits"], "waiting"),
            (counts["refused"], "refused"),
        )
        rest = ", ".join(f"{count:,} {word}" for count, word in others if count)
        if not self.to_ingest:
            yield f"Nothing to do: {rest}." if rest else "No recording was found."
            return
        size, files = (sum(getattr(plan, name) for plan in self.to_ingest) for name in ("bytes_to_send", "files"))
        sent = f"{decimal(size)} to send, {self._told_estimate()}" if size else "nothing to send"
        yield f"{counted_noun(len(self.to_ingest), 'recording')} to ingest: {counted_noun(files, 'file')}, {sent}."
        if rest:
            yield f"Left alone: {rest}."
        if self.overwrite:
            yield "Catalog rows that differ are replaced (--overwrite)."
        if self.allow_partial:
            yield "Recordings are taken although files are missing (--allow-partial)."

    def _told_estimate(self) -> str:
        estimate = self.data.estimate(self.to_ingest)
        if estimate.rate is None:
            return "no upload cap" if estimate.until is None else f"until {_clock(estimate)}"
        rate = f"{decimal(int(estimate.rate))}/s"
        if estimate.until is None:
            return f"at {rate} now, and later without a cap"
        seconds = (estimate.until - estimate.start).total_seconds()
        return f"about {told_seconds(seconds)} at {rate}, until {_clock(estimate)}"

    def _tell_of_announcing(self, on: Console) -> None:
        profile = self.data.profile
        if text := self.data.needs_announcement(self.to_ingest):
            say(on, "[bold]Announce it first, as no webhook does it.[/] You may post:", markup=True)
            say(on, text)
        elif profile.notifications.webhook and len(self.to_ingest) >= profile.notifications.announce_from:
            say(on, "It is announced over the profile's webhook before the first byte.")


def expected_of(plan: IngestPlan) -> Expected:
    """What is to be counted of a recording that is ingested."""
    hashing = f"{decimal(plan.bytes_to_hash)} are hashed for its manifest" if plan.bytes_to_hash else ""
    return Expected(plan.rec_id, plan.files, plan.bytes, *([hashing] if hashing else []))


def item_of(plan: IngestPlan) -> BatchItem:
    """What has come of a recording that nothing was done for, in the form of one that something was."""
    from ursa_pipelines.ingest.batch import BatchItem, State

    states: dict[str, State] = {"nothing": "registered", "waits": "waiting", "refused": "failed", "ingest": "waiting"}
    return BatchItem(
        plan.rec_id,
        state=states[plan.action],
        path=plan.path,
        directories=len(plan.directories),
        files=plan.files,
        bytes=plan.bytes,
        files_skipped=plan.files if plan.action == "nothing" else 0,
        outcome="unchanged" if plan.action == "nothing" else "",
        recording_hash=plan.recording_hash,
        fingerprint=plan.fingerprint,
        nodes=plan.nodes,
        nodes_missing=plan.nodes_missing,
        reason=plan.reason if plan.action != "ingest" else f"{plan.rec_id}: it was not begun or not finished.",
        remedy=plan.remedy,
        error_type=plan.error_type if plan.action != "ingest" else "UploadInterrupted",
        retryable=plan.action in {"waits", "ingest"},
    )


def _told_size(size: int) -> str:
    return decimal(size) if size else "-"


def _told_nodes(plan: IngestPlan) -> str:
    count = len(plan.nodes) + len(plan.nodes_missing)
    return f"{len(plan.nodes)} of {count}" if count > 1 else ""


def _clock(estimate: Estimate) -> str:
    until = estimate.until or estimate.start
    return f"{until:%H:%M}" if until.date() == estimate.start.date() else f"{until:%a %d %b %H:%M}"

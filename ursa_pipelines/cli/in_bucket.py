"""`ursa register`, `reconstruct` and `verify`: recordings whose bytes are in the bucket (Paths B and C)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.cli.failures import EXIT_FAILED, EXIT_INTERRUPTED, Interrupted, failure_of
from ursa_pipelines.cli.options import AsJson, Config, Profile, Yes, confirm, open_data

if TYPE_CHECKING:
    from rich.console import Console

    from ursa_pipelines.cli.progress import Tally
    from ursa_pipelines.ingest.context import UploadProgress

app = typer.Typer(help="Attached to `ursa`.")

RecIds = Annotated[list[str], typer.Argument(metavar="REC_ID", help="Recordings whose bytes are in the bucket.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]

_SAID = {"FAIL": "[red]refused[/]", "SKIP": "[yellow]waits[/]", "OK": "[dim]nothing to do[/]"}

Tell = Callable[["UploadProgress"], None]


@dataclass(frozen=True)
class Step:
    """A recording, and what is done with it: `what` beforehand, `told` and `facts` (for machines) afterwards.

    `status` is "" as long as nothing has come of it. `reads` says whether its bytes are read, `size` of them.
    """

    rec_id: str
    what: str = ""
    files: int = 0
    size: int = 0
    reads: bool = False
    status: Literal["", "OK", "FAIL", "SKIP"] = ""
    told: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def as_item(self) -> dict[str, Any]:
        """What the document has of it."""
        item = {"rec_id": self.rec_id, "status": self.status or None, "files": self.files, "bytes": self.size}
        return item | {"what": self.what, "reason": "" if self.status == "OK" else self.told} | self.facts


@app.command(rich_help_panel="Ingest")
def register(
    rec_ids: RecIds,
    profile: Profile = None,
    config: Config = None,
    participant: Annotated[str | None, typer.Option(help="Display name; else participant.txt counts.")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Write the rows of recordings whose bytes are in the bucket (Path B). Sends nothing."""
    from ursa_pipelines.ingest.discover import discover_in_bucket, require_manifest
    from ursa_pipelines.ingest.targets import Targets

    data = open_data(profile, config)

    def look(rec_id: str) -> Step:
        (plan,) = data.plan_many(Targets({rec_id: ()}, {}))
        if plan.path == "C+B":
            require_manifest(discover_in_bucket(data.reading_context, rec_id))
        step = Step(rec_id, "write its rows", plan.files, plan.bytes)
        if plan.action in {"waits", "refused"}:
            return replace(step, status="SKIP" if plan.action == "waits" else "FAIL", told=plan.reason)
        if plan.action == "nothing" and participant is None:
            facts = {"outcome": "unchanged", "recording_hash": plan.recording_hash}
            return replace(step, what="nothing to do", status="OK", told="registered already", facts=facts)
        return step

    def do(step: Step, tell: Tell) -> Step:
        result = data.ingest_from_r2(step.rec_id, participant=participant)
        recording_hash = result.recording.recording_hash if result.recording else ""
        facts = {"outcome": result.outcome, "verification": result.verification, "recording_hash": recording_hash}
        told = f"{result.outcome}, {result.files_skipped:,} files, verified by {result.verification}"
        return replace(step, status="OK", told=told, facts=facts)

    steps = _looked_at("Register", rec_ids, look, as_json=as_json)
    if (count := _left(steps)) and not dry_run:
        confirm(data, f"Register {count} in {data.profile.buckets.assets}?", yes)
        data.enable_writes()
    _done("Register", steps, do, dry_run=dry_run, as_json=as_json)


@app.command(rich_help_panel="Ingest")
def reconstruct(
    rec_ids: RecIds,
    profile: Profile = None,
    config: Config = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Make manifest.json for recordings whose bytes are in the bucket without one (Path C). Needs `register` after."""
    from ursa_pipelines.ingest.discover import discover_in_bucket

    data = open_data(profile, config)

    def look(rec_id: str) -> Step:
        found = discover_in_bucket(data.reading_context, rec_id)
        step = _of_bucket(rec_id, [info.size for info in found.stored.segments.values()])
        if found.merged is not None:
            return replace(step, what="nothing to do", status="OK", told="has a manifest already")
        return replace(step, what="read its bytes and write a manifest", reads=True)

    def do(step: Step, tell: Tell) -> Step:
        made = data.reconstruct_manifest(step.rec_id, progress=tell)
        told = f"manifest of {len(made.files):,} files written" if made else "has a manifest already"
        return replace(step, status="OK", told=told, facts={"written": made is not None})

    steps = _looked_at("Reconstruct", rec_ids, look, as_json=as_json)
    if (count := _left(steps)) and not dry_run:
        confirm(data, f"Write manifests of {count} into {data.profile.buckets.raw}?", yes)
        data.enable_writes(roles=("assets_rw", "raw_rw"))
    _done("Reconstruct", steps, do, dry_run=dry_run, as_json=as_json)


@app.command(rich_help_panel="Look")
def verify(
    rec_ids: RecIds,
    profile: Profile = None,
    config: Config = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read and hash every byte, and note it in the row.")] = False,
    no_record: Annotated[bool, typer.Option("--no-record", help="Only look; note nothing.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Compare rows, manifests and objects of recordings. Only reads, unless --deep proves more than the row says."""
    from ursa_pipelines.objects.stored import read_stored

    data = open_data(profile, config)
    records = deep and not no_record

    def look(rec_id: str) -> Step:
        stored = read_stored(data.reading_context.raw, rec_id)
        step = _of_bucket(rec_id, [info.size for info in stored.segments.values()])
        noted = ", then note it in the row" if records else ""
        return replace(step, what=f"read and hash every byte{noted}" if deep else "compare sizes", reads=deep)

    def do(step: Step, tell: Tell) -> Step:
        found = data.verify(step.rec_id, deep=deep, progress=tell)
        facts = {"level": found.level, "problems": list(found.problems), "recorded": found.recorded}
        if not found.ok:
            problems = "\n".join(f"     {problem}" for problem in found.problems)
            count = f"{len(found.problems):,} problem{'' if len(found.problems) == 1 else 's'}"
            told = f"{count} in {found.files:,} files compared by {found.level}:\n{problems}"
            return replace(step, status="FAIL", told=told, facts=facts)
        told = f"{found.files:,} files by {found.level}{', noted in the row' if found.recorded else ''}"
        return replace(step, status="OK", told=told, facts=facts)

    steps = _looked_at("Verify", rec_ids, look, as_json=as_json)
    if records and (count := _left(steps)) and not dry_run:
        confirm(data, f"Note in {data.profile.buckets.assets} which of {count} are proved?", yes)
        data.enable_writes()
    _done("Verify", steps, do, dry_run=dry_run, as_json=as_json)


def _of_bucket(rec_id: str, sizes: Sequence[int]) -> Step:
    return Step(rec_id, files=len(sizes), size=sum(sizes))


def _left(steps: Sequence[Step]) -> str:
    """How many there is something to do for, or "" for none."""
    count = sum(not step.status for step in steps)
    return f"{count:,} recording{'' if count == 1 else 's'}" if count else ""


def _looked_at(title: str, rec_ids: Sequence[str], look: Callable[[str], Step], *, as_json: bool) -> list[Step]:
    """Looks at each recording and shows what there is to do; one that cannot be looked at has failed."""
    from ursa_pipelines.cli.printing import console, counted
    from ursa_pipelines.cli.progress import errors
    from ursa_pipelines.recordings.identity import parse_rec_id

    def look_at(step: Step) -> Step:
        parse_rec_id(step.rec_id)
        return look(step.rec_id)

    rec_ids = list(dict.fromkeys(rec_ids))
    steps: list[Step] = []
    with counted("Looking at the recordings") as tell:
        for rec_id in rec_ids:
            tell(len(steps), len(rec_ids))
            steps.append(_unless_refused(Step(rec_id), look_at))
    _show(title, steps, errors if as_json else console)
    return steps


def _show(title: str, steps: Sequence[Step], on: Console) -> None:
    """A table, if there is anything to do: what came of the others is told by their lines."""
    from rich.filesize import decimal
    from rich.markup import escape

    from ursa_pipelines.cli.tables import show_columns

    if not _left(steps):
        return
    columns = {
        "recording": [escape(step.rec_id) for step in steps],
        "files": [f"{step.files:,}" if step.files else "" for step in steps],
        "bytes": [decimal(step.size) if step.files else "" for step in steps],
        "what": [_SAID.get(step.status, step.what) for step in steps],
    }
    show_columns(title, columns, right={"files", "bytes"}, drop=["bytes", "files"], on=on)


def _unless_refused(step: Step, work: Callable[[Step], Step]) -> Step:
    """What comes of it; what is wrong with one recording never stops the others."""
    from ursa_pipelines.errors import CatalogConflict, CatalogRowNotFound, RecordingRefused, Retryable

    try:
        return work(step)
    except (CatalogConflict, CatalogRowNotFound, RecordingRefused, Retryable) as error:
        facts = {"error_type": type(error).__name__, "remedy": error.remedy}
        return replace(step, status="FAIL", told=str(error), facts=facts)


def _done(title: str, steps: Sequence[Step], do: Callable[[Step, Tell], Step], *, dry_run: bool, as_json: bool) -> None:
    """Does one after another, with a line for each, and ends the command."""
    from ursa_pipelines.cli.printing import console
    from ursa_pipelines.cli.progress import Expected, Tally, errors, shown, stopping

    on = errors if as_json else console
    tally = Tally(Expected(one.rec_id, one.files, one.size if one.reads else 0) for one in steps)
    done: list[Step] = []
    interrupted: Interrupted | None = None
    try:
        with shown(tally, title, on), stopping(tally, on):
            for step in steps:
                if not (step.status or dry_run):
                    step = _unless_refused(step, partial(_do, do, tally))
                tally.end(step.rec_id)
                done.append(step)
                if step.status and not as_json:
                    _say(step)
    except KeyboardInterrupt:
        finished = sum(step.status == "OK" for step in done)
        interrupted = Interrupted(f"{finished:,} done, {len(steps) - finished:,} not done")
        done += steps[len(done) :]
    failed = any(step.status in {"FAIL", "SKIP"} for step in done)
    exit_code = EXIT_INTERRUPTED if interrupted else EXIT_FAILED if failed else 0
    if as_json:
        error = failure_of(interrupted).as_error() if interrupted else None
        summary = {name: sum(step.status == name for step in done) for name in ("OK", "FAIL", "SKIP")}
        print_answer((step.as_item() for step in done), summary=summary, exit_code=exit_code, error=error)
    if interrupted:
        raise interrupted
    raise typer.Exit(exit_code)


def _do(do: Callable[[Step, Tell], Step], tally: Tally, step: Step) -> Step:
    return do(step, partial(tally.tell, step.rec_id))


def _say(step: Step) -> None:
    from rich.markup import escape

    from ursa_pipelines.cli.printing import console
    from ursa_pipelines.cli.progress import STYLES, say

    about = step.told if step.told.startswith(step.rec_id) else f"{step.rec_id}: {step.told}"
    say(console, f"[{STYLES[step.status]}]{step.status}[/] {escape(about)}", markup=True)

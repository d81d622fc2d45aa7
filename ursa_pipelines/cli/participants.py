"""`ursa participants`: names that recordings lack, doubtful ones, and two spellings of one person.

Dry until `--commit`. Names are shown in tables, for the operator's eyes; with `--json` there are ids only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.cli.options import EXIT_FAILED, AsJson, Commit, Config, Profile, Yes, confirm, open_data, writing
from ursa_pipelines.cli.printing import counted, counts_of, line, show_applied, show_table

if TYPE_CHECKING:
    from ursa_pipelines.interface import DataInterface
    from ursa_pipelines.maintenance.many import Applied
    from ursa_pipelines.maintenance.participants import Naming
    from ursa_pipelines.maintenance.participants_edits import EditProposal

participants_app = typer.Typer(no_args_is_help=True, help="Participants: missing names, doubtful ones, merges.")

Who = Annotated[str, typer.Argument(help="A participant's id or name.")]

_TOLD = {
    "add": "gets the name",
    "differs": "names somebody else; stays",
    "unreadable": "unreadable",
    "unnamed": "nobody known",
}


@participants_app.command()
def backfill(
    profile: Profile = None,
    config: Config = None,
    everything: Annotated[bool, typer.Option("--all", help="Look at recordings that have a participant, too.")] = False,
    commit: Commit = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Give recordings without a participant the name that their participant.txt in the bucket has."""
    from ursa_pipelines.maintenance.participants import apply_backfill, plan_backfill

    data = open_data(profile, config)
    context = data.reading_context
    with counted("Reading participant.txt") as progress:
        namings = plan_backfill(context.raw, context.catalog, everything=everything, progress=progress)
    to_add = [one for one in namings if one.state == "add"]
    if not as_json:
        _show_namings(namings)
    applied: list[Applied] = []
    if commit and to_add:
        confirm(data, f"Add participants to {len(to_add)} recordings in {data.profile.buckets.assets}?", yes)
        context = writing(data)
        with counted("Writing rows") as progress:
            applied = apply_backfill(context.catalog, to_add, context.writer, progress)
    failed = any(one.state == "unreadable" for one in namings) or any(one.outcome == "failed" for one in applied)
    exit_code = EXIT_FAILED if failed else 0
    if as_json:
        outcomes = {one.recording_hash: one for one in applied}
        items = [_naming_as_json(one, outcomes.get(one.recording_hash)) for one in namings]
        print_answer(items, summary=counts_of(applied), exit_code=exit_code)
    else:
        show_applied(applied, is_dry=bool(to_add) and not commit)
    raise typer.Exit(exit_code)


@participants_app.command()
def audit(profile: Profile = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show what is doubtful about participants, and what to do about it. Only reads; exit code 1 if anything is."""
    from dataclasses import asdict

    from ursa_pipelines.maintenance.participants_audit import audit_participants

    context = open_data(profile, config).reading_context
    with counted("Reading participant.txt") as progress:
        findings = audit_participants(context.raw, context.catalog, progress)
    if as_json:
        items = [{key: value for key, value in asdict(one).items() if key != "names"} for one in findings]
        print_answer(items, exit_code=EXIT_FAILED if findings else 0)
    else:
        show_table(
            "Participants",
            {"finding": True, "of": True, "about": False, "names": False},
            [(one.kind, one.subject, ", ".join(one.others), _names(one.names)) for one in findings],
        )
        for one in findings:
            line(f"{one.subject}: {'. '.join(part for part in (one.problem, one.remedy) if part)}")
        line(f"{len(findings)} findings" if findings else "nothing is doubtful")
    if findings:
        raise typer.Exit(EXIT_FAILED)


@participants_app.command("list")
def list_(profile: Profile = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show all participants with their ids."""
    from ursa_pipelines.maintenance.participants import read_people

    people = read_people(open_data(profile, config).reading_context.catalog).values()
    if as_json:
        keys = ("participant_id", "recordings", "merged_into")
        print_answer({key: getattr(one, key) for key in keys} for one in people)
        return
    show_table(
        "Participants",
        {"participant": True, "name": False, "recordings": True, "merged into": True},
        [(one.participant_id, _names([one.name or ""]), str(one.recordings), one.merged_into or "") for one in people],
    )


@participants_app.command()
def merge(
    spelling: Annotated[str, typer.Argument(metavar="FROM", help="Id or name of the spelling that is given up.")],
    into: Annotated[str, typer.Argument(metavar="INTO", help="Id or name of the person it is.")],
    profile: Profile = None,
    config: Config = None,
    commit: Commit = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Tell that two spellings are one person; `unmerge` takes it back. Rows and recordings stay as they are."""
    from ursa_pipelines.maintenance.participants_edits import plan_merge

    data = open_data(profile, config)
    _decide(data, plan_merge(data.reading_context.catalog, spelling, into), commit, yes, as_json)


@participants_app.command()
def unmerge(
    participant: Who,
    profile: Profile = None,
    config: Config = None,
    commit: Commit = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Take a merge back: everything is as it was before."""
    from ursa_pipelines.maintenance.participants_edits import plan_unmerge

    data = open_data(profile, config)
    _decide(data, plan_unmerge(data.reading_context.catalog, participant), commit, yes, as_json)


@participants_app.command()
def rename(
    participant: Who,
    name: Annotated[str | None, typer.Argument(help="The new display name.")] = None,
    original: Annotated[bool, typer.Option("--original", help="Return to the name typed at the rig.")] = False,
    profile: Profile = None,
    config: Config = None,
    commit: Commit = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Give a participant another display name. The id stays, and so do participant.txt and the entries."""
    from ursa_pipelines.maintenance.participants_edits import plan_rename

    if (name is None) != original:
        raise typer.BadParameter("give a name or --original, one of the two")
    data = open_data(profile, config)
    _decide(data, plan_rename(data.reading_context.catalog, participant, name), commit, yes, as_json)


@participants_app.command()
def history(participant: Who, profile: Profile = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show who decided what about a participant, and when."""
    from ursa_pipelines.maintenance.participants_edits import history as read_history

    participant_id, items = read_history(open_data(profile, config).reading_context.catalog, participant)
    if as_json:
        print_answer(item.model_dump(exclude={"display_name"}) for item in items)
    elif not items:
        line(f"{participant_id}: nobody has edited it")
    else:
        show_table(
            participant_id,
            {"at": True, "by": True, "what": True, "name then": False, "merged into then": True},
            [
                (f"{item.at:%Y-%m-%d %H:%M:%S}Z", item.by, item.op, _names([item.display_name or ""]), item.merged_into)
                for item in items
            ],
        )


def _decide(data: DataInterface, proposal: EditProposal, commit: bool, yes: bool, as_json: bool) -> None:
    from ursa_pipelines.maintenance.participants_edits import apply_edit

    if not as_json:
        _show_proposal(proposal)
    written = False
    if commit and proposal.changes_anything:
        confirm(data, f"{proposal.kind.capitalize()} {proposal.participant_id}?", yes)
        context = writing(data)
        apply_edit(context.catalog, proposal, context.writer)
        written = True
    if as_json:
        keys = ("kind", "participant_id", "merged_into", "recordings")
        print_answer([{**{key: getattr(proposal, key) for key in keys}, "written": written}])
    elif not proposal.changes_anything:
        line("It is so already.")
    else:
        line("Written." if written else "Nothing was written; --commit writes it.")


def _show_proposal(proposal: EditProposal) -> None:
    who = f"{proposal.participant_id} ({_names([proposal.name or 'no name'])}), {proposal.recordings} recordings"
    if proposal.kind == "merge":
        line(f"{who}: is {proposal.merged_into} ({_names([proposal.into_name or 'no name'])})")
    elif proposal.kind == "unmerge":
        line(f"{who}: is no longer {proposal.seen.merged_into}")
    else:
        line(f"{who}: is called {_names([proposal.display_name or 'as typed at the rig'])}")


def _show_namings(namings: Sequence[Naming]) -> None:
    show_table(
        "Participants",
        {"recording": True, "row": True, "bucket": True, "names": False},
        [
            (one.rec_id or one.recording_hash, ", ".join(one.seen), _TOLD[one.state], _names([*one.names.values()]))
            for one in namings
        ],
    )
    for one in namings:
        if one.problem:
            line(f"FAIL {one.rec_id or one.recording_hash}: {one.problem}")
    counts = {state: sum(one.state == state for one in namings) for state in _TOLD}
    line(", ".join(f"{count} {_TOLD[state]}" for state, count in counts.items() if count) or "Nothing to do.")


def _naming_as_json(naming: Naming, applied: Applied | None) -> dict[str, Any]:
    return {
        "recording_hash": naming.recording_hash,
        "rec_id": naming.rec_id,
        "state": naming.state,
        "row": list(naming.seen),
        "bucket": list(naming.participant_ids),
        "outcome": applied.outcome if applied else None,
        "problem": (applied.problem if applied else "") or naming.problem,
    }


def _names(names: Sequence[str]) -> str:
    """Names as typed by anybody: what is invisible or moves the cursor is escaped."""
    from ursa_pipelines.recordings.layout import shown

    return ", ".join(shown(name) for name in names)

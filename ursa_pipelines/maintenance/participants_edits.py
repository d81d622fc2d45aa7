"""Decisions about participants: merging two spellings of one person, taking that back, another display name.

Each is an edit beside the entries, which keep what was typed at the rig (DESIGN section 6), so that undoing it gives
back exactly what was. Nobody is merged into themselves, nor into or from somebody who is part of a merge in the other
role: merges never form a chain. Since two decisions can be taken at once, this is looked at again after the write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.edits import EditItem, ParticipantEdit, read_edits, write_edit
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.errors import CatalogConflict, CatalogRowNotFound
from ursa_pipelines.maintenance.participants import Person, merge_chain, merges_of, read_people
from ursa_pipelines.recordings.identity import clean_display_name, derive_participant_id
from ursa_pipelines.recordings.layout import some

Change = Callable[[ParticipantEdit], ParticipantEdit]


@dataclass(frozen=True)
class EditProposal:
    """One decision: what the participant's edit shall say, and what it said when this was planned.

    `name` is how the participant is called now, `into_name` the one it shall be merged into; `recordings` are its own.
    """

    kind: Literal["merge", "unmerge", "rename"]
    participant_id: str
    merged_into: str | None
    seen: ParticipantEdit
    display_name: str | None = field(default=None, repr=False)
    recordings: int = 0
    name: str | None = field(default=None, repr=False)
    into_name: str | None = field(default=None, repr=False)

    @property
    def changes_anything(self) -> bool:
        return (self.display_name, self.merged_into) != _decided(self.seen)


def plan_merge(catalog: Catalog, spelling: str, into: str) -> EditProposal:
    """Proposes that `spelling` is the person `into`; both are given as ids or names. Only reads.

    Raises `CatalogRowNotFound` for unknown ones and `CatalogConflict` for a merge into itself or one that would make
    a chain.
    """
    people = read_people(catalog)
    person, target = _find(people, spelling), _find(people, into)
    merges = merges_of(one.edit for one in people.values() if one.edit)
    _require_mergeable(merges, person.participant_id, target.participant_id)
    return _proposal("merge", person, merged_into=target.participant_id, into_name=target.name)


def plan_unmerge(catalog: Catalog, who: str) -> EditProposal:
    """Proposes to take a merge back. Raises `CatalogRowNotFound`, or `CatalogConflict` if there is none."""
    person = _find(read_people(catalog), who)
    if person.merged_into is None:
        raise CatalogConflict(f"{person.participant_id} is not merged into anybody", remedy="There is nothing to undo.")
    return _proposal("unmerge", person, merged_into=None)


def plan_rename(catalog: Catalog, who: str, name: str | None) -> EditProposal:
    """Proposes another display name; None is the one that was typed at the rig. The id stays.

    Raises `CatalogRowNotFound` and `ParticipantInvalid`.
    """
    cleaned = clean_display_name(name)
    if name is not None and cleaned is None:
        raise CatalogConflict("the new name is blank", remedy="Give one, or --original for what was typed at the rig.")
    person = _find(read_people(catalog), who)
    return _proposal("rename", person, merged_into=person.merged_into, display_name=cleaned)


def apply_edit(catalog: Catalog, proposal: EditProposal, writer: Writer) -> ParticipantEdit:
    """Writes the decision in one compare-and-swap and returns the edit with its history.

    Raises `CatalogConflict` if others have edited the participant meanwhile, or if another merge that was decided at
    the same time makes a chain of this one; then this one is taken back.
    """

    def change(current: ParticipantEdit) -> ParticipantEdit:
        wanted = current.model_copy(update={"display_name": proposal.display_name, "merged_into": proposal.merged_into})
        if wanted != current and _decided(current) != _decided(proposal.seen):
            raise CatalogConflict(
                f"{proposal.participant_id} was edited meanwhile",
                remedy="Look at `ursa participants history`, then decide again.",
            )
        return wanted

    into = proposal.merged_into or proposal.seen.merged_into
    op = proposal.kind if proposal.kind == "rename" else f"{proposal.kind}:{into}"
    edit = _write(catalog, proposal.participant_id, change, op, writer)
    if proposal.kind == "merge" and proposal.merged_into is not None:
        try:
            live = _live(catalog)
            merges = merges_of(read_edits(live.assets, live.prefix).values())
            _require_mergeable(merges, proposal.participant_id, proposal.merged_into)
        except CatalogConflict:
            _write(catalog, proposal.participant_id, _without_merge, f"unmerge:{proposal.merged_into}", writer)
            raise
    return edit


def history(catalog: Catalog, who: str) -> tuple[str, list[EditItem]]:
    """(id, edits of that participant, oldest first). Raises `CatalogRowNotFound`."""
    person = _find(read_people(catalog), who)
    return person.participant_id, list(person.edit.log) if person.edit else []


def _write(catalog: Catalog, participant_id: str, change: Change, op: str, writer: Writer) -> ParticipantEdit:
    return write_edit(
        catalog.assets,
        catalog.prefix,
        participant_id,
        change,
        op=op,
        writer=writer,
        follow_pointer=catalog.follows_pointer,
    )


def _live(catalog: Catalog) -> Catalog:
    return Catalog.open(catalog.assets, prefix=None if catalog.follows_pointer else catalog.prefix)


def _without_merge(current: ParticipantEdit) -> ParticipantEdit:
    return current.model_copy(update={"merged_into": None})


def _decided(edit: ParticipantEdit) -> tuple[str | None, str | None]:
    return edit.display_name, edit.merged_into


def _proposal(
    kind: Literal["merge", "unmerge", "rename"],
    person: Person,
    *,
    merged_into: str | None,
    display_name: str | None = None,
    into_name: str | None = None,
) -> EditProposal:
    seen = person.edit or ParticipantEdit(participant_id=person.participant_id)
    name = display_name if kind == "rename" else seen.display_name
    return EditProposal(kind, person.participant_id, merged_into, seen, name, person.recordings, person.name, into_name)


def _find(people: Mapping[str, Person], who: str) -> Person:
    """The participant with this id or name. Its name is in no error: errors are logged."""
    if who in people:
        return people[who]
    wanted = derive_participant_id(who)
    hits = [one for one in people.values() if one.participant_id == wanted or _is_called(one, wanted)]
    if len(hits) > 1:
        ids = some([one.participant_id for one in hits])
        raise CatalogConflict(f"{len(hits)} participants have that name: {ids}", remedy="Give the id of one of them.")
    if not hits:
        raise CatalogRowNotFound("there is no participant of that name or id", remedy="`ursa participants list`.")
    return hits[0]


def _is_called(person: Person, wanted: str) -> bool:
    return person.name is not None and derive_participant_id(person.name) == wanted


def _require_mergeable(merges: Mapping[str, str], participant_id: str, into: str) -> None:
    if participant_id == into:
        raise CatalogConflict(f"{into} cannot be merged into itself", remedy="Name two participants.")
    current = merges.get(participant_id)
    if current not in {None, into}:
        raise CatalogConflict(
            f"{participant_id} is merged into {current}",
            remedy=f"Take that back first: `ursa participants unmerge {participant_id}`.",
        )
    if into in merges:
        final = merge_chain(merges, into)[-1]
        undo = f"Take that back first: `ursa participants unmerge {into}`."
        raise CatalogConflict(
            f"{into} is itself merged into {merges[into]}",
            remedy=undo if final in merges or final == participant_id else f"Merge into {final}.",
        )
    others = sorted(one for one, above in merges.items() if above == participant_id)
    if others:
        raise CatalogConflict(
            f"{some(others)} is merged into {participant_id}",
            remedy=f"Take that back first (`ursa participants unmerge {others[0]}`), then merge each into {into}.",
        )

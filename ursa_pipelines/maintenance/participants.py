"""Names from participant.txt in the raw bucket for recordings whose rows name nobody (runbook, Path C).

Rows only gain: a recording whose row names somebody else than its participant.txt is reported and stays as it is.
Names are for the operator's terminal; no repr, log or error holds one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.corrections import add_participants
from ursa_pipelines.catalog.edits import ParticipantEdit, read_edits
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.errors import ParticipantInvalid, StoreUnavailable, UrsaError
from ursa_pipelines.maintenance.many import Applied, Counted, for_each, write_row
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.objects.stored import PARTICIPANT_BYTES_LIMIT, StoredRecording, read_participants
from ursa_pipelines.recordings.identity import derive_participant_id, read_display_name
from ursa_pipelines.recordings.layout import NODE_PARTICIPANTS, PARTICIPANT
from ursa_pipelines.recordings.rows import RecordingRow

NamingState = Literal["add", "differs", "unreadable", "unnamed"]


@dataclass(frozen=True)
class Naming:
    """What the bucket tells of one recording's participants, where the row does not say the same.

    `add`: the row shall gain `names` (id to display name). `differs`: the row names somebody else. `unreadable`: see
    `problem`. `unnamed`: neither the row nor the bucket names anybody. `seen` are the row's participant_ids.
    """

    recording_hash: str
    rec_id: str | None
    state: NamingState
    seen: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict, repr=False)
    problem: str = ""

    @property
    def participant_ids(self) -> tuple[str, ...]:
        """The ids of those whom the bucket names."""
        return tuple(sorted(self.names))


@dataclass(frozen=True)
class Person:
    """A participant as readers see it: its name, how often recorded, and whom it was merged into."""

    participant_id: str
    name: str | None = field(default=None, repr=False)
    recordings: int = 0
    edit: ParticipantEdit | None = None

    @property
    def merged_into(self) -> str | None:
        return self.edit.merged_into if self.edit else None


def plan_backfill(
    raw: Bucket, catalog: Catalog, *, everything: bool = False, progress: Counted | None = None
) -> list[Naming]:
    """Compares rows with participant.txt and `_node_participants/` in the bucket; only reads.

    Looks at the recordings without a participant, with `everything` at all of them.
    """
    recordings = catalog.list_recordings()
    people = read_people(catalog, recordings)
    asked = [row for row in recordings if everything or not row.participant_ids]
    merges = merges_of(person.edit for person in people.values() if person.edit)
    found = for_each(asked, lambda row: _naming(raw, row, people, merges), progress)
    return [naming for naming in found if naming is not None]


def apply_backfill(
    catalog: Catalog, namings: Iterable[Naming], writer: Writer, progress: Counted | None = None
) -> list[Applied]:
    """Adds the names of those that are to `add`; a row that names somebody else by now stays and is `failed`."""

    def write(naming: Naming) -> Applied:
        resolve = add_participants(naming.names, naming.seen)
        op = "participants:backfill"
        return write_row(catalog, naming.recording_hash, naming.rec_id, resolve, op=op, writer=writer)

    return list(for_each([one for one in namings if one.state == "add"], write, progress))


def read_people(catalog: Catalog, recordings: Sequence[RecordingRow] | None = None) -> dict[str, Person]:
    """All participants by id, edited ones as the edit tells, also those that no recording has."""
    counts: dict[str, int] = {}
    for row in catalog.list_recordings() if recordings is None else recordings:
        for participant_id in row.participant_ids:
            counts[participant_id] = counts.get(participant_id, 0) + 1
    names = {row.participant_id: (row.metadata or {}).get("display_name") for row in catalog.list_participants()}
    edits = read_edits(catalog.assets, catalog.prefix)
    people = {}
    for participant_id in sorted({*counts, *names, *edits}):
        edit = edits.get(participant_id)
        name = (edit.display_name if edit else None) or names.get(participant_id)
        people[participant_id] = Person(participant_id, name, counts.get(participant_id, 0), edit)
    return people


def merges_of(edits: Iterable[ParticipantEdit]) -> dict[str, str]:
    """Who is merged into whom, by id."""
    return {edit.participant_id: edit.merged_into for edit in edits if edit.merged_into}


def merge_chain(merges: Mapping[str, str], participant_id: str) -> list[str]:
    """A participant, whom it was merged into, and so on; a circle ends where it began."""
    chain = [participant_id]
    while (above := merges.get(chain[-1])) and above not in chain:
        chain.append(above)
    return chain


def _naming(raw: Bucket, row: RecordingRow, people: Mapping[str, Person], merges: Mapping[str, str]) -> Naming | None:
    seen = tuple(row.participant_ids)
    try:
        names = _names_in_bucket(raw, row.rec_id) if row.rec_id else {}
    except (ParticipantInvalid, StoreUnavailable) as error:
        return Naming(row.recording_hash, row.rec_id, "unreadable", seen, problem=_problem(error))
    if not names:
        return None if seen else Naming(row.recording_hash, row.rec_id, "unnamed")

    def final(ids: Iterable[str]) -> set[str]:
        return {merge_chain(merges, one)[-1] for one in ids}

    if final(seen) - final(names):
        return Naming(row.recording_hash, row.rec_id, "differs", seen, names)
    nameless = {one for one in seen if one in names and not people[one].name}
    missing = {one: name for one, name in names.items() if one in nameless or not final([one]) <= final(seen)}
    return Naming(row.recording_hash, row.rec_id, "add", seen, missing) if missing else None


def _names_in_bucket(raw: Bucket, rec_id: str) -> dict[str, str]:
    """Id to display name of everybody whom the recording's participant files name; none of them is overlooked.

    Raises `ParticipantInvalid` if one cannot be read.
    """
    top = raw.head(raw_key(rec_id, PARTICIPANT))
    infos = [*([top] if top else []), *raw.list_objects(raw_key(rec_id, f"{NODE_PARTICIPANTS}/"))]
    if any(info.size > PARTICIPANT_BYTES_LIMIT for info in infos):
        raise ParticipantInvalid(f"participant.txt has more than {PARTICIPANT_BYTES_LIMIT:,} bytes", recording=rec_id)
    objects = {info.key.removeprefix(raw_key(rec_id, "")): info for info in infos}
    contents = read_participants(raw, StoredRecording(rec_id, objects, (), None))
    names = [name for content in contents if (name := read_display_name(content, recording=rec_id))]
    return {derive_participant_id(name): name for name in sorted(names, reverse=True)}


def _problem(error: UrsaError) -> str:
    if isinstance(error, ParticipantInvalid):
        return f"{error.problem}. Say who it was: `ursa register {error.recording} --participant NAME`."
    return str(error)

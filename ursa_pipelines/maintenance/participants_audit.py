"""What is doubtful about participants, each with what to do about it. Only reads (ursa-facts section 14).

A near spelling is a suspicion: names are compared without case, accents, punctuation and order of their words, then by
how many letters differ. Numbers must agree, so that `Subject 12` and `Subject 13` stay two.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Literal

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.maintenance.many import Counted
from ursa_pipelines.maintenance.participants import (
    Naming,
    Person,
    merge_chain,
    merges_of,
    plan_backfill,
    read_people,
)
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.identity import derive_participant_id

FindingKind = Literal[
    "no participant",
    "file disagrees",
    "file unreadable",
    "near spelling",
    "no recordings",
    "no name",
    "foreign id",
    "merge chain",
    "merge circle",
    "merged into nobody",
]

_NEAR = 0.85
_WITHIN_WORDS = "'\u2019\u02bc`."
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True)
class Finding:
    """One doubt. `subject` is a rec_id or participant_id, `others` the ids it is about; `names` for a terminal only."""

    kind: FindingKind
    subject: str
    remedy: str
    others: tuple[str, ...] = ()
    names: tuple[str, ...] = field(default=(), repr=False)
    problem: str = ""


def audit_participants(raw: Bucket, catalog: Catalog, progress: Counted | None = None) -> list[Finding]:
    """Looks at every recording's row and participant.txt, and at all participants. Writes nothing."""
    namings = plan_backfill(raw, catalog, everything=True, progress=progress)
    people = read_people(catalog)
    return [
        *(_of_recording(naming, people) for naming in namings),
        *_near_spellings(people),
        *_of_people(people),
        *_of_merges(people),
    ]


def near_spellings(names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Pairs of keys whose names may be one person's, spelled differently."""
    folded = []
    for key, name in sorted(names.items()):
        if letters := _folded(name):
            folded.append((key, letters, _NUMBERS.findall(name), _bits_of(letters)))
    matcher = SequenceMatcher(autojunk=False)
    for index, (key, name, numbers, bits) in enumerate(folded):
        matcher.set_seq2(name)
        for other_key, other, other_numbers, other_bits in folded[index + 1 :]:
            # Each letter that only one of them has counts against them: most pairs are told apart by that alone.
            if (bits ^ other_bits).bit_count() > (1 - _NEAR) * (len(name) + len(other)) or numbers != other_numbers:
                continue
            matcher.set_seq1(other)
            if matcher.quick_ratio() >= _NEAR and matcher.ratio() >= _NEAR:
                yield key, other_key


def _bits_of(letters: str) -> int:
    bits = 0
    for letter in letters:
        bits |= 1 << ord(letter) % 64
    return bits


def _folded(name: str) -> str:
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    letters = (one for one in decomposed if not unicodedata.combining(one) and one not in _WITHIN_WORDS)
    words = "".join(one if one.isalnum() else " " for one in letters).casefold().split()
    return " ".join(sorted(words))


def _of_recording(naming: Naming, people: Mapping[str, Person]) -> Finding:
    subject = naming.rec_id or naming.recording_hash
    register = f"`ursa register {subject} --participant NAME`"
    if naming.state == "add":
        kind: FindingKind = "file disagrees" if naming.seen else "no participant"
        command = f"`ursa participants backfill{' --all' if naming.seen else ''} --commit` adds the name."
        return Finding(kind, subject, command, naming.participant_ids, tuple(naming.names.values()))
    if naming.state == "differs":
        known = tuple(people[one].name or "" for one in naming.seen if one in people)
        return Finding(
            "file disagrees",
            subject,
            "Find out who it was; if both are one person, merge the spellings, else correct the row by hand.",
            (*naming.seen, *naming.participant_ids),
            (*known, *naming.names.values()),
            "the row names somebody else than participant.txt",
        )
    if naming.state == "unreadable":
        return Finding("file unreadable", subject, "", problem=naming.problem)
    return Finding("no participant", subject, f"If it is known who it was: {register}.")


def _near_spellings(people: Mapping[str, Person]) -> Iterator[Finding]:
    names = {key: one.name for key, one in people.items() if one.name and one.merged_into is None}
    for pair in near_spellings(names):
        # The spelling that was used less often is the likelier slip.
        spelling, into = sorted((people[key] for key in pair), key=lambda one: (one.recordings, one.participant_id))
        yield Finding(
            "near spelling",
            spelling.participant_id,
            f"If they are one person: `ursa participants merge {spelling.participant_id} {into.participant_id}`.",
            (into.participant_id,),
            (spelling.name or "", into.name or ""),
        )


def _of_people(people: Mapping[str, Person]) -> Iterator[Finding]:
    merges = _merges(people)
    recorded = {one for key, person in people.items() if person.recordings for one in merge_chain(merges, key)}
    for key, person in people.items():
        names = (person.name,) if person.name else ()
        if key not in recorded:
            yield Finding("no recordings", key, "Nothing depends on it; it may stay.", names=names)
        if person.name is None:
            yield Finding("no name", key, f"If it is known: `ursa participants rename {key} NAME`.")
        elif _should_be_derived(person, merges) and derive_participant_id(person.name) != key:
            yield Finding(
                "foreign id",
                key,
                "It was given by hand. If the other id is the same person, merge this one into it.",
                (derive_participant_id(person.name),),
                names,
                "its id is not derived from its name",
            )


def _should_be_derived(person: Person, merges: Mapping[str, str]) -> bool:
    """Whoever was renamed, or may be called as one merged into it, has an id that tells of another name."""
    is_renamed = person.edit is not None and person.edit.display_name is not None
    return not is_renamed and person.participant_id not in merges.values()


def _of_merges(people: Mapping[str, Person]) -> Iterator[Finding]:
    merges = _merges(people)
    circles: set[frozenset[str]] = set()
    for key, above in merges.items():
        undo = f"`ursa participants unmerge {key}`"
        chain = merge_chain(merges, key)
        final = chain[-1]
        if final in merges:
            circle = frozenset(merge_chain(merges, final))
            if circle not in circles:
                circles.add(circle)
                first = min(circle)
                rest = tuple(sorted(circle - {first}))
                yield Finding("merge circle", first, f"`ursa participants unmerge {first}` opens it.", rest)
        elif len(chain) > 2:
            remedy = f"{undo}, then `ursa participants merge {key} {final}`."
            yield Finding("merge chain", key, remedy, tuple(chain[1:]))
        if above not in people or not people[above].recordings:
            yield Finding("merged into nobody", key, f"{undo} takes it back.", (above,))


def _merges(people: Mapping[str, Person]) -> dict[str, str]:
    return merges_of(person.edit for person in people.values() if person.edit)

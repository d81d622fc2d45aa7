"""Names from participant.txt for rows that have none, doubtful names, and merges that can be taken back."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from tests.faults.proxy import LoseAnswer, Proxy
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.edits import ParticipantEdit, read_edit, write_edit
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.catalog.pointer import CatalogDocument, Pointer, read_pointer
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.errors import CatalogConflict, CatalogRowNotFound, ParticipantInvalid
from ursa_pipelines.maintenance.participants import apply_backfill, plan_backfill, read_people
from ursa_pipelines.maintenance.participants_audit import audit_participants, near_spellings
from ursa_pipelines.maintenance.participants_edits import (
    apply_edit,
    history,
    plan_merge,
    plan_rename,
    plan_unmerge,
)
from ursa_pipelines.objects.keys import ACTIVE_POINTER
from ursa_pipelines.objects.store import Bucket, Endpoint
from ursa_pipelines.recordings.identity import derive_participant_id
from ursa_pipelines.recordings.rows import RecordingRow

FIRST, SECOND, THIRD = (f"rec_20260520_19562{digit}_b1dd" for digit in "123")
ARIA, ARYA, BO = map(derive_participant_id, ("Aria Lin", "Arya Lin", "Bo Kim"))
WRITER = Writer(by="operator@desk", run_id=None)
PREFIX, NEW_PREFIX = "ursa/catalog", "ursa/catalog-2"


def recorded(lab: Lab, rec_id: str, participant: str | None = None) -> RecordingRow:
    directory = write_recording(lab.nas, rec_id, {"mic/seg_0000.wav": rec_id.encode()}, participant=participant)
    row = lab.data.ingest(source_dir=directory).recording
    assert row is not None
    return row


def told_in_bucket(lab: Lab, rec_id: str, name: str | bytes, path: str = "participant.txt") -> None:
    lab.raw.create(f"recordings/{rec_id}/{path}", name if isinstance(name, bytes) else f"{name}\n".encode())


def row_of(lab: Lab, rec_id: str) -> RecordingRow:
    (row,) = (one for one in lab.data.list_recordings() if one.rec_id == rec_id)
    return row


def catalog_of(lab: Lab) -> Catalog:
    return Catalog.open(lab.assets)


def merged(lab: Lab, spelling: str, into: str) -> ParticipantEdit:
    return apply_edit(catalog_of(lab), plan_merge(catalog_of(lab), spelling, into), WRITER)


# Backfill


def test_names_in_the_bucket_come_into_rows_that_have_none(lab: Lab):
    for rec_id in (FIRST, SECOND, THIRD):
        recorded(lab, rec_id)
    told_in_bucket(lab, FIRST, "Aria Lin")
    told_in_bucket(lab, SECOND, "Aria Lin")
    told_in_bucket(lab, SECOND, "Bo Kim", "_node_participants/green-motor.txt")
    before = lab.everything()
    counted: list[tuple[int, int]] = []

    namings = plan_backfill(lab.raw, catalog_of(lab), progress=lambda done, total: counted.append((done, total)))

    assert [(one.rec_id, one.state) for one in namings] == [(FIRST, "add"), (SECOND, "add"), (THIRD, "unnamed")]
    assert counted == [(1, 3), (2, 3), (3, 3)]
    assert lab.everything() == before

    applied = apply_backfill(catalog_of(lab), namings, WRITER)

    assert [(one.rec_id, one.outcome) for one in applied] == [(FIRST, "written"), (SECOND, "written")]
    assert row_of(lab, FIRST).participant_ids == [ARIA]
    assert row_of(lab, SECOND).participant_ids == sorted([ARIA, BO])
    people = {row.participant_id: row for row in lab.data.list_participants()}
    assert people[ARIA].metadata == {"display_name": "Aria Lin"}
    assert people[ARIA].enrolled_at == row_of(lab, FIRST).start_time
    assert catalog_of(lab).entry(row_of(lab, FIRST).recording_hash).log[-1].op == "participants:backfill"
    lab.check_invariants()


def test_a_second_backfill_writes_nothing_and_an_ingest_after_it_is_a_no_op(lab: Lab):
    recorded(lab, FIRST)
    told_in_bucket(lab, FIRST, "Aria Lin")
    namings = plan_backfill(lab.raw, catalog_of(lab))
    apply_backfill(catalog_of(lab), namings, WRITER)
    before = lab.everything()

    assert plan_backfill(lab.raw, catalog_of(lab), everything=True) == []
    assert [one.outcome for one in apply_backfill(catalog_of(lab), namings, WRITER)] == ["unchanged"]
    assert lab.data.ingest_from_r2(rec_id=FIRST).outcome == "unchanged"
    assert lab.everything() == before


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"Aria\nLin", b"a" * 201, b"a" * 70_000])
def test_an_unreadable_name_is_told_without_stopping_the_rest(content: bytes, lab: Lab):
    recorded(lab, FIRST)
    recorded(lab, SECOND)
    told_in_bucket(lab, FIRST, content)
    told_in_bucket(lab, SECOND, "Bo Kim")

    bad, good = plan_backfill(lab.raw, catalog_of(lab))

    assert (bad.state, good.state) == ("unreadable", "add")
    assert f"ursa register {FIRST} --participant" in bad.problem
    assert len(apply_backfill(catalog_of(lab), [bad, good], WRITER)) == 1
    assert row_of(lab, FIRST).participant_ids == []


def test_a_row_that_names_somebody_else_is_told_and_never_changed(lab: Lab):
    recorded(lab, FIRST)
    told_in_bucket(lab, FIRST, "Aria Lin")
    lab.data.ingest_from_r2(rec_id=FIRST, participant="Bo Kim")
    before = lab.everything()

    assert plan_backfill(lab.raw, catalog_of(lab)) == []
    (naming,) = plan_backfill(lab.raw, catalog_of(lab), everything=True)

    assert (naming.state, naming.seen, naming.participant_ids) == ("differs", (BO,), (ARIA,))
    assert apply_backfill(catalog_of(lab), [naming], WRITER) == []
    assert lab.everything() == before


def test_a_row_that_names_somebody_else_by_the_time_of_the_write_stays(lab: Lab):
    recorded(lab, FIRST)
    recorded(lab, SECOND)
    told_in_bucket(lab, FIRST, "Aria Lin")
    told_in_bucket(lab, SECOND, "Aria Lin")
    namings = plan_backfill(lab.raw, catalog_of(lab))
    lab.data.ingest_from_r2(rec_id=FIRST, participant="Bo Kim")

    applied = apply_backfill(catalog_of(lab), namings, WRITER)

    assert [one.outcome for one in applied] == ["failed", "written"]
    assert "names somebody else by now" in applied[0].problem
    assert row_of(lab, FIRST).participant_ids == [BO]


def test_a_known_participant_without_a_name_gets_it(lab: Lab):
    row = recorded(lab, FIRST)
    told_in_bucket(lab, FIRST, "Aria Lin")
    lab.data.register_recording(**row.model_dump() | {"participant_ids": [ARIA]}, on_conflict="merge_participants")
    assert plan_backfill(lab.raw, catalog_of(lab)) == []

    apply_backfill(catalog_of(lab), plan_backfill(lab.raw, catalog_of(lab), everything=True), WRITER)

    (person,) = lab.data.list_participants()
    assert person.metadata == {"display_name": "Aria Lin"}


def test_a_row_that_names_the_other_spelling_of_one_person_agrees_with_the_bucket(lab: Lab):
    recorded(lab, FIRST, "Arya Lin")
    recorded(lab, SECOND)
    told_in_bucket(lab, SECOND, "Arya Lin")
    lab.data.ingest_from_r2(rec_id=SECOND, participant="Aria Lin")
    assert [one.state for one in plan_backfill(lab.raw, catalog_of(lab), everything=True)] == ["differs"]

    merged(lab, ARYA, ARIA)

    assert plan_backfill(lab.raw, catalog_of(lab), everything=True) == []


def test_no_name_is_logged_or_in_a_repr_or_key(lab: Lab, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    recorded(lab, FIRST)
    recorded(lab, SECOND, "Xanthippe Q")
    told_in_bucket(lab, FIRST, "Xanthipe Q")
    namings = plan_backfill(lab.raw, catalog_of(lab))
    apply_backfill(catalog_of(lab), namings, WRITER)
    findings = audit_participants(lab.raw, catalog_of(lab))
    proposal = plan_merge(catalog_of(lab), "Xanthipe Q", "Xanthippe Q")
    edit = apply_edit(catalog_of(lab), proposal, WRITER)
    renamed = apply_edit(catalog_of(lab), plan_rename(catalog_of(lab), "Xanthippe Q", "Xanthi"), WRITER)

    assert [one.kind for one in findings] == ["near spelling"]
    told = (namings, findings, proposal, edit, renamed, read_people(catalog_of(lab)), caplog.text, lab.everything())
    assert "Xanthi" not in repr(told)


# Audit


def test_the_audit_finds_each_doubt_and_writes_nothing(lab: Lab):
    recorded(lab, FIRST, "Aria Lin")
    recorded(lab, SECOND)
    recorded(lab, THIRD, "Arya Lin")
    told_in_bucket(lab, SECOND, "Bo Kim")
    row = recorded(lab, "rec_20260521_195621_b1dd")
    lab.data.register_recording(
        **row.model_dump() | {"participant_ids": ["subject-7"]}, on_conflict="merge_participants"
    )
    recorded(lab, "rec_20260522_195621_b1dd")
    told_in_bucket(lab, "rec_20260522_195621_b1dd", b"\xff")
    lab.data.ingest_from_r2(rec_id="rec_20260521_195621_b1dd", participant="Aria Lin")
    before = lab.everything()

    found = {(one.kind, one.subject): one for one in audit_participants(lab.raw, catalog_of(lab))}

    assert found.keys() == {
        ("no participant", SECOND),
        ("near spelling", ARYA),
        ("no name", "subject-7"),
        ("file unreadable", "rec_20260522_195621_b1dd"),
    }
    assert f"ursa participants merge {ARYA} {ARIA}" in found["near spelling", ARYA].remedy
    assert "ursa participants backfill --commit" in found["no participant", SECOND].remedy
    assert lab.everything() == before


def test_the_audit_tells_rows_that_the_bucket_contradicts_and_ids_given_by_hand(lab: Lab):
    recorded(lab, FIRST)
    told_in_bucket(lab, FIRST, "Bo Kim")
    lab.data.ingest_from_r2(rec_id=FIRST, participant="Aria Lin")
    recorded(lab, SECOND, "Cleo Park")
    edit_with(lab, derive_participant_id("Cleo Park"), display_name="Cleo P.")
    entry = catalog_of(lab).entry(row_of(lab, FIRST).recording_hash)
    by_hand = entry.participants[0].model_copy(update={"participant_id": "subject-7"})
    recording = entry.recording.model_copy(update={"participant_ids": [ARIA, "subject-7"]})
    lab.data.catalog.write(
        recording.recording_hash,
        lambda _: lambda rows: type(entry.rows)(recording, rows.modalities, (*rows.participants, by_hand)),
        rec_id=None,
        hash_is_stated=True,
        op="test",
        writer=WRITER,
    )

    found = {(one.kind, one.subject) for one in audit_participants(lab.raw, catalog_of(lab))}

    assert ("file disagrees", FIRST) in found
    assert ("foreign id", "subject-7") in found
    assert ("foreign id", derive_participant_id("Cleo Park")) not in found


def test_the_audit_tells_chains_circles_and_merges_into_nobody(lab: Lab):
    for rec_id, name in ((FIRST, "Ann Able"), (SECOND, "Bo Kim"), (THIRD, "Cleo Park")):
        recorded(lab, rec_id, name)
    ann, bo, cleo = map(derive_participant_id, ("Ann Able", "Bo Kim", "Cleo Park"))
    edit_with(lab, ann, merged_into=bo)
    edit_with(lab, bo, merged_into=cleo)

    assert kinds(lab) == [("merge chain", ann)]
    edit_with(lab, cleo, merged_into=ann)
    assert kinds(lab) == [("merge circle", min(ann, bo, cleo))]
    edit_with(lab, cleo, merged_into="p_gone")
    assert ("merged into nobody", cleo) in kinds(lab)


@pytest.mark.parametrize(
    ("one", "other", "are_near"),
    [
        ("Aria Lin", "Arya Lin", True),
        ("José Núñez", "Jose Nunez", True),
        ("Lin, Aria", "Aria Lin", True),
        ("O'Neill", "ONeil", True),
        ("Straße", "Strasse", True),
        ("Subject 12", "Subject 13", False),
        ("Aria Lin", "Bo Kim", False),
        ("李雷", "韩梅梅", False),
        ("!!!", "???", False),
    ],
)
def test_near_spellings(one: str, other: str, are_near: bool):
    assert bool(list(near_spellings({"a": one, "b": other}))) is are_near


# Merges


def test_a_merge_can_be_taken_back_exactly_and_the_history_tells_of_both(lab: Lab):
    recorded(lab, FIRST, "Aria Lin")
    recorded(lab, SECOND, "Arya Lin")
    participants, entries = lab.data.list_participants(), entries_of(lab)

    edit = merged(lab, "arya  LIN", "Aria Lin")

    assert (edit.participant_id, edit.merged_into) == (ARYA, ARIA)
    assert read_people(catalog_of(lab))[ARYA].merged_into == ARIA
    apply_edit(catalog_of(lab), plan_unmerge(catalog_of(lab), ARYA), WRITER)
    assert lab.data.list_participants() == participants
    assert entries_of(lab) == entries
    assert plan_merge(catalog_of(lab), ARYA, ARIA).changes_anything
    participant_id, items = history(catalog_of(lab), "Arya Lin")
    assert participant_id == ARYA
    assert [(one.op, one.by, one.merged_into) for one in items] == [
        (f"merge:{ARIA}", WRITER.by, ARIA),
        (f"unmerge:{ARIA}", WRITER.by, None),
    ]


def test_merges_that_make_no_sense_are_refused(lab: Lab):
    for rec_id, name in ((FIRST, "Aria Lin"), (SECOND, "Arya Lin"), (THIRD, "Bo Kim")):
        recorded(lab, rec_id, name)
    merged(lab, ARYA, ARIA)
    before = lab.everything()

    for spelling, into, error, told in (
        (ARIA, "ARIA LIN", CatalogConflict, "into itself"),
        (BO, ARYA, CatalogConflict, f"Merge into {ARIA}"),
        (ARYA, BO, CatalogConflict, f"is merged into {ARIA}"),
        (ARIA, BO, CatalogConflict, f"{ARYA} is merged into {ARIA}"),
        ("Nobody", BO, CatalogRowNotFound, "no participant of that name"),
        (BO, "p_0000000000000000", CatalogRowNotFound, "no participant"),
    ):
        with pytest.raises(error, match=told) as caught:
            plan_merge(catalog_of(lab), spelling, into)
        assert "Nobody" not in str(caught.value)
    with pytest.raises(CatalogConflict, match="not merged"):
        plan_unmerge(catalog_of(lab), BO)
    assert not plan_merge(catalog_of(lab), ARYA, ARIA).changes_anything
    assert lab.everything() == before


def test_of_two_merges_decided_at_once_none_leaves_a_circle(lab: Lab):
    recorded(lab, FIRST, "Aria Lin")
    recorded(lab, SECOND, "Arya Lin")
    one, other = plan_merge(catalog_of(lab), ARYA, ARIA), plan_merge(catalog_of(lab), ARIA, ARYA)

    apply_edit(catalog_of(lab), one, WRITER)
    with pytest.raises(CatalogConflict):
        apply_edit(catalog_of(lab), other, WRITER)

    people = read_people(catalog_of(lab))
    assert (people[ARYA].merged_into, people[ARIA].merged_into) == (ARIA, None)


def test_an_edit_made_meanwhile_is_not_lost(lab: Lab):
    recorded(lab, FIRST, "Aria Lin")
    recorded(lab, SECOND, "Arya Lin")
    proposal = plan_merge(catalog_of(lab), ARYA, ARIA)
    apply_edit(catalog_of(lab), plan_rename(catalog_of(lab), ARYA, "Arya Linn"), WRITER)

    with pytest.raises(CatalogConflict, match="edited meanwhile"):
        apply_edit(catalog_of(lab), proposal, WRITER)

    assert merged(lab, ARYA, ARIA).display_name == "Arya Linn"


def test_another_name_goes_before_the_one_typed_at_the_rig_until_it_is_taken_back(lab: Lab):
    recorded(lab, FIRST, "Aria Lin")
    catalog = catalog_of(lab)

    edit = apply_edit(catalog, plan_rename(catalog, "Aria Lin", " Aria Lin-Park "), WRITER)

    assert edit.display_name == "Aria Lin-Park"
    assert read_people(catalog)[ARIA].name == "Aria Lin-Park"
    assert plan_rename(catalog, "aria lin-park", None).participant_id == ARIA
    apply_edit(catalog, plan_rename(catalog, ARIA, None), WRITER)
    assert read_people(catalog)[ARIA].name == "Aria Lin"
    assert [item.display_name for item in history(catalog, ARIA)[1]] == ["Aria Lin-Park", None]
    with pytest.raises(CatalogConflict, match="blank"):
        plan_rename(catalog, ARIA, " ")
    with pytest.raises(ParticipantInvalid):
        plan_rename(catalog, ARIA, "Aria\nLin")


def test_a_name_that_two_participants_have_is_ambiguous(lab: Lab):
    recorded(lab, FIRST, "Aria Lin")
    recorded(lab, SECOND, "Bo Kim")
    apply_edit(catalog_of(lab), plan_rename(catalog_of(lab), BO, "Aria Lin"), WRITER)

    with pytest.raises(CatalogConflict, match="2 participants") as caught:
        plan_unmerge(catalog_of(lab), "Aria Lin")
    assert ARIA in str(caught.value)
    assert BO in str(caught.value)


@pytest.mark.parametrize("lost", ["/tail/", "/participants/"])
def test_an_edit_whose_answer_is_lost_is_written_once(lost: str, lab: Lab, store_state, proxy: Proxy):
    recorded(lab, FIRST, "Aria Lin")
    store = open_store(store_state)
    endpoint = Endpoint(proxy.url, "auto", lambda: (store.access_key_id, store.secret_access_key, None))
    proxied = Bucket(lab.assets.name, endpoint)
    proxy.fault = LoseAnswer(lost)

    apply_edit(Catalog.open(proxied), plan_rename(catalog_of(lab), ARIA, "Aria L."), WRITER)

    assert len(history(catalog_of(lab), ARIA)[1]) == 1


def test_an_edit_follows_the_pointer_with_its_history(lab: Lab):
    recorded(lab, FIRST, "Aria Lin")
    edit_with(lab, ARIA, display_name="Aria L.")
    move = MovingPointer(lab)

    edit = write_edit(lab.assets, PREFIX, ARIA, move, op="test", writer=WRITER, follow_pointer=True)

    assert read_pointer(lab.assets).prefix == NEW_PREFIX
    for prefix in (PREFIX, NEW_PREFIX):
        found = read_edit(lab.assets, prefix, ARIA)
        assert found is not None
        assert found[0] == edit
    assert len(edit.log) == 2
    assert [info.key.rpartition(".")[2] for info in lab.assets.list_objects(f"{NEW_PREFIX}/tail/")] == [
        edit.log[-1].txn
    ]


def test_an_edit_keeps_what_was_decided_under_the_new_prefix(lab: Lab):
    recorded(lab, FIRST, "Aria Lin")
    move = MovingPointer(lab)
    write_edit(
        lab.assets,
        NEW_PREFIX,
        ARIA,
        lambda edit: edit.model_copy(update={"merged_into": BO}),
        op="test",
        writer=WRITER,
    )

    edit = write_edit(lab.assets, PREFIX, ARIA, move, op="test", writer=WRITER, follow_pointer=True)

    assert (edit.display_name, edit.merged_into, len(edit.log)) == ("Moved", BO, 2)


def test_an_edit_that_changes_nothing_writes_nothing(lab: Lab):
    before = lab.everything()

    edit = write_edit(lab.assets, PREFIX, ARIA, lambda edit: edit, op="test", writer=WRITER, follow_pointer=True)

    assert edit == ParticipantEdit(participant_id=ARIA)
    assert lab.everything() == before


class MovingPointer:
    """A change of an edit, in the middle of which a cutover happens."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        document, _ = lab.assets.get(f"{PREFIX}/CATALOG.json")
        assert CatalogDocument.model_validate_json(document)
        lab.assets.create(f"{NEW_PREFIX}/CATALOG.json", document)

    def __call__(self, edit: ParticipantEdit) -> ParticipantEdit:
        raw, info = self._lab.assets.get(ACTIVE_POINTER)
        moved = Pointer.model_validate_json(raw).model_copy(update={"prefix": NEW_PREFIX})
        self._lab.assets.replace(ACTIVE_POINTER, moved.model_dump_json().encode(), info.etag)
        return edit.model_copy(update={"display_name": "Moved"})


def edit_with(lab: Lab, participant_id: str, **update: str) -> None:
    write_edit(
        lab.assets, PREFIX, participant_id, lambda edit: edit.model_copy(update=update), op="test", writer=WRITER
    )


def kinds(lab: Lab) -> Sequence[tuple[str, str]]:
    return [(one.kind, one.subject) for one in audit_participants(lab.raw, catalog_of(lab))]


def entries_of(lab: Lab) -> dict[str, str]:
    return {info.key: info.etag for info in lab.assets.list_objects(f"{PREFIX}/entries/")}

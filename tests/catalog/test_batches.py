"""Many recordings registered in one call: each as if alone, with one mark and one look at the pointer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from tests.catalog.by_hand import (
    NEW_PREFIX,
    PREFIX,
    WRITER,
    create_catalog,
    hash_of,
    move_pointer,
    point_to,
    rec_id,
    row,
)
from tests.faults.proxy import LoseAnswer, Proxy, Refuse
from tests.lab import Lab
from ursa_pipelines.catalog import policies
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.claims import read_claim
from ursa_pipelines.catalog.tail import read_tail
from ursa_pipelines.catalog.writing import Change, Registration
from ursa_pipelines.errors import CatalogRowExists, CatalogRowNotFound, RecordingConflict, UrsaError
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.rows import ModalityRow, RecordingRow, Rows


def test_a_batch_registers_each_recording_with_one_mark(lab: Lab, proxied_assets: Bucket, proxy: Proxy):
    outcomes = register(Catalog.open(proxied_assets), [row(number) for number in range(20)])

    assert told(outcomes) == ["created"] * 20
    assert [one.rec_id for one in lab.data.list_recordings()] == [rec_id(number) for number in range(20)]
    (mark,) = lab.assets.list_objects(f"{PREFIX}/tail/")
    assert json.loads(lab.assets.get(mark.key)[0]) == [hash_of(number) for number in range(20)]
    asked = [seen.request for seen in proxy.seen]
    assert sum("/entries/" in request and request.startswith("GET") for request in asked) == 0
    assert sum("ACTIVE.json" in request for request in asked) == 3
    assert sum("CATALOG.json" in request for request in asked) == 1


def test_a_batch_again_changes_nothing(lab: Lab):
    catalog = Catalog.open(lab.assets)
    rows = [row(number) for number in range(5)]
    register(catalog, rows)
    before = lab.everything()

    assert told(register(catalog, rows)) == ["unchanged"] * 5

    assert lab.everything() == before


def test_what_is_refused_in_a_batch_does_not_stop_the_rest(lab: Lab):
    catalog = Catalog.open(lab.assets)
    register(catalog, [row(1)])
    other_rec_id = row(2).model_copy(update={"metadata": {"manifest_recording_id": rec_id(1)}})

    outcomes = register(catalog, [row(0), row(1, minutes=9), other_rec_id, row(3)])

    assert told(outcomes) == ["created", CatalogRowExists, RecordingConflict, "created"]
    assert [one.rec_id for one in lab.data.list_recordings()] == [rec_id(number) for number in (0, 1, 3)]
    assert {mark.names for mark in read_tail(lab.assets, PREFIX)} == {(hash_of(1),), (hash_of(0), hash_of(3))}
    assert lab.data.get_recording(hash_of(1)).duration == timedelta(minutes=1)


def test_two_changes_of_one_recording_in_a_batch_are_both_made(lab: Lab):
    rows = [row(0), row(0, minutes=3), row(0, minutes=2)]

    outcomes = register(Catalog.open(lab.assets), rows, policy="extend")

    assert told(outcomes) == ["created", "changed", "unchanged"]
    assert lab.data.get_recording(hash_of(0)).duration == timedelta(minutes=3)


def test_a_derived_hash_in_a_batch_gives_way_to_the_one_that_owns_the_rec_id(lab: Lab):
    catalog = Catalog.open(lab.assets)
    register(catalog, [row(0)])

    def resolve_for(owner: str) -> policies.Resolve:
        grown = ModalityRow(recording_hash=owner, modality="mic", format="raw_audio")
        return policies.ingest(Rows(row(0).model_copy(update={"recording_hash": owner}), (grown,), ()), overwrite=False)

    (outcome,) = catalog.write_many([Change("f" * 64, False, rec_id(0), resolve_for, "test", WRITER)])

    assert isinstance(outcome, Registration)
    assert (outcome.outcome, outcome.entry.recording.recording_hash) == ("changed", hash_of(0))
    (mark_of_first, mark_of_second) = sorted(read_tail(lab.assets, PREFIX), key=lambda mark: mark.modified)
    assert {mark_of_first.names, mark_of_second.names} == {(hash_of(0),)}


@pytest.mark.parametrize("lost", ["/tail/_batch", "/rec_ids/", "/entries/"])
def test_fault_69_an_answer_lost_in_a_batch_is_known_as_our_own(
    lab: Lab, proxied_assets: Bucket, proxy: Proxy, lost: str
):
    proxy.fault = fault = LoseAnswer(f"^PUT .*{lost}", nth=1 if "_batch" in lost else 4)

    outcomes = register(Catalog.open(proxied_assets), [row(number) for number in range(8)])

    assert fault.lost
    assert told(outcomes) == ["created"] * 8
    entries = list(Catalog.open(lab.assets).entries())
    assert [len(entry.log) for entry in entries] == [1] * 8
    assert all(read_claim(lab.assets, PREFIX, rec_id(number)) == hash_of(number) for number in range(8))


def test_fault_52_a_batch_asks_again_where_the_store_is_overloaded(lab: Lab, proxied_assets: Bucket, proxy: Proxy):
    proxy.fault = fault = Refuse("^PUT .*/entries/", 503, "SlowDown", times=3)

    assert told(register(Catalog.open(proxied_assets), [row(number) for number in range(8)])) == ["created"] * 8

    assert fault.refused == 3


def test_a_batch_whose_pointer_moved_is_under_the_new_prefix_too(lab: Lab):
    catalog = Catalog.open(lab.assets)
    move_pointer(lab, NEW_PREFIX)

    outcomes = register(catalog, [row(number) for number in range(4)])

    assert told(outcomes) == ["created"] * 4
    assert len(lab.interface().list_recordings()) == 4
    assert read_claim(lab.assets, NEW_PREFIX, rec_id(3)) == hash_of(3)


def test_fault_67_a_modality_added_while_the_pointer_moves_brings_its_recording_along(lab: Lab):
    catalog = Catalog.open(lab.assets)
    register(catalog, [row(0)])
    move_pointer(lab, NEW_PREFIX)

    registration = catalog.register_modality(
        ModalityRow(recording_hash=hash_of(0), modality="mic", format="raw_audio"), "error", WRITER
    )

    assert registration.outcome == "changed"
    live = lab.interface().catalog
    assert live.prefix == NEW_PREFIX
    assert live.entry(hash_of(0)).rows == registration.entry.rows
    assert {item.op for item in live.entry(hash_of(0)).log} >= {"register_recording:error", "register_modality:error"}


def test_a_modality_of_no_recording_is_refused_and_leaves_no_mark(lab: Lab):
    before = lab.everything()

    with pytest.raises(CatalogRowNotFound):
        lab.data.register_modality(recording_hash=hash_of(0), modality="mic", format="raw_audio")

    assert lab.everything() == before


def test_an_empty_batch_is_nothing(lab: Lab):
    before = lab.everything()

    assert register(Catalog.open(lab.assets), []) == []

    assert lab.everything() == before


def test_a_recording_called_like_a_batch_is_a_recording(lab: Lab):
    named = row(0).model_copy(update={"recording_hash": "_batch"})

    lab.data.register_recording(**named.model_dump())

    assert [one.recording_hash for one in lab.interface().list_recordings()] == ["_batch"]
    assert lab.data.fold().entries == 1


def test_a_change_that_is_refused_where_the_pointer_moved_to_does_not_stop_the_rest(lab: Lab):
    catalog = Catalog.open(lab.assets)
    other = row(0, minutes=9)
    create_catalog(lab, NEW_PREFIX)
    Catalog.open(lab.assets, prefix=NEW_PREFIX).register_recording(other, "error", WRITER)
    steps = iter([lambda: point_to(lab, NEW_PREFIX)])

    def changing(one: RecordingRow) -> Change:
        def resolve(existing: Rows | None) -> Rows:
            next(steps, lambda: None)()
            return policies.register_recording(one, "error")(existing)

        return Change(one.recording_hash, True, one.rec_id, lambda _: resolve, "test", WRITER)

    outcomes = catalog.write_many([changing(row(0)), changing(row(1))])

    assert told(outcomes) == [CatalogRowExists, "created"]
    assert lab.interface().get_recording(hash_of(1)).rec_id == rec_id(1)


def test_a_claim_that_a_refused_batch_left_can_be_released(lab: Lab):
    catalog = Catalog.open(lab.assets)
    register(catalog, [row(0)])
    wrong = row(0).model_copy(update={"metadata": {"manifest_recording_id": rec_id(1)}})
    assert told(register(catalog, [wrong])) == [RecordingConflict]

    assert catalog.release_claim(rec_id(1), WRITER, idle=0) == hash_of(0)

    assert told(register(catalog, [row(1)])) == ["created"]


def register(
    catalog: Catalog, rows: Sequence[RecordingRow], policy: policies.RecordingPolicy = "error"
) -> list[Registration | UrsaError]:
    return catalog.register_recordings(rows, policy, WRITER)


def told(outcomes: Sequence[Registration | UrsaError]) -> list[Any]:
    return [one.outcome if isinstance(one, Registration) else type(one) for one in outcomes]

"""An entry brought into another prefix: the newer history wins, and two that went separate ways are merged."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from tests.catalog.by_hand import NEW_PREFIX, WRITER, create_catalog, hash_of, rec_id, row
from tests.lab import Lab
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.claims import read_claim
from ursa_pipelines.catalog.entries import Entry, entry_key
from ursa_pipelines.catalog.writing import Registration, transplant
from ursa_pipelines.errors import CatalogRowExists
from ursa_pipelines.recordings.rows import ModalityRow


@pytest.fixture
def old(lab: Lab) -> Catalog:
    """A catalog of one recording, and an empty one to bring it to."""
    create_catalog(lab, NEW_PREFIX)
    catalog = Catalog.open(lab.assets)
    catalog.register_recording(row(0), "error", WRITER)
    return catalog


@pytest.fixture
def new(lab: Lab, old: Catalog) -> Catalog:
    return Catalog.open(lab.assets, prefix=NEW_PREFIX)


def test_an_entry_that_is_not_there_comes_with_its_history_and_its_rec_id(lab: Lab, old: Catalog, new: Catalog):
    assert bring(lab, old).outcome == "created"

    entry = new.entry(hash_of(0))
    assert entry.rows == old.entry(hash_of(0)).rows
    assert [item.op for item in entry.log] == ["register_recording:error", "sweep"]
    assert read_claim(lab.assets, NEW_PREFIX, rec_id(0)) == hash_of(0)
    assert [mark.key for mark in lab.assets.list_objects(f"{NEW_PREFIX}/tail/")]


def test_fields_that_this_version_does_not_know_come_along(lab: Lab, old: Catalog, new: Catalog):
    raw, info = lab.assets.get(entry_key(old.prefix, hash_of(0)))
    lab.assets.replace(info.key, json.dumps(json.loads(raw) | {"consent": {"withdrawn": True}}).encode(), info.etag)

    bring(lab, old)

    assert (new.entry(hash_of(0)).model_extra or {})["consent"] == {"withdrawn": True}


def test_bringing_it_again_changes_nothing(lab: Lab, old: Catalog, new: Catalog):
    bring(lab, old)
    before = lab.everything()

    assert bring(lab, old).outcome == "unchanged"

    assert lab.everything() == before


def test_what_was_written_since_replaces_what_is_older(lab: Lab, old: Catalog, new: Catalog):
    bring(lab, old)
    old.register_recording(row(0, minutes=7), "overwrite", WRITER)

    assert bring(lab, old).outcome == "changed"

    assert new.entry(hash_of(0)).rows == old.entry(hash_of(0)).rows
    assert len({item.txn for item in new.entry(hash_of(0)).log}) == 4


def test_what_is_newer_there_stays(lab: Lab, old: Catalog, new: Catalog):
    bring(lab, old)
    new.register_recording(row(0, minutes=7), "overwrite", WRITER)

    assert bring(lab, old).outcome == "unchanged"

    assert new.entry(hash_of(0)).recording.duration == timedelta(minutes=7)


def test_two_that_went_separate_ways_are_merged(lab: Lab, old: Catalog, new: Catalog):
    bring(lab, old)
    for catalog, modality in ((old, "mic"), (new, "eeg")):
        catalog.register_modality(
            ModalityRow(recording_hash=hash_of(0), modality=modality, format="raw_binary"), "error", WRITER
        )

    assert bring(lab, old).outcome == "changed"

    assert [one.modality for one in new.entry(hash_of(0)).modalities] == ["eeg", "mic"]


def test_two_that_contradict_each_other_are_left_and_told(lab: Lab, old: Catalog, new: Catalog):
    bring(lab, old)
    old.register_recording(row(0, minutes=2), "overwrite", WRITER)
    new.register_recording(row(0, minutes=3), "overwrite", WRITER)
    before = lab.everything()

    with pytest.raises(CatalogRowExists):
        bring(lab, old)

    assert lab.everything() == before


def bring(lab: Lab, old: Catalog) -> Registration:
    entry: Entry = old.entry(hash_of(0))
    return transplant(lab.assets, NEW_PREFIX, entry, op="sweep", writer=WRITER)

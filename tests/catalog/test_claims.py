"""Who owns a rec_id: the first to claim it, until a claim that came to nothing is released."""

from __future__ import annotations

import json

import pytest

from tests.catalog.by_hand import PREFIX, WRITER, hash_of, rec_id, row
from tests.lab import Lab
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.claims import claim, claim_key, read_claim
from ursa_pipelines.errors import CatalogError, RecordingConflict

REC = rec_id(0)


def test_the_first_to_claim_a_rec_id_owns_it(lab: Lab):
    assert claim(lab.assets, PREFIX, REC, hash_of(0), "one") == (hash_of(0), True)
    assert claim(lab.assets, PREFIX, REC, hash_of(1), "other") == (hash_of(0), False)
    assert read_claim(lab.assets, PREFIX, REC) == hash_of(0)


def test_a_claim_whose_answer_was_lost_is_known_as_our_own(lab: Lab):
    assert claim(lab.assets, PREFIX, REC, hash_of(0), "one") == claim(lab.assets, PREFIX, REC, hash_of(0), "one")


def test_a_released_rec_id_can_be_claimed_by_another_hash(lab: Lab):
    catalog = Catalog.open(lab.assets)
    claim(lab.assets, PREFIX, REC, hash_of(1), "of a killed run")
    with pytest.raises(RecordingConflict, match="--release-claim"):
        catalog.register_recording(row(0), "error", WRITER)

    assert catalog.release_claim(REC, WRITER, idle=0) == hash_of(1)

    assert read_claim(lab.assets, PREFIX, REC) is None
    assert catalog.register_recording(row(0), "error", WRITER).outcome == "created"
    assert read_claim(lab.assets, PREFIX, REC) == hash_of(0)


def test_a_release_is_on_record(lab: Lab):
    claim(lab.assets, PREFIX, REC, hash_of(1), "of a killed run")

    Catalog.open(lab.assets).release_claim(REC, WRITER, idle=0)

    document = json.loads(lab.assets.get(claim_key(PREFIX, REC))[0])
    assert (document["txn"], document["released_by"]) == ("of a killed run", WRITER.by)


@pytest.mark.parametrize("why", ["nobody has claimed", "is registered as", "less than 24 h ago"])
def test_a_claim_that_is_in_use_is_not_released(lab: Lab, why: str):
    catalog = Catalog.open(lab.assets)
    if why == "is registered as":
        catalog.register_recording(row(0), "error", WRITER)
    elif why == "less than 24 h ago":
        claim(lab.assets, PREFIX, REC, hash_of(1), "of a run that may still be at work")
    before = lab.everything()

    with pytest.raises(CatalogError, match=why):
        catalog.release_claim(REC, WRITER)

    assert lab.everything() == before

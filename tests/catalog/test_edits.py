"""Decisions about participants, made while the catalog's prefix changes: the last one that was acknowledged counts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.catalog.by_hand import NEW_PREFIX, PREFIX, WRITER, create_catalog, move_pointer
from tests.lab import Lab
from ursa_pipelines.catalog.edits import ParticipantEdit, read_edit, write_edit
from ursa_pipelines.catalog.pointer import Sweep, load_pointer, swap_pointer

WHO = "p_0123456789abcdef"


def test_an_edit_by_somebody_who_missed_the_cutover_counts_although_the_old_prefix_says_so_already(lab: Lab):
    decide(lab, PREFIX, display_name="X")
    move_pointer(lab, NEW_PREFIX)
    decide(lab, NEW_PREFIX, display_name="Y")

    decide(lab, PREFIX, display_name="X")

    assert live(lab).display_name == "X"


def test_an_edit_during_a_sweep_is_made_to_what_the_sweep_has_still_to_bring(lab: Lab):
    decide(lab, PREFIX, merged_into="p_other")
    create_catalog(lab, NEW_PREFIX)
    pointer, info = load_pointer(lab.assets)
    sweep = Sweep(source=PREFIX, since=datetime(2026, 1, 1, tzinfo=UTC), op="cutover")
    swap_pointer(lab.assets, pointer.model_copy(update={"prefix": NEW_PREFIX, "sweep": sweep}), info.etag)

    decide(lab, NEW_PREFIX, merged_into=None)

    assert live(lab).merged_into is None
    assert [item.op for item in live(lab).log] == ["decide", "sweep", "decide"]


def decide(lab: Lab, prefix: str, **decision: Any) -> ParticipantEdit:
    return write_edit(
        lab.assets,
        prefix,
        WHO,
        lambda current: current.model_copy(update=decision),
        op="decide",
        writer=WRITER,
        follow_pointer=True,
    )


def live(lab: Lab) -> ParticipantEdit:
    found = read_edit(lab.assets, NEW_PREFIX, WHO)
    assert found is not None
    return found[0]

"""Another catalog becomes the live one, with all that was written meanwhile; and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tests.catalog.by_hand import rec_id, row
from tests.faults.detour import make_detour
from tests.faults.proxy import Fault, Hold, LoseAnswer, Proxy, Refuse
from tests.faults.wire_faults import WrongSize
from tests.lab import Lab
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.claims import read_claim
from ursa_pipelines.catalog.cutover import CutOver, cutover, rollback
from ursa_pipelines.catalog.edits import ParticipantEdit, read_edit, write_edit
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.catalog.pointer import DEFAULT_PREFIX, create_catalog, read_pointer
from ursa_pipelines.catalog.tables import fold
from ursa_pipelines.catalog.writing import transplant
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.errors import CatalogError, CatalogNotInitialized, StoreDenied
from ursa_pipelines.objects.keys import ACTIVE_POINTER
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.rows import ModalityRow

NEW, THIRD = "ursa/catalog-2", "ursa/catalog-3"
WRITER = Writer(by="test")

CUT_OVER = """
import sys
from ursa_pipelines import DataInterface
from ursa_pipelines.catalog.cutover import cutover
from ursa_pipelines.catalog.entries import Writer
assets = DataInterface(config_path=sys.argv[1]).catalog.assets
cutover(assets, sys.argv[2], writer=Writer(by="killed"), reason="test")
"""


@pytest.fixture
def live(lab: Lab) -> Catalog:
    """A catalog of four recordings, of which a prepared copy under NEW has two, as they were then."""
    catalog = Catalog.open(lab.assets)
    for number in (0, 1):
        catalog.register_recording(row(number), "error", WRITER)
    prepare(lab, NEW, catalog)
    for number in (2, 3):
        catalog.register_recording(row(number), "error", WRITER)
    catalog.register_recording(row(0, minutes=5), "extend", WRITER)
    return catalog


def test_the_new_catalog_is_live_with_all_that_was_written_meanwhile(lab: Lab, live: Catalog):
    before = {key: etag for key, etag in lab.everything().items() if f"/{DEFAULT_PREFIX}/" in key}

    done = to(lab, NEW)

    pointer = read_pointer(lab.assets)
    assert (pointer.prefix, pointer.previous, pointer.reason) == (NEW, [DEFAULT_PREFIX], "test")
    assert (done.ok, done.swapped, done.source) == (True, True, DEFAULT_PREFIX)
    assert Catalog.open(lab.assets).list_recordings() == live.list_recordings()
    assert [read_claim(lab.assets, NEW, rec_id(number)) for number in range(4)] == [f"{n:064x}" for n in range(4)]
    after = lab.everything()
    assert {key: after[key] for key in before} == before


def test_a_cutover_to_what_is_live_already_only_sweeps(lab: Lab, live: Catalog):
    to(lab, NEW)
    pointer, entries = read_pointer(lab.assets), entries_of(lab, NEW)

    again = to(lab, NEW)

    assert (again.swapped, again.brought, again.ok) == (False, 0, True)
    assert again.examined > 0
    assert read_pointer(lab.assets) == pointer
    assert entries_of(lab, NEW) == entries


def test_a_rollback_takes_along_what_was_written_since(lab: Lab, live: Catalog):
    to(lab, NEW)
    now = Catalog.open(lab.assets)
    now.register_recording(row(4), "error", WRITER)
    now.register_recording(row(1, minutes=9), "overwrite", WRITER)
    expected = now.list_recordings()

    done = back(lab)

    pointer = read_pointer(lab.assets)
    assert (pointer.prefix, pointer.previous) == (DEFAULT_PREFIX, [NEW])
    assert (done.ok, done.swapped, done.source) == (True, True, NEW)
    assert Catalog.open(lab.assets).list_recordings() == expected


def test_there_and_back_and_there_again_loses_nothing(lab: Lab, live: Catalog):
    for number, move in enumerate((lambda: to(lab, NEW), lambda: back(lab), lambda: to(lab, NEW)), start=4):
        Catalog.open(lab.assets).register_recording(row(number), "error", WRITER)
        Catalog.open(lab.assets).register_recording(row(0, minutes=number + 10), "extend", WRITER)
        assert move().ok

    recordings = Catalog.open(lab.assets).list_recordings()
    assert [one.rec_id for one in recordings] == [rec_id(number) for number in range(7)]
    assert recordings[0].duration == timedelta(minutes=16)


def test_a_rollback_is_not_undone_by_doing_it_again(lab: Lab, live: Catalog):
    to(lab, NEW)
    back(lab)
    before = lab.everything()

    with pytest.raises(CatalogError, match=f"rollback from {NEW}.*`ursa catalog cutover {NEW} --reason"):
        back(lab)

    assert lab.everything() == before
    assert read_pointer(lab.assets).prefix == DEFAULT_PREFIX


def test_a_rollback_to_a_named_catalog_can_be_repeated(lab: Lab, live: Catalog):
    to(lab, NEW)

    first, pointer = back(lab, DEFAULT_PREFIX), read_pointer(lab.assets)
    again = back(lab, DEFAULT_PREFIX)

    assert (first.swapped, again.swapped, again.brought, again.ok) == (True, False, 0, True)
    assert read_pointer(lab.assets) == pointer
    assert (pointer.prefix, pointer.previous) == (DEFAULT_PREFIX, [NEW])


def test_a_rollback_goes_to_the_one_before_the_live_one_and_further_back_only_if_told(lab: Lab, live: Catalog):
    prepare(lab, THIRD, live)
    to(lab, NEW)
    to(lab, THIRD)

    assert (back(lab).prefix, read_pointer(lab.assets).previous) == (NEW, [THIRD, DEFAULT_PREFIX])
    with pytest.raises(CatalogError, match=f"`ursa catalog rollback --to {DEFAULT_PREFIX} --reason"):
        back(lab)

    assert back(lab, DEFAULT_PREFIX).prefix == DEFAULT_PREFIX
    assert Catalog.open(lab.assets).list_recordings() == live.list_recordings()
    # Forth again is a cutover, and after that there is something to go back from.
    to(lab, THIRD)
    assert back(lab).prefix == DEFAULT_PREFIX


def test_a_rollback_to_what_was_never_live_is_refused(lab: Lab, live: Catalog):
    to(lab, NEW)
    prepare(lab, THIRD, live)
    before = lab.everything()

    for prefix in (THIRD, "ursa/nowhere", "../elsewhere"):
        with pytest.raises(CatalogError, match=f"never live.*{DEFAULT_PREFIX}"):
            back(lab, prefix)

    assert lab.everything() == before


def test_without_a_previous_catalog_there_is_nothing_to_roll_back_to(lab: Lab):
    with pytest.raises(CatalogError, match="no other catalog"):
        back(lab)


def test_a_prefix_without_a_catalog_or_without_tables_is_refused(lab: Lab):
    create_catalog(lab.assets, THIRD, by="test")

    with pytest.raises(CatalogNotInitialized):
        to(lab, NEW)
    with pytest.raises(CatalogError, match="tables"):
        to(lab, THIRD)

    assert read_pointer(lab.assets).prefix == DEFAULT_PREFIX


def test_what_both_have_added_is_merged(lab: Lab, live: Catalog):
    new = Catalog.open(lab.assets, prefix=NEW)
    new.register_modality(modality(0, "eeg"), "error", WRITER)
    new.register_recording(row(1, minutes=3), "extend", WRITER)
    live.register_modality(modality(0, "mic"), "error", WRITER)
    live.register_recording(row(1, minutes=2), "extend", WRITER)

    assert to(lab, NEW).ok

    assert [one.modality for one in new.list_modalities({"recording_hash": f"{0:064x}"})] == ["eeg", "mic"]
    assert [one.duration.seconds // 60 for one in new.list_recordings()] == [5, 3, 1, 1]


def test_what_cannot_be_merged_is_told_and_left_as_it_is(lab: Lab, live: Catalog):
    new = Catalog.open(lab.assets, prefix=NEW)
    new.register_recording(row(0, minutes=3), "overwrite", WRITER)

    done = to(lab, NEW)

    assert [(one.kind, one.name) for one in done.conflicts] == [("recording", f"{0:064x}")]
    assert not done.ok
    assert new.entry(f"{0:064x}").recording.duration == timedelta(minutes=3)
    assert live.entry(f"{0:064x}").recording.duration == timedelta(minutes=5)
    assert len(new.list_recordings()) == 4


def test_a_rec_id_that_went_to_another_recording_is_told(lab: Lab, live: Catalog):
    new = Catalog.open(lab.assets, prefix=NEW)
    other = row(3).model_copy(update={"recording_hash": "another"})
    new.register_recording(other, "error", WRITER)

    done = to(lab, NEW)

    assert {(one.kind, one.name) for one in done.conflicts} == {("rec_id", rec_id(3)), ("recording", f"{3:064x}")}
    assert [one.recording_hash for one in new.list_recordings() if one.rec_id == rec_id(3)] == ["another"]


def test_edits_of_participants_follow_their_history(lab: Lab, live: Catalog):
    edit(lab, DEFAULT_PREFIX, "p_one", "p_two")
    to(lab, NEW)
    edit(lab, NEW, "p_one", None)
    edit(lab, NEW, "p_one", "p_three")
    assert merged_into(lab, DEFAULT_PREFIX, "p_one") == "p_two"

    assert back(lab).ok
    assert merged_into(lab, DEFAULT_PREFIX, "p_one") == "p_three"

    edit(lab, NEW, "p_one", "p_four")
    edit(lab, DEFAULT_PREFIX, "p_one", "p_five")
    done = to(lab, NEW)
    assert [(one.kind, one.name) for one in done.conflicts] == [("participant", "p_one")]


@pytest.mark.parametrize("at", [r"PUT .*/ursa/ACTIVE\.json", r"PUT .*/entries/", r"PUT .*/rec_ids/"])
def test_a_lost_answer_is_recognised(lab: Lab, live: Catalog, proxied_assets: Bucket, proxy: Proxy, at: str):
    proxy.fault = fault = LoseAnswer(at)

    done = cutover(proxied_assets, NEW, writer=WRITER, reason="test")

    assert fault.lost
    assert (done.ok, done.swapped) == (True, True)
    assert Catalog.open(lab.assets).list_recordings() == live.list_recordings()


def test_a_claim_whose_answer_was_cut_short_is_no_conflict(
    lab: Lab, live: Catalog, proxied_assets: Bucket, proxy: Proxy
):
    proxy.fault = fault = WrongSize(rf"GET .*/{DEFAULT_PREFIX}/rec_ids/")

    done = cutover(proxied_assets, NEW, writer=WRITER, reason="test")

    assert fault.struck
    assert done.conflicts == ()


def test_a_rollback_that_was_broken_off_is_finished_by_the_same_command(
    lab: Lab, live: Catalog, proxied_assets: Bucket, proxy: Proxy
):
    to(lab, NEW)
    Catalog.open(lab.assets).register_recording(row(4), "error", WRITER)
    expected = Catalog.open(lab.assets).list_recordings()
    proxy.fault = Refuse(rf"PUT .*/{DEFAULT_PREFIX}/entries/", 403, "AccessDenied")
    with pytest.raises(StoreDenied):
        rollback(proxied_assets, writer=WRITER, reason="test")
    proxy.fault = Fault()
    assert read_pointer(lab.assets).prefix == DEFAULT_PREFIX

    done = back(lab)

    assert (done.prefix, done.swapped, done.ok) == (DEFAULT_PREFIX, False, True)
    assert Catalog.open(lab.assets).list_recordings() == expected


@pytest.mark.parametrize("then", ["cutover", "rollback", "third"])
def test_a_sweep_that_was_broken_off_is_made_good(
    lab: Lab, live: Catalog, proxied_assets: Bucket, proxy: Proxy, then: str
):
    expected = live.list_recordings()
    prepare(lab, THIRD, Catalog.open(lab.assets, prefix=NEW))
    proxy.fault = Refuse(rf"PUT .*/{NEW}/entries/", 403, "AccessDenied")
    with pytest.raises(StoreDenied):
        cutover(proxied_assets, NEW, writer=WRITER, reason="test")
    proxy.fault = Fault()
    assert read_pointer(lab.assets).prefix == NEW
    Catalog.open(lab.assets).register_recording(row(4), "error", WRITER)

    done = {"cutover": lambda: to(lab, NEW), "rollback": lambda: back(lab), "third": lambda: to(lab, THIRD)}[then]()

    assert done.ok
    assert Catalog.open(lab.assets).list_recordings() == [*expected, row(4)]
    # Whichever it was, what the sweep had not come to is there when the catalog is live again.
    assert to(lab, NEW).ok
    assert Catalog.open(lab.assets).list_recordings() == [*expected, row(4)]


def test_a_catalog_that_was_left_before_its_sweep_still_lacks_what_its_rebuild_did_not_see(
    lab: Lab, live: Catalog, proxied_assets: Bucket, proxy: Proxy
):
    proxy.fault = Refuse(rf"PUT .*/{NEW}/entries/", 403, "AccessDenied")
    with pytest.raises(StoreDenied):
        cutover(proxied_assets, NEW, writer=WRITER, reason="test")
    proxy.fault = Fault()
    broken_off = read_pointer(lab.assets).sweep
    assert broken_off is not None

    back(lab)

    assert read_pointer(lab.assets).complete_until[NEW] == broken_off.since
    assert to(lab, NEW).since == broken_off.since


@pytest.mark.parametrize(
    "held", [Hold(r"PUT .*/ursa/ACTIVE\.json", after=True), Hold(r"PUT .*/entries/", 2)], ids=["swapped", "sweeping"]
)
def test_a_cutover_that_is_killed_after_the_swap_is_finished_by_a_rerun(
    lab: Lab, live: Catalog, store_state: Path, tmp_path: Path, held: Hold
):
    expected = live.list_recordings()
    detour = make_detour(lab, open_store(store_state), tmp_path)
    detour.proxy.fault = held
    environment = os.environ | {
        "PATH": f"{detour.programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    process = subprocess.Popen([sys.executable, "-c", CUT_OVER, str(detour.config), NEW], env=environment)
    try:
        assert held.reached.wait(60)
    finally:
        process.kill()
        process.wait()
        held.ended.set()
        detour.proxy.wait_until_idle()
        detour.proxy.close()
    document = json.loads(lab.assets.get(ACTIVE_POINTER)[0])
    assert (document["prefix"], document["sweep"]["finished"]) == (NEW, False)
    assert {one.recording_hash for one in expected} - {key.rpartition("/")[2][:64] for key in entries_of(lab, NEW)}

    done = to(lab, NEW)

    assert (done.ok, done.swapped) == (True, False)
    assert Catalog.open(lab.assets).list_recordings() == expected
    assert json.loads(lab.assets.get(ACTIVE_POINTER)[0])["sweep"]["finished"] is True


def to(lab: Lab, prefix: str) -> CutOver:
    return cutover(lab.assets, prefix, writer=WRITER, reason="test")


def back(lab: Lab, prefix: str | None = None) -> CutOver:
    return rollback(lab.assets, to=prefix, writer=WRITER, reason="test")


def prepare(lab: Lab, prefix: str, source: Catalog) -> None:
    """A copy of a catalog as it is now, with tables."""
    create_catalog(lab.assets, prefix, by="test")
    for entry in source.entries():
        transplant(lab.assets, prefix, entry, op="rebuild", writer=WRITER)
    fold.refold(lab.assets, prefix, by="test")


def edit(lab: Lab, prefix: str, participant_id: str, target: str | None) -> None:
    def change(one: ParticipantEdit) -> ParticipantEdit:
        return one.model_copy(update={"merged_into": target})

    write_edit(lab.assets, prefix, participant_id, change, op="merge", writer=WRITER)


def merged_into(lab: Lab, prefix: str, participant_id: str) -> str | None:
    found = read_edit(lab.assets, prefix, participant_id)
    assert found is not None
    return found[0].merged_into


def modality(number: int, family: str) -> ModalityRow:
    return ModalityRow(recording_hash=f"{number:064x}", modality=family, format="raw_binary")


def entries_of(lab: Lab, prefix: str) -> dict[str, str]:
    return {info.key: info.etag for info in lab.assets.list_objects(f"{prefix}/entries/")}

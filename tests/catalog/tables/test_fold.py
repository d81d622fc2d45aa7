"""The tables follow the entries, through races, kills and lost answers; marks go when, and only when, they may."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.catalog.tables.folded import (
    BY,
    PREFIX,
    delete_tables,
    marks,
    rows,
    rows_in_tables,
    rows_of_entries,
    write,
)
from tests.faults.proxy import Fault, Hold, LoseAnswer, Proxy
from tests.lab import Lab
from ursa_pipelines.catalog import policies
from ursa_pipelines.catalog.edits import write_edit
from ursa_pipelines.catalog.entries import entry_key, read_entry
from ursa_pipelines.catalog.tables.delta import open_table
from ursa_pipelines.catalog.tables.fold import Folded, fold, refold, repair, tail_length
from ursa_pipelines.catalog.tables.head import read_head, stamp
from ursa_pipelines.catalog.tail import mark, mark_batch
from ursa_pipelines.catalog.writing import Change, write_entries
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.rows import Rows

_FOLDER = """
import sys
from ursa_pipelines.catalog.tables.fold import fold
from ursa_pipelines.objects.store import Bucket, Endpoint
bucket, url, access_key, secret_key, times = sys.argv[1:]
assets = Bucket(bucket, Endpoint(url, "auto", lambda: (access_key, secret_key, None)))
for _ in range(int(times)):
    fold(assets, "ursa/catalog", by="another process")
"""


def test_an_empty_tail_costs_one_request_and_stamps_nothing(lab: Lab, proxied_assets: Bucket, proxy: Proxy):
    folded = fold(proxied_assets, PREFIX, by="test")

    assert (folded.entries, folded.versions) == (0, {})
    assert [seen.request.partition("?")[0] for seen in proxy.seen] == [f"GET /{lab.assets.name}"]
    assert read_head(lab.assets, PREFIX) is None


def test_the_first_fold_brings_all_entries_into_new_tables_and_removes_the_marks(lab: Lab):
    for number in range(3):
        write(lab, rows(number, day=20 * number))
    assert tail_length(lab.assets, PREFIX) == 3

    folded = fold(lab.assets, PREFIX, by="test")

    assert (folded.entries, folded.marks_removed, folded.marks_left, folded.gave_up) == (3, 3, 0, False)
    require_tables_of_entries(lab)
    found = read_head(lab.assets, PREFIX)
    assert found is not None
    assert (found[0].versions, found[0].epoch, found[0].folded_by) == (folded.versions, 1, "test")


def test_later_folds_add_what_is_new_and_replace_what_has_changed(lab: Lab):
    folded_once(lab, 3)

    write(lab, rows(1, size=5, participants=("Bo",)))
    write(lab, rows(7))
    folded = fold(lab.assets, PREFIX, by="test")

    assert (folded.entries, folded.marks_left) == (2, 0)
    require_tables_of_entries(lab)


def test_a_recording_that_has_moved_to_another_month_leaves_no_row_behind(lab: Lab):
    folded_once(lab, 2)

    for day in (40, 80, 0):
        write(lab, rows(1, day=day))
        fold(lab.assets, PREFIX, by="test")
        require_tables_of_entries(lab)


def test_a_recording_that_loses_all_its_modalities_keeps_none_in_the_table(lab: Lab):
    folded_once(lab, 2)

    bare = rows(1)
    write(lab, Rows(bare.recording, (), bare.participants))
    fold(lab.assets, PREFIX, by="test")

    assert {row["recording_hash"] for row in rows_in_tables(lab)["modalities"]} == {f"{0:064x}"}
    require_tables_of_entries(lab)


def test_tables_that_were_deleted_are_folded_again_with_the_same_rows(lab: Lab):
    folded_once(lab, 4)
    write_edit(lab.assets, PREFIX, "p_aria", renamed("Dr Aria"), op="rename", writer=BY)
    fold(lab.assets, PREFIX, by="test")
    before = rows_in_tables(lab)
    delete_tables(lab)

    fold(lab.assets, PREFIX, by="test", check_tables=True)

    assert rows_in_tables(lab) == before
    found = read_head(lab.assets, PREFIX)
    assert found is not None and found[0].epoch == 2


def test_a_refold_leaves_readers_the_old_versions_until_it_has_swapped(lab: Lab):
    folded_once(lab, 3)
    before, head = rows_in_tables(lab), read_head(lab.assets, PREFIX)
    told: list[int] = []

    assert head is not None
    folded = refold(lab.assets, PREFIX, by="test", progress=told.append)

    assert told == [3]
    assert all(folded.versions[name] == version + 1 for name, version in head[0].versions.items())
    assert rows_in_tables(lab) == before


def test_edits_of_participants_are_folded_and_undone(lab: Lab):
    for number, name in enumerate(("Aria", "Arya")):
        write(lab, rows(number, participants=(name,)))
    fold(lab.assets, PREFIX, by="test")

    for merged_into in ("p_arya", None):
        write_edit(
            lab.assets,
            PREFIX,
            "p_aria",
            lambda edit, merged_into=merged_into: edit.model_copy(update={"merged_into": merged_into}),
            op="merge",
            writer=BY,
        )
        folded = fold(lab.assets, PREFIX, by="test")

        of_arya = next(row for row in rows_in_tables(lab)["participants"] if row["participant_id"] == "p_arya")
        assert of_arya["enrolled_by"] == (f"{0:064x}" if merged_into else f"{1:064x}")
        assert (folded.marks_removed, folded.marks_left) == (1, 0)
        require_tables_of_entries(lab)


def test_a_mark_of_a_write_that_is_not_there_yet_stays_for_a_day(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    folded_once(lab, 1)
    mark(lab.assets, PREFIX, f"{0:064x}", "notwritten")
    mark(lab.assets, PREFIX, f"{9:064x}", "noentry")

    folded = fold(lab.assets, PREFIX, by="test")
    assert (folded.marks_removed, folded.marks_left) == (0, 2)

    now = time.time()
    monkeypatch.setattr("ursa_pipelines.catalog.tables.fold.time.time", lambda: now + 25 * 3600)
    assert fold(lab.assets, PREFIX, by="test").marks_removed == 2
    require_tables_of_entries(lab)


def test_a_mark_that_was_written_after_the_entry_was_read_stays(lab: Lab, proxied_assets: Bucket, proxy: Proxy):
    folded_once(lab, 1)
    write(lab, rows(0, size=2))

    class WriteAgain(Fault):
        """Changes the entry once more as soon as the fold has read it."""

        done = False

        def after(self, request: str) -> None:
            if "/entries/" in request and request.startswith("GET") and not self.done:
                self.done = True
                write(lab, rows(0, size=3))

    proxy.fault = WriteAgain()
    folded = fold(proxied_assets, PREFIX, by="test")

    assert (folded.marks_removed, folded.marks_left) == (1, 0)
    assert marks(lab) == [f"{0:064x}"]
    fold(lab.assets, PREFIX, by="test")
    require_tables_of_entries(lab)


def test_the_mark_of_a_batch_goes_when_all_of_it_is_folded(lab: Lab):
    folded_once(lab, 1)
    batch = [rows(number, day=number) for number in range(2, 6)]
    changes = [
        Change(one.recording.recording_hash, True, one.recording.rec_id, resolving(one), "test", BY) for one in batch
    ]
    write_entries(lab.assets, PREFIX, changes, follow_pointer=False)
    mark_batch(lab.assets, PREFIX, [f"{2:064x}", f"{99:064x}"], "halfwritten")

    folded = fold(lab.assets, PREFIX, by="test")

    assert (folded.entries, folded.marks_removed, folded.marks_left) == (4, 1, 1)
    assert marks(lab) == [f"{2:064x}", f"{99:064x}"]
    require_tables_of_entries(lab)


def test_the_lost_answer_of_the_swap_is_taken_for_a_success(lab: Lab, proxied_assets: Bucket, proxy: Proxy):
    folded_once(lab, 1)
    write(lab, rows(1))
    proxy.fault = LoseAnswer("PUT .*HEAD.json", 2)

    folded = fold(proxied_assets, PREFIX, by="test")

    assert proxy.fault.lost
    assert (folded.gave_up, folded.marks_left) == (False, 0)
    require_tables_of_entries(lab)


def test_the_lost_answer_of_a_commit_neither_doubles_nor_loses_rows(lab: Lab, proxied_assets: Bucket, proxy: Proxy):
    folded_once(lab, 1)
    for number, table in enumerate(("modalities", "events", "recordings"), start=1):
        write(lab, rows(number))
        proxy.fault = LoseAnswer(f"PUT .*/{table}/_delta_log/")
        fold(proxied_assets, PREFIX, by="test")
        assert proxy.fault.lost
        proxy.fault = Fault()

        fold(lab.assets, PREFIX, by="test")

        require_tables_of_entries(lab)


@pytest.mark.parametrize(
    "step",
    [
        "PUT .*/participants/_delta_log/",
        "PUT .*/events/_delta_log/",
        "PUT .*/recordings/_delta_log/",
        "DELETE .*/tail/",
    ],
)
def test_what_a_killed_fold_has_left_the_next_one_mends(lab: Lab, proxied_assets: Bucket, proxy: Proxy, step: str):
    folded_once(lab, 2)
    write(lab, rows(1, day=40, size=2, participants=("Bo",)))
    write(lab, rows(2, participants=("Cy",)))

    kill_fold(proxied_assets, proxy, Hold(step))
    # Changed once more: the half that is in the tables already is older than the entry.
    write(lab, rows(1, day=80, size=3, participants=("Aria", "Cy")))
    folded = fold(lab.assets, PREFIX, by="test")

    assert (folded.gave_up, folded.marks_left) == (False, 0)
    require_tables_of_entries(lab)


def test_a_first_fold_that_was_killed_is_begun_again(lab: Lab, proxied_assets: Bucket, proxy: Proxy):
    for number in range(3):
        write(lab, rows(number))
    kill_fold(proxied_assets, proxy, Hold("PUT .*/events/_delta_log/", 2))

    fold(lab.assets, PREFIX, by="test")

    require_tables_of_entries(lab)


def test_folders_that_run_at_once_lose_and_double_nothing(lab: Lab):
    folded_once(lab, 2)
    others = [start_folder(lab.assets, times=4) for _ in range(2)]
    writing = threading.Event()

    def fold_meanwhile() -> list[Folded]:
        done = []
        while not writing.is_set():
            done.append(fold(lab.assets, PREFIX, by="test"))
        return done

    with ThreadPoolExecutor(2) as pool:
        folders = [pool.submit(fold_meanwhile) for _ in range(2)]
        for number in range(30):
            write(lab, rows(number % 10, day=number, size=number, participants=("Aria", f"P{number % 3}")))
        writing.set()
        assert all(folder.result() for folder in folders)
    for other in others:
        assert other.wait(120) == 0
    fold(lab.assets, PREFIX, by="test")

    require_tables_of_entries(lab)
    assert marks(lab) == []


def test_of_two_folds_that_meet_at_a_commit_one_gives_up(lab: Lab, proxied_assets: Bucket, proxy: Proxy):
    folded_once(lab, 1)
    write(lab, rows(1))

    class FoldBetween(Fault):
        """Another fold does the whole work while the first is about to make its first commit."""

        other: Folded | None = None

        def before(self, request: str) -> None:
            if self.other is None and request.startswith("PUT") and "/modalities/_delta_log/" in request:
                self.other = fold(lab.assets, PREFIX, by="other")

    proxy.fault = FoldBetween()
    folded = fold(proxied_assets, PREFIX, by="test")

    assert folded.gave_up
    assert proxy.fault.other is not None and not proxy.fault.other.gave_up
    require_tables_of_entries(lab)


@pytest.mark.parametrize("between", ["a commit", "a stamp"])
def test_what_comes_before_the_swap_keeps_the_fold_from_swapping(
    lab: Lab, proxied_assets: Bucket, proxy: Proxy, between: str
):
    folded_once(lab, 1)
    write(lab, rows(1))
    before = read_head(lab.assets, PREFIX)

    class Between(Fault):
        """Somebody begins a fold, or commits without one, when this one has committed to the last table."""

        done = False

        def after(self, request: str) -> None:
            if self.done or not (request.startswith("PUT") and "/recordings/_delta_log/" in request):
                return
            self.done = True
            if between == "a stamp":
                stamp(lab.assets, PREFIX)
                return
            table = open_table(lab.assets, PREFIX, "modalities")
            assert table is not None
            table.delete(f"recording_hash = '{0:064x}'")

    proxy.fault = Between()
    folded = fold(proxied_assets, PREFIX, by="test")

    after = read_head(lab.assets, PREFIX)
    assert proxy.fault.done and folded.gave_up
    assert before is not None and after is not None
    assert after[0].versions == before[0].versions
    assert after[0].gen == before[0].gen + (2 if between == "a stamp" else 1)
    assert marks(lab) == [f"{1:064x}"]


def test_repair_finds_what_no_mark_tells_of(lab: Lab):
    folded_once(lab, 4)
    # By hand: an entry without a mark, one changed without a new seq, one that is gone.
    added = entry_document(lab, 0) | {"recording": rows(8).recording.model_dump(mode="json"), "modalities": []}
    lab.assets.create(entry_key(PREFIX, f"{8:064x}"), json.dumps(added).encode())
    changed = entry_document(lab, 1)
    changed["recording"]["device_info"] = {"rig": "b"}
    put(lab, 1, changed)
    lab.assets.wire.delete(entry_key(PREFIX, f"{2:064x}"))

    folded = repair(lab.assets, PREFIX, by="test")

    assert folded.entries == 2
    require_tables_of_entries(lab)
    assert repair(lab.assets, PREFIX, by="test").entries == 0


def require_tables_of_entries(lab: Lab) -> None:
    assert rows_in_tables(lab) == rows_of_entries(lab)


def folded_once(lab: Lab, count: int) -> None:
    for number in range(count):
        write(lab, rows(number))
    fold(lab.assets, PREFIX, by="test")


def renamed(name: str):
    return lambda edit: edit.model_copy(update={"display_name": name})


def resolving(new: Rows):
    return lambda _: policies.ingest(new, overwrite=False)


def entry_document(lab: Lab, number: int) -> dict:
    raw, _ = lab.assets.get(entry_key(PREFIX, f"{number:064x}"))
    return json.loads(raw)


def put(lab: Lab, number: int, document: dict) -> None:
    found = read_entry(lab.assets, PREFIX, f"{number:064x}")
    assert found is not None
    lab.assets.replace(entry_key(PREFIX, f"{number:064x}"), json.dumps(document).encode(), found[1])


def start_folder(assets: Bucket, times: int) -> subprocess.Popen[bytes]:
    access_key, secret_key, _ = assets._endpoint.secret()
    command = [sys.executable, "-c", _FOLDER, assets.name, assets._endpoint.url, access_key, secret_key, str(times)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])})


def kill_fold(assets: Bucket, proxy: Proxy, hold: Hold) -> None:
    proxy.fault = hold
    process = start_folder(assets, times=1)
    try:
        assert hold.reached.wait(60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        hold.ended.set()
        proxy.wait_until_idle()
    proxy.fault = Fault()

"""How results show themselves in a notebook and in a terminal."""

from __future__ import annotations

import pickle
from copy import copy, deepcopy
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ursa_pipelines import Data
from ursa_pipelines.catalog.results import QueryResult, QueryResultList
from ursa_pipelines.errors import ResultUnbound
from ursa_pipelines.recordings.rows import ModalityRow, RecordingRow, StorageFormat

START = datetime(2026, 5, 20, 19, 56, 28, tzinfo=UTC)
HOSTILE = "<script>alert('1')</script>\u202e\n"


def result(number: int = 0, **fields: Any) -> QueryResult:
    """One recording of 1 h 30 min with an EEG of 1.5 MB."""
    recording_hash = f"{number:064x}"
    given = {
        "start_time": START + timedelta(days=number),
        "duration": timedelta(minutes=90),
        "participant_ids": ["p_1"],
        "metadata": {"manifest_recording_id": f"rec_20260520_195628_{number:04x}"},
        **fields,
    }
    eeg = ModalityRow(recording_hash=recording_hash, modality="eeg", format=StorageFormat.RAW_BINARY, bytes=1_500_000)
    return QueryResult(RecordingRow(recording_hash=recording_hash, **given), {"eeg": eeg})


def test_a_notebook_shows_one_line_for_each_recording_and_the_totals():
    html = QueryResultList([result(0), result(1, metadata=None)])._repr_html_()

    for told in (
        "rec_20260520_195628_0000",
        "2026-05-20 19:56:28",
        "1:30:00",
        "p_1",
        ">eeg<",
        "1.5 MB",
        ">raw<",
        f"{1:064x}"[:16],
        "2 recordings, 3.0 hours, 3.0 MB",
    ):
        assert told in html
    assert html.count("<tr>") == 3
    assert "more" not in html


def test_long_results_are_cut_and_say_how_many_more_there_are():
    results = QueryResultList(result(number) for number in range(1_025))

    html, text = results._repr_html_(), repr(results)

    assert html.count("<tr>") == 21
    assert len(text.splitlines()) == 23
    for shown in (html, text):
        assert "rec_20260520_195628_0013" in shown
        assert "rec_20260520_195628_0014" not in shown
        assert "\u2026 and 1,005 more" in shown
        assert "1,025 recordings, 1,537.5 hours, 1.5 GB" in shown


def test_what_rigs_and_people_wrote_is_text_and_nothing_else():
    results = QueryResultList([result(metadata={"manifest_recording_id": HOSTILE, "note": HOSTILE})])
    results[0].modalities[HOSTILE] = results[0].modalities["eeg"]

    html, text = results._repr_html_(), repr(results)

    assert "<script" not in html
    assert "&lt;script&gt;" in html
    for shown in (html, text, repr(results[0])):
        assert "\u202e" not in shown
    assert len(text.splitlines()) == 3


def test_a_terminal_shows_a_table_that_fits():
    many = [f"p_{number:016x}" for number in range(9)]
    text = repr(QueryResultList([result(0, participant_ids=many), result(1, duration=timedelta(days=5, seconds=1))]))

    head, first, second, totals = text.splitlines()
    assert head.split()[:2] == ["recording", "start"]
    assert "\u2026" in first and "120:00:01" in second
    assert max(map(len, (head, first, second))) < 140
    assert totals == "2 recordings, 121.5 hours, 3.0 MB"
    assert repr(QueryResultList()) == "0 recordings, 0.0 hours, 0 bytes"
    assert "<table" not in QueryResultList()._repr_html_()


def test_one_result_is_a_line():
    assert repr(result()) == "QueryResult(rec_20260520_195628_0000, 2026-05-20 19:56:28, eeg)"
    assert repr(QueryResult(result().recording)) == (
        "QueryResult(rec_20260520_195628_0000, 2026-05-20 19:56:28, no modalities)"
    )
    assert repr([result(), result()]).count("QueryResult(") == 2


class _Deliverer:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[QueryResult], Any, dict[str, Any]]] = []

    def download(self, target: Any, dest: Any, **options: Any) -> list[Path]:
        self.asked.append((list(target), dest, options))
        return [Path(dest)]

    def get(self, target: Any, **options: Any) -> Any:
        self.asked.append((list(target), None, options))
        return [Data(one.recording, {}) for one in target]


def test_results_slices_and_sums_of_them_can_be_downloaded():
    deliverer = _Deliverer()
    results = QueryResultList([result(0), result(1), result(2)]).delivered_by(deliverer)

    for chosen in (results[:2], results[:1] + results[1:2], QueryResultList(reversed(results[:2])), results[:2].copy()):
        assert isinstance(chosen, QueryResultList)
        assert chosen.download("out", layout="flat") == [Path("out")]
        assert len(deliverer.asked[-1][0]) == 2
    results[0].download("out")

    assert deliverer.asked[0] == ([result(0), result(1)], "out", {"layout": "flat", "progress": None})
    assert deliverer.asked[-1] == ([result(0)], "out", {"layout": "by_recording", "progress": None})
    assert results[0].get(max_bytes=5).metadata == results[0].recording
    assert deliverer.asked[-1] == ([result(0)], None, {"max_bytes": 5})


def test_what_delivers_results_is_neither_shown_nor_compared_nor_pickled():
    plain, bound = result(), QueryResultList([result()]).delivered_by(_Deliverer())

    (unpickled,) = pickle.loads(pickle.dumps(bound))

    assert unpickled == bound[0] == plain
    assert repr(bound[0]) == repr(plain)
    assert set(asdict(bound[0])) == {"recording", "modalities"}
    with pytest.raises(ResultUnbound, match=r"data\.download\(results, dest\)"):
        unpickled.download("out")


def test_a_copy_of_a_result_can_be_downloaded_as_well():
    deliverer = _Deliverer()
    (bound,) = QueryResultList([result()]).delivered_by(deliverer)

    for copied in (copy(bound), deepcopy(bound), replace(bound, modalities={})):
        copied.download("out")

    assert [asked for asked, *_ in deliverer.asked] == [[bound], [bound], [replace(result(), modalities={})]]


def test_results_without_an_interface_or_of_two_say_what_to_do():
    one, other = (QueryResultList([result(number)]).delivered_by(_Deliverer()) for number in range(2))

    with pytest.raises(ResultUnbound, match="query again"):
        QueryResultList([result()]).get()
    with pytest.raises(ResultUnbound, match="on their own"):
        (one + other).download("out")
    assert QueryResultList().download("out") == []

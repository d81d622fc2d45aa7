"""What `where=` keeps, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ursa_pipelines.catalog.tables.filters import compile_where, names_asked_for
from ursa_pipelines.catalog.tables.schemas import SCHEMAS, month_of
from ursa_pipelines.recordings.rows import IngestionStatus

MAY, JUNE = datetime(2026, 5, 20, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)


def frame_of(table: str, *records: dict[str, Any]) -> pl.DataFrame:
    blank = dict.fromkeys(SCHEMAS[table].names)
    columns = {name: [{**blank, **record}[name] for record in records] for name in blank}
    return pl.DataFrame(columns, schema=pl.DataFrame(pl.from_arrow(SCHEMAS[table].empty_table())).schema)


def kept(frame: pl.DataFrame, table: str, where: dict[str, Any]) -> list[str]:
    condition = compile_where(table, where)
    return (frame if condition is None else frame.filter(condition))["recording_hash"].to_list()


def test_recordings_are_kept_by_equality_membership_and_spans():
    recordings = frame_of(
        "recordings",
        *(
            {
                "recording_hash": name,
                "rec_id": rec_id,
                "start_time": start,
                "duration_us": seconds * 1_000_000,
                "participant_ids": people,
                "started_month": month_of(start),
            }
            for name, rec_id, start, seconds, people in (
                ("a", "r1", MAY, 60, ["p_1", "p_2"]),
                ("b", None, JUNE, 90, []),
                ("c", "r3", JUNE + timedelta(days=60), 0, ["p_3"]),
            )
        ),
    )
    in_may = MAY.astimezone(timezone(timedelta(hours=9)))
    filters: list[tuple[dict[str, Any], str]] = [
        ({}, "abc"),
        ({"rec_id": "r1"}, "a"),
        ({"rec_id": None}, "b"),
        ({"rec_id": ["r3", None]}, "bc"),
        ({"rec_id": []}, ""),
        ({"recording_hash": {"a", "c", "z"}}, "ac"),
        ({"participant_ids": "p_2"}, "a"),
        ({"participant_ids": ("p_2", "p_3")}, "ac"),
        ({"participant_ids": None}, ""),
        ({"participant_ids": ("between", "p_2", "p_3")}, "a"),
        ({"duration": timedelta(seconds=90)}, "b"),
        ({"duration": ("between", timedelta(0), timedelta(seconds=90))}, "ac"),
        ({"start_time": in_may}, "a"),
        ({"start_time": [MAY, JUNE]}, "ab"),
        ({"start_time": ("between", in_may, JUNE)}, "a"),
        ({"start_time": ("between", JUNE, None)}, "bc"),
        ({"start_time": ("between", None, JUNE)}, "a"),
        ({"started_month": "2026-06"}, "b"),
        ({"rec_id": "r1", "participant_ids": "p_3"}, ""),
    ]

    assert [kept(recordings, "recordings", where) for where, _ in filters] == [list(names) for _, names in filters]


def test_a_condition_on_the_start_leaves_out_other_months_whatever_is_in_them():
    """Their files are never opened: the month alone tells."""
    misplaced = frame_of("modalities", {"recording_hash": "a", "start_time": MAY, "started_month": "2026-07"})

    for wanted in (MAY, [MAY, JUNE], ("between", MAY, JUNE), ("between", None, JUNE)):
        assert kept(misplaced, "modalities", {"start_time": wanted}) == []
    assert kept(misplaced, "modalities", {"start_time": ("between", MAY, None)}) == ["a"]


def test_modalities_are_kept_by_status_numbers_and_absence():
    modalities = frame_of(
        "modalities",
        {"recording_hash": "a", "worker_id": "x", "bytes": 10, "ingestion_status": "raw"},
        {"recording_hash": "b", "bytes": 20, "ingestion_status": "processed"},
    )

    assert kept(modalities, "modalities", {"ingestion_status": IngestionStatus.RAW}) == ["a"]
    assert kept(modalities, "modalities", {"bytes": ("between", 10, 20)}) == ["a"]
    assert kept(modalities, "modalities", {"worker_id": None}) == ["b"]
    assert kept(modalities, "modalities", {"worker_id": ["x", None]}) == ["a", "b"]


@pytest.mark.parametrize(
    ("table", "where", "told"),
    [
        ("recordings", {"colour": "green"}, "recordings has no column 'colour'"),
        ("modalities", {"rec_id": "r"}, "modalities has no column 'rec_id'"),
        ("recordings", {"metadata.study": "sleep"}, r"query\(metadata="),
        ("participants", {"metadata": {"display_name": "x"}}, r"query\(metadata="),
        ("recordings", {"start_time": datetime(2026, 5, 20)}, "has no time zone"),
        ("recordings", {"start_time": ("between", MAY, datetime(2026, 6, 1))}, "has no time zone"),
        ("recordings", {"start_time": "2026-05-20"}, "is not a datetime"),
        ("recordings", {"duration": 60}, "is not a timedelta"),
        ("modalities", {"bytes": "many"}, "is not a number"),
        ("recordings", {"rec_id": 7}, "is not a text"),
    ],
)
def test_what_cannot_be_compared_is_refused(table: str, where: dict[str, Any], told: str):
    with pytest.raises(ValueError, match=told):
        compile_where(table, where)


def test_names_are_told_apart_from_other_conditions():
    assert names_asked_for({"rec_id": "r"}, "rec_id") == ("r",)
    assert names_asked_for({"rec_id": ["r", "s", "r"]}, "rec_id") == ("r", "s")
    assert names_asked_for({"rec_id": []}, "rec_id") == ()
    for other in (
        None,
        {"start_time": MAY},
        {"rec_id": None},
        {"rec_id": ["r", None]},
        {"rec_id": ("between", "a", "b")},
    ):
        assert names_asked_for(other, "rec_id") is None


names = st.sampled_from(["a", "b", "c", "d"])
conditions = st.one_of(
    st.none(), names, st.lists(st.none() | names), st.sets(names), st.tuples(st.just("between"), names, names)
)


def matches(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, tuple) and wanted[:1] == ("between",):
        return value is not None and wanted[1] <= value < wanted[2]
    return value in wanted if isinstance(wanted, (list, set)) else value == wanted


@given(
    st.lists(st.tuples(st.none() | names, st.lists(names)), max_size=6), conditions, conditions.filter(lambda one: one)
)
def test_any_rows_and_conditions_agree_with_the_rule(rows: list[tuple[Any, list[str]]], of_id: Any, of_people: Any):
    recordings = frame_of(
        "recordings",
        *(
            {"recording_hash": str(place), "rec_id": rec_id, "participant_ids": people, "start_time": MAY}
            for place, (rec_id, people) in enumerate(rows)
        ),
    )

    assert kept(recordings, "recordings", {"rec_id": of_id, "participant_ids": of_people}) == [
        str(place)
        for place, (rec_id, people) in enumerate(rows)
        if matches(rec_id, of_id) and any(matches(one, of_people) for one in people)
    ]

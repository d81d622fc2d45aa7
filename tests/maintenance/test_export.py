"""Exports: what is written, what is refused, and that spreadsheets run nothing of it."""

from __future__ import annotations

import csv
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.errors import UrsaError
from ursa_pipelines.maintenance.export import export

FILES = {"camera_a/seg_0000.mp4": b"video", "mic/seg_0000.wav": b"audio"}
RECORDINGS = [f"rec_2026052{day}_195628_b1dd" for day in range(3)]


def _ingested(lab: Lab) -> None:
    for rec_id in RECORDINGS:
        files = {path: content + rec_id.encode() for path, content in FILES.items()}
        lab.data.ingest(source_dir=write_recording(lab.nas, rec_id, files, participant="Aria Lin"))


@pytest.mark.parametrize("form", ["parquet", "csv", "lance"])
def test_every_table_is_written_with_its_rows(lab: Lab, tmp_path: Path, form: str):
    _ingested(lab)
    told: dict[str, int] = {}

    exported = export(lab.data.catalog, tmp_path / "out", format=form, progress=told.__setitem__)

    rows = {one.table: one.rows for one in exported}
    assert rows == {"modalities": 6, "participants": 1, "events": 3, "recordings": 3} == told
    assert all(one.path == tmp_path / "out" / f"{one.table}.{form}" and one.bytes > 0 for one in exported)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {one.path.name for one in exported}


def test_an_export_is_readable_by_others(lab: Lab, tmp_path: Path):
    _ingested(lab)
    export(lab.data.catalog, tmp_path, format="parquet", tables=("recordings",))

    found = duckdb.sql(f"select rec_id, duration_us from '{tmp_path / 'recordings.parquet'}' order by rec_id")

    assert found.fetchall() == [(rec_id, 60_000_000) for rec_id in RECORDINGS]


def test_names_are_in_the_participants_table_only(lab: Lab, tmp_path: Path):
    _ingested(lab)
    exported = export(lab.data.catalog, tmp_path, format="csv")

    holding = {one.table for one in exported if "Aria" in one.path.read_text()}

    assert holding == {"participants"}


def test_an_export_that_is_there_is_replaced_only_if_told(lab: Lab, tmp_path: Path):
    for form in ("parquet", "lance"):
        export(lab.data.catalog, tmp_path, format=form)
    _ingested(lab)

    with pytest.raises(UrsaError, match=r"export already: modalities\.parquet"):
        export(lab.data.catalog, tmp_path, format="parquet")
    assert pq.read_table(tmp_path / "recordings.parquet").num_rows == 0

    for form in ("parquet", "lance"):
        assert {one.rows for one in export(lab.data.catalog, tmp_path, format=form, overwrite=True)} == {1, 3, 6}
    assert pq.read_table(tmp_path / "recordings.parquet").num_rows == 3


def test_an_export_that_fails_leaves_nothing(lab: Lab, tmp_path: Path):
    _ingested(lab)

    def fail(table: str, rows: int) -> None:
        if table == "recordings":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(lab.data.catalog, tmp_path / "out", format="parquet", progress=fail)

    assert list((tmp_path / "out").iterdir()) == []


def test_lance_without_its_package_names_the_extra(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "lance", None)

    with pytest.raises(UrsaError, match=r"pip install 'ursa-pipelines\[lance\]'"):
        export(lab.data.catalog, tmp_path / "out", format="lance")

    assert not (tmp_path / "out").exists()


def test_no_cell_of_a_csv_is_a_formula(lab: Lab, tmp_path: Path):
    lab.data.register_recording(
        recording_hash="-1-1",
        start_time=datetime(2026, 5, 20, tzinfo=UTC),
        duration=timedelta(seconds=1),
        participant_ids=["-2-2"],
    )
    for number, modality in enumerate(("=1+1", "+1", "@SUM(A1)", "\t=1", "'quoted")):
        lab.data.register_modality(
            recording_hash="-1-1",
            modality=modality,
            worker_id=f"={number}",
            format="raw_binary",
            metadata={"note": '=cmd|"/c calc"!A1'},
        )

    exported = export(lab.data.catalog, tmp_path, format="csv")

    cells = [cell for one in exported for row in csv.reader(one.path.open()) for cell in row]
    assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))] == []
    assert "'=1+1" in cells and "''quoted" in cells and json.dumps({"note": '=cmd|"/c calc"!A1'}) in cells


@pytest.mark.parametrize("options", [{"format": "xlsx"}, {"format": "csv", "tables": ["rows"]}])
def test_what_does_not_exist_is_refused(lab: Lab, tmp_path: Path, options: dict):
    with pytest.raises(ValueError, match=r"there (are|is)"):
        export(lab.data.catalog, tmp_path, **options)


@pytest.mark.parametrize("form", ["parquet", "csv", "lance"])
def test_a_directory_that_is_no_export_is_never_replaced(lab: Lab, tmp_path: Path, form: str):
    thesis = tmp_path / f"recordings.{form}" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")

    with pytest.raises(UrsaError, match=rf"recordings\.{form}: a directory is in the place"):
        export(lab.data.catalog, tmp_path, format=form, overwrite=True)  # type: ignore[arg-type]

    assert thesis.read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".export")] == []


def test_a_name_too_long_for_a_file_is_refused_with_its_place(lab: Lab, tmp_path: Path):
    with pytest.raises(UrsaError, match="the export cannot be written: File name too long"):
        export(lab.data.catalog, tmp_path / ("x" * 300), format="csv")


@pytest.mark.parametrize("form", ["parquet", "csv", "lance"])
def test_only_its_owner_may_read_the_names(lab: Lab, tmp_path: Path, form: str):
    _ingested(lab)

    exported = export(lab.data.catalog, tmp_path, format=form)  # type: ignore[arg-type]

    open_to_others = {one.table: bool(one.path.stat().st_mode & 0o077) for one in exported}
    assert not open_to_others.pop("participants") and all(open_to_others.values())

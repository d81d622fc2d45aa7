"""`ursa catalog export` and `ursa catalog import`: what they print, write, refuse, and how they exit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.lab import Lab, make_lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.cli.exchange import app
from ursa_pipelines.errors import UrsaError

REC = "rec_20260520_195628_b1dd"
Command = Callable[..., Result]


@pytest.fixture
def ursa(monkeypatch: pytest.MonkeyPatch) -> Command:
    """The two commands, away from a terminal."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(lab: Lab, *arguments: str | Path, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [*map(str, arguments), "--config", str(lab.config)])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


@pytest.fixture
def exported(lab: Lab, ursa: Command, tmp_path: Path) -> Path:
    """An export of a catalog with one recording."""
    files = {"camera_a/seg_0000.mp4": b"video", "mic/seg_0000.wav": b"audio"}
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, files, participant="Aria Lin"))
    ursa(lab, "export", tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def elsewhere(lab: Lab, store_state: Path, tmp_path: Path) -> Lab:
    """A second lab with an empty catalog, beside the first."""
    (tmp_path / "elsewhere").mkdir()
    return make_lab(store_state, tmp_path / "elsewhere")


def test_an_export_says_where_names_are(lab: Lab, ursa: Command, exported: Path, tmp_path: Path):
    told = ursa(lab, "export", tmp_path / "csv", "--format", "csv").stdout

    assert "participants.csv holds participants' names; no other file does." in told.replace("\n", " ")
    assert "begins with '" in told
    assert "Aria" not in told
    told = ursa(lab, "export", tmp_path / "some", "--table", "recordings", "--table", "modalities").stdout
    assert "names" not in told
    assert {path.name for path in (tmp_path / "some").iterdir()} == {"recordings.parquet", "modalities.parquet"}


def test_an_export_for_machines_is_one_document(lab: Lab, ursa: Command, exported: Path):
    document = json.loads(ursa(lab, "export", exported, "--overwrite", "--json").stdout)

    assert document["summary"]["holds_names"] is True
    assert {one["table"]: one["rows"] for one in document["items"]} == {
        "recordings": 1,
        "modalities": 2,
        "participants": 1,
        "events": 1,
    }


def test_an_export_that_is_there_is_refused(lab: Lab, ursa: Command, exported: Path):
    result = ursa(lab, "export", exported, code=1)

    assert isinstance(result.exception, UrsaError)
    assert "--overwrite" in str(result.exception)


def test_an_import_shows_what_it_would_do_and_writes_only_if_told(
    elsewhere: Lab, ursa: Command, exported: Path, lab: Lab
):
    before = elsewhere.everything()

    told = ursa(elsewhere, "import", exported, "--allow-missing-bytes").stdout
    assert "--commit writes it" in told and "not imported: events" in told
    assert elsewhere.everything() == before

    told = ursa(elsewhere, "import", exported, "--allow-missing-bytes", "--commit", "--yes").stdout
    assert "1 recordings created" in told
    (here,), (there,) = elsewhere.interface(writes=False).list_recordings(), lab.data.list_recordings()
    assert here.comparable() == there.comparable()
    # Nobody has proved any bytes here.
    assert "verification" not in (here.metadata or {})


def test_an_import_into_the_same_catalog_has_nothing_to_write(lab: Lab, ursa: Command, exported: Path):
    before = lab.everything()

    told = ursa(lab, "import", exported, "--commit").stdout

    assert "Nothing to write." in told
    assert lab.everything() == before


def test_rows_without_bytes_are_named_and_refused(elsewhere: Lab, ursa: Command, exported: Path):
    told = ursa(elsewhere, "import", exported, "--commit", "--yes", code=1).stdout

    assert "modalities.parquet" in told and "its raw address lies in the bucket" in told
    assert "1 refused, since their bytes are not here" in told
    assert elsewhere.interface(writes=False).list_recordings() == []


def test_an_import_asks_before_it_writes(elsewhere: Lab, ursa: Command, exported: Path):
    told = ursa(elsewhere, "import", exported, "--allow-missing-bytes", "--commit", code=2)

    assert "say --yes" in told.output
    assert elsewhere.interface(writes=False).list_recordings() == []


def test_what_an_import_finds_is_one_document_for_machines(lab: Lab, ursa: Command, exported: Path):
    table = pq.read_table(exported / "recordings.parquet")
    bad = table.set_column(0, "recording_hash", pa.array(["a/b"]))
    pq.write_table(bad, exported / "recordings.parquet")

    document = json.loads(ursa(lab, "import", exported, "--commit", "--json", code=1).stdout)

    assert document["summary"]["report"] is None
    plan = document["summary"]["plan"]
    assert (plan["refused"], plan["problems"], plan["kinds"]) == (1, 3, {"invalid": 1, "orphan": 2})
    assert document["items"][0] == {
        "finding": "refused",
        "kind": "invalid",
        "reason": r"recording_hash: String should match pattern '^[A-Za-z0-9_-]+\z'",
        "file": str(exported / "recordings.parquet"),
        "row": 1,
        "recording_hash": "a/b",
    }

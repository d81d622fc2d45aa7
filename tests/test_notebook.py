"""What a notebook shows: errors that fit on a screen, results as tables, and never a name or a secret."""

from __future__ import annotations

import hashlib
import inspect
import traceback
from pathlib import Path

import pytest
import yaml

import ursa_pipelines
from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, write_recording
from ursa_pipelines import BatchItem, DataInterface, IngestResult
from ursa_pipelines.errors import ContentMismatch, RecordingConflict, UrsaError
from ursa_pipelines.ingest.batch import BatchItems
from ursa_pipelines.ingest.plan import IngestPlan, IngestPlans
from ursa_pipelines.ingest.verify import Verification
from ursa_pipelines.recordings.layout import some
from ursa_pipelines.recordings.manifest import Manifest
from ursa_pipelines.recordings.rows import RecordingRow

REC_ID, OTHER = "rec_20260520_195621_b1dd", "rec_20260520_195622_b1dd"
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10}
NAME = "Aria Lin"
SHOWN_TYPES = (BatchItem, BatchItems, DataInterface, IngestPlan, IngestPlans, IngestResult, Verification)


def test_an_error_in_a_notebook_is_what_is_wrong_and_what_to_do_and_elsewhere_the_whole_traceback():
    def ingest() -> None:
        raise RecordingConflict("other bytes stand there", recording=REC_ID, place="camera_a/seg_0000.mp4")

    with pytest.raises(UrsaError) as caught:
        ingest()

    problem, blank, remedy = caught.value._render_traceback_()
    assert problem == f"RecordingConflict: {REC_ID}: camera_a/seg_0000.mp4: other bytes stand there."
    assert (blank, remedy) == ("", f"What to do: {RecordingConflict.remedy}")
    assert "in ingest" in "".join(traceback.format_exception(caught.value))
    assert max(map(len, UrsaError("x" * 100_000)._render_traceback_())) < 2000


def test_ipython_shows_those_lines(capsys: pytest.CaptureFixture[str]):
    interactiveshell = pytest.importorskip("IPython.core.interactiveshell")
    shell = interactiveshell.InteractiveShell()

    shell.run_cell("from ursa_pipelines.errors import StoreDenied\nraise StoreDenied('it was refused')")

    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "StoreDenied: it was refused."
    assert len(lines) == 3


def test_a_refusal_of_thousands_of_files_fits_on_a_screen(lab: Lab):
    files = {f"camera_a/seg_{number:04}.mp4": b"%d" % number for number in range(40)}
    damaged = manifest_of(REC_ID, files)
    for file in damaged["files"]:
        file["sha256"] = hashlib.sha256(b"damaged").hexdigest()
    directory = write_recording(lab.nas, REC_ID, files, manifest=damaged)

    with pytest.raises(ContentMismatch) as caught:
        lab.data.ingest(source_dir=directory)

    assert "seg_0001.mp4" in str(caught.value)
    assert "and 34 more" in str(caught.value)
    assert some([f"seg_{number}" for number in range(5000)]) == "seg_0, seg_1, seg_2, seg_3, seg_4 and 4,995 more"


def test_an_interface_shows_its_profile_without_asking_anybody(lab: Lab, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    config = tmp_path / "elsewhere.yaml"
    reference = {name: f"op://Vault/Item/{name}" for name in ("access_key_id", "secret_access_key")}
    fields = {
        "store": "s3",
        "endpoint": "op://Vault/Item/endpoint",
        "credentials": dict.fromkeys(("assets_ro", "assets_rw", "raw_ro", "raw_rw"), reference),
    }
    config.write_text(yaml.safe_dump(yaml.safe_load(lab.config.read_text()) | fields))

    unopened = repr(DataInterface(config_path=config))

    assert unopened == (
        f"DataInterface(profile: lab, family: local, raw: {lab.raw.name}, assets: {lab.assets.name}, "
        "may write: nothing, before enable_writes())"
    )
    assert "catalog: ursa/catalog, may write: assets_rw and raw_rw" in repr(lab.data)
    assert "<td" in lab.data._repr_html_() and lab.raw.name in lab.data._repr_html_()


def test_results_show_what_came_of_them_and_no_name(lab: Lab):
    added = {"manifest_version": 1, "who": NAME, "participant": NAME}
    good = write_recording(lab.nas, REC_ID, FILES, manifest=added, participant=NAME)
    bad = write_recording(lab.nas, OTHER, FILES, manifest={"recording_id": REC_ID})

    plans = lab.data.plan_many([good, bad])
    items = lab.data.ingest_many([good, bad])
    again = lab.data.ingest(source_dir=good)
    verified = lab.data.verify(REC_ID)

    assert [type(one) for one in (plans, items)] == [IngestPlans, BatchItems]
    assert "2 recordings: 1 ingest, 1 refused" in repr(plans)
    assert "2 recordings: 1 FAIL, 1 OK" in repr(items)
    assert f"{OTHER}  FAIL" in repr(items)
    assert repr(items[0]).startswith(f"BatchItem(recording: {REC_ID}, status: OK, outcome: created, path: A")
    assert "outcome: unchanged" in repr(again)
    assert (
        repr(verified) == f"Verification(recording: {REC_ID}, found: ok, compared by: size, files: 2, bytes: 550 bytes)"
    )
    manifest = Manifest.model_validate({"recording_id": REC_ID, "files": [], "who": NAME, "participant": NAME})
    row = RecordingRow(**again.recording.model_dump() | {"device_info": {"who": NAME}, "extra": NAME})
    for shown in (plans, items, items[0], plans[0], again, again.recording, verified, row, manifest, lab.data.query()):
        assert "Aria" not in f"{shown!r}{shown!s}{getattr(shown, '_repr_html_', str)()}"
    assert "'who': '\u2026'" in repr(row)


def test_a_long_list_is_cut_and_hostile_text_is_harmless():
    items = BatchItems(
        BatchItem(f"rec_20260520_195621_{number:04x}", state="failed", reason="<script>\x1b[2J" + "x" * 5000)
        for number in range(25)
    )

    for shown in (repr(items), items._repr_html_()):
        assert "\u2026 and 5 more" in shown
        assert "25 recordings: 25 FAIL" in shown
        assert "\x1b" not in shown
        assert len(shown) < 20_000
    assert "<script>" not in items._repr_html_()
    assert (repr(BatchItems()), BatchItems()._repr_html_()) == ("0 recordings", "<div><div>0 recordings</div></div>")


def test_a_verification_with_thousands_of_problems_shows_the_first():
    problems = tuple(f"seg_{number}.mp4 is missing" for number in range(5000))
    found = Verification(REC_ID, "a" * 64, "size", 0, 0, problems, (), 0, (), ())

    assert "5,000 problems" in repr(found)
    assert "seg_4.mp4 is missing; and 4,995 more" in repr(found)


def test_names_that_are_loaded_on_first_use_are_completed():
    assert set(ursa_pipelines.__all__) <= set(dir(ursa_pipelines))
    assert {"ingest", "ingest_many", "query", "plan", "download"} <= set(dir(DataInterface))


def test_everything_public_has_a_docstring_and_type_hints():
    for name in ursa_pipelines.__all__:
        assert (getattr(ursa_pipelines, name).__doc__ or "").strip(), name
    for name, method in inspect.getmembers(DataInterface, inspect.isfunction):
        if name.startswith("_"):
            continue
        signature = inspect.signature(method)
        assert method.__doc__, name
        assert signature.return_annotation is not signature.empty, name
        hinted = [one.annotation is not one.empty for one in signature.parameters.values() if one.name != "self"]
        assert all(hinted), name
    assert Path(ursa_pipelines.__file__).with_name("py.typed").exists()


@pytest.mark.parametrize("kind", SHOWN_TYPES)
def test_what_is_shown_in_a_notebook_has_both_forms(kind: type):
    assert "_repr_html_" in dir(kind)
    assert kind.__repr__ is not object.__repr__

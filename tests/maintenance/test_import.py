"""Imports: what existing tables become, what is refused, and that a second run writes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
import pytest

from tests.lab import Lab, make_lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.errors import UrsaError
from ursa_pipelines.maintenance.export import export
from ursa_pipelines.maintenance.importing import tables as source_tables
from ursa_pipelines.maintenance.importing.plan import ImportPlan, ImportReport
from ursa_pipelines.maintenance.importing.recordings import Imported, recordings_in
from ursa_pipelines.maintenance.importing.rows import reveals_name
from ursa_pipelines.maintenance.importing.run import apply_import, plan_import
from ursa_pipelines.maintenance.participants_edits import apply_edit, plan_merge
from ursa_pipelines.recordings.identity import derive_participant_id
from ursa_pipelines.recordings.rows import RecordingRow

WRITER = Writer(by="tester@bench")
REC, OTHER_REC = "rec_20260520_195628_b1dd", "rec_20260521_195628_b1dd"
HASH, OTHER_HASH = "a" * 64, "b" * 64
START = datetime(2026, 5, 20, 19, 56, 28, 123456, tzinfo=UTC)
ARIA = derive_participant_id("Aria Lin")

_RECORDINGS = pa.schema(
    [
        ("recording_hash", pa.string()),
        ("participant_ids", pa.list_(pa.string())),
        ("start_time", pa.timestamp("us", "UTC")),
        ("duration", pa.duration("us")),
        ("ended_at", pa.timestamp("us", "UTC")),
        ("device_info", pa.string()),
        ("metadata", pa.string()),
        ("last_accessed_at", pa.timestamp("us", "UTC")),
        ("__pydantic_extra__", pa.string()),
    ]
)
_WINDOW = pa.struct([("start", pa.float64()), ("end", pa.float64())])
_MODALITIES = pa.schema(
    [
        ("recording_hash", pa.string()),
        ("modality", pa.string()),
        ("worker_id", pa.string()),
        ("format", pa.string()),
        ("storage_uri", pa.string()),
        ("raw_storage_uri", pa.string()),
        ("ingestion_status", pa.string()),
        ("domain_intervals", pa.list_(_WINDOW)),
        ("channel_spec", pa.string()),
        ("metadata", pa.string()),
        ("gain", pa.float64()),
    ]
)
_PARTICIPANTS = pa.schema(
    [("participant_id", pa.string()), ("enrolled_at", pa.timestamp("us", "UTC")), ("metadata", pa.string())]
)
_SCHEMAS = {"recordings": _RECORDINGS, "modalities": _MODALITIES, "participants": _PARTICIPANTS}


def _recording(recording_hash: str | None = HASH, rec_id: str | None = REC, **fields: Any) -> dict[str, Any]:
    return {
        "recording_hash": recording_hash,
        "participant_ids": ["aria-lin"],
        "start_time": START,
        "duration": timedelta(seconds=90),
        "ended_at": START + timedelta(seconds=90),
        "device_info": '{"rig": "green"}',
        "metadata": json.dumps({"manifest_recording_id": rec_id, "task": "=1+1"} if rec_id else {}),
        "last_accessed_at": START,
        "__pydantic_extra__": '{"lab": {"room": 4}}',
    } | fields


def _modality(lab: Lab, worker: str = "camera_a", recording_hash: str = HASH, rec_id: str = REC, **fields: Any) -> dict:
    family, _, worker_id = worker.partition("_")
    return {
        "recording_hash": recording_hash,
        "modality": family,
        "worker_id": worker_id or None,
        "format": "RAW_VIDEO",
        "raw_storage_uri": f"r2://{lab.raw.name}/recordings/{rec_id}/{worker}/",
        "ingestion_status": "raw",
        "domain_intervals": [{"start": -1.0, "end": 2.5}],
        "channel_spec": '{"channels": ["a"]}',
        "gain": float("nan"),
    } | fields


def _participant(participant_id: str = "aria-lin", name: str | None = "Aria Lin", **fields: Any) -> dict[str, Any]:
    metadata = json.dumps({"display_name": name, "age": 30} if name else {"age": 30})
    return {"participant_id": participant_id, "enrolled_at": START - timedelta(days=9), "metadata": metadata} | fields


def _write(directory: Path, form: str = "parquet", **tables: list[dict[str, Any]]) -> Path:
    directory.mkdir(exist_ok=True)
    for name, rows in tables.items():
        table = pa.Table.from_pylist(rows, schema=_SCHEMAS[name])
        if form == "lance":
            lance.write_dataset(table, str(directory / f"{name}.lance"))
        else:
            pq.write_table(table, directory / f"{name}.parquet")
    return directory


def _store(lab: Lab, *workers: str, rec_id: str = REC) -> None:
    for worker in workers or ("camera_a",):
        lab.raw.create(f"recordings/{rec_id}/{worker}/seg_0000.bin", worker.encode())


def _planned(lab: Lab, source: Path, **options: Any) -> ImportPlan:
    with plan_import(lab.data.catalog, lab.raw, source, **options) as plan:
        return plan


def _imported(lab: Lab, source: Path, **options: Any) -> tuple[ImportPlan, ImportReport]:
    with plan_import(lab.data.catalog, lab.raw, source, **options) as plan:
        return plan, apply_import(Catalog.open(lab.assets), plan, WRITER)


@contextmanager
def _unchanged(lab: Lab) -> Iterator[None]:
    before = lab.everything()
    yield
    assert lab.everything() == before


def _catalogued(lab: Lab) -> list[Any]:
    data = lab.interface(writes=False)
    return [data.list_recordings(), data.list_modalities(), data.list_participants()]


@pytest.fixture
def elsewhere(lab: Lab, store_state: Path, tmp_path: Path) -> Lab:
    """A second lab with an empty catalog, beside the first."""
    (tmp_path / "elsewhere").mkdir()
    return make_lab(store_state, tmp_path / "elsewhere")


@pytest.mark.parametrize("form", ["parquet", "csv", "lance"])
def test_an_export_gives_the_same_rows_in_an_empty_catalog(lab: Lab, elsewhere: Lab, tmp_path: Path, form: str):
    for day, name in enumerate(["Aria Lin", "aria  lin", "=Bo, \"the\" 'Li'"]):
        files = {"camera_a/s.mp4": b"v%d" % day, "mic/s.wav": b"a"}
        directory = write_recording(lab.nas, f"rec_2026052{day}_195628_b1dd", files, participant=name)
        lab.data.ingest(source_dir=directory)
    lab.data.register_recording(
        recording_hash="-by-hand",
        start_time=START,
        duration=timedelta(microseconds=1),
        metadata={"a": ["\n", "", None]},
    )
    for modality in ("=1+1", "'a_b", "eye_tracker", ""):
        fields = {"channel_spec": {"rate": 0.1}, "seq": None, "note": "", "storage_uri": ""}
        if modality:
            lab.data.register_modality(recording_hash="-by-hand", modality=modality, format="zarr", **fields)
    apply_edit(lab.data.catalog, plan_merge(lab.data.catalog, derive_participant_id("=Bo, \"the\" 'Li'"), ARIA), WRITER)
    export(lab.data.catalog, tmp_path / "out", format=form)  # type: ignore[arg-type]

    plan, report = _imported(elsewhere, tmp_path / "out", allow_missing_bytes=True)

    assert (plan.new, report.created, report.merged_participants, plan.left_out) == (4, 4, 1, ("events",))
    assert report.failed.count == plan.problems.count - plan.kinds["missing bytes"] == 0
    recordings, *others = _catalogued(lab)
    unproved = [{key: told for key, told in row.metadata.items() if key != "verification"} for row in recordings]
    recordings = [row.model_copy(update={"metadata": told}) for row, told in zip(recordings, unproved, strict=True)]
    assert _catalogued(elsewhere) == [recordings, *others]
    with _unchanged(elsewhere):
        again, report = _imported(elsewhere, tmp_path / "out", allow_missing_bytes=True)
    assert (again.equal, again.writes, again.is_clean, report) == (4, 0, True, ImportReport())


@pytest.mark.parametrize("form", ["parquet", "lance"])
def test_tables_of_the_other_kind_become_rows_with_all_that_they_told(lab: Lab, tmp_path: Path, form: str):
    _store(lab, "camera_a", "eeg_4559")
    old = _modality(lab, "eeg_4559", modality="eeg_4559", worker_id=None, format="raw_binary")
    source = _write(
        tmp_path / "in",
        form,
        recordings=[_recording()],
        modalities=[_modality(lab), old],
        participants=[_participant()],
    )

    plan, report = _imported(lab, source)

    assert (report.created, plan.old_names, plan.renamed, plan.is_clean) == (1, 1, 1, True)
    recordings, (camera, eeg), (participant,) = _catalogued(lab)
    (recording,) = recordings
    assert (recording.participant_ids, recording.start_time, recording.duration) == (
        [ARIA],
        START,
        timedelta(seconds=90),
    )
    assert recording.metadata == {"manifest_recording_id": REC, "task": "=1+1"}
    assert recording.model_extra == {"last_accessed_at": "2026-05-20T19:56:28.123456Z", "lab": {"room": 4}}
    assert lab.data.catalog.entry_of_rec_id(REC).recording == recording  # type: ignore[union-attr]
    assert (camera.modality, camera.worker_id, camera.format) == ("camera", "a", "raw_video")
    assert (eeg.modality, eeg.worker_id) == ("eeg", "4559")
    assert camera.model_extra == {
        "domain_intervals": [{"start": -1.0, "end": 2.5}],
        "channel_spec": {"channels": ["a"]},
        "gain": None,
    }
    assert (participant.participant_id, participant.enrolled_at) == (ARIA, START - timedelta(days=9))
    assert participant.metadata == {"display_name": "Aria Lin", "age": 30, "imported_id": "aria-lin"}
    with _unchanged(lab):
        again, _ = _imported(lab, source)
    assert (again.equal, again.writes, again.is_clean) == (1, 0, True)


def test_a_plan_writes_nothing(lab: Lab, tmp_path: Path):
    _store(lab)
    source = _write(tmp_path / "in", recordings=[_recording()], modalities=[_modality(lab)])

    with _unchanged(lab):
        plan = _planned(lab, source)

    assert (plan.new, plan.writes, plan.is_clean) == (1, 1, True)


def test_no_name_is_in_what_an_import_writes_but_participants(lab: Lab, tmp_path: Path):
    source = _write(tmp_path / "in", recordings=[_recording()], participants=[_participant()])
    _imported(lab, source)

    objects = [(info.key, lab.assets.get(info.key)[0].decode()) for info in lab.assets.list_objects("ursa/catalog/")]

    assert not any("aria" in key.casefold() for key, _ in objects)
    (entry,) = (json.loads(body) for key, body in objects if "/entries/" in key)
    assert "aria" in json.dumps(entry.pop("participants")).casefold()
    assert "aria" not in json.dumps(entry).casefold()


@pytest.mark.parametrize(
    ("participant_id", "name", "reveals"),
    [
        ("aria-lin", "Aria Lin", True),
        ("lin2", "Aria Lin", True),
        ("AriaL", "Aria Lin", True),
        ("bo-li", "Bo Li", True),
        ("zoe", "Zoë Q", True),
        ("li-na", "李娜", True),
        ("s007", "李娜", False),
        ("p01", "Aria Lin", False),
        (derive_participant_id("x"), "Aria Lin", False),
    ],
)
def test_an_id_that_tells_the_name_is_recognised(participant_id: str, name: str, reveals: bool):
    assert reveals_name(participant_id, name) is reveals


def test_ids_that_tell_nothing_are_kept(lab: Lab, tmp_path: Path):
    ids = ["p01", "unlisted"]
    rows = [_participant("p01")]
    source = _write(tmp_path / "in", recordings=[_recording(participant_ids=ids)], participants=rows)

    plan, _ = _imported(lab, source)

    recordings, _, participants = _catalogued(lab)
    assert (plan.renamed, recordings[0].participant_ids) == (0, ids)
    assert [row.enrolled_at for row in participants] == [START - timedelta(days=9), START]


def test_a_different_recording_is_a_conflict_and_replaced_only_if_told(lab: Lab, tmp_path: Path):
    _store(lab, "camera_a", "mic")
    modalities = [_modality(lab), _modality(lab, "mic")]
    _imported(lab, _write(tmp_path / "in", recordings=[_recording()], modalities=modalities))
    changed = [_modality(lab, format="mp4_index")]
    source = _write(tmp_path / "changed", recordings=[_recording(device_info="{}")], modalities=changed)

    with _unchanged(lab):
        plan, _ = _imported(lab, source)
    (conflict,) = plan.conflicts.shown
    assert (conflict.key, plan.new, plan.is_clean) == (HASH, 0, False)
    assert conflict.columns == ("device_info", "modalities[camera_a].format", "modalities[mic]")

    plan, report = _imported(lab, source, overwrite=True)
    assert (plan.replaced, plan.conflicts.count, report.changed) == (1, 0, 1)
    assert [row.format for row in lab.data.list_modalities()] == ["mp4_index"]
    with _unchanged(lab):
        assert _imported(lab, source, overwrite=True)[0].equal == 1


def test_what_was_written_since_the_plan_stays(lab: Lab, tmp_path: Path):
    source = _write(tmp_path / "in", recordings=[_recording(), _recording(OTHER_HASH, OTHER_REC)])
    with plan_import(lab.data.catalog, lab.raw, source) as plan:
        lab.data.register_recording(recording_hash=HASH, start_time=START, duration=timedelta(seconds=1))
        report = apply_import(lab.data.catalog, plan, WRITER)

    (failure,) = report.failed.shown
    assert (report.created, failure.key) == (1, HASH)
    assert "other values in device_info" in failure.reason
    assert lab.data.get_recording(HASH).duration == timedelta(seconds=1)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("r2://{raw}/recordings/rec_20260520_195628_b1dd/camera_b/", "no object lies below"),
        ("r2://{raw}/recordings/rec_20260520_195628_b1dd/camera/", "no object lies below"),
        ("r2://constellation-data/recordings/x/camera_a/", "in the bucket constellation-data, not in"),
        ("/mnt/nas/x", "no r2:// address"),
        ("r2://{raw}/", "no prefix of a recording"),
    ],
)
def test_no_row_comes_before_its_bytes(lab: Lab, tmp_path: Path, uri: str, reason: str):
    _store(lab)
    modalities = [_modality(lab), _modality(lab, "camera_b", raw_storage_uri=uri.format(raw=lab.raw.name))]
    source = _write(tmp_path / "in", recordings=[_recording()], modalities=modalities)

    with _unchanged(lab):
        plan, _ = _imported(lab, source)

    (problem,) = plan.problems.shown
    assert (plan.refused, plan.new, problem.kind, problem.row) == (1, 0, "missing bytes", 2)
    assert problem.file.endswith("modalities.parquet") and reason in problem.reason
    plan, report = _imported(lab, source, allow_missing_bytes=True)
    assert (plan.missing_bytes, plan.refused, report.created) == (1, 0, 1)


def test_the_raw_address_of_old_rows_is_looked_at_too(lab: Lab, tmp_path: Path):
    uri = f"r2://{lab.raw.name}/recordings/{REC}/camera_a/"
    row = _modality(lab, raw_storage_uri=None, storage_uri=uri)
    source = _write(tmp_path / "in", recordings=[_recording()], modalities=[row])

    assert _planned(lab, source).refused == 1
    _store(lab)
    assert _planned(lab, source).refused == 0


@pytest.mark.parametrize(
    ("table", "fields", "reason"),
    [
        ("recordings", {"recording_hash": None}, "recording_hash"),
        ("recordings", {"recording_hash": "a/b"}, "recording_hash"),
        ("recordings", {"start_time": None}, "start_time"),
        ("recordings", {"duration": None, "ended_at": None}, "duration: is missing"),
        ("recordings", {"duration": timedelta(seconds=-1)}, "duration"),
        ("recordings", {"participant_ids": ["a b"]}, "participant_ids"),
        ("recordings", {"metadata": "[1]"}, "metadata: is no JSON object"),
        ("recordings", {"metadata": "{"}, "metadata: is no JSON object"),
        ("recordings", {"metadata": '{"manifest_recording_id": 7}'}, "manifest_recording_id: is no text"),
        ("recordings", {"metadata": '{"a": "\\ud800"}'}, "unpaired surrogate"),
        ("recordings", {"metadata": '{"a": ' + "[" * 90 + "]" * 90 + "}"}, "nested more than 64"),
        ("recordings", {"metadata": "[" * 100_000}, "metadata: is no JSON object"),
        ("modalities", {"format": "avi"}, "format"),
        ("modalities", {"format": None}, "format"),
        ("modalities", {"ingestion_status": "new"}, "ingestion_status"),
        ("modalities", {"modality": ""}, "modality"),
    ],
)
def test_a_row_that_is_none_is_told_and_its_recording_not_imported(
    lab: Lab, tmp_path: Path, table: str, fields: dict, reason: str
):
    _store(lab)
    _store(lab, rec_id=OTHER_REC)
    recordings = [_recording(OTHER_HASH, OTHER_REC), _recording()]
    modalities = [_modality(lab, recording_hash=OTHER_HASH, rec_id=OTHER_REC), _modality(lab)]
    rows = {"recordings": recordings, "modalities": modalities}
    rows[table][1] |= fields
    source = _write(tmp_path / "in", **rows)

    plan, report = _imported(lab, source)

    problem = next(one for one in plan.problems.shown if one.kind == "invalid")
    assert (problem.row, Path(problem.file).stem) == (2, table)
    assert reason in problem.reason
    assert (plan.recordings, plan.refused, plan.is_clean, report.created) == (2, 1, False, 1)
    assert [row.recording_hash for row in lab.data.list_recordings()] == [OTHER_HASH]


def test_a_deep_document_that_is_accepted_can_be_read_back(lab: Lab, tmp_path: Path):
    metadata = '{"a": ' + "[" * 62 + "]" * 62 + "}"
    _imported(lab, _write(tmp_path / "in", recordings=[_recording(metadata=metadata)]))

    assert lab.interface(writes=False).get_recording(HASH).metadata == json.loads(metadata)


def test_keys_that_are_there_twice_are_refused_in_all_their_rows(lab: Lab, tmp_path: Path):
    _store(lab, "eeg_4559")
    _store(lab, rec_id=OTHER_REC)
    source = _write(
        tmp_path / "in",
        recordings=[_recording("c" * 64, None), _recording("c" * 64, None), _recording(), _recording(OTHER_HASH, None)],
        modalities=[
            _modality(lab, "eeg_4559"),
            _modality(lab, "eeg_4559", modality="eeg_4559", worker_id=None),
            _modality(lab, recording_hash="d" * 64),
        ],
        participants=[_participant("x1", None), _participant("x1", None)],
    )

    plan, report = _imported(lab, source)

    assert plan.kinds == {"duplicate": 3, "orphan": 1, "invalid": 1}
    assert (plan.recordings, plan.refused, plan.new, report.created) == (3, 2, 1, 1)


def test_rows_without_a_key_are_counted_one_by_one(lab: Lab, tmp_path: Path):
    recordings = [_recording(None), _recording(None), _recording("")]
    modalities = [_modality(lab, recording_hash=None)]  # type: ignore[arg-type]

    plan = _planned(lab, _write(tmp_path / "in", recordings=recordings, modalities=modalities))

    assert (plan.refused, plan.kinds) == (3, {"invalid": 3, "orphan": 1})
    assert [one.row for one in plan.problems.shown if one.kind == "invalid"] == [3, 1, 2]


def test_recordings_of_a_participant_whose_row_is_refused_are_refused(lab: Lab, tmp_path: Path):
    rows = [_participant("p01", "A\nB")]
    source = _write(tmp_path / "in", recordings=[_recording(participant_ids=["p01"])], participants=rows)

    plan = _planned(lab, source)

    assert (plan.refused, plan.kinds) == (1, {"invalid": 2})
    assert "A\nB" not in str(plan)


def test_two_recordings_of_one_rec_id_are_both_refused(lab: Lab, tmp_path: Path):
    recordings = [_recording(), _recording(OTHER_HASH), _recording("c" * 64, OTHER_REC)]
    source = _write(tmp_path / "in", recordings=recordings)

    plan, report = _imported(lab, source)

    assert (plan.kinds, plan.new, plan.refused, report.created) == ({"rec_id": 2}, 1, 2, 1)


def test_a_rec_id_that_the_catalog_gives_to_another_is_a_conflict(lab: Lab, tmp_path: Path):
    _imported(lab, _write(tmp_path / "in", recordings=[_recording()]))
    source = _write(tmp_path / "other", recordings=[_recording(OTHER_HASH), _recording(HASH, OTHER_REC)])

    with _unchanged(lab):
        plan, _ = _imported(lab, source, overwrite=True)

    assert {one.key: one.columns[0] for one in plan.conflicts.shown} == {OTHER_HASH: "rec_id", HASH: "rec_id"}


def test_a_recording_without_a_valid_rec_id_claims_none(lab: Lab, tmp_path: Path):
    recordings = [_recording(HASH, None), _recording(OTHER_HASH, "session-7")]

    plan, report = _imported(lab, _write(tmp_path / "in", recordings=recordings))

    assert (plan.without_rec_id, report.created) == (2, 2)
    assert not list(lab.assets.list_objects("ursa/catalog/rec_ids/"))


def test_a_participant_called_otherwise_in_the_catalog_is_a_conflict(lab: Lab, tmp_path: Path):
    recording = _recording(participant_ids=["p01"])
    _imported(lab, _write(tmp_path / "in", recordings=[recording], participants=[_participant("p01")]))
    later = _recording(OTHER_HASH, OTHER_REC, participant_ids=["p01"], start_time=START + timedelta(days=1))
    rows = [_participant("p01", "Bo Li"), _participant("p02")]
    source = _write(tmp_path / "more", recordings=[recording, later], participants=rows)

    plan, report = _imported(lab, source)

    (conflict,) = plan.participant_conflicts.shown
    assert (conflict.key, conflict.columns) == ("p01", ("metadata.display_name",))
    assert (plan.participants_without_recording, plan.equal, report.created) == (1, 1, 1)
    assert lab.data.get_participant("p01").metadata["display_name"] == "Aria Lin"  # type: ignore[index]


def test_many_files_of_a_partitioned_table_are_read_with_what_their_paths_tell(lab: Lab, tmp_path: Path):
    directory = tmp_path / "in" / "recordings"
    for number, month in enumerate(["2026-05", "2026-06"]):
        target = directory / f"started_month={month}" / f"site=lab%20{number}"
        target.mkdir(parents=True)
        schema = _RECORDINGS if number else _RECORDINGS.remove(8).append(pa.field("extra_1", pa.int8()))
        row = _recording(f"{number}" * 64, None) | {"extra_1": 7}
        pq.write_table(pa.Table.from_pylist([row], schema=schema), target / "part-0.parquet")
    (directory / "_SUCCESS").touch()

    _, report = _imported(lab, tmp_path / "in")

    first, second = (row.model_extra for row in lab.data.list_recordings())
    assert report.created == 2
    accessed = {"last_accessed_at": "2026-05-20T19:56:28.123456Z"}
    assert first == {"extra_1": 7, "site": "lab 0", **accessed}
    assert second == {"lab": {"room": 4}, "site": "lab 1", **accessed}


def test_tables_in_any_order_come_together_in_pieces(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(source_tables, "_ROWS_OF_A_BUCKET", 10)
    monkeypatch.setattr(source_tables, "_BATCH_ROWS", 7)
    hashes = [f"{number:02x}" * 32 for number in range(40)]
    recordings = [_recording(one, None) for one in hashes]
    workers = ("camera_a", "camera_b")
    modalities = [_modality(lab, worker, one, raw_storage_uri=None) for worker in workers for one in hashes[::-1]]
    source = _write(tmp_path / "in", recordings=recordings, modalities=modalities)
    told: list[tuple] = []

    with plan_import(lab.data.catalog, lab.raw, source, progress=lambda *one: told.append(one)) as plan:
        assert len(list(plan.staging.path.glob("modalities-*.arrow"))) == 13
        report = apply_import(lab.data.catalog, plan, WRITER)
        staged = plan.staging.path

    assert (report.created, plan.new, ("checking", 40, 40) in told) == (40, 40, True)
    assert {len(lab.data.list_modalities({"recording_hash": one})) for one in hashes} == {2}
    assert not staged.exists()


def test_a_long_tail_is_folded_in_the_end(lab: Lab, tmp_path: Path):
    recordings = [_recording(f"h{number}", None) for number in range(257)]

    _, report = _imported(lab, _write(tmp_path / "in", recordings=recordings))

    assert (report.created, report.folded, report.fold_problem) == (257, 257, "")
    assert not list(lab.assets.list_objects("ursa/catalog/tail/"))
    assert len(lab.interface(writes=False).list_recordings()) == 257


def test_a_mapping_names_tables_wherever_they_are(lab: Lab, tmp_path: Path):
    _write(tmp_path / "in", recordings=[_recording()])
    path = (tmp_path / "in" / "recordings.parquet").rename(tmp_path / "in" / "sessions-2026.parquet")

    assert _planned(lab, {"recordings": path}).new == 1  # type: ignore[arg-type]


def test_a_source_that_cannot_be_read_is_refused_with_its_place(lab: Lab, tmp_path: Path):
    source = _write(tmp_path / "in", recordings=[_recording()])
    broken = tmp_path / "in" / "modalities.parquet"
    delta = tmp_path / "delta" / "recordings" / "_delta_log"
    delta.mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    _write(tmp_path / "partial", participants=[_participant()])
    _write(tmp_path / "keyless", recordings=[_recording()])
    pq.write_table(pa.table({"hash": ["a"]}), tmp_path / "keyless" / "recordings.parquet")

    for content, reason in ((b"PAR1 no", "cannot be read"), (b"", "cannot be read")):
        broken.write_bytes(content)
        with pytest.raises(UrsaError, match=rf"modalities\.parquet: the table {reason}"):
            _planned(lab, source)
    (tmp_path / "in" / "modalities").mkdir()
    for directory, reason in (
        ("in", "modalities is there twice"),
        ("delta", "Delta table"),
        ("empty", "no tables here"),
        ("nowhere", "no such directory"),
        ("partial", "no table of recordings"),
        ("keyless", "has no column recording_hash"),
    ):
        with pytest.raises(UrsaError, match=reason):
            _planned(lab, tmp_path / directory)


def test_rows_of_an_import_survive_their_entry(lab: Lab, tmp_path: Path):
    _store(lab)
    tables = {"recordings": [_recording()], "modalities": [_modality(lab)], "participants": [_participant()]}
    with plan_import(lab.data.catalog, lab.raw, _write(tmp_path / "in", **tables)) as plan:
        staging = plan.staging
        (planned,) = recordings_in(staging.path, staging.tables, 0, staging.participants)
        apply_import(lab.data.catalog, plan, WRITER)

    assert isinstance(planned, Imported)
    assert lab.data.catalog.entry(HASH).rows == planned.rows


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("participants.csv", b"participant_id,a,b\np1,2,Lin, Aria Secretname\n", "Expected 3 columns, got 4"),
        ("recordings.csv", b"recording_hash\n\x1b[31mAria Secretname,\x00\x07\n", "Expected 1 columns, got 2"),
        ("recordings.csv", b"recording_hash,a\nSecretname,\xff\x1b\n", "invalid UTF8 data"),
    ],
)
def test_no_cell_is_in_the_error_of_a_table_that_cannot_be_read(
    lab: Lab, tmp_path: Path, name: str, content: bytes, reason: str
):
    source = _write(tmp_path / "in")
    if name != "recordings.csv":
        _write(source, recordings=[_recording()])
    (source / name).write_bytes(content)

    with pytest.raises(UrsaError, match=rf"{name}: the table cannot be read: .*{reason}") as caught:
        _planned(lab, source)

    assert "Secretname" not in str(caught.value) and str(caught.value).isprintable()


def _of_bytes(*values: bytes) -> pa.Array:
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())


@pytest.mark.parametrize(
    ("table", "column", "values"),
    [
        ("recordings", "start_time", pa.array([2**62], pa.timestamp("us", "UTC"))),
        ("recordings", "start_time", pa.array([2**60], pa.timestamp("ms", "UTC"))),
        ("recordings", "start_time", pa.array([0], pa.timestamp("us", "No/Where"))),
        ("recordings", "seen", pa.array([[2**62]], pa.list_(pa.timestamp("us")))),
        ("recordings", "metadata", _of_bytes(b"ab\xff")),
        ("recordings", "recording_hash", _of_bytes(b"ab\xff")),
        ("participants", "enrolled_at", pa.array([2**62], pa.timestamp("us", "UTC"))),
        ("participants", "participant_id", _of_bytes(b"ab\xff")),
    ],
)
def test_a_cell_that_python_cannot_hold_is_told_with_its_file(
    lab: Lab, tmp_path: Path, table: str, column: str, values: pa.Array
):
    source = _write(tmp_path / "in", recordings=[_recording()], participants=[_participant()])
    path = source / f"{table}.parquet"
    read = pq.read_table(path)
    kept = read.drop_columns([column]) if column in read.column_names else read
    pq.write_table(kept.append_column(column, values), path)

    with pytest.raises(UrsaError, match=rf"{table}\.parquet: the table cannot be read"):
        _planned(lab, source)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"duration_us": "9" * 26}, "duration_us: is no whole number, or too large"),
        ({"duration_us": "Secretname"}, "duration_us: is no whole number, or too large"),
        ({"participant_ids": "[" * 100_000}, "participant_ids: is no list of ids"),
        ({"start_time": "0001-01-01T00:00:00+05:00"}, "start_time: "),
    ],
)
def test_a_cell_beyond_all_bounds_refuses_its_row_only(lab: Lab, tmp_path: Path, fields: dict, reason: str):
    row = {"recording_hash": OTHER_HASH, "start_time": START.isoformat(), "duration_us": "5", "participant_ids": "[]"}
    source = tmp_path / "in"
    source.mkdir()
    table = pa.Table.from_pylist([row, row | {"recording_hash": HASH} | fields])
    arrow_csv.write_csv(table, source / "recordings.csv")

    plan, report = _imported(lab, source)

    (problem,) = plan.problems.shown
    assert (problem.row, plan.refused, report.created, report.failed.count) == (2, 1, 1, 0)
    assert reason in problem.reason and "Secretname" not in problem.reason


def test_a_participant_beyond_all_bounds_is_refused(lab: Lab, tmp_path: Path):
    source = _write(tmp_path / "in", recordings=[_recording()])
    rows = "participant_id,enrolled_at\np1,0001-01-01T00:00:00+05:00\n"
    (source / "participants.csv").write_text(rows)

    plan = _planned(lab, source)

    assert (plan.kinds, plan.new) == ({"invalid": 1}, 1)


def test_an_import_claims_no_proof_that_nobody_made_here(lab: Lab, tmp_path: Path):
    metadata = json.dumps({"manifest_recording_id": REC, "verification": "sha256"})
    source = _write(tmp_path / "in", recordings=[_recording(metadata=metadata)])

    _imported(lab, source)

    assert lab.data.get_recording(HASH).metadata == {"manifest_recording_id": REC}
    assert _planned(lab, source).equal == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [("recordings.xlsx", r"ends in none of \.parquet, \.csv, \.lance"), ("x" * 300, "File name too long")]
    + [(f"{'x' * 300}{suffix}", "cannot be read") for suffix in (".parquet", ".csv", ".lance")],
)
def test_a_path_that_is_no_table_is_refused(lab: Lab, tmp_path: Path, name: str, reason: str):
    (tmp_path / "recordings.xlsx").touch()

    with pytest.raises(UrsaError, match=reason):
        _planned(lab, tmp_path / name)


def test_a_source_without_modalities_leaves_those_of_the_catalog(lab: Lab, tmp_path: Path):
    recording, only = _exported_and_changed(lab, tmp_path)

    with plan_import(lab.data.catalog, lab.raw, only, overwrite=True) as plan:
        report = apply_import(_writable(lab), plan, WRITER)

    assert report.changed == 1
    entry = lab.interface().catalog.entry(recording.recording_hash)
    assert entry.recording.duration == timedelta(hours=1)
    assert [row.modality for row in entry.modalities] == ["mic"]
    assert [(row.metadata or {}).get("display_name") for row in entry.participants] == ["Aria Lin"]


def test_what_was_changed_since_the_import_was_planned_is_not_replaced(lab: Lab, tmp_path: Path):
    recording, only = _exported_and_changed(lab, tmp_path)

    with plan_import(lab.data.catalog, lab.raw, only, overwrite=True) as plan:
        lab.data.register_recording(**recording.model_dump() | {"duration": timedelta(hours=3)}, on_conflict="extend")
        report = apply_import(_writable(lab), plan, WRITER)

    assert (report.changed, report.failed.count) == (0, 1)
    assert lab.interface().get_recording(recording.recording_hash).duration == timedelta(hours=3)


def _exported_and_changed(lab: Lab, tmp_path: Path) -> tuple[RecordingRow, Path]:
    """A recording, and an export of its row alone that says it was an hour long."""
    directory = write_recording(lab.nas, "rec_20260520_195628_b1dd", {"mic/a.wav": b"audio"}, participant="Aria Lin")
    recording = lab.data.ingest(source_dir=directory).recording
    assert recording is not None
    (exported,) = export(lab.data.catalog, tmp_path / "one", format="parquet", tables=["recordings"])
    table = pq.read_table(exported.path)
    column = table.schema.get_field_index("duration_us")
    pq.write_table(table.set_column(column, "duration_us", pa.array([3_600_000_000])), exported.path)
    return recording, exported.path


def _writable(lab: Lab) -> Catalog:
    return lab.data.ingest_context(raw_role="raw_ro").catalog

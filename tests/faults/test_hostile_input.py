"""Directory trees and stored documents as damaged or hostile as they come (faults 17 to 48 and 66).

Each is refused with a typed error and nothing is written, or, where a document is only evidence, passed over. With the
manifests of `tests/recordings/test_hostile_manifests.py` they are counted for the report. The number before a case is
its number in the list of faults (DESIGN section 11).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.bits import Kept, Stage
from tests.faults.figures import record
from tests.faults.fuzz import Opens
from tests.faults.hostile_documents import DOCUMENTS, EVIDENCE, PERSON, REFUSED, Document
from tests.faults.hostile_trees import FILES, REC, TREES, Tree
from tests.lab import Lab, make_lab
from tests.recordings.test_hostile_manifests import HOSTILE
from tests.recordings_on_disk import write_recording
from tests.snapshot import snapshot
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.claims import claim_key
from ursa_pipelines.catalog.edits import edit_key, read_edits, write_edit
from ursa_pipelines.catalog.entries import entry_key
from ursa_pipelines.catalog.pointer import DEFAULT_PREFIX as PREFIX
from ursa_pipelines.catalog.tables.fold import repair
from ursa_pipelines.errors import (
    ManifestInvalid,
    RecordingRefused,
    UrsaError,
)
from ursa_pipelines.objects.keys import (
    ACTIVE_POINTER,
    BUCKET_IDENTITY,
    marker_key,
    raw_key,
    recording_prefix,
    upload_record_key,
)
from ursa_pipelines.objects.unfinished import UnfinishedUploads
from ursa_pipelines.recordings.inventory import open_source, read_source, take_inventory
from ursa_pipelines.recordings.layout import refusal_of_path
from ursa_pipelines.recordings.manifest import parse_manifest


@pytest.fixture(scope="module")
def opens() -> Opens:
    return Opens()


@pytest.fixture(scope="module")
def empty_lab(store_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(store_state / "dagster"))
        yield make_lab(store_state, tmp_path_factory.mktemp("trees"))


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.name)
def test_a_hostile_tree_is_refused_and_nothing_is_written(empty_lab: Lab, tmp_path: Path, tree: Tree):
    directory, outside = write_recording(tmp_path / "nas", REC, FILES, participant="Aria Lin"), tmp_path / "outside"
    outside.mkdir()
    try:
        tree.build(directory, outside)
    except OSError as error:
        pytest.skip(f"this file system has no such thing: {error}")
    before, source = empty_lab.everything(), snapshot(tmp_path)

    with pytest.raises(tree.error) as caught:
        empty_lab.data.ingest(source_dir=directory)

    assert isinstance(caught.value, UrsaError)
    assert str(caught.value).isprintable()
    assert "Aria" not in str(caught.value)
    assert len(str(caught.value)) < 1500
    assert empty_lab.everything() == before
    assert snapshot(tmp_path) == source


@pytest.fixture(scope="module")
def stage(store_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(store_state / "dagster"))
        lab = make_lab(store_state, tmp_path_factory.mktemp("documents"))
        directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")
        result = lab.data.ingest(source_dir=directory)
        assert result.recording is not None
        # With an edit and folded tables.
        lab.data.fold()

        def renamed(edit: Any) -> Any:
            return edit.model_copy(update={"display_name": "Somebody"})

        write_edit(lab.assets, PREFIX, PERSON, renamed, op="rename", writer=lab.data.writer)
        lab.data.fold()
        yield Stage(lab, directory, result.recording.recording_hash, (Kept(lab.raw), Kept(lab.assets)))


def _place(stage: Stage, kind: str) -> tuple[Any, str]:
    lab = stage.lab
    return {
        "pointer": (lab.assets, ACTIVE_POINTER),
        "catalog": (lab.assets, f"{PREFIX}/CATALOG.json"),
        "entry": (lab.assets, entry_key(PREFIX, stage.recording_hash)),
        "claim": (lab.assets, claim_key(PREFIX, REC)),
        "edit": (lab.assets, edit_key(PREFIX, PERSON)),
        "head": (lab.assets, f"{PREFIX}/HEAD.json"),
        "mark": (lab.assets, f"{PREFIX}/tail/_batch.0123456789abcdef"),
        "raw_identity": (lab.raw, BUCKET_IDENTITY),
        "assets_identity": (lab.assets, BUCKET_IDENTITY),
        "manifest": (lab.raw, raw_key(REC, "manifest.json")),
        "node_manifest": (lab.raw, raw_key(REC, "_node_manifests/green.json")),
        "participant": (lab.raw, raw_key(REC, "participant.txt")),
        "marker": (lab.raw, marker_key(REC)),
        "upload": (lab.assets, upload_record_key(raw_key(REC, "mic/large"))),
    }[kind]


def _read_all(stage: Stage) -> None:
    catalog = Catalog.open(stage.lab.assets)
    for table in ("recordings", "modalities", "participants"):
        list(catalog.scan(table))
    repair(stage.lab.assets, catalog.prefix, by="test")


def _act(stage: Stage, kind: str) -> object:
    match kind:
        case "edit":
            return read_edits(stage.lab.assets, PREFIX)
        case "head" | "mark":
            return _read_all(stage)
        case "raw_identity" | "assets_identity":
            return stage.lab.interface().ingest(source_dir=stage.directory)
        case "participant":
            return stage.lab.data.ingest_from_r2(rec_id=REC)
        case _:
            return stage.lab.data.ingest(source_dir=stage.directory)


def _put(stage: Stage, one: Document) -> None:
    bucket, key = _place(stage, one.kind)
    raw = one.raw.replace(b"{hash}", stage.recording_hash.encode())
    bucket.multipart_client.put_object(Bucket=bucket.name, Key=key, Body=bytearray(raw))


def _id(one: Document) -> str:
    return f"{one.kind}_{one.name}"


@pytest.mark.parametrize("document", [one for one in DOCUMENTS if one.kind in REFUSED], ids=_id)
def test_a_hostile_document_is_refused_and_nothing_is_written(stage: Stage, document: Document):
    _put(stage, document)
    before = stage.lab.everything()
    try:
        with pytest.raises(UrsaError) as caught:
            _act(stage, document.kind)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 2000
        assert stage.lab.everything() == before
    finally:
        stage.restore()


@pytest.mark.parametrize("document", [one for one in DOCUMENTS if one.kind in EVIDENCE], ids=_id)
def test_a_hostile_document_that_is_only_evidence_counts_for_nothing(stage: Stage, document: Document):
    _put(stage, document)
    lab, segments = stage.lab, stage.lab.objects(REC)
    try:
        if document.kind == "upload":
            assert UnfinishedUploads(lab.raw, lab.assets).survey() == []
        assert lab.data.ingest(source_dir=stage.directory).outcome == "unchanged"
        assert lab.objects(REC) == segments
        assert lab.data.verify(REC, deep=True).ok
    finally:
        stage.restore()


# Whatever a tree or a manifest is called


NAME = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12) | st.sampled_from(
    ["mic", "manifest.json", "_node_manifests", "..x", "@eaDir", "._x", "a.part", "C:", "\u202e", "e\u0301", "K", "k"]
)


@given(st.lists(st.lists(NAME, min_size=1, max_size=4), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_any_tree_that_is_accepted_stays_below_the_recording(
    opens: Opens, tmp_path_factory: pytest.TempPathFactory, paths: list[list[str]]
):
    directory = tmp_path_factory.mktemp("tree") / REC
    directory.mkdir()
    for parts in paths:
        target = directory.joinpath(*parts)
        if ".." in parts or "." in parts:
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"x")
        except OSError:
            continue
    opens.seen.clear()
    try:
        with opens:
            inventory = take_inventory(directory)
            for file in inventory.files.values():
                with open_source(inventory, file) as stream:
                    assert stream.read() == b"x"
            for file in filter(None, (inventory.manifest, inventory.participant, *inventory.node_manifests)):
                read_source(inventory, file, limit=100)
    except (RecordingRefused, UrsaError):
        return
    finally:
        # By descriptor: the recording itself by its path, all else by one name below what is open.
        assert all(one == repr(directory) or one == repr(str(directory)) or "/" not in one for one in opens.seen)
    keys = [raw_key(REC, path) for path in inventory.files]
    assert all(key.startswith(recording_prefix(REC)) and os.path.normpath(key) == key for key in keys)
    assert all(len(key.encode()) <= 1024 for key in keys)


@given(st.lists(st.lists(NAME | st.sampled_from(["", ".", ".."]), min_size=1, max_size=4).map("/".join), max_size=4))
@settings(max_examples=200, deadline=None)
def test_any_manifest_that_is_accepted_leads_only_below_the_recording(paths: list[str]):
    document = {"recording_id": REC, "files": [{"path": path, "size_bytes": 1} for path in paths]}
    try:
        manifest = parse_manifest(json.dumps(document).encode(), rec_id=REC, place="manifest.json")
    except ManifestInvalid:
        return
    for file in manifest.files:
        key = raw_key(REC, file.path)
        assert key.startswith(recording_prefix(REC))
        assert os.path.normpath(key) == key
        assert refusal_of_path(file.path, rec_id=REC) is None


def test_the_hostile_input_is_counted():
    """Not a proof of anything: it puts the numbers into the report and keeps two cases from having one name."""
    names = [case.name for case in HOSTILE], [one.name for one in TREES], [_id(one) for one in DOCUMENTS]
    assert all(len(set(one)) == len(one) for one in names)
    manifests, trees, documents = map(len, names)
    record("hostile input", manifests=manifests, trees=trees, documents=documents, named=manifests + trees + documents)

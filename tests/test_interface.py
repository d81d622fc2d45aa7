"""The Python door: which roles a call needs, which buckets it may write to, and what importing it costs."""

from __future__ import annotations

import doctest
import json
import pickle
import secrets
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

import ursa_pipelines
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import DataInterface
from ursa_pipelines.errors import BucketMismatch, ProfileInvalid, RoleNotEnabled, WritesNotEnabled
from ursa_pipelines.objects.keys import ACTIVE_POINTER, BUCKET_IDENTITY

REC, HASH = "rec_20260520_195628_b1dd", "a" * 64
START = datetime(2026, 5, 20, 19, 56, 28, tzinfo=UTC)
FILES = {"camera_a/seg_0000.mp4": b"video", "mic/seg_0000.wav": b"audio"}

NEED_RAW_RW: dict[str, Callable[[DataInterface, Path], object]] = {
    "ingest": lambda data, directory: data.ingest(source_dir=directory),
    "ingest_many": lambda data, directory: data.ingest_many([directory]),
    "reconstruct_manifest": lambda data, directory: data.reconstruct_manifest(rec_id=REC),
}
NEED_ASSETS_RW: dict[str, Callable[[DataInterface, Path], object]] = {
    "ingest_from_r2": lambda data, directory: data.ingest_from_r2(rec_id=REC),
    "register_recording": lambda data, directory: data.register_recording(
        recording_hash=HASH, start_time=START, duration=timedelta(minutes=1)
    ),
    "register_modality": lambda data, directory: data.register_modality(
        recording_hash=HASH, modality="camera", format="raw_video"
    ),
}


def test_nothing_is_written_before_writes_are_enabled(lab: Lab):
    data = lab.interface(writes=False)
    directory = write_recording(lab.nas, REC, FILES)
    before = lab.everything()

    for name, call in (NEED_RAW_RW | NEED_ASSETS_RW).items():
        with pytest.raises(WritesNotEnabled, match="enable_writes") as caught:
            call(data, directory)
        assert type(caught.value) is WritesNotEnabled, name

    assert data.query() == []
    assert data.plan(directory).rec_id == REC
    assert lab.everything() == before


def test_bare_enable_writes_allows_rows_but_no_raw_bytes(lab: Lab):
    data = lab.interface(writes=False)
    directory = write_recording(lab.nas, REC, FILES)
    data.enable_writes()
    before = lab.everything()

    for call in NEED_RAW_RW.values():
        with pytest.raises(RoleNotEnabled, match='roles=\\("assets_rw", "raw_rw"\\)'):
            call(data, directory)
    assert lab.everything() == before

    lab.data.ingest(source_dir=directory)
    assert data.ingest_from_r2(rec_id=REC).outcome == "unchanged"
    for name in ("register_recording", "register_modality"):
        NEED_ASSETS_RW[name](data, directory)
    assert {row.recording_hash for row in data.list_recordings()} >= {HASH}


def test_raw_rw_alone_allows_no_rows(lab: Lab):
    data = lab.interface(writes=False)
    directory = write_recording(lab.nas, REC, FILES)
    data.enable_writes(roles=("raw_rw",))
    before = lab.everything()

    for call in (*NEED_ASSETS_RW.values(), NEED_RAW_RW["ingest"]):
        with pytest.raises(RoleNotEnabled, match="assets_rw"):
            call(data, directory)

    assert lab.everything() == before


def test_only_write_roles_can_be_enabled(lab: Lab):
    data = lab.interface(writes=False)

    for roles in (("assets_ro",), ("admin",), ("assets_rw", "raw")):
        with pytest.raises(ValueError, match="assets_rw and raw_rw"):
            data.enable_writes(roles=roles)  # type: ignore[arg-type]

    with pytest.raises(WritesNotEnabled):
        NEED_ASSETS_RW["register_recording"](data, lab.nas)


@pytest.mark.parametrize("role", ["assets_rw", "raw_rw"])
def test_a_bucket_that_says_it_is_another_is_not_written_to(lab: Lab, role: Any):
    bucket, purpose = (lab.assets, "assets") if role == "assets_rw" else (lab.raw, "raw")
    directory = write_recording(lab.nas, REC, FILES)
    _, info = bucket.get(BUCKET_IDENTITY)
    for content in (
        json.dumps({"family": "production", "purpose": purpose}).encode(),
        json.dumps({"family": "local", "purpose": "elsewhere"}).encode(),
        json.dumps({"family": "local"}).encode(),
        b"[]",
        b"",
    ):
        info = bucket.replace(BUCKET_IDENTITY, content, info.etag)
        before = lab.everything()
        data = lab.interface(writes=False)
        for roles in ((role,), ("assets_rw", "raw_rw")):
            with pytest.raises(BucketMismatch, match=f"{bucket.name}/{BUCKET_IDENTITY}"):
                data.enable_writes(roles=roles)
        with pytest.raises(WritesNotEnabled):
            data.ingest(source_dir=directory)
        assert lab.everything() == before


def test_swapped_buckets_are_noticed(lab: Lab, tmp_path: Path):
    swapped = _config(lab, tmp_path, buckets={"raw": lab.assets.name, "assets": lab.raw.name})
    before = lab.everything()

    with pytest.raises(BucketMismatch, match="assets"):
        DataInterface(config_path=swapped).enable_writes()

    assert lab.everything() == before


def test_only_the_local_family_marks_a_bucket_by_itself(lab: Lab, tmp_path: Path):
    names = {"raw": f"raw-{secrets.token_hex(6)}", "assets": f"assets-{secrets.token_hex(6)}"}
    data = DataInterface(config_path=_config(lab, tmp_path, family="test", buckets=names))

    with pytest.raises(BucketMismatch, match="ursa catalog init"):
        data.enable_writes()

    client = lab.raw.multipart_client
    assert [client.list_objects_v2(Bucket=name)["KeyCount"] for name in names.values()] == [0, 0]


def test_reading_makes_no_catalog_in_a_bucket_of_another_family(lab: Lab):
    _, info = lab.assets.get(BUCKET_IDENTITY)
    lab.assets.replace(BUCKET_IDENTITY, b'{"family": "production", "purpose": "assets"}', info.etag)
    lab.assets.multipart_client.delete_object(Bucket=lab.assets.name, Key=ACTIVE_POINTER)
    before = lab.everything()

    with pytest.raises(BucketMismatch):
        lab.interface(writes=False).list_recordings()

    assert lab.everything() == before


def test_a_config_file_overrides_fields_of_the_profile_and_the_rest_stays(tmp_path: Path):
    config = tmp_path / "override.yaml"
    config.write_text(yaml.safe_dump({"buckets": {"raw": "another-raw"}, "settings": {"quiet_period": 7}}))

    plain, data = DataInterface(profile="r2"), DataInterface(profile="r2", config_path=str(config))

    assert data.profile.buckets.raw == "another-raw"
    assert data.profile.buckets.assets == plain.profile.buckets.assets
    assert data.profile.settings == plain.profile.settings.model_copy(update={"quiet_period": 7})
    assert data.profile.credentials == plain.profile.credentials


def test_a_profile_is_named_or_given_and_never_taken_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("URSA_PROFILE", "r2")
    monkeypatch.setenv("URSA_CONFIG", str(tmp_path / "profile.yaml"))

    for arguments in ({}, {"profile": "production"}, {"config_path": tmp_path / "absent.yaml"}):
        with pytest.raises(ProfileInvalid):
            DataInterface(**arguments)  # type: ignore[arg-type]


def test_an_interface_shows_its_profile_and_is_not_pickled(lab: Lab, store_state: Path):
    assert lab.data.list_recordings() == []

    assert repr(lab.data).startswith("DataInterface(profile: lab, family: local, ")
    access = json.loads((store_state / "store/server.json").read_bytes())
    shown = repr(vars(lab.data))
    assert access["secret_access_key"] not in shown
    assert access["access_key_id"] not in shown
    with pytest.raises(TypeError):
        pickle.dumps(lab.data)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (
            "import ursa_pipelines",
            ["dagster", "boto3", "botocore", "pyarrow", "pandas", "deltalake", "obstore", "pydantic"],
        ),
        (
            "from ursa_pipelines import DataInterface",
            ["dagster", "boto3", "botocore", "pyarrow", "pandas", "deltalake"],
        ),
        ("import ursa_pipelines.errors", ["dagster", "boto3", "pyarrow", "pydantic"]),
    ],
)
def test_importing_loads_nothing_heavy(statement: str, absent: list[str]):
    code = f"import sys; {statement}; print([name for name in {absent!r} if name in sys.modules])"

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )

    assert done.stdout == "[]\n"


def test_every_public_name_is_there_and_says_what_it_is():
    for name in ursa_pipelines.__all__:
        assert getattr(ursa_pipelines, name).__doc__, name
    for name, member in vars(DataInterface).items():
        if not name.startswith("_"):
            assert member.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'Ursa'"):
        ursa_pipelines.Ursa  # noqa: B018


def test_the_examples_in_the_docstrings_run(lab: Lab, tmp_path: Path):
    rec_dir = write_recording(
        lab.nas, f"{REC}{secrets.token_hex(4)}", FILES | {"notes/a.jsonl": secrets.token_bytes(8)}
    )
    globs = {"DataInterface": DataInterface, "rec_dir": rec_dir, "dest": tmp_path / "downloads"}
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder().find(DataInterface, "DataInterface", globs=globs):
        runner.run(example)

    assert runner.tries > 0
    assert runner.failures == 0


def _config(lab: Lab, directory: Path, **fields: Any) -> Path:
    config = directory / "changed.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(lab.config.read_text()) | fields))
    return config

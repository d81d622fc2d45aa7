"""What `ursa doctor` looks at: each thing that can be wrong, the check that says so, and what it says to do."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from tests.faults.detour import Detour
from tests.faults.mounts import Hangs, mounted
from tests.faults.proxy import Answer, Fault
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.catalog.tail import mark
from ursa_pipelines.maintenance.checkup import catalog, sources
from ursa_pipelines.maintenance.checkup.check import Check, Finding, Look, run_looks
from ursa_pipelines.maintenance.checkup.examination import examine
from ursa_pipelines.maintenance.checkup.host import look_at_disk
from ursa_pipelines.objects.keys import ACTIVE_POINTER, BUCKET_IDENTITY
from ursa_pipelines.objects.parts import create_upload
from ursa_pipelines.objects.unfinished import UnfinishedUploads
from ursa_pipelines.profiles import load_profile

REC_ID = "rec_20260520_195621_b1dd"
FILES = {"camera_a/seg_0000.mp4": b"video" * 100}
KEY = f"recordings/{REC_ID}/camera_a/seg_0000.mp4"
SECRET = "s3cr3t-f3b0c44298fc1c149afbf4c8996fb924"
Checks = dict[str, Check]


class Clock(Fault):
    """The store's clock differs from this machine's by so many seconds."""

    def __init__(self, ahead: float) -> None:
        self._ahead = timedelta(seconds=ahead)

    def answered(self, request: str, answer: Answer) -> Answer:
        status, headers, body = answer
        kept = [(name, value) for name, value in headers if name.lower() != "date"]
        return status, [*kept, ("Date", format_datetime(datetime.now(UTC) + self._ahead, usegmt=True))], body


@pytest.fixture
def examined(tmp_path: Path) -> Callable[..., Checks]:
    """The checks by name of a profile's YAML, with some of its fields in place of its own."""

    def examined(config: Path, **fields: object) -> Checks:
        own = tmp_path / "own.yaml"
        own.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | fields))
        checks = list(examine(load_profile(None, own), tmp_path / "state"))
        for check in checks:
            assert check.remedy or check.state in {"ok", "skipped"}, check
            assert SECRET not in repr(check)
        return {check.name: check for check in checks}

    return examined


def put(lab: Lab, bucket: str, key: str, document: object) -> None:
    lab.raw.multipart_client.put_object(Bucket=bucket, Key=key, Body=json.dumps(document).encode())


def test_a_sound_profile_passes_every_check_and_nothing_is_written(
    lab: Lab, detour: Detour, examined, store_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("DAGSTER_HOME")
    monkeypatch.chdir(tmp_path)
    lab.data.ingest(source_dir=write_recording(lab.nas, REC_ID, FILES))
    before, on_disk = lab.everything(), sorted(tmp_path.rglob("*"))

    checks = examined(detour.config)

    assert {check.state for check in checks.values()} <= {"ok", "skipped"}
    assert "1 recording; mounted " in checks["source nas"].told
    assert checks["catalog"].told == "ursa/catalog, format 2"
    assert checks["clock"].told == "agrees with the store's to 2 s"
    assert f"{detour.programs}/op" in checks["op"].told
    assert " ms" in checks["endpoint"].told
    assert lab.everything() == before
    assert set(tmp_path.rglob("*")) - set(on_disk) == {tmp_path / "own.yaml"}
    access = json.loads((store_state / "store/server.json").read_bytes())
    assert not any(access[name] in repr(checks) for name in ("access_key_id", "secret_access_key"))
    assert {seen.request.split()[0] for seen in detour.proxy.seen} <= {"GET", "HEAD"}


@pytest.mark.parametrize(("ahead", "told"), [(420, "7 minutes behind"), (-420, "7 minutes ahead of")])
def test_a_clock_that_is_far_off_is_named_with_its_direction_and_the_remedy(detour: Detour, examined, ahead, told):
    detour.proxy.fault = Clock(ahead)

    checks = examined(detour.config)

    assert (checks["clock"].state, checks["clock"].told) == ("failed", f"this machine's clock is {told} the store's")
    assert "timedatectl set-ntp true" in checks["clock"].remedy
    assert checks["catalog tables"] == Check("catalog tables", "skipped", "not looked at, since clock failed")


def test_a_clock_that_is_some_seconds_off_is_a_warning(detour: Detour, examined):
    detour.proxy.fault = Clock(20)

    checks = examined(detour.config)

    assert checks["clock"].state == "warning"
    assert checks["raw bucket"].state == "ok"


@pytest.mark.parametrize(("scheme", "told"), [("http", "nothing takes connections"), ("https", "certificate or TLS")])
def test_a_store_that_cannot_be_reached_is_told_and_all_behind_it_skipped(detour: Detour, examined, scheme, told):
    url = detour.proxy.url.replace("http:", f"{scheme}:")
    if scheme == "http":
        detour.close()

    checks = examined(detour.config, endpoint=url)

    assert checks["endpoint"].state == "failed"
    assert told in checks["endpoint"].told
    assert "Check the endpoint" in checks["endpoint"].remedy
    assert checks["source nas"].state == "ok"
    assert "since endpoint failed" in checks["unfinished uploads"].told


def test_a_bucket_of_another_family_or_purpose_is_refused(lab: Lab, detour: Detour, examined):
    put(lab, lab.raw.name, BUCKET_IDENTITY, {"family": "local", "purpose": "assets"})

    checks = examined(detour.config)

    assert "'purpose': 'assets'" in checks["raw bucket"].told
    assert "Check the bucket names" in checks["raw bucket"].remedy
    assert checks["role raw_rw"].state == "skipped"
    assert checks["catalog"].state == "ok"


@pytest.mark.parametrize("content", [b'"junk"', b"[" * 100_000], ids=["no object", "deep"])
def test_an_identity_that_cannot_be_read_is_to_be_restored_as_the_profile_says(lab: Lab, examined, content: bytes):
    lab.raw.multipart_client.put_object(Bucket=lab.raw.name, Key=BUCKET_IDENTITY, Body=content)

    check = examined(lab.config)["raw bucket"]

    assert '{"family": "local", "purpose": "raw"}' in check.remedy


def test_a_bucket_that_is_not_there_and_one_without_identity_are_told_apart(lab: Lab, detour: Detour, examined):
    lab.assets.multipart_client.delete_object(Bucket=lab.assets.name, Key=BUCKET_IDENTITY)

    checks = examined(detour.config, family="test", buckets={"raw": "not-there", "assets": lab.assets.name})

    assert "there is no such bucket" in checks["raw bucket"].told
    assert "make the bucket" in checks["raw bucket"].remedy
    assert "no identity object" in checks["assets bucket"].told
    assert "run `ursa catalog init` once" in checks["assets bucket"].remedy


def test_a_missing_pointer_is_never_made(lab: Lab, detour: Detour, examined):
    for bucket, purpose in ((lab.raw.name, "raw"), (lab.assets.name, "assets")):
        put(lab, bucket, BUCKET_IDENTITY, {"family": "test", "purpose": purpose})
    lab.assets.multipart_client.delete_object(Bucket=lab.assets.name, Key=ACTIVE_POINTER)

    checks = examined(detour.config, family="test")

    assert checks["catalog"].state == "failed"
    assert "ursa catalog init" in checks["catalog"].remedy
    assert checks["catalog tables"].state == "skipped"
    assert lab.assets.head(ACTIVE_POINTER) is None


def test_a_pointer_to_a_prefix_without_a_catalog_is_told(lab: Lab, examined):
    pointer = json.loads(lab.assets.get(ACTIVE_POINTER)[0])
    put(lab, lab.assets.name, ACTIVE_POINTER, pointer | {"prefix": "ursa/gone", "previous": ["ursa/catalog"]})

    check = examined(lab.config)["catalog"]

    assert check.state == "failed"
    assert check.remedy.startswith(f"Put ursa/catalog back by hand into `prefix` of {ACTIVE_POINTER}")


def test_many_writes_that_wait_are_a_reason_to_fold(lab: Lab, examined, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalog, "_FOLD_ABOVE", 1)
    for name in "ab":
        mark(lab.assets, lab.data.catalog.prefix, name * 64, "txn")

    check = examined(lab.config)["catalog tables"]

    assert (check.state, check.remedy) == ("warning", "Run `ursa catalog fold`.")
    assert "2 writes wait" in check.told


def test_a_source_that_is_not_mounted_is_a_failure_and_holds_up_no_other(lab: Lab, examined):
    lab.nas.rename(lab.nas.with_name("unplugged"))
    (lab.usb / "README.txt").unlink()

    checks = examined(lab.config)

    assert "is not there" in checks["source nas"].told
    assert "Check the cable or the mount" in checks["source nas"].remedy
    assert "empty, as a drive is that is not mounted" in checks["source usb"].told
    assert checks["bandwidth"].state == "ok"


def test_a_source_of_another_site_is_no_failure_here(lab: Lab, examined, tmp_path: Path):
    source = {"name": "lab1_nas", "path": str(tmp_path / "not-here"), "site": "lab1"}

    check = examined(lab.config, sources=[source])["source lab1_nas"]

    assert check.state == "skipped" and "mounted at the site lab1" in check.told


def test_a_source_that_is_a_file_is_told(lab: Lab, examined, tmp_path: Path):
    (tmp_path / "file").write_text("no drive")

    check = examined(lab.config, sources=[{"name": "nas", "path": str(tmp_path / "file")}])["source nas"]

    assert (check.state, check.remedy) == ("failed", "Name a directory in the profile.")


def test_a_source_that_hangs_is_told_and_the_next_is_looked_at(lab: Lab, examined, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sources, "_SECONDS", 0.5)
    with mounted(lab.nas, tmp_path / "drive", read_only=True) as drive:
        entries = [{"name": "nas", "path": str(drive.point)}, {"name": "usb", "path": str(lab.usb)}]
        read_only = examined(lab.config, sources=entries)["source nas"]
        drive.fault = Hangs("", kind="list")
        checks = examined(lab.config, sources=entries)

    assert "mounted read-only" in read_only.told
    assert (checks["source nas"].state, checks["source nas"].told) == ("failed", "it gave nothing for 0.5 s")
    assert "sudo umount -f -l" in checks["source nas"].remedy
    assert checks["source usb"].state == "ok"


def test_a_missing_op_is_one_failure(detour: Detour, examined, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))

    checks = examined(detour.config)

    assert [check.name for check in checks.values() if check.state == "failed"] == ["op"]
    assert "Install the 1Password CLI" in checks["op"].remedy
    assert checks["role raw_rw"].told == "not looked at, since op failed"


def test_an_op_that_is_locked_is_asked_once(detour: Detour, examined, tmp_path: Path):
    calls = tmp_path / "calls"
    complaint = (
        f'echo "$1" >> {calls}; echo {SECRET}; echo "[ERROR] you are not currently signed in {SECRET}" >&2; exit 1'
    )
    (detour.programs / "op").write_text(f"#!/bin/sh\n{complaint}\n")

    checks = examined(detour.config)

    assert [check.name for check in checks.values() if check.state == "failed"] == ["1Password"]
    assert "op signin" in checks["1Password"].remedy
    assert calls.read_text().split() == ["--version", "read"]


def test_a_reference_that_does_not_resolve_fails_its_role_alone(detour: Detour, examined):
    profile = yaml.safe_load(detour.config.read_text())
    wrong = {name: f"op://Vault/Gone/{name}" for name in ("access_key_id", "secret_access_key")}
    op = detour.programs / "op"
    gone = 'case "$3" in */Gone/*) echo "could not find item Gone in vault" >&2; exit 1;; esac'
    op.write_text(op.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\n{gone}\n"))

    # The first role: that it does not resolve says that 1Password answers.
    checks = examined(detour.config, credentials=profile["credentials"] | {"assets_ro": wrong})

    assert {check.name for check in checks.values() if check.state == "failed"} == {"credential assets_ro"}
    assert "op://Vault/Gone/access_key_id" in checks["credential assets_ro"].told
    assert checks["assets bucket"].told == "not looked at, since credential assets_ro failed"
    assert checks["role raw_rw"].state == "ok"


def test_uploads_that_ended_and_those_of_others_are_told(lab: Lab, examined):
    uploads = UnfinishedUploads(lab.raw, lab.assets)
    ours = uploads.open(KEY, size=10 * 1024**2, sha256="0" * 64, part_size=5 * 1024**2)
    rigs = create_upload(lab.raw, f"recordings/{REC_ID}/rig.mp4", sha256="0" * 64, part_size=5 * 1024**2)

    going_on = examined(lab.config)["unfinished uploads"]
    ours.abort()
    ended = examined(lab.config)["unfinished uploads"]
    rigs.abort()

    assert going_on.state == "ok"
    assert going_on.told.startswith("1 with 0.0 MB stored")
    assert "1 of others, which are never touched" in going_on.told
    assert ended.state == "warning"
    assert "1 ended with only a record left" in ended.told
    assert "ursa doctor --clean-uploads" in ended.remedy


def test_a_disk_that_is_nearly_full_is_a_warning_and_a_full_one_a_failure(tmp_path: Path):
    free = shutil.disk_usage(tmp_path).free
    place = tmp_path / "not" / "made" / "yet"

    assert look_at_disk(place, "Free space.", warn=free * 2).state == "warning"
    full = look_at_disk(place, "Free space.", fail=free * 2)
    assert (full.state, full.remedy) == ("failed", "Free space.")
    assert str(tmp_path) in full.told


def test_a_disk_that_may_not_be_written_to_is_a_failure(tmp_path: Path):
    with mounted(tmp_path, tmp_path.with_name("read-only"), read_only=True) as drive:
        found = look_at_disk(drive.point / "state", "Free space.", "Change to another directory.")

    assert (found.state, found.remedy) == ("failed", "Change to another directory.")
    assert found.told == f"{drive.point} is mounted read-only"


def test_a_dagster_outside_of_what_is_needed_is_a_failure(lab: Lab, examined, monkeypatch: pytest.MonkeyPatch):
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.0.0" if name == "dagster" else version(name))
    monkeypatch.setattr(metadata, "requires", lambda name: ["dagster<1.14,>=1.13.27", "nowhere-to-be-found>=1"])

    check = examined(lab.config)["packages"]

    assert check.state == "failed"
    assert "dagster 2.0.0 is installed, needed is <1.14,>=1.13.27; nowhere-to-be-found is missing" in check.told


def test_a_dagster_instance_of_another_profile_is_told(lab: Lab, examined, tmp_path: Path, monkeypatch):
    from ursa_pipelines.orchestration.resources import require_profile_of_home

    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    require_profile_of_home(home, load_profile("r2"))
    other = examined(lab.config, store="s3", endpoint="http://127.0.0.1:9", credentials=_references())
    (home / "ursa_profile").unlink()
    require_profile_of_home(home, load_profile(None, lab.config))

    assert other["dagster instance"].state == "warning"
    assert "serves the profile r2 with constellation-data" in other["dagster instance"].told
    assert "serves this profile" in examined(lab.config)["dagster instance"].told


def test_a_timetable_that_is_not_followed_is_told(lab: Lab, examined, tmp_path: Path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "bandwidth").write_text("5MB\n")

    check = examined(lab.config)["bandwidth"]

    assert check.state == "warning"
    assert "unlimited now" in check.told
    assert "ursa bandwidth" in check.remedy


def test_a_look_that_hangs_or_fails_in_a_way_nobody_foresaw_holds_up_no_other():
    never = threading.Event()

    def hang() -> Finding:
        never.wait()
        return Finding("")

    def fail() -> Finding:
        raise ZeroDivisionError(SECRET)

    def refuse() -> Finding:
        raise PermissionError(13, os.strerror(13), "/dev/one\ntwo")

    looks = [
        Look("hanging", hang, seconds=0.05, if_it_hangs="Plug it in."),
        Look("behind", lambda: Finding("x"), needs=("hanging",)),
        Look("further behind", lambda: Finding("x"), needs=("behind",)),
        Look("failing", fail),
        Look("refused", refuse),
        Look("sound", lambda: Finding("fine\x1b[1m")),
    ]

    hanging, behind, further, failing, refused, sound = run_looks(looks)
    never.set()

    assert hanging == Check("hanging", "failed", "it gave nothing for 0.05 s", "Plug it in.")
    assert (behind.state, behind.told, further.told) == ("skipped", *["not looked at, since hanging failed"] * 2)
    assert (failing.state, failing.told) == ("failed", "the look itself failed: ZeroDivisionError")
    assert (refused.state, refused.told) == ("failed", "/dev/one\\ntwo: Permission denied")
    assert sound == Check("sound", "ok", "fine\\x1b[1m")


def _references() -> dict[str, dict[str, str]]:
    reference = {name: f"op://Vault/Item/{name}" for name in ("access_key_id", "secret_access_key")}
    return dict.fromkeys(("assets_ro", "assets_rw", "raw_ro", "raw_rw"), reference)

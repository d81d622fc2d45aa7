"""The limits of an instance: Dagster takes the settings, and they hold."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from ursa_pipelines.errors import ProfileInvalid
from ursa_pipelines.orchestration import instance as instances
from ursa_pipelines.orchestration.instance import dagster_home, open_instance
from ursa_pipelines.orchestration.resources import require_profile
from ursa_pipelines.profiles import load_profile

SHIPPED = Path(instances.__file__).with_name("dagster.yaml")
IN_REPOSITORY = Path(__file__).parents[2] / "dagster.yaml"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that `dagster_home()` makes below a working directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return tmp_path / ".ursa" / "dagster"


def test_the_settings_in_the_repository_are_those_that_are_shipped():
    assert IN_REPOSITORY.read_bytes() == SHIPPED.read_bytes()


def test_dagster_takes_the_settings_that_are_shipped(home: Path):
    with open_instance("local") as instance:
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert instance.get_settings("run_monitoring")["max_runtime_seconds"] == 172800
        assert instance.get_settings("retention")["sensor"]["purge_after_days"]["skipped"] == 7
        assert instance.get_settings("concurrency")["runs"]["max_concurrent_runs"] == 4

    assert (home / "dagster.yaml").read_bytes() == SHIPPED.read_bytes()


def test_settings_of_an_older_version_are_replaced_unless_somebody_changed_them(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    older = tmp_path / "older" / "dagster.yaml"
    older.parent.mkdir()
    older.write_text("telemetry: {enabled: false}\n")
    with monkeypatch.context() as patched:
        patched.setattr(instances.resources, "files", lambda _: older.parent)
        dagster_home()
    assert (home / "dagster.yaml").read_bytes() == older.read_bytes()

    dagster_home()
    assert (home / "dagster.yaml").read_bytes() == SHIPPED.read_bytes()

    changed = yaml.safe_dump({"concurrency": {"runs": {"max_concurrent_runs": 1}}})
    (home / "dagster.yaml").write_text(changed)
    (home / "ursa_settings").write_text("0" * 64)
    dagster_home()
    assert (home / "dagster.yaml").read_text() == changed


def test_settings_of_an_operator_in_a_home_without_a_stamp_stay(home: Path):
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")

    dagster_home()

    assert (home / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"


def test_a_pool_that_nobody_has_set_has_the_limit_of_the_settings(home: Path):
    @dg.op(pool="upload")
    def upload() -> None:
        """Takes a place in the pool, which gives it its limit."""

    @dg.job(executor_def=dg.in_process_executor)
    def uploading() -> None:
        upload()

    with open_instance("local") as instance:
        assert uploading.execute_in_process(instance=instance, run_config=QUIET).success

    command = [str(Path(sys.executable).with_name("dagster")), "instance", "concurrency", "get", "upload"]
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert '"upload": 0 / 2 slots occupied' in told


def test_reading_leaves_an_instance_to_whoever_first_writes_there(home: Path):
    with open_instance(load_profile("r2")):
        assert not (home / "ursa_profile").exists()

    with open_instance(load_profile("local")) as instance:
        require_profile(instance, load_profile("local"))

    with pytest.raises(ProfileInvalid, match="serves the profile 'local', not 'r2'"), open_instance(load_profile("r2")):
        pass


def test_a_profile_of_the_same_name_with_other_buckets_is_another_one(home: Path, tmp_path: Path):
    other = tmp_path / "other.yaml"
    other.write_text("buckets: {raw: raw-of-others, assets: assets-of-others}\n")
    with open_instance(load_profile("local")) as instance:
        require_profile(instance, load_profile("local"))

        with pytest.raises(ProfileInvalid, match="raw-of-others"):
            require_profile(instance, load_profile("local", other))

    with pytest.raises(ProfileInvalid, match="raw-of-others"), open_instance(load_profile("local", other)):
        pass


def test_the_name_that_an_older_version_left_is_completed_by_the_next_write(home: Path):
    local = load_profile("local")
    home.mkdir(parents=True)
    (home / "ursa_profile").write_text("local\n")

    with open_instance(local) as instance:
        assert (home / "ursa_profile").read_text() == "local\n"
        require_profile(instance, local)

    stamped = (home / "ursa_profile").read_text().split()
    assert stamped == ["local", local.buckets.raw, local.buckets.assets]


def test_a_dagster_home_that_is_no_directory_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "nowhere"))

    with pytest.raises(ProfileInvalid, match=r"nowhere.*DAGSTER_HOME"), open_instance("local"):
        pass

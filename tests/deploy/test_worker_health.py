"""Whether a run's worker is alive: what Celery keeps of a task is not enough, so the worker is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import LaunchRunContext

celery = pytest.importorskip("dagster_celery")

from celery.contrib.testing.worker import start_worker  # noqa: E402
from dagster_celery.launcher import WorkerStatus  # noqa: E402

from ursa_pipelines.orchestration import celery_launcher  # noqa: E402
from ursa_pipelines.orchestration.celery_launcher import SiteRunLauncher  # noqa: E402

TASK = "5f0e9f42-5b1f-4c5e-9a58-0c1f5c3f9a11"


@pytest.fixture
def launcher() -> Iterator[SiteRunLauncher]:
    launcher = SiteRunLauncher(
        silent_seconds=60, default_queue="dagster", broker="memory://", backend="cache+memory://"
    )
    yield launcher
    launcher.celery.close()


@pytest.fixture
def run() -> dg.DagsterRun:
    return dg.DagsterRun(job_name="ingest", status=dg.DagsterRunStatus.STARTED, tags={"dagster-celery/task_id": TASK})


@dg.job
def ingest() -> None:
    pass


def begin(launcher: SiteRunLauncher, worker: str) -> None:
    """As the worker tells when it begins with a task."""
    launcher.celery.backend.mark_as_started(TASK, pid=1, hostname=worker)


def test_a_worker_that_does_not_answer_is_taken_for_dead_after_a_while_only(
    launcher: SiteRunLauncher, run: dg.DagsterRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(launcher, "lab1@gone")
    assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    now = celery_launcher.time.monotonic()
    monkeypatch.setattr(celery_launcher.time, "monotonic", lambda: now + 61)
    health = launcher.check_run_worker_health(run)
    assert health.status == WorkerStatus.FAILED
    assert health.msg and "lab1@gone has not answered for 61 s" in health.msg


def test_a_worker_that_was_started_again_does_not_have_the_run_any_more(
    launcher: SiteRunLauncher, run: dg.DagsterRun
) -> None:
    with start_worker(launcher.celery, perform_ping_check=False, pool="solo", hostname="lab1@here") as worker:
        begin(launcher, worker.hostname)
        health = launcher.check_run_worker_health(run)
    assert health.status == WorkerStatus.FAILED
    assert health.msg and "started again" in health.msg


def test_a_task_that_has_failed_is_told_without_asking(launcher: SiteRunLauncher, run: dg.DagsterRun) -> None:
    launcher.celery.backend.mark_as_failure(TASK, RuntimeError("lost"))
    assert launcher.check_run_worker_health(run).status == WorkerStatus.FAILED


def test_while_redis_is_away_a_run_goes_back_into_dagsters_queue(tmp_path: Path) -> None:
    nobody = "redis://127.0.0.1:1/0"
    at_once = {"result_backend_transport_options": {"retry_policy": {"max_retries": 0}}}
    launcher = SiteRunLauncher(default_queue="dagster", broker=nobody, backend=nobody, config_source=at_once)
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        launcher.register_instance(instance)
        run = instance.create_run_for_job(ingest, job_code_origin=dg.reconstructable(ingest).get_python_origin())
        with pytest.raises(DagsterUserCodeUnreachableError, match="Redis cannot be reached"):
            launcher.launch_run(LaunchRunContext(run, workspace=None))
    launcher.celery.close()


def test_a_worker_that_starts_again_gives_up_what_it_was_loading_and_nothing_else(launcher: SiteRunLauncher) -> None:
    begin(launcher, "lab1@here")
    other = "5f0e9f42-5b1f-4c5e-9a58-0c1f5c3f9a12"
    launcher.celery.backend.mark_as_started(other, pid=2, hostname="lab2@there")
    broken = "5f0e9f42-5b1f-4c5e-9a58-0c1f5c3f9a13"
    launcher.celery.backend.mark_as_failure(broken, RuntimeError("too many clients already"))

    with dg.DagsterInstance.ephemeral() as instance:
        starting = dg.DagsterRunStatus.STARTING
        lost, loading, unloadable, waiting = (
            instance.create_run_for_job(ingest, status=starting, tags={"dagster-celery/task_id": task} if task else {})
            for task in (TASK, other, broken, None)
        )
        assert set(launcher.fail_lost_runs(instance, "lab1@here")) == {lost.run_id, unloadable.run_id}
        found = {run.run_id: run.status for run in instance.get_runs()}
    failed = dg.DagsterRunStatus.FAILURE
    assert found == {lost.run_id: failed, unloadable.run_id: failed, loading.run_id: starting, waiting.run_id: starting}

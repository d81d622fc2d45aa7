"""Runs as Celery tasks, one queue for each site, and a look whether the worker that has a run is still alive.

Needs the extra `[production]`. Celery keeps a task as *started* for as long as nobody says otherwise, and a worker that
was killed, or whose host lost its power, says nothing. So the worker is asked.
"""

from __future__ import annotations

import time
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import LaunchRunContext
from dagster_celery.launcher import CeleryRunLauncher, CheckRunHealthResult, WorkerStatus
from kombu.exceptions import OperationalError

_TASK = "dagster-celery/task_id"
_ANSWER_SECONDS = 3.0


class SiteRunLauncher(CeleryRunLauncher):
    """Dagster's Celery launcher. A run whose worker does not answer for `silent_seconds`, or answers that it does not
    have the run, is told as failed, so that Dagster's run monitoring ends it and has it retried.
    """

    def __init__(self, silent_seconds: int = 60, **settings: Any):
        self._silent_seconds = silent_seconds
        self._silent_since: dict[str, float] = {}
        super().__init__(**settings)

    @classmethod
    def config_type(cls) -> Any:
        """The settings of Dagster's own launcher, and `silent_seconds`."""
        settings: Any = super().config_type()
        return {**settings, "silent_seconds": dg.Field(int, default_value=60, is_required=False)}

    def launch_run(self, context: LaunchRunContext) -> None:
        """Puts the run into its site's queue. Raises `DagsterUserCodeUnreachableError` while Redis is away."""
        try:
            super().launch_run(context)
        except (OperationalError, RuntimeError) as error:
            # The one error after which Dagster puts a run back into its queue; any other fails the run. A result store
            # that is away is told as a RuntimeError.
            raise DagsterUserCodeUnreachableError(f"Redis cannot be reached: {type(error).__name__}") from error

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """What run monitoring asks of each run that goes on."""
        try:
            return self._health(run)
        except Exception:
            # Redis is away, of which nobody's silence follows.
            self._silent_since.pop(run.run_id, None)
            raise

    def _health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        health = super().check_run_worker_health(run)
        if health.status != WorkerStatus.RUNNING:
            self._silent_since.pop(run.run_id, None)
            return health
        task = run.tags[_TASK]
        worker = self._worker_of(task)
        inspect = self.celery.control.inspect(destination=[worker], timeout=_ANSWER_SECONDS, limit=1)
        answers = inspect.query_task(task) or {}
        if worker in answers:
            self._silent_since.pop(run.run_id, None)
            if task in answers[worker]:
                return health
            # It may have ended since the first look.
            health = super().check_run_worker_health(run)
            gone = f"The worker {worker} does not have this run any more: it was started again meanwhile."
            return CheckRunHealthResult(WorkerStatus.FAILED, gone) if health.status == WorkerStatus.RUNNING else health
        silent = time.monotonic() - self._silent_since.setdefault(run.run_id, time.monotonic())
        if silent < self._silent_seconds:
            return health
        self._silent_since.pop(run.run_id)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"The worker {worker} has not answered for {silent:.0f} s.")

    def fail_lost_runs(self, instance: dg.DagsterInstance, worker: str) -> list[str]:
        """Ends the runs that could not be loaded, and those that this worker was loading when it was killed, so that
        they are retried; their ids.

        For a worker that is about to start, and has none: run monitoring only asks after runs that have begun.
        """
        lost = []
        for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING])):
            task = run.tags.get(_TASK)
            if task is None:
                continue
            if self.celery.AsyncResult(task).failed():
                instance.report_run_failed(run, "Its worker could not load this run; see the worker's log.")
            elif self._worker_of(task) == worker:
                instance.report_run_failed(run, f"The worker {worker} was killed while it loaded this run.")
            else:
                continue
            lost.append(run.run_id)
        return lost

    def _worker_of(self, task: str) -> str:
        """The worker that has told that it began with a task, empty if none has, or if it has ended."""
        told = self.celery.AsyncResult(task).info
        return str(told.get("hostname", "")) if isinstance(told, dict) else ""

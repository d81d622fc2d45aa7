"""A site's worker: `python -m ursa_pipelines.orchestration.worker SITE`. Needs the extra `[production]`.

It takes runs from the queue of its site, and broker and limits from the `dagster.yaml` in DAGSTER_HOME, as the daemon
does, so that no second file has to agree with it.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Sequence

import dagster as dg
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task

from ursa_pipelines.errors import ProfileInvalid
from ursa_pipelines.orchestration.celery_launcher import SiteRunLauncher
from ursa_pipelines.orchestration.sites import CENTRAL_QUEUE

_RUNS_PER_PROCESS = 100
"""After so many a process is replaced, so that what a run leaves in memory does not grow for months."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Works until it is told to end: SIGTERM lets the run under way come to its end, a second one does not."""
    parser = argparse.ArgumentParser(prog="python -m ursa_pipelines.orchestration.worker", description=__doc__)
    parser.add_argument("site", nargs="?", help="the site as the profile calls it")
    parser.add_argument("--central", action="store_true", help="take what belongs to no site, too")
    parser.add_argument("--runs", type=int, default=2, metavar="N", help="how many runs at once (2)")
    given = parser.parse_args(arguments)
    if given.site is None and not given.central:
        parser.error("name a site, or say --central, or both")
    with dg.DagsterInstance.get() as instance:
        launcher = instance.run_launcher
        if not isinstance(launcher, SiteRunLauncher):
            raise ProfileInvalid(
                "the run launcher there is not ours, so no run would ever come to this worker",
                place=f"{instance.root_directory}/dagster.yaml",
                remedy="Take the run_launcher from deploy/dagster.yaml.",
            )
        # Two workers of one name on one host would take each other for dead.
        name = f"{given.site or 'central'}@{socket.gethostname()}"
        for run_id in launcher.fail_lost_runs(instance, name):
            print(f"Run {run_id} was lost when the worker was killed; it is retried.", flush=True)
        app = launcher.celery
    create_execute_job_task(app)
    create_resume_job_task(app)
    # Dagster's lines are in the log as they are, and not as warnings of Celery's.
    app.conf.worker_redirect_stdouts = False
    queues = [*([given.site] if given.site else []), *([CENTRAL_QUEUE] if given.central else [])]
    app.worker_main(
        [
            "worker",
            f"--queues={','.join(queues)}",
            f"--hostname={name}",
            f"--concurrency={given.runs}",
            # What it had fetched and could not begin would be given out again, and begin twice.
            "--disable-prefetch",
            f"--max-tasks-per-child={_RUNS_PER_PROCESS}",
            "--without-gossip",
            "--without-mingle",
            "--loglevel=INFO",
        ]
    )


if __name__ == "__main__":
    main()

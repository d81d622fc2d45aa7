"""`ursa demo`: recordings of every kind travel from a directory into object store and catalog, through Dagster."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from ursa_pipelines.cli.printing import console
from ursa_pipelines.cli.tables import show_items, show_results
from ursa_pipelines.embedded.demo_recordings import DemoRecording, make_demo_recordings
from ursa_pipelines.embedded.sources import ensure_local_sources
from ursa_pipelines.embedded.state import state_directory
from ursa_pipelines.errors import ObjectExists
from ursa_pipelines.ingest.batch import BatchItem
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.orchestration.in_process import ingest_in_process
from ursa_pipelines.orchestration.instance import dagster_home, open_instance


def run_demo() -> None:
    """Makes the demo recordings, runs the job over them in process, and prints what came of it.

    Running it again sends nothing and writes nothing, and says so.
    """
    began = time.monotonic()
    os.environ["DAGSTER_HOME"] = str(dagster_home().absolute())
    data = DataInterface("local")
    with console.status("Starting the embedded object store"):
        data.enable_writes(roles=("assets_rw", "raw_rw"))
    ensure_local_sources(data.sources)
    nas, usb = (source.root for source in data.sources)
    made = make_demo_recordings(nas, usb)
    _put_into_bucket(data, made)
    console.print(f"{len(made)} demo recordings, below {nas.parent} and in the bucket {data.profile.buckets.raw}:")
    for one in made:
        console.print(f"  {one.rec_id}  {one.case}", highlight=False)
    with console.status("Running the Dagster job"), open_instance(data.profile) as instance:
        rec_ids = [one.rec_id for one in made]
        items = ingest_in_process(instance, "local", None, rec_ids, tags={"ursa/trigger": "demo"})
    console.print()
    show_items(items, title="What the job did")
    show_results(data.query(), title="What the catalog has")
    _say_what_it_was(items, time.monotonic() - began)


def _put_into_bucket(data: DataInterface, made: Sequence[DemoRecording]) -> None:
    raw = data.ingest_context().raw
    for one in made:
        for key, body in one.objects.items():
            if raw.head(key) is None:
                try:
                    raw.create(key, body)
                except ObjectExists:
                    continue


def _say_what_it_was(items: Sequence[BatchItem], seconds: float) -> None:
    counts = {status: sum(item.status == status for item in items) for status in ("OK", "SKIP", "FAIL")}
    sent = sum(item.bytes_uploaded for item in items)
    if not sent and all(item.outcome == "unchanged" for item in items if item.status == "OK"):
        console.print("[bold]Nothing to do:[/] every recording was there already; no byte was sent, no row written.")
    else:
        console.print(f"[bold]Done:[/] {counts['OK']} recordings registered, {sent:,} bytes sent.")
    if counts["FAIL"]:
        console.print(f"{counts['FAIL']} failed, as it should: one of its files is corrupted on purpose.")
    if counts["SKIP"]:
        console.print(f"{counts['SKIP']} waits: its copy has not finished.")
    console.print(f"{seconds:.0f} s in all.")
    console.print(
        f"""
Next:
  ursa dev    the Dagster UI on http://127.0.0.1:3000 with this run, its partitions and sensors
  ursa query  the catalog again
While `ursa dev` runs, finish the copy (take .part off the file in {items[-1].rec_id}
below {state_directory() / "nas"}) and watch it being ingested.""",
        highlight=False,
        soft_wrap=True,
    )

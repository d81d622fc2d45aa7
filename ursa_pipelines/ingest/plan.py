"""What an ingest would do, told before anything is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ursa_pipelines.ingest.context import IngestContext
from ursa_pipelines.ingest.discover import IngestPath, discover


@dataclass(frozen=True)
class IngestPlan:
    """Sizes are bytes. `bytes_to_hash` are those whose digest no manifest in the directory states."""

    rec_id: str
    path: IngestPath
    files: int
    bytes: int
    files_to_send: int
    bytes_to_send: int
    bytes_to_hash: int
    files_absent: int
    files_ignored: int


def plan_ingest(context: IngestContext, source_dir: Path) -> IngestPlan:
    """The plan for a recording directory. Raises what `discover` raises; reads no segment."""
    discovery = discover(context, source_dir, allow_partial=True)
    inventory = discovery.inventory
    files = inventory.files if inventory else {}
    to_send = [file for path, file in files.items() if path not in discovery.stored.objects]
    return IngestPlan(
        rec_id=discovery.rec_id,
        path=discovery.path,
        files=len(files),
        bytes=sum(file.size for file in files.values()),
        files_to_send=len(to_send),
        bytes_to_send=sum(file.size for file in to_send),
        bytes_to_hash=sum(file.size for file in discovery.unattested),
        files_absent=len(discovery.absent),
        files_ignored=len(inventory.ignored) if inventory else 0,
    )

"""The two directories that stand for a NAS and a USB drive on the local profile."""

from __future__ import annotations

from collections.abc import Iterable

from ursa_pipelines.embedded.state import state_directory
from ursa_pipelines.ingest.sources import Source

_README = """Put recording directories rec_<YYYYMMDD>_<HHMMSS>_<hex>/ here.
With `ursa dev` running they are ingested as soon as they have settled.
"""


def ensure_local_sources(sources: Iterable[Source]) -> None:
    """Creates those in the state directory if they are not there, each with a note, since an empty one is unmounted.

    A source that lies elsewhere is a drive, which is mounted or not, and never written to.
    """
    state = state_directory()
    for source in sources:
        if not source.root.is_relative_to(state):
            continue
        source.root.mkdir(parents=True, exist_ok=True)
        note = source.root / "README.txt"
        if not note.exists():
            note.write_text(_README)

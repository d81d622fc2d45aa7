"""The mounted sources: whether each is there and can be read. A drive that hangs is told, and holds up nothing."""

from __future__ import annotations

import os
from functools import partial

from ursa_pipelines.embedded.state import state_directory
from ursa_pipelines.ingest.sources import Source, list_recordings
from ursa_pipelines.maintenance.checkup.check import Finding, Look
from ursa_pipelines.profiles import Profile

_SECONDS = 15.0
_HANGS = "Check the cable or the network to it; if it stays so, unmount it (`sudo umount -f -l`) and mount it again."


def source_looks(profile: Profile) -> list[Look]:
    """One for each source of the profile, or one that says that it has none."""
    if not profile.sources:
        return [Look("sources", lambda: Finding("the profile names none", "skipped"))]
    sources = [Source(source.name, source.path, site=source.site) for source in profile.sources]
    return [Look(f"source {one.name}", partial(_look_at, one), (), _SECONDS, _HANGS) for one in sources]


def _look_at(source: Source) -> Finding:
    if source.root.is_relative_to(state_directory()) and not source.root.exists():
        return Finding("not made yet; `ursa dev` and `ursa demo` make it", "skipped")
    if source.site and not source.root.exists():
        return Finding(f"not on this host: it is mounted at the site {source.site}", "skipped")
    if source.root.exists() and not source.root.is_dir():
        return Finding(f"{source.root} is no directory", "failed", "Name a directory in the profile.")
    found = len(list_recordings(source))
    told = os.statvfs(source.root)
    mount = "read-only" if told.f_flag & os.ST_RDONLY else "writable"
    free = f"{told.f_bavail * told.f_frsize / 1e9:,.1f} GB"
    entries = f" and {told.f_favail:,} entries" if told.f_files else ""
    return Finding(f"{found:,} recording{'' if found == 1 else 's'}; mounted {mount}, {free}{entries} free")

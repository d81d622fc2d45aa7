"""Whether a recording directory is safe to ingest, or still being written or copied (DESIGN section 4, Settled)."""

from __future__ import annotations

from dataclasses import dataclass

from ursa_pipelines.recordings.inventory import Inventory
from ursa_pipelines.recordings.layout import shown
from ursa_pipelines.recordings.merge import MergedManifest

_QUIET_SECONDS_PER_BYTE = 1 / (100 * 1024 * 1024)
QUIET_SECONDS_LIMIT = 1800.0


@dataclass(frozen=True)
class Sighting:
    """Since when (seconds since 1970 UTC) a directory has had this fingerprint."""

    fingerprint: str
    since: float


@dataclass(frozen=True)
class Verdict:
    """`settled`, and if not, `reason` in words for the operator."""

    settled: bool
    reason: str = ""


def blocked_by_writer(inventory: Inventory) -> str | None:
    """Why the directory must not be ingested by anyone now: it says itself that it is unfinished. Else None."""
    if inventory.locked:
        return "session.lock is present: the rig is still recording"
    if inventory.partial_copies:
        return f"{shown(inventory.partial_copies[0])} is still being copied"
    return None


def judge(
    inventory: Inventory,
    merged: MergedManifest | None,
    sighting: Sighting | None,
    *,
    now: float,
    quiet_period: float,
    reconstruct_after: float,
) -> Verdict:
    """The settling verdict for an unattended ingest at `now` (seconds since 1970 UTC).

    `sighting` is what was seen last time (None the first time). A recording whose manifest is satisfied file
    by file needs no waiting; without a manifest it waits `reconstruct_after` seconds unchanged, otherwise the
    quiet period, which grows with the recording's size.
    """
    blocked = blocked_by_writer(inventory)
    if blocked:
        return Verdict(False, blocked)
    if merged is not None and is_satisfied(inventory, merged):
        return Verdict(True)
    quiet = min(quiet_period + inventory.total_bytes * _QUIET_SECONDS_PER_BYTE, max(quiet_period, QUIET_SECONDS_LIMIT))
    wait, why = (quiet, "unchanged") if merged is not None else (max(quiet, reconstruct_after), "without a manifest")
    since = sighting.since if sighting and sighting.fingerprint == inventory.fingerprint else now
    if now - since < wait:
        return Verdict(False, f"{why} for {now - since:.0f} s of {wait:.0f} s")
    return Verdict(True)


def is_satisfied(inventory: Inventory, merged: MergedManifest) -> bool:
    """Whether every file the manifests list is here with its size, each attested, and nothing else is."""
    return merged.files.keys() == inventory.files.keys() and all(
        file.sha256 is not None and file.size_bytes == inventory.files[path].size for path, file in merged.files.items()
    )

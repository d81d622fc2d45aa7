"""1Password: whether `op` is there and answers, and whether each role's references resolve. No value is ever told."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

from ursa_pipelines.errors import CredentialsUnavailable
from ursa_pipelines.maintenance.checkup.check import Finding, Look
from ursa_pipelines.maintenance.checkup.doors import Doors
from ursa_pipelines.profiles import Role
from ursa_pipelines.profiles.profile import ROLES

_UNLOCK = "Unlock 1Password; it may be waiting for a fingerprint or a password. Then run it again."
_INSTALL = "Install the 1Password CLI and sign in (`op signin`), then run it again."
_VERSION_SECONDS = 10.0
# Up to three references, each of which may take as long as `Doors` allows.
_SECONDS = 100.0
_VERSION = re.compile(rb"[0-9][0-9A-Za-z.+-]{0,40}")


def credential_looks(doors: Doors) -> list[Look]:
    """None where the profile has no references. Every other look that needs one of them needs `1Password`."""
    if not uses_op(doors):
        return []
    looks = [
        Look("op", _look_for_op),
        # Where it does not answer for one reference, nobody needs to be asked for the others.
        Look("1Password", partial(_look_whether_it_answers, doors), ("op",), _SECONDS, _UNLOCK),
    ]
    for role in (role for role in ROLES if role in doors.profile.credentials):
        looks.append(Look(f"credential {role}", partial(_look_at_role, doors, role), ("1Password",), _SECONDS, _UNLOCK))
    return looks


def uses_op(doors: Doors) -> bool:
    """Whether the profile has anything in 1Password."""
    webhook = doors.profile.notifications.webhook or ""
    return bool(doors.profile.credentials) or doors.is_endpoint_secret or webhook.startswith("op://")


def _look_for_op() -> Finding:
    program = shutil.which("op")
    if program is None or not Path(program).is_absolute():
        raise CredentialsUnavailable("the 1Password command `op` is not installed", remedy=_INSTALL)
    try:
        done = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_VERSION_SECONDS, check=False
        )
        version = _VERSION.match(done.stdout)
    except (OSError, subprocess.TimeoutExpired):
        version = None
    # The references decide whether it works.
    return Finding(f"{program}, version {version[0].decode() if version else 'unknown'}")


def _look_whether_it_answers(doors: Doors) -> Finding:
    credentials = doors.credentials
    try:
        if roles := list(doors.profile.credentials):
            credentials.credential(roles[0])
        elif doors.is_endpoint_secret:
            credentials.endpoint()
        else:
            credentials.webhook()
    except CredentialsUnavailable as error:
        if "no such vault" not in error.problem:
            raise
    return Finding("unlocked, and it answers")


def _look_at_role(doors: Doors, role: Role) -> Finding:
    doors.credentials.credential(role)
    return Finding("its references resolve")

"""Credentials: fetched from 1Password on first use, or made by the embedded store; kept in memory only.

They are never in an environment variable, a file, a log, a repr, an exception, a pickle or a core dump (DESIGN
section 7).
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from ursa_pipelines.errors import CredentialsUnavailable
from ursa_pipelines.profiles.profile import Profile, Role, require_url, require_webhook

_OP_SECONDS = 30.0
_LENGTH_LIMIT = 4096
_LOCKED = (
    "not currently signed in",
    "not signed in",
    "session expired",
    "sign in",
    "locked",
    "authorization",
    "no accounts configured",
    "connecting to desktop app",
)
_NOT_FOUND = ("isn't an item", "isn't a vault", "not found", "could not find", "couldn't find", "does not have a field")


@dataclass(frozen=True, repr=False)
class Credential:
    """The keys of one role. Neither shown nor pickled."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None

    def __repr__(self) -> str:
        return "Credential(hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a credential stays in the process that fetched it")


@dataclass
class CredentialSource:
    """Resolves a profile's endpoint and one credential per role, each once per process. `op` may take `timeout` s."""

    profile: Profile
    timeout: float = _OP_SECONDS
    _known: dict[str, str] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials stay in the process that fetched them")

    def credential(self, role: Role) -> Credential:
        """The credential of a role. Raises `CredentialsUnavailable`, or what the embedded store raises."""
        if self.profile.store == "embedded":
            store = self._embedded()
            return Credential(store.access_key_id, store.secret_access_key)
        references = self.profile.credentials[role]
        token = references.session_token
        return Credential(
            self._read(references.access_key_id),
            self._read(references.secret_access_key),
            self._read(token) if token else None,
        )

    def renew(self, role: Role) -> bool:
        """Fetches a role's credential again, which may have expired; True if it is another one now."""
        if self.profile.store == "embedded":
            return False
        before, references = self.credential(role), self.profile.credentials[role]
        with self._lock:
            for reference in (references.access_key_id, references.secret_access_key, references.session_token):
                self._known.pop(reference or "", None)
        return self.credential(role) != before

    def endpoint(self) -> str:
        """The URL of the object store."""
        if self.profile.store == "embedded":
            return self._embedded().endpoint
        return self._url(self.profile.endpoint or "", require_url)

    def webhook(self) -> str | None:
        """The URL that notices go to, None without one. Raises `CredentialsUnavailable`."""
        webhook = self.profile.notifications.webhook
        return self._url(webhook, require_webhook) if webhook else None

    def _url(self, written: str, require: Callable[[str], str]) -> str:
        if not written.startswith("op://"):
            return written
        try:
            return require(self._read(written))
        except ValueError as error:
            raise CredentialsUnavailable(
                f"what 1Password keeps there {error}", place=written, remedy="Mend that item in 1Password."
            ) from None

    def _embedded(self):
        from ursa_pipelines.embedded.store import open_store

        return open_store(self._state, (self.profile.buckets.raw, self.profile.buckets.assets))

    @cached_property
    def _state(self) -> Path:
        """Found once: an interface opens its clients one by one, and the working directory may change meanwhile."""
        from ursa_pipelines.embedded.state import state_directory

        return state_directory()

    def _read(self, reference: str) -> str:
        with self._lock:
            if reference not in self._known:
                self._known[reference] = _op_read(reference, self.timeout)
            return self._known[reference]


def _op_read(reference: str, timeout: float) -> str:
    """Asks 1Password's `op` for one value. What it prints is never repeated in an error."""
    program = shutil.which("op")
    # A relative entry of PATH, such as `.`, would run whatever lies in the working directory.
    if program is None or not Path(program).is_absolute():
        raise CredentialsUnavailable(
            "the 1Password command `op` is not installed",
            place=reference,
            remedy="Install the 1Password CLI and sign in, then try again.",
        )
    _leave_no_core_dump()
    try:
        done = subprocess.run(
            [program, "read", "--no-newline", reference],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CredentialsUnavailable(
            f"1Password did not answer within {timeout:g} s",
            place=reference,
            remedy="Unlock 1Password; it may be waiting for a fingerprint or a password.",
        ) from None
    except OSError as error:
        raise CredentialsUnavailable(f"`op` cannot be run ({error.strerror})", place=reference) from None
    if done.returncode != 0:
        _raise_for(done.stderr.decode(errors="replace").casefold(), done.returncode, reference)
    try:
        value = done.stdout.decode().strip()
    except UnicodeDecodeError:
        value = ""
    plain = value.isascii() and value.isprintable() and " " not in value
    if not value or not plain or len(value) > _LENGTH_LIMIT:
        raise CredentialsUnavailable(
            "1Password gave an empty value or one that is no key",
            place=reference,
            remedy="Look at that item and field in 1Password: it must hold one line of text.",
        )
    return value


def _leave_no_core_dump() -> None:
    """Lowers this process's limit, and that of all it starts from now on, to less than any dump needs (fault 78)."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    if most != 0:
        # 0 keeps the kernel from writing a file only; at 1 it does not hand the dump to a crash reporter either.
        resource.setrlimit(resource.RLIMIT_CORE, (1, most))


def _raise_for(complaint: str, code: int, reference: str) -> NoReturn:
    if any(word in complaint for word in _NOT_FOUND):
        raise CredentialsUnavailable(
            "1Password has no such vault, item or field, or this account may not see it",
            place=reference,
            remedy="Compare the reference in the profile with the item in 1Password.",
        )
    if any(word in complaint for word in _LOCKED):
        raise CredentialsUnavailable("1Password is locked or nobody is signed in", place=reference)
    raise CredentialsUnavailable(
        f"`op read` failed with exit code {code}", place=reference, remedy="Run `op whoami` and follow what it says."
    )

"""What a profile opens, and with which credential: buckets, catalog, line, and what the steps are handed.

Reads open only the `*_ro` roles; a write role is opened by `enable_writes`, once the bucket's identity object has said
that it belongs to this profile (DESIGN section 7).
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.catalog.pointer import init_catalog, require_current_version
from ursa_pipelines.catalog.upgrade import format_of, upgrade
from ursa_pipelines.embedded.state import state_directory
from ursa_pipelines.errors import (
    BucketMismatch,
    ObjectExists,
    ObjectNotFound,
    ReleaseNotEnabled,
    RoleNotEnabled,
    WritesNotEnabled,
)
from ursa_pipelines.ingest.context import IngestContext
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.maintenance.release.judging import Desk
from ursa_pipelines.objects.digests import DigestCache
from ursa_pipelines.objects.keys import BUCKET_IDENTITY
from ursa_pipelines.objects.line import Line
from ursa_pipelines.objects.store import Bucket, Endpoint
from ursa_pipelines.objects.transfers import TransferLimits, Transfers
from ursa_pipelines.profiles import CredentialSource, LocalRole, Profile, Role, load_profile
from ursa_pipelines.profiles.timetable import Bandwidth
from ursa_pipelines.recordings.media_probe import PATIENCE_SECONDS, MediaProbe

WRITE_ROLES: tuple[Role, ...] = ("assets_rw", "raw_rw")
SOURCE_ROLE: LocalRole = "source_rw"
"""The right to move and remove what lies on a source. It opens no bucket, and the profile has to allow it."""

_NOT_MADE = (
    "It is not made yet in this working directory: `ursa dev` and `ursa demo` make it. If you ran them elsewhere, "
    "change to that directory."
)
_PURPOSES = {"raw_ro": "raw", "raw_rw": "raw", "assets_ro": "assets", "assets_rw": "assets"}


class Rooms:
    """The rooms behind a `DataInterface`. Nothing is opened before it is used, and credentials stay in memory."""

    def __init__(self, profile: str | None = None, *, config_path: Path | str | None = None, run_id: str | None = None):
        self.profile: Profile = load_profile(profile, Path(config_path) if config_path else None)
        self._credentials = CredentialSource(self.profile)
        self._enabled: frozenset[Role | LocalRole] = frozenset()
        self._buckets: dict[Role, Bucket] = {}
        self.writer = Writer(by=f"{_user()}@{socket.gethostname()}", run_id=run_id)

    def close(self) -> None:
        """Lets go of all connections. It may be used again, and then opens new ones.

        A process that makes many interfaces closes each of them: see `Bucket.close`.
        """
        for bucket in self._buckets.values():
            bucket.close()
        if self._media is not None:
            self._media.close()

    def enable_writes(self, roles: Sequence[Role | LocalRole] = ("assets_rw",)) -> None:
        """Allows writes with these roles; `ingest` needs `("assets_rw", "raw_rw")`, a release
        `("source_rw", "assets_rw")` and a profile that allows it, else `ReleaseNotEnabled`.

        Before the first write each bucket's identity object must name this profile's family and the bucket's
        purpose, else `BucketMismatch`: test code cannot write to production, nor the reverse.
        """
        for role in roles:
            if role == SOURCE_ROLE:
                self._require_release_allowed()
            elif role not in WRITE_ROLES:
                raise ValueError(f"{role!r} is no write role; there are assets_rw and raw_rw, and source_rw")
            elif role not in self._enabled:
                self._require_identity(role)
        self._enabled |= frozenset(roles)

    @property
    def sources(self) -> list[Source]:
        """The NAS shares and drives that the profile names."""
        state = state_directory()
        return [
            Source(one.name, one.path, _NOT_MADE if one.path.is_relative_to(state) else "", one.site)
            for one in self.profile.sources
        ]

    @property
    def state(self) -> Path:
        """The directory for what this host knows: digests of files, and the line that its uploads share.

        `.ursa` beside DAGSTER_HOME where that is set, so that all runs of the instance share it; in the working
        directory for the embedded store; else in the home directory.
        """
        if self.profile.store == "embedded" or os.environ.get("DAGSTER_HOME"):
            return state_directory()
        return Path.home() / ".ursa"

    @cached_property
    def line(self) -> Line:
        """The uplink that all uploads of this host share, with the profile's cap or the one set for the host."""
        return Line(Bandwidth(self.profile.settings.bandwidth, self.state), self.state)

    @cached_property
    def catalog(self) -> Catalog:
        """The live catalog, opened for reading at the prefix the pointer names."""
        if self.profile.family == "local":
            self._require_identity("assets_rw")
            init_catalog(self._bucket("assets_rw"), by=self.writer.by)
        return Catalog.open(self._bucket("assets_ro"), prefix=self.profile.catalog_prefix)

    def ingest_context(self, raw_role: Role = "raw_rw") -> IngestContext:
        """What the steps of `ursa_pipelines.ingest` are handed; `raw_role` is raw_ro where no raw object is written.

        Raises `WritesNotEnabled`, or `RoleNotEnabled` if that role was not enabled.
        """
        catalog = self._write_catalog
        if raw_role == "raw_rw":
            self._require_role(raw_role, "uploading raw bytes")
        return self._context(self._bucket(raw_role), catalog)

    @property
    def reading_context(self) -> IngestContext:
        """What the steps and the maintenance of `ursa_pipelines` are handed where they only read."""
        return self._context(self._bucket("raw_ro"), self.catalog)

    @cached_property
    def _rw_catalog(self) -> Catalog:
        assets, prefix = self._bucket("assets_rw"), self.profile.catalog_prefix
        if self.profile.family == "local" and prefix is None:
            catalog = Catalog(assets, init_catalog(assets, by=self.writer.by).prefix)
        else:
            catalog = Catalog.open(assets, prefix=prefix)
        # Asked here as well as before the first row, so that no bytes are sent for a catalog that takes no rows.
        if self.profile.family == "local":
            # Asked of the tables too: an upgrade that was interrupted is finished.
            if format_of(assets, catalog.prefix).due:
                upgrade(assets, catalog.prefix, by=self.writer.by)
        else:
            require_current_version(assets, catalog.prefix)
        return catalog

    @property
    def _write_catalog(self) -> Catalog:
        self._require_role("assets_rw", "writing rows")
        return self._rw_catalog

    def _require_role(self, role: Role | LocalRole, purpose: str) -> None:
        if not self._enabled:
            raise WritesNotEnabled("this interface only reads")
        if role not in self._enabled:
            remedy = f'Call enable_writes(roles=("{role}", "assets_rw")).' if role == SOURCE_ROLE else None
            raise RoleNotEnabled(f"{purpose} needs the role {role}", remedy=remedy)

    def _require_release_allowed(self) -> None:
        if not self.profile.release.enabled:
            raise ReleaseNotEnabled(
                "this profile allows nothing to leave a source", place=f"{self.profile.name}: release"
            )

    def release_desk(self, *, commit: bool) -> Desk:
        """What a release is handed; only with `commit` it may change sources, or write certificates.

        Raises `ReleaseNotEnabled`, `WritesNotEnabled`, `RoleNotEnabled`.
        """
        if commit:
            self._require_release_allowed()
            self._require_role(SOURCE_ROLE, "freeing room on a source")
        context = self.ingest_context(raw_role="raw_ro") if commit else self.reading_context
        rules = self.profile.release
        return Desk(context, self.sources, rules.retention_days, rules.grace_days)

    @cached_property
    def _transfers(self) -> Transfers:
        settings = self.profile.settings
        limits = TransferLimits(
            part_size=settings.part_size,
            workers=settings.upload_workers,
            resume_above=settings.resume_above,
            read_timeout=settings.read_timeout,
        )
        return Transfers(limits, self.line)

    @cached_property
    def _digests(self) -> DigestCache:
        return DigestCache(self.state)

    @cached_property
    def _media(self) -> MediaProbe | None:
        settings = self.profile.settings
        if not settings.media_probe or not MediaProbe.is_installed():
            return None
        # Less than what a source is given, so that a file on which its reader hangs is not taken for a drive that does.
        return MediaProbe(patience=min(PATIENCE_SECONDS, settings.read_timeout / 2))

    def _context(self, raw: Bucket, catalog: Catalog) -> IngestContext:
        settings = self.profile.settings
        return IngestContext(
            raw=raw,
            catalog=catalog,
            writer=self.writer,
            quiet_period=settings.quiet_period,
            reconstruct_after_bucket=settings.reconstruct_after_bucket,
            transfers=self._transfers,
            hash_workers=settings.hash_workers,
            digests=self._digests,
            recordings_at_once=settings.recordings_at_once,
            media=self._media,
            truncated=settings.truncated,
        )

    def _bucket(self, role: Role) -> Bucket:
        if role not in self._buckets:
            name = getattr(self.profile.buckets, _PURPOSES[role])
            self._buckets[role] = Bucket(name, self._endpoint(role))
        return self._buckets[role]

    def _endpoint(self, role: Role) -> Endpoint:
        def secret() -> tuple[str, str, str | None]:
            credential = self._credentials.credential(role)
            return credential.access_key_id, credential.secret_access_key, credential.session_token

        def renew() -> bool:
            return self._credentials.renew(role)

        is_embedded = self.profile.store == "embedded"
        return Endpoint(self._credentials.endpoint(), self.profile.region, secret, renew, is_embedded)

    def _require_identity(self, role: Role, *, may_create: bool = False) -> None:
        bucket = self._bucket(role)
        expected = {"family": self.profile.family, "purpose": _PURPOSES[role]}
        try:
            raw, _ = bucket.get(BUCKET_IDENTITY)
        except ObjectNotFound:
            if not may_create and self.profile.family != "local":
                raise BucketMismatch(
                    "the bucket has no identity object",
                    place=f"{bucket.name}/{BUCKET_IDENTITY}",
                    remedy=f"If {bucket.name} is this profile's bucket, run `ursa catalog init` once.",
                ) from None
            try:
                bucket.create(BUCKET_IDENTITY, json.dumps(expected).encode())
            except ObjectExists:
                self._require_identity(role)
            return
        try:
            document = json.loads(raw)
            found = {key: document[key] for key in expected}
        except (ValueError, KeyError, TypeError, RecursionError):
            found = {}
        if found != expected:
            raise BucketMismatch(
                f"the bucket says it is {found or 'unreadable'}, the profile says {expected}",
                place=f"{bucket.name}/{BUCKET_IDENTITY}",
                remedy=None
                if found
                else f"If it is this profile's bucket, restore {BUCKET_IDENTITY} in it with {json.dumps(expected)}.",
            )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())

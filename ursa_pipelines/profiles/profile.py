"""Profiles: shipped YAML for `local`, `r2` and `r2-test`, or a file of the user's own (runbook, Config selection).

No environment variable selects a profile, and no profile holds a secret: credentials are `op://` references.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from ursa_pipelines.embedded.state import state_directory
from ursa_pipelines.errors import ProfileInvalid
from ursa_pipelines.profiles.timetable import Timetable

Role = Literal["assets_ro", "assets_rw", "raw_ro", "raw_rw"]
ROLES: tuple[Role, ...] = ("assets_ro", "assets_rw", "raw_ro", "raw_rw")
LocalRole = Literal["source_rw"]
"""A right on this machine's sources, which no store and no credential gives: it has to be asked for."""
SHIPPED = ("local", "r2", "r2-test")

_CRON_RANGES = (range(60), range(24), range(1, 32), range(1, 13), range(7))
_CRON_PART = re.compile(r"(?:\*|([0-9]{1,2})(?:-([0-9]{1,2}))?)(?:/([0-9]{1,2}))?")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def _is_reference(text: str) -> str:
    parts = text.removeprefix("op://").split("/")
    if not text.startswith("op://") or len(parts) < 3 or not all(parts) or not text.isprintable():
        raise ValueError("is not an op://vault/item/field reference; secrets are never written into a profile")
    return text


def _is_endpoint(text: str) -> str:
    return _is_reference(text) if text.startswith("op://") else require_url(text)


def require_url(text: str) -> str:
    """An object store's URL without a trailing slash. Raises `ValueError` unless it is https, or http to loopback."""
    return _require_url(text, "https://ACCOUNT.r2.cloudflarestorage.com", bare=True).rstrip("/")


def require_webhook(text: str) -> str:
    """A webhook's URL. Raises `ValueError` unless it is https, or http to loopback."""
    return _require_url(text, "https://hooks.slack.com/services/...", bare=False)


def _require_url(text: str, example: str, *, bare: bool) -> str:
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        url = urlsplit("")
    plain = text.isascii() and text.isprintable() and not any(mark in text for mark in " @#")
    if not plain or not url.hostname or (bare and (url.path.strip("/") or "?" in text)):
        # The parser's own messages would repeat what was written there, which may be a secret put in the wrong place.
        raise ValueError(f"is not a URL such as {example}")
    if url.scheme != "https" and not (url.scheme == "http" and url.hostname in _LOOPBACK):
        raise ValueError("must be https; plain http only reaches this machine itself")
    return text


def _is_webhook(text: str) -> str:
    if text.startswith("op://"):
        return _is_reference(text)
    if urlsplit(require_webhook(text)).hostname not in _LOOPBACK:
        raise ValueError("is not an op:// reference; a webhook's URL is a secret and never written into a profile")
    return text


def _as_written(value: object) -> object:
    # YAML takes the word off for false.
    return "off" if value is False else value


def _is_timetable(text: str) -> str:
    return str(Timetable.parse(text))


def _is_cron(text: str) -> str:
    fields = text.split()
    if len(fields) != len(_CRON_RANGES) or not all(map(_is_cron_field, fields, _CRON_RANGES)):
        raise ValueError("is not a cron line of five fields such as 0 2 * * *, which is every night at two")
    return " ".join(fields)


def _is_cron_field(text: str, allowed: range) -> bool:
    """Whether it is a list of numbers, ranges and `*`, each with a step or without."""
    for part in text.split(","):
        match = _CRON_PART.fullmatch(part)
        if match is None:
            return False
        first, last, step = (int(one) if one else None for one in match.groups())
        if any(one is not None and one not in allowed for one in (first, last)) or step == 0:
            return False
        if first is not None and last is not None and first > last:
            return False
    return True


Reference = Annotated[str, AfterValidator(_is_reference)]
BucketName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\z")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class CredentialReferences(_Section):
    """Where 1Password keeps one role's credential."""

    access_key_id: Reference
    secret_access_key: Reference
    session_token: Reference | None = None


class Buckets(_Section):
    raw: BucketName
    assets: BucketName


class SourceSettings(_Section):
    """A NAS share or drive by name. A relative path is below the state directory.

    `site` names the hosts that mount it, where not every host does; Dagster's runs are then sent there.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_]+\z")
    path: Path
    site: str = Field(default="", pattern=r"^([a-z][a-z0-9-]{0,30})?\z")


class IngestSettings(_Section):
    """Periods are seconds, sizes bytes (DESIGN sections 4 and 5); `reconcile_at` is a cron line, UTC.

    `media_probe` looks into media files if the extra `[probe]` is installed, and `truncated` says whether a recording
    with files that are cut off is told of or refused.
    """

    quiet_period: float = Field(default=120, ge=0)
    reconstruct_after: float = Field(default=3600, ge=0)
    reconstruct_after_bucket: float = Field(default=86400, ge=0)
    wait_at_most: float = Field(default=86400, ge=0)
    look_back_days: int = Field(default=7, ge=1)
    part_size: int = Field(default=16 * 1024**2, ge=5 * 1024**2, le=1024**3)
    resume_above: int = Field(default=128 * 1024**2, ge=0)
    read_timeout: float = Field(default=120, gt=0)
    recordings_at_once: int = Field(default=4, ge=1, le=32)
    upload_workers: int = Field(default=8, ge=1, le=64)
    hash_workers: int | None = Field(default=None, ge=1, le=64)
    bandwidth: Annotated[str, BeforeValidator(_as_written), AfterValidator(_is_timetable)] | None = None
    reconcile_at: Annotated[str, AfterValidator(_is_cron)] = "0 2 * * *"
    media_probe: bool = True
    truncated: Literal["report", "refuse"] = "report"


class NotificationSettings(_Section):
    """Where notices go, if anywhere: a webhook's `op://` reference, or the URL of one on this machine.

    An ingest is announced from so many recordings on; a recording is stale after waiting for so many hours.
    """

    webhook: Annotated[str, AfterValidator(_is_webhook)] | None = Field(default=None, repr=False)
    announce_from: int = Field(default=5, ge=1)
    stale_after_hours: float = Field(default=24, gt=0)


class ReleaseSettings(_Section):
    """Whether room may be freed on sources at all, how old a copy in the bucket must be for that, and how long what was
    moved waits in the trash, in days. In production neither is less than one day.
    """

    enabled: bool = False
    retention_days: float = Field(default=30, ge=0, le=36_500)
    grace_days: float = Field(default=14, ge=0, le=36_500)


class ScrubSettings(_Section):
    """How much of what is stored is read again in a day (UTC), such as `200GB`, and what is not due yet: what was read
    within so many days.
    """

    bytes_per_day: ByteSize = Field(default=ByteSize(200_000_000_000), gt=0)
    requests_per_day: int = Field(default=100_000, gt=0)
    rest_days: float = Field(default=30, ge=0)


class Profile(_Section):
    """Everything that differs between one place and another. `family` is what the buckets say they belong to."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+\z")
    family: Literal["local", "production", "test"]
    store: Literal["embedded", "s3"] = "s3"
    endpoint: Annotated[str, AfterValidator(_is_endpoint)] | None = None
    region: str = "auto"
    buckets: Buckets
    credentials: dict[Role, CredentialReferences] = Field(default_factory=dict)
    catalog_prefix: str | None = Field(default=None, pattern=r"^ursa/[A-Za-z0-9._/-]+[A-Za-z0-9_-]\z")
    sources: list[SourceSettings] = Field(default_factory=list)
    settings: IngestSettings = Field(default_factory=IngestSettings)
    notifications: NotificationSettings = Field(default_factory=NotificationSettings)
    scrub: ScrubSettings = Field(default_factory=ScrubSettings)
    release: ReleaseSettings = Field(default_factory=ReleaseSettings)

    @model_validator(mode="after")
    def _can_be_opened(self) -> Profile:
        if self.store == "s3":
            if self.endpoint is None:
                raise ValueError("endpoint is missing")
            missing = [role for role in ROLES if role not in self.credentials]
            if missing:
                raise ValueError(f"credentials are missing for {', '.join(missing)}")
        elif self.endpoint is not None or self.credentials:
            raise ValueError("the embedded store makes its own endpoint and credentials; use store: s3 for another")
        if len({source.name for source in self.sources}) < len(self.sources):
            raise ValueError("two sources have the same name")
        if "r2" in {source.name for source in self.sources}:
            raise ValueError("a source cannot be called r2, which is the bucket")
        if {"central", "dagster"} & {source.site for source in self.sources}:
            raise ValueError("a site cannot be called central or dagster, which is what belongs to no site")
        if self.family == "production" and min(self.release.retention_days, self.release.grace_days) < 1:
            raise ValueError("release: in production retention_days and grace_days are at least 1")
        return self


def load_profile(profile: str | None, config_path: Path | None = None) -> Profile:
    """The shipped profile of that name, the one in the YAML file, or the shipped one with the file's fields over it.

    Raises `ProfileInvalid`, naming the field.
    """
    if profile is None and config_path is None:
        raise ProfileInvalid(f"no profile was named; there are {', '.join(SHIPPED)}")
    document: dict[str, Any] = {}
    if profile is not None:
        if profile not in SHIPPED:
            raise ProfileInvalid(f"there is no profile {profile!r}")
        shipped = resources.files("ursa_pipelines.profiles").joinpath(f"{profile}.yaml")
        document = _document(shipped.read_text(encoding="utf-8"), f"{profile}.yaml")
    if config_path is not None:
        try:
            text = config_path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ProfileInvalid(f"it cannot be read: {error}", place=str(config_path)) from None
        document = _merged(document, _document(text, str(config_path)))
    place = str(config_path or profile)
    try:
        found = Profile.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ProfileInvalid(
            first["msg"].removeprefix("Value error, "), place=f"{place}: {field}" if field else place
        ) from None
    state = state_directory()
    sources = [source.model_copy(update={"path": state / source.path.expanduser()}) for source in found.sources]
    return found.model_copy(update={"sources": sources})


def _document(text: str, place: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        raise ProfileInvalid(
            f"it is not valid YAML (line {line + 1 if line is not None else '?'})", place=place
        ) from None
    if not isinstance(document, dict):
        raise ProfileInvalid("it is not a YAML mapping", place=place)
    return document


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both_mappings = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both_mappings else value
    return merged

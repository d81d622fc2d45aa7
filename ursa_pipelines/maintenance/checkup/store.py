"""The object store: the way to it, its clock, its buckets by each role, and uploads that were not finished.

A role that may write is only tried by reading: nothing is written here (`ursa doctor --race-writes` does that).
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Literal
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError, ProxyError, SSLError, TimeoutError

from ursa_pipelines.errors import BucketMismatch, ClockWrong, ObjectNotFound, StoreDenied, StoreUnavailable
from ursa_pipelines.maintenance.checkup.check import Finding, Look
from ursa_pipelines.maintenance.checkup.doors import Doors
from ursa_pipelines.objects.keys import BUCKET_IDENTITY, RECORDINGS
from ursa_pipelines.objects.parts import speaking_of
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.objects.unfinished import UnfinishedUpload, UnfinishedUploads
from ursa_pipelines.objects.wire import connections_to
from ursa_pipelines.profiles import Role

_SECONDS_TO_START_THE_STORE = 90.0
_STORE_SECONDS = 40.0
_ANSWER_SECONDS = 10.0
_WRONG_ENDPOINT = "Check the endpoint in the profile, and that this machine's network reaches it."
# An answer's Date has no fractions, so that less than two seconds say nothing.
_SKEW_TOLD, _SKEW_FAILS = 2.0, 300.0
_NTP = (
    "Set this machine's clock: `sudo timedatectl set-ntp true`, or Date & Time in a Mac's settings. "
    "Beyond 15 minutes the store refuses every request."
)
_IDLE = timedelta(days=1)
_UPLOADS_COUNTED = 1000

Purpose = Literal["raw", "assets"]


def store_looks(doors: Doors) -> list[Look]:
    """From the way there to what lies in it. The catalog's looks need `assets bucket`."""
    is_embedded = doors.profile.store == "embedded"

    def role_needs(role: Role) -> tuple[str, ...]:
        return (f"credential {role}",) if role in doors.profile.credentials else ()

    looks = [
        Look(
            "endpoint",
            partial(_look_at_endpoint, doors),
            ("1Password",) if doors.is_endpoint_secret else (),
            _SECONDS_TO_START_THE_STORE if is_embedded else _STORE_SECONDS,
        ),
        Look("clock", partial(_look_at_clock, doors), ("endpoint",)),
    ]
    roles: tuple[tuple[Purpose, Role, Role], ...] = (("raw", "raw_ro", "raw_rw"), ("assets", "assets_ro", "assets_rw"))
    for purpose, reading, writing in roles:
        bucket = f"{purpose} bucket"
        look = partial(_look_at_bucket, doors, purpose, reading)
        looks.append(Look(bucket, look, ("clock", *role_needs(reading)), _STORE_SECONDS))
        look = partial(_look_at_writing_role, doors, writing)
        looks.append(Look(f"role {writing}", look, (bucket, *role_needs(writing)), _STORE_SECONDS))
    look = partial(_look_at_uploads, doors)
    return [*looks, Look("unfinished uploads", look, ("raw bucket", "assets bucket"), _STORE_SECONDS)]


def _look_at_endpoint(doors: Doors) -> Finding:
    url = doors.credentials.endpoint()
    # What 1Password keeps is not repeated.
    place = doors.profile.endpoint if doors.is_endpoint_secret else url
    # Any answer will do, so the request is not signed.
    asked = f"{url}/{doors.profile.buckets.raw}"
    try:
        with connections_to(url, urllib3.Timeout(_ANSWER_SECONDS)) as pool:
            started = time.monotonic()
            pool.request("HEAD", asked, retries=False, redirect=False)
            connected, before = time.monotonic(), time.time()
            answer = pool.request("HEAD", asked, retries=False, redirect=False)
            answered, after = time.monotonic(), time.time()
    except (HTTPError, OSError) as error:
        raise StoreUnavailable(_told_unreachable(error), place=place, remedy=_WRONG_ENDPOINT) from None
    doors.skew = _skew(answer.headers.get("Date", ""), (before + after) / 2)
    if answer.status >= 500:
        raise StoreUnavailable(f"the object store answers with {answer.status}", place=place)
    secure = " and TLS" if urlsplit(url).scheme == "https" else ""
    return Finding(
        f"{place} answers in {(answered - connected) * 1000:.0f} ms, "
        f"with the connection{secure} in {(connected - started) * 1000:.0f} ms"
    )


def _told_unreachable(error: Exception) -> str:
    match error:
        case NameResolutionError():
            return "its name is not known (DNS)"
        case SSLError():
            return "its certificate or TLS is not accepted; a proxy of the network may be in the way"
        case ProxyError():
            return "the proxy that this machine's settings name does not let it through"
        case NewConnectionError():
            return "nothing takes connections there"
        case TimeoutError():
            return f"it did not answer within {_ANSWER_SECONDS:g} s"
    return f"the connection broke ({type(error).__name__})"


def _skew(date: str, now: float) -> float | None:
    try:
        # The fraction of a second that a Date leaves out is half a second on average.
        return parsedate_to_datetime(date).timestamp() + 0.5 - now
    except (TypeError, ValueError):
        return None


def _look_at_clock(doors: Doors) -> Finding:
    if doors.skew is None:
        return Finding("the store does not say what time it is", "skipped")
    apart = abs(doors.skew)
    if apart <= _SKEW_TOLD:
        return Finding("agrees with the store's to 2 s")
    span = (
        f"{apart:.0f} s" if apart < 120 else f"{apart / 60:,.0f} minutes" if apart < 7200 else f"{apart / 3600:,.1f} h"
    )
    told = f"this machine's clock is {span} {'behind' if doors.skew > 0 else 'ahead of'} the store's"
    if apart > _SKEW_FAILS:
        raise ClockWrong(told, remedy=_NTP)
    return Finding(told, "warning", _NTP)


def _look_at_bucket(doors: Doors, purpose: Purpose, role: Role) -> Finding:
    bucket = doors.bucket(role)
    _require_listable(bucket)
    identity = _identity(bucket)
    expected = {"family": doors.profile.family, "purpose": purpose}
    place = f"{bucket.name}/{BUCKET_IDENTITY}"
    if identity is None and doors.profile.family == "local":
        return Finding(
            f"{bucket.name} can be listed as {role}; the first command that uses it marks it as this profile's"
        )
    if identity is None:
        remedy = f"If {bucket.name} is this profile's bucket, run `ursa catalog init` once."
        raise BucketMismatch("the bucket has no identity object", place=place, remedy=remedy)
    if identity != expected:
        found = identity or "unreadable"
        restore = f"If it is this profile's bucket, restore {BUCKET_IDENTITY} in it with {json.dumps(expected)}."
        told = f"the bucket says it is {found}, the profile says {expected}"
        raise BucketMismatch(told, place=place, remedy=None if identity else restore)
    return Finding(f"{bucket.name} can be listed as {role}, and is this profile's")


def _look_at_writing_role(doors: Doors, role: Role) -> Finding:
    bucket = doors.bucket(role)
    _require_listable(bucket)
    return Finding(f"{bucket.name} can be read; that it can be written is not tried")


def _require_listable(bucket: Bucket) -> None:
    try:
        next(bucket.list_objects(RECORDINGS), None)
    except ObjectNotFound:
        remedy = "Check the bucket names in the profile, or make the bucket, then run `ursa catalog init`."
        raise ObjectNotFound("there is no such bucket", place=bucket.name, remedy=remedy) from None


def _identity(bucket: Bucket) -> dict[str, str] | None:
    """What the identity object says: None if there is none, empty if it cannot be read."""
    try:
        document = json.loads(bucket.get(BUCKET_IDENTITY)[0])
        return {key: str(document[key])[:40] for key in ("family", "purpose")}
    except ObjectNotFound:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _look_at_uploads(doors: Doors) -> Finding:
    raw, assets = doors.bucket("raw_ro"), doors.bucket("assets_ro")
    ours = UnfinishedUploads(raw, assets).survey()
    told = _told_uploads(ours) + _told_of_others(raw, {one.record.upload_id for one in ours})
    gone = sum(one.idle_since is None for one in ours)
    idle = sum(one.idle_since is not None and one.idle_since < datetime.now(UTC) - _IDLE for one in ours)
    if gone or idle:
        orphaned = f"{gone:,} ended with only a record left, {idle:,} idle for more than a day"
        remedy = "Ingest their recordings to go on with them, or run `ursa doctor --clean-uploads`."
        return Finding(f"{told}; {orphaned}", "warning", remedy)
    return Finding(told)


def _told_uploads(ours: list[UnfinishedUpload]) -> str:
    idle = [one.idle_since for one in ours if one.idle_since]
    if not idle:
        return "none"
    stored = sum(one.stored_bytes for one in ours)
    return (
        f"{len(idle):,} with {stored / 1e6:,.1f} MB stored, the longest idle since {min(idle):%Y-%m-%d %H:%M %Z}; "
        "the next ingest of their recordings goes on with them"
    )


def _told_of_others(raw: Bucket, ours: set[str]) -> str:
    try:
        with speaking_of(raw, RECORDINGS):
            answer = raw.multipart_client.list_multipart_uploads(
                Bucket=raw.name, Prefix=RECORDINGS, MaxUploads=_UPLOADS_COUNTED
            )
    except StoreDenied:
        # Not every credential that reads may list them, and nothing needs it.
        return "; those of others cannot be listed as raw_ro"
    others = sum(one["UploadId"] not in ours for one in answer.get("Uploads", ()))
    return f"; {others:,} of others, which are never touched" if others else ""

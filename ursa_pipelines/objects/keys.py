"""The only module that builds and parses keys and `r2://bucket/key` URIs (DESIGN section 5)."""

from __future__ import annotations

import hashlib
import re

from ursa_pipelines.recordings.layout import MANIFEST

RECORDINGS = "recordings/"
MARKERS = "manifests/"
ACTIVE_POINTER = "ursa/ACTIVE.json"
BUCKET_IDENTITY = "ursa/BUCKET.json"
UPLOAD_RECORDS = "ursa/uploads/"
SCRUB = "ursa/scrub/"
RELEASES = "ursa/releases/"

_SCHEME = "r2://"
_DISPOSABLE = re.compile(r"ursa/(uploads/[^/]+|((?!\.\.?/)[A-Za-z0-9._-]+/)+tail/[^/]+)")


def recording_prefix(rec_id: str) -> str:
    """The prefix below which a recording's raw objects lie; ends in `/`."""
    return f"{RECORDINGS}{rec_id}/"


def raw_key(rec_id: str, path: str) -> str:
    """The key of a recording's file, manifest or participant.txt by its path in the recording directory."""
    return recording_prefix(rec_id) + path


def marker_key(rec_id: str) -> str:
    """The key of the commit marker, outside of what the bucket lock covers."""
    return f"{MARKERS}{rec_id}/{MANIFEST}"


def own_marker_key(rec_id: str) -> str:
    """Where the commit marker goes if a rig's own marker stands under `marker_key`."""
    return f"{MARKERS}{rec_id}/ursa_pipelines.json"


def upload_record_key(key: str) -> str:
    """Where the assets bucket says who sends the raw object of this key in parts."""
    return f"{UPLOAD_RECORDS}{hashlib.sha256(key.encode()).hexdigest()}.json"


def release_key(rec_id: str, certificate_id: str, happened: str = "") -> str:
    """Where the assets bucket keeps a release's certificate, or the record that something `happened` with it."""
    return f"{RELEASES}{rec_id}/{certificate_id}{f'.{happened}' if happened else ''}.json"


def scrub_state_key() -> str:
    """Where the assets bucket keeps how far the scrub has come, and what it has used today."""
    return f"{SCRUB}state.json"


def scrub_ledger_key(month: str) -> str:
    """Where it keeps when the recordings that started in this month (`2026-05`) were last read again."""
    return f"{SCRUB}{month}.jsonl.gz"


def is_disposable(key: str) -> bool:
    """Whether this is bookkeeping that ends: the record of an upload, or a mark in a catalog's tail."""
    return _DISPOSABLE.fullmatch(key) is not None


def uri(bucket: str, key: str) -> str:
    """`r2://bucket/key`; a trailing `/` of a prefix is kept."""
    return f"{_SCHEME}{bucket}/{key}"


def parse_uri(text: str) -> tuple[str, str]:
    """(bucket, key) of an `r2://` URI. Raises `ValueError` for any other scheme or an empty bucket."""
    bucket, separator, key = text.removeprefix(_SCHEME).partition("/")
    if not text.startswith(_SCHEME) or not bucket or not separator:
        raise ValueError(f"{text!r} is not an r2://bucket/key URI")
    return bucket, key

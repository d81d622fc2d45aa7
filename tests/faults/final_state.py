"""What a recording comes to in buckets and catalog, in a form that is the same for every run that ended well."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ursa_pipelines.catalog.catalog import Catalog

if TYPE_CHECKING:
    from tests.lab import Lab

_TXN = re.compile(r"\.[0-9a-f]{16}\Z")
_CHANGES_WITH_THE_RUN = {"reconstructed_at", "tool_version"}


def final_state(lab: Lab) -> dict[str, Any]:
    """Segments and markers by ETag, manifests by content, catalog keys without txn, rows without bookkeeping.

    Bucket names are left out, so that two labs can be compared.
    """
    stored: dict[str, Any] = {}
    for prefix in ("recordings/", "manifests/"):
        for info in lab.raw.list_objects(prefix):
            is_manifest = prefix == "recordings/" and info.key.endswith(".json")
            stored[info.key] = _timeless(json.loads(lab.raw.get(info.key)[0])) if is_manifest else info.etag
    entries = sorted(Catalog.open(lab.assets).entries(), key=lambda entry: entry.recording.recording_hash)
    rows = [row.comparable() for entry in entries for row in (entry.recording, *entry.modalities, *entry.participants)]
    return {
        "stored": stored,
        "catalog": sorted({_TXN.sub("", info.key) for info in lab.assets.list_objects("ursa/")}),
        "rows": json.loads(json.dumps(rows).replace(lab.raw.name, "RAW")),
    }


def _timeless(document: Any) -> Any:
    if isinstance(document, dict):
        return {name: _timeless(value) for name, value in document.items() if name not in _CHANGES_WITH_THE_RUN}
    return document

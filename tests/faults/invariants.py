"""The invariants, in one place: what holds after every fault, whatever it was (DESIGN section 11).

`broken` looks at a lab from outside: at its objects and catalog documents as they lie in the buckets, at the requests
that a proxy has passed on, at the source as it was and is, and at what was told. It says everything it finds, each
with the name of its invariant; `require` raises it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from tests.faults.final_state import final_state
from tests.faults.proxy import Seen
from tests.snapshot import snapshot
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.entries import Entry, read_entry
from ursa_pipelines.catalog.pointer import DEFAULT_PREFIX
from ursa_pipelines.errors import ManifestInvalid, ObjectNotFound, UrsaError
from ursa_pipelines.objects.keys import parse_uri
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.identity import UNKNOWN_PARTICIPANT
from ursa_pipelines.recordings.manifest import parse_manifest
from ursa_pipelines.recordings.rows import Row

if TYPE_CHECKING:
    from tests.lab import Lab

BYTES_BEFORE_ROWS = "no row without its bytes"
BYTES_UNCHANGED = "no byte changed or lost"
ROWS_ONCE = "no row twice"
TABLES_AS_ENTRIES = "the tables say what the entries say"
SOURCE_UNTOUCHED = "the source is untouched"
RAW_WRITTEN_ONCE = "no raw object written over or deleted"
MARKER_GAINS = "a commit marker only gains files"
SECRETS_KEPT = "no secret is told"
NAMES_KEPT = "no participant's name outside its table"
CONVERGES = "a rerun ends where an undisturbed run ends"
ALL = (
    BYTES_BEFORE_ROWS,
    BYTES_UNCHANGED,
    ROWS_ONCE,
    TABLES_AS_ENTRIES,
    SOURCE_UNTOUCHED,
    RAW_WRITTEN_ONCE,
    MARKER_GAINS,
    SECRETS_KEPT,
    NAMES_KEPT,
    CONVERGES,
)

# Others may have stated a digest in another form, which nobody believes.
_SHA256 = re.compile(r"[0-9a-f]{64}")
_READ_UP_TO = 64 * 1024**2
_SHORTEST_NAME = 5
_READERS = 8
_FROM_BYTES = ("ingest", "rebuild", "import")


@dataclass
class Evidence:
    """What a test knows besides the lab.

    `sources` are snapshots of source directories from before, of what no one but us could have changed since;
    `stored` is what the raw bucket held at an earlier moment (`stored_now`); `writes` are attempts to write to a
    source. `told` is what was said, by where; `places` are directories of which every file is searched. `names` are
    participants' names beside those that the lab shows. `state` is that of an undisturbed run, to which `found` (or the
    final state) is compared; `at_rest`: nothing is half done. `excused` are the invariants that a test breaks itself.
    """

    sources: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict)
    stored: Mapping[str, str] = field(default_factory=dict)
    requests: Sequence[Seen] = ()
    writes: Sequence[str] = ()
    told: Mapping[str, str] = field(default_factory=dict)
    places: Collection[Path] = ()
    names: Collection[str] = ()
    state: Mapping[str, Any] | None = None
    found: Mapping[str, Any] | None = None
    at_rest: bool = False
    excused: Collection[str] = ()


def require(lab: Lab, evidence: Evidence | None = None) -> None:
    """Raises an `AssertionError` that names every invariant that does not hold."""
    found = broken(lab, evidence or Evidence())
    assert not found, "\n".join(("these invariants do not hold:", *found))


def broken(lab: Lab, evidence: Evidence) -> list[str]:
    """Every invariant that does not hold, as `name: what was found`."""
    raw, assets = list(lab.raw.list_objects("")), list(lab.assets.list_objects("ursa/"))
    entries = _entries(lab)
    with ThreadPoolExecutor(_READERS) as pool:
        wanted = [info.key for info in raw if info.size <= _READ_UP_TO]
        bodies = dict(zip(wanted, pool.map(lambda key: _read(lab.raw, key), wanted), strict=True))
        small = [info.key for info in assets if "/tables/" not in info.key]
        documents = dict(zip(small, pool.map(lambda key: _read(lab.assets, key)[0], small), strict=True))
    sizes = {info.key: info.size for info in raw}
    keys = [*sizes, *(info.key for info in assets)]
    checks = {
        BYTES_BEFORE_ROWS: lambda: _without_bytes(lab, entries, sizes, at_rest=evidence.at_rest),
        BYTES_UNCHANGED: lambda: _changed(lab, evidence, raw, bodies),
        ROWS_ONCE: lambda: _doubled(entries, documents),
        TABLES_AS_ENTRIES: lambda: _tables_that_differ(lab, entries),
        SOURCE_UNTOUCHED: lambda: _touched(evidence),
        RAW_WRITTEN_ONCE: lambda: _written_over(lab, evidence.requests),
        MARKER_GAINS: lambda: _markers_that_lost(lab, evidence.requests),
        SECRETS_KEPT: lambda: _secrets(lab, evidence, keys, documents),
        NAMES_KEPT: lambda: _names(lab, evidence, keys, bodies, documents, entries),
        CONVERGES: lambda: _elsewhere(lab, evidence),
    }
    return [
        f"{name}: {problem}" for name, check in checks.items() if name not in evidence.excused for problem in check()
    ]


def stored_now(lab: Lab) -> dict[str, str]:
    """Key to ETag of every raw object that must stay as it is. A manifest that is a stub may be replaced."""
    found = {}
    for info in lab.raw.list_objects("recordings/"):
        if info.key.endswith(".json") and _is_stub(lab.raw.get(info.key)[0]):
            continue
        found[info.key] = info.etag
    return found


def _without_bytes(lab: Lab, entries: Sequence[Entry], sizes: Mapping[str, int], *, at_rest: bool) -> Iterator[str]:
    for entry in entries:
        if not any(item.op.startswith(_FROM_BYTES) for item in entry.log):
            continue
        name = entry.recording.rec_id or entry.recording.recording_hash
        for row in entry.modalities:
            if row.raw_storage_uri is None:
                continue
            bucket, prefix = parse_uri(row.raw_storage_uri)
            there = [size for key, size in sizes.items() if key.startswith(prefix)]
            if bucket != lab.raw.name or len(there) < max(1, row.segment_count) or sum(there) < row.bytes:
                yield (
                    f"{name}/{row.modality}: {row.segment_count} segments of {row.bytes} bytes are registered, "
                    f"{len(there)} of {sum(there)} are in the bucket"
                )
        if at_rest and entry.recording.rec_id:
            try:
                yield from (f"{name}: {problem}" for problem in lab.data.verify(entry.recording.rec_id).problems)
            except UrsaError as error:
                yield f"{name}: {error}"


def _changed(
    lab: Lab, evidence: Evidence, raw: Sequence[Any], bodies: Mapping[str, tuple[bytes, str | None]]
) -> Iterator[str]:
    now = {info.key: info.etag for info in raw}
    for key, etag in evidence.stored.items():
        if now.get(key) != etag:
            yield f"{key} was there and is {'another now' if key in now else 'gone'}"
    digests = {key: hashlib.sha256(body).hexdigest() for key, (body, _) in bodies.items()}
    for key, (_, stated) in bodies.items():
        if stated and _SHA256.fullmatch(stated) and stated != digests[key]:
            yield f"{key} is not what its writer says it is"
    for key, (body, _) in bodies.items():
        _, rec_id, path = [*key.split("/", 2), "", ""][:3]
        if not (key.startswith("recordings/") and _is_manifest(path)):
            continue
        for file in _listed(body, rec_id, key):
            found = digests.get(f"recordings/{rec_id}/{file.path}")
            if found is not None and file.sha256 not in {None, found}:
                yield f"recordings/{rec_id}/{file.path} is not what {path} lists"
    offered: dict[str, set[str]] = defaultdict(set)
    for directory, files in evidence.sources.items():
        for path, (_, _, _, content) in files.items():
            for relative in _keys_of(directory, Path(path)):
                offered[relative].add(hashlib.sha256(content).hexdigest())
    for key, ones in offered.items():
        if key in digests and digests[key] not in ones and not _is_manifest(key.split("/", 2)[2]):
            yield f"{key} is not what the source holds"


def _keys_of(directory: Path, path: Path) -> Iterator[str]:
    """The key of a file of the source, whose directory is a recording or holds recordings."""
    parts = path.relative_to(directory.parent).parts
    at = next((number for number, part in enumerate(parts) if part.startswith("rec_")), None)
    if at is not None and len(parts) > at + 1 and path.is_file():
        yield f"recordings/{'/'.join(parts[at:])}"


def _doubled(entries: Sequence[Entry], documents: Mapping[str, bytes]) -> Iterator[str]:
    for what, values in (
        ("recording_hash", [entry.recording.recording_hash for entry in entries]),
        ("rec_id", [entry.recording.rec_id for entry in entries if entry.recording.rec_id]),
    ):
        yield from (f"{what} {value} has {count} rows" for value, count in Counter(values).items() if count > 1)
    claims = {key.rpartition("/")[2]: body for key, body in documents.items() if "/rec_ids/" in key}
    for entry in entries:
        rows = [row.primary_key for row in (*entry.modalities, *entry.participants)]
        twice = [key for key, count in Counter(rows).items() if count > 1]
        yield from (f"{entry.recording.rec_id} has {key} twice" for key in twice)
        if len({item.txn for item in entry.log}) != len(entry.log):
            yield f"{entry.recording.rec_id} has a write twice in its history"
        claim = claims.get(f"{entry.recording.rec_id}.json")
        if claim and json.loads(claim).get("recording_hash") != entry.recording.recording_hash:
            yield f"{entry.recording.rec_id} is claimed for another recording than has its row"


def _tables_that_differ(lab: Lab, entries: Sequence[Entry]) -> Iterator[str]:
    """What a reader is told, from the tables and the tail, beside what the entries say."""
    try:
        catalog = Catalog.open(lab.assets)
        if lab.assets.head(f"{catalog.prefix}/HEAD.json") is None:
            for _ in catalog.entries():
                pass
            return
        told = catalog.snapshot()
    except UrsaError as error:
        yield f"they cannot be read: {error}"
        return
    rows: dict[str, list[Row]] = {
        "recordings": [entry.recording for entry in entries],
        "modalities": [row for entry in entries for row in entry.modalities],
    }
    for table, expected in rows.items():
        found = Counter(_shown(row) for row in told.rows(table, None))
        wanted = Counter(map(_shown, expected))
        yield from (f"{table} lacks {row}" for row in wanted - found)
        yield from (f"{table} has {row} too much" for row in found - wanted)
    ids = Counter(row.primary_key for row in told.rows("participants", None))
    yield from (f"participants has {key} twice" for key, count in ids.items() if count > 1)


def _touched(evidence: Evidence) -> Iterator[str]:
    yield from evidence.writes
    for directory, before in evidence.sources.items():
        now = snapshot(directory)
        yield from (f"{path} was changed" for path in before if now.get(path) != before[path])
        yield from (f"{path} was made" for path in now.keys() - before.keys())


def _written_over(lab: Lab, requests: Sequence[Seen]) -> Iterator[str]:
    written: dict[str, list[str]] = defaultdict(list)
    manifests: dict[tuple[str, str], bytes] = {}
    for seen in requests:
        method, key = seen.request.partition(" ")[0], _raw_key(lab, seen)
        if key is None:
            continue
        if method == "POST" and "delete" in seen.query:
            yield f"{seen.request}: objects are deleted by the list"
        if not key.startswith("recordings/"):
            continue
        replaced = manifests.get((key, seen.headers.get("if-match", "").strip('"')))
        if seen.etag:
            manifests[key, seen.etag.strip('"')] = seen.manifest
        if method == "DELETE" and "uploadId" not in seen.query:
            yield f"{seen.request}: a raw object is deleted"
        writes = (method == "PUT" and "partNumber" not in seen.query) or (method == "POST" and "uploadId" in seen.query)
        if not writes:
            continue
        # Whoever replaces a manifest has seen that it is a stub.
        replaces = replaced is not None and _is_stub(replaced)
        if seen.headers.get("if-none-match") != "*" and not replaces:
            yield f"{seen.request}: it is written whatever stands there"
        if seen.status is not None and seen.status < 300:
            written[f"{key}{' over a stub' if replaces else ''}"].append(seen.query.get("uploadId", ""))
    # An upload that is completed twice, by two who joined it, is stored once.
    for key, uploads in written.items():
        once = len(uploads) == 1 or (uploads[0] and len(set(uploads)) == 1)
        if not once:
            yield f"{key} was written {len(uploads)} times ({', '.join(filter(None, uploads))})"


def _markers_that_lost(lab: Lab, requests: Sequence[Seen]) -> Iterator[str]:
    before: dict[str, dict[str, Any]] = {}
    for seen in requests:
        key = _raw_key(lab, seen)
        if key is None or not key.startswith("manifests/"):
            continue
        if seen.request.startswith("DELETE"):
            yield f"{seen.request}: a commit marker is deleted"
        if not seen.marker or seen.status is None or seen.status >= 300:
            continue
        if seen.condition is None:
            yield f"{seen.request}: it is written whatever stands there"
        files = json.loads(seen.marker).get("files", {})
        lost = [path for path, one in before.get(key, {}).items() if files.get(path) != one]
        yield from (f"{key} lost or changed {path}" for path in lost)
        before[key] = files


def _secrets(lab: Lab, evidence: Evidence, keys: Sequence[str], documents: Mapping[str, bytes]) -> Iterator[str]:
    secrets = [one for one in lab.raw._endpoint.secret() if one]
    for place, text in _texts(evidence, keys, documents):
        if any(secret in text for secret in secrets):
            yield f"a key of the store is in {place}"


def _names(
    lab: Lab,
    evidence: Evidence,
    keys: Sequence[str],
    bodies: Mapping[str, tuple[bytes, str | None]],
    documents: Mapping[str, bytes],
    entries: Sequence[Entry],
) -> Iterator[str]:
    names = {*evidence.names, *_names_in(entries, documents)}
    for source in (lab.nas, lab.usb):
        names |= {_decoded(path.read_bytes()) for path in source.glob("*/participant.txt") if path.is_file()}
    names |= {_decoded(body) for key, (body, _) in bodies.items() if _is_participants(key)}
    names = {name.strip() for name in names if len(name.strip()) >= _SHORTEST_NAME} - {UNKNOWN_PARTICIPANT}
    if not names:
        return
    rows = {
        f"the rows of {entry.recording.rec_id}": "".join(
            row.model_dump_json() for row in (entry.recording, *entry.modalities)
        )
        for entry in entries
    }
    # An entry and an edit are where names belong; of an entry all but its participants is looked at above.
    others = {key: body for key, body in documents.items() if "/entries/" not in key and "/participants/" not in key}
    for place, text in (*rows.items(), *_texts(evidence, keys, others)):
        if any(name in text for name in names):
            yield f"a name is in {place}"


def _elsewhere(lab: Lab, evidence: Evidence) -> Iterator[str]:
    if evidence.state is None:
        return
    try:
        now = evidence.found or final_state(lab)
    except UrsaError as error:
        yield f"it cannot be read: {error}"
        return
    for part, expected in evidence.state.items():
        if now[part] == expected:
            continue
        ours, theirs = (
            json.dumps(one, sort_keys=True, default=str, indent=1).splitlines() for one in (now[part], expected)
        )
        differing = sorted(set(ours) ^ set(theirs))[:6]
        yield f"{part}: {' | '.join(line.strip() for line in differing) or 'their order'}"


def _live(lab: Lab) -> Catalog:
    try:
        return Catalog.open(lab.assets)
    except UrsaError:
        # That it cannot be opened is told where it is read.
        return Catalog(lab.assets, DEFAULT_PREFIX)


def _entries(lab: Lab) -> list[Entry]:
    catalog, found = _live(lab), list[Entry]()
    for info in lab.assets.list_objects(f"{catalog.prefix}/entries/"):
        with suppress(UrsaError):
            if one := read_entry(lab.assets, catalog.prefix, info.key.rpartition("/")[2].removesuffix(".json")):
                found.append(one[0])
    return found


def _read(bucket: Bucket, key: str) -> tuple[bytes, str | None]:
    try:
        body, info = bucket.get(key)
    except ObjectNotFound:
        return b"", None
    return body, info.sha256


def _texts(evidence: Evidence, keys: Sequence[str], documents: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    yield "a key", "\n".join(keys)
    yield from evidence.told.items()
    yield from ((key, body.decode(errors="replace")) for key, body in documents.items())
    for place in evidence.places:
        for path in place.rglob("*"):
            if path.is_file():
                yield str(path), path.read_bytes().decode(errors="replace")


def _names_in(entries: Sequence[Entry], documents: Mapping[str, bytes]) -> Iterator[str]:
    for entry in entries:
        yield from (str((row.metadata or {}).get("display_name") or "") for row in entry.participants)
    for key, body in documents.items():
        if "/participants/" in key:
            yield from (str(item.get("display_name") or "") for item in json.loads(body).get("log", ()))


def _shown(row: Any) -> str:
    return json.dumps(row.comparable(), sort_keys=True)


def _raw_key(lab: Lab, seen: Seen) -> str | None:
    """The key that a request is about, or None if it is about another bucket."""
    bucket, _, key = urlsplit(seen.request.partition(" ")[2]).path.lstrip("/").partition("/")
    return unquote(key) if bucket == lab.raw.name else None


def _is_manifest(path: str) -> bool:
    return path == "manifest.json" or path.startswith("_node_manifests/")


def _is_participants(key: str) -> bool:
    return key.endswith("/participant.txt") or "/_node_participants/" in key


def _is_stub(raw: bytes) -> bool:
    try:
        return not json.loads(raw).get("files")
    except (ValueError, AttributeError):
        return False


def _listed(raw: bytes, rec_id: str, key: str) -> Sequence[Any]:
    try:
        return parse_manifest(raw, rec_id=rec_id, place=key).files
    except ManifestInvalid:
        return ()


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8-sig", errors="replace")

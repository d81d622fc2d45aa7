"""What one recording, file or part more costs: requests, bytes and seconds, each from sizes that differ.

    uv run python -m benchmarks.scaling

Takes some minutes and writes benchmarks/slopes.json; `uv run python -m benchmarks.projection` makes docs/scaling.md of
it. Requests are counted on the wire and told by R2's two classes, so they are the same on any machine; seconds are of
this one and the embedded store.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import re
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from benchmarks.reconciliation import measure as measure_reconciliation
from benchmarks.reconciliation import prepare as prepare_reconciliation
from benchmarks.seeding import FAMILIES, change_of, seed
from tests.faults.detour import Detour, make_detour
from tests.faults.proxy import Seen
from tests.lab import Lab, make_lab
from ursa_pipelines import DataInterface
from ursa_pipelines.catalog.pointer import DEFAULT_PREFIX
from ursa_pipelines.catalog.tables.fold import fold, refold
from ursa_pipelines.catalog.writing import Registration, write_entries
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.ingest.batch import BatchItem
from ursa_pipelines.maintenance.rebuild import rebuild
from ursa_pipelines.objects.store import Bucket

SLOPES = Path(__file__).with_name("slopes.json")
MIB = 1024 * 1024
PART_SIZE = 5 * MIB
SMALL = 64
TABLE_SIZES, FOLDED = (20_000, 100_000), 1_000
ENTRIES = (1_000, 5_000)
REBUILT = (100, 400)
COMPARED = (2_000, 10_000)

_LISTS = re.compile(r"[?&](list-type|uploads|uploadId|prefix|versions)\b")


@dataclass(frozen=True)
class Shape:
    """So many recordings of so many files of so many bytes."""

    recordings: int
    files: int
    size: int = SMALL

    @property
    def parts(self) -> int:
        """Of each file: none if it goes in one piece."""
        return -(-self.size // PART_SIZE) if self.size > 8 * MIB else 0

    def row(self) -> list[float]:
        """What a number of requests is made of: what comes once, recordings, files, files in parts, parts."""
        files = self.recordings * self.files
        return [1, self.recordings, files, files if self.parts else 0, files * self.parts]


SHAPES = (
    Shape(5, 1),
    Shape(20, 1),
    Shape(20, 10),
    Shape(4, 1, 2 * PART_SIZE),
    Shape(4, 1, 4 * PART_SIZE),
    Shape(4, 3, 2 * PART_SIZE),
)
MADE_OF = ("once", "recording", "file", "file in parts", "part")


def class_of(request: str) -> str | None:
    """R2's class of a request, `A` or `B`; None for what is free (https://developers.cloudflare.com/r2/pricing/)."""
    method = request.partition(" ")[0]
    if method == "DELETE":
        return None
    return "A" if method in {"PUT", "POST"} or (method == "GET" and _LISTS.search(request)) else "B"


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--state", type=Path, help="where the embedded store keeps its data; else a new directory")
    state = given.parse_args().state or Path(tempfile.mkdtemp(prefix="scaling-"))
    state.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(state / "dagster")
    store_state = state / ".ursa"
    store = open_store(store_state)
    try:
        measured = {
            "made": {
                "date": f"{datetime.now(UTC):%Y-%m-%d}",
                "cores": os.cpu_count(),
                "machine": platform.machine(),
                "python": platform.python_version(),
            },
            "requests": _requests(store_state, state),
            "catalog": _catalog(store_state),
            "rebuild_seconds": _rebuild(store_state, state),
            "reconciliation": _reconciliation(state),
        }
    finally:
        store.release()
    SLOPES.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    print(f"{SLOPES.name} is written")


def _requests(store_state: Path, state: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Of each step and class, how many requests each thing costs that a recording is made of."""
    counted: dict[str, list[Counter[str]]] = {}
    for number, shape in enumerate(SHAPES):
        with _lab(store_state, state / f"requests-{number}-{secrets.token_hex(3)}") as (lab, detour):
            directories = [_write(lab.nas, at, shape) for at in range(shape.recordings)]
            rec_ids = [directory.name for directory in directories]
            for step, work in {
                "ingest": lambda data, some=directories: _ingest(data, some),
                "ingest again": lambda data, some=directories: _ingest(data, some),
                "fold": lambda data: data.fold(),
                "verify": lambda data, some=rec_ids: [data.verify(one) for one in some],
                "verify deep": lambda data, some=rec_ids: [data.verify(one, deep=True) for one in some],
                "rebuild": lambda data: rebuild(data.ingest_context(), data.catalog, "ursa/rebuilt"),
            }.items():
                counted.setdefault(step, []).append(_count(detour, work))
        print(f"requests of {shape}", flush=True)
    of = np.array([shape.row() for shape in SHAPES], dtype=float)
    return {
        step: {name: dict(zip(MADE_OF, _fit(of, [one[name] for one in counts]), strict=True)) for name in ("A", "B")}
        for step, counts in counted.items()
    }


def _fit(of: np.ndarray, counts: Sequence[int]) -> list[float]:
    found, *_ = np.linalg.lstsq(of, np.array(counts, dtype=float), rcond=None)
    return [round(float(one), 3) for one in found]


def _count(detour: Detour, work: Callable[[DataInterface], object]) -> Counter[str]:
    detour.proxy.seen.clear()
    with closing(detour.interface()) as data:
        work(data)
    seen: list[Seen] = list(detour.proxy.seen)
    return Counter(name for one in seen if (name := class_of(one.request)))


def _ingest(data: DataInterface, directories: Sequence[Path]) -> None:
    items: list[BatchItem] = data.ingest_many(directories)
    assert {item.status for item in items} <= {"OK", "SKIP"}, items


@contextmanager
def _lab(store_state: Path, directory: Path) -> Iterator[tuple[Lab, Detour]]:
    directory.mkdir(parents=True)
    lab = make_lab(store_state, directory)
    detour = make_detour(lab, open_store(store_state), directory)
    profile = yaml.safe_load(detour.config.read_text())
    profile["settings"] |= {"part_size": PART_SIZE, "resume_above": 128 * MIB, "quiet_period": 0}
    detour.config.write_text(yaml.safe_dump(profile))
    path, os.environ["PATH"] = os.environ["PATH"], f"{detour.programs}{os.pathsep}{os.environ['PATH']}"
    try:
        yield lab, detour
    finally:
        os.environ["PATH"] = path
        detour.proxy.close()
        lab.close()


def _write(source: Path, number: int, shape: Shape) -> Path:
    """A recording whose manifest attests every file."""
    at = datetime(2026, 5, 20, 8, tzinfo=UTC) + timedelta(seconds=number)
    directory = source / f"rec_{at:%Y%m%d_%H%M%S}_{number:04x}"
    (directory / "camera_a").mkdir(parents=True)
    entries = []
    for segment in range(shape.files):
        content = hashlib.sha256(f"{number} {segment}".encode()).digest() * (shape.size // 32)
        (directory / "camera_a" / f"seg_{segment:04}.mp4").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        entries.append({"path": f"camera_a/seg_{segment:04}.mp4", "size_bytes": len(content), "sha256": digest})
    (directory / "manifest.json").write_text(json.dumps({"recording_id": directory.name, "files": entries}))
    return directory


def _catalog(store_state: Path) -> dict[str, object]:
    """Bytes of tables and entries of a recording of ten modalities, and seconds of what goes over them."""
    tables, folds = [], []
    for size in TABLE_SIZES:
        with _assets(store_state) as assets:
            seed(assets, size, range(0), lambda text: None)
            tables.append(_bytes(assets, f"{DEFAULT_PREFIX}/tables/"))
            _register(assets, size, range(size, size + FOLDED))
            folds.append(_seconds(partial(fold, assets, DEFAULT_PREFIX, by="bench")))
        print(f"tables of {size:,}", flush=True)
    entries, refolds = [], []
    for size in ENTRIES:
        with _assets(store_state) as assets:
            _register(assets, size, range(size))
            entries.append(_bytes(assets, f"{DEFAULT_PREFIX}/entries/"))
            refolds.append(_seconds(partial(refold, assets, DEFAULT_PREFIX, by="bench")))
        print(f"entries of {size:,}", flush=True)
    return {
        "table_bytes": _line(TABLE_SIZES, tables),
        "fold_seconds": {"new": FOLDED, "at": dict(zip(map(str, TABLE_SIZES), folds, strict=True))},
        "entry_bytes": _line(ENTRIES, entries),
        "refold_seconds": _line(ENTRIES, refolds),
    }


def _register(assets: Bucket, size: int, numbers: range) -> None:
    changes = [change_of(size, number, is_stated=True, families=FAMILIES) for number in numbers]
    for outcome in write_entries(assets, DEFAULT_PREFIX, changes, follow_pointer=False):
        assert isinstance(outcome, Registration), outcome


@contextmanager
def _assets(store_state: Path) -> Iterator[Bucket]:
    with tempfile.TemporaryDirectory() as directory:
        lab = make_lab(store_state, Path(directory))
        try:
            yield lab.assets
        finally:
            lab.close()


def _rebuild(store_state: Path, state: Path) -> dict[str, object]:
    seconds = []
    for size in REBUILT:
        with _lab(store_state, state / f"rebuild-{size}-{secrets.token_hex(3)}") as (lab, _):
            _ingest(lab.data, [_write(lab.nas, number, Shape(1, 1)) for number in range(size)])
            work = partial(rebuild, lab.data.ingest_context(), lab.data.catalog, "ursa/rebuilt")
            seconds.append(_seconds(work))
        print(f"rebuild of {size:,}", flush=True)
    return _line(REBUILT, seconds)


def _reconciliation(state: Path) -> dict[str, object]:
    seconds, peaks = [], []
    for size in COMPARED:
        config = prepare_reconciliation(state, size)
        # A peak is that of a process's whole life.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            measured = pool.submit(measure_reconciliation, config).result()
        seconds.append(measured.seconds)
        peaks.append(measured.peak_mib)
    return {"seconds": _line(COMPARED, seconds), "peak_mib": _line(COMPARED, peaks)}


def _bytes(bucket: Bucket, prefix: str) -> int:
    return sum(info.size for info in bucket.list_objects(prefix))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 3)


def _line(sizes: Sequence[int], values: Sequence[float]) -> dict[str, object]:
    """What one more costs, between the least and the largest size, and what was measured."""
    slope = (values[-1] - values[0]) / (sizes[-1] - sizes[0])
    return {"each": float(f"{slope:.4g}"), "measured": dict(zip(map(str, sizes), values, strict=True))}


if __name__ == "__main__":
    main()

"""A process that waits to be killed: it has imported everything once, and forks for each run of a scenario.

It reads one JSON document a line: the scenario, the directory of its lab, where its output goes, and the fail point
(name, how often before) at which it is to kill itself. It answers with the child's pid and, when that has ended, with
how.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ursa_pipelines
from ursa_pipelines import DataInterface, failpoints
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.cutover import cutover, rollback
from ursa_pipelines.catalog.pointer import DEFAULT_PREFIX
from ursa_pipelines.catalog.tables.upkeep import compact
from ursa_pipelines.maintenance.importing.run import apply_import, plan_import
from ursa_pipelines.maintenance.participants_edits import apply_edit, plan_merge
from ursa_pipelines.maintenance.rebuild import rebuild

REC, LATER, LAST = "rec_20260520_195628_b1dd", "rec_20260521_080000_c0de", "rec_20260522_080000_beef"
REBUILT = "ursa/catalog-2"
ARIA, ARYA = "Aria Lindqvist", "Arya Lindqvist"

# What the rooms import when they are first used, so that no child has to.
_USED_LATER = ("boto3", "deltalake", "obstore.store", "polars", "pyarrow.parquet", "pyarrow.csv", "pandas")
_ROOMS = ("catalog", "ingest", "maintenance", "objects", "profiles", "recordings")

Run = Callable[[DataInterface, Path], object]


def _ingest(data: DataInterface, place: Path) -> None:
    data.ingest(source_dir=place / "nas" / REC)


def _ingest_halves(data: DataInterface, place: Path) -> None:
    data.ingest(source_dir=place / "nas" / REC)
    data.ingest(source_dir=place / "usb" / REC)


def _ingest_many(data: DataInterface, place: Path) -> None:
    items = data.ingest_many([place / "nas"])
    assert {item.status for item in items} == {"OK"}, items


def _reconstruct_and_register(data: DataInterface, place: Path) -> None:
    data.reconstruct_manifest(REC)
    data.ingest_from_r2(rec_id=REC)


def _register(data: DataInterface, place: Path) -> None:
    data.ingest_from_r2(rec_id=REC)


def _fold(data: DataInterface, place: Path) -> None:
    data.fold()


def _compact(data: DataInterface, place: Path) -> None:
    catalog = _writable(data)
    compact(catalog.assets, catalog.prefix, by="test", dry_run=False)


def _upgrade(data: DataInterface, place: Path) -> None:
    data.upgrade_catalog()
    assert not data.catalog_format().due


def _rebuild(data: DataInterface, place: Path) -> None:
    context = data.ingest_context(raw_role="raw_ro")
    done = rebuild(context, context.catalog, REBUILT)
    assert done.ok, done


def _cut_over(data: DataInterface, place: Path) -> None:
    done = cutover(_writable(data).assets, REBUILT, writer=data.writer, reason="test")
    assert done.ok, done


def _roll_back(data: DataInterface, place: Path) -> None:
    done = rollback(_writable(data).assets, to=DEFAULT_PREFIX, writer=data.writer, reason="test")
    assert done.ok, done
    # The last step of it, which an interrupted one leaves to the nightly fold.
    data.fold()


def _download(data: DataInterface, place: Path) -> None:
    data.download(data.query(), place / "downloaded")


def _merge(data: DataInterface, place: Path) -> None:
    catalog = _writable(data)
    apply_edit(catalog, plan_merge(catalog, ARYA, ARIA), data.writer)


def _verify(data: DataInterface, place: Path) -> None:
    found = data.verify(REC, deep=True)
    assert found.ok, found
    assert found.level == "sha256"


def _import(data: DataInterface, place: Path) -> None:
    context = data.ingest_context(raw_role="raw_ro")
    with plan_import(context.catalog, context.raw, place / "exported") as plan:
        report = apply_import(context.catalog, plan, context.writer)
    assert plan.is_clean, plan
    assert not report.failed.count, report


def _writable(data: DataInterface) -> Catalog:
    return data.ingest_context(raw_role="raw_ro").catalog


RUNS: dict[str, Run] = {
    "ingest": _ingest,
    "ingest without a manifest": _ingest,
    "ingest over a stub": _ingest,
    "ingest two halves": _ingest_halves,
    "ingest many": _ingest_many,
    "reconstruct and register": _reconstruct_and_register,
    "register": _register,
    "first fold": _fold,
    "fold": _fold,
    "compact": _compact,
    "upgrade": _upgrade,
    "rebuild": _rebuild,
    "cut over": _cut_over,
    "roll back": _roll_back,
    "download": _download,
    "merge participants": _merge,
    "verify and record": _verify,
    "import": _import,
}


def import_everything() -> None:
    """So that no fork has to."""
    rooms = [f"{ursa_pipelines.__name__}.{room}" for room in _ROOMS]
    for room in map(importlib.import_module, rooms):
        for found in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            importlib.import_module(found.name)
    for name in _USED_LATER:
        importlib.import_module(name)


def serve() -> None:
    """Forks for every line of standard input until that ends."""
    import_everything()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(_child(order))
        _say({"pid": child})
        _, status = os.waitpid(child, 0)
        _say({"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else {"exit": os.WEXITSTATUS(status)})


def _child(order: dict[str, Any]) -> int:
    place = Path(order["place"])
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    random.seed()
    os.environ["PATH"] = f"{place / 'programs'}{os.pathsep}{os.environ['PATH']}"
    passed: Counter[str] = Counter()
    lock = threading.Lock()

    def reached(name: str) -> None:
        with lock:
            passed[name] += 1
            is_it = [name, passed[name]] == order["at"]
        if is_it:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.reached = reached
    try:
        data = DataInterface(config_path=place / "detour.yaml")
        data.enable_writes(roles=("assets_rw", "raw_rw"))
        RUNS[order["scenario"]](data, place)
    except Exception:  # noqa: BLE001 - what it was goes to the test that ordered this
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    Path(order["passed"]).write_text(json.dumps(passed))
    return 0


def _say(answer: dict[str, int]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()

"""A process that forks one ingester for each list of operations it is given, all at once, and tells how they ended.

An ingester does its operations in order, goes on after one that did not come to its end, and writes down what each of
them came to: "" if it did, else the error's class and whether a rerun is to settle it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from tests.faults.killed import ARIA, ARYA, import_everything
from ursa_pipelines import DataInterface, errors
from ursa_pipelines.catalog.cutover import cutover
from ursa_pipelines.catalog.pointer import read_pointer
from ursa_pipelines.catalog.tables.upkeep import compact
from ursa_pipelines.errors import CatalogConflict, RecordingConflict, Retryable, UrsaError
from ursa_pipelines.maintenance.durations import apply_durations, plan_durations
from ursa_pipelines.maintenance.participants_edits import apply_edit, plan_merge
from ursa_pipelines.maintenance.rebuild import rebuild

Operation = Sequence[Any]
"""Its name in `RUNS`, then its arguments."""

_CHILD_SECONDS = 120
_NOT_THERE_YET = {"ManifestNotFound", "SourceNotFound", "ObjectsMissing", "CatalogRowNotFound"}
"""What is answered to who asks for a recording that somebody else has still to send."""
_TOLD_AS_NOT_DONE = {"SeenHalfDone", "ChangedMeanwhile", "NotRebuilt", "NotSwept"}


class NotDone(Exception):
    """What was not raised, but told in a result: the classes of errors, and what they say."""

    def __init__(self, kinds: Collection[str], told: str) -> None:
        super().__init__(told)
        self.kinds = sorted(kinds)


def _ingest(data: DataInterface, place: Path, where: str) -> None:
    data.ingest(source_dir=place / where)


def _ingest_many(data: DataInterface, place: Path, what: Sequence[str] | None) -> None:
    targets: list[Path | str] | None = None
    if what is not None:
        targets = [place / one if one in {"nas", "usb"} else one for one in what]
    items = [item for item in data.ingest_many(targets) if item.status != "OK"]
    if items:
        raise NotDone(
            {item.error_type for item in items}, " | ".join(f"{item.rec_id}: {item.reason}" for item in items)
        )


def _register(data: DataInterface, place: Path, rec_id: str) -> None:
    data.ingest_from_r2(rec_id=rec_id)


def _reconstruct(data: DataInterface, place: Path, rec_id: str) -> None:
    data.reconstruct_manifest(rec_id)
    data.ingest_from_r2(rec_id=rec_id)


def _fold(data: DataInterface, place: Path) -> None:
    data.fold()


def _compact(data: DataInterface, place: Path) -> None:
    catalog = data.ingest_context(raw_role="raw_ro").catalog
    compact(catalog.assets, read_pointer(catalog.assets).prefix, by="test", dry_run=False)


def _verify(data: DataInterface, place: Path, rec_id: str) -> None:
    found = data.verify(rec_id, deep=True)
    if found.problems:
        raise NotDone({"SeenHalfDone"}, "; ".join(found.problems))


def _durations(data: DataInterface, place: Path) -> None:
    context = data.ingest_context(raw_role="raw_ro")
    fixes = plan_durations(context.raw, context.catalog)
    applied = apply_durations(context.catalog, fixes, context.writer, max_indeterminate=len(fixes))
    if failed := [one for one in applied if one.outcome == "failed"]:
        raise NotDone({"ChangedMeanwhile"}, "; ".join(one.problem for one in failed))


def _merge(data: DataInterface, place: Path) -> None:
    catalog = data.ingest_context(raw_role="raw_ro").catalog
    apply_edit(catalog, plan_merge(catalog, ARYA, ARIA), data.writer)


def _cut_over(data: DataInterface, place: Path, prefix: str) -> None:
    context = data.ingest_context(raw_role="raw_ro")
    if read_pointer(context.catalog.assets).prefix != prefix:
        rebuilt = rebuild(context, context.catalog, prefix)
        if not rebuilt.ok:
            told = "; ".join(f"{name}: {reason}" for name, reason in (*rebuilt.failed, *rebuilt.not_carried))
            raise NotDone({"NotRebuilt"}, told)
    done = cutover(context.catalog.assets, prefix, writer=data.writer, reason="test")
    if not done.ok:
        raise NotDone({"NotSwept"}, "; ".join(f"{one.name}: {one.reason}" for one in done.conflicts))


RUNS: dict[str, Callable[..., None]] = {
    "ingest": _ingest,
    "ingest_many": _ingest_many,
    "register": _register,
    "reconstruct": _reconstruct,
    "merge": _merge,
    "durations": _durations,
    "fold": _fold,
    "compact": _compact,
    "verify": _verify,
    "cut over": _cut_over,
}
"""In the order in which a rerun does them."""


def serve() -> None:
    """Forks for every line of standard input until that ends."""
    import_everything()
    for line in sys.stdin:
        orders = json.loads(line)["ingesters"]
        children = [_forked(order) for order in orders]
        _say({"pid": children[0]})
        ended = {}
        for number, child in enumerate(children):
            _, status = os.waitpid(child, 0)
            ended[str(number)] = os.waitstatus_to_exitcode(status)
        _say(ended)


def _forked(order: dict[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        os._exit(_child(order))
    return child


def _child(order: dict[str, Any]) -> int:
    signal.alarm(_CHILD_SECONDS)
    own, place = Path(order["own"]), Path(order["place"])
    output = os.open(own / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    random.seed()
    os.environ["DAGSTER_HOME"] = order["home"]
    os.environ["PATH"] = f"{own / 'programs'}{os.pathsep}{os.environ['PATH']}"
    came_to = []
    try:
        data = DataInterface(config_path=own / "detour.yaml")
        data.enable_writes(roles=("assets_rw", "raw_rw"))
        for name, *arguments in order["operations"]:
            came_to.append(_came_to(name, data, place, *arguments))
    except Exception:  # noqa: BLE001 - what it was goes to the test that ordered this
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    (own / "results.json").write_text(json.dumps(came_to))
    return 0


def _came_to(name: str, *arguments: Any) -> dict[str, Any]:
    try:
        RUNS[name](*arguments)
    except UrsaError as error:
        kinds, told = [type(error).__name__], str(error)
    except NotDone as error:
        kinds, told = error.kinds, str(error)
    else:
        kinds, told = [], ""
    return {"error": "+".join(kinds), "settles": all(_settles(name, kind) for kind in kinds), "told": told}


def _settles(name: str, kind: str) -> bool:
    """Whether a rerun is to settle it: what passes by itself, and conflicts."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, (Retryable, CatalogConflict, RecordingConflict)):
        return True
    # Who sends the bytes himself need not wait for anybody.
    return kind in _TOLD_AS_NOT_DONE or (kind in _NOT_THERE_YET and name not in {"ingest", "ingest_many"})


def _say(answer: dict[str, int]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()

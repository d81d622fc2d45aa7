"""A process like `tests.faults.killed` that releases, and kills itself at the moment it is told.

A moment is a fail point; a change of the source, just before it; a document in the bucket, just before and just after
it is written. They are counted from 1.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import killed
from ursa_pipelines import DataInterface, failpoints
from ursa_pipelines.maintenance.release.ledger import Release
from ursa_pipelines.objects.store import Bucket

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}

VERBS: dict[str, Callable[[DataInterface, str], list[Release]]] = {
    "move": lambda data, rec_id: data.release([rec_id], source="nas", commit=True, held={}),
    "purge": lambda data, rec_id: data.purge_released([rec_id], commit=True, held={}),
    "restore": lambda data, rec_id: data.restore_released([rec_id], commit=True),
}


def _child(order: dict[str, Any]) -> int:
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    moments: list[str] = []
    create = Bucket.create

    def moment(name: str) -> None:
        moments.append(name)
        if len(moments) == order["at"]:
            os.kill(os.getpid(), signal.SIGKILL)

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES and sys._getframe(1).f_code.co_filename.endswith("release/tree.py"):
            moment(event)

    def creating(bucket: Bucket, key: str, body: bytes, **more: Any) -> Any:
        moment("create")
        made = create(bucket, key, body, **more)
        moment("created")
        return made

    try:
        data = DataInterface(config_path=order["config"])
        data.enable_writes(roles=("source_rw", "assets_rw"))
        failpoints.reached = moment
        Bucket.create = creating  # type: ignore[method-assign]
        sys.addaudithook(heard)
        found = VERBS[order["verb"]](data, order["rec_id"])
        assert [one.is_fine for one in found] == [True], [one.reason for one in found]
    except Exception:  # noqa: BLE001 - what it was goes to the test that ordered this
        sys.excepthook(*sys.exc_info())
        return 1
    Path(order["passed"]).write_text("\n".join(moments))
    return 0


if __name__ == "__main__":
    killed._child = _child
    killed.serve()

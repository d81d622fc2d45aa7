"""A process that does what it is told to a catalog, one line of JSON at a time; and how to start, fault and kill it.

Run as a module it is the process: each line on its standard input is a task, each line on its standard output what
came of it. It keeps one DataInterface, and opens another one where the task names another profile.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from ursa_pipelines import DataInterface, ModalityRow, ParticipantRow, RecordingRow, UrsaError

ANSWER_SECONDS = 120


class Worker:
    """A worker process, seen from outside. `programs` is where the stand-in `op` lies."""

    def __init__(self, name: str, programs: Path) -> None:
        environment = os.environ | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parents[3]),
        }
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.catalog.chaos.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, task: Mapping[str, Any]) -> None:
        """Begins a task; its answer comes from `answer`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()

    def answer(self, seconds: float = ANSWER_SECONDS) -> dict[str, Any] | None:
        """What the task came to, or None if it takes longer."""
        try:
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            return None
        assert line, f"the worker {self.name} has ended"
        return json.loads(line)

    def kill(self) -> None:
        """Ends the process with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")


class Hands:
    """Carries tasks out."""

    def __init__(self, name: str) -> None:
        self._name, self._config = name, ""
        self._data: DataInterface | None = None

    def do(self, task: Mapping[str, Any]) -> Any:
        from ursa_pipelines.catalog import policies
        from ursa_pipelines.catalog.edits import write_edit
        from ursa_pipelines.catalog.entries import Writer
        from ursa_pipelines.recordings.rows import Rows

        data, writer = self._interface(task), Writer(by=self._name)
        catalog = data.ingest_context(raw_role="raw_ro").catalog
        match task["op"]:
            case "register_recording":
                registration = catalog.register_recording(recording_row(task), task["policy"], writer)
                return registration.entry.recording.model_dump(mode="json")
            case "register_recordings":
                told = data.register_recordings([recording_row(one) for one in task["rows"]], task["policy"])
                return [
                    {"error": type(one).__name__, "told": str(one)}
                    if isinstance(one, UrsaError)
                    else one.model_dump(mode="json")
                    for one in told
                ]
            case "register_modality":
                row = modality_row(task["hash"], task["modality"], task["worker"], task["bytes"])
                entry = catalog.register_modality(row, task["policy"], writer).entry
                return next(one for one in entry.modalities if one.primary_key == row.primary_key).model_dump(
                    mode="json"
                )
            case "ingest":
                recording = recording_row(task)
                rows = Rows(
                    recording,
                    tuple(modality_row(task["hash"], *one) for one in task["modalities"]),
                    tuple(
                        ParticipantRow(
                            participant_id=key, enrolled_at=recording.start_time, metadata={"display_name": name}
                        )
                        for key, name in sorted(task["participants"].items())
                    ),
                )
                registration = catalog.write(
                    task["hash"],
                    lambda _: policies.ingest(rows, overwrite=True),
                    rec_id=task["rec_id"],
                    hash_is_stated=True,
                    op="ingest:overwrite",
                    writer=writer,
                )
                return registration.entry.recording.model_dump(mode="json")
            case "edit":
                edit = write_edit(
                    catalog.assets,
                    catalog.prefix,
                    task["participant"],
                    lambda current: current.model_copy(update=task["change"]),
                    op="edit",
                    writer=writer,
                    follow_pointer=True,
                )
                return {"display_name": edit.display_name, "merged_into": edit.merged_into}
            case "read":
                return {
                    one.recording_hash: {
                        "recording": one.recording.model_dump(mode="json"),
                        "modalities": [row.model_dump(mode="json") for row in one.modalities.values()],
                    }
                    for one in data.query()
                }
            case "warm":
                return len(data.list_recordings())
        return self._maintain(task, catalog)

    def _maintain(self, task: Mapping[str, Any], catalog: Any) -> Any:
        from ursa_pipelines.catalog import cutover
        from ursa_pipelines.catalog.entries import Writer
        from ursa_pipelines.catalog.pointer import read_pointer
        from ursa_pipelines.catalog.tables import fold, upkeep

        assets, prefix, writer = catalog.assets, catalog.prefix, Writer(by=self._name)
        match task["op"]:
            case "fold" | "refold" | "repair":
                return {"gave_up": getattr(fold, task["op"])(assets, prefix, by=self._name).gave_up}
            case "compact":
                upkeep.compact(assets, prefix, by=self._name, dry_run=False)
                return None
            case "cutover":
                cut = cutover.cutover(assets, task["prefix"], writer=writer, reason="chaos")
                return {"prefix": cut.prefix, "conflicts": [str(one) for one in cut.conflicts]}
            case "rollback":
                # Named, since it comes after another rollback too.
                cut = cutover.rollback(assets, to=read_pointer(assets).previous[0], writer=writer, reason="chaos")
                return {"prefix": cut.prefix, "conflicts": [str(one) for one in cut.conflicts]}
        raise AssertionError(f"unknown task {task['op']}")

    def _interface(self, task: Mapping[str, Any]) -> DataInterface:
        if self._data is None or task["config"] != self._config or task.get("anew"):
            self._data = DataInterface(config_path=task["config"])
            self._data.enable_writes(roles=("assets_rw", "raw_rw"))
            self._config = task["config"]
        return self._data


def recording_row(task: Mapping[str, Any]) -> RecordingRow:
    duration = timedelta(seconds=task["duration"])
    start = RecordingRow.model_validate(
        {"recording_hash": task["hash"], "start_time": task["start"], "duration": 0}
    ).start_time
    metadata = {"manifest_recording_id": task["rec_id"], "study": task["study"]}
    return RecordingRow(
        recording_hash=task["hash"],
        participant_ids=sorted(task["participants"]),
        start_time=start,
        duration=duration,
        ended_at=start + duration if duration else None,
        metadata={key: value for key, value in metadata.items() if value is not None} or None,
    )


def modality_row(recording_hash: str, modality: str, worker: str | None, size: int) -> ModalityRow:
    return ModalityRow.model_validate(
        {
            "recording_hash": recording_hash,
            "modality": modality,
            "worker_id": worker,
            "format": "raw_binary",
            "raw_storage_uri": f"r2://raw/{recording_hash}/{modality}_{worker or ''}/",
            "segment_count": 1,
            "bytes": size,
        }
    )


def main() -> None:
    hands = Hands(sys.argv[1])
    for line in sys.stdin:
        try:
            answer = {"value": hands.do(json.loads(line))}
        except UrsaError as error:
            answer = {"error": type(error).__name__, "told": str(error)}
        except Exception as error:  # noqa: BLE001 - the test tells of it; the worker goes on
            import traceback

            answer = {"crash": type(error).__name__, "told": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

"""What there is in a lab before a scenario of the kill matrix begins."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from deltalake import write_deltalake

from tests.catalog.by_hand import move_pointer
from tests.catalog.tables.folded import rows, write
from tests.faults.killed import ARIA, ARYA, LAST, LATER, REBUILT, REC
from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, write_recording
from ursa_pipelines.catalog.cutover import cutover
from ursa_pipelines.catalog.pointer import DEFAULT_PREFIX
from ursa_pipelines.catalog.tables.delta import open_table
from ursa_pipelines.catalog.tables.schemas import PARTITION, TOLD
from ursa_pipelines.maintenance.export import export
from ursa_pipelines.maintenance.participants_edits import apply_edit, plan_merge
from ursa_pipelines.maintenance.rebuild import rebuild
from ursa_pipelines.objects.keys import ACTIVE_POINTER, raw_key

_SMALL = {"mic/seg_0000.wav": b"audio" * 100, "eeg_4559/seg_0000.edf": b"eeg" * 100}
_IN_PARTS = {
    "camera_a/seg_0000.mp4": b"in parts" * (9 * 1024**2 // 8),
    "camera_b/seg_0000.mp4": b"resumably" * (11 * 1024**2 // 9),
}
_FOLDS_THAT_CROWD = 5


def _on_nas(lab: Lab, files: dict[str, bytes] | None = None, rec_id: str = REC, **more: Any) -> Path:
    return write_recording(lab.nas, rec_id, files or _SMALL, **{"participant": ARIA} | more)


def _ingested(lab: Lab, *rec_ids: str) -> None:
    for number, rec_id in enumerate(rec_ids):
        files = {"mic/seg_0000.wav": rec_id.encode(), "camera_a/seg_0000.mp4": rec_id.encode() * 3}
        lab.data.ingest(source_dir=_on_nas(lab, files, rec_id, participant=ARYA if number else ARIA))


def _large(lab: Lab, place: Path) -> None:
    _on_nas(lab, _SMALL | _IN_PARTS)


def _without_a_manifest(lab: Lab, place: Path) -> None:
    _on_nas(lab, manifest=False)


def _over_a_stub(lab: Lab, place: Path) -> None:
    _on_nas(lab, manifest=False)
    stub = {"manifest_version": 1, "recording_id": REC, "files": []}
    lab.raw.create(raw_key(REC, "manifest.json"), json.dumps(stub).encode())


def _halves(lab: Lab, place: Path) -> None:
    host, motor = ({path: content} for path, content in _SMALL.items())
    _on_nas(lab, host, node="green-mantis")
    write_recording(lab.usb, REC, motor, node="green-motor", participant=ARYA)


def _many(lab: Lab, place: Path) -> None:
    for rec_id, manifest in ((REC, True), (LATER, False), (LAST, True)):
        _on_nas(lab, {"mic/seg_0000.wav": rec_id.encode()}, rec_id, manifest=manifest)


def _in_bucket(lab: Lab, place: Path) -> None:
    for path, content in _SMALL.items():
        lab.raw.create(raw_key(REC, path), content)
    lab.raw.create(raw_key(REC, "participant.txt"), f"{ARIA}\n".encode())


def _in_bucket_with_a_manifest(lab: Lab, place: Path) -> None:
    _in_bucket(lab, place)
    lab.raw.create(raw_key(REC, "manifest.json"), json.dumps(manifest_of(REC, _SMALL)).encode())


def _registered_by_size(lab: Lab, place: Path) -> None:
    _in_bucket_with_a_manifest(lab, place)
    lab.data.ingest_from_r2(rec_id=REC)


def _two(lab: Lab, place: Path) -> None:
    _ingested(lab, REC, LATER)


def _two_and_one_that_nobody_has_registered(lab: Lab, place: Path) -> None:
    _two(lab, place)
    for path, content in (_SMALL | {"manifest.json": json.dumps(manifest_of(LAST, _SMALL)).encode()}).items():
        lab.raw.create(raw_key(LAST, path), content)


def _one_to_fold(lab: Lab, place: Path) -> None:
    _ingested(lab, REC)
    lab.data.fold()
    _ingested(lab, LATER, LAST)


def _crowded(lab: Lab, place: Path) -> None:
    for number in range(_FOLDS_THAT_CROWD):
        write(lab, rows(number))
        lab.data.fold()


def _of_format_1(lab: Lab, place: Path) -> None:
    _two(lab, place)
    lab.data.fold()
    # What was registered after the last fold.
    _ingested(lab, LAST)
    table = open_table(lab.assets, DEFAULT_PREFIX, "recordings")
    assert table is not None
    rows_then = table.to_pyarrow_table().drop_columns(TOLD.names)
    write_deltalake(table, rows_then, mode="overwrite", schema_mode="overwrite", partition_by=[PARTITION])
    versions = json.loads(lab.assets.get(f"{DEFAULT_PREFIX}/HEAD.json")[0])["versions"]
    changes: dict[str, dict[str, Any]] = {
        ACTIVE_POINTER: {},
        f"{DEFAULT_PREFIX}/CATALOG.json": {},
        f"{DEFAULT_PREFIX}/HEAD.json": {"versions": versions | {"recordings": versions["recordings"] + 1}},
    }
    for key, change in changes.items():
        raw, info = lab.assets.get(key)
        lab.assets.replace(key, json.dumps(json.loads(raw) | {"version": 1} | change).encode(), info.etag)


def _rebuilt(lab: Lab, place: Path) -> None:
    _ingested(lab, REC, LATER)
    rebuild(lab.data.ingest_context(), lab.data.catalog, REBUILT)
    # What comes between the rebuild and the cutover is for the sweep.
    lab.data.ingest(source_dir=_on_nas(lab, {"mic/seg_0000.wav": LAST.encode()}, LAST))


def _cut_over(lab: Lab, place: Path) -> None:
    _ingested(lab, REC, LATER)
    rebuild(lab.data.ingest_context(), lab.data.catalog, REBUILT)
    cutover(lab.assets, REBUILT, writer=lab.data.writer, reason="test")
    with closing(lab.interface()) as data:
        data.ingest(source_dir=_on_nas(lab, {"mic/seg_0000.wav": LAST.encode()}, LAST))


def _to_download(lab: Lab, place: Path) -> None:
    lab.data.ingest(source_dir=_on_nas(lab, _SMALL | dict([next(iter(_IN_PARTS.items()))])))


def _to_import(lab: Lab, place: Path) -> None:
    _ingested(lab, REC, LATER)
    apply_edit(lab.data.catalog, plan_merge(lab.data.catalog, ARYA, ARIA), lab.data.writer)
    export(lab.data.catalog, place / "exported", format="parquet")
    move_pointer(lab, REBUILT)


PREPARED: dict[str, Callable[[Lab, Path], None]] = {
    "ingest": _large,
    "ingest without a manifest": _without_a_manifest,
    "ingest over a stub": _over_a_stub,
    "ingest two halves": _halves,
    "ingest many": _many,
    "reconstruct and register": _in_bucket,
    "register": _in_bucket_with_a_manifest,
    "first fold": _two,
    "fold": _one_to_fold,
    "compact": _crowded,
    "upgrade": _of_format_1,
    "rebuild": _two_and_one_that_nobody_has_registered,
    "cut over": _rebuilt,
    "roll back": _cut_over,
    "download": _to_download,
    "merge participants": _two,
    "verify and record": _registered_by_size,
    "import": _to_import,
}

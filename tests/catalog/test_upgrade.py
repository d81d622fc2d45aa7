"""Formats of the catalog: one of an older version is read, not written, and upgraded; one of a newer one is refused.

`format_1/` is a catalog as it was written before there was another format.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from tests.catalog.tables.folded import BY, PREFIX, rows, rows_in_tables, rows_of_entries, write
from tests.faults.mutants import Edit, Mutant, apply, copy_package
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import DataInterface, failpoints
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.cutover import cutover, rollback
from ursa_pipelines.catalog.edits import write_edit
from ursa_pipelines.catalog.pointer import (
    Sweep,
    create_catalog,
    init_catalog,
    load_pointer,
    read_pointer,
    swap_pointer,
)
from ursa_pipelines.catalog.tables.fold import fold, refold, repair
from ursa_pipelines.catalog.tables.schemas import TABLES, TOLD
from ursa_pipelines.catalog.tables.upkeep import compact
from ursa_pipelines.catalog.upgrade import format_of, upgrade
from ursa_pipelines.cli.main import app
from ursa_pipelines.errors import CatalogUpgradeNeeded, CatalogVersionUnknown, UrsaError
from ursa_pipelines.maintenance.export import export
from ursa_pipelines.maintenance.overview import take_overview
from ursa_pipelines.objects.keys import ACTIVE_POINTER, BUCKET_IDENTITY

FORMAT_1 = Path(__file__).parent / "format_1"
OLD_PREFIX = "ursa/catalog-old"
REC = "rec_20260701_080000_b1dd"

TOLD_BY_GOOD = {
    "bytes": 8_123_456_789,
    "files": 3,
    "verification": "sha256",
    "ingested_from": "nas",
    "registered_at": datetime(2026, 5, 21, 8, 0, 0, 123456, tzinfo=UTC),
    "nodes": ["green-mantis"],
    "nodes_missing": ["green-motor"],
}
TOLD_BY_NONE = dict.fromkeys(TOLD.names)
TOLD_OF = {
    0: TOLD_BY_GOOD,
    1: TOLD_BY_GOOD
    | {"verification": "size", "nodes_missing": [], "registered_at": datetime(2026, 6, 10, 8, tzinfo=UTC)},
    # By hand: what does not fit its column is null there.
    2: TOLD_BY_NONE | {"nodes_missing": ["green-motor"]},
    3: TOLD_BY_NONE | {"registered_at": datetime(2026, 5, 21, 8, tzinfo=UTC)},
    4: TOLD_BY_NONE,
    5: TOLD_BY_GOOD,
}


@pytest.fixture
def old(lab: Lab) -> Lab:
    """A lab whose catalog is of format 1."""
    put_format_1(lab)
    return lab


@pytest.fixture
def guarded(old: Lab, tmp_path: Path) -> Path:
    """The profile of a catalog of format 1 that is no laptop's, so that nothing is upgraded by itself."""
    profile = yaml.safe_load(old.config.read_text()) | {"family": "test"}
    for bucket, purpose in ((old.raw, "raw"), (old.assets, "assets")):
        bucket.wire.delete(BUCKET_IDENTITY)
        bucket.create(BUCKET_IDENTITY, json.dumps({"family": "test", "purpose": purpose}).encode())
    config = tmp_path / "guarded.yaml"
    config.write_text(yaml.safe_dump(profile))
    return config


def test_a_catalog_of_format_1_is_read_as_one_of_ours(old: Lab):
    data = old.interface(writes=False)
    everything = old.everything()

    found = told_of(data)
    assert found == TOLD_OF
    assert [row.metadata for row in data.list_recordings()] == [
        entry.recording.metadata for entry in sorted(data.catalog.entries(), key=lambda one: one.recording.start_time)
    ]
    assert {table: data.catalog.count(table) for table in TABLES} == {
        "recordings": 6, "modalities": 10, "participants": 3, "events": 7
    }  # fmt: skip
    assert len(data.query(participants=["p_bo"])) == 1
    assert len(data.list_recordings({"verification": "sha256"})) == 2
    assert [row.num_rows for row in data.scan("recordings", {"bytes": ("between", 1, None)}, ["rec_id"])] != []
    overview = take_overview(data.catalog)
    assert (overview.bytes, overview.partial) == (3 * TOLD_BY_GOOD["bytes"], 3)
    assert old.everything() == everything


def test_a_catalog_of_format_1_is_not_written(old: Lab, guarded: Path):
    data, before = DataInterface(config_path=guarded), old.everything()
    data.enable_writes(roles=("assets_rw", "raw_rw"))
    directory = write_recording(old.nas, REC, {"mic/a.wav": b"audio"})
    catalog, new = Catalog.open(old.assets), rows(9)

    refused: dict[str, Callable[[], Any]] = {
        "ingest": lambda: data.ingest(source_dir=directory),
        "fold by an interface": data.fold,
        "register": lambda: catalog.register_recording(new.recording, "error", BY),
        "register many": lambda: _raised(catalog.register_recordings([new.recording], "error", BY)),
        "edit": lambda: write_edit(old.assets, PREFIX, "p_bo", _renamed, op="rename", writer=BY, follow_pointer=True),
        "fold": lambda: fold(old.assets, PREFIX, by="test"),
        "refold": lambda: refold(old.assets, PREFIX, by="test"),
        "check": lambda: repair(old.assets, PREFIX, by="test"),
        "compact": lambda: compact(old.assets, PREFIX, by="test", dry_run=False),
        "cut over": lambda: cutover(old.assets, PREFIX, writer=BY, reason="test"),
    }
    for name, write_ in refused.items():
        with pytest.raises(CatalogUpgradeNeeded, match=r"Run `ursa catalog upgrade --prefix ursa/catalog`") as caught:
            write_()
        assert f"{old.assets.name}/{PREFIX}" in str(caught.value), name
        assert old.everything() == before, name
    data.close()


def test_an_upgrade_brings_the_tables_to_what_a_reader_was_told_before(old: Lab):
    data = old.interface(writes=False)
    before, entries = told_of(data), rows_of_entries(old)
    seen = rows_read(data)
    untouched = {key: etag for key, etag in old.everything().items() if "/entries/" in key or "/rec_ids/" in key}
    assert set(rows_in_tables(old)["recordings"][0]).isdisjoint(TOLD.names)

    done = upgrade(old.assets, PREFIX, by="test")

    assert done.done == (ACTIVE_POINTER, f"{PREFIX}/CATALOG.json", "tables")
    assert set(format_of(old.assets, PREFIX).versions.values()) == {2}
    assert rows_in_tables(old) == entries
    assert told_of(old.interface(writes=False)) == before == TOLD_OF
    assert rows_read(data) == rows_read(old.interface(writes=False)) == seen
    assert untouched.items() <= old.everything().items()
    assert not repair(old.assets, PREFIX, by="test").damaged

    again = old.everything()
    assert upgrade(old.assets, PREFIX, by="test").done == ()
    assert old.everything() == again
    old.interface().ingest(source_dir=write_recording(old.nas, REC, {"mic/a.wav": b"audio"}))
    write(old, rows(9))
    fold(old.assets, PREFIX, by="test")
    assert rows_in_tables(old) == rows_of_entries(old)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    "moment",
    ["upgrade.pointer_swapped", "upgrade.document_swapped", "refold.table_written", "fold.head_swapped"],
)
def test_an_upgrade_that_was_interrupted_is_read_meanwhile_and_finished_by_the_next(
    old: Lab, monkeypatch: pytest.MonkeyPatch, moment: str
):
    seen = rows_read(old.interface(writes=False))

    def reached(name: str) -> None:
        if name == moment:
            raise Killed

    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(failpoints, "reached", reached)
        upgrade(old.assets, PREFIX, by="test")
        raise AssertionError("it was not interrupted")

    assert rows_read(old.interface(writes=False)) == seen
    found = format_of(old.assets, PREFIX)
    if found.document == 2:
        # Rows may be written by now; into tables of the older format they do not come.
        write(old, rows(9))
        assert len(old.interface(writes=False).list_recordings()) == 7
    if found.due:
        for change in (fold, repair):
            with pytest.raises(CatalogUpgradeNeeded):
                change(old.assets, PREFIX, by="test")

    upgrade(old.assets, PREFIX, by="test")

    assert format_of(old.assets, PREFIX).due == ()
    fold(old.assets, PREFIX, by="test")
    assert rows_in_tables(old) == rows_of_entries(old)


def test_a_laptops_upgrade_that_was_interrupted_is_finished_by_the_next_write(
    old: Lab, monkeypatch: pytest.MonkeyPatch
):
    def reached(name: str) -> None:
        if name == "refold.table_written":
            raise Killed

    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(failpoints, "reached", reached)
        old.interface().fold()
        raise AssertionError("it was not interrupted")
    assert format_of(old.assets, PREFIX).due == ("tables",)

    old.interface().fold()

    assert format_of(old.assets, PREFIX).due == ()
    assert rows_in_tables(old) == rows_of_entries(old)


def test_an_upgrade_hides_nothing_that_a_sweep_under_way_has_to_bring_back(old: Lab):
    create_catalog(old.assets, OLD_PREFIX, by="test")
    pointer, info = load_pointer(old.assets)
    pending = Sweep(source=OLD_PREFIX, since=datetime(2026, 5, 1, tzinfo=UTC), op="cutover")
    swap_pointer(old.assets, pointer.model_copy(update={"sweep": pending}), info.etag)
    swapped_at = load_pointer(old.assets)[1].modified

    upgrade(old.assets, PREFIX, by="test")

    assert read_pointer(old.assets).complete_until[OLD_PREFIX].timestamp() == pytest.approx(swapped_at)


def test_upgrades_at_once_come_to_the_same(old: Lab):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda number: upgrade(old.assets, PREFIX, by=f"test-{number}"), range(2)))

    assert format_of(old.assets, PREFIX).due == ()
    assert rows_in_tables(old) == rows_of_entries(old)


def test_a_fold_of_an_older_build_that_comes_late_does_not_mix_formats(old: Lab):
    """It has stamped HEAD before, and commits rows without the new columns after the tables were made anew."""
    from ursa_pipelines.catalog.tables import delta
    from ursa_pipelines.catalog.tables.schemas import recordings_of

    upgrade(old.assets, PREFIX, by="test")
    table = delta.open_table(old.assets, PREFIX, "recordings")
    assert table is not None
    entry = old.interface().catalog.entry(f"{0:064x}")
    theirs = recordings_of([(entry, "etag")]).drop_columns(TOLD.names)

    with pytest.raises(Exception, match="number of fields does not match"):
        delta.append(table, theirs, 1_000, {})


def test_tables_that_an_older_build_makes_anew_after_the_upgrade_are_mended_by_the_next_fold(old: Lab):
    """It was held up since before the upgrade, between its stamp and its tables."""
    from ursa_pipelines.catalog.tables import delta
    from ursa_pipelines.catalog.tables.schemas import recordings_of

    upgrade(old.assets, PREFIX, by="test")
    seen = rows_read(old.interface(writes=False))
    table = delta.open_table(old.assets, PREFIX, "recordings")
    assert table is not None
    entries = [(entry, "etag") for entry in old.interface().catalog.entries()]
    delta.begin_anew(table, "recordings", recordings_of(entries).drop_columns(TOLD.names), 2, {})
    write(old, rows(9))

    fold(old.assets, PREFIX, by="test")

    assert rows_in_tables(old) == rows_of_entries(old)
    assert len(rows_read(old.interface(writes=False))[0]) == len(seen[0]) + 1


def test_tables_of_a_newer_build_are_refused_whatever_their_head_looks_like(old: Lab):
    _, info = old.assets.get(f"{PREFIX}/HEAD.json")
    old.assets.replace(f"{PREFIX}/HEAD.json", b'{"version": 3, "tables": []}', info.etag)

    with pytest.raises(CatalogVersionUnknown, match="unknown version 3"):
        format_of(old.assets, PREFIX)


def test_no_catalog_of_format_1_becomes_the_live_one_before_it_was_upgraded(lab: Lab):
    put_format_1(lab, prefix=OLD_PREFIX)
    before = lab.everything()

    with pytest.raises(CatalogUpgradeNeeded, match=f"upgrade --prefix {OLD_PREFIX}"):
        cutover(lab.assets, OLD_PREFIX, writer=BY, reason="test")
    assert lab.everything() == before

    assert ACTIVE_POINTER not in upgrade(lab.assets, OLD_PREFIX, by="test").done
    assert read_pointer(lab.assets).prefix == PREFIX
    assert cutover(lab.assets, OLD_PREFIX, writer=BY, reason="test").prefix == OLD_PREFIX
    assert len(lab.interface(writes=False).list_recordings()) == 6


def test_a_rollback_to_a_catalog_that_nobody_upgraded_is_refused(old: Lab):
    create_catalog(old.assets, OLD_PREFIX, by="test")
    refold(old.assets, OLD_PREFIX, by="test")
    assert cutover(old.assets, OLD_PREFIX, writer=BY, reason="test").brought
    assert read_pointer(old.assets).version == 2
    before = old.everything()

    with pytest.raises(CatalogUpgradeNeeded, match=f"upgrade --prefix {PREFIX}`"):
        rollback(old.assets, writer=BY, reason="test")

    assert old.everything() == before
    upgrade(old.assets, PREFIX, by="test")
    assert rollback(old.assets, writer=BY, reason="test").prefix == PREFIX


def test_on_a_laptop_the_first_write_upgrades(old: Lab):
    seen = rows_read(old.interface(writes=False))

    old.interface().fold()

    assert format_of(old.assets, PREFIX).due == ()
    assert rows_read(old.interface(writes=False)) == seen
    assert rows_in_tables(old) == rows_of_entries(old)


def test_an_init_that_was_interrupted_before_the_upgrade_makes_a_pointer_that_can_be_upgraded(old: Lab):
    old.assets.wire.delete(ACTIVE_POINTER)

    assert init_catalog(old.assets, by="test").version == 1
    assert upgrade(old.assets, PREFIX, by="test").done[0] == ACTIVE_POINTER


def test_exports_of_both_formats_say_the_same(old: Lab, tmp_path: Path):
    import pyarrow.parquet as pq

    export(old.interface(writes=False).catalog, tmp_path / "before", format="parquet")
    upgrade(old.assets, PREFIX, by="test")
    export(old.interface(writes=False).catalog, tmp_path / "after", format="parquet")

    for name in TABLES:
        before, after = (
            sorted(pq.read_table(tmp_path / when / f"{name}.parquet").to_pylist(), key=repr)
            for when in ("before", "after")
        )
        assert before == after


def test_the_command_shows_what_it_would_do_then_does_it(old: Lab, guarded: Path):
    def ursa(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [*arguments, "--config", str(guarded)])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    before = old.everything()
    told = ursa("catalog", "upgrade", "--dry-run").stdout
    assert "tables" in told and "Every host that writes needs this version" in told and "Nothing was written" in told
    assert old.everything() == before
    doctor = json.loads(ursa("doctor", "--json").stdout)
    (check,) = (one for one in doctor["items"] if one["name"] == "catalog")
    assert check["state"] == "warning" and "format 1" in check["told"] and "ursa catalog upgrade" in check["remedy"]

    assert "is of format 2 now" in ursa("catalog", "upgrade", "--yes").stdout

    assert "nothing to upgrade" in ursa("catalog", "upgrade", "--yes").stdout
    answer = json.loads(ursa("catalog", "upgrade", "--json", "--yes").stdout)
    assert answer["summary"] == {"prefix": PREFIX, "version": 2, "due": [], "done": []}
    assert [one["version"] for one in answer["items"]] == [2, 2, 2]


OLDER_BUILD = Mutant(
    "an older build", (Edit("catalog/pointer.py", "CATALOG_VERSION = 2\n", "CATALOG_VERSION = 1\n"),), ()
)
TRIED_BY_AN_OLDER_BUILD = """
import json, sys
from pathlib import Path
from ursa_pipelines import DataInterface
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.pointer import require_current_version
from ursa_pipelines.catalog.tables import fold
from ursa_pipelines.errors import UrsaError

config, directory = sys.argv[1:]
data = DataInterface(config_path=config)
data.enable_writes(roles=("assets_rw", "raw_rw"))
assets = data._bucket("assets_rw")
tried = {
    "list": data.list_recordings,
    "get": lambda: data.get_recording("0" * 64),
    "query": data.query,
    "ingest": lambda: data.ingest(source_dir=Path(directory)),
    "fold": data.fold,
    "tables": lambda: Catalog.open(assets, prefix="ursa/catalog").list_recordings(),
    "refold": lambda: fold.refold(assets, "ursa/catalog", by="test"),
    "write": lambda: require_current_version(assets, "ursa/catalog"),
}
found = {}
for name, call in tried.items():
    try:
        found[name] = f"went on: {call()}"[:200]
    except UrsaError as error:
        found[name] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""


def test_an_older_build_neither_reads_nor_writes_what_was_upgraded(old: Lab, tmp_path: Path):
    upgrade(old.assets, PREFIX, by="test")
    copy_package(tmp_path / "older")
    apply(OLDER_BUILD, tmp_path / "older")
    directory, before = write_recording(old.nas, REC, {"mic/a.wav": b"audio"}), old.everything()

    done = subprocess.run(
        [sys.executable, "-c", TRIED_BY_AN_OLDER_BUILD, str(old.config), str(directory)],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "older")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: told[0] for name, told in found.items()} == dict.fromkeys(found, "CatalogVersionUnknown")
    assert all("It was written by a newer ursa_pipelines: upgrade" in told for _, told in found.values())
    assert old.everything() == before


def put_format_1(lab: Lab, *, prefix: str | None = None) -> None:
    """Puts the catalog of format 1 in the place of the lab's, or below another prefix, where it is not live."""
    if prefix is None:
        for info in list(lab.assets.list_objects("ursa/")):
            if info.key != BUCKET_IDENTITY:
                lab.assets.wire.delete(info.key)
    for path in sorted(FORMAT_1.rglob("*")):
        key = f"ursa/{path.relative_to(FORMAT_1).as_posix()}"
        if not path.is_file() or path.name == "README.md" or (prefix and not key.startswith(f"{PREFIX}/")):
            continue
        raw = path.read_bytes()
        digest = hashlib.sha256(raw).hexdigest() if "/entries/" in key else None
        lab.assets.create(f"{prefix or PREFIX}{key.removeprefix(PREFIX)}" if prefix else key, raw, sha256=digest)


def told_of(data: DataInterface) -> dict[int, dict[str, Any]]:
    """What the new columns tell of each recording."""
    records = (
        row for batch in data.scan("recordings", None, ["recording_hash", *TOLD.names]) for row in batch.to_pylist()
    )
    return {int(record.pop("recording_hash"), 16): record for record in records}


def rows_read(data: DataInterface) -> list[Any]:
    return [data.list_recordings(), data.list_modalities(), data.list_participants()]


def _renamed(edit):
    return edit.model_copy(update={"display_name": "Bob"})


def _raised(outcomes: list[Any]) -> None:
    for one in outcomes:
        if isinstance(one, UrsaError):
            raise one

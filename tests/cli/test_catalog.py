"""`ursa catalog`: tables brought up to date, and one catalog put in the place of another, as an operator does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.catalog.claims import claim
from ursa_pipelines.catalog.pointer import read_pointer
from ursa_pipelines.cli.main import app
from ursa_pipelines.errors import CatalogError, UrsaError

FIRST, SECOND, THIRD = (f"rec_20260520_19562{digit}_b1dd" for digit in "123")
PREFIX, NEW_PREFIX = "ursa/catalog", "ursa/catalog-2026-11"
Command = Callable[..., Result]


@pytest.fixture
def ursa(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, away from a terminal, on a catalog of two recordings."""
    monkeypatch.setenv("COLUMNS", "200")
    for rec_id in (FIRST, SECOND):
        files = {"camera_a/seg_0000.mp4": rec_id.encode(), "mic/seg_0000.wav": f"{rec_id} mic".encode()}
        lab.data.ingest(source_dir=write_recording(lab.nas, rec_id, files, participant="Aria Lin"))

    def run(*arguments: str | Path, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [*map(str, arguments), "--config", str(lab.config)])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


def test_a_fold_says_what_it_brought_into_the_tables(lab: Lab, ursa: Command):
    assert "2 entries folded" in ursa("catalog", "fold").stdout
    assert "0 entries folded" in ursa("catalog", "fold").stdout

    told = json.loads(ursa("catalog", "fold", "--all", "--json").stdout)

    assert (told["summary"]["entries"], told["summary"]["gave_up"]) == (2, False)
    assert "recordings" in {one["table"] for one in told["items"]}


def test_a_fold_with_check_mends_what_no_mark_tells_of(lab: Lab, ursa: Command):
    ursa("catalog", "fold")
    lab.data.ingest(source_dir=write_recording(lab.nas, THIRD, {"mic/seg_0000.wav": b"third"}))
    for info in list(lab.assets.list_objects(f"{PREFIX}/tail/")):
        lab.assets.remove(info.key)
    assert "0 entries folded" in ursa("catalog", "fold").stdout
    assert len(lab.interface().list_recordings()) == 2

    assert "1 entries folded" in ursa("catalog", "fold", "--check").stdout

    assert len(lab.interface().list_recordings()) == 3


def test_compact_shows_what_it_would_do_and_does_it_only_if_told(lab: Lab, ursa: Command):
    ursa("catalog", "fold")
    before = lab.everything()

    told = ursa("catalog", "compact").stdout
    assert "recordings" in told and "--commit does it" in told
    assert lab.everything() == before

    assert "--commit" not in ursa("catalog", "compact", "--commit", "--yes").stdout
    assert len(lab.interface().list_recordings()) == 2


def test_a_rebuilt_catalog_becomes_the_live_one_and_can_be_left_again(lab: Lab, ursa: Command):
    rebuilt = ursa("catalog", "rebuild", "--to", NEW_PREFIX, "--yes").stdout
    assert "2 recordings: 2 created" in rebuilt and f"ursa catalog cutover {NEW_PREFIX}" in rebuilt
    assert ursa("catalog", "diff", NEW_PREFIX).exit_code == 0

    assert f"{NEW_PREFIX} is live" in ursa("catalog", "cutover", NEW_PREFIX, "--reason", "a test", "--yes").stdout

    live = lab.interface()
    assert live.catalog.prefix == NEW_PREFIX
    assert [row.rec_id for row in live.list_recordings()] == [FIRST, SECOND]
    assert f"{PREFIX} is live" in ursa("catalog", "rollback", "--reason", "no good", "--yes").stdout
    assert lab.interface().catalog.prefix == PREFIX


def test_a_rollback_typed_twice_says_what_to_type_and_with_to_does_nothing(lab: Lab, ursa: Command):
    ursa("catalog", "rebuild", "--to", NEW_PREFIX, "--yes")
    ursa("catalog", "cutover", NEW_PREFIX, "--reason", "a test", "--yes")
    ursa("catalog", "rollback", "--reason", "no good", "--yes")
    pointer = read_pointer(lab.assets)

    refused = ursa("catalog", "rollback", "--reason", "no good", "--yes", code=1)
    assert f"ursa catalog cutover {NEW_PREFIX} --reason" in str(refused.exception)

    told = ursa("catalog", "rollback", "--to", PREFIX, "--reason", "no good", "--yes").stdout
    assert f"{PREFIX} is live, as it was" in told
    assert read_pointer(lab.assets) == pointer


def test_shards_of_a_rebuild_make_the_whole_catalog(lab: Lab, ursa: Command):
    told = [ursa("catalog", "rebuild", "--to", NEW_PREFIX, "--shard", f"{number}/2", "--yes") for number in (1, 2)]
    assert all(f"ursa catalog fold --prefix {NEW_PREFIX} --all" in one.stdout for one in told)

    ursa("catalog", "fold", "--prefix", NEW_PREFIX, "--all")

    assert ursa("catalog", "diff", NEW_PREFIX).exit_code == 0


def test_a_difference_is_shown_by_table_and_column(lab: Lab, ursa: Command):
    ursa("catalog", "rebuild", "--to", NEW_PREFIX, "--yes")
    files = {"mic/seg_0000.wav": b"another"}
    lab.data.ingest(source_dir=write_recording(lab.nas, THIRD, files))
    (first,) = lab.data.list_recordings({"rec_id": FIRST})
    lab.data.register_recording(**first.model_dump() | {"device_info": {"os": "new"}}, on_conflict="overwrite")

    told = ursa("catalog", "diff", NEW_PREFIX, code=1).stdout

    assert "recordings: missing" in told and "modalities: missing" in told
    assert "recordings.device_info: 1 changed" in told
    assert "Aria" not in told


def test_a_rebuild_tells_what_it_could_not_rebuild_and_fails(lab: Lab, ursa: Command):
    lab.raw.create(f"recordings/{THIRD}/mic/seg_0000.wav", b"without a manifest")

    told = ursa("catalog", "rebuild", "--to", NEW_PREFIX, "--yes").stdout

    assert "1 wait for a manifest" in told and f"ursa reconstruct {THIRD}" in told


def test_a_cutover_to_what_is_no_catalog_is_refused(lab: Lab, ursa: Command):
    before = lab.everything()

    refused = ursa("catalog", "cutover", "ursa/nowhere", "--reason", "a slip", "--yes", code=1)

    assert isinstance(refused.exception, UrsaError)
    assert lab.everything() == before


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "-1/2"])
def test_a_shard_that_does_not_exist_is_a_usage_error(ursa: Command, shard: str):
    ursa("catalog", "rebuild", "--to", NEW_PREFIX, "--yes", f"--shard={shard}", code=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("compact", "--commit"),
        ("rebuild", "--to", NEW_PREFIX),
        ("cutover", NEW_PREFIX, "--reason", "x"),
        ("rollback", "--reason", "x"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_nothing_is_written_without_a_yes(lab: Lab, ursa: Command, arguments: tuple[str, ...]):
    ursa("catalog", "fold")
    if arguments[0] in {"cutover", "rollback"}:
        ursa("catalog", "rebuild", "--to", NEW_PREFIX, "--yes")
    if arguments[0] == "rollback":
        ursa("catalog", "cutover", NEW_PREFIX, "--reason", "x", "--yes")
    before = lab.everything()

    ursa("catalog", *arguments, code=2)

    assert lab.everything() == before


def test_a_claim_that_came_to_nothing_is_released_only_after_a_day(lab: Lab, ursa: Command):
    claim(lab.assets, PREFIX, THIRD, "a" * 64, "of a killed run")

    refused = ursa("doctor", "--release-claim", THIRD, "--yes", code=1)

    assert isinstance(refused.exception, CatalogError)
    assert "less than 24 h ago" in str(refused.exception)


def test_what_was_deleted_from_the_tables_is_made_again_by_a_fold(lab: Lab, ursa: Command):
    ursa("catalog", "fold")
    rows = lab.interface().list_recordings()
    client = lab.assets.multipart_client
    for info in list(lab.assets.list_objects(f"{PREFIX}/tables/")):
        client.delete_object(Bucket=lab.assets.name, Key=info.key)
    with pytest.raises(CatalogError, match="ursa catalog fold"):
        lab.interface().list_recordings()

    assert "2 entries folded" in ursa("catalog", "fold").stdout

    assert lab.interface().list_recordings() == rows


def test_doctor_lets_writers_race_and_leaves_nothing_behind(lab: Lab, ursa: Command):
    before = lab.everything()

    assert "one of 64 won" in ursa("doctor", "--race-writes", "--yes").stdout

    assert lab.everything() == before


@pytest.mark.parametrize("prefix", ["../x", "ursa/nowhere", ""])
@pytest.mark.parametrize("command", ["fold --prefix", "diff", "cutover --reason x --yes", "rebuild --yes --to"])
def test_a_prefix_that_is_no_catalog_is_refused_and_leaves_nothing(lab: Lab, ursa: Command, command: str, prefix: str):
    if command.startswith("rebuild") and prefix == "ursa/nowhere":
        pytest.skip("a fresh prefix is what a rebuild wants")
    before = lab.everything()

    refused = ursa("catalog", *command.split(), prefix, code=1)

    assert isinstance(refused.exception, UrsaError)
    assert lab.everything() == before

"""What a user may name, and which recordings are meant by it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.recordings_on_disk import write_recording
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.errors import SourceNotFound, SourceUnavailable, UrsaError
from ursa_pipelines.ingest.context import IngestContext
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.ingest.targets import find_targets
from ursa_pipelines.objects.store import Bucket, Endpoint

FIRST, SECOND, THIRD = "rec_20260520_195628_b1dd", "rec_20260521_080000_c0de", "rec_20260522_080000_cafe"
FILES = {"mic/seg_0000.wav": b"audio"}


@dataclass(frozen=True)
class Drives:
    """Two sources that are there, and a context whose store is not: to find directories it is not asked."""

    nas: Path
    usb: Path
    context: IngestContext
    sources: list[Source]


@pytest.fixture
def drives(tmp_path: Path) -> Drives:
    """Both hold the second recording, one the first, the other the third."""
    nas, usb = tmp_path / "nas", tmp_path / "usb"
    for root, rec_ids in ((nas, (FIRST, SECOND)), (usb, (SECOND, THIRD))):
        for rec_id in rec_ids:
            write_recording(root, rec_id, FILES)
    nowhere = Bucket("nowhere", Endpoint("http://127.0.0.1:9", "auto", lambda: ("id", "key", None)))
    context = IngestContext(nowhere, Catalog(nowhere, "ursa/catalog"), Writer("tests"))
    return Drives(nas, usb, context, [Source("nas", nas), Source("usb", usb)])


@pytest.fixture
def find(drives: Drives):
    """`find_targets` on these sources; it gives the directories."""
    return lambda *what: find_targets(drives.context, drives.sources, what).directories


def test_nothing_named_means_all_recordings_of_all_sources(find, drives: Drives):
    assert find() == {
        FIRST: (drives.nas / FIRST,),
        SECOND: (drives.nas / SECOND, drives.usb / SECOND),
        THIRD: (drives.usb / THIRD,),
    }


def test_a_drive_means_the_recordings_in_it(find, drives: Drives):
    assert find(drives.usb) == {SECOND: (drives.usb / SECOND,), THIRD: (drives.usb / THIRD,)}
    assert find(str(drives.usb) + "/") == find(drives.usb)


def test_a_directory_is_that_recording_in_the_order_in_which_it_is_named(find, drives: Drives):
    found = find(drives.usb / THIRD, drives.nas / FIRST)

    assert list(found.items()) == [(THIRD, (drives.usb / THIRD,)), (FIRST, (drives.nas / FIRST,))]


def test_halves_that_are_named_apart_are_one_recording_and_the_same_directory_counts_once(find, drives: Drives):
    found = find(drives.usb / SECOND, drives.nas, drives.usb)

    assert found[SECOND] == (drives.usb / SECOND, drives.nas / SECOND)


def test_a_rec_id_is_looked_up_on_the_sources(find, drives: Drives):
    assert find(SECOND) == {SECOND: (drives.nas / SECOND, drives.usb / SECOND)}


def test_a_rec_id_that_no_source_has_means_the_copy_in_the_bucket(find):
    assert find("rec_20260101_000000_beef") == {"rec_20260101_000000_beef": ()}


def test_a_rec_id_is_a_directory_where_there_is_one(find, drives: Drives, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(drives.usb)

    assert find(SECOND) == {SECOND: (drives.usb / SECOND,)}


def test_a_link_is_never_followed_to_a_name(find, drives: Drives, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / THIRD).symlink_to(drives.nas / FIRST)

    assert find(tmp_path / "elsewhere" / THIRD) == {THIRD: (tmp_path / "elsewhere" / THIRD,)}


def test_what_is_named_nearly_as_a_recording_is_not_passed_over(find, drives: Drives):
    (drives.usb / "rec_20260522_080000_CAFE").mkdir()
    (drives.usb / "rec_\x1b[31m").mkdir()

    found = find(drives.usb)

    assert found["rec_20260522_080000_CAFE"] == (drives.usb / "rec_20260522_080000_CAFE",)
    assert "rec_\\x1b[31m" in found, "a terminal is shown no control characters"
    assert all(name.isprintable() for name in found)


@pytest.mark.parametrize(
    ("named", "error", "told"),
    [
        ("nowhere", SourceNotFound, "there is no such directory"),
        ("rec_20269999_000000_beef", SourceNotFound, "there is no such directory"),
        ("with\0nul", SourceNotFound, "there is no such directory"),
        ("a file", SourceNotFound, "it is no directory"),
        ("no recordings", SourceNotFound, "it holds no recordings"),
        ("unmounted", SourceUnavailable, "empty, as a drive is that is not mounted"),
    ],
)
def test_what_names_nothing_is_told_with_what_is_expected(
    find, tmp_path: Path, named: str, error: type[UrsaError], told: str
):
    (tmp_path / "a file").touch()
    (tmp_path / "no recordings" / "photos").mkdir(parents=True)
    (tmp_path / "unmounted").mkdir()

    with pytest.raises(error, match=told) as raised:
        find(tmp_path / named)

    assert named.partition("\0")[0] in str(raised.value)
    assert error is SourceUnavailable or "rec_<YYYYMMDD>_<HHMMSS>_<hex>" in raised.value.remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read_is_unavailable(find, tmp_path: Path):
    (tmp_path / "locked" / "drive").mkdir(parents=True)
    (tmp_path / "locked").chmod(0)

    with pytest.raises(SourceUnavailable):
        find(tmp_path / "locked" / "drive")


def test_others_are_found_if_somebody_listens_to_what_names_nothing(drives: Drives):
    told: dict[str, UrsaError] = {}
    what = [drives.usb / "typo", drives.usb / THIRD]

    found = find_targets(drives.context, drives.sources, what, on_error=told.__setitem__)

    assert list(found.directories) == [THIRD]
    assert [(name, type(error)) for name, error in told.items()] == [("typo", SourceNotFound)]


def test_a_source_that_is_away_is_told_of_and_the_others_count(drives: Drives, tmp_path: Path):
    away = Source("attic", tmp_path / "attic")

    found = find_targets(drives.context, [*drives.sources, away])

    assert list(found.directories) == [FIRST, SECOND, THIRD]
    assert list(found.unavailable) == ["attic"]
    assert "is not there" in found.unavailable["attic"]


def test_sources_of_which_none_is_there_are_an_error_and_never_no_recordings(drives: Drives, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    away = [Source("attic", tmp_path / "attic"), Source("cellar", tmp_path / "empty")]

    with pytest.raises(SourceUnavailable, match="attic, cellar"):
        find_targets(drives.context, away)
    with pytest.raises(SourceNotFound, match="no sources"):
        find_targets(drives.context, [])


def test_the_bucket_is_not_meant_while_a_source_is_away_that_may_have_the_recording(drives: Drives, tmp_path: Path):
    away = Source("attic", tmp_path / "attic")

    with pytest.raises(SourceUnavailable, match=f"ursa register {FIRST}"):
        find_targets(drives.context, [away], [FIRST])

"""`ursa/ACTIVE.json` and `CATALOG.json`: whatever is wrong with them stops everything, and no prefix is guessed."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.catalog.pointer import DEFAULT_PREFIX, init_catalog, read_pointer
from ursa_pipelines.errors import (
    CatalogError,
    CatalogNotInitialized,
    CatalogPointerInvalid,
    CatalogVersionUnknown,
)
from ursa_pipelines.objects.keys import ACTIVE_POINTER
from ursa_pipelines.recordings.rows import RecordingRow

CATALOG = f"{DEFAULT_PREFIX}/CATALOG.json"
GOOD: dict[str, Any] = {"version": 1, "prefix": "ursa/catalog", "updated_at": "2026-05-20T19:56:28Z"}

BAD_POINTERS: dict[str, tuple[bytes, type[CatalogError]]] = {
    "empty": (b"", CatalogPointerInvalid),
    "no JSON": (b"ursa/catalog", CatalogPointerInvalid),
    "binary": (b"\xff\xfe\x00", CatalogPointerInvalid),
    "a list": (b"[]", CatalogPointerInvalid),
    "null": (b"null", CatalogPointerInvalid),
    "truncated": (json.dumps(GOOD).encode()[:-5], CatalogPointerInvalid),
    "no prefix": (json.dumps({"version": 1, "updated_at": GOOD["updated_at"]}).encode(), CatalogPointerInvalid),
    **{
        f"prefix {prefix!r}": (json.dumps(GOOD | {"prefix": prefix}).encode(), CatalogPointerInvalid)
        for prefix in (
            "",
            "ursa",
            "ursa/",
            "/ursa/catalog",
            "ursa/catalog/",
            "ursa//catalog",
            "ursa/../virgo",
            "ursa/./catalog",
            "ursa/.",
            "virgo/catalog",
            "ursa/catalog\n",
            "ursa/cata log",
            "r2://constellation-data/ursa/catalog",
            "constellation-assets/ursa/catalog",
            7,
            None,
            ["ursa/catalog"],
        )
    },
    **{
        f"version {version!r}": (json.dumps(GOOD | {"version": version}).encode(), CatalogPointerInvalid)
        for version in (0, -1, "1", 1.5, True, None)
    },
    "version 3": (json.dumps(GOOD | {"version": 3}).encode(), CatalogVersionUnknown),
    "version 3 of another shape": (b'{"version": 3, "prefixes": {"live": "ursa/new"}}', CatalogVersionUnknown),
}
BAD_CATALOGS: dict[str, tuple[bytes | None, type[CatalogError]]] = {
    "missing": (None, CatalogNotInitialized),
    "empty": (b"", CatalogPointerInvalid),
    "a list": (b"[]", CatalogPointerInvalid),
    "no date": (b'{"version": 1}', CatalogPointerInvalid),
    "version 3": (b'{"version": 3, "created_at": "2026-05-20T19:56:28Z"}', CatalogVersionUnknown),
    "version 3 of another shape": (b'{"version": 3}', CatalogVersionUnknown),
}


def test_a_missing_pointer_stops_reading_and_writing(lab: Lab):
    _delete(lab, ACTIVE_POINTER)
    _delete(lab, CATALOG)
    before = lab.everything()

    for stopped in (read_pointer, Catalog.open):
        with pytest.raises(CatalogNotInitialized, match="ursa catalog init"):
            stopped(lab.assets)
    assert lab.everything() == before


def test_a_pointer_that_is_not_understood_stops_everything_and_stays_as_it_is(lab: Lab):
    directory = write_recording(lab.nas, "rec_20260520_195628_b1dd", {"mic/a.wav": b"audio"})
    found = {}
    for name, (content, _) in BAD_POINTERS.items():
        _put(lab, ACTIVE_POINTER, content)
        before = lab.everything()
        errors = {
            _error_of(lambda: Catalog.open(lab.assets)),
            _error_of(lambda: init_catalog(lab.assets, by="test")),
            _error_of(lambda: lab.interface().ingest(source_dir=directory)),
            _error_of(lambda: lab.interface().list_recordings()),
        }
        assert lab.everything() == before, name
        found[name] = errors

    assert found == {name: {error} for name, (_, error) in BAD_POINTERS.items()}


def test_a_catalog_document_that_is_not_understood_stops_every_write(lab: Lab):
    catalog = Catalog.open(lab.assets)
    row = RecordingRow(recording_hash="0" * 64, start_time=datetime.now(UTC), duration=timedelta(seconds=1))
    directory = write_recording(lab.nas, "rec_20260520_195628_b1dd", {"mic/a.wav": b"audio"})
    found = {}
    for name, (content, _) in BAD_CATALOGS.items():
        _put(lab, CATALOG, content)
        before = lab.everything()
        errors = {
            _error_of(lambda: catalog.register_recording(row, "error", Writer(by="test"))),
            _error_of(lambda: lab.interface().ingest(source_dir=directory)),
        }
        assert lab.everything() == before, name
        found[name] = errors

    assert found == {name: {error} for name, (_, error) in BAD_CATALOGS.items()}


def test_the_pointer_is_not_made_to_name_a_catalog_of_an_unknown_version(lab: Lab):
    _delete(lab, ACTIVE_POINTER)
    _put(lab, CATALOG, b'{"version": 3, "created_at": "2026-05-20T19:56:28Z"}')
    before = lab.everything()

    with pytest.raises(CatalogVersionUnknown):
        init_catalog(lab.assets, by="test")

    assert lab.everything() == before


def test_unknown_fields_of_a_pointer_are_no_reason_to_stop(lab: Lab):
    _put(lab, ACTIVE_POINTER, json.dumps(GOOD | {"previous": ["ursa/old"], "note": "by hand"}).encode())

    assert read_pointer(lab.assets).previous == ["ursa/old"]


def test_init_again_changes_nothing_and_keeps_the_live_prefix(lab: Lab):
    _put(lab, ACTIVE_POINTER, json.dumps(GOOD | {"prefix": "ursa/catalog-2"}).encode())
    _delete(lab, CATALOG)
    before = lab.everything()

    assert init_catalog(lab.assets, by="test").prefix == "ursa/catalog-2"
    assert lab.everything() == before


def test_init_goes_on_where_an_interrupted_one_stopped(lab: Lab):
    _delete(lab, ACTIVE_POINTER)

    assert init_catalog(lab.assets, by="test").prefix == DEFAULT_PREFIX
    assert Catalog.open(lab.assets).list_recordings() == []


def test_of_several_inits_at_once_all_get_the_same_catalog(lab: Lab):
    _delete(lab, ACTIVE_POINTER)
    _delete(lab, CATALOG)

    with ThreadPoolExecutor(8) as pool:
        pointers = list(pool.map(lambda number: init_catalog(lab.assets, by=f"test-{number}"), range(8)))

    assert len({pointer.updated_by for pointer in pointers}) == 1
    assert pointers[0] == read_pointer(lab.assets)


def _put(lab: Lab, key: str, content: bytes | None) -> None:
    _delete(lab, key)
    if content is not None:
        lab.assets.create(key, content)


def _delete(lab: Lab, key: str) -> None:
    lab.assets.multipart_client.delete_object(Bucket=lab.assets.name, Key=key)


def _error_of(call) -> type[Exception] | None:
    try:
        call()
    except CatalogError as error:
        return type(error)
    return None

"""Marks of what the tables may not hold: none is overlooked, and one stays while its write may have happened."""

from __future__ import annotations

import pytest

from tests.catalog.by_hand import PREFIX, WRITER, hash_of, row
from tests.faults.proxy import Fault, LoseAnswer, Proxy, RequestRefused
from tests.lab import Lab
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.tail import mark_batch, read_tail
from ursa_pipelines.errors import CatalogError, StoreDenied
from ursa_pipelines.objects.store import Bucket


class LoseThenDeny(LoseAnswer):
    """Loses the answer to a PUT of an entry, and then lets nobody see what came of it."""

    def before(self, request: str) -> None:
        if self.lost and request.startswith("GET ") and "/entries/" in request:
            raise RequestRefused(403, "AccessDenied")


class Narrow(Fault):
    """Puts a narrower batch mark in the place of one that was just listed."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self.key = lab, ""

    def before(self, request: str) -> None:
        if self.key and request.startswith("GET ") and self.key in request:
            mark_batch(self._lab.assets, PREFIX, [hash_of(0)], "txn", attempt=1)
            self._lab.assets.remove(self.key)
            self.key = ""


def test_the_mark_of_a_write_that_may_have_happened_stays(lab: Lab, proxied_assets: Bucket, proxy: Proxy):
    proxy.fault = fault = LoseThenDeny("^PUT .*/entries/")

    with pytest.raises(StoreDenied):
        Catalog.open(proxied_assets).register_recording(row(0), "error", WRITER)

    assert fault.lost
    assert [one.recording_hash for one in lab.data.list_recordings()] == [hash_of(0)]


def test_a_batch_mark_that_is_narrowed_while_it_is_read_is_not_overlooked(
    lab: Lab, proxied_assets: Bucket, proxy: Proxy
):
    proxy.fault = fault = Narrow(lab)
    fault.key = mark_batch(lab.assets, PREFIX, [hash_of(0), hash_of(1)], "txn")

    (mark,) = read_tail(proxied_assets, PREFIX)

    assert mark.names == (hash_of(0),)


def test_a_damaged_mark_is_named(lab: Lab):
    key = f"{PREFIX}/tail/_batch.0"
    lab.assets.create(key, b"[")

    with pytest.raises(CatalogError, match=key):
        lab.data.list_recordings()

"""After every fault test that has a lab the invariants are checked, all those that need no other run to compare."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.faults import invariants as checked
from tests.faults.bits import FILES, REC, Kept, Stage
from tests.faults.detour import Detour
from tests.faults.proxy import Proxy
from tests.faults.source_writes import watched
from tests.lab import Lab
from tests.recordings_on_disk import write_recording


@pytest.fixture(autouse=True)
def invariants(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[checked.Evidence]:
    """What the check after the test knows; a test adds to it, or names in `excused` what it breaks itself."""
    evidence = checked.Evidence()
    if "lab" not in request.fixturenames:
        yield evidence
        return
    lab: Lab = request.getfixturevalue("lab")
    with watched(lab.nas, lab.usb) as writes:
        yield evidence
    found = request.node.funcargs
    proxies = [found["detour"].proxy if isinstance(found.get("detour"), Detour) else None, found.get("proxy")]
    form = logging.Formatter("%(message)s %(args)s")
    evidence.requests = [
        *evidence.requests,
        *(seen for one in proxies if isinstance(one, Proxy) for seen in one.history),
    ]
    evidence.writes = [*evidence.writes, *writes]
    evidence.told = {
        **evidence.told,
        "the log": "\n".join(f"{form.format(one)} {one.__dict__}" for one in caplog.get_records("call")),
    }
    checked.require(lab, evidence)


@pytest.fixture
def ingested(lab: Lab) -> Iterator[Stage]:
    """A lab with one recording; after the test it is put back, and everything agrees: no false alarm."""
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    result = lab.data.ingest(source_dir=directory)
    assert result.recording is not None
    found = Stage(lab, directory, result.recording.recording_hash, (Kept(lab.raw), Kept(lab.assets)))
    yield found
    found.restore()
    assert lab.interface().verify(REC, deep=True).problems == ()
    assert lab.interface().ingest(source_dir=directory).outcome == "unchanged"
    lab.check_invariants()

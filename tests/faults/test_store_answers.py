"""Faults 54, 57, 58, 59, 61, 63 and 64: what a store answers that must neither be believed nor be taken for the end."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.faults.detour import PART_SIZE, Detour
from tests.faults.proxy import Answer, Fault, Proxy, Refuse, RequestRefused
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.errors import ClockWrong, ObjectConflict, StoreDenied, StoreUnavailable
from ursa_pipelines.ingest import pipeline
from ursa_pipelines.ingest.context import IngestContext
from ursa_pipelines.objects.store import Bucket, Endpoint

REC = "rec_20260520_195628_b1dd"
FILES = {
    "camera_a/seg_0000.mp4": b"video frame;" * ((3 * PART_SIZE) // 12),
    "mic/seg_0000.wav": b"audio" * 100,
    "eeg_4559/seg_0000.edf": b"eeg" * 100,
}
A_LIST = r"^GET /raw[^/]*\?.*list-type=2"


class Altered(Fault):
    """The answers to the requests that match, with their body changed."""

    def __init__(self, pattern: str, change) -> None:
        self._pattern, self._change = re.compile(pattern), change

    def answered(self, request: str, answer: Answer) -> Answer:
        status, headers, content = answer
        if not self._pattern.search(request):
            return answer
        changed = self._change(content)
        others = [(name, value) for name, value in headers if name.lower() != "content-length"]
        return status, [*others, ("Content-Length", str(len(changed)))], changed


class Continued(Fault):
    """A LIST that is said to go on, every time with the same token; or to end in an error that is told with 200."""

    def __init__(self, *, errors: bool = False) -> None:
        self._errors = errors

    def before(self, request: str) -> None:
        if self._errors and "continuation-token" in request:
            raise RequestRefused(200, "InternalError")

    def answered(self, request: str, answer: Answer) -> Answer:
        more = b"<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>"
        change = Altered(A_LIST, lambda content: content.replace(b"<IsTruncated>false</IsTruncated>", more))
        return answer if self._errors and "continuation-token" in request else change.answered(request, answer)


def test_fault_54_a_list_that_is_cut_short_is_an_error_and_no_short_list(lab: Lab, detour: Detour):
    directory = write_recording(lab.nas, REC, FILES)
    lab.data.ingest(source_dir=directory)
    before = lab.everything()
    detour.proxy.fault = Altered(A_LIST, lambda content: content[: len(content) // 2])

    with pytest.raises(StoreUnavailable):
        detour.interface().ingest(source_dir=directory)

    assert lab.everything() == before


def test_fault_57_an_error_in_a_list_of_200_is_no_empty_list(lab: Lab, detour: Detour):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES))
    detour.proxy.fault = Refuse(r"GET /assets.*list-type=2.*entries", 200, "InternalError")

    with pytest.raises(StoreUnavailable):
        list(detour.interface().catalog.entries())


@pytest.mark.parametrize("what", ["objects", "directories"])
def test_fault_57_an_error_in_a_later_page_of_a_list_is_not_its_end(lab: Lab, detour: Detour, what: str):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES))
    detour.proxy.fault = Continued(errors=True)

    with pytest.raises(StoreUnavailable, match="no listing"):
        _listed(_through(lab, detour.proxy).raw, what)


@pytest.mark.parametrize("what", ["objects", "directories"])
def test_a_list_whose_token_comes_back_is_an_error_and_has_an_end(lab: Lab, detour: Detour, what: str):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES))
    detour.proxy.fault = Continued()

    with pytest.raises(StoreUnavailable, match="repeats a page"):
        _listed(_through(lab, detour.proxy).raw, what)

    assert sum(seen.matches(A_LIST) for seen in detour.proxy.seen) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: b"<html><body>Please log in</body></html>",
        lambda content: content.replace(b"<Key>", b"<Name>").replace(b"</Key>", b"</Name>"),
        lambda content: re.sub(rb"<Size>[0-9]+", b"<Size>many", content),
        lambda content: content.replace(b">false</IsTruncated>", b">true</IsTruncated>"),
        lambda content: content.replace(b"<ListBucketResult", b'<!DOCTYPE a [<!ENTITY b "c">]><ListBucketResult'),
    ],
    ids=["empty", "a page to log in", "no key", "no size", "no token", "entities"],
)
def test_an_answer_that_is_no_list_is_an_error(lab: Lab, detour: Detour, change):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES))
    detour.proxy.fault = Altered(A_LIST, change)

    with pytest.raises(StoreUnavailable, match="no listing"):
        _listed(_through(lab, detour.proxy).raw, "objects")


def test_what_a_console_makes_for_a_folder_is_no_object(lab: Lab, detour: Detour):
    folder = b"<Contents><Key>a/</Key><LastModified>2026-05-20T19:56:28.000Z</LastModified><Size>0</Size></Contents>"
    body = b"<ListBucketResult>" + folder + b"<IsTruncated>false</IsTruncated></ListBucketResult>"
    detour.proxy.fault = Altered(A_LIST, lambda content: body)

    assert _listed(_through(lab, detour.proxy).raw, "objects") == []


def test_fault_57_an_error_that_is_told_in_the_place_of_an_object_is_no_object(lab: Lab, detour: Detour):
    for path, content in FILES.items():
        lab.raw.create(f"recordings/{REC}/{path}", content)
    lab.raw.create(f"recordings/{REC}/participant.txt", b"Aria Lin")
    detour.proxy.fault = Refuse(r"GET /raw.*/participant\.txt", 200, "InternalError", times=1)

    with pytest.raises(StoreUnavailable):
        detour.interface().reconstruct_manifest(REC)

    assert "manifest.json" not in lab.objects(REC)


def test_fault_57_an_error_in_the_answer_to_a_put_in_chunks_is_no_success(lab: Lab, detour: Detour):
    files = FILES | {"mic/seg_0000.wav": b"audio" * 100_000}
    fault = detour.proxy.fault = Refuse(r"PUT /raw.*/mic/", 200, "InternalError", times=1)

    detour.interface().ingest(source_dir=write_recording(lab.nas, REC, files))

    assert fault.refused == 1
    assert set(files) <= lab.objects(REC).keys()
    lab.check_invariants()


@pytest.mark.parametrize("left_out", ["camera_a", "mic", "manifest.json"])
def test_fault_64_an_object_that_a_list_leaves_out_is_proved_all_the_same(lab: Lab, detour: Detour, left_out: str):
    directory = write_recording(lab.nas, REC, FILES)
    lab.data.ingest(source_dir=directory)
    entry = re.compile(rb"<Contents><Key>[^<]*" + left_out.encode() + rb".*?</Contents>", re.DOTALL)
    detour.proxy.fault = Altered(A_LIST, lambda content: entry.sub(b"", content))

    result = detour.interface().ingest(source_dir=directory)

    assert (result.outcome, result.bytes_uploaded) == ("unchanged", 0)
    lab.check_invariants()


def test_fault_64_an_object_that_a_list_repeats_is_one(lab: Lab, detour: Detour):
    directory = write_recording(lab.nas, REC, FILES)
    lab.data.ingest(source_dir=directory)
    detour.proxy.fault = Altered(A_LIST, lambda content: re.sub(rb"(<Contents>.*</Contents>)", rb"\1\1", content))

    result = detour.interface().ingest(source_dir=directory)

    assert (result.outcome, result.files_skipped) == ("unchanged", len(FILES))


def test_fault_61_wrong_content_of_the_same_size_is_a_conflict(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    for path, content in FILES.items():
        lab.raw.create(f"recordings/{REC}/{path}", content[:-1] + b"!")

    with pytest.raises(ObjectConflict, match="other bytes"):
        lab.data.ingest(source_dir=directory)

    assert lab.data.list_recordings() == []


@pytest.mark.parametrize("refused", [r"PUT /raw.*partNumber=", r"PUT /assets.*/ursa/uploads/", r"PUT /raw.*/mic/"])
def test_fault_63_a_store_that_asks_for_fewer_requests_is_asked_again(lab: Lab, detour: Detour, refused: str):
    directory = write_recording(lab.nas, REC, FILES)
    fault = detour.proxy.fault = Refuse(refused, 429, "TooManyRequests", times=2)

    result = detour.interface().ingest(source_dir=directory)

    assert (fault.refused, result.files_uploaded) == (2, len(FILES))
    lab.check_invariants()


@pytest.mark.parametrize(
    "refused",
    [
        r"PUT /raw.*/mic/",
        r"POST /raw.*\?uploads",
        r"PUT /raw.*partNumber=1",
        r"POST /raw.*\?uploadId=",
        r"PUT /raw.*/manifest\.json",
    ],
)
def test_fault_58_a_credential_that_expires_is_fetched_once_more_and_the_upload_goes_on(
    lab: Lab, proxy: Proxy, refused: str
):
    directory = write_recording(lab.nas, REC, FILES)
    proxy.fault = Refuse(refused, 403, "ExpiredToken")
    fetched = []

    def renew() -> bool:
        fetched.append(True)
        proxy.fault = Fault()
        return True

    result = pipeline.ingest(_through(lab, proxy, renew), directory)

    assert (result.outcome, result.files_uploaded) == ("created", len(FILES))
    assert fetched == [True]
    # An upload that is not recorded ends with its failure; what was completed is not sent again.
    assert sum(seen.matches("^PUT .*partNumber=1") for seen in proxy.seen) == (2 if "uploadId" in refused else 1)
    lab.check_invariants()


def test_fault_58_a_credential_that_is_refused_again_stops_the_ingest(lab: Lab, proxy: Proxy):
    directory = write_recording(lab.nas, REC, FILES)
    proxy.fault = Refuse(r"PUT /raw.*/mic/", 403, "ExpiredToken")
    fetched = []

    with pytest.raises(StoreDenied):
        pipeline.ingest(_through(lab, proxy, lambda: bool(fetched.append(True)) or True), directory)

    assert fetched == [True]
    assert lab.data.list_recordings() == []


@pytest.mark.parametrize(
    "refused", [r"PUT /raw.*/mic/", r"POST /raw.*\?uploads", r"PUT /raw.*partNumber="], ids=["single", "open", "part"]
)
def test_fault_59_a_clock_that_is_wrong_is_named(lab: Lab, detour: Detour, refused: str):
    directory = write_recording(lab.nas, REC, FILES)
    detour.proxy.fault = Refuse(refused, 403, "RequestTimeTooSkewed")

    with pytest.raises(ClockWrong, match="clock"):
        detour.interface().ingest(source_dir=directory)

    assert lab.data.list_recordings() == []


def _listed(bucket: Bucket, what: str) -> list[object]:
    prefix = "recordings/"
    return list(bucket.list_objects(prefix) if what == "objects" else bucket.list_directories(prefix))


def _through(lab: Lab, proxy: Proxy, renew=lambda: False) -> IngestContext:
    """The lab's context with its raw bucket behind the proxy."""
    context = lab.data.ingest_context()
    store = open_store(lab.data.state)
    secret = (store.access_key_id, store.secret_access_key, None)
    return replace(context, raw=Bucket(lab.raw.name, Endpoint(proxy.url, "auto", lambda: secret, renew)))

"""Uploads that were interrupted go on where they stopped, whoever takes them up, and only ever our own."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.faults.proxy import LoseAnswer, Meet, Proxy, Refuse
from tests.objects.desk import MIB, PART_SIZE, Desk, content_of
from ursa_pipelines.errors import ContentMismatch, ObjectExists, UploadInterrupted, UrsaError
from ursa_pipelines.objects.keys import upload_record_key
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.objects.transfers import TransferLimits, Transfers
from ursa_pipelines.objects.upload import Outgoing, Uploader

PATH = "camera_a/seg_0000.mp4"
SIZE = 4 * PART_SIZE + MIB
FILES = {PATH: content_of(SIZE)}


def test_an_interrupted_upload_goes_on_with_the_parts_that_are_missing(desk: Desk):
    (one,) = desk.outgoing(FILES)
    _interrupt(desk, one, after_parts=2)
    assert desk.objects() == []

    sent = _resuming(desk).send(one)

    assert sent.bytes_sent == SIZE - 2 * PART_SIZE
    _require_sound(desk, one)


def test_a_stop_keeps_what_is_stored(desk: Desk):
    (one,) = desk.outgoing(FILES)
    left = [2 * PART_SIZE]

    def count_down(path: str, count: int) -> None:
        left[0] -= count

    def stop() -> None:
        if left[0] <= 0:
            raise UploadInterrupted("a pause was asked for")

    with pytest.raises(UploadInterrupted):
        _resuming(desk, check_stop=stop, on_bytes=count_down).send(one)

    assert desk.objects() == []
    assert len(desk.survey()) == 1
    _resuming(desk).send(one)
    _require_sound(desk, one)


def test_what_is_found_stored_counts_as_progress(desk: Desk):
    (one,) = desk.outgoing(FILES)
    _interrupt(desk, one, after_parts=2)
    told: Counter[str] = Counter()

    _resuming(desk, on_bytes=lambda path, count: told.update({path: count})).send(one)

    assert told == {PATH: SIZE}


def test_the_parts_of_an_upload_keep_the_size_they_were_begun_with(desk: Desk):
    (one,) = desk.outgoing(FILES)
    _interrupt(desk, one, after_parts=2)

    limits = TransferLimits(part_size=8 * MIB, resume_above=0)
    Uploader(desk.bucket, desk.bucket, desk.rec_id, Transfers(limits)).send(one)

    assert desk.bucket.get(one.key)[1].etag.endswith('-5"')
    _require_sound(desk, one)


def test_a_stored_part_of_other_bytes_is_sent_again(desk: Desk):
    (one,) = desk.outgoing(FILES)
    _interrupt(desk, one, content=content_of(PART_SIZE, seed="other") + FILES[PATH][PART_SIZE:], after_parts=2)

    sent = _resuming(desk).send(one)

    assert sent.bytes_sent == SIZE - PART_SIZE
    _require_sound(desk, one)


def test_an_upload_that_has_expired_is_begun_anew(desk: Desk):
    (one,) = desk.outgoing(FILES)
    _interrupt(desk, one, after_parts=2)
    (unfinished,) = desk.survey()
    desk.bucket.multipart_client.abort_multipart_upload(
        Bucket=desk.bucket.name, Key=one.key, UploadId=unfinished.record.upload_id
    )

    assert _resuming(desk).send(one).bytes_sent == SIZE

    _require_sound(desk, one)


def test_an_upload_that_expires_while_it_goes_on_is_begun_anew(desk: Desk):
    (one,) = desk.outgoing(FILES)
    ended = threading.Event()

    def end_it(path: str, count: int) -> None:
        if not ended.is_set():
            ended.set()
            (unfinished,) = desk.survey()
            desk.bucket.multipart_client.abort_multipart_upload(
                Bucket=desk.bucket.name, Key=one.key, UploadId=unfinished.record.upload_id
            )

    _resuming(desk, on_bytes=end_it).send(one)

    _require_sound(desk, one)


def test_an_object_that_came_meanwhile_ends_the_upload_that_is_left(desk: Desk):
    (one,) = desk.outgoing(FILES)
    _interrupt(desk, one, after_parts=2)
    desk.put_as_a_rig(PATH, FILES[PATH])

    with pytest.raises(ObjectExists):
        _resuming(desk).send(one)

    assert desk.open_uploads() == []
    assert desk.survey() == []


def test_a_file_with_other_content_ends_the_upload_of_the_old_one(desk: Desk):
    (one,) = desk.outgoing(FILES)
    _interrupt(desk, one, after_parts=2)
    (mended,) = desk.outgoing({PATH: content_of(SIZE, seed="mended")})

    assert _resuming(desk).send(mended).bytes_sent == SIZE

    assert desk.bucket.get(one.key)[0] == content_of(SIZE, seed="mended")
    assert (desk.open_uploads(), desk.survey()) == ([], [])


def test_a_file_that_is_not_what_is_attested_ends_its_upload(desk: Desk):
    (one,) = desk.outgoing(FILES, sha256="0" * 64)

    with pytest.raises(ContentMismatch):
        _resuming(desk).send(one)

    desk.require_nothing_left()
    assert desk.survey() == []


@pytest.mark.parametrize("record", [b"{}", b"not json", b'{"key": "recordings/x", "upload_id": 3}'])
def test_a_record_that_says_nothing_is_replaced(desk: Desk, record: bytes):
    (one,) = desk.outgoing(FILES)
    desk.bucket.create(upload_record_key(one.key), record)

    _resuming(desk).send(one)

    _require_sound(desk, one)


def test_the_upload_of_a_rig_is_never_touched(desk: Desk):
    (one,) = desk.outgoing(FILES)
    upload_id = desk.bucket.multipart_client.create_multipart_upload(Bucket=desk.bucket.name, Key=one.key)["UploadId"]

    _interrupt(desk, one, after_parts=1)
    _resuming(desk).send(one)

    assert desk.open_uploads() == [one.key]
    desk.bucket.multipart_client.abort_multipart_upload(Bucket=desk.bucket.name, Key=one.key, UploadId=upload_id)
    _require_sound(desk, one)


def test_ingesters_that_meet_share_one_upload(desk: Desk, proxied: Bucket, proxy: Proxy):
    (one,) = desk.outgoing(FILES)
    begun = "^POST .*\\?uploads"
    proxy.fault = Meet("^PUT .*/ursa/uploads/", "^PUT .*/ursa/uploads/")
    through = replace(desk, bucket=proxied)

    with ThreadPoolExecutor(2) as pool:
        errors = [error for error in pool.map(lambda _: _send_or_error(through, one), range(2)) if error]

    assert {type(error) for error in errors} <= {ObjectExists}
    assert sum(seen.matches(begun) for seen in proxy.seen) == 2
    completed = {seen.query["uploadId"] for seen in proxy.seen if seen.matches("^POST .*\\?uploadId=")}
    assert len(completed) == 1
    _require_sound(desk, one)


@pytest.mark.parametrize(
    "write", ["^PUT .*/ursa/uploads/", "^POST .*\\?uploadId=", "^DELETE .*/ursa/uploads/", "^PUT .*partNumber=2"]
)
def test_a_lost_answer_neither_fails_the_upload_nor_leaves_a_second_one(
    desk: Desk, proxied: Bucket, proxy: Proxy, write: str
):
    (one,) = desk.outgoing(FILES)
    fault = proxy.fault = LoseAnswer(write)

    error = _send_or_error(replace(desk, bucket=proxied), one)

    assert fault.lost
    # A lost answer to Complete shows as an object that is there; who asked to send it compares and is content.
    assert error is None or (isinstance(error, ObjectExists) and "uploadId" in write)
    _require_sound(desk, one)


def test_a_record_that_cannot_be_removed_does_not_fail_a_finished_upload(desk: Desk, proxied: Bucket, proxy: Proxy):
    (one,) = desk.outgoing(FILES)
    proxy.fault = Refuse("^DELETE .*/ursa/uploads/", 403, "AccessDenied")

    _resuming(replace(desk, bucket=proxied)).send(one)

    (left,) = desk.survey()
    assert left.idle_since is None
    desk.unfinished.remove(left)
    _require_sound(desk, one)


def test_only_an_uploads_own_record_goes_with_it(desk: Desk):
    (one,) = desk.outgoing(FILES)
    earlier = desk.unfinished.open(one.key, size=SIZE, sha256="0" * 64, part_size=PART_SIZE)
    desk.unfinished.open(one.key, size=SIZE, sha256=one.sha256, part_size=PART_SIZE)

    desk.unfinished.abandon(earlier)

    (goes_on,) = desk.survey()
    assert goes_on.record.sha256 == one.sha256
    desk.unfinished.remove(goes_on)
    desk.require_nothing_left()


def test_an_upload_that_goes_on_by_now_is_not_removed(desk: Desk):
    (one,) = desk.outgoing(FILES)
    _interrupt(desk, one, after_parts=1)
    (seen,) = desk.survey()
    assert seen.idle_since is not None
    seen_before_that_part = replace(seen, idle_since=seen.idle_since - timedelta(seconds=1))

    assert not desk.unfinished.remove(seen_before_that_part)
    assert desk.unfinished.remove(seen)

    desk.require_nothing_left()


def test_no_upload_is_begun_of_an_object_that_is_there(desk: Desk, proxied: Bucket, proxy: Proxy):
    (one,) = desk.outgoing(FILES)
    desk.put_as_a_rig(PATH, FILES[PATH])

    with pytest.raises(ObjectExists):
        _resuming(replace(desk, bucket=proxied)).send(one)

    assert not any(seen.matches("^POST .*\\?uploads") for seen in proxy.seen)


def test_a_survey_tells_who_began_an_upload_and_how_much_is_stored(desk: Desk):
    (one,) = desk.outgoing(FILES)
    _interrupt(desk, one, after_parts=2)

    (unfinished,) = desk.survey()

    assert (unfinished.record.key, unfinished.record.size) == (one.key, SIZE)
    assert unfinished.record.host
    assert unfinished.stored_bytes == 2 * PART_SIZE
    desk.unfinished.remove(unfinished)
    desk.require_nothing_left()
    assert desk.survey() == []


def test_a_stop_does_not_wait_for_a_store_that_does_not_answer(desk: Desk, proxied: Bucket, proxy: Proxy):
    """What is under way in a part that never gets an answer is given up between two tries."""
    (one,) = desk.outgoing(FILES)
    refused = proxy.fault = Refuse("^PUT .*partNumber=", 503, "SlowDown")

    def stop() -> None:
        if refused.refused:
            raise UploadInterrupted("a pause was asked for")

    with pytest.raises(UploadInterrupted):
        _resuming(replace(desk, bucket=proxied), check_stop=stop).send(one)

    assert refused.refused <= TransferLimits(part_size=PART_SIZE).part_senders


def _resuming(desk: Desk, **told) -> Uploader:
    return desk.uploader(resume_above=0, **told)


def _interrupt(desk: Desk, one: Outgoing, *, after_parts: int, content: bytes = FILES[PATH]) -> None:
    """What a process leaves that was killed when the store had so many parts."""
    upload = desk.unfinished.open(one.key, size=SIZE, sha256=one.sha256, part_size=PART_SIZE)
    for number in range(after_parts):
        upload.send(number + 1, memoryview(content)[number * PART_SIZE : (number + 1) * PART_SIZE])


def _send_or_error(desk: Desk, one: Outgoing) -> UrsaError | None:
    try:
        _resuming(desk).send(one)
    except UrsaError as error:
        return error
    return None


def _require_sound(desk: Desk, one: Outgoing) -> None:
    body, info = desk.bucket.get(one.key)
    assert body == FILES[PATH]
    assert info.sha256 == one.sha256
    assert desk.open_uploads() == []
    assert desk.survey() == []

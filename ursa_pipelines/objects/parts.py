"""One multipart upload: equal parts, each proved by the store, completed create-only (DESIGN section 5).

The store proves a part by its CRC64NVME, or where it takes none by an ETag that is the MD5 of what was sent; then the
object is proved by the joined CRC64NVME, or by being made of proved parts.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from awscrt.checksums import combine_crc64nvme, crc64nvme

from ursa_pipelines.errors import StoreRefused, StoreUnavailable
from ursa_pipelines.objects.store import Bucket, ObjectInfo
from ursa_pipelines.objects.wire import Outflow, UploadGone, error_of_answer

_CRC64NVME = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}
_CRC64NVME_HEADER = "x-amz-checksum-crc64nvme"


@dataclass(frozen=True)
class StoredPart:
    """A part as ListParts shows it. `size` is bytes, `etag` in quotes."""

    number: int
    size: int
    etag: str
    sent_at: datetime


@dataclass(frozen=True)
class _Proved:
    etag: str
    size: int
    crc64nvme: int


class MultipartUpload:
    """An open multipart upload of `key`. Parts may be placed from several threads.

    `takes_crc64nvme` says whether the store proves checksums; `stored` are parts that an earlier try has sent.
    """

    def __init__(
        self,
        bucket: Bucket,
        key: str,
        upload_id: str,
        *,
        sha256: str,
        part_size: int,
        takes_crc64nvme: bool,
        stored: dict[int, StoredPart] | None = None,
    ) -> None:
        self.key, self.upload_id, self.part_size, self.takes_crc64nvme = key, upload_id, part_size, takes_crc64nvme
        self._bucket, self._sha256, self._stored = bucket, sha256, stored or {}
        self._proved: dict[int, _Proved] = {}
        self._lock = threading.Lock()

    def keep(self, number: int, content: memoryview) -> bool:
        """Whether the part was stored by an earlier try with these bytes; then it need not be sent."""
        stored = self._stored.get(number)
        if stored is None or stored.size != len(content) or stored.etag != _md5_etag(content):
            return False
        self._note(number, _Proved(stored.etag, len(content), crc64nvme(content)))
        return True

    def send(
        self,
        number: int,
        content: memoryview,
        take: Callable[[int], int] = lambda wanted: wanted,
        *,
        on_bytes: Callable[[int], None] = lambda count: None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        """Sends a part; `take` and `on_bytes` are those of its `Outflow`. Raises `UploadGone` and what `Wire` does."""
        checksum = crc64nvme(content)
        encoded = _encoded(checksum)
        answer = self._bucket.wire.put(
            self.key,
            Outflow(content, take, on_bytes),
            query={"partNumber": str(number), "uploadId": self.upload_id},
            headers={_CRC64NVME_HEADER: encoded} if self.takes_crc64nvme else {},
            sleep=sleep,
        )
        etag = answer.get("etag", "")
        if answer.get(_CRC64NVME_HEADER) != encoded and etag != _md5_etag(content):
            raise StoreUnavailable(
                f"it did not confirm the content of part {number}", place=f"{self._bucket.name}/{self.key}"
            )
        self._note(number, _Proved(etag, len(content), checksum))

    def complete(self) -> ObjectInfo:
        """Makes the object visible. Raises `ObjectExists` if the key was taken meanwhile, `UploadGone`.

        An upload that is gone may have been completed by us, with the answer lost.
        """
        parts = sorted(self._proved.items())
        joined, size = 0, 0
        for _, part in parts:
            joined, size = combine_crc64nvme(joined, part.crc64nvme, part.size), size + part.size
        checksum = {"ChecksumCRC64NVME": _encoded(joined), "ChecksumType": "FULL_OBJECT"}
        with speaking_of(self._bucket, self.key):
            answer = self._bucket.multipart_client.complete_multipart_upload(
                Bucket=self._bucket.name,
                Key=self.key,
                UploadId=self.upload_id,
                MultipartUpload={"Parts": [{"PartNumber": number, "ETag": part.etag} for number, part in parts]},
                IfNoneMatch="*",
                **(checksum if self.takes_crc64nvme else {}),
            )
        return ObjectInfo(self.key, size, answer["ETag"], self._sha256)

    def abort(self) -> None:
        """Removes the parts. An upload that is gone is no error: R2 ends one whose conditional Complete fails."""
        with suppress(UploadGone), speaking_of(self._bucket, self.key):
            self._bucket.multipart_client.abort_multipart_upload(
                Bucket=self._bucket.name, Key=self.key, UploadId=self.upload_id
            )

    def _note(self, number: int, proved: _Proved) -> None:
        with self._lock:
            self._proved[number] = proved


def create_upload(bucket: Bucket, key: str, *, sha256: str, part_size: int) -> MultipartUpload:
    """Opens a multipart upload, with checksums if the store takes them."""
    settings = {"Bucket": bucket.name, "Key": key, "Metadata": {"sha256": sha256}}
    client = bucket.multipart_client
    try:
        with speaking_of(bucket, key):
            answer = client.create_multipart_upload(**settings, **_CRC64NVME)
    except StoreRefused:
        # It does not know checksums of whole objects; it may take the upload without.
        with speaking_of(bucket, key):
            answer = client.create_multipart_upload(**settings)
    takes_crc64nvme = answer.get("ChecksumAlgorithm") == "CRC64NVME"
    return MultipartUpload(
        bucket, key, answer["UploadId"], sha256=sha256, part_size=part_size, takes_crc64nvme=takes_crc64nvme
    )


def stored_parts(bucket: Bucket, key: str, upload_id: str) -> dict[int, StoredPart]:
    """The parts that an open upload has, by number. Raises `UploadGone`."""
    with speaking_of(bucket, key):
        pages = bucket.multipart_client.get_paginator("list_parts").paginate(
            Bucket=bucket.name, Key=key, UploadId=upload_id
        )
        return {
            part["PartNumber"]: StoredPart(part["PartNumber"], part["Size"], part["ETag"], part["LastModified"])
            for page in pages
            for part in page.get("Parts", ())
        }


def has_open_uploads(bucket: Bucket, prefix: str) -> bool:
    """Whether somebody is sending a file in parts under the prefix, or left one unfinished."""
    with speaking_of(bucket, prefix):
        answer = bucket.multipart_client.list_multipart_uploads(Bucket=bucket.name, Prefix=prefix, MaxUploads=1)
    return bool(answer.get("Uploads"))


@contextmanager
def speaking_of(bucket: Bucket, key: str) -> Iterator[None]:
    """Turns boto3's errors into this package's."""
    from botocore.exceptions import BotoCoreError, ClientError

    place = f"{bucket.name}/{key}"
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        raise error_of_answer(status, code, place) from None
    except BotoCoreError as error:
        raise StoreUnavailable(f"the object store failed: {type(error).__name__}", place=place) from None


def _md5_etag(content: memoryview) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _encoded(checksum: int) -> str:
    return base64.b64encode(checksum.to_bytes(8, "big")).decode()

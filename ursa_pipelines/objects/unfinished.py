"""Uploads that outlive an interruption, and how several ingesters agree on one upload per key (DESIGN section 5).

A record `ursa/uploads/<sha256 of key>.json` in the assets bucket says whose upload of a key goes on. It is created
create-only after the upload: who loses aborts its own and joins the recorded one. It is replaced only by
compare-and-swap, when its upload is gone or was of other content, and removed when the object is there. Uploads
without a record may be a rig's and are never touched.
"""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ursa_pipelines import failpoints
from ursa_pipelines.errors import ETagMismatch, ObjectExists, ObjectNotFound, StoreUnavailable
from ursa_pipelines.objects.keys import RECORDINGS, UPLOAD_RECORDS, upload_record_key
from ursa_pipelines.objects.parts import MultipartUpload, StoredPart, create_upload, stored_parts
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.objects.wire import UploadGone

logger = logging.getLogger("ursa.register.orchestrator")

_TRIES = 5
_MIB = 1024 * 1024


class UploadRecord(BaseModel):
    """Whose upload of a key goes on. Sizes are bytes, `started_at` UTC."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str = Field(pattern=f"^{RECORDINGS}")
    upload_id: str = Field(min_length=1, max_length=2048)
    part_size: Annotated[int, Field(ge=5 * _MIB, le=5 * 1024 * _MIB)]
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}\z")
    crc64nvme: bool
    host: str
    started_at: datetime


@dataclass(frozen=True)
class UnfinishedUpload:
    """An upload of ours that was not completed. Bytes are those the store has.

    `idle_since` is when its last part came, by the store's clock; None if it has ended and only its record is left.
    """

    record: UploadRecord
    stored_bytes: int
    idle_since: datetime | None


@dataclass(frozen=True)
class UnfinishedUploads:
    """The records of `assets` about uploads to `raw`."""

    raw: Bucket
    assets: Bucket

    def open(self, key: str, *, size: int, sha256: str, part_size: int) -> MultipartUpload:
        """The upload of this content that goes on under this key, or a new one.

        Raises `ObjectExists` if the key is taken by now.
        """
        for _ in range(_TRIES):
            found = self._read(upload_record_key(key))
            if found is not None:
                joined = self._join(found[0], key, size, sha256)
                if joined is not None:
                    return joined
            if self.raw.head(key) is not None:
                self.settle(key)
                raise ObjectExists("the key was taken while the file was sent", place=f"{self.raw.name}/{key}")
            upload = create_upload(self.raw, key, sha256=sha256, part_size=part_size)
            try:
                recorded = self._record(upload, size, sha256, found[1] if found else None)
            except BaseException:
                upload.abort()
                raise
            if recorded:
                failpoints.reached("upload.recorded")
                return upload
            upload.abort()
        raise StoreUnavailable("other ingests keep starting an upload of it", place=f"{self.raw.name}/{key}")

    def close(self, upload: MultipartUpload) -> None:
        """Removes the record of an upload whose object is there, or that was aborted; another's record stays."""
        record, _ = self._read(upload_record_key(upload.key)) or (None, "")
        if record is not None and record.upload_id == upload.upload_id:
            self.assets.remove(upload_record_key(upload.key))

    def abandon(self, upload: MultipartUpload) -> None:
        """Ends an upload that must not go on, with its parts and its record."""
        upload.abort()
        self.close(upload)

    def settle(self, key: str) -> None:
        """Ends what is recorded of a key whose object is there."""
        record, _ = self._read(upload_record_key(key)) or (None, "")
        if record is not None and record.key == key:
            self.abandon(self._upload(record, {}))

    def survey(self) -> list[UnfinishedUpload]:
        """Every recorded upload. Nothing is changed; a record that cannot be read is passed over."""
        found = []
        for info in self.assets.list_objects(UPLOAD_RECORDS):
            record, _ = self._read(info.key) or (None, "")
            if record is None or upload_record_key(record.key) != info.key:
                logger.warning("%s/%s is no record of an upload", self.assets.name, info.key)
                continue
            try:
                parts = stored_parts(self.raw, record.key, record.upload_id).values()
            except UploadGone:
                found.append(UnfinishedUpload(record, 0, None))
            else:
                newest = max((part.sent_at for part in parts), default=record.started_at)
                found.append(UnfinishedUpload(record, sum(part.size for part in parts), newest))
        return found

    def remove(self, unfinished: UnfinishedUpload) -> bool:
        """Ends an upload that `survey` found, with its parts and its record; False if it goes on by now."""
        upload = self._upload(unfinished.record, {})
        with suppress(UploadGone):
            parts = stored_parts(self.raw, upload.key, upload.upload_id).values()
            if any(part.sent_at > (unfinished.idle_since or part.sent_at) for part in parts):
                return False
        self.abandon(upload)
        return True

    def _join(self, record: UploadRecord | None, key: str, size: int, sha256: str) -> MultipartUpload | None:
        if record is None or record.key != key:
            return None
        if (record.size, record.sha256) != (size, sha256):
            # The file was another one when this was begun; two contents cannot share an upload.
            self._upload(record, {}).abort()
            return None
        try:
            return self._upload(record, stored_parts(self.raw, key, record.upload_id))
        except UploadGone:
            return None

    def _upload(self, record: UploadRecord, stored: dict[int, StoredPart]) -> MultipartUpload:
        return MultipartUpload(
            self.raw,
            record.key,
            record.upload_id,
            sha256=record.sha256,
            part_size=record.part_size,
            takes_crc64nvme=record.crc64nvme,
            stored=stored,
        )

    def _record(self, upload: MultipartUpload, size: int, sha256: str, replaced: str | None) -> bool:
        """Whether the record names this upload now. `replaced` is the ETag of the record it takes the place of."""
        key = upload_record_key(upload.key)
        record = UploadRecord(
            key=upload.key,
            upload_id=upload.upload_id,
            part_size=upload.part_size,
            size=size,
            sha256=sha256,
            crc64nvme=upload.takes_crc64nvme,
            host=socket.gethostname(),
            started_at=datetime.now(UTC),
        )
        body = record.model_dump_json(indent=1).encode()
        try:
            if replaced is None:
                self.assets.create(key, body)
            else:
                self.assets.replace(key, body, replaced)
        except (ObjectExists, ETagMismatch, ObjectNotFound):
            # It may be our own write, with the answer lost.
            found, _ = self._read(key) or (None, "")
            return found is not None and found.upload_id == upload.upload_id
        return True

    def _read(self, key: str) -> tuple[UploadRecord | None, str] | None:
        """The record and its ETag; None for the record if it is malformed."""
        try:
            raw, info = self.assets.get(key)
        except ObjectNotFound:
            return None
        try:
            return UploadRecord.model_validate_json(raw), info.etag
        except ValidationError:
            return None, info.etag

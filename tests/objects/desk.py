"""A recording that a test writes, and where its files go to; for tests that send files."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.recordings_on_disk import write_recording
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.objects.store import Bucket, ObjectInfo
from ursa_pipelines.objects.transfers import TransferLimits, Transfers
from ursa_pipelines.objects.unfinished import UnfinishedUpload, UnfinishedUploads
from ursa_pipelines.objects.upload import Outgoing, Uploader
from ursa_pipelines.recordings.inventory import take_inventory

MIB = 1024 * 1024
PART_SIZE = 5 * MIB


@dataclass(frozen=True)
class Desk:
    """A recording below `source` and where it goes to."""

    bucket: Bucket
    rec_id: str
    source: Path
    _uploaders: list[Uploader] = field(default_factory=list)

    def close(self) -> None:
        """Ends the threads that send parts, as the end of an upload of all files does."""
        for uploader in self._uploaders:
            uploader._part_senders.shutdown()

    @property
    def directory(self) -> Path:
        return self.source / self.rec_id

    def key(self, path: str) -> str:
        return raw_key(self.rec_id, path)

    def outgoing(self, files: dict[str, bytes], *, sha256: str | None = None) -> list[Outgoing]:
        inventory = take_inventory(write_recording(self.source, self.rec_id, files))
        return [
            Outgoing(inventory, file, self.key(path), sha256 or hashlib.sha256(files[path]).hexdigest())
            for path, file in inventory.files.items()
        ]

    def uploader(
        self,
        *,
        part_size: int = PART_SIZE,
        resume_above: int = 128 * MIB,
        check_stop: Callable[[], None] = lambda: None,
        on_bytes: Callable[[str, int], None] = lambda path, count: None,
    ) -> Uploader:
        limits = TransferLimits(part_size=part_size, resume_above=resume_above)
        self._uploaders.append(Uploader(self.bucket, self.bucket, self.rec_id, Transfers(limits), check_stop, on_bytes))
        return self._uploaders[-1]

    def send_all(self, outgoing: list[Outgoing]) -> dict[str, ObjectInfo]:
        uploader = Uploader(self.bucket, self.bucket, self.rec_id)
        return uploader.send_all(outgoing, lambda one: uploader.send(one).info)

    def put_as_a_rig(self, path: str, content: bytes) -> None:
        """As a rig's uploader did it: without our metadata."""
        client = self.bucket.multipart_client
        client.put_object(Bucket=self.bucket.name, Key=self.key(path), Body=bytearray(content))

    def objects(self) -> list[str]:
        return [info.key for info in self.bucket.list_objects(self.key(""))]

    def open_uploads(self) -> list[str]:
        client = self.bucket.multipart_client
        answer = client.list_multipart_uploads(Bucket=self.bucket.name, Prefix=self.key(""))
        return [upload["Key"] for upload in answer.get("Uploads", [])]

    @property
    def unfinished(self) -> UnfinishedUploads:
        return UnfinishedUploads(self.bucket, self.bucket)

    def survey(self) -> list[UnfinishedUpload]:
        """The recorded uploads of this recording; other tests of the process share the bucket."""
        return [found for found in self.unfinished.survey() if found.record.key.startswith(self.key(""))]

    def require_nothing_left(self) -> None:
        assert self.objects() == []
        assert self.open_uploads() == []


@functools.cache
def content_of(size: int, seed: str = "bytes") -> bytes:
    return random.Random(f"{seed}-{size}").randbytes(size)

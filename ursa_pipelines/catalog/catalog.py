"""The catalog: opened at the prefix the pointer names, read by anyone, written through entries."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ursa_pipelines.catalog import policies
from ursa_pipelines.catalog.entries import (
    Change,
    Entry,
    Registration,
    ResolveFor,
    Writer,
    parse_entry,
    read_claim,
    read_entry,
    write_entry,
)
from ursa_pipelines.catalog.pointer import read_pointer
from ursa_pipelines.catalog.query import Where, matches
from ursa_pipelines.errors import CatalogRowNotFound, ObjectNotFound
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.identity import parse_rec_id
from ursa_pipelines.recordings.rows import ModalityRow, ParticipantRow, RecordingRow, Rows

_READERS = 16


@dataclass(frozen=True)
class Catalog:
    """A catalog under one prefix of the assets bucket. `follows_pointer` is False for an explicit staging prefix."""

    assets: Bucket
    prefix: str
    follows_pointer: bool = True

    @classmethod
    def open(cls, assets: Bucket, *, prefix: str | None = None) -> Catalog:
        """The live catalog, or the one under `prefix`. Raises what `read_pointer` raises."""
        if prefix is not None:
            return cls(assets, prefix, follows_pointer=False)
        return cls(assets, read_pointer(assets).prefix)

    def entry(self, recording_hash: str) -> Entry:
        """One recording with its modalities and participants: one request. Raises `CatalogRowNotFound`."""
        found = read_entry(self.assets, self.prefix, recording_hash)
        if found is None:
            raise CatalogRowNotFound(f"there is no recording {recording_hash}")
        return found[0]

    def entry_of_rec_id(self, rec_id: str) -> Entry | None:
        """The entry of the recording that owns this rec_id, or None: two requests."""
        recording_hash = read_claim(self.assets, self.prefix, rec_id)
        found = read_entry(self.assets, self.prefix, recording_hash) if recording_hash else None
        # A claim that lost the race for its content names the entry of the recording that won it.
        return found[0] if found and found[0].recording.rec_id == rec_id else None

    def entries(self) -> Iterator[Entry]:
        """Every entry, read concurrently."""
        keys = (info.key for info in self.assets.list_objects(f"{self.prefix}/entries/"))
        with ThreadPoolExecutor(_READERS, thread_name_prefix="catalog") as pool:
            yield from (entry for entry in pool.map(self._read, keys) if entry is not None)

    def list_recordings(self, where: Where | None = None) -> list[RecordingRow]:
        """Recordings that match, in order of their start time."""
        rows = [entry.recording for entry in self._candidates(where) if matches(entry.recording, where)]
        return sorted(rows, key=lambda row: (row.start_time, row.recording_hash))

    def list_modalities(self, where: Where | None = None) -> list[ModalityRow]:
        """Modalities that match, in order of recording, family and worker. One request if a recording is named."""
        rows = [row for entry in self._candidates(where) for row in entry.modalities if matches(row, where)]
        return sorted(rows, key=lambda row: (row.recording_hash, row.modality, row.worker_id or ""))

    def list_participants(self, where: Where | None = None) -> list[ParticipantRow]:
        """Participants that match: enrolled at their earliest recording, and called as it names them."""
        known: dict[str, ParticipantRow] = {}
        for entry in sorted(self.entries(), key=lambda one: (one.recording.start_time, one.recording.recording_hash)):
            for row in entry.participants:
                first = known.setdefault(row.participant_id, row)
                known[row.participant_id] = first.model_copy(
                    update={
                        "enrolled_at": min(first.enrolled_at, row.enrolled_at),
                        "metadata": first.metadata or row.metadata,
                    }
                )
        return [row for _, row in sorted(known.items()) if matches(row, where)]

    def register_recording(self, row: RecordingRow, policy: policies.RecordingPolicy, writer: Writer) -> Registration:
        """Registers a recording without modalities under the given conflict policy.

        Raises `RecordingIdInvalid` if the rec_id in its metadata is none.
        """
        if row.rec_id is not None:
            parse_rec_id(str(row.rec_id))
        resolve = policies.register_recording(row, policy)
        return self.write(
            row.recording_hash,
            lambda _: resolve,
            rec_id=row.rec_id,
            hash_is_stated=True,
            op=f"register_recording:{policy}",
            writer=writer,
        )

    def register_modality(self, row: ModalityRow, policy: policies.ModalityPolicy, writer: Writer) -> Registration:
        """Registers a modality of an existing recording under the given conflict policy."""
        resolve = policies.register_modality(row, policy)
        return self.write(
            row.recording_hash,
            lambda _: resolve,
            rec_id=None,
            hash_is_stated=True,
            op=f"register_modality:{policy}",
            writer=writer,
        )

    def record_verification(self, seen: Rows, writer: Writer) -> bool:
        """Raises the verification level of the rows that were `seen`, whose bytes were all proved.

        False if nothing was written: they say so already, have got further files meanwhile, or are gone.
        """
        resolve = policies.verified(seen)
        try:
            registration = self.write(
                seen.recording.recording_hash,
                lambda _: resolve,
                rec_id=None,
                hash_is_stated=True,
                op="verify",
                writer=writer,
            )
        except CatalogRowNotFound:
            return False
        return registration.outcome == "changed"

    def write(
        self,
        recording_hash: str,
        resolve_for: ResolveFor,
        *,
        rec_id: str | None,
        hash_is_stated: bool,
        op: str,
        writer: Writer,
    ) -> Registration:
        """Applies a policy to one recording's rows in one compare-and-swap; see `catalog.entries`."""
        change = Change(recording_hash, hash_is_stated, rec_id, resolve_for, op, writer)
        return write_entry(self.assets, self.prefix, change, follow_pointer=self.follows_pointer)

    def _candidates(self, where: Where | None) -> Iterator[Entry]:
        recording_hash = (where or {}).get("recording_hash")
        if not isinstance(recording_hash, str):
            yield from self.entries()
        elif found := read_entry(self.assets, self.prefix, recording_hash):
            yield found[0]

    def _read(self, key: str) -> Entry | None:
        try:
            raw, _ = self.assets.get(key)
        except ObjectNotFound:
            return None
        return parse_entry(raw, place=f"{self.assets.name}/{key}")

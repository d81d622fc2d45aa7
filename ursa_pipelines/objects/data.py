"""Raw segments in memory, as `get` gives them (ursa-facts section 9.2)."""

from __future__ import annotations

from dataclasses import dataclass

from rich.filesize import decimal

from ursa_pipelines.recordings.rows import ModalityRow, RecordingRow


@dataclass(frozen=True, repr=False)
class RawBytes:
    """One modality: each segment's key and content, sorted by key, and its row in the catalog.

    `unproved` are the keys of those that could not be verified, because nothing states a digest of theirs.
    """

    segments: tuple[tuple[str, bytes], ...]
    metadata: ModalityRow
    unproved: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The bytes of all segments together."""
        return sum(len(content) for _, content in self.segments)

    def __repr__(self) -> str:
        return f"RawBytes({self.metadata.modality}: {self._told()})"

    def _told(self) -> str:
        count = len(self.segments)
        return f"{count} segment{'' if count == 1 else 's'}, {decimal(self.size)}"


@dataclass(frozen=True, repr=False)
class Data:
    """One recording in memory: its row, and the raw bytes of its modalities by the names they have in the query."""

    metadata: RecordingRow
    modalities: dict[str, RawBytes]

    def __repr__(self) -> str:
        name = self.metadata.rec_id or self.metadata.recording_hash[:16]
        told = [f"{modality}: {raw._told()}" for modality, raw in self.modalities.items()]
        return f"Data({', '.join([name, *(told or ['no modalities'])])})"

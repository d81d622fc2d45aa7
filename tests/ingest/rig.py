"""What a rig's own uploader leaves in the bucket: the bytes, without metadata, marker or row."""

from __future__ import annotations

from pathlib import Path

from tests.lab import Lab


def upload_as_rig(lab: Lab, directory: Path, *, except_for: str | None = None) -> None:
    """Puts every file of a recording directory under the recording's prefix, byte for byte."""
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory).as_posix()
        if path.is_file() and relative != except_for:
            lab.raw.create(f"recordings/{directory.name}/{relative}", path.read_bytes())


def stored(lab: Lab, rec_id: str, path: str) -> bytes:
    """The bytes of a recording's object."""
    return lab.raw.get(f"recordings/{rec_id}/{path}")[0]

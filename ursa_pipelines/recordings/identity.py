"""Names that identify: rec_id, recording_hash, participant_id (DESIGN sections 2 and 6)."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime

from ursa_pipelines.errors import ParticipantInvalid, RecordingIdInvalid
from ursa_pipelines.recordings.layout import shown

UNKNOWN_PARTICIPANT = "__unknown__"
DISPLAY_NAME_LIMIT = 200

_REC_ID = re.compile(r"rec_([0-9]{4})([0-9]{2})([0-9]{2})_([0-9]{2})([0-9]{2})([0-9]{2})_[0-9a-f]{4,}")


def parse_rec_id(rec_id: str) -> datetime:
    """The UTC time at which a recording's id says it began.

    Raises `RecordingIdInvalid` unless the whole of `rec_id` is `rec_<YYYYMMDD>_<HHMMSS>_<hex>` in ASCII
    digits and lower-case hex (4 or more) with a real calendar time.
    """
    match = _REC_ID.fullmatch(rec_id)
    if match is None:
        raise RecordingIdInvalid(f"'{shown(rec_id)}' is not a recording id rec_<YYYYMMDD>_<HHMMSS>_<hex>")
    year, month, day, hour, minute, second = (int(part) for part in match.groups())
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise RecordingIdInvalid(f"'{shown(rec_id)}' holds no real calendar time: {error}") from error


def is_rec_id(name: str) -> bool:
    """Whether `parse_rec_id` would accept the name."""
    try:
        parse_rec_id(name)
    except RecordingIdInvalid:
        return False
    return True


def derive_recording_hash(digests: Iterable[str]) -> str:
    """SHA-256, as 64 hex digits, of the sorted lower-case hex digests of all segment files joined by newlines."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def clean_display_name(text: str | None, *, recording: str | None = None) -> str | None:
    """A participant's display name with the white space around it removed; None for blank or `__unknown__`.

    Raises `ParticipantInvalid` for more than 200 characters or a control character; the name itself is
    not repeated in the error.
    """
    name = (text or "").strip()
    if not name or name == UNKNOWN_PARTICIPANT:
        return None
    if len(name) > DISPLAY_NAME_LIMIT:
        raise ParticipantInvalid(
            f"the participant's name has {len(name)} characters; at most {DISPLAY_NAME_LIMIT} are allowed",
            recording=recording,
        )
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in name):
        raise ParticipantInvalid("the participant's name holds a line break or control character", recording=recording)
    return name


def read_display_name(raw: bytes, *, recording: str) -> str | None:
    """The display name in the bytes of a participant.txt, cleaned. Raises `ParticipantInvalid`, also if not UTF-8."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ParticipantInvalid(
            "participant.txt is not UTF-8", recording=recording, remedy="Save it again as UTF-8 text."
        ) from None
    return clean_display_name(text, recording=recording)


def derive_participant_id(display_name: str) -> str:
    """`p_` and 16 hex digits that do not reveal the name: SHA-256 of it, NFKC, case-folded, white space collapsed."""
    folded = " ".join(unicodedata.normalize("NFKC", display_name).casefold().split())
    return "p_" + hashlib.sha256(folded.encode()).hexdigest()[:16]

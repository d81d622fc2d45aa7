"""Small but real media files for the demo: H.264 MP4, WAV, EDF+ and JSONL.

Every function returns the same bytes for the same arguments, and other bytes for another `label`:
recordings with equal files would have equal recording_hashes (DESIGN section 2).
H.264 cannot be encoded without ffmpeg, so the clips beside this file are shipped;
`scripts/make_demo_media.py` makes them anew. All else is generated.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
import uuid
import wave
from array import array
from collections.abc import Callable
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any

CLIP_SECONDS = 2
SCREEN_SECONDS = 6

WAV_RATE = 8_000
EEG_RATE = 250
EEG_CHANNELS = ("Fp1", "Fp2", "C3", "C4", "P3", "P4", "O1", "O2")

_LABEL_BOX = uuid.UUID("8c0b7f6e-52d4-4c2b-9a0d-6d1f4b1f4e21")
_PENTATONIC_HZ = (220.0, 261.63, 293.66, 329.63, 392.0, 440.0, 523.25, 587.33)
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_EEG_LIMIT_UV = 500
_ANNOTATION_BYTES = 80
_REMARKS = ("Eyes open", "Eyes closed", "Cap sits well", "Task started", "Short pause", "Head moved", "Task ended")


def video(clip: str, *, label: str) -> bytes:
    """The shipped clip of this name (`front_0` to `_2`, `side_0` to `_2`: 2 s each; `screen`: 6 s), carrying the label.

    The label stands in a `uuid` box after the last one: ISO/IEC 14496-12 section 4.2 has players skip
    boxes that they do not know, and no chunk offset moves.
    """
    payload = json.dumps({"label": label}).encode()
    box = struct.pack(">I4s16s", 24 + len(payload), b"uuid", _LABEL_BOX.bytes) + payload
    return (files(__package__) / f"{clip}.mp4").read_bytes() + box


def wav(*, label: str, seconds: int) -> bytes:
    """A melody that the label chooses: PCM, 16 bit, mono, 8 kHz."""
    notes = _chosen(label, 4 * seconds)
    note_samples = WAV_RATE // 4
    sound = array("h")
    for note in notes:
        step = 2 * math.pi * _PENTATONIC_HZ[note % len(_PENTATONIC_HZ)] / WAV_RATE
        loudness = 6_000 + 20 * note
        for sample in range(note_samples):
            fading = 1 - sample / note_samples
            sound.append(round(loudness * fading * math.sin(step * sample)))
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(WAV_RATE)
        writer.writeframes(sound.tobytes())
    return buffer.getvalue()


def edf_plus(*, label: str, investigation: str, began: datetime, seconds: int) -> bytes:
    """An EDF+C file: eight EEG-like channels at 250 Hz and an annotations channel, in records of one second.

    `investigation` is a code without spaces for the header, such as the rec_id. The layout is that of
    https://www.edfplus.info/specs/edfplus.html; names of persons are left out.
    """
    channels = [_eeg_channel(f"{label} {name}", name, seconds) for name in EEG_CHANNELS]
    remarks = [_REMARKS[choice % len(_REMARKS)] for choice in _chosen(f"{label} remarks", seconds)]
    records = bytearray()
    for second in range(seconds):
        for channel in channels:
            records += struct.pack(f"<{EEG_RATE}h", *channel[second * EEG_RATE : (second + 1) * EEG_RATE])
        timekeeping = f"+{second}\x14\x14\0"
        annotation = f"+{second}.5\x14{remarks[second]}\x14\0" if second % 2 == 0 else ""
        records += (timekeeping + annotation).encode().ljust(_ANNOTATION_BYTES, b"\0")
    return _edf_header(investigation, began, seconds) + bytes(records)


def jsonl(family: str, *, label: str, began: datetime, seconds: int) -> bytes:
    """Events of a worker family (`notes`, `keyboard`, `browser`, `battery`): one JSON object a line, in time order."""
    count, event_of = _EVENTS[family]
    lines = []
    for index, choice in enumerate(_chosen(label, count)):
        offset = seconds * (index + choice / 256) / count
        moment = began + timedelta(milliseconds=round(offset * 1000))
        stamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        lines.append(json.dumps({"timestamp": stamp, "seconds": round(offset, 3), **event_of(index, choice)}))
    return ("\n".join(lines) + "\n").encode()


def _chosen(label: str, count: int) -> bytes:
    # An extendable hash rather than a random generator: its output is the same in every Python and NumPy.
    return hashlib.shake_256(label.encode()).digest(count)


def _eeg_channel(label: str, name: str, seconds: int) -> list[int]:
    """Digital values: alpha waves at 10 Hz, strongest over the occipital lobe, in slow noise."""
    alpha_uv = 35.0 if name.startswith("O") else 8.0
    noise = _chosen(label, seconds * EEG_RATE)
    phase = 2 * math.pi * noise[0] / 256
    drift = 0.0
    values = []
    for sample, choice in enumerate(noise):
        drift = 0.96 * drift + (choice - 127.5) / 32
        microvolts = alpha_uv * math.sin(2 * math.pi * 10 * sample / EEG_RATE + phase) + drift
        values.append(round(microvolts * 32_767 / _EEG_LIMIT_UV))
    return values


def _edf_header(investigation: str, began: datetime, seconds: int) -> bytes:
    signals = len(EEG_CHANNELS) + 1
    day = f"{began.day:02}-{_MONTHS[began.month - 1]}-{began.year}"
    per_recording = [
        ("0", 8),
        ("X X X X", 80),
        (f"Startdate {day} {investigation} X Demo_EEG", 80),
        (f"{began:%d.%m.%y}", 8),
        (f"{began:%H.%M.%S}", 8),
        (256 * (signals + 1), 8),
        ("EDF+C", 44),
        (seconds, 8),
        (1, 8),
        (signals, 4),
    ]
    # Field by field over all signals, not signal by signal: that is the order in the file.
    per_signal: list[tuple[str | int, str | int, int]] = [
        ("EEG {}", "EDF Annotations", 16),
        ("AgAgCl electrode", "", 80),
        ("uV", "", 8),
        (-_EEG_LIMIT_UV, -1, 8),
        (_EEG_LIMIT_UV, 1, 8),
        (-32_767, -32_768, 8),
        (32_767, 32_767, 8),
        ("HP:0.1Hz LP:100Hz", "", 80),
        (EEG_RATE, _ANNOTATION_BYTES // 2, 8),
        ("", "", 32),
    ]
    header = "".join(f"{value!s:<{width}}" for value, width in per_recording)
    for of_channel, of_annotations, width in per_signal:
        header += "".join(f"{str(of_channel).format(name):<{width}}" for name in EEG_CHANNELS)
        header += f"{of_annotations!s:<{width}}"
    return header.encode("ascii")


def _note(index: int, choice: int) -> dict[str, Any]:
    return {"number": index + 1, "text": _REMARKS[choice % len(_REMARKS)]}


def _key_press(index: int, choice: int) -> dict[str, Any]:
    return {"event": "up" if index % 2 else "down", "key": "asdfjkl "[choice % 8]}


def _page_view(index: int, choice: int) -> dict[str, Any]:
    return {"event": "navigate", "url": f"https://example.org/task/{index + 1}", "seconds_to_load": choice / 1000}


def _charge(index: int, choice: int) -> dict[str, Any]:
    return {"percent": 96 - index, "charging": False, "millivolts": 3_900 + choice}


_EVENTS: dict[str, tuple[int, Callable[[int, int], dict[str, Any]]]] = {
    "notes": (4, _note),
    "keyboard": (60, _key_press),
    "browser": (5, _page_view),
    "battery": (6, _charge),
}

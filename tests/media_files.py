"""Media files for tests: whole ones of every kind, made with the libraries that read them, and their length."""

from __future__ import annotations

import io
import math
import wave
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from importlib.resources import files

import av
import edfio
import numpy as np
import soundfile

from ursa_pipelines.embedded import media

SECONDS = 2
BEGAN = datetime(2026, 5, 20, 19, 56, 28, tzinfo=UTC)


def mp4() -> bytes:
    """The shipped clip: index first, and a box that players do not know last."""
    return media.video("front_0", label="test")


def mp4_index_last() -> bytes:
    """The same pictures as a rig leaves them that writes its index when it stops."""
    return _remuxed({})


def mp4_fragmented() -> bytes:
    """The same in fragments of half a second, as a rig leaves them that may lose power."""
    return _remuxed({"movflags": "empty_moov+default_base_moof", "frag_duration": "500000"})


def wav(**form: str) -> bytes:
    return _sound(format="WAV", **form)


def flac() -> bytes:
    return _sound(format="FLAC")


def edf() -> bytes:
    return media.edf_plus(label="test", investigation="test", began=BEGAN, seconds=SECONDS)


def bdf() -> bytes:
    signal = edfio.BdfSignal(np.sin(np.arange(256 * SECONDS) / 9), 256, label="A1")
    buffer = io.BytesIO()
    edfio.Bdf([signal]).write(buffer)
    return buffer.getvalue()


MAKERS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "mp4, index first": ("mp4", mp4),
    "mp4, index last": ("mp4", mp4_index_last),
    "wav": ("wav", wav),
    "wav, 24 bit": ("wav", lambda: wav(subtype="PCM_24")),
    "wav, float": ("wav", lambda: wav(subtype="FLOAT")),
    "wav, RF64": ("wav", lambda: _sound(format="RF64")),
    "flac": ("flac", flac),
    "edf": ("edf", edf),
    "bdf": ("bdf", bdf),
}
"""Extension and maker of a whole file of `SECONDS`, by what it is."""


def boxes(content: bytes) -> list[tuple[str, int, int]]:
    """The boxes of an MP4 one after another: kind, begin and end."""
    found, place = [], 0
    while place < len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        found.append((content[place + 4 : place + 8].decode(), place, place + size))
        place += size
    return found


def with_more_data(content: bytes, count: int) -> bytes:
    """An MP4 whose index comes last, with so many more bytes of data that nothing refers to."""
    begin, end = next((begin, end) for kind, begin, end in boxes(content) if kind == "mdat")
    size = (end - begin + count).to_bytes(4, "big")
    return content[:begin] + size + content[begin + 4 : end] + bytes(count) + content[end:]


def with_a_gap(content: bytes, count: int) -> bytes:
    """An MP4 of fragments, with a box of so many bytes before the second one."""
    second = [begin for kind, begin, _ in boxes(content) if kind == "moof"][1]
    return content[:second] + (count + 8).to_bytes(4, "big") + b"free" + bytes(count) + content[second:]


def _remuxed(options: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    clip = files("ursa_pipelines.embedded.media") / "front_0.mp4"
    with av.open(io.BytesIO(clip.read_bytes())) as source, av.open(buffer, "w", format="mp4", options=options) as made:
        pictures = source.streams.video[0]
        stream = made.add_stream_from_template(pictures)
        for packet in source.demux(pictures):
            if packet.size:
                packet.stream, packet.time_base = stream, packet.time_base or Fraction(1, 15360)
                made.mux(packet)
    return buffer.getvalue()


def _sound(**form: str) -> bytes:
    sound = [0.3 * math.sin(step / 20) for step in range(8_000 * SECONDS)]
    buffer = io.BytesIO()
    soundfile.write(buffer, np.array(sound, dtype="float32"), 8_000, **form)
    return buffer.getvalue()


def unfinished_wav(*, said: int) -> bytes:
    """A WAV whose two sizes are as they stood when the recording began."""
    whole = bytearray(wav(subtype="PCM_16"))
    with wave.open(io.BytesIO(whole)) as opened:
        data = len(whole) - opened.getnframes() * 2
    whole[4:8] = whole[data - 4 : data] = said.to_bytes(4, "little")
    return bytes(whole)

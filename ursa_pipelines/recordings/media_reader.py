"""What one media file tells of itself, read in a process that only does this.

The files are untrusted and their parsers are written in C, so `media_probe` runs this file by its path, apart from the
package and without the environment of whoever started it, and hands it one open file after another over the socket
that is its standard input. For each one it answers with a line of JSON. Only headers, indexes and ends are read. While
a file is parsed nothing can be opened: what it refers to outside of itself stays out of reach.
"""

from __future__ import annotations

import json
import math
import os
import resource
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, BinaryIO, NamedTuple, NoReturn

_MEMORY_BYTES, _CPU_SECONDS = 2 * 1024**3, 20
_STREAMS_LIMIT = 32
_BOXES_LIMIT = 50_000
_FIRST_BOXES = frozenset({b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"pnot", b"sidx"})
_LAST_BOXES = _FIRST_BOXES | {b"moof", b"mfra", b"meta", b"udta", b"emsg", b"prft", b"ssix"}
_WAV_KINDS = (b"RIFF", b"RF64", b"BW64")
_PARTS_BEFORE_DATA = {b"fmt ": 14, b"ds64": 16}
_BYTES_TELL_TIME = frozenset({1, 3, 6, 7, 0xFFFE})
_UNKNOWN_SIZE = 0xFFFFFFFF
_NO_INDEX = "it has no index, as a recording that was cut off"
_NEVER_FINISHED = "truncated: its header was never finished, as of a recording that was cut off"
_IMPORTED_LATER = {
    "av": tuple(f"av.{what}.{part}" for what in ("audio", "subtitles", "video") for part in ("stream", "codeccontext"))
}
"""What a library would only import when it is needed, which is when nothing can be opened any more."""


class Facts(NamedTuple):
    """The length in seconds and the streams, as far as they are known, and what is wrong."""

    seconds: float | None = None
    streams: tuple[str, ...] = ()
    problem: str = ""


def main() -> None:
    """Answers until the other side goes."""
    _restrict()
    asked = socket.socket(fileno=0)
    while True:
        question, descriptors, _, _ = socket.recv_fds(asked, 16, 1)
        if not descriptors:
            return
        with os.fdopen(descriptors[0], "rb") as stream:
            answer = _answer(question.decode("ascii"), stream)
        asked.sendall(json.dumps(answer).encode() + b"\n")


def _restrict() -> None:
    for what, limit in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        # Not every system can limit each of them.
        with suppress(ValueError, OSError):
            resource.setrlimit(what, (limit, limit))


def _answer(kind: str, stream: BinaryIO) -> dict[str, Any]:
    library, read = _READERS[kind]
    files_at_once, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        module = import_module(library) if library else None
        for later in _IMPORTED_LATER.get(library, ()):
            import_module(later)
    except (ImportError, OSError):
        # It is not installed, or what it is built on is not.
        return {"unknown": True}
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_seconds = int(used.ru_utime + used.ru_stime) + _CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (stream.fileno() + 1, most))
    try:
        stream.seek(0)
        facts = read(stream, os.fstat(stream.fileno()).st_size, module)
    except Exception as error:  # noqa: BLE001 - whatever a parser makes of a file, it is that file's problem
        facts = Facts(problem=f"cannot be read: {getattr(error, 'strerror', None) or 'it makes no sense'}")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files_at_once, most))
    return {**facts._asdict(), "streams": facts.streams[:_STREAMS_LIMIT]}


# ISO/IEC 14496-12 (MP4) and QuickTime


def _read_mp4(stream: BinaryIO, size: int, av: Any) -> Facts:
    boxes = _boxes(stream, size)
    if not boxes.problem:
        return _indexed(stream, size, av)
    facts = Facts()
    if boxes.has_index:
        # What is cut off may still tell how long it was.
        with suppress(OSError, ValueError, EOFError):
            facts = _indexed(stream, size, av)
    return facts._replace(problem=boxes.problem)


def _read_mp4_part(stream: BinaryIO, size: int, av: Any) -> Facts:
    """The length of an MP4 of which only begin and end are there, where its index is sure to be among that."""
    boxes = _boxes(stream, size)
    is_sure = boxes.reach_the_end and not boxes.problem and b"moof" not in boxes.kinds
    return _indexed(stream, size, av) if is_sure else Facts()


class _Boxes(NamedTuple):
    kinds: list[bytes]
    problem: str = ""
    has_index: bool = False
    reach_the_end: bool = False


def _boxes(stream: BinaryIO, size: int) -> _Boxes:
    place, kinds, cut = 0, list[bytes](), "" if size else "it is empty"
    while place < size and len(kinds) < _BOXES_LIMIT:
        stream.seek(place)
        header = stream.read(16)
        kind = header[4:8]
        if len(header) < 8:
            cut = "it ends within the header of a part" if header.strip(b"\0") else ""
            break
        if not kinds and kind not in _FIRST_BOXES:
            return _Boxes(kinds, "cannot be read: it is no MP4")
        length, header_bytes = int.from_bytes(header[:4], "big"), 8
        if length == 1 and len(header) == 16:
            length, header_bytes = int.from_bytes(header[8:], "big"), 16
        if (b"moov" in kinds and kind not in _LAST_BOXES) or 0 < length < header_bytes or kind == bytes(4):
            # What follows the last box means nothing, as padding does.
            break
        kinds.append(kind)
        if place + length > size:
            cut = f"{place + length - size:,} bytes are missing at its end"
            break
        place = place + length if length else size
    if b"moov" not in kinds:
        return _Boxes(kinds, f"truncated: {cut if not size else _NO_INDEX}")
    if not cut and kinds[-1] == b"moof":
        cut = "it ends before the data of its last fragment"
    has_index = not cut or kinds[-1] != b"moov"
    return _Boxes(kinds, f"truncated: {cut}" if cut else "", has_index, place == size)


def _indexed(stream: BinaryIO, size: int, av: Any) -> Facts:
    stream.seek(0)
    options = {"enable_drefs": "0", "use_absolute_path": "0", "protocol_whitelist": "none"}
    with av.open(stream, format="mp4", options=options, io_open=_open_nothing) as container:
        streams = tuple(map(_told_of_stream, container.streams))
        ends = [len(one.index_entries) and one.index_entries[-1] for one in container.streams]
        end = max((entry.pos + entry.size for entry in ends if entry), default=0)
        seconds = container.duration / av.time_base if container.duration else None
    problem = f"truncated: {end - size:,} bytes are missing at its end" if end > size else ""
    return Facts(seconds, streams, problem)


def _open_nothing(*_: Any) -> NoReturn:
    raise PermissionError("a file may not lead to another one")


def _told_of_stream(one: Any) -> str:
    name = one.codec_context.name if one.codec_context is not None else one.type
    if one.type == "video":
        return f"{name} {one.codec_context.width}x{one.codec_context.height}"
    if one.type == "audio":
        return f"{name} {one.codec_context.sample_rate} Hz, {one.codec_context.channels} channel(s)"
    return str(name)


# RIFF/RF64 (WAV) and FLAC


def _read_wav(stream: BinaryIO, size: int, soundfile: Any) -> Facts:
    start = stream.read(12)
    if size < 12 and any(kind.startswith(start[:4]) for kind in _WAV_KINDS):
        return Facts(problem="truncated: it ends within its header")
    if start[:4] not in _WAV_KINDS or start[8:] != b"WAVE":
        return Facts(problem="cannot be read: it is no WAV")
    whole, long_sizes = int.from_bytes(start[4:8], "little"), start[:4] != b"RIFF"
    place, data_bytes, bytes_a_second = 12, 0, 0
    unfinished = whole in {0, _UNKNOWN_SIZE} and not long_sizes
    for _ in range(_BOXES_LIMIT):
        stream.seek(place)
        kind, length = stream.read(4), int.from_bytes(stream.read(4), "little")
        if place + 8 > size or (kind in _PARTS_BEFORE_DATA and place + 8 + _PARTS_BEFORE_DATA[kind] > size):
            return Facts(problem="truncated: it ends before its sound begins")
        if kind == b"ds64":
            whole, data_bytes = struct.unpack("<QQ", stream.read(16))
        elif kind == b"fmt ":
            # The bytes a second that it also states are not used by players, and wrong in some files.
            codec, _, rate, _, frame_bytes = struct.unpack("<HHIIH", stream.read(14))
            bytes_a_second = rate * frame_bytes if codec in _BYTES_TELL_TIME else 0
        elif kind == b"data":
            break
        place += 8 + length + length % 2
    else:
        return Facts(problem="cannot be read: it has no sound")
    if not (long_sizes and length == _UNKNOWN_SIZE):
        data_bytes = length
    present = max(min(data_bytes, size - place - 8), 0)
    unfinished = unfinished or (not data_bytes and whole + 8 < size) or data_bytes == _UNKNOWN_SIZE
    problem, seconds = "", None
    if unfinished:
        present = size - place - 8
        problem = _NEVER_FINISHED
    elif max(place + 8 + data_bytes, whole) > size:
        # Some programs count the eight bytes before it in, and the last one may only make the length even.
        missing = max(place + 8 + data_bytes, whole + 8) - size
        problem = f"truncated: {missing:,} bytes are missing at its end"
    if bytes_a_second:
        seconds = present / bytes_a_second
    stream.seek(0)
    try:
        with soundfile.SoundFile(stream) as sound:
            streams = (_told_of_sound(sound.subtype.lower(), sound),)
            seconds = seconds if problem else sound.frames / sound.samplerate
    except soundfile.LibsndfileError:
        return Facts(seconds, (), problem or "cannot be read: its sound is in no known form")
    return Facts(seconds, streams, problem)


def _read_flac(stream: BinaryIO, size: int, soundfile: Any) -> Facts:
    facts = _read_flac_header(stream, size, soundfile)
    if facts.problem:
        return facts
    stream.seek(0)
    try:
        with soundfile.SoundFile(stream) as sound:
            facts = Facts(sound.frames / sound.samplerate, (_told_of_sound("flac", sound),))
            sound.seek(sound.frames - 1)
            is_whole = len(sound.read(1)) == 1
    except soundfile.LibsndfileError:
        is_whole = False
    return facts if is_whole else facts._replace(problem="truncated: its last sound cannot be read")


def _read_flac_header(stream: BinaryIO, size: int, _: Any) -> Facts:
    """The length as the header says, whether or not the sound is there (RFC 9639, section 8)."""
    if not b"fLaC".startswith(stream.read(4)):
        return Facts(problem="cannot be read: it is no FLAC")
    place, is_last, rate_and_total = 4, False, b""
    while not is_last:
        if place + 4 > size or (place == 4 and size < 8 + 18):
            return Facts(problem="truncated: it ends within its header")
        stream.seek(place)
        header = stream.read(4 + 18)
        rate_and_total = rate_and_total or header[4 + 10 :]
        is_last = bool(header[0] & 0x80)
        place += 4 + int.from_bytes(header[1:4], "big")
    if place >= size:
        return Facts(problem="truncated: it ends before its sound begins")
    number = int.from_bytes(rate_and_total, "big")
    rate, total = number >> 44, number & (1 << 36) - 1
    return Facts(total / rate) if total and rate else Facts(problem=_NEVER_FINISHED)


def _told_of_sound(codec: str, sound: Any) -> str:
    return f"{codec} {sound.samplerate} Hz, {sound.channels} channel(s)"


# EDF, EDF+, BDF and BDF+ (https://www.edfplus.info/specs/, https://www.biosemi.com/faq/file_format.htm)


def _read_edf(stream: BinaryIO, size: int, _: Any) -> Facts:
    header = stream.read(256)
    kinds = {b"0       ": 2, b"\xffBIOSEMI": 3}
    begun = next((kind for kind in kinds if kind.startswith(header[:8])), None)
    if begun is None:
        return Facts(problem="cannot be read: it is no EDF or BDF")
    if len(header) < 256:
        return Facts(problem="truncated: it ends within its header")
    # Spaces fill the fields up, and in some files zeros.
    fields = (header[begin:end].strip(b" \0") for begin, end in ((236, 244), (244, 252), (252, 256)))
    records, record_seconds, signals = int(next(fields)), float(next(fields)), int(next(fields))
    if signals < 1 or not (math.isfinite(record_seconds) and record_seconds >= 0):
        return Facts(problem="cannot be read: its header makes no sense")
    header_bytes = 256 * (signals + 1)
    if size < header_bytes:
        return Facts(problem="truncated: it ends within its header")
    stream.seek(256 + 216 * signals)
    samples = [int(stream.read(8).strip(b" \0")) for _ in range(signals)]
    record_bytes = kinds[begun] * sum(samples)
    if min(samples) < 0 or not record_bytes:
        return Facts(problem="cannot be read: its header makes no sense")
    present, problem = (size - header_bytes) // record_bytes, ""
    if records < 0 or (records == 0 and present):
        problem = _NEVER_FINISHED
    elif size < header_bytes + records * record_bytes:
        problem = f"truncated: {present:,} of its {records:,} records are there"
    else:
        present = records
    # Records with gaps between them do not tell when the last one ended.
    seconds = None if header[192:197] in {b"EDF+D", b"BDF+D"} else present * record_seconds
    return Facts(seconds, (f"{signals} signal(s)",), problem)


_READERS: dict[str, tuple[str, Callable[[BinaryIO, int, Any], Facts]]] = {
    "mp4": ("av", _read_mp4),
    "mp4 in part": ("av", _read_mp4_part),
    "wav": ("soundfile", _read_wav),
    "flac": ("soundfile", _read_flac),
    "flac in part": ("", _read_flac_header),
    "edf": ("", _read_edf),
}

if __name__ == "__main__":
    main()

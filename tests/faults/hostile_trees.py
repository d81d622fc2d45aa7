"""Directory trees that must be refused: how each is built, and by which error (faults 10 and 17 to 48, 80)."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.recordings_on_disk import manifest_of
from ursa_pipelines.errors import (
    ManifestInvalid,
    ParticipantInvalid,
    RecordingIncomplete,
    RecordingRefused,
    SourceNotFound,
    SourceRefused,
    UrsaError,
)

REC = "rec_20260520_195628_b1dd"
FILES = {"camera_a/seg_0000.mp4": b"video" * 10, "mic/seg_0000.wav": b"audio"}

Build = Callable[[Path, Path], None]
"""Spoils the recording directory that is its first argument; the second is a directory outside of it."""


@dataclass(frozen=True)
class Tree:
    name: str
    build: Build
    error: type[UrsaError] = SourceRefused


def _writing(path: str | bytes, content: bytes = b"x") -> Build:
    def build(directory: Path, outside: Path) -> None:
        target = directory / os.fsdecode(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    return build


def _both(*builds: Build) -> Build:
    def build(directory: Path, outside: Path) -> None:
        for one in builds:
            one(directory, outside)

    return build


def _linking(path: str, target: str) -> Build:
    def build(directory: Path, outside: Path) -> None:
        (outside / "secret").write_bytes(b"secret")
        place = directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_file():
            place.unlink()
        place.symlink_to(target.format(outside=outside, directory=directory))

    return build


def _fifo(path: str) -> Build:
    def build(directory: Path, outside: Path) -> None:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).unlink(missing_ok=True)
        os.mkfifo(directory / path)

    return build


def _socket(path: str) -> Build:
    def build(directory: Path, outside: Path) -> None:
        (directory / path).unlink(missing_ok=True)
        descriptor = os.open((directory / path).parent, os.O_RDONLY)
        try:
            with socket.socket(socket.AF_UNIX) as server:
                # The whole path may be longer than a socket's name can be.
                server.bind(f"/proc/self/fd/{descriptor}/{Path(path).name}")
        finally:
            os.close(descriptor)

    return build


def _manifest(**changes: Any) -> Build:
    return _writing("manifest.json", json.dumps(manifest_of(REC, FILES) | changes).encode())


def _emptied(*names: str) -> Build:
    """Only these names are left, and nothing that counts."""

    def build(directory: Path, outside: Path) -> None:
        for path in sorted(directory.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        for name in names:
            _writing(name)(directory, outside)

    return build


LINKS = {
    "a_file_outside": "{outside}/secret",
    "a_directory_outside": "{outside}",
    "passwd": "/etc/passwd",
    "above": "../..",
    "itself": "link",
    "nothing": "nowhere",
    "the_recording": "{directory}",
    "a_file_of_it": "{directory}/mic/seg_0000.wav",
    "an_open_file": "/proc/self/fd/0",
    "a_device": "/dev/zero",
}
BOOKKEEPING = (
    "manifest.json",
    "participant.txt",
    "session.lock",
    "_node_manifests",
    "_node_manifests/green.json",
    "_node_participants",
    "_node_participants/green.txt",
)
INVISIBLE = "\x01\x07\x08\t\n\r\x1b\x7f\x85\u061c\u200e\u200f\u202a\u202d\u202e\u2066\u2069\u00ad\u034f\u180e\u200b\u200d\u2060\ufe0f\ufeff\u115f\u3164\uffa0\u2028\u2029\ufff9\ufdd0"  # noqa: E501
NAMES = {
    "backslash": "a\\b",
    "backslash_parent": "..\\..\\x",
    "drive": "C:x",
    "drive_alone": "z:",
    "unc": "\\\\server\\x",
}
COLLIDING = {
    "case": ("mic/A", "mic/a"),
    "directory_case": ("Mic/x", "mic/X"),
    "sharp_s": ("mic/\u00df", "mic/SS"),
    "fi": ("mic/\ufb01", "mic/fi"),
    "fullwidth": ("mic/k", "mic/\uff2b"),
    "kelvin": ("mic/K", "mic/k"),
    "nfc_nfd": ("mic/\u00e9", "mic/e\u0301"),
    "superscript": ("mic/x\u00b2", "mic/x2"),
    "space": ("mic/a b", "mic/a\u00a0b"),
    "sigma": ("mic/\u03c3", "mic/\u03c2"),
}

TREES = [
    *(
        Tree(f"fault_17_link_to_{name}_{where.replace('/', '_')}", _linking(f"{where}/link", target))
        for name, target in LINKS.items()
        for where in (".", "mic", "camera_a/deep/er")
    ),
    *(Tree(f"fault_17_link_as_{path}", _linking(path, "{outside}/secret")) for path in BOOKKEEPING),
    Tree("fault_17_two_links_in_a_ring", _both(_linking("mic/a", "b"), _linking("mic/b", "a"))),
    *(Tree(f"fault_18_fifo_as_{path}", _fifo(path)) for path in ("pipe", "mic/pipe", *BOOKKEEPING)),
    *(Tree(f"fault_18_socket_as_{path}", _socket(path)) for path in ("s", "mic/s", "manifest.json", "participant.txt")),
    *(
        Tree(f"fault_21_nothing_but_{name.replace('/', '_')}", _emptied(name), SourceNotFound)
        for name in (".DS_Store", "mic/._x", "Thumbs.db", "@eaDir/x", ".Trashes/501/x", "mic/desktop.ini")
    ),
    Tree("fault_10_nothing_at_all", _emptied(), SourceNotFound),
    *(Tree(f"fault_24_{levels}_levels", _writing("d/" * levels + "x")) for levels in (32, 33, 100, 400)),
    *(
        Tree(f"fault_27_{name}_is_nowhere", _manifest(files=[*manifest_of(REC, FILES)["files"], one]), error)
        for name, one, error in (
            ("a_listed_file", {"path": "mic/gone", "size_bytes": 3}, RecordingIncomplete),
            ("a_listed_file_of_16_tib", {"path": "mic/gone", "size_bytes": 2**44}, ManifestInvalid),
        )
    ),
    *(
        Tree(f"fault_37_U+{ord(one):04X}_in_a_{kind}", _writing(f"mic/a{one}b{below}"))
        for one in INVISIBLE
        for kind, below in (("file", ""), ("directory", "/x"))
    ),
    *(
        Tree(f"fault_33_{name}_as_{kind}", _writing(f"mic/{one}{below}"))
        for name, one in NAMES.items()
        for kind, below in (("file", ""), ("directory", "/x"))
    ),
    *(
        Tree(f"fault_34_undecodable_{name.hex()}_as_{kind}", _writing(b"mic/" + name + below))
        for name in (b"\xff", b"caf\xe9", b"\xed\xa0\x80", b"\xc0\xaf", b"a\x80b")
        for kind, below in (("file", b""), ("directory", b"/x"))
    ),
    *(Tree(f"fault_36_{name}", _both(*(_writing(path) for path in pair))) for name, pair in COLLIDING.items()),
    *(
        Tree(f"fault_38_{name}", _writing(path))
        for name, path in (
            ("five_long_directories", "/".join(["x" * 200] * 5)),
            ("long_only_in_bytes", "/".join(["\u00e9" * 120] * 5)),
            ("just_too_long", "/".join(["x" * 240] * 4) + "/" + "x" * 25),
        )
    ),
    *(
        Tree(f"fault_48_{path}", _writing(path))
        for path in (
            "Manifest.json",
            "MANIFEST.JSON",
            "Participant.txt",
            "SESSION.LOCK",
            "manife\u017ft.json",
            "_Node_Manifests/green.json",
            "_NODE_PARTICIPANTS/green.txt",
            "_node_manifests/readme.md",
            "_node_manifests/a/b.json",
            "_node_manifests/.json",
            "_node_manifests/.green.json",
            "_node_manifests/green mantis.json",
            "_node_manifests/\u202egreen.json",
            "_node_manifests/gr\u00fcn.json",
            "_node_participants/green.json",
            "_node_participants/a/b.txt",
        )
    ),
    *(
        Tree(f"fault_48_directory_named_{path}", _both(_emptied("mic/x"), _writing(f"{path}/x")))
        for path in ("manifest.json", "participant.txt", "session.lock")
    ),
    *(
        Tree(f"fault_80_participant_{name}", _writing("participant.txt", content), ParticipantInvalid)
        for name, content in {
            "of_two_lines": b"Aria\nLin",
            "utf_16": "Aria".encode("utf-16"),
            "latin_1": b"Zo\xeb",
            "too_long": b"x" * 201,
            "bell": b"Aria\x07",
            "escape": b"\x1b[2J",
            "nul": b"A\0",
            "line_separator": "A\u2028B".encode(),
        }.items()
    ),
    Tree("fault_80_participant_of_a_megabyte", _writing("participant.txt", b"x" * 2**20), RecordingRefused),
    *(
        Tree(f"fault_30_node_manifest_{name}", _writing("_node_manifests/green.json", content), ManifestInvalid)
        for name, content in {
            "empty": b"",
            "cut_off": b"{",
            "list": b"[]",
            "deep": b"[" * 100_000,
            "utf_16": "{}".encode("utf-16"),
            "of_another": b'{"recording_id": "rec_20260521_080000_c0de", "files": []}',
        }.items()
    ),
]

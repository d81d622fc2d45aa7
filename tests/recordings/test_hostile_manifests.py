"""Manifests as damaged or hostile as they come: each is refused by name, none by anything but `ManifestInvalid`.

The number before a case is its number in the list of faults (DESIGN section 11).
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ursa_pipelines.errors import ManifestInvalid
from ursa_pipelines.recordings.layout import shown
from ursa_pipelines.recordings.manifest import (
    FILE_BYTES_LIMIT,
    MANIFEST_BYTES_LIMIT,
    Manifest,
    manifest_bytes,
    parse_manifest,
)

REC = "rec_20260520_195628_b1dd"
PLACE = "manifest.json"
DIGEST = "0123456789abcdef" * 4
FILE = {"path": "camera_a/seg_0000.mp4", "size_bytes": 3, "sha256": DIGEST}
GOOD = {"manifest_version": 1, "recording_id": REC, "node": "green-mantis", "files": [FILE]}
GOOD_TEXT = json.dumps(GOOD)
RAW = GOOD_TEXT.encode()

Content = bytes | dict[str, Any] | Callable[[], bytes]


@dataclass(frozen=True)
class Case:
    """A manifest, and what its error `says`: the field, the problem, or both."""

    name: str
    content: Content
    says: str = ""

    @property
    def raw(self) -> bytes:
        if isinstance(self.content, dict):
            return json.dumps(self.content).encode()
        return self.content if isinstance(self.content, bytes) else self.content()


def top(**changes: Any) -> dict[str, Any]:
    """A manifest with other fields at its top."""
    return GOOD | changes


def entry(**changes: Any) -> dict[str, Any]:
    """A manifest with other fields in its one file."""
    return top(files=[FILE | changes])


def listing(*paths: str) -> dict[str, Any]:
    return top(files=[FILE | {"path": path} for path in paths])


def text(fields: str) -> bytes:
    """A manifest with `fields`, JSON as it stands, beside those that it needs."""
    return ('{"recording_id": "' + REC + '", ' + fields + "}").encode()


def file_text(fields: str) -> bytes:
    return text('"files": [{"path": "mic/x", ' + fields + "}]")


def refused(fault: int, says: str, **contents: Content) -> Iterator[Case]:
    for name, content in contents.items():
        yield Case(f"fault_{fault}_{name}", content, says)


def refused_values(fault: int, field: str, says: str, place: str = "", **values: Any) -> Iterator[Case]:
    """Each value in turn as `field` of the manifest, or of its first file if `place` is `files[0].`."""
    for name, value in values.items():
        changed = entry(**{field: value}) if place else top(**{field: value})
        yield Case(f"fault_{fault}_{place}{field}_{name}", changed, f"{place}{field}: {says}")


def refused_paths(fault: int, says: str, **paths: str) -> Iterator[Case]:
    for name, path in paths.items():
        yield Case(f"fault_{fault}_path_{name}", listing(path), f"files[0].path: {says}")


def refused_together(**pairs: tuple[str, ...]) -> Iterator[Case]:
    for name, paths in pairs.items():
        yield Case(f"fault_36_{name}", listing(*paths), "files: the paths '")


def refused_characters(kind: str, characters: str) -> Iterator[Case]:
    for character in characters:
        code = f"U+{ord(character):04X}"
        says = f"files[0].path: holds the control, bidi or invisible character {code}"
        yield Case(f"fault_37_{kind}_{code}", listing(f"camera_a/seg{character}_0.mp4"), says)


WRONG_TYPES = {"null": None, "number": 7, "true": True, "text": "x", "list": [{"x": 1}], "object": {"x": 1}}


def wrong_types(field: str, *fitting: str, place: str = "") -> Iterator[Case]:
    """Every JSON type as `field`, but for the `fitting` ones."""
    unfit = {name: value for name, value in WRONG_TYPES.items() if name not in fitting}
    return refused_values(40, field, "", place, **unfit)


HOSTILE = [
    *refused(
        30,
        "it is not valid JSON",
        empty=b"",
        blank=b" \r\n\t",
        mark_alone=b"\xef\xbb\xbf",
        two_marks=b"\xef\xbb\xbf\xef\xbb\xbf" + RAW,
        mark_inside=RAW[:1] + b"\xef\xbb\xbf" + RAW[1:],
        cut_off_after_one_byte=RAW[:1],
        cut_off_in_the_middle=RAW[: len(RAW) // 2],
        cut_off_before_the_last_byte=RAW[:-1],
        cut_off_in_a_string=RAW[: RAW.index(b"camera_a") + 3],
        cut_off_after_a_backslash=b'{"recording_id": "\\',
        two_documents=RAW + RAW,
        text_after_the_end=RAW + b"x",
        nul_after_the_end=RAW + b"\0",
        comma_too_many=RAW[:-1] + b",}",
        single_quotes=RAW.replace(b'"', b"'"),
        comment=b"// rig\n" + RAW,
        line_break_in_a_string=RAW.replace(b"camera_a/", b"camera_a/\n"),
        unknown_escape=RAW.replace(b"camera_a/", b"camera_a/\\x"),
        html=b"<!doctype html><title>403 Forbidden</title>",
    ),
    *refused(
        30,
        "it is UTF-16 or UTF-32; manifests are UTF-8",
        utf_16_le_with_mark=b"\xff\xfe" + GOOD_TEXT.encode("utf-16-le"),
        utf_16_be_with_mark=b"\xfe\xff" + GOOD_TEXT.encode("utf-16-be"),
        utf_16_le=GOOD_TEXT.encode("utf-16-le"),
        utf_16_be=GOOD_TEXT.encode("utf-16-be"),
        utf_32_le_with_mark=b"\xff\xfe\0\0" + GOOD_TEXT.encode("utf-32-le"),
        utf_32_be_with_mark=b"\0\0\xfe\xff" + GOOD_TEXT.encode("utf-32-be"),
        utf_32_le=GOOD_TEXT.encode("utf-32-le"),
        utf_32_be=GOOD_TEXT.encode("utf-32-be"),
    ),
    *refused(
        30,
        "it is not UTF-8 (byte ",
        latin_1=RAW.replace(b"camera", b"cam\xe9ra"),
        lone_continuation_byte=b"\x80" + RAW,
        overlong_slash=RAW.replace(b"/", b"\xc0\xaf"),
        surrogate_in_utf_8=RAW.replace(b"/", b"\xed\xa0\x80"),
        character_cut_off=RAW + b"\xe2\x80",
        beyond_unicode=RAW.replace(b"/", b"\xf4\x90\x80\x80"),
    ),
    *refused(30, "it is not a JSON object", null=b"null", list=b"[]", string=b'"x"', number=b"1", true=b"true"),
    *refused(
        41,
        "it is nested more than 64 levels deep",
        lists=text('"x": ' + "[" * 64 + "]" * 64),
        objects=text('"x": ' + '{"k":' * 63 + "{}" + "}" * 63),
        lists_and_objects=text('"x": ' + '[{"k":' * 32 + "1" + "}]" * 32),
        lists_never_closed=b"[" * 100_000,
        objects_never_closed=b'{"k":' * 100_000,
        lists_closed=b"[" * 100_000 + b"]" * 100_000,
        after_brackets_in_a_string=text('"x": "]]]]", "y": ' + "[" * 64 + "]" * 64),
        after_an_escaped_quote=text('"x": "\\"]]]]", "y": ' + "[" * 64 + "]" * 64),
        after_others_that_were_closed=text('"x": ' + "[" * 40 + "]" * 40 + ', "y": ' + "[" * 64 + "]" * 64),
        after_an_escaped_backslash=text('"x": "\\\\", "y": ' + "[" * 64 + "]" * 64),
    ),
    *refused(
        41,
        "it is not valid JSON",
        depth_behind_closing_brackets=b"]" * 100_000 + b"[" * 100_000,
        a_million_escaped_quotes_never_closed=b'"' + b'\\"' * 1_000_000,
    ),
    *refused(41, "it has 67,108,865 bytes", more_than_64_mib=lambda: b" " * (MANIFEST_BYTES_LIMIT + 1)),
    *refused(
        39,
        "the key 'files' stands twice",
        files=text('"files": [], "files": []'),
        by_an_escape=text('"files": [], "\\u0066iles": []'),
    ),
    *refused(
        39,
        "' stands twice",
        recording_id=text('"recording_id": "' + REC + '"'),
        path=file_text('"path": "mic/y", "size_bytes": 1'),
        digest=file_text('"size_bytes": 1, "sha256": null, "sha256": "' + DIGEST + '"'),
        in_device_info=text('"device_info": {"rig": 1, "rig": 2}'),
        in_nodes=text('"nodes": {"green": [], "green": []}'),
        in_reconstruction=text('"reconstruction": {"source": "nas", "source": "r2"}'),
        in_an_unknown_field=text('"x": [{"y": {"z": 1, "z": 1}}]'),
        blank=text('"": 1, "": 1'),
        bidi=text('"\u202e\u2066": 1, "\u202e\u2066": 1'),
        surrogate=text('"\\ud800": 1, "\\ud800": 1'),
        long=text('"' + "k" * 9000 + '": 1, "' + "k" * 9000 + '": 1'),
        long_and_bidi=text('"' + "\u202e" * 9000 + '": 1, "' + "\u202e" * 9000 + '": 1'),
    ),
    *(
        Case(f"fault_40_{name}_{where}", content, says)
        for name, number, says in (
            ("nan", "NaN", "NaN is not a JSON number"),
            ("infinity", "Infinity", "Infinity is not a JSON number"),
            ("minus_infinity", "-Infinity", "-Infinity is not a JSON number"),
            ("1e400", "1e400", "1e400 is out of range"),
            ("minus_1e400", "-1e400", "-1e400 is out of range"),
            ("5000_digits", "9" * 5000, "it is not valid JSON"),
            ("5000_digits_and_a_fraction", "9" * 5000 + ".5", "is out of range"),
            ("leading_zero", "01", "it is not valid JSON"),
            ("plus_sign", "+1", "it is not valid JSON"),
            ("hexadecimal", "0x10", "it is not valid JSON"),
        )
        for where, content in (
            ("as_size", file_text(f'"size_bytes": {number}')),
            ("in_device_info", text('"device_info": {"x": ' + number + "}")),
        )
    ),
    *refused_values(
        40,
        "size_bytes",
        "",
        "files[0].",
        negative=-1,
        beyond_any_object=FILE_BYTES_LIMIT + 1,
        two_to_the_63=2**63,
        of_400_digits=10**400,
        whole_float=3.0,
        fraction=0.5,
        false=False,
    ),
    *refused(40, "files[0].size_bytes: ", exponent=file_text('"size_bytes": 1e3')),
    *wrong_types("size_bytes", "number", place="files[0]."),
    *wrong_types("path", "text", place="files[0]."),
    *wrong_types("sha256", "null", place="files[0]."),
    *wrong_types("started_at", "null", place="files[0]."),
    *wrong_types("ended_at", "null", place="files[0]."),
    *wrong_types("manifest_version"),
    *wrong_types("recording_id"),
    *wrong_types("recording_hash", "null"),
    *wrong_types("node", "null", "text"),
    *wrong_types("nodes", "null", "list", "object"),
    *wrong_types("started_at", "null"),
    *wrong_types("ended_at", "null"),
    *wrong_types("participant", "null", "text"),
    *wrong_types("device_info", "null", "object"),
    *wrong_types("files", "list"),
    *wrong_types("reconstruction", "null", "object"),
    *refused_values(40, "manifest_version", "", zero=0, two=2, negative=-1, float=1.0, number_as_text="1"),
    *(
        Case(f"fault_40_a_file_is_{name}", top(files=[FILE, value]), "files[1]: ")
        for name, value in WRONG_TYPES.items()
        if name != "object"
    ),
    *refused(40, "recording_id: Field required", empty_object={}, no_recording_id={"files": [FILE]}),
    *refused(40, "files[0].path: Field required", no_path=top(files=[{"size_bytes": 1}])),
    *refused(40, "files[0].size_bytes: Field required", no_size=top(files=[{"path": "mic/x"}])),
    *refused(40, "nodes.green: ", worker_for_a_list=top(nodes={"green": "mic"})),
    *refused(40, "nodes[1]: ", number_for_a_node=top(nodes=["green", 1])),
    *refused(40, "nodes.green[1]: ", number_for_a_worker=top(nodes={"green": ["mic", 1]})),
    *refused(40, "reconstruction.source: ", source_is_elsewhere=top(reconstruction={"source": "usb"})),
    *refused(
        40,
        "reconstruction.reconstructed_participant: ",
        reconstructed_participant_text=top(reconstruction={"reconstructed_participant": "false"}),
        reconstructed_participant_number=top(reconstruction={"reconstructed_participant": 1}),
    ),
    *refused(40, "reconstruction.added_files[0]: ", added_files=top(reconstruction={"added_files": [1]})),
    *(
        case
        for field, place in (("sha256", "files[0]."), ("recording_hash", ""))
        for case in refused_values(
            42,
            field,
            "String should match",
            place,
            upper_case=DIGEST.upper(),
            one_letter_upper_case=DIGEST[:-1] + "F",
            short=DIGEST[:-1],
            long=DIGEST + "0",
            blank="",
            md5=DIGEST[:32],
            newline_after=DIGEST + "\n",
            newline_before="\n" + DIGEST,
            space=DIGEST[:-1] + " ",
            no_hex="g" * 64,
            labelled="sha256:" + DIGEST,
            arabic_digits="\u0661" * 64,
            fullwidth_digits="\uff11" * 64,
            megabyte="a" * 1_000_000,
        )
    ),
    *refused_paths(
        31,
        "has the component ''",
        absolute="/etc/passwd",
        absolute_into_the_recording=f"/recordings/{REC}/camera_a/x",
        two_slashes="//server/share/x",
        root="/",
    ),
    *refused_paths(
        32,
        "has the component '..'",
        parent="../other/x",
        parent_inside="camera_a/../../x",
        parent_that_stays_inside="camera_a/../camera_b/x",
        parent_at_the_end="camera_a/..",
        only_parent="..",
    ),
    *refused_paths(
        32, "has the component '.'", dot="./mic/x", dot_inside="mic/./x", only_dot=".", dot_at_the_end="a/."
    ),
    *refused_paths(32, "has the component ''", empty_component="mic//x", trailing_slash="mic/x/"),
    *refused_paths(32, "is empty", blank=""),
    *refused_paths(
        33,
        "holds a backslash",
        backslash="camera_a\\seg.mp4",
        backslash_parent="..\\..\\x",
        unc_path="\\\\server\\share",
        backslash_at_the_end="camera_a/x\\",
    ),
    *refused_paths(
        33,
        "holds a drive letter",
        drive="C:x",
        drive_and_slash="c:/windows/x",
        drive_alone="Z:",
        drive_further_in="camera_a/C:x",
    ),
    *refused_paths(
        34, "holds the control, bidi or invisible character U+0000", nul="mic/\0x", nul_at_the_end="mic/x\0"
    ),
    *refused_paths(
        34,
        "",
        high_surrogate="camera_a/\ud800",
        low_surrogate="\udfff/x",
        undecodable_byte="camera_a/\udcff",
        surrogates_the_wrong_way_round="camera_a/\udc00\ud800",
    ),
    *refused(
        34, "device_info.rig[1]: holds an unpaired surrogate", in_a_list=top(device_info={"rig": ["a", "b\ud800"]})
    ),
    *refused(34, "device_info: holds an unpaired surrogate", in_a_key=top(device_info={"\ud800": 1})),
    *refused(34, "files[0].note: holds an unpaired surrogate", in_an_unknown_field=entry(note="\udead")),
    *refused(34, "manifest.json: ", in_a_key_at_the_top=top(**{"\ud800": 1})),
    *refused(34, "participant: ", surrogate_in_participant=top(participant="\ud83d")),
    *refused_paths(
        35,
        "is not in Unicode form NFC",
        nfd="camera_a/u\u0308ber.mp4",
        nfd_directory="e\u0301eg/x",
        angstrom_sign="camera_a/\u212b",
        kelvin_sign="camera_a/\u212a",
        hangul_in_pieces="mic/\u1112\u1161\u11ab",
    ),
    *refused(35, "files[1].path: is not in Unicode form NFC", nfc_and_nfd=listing("mic/\u00e9", "mic/e\u0301")),
    *refused_together(
        one_path_twice=("mic/a", "mic/a"),
        letter_case=("mic/A", "mic/a"),
        case_of_a_directory=("MIC/a", "mic/a"),
        case_beyond_ascii=("mic/\u00c4", "mic/\u00e4"),
        sharp_s=("mic/stra\u00dfe", "mic/STRASSE"),
        capital_sharp_s=("mic/\u1e9e", "mic/ss"),
        fi_ligature=("mic/\ufb01le", "mic/file"),
        final_sigma=("mic/\u03c3", "mic/\u03c2"),
        fullwidth_k=("mic/k", "mic/\uff2b"),
        superscript=("mic/x\u00b2", "mic/x2"),
        no_break_space=("mic/a b", "mic/a\u00a0b"),
        fullwidth_slash=("mic/a", "mic\uff0fa"),
        file_and_directory=("mic/a", "mic/a/b"),
        directory_and_file=("mic/a/b/c", "mic/a"),
        root_file_and_worker=("mic", "mic/a"),
        file_and_directory_but_for_case=("mic/A", "mic/a/b"),
        long_paths=("mic/" + "x" * 950, "mic/" + "X" * 950),
        a_thousand_files_between=("mic/A", *(f"mic/{number}" for number in range(1000)), "mic/a"),
    ),
    *refused_characters("control", "\x01\x07\x08\t\n\r\x1b\x1f\x7f\x80\x85\x9b"),
    *refused_characters("bidi", "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"),
    *refused_characters("zero_width", "\u00ad\u034f\u180e\u200b\u200c\u200d\u2060\u2064\ufe00\ufe0f\ufeff\U000e0100"),
    *refused_characters("filler", "\u115f\u1160\u17b4\u17b5\u180b\u180f\u3164\uffa0"),
    *refused_characters("line_break", "\u2028\u2029"),
    *refused_characters("tag_or_noncharacter", "\ufff9\U000e0001\U000e0041\ufdd0\uffff"),
    *refused_paths(
        37,
        "holds the control, bidi or invisible character",
        that_looks_like_a_video="camera_a/\u202e4pm.exe",
        of_nothing_visible="camera_a/\u200b",
        of_an_invisible_worker="\u2066/x",
    ),
    *refused_values(
        37,
        "node",
        "String should match",
        blank="",
        slash="a/b",
        parent="..",
        hidden=".green",
        option="-green",
        newline_after="green\n",
        space="green mantis",
        beyond_ascii="gr\u00fcn",
        bidi="green\u202e",
        of_64_letters="g" * 64,
    ),
    *refused(37, "nodes[1]: String should match", bad_name_in_nodes=top(nodes=["green", "a/b"])),
    *refused(37, r"nodes.a\u202e\n: String should match", bad_key_in_nodes=top(nodes={"a\u202e\n": ["mic"]})),
    *refused(37, "nodes.nnn", long_key_in_nodes=top(nodes={"n" * 9000: ["mic"]})),
    *refused_paths(
        38,
        "makes a key of more than 1024 bytes",
        of_1025_bytes="a/" + "x" * 987,
        too_long_only_in_bytes="a/" + "\u00e9" * 494,
        of_a_megabyte="x" * 1_000_000,
    ),
    *refused_paths(38, "is more than 32 levels deep", of_33_levels="/".join("d" * 33), of_100000="d/" * 100_000 + "x"),
    *refused_paths(
        48,
        "is reserved for the recording's own bookkeeping",
        manifest="manifest.json",
        participant="participant.txt",
        lock="session.lock",
        node_manifest="_node_manifests/green.json",
        node_manifests_as_a_file="_node_manifests",
        below_node_manifests="_node_manifests/a/b",
        node_participant="_node_participants/green.txt",
        manifest_in_other_case="Manifest.JSON",
        participant_in_other_case="PARTICIPANT.txt",
        node_manifests_in_other_case="_Node_Manifests/green.json",
        manifest_with_a_long_s="manife\u017ft.json",
        manifest_in_fullwidth="\uff4danifest.json",
        below_a_directory_named_manifest="manifest.json/x",
        below_a_directory_named_participant="Participant.txt/x",
        below_a_directory_named_lock="session.lock/a/b",
    ),
    *refused_paths(
        21,
        "is the name of clutter or of an unfinished copy",
        finder=".DS_Store",
        finder_in_a_worker="camera_a/.DS_Store",
        apple_double="camera_a/._seg_0000.mp4",
        thumbs="camera_a/Thumbs.db",
        desktop="desktop.ini",
        synology="@eaDir/x",
        synology_in_a_worker="camera_a/@eaDir/x/y.jpg",
        trash=".Trashes/x",
        events=".fseventsd/x",
        spotlight=".Spotlight-V100/x",
        part="camera_a/seg_0000.mp4.part",
        partial_in_capitals="camera_a/seg_0000.mp4.PARTIAL",
        tmp="camera_a/seg_0000.tmp",
        download="camera_a/seg_0000.mp4.crdownload",
    ),
    *refused(
        31, "files[17].path: ", the_eighteenth=listing(*(f"mic/{number}" for number in range(17)), "/x", "mic/18")
    ),
    *refused_values(
        49,
        "recording_id",
        "names '",
        another="rec_20260520_195628_b1de",
        blank="",
        upper_case=REC.upper(),
        newline_after=f"{REC}\n",
        space_after=f"{REC} ",
        arabic_digits="rec_\u0662\u0660\u0662\u0666\u0660\u0665\u0662\u0660_195628_b1dd",
        zero_width_space=f"{REC}\u200b",
        path=f"../{REC}",
        terminal_codes="\x1b[2J\x1b]0;x\x07",
        megabyte="x" * 1_000_000,
        megabyte_of_bidi="\u202e" * 300_000,
    ),
    *(
        case
        for field, place in (
            ("started_at", ""),
            ("ended_at", ""),
            ("started_at", "files[0]."),
            ("ended_at", "files[0]."),
        )
        for case in (
            *refused_values(
                40,
                field,
                "is not an ISO 8601 time",
                place,
                blank="",
                word="yesterday",
                number_as_text="1779306988",
                no_such_day="2026-02-30T00:00:00Z",
                no_such_hour="2026-05-20T25:00:00Z",
                leap_second="2026-06-30T23:59:60Z",
                year_zero="0000-01-01T00:00:00Z",
                newline_after="2026-05-20T19:56:28Z\n",
                arabic_digits="\u0662\u0660\u0662\u0666-05-20T19:56:28Z",
                bidi_separator="2026-05-20\u202e19:56:28Z",
            ),
            *refused_values(40, field, "has no time zone", place, naive="2026-05-20T19:56:28", date="2026-05-20"),
            *refused_values(
                40,
                field,
                "is out of range",
                place,
                before_all_time="0001-01-01T00:00:00+14:00",
                after_all_time="9999-12-31T23:59:59-14:00",
            ),
        )
    ),
    *refused(
        40,
        "ended_at: is before started_at",
        ended_before_it_started=top(started_at="2026-05-20T19:56:28Z", ended_at="2026-05-20T19:56:27Z"),
        ended_before_by_zone=top(started_at="2026-05-20T19:56:28+02:00", ended_at="2026-05-20T20:00:00+03:00"),
    ),
    *refused(
        40,
        "files[0].ended_at: is before started_at",
        file_ended_before_it_started=entry(started_at="2026-05-20T19:56:28Z", ended_at="2026-05-20T19:56:27Z"),
    ),
]


def parse(raw: bytes) -> Manifest:
    return parse_manifest(raw, rec_id=REC, place=PLACE)


def require_fit_for_a_log(error: ManifestInvalid, raw: bytes) -> None:
    """An error names recording, place and remedy, is short, shows no control character and echoes little."""
    told = str(error)
    assert type(error) is ManifestInvalid
    assert told.startswith(f"{REC}: {PLACE}: ")
    assert told.endswith(ManifestInvalid.remedy)
    assert len(told) < 1000
    assert not [character for character in told if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
    assert {"\u034f", "\u3164", "\ufe0f", "\U000e0100"}.isdisjoint(told)
    beginning = raw[:100_000].decode(errors="replace")
    assert not any(told[start : start + 150] in beginning for start in range(len(told) - 150))


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda case: case.name)
def test_a_hostile_manifest_is_refused(hostile: Case) -> None:
    with pytest.raises(ManifestInvalid) as caught:
        parse(hostile.raw)
    assert hostile.says in str(caught.value)
    require_fit_for_a_log(caught.value, hostile.raw)


def test_the_hostile_manifests_are_many_and_their_names_differ() -> None:
    assert len({case.name for case in HOSTILE}) == len(HOSTILE) >= 110
    for fault in (21, *range(30, 43), 49):
        assert any(case.name.startswith(f"fault_{fault}_") for case in HOSTILE)


ODD = [
    Case("nothing_but_an_id", {"recording_id": REC}),
    Case("no_files", top(files=[])),
    Case(
        "unknown_fields_at_every_level",
        entry(codec={"name": "h264", "crf": None}) | {"rig": {"x": [None, 1.5]}, "n": None},
    ),
    Case("unknown_fields_named_like_python", top(model_config=1, is_stub=2, __class__=3, __pydantic_extra__=4, copy=5)),
    Case("byte_order_mark", b"\xef\xbb\xbf" + RAW),
    Case("white_space_around", b"\r\n\t " + RAW + b"\n\n"),
    Case("digest_null", entry(sha256=None)),
    Case("digest_absent", top(files=[{"path": "mic/x", "size_bytes": 1}])),
    Case(
        "every_optional_field_null", top(recording_hash=None, node=None, nodes=None, started_at=None, participant=None)
    ),
    Case("zero_bytes", entry(size_bytes=0)),
    Case("minus_zero", file_text('"size_bytes": -0')),
    Case("the_largest_object", entry(size_bytes=FILE_BYTES_LIMIT)),
    Case("spaces", listing("camera a/my video (1).mp4", "camera a/ x ")),
    Case(
        "names_beyond_ascii",
        listing(
            "kamera_\u00f6/\u00e9t\u00e9.mp4", "mic/\u6c88\u660e.wav", "mic/\u0645\u0631\u062d.wav", "mic/\U0001f600"
        ),
    ),
    Case("dots", listing("mic/...", "mic/..a", "mic/a..b", "mic/.hidden", "mic/a.", ".config/x")),
    Case("colons_that_are_no_drive", listing("mic/12:30:05.wav", "mic/ab:c", "mic/:x")),
    Case("shell_characters", listing("mic/$(rm -rf x)", "mic/-rf", "mic/a;b|c&d", "mic/'\"`", "mic/~", "mic/*?")),
    Case("html_and_percent", listing("mic/<script>", "mic/%2e%2e%2fx", "mic/a#b?c")),
    Case("file_at_the_root", listing("README.md")),
    Case(
        "bookkeeping_names_below_a_worker",
        listing("mic/manifest.json", "mic/_node_manifests/x.json", "mic/session.lock"),
    ),
    Case("almost_clutter", listing("mic/part", "mic/x.parts", "mic/tmp.wav", "mic/DS_Store", "mic/.partx", "mic/_.x")),
    Case("32_levels", listing("/".join("d" * 32))),
    Case("key_of_1024_bytes", listing("a/" + "x" * 986)),
    Case("key_of_1024_bytes_beyond_ascii", listing("a/" + "\u00e9" * 493)),
    Case("64_levels_of_json", text('"x": ' + "[" * 63 + "]" * 63)),
    Case("many_brackets_side_by_side", text('"x": [' + ", ".join(["[]", "{}"] * 500) + "]")),
    Case("brackets_in_strings", text('"x": "' + "[{" * 500 + '", "' + "[" * 100 + '": "]"')),
    Case("brackets_and_quotes_in_strings", text('"x": "' + '\\"[{' * 500 + '", "y": "\\\\", "z": "\\\\\\"[[["')),
    Case("escaped_slash_in_a_path", RAW.replace(b"/", b"\\/")),
    Case("escaped_pair_of_surrogates", text('"device_info": {"rig": "\\ud83d\\ude00"}')),
    Case("backslash_before_surrogate_digits", text('"device_info": {"rig": "\\\\ud800"}')),
    Case("one_name_in_two_workers", listing("camera_a/x", "camera_b/x", "mic/x")),
    Case("one_key_in_two_objects", text('"a": {"k": 1}, "b": {"k": 1}')),
    Case("long_numbers_in_an_unknown_field", text('"x": [' + "9" * 4000 + ", 1.5e300, -0.0, 1e-400]")),
    Case(
        "times_with_offset_and_fraction",
        top(started_at="2026-05-20T21:56:28.123456+02:00", ended_at="2026-05-20 19:56:29Z"),
    ),
    Case("ends_as_it_starts", top(started_at="2026-05-20T19:56:28Z", ended_at="2026-05-20T20:56:28+01:00")),
    Case("a_file_ends_as_it_starts", entry(started_at="2026-05-20T19:56:28Z", ended_at="2026-05-20T19:56:28Z")),
    Case("exactly_64_mib", lambda: RAW.ljust(MANIFEST_BYTES_LIMIT)),
    Case("nodes_by_worker", top(nodes={"green-mantis": ["camera_a"], "green-motor": []})),
    Case("node_of_63_letters", top(node="g" * 63)),
    Case("fault_80_participant_of_10_mb", top(participant="Aria " * 2_000_000)),
    Case("fault_80_participant_of_control_characters", top(participant="../\x1b[31m<b>\u202e\r\n__unknown__")),
]


@pytest.mark.parametrize("odd", ODD, ids=lambda case: case.name)
def test_an_odd_but_valid_manifest_is_read_and_written_back_whole(odd: Case) -> None:
    manifest = parse(odd.raw)
    written = manifest_bytes(manifest)
    assert parse(written) == manifest
    document, again = json.loads(odd.raw.decode("utf-8-sig")), json.loads(written)
    unknown = document.keys() - Manifest.model_fields.keys()
    assert {name: again[name] for name in unknown} == {name: document[name] for name in unknown}
    for file, file_again in zip(document.get("files", []), again["files"], strict=True):
        assert file_again == {name: value for name, value in file.items() if name != "sha256" or value is not None}


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=20)
    | st.sampled_from([REC, DIGEST, "2026-05-20T19:56:28Z", "camera_a/x", "..", "\ud800", "\u202e", 10**30]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*Manifest.model_fields, *FILE, "x"]), inner)
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from([*Manifest.model_fields, "x", "\u202e"])
FUZZ = settings(derandomize=True, max_examples=300, deadline=None)


def parses_or_is_refused(raw: bytes) -> None:
    try:
        manifest = parse(raw)
    except ManifestInvalid as error:
        require_fit_for_a_log(error, raw)
    else:
        assert parse(manifest_bytes(manifest)) == manifest


@FUZZ
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_manifest_invalid(raw: bytes) -> None:
    parses_or_is_refused(raw)


@FUZZ
@given(
    st.dictionaries(FIELDS, JSON_VALUES, max_size=4),
    st.lists(st.dictionaries(st.sampled_from([*FILE, "x"]), JSON_VALUES), max_size=3),
)
def test_no_document_raises_anything_but_manifest_invalid(changes: dict[str, Any], files: list[dict[str, Any]]) -> None:
    parses_or_is_refused(json.dumps(GOOD | {"files": [FILE | file for file in files]} | changes).encode())


@FUZZ
@given(st.integers(0, len(RAW)), st.integers(0, 30), st.binary(max_size=12) | st.text(max_size=6).map(str.encode))
def test_no_damage_to_a_manifest_raises_anything_but_manifest_invalid(start: int, cut: int, put: bytes) -> None:
    parses_or_is_refused(RAW[:start] + put + RAW[start + cut :])


@pytest.mark.parametrize(
    ("untrusted", "limit", "told"),
    [
        ("camera_a/seg_0000.mp4", 120, "camera_a/seg_0000.mp4"),
        ("kamera_\u00f6/\u6c88", 120, "kamera_\u00f6/\u6c88"),
        ("a\nb\x1b[31m\x7f\x9b", 120, r"a\nb\x1b[31m\x7f\x9b"),
        ("\u202e\u2066\u200b\ufeff\u00ad\u034f\ufe0f\u3164", 120, r"\u202e\u2066\u200b\ufeff\xad\u034f\ufe0f\u3164"),
        ("\ud800\udcff\U000e0001", 120, r"\ud800\udcff\U000e0001"),
        ("x" * 10, 10, "x" * 10),
        ("x" * 11, 10, "x" * 7 + "..."),
        ("\n" * 6, 10, r"\n\n\n\..."),
    ],
)
def test_untrusted_text_is_shown_short_with_invisible_characters_escaped(untrusted: str, limit: int, told: str) -> None:
    assert shown(untrusted, limit) == told

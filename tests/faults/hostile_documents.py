"""Stored documents that must be refused, or count for nothing, by kind: pointer, entry, claim and the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ursa_pipelines.catalog.pointer import DEFAULT_PREFIX as PREFIX
from ursa_pipelines.objects.keys import raw_key

REC = "rec_20260520_195628_b1dd"
PERSON = "p_0123456789abcdef"

Content = bytes | dict[str, Any] | list[Any]


@dataclass(frozen=True)
class Document:
    """A stored document in place of a sound one; `kind` says where it lies and what is done with it."""

    kind: str
    name: str
    content: Content

    @property
    def raw(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()


DIGEST = "0123456789abcdef" * 4
TIME = "2026-05-20T19:56:28Z"
ITEM = {"txn": "0123456789abcdef", "op": "x", "by": "rig", "at": TIME, "seq": 1}
BYTES: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \r\n",
    "null": b"null",
    "list": b"[]",
    "string": b'"x"',
    "number": b"1",
    "true": b"true",
    "cut_off": b'{"version": 1, "',
    "two_documents": b"{}{}",
    "deep_lists": b"[" * 100_000,
    "deep_objects": b'{"a":' * 100_000,
    "deep_in_a_field": b'{"version": 1, "x": ' + b"[" * 5_000,
    "utf_16": '{"version": 1}'.encode("utf-16"),
    "latin_1": b'{"x": "\xe9"}',
    "two_marks": b"\xef\xbb\xbf" * 2 + b"{}",
    "surrogate": b'{"\\ud800": 1}',
    "nul": b"{}\0",
    "nan": b'{"version": NaN}',
    "5000_digits": b'{"version": ' + b"9" * 5000 + b"}",
    "html": b"<!doctype html><title>403 Forbidden</title>",
    "a_megabyte": b'"' + b"x" * 2**20,
}
POINTER = {"version": 1, "prefix": PREFIX, "previous": [], "updated_at": TIME}
PREFIXES = (
    "",
    "ursa",
    "ursa/",
    "/ursa/catalog",
    "ursa//catalog",
    "ursa/catalog/",
    "ursa/../raw",
    "ursa/./catalog",
    "../x",
    "URSA/catalog",
    "recordings/x",
    "r2://other/ursa/catalog",
    "ursa/cat alog",
    "ursa/catalog\n",
    "ursa/c\u0430talog",
    "ursa/\u202ecatalog",
    "ursa/\x1b[2J",
    "ursa/" + "x" * 2_000,
    "ursa/catalog?x",
    "ursa\\catalog",
)
VERSIONS = {"0": 0, "3": 3, "text": "1", "float": 1.5, "none": None, "list": [1], "huge": 2**70, "negative": -1}
LAX_VERSIONS = {name: one for name, one in VERSIONS.items() if name != "text"}
"""Where rows are read, a number in quotes is a number."""


def _recording(**changes: Any) -> dict[str, Any]:
    row = {
        "recording_hash": "{hash}",
        "start_time": TIME,
        "duration": "PT1M",
        "metadata": {"manifest_recording_id": REC},
    }
    return {"version": 1, "seq": 1, "recording": {**row, **changes}, "log": [ITEM]}


def _modality(**changes: Any) -> dict[str, Any]:
    return {
        **_recording(),
        "modalities": [{"recording_hash": "{hash}", "modality": "mic", "format": "raw_audio", **changes}],
    }


def _each(kind: str, **contents: Content) -> Iterator[Document]:
    for name, content in contents.items():
        yield Document(kind, name, content)


REFUSED = (
    "pointer",
    "catalog",
    "entry",
    "claim",
    "edit",
    "head",
    "mark",
    "raw_identity",
    "assets_identity",
    "manifest",
    "node_manifest",
    "participant",
)
"""Kinds of documents without which nothing goes on."""
EVIDENCE = ("marker", "upload")
"""Kinds that only spare work: a bad one counts for nothing."""

DOCUMENTS = [
    *(
        Document(kind, name, content)
        for kind in (*REFUSED, *EVIDENCE)
        for name, content in BYTES.items()
        # Any short text is a name, and an empty mark is one of a single recording.
        if (kind, name) not in {("mark", "empty"), ("mark", "list"), ("mark", "string")} and kind != "participant"
    ),
    *(Document("pointer", f"prefix_{number}", {**POINTER, "prefix": one}) for number, one in enumerate(PREFIXES)),
    *(Document("pointer", f"version_{name}", {**POINTER, "version": one}) for name, one in VERSIONS.items()),
    *_each(
        "pointer",
        no_prefix={"version": 1, "updated_at": TIME},
        prefix_is_a_list={**POINTER, "prefix": [PREFIX]},
        previous_is_text={**POINTER, "previous": "x"},
        no_time={"version": 1, "prefix": PREFIX},
        naive_time={**POINTER, "updated_at": "2026-05-20T19:56:28"},
        sweep_is_text={**POINTER, "sweep": "x"},
        sweep_without_source={**POINTER, "sweep": {"since": TIME, "op": "x"}},
        another_catalog_that_is_not_there={**POINTER, "prefix": "ursa/nowhere"},
    ),
    *(Document("catalog", f"version_{name}", {"version": one, "created_at": TIME}) for name, one in VERSIONS.items()),
    *_each("catalog", no_time={"version": 1}, time_is_a_number={"version": 1, "created_at": 5}),
    *(Document("entry", f"version_{name}", {**_recording(), "version": one}) for name, one in LAX_VERSIONS.items()),
    *_each(
        "entry",
        of_another_recording=_recording(recording_hash=DIGEST),
        hash_with_a_slash=_recording(recording_hash="../x"),
        hash_of_300=_recording(recording_hash="a" * 300),
        negative_duration=_recording(duration="-PT1M"),
        duration_of_ages=_recording(duration="P999999999D"),
        duration_is_text=_recording(duration="long"),
        no_start={**_recording(), "recording": {"recording_hash": "{hash}", "duration": "PT1M"}},
        naive_start=_recording(start_time="2026-05-20T19:56:28"),
        rec_id_is_a_number=_recording(metadata={"manifest_recording_id": 7}),
        rec_id_is_a_list=_recording(metadata={"manifest_recording_id": ["x"]}),
        metadata_is_text=_recording(metadata="x"),
        participants_climb=_recording(participant_ids=["../x"]),
        participants_are_numbers=_recording(participant_ids=[1]),
        seq_is_text={**_recording(), "seq": "x"},
        seq_is_huge={**_recording(), "seq": 2**63},
        seq_is_not_the_logs={**_recording(), "seq": 9},
        log_is_text={**_recording(), "log": "x"},
        log_of_nothing={**_recording(), "log": [{}]},
        log_seq_is_negative={**_recording(), "log": [{**ITEM, "seq": -1}]},
        modalities_are_an_object={**_recording(), "modalities": {}},
        modality_of_another=_modality(recording_hash=DIGEST),
        modality_without_name=_modality(modality=""),
        modality_of_no_format=_modality(format="exe"),
        negative_count=_modality(segment_count=-1),
        huge_count=_modality(segment_count=2**63),
        huge_bytes=_modality(bytes=2**64),
        bytes_are_a_float=_modality(bytes=0.5),
    ),
    *_each(
        "claim",
        no_hash={},
        hash_is_a_number={"recording_hash": 5},
        hash_is_a_list={"recording_hash": ["x"]},
        hash_is_blank={"recording_hash": ""},
        hash_climbs={"recording_hash": "../../x"},
        hash_of_300={"recording_hash": "a" * 300},
        hash_with_a_newline={"recording_hash": DIGEST + "\n"},
        hash_is_bidi={"recording_hash": "\u202e"},
        hash_is_false={"recording_hash": False},
    ),
    *(
        Document("edit", f"version_{name}", {"participant_id": PERSON, "version": one})
        for name, one in LAX_VERSIONS.items()
    ),
    *_each(
        "edit",
        no_id={"version": 1},
        name_is_a_number={"participant_id": PERSON, "display_name": 5},
        log_is_text={"participant_id": PERSON, "log": "x"},
        log_of_nothing={"participant_id": PERSON, "log": [{}]},
        log_seq_is_huge={"participant_id": PERSON, "log": [{**ITEM, "seq": 2**70}]},
    ),
    *(Document("head", f"version_{name}", {"version": one, "gen": 1}) for name, one in LAX_VERSIONS.items()),
    *_each(
        "head",
        no_gen={"version": 2},
        gen_is_text={"version": 2, "gen": "x"},
        versions_are_a_list={"version": 2, "gen": 1, "versions": []},
        gen_is_huge={"version": 2, "gen": 2**70, "versions": {"recordings": 0}},
        a_version_that_never_was={"version": 2, "gen": 1, "versions": {"recordings": 10**6}},
        a_version_that_is_huge={"version": 2, "gen": 1, "versions": {"recordings": 2**70}},
        a_version_that_is_negative={"version": 2, "gen": 1, "versions": {"recordings": -1}},
        a_version_that_is_text={"version": 2, "gen": 1, "versions": {"recordings": "x"}},
    ),
    *(
        Document(f"{one}_identity", name, content)
        for one, purpose in (("raw", "raw"), ("assets", "assets"))
        for name, content in {
            "no_fields": {},
            "no_family": {"purpose": purpose},
            "no_purpose": {"family": "local"},
            "of_another_family": {"family": "r2", "purpose": purpose},
            "family_is_a_list": {"family": ["local"], "purpose": purpose},
            "of_the_other_purpose": {"family": "local", "purpose": "assets" if purpose == "raw" else "raw"},
            "family_in_capitals": {"family": "LOCAL", "purpose": purpose},
            "family_is_bidi": {"family": "\u202e", "purpose": purpose},
        }.items()
    ),
    *_each(
        "participant",
        of_two_lines=b"A\nB",
        latin_1=b"Zo\xeb",
        too_long=b"x" * 201,
        bell=b"A\x07",
        escape=b"\x1b[2J",
        nul=b"A\0",
        line_separator="A\u2028B".encode(),
    ),
    *_each(
        "marker",
        of_another_format={"format": "ursa_pipelines/9", "files": {}, "recording_hash": DIGEST},
        no_format={"files": {}, "recording_hash": DIGEST},
        no_files={"format": "ursa_pipelines/1", "recording_hash": DIGEST},
        no_hash={"format": "ursa_pipelines/1", "files": {}},
        files_are_a_list={"format": "ursa_pipelines/1", "recording_hash": DIGEST, "files": ["x"]},
        a_file_is_text={"format": "ursa_pipelines/1", "recording_hash": DIGEST, "files": {"mic/x": "x"}},
        a_digest_is_a_list={
            "format": "ursa_pipelines/1",
            "recording_hash": DIGEST,
            "files": {"mic/seg_0000.wav": {"sha256": ["x"]}},
        },
        an_etag_is_a_number={
            "format": "ursa_pipelines/1",
            "recording_hash": DIGEST,
            "files": {"mic/seg_0000.wav": {"sha256": DIGEST, "etag": 5}},
        },
    ),
    *_each(
        "upload",
        no_fields={},
        another_key={"key": "manifests/x"},
        key_is_a_number={"key": 5},
        **{
            f"{name}_{number}": {
                "key": raw_key(REC, "mic/large"),
                "upload_id": "x",
                "part_size": 2**24,
                "size": 10,
                "sha256": DIGEST,
                "crc64nvme": True,
                "host": "x",
                "started_at": TIME,
                **changes,
            }
            for number, (name, changes) in enumerate(
                (
                    ("key", {"key": "../x"}),
                    ("upload_id", {"upload_id": ""}),
                    ("upload_id", {"upload_id": "x" * 5_000}),
                    ("part_size", {"part_size": 0}),
                    ("part_size", {"part_size": 2**60}),
                    ("size", {"size": -1}),
                    ("sha256", {"sha256": "x"}),
                    ("sha256", {"sha256": DIGEST.upper()}),
                    ("started_at", {"started_at": "x"}),
                    ("crc64nvme", {"crc64nvme": "x"}),
                )
            )
        },
    ),
]

"""rec_id, recording_hash, participant_id, and the names they are made of."""

from __future__ import annotations

import hashlib
import unicodedata
from datetime import UTC, datetime

import pytest

from ursa_pipelines.errors import ParticipantInvalid, RecordingIdInvalid
from ursa_pipelines.recordings.identity import (
    clean_display_name,
    derive_participant_id,
    derive_recording_hash,
    is_rec_id,
    parse_rec_id,
)
from ursa_pipelines.recordings.layout import split_worker, worker_of

REC = "rec_20260520_195628_b1dd"


@pytest.mark.parametrize(
    ("rec_id", "began"),
    [
        (REC, datetime(2026, 5, 20, 19, 56, 28, tzinfo=UTC)),
        ("rec_20240229_000000_0000", datetime(2024, 2, 29, tzinfo=UTC)),
        ("rec_20261231_235959_0123456789abcdef", datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_a_rec_id_tells_when_the_recording_began(rec_id: str, began: datetime) -> None:
    assert parse_rec_id(rec_id) == began
    assert parse_rec_id(rec_id).tzinfo is UTC
    assert is_rec_id(rec_id)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "rec_",
        "manifests",
        f"{REC}/",
        f" {REC}",
        f"{REC} ",
        f"../{REC}",
        f"{REC}\n{REC}",
        "Rec_20260520_195628_b1dd",
        "rec-20260520-195628-b1dd",
        "rec_20260520_195628_B1DD",
        "rec_20260520_195628_b1d",
        "rec_20260520_195628_b1dg",
        "rec_20260520_195628_",
        "rec_2026520_195628_b1dd",
        "rec_202605201_195628_b1dd",
        "rec_20260520195628_b1dd",
    ],
)
def test_another_name_is_no_rec_id(name: str) -> None:
    assert not is_rec_id(name)
    with pytest.raises(RecordingIdInvalid):
        parse_rec_id(name)


@pytest.mark.parametrize(
    "name",
    [
        "rec_20260230_195628_b1dd",
        "rec_20250229_195628_b1dd",
        "rec_20261320_195628_b1dd",
        "rec_20260500_195628_b1dd",
        "rec_20260520_245628_b1dd",
        "rec_20260520_196028_b1dd",
        "rec_20260520_195660_b1dd",
        "rec_00000520_195628_b1dd",
    ],
)
def test_a_time_that_no_calendar_has_is_no_rec_id(name: str) -> None:
    with pytest.raises(RecordingIdInvalid, match="no real calendar time"):
        parse_rec_id(name)


@pytest.mark.parametrize(
    "name",
    [
        f"{REC}\n",
        "rec_\u0662\u0660\u0662\u0666\u0660\u0665\u0662\u0660_195628_b1dd",
        "rec_20260520_\uff11\uff19\uff15\uff16\uff12\uff18_b1dd",
        "rec_20260520_195628_b1d\u0661",
        "rec_20260520_195628_\uff42\uff11\uff44\uff44",
    ],
)
def test_fault_50_a_trailing_newline_or_foreign_digits_are_no_rec_id(name: str) -> None:
    assert not is_rec_id(name)


def test_a_bad_rec_id_is_shown_short_and_without_control_characters() -> None:
    with pytest.raises(RecordingIdInvalid) as caught:
        parse_rec_id("rec_\u202e\x1b[31m\n\ud800" + "x" * 5000)
    text = str(caught.value)
    assert text.isprintable()
    assert r"rec_\u202e\x1b[31m\n\ud800" in text
    assert len(text) < 300


def test_a_recording_hash_is_the_hash_of_the_sorted_digests_of_its_files() -> None:
    digests = [hashlib.sha256(content).hexdigest() for content in (b"one", b"two", b"three")]
    expected = hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
    assert derive_recording_hash(digests) == derive_recording_hash(reversed(digests)) == expected
    assert derive_recording_hash([*digests, digests[0]]) != expected


def test_fault_44_a_recording_hash_does_not_depend_on_names() -> None:
    one, other = (hashlib.sha256(content).hexdigest() for content in (b"left", b"right"))
    straight, swapped = {"camera_a/0": one, "camera_b/0": other}, {"camera_a/0": other, "camera_b/0": one}
    assert derive_recording_hash(straight.values()) == derive_recording_hash(swapped.values())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Aria Lin", "Aria Lin"),
        ("  Aria Lin\r\n", "Aria Lin"),
        ("\u00a0Bj\u00f6rn Ek\t", "Bj\u00f6rn Ek"),
        ("\u6c88\u660e", "\u6c88\u660e"),
        pytest.param("x" * 200, "x" * 200, id="200 characters"),
        (None, None),
        ("", None),
        (" \n\t ", None),
        ("__unknown__", None),
        ("__unknown__\n", None),
    ],
)
def test_a_display_name_loses_the_white_space_around_it(text: str | None, name: str | None) -> None:
    assert clean_display_name(text) == name


@pytest.mark.parametrize("text", ["../../etc/passwd", "<script>alert(1)</script>", "**bold** [x](http://x)", "'; --"])
def test_fault_80_markup_in_a_participants_name_is_data(text: str) -> None:
    assert clean_display_name(text) == text
    assert derive_participant_id(text).removeprefix("p_").isalnum()


@pytest.mark.parametrize(
    "text",
    [
        "Aria\nLin",
        "Aria\r\nLin",
        "Aria\x00Lin",
        "Aria\x1b[31mLin",
        "Aria\x7fLin",
        "Aria\x85Lin",
        "Aria\u2028Lin",
        "Aria\u2029Lin",
        "Aria\ud800Lin",
        pytest.param("A" * 201, id="201 characters"),
        pytest.param("Aria Lin " * 1_200_000, id="10 MB"),
    ],
)
def test_fault_80_a_participants_name_that_is_too_long_or_holds_control_characters_is_refused(text: str) -> None:
    with pytest.raises(ParticipantInvalid) as caught:
        clean_display_name(text, recording=REC)
    assert caught.value.recording == REC
    assert REC in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["Aria\nLin", pytest.param("Aria Lin" * 100, id="long")])
def test_fault_81_a_refused_name_is_not_repeated_in_the_error(text: str) -> None:
    with pytest.raises(ParticipantInvalid) as caught:
        clean_display_name(text)
    assert "Aria" not in str(caught.value) + repr(caught.value)


def test_fault_81_a_participant_id_does_not_hold_the_name() -> None:
    identifier = derive_participant_id("Aria Lin")
    assert identifier == "p_" + hashlib.sha256(b"aria lin").hexdigest()[:16]
    assert len(identifier) == 18
    assert "aria" not in identifier.casefold()


@pytest.mark.parametrize(
    "spelling", ["aria lin", "ARIA LIN", "Aria  Lin", " Aria\tLin ", "Aria\u00a0Lin", "\uff21ria Lin"]
)
def test_spellings_of_one_name_are_one_participant(spelling: str) -> None:
    assert derive_participant_id(spelling) == derive_participant_id("Aria Lin")


def test_composed_and_decomposed_letters_are_one_participant() -> None:
    name = "Bj\u00f6rn Ek"
    assert derive_participant_id(unicodedata.normalize("NFD", name)) == derive_participant_id(name)
    assert derive_participant_id(name) != derive_participant_id("Bjorn Ek")


@pytest.mark.parametrize(
    ("worker", "modality", "worker_id"),
    [
        ("eeg_4559", "eeg", "4559"),
        ("camera_a", "camera", "a"),
        ("camera_a_b", "camera", "a_b"),
        ("mic", "mic", None),
        ("samsung-watch_2", "samsung-watch", "2"),
        ("eeg_", "eeg_", None),
        ("_a", "_a", None),
        ("_", "_", None),
    ],
)
def test_a_worker_directory_is_a_device_family_and_the_rest(worker: str, modality: str, worker_id: str | None) -> None:
    assert split_worker(worker) == (modality, worker_id)


@pytest.mark.parametrize(
    ("path", "worker"), [("camera_a/seg_0000.mp4", "camera_a"), ("camera_a/x/y.mp4", "camera_a"), ("README.md", None)]
)
def test_a_segment_belongs_to_the_first_directory_of_its_path(path: str, worker: str | None) -> None:
    assert worker_of(path) == worker

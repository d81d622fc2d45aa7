"""What media files tell, whole, cut off and hostile, and what becomes of a reader that fails."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests import media_files
from tests.media_files import MAKERS, SECONDS, boxes
from ursa_pipelines.recordings.inventory import take_inventory
from ursa_pipelines.recordings.media import MediaFacts, MediaReport
from ursa_pipelines.recordings.media_probe import MediaProbe

REC = "rec_20260520_195628_b1dd"
NONSENSE = "import socket; one = socket.socket(fileno=0); socket.recv_fds(one, 16, 1); one.sendall({!r})"


@pytest.fixture(scope="module")
def probe() -> Iterator[MediaProbe]:
    probe = MediaProbe()
    yield probe
    probe.close()


@pytest.fixture
def look(probe: MediaProbe, tmp_path: Path) -> Callable[..., MediaReport]:
    """Looks at files by path and content, of which each test has a directory of its own."""

    def look(contents: dict[str, bytes], by: MediaProbe = probe) -> MediaReport:
        directory = tmp_path / REC
        for path, content in contents.items():
            file = directory / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        inventory = take_inventory(directory)
        return by.report(inventory, [inventory.files[path] for path in contents])

    return look


@pytest.mark.parametrize("what", MAKERS)
def test_a_whole_file_tells_its_length_and_streams(look, what: str):
    extension, make = MAKERS[what]
    facts = look({f"worker/seg_0000.{extension.upper()}": make()}).facts[f"worker/seg_0000.{extension.upper()}"]

    assert (facts.seconds, facts.problem) == (pytest.approx(SECONDS, abs=0.01), "")
    assert len(facts.streams) == 1


@pytest.mark.parametrize("what", MAKERS)
def test_a_file_that_is_cut_off_anywhere_is_noticed(look, what: str):
    extension, make = MAKERS[what]
    whole, chosen = make(), random.Random(what)
    lengths = {0, 1, 7, 20, len(whole) - 9, len(whole) // 2, *chosen.sample(range(len(whole) - 8), 40)}

    report = look({f"worker/seg_{length}.{extension}": whole[:length] for length in lengths})

    assert set(report.truncated) == set(report.facts)
    assert len(report.facts) == len(lengths)


@pytest.mark.parametrize("what", ["wav", "flac", "edf", "bdf"])
def test_the_last_byte_matters(look, what: str):
    extension, make = MAKERS[what]
    assert look({f"worker/seg_0000.{extension}": make()[:-1]}).truncated


def test_a_fragmented_recording_is_cut_off_within_a_fragment_but_not_between_two(look):
    whole = media_files.mp4_fragmented()
    fragments = [(begin, end) for kind, begin, end in boxes(whole) if kind in {"moof", "mdat"}]
    (_, moof_end), (_, mdat_end) = fragments[2], fragments[3]

    report = look(
        {
            "a/whole.mp4": whole,
            "a/between.mp4": whole[:mdat_end],
            "a/no_data.mp4": whole[:moof_end],
            "a/within.mp4": whole[: mdat_end - 100],
            "a/index.mp4": whole[:-20],
        }
    )

    assert set(report.truncated) == {"a/no_data.mp4", "a/within.mp4", "a/index.mp4"} == set(report.problems)
    assert report.facts["a/whole.mp4"].seconds == pytest.approx(SECONDS, abs=0.2)
    assert report.facts["a/between.mp4"].seconds == pytest.approx(SECONDS / 2, abs=0.2)


def test_an_index_that_points_beyond_the_end_is_noticed_where_no_box_tells(look):
    clip = media_files.mp4()
    begin = next(begin for kind, begin, _ in boxes(clip) if kind == "mdat")
    end = next(end for kind, _, end in boxes(clip) if kind == "mdat")
    to_the_end = clip[:begin] + bytes(4) + clip[begin + 4 : end]

    report = look({"a/whole.mp4": to_the_end, "a/cut.mp4": to_the_end[:-50]})

    assert report.problems == {"a/cut.mp4": "truncated: 50 bytes are missing at its end"}


@pytest.mark.parametrize("more", [bytes(999), b"appended by a camera", b"\xff" * 9], ids=["zeros", "text", "ones"])
def test_what_follows_the_last_part_is_no_problem(look, more: bytes):
    padded = {f"a/{index}.{MAKERS[what][0]}": MAKERS[what][1]() + more for index, what in enumerate(MAKERS)}
    assert look(padded).problems == {}


@pytest.mark.parametrize("said", [0, 0xFFFFFFFF])
def test_a_sound_file_that_was_never_finished_is_as_long_as_what_it_holds(look, said: int):
    facts = look({"mic/seg_0000.wav": media_files.unfinished_wav(said=said)}).facts["mic/seg_0000.wav"]

    assert facts.problem.startswith("truncated: its header was never finished")
    assert facts.seconds == pytest.approx(SECONDS)


def test_records_that_were_never_counted_are(look):
    whole = media_files.edf()
    facts = look({"eeg/seg_0000.edf": whole[:236] + b"-1      " + whole[244:]}).facts["eeg/seg_0000.edf"]

    assert facts.problem.startswith("truncated: its header was never finished")
    assert facts.seconds == SECONDS


def test_records_with_gaps_do_not_tell_when_the_last_one_ended(look):
    whole = media_files.edf()
    facts = look({"eeg/seg_0000.edf": whole.replace(b"EDF+C", b"EDF+D", 1)}).facts["eeg/seg_0000.edf"]

    assert (facts.seconds, facts.problem) == (None, "")


HOSTILE = {
    "text": b"video" * 100,
    "zeros": bytes(5_000),
    "noise": random.Random(1).randbytes(5_000),
    "a page": b"<html>404</html>" * 50,
    "a playlist": b"#EXTM3U\nfile:///etc/passwd\n",
}


@pytest.mark.parametrize("extension", ["mp4", "wav", "flac", "edf", "bdf"])
def test_what_is_no_media_cannot_be_read(look, extension: str):
    report = look({f"a/{name}.{extension}": content for name, content in HOSTILE.items()})

    assert len(report.problems) == len(HOSTILE)
    assert all(problem.startswith("cannot be read: ") for problem in report.problems.values())


def test_damaged_files_do_no_harm_to_the_next_one(look):
    chosen, damaged = random.Random(6), {}
    for index in range(150):
        extension, make = MAKERS[chosen.choice(list(MAKERS))]
        content = bytearray(make())
        for _ in range(chosen.choice([1, 5, 30])):
            content[chosen.randrange(chosen.choice([64, 400, len(content)]))] = chosen.choice([0, 255, 127])
        damaged[f"a/seg_{index}x.{extension}"] = bytes(content)

    report = look({**damaged, "a/whole.mp4": media_files.mp4()})

    assert set(report.facts) == {*damaged, "a/whole.mp4"}
    assert report.facts["a/whole.mp4"].seconds == SECONDS


def test_other_files_are_left_out(look):
    assert look({"notes/seg_0000.jsonl": b"{}", "mic/sound.opus": b"OggS"}).facts == {}


@pytest.mark.parametrize(
    ("sent", "told"), [(signal.SIGSEGV, "crashed"), (signal.SIGSTOP, "gave no answer for 0.5 s")], ids=["crash", "hang"]
)
def test_a_reader_that_fails_is_one_files_problem(look, sent: signal.Signals, told: str):
    probe = MediaProbe(patience=0.5)
    look({"a/seg_0000.edf": media_files.edf()}, probe)
    (reader,) = map(psutil.Process, probe.pids)
    reader.send_signal(sent)

    report = look({"a/seg_0001.edf": media_files.edf(), "a/seg_0002.edf": media_files.edf()}, probe)

    assert report.facts["a/seg_0001.edf"] == MediaFacts("edf", problem=f"cannot be read: its reader {told}")
    assert report.facts["a/seg_0002.edf"].seconds == SECONDS
    assert not reader.is_running()
    probe.close()


@pytest.mark.parametrize(
    "answer",
    [b"[1]\n", b"hello\n", b'{"seconds": 1}\n', b'{"seconds": 1, "streams": 5, "problem": ""}\n', b"x" * 99_999],
)
def test_a_senseless_answer_is_the_files_problem(look, answer: bytes):
    probe = MediaProbe(python=(sys.executable, "-I", "-c", NONSENSE.format(answer)))

    problems = look({"a/seg_0000.mp4": b"1"}, probe).problems

    assert problems == {"a/seg_0000.mp4": "cannot be read: its reader gave a senseless answer"}


def test_a_length_that_cannot_be_is_not_believed(look):
    answer = b'{"seconds": 1e300, "streams": [], "problem": "\\u202etxt.exe"}\n'
    probe = MediaProbe(python=(sys.executable, "-I", "-c", NONSENSE.format(answer)))

    facts = look({"a/seg_0000.mp4": b"1"}, probe).facts["a/seg_0000.mp4"]

    assert (facts.seconds, facts.problem) == (None, "\\u202etxt.exe")


def test_after_some_failures_the_rest_is_not_looked_at(look):
    probe = MediaProbe(python=(sys.executable, "-I", "-c", ""))

    problems = look({f"a/seg_{index}.mp4": b"1" for index in range(5)}, probe).problems

    assert sum("its reader crashed" in problem for problem in problems.values()) == 3
    assert sum("was not looked at" in problem for problem in problems.values()) == 2


def test_without_the_library_of_its_kind_nothing_is_said_of_a_file(look):
    without_site_packages = MediaProbe(python=(sys.executable, "-I", "-S"))

    assert look({"a/seg_0000.mp4": b"video", "a/seg_0001.flac": b"sound"}, without_site_packages).facts == {}
    without_site_packages.close()


def test_a_file_is_read_once_for_as_long_as_it_stays_the_same(look, tmp_path: Path):
    probe, whole = MediaProbe(), media_files.edf()
    first = look({"a/seg_0000.edf": whole}, probe)
    probe.close()

    inventory = take_inventory(tmp_path / REC)
    assert probe.report(inventory, inventory.files.values()) == first
    assert probe.pids == []
    assert look({"a/seg_0000.edf": whole[:-1]}, probe).truncated
    probe.close()


def test_the_reader_knows_nothing_of_this_process(look, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("URSA_TEST_SECRET", "hush")
    probe = MediaProbe()
    look({"a/seg_0000.edf": media_files.edf()}, probe)
    (reader,) = map(psutil.Process, probe.pids)

    assert "URSA_TEST_SECRET" not in reader.environ()
    assert reader.cwd() == "/"
    probe.close()
    assert not reader.is_running()


def test_a_reader_that_is_asked_nothing_for_a_while_is_ended(look):
    probe = MediaProbe(idle=0.3)
    look({"a/seg_0000.edf": media_files.edf()}, probe)
    readers, deadline = list(map(psutil.Process, probe.pids)), time.monotonic() + 60

    while any(map(psutil.Process.is_running, readers)) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert not any(map(psutil.Process.is_running, readers))
    assert probe.pids == []
    assert look({"a/seg_0001.edf": media_files.edf()}, probe).facts["a/seg_0001.edf"].seconds == SECONDS
    probe.close()


def test_after_a_fork_the_child_asks_a_reader_of_its_own(look):
    probe = MediaProbe()
    look({"a/seg_0000.edf": media_files.edf()}, probe)
    of_parent, (told, tell) = probe.pids, os.pipe()

    child = os.fork()
    if not child:
        length = look({"a/seg_0000.edf": media_files.edf()}, probe).facts["a/seg_0000.edf"].seconds
        os.write(tell, json.dumps([probe.pids, length]).encode())
        probe.close()
        os._exit(0)
    os.waitpid(child, 0)

    of_child, length = json.loads(os.read(told, 1_000))
    assert (len(of_child), length) == (1, SECONDS)
    assert probe.pids == of_parent
    assert set(of_child).isdisjoint(of_parent)
    probe.close()
    os.close(told)
    os.close(tell)


def test_a_sound_file_is_as_long_as_its_samples_whatever_else_its_header_says(look):
    whole = media_files.wav(subtype="PCM_16")
    wrong = {
        f"{index}/a.wav": whole[:28] + rate.to_bytes(4, "little") + whole[32:] for index, rate in enumerate((0, 1))
    }
    wrong |= {f"cut_{path}": content[:-8_000] for path, content in wrong.items()}

    found = look(wrong).facts

    assert [found[path].seconds for path in wrong] == [SECONDS, SECONDS, SECONDS - 0.5, SECONDS - 0.5]


def test_a_file_with_fewer_bytes_than_seconds_has_no_known_length(look):
    clip = bytearray(media_files.mp4())
    place = clip.find(b"mdhd") + 20
    clip[place : place + 4] = b"\xff" * 4

    facts = look({"camera/seg_0000.mp4": bytes(clip)}).facts["camera/seg_0000.mp4"]

    assert (facts.seconds, facts.problem) == (None, "")


FOLLOW = {
    "numbers": (["a/seg_0000", "a/seg_0001", "a/seg_0002"], 6),
    "two digits": (["a/17", "a/18"], 4),
    "more digits": (["a/seg_9", "a/seg_10"], 4),
    "side by side": (["a/left_0", "a/left_1", "a/right_0"], 4),
    "one file": (["a/whatever"], 2),
    "upper case": (["a/seg_00", "a/SEG_01"], 4),
    "two workers": (["a/1/front", "b/2/back"], 2),
}
NOT_KNOWN = {
    "a gap": ["a/seg_0000", "a/seg_0001", "a/seg_0009"],
    "the same number": ["a/seg_1", "a/seg_01"],
    "times": ["a/20260520T195628", "a/20260520T195728"],
    "a name after it": ["a/0000_left", "a/0001_left"],
    "hexadecimal": ["a/seg_000a", "a/seg_000b"],
    "directories": ["a/0000/video", "a/0001/video"],
    "which of two": ["a/mic1", "a/mic2"],
    "a copy": ["a/seg_0000", "a/seg_0000 (1)"],
    "a late one": ["a/left_0", "a/left_1", "a/right_1"],
    "no number": ["a/front", "a/back"],
}


@pytest.mark.parametrize(("names", "seconds"), FOLLOW.values(), ids=FOLLOW)
def test_segments_follow_one_another_where_their_names_leave_no_doubt(names: list[str], seconds: float):
    assert MediaReport({f"{name}.wav": MediaFacts("wav", 2) for name in names}).ended_after == seconds


@pytest.mark.parametrize("names", NOT_KNOWN.values(), ids=NOT_KNOWN)
def test_a_length_is_not_guessed_from_names(names: list[str]):
    assert MediaReport({f"{name}.wav": MediaFacts("wav", 2) for name in names}).ended_after is None


def test_a_worker_with_media_that_cannot_be_looked_at_has_no_known_length(look):
    paths = ("camera/seg_0000.mp4", "camera/seg_0001.mkv", "mic/seg_0000.wav", "notes/seg_0000.jsonl")

    assert look(dict.fromkeys(paths[:2], media_files.mp4())).ended_after is None
    assert look(dict.fromkeys(paths[2:], media_files.wav())).ended_after == SECONDS


def test_segments_follow_one_another_and_other_names_run_beside_them():
    def report(**seconds: float | None) -> MediaReport:
        paths = {name.replace("__", "/").replace("_dot_", "."): value for name, value in seconds.items()}
        return MediaReport({path: MediaFacts("mp4", value) for path, value in paths.items()})

    assert report().ended_after is None
    assert report(a__seg_0_dot_mp4=2, a__seg_1_dot_mp4=3).ended_after == 5
    assert report(a__left_0_dot_mp4=2, a__right_0_dot_mp4=3).ended_after == 3
    assert report(a__seg_0_dot_mp4=2, a__seg_0_dot_wav=3).ended_after == 3
    assert report(a__seg_0_dot_mp4=2, b__seg_0_dot_mp4=3).ended_after == 3
    assert report(a__seg_0_dot_mp4=2, a__seg_1_dot_mp4=None).ended_after is None
    assert report(a__seg_0_dot_mp4=2, b__seg_0_dot_mp4=None).ended_after == 2
    assert report(a__00_dot_mp4=7 * 86_400, a__01_dot_mp4=1).ended_after is None

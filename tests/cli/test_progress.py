"""How an ingest gets on: what is counted, and what is shown of it in little room."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from ursa_pipelines.cli.printing import _Printed
from ursa_pipelines.cli.progress import Expected, Tally, View, shown, told_seconds
from ursa_pipelines.ingest.batch import BatchItem
from ursa_pipelines.ingest.context import UploadProgress

FIRST, SECOND, THIRD = (f"rec_20260520_19562{digit}_b1dd" for digit in "123")
MB = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def tally_of(*rec_ids: str, clock: Clock | None = None) -> Tally:
    return Tally([Expected(rec_id, 2, 100 * MB) for rec_id in rec_ids], 2, clock or Clock())


def sent(tally: Tally, rec_id: str, clock: Clock, *, begin: int, end: int, files: int, seconds: int) -> None:
    """What comes while `begin` to `end` MB are sent, a fraction of it every second."""
    for second in range(1, seconds + 1):
        clock.now += 1
        done = begin + (end - begin) * second // seconds
        tally.tell(rec_id, UploadProgress("camera_a/seg_0000.mp4", done * MB, 100 * MB, files, 2))


def test_rate_and_time_left_do_not_count_what_was_there_already():
    clock = Clock()
    tally = tally_of(FIRST, clock=clock)
    tally.tell(FIRST, UploadProgress("mic/seg_0000.wav", 50 * MB, 100 * MB, 1, 2))

    sent(tally, FIRST, clock, begin=50, end=60, files=1, seconds=5)

    assert tally.told() == ["0 of 1 recording", "60.0 of 100.0 MB", "2.0 MB/s", "20 s left", "1 of 2 files"]


def test_the_second_half_of_a_recording_goes_on_where_the_first_ended():
    clock = Clock()
    tally = tally_of(FIRST, clock=clock)

    sent(tally, FIRST, clock, begin=0, end=40, files=0, seconds=2)
    tally.tell(FIRST, UploadProgress("camera_a/seg_0000.mp4", 40 * MB, 40 * MB, 1, 1))
    sent(tally, FIRST, clock, begin=0, end=30, files=0, seconds=2)

    assert tally.share == pytest.approx(0.7)


def test_a_recording_that_failed_is_not_waited_for():
    tally = tally_of(FIRST, SECOND)

    tally.end(FIRST, BatchItem(FIRST, state="failed"))

    assert tally.share == pytest.approx(0.5)
    assert [rec_id for rec_id, _, _ in tally.under_way()] == [SECOND]


@pytest.mark.parametrize(("width", "height"), [(100, 24), (80, 24), (40, 8), (20, 5)])
def test_it_fits_into_any_terminal(width: int, height: int):
    clock = Clock()
    tally = Tally([Expected(f"rec_20260520_1956{second:02}_b1dd", 2, MB) for second in range(30)], 8, clock)
    sent(tally, "rec_20260520_195600_b1dd", clock, begin=0, end=1, files=0, seconds=3)
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)

    with console.capture() as captured:
        console.print(View(tally, "Ingest"))

    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) < height
    assert lines[0].startswith("Ingest")
    assert lines[1].startswith("0 of 30 recor")


def test_away_from_a_terminal_a_line_comes_now_and_then():
    lines, came = io.StringIO(), threading.Event()

    class Console2(Console):
        def print(self, *objects: object, **options: object) -> None:
            super().print(*objects, **options)  # type: ignore[arg-type]
            came.set()

    with shown(tally_of(FIRST, SECOND, THIRD), "Ingest", Console2(file=lines, width=200), line_every=0.01):
        assert came.wait(60)

    first = lines.getvalue().splitlines()[0]
    assert first.startswith("... 0 of 3 recordings, 0 of 300.0 MB, 0 of 6 files; ")
    assert f"{FIRST} being looked at" in first
    assert THIRD not in first


def test_what_nobody_reads_any_more_does_not_stop_the_work():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        printed = _Printed(file=closed)
        for _ in range(3):
            printed.print("a line")


def test_only_warnings_that_the_end_of_a_recording_does_not_tell_are_shown_above():
    lines = io.StringIO()
    logger = logging.getLogger("ursa.register.orchestrator")

    with shown(tally_of(FIRST), "Ingest", Console(file=lines, width=200)):
        logger.warning("it failed", extra={"recording": FIRST})
        logger.warning("the upload cap stays")

    assert lines.getvalue() == "the upload cap stays\n"


def test_a_second_interrupt_ends_the_process_at_once():
    program = (
        "import os, signal, time\n"
        "from ursa_pipelines.cli.progress import Tally, errors, stopping\n"
        "with stopping(Tally([]), errors):\n"
        "    try: os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
        "    except KeyboardInterrupt: os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30)

    assert (done.returncode, done.stderr) == (130, b"")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (5300, "88 min"), (5400, "1 h 30 min"), (90 * 3600, "4 days")],
)
def test_durations_are_told_for_people(seconds: float, told: str):
    assert told_seconds(seconds) == told

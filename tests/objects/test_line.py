"""The line that capped uploads share: its pace, its fairness, and who may go although the file of bookings is bad."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ursa_pipelines.objects.line import Flow, Line
from ursa_pipelines.profiles.timetable import Bandwidth, set_override

CHUNK = 128 * 1024
PATIENCE = 60.0


class Stopped(Exception):
    """A stop was asked for."""


def patient() -> Callable[[], None]:
    """A `check_stop` that lets a test fail rather than hang."""
    deadline = time.monotonic() + PATIENCE

    def check_stop() -> None:
        assert time.monotonic() < deadline

    return check_stop


def stop() -> None:
    raise Stopped


def capped(rate: str | None, state: Path | None) -> Line:
    return Line(Bandwidth(rate, state), state)


def must_wait(line: Line | Flow) -> bool:
    """Whether a sender's turn does not come at once."""
    try:
        line.take(CHUNK, stop)
    except Stopped:
        return True
    return False


def take_all(line: Line | Flow, total: int) -> None:
    check_stop = patient()
    while total:
        total -= line.take(min(total, CHUNK), check_stop)


def until(condition: Callable[[], bool]) -> None:
    check = patient()
    while not condition():
        check()
        time.sleep(0.01)


@pytest.mark.parametrize("rate", [None, "off"])
def test_without_a_cap_all_goes_at_once_and_nothing_is_written(rate: str | None, tmp_path: Path):
    line = capped(rate, tmp_path / "state")
    flow = line.flow()

    assert not line.capped
    assert [one.take(64 * CHUNK, stop) for one in (line, flow) for _ in range(100)] == [64 * CHUNK] * 200
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rate", "wanted", "taken"),
    [
        ("1MB/s", CHUNK, 50_000),
        ("1GB/s", 10 * CHUNK, CHUNK),
        ("1kB/s", CHUNK, 4096),
        ("1MB/s", 49_999, 49_999),
        ("1kB/s", 1, 1),
    ],
)
def test_a_turn_is_a_twentieth_of_a_second_within_bounds(rate: str, wanted: int, taken: int, tmp_path: Path):
    line = capped(rate, tmp_path)

    assert line.capped
    assert line.take(wanted, stop) == taken


@pytest.mark.parametrize("shared", [True, False])
def test_threads_together_are_no_faster_than_the_cap(shared: bool, tmp_path: Path):
    line = capped("1MB/s", tmp_path if shared else None)
    began = time.monotonic()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: take_all(line, 50_000), range(8)))

    # The bytes of the last turn may go when it begins.
    assert time.monotonic() - began >= 0.35


def test_an_idle_line_earns_no_burst(tmp_path: Path):
    line = capped("40kB/s", tmp_path)
    line.take(1, stop)
    time.sleep(0.4)
    began = time.monotonic()

    take_all(line, 5 * 4096)

    assert time.monotonic() - began >= 0.4


def test_processes_with_one_state_directory_are_no_faster_than_the_cap_together(tmp_path: Path):
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.objects.test_line import capped, take_all\n"
        "line = capped('1MB/s', Path(sys.argv[1]))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "take_all(line, 300_000)\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        began = time.monotonic()
        print("go", file=other.stdin, flush=True)
        take_all(capped("1MB/s", tmp_path), 300_000)
        assert other.wait(PATIENCE) == 0
    assert time.monotonic() - began >= 0.55


def test_a_file_with_many_senders_gets_no_more_than_one_with_a_single_sender(tmp_path: Path):
    line = capped("2MB/s", tmp_path)
    order: list[str] = []

    def check_stop() -> None:
        if order.count("single") >= 12:
            raise Stopped

    def send(name: str, flow: Flow) -> None:
        while True:
            flow.take(CHUNK, check_stop)
            order.append(name)
            check_stop()

    many, single = line.flow(), line.flow()
    with ThreadPoolExecutor(7) as pool:
        running = [pool.submit(send, "many", many) for _ in range(6)] + [pool.submit(send, "single", single)]
    assert all(isinstance(one.exception(), Stopped) for one in running)
    turns = [place for place, name in enumerate(order) if name == "single"]
    assert 9 <= order[turns[0] : turns[11]].count("many") <= 13


def test_the_senders_of_a_file_go_in_the_order_they_came(tmp_path: Path):
    flow = capped("2MB/s", tmp_path).flow()
    order: list[int] = []

    def send(number: int) -> None:
        for _ in range(4):
            flow.take(CHUNK, patient())
            order.append(number)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(send, range(3)))

    rounds = [set(order[start : start + 3]) for start in (3, 6)]
    assert rounds == [{0, 1, 2}] * 2


@pytest.mark.parametrize(("higher", "taken"), [("100MB/s", CHUNK), ("off", 2 * CHUNK)])
def test_a_cap_that_is_raised_or_lifted_lets_the_waiting_go(higher: str, taken: int, tmp_path: Path):
    line = capped("1B/s", tmp_path)
    flow = line.flow()
    line.take(CHUNK, stop)

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(one.take, 2 * CHUNK, patient()) for one in (line, flow, flow)]
        set_override(tmp_path, higher)
        assert [one.result(PATIENCE) for one in waiting] == [taken] * 3


def test_a_cap_that_is_set_while_something_runs_holds_from_the_next_look(tmp_path: Path):
    line = capped("off", tmp_path)
    assert not line.capped
    set_override(tmp_path, "1kB/s")
    until(lambda: line.capped)

    assert not must_wait(line)
    assert must_wait(line)


def test_a_cap_set_by_a_slip_of_the_pen_does_not_lift_the_one_before(tmp_path: Path):
    line = capped("1kB/s", tmp_path)
    line.take(CHUNK, stop)
    (tmp_path / "bandwidth").write_text("5MB")

    looked_again = time.monotonic() + 0.7
    until(lambda: time.monotonic() > looked_again)
    assert must_wait(line)


def test_who_stops_while_waiting_holds_up_nobody(tmp_path: Path):
    line = capped("8kB/s", tmp_path)
    began = time.monotonic()
    line.take(CHUNK, stop)
    booked, stopping = threading.Semaphore(0), threading.Event()

    def stop_later() -> None:
        booked.release()
        stopping.wait(PATIENCE)
        raise Stopped

    with ThreadPoolExecutor(8) as pool:
        stopped = [pool.submit(line.take, CHUNK, stop_later) for _ in range(8)]
        assert all(booked.acquire(timeout=PATIENCE) for _ in stopped)
        line.take(CHUNK, stopping.set)

    # Each turn would have taken half a second; one has.
    assert 0.5 <= time.monotonic() - began < 3


def test_who_stops_in_the_queue_of_a_file_leaves_it(tmp_path: Path):
    flow = capped("8kB/s", tmp_path).flow()
    flow.take(CHUNK, stop)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(flow.take, CHUNK, patient())
        assert pool.submit(must_wait, flow).result(PATIENCE)
        last = pool.submit(flow.take, CHUNK, patient())
        assert [first.result(PATIENCE), last.result(PATIENCE)] == [4096, 4096]


def earlier_boot(written: str) -> str:
    booted, *rest = written.split()
    return " ".join([str(float(booted) - 3600), *rest])


def centuries_ahead(written: str) -> str:
    booted, _, rate = written.split()
    return f"{booted} 1e12 {rate}"


@pytest.mark.parametrize(
    "rewrite",
    [earlier_boot, centuries_ahead, lambda _: "", lambda _: "rubbish", lambda _: "nan nan nan", lambda _: "\0" * 5000],
)
def test_bookings_of_before_a_reboot_and_rubbish_do_not_count(rewrite: Callable[[str], str], tmp_path: Path):
    line = capped("1kB/s", tmp_path)
    line.take(CHUNK, stop)
    (file,) = tmp_path.iterdir()
    assert must_wait(capped("1kB/s", tmp_path))

    file.write_text(rewrite(file.read_text()))

    # Who booked remembers it: losing the file does not lift the cap.
    assert must_wait(line)
    file.write_text(rewrite(file.read_text()))
    assert not must_wait(capped("1kB/s", tmp_path))
    assert must_wait(capped("1kB/s", tmp_path))


def test_without_a_usable_state_directory_the_process_keeps_the_cap_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    state = tmp_path / "file"
    state.write_text("no directory")
    line = capped("1kB/s", state)

    assert not must_wait(line)
    assert must_wait(line)
    assert len([record for record in caplog.records if "do not share the upload cap" in record.message]) == 1


def test_a_process_suspended_with_the_file_locked_does_not_hold_up_the_others(tmp_path: Path):
    line = capped("1kB/s", tmp_path)
    with (tmp_path / "line").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        assert not must_wait(line)
        assert must_wait(line)
        assert (tmp_path / "line").read_bytes() == b""

"""How exact and how fair the upload cap is, and what it costs where nothing is capped.

    python benchmarks/bandwidth.py [--seconds 10] [--rates 1MB/s 25MB/s 100MB/s]

Senders take their turns for the given time and count what they may send, in threads of one process or of several that
share a state directory. Exits with 1 if a rate is off its cap, or a flow off its share, by more than 10 %.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path

from ursa_pipelines.objects.line import Flow, Line
from ursa_pipelines.profiles.timetable import Bandwidth, Timetable

ALLOWED = 0.10
CHUNK = 128 * 1024
START_SECONDS = 3.0


@dataclass(frozen=True)
class Case:
    """So many processes, each with one flow for every number, which says how many threads send in it."""

    name: str
    flows: tuple[int, ...]
    processes: int = 1


CASES = (
    Case("1 sender", (1,)),
    Case("16 threads in 8 flows", (2,) * 8),
    Case("2 processes of 1 sender", (1,), 2),
    Case("2 processes of 8 threads in 4 flows", (2,) * 4, 2),
    Case("2 flows, of 6 threads and of 1", (6, 1)),
)


class Over(Exception):
    """The time is up."""


def main() -> None:
    """Measures and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rates", nargs="+", default=["1MB/s", "25MB/s", "100MB/s"])
    arguments = parser.parse_args()
    print("| cap | senders | measured MB/s | off the cap | smallest and largest share of a flow, 1 = fair |")
    print("|---|---|---|---|---|")
    worst = 0.0
    for rate in arguments.rates:
        cap = Timetable.parse(rate).rate_at(datetime.now())
        if cap is None:
            parser.error(f"{rate} is no cap")
        for case in CASES:
            counts = _measure(case, rate, arguments.seconds)
            measured = sum(counts) / arguments.seconds
            shares = [count * len(counts) / sum(counts) for count in counts]
            off = measured / cap - 1
            worst = max(worst, abs(off), 1 - min(shares), max(shares) - 1)
            print(f"| {rate} | {case.name} | {measured / 1e6:.2f} | {off:+.1%} | {min(shares):.2f} {max(shares):.2f} |")
    print(f"\nA turn where nothing is capped takes {_uncapped_seconds() * 1e9:.0f} ns.")
    if worst > ALLOWED:
        sys.exit(f"off by {worst:.1%}")


def _measure(case: Case, rate: str, seconds: float) -> list[int]:
    """Bytes that each flow of each process could send."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="ursa-bench-") as state, ProcessPoolExecutor(case.processes, spawn) as pool:
        begin = time.monotonic() + START_SECONDS
        running = [
            pool.submit(_send, case.flows, rate, Path(state), begin, begin + seconds) for _ in range(case.processes)
        ]
        return list(chain.from_iterable(one.result() for one in running))


def _send(flows: tuple[int, ...], rate: str, state: Path, begin: float, end: float) -> list[int]:
    line = Line(Bandwidth(rate, state), state)
    with ThreadPoolExecutor(sum(flows)) as pool:
        time.sleep(begin - time.monotonic())
        running = [
            [pool.submit(lambda flow: sum(_turns(flow, end)), flow) for _ in range(threads)]
            for flow, threads in ((line.flow(), threads) for threads in flows)
        ]
        return [sum(one.result() for one in senders) for senders in running]


def _turns(flow: Flow, end: float) -> Iterator[int]:
    def check_stop() -> None:
        if time.monotonic() > end:
            raise Over

    try:
        while time.monotonic() < end:
            yield flow.take(CHUNK, check_stop)
    except Over:
        return


def _uncapped_seconds(turns: int = 200_000) -> float:
    flow = Line(Bandwidth(None, None), None).flow()
    began = time.perf_counter()
    for _ in range(turns):
        flow.take(CHUNK, lambda: None)
    return (time.perf_counter() - began) / turns


if __name__ == "__main__":
    main()

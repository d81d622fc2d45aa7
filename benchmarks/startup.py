"""How long the package and the command take to start (DESIGN section 10).

    python benchmarks/startup.py [--runs 15]

Times whole processes, beside an interpreter that does nothing. Exits with 1 if a median is above its figure.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

_HELP = "import sys; sys.argv = ['ursa', '--help']; from ursa_pipelines.cli.main import main; main()"
CASES: tuple[tuple[str, str, float | None], ...] = (
    ("python, nothing", "pass", None),
    ("import ursa_pipelines", "import ursa_pipelines", 0.2),
    ("ursa --help", _HELP, 0.4),
)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=15)
    runs = arguments.parse_args().runs
    too_slow = False
    print("| case | median s (min to max) | figure |\n|---|---|---|")
    for name, code, figure in CASES:
        seconds = [_seconds(code) for _ in range(runs + 1)][1:]
        median = statistics.median(seconds)
        too_slow |= figure is not None and median > figure
        print(f"| {name} | {median:.3f} ({min(seconds):.3f} to {max(seconds):.3f}) | {figure or ''} |")
    return int(too_slow)


def _seconds(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())

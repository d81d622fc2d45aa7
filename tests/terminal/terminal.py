"""A shell in a pseudo-terminal of 24 lines, and what its screen shows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pexpect
import pyte

CAPTURES = Path(os.environ.get("URSA_SCREENSHOTS") or Path(__file__).parents[2] / "artifacts") / "terminal"
LINES, COLUMNS = 24, 100
SECONDS = 120.0

_PROMPT = "$"


class Terminal:
    """What is typed goes to bash; what it and its programs draw is interpreted as a terminal does."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        given = {name: value for name, value in environment.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self._screen)
        self._shell = pexpect.spawn(
            "bash",
            ["--norc", "--noprofile", "-i"],
            cwd=str(directory),
            env=given | {"TERM": "xterm-256color", "PS1": f"{_PROMPT} ", "HISTFILE": ""},
            dimensions=(LINES, COLUMNS),
        )
        CAPTURES.mkdir(parents=True, exist_ok=True)
        self.wait(self._is_prompting)

    @property
    def text(self) -> str:
        """The screen as it is now, without the blanks at the ends of its lines."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def type(self, text: str) -> None:
        """Types a line."""
        self._shell.send(f"{text}\r")

    def begin(self, command: str) -> None:
        """Clears the screen and types a command."""
        self.type("clear")
        self.wait(lambda: self.text == _PROMPT)
        self.type(command)
        self.wait(f"{_PROMPT} {command}")

    def press_ctrl_c(self) -> None:
        self._shell.sendintr()

    def wait(self, condition: Callable[[], bool] | str) -> None:
        """Lets the programs draw until the screen shows the text, or meets the condition."""
        is_met = condition if callable(condition) else lambda: condition in self.text
        deadline = time.monotonic() + SECONDS
        while not is_met():
            assert time.monotonic() < deadline, self.text
            try:
                self._stream.feed(self._shell.read_nonblocking(4096, timeout=0.2))
            except pexpect.TIMEOUT:
                continue

    def end(self) -> str:
        """Waits until the command has ended; the screen then."""
        self.wait(self._is_prompting)
        return self.text

    def colour_of(self, word: str) -> str:
        """The colour in which a word stands, where it stands last."""
        row = max(number for number, line in enumerate(self._screen.display) if word in line)
        return self._screen.buffer[row][self._screen.display[row].rindex(word)].fg

    def capture(self, name: str) -> str:
        """Writes the screen into a file, and returns it."""
        (CAPTURES / f"{name}.txt").write_text(f"{self.text}\n")
        return self.text

    def close(self) -> None:
        self._shell.close(force=True)

    def _is_prompting(self) -> bool:
        return self.text.rpartition("\n")[2] == _PROMPT and self._screen.cursor.x == len(_PROMPT) + 1

"""Names for the moments between two steps, so that a test can end a process at exactly one of them.

Nothing happens there: only a test process that assigns a function of its own to `reached` sees them go by. No
setting and no environment variable does.
"""

from __future__ import annotations


def reached(name: str) -> None:
    """Does nothing. `name` is `room.step_done`."""

"""What a discovering sensor remembers from tick to tick: who waits, and where it stopped.

Dagster keeps the cursor with every tick, so that it holds nothing of recordings that were reported: those are known
from their events.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from ursa_pipelines.ingest.watch import Arrival

WAITING_AT_MOST = 1_000
"""How many may wait at once; further ones are looked at again as if for the first time, once there is room."""


@dataclass(frozen=True)
class Cursor:
    """`waiting` are the recordings that have not settled, the one looked at longest ago first. `held` are those that
    are not reported because they are quarantined or waived.

    `new_after` and `known_after` are the recordings after which the next tick begins among those that are new, and
    among those that were reported already.
    """

    waiting: dict[str, Arrival] = field(default_factory=dict)
    held: tuple[str, ...] = ()
    new_after: str = ""
    known_after: str = ""

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """The cursor of an earlier tick. Of one that cannot be read nothing but the waiting times is lost."""
        try:
            document = json.loads(text or "{}")
            return cls(
                {rec_id: Arrival.from_cursor(item) for rec_id, item in document.get("waiting", {}).items()},
                tuple(document.get("held", ())),
                str(document.get("new_after", "")),
                str(document.get("known_after", "")),
            )
        except (ValueError, TypeError, AttributeError):
            return cls()

    def dump(self) -> str:
        document = {
            "waiting": {rec_id: one.to_cursor() for rec_id, one in self.waiting.items()},
            "held": self.held,
            "new_after": self.new_after,
            "known_after": self.known_after,
        }
        return json.dumps(document, separators=(",", ":"))

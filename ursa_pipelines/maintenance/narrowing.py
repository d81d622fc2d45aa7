"""Which recordings a look is about: all, those named, or those of some days, which their ids tell."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

_BEFORE_ALL, _AFTER_ALL = "rec_", "rec_:"


@dataclass(frozen=True, slots=True)
class Only:
    """All recordings, or those that are named, or those of the days from `since` on and before `before` (UTC).

    Ids sort by their time, so that a range of days is one of ids. With both, what is named must be of these days.
    """

    rec_ids: frozenset[str] = frozenset()
    since: date | None = None
    before: date | None = None

    @property
    def is_everything(self) -> bool:
        return not self.rec_ids and self.since is None and self.before is None

    @property
    def low(self) -> str:
        """The smallest text that an id may be."""
        return f"rec_{self.since:%Y%m%d}" if self.since else _BEFORE_ALL

    @property
    def high(self) -> str:
        """The smallest text that is beyond all of these ids."""
        return f"rec_{self.before:%Y%m%d}" if self.before else _AFTER_ALL

    @property
    def named(self) -> list[str]:
        """The named ones of these days, sorted."""
        return sorted(rec_id for rec_id in self.rec_ids if self.covers(rec_id))

    @property
    def where(self) -> dict[str, Any] | None:
        """The condition on rows of the catalog."""
        if self.is_everything:
            return None
        return {"rec_id": self.named if self.rec_ids else ("between", self.low, self.high)}

    def covers(self, rec_id: str) -> bool:
        """Whether it is one of them."""
        return (not self.rec_ids or rec_id in self.rec_ids) and self.low <= rec_id < self.high


EVERYTHING = Only()

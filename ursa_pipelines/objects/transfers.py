"""What all uploads of a process share: sizes, memory, and the line."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from ursa_pipelines.objects.line import Line

_PARTS_LIMIT = 9_000
_WAIT_SECONDS = 0.25


@dataclass(frozen=True)
class TransferLimits:
    """How much goes at once. Sizes are bytes, `read_timeout` seconds.

    Files of at most `single_put` go in one request, `workers` at a time; larger ones in parts. What is on its way of
    all of them takes `buffers` together. Uploads of files above `resume_above` are kept when they are interrupted.
    """

    part_size: int = 16 * 1024 * 1024
    single_put: int = 8 * 1024 * 1024
    workers: int = 8
    buffers: int = 96 * 1024 * 1024
    resume_above: int = 128 * 1024 * 1024
    read_timeout: float = 120.0

    def part_size_for(self, size: int) -> int:
        """The equal part size of a file, doubled until it has at most 9,000 parts (R2 takes 10,000)."""
        part_size = self.part_size
        while size > part_size * _PARTS_LIMIT:
            part_size *= 2
        return part_size

    @property
    def part_senders(self) -> int:
        """How many parts of a recording's files go at once: as many as there are buffers."""
        return max(2, self.buffers // self.part_size)


class Buffers:
    """Lends buffers, at most `limit` bytes at once; a larger single one goes alone."""

    def __init__(self, limit: int) -> None:
        self._limit, self._kept = limit, 0
        self._lent: dict[int, tuple[int, bool]] = {}
        self._free: dict[int, list[bytearray]] = {}
        self._returned = threading.Condition()

    def take(self, size: int, check_stop: Callable[[], None], *, to_keep: bool = False) -> bytearray:
        """A buffer of `size` bytes, as soon as there is room; until then `check_stop` is called and may raise.

        One `to_keep` is used again for the next of its size.
        """
        while (buffer := self._take(size, to_keep)) is None:
            check_stop()
        return buffer

    def give_back(self, buffer: bytearray) -> None:
        """Takes a buffer back; one that was written off stays out of use."""
        with self._returned:
            size, to_keep = self._lent.pop(id(buffer), (0, False))
            if to_keep and self._kept + self._in_use() + size <= self._limit:
                self._free.setdefault(size, []).append(buffer)
                self._kept += size
            self._returned.notify_all()

    def write_off(self, buffer: bytearray) -> None:
        """Counts a buffer no more that a call left behind still holds, and may yet read or write."""
        with self._returned:
            self._lent.pop(id(buffer), None)
            self._returned.notify_all()

    def _take(self, size: int, to_keep: bool) -> bytearray | None:
        with self._returned:
            if self._lent and self._in_use() + size > self._limit:
                self._returned.wait(_WAIT_SECONDS)
                return None
            if to_keep and self._free.get(size):
                self._kept -= size
                buffer = self._free[size].pop()
            else:
                if self._in_use() + size + self._kept > self._limit:
                    self._free, self._kept = {}, 0
                buffer = bytearray(size)
            self._lent[id(buffer)] = (size, to_keep)
            return buffer

    def _in_use(self) -> int:
        return sum(size for size, _ in self._lent.values())


@dataclass(frozen=True)
class Transfers:
    """Shared by all uploads of a process, so that their number changes neither its memory nor its use of the line."""

    limits: TransferLimits = field(default_factory=TransferLimits)
    line: Line = field(default_factory=lambda: Line(_Unlimited(), None))

    @cached_property
    def buffers(self) -> Buffers:
        return Buffers(self.limits.buffers)


class _Unlimited:
    def rate_at(self, moment: datetime) -> None:
        return None

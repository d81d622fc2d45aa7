"""A line to a store that is far away: a relay that holds what the client sends back for a while, and counts requests.

Every byte waits for the same time, however many others wait with it; so one request costs one delay, and what is in
flight at once is not throttled. A new connection costs nothing, which a real line would ask one round trip or more for.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"(?:GET|HEAD|PUT|POST|DELETE) /[^ \r\n]* HTTP/1\.1\r\n")
_LONGEST_LINE = 8192
_CHUNK = 256 * 1024


@dataclass(frozen=True)
class Relay:
    """`endpoint` stands for the store's; `_count` is shared with the process that relays."""

    endpoint: str
    _count: Any

    @property
    def requests(self) -> int:
        """How many requests have come in so far."""
        return int(self._count.value)


@contextmanager
def relay(endpoint: str, delay: float) -> Iterator[Relay]:
    """Relays to `endpoint`, `delay` seconds behind, in a process of its own until the block ends."""
    spawn = multiprocessing.get_context("spawn")
    count, (ours, theirs) = spawn.Value("q", 0), spawn.Pipe(duplex=False)
    process = spawn.Process(target=_run, args=(urlsplit(endpoint).netloc, delay, theirs, count), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Relay(f"http://127.0.0.1:{ours.recv()}", count)
    finally:
        process.terminate()
        process.join()


def _run(upstream: str, delay: float, ready: Connection, count: Any) -> None:
    asyncio.run(_serve(upstream, delay, ready, count))


async def _serve(upstream: str, delay: float, ready: Connection, count: Any) -> None:
    def seen(requests: int) -> None:
        with count.get_lock():
            count.value += requests

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = upstream.partition(":")
        answers, store = await asyncio.open_connection(host, int(port), limit=_CHUNK)
        back = asyncio.create_task(_pass_on(answers, writer, 0.0, lambda _: None))
        await _pass_on(reader, store, delay, seen)
        await back

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_CHUNK, backlog=512)
    ready.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float, seen: Callable[[int], None]
) -> None:
    loop, waiting = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()

    async def deliver() -> None:
        while (item := await waiting.get())[1]:
            if (left := item[0] - loop.time()) > 0:
                await asyncio.sleep(left)
            writer.write(item[1])
            await writer.drain()

    # A connection may end in any way; whoever is left at the other side learns it from `close`.
    with suppress(ConnectionError):
        delivering, line = asyncio.create_task(deliver()), b""
        while chunk := await _read(reader):
            waiting.put_nowait((loop.time() + delay, chunk))
            line += chunk
            found = list(_REQUEST.finditer(line))
            seen(len(found))
            line = line[found[-1].end() if found else 0 :][-_LONGEST_LINE:]
        waiting.put_nowait((0.0, b""))
        await delivering
    writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_CHUNK)
    except ConnectionError:
        return b""

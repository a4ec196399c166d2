"""Rows of a text file in chunks for requests, and where in the file each chunk ends.

What cannot be embedded (not JSON, no text, too long) is a `BadLine` with its reason; blank lines are counted.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from dataclasses import dataclass

from common.texts import BadLine, Fault, Position, Record, TextFile


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of the file, bad ones included; `end` is where the next chunk starts."""

    records: list[Record]
    bad: list[BadLine]
    blank_lines: int
    end: Position


def read_chunks(file: TextFile, *, max_texts: int, max_bytes: int) -> Iterator[Chunk]:
    """What is left of the file, in chunks of at most `max_texts` texts.

    A chunk also ends once its rows hold `max_bytes` or more. Raises SourceError, OSError.
    """
    records: list[Record] = []
    bad: list[BadLine] = []
    blank_lines, begun_at = 0, file.offset
    for row in file.rows():
        if isinstance(row, Record):
            records.append(row)
        elif row.fault is Fault.BLANK:
            blank_lines += 1
        else:
            bad.append(row)
        if len(records) >= max_texts or file.offset - begun_at >= max_bytes:
            yield Chunk(records, bad, blank_lines, file.position)
            records, bad = [], []
            blank_lines, begun_at = 0, file.offset
    if file.offset > begun_at:
        yield Chunk(records, bad, blank_lines, file.position)


async def read_in_thread(chunks: Iterator[Chunk]) -> AsyncGenerator[Chunk, None]:
    """The chunks of a file that may keep its reader waiting, such as standard input, each read when it is asked for.

    The thread is a daemon, since nothing ends that wait. A file on a disk is read in the event loop's own thread: a
    chunk takes less than handing it over does.
    """
    loop = asyncio.get_running_loop()
    asked: queue.SimpleQueue[asyncio.Future[Chunk | None] | None] = queue.SimpleQueue()

    def work() -> None:
        while (future := asked.get()) is not None:
            try:
                chunk, failure = next(chunks, None), None
            except Exception as error:  # for the one that waits
                chunk, failure = None, error
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_settle, future, chunk, failure)

    threading.Thread(target=work, name="dejavec-reader", daemon=True).start()
    try:
        while True:
            future: asyncio.Future[Chunk | None] = loop.create_future()
            asked.put(future)
            chunk = await future
            if chunk is None:
                return
            yield chunk
    finally:
        asked.put(None)


def _settle(future: asyncio.Future[Chunk | None], chunk: Chunk | None, failure: Exception | None) -> None:
    if future.done():  # cancelled
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(chunk)

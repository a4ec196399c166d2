"""A closed-loop HTTP/1.1 generator on raw sockets, cheap enough not to be the bottleneck. Linux and macOS.

N keep-alive connections, one request in flight on each, no pipelining. About 15 µs of CPU a request, where a
full HTTP client takes 300: what it measures is the server. It runs in a process of its own (so that it can be
pinned apart from the server), takes a Task as JSON on stdin and prints a Measurement as JSON. It reports how busy
it was; near 1 the figures are its own limit, not the server's.
"""

import base64
import itertools
import os
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import orjson

from loadtest.figures import percentile

RECEIVE_BYTES = 1 << 18
HEAD_END = b"\r\n\r\n"
LENGTH_FIELD = b"\r\ncontent-length:"
CACHE_FIELD = b"\r\nx-cache:"
SATURATED = 0.9  # share of its core at which the generator itself limits what is measured


class GeneratorError(Exception):
    """The server's answers cannot be measured; the message has the reason."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to send: whole HTTP requests, in turn, over `connections` for `seconds` after `warmup_s`."""

    host: str
    port: int
    requests: list[bytes]
    connections: int
    seconds: float
    warmup_s: float = 0.5

    def to_json(self) -> bytes:
        """For the generator's stdin."""
        texts = [base64.b64encode(request).decode() for request in self.requests]
        return orjson.dumps(asdict(self) | {"requests": texts})

    @classmethod
    def from_json(cls, body: bytes) -> "Task":
        """The inverse of `to_json`."""
        entries = orjson.loads(body)
        return cls(**entries | {"requests": [base64.b64decode(text) for text in entries["requests"]]})


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured after the warm-up; `rate` counts answers of status 200 only."""

    rate: float  # requests a second
    p50_ms: float
    p99_ms: float
    failed: dict[str, int] = field(default_factory=dict)  # by status, or "closed"
    tiers: dict[str, int] = field(default_factory=dict)  # by x-cache; empty when the generator does not read headers
    busy: float = 0.0  # the generator's share of a core

    @property
    def is_saturated(self) -> bool:
        """Whether the generator, not the server, was the limit."""
        return self.busy > SATURATED


class Connection:
    """One keep-alive connection with at most one request in flight."""

    __slots__ = ("_address", "_expected", "_parts", "head", "sent_at", "sock")

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self.sent_at = 0.0
        self.head = b""
        self.connect()

    def connect(self) -> None:
        """Open, or open again after the server closed it."""
        self.sock = socket.create_connection(self._address, timeout=30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._parts: list[bytes] = []
        self._expected = 0

    def send(self, request: bytes) -> None:
        """Send one request; the socket is blocking, so this ends when the kernel has all of it."""
        self.sent_at = time.perf_counter()
        self.sock.sendall(request)

    def receive(self) -> bool | None:
        """Read what is there. True: an answer is complete, its head in `head`. None: the server closed."""
        try:
            chunk = self.sock.recv(RECEIVE_BYTES)
        except ConnectionError:
            return None
        if not chunk:
            return None
        if self._expected == 0:
            if self._parts:
                chunk = b"".join((*self._parts, chunk))
                self._parts.clear()
            end = chunk.find(HEAD_END)
            if end < 0:
                self._parts.append(chunk)
                return False
            self.head = chunk[:end].lower() + b"\r\n"
            self._expected = end + len(HEAD_END) + content_length(self.head)
        self._expected -= len(chunk)
        if self._expected < 0:
            raise GeneratorError("the server sent more than one answer to one request")
        return self._expected == 0


def content_length(head: bytes) -> int:
    """The length that a lower-case head announces. Raises GeneratorError on chunked answers."""
    value = header(head, LENGTH_FIELD)
    if not value:
        raise GeneratorError(f"an answer without content-length: {head[:200]!r}")
    return int(value)


def header(head: bytes, name: bytes) -> bytes:
    """The value of a header in a lower-case head, empty when it is missing; `name` as b"\\r\\nname:"."""
    start = head.find(name)
    if start < 0:
        return b""
    start += len(name)
    return head[start : head.index(b"\r\n", start)].strip()


class Tally:
    """Counts answers that come in after `since` (on the clock of `time.perf_counter`)."""

    def __init__(self, since: float) -> None:
        self._since = since
        self.latencies_s: list[float] = []
        self.failed: Counter[str] = Counter()
        self.tiers: Counter[str] = Counter()

    def answered(self, head: bytes, sent_at: float) -> None:
        """Count one answer by its status and tier."""
        now = time.perf_counter()
        if now < self._since:
            return
        status = head[9:12]
        if status != b"200":
            self.failed[status.decode(errors="replace")] += 1
            return
        self.latencies_s.append(now - sent_at)
        if tier := header(head, CACHE_FIELD):
            self.tiers[tier.decode()] += 1

    def measurement(self, seconds: float, busy: float) -> Measurement:
        """The figures of `seconds` of counting."""
        ordered = sorted(self.latencies_s) or [float("nan")]
        p50, p99 = (1000 * percentile(ordered, percent) for percent in (50, 99))
        rate = len(self.latencies_s) / seconds
        return Measurement(rate, p50, p99, dict(self.failed), dict(self.tiers), busy)


def drive(task: Task) -> Measurement:
    """Run one task in this process. Raises GeneratorError, OSError."""
    requests = itertools.cycle(task.requests)
    connections = [Connection(task.host, task.port) for _ in range(task.connections)]
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection.sock, selectors.EVENT_READ, connection)
            connection.send(next(requests))
        start = time.perf_counter()
        tally = Tally(start + task.warmup_s)
        _serve(selector, requests, Tally(start), start + task.warmup_s)
        cpu_start = time.process_time()
        served_s = _serve(selector, requests, tally, start + task.warmup_s + task.seconds)
        seconds = max(served_s, 1e-9)  # nought where the process was held up past the end
        busy = (time.process_time() - cpu_start) / seconds
    for connection in connections:
        connection.sock.close()
    return tally.measurement(seconds, busy)


def _serve(selector: selectors.BaseSelector, requests: Iterator[bytes], tally: Tally, until: float) -> float:
    """Answer every answer with the next request until the clock is at `until`; the seconds it took."""
    start = now = time.perf_counter()
    while now < until:
        for key, _ in selector.select(until - now):
            connection: Connection = key.data
            complete = connection.receive()
            if complete is None:
                tally.failed["closed"] += 1
                selector.unregister(connection.sock)
                connection.sock.close()
                connection.connect()
                selector.register(connection.sock, selectors.EVENT_READ, connection)
                connection.send(next(requests))
            elif complete:
                tally.answered(connection.head, connection.sent_at)
                connection.send(next(requests))
        now = time.perf_counter()
    return now - start


def main() -> None:
    """Read a Task on stdin, print a Measurement."""
    try:
        measurement = drive(Task.from_json(sys.stdin.buffer.read()))
    except (GeneratorError, OSError) as error:
        sys.exit(f"generator: {error}")
    sys.stdout.buffer.write(orjson.dumps(asdict(measurement)))
    sys.stdout.flush()
    os._exit(0)  # nothing is left to clean up, and the next round waits


if __name__ == "__main__":
    main()

"""Attempts to exhaust a running dejavec, to smuggle requests through it, or to poison its cache, as one table.

    python -m tests.e2e.attacks                     all attempts, about three minutes, the table on standard output
    python -m tests.e2e.attacks --write docs/attacks.md

One `dejavec up` with two keys. One tenant, or somebody without a key, attacks; the other asks for one text all the
while, every twentieth of a second, and compares each vector with the one it got before.
"""

import argparse
import asyncio
import base64
import json
import platform
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import httpx
import psutil
from redis import Redis

from tests.e2e.load import MODEL
from tests.e2e.stack import Run, running
from tests.raw_http import statuses_of

BUNDLE = Path(__file__).parents[2] / ".dejavec/models/all-MiniLM-L6-v2"
MAX_CONNECTIONS = 300
ATTACKER, VICTIM = "key-of-the-attacker", "key-of-the-other-tenant"
LIMITED = "key-of-a-limited-tenant"
TOKENS_PER_MINUTE = 1000
SETTINGS = {
    "DEJAVEC_API_KEYS": json.dumps(
        {
            ATTACKER: {"namespace": "attacker"},
            VICTIM: {"namespace": "other"},
            LIMITED: {"namespace": "limited", "tokens_per_minute": TOKENS_PER_MINUTE},
        }
    ),
    "DEJAVEC_ADMIN_TOKEN": "the-token-of-the-operator",
    "DEJAVEC_MAX_CONNECTIONS": str(MAX_CONNECTIONS),
    "DEJAVEC_BODY_TIMEOUT_S": "3",
    "DEJAVEC_SEND_TIMEOUT_S": "3",
    "DEJAVEC_WATCH_INTERVAL_S": "5",  # the defaults
    "DEJAVEC_WATCH_FAILURES": "12",
    "DEJAVEC_LOCAL_CACHE_MB": "0",  # every answer to the other tenant comes from Redis or the engine
}
TEXT = "the old red train left platform nine before noon without any passengers"
SMUGGLED = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"

Attempt = Callable[[Run, float], Awaitable[Counter[str]]]  # what the attacker got, given seconds to spend


@dataclass(frozen=True, slots=True)
class Attack:
    """One row: what is tried, on which process, for how long."""

    name: str
    attempt: Attempt
    length_s: float = 0.0
    process: str = "gateway"


@dataclass(slots=True)
class Figures:
    """Of the attacked process: resident memory in MiB and open files; before, at most, and after."""

    rss: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def take(self, process: psutil.Process) -> None:
        """One sample."""
        self.rss.append(process.memory_info().rss / 2**20)
        self.files.append(process.num_fds())


@dataclass(slots=True)
class Victim:
    """What the other tenant saw."""

    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    wrong_vectors: int = 0
    longest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row's figures."""

    attack: Attack
    got: Counter[str]
    figures: Figures
    victim: Victim


# Attempts


def post(body: bytes, key: str = ATTACKER, *fields: bytes, length: int | None = None) -> bytes:
    """An embedding request as it is on the wire; without a key where `key` is empty."""
    own = [b"authorization: Bearer " + key.encode()] if key else []
    return b"\r\n".join(
        [
            b"POST /v1/embeddings HTTP/1.1",
            b"host: localhost",
            b"content-type: application/json",
            b"content-length: %d" % (len(body) if length is None else length),
            *own,
            *fields,
            b"",
            body,
        ]
    )


def inputs(texts: Sequence[str]) -> bytes:
    """A body."""
    return json.dumps({"model": MODEL, "input": texts}).encode()


def body_of(item: bytes, count: int) -> bytes:
    """A body with one input many times over."""
    return b'{"model":"%b","input":[%b%b]}' % (MODEL.encode(), (item + b",") * (count - 1), item)


async def connect(run: Run, process: str = "gateway") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """One connection."""
    port = run.port if process == "gateway" else run.engine_port
    return await asyncio.open_connection("127.0.0.1", port, limit=2**20)


async def say(run: Run, pieces: Sequence[bytes], process: str = "gateway", pause_s: float = 0.0) -> str:
    """Send, read until the server closes, and sum up: the statuses, or `closed`."""
    received = b""
    with suppress(ConnectionError, TimeoutError):
        reader, writer = await connect(run, process)
        try:

            async def send() -> None:
                with suppress(ConnectionError):
                    for piece in pieces:
                        writer.write(piece)
                        await writer.drain()
                        await asyncio.sleep(pause_s)

            sending = asyncio.create_task(send())
            async with asyncio.timeout(120):
                while more := await reader.read(2**16):
                    received += more
            sending.cancel()
        finally:
            writer.transport.abort()
    runs = [(status, len(list(run))) for status, run in groupby(statuses_of(received))]
    return ", ".join(str(status) if count == 1 else f"{status} ({count} times)" for status, count in runs) or "closed"


def many(
    pieces: Callable[[int], Sequence[bytes]], count: int, process: str = "gateway", pause_s: float = 0.0
) -> Attempt:
    """`count` connections at once, each sending its pieces."""

    async def attempt(run: Run, _: float) -> Counter[str]:
        return Counter(await asyncio.gather(*(say(run, pieces(i), process, pause_s) for i in range(count))))

    return attempt


def held(first: Callable[[int], bytes], count: int, drip: bytes = b"", process: str = "gateway") -> Attempt:
    """`count` connections that are kept open, never read, and dripped on where `drip` has bytes."""

    async def attempt(run: Run, length_s: float) -> Counter[str]:
        connections = []
        for i in range(count):
            with suppress(ConnectionError):
                connections.append(await connect(run, process))
                connections[-1][1].write(first(i))
        until = time.monotonic() + length_s
        while time.monotonic() < until:
            for _, writer in connections:
                if drip and not writer.transport.is_closing():
                    writer.write(drip)
            await asyncio.sleep(0.2)
        gone = sum(reader.at_eof() or reader.exception() is not None for reader, _ in connections)
        for _, writer in connections:
            writer.transport.abort()
        return Counter({"closed by the server": gone, "still open": len(connections) - gone})

    return attempt


async def long_texts(run: Run, length_s: float) -> Counter[str]:
    """Eight requests of 80 texts of 199,000 characters each, left before they are answered."""
    writers = []
    for number in range(8):
        _, writer = await connect(run)
        writer.write(post(inputs([f"{number} {i} " + "lorem ipsum " * 16_500 for i in range(80)])))
        writers.append(writer)
    await asyncio.sleep(length_s)
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(length_s)
    return Counter({"left unanswered": len(writers)})


async def guess(run: Run, _: float) -> Counter[str]:
    """1,500 keys and 1,500 tokens of the operator."""
    got: Counter[str] = Counter()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{run.port}") as client:
        for number in range(1500):
            headers = {"authorization": f"Bearer guess-number-{number}"}
            got[f"key {(await client.post('/v1/embeddings', json={}, headers=headers)).status_code}"] += 1
            got[f"token {(await client.get('/admin/stats', headers=headers)).status_code}"] += 1
    return got


async def overshoot(run: Run, _: float) -> Counter[str]:
    """Twenty requests of 2,600 tokens at once, where 1,000 a minute are allowed."""
    body = {"model": MODEL, "input": [f"{i} " + "lorem " * 120 for i in range(20)]}
    got: Counter[str] = Counter()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{run.port}", timeout=60) as client:
        headers = {"authorization": f"Bearer {LIMITED}"}
        replies = await asyncio.gather(*(client.post("/v1/embeddings", json=body, headers=headers) for _ in range(20)))
        for reply in replies:
            got[str(reply.status_code)] += 1
        waits = [int(reply.headers["retry-after"]) for reply in replies if reply.status_code == 429]
        got["longest wait told, in s"] = max(waits, default=0)
    return got


async def damage_redis(run: Run, length_s: float) -> Counter[str]:
    """Every value in Redis is overwritten, byte by byte or with another key's, again and again."""
    got: Counter[str] = Counter()
    until = time.monotonic() + length_s
    with Redis.from_url(run.redis_url) as redis:
        while time.monotonic() < until:
            before = b""
            for number, key in enumerate(sorted(redis.scan_iter(count=1000))):
                if redis.type(key) != b"string":
                    continue
                value = bytearray(redis.get(key) or b"")
                if number % 2 and before:
                    redis.set(key, before, keepttl=True)
                elif value:
                    value[number * 7919 % len(value)] ^= 1 << number % 8
                    redis.set(key, bytes(value), keepttl=True)
                before = bytes(value)
                got["values overwritten"] += 1
            await asyncio.sleep(0.1)
    return got


HEAD = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = post(b"", ATTACKER, b"transfer-encoding: chunked").replace(b"content-length: 0\r\n", b"")
CLOSE = b"connection: close"
UPGRADE = (b"connection: Upgrade", b"upgrade: h2c")
MEGABYTE = b"x" * 2**20

ATTACKS = [
    Attack("8 x 80 texts of 199,000 characters, then gone", long_texts, 4),
    Attack("20 x 16 MB of nested JSON", many(lambda _: [post(b"[" * 16_000_000, ATTACKER, CLOSE)], 20)),
    Attack("20 x 16 MB of small texts", many(lambda _: [post(body_of(b'"a"', 4_000_000), ATTACKER, CLOSE)], 20)),
    Attack("20 x 16 MB of token ids", many(lambda _: [post(body_of(b"1", 8_000_000), ATTACKER, CLOSE)], 20)),
    Attack("20 x endless header lines", many(lambda _: [HEAD, *[b"x-a: b\r\n" * 8192] * 200], 20)),
    Attack("20 x a header of 100 MB", many(lambda _: [HEAD + b"x-a: ", *[MEGABYTE] * 100], 20)),
    Attack("20 x endless trailers", many(lambda _: [CHUNKED + b"0\r\n", *[b"x-a: b\r\n" * 8192] * 200], 20)),
    Attack("20 x a body of 40 MB", many(lambda _: [post(b"", length=40_000_000), *[MEGABYTE] * 40], 20)),
    Attack("20 x 5,000 requests at once on a connection", many(lambda _: [SMUGGLED * 5000], 20)),
    Attack("600 silent connections", held(lambda _: b"", 600), 13),
    Attack("600 heads, a byte every 0.2 s", held(lambda _: HEAD, 600, drip=b"x"), 17),
    Attack("600 bodies without a key, a byte every 0.2 s", held(lambda _: post(b"", "", length=1000), 600, b" "), 12),
    Attack("200 bodies with a key, a byte every 0.2 s", held(lambda _: post(b"", length=1000), 200, drip=b" "), 12),
    Attack("30 clients never read", held(lambda i: post(inputs([str(i)] * 2048)) * 10, 30), 10),
    Attack("engine: 300 bodies, a byte every 0.2 s",
           held(lambda _: b"POST /vectors HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                b"content-length: 999\r\n\r\n", 300, b" ", "engine"), 36, "engine"),
    Attack("a request in the body of an upgrade", many(lambda _: [post(SMUGGLED, ATTACKER, *UPGRADE)[: -len(SMUGGLED)],
                                                                  b"", SMUGGLED + b"\x00"], 20, pause_s=0.2)),
    Attack("1,500 guessed keys and tokens", guess),
    Attack("20 x 2,600 tokens at 1,000 a minute", overshoot),
    Attack("values in Redis overwritten", damage_redis, 5),
]  # fmt: skip


# Measuring


async def watch(run: Run, victim: Victim, stop: asyncio.Event) -> None:
    """Ask as the other tenant until told to stop."""
    headers = {"authorization": f"Bearer {VICTIM}"}
    body = {"model": MODEL, "input": TEXT, "encoding_format": "base64"}
    truth = None
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{run.port}", timeout=120, limits=limits) as client:
        while not stop.is_set():
            started = time.monotonic()
            try:
                reply = await client.post("/v1/embeddings", json=body, headers=headers)
            except httpx.TransportError as error:
                victim.errors[type(error).__name__] += 1
            else:
                if reply.status_code == 200:
                    victim.answered += 1
                    vector = base64.b64decode(reply.json()["data"][0]["embedding"])
                    truth = truth or vector
                    victim.wrong_vectors += vector != truth
                else:
                    victim.errors[f"{reply.status_code} {reply.json()['error']['code']}"] += 1
            victim.longest_s = max(victim.longest_s, time.monotonic() - started)
            await asyncio.sleep(0.05)


async def sample(process: psutil.Process, figures: Figures, stop: asyncio.Event) -> None:
    """Figures every tenth of a second until told to stop."""
    while not stop.is_set():
        figures.take(process)
        await asyncio.sleep(0.1)


@asynccontextmanager
async def ended(*tasks: asyncio.Task[None], stop: asyncio.Event) -> AsyncIterator[None]:
    """Stop the tasks at the end, and wait for them."""
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def measure(run: Run, attack: Attack, after_s: float = 3) -> Outcome:
    """The attack, with the other tenant beside it, and `after_s` more."""
    process, figures, victim, stop = run.child(attack.process), Figures(), Victim(), asyncio.Event()
    figures.take(process)
    tasks = asyncio.create_task(watch(run, victim, stop)), asyncio.create_task(sample(process, figures, stop))
    async with ended(*tasks, stop=stop):
        await asyncio.sleep(0.5)
        got = await attack.attempt(run, attack.length_s)
        await asyncio.sleep(after_s)
    figures.take(process)
    return Outcome(attack, got, figures, victim)


@contextmanager
def stack(folder: Path, bundle: Path = BUNDLE) -> Iterator[Run]:
    """The processes that are attacked."""
    with running(folder, DEJAVEC_MODEL_BUNDLE=str(bundle), **SETTINGS) as run:
        yield run


def table(outcomes: list[Outcome]) -> str:
    """Markdown."""
    lines = [
        "| attempt | what it got | memory (MiB): before, most, after | open files: before, most, after "
        "| other tenant: answered, errors, longest wait | wrong vectors |",
        "|---|---|---|---|---|---|",
    ]
    for one in outcomes:
        got = ", ".join(f"{count} x {what}" for what, count in one.got.most_common())
        rss, files, victim = one.figures.rss, one.figures.files, one.victim
        errors = ", ".join(f"{count} x {kind}" for kind, count in victim.errors.items()) or "none"
        lines.append(
            f"| {one.attack.name} | {got} | {rss[0]:.0f}, {max(rss):.0f}, {rss[-1]:.0f} "
            f"| {files[0]}, {max(files)}, {files[-1]} "
            f"| {victim.answered}, {errors}, {victim.longest_s:.1f} s | {victim.wrong_vectors} |"
        )
    return "\n".join(lines)


async def measure_all(folder: Path, only: str = "") -> tuple[list[Outcome], float]:
    """Every attack whose name has `only` in it, in turn on one stack, and the seconds its end took."""
    with stack(folder) as run:
        outcomes = []
        for attack in (one for one in ATTACKS if only in one.name):
            outcomes.append(await measure(run, attack))
            print(table(outcomes[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
        started = time.monotonic()
        run.end(signal.SIGTERM)
        return outcomes, time.monotonic() - started


PAGE = """# What attacks on a running dejavec get

Made by `{command}` on {machine}.

{table}

One `dejavec up` with the default model, {connections} connections at most, a body and a reply of 3 s at most, and
no in-process cache. The attacker is a tenant, or has no key where the row says so; another tenant asks for one text
twenty times a second over a new connection each, before, during, and for three seconds after. The end of the whole, by
SIGTERM after all this, took {end_s:.1f} s.

- *what it got*: the statuses on each of the attacker's connections, or what became of the connection.
- *memory*, *open files*: of the attacked process, at its start, at its most, and three seconds after its end.
- *wrong vectors*: answers to the other tenant that differ in a bit from its first.

Who may do what, and what is promised to whom: [security.md](security.md).
"""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.attacks", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--write", type=Path, help="write a page with the table to this file")
    parser.add_argument("--only", default="", metavar="WORDS", help="attempts with these words in their name")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dejavec-attacks-") as folder:
        outcomes, end_s = asyncio.run(measure_all(Path(folder), chosen.only))
    print(table(outcomes))
    if chosen.write:
        machine = f"{psutil.cpu_count()} cores ({platform.machine()}, shared with other work)"
        command = f"python -m tests.e2e.attacks --write {chosen.write}"
        text = table(outcomes)
        page = PAGE.format(command=command, machine=machine, table=text, connections=MAX_CONNECTIONS, end_s=end_s)
        chosen.write.write_text(page)
    sys.exit(any(outcome.victim.wrong_vectors or not outcome.victim.answered for outcome in outcomes))


if __name__ == "__main__":
    main()

"""What caching costs where it cannot help: CPU time a text, on a stream in which no text comes twice.

Three contenders take turns on the same texts, each against a real `dejavec up`:

    auto            the defaults: exact tier, and semantic_mode auto
    semantic off    semantic_mode = off: the exact tier alone
    cache off       the second stack, each request with `x-cache-control: no-store`: nothing is looked up or kept

CPU time of gateway, engine and Redis is taken from the operating system, until what is left to do after the replies
is done. It is what stays comparable on a machine that others use too. The supervisor is not counted.
"""

import http.client
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Final
from urllib.parse import urlsplit

import click
import numpy as np
import psutil
from rich.console import Console
from rich.markup import escape

from loadtest.bench.machine import Machine
from loadtest.bench.options import SEED, Bench, server_options
from loadtest.bench.processes import LOOPBACK, BenchmarkError, pinned
from loadtest.bench.rounds import figures_table
from loadtest.bench.stack import Stack, Up
from loadtest.bench.wire import JSON_TYPE, embeddings_body, model_of, whole
from loadtest.display import step
from loadtest.figures import Spread, ratios, spread
from loadtest.texts import read_texts
from loadtest.tiers import TierError, item_tiers

PATH: Final = "/v1/embeddings"
BATCH: Final = 32
REQUEST_TIMEOUT_S: Final = 60.0
SETTLE_S: Final = 1.0  # labels, index entries and write-backs come after the reply
NO_CACHE_AT_ALL: Final = {"x-cache-control": "no-store"}
PIECES: Final = 3  # a made text is the beginning of one, the middle of a second, the end of a third
REPEATED: Final = ("local", "exact")
REPEATED_AT_MOST: Final = 0.01  # share of texts; a user's file may hold some that are alike to the model

AT_ONCE: Final = 16  # single requests under load, where waiting must not be taken for cost

AUTO, SEMANTIC_OFF, CACHE_OFF = "auto", "semantic off", "cache off"
# The last one meets a warmer machine. `cache off` leaves nothing that `semantic off` could find, and so is first.
ORDERS: Final = ((CACHE_OFF, SEMANTIC_OFF, AUTO), (AUTO, CACHE_OFF, SEMANTIC_OFF))
COMPARED: Final = ((AUTO, CACHE_OFF), (AUTO, SEMANTIC_OFF), (SEMANTIC_OFF, CACHE_OFF))

BATCHED: Final = (BATCH, 1)
SINGLE: Final = (1, AT_ONCE)


def ratio_name(above: str, below: str, load: tuple[int, int]) -> str:
    """What a ratio of CPU times is called."""
    return f"CPU of {above} / {below}, {load[0]} in a request, {load[1]} at a time"


MOST_ADDED: Final = {  # what caching may cost where nothing repeats
    ratio_name(AUTO, CACHE_OFF, BATCHED): 1.03,
    ratio_name(AUTO, CACHE_OFF, SINGLE): 1.10,
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One contender's turn: CPU seconds by process, and how many texts were answered by which tier."""

    cpu_s: Mapping[str, float]
    tiers: Mapping[str, int]

    @property
    def texts(self) -> int:
        """How many were answered."""
        return sum(self.tiers.values())

    @property
    def ms_per_text(self) -> float:
        """CPU milliseconds of all processes."""
        return 1000 * sum(self.cpu_s.values()) / self.texts

    @property
    def ms_beside_engine(self) -> float:
        """CPU milliseconds of gateway and Redis."""
        return 1000 * (sum(self.cpu_s.values()) - self.cpu_s["engine"]) / self.texts

    @property
    def reused_share(self) -> float:
        """Texts that `auto` found near enough to another and served without the engine."""
        return self.tiers.get("semantic", 0) / self.texts


@dataclass(frozen=True, slots=True)
class CpuResult:
    """All turns of one request size, by contender; the n-th turns of all contenders had the same texts.

    `load` is texts in a request and requests at a time.
    """

    title: str
    machine: Machine
    turns: Mapping[str, Sequence[Turn]]
    load: tuple[int, int] = (1, 1)

    def ms_per_text(self, name: str) -> Spread:
        """CPU milliseconds a text of one contender over the rounds."""
        return spread([turn.ms_per_text for turn in self.turns[name]])

    def process_ms(self, name: str, process: str) -> float:
        """One process's median part of that."""
        return spread([1000 * turn.cpu_s[process] / turn.texts for turn in self.turns[name]]).median

    def ratio(self, above: str, below: str) -> Spread:
        """How many times the CPU of one contender another took, round by round."""
        one, other = ([turn.ms_per_text for turn in self.turns[name]] for name in (above, below))
        return ratios(one, other)

    def added_ms(self, above: str, below: str) -> Spread:
        """CPU milliseconds a text that gateway and Redis took more, round by round.

        The engine computes the same texts for all, so that its part of a ratio is mostly the machine's noise.
        """
        rounds = zip(self.turns[above], self.turns[below], strict=True)
        return spread([one.ms_beside_engine - other.ms_beside_engine for one, other in rounds])

    def spreads(self) -> Mapping[str, Spread]:
        """Ratios of CPU time, by name."""
        return {ratio_name(above, below, self.load): self.ratio(above, below) for above, below in COMPARED}

    def to_dict(self) -> dict[str, object]:
        """Everything, ready for JSON."""
        return {
            "title": self.title,
            "machine": asdict(self.machine),
            "contenders": {
                name: {"cpu_ms_per_text": asdict(self.ms_per_text(name)), "rounds": [asdict(turn) for turn in turns]}
                for name, turns in self.turns.items()
            },
            "ratios": {f"{above} / {below}": asdict(self.ratio(above, below)) for above, below in COMPARED},
            "added_ms": {f"{above} - {below}": asdict(self.added_ms(above, below)) for above, below in COMPARED},
        }

    def show(self, console: Console) -> None:
        """Print machine, contenders and ratios."""
        console.print(f"\n[bold]{escape(self.title)}[/]\n{escape(str(self.machine))}", soft_wrap=True)
        processes = list(next(iter(self.turns.values()))[0].cpu_s)
        table = figures_table(("", "CPU ms/text, median", "lowest - highest", *processes, "reused by meaning"))
        for name, turns in self.turns.items():
            whole_cpu = self.ms_per_text(name)
            parts = [f"{self.process_ms(name, process):.3f}" for process in processes]
            reused = f"{spread([turn.reused_share for turn in turns]).median:.1%}"
            table.add_row(
                name, f"{whole_cpu.median:.3f}", f"{whole_cpu.low:.3f} - {whole_cpu.high:.3f}", *parts, reused
            )
        console.print(table)
        table = figures_table(("round by round", "median", "lowest - highest", "gateway and Redis, ms more", ""))
        for above, below in COMPARED:
            ratio = self.ratio(above, below)
            verdict = "" if ratio.low > 1 or ratio.high < 1 else "within noise"
            added = self.added_ms(above, below)
            more = f"{added.median:.3f} ({added.low:.3f} - {added.high:.3f})"
            cells = (f"{ratio.median:.3f}", f"{ratio.low:.3f} - {ratio.high:.3f}", more, verdict)
            table.add_row(f"{above} / {below}", *cells)
        console.print(table)


@click.command("norepeat")
@click.option(
    "--batched",
    default=960,
    show_default=True,
    type=click.IntRange(BATCH),
    help=f"Texts of a round in requests of {BATCH}.",
)
@click.option("--singles", default=320, show_default=True, type=click.IntRange(1), help="Texts of a round, one by one.")
@server_options
def norepeat(bench: Bench, *, batched: int, singles: int) -> Sequence[CpuResult]:
    """CPU time a text where nothing repeats: `auto` against semantic_mode off and against no cache at all.

    Starts two stacks with `dejavec up`, on --core. Without --texts, texts are made of pieces of our own.
    """
    loads = {BATCHED: max(batched // BATCH, 1) * BATCH, (1, 1): singles, SINGLE: singles}
    rounds = bench.rounds + 1  # the first does not count: connections, code paths, allocators and the index settle
    texts = iter(distinct_texts(bench, rounds * sum(loads.values())))
    with Stack(bench.core) as stack, pinned(bench.generator_core):
        with step(bench.console, "starting the servers"):
            auto = stack.up("auto", bench.bundle, semantic_mode="auto")
            off = stack.up("off", bench.bundle, semantic_mode="off")
        contenders = {
            CACHE_OFF: Contender(off, NO_CACHE_AT_ALL),
            SEMANTIC_OFF: Contender(off, {}),
            AUTO: Contender(auto, {}),
        }
        turns = {load: {name: list[Turn]() for name in contenders} for load in loads}
        for number in range(rounds):
            for load, count in loads.items():
                requests = whole([next(texts) for _ in range(count)], load[0])
                for name in ORDERS[number % len(ORDERS)]:
                    with step(bench.console, f"round {number} of {bench.rounds}: {name}, {load[0]} texts a request"):
                        turn = contenders[name].turn(requests, load[1])
                    if number:
                        turns[load][name].append(turn)
    title = "No text twice: {:,} texts a round in requests of {}, {} at a time"
    return [CpuResult(title.format(count, *load), bench.machine, turns[load], load) for load, count in loads.items()]


@dataclass(frozen=True, slots=True)
class Contender:
    """A stack, and the headers that its requests carry."""

    stack: Up
    headers: Mapping[str, str]

    def turn(self, requests: Sequence[Sequence[str]], at_once: int) -> Turn:
        """Send the requests, so many at a time, and wait until the rest is done. Raises BenchmarkError."""
        before = cpu_seconds(self.stack.pid)
        with ThreadPoolExecutor(at_once) as pool:
            parts = [requests[start::at_once] for start in range(at_once)]
            tiers = sum(pool.map(lambda part: send(self.stack.url, part, self.headers), parts), Counter[str]())
        time.sleep(SETTLE_S)
        after = cpu_seconds(self.stack.pid)
        if before.keys() != after.keys():
            raise BenchmarkError(f"a process of the stack at {self.stack.url} was restarted meanwhile")
        return Turn({name: after[name] - before[name] for name in before}, dict(tiers))


def send(url: str, requests: Sequence[Sequence[str]], headers: Mapping[str, str]) -> Counter[str]:
    """Send over one connection; the tiers of all texts. Raises BenchmarkError, also where many were cached already."""
    parts, model, tiers = urlsplit(url), model_of(url), Counter[str]()
    connection = http.client.HTTPConnection(parts.hostname or LOOPBACK, parts.port or 80, timeout=REQUEST_TIMEOUT_S)
    with closing(connection):
        for texts in requests:
            tiers.update(_answered_by(connection, embeddings_body(model, texts), headers, len(texts)))
    repeated = sum(tiers[tier] for tier in REPEATED)
    if repeated > REPEATED_AT_MOST * tiers.total():
        raise BenchmarkError(f"{repeated:,} of {tiers.total():,} texts were in the cache already: the texts repeat")
    return tiers


def _answered_by(
    connection: http.client.HTTPConnection, body: bytes, headers: Mapping[str, str], count: int
) -> list[str]:
    try:
        connection.request("POST", PATH, body, {"content-type": JSON_TYPE, **headers})
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise BenchmarkError(f"the gateway answers {response.status}: {content[:300]!r}")
        return item_tiers({name.lower(): value for name, value in response.getheaders()}, count)
    except (OSError, http.client.HTTPException, TierError) as error:
        raise BenchmarkError(f"the gateway does not answer as it should: {error}") from None


def cpu_seconds(supervisor: int) -> dict[str, float]:
    """CPU seconds that each of the stack's processes has used, with what it started, by its role."""
    used: dict[str, float] = {}
    for child in psutil.Process(supervisor).children():
        role = role_of(child.cmdline())
        if role is not None:
            used[role] = sum(_cpu_seconds(process) for process in (child, *child.children(recursive=True)))
    return used


def role_of(command: Sequence[str]) -> str | None:
    """Which part of the product a command line runs."""
    if "redis-server" in (command[0] if command else ""):
        return "redis"
    return next((role for role in ("gateway", "engine") if role in command), None)


def _cpu_seconds(process: psutil.Process) -> float:
    """With children that have ended, such as those that rewrite Redis' file."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def distinct_texts(bench: Bench, needed: int) -> list[str]:
    """So many texts, none twice: those of the file, or made ones. Raises BenchmarkError when the file has too few."""
    if bench.texts_file is None:
        made = made_texts(read_texts(None), SEED)
        return [next(made) for _ in range(needed)]
    texts = bench.texts()
    if len(texts) < needed:
        raise BenchmarkError(
            f"{bench.texts_file} holds {len(texts):,} distinct texts, and {needed:,} are needed: "
            "lower --rounds, --batched or --singles"
        )
    return texts[:needed]


def made_texts(sources: Sequence[str], seed: int) -> Iterator[str]:
    """Texts without end, none twice, whatever their case and spaces: pieces of three texts in a row."""
    draw, seen = np.random.default_rng(seed), set[str]()
    words = [text.split() for text in sources]
    while True:
        chosen = [words[place] for place in draw.integers(len(words), size=PIECES)]
        pieces = [
            one[len(one) * number // PIECES : len(one) * (number + 1) // PIECES] for number, one in enumerate(chosen)
        ]
        text = " ".join(word for piece in pieces for word in piece)
        if text and text.casefold() not in seen:
            seen.add(text.casefold())
            yield text

"""How fast a graph runs, and what it takes in memory.

A run of one thread is timed in that thread's CPU time, so that other processes on the machine do not decide; with
more threads, or on a GPU, in wall time. Of several rounds the best counts.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from engine.build.verify.embedding import Runs, padding_share
from engine.build.verify.tables import VerificationError
from engine.feeds import Run
from engine.protocol import Int32Array
from engine.settings import Device

SHAPES = (
    (1, 16), (8, 16), (32, 16), (1, 64), (8, 64), (1, 256), (2, 256), (4, 256), (1, 512), (1, 2048),
)  # fmt: skip  # batch, tokens a text
LEAST_ROUNDS = 5
MOST_ROUNDS = 200
ROUND_S = 0.3  # of each graph at each shape, in all rounds together
PADDING_TEXTS = 1000
PADDING_LENGTHS = (8, 256)
MEMORY_TIMEOUT_S = 900.0  # a text of 8,192 tokens alone takes a minute with a large model

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second of each graph for `batch` texts of `tokens` tokens."""

    batch: int
    tokens: int
    tokens_per_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of a fresh process, before the bundle was opened and after runs of mixed lengths."""

    resident_bytes: int
    before_bytes: int


def choose_clock(threads: int, device: str) -> tuple[Clock, str]:
    """The clock and its name."""
    if threads == 1 and device == "cpu":
        return time.thread_time, "CPU time"
    return time.perf_counter, "wall time"


def measure_speed(
    runs: Runs, shapes: Sequence[tuple[int, int]], max_tokens: int, vocab: int, clock: Clock
) -> list[Speed]:
    """Tokens a second at each shape that the model takes."""
    measured = []
    for batch, tokens in shapes:
        if tokens > max_tokens:
            continue
        texts = random_texts([tokens] * batch, vocab)
        calls = {name: _bound(run, texts) for name, run in runs.items()}
        best_s = best_times(calls, clock)
        measured.append(Speed(batch, tokens, {name: batch * tokens / best_s[name] for name in runs}))
    return measured


def best_times(calls: Mapping[str, Callable[[], object]], clock: Clock) -> dict[str, float]:
    """The best time of each call in seconds; calls take turns, so that a slow moment meets all of them."""
    best_s = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        call()
    started_s = time.perf_counter()
    for n_done in range(MOST_ROUNDS):
        if n_done >= LEAST_ROUNDS and time.perf_counter() - started_s > ROUND_S * len(calls):
            break
        for name, call in calls.items():
            before_s = clock()
            call()
            best_s[name] = min(best_s[name], max(clock() - before_s, 1e-9))
    return best_s


def mixed_padding_share(max_tokens: int, vocab: int) -> float:
    """Padding when 1,000 texts of 8 to 256 tokens wait at once and are batched by the engine's own rule."""
    shortest, longest = (min(length, max_tokens) for length in PADDING_LENGTHS)
    lengths = np.random.default_rng(0).integers(shortest, longest + 1, PADDING_TEXTS)
    return padding_share(random_texts(lengths.tolist(), vocab))


def random_texts(lengths: Sequence[int], vocab: int) -> list[Int32Array]:
    """Random token ids, the same each time."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, vocab, length, dtype=np.int32) for length in lengths]


def measure_memory(folder: Path, threads: int, device: Device) -> Memory:
    """Run the bundle in a fresh process. Raises VerificationError."""
    command = [sys.executable, "-m", "engine.model.measure_memory", str(folder), str(threads), device]
    try:
        child = subprocess.run(command, capture_output=True, check=True, timeout=MEMORY_TIMEOUT_S)  # noqa: S603  # a list
        return Memory(**orjson.loads(child.stdout))
    except subprocess.CalledProcessError as error:
        raise VerificationError(f"the memory measurement failed: {error.stderr.decode()[-500:]}") from None
    except (OSError, subprocess.TimeoutExpired, orjson.JSONDecodeError) as error:
        raise VerificationError(f"the memory measurement failed: {error}") from None


def _bound(run: Run, texts: Sequence[Int32Array]) -> Callable[[], object]:
    return lambda: run(texts)

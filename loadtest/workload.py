"""When requests are sent, and with which texts: pure, seeded, the same with the same seed.

Arrivals do not depend on answers (an open loop); texts are drawn by one of three laws:

    replay    the file in its order, from the start again at its end
    zipf      the text of rank r in proportion to 1 / r ** exponent; ranks are shuffled once
    uniform   each text as likely as any other
"""

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CHUNK = 4096  # draws made at a time: numpy is fast in bulk, and a long test need not be held in memory


class Law(enum.StrEnum):
    """How texts are drawn."""

    REPLAY = "replay"
    ZIPF = "zipf"
    UNIFORM = "uniform"


class Pace(enum.StrEnum):
    """How arrivals are spaced: POISSON as from many independent clients, CONSTANT as from a metronome."""

    POISSON = "poisson"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request that is due `due_s` seconds after the start, whatever became of the earlier ones."""

    due_s: float
    texts: list[str]


def arrivals(
    texts: Sequence[str],
    *,
    rate: float,
    seconds: float,
    batch: int = 1,
    law: Law = Law.REPLAY,
    exponent: float = 1.0,
    pace: Pace = Pace.POISSON,
    seed: int = 0,
) -> Iterator[Arrival]:
    """Requests at `rate` a second for `seconds`, each with `batch` texts drawn by `law`."""
    times_seed, texts_seed = np.random.SeedSequence(seed).spawn(2)
    drawn = draw(texts, law, exponent=exponent, seed=texts_seed)
    for due_s in due_times(rate, seconds, pace, seed=times_seed):
        yield Arrival(due_s, [next(drawn) for _ in range(batch)])


def due_times(rate: float, seconds: float, pace: Pace, seed: int | np.random.SeedSequence = 0) -> Iterator[float]:
    """Seconds from the start, rising, all below `seconds`."""
    if pace is Pace.CONSTANT:
        yield from (number / rate for number in range(int(np.ceil(rate * seconds))) if number / rate < seconds)
        return
    rng = np.random.default_rng(seed)
    now = 0.0
    while True:
        times = now + np.cumsum(rng.exponential(1.0 / rate, CHUNK))
        yield from times[times < seconds].tolist()
        now = float(times[-1])
        if now >= seconds:
            return


def draw(
    texts: Sequence[str], law: Law, *, exponent: float = 1.0, seed: int | np.random.SeedSequence = 0
) -> Iterator[str]:
    """Texts without end, drawn by `law`."""
    if law is Law.REPLAY:
        while True:
            yield from texts
    rng = np.random.default_rng(seed)
    count = len(texts)
    order = rng.permutation(count)
    shares = zipf_shares(count, exponent if law is Law.ZIPF else 0.0)
    while True:
        for rank in rng.choice(count, size=CHUNK, p=shares).tolist():
            yield texts[order[rank]]


def zipf_shares(count: int, exponent: float) -> npt.NDArray[np.float64]:
    """Probability of each rank, float64[count], falling, with sum 1; exponent 0 makes them equal."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares

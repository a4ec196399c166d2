"""What a study measured, as it is written to JSON; what follows from it: costs, losses, reference figures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import orjson

from loadtest.bench.machine import Machine
from loadtest.figures import Latencies, Vector
from loadtest.study.candidates import CONCURRENT, ENGINE, HTTP, TORCH, Group, LeftOut

BATCH: Final = 32
CHUNKS: Final = 10_000  # of the reference figure
MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class Rate:
    """Texts in a second of CPU time, of several rounds."""

    best: float
    median: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Cosine similarity to the baseline's vectors; None for the baseline itself, or without one.

    `batch_dependent` is the share of texts whose bytes in a batch differ from those computed alone.
    """

    mean: float | None
    lowest: float | None
    batch_dependent: float
    largest_difference: float


@dataclass(frozen=True, slots=True)
class ChunkRun:
    """One pass over `count` chunks, 32 at a time: CPU and wall seconds, batch times, resident bytes behind it."""

    count: int
    used_s: float
    wall_s: float
    batches: Latencies
    resident_bytes: int

    @property
    def seconds_for_all(self) -> float:
        """CPU seconds for 10,000, at this pass's rate."""
        return self.used_s / self.count * CHUNKS


@dataclass(frozen=True, slots=True)
class Measured:
    """One candidate's figures; `latency` is of single texts, in wall time over HTTP, else in CPU time."""

    key: str
    name: str
    group: Group
    over_http: bool
    packages: dict[str, str]
    size_bytes: int
    resident_bytes: int
    load_s: float
    rates: dict[int, Rate]  # by batch size
    latency: Latencies
    accuracy: Accuracy
    chunks: ChunkRun | None = None

    def cost_per_1000(self, usd_per_core_hour: float) -> float:
        """Dollars for 1,000 texts, 32 at a time, by the median round: $ an hour / 3,600 / texts a second x 1,000."""
        return usd_per_core_hour / 3600 / self.rates[BATCH].median * 1000


@dataclass(frozen=True, slots=True)
class Cached:
    """Single requests through the gateway, without and with its cache; rates by the servers' CPU time."""

    requests: int
    hit_share: float
    uncached_per_s: float
    cached_per_s: float
    uncached_p99_ms: float
    cached_p99_ms: float
    connections: int


@dataclass(frozen=True, slots=True)
class Study:
    """A whole study."""

    started: str
    machine: Machine
    texts: str
    n_texts: int
    mean_chars: float
    rounds: int
    baseline: str | None
    measured: Sequence[Measured]
    left_out: Sequence[LeftOut] = ()
    cached: Cached | None = None
    machine_usd_per_hour: float | None = None
    settings: dict[str, str] = field(default_factory=dict)

    def find(self, key: str) -> Measured | None:
        """One candidate's figures."""
        return next((one for one in self.measured if one.key == key), None)

    @property
    def usd_per_core_hour(self) -> float | None:
        """The machine's price over its usable cores."""
        return None if self.machine_usd_per_hour is None else self.machine_usd_per_hour / self.machine.cores

    def to_json(self) -> bytes:
        """For other programs."""
        keys = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
        return orjson.dumps({"form": "dejavec-study-1", **_fields(self)}, option=keys)


@dataclass(frozen=True, slots=True)
class Reference:
    """A published figure, ours, whether ours reaches it (None: not measured here), and the reason where it does not."""

    what: str
    reference: str
    here: str
    reached: bool | None
    why: str = ""


def accuracy(alone: Vector, batched: Vector, baseline: Vector | None) -> Accuracy:
    """Of vectors computed one at a time and in batches; rows have length 1 up to rounding."""
    differs = np.any(alone != batched, axis=1)
    mean = lowest = None
    if baseline is not None:
        left, right = batched.astype(np.float64), baseline.astype(np.float64)
        norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        cosines = (left * right).sum(axis=1) / np.where(norms > 0, norms, 1)
        mean, lowest = float(cosines.mean()), float(cosines.min())
    return Accuracy(mean, lowest, float(differs.mean()), float(np.abs(alone - batched).max()))


def verdict(study: Study) -> list[str]:
    """Where something else was faster than this engine, worst first; else that nothing was. First in every report.

    In process is compared with in process, HTTP with HTTP.
    """
    lost: list[tuple[float, str]] = []
    for ours_key, over_http in ((ENGINE, False), (HTTP, True)):
        ours = study.find(ours_key)
        for other in study.measured:
            if ours is None or other.group == "ours" or other.over_http != over_http:
                continue
            for batch in sorted(ours.rates.keys() & other.rates.keys()):
                quotient = other.rates[batch].median / ours.rates[batch].median
                if quotient > 1:
                    words = "single texts" if batch == 1 else f"batches of {batch}"
                    lost.append(
                        (quotient, f"{other.name} is {quotient:.2f} x as fast at {words}{_beside(other, ours)}")
                    )
    if lost:
        return ["Lost: " + line for _, line in sorted(lost, reverse=True)]
    others = [one.name for one in study.measured if one.group != "ours"]
    if not others or study.find(ENGINE) is None:
        return ["Nothing was measured beside this engine."]
    return [f"None of these was faster at any batch size: {', '.join(others)}."]


def _beside(other: Measured, ours: Measured) -> str:
    if other.accuracy.mean is None or ours.accuracy.mean is None:
        return ""
    return (
        f", at cosine {other.accuracy.mean:.4f} against {ours.accuracy.mean:.4f} "
        f"(lowest {other.accuracy.lowest:.4f} against {ours.accuracy.lowest:.4f})"
    )


def references(study: Study) -> Iterator[Reference]:
    """Published figures beside ours, each with the reason where this machine does not reach it."""
    torch, engine, http = study.find(TORCH), study.find(ENGINE), study.find(HTTP)
    what = "FP32 singles, to INT8 in batches"
    if torch and engine:
        before, after = torch.rates[1].median, engine.rates[BATCH].median
        here, reached = (
            f"{before:,.0f} to {after:,.0f}/s ({after / before:.1f} x)",
            after >= 602 and after / before >= 8.9,
        )
        why = "the reference does not say on how many cores, nor how long its texts are"
        yield Reference(what, "68 to 602 req/s (8.9 x)", here, reached, "" if reached else why)
        smaller = 1 - engine.size_bytes / torch.size_bytes
        here = f"{smaller:.1%} smaller ({engine.size_bytes / MB:.1f} of {torch.size_bytes / MB:.1f} MB)"
        reached = round(smaller, 2) >= 0.74
        why = "the weights of one kind of layer, or an embedding table, are kept in FP32"
        yield Reference("INT8 on disk", "74 % smaller", here, reached, "" if reached else why)
    else:
        yield Reference(what, "68 to 602 req/s (8.9 x)", "not measured", None, "needs PyTorch and this engine")
    if engine and engine.accuracy.mean is not None:
        reached = engine.accuracy.mean >= 0.962
        yield Reference("cosine to FP32, mean", ".962", f"{engine.accuracy.mean:.4f}", reached)
    if engine and engine.chunks:
        yield from _chunk_references(engine.chunks, study.machine)
    if study.cached:
        yield _cached_reference(study.cached)
    concurrent = study.find(CONCURRENT)
    slowest = http.latency.p99_ms if http else None
    if slowest is not None:
        beside = f"; {concurrent.latency.p99_ms:.1f} ms over a pool of connections" if concurrent else ""
        here = f"{slowest:.1f} ms uncached, one connection{beside}"
        why = "" if slowest <= 28 else "client and servers share the core, and so do others' processes"
        yield Reference("P99 over HTTP", "28 ms", here, slowest <= 28, why)


def _chunk_references(run: ChunkRun, machine: Machine) -> Iterator[Reference]:
    seconds, memory = run.seconds_for_all, run.resident_bytes / MB
    from_fewer = f", extrapolated from {run.count:,}" if run.count < CHUNKS else ""
    why = ""
    if seconds > 20:
        rate = run.count / run.used_s
        why = (
            f"500 chunks/s are needed, one core computes {rate:,.0f}/s, so it takes "
            f"{seconds / 20:.1f} such cores, and {machine.cores} are here"
        )
    yield Reference(f"{CHUNKS:,} chunks", "under 20 s", f"{seconds:,.1f} s of one core{from_fewer}", seconds < 20, why)
    why = "" if memory < 300 else "ONNX Runtime keeps what its longest batch needed"
    yield Reference("memory for that", "under 300 MB", f"{memory:,.0f} MB resident", memory < 300, why)


def _cached_reference(cached: Cached) -> Reference:
    quotient = cached.cached_per_s / cached.uncached_per_s
    here = (
        f"{cached.uncached_per_s:,.0f} without and {cached.cached_per_s:,.0f} with cache ({quotient:.1f} x) at "
        f"{cached.hit_share:.0%} hits, of one core"
    )
    reached = cached.uncached_per_s >= 4200 and cached.cached_per_s >= 15_800
    why = ""
    if not reached:
        most = 1 / max(1 - cached.hit_share, 1e-9)
        why = (
            f"the misses alone bound the gain: with free hits it would be {most:.1f} x; 4,200/s without a "
            f"cache take {4200 / cached.uncached_per_s:.0f} such cores, so the reference's machine was another"
        )
    return Reference("requests with a cache", "4,200 to 15,800/s (3.8 x) at 68 % hits", here, reached, why)


def limits(machine: Machine) -> str:
    """What holds for each figure that is not reached."""
    kind = "has" if machine.int8_dot_products else "has no"
    more = "" if machine.int8_dot_products else ": a product takes three instructions instead of one"
    return f"One core is used, which {kind} INT8 dot products (VNNI){more}."


def _fields(study: Study) -> dict[str, object]:
    return {name: getattr(study, name) for name in Study.__dataclass_fields__}

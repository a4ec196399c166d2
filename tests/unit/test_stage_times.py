"""Stages' times, handed over by the second, make the same histogram as observing each."""

import random
import timeit

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from common.latency_buckets import LATENCY_BUCKETS_S
from gateway.stage_times import StageTimes
from gateway.tallies import hand_over

STAGES = ("local", "engine")


def histogram() -> tuple[Histogram, CollectorRegistry]:
    registry = CollectorRegistry()
    return Histogram("x_seconds", "x", ["stage"], buckets=LATENCY_BUCKETS_S, registry=registry), registry


def shown(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


def test_the_histogram_is_that_of_observing_each() -> None:
    """Durations on bounds, between, below and beyond them, handed over in several parts."""
    chance = random.Random(1)
    seconds = [*LATENCY_BUCKETS_S, 0.0, 31.0, 1e6, *(round(chance.expovariate(20), 6) for _ in range(500))]
    (observed, expected), (counted, found) = histogram(), histogram()
    times = StageTimes(counted, STAGES, LATENCY_BUCKETS_S)
    for place, duration_s in enumerate(seconds):
        stage_s = dict.fromkeys(STAGES, duration_s) if place % 2 else {"local": duration_s}
        times.add(stage_s)
        for stage, one in stage_s.items():
            observed.labels(stage).observe(one)
        if place % 100 == 0:
            hand_over()
    hand_over()
    hand_over()
    exact = [line for line in shown(expected) if "_sum" not in line]
    assert [line for line in shown(found) if "_sum" not in line] == exact
    for stage in STAGES:
        sums = [registry.get_sample_value("x_seconds_sum", {"stage": stage}) for registry in (expected, found)]
        assert sums[0] is not None
        assert sums[1] is not None
        assert abs(sums[0] - sums[1]) < 1e-6 * sums[0]


def measure(times: int = 20_000) -> float:
    """Microseconds that counting three stages of a request takes, the best of ten."""
    counted = StageTimes(histogram()[0], ("local", "tokenize", "exact"), LATENCY_BUCKETS_S)
    stage_s = {"local": 1e-4, "tokenize": 2e-4, "exact": 1.2e-3}
    return 1e6 * min(timeit.repeat(lambda: counted.add(stage_s), number=times, repeat=10)) / times


if __name__ == "__main__":
    print(f"{measure():.1f} us for three stages")

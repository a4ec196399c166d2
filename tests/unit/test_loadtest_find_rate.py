"""The search for the highest rate, on servers whose limit is known, and what it says was at its limit."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from loadtest.client import Answer
from loadtest.find_rate import CLOSE_ENOUGH, Interrupted, Step, find_rate, is_noisy, saturation
from loadtest.open_loop import Sample
from loadtest.report import Collector, Report, summarise
from loadtest.server_watch import ServerSeries
from loadtest.streams import WorkloadError
from tests.unit.test_loadtest_report import SETTINGS

BOUND_MS = 30.0
ANSWER = Answer(["v"], "miss", ["miss"], 3)


def report(latency_s: float, lag_s: float = 0.0, failed: int = 0, dropped: int = 0, **server: object) -> Report:
    """A step in which each request took so long from due, of which the generator spent `lag_s`."""
    collector = Collector(0.0)
    for number in range(200):
        collector.add(Sample(number / 50, lag_s, latency_s, None if number < failed else ANSWER, "503"))
    return summarise(replace(SETTINGS, warmup=0.0), collector, [1.0] * dropped, **server)  # type: ignore[arg-type]


def limited(limit: float) -> Callable[[float], Awaitable[Report]]:
    """A server that is fast below a rate and slow above it."""

    async def measure(rate: float) -> Report:
        return report(0.010 if rate <= limit else 0.200)

    return measure


@pytest.mark.parametrize("limit", [3.0, 99.0, 100.0, 731.0, 20_000.0])
@pytest.mark.parametrize("start", [10.0, 400.0])
async def test_the_limit_is_found_from_either_side(limit: float, start: float) -> None:
    """Whatever the first rate, the highest that keeps the bound is within 5 % of the server's limit."""
    found = await find_rate(limited(limit), start=start, p99_ms=BOUND_MS, max_steps=30)
    assert found.rate is not None
    assert limit / CLOSE_ENOUGH <= found.rate <= limit
    assert not found.at_least
    assert all((step.broke is None) == (step.rate <= limit) for step in found.steps)


async def test_a_late_generator_ends_the_search_below_the_limit() -> None:
    """A step that was sent late is no result, and the rate before it is called at least."""

    async def measure(rate: float) -> Report:
        return report(0.010) if rate < 100 else report(0.045, lag_s=0.040)

    found = await find_rate(measure, start=50, p99_ms=BOUND_MS)
    assert (found.rate, found.at_least, found.steps[-1].generator_late) == (50, True, True)
    assert found.saturated == ["the generator itself: it sent p99 40.0 ms late"]


async def test_a_bound_that_is_kept_in_spite_of_a_late_generator_is_kept() -> None:
    """Latency from due has the lateness in it, so what is within the bound is within it."""
    found = await find_rate(lambda _rate: _done(report(0.025, lag_s=0.020)), start=50, p99_ms=BOUND_MS, max_steps=2)
    assert [(step.generator_late, step.broke) for step in found.steps] == [(False, None)] * 2


async def _done(value: Report) -> Report:
    return value


async def test_a_server_that_breaks_the_bound_by_itself_is_not_excused_by_a_late_generator() -> None:
    """Where the time from sent to answered is too long already, the step counts as broken."""

    async def measure(rate: float) -> Report:
        return report(0.010) if rate < 100 else report(0.200, lag_s=0.020)

    found = await find_rate(measure, start=50, p99_ms=BOUND_MS)
    assert found.rate is not None
    assert not found.at_least


@pytest.mark.parametrize("broken", [report(0.001, failed=5), report(0.001, dropped=1), report(0.001, failed=200)])
async def test_fast_failures_break_the_bound(broken: Report) -> None:
    """Refused and unsent requests are no way to keep a bound."""

    async def measure(rate: float) -> Report:
        return broken

    found = await find_rate(measure, start=2, p99_ms=BOUND_MS)
    assert found.rate is None
    assert all(step.broke for step in found.steps)


@pytest.mark.parametrize(
    ("end", "said"), [(WorkloadError("used up"), "no text was left"), (Interrupted("Ctrl-C"), "interrupted")]
)
async def test_a_search_that_cannot_go_on_has_what_was_found(end: Exception, said: str) -> None:
    """Where no new text is left, or after Ctrl-C, the steps so far count; without any, the message is passed on."""

    async def measure(rate: float) -> Report:
        if rate > 25:
            raise end
        return report(0.010)

    found = await find_rate(measure, start=20, p99_ms=BOUND_MS)
    assert (found.rate, found.at_least) == (20, True)
    assert said in found.ended
    with pytest.raises(type(end)):
        await find_rate(measure, start=40, p99_ms=BOUND_MS)


def series(**values: float) -> ServerSeries:
    """Two scrapes with the same values; `gateway_cpu_cores` is the gateway's `cpu_cores`."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for name, value in values.items():
        server, _, what = name.partition("_")
        found.setdefault(server, {})[what] = [value, value]
    return ServerSeries([0.0, 1.0], found, {})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"gateway_cpu_cores": 0.97}, ["the gateway's CPU: 0.97 cores"]),
        ({"engine_queue_ms": 22.0, "engine_queue_texts": 40.0}, ["the engine's queue: 22.0 ms", "40 texts waiting"]),
        ({"gateway_redis_lookup_ms": 9.0}, ["Redis: 9.0 ms a look-up"]),
        ({"gateway_redis_errors_per_s": 3.0}, ["Redis: 3.0 failed look-ups a second"]),
        ({"generator_cpu_cores": 0.99}, ["the generator itself: 0.99 of its one core"]),
    ],
)
def test_what_was_at_its_limit_is_named_with_its_figure(values: dict[str, float], named: list[str]) -> None:
    """Each part by the figure that shows it, and no other."""
    found = saturation(report(0.2, server=series(**values)), BOUND_MS)
    assert len(found) == 1
    assert all(words in found[0] for words in named)


def test_nothing_is_blamed_without_a_figure() -> None:
    """Where no server was read, or all had room, nothing is named."""
    idle = series(gateway_cpu_cores=0.2, engine_queue_ms=0.5, gateway_redis_lookup_ms=0.3, generator_cpu_cores=0.1)
    assert saturation(report(0.2), BOUND_MS) == []
    assert saturation(report(0.2, server=idle), BOUND_MS) == []


def step(rate: float, served: float) -> Step:
    """A step by what it served."""
    return Step(rate, served, 1.0, 2.0, 0, 0, None, False, None)


def test_a_machine_that_others_use_is_said() -> None:
    """A rate that is served worse than a higher one shows others at work; a rising and then flat curve does not."""
    assert is_noisy([step(200, 187), step(104, 66)])
    assert not is_noisy([step(50, 50), step(100, 100), step(200, 130), step(400, 131)])

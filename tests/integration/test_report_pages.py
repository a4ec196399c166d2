"""The pages of load tests, bills and studies in a real browser: no cut text, no script error, no other host.

Everything that comes from outside tries to break out of the page.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from common.prometheus_text import parse
from loadtest.client import Answer
from loadtest.cost.bill import make_bill
from loadtest.cost.inputs import Inputs
from loadtest.cost.live import savings
from loadtest.cost.page import render as cost_page
from loadtest.cost.prices import Price
from loadtest.find_rate import Found, Step
from loadtest.open_loop import Sample
from loadtest.page import compare, rate, run
from loadtest.page.document import ECHARTS, ECHARTS_SHA256, ECHARTS_VERSION, FOLDER, Page, paragraph
from loadtest.report import Collector, Report, Settings, summarise
from loadtest.server_watch import ServerSeries
from loadtest.study.page import render as study_page
from loadtest.verify import TierVerdict, Verification
from loadtest.workload import Arrival
from tests.browser import DESKTOP, PHONE, Chromium, Watched
from tests.unit.test_cost import ENGINE, GATEWAY
from tests.unit.test_study import whole_study

HOSTILE = "</script><img src=x onerror=alert(1)>'\"&{b}<b>"
DRAWING = "document.querySelector('figure svg path[stroke]').outerHTML"
FITS = """() => [...document.querySelectorAll('.chart')].every(
    chart => chart.querySelector('svg').clientWidth <= chart.clientWidth)"""
ECHARTS_MARK = "Licensed to the Apache Software Foundation"


def report(tier: str = "local", seconds: float = 30.0) -> Report:
    """A run with every part of the page: all tiers, failures, drops, a late generator, series, verification."""
    settings = Settings(
        url="http://user:hunter2@127.0.0.1:8080",
        model=HOSTILE,
        texts=HOSTILE,
        distinct_texts=1234,
        workload="zipf 1, 60% repeats",
        pace="poisson",
        rate=40.0,
        seconds=seconds - 5,
        warmup=5.0,
        batch="1 (90%), 32 (10%)",
        seed=0,
        connections=256,
        max_in_flight=2000,
        cache_control=HOSTILE,
        workload_sha256="0" * 64,
    )
    collector = Collector(5.0, seconds)
    tiers = [tier, "exact", "semantic", "miss", HOSTILE]
    for number in range(int(40 * seconds)):
        due, found = number / 40, tiers[number % 5]
        answer = None if number % 97 == 0 else Answer(["v"], found, [found], 12)
        latency = 0.0004 * (1 + number % 50) ** 2
        arrival = Arrival(due, ["t"], ["repeat" if number % 2 else "new"])
        collector.add(Sample(due, 0.0001 * (number % 300), latency, answer, f"503 {HOSTILE}"), arrival)
    at = [float(second) for second in range(int(seconds))]
    wave = [float(second % 7) for second in range(int(seconds))]
    server = ServerSeries(
        at,
        {
            "gateway": {"cpu_cores": wave, "engine_call_ms": wave, "redis_lookup_ms": wave},
            "engine": {"queue_texts": wave, "batch_texts": wave, "queue_ms": wave, "run_ms": wave, "cpu_cores": wave},
            "generator": {"cpu_cores": wave},
        },
        {"somewhere": HOSTILE},
    )
    counts = [0] * 70 + [1, 0, 3, 0, 0, 2, 4, 9, 12, 20, 30, 44, 60, 80, 100, 90, 120, 150] + [160] * 12
    semantic = TierVerdict(sum(counts), 0, 10, 0.852, counts)
    verification = Verification(0.92, {"semantic": semantic, "exact": TierVerdict(50, 50, 0, 1.0)}, unchecked=3)
    return summarise(settings, collector, [6.0, 7.0], server=server, verification=verification)


def found() -> Found:
    """A search of a few steps."""
    steps = [
        Step(float(r), min(r, 700.0), 2.0, p99, 0, 0, 0.5, False, broke)
        for r, p99, broke in ((200, 5.0, None), (400, 9.0, None), (800, 310.0, "p99 310.0 ms"), (566, 22.0, None))
    ]
    late = Step(1600.0, 700.0, None, None, 3, 0, None, True, None)
    return Found(30.0, 566.0, True, "steps were made", [f"the engine's queue {HOSTILE}"], [*steps, late])


def bill_page() -> str:
    """A whole bill with a gateway's savings."""
    api, machine = Price(HOSTILE, 0.02, "2026-11-26", HOSTILE), Price("m", 0.1, "2026-11-26", "s")
    given = Inputs(
        texts=3e9, tokens=120.0, shares={"local": 0.5, "exact": 0.1}, api=api, machine=machine, computed_per_s=500.0,
        cached_per_s=5000.0, peak=3.0, origins={"shares": HOSTILE},
    )  # fmt: skip
    live = savings(parse(GATEWAY), parse(ENGINE), api, machine)
    return cost_page(given, make_bill(given), live, "http://host:8080")


def compare_page() -> str:
    """Two runs."""
    other = replace(report(), started="2026-11-26T03:00:00+00:00")
    return compare.render((("before", report()), (HOSTILE, other)))


PAGES: dict[str, tuple[Callable[[], str], int]] = {  # with the plots that each has at least
    "short run, interrupted": (lambda: run.render(summarise(report().settings, Collector(5.0), [], sending_s=9.5)), 2),
    "compare": (compare_page, 5),
    "rate, with a whole run": (lambda: rate.render(found(), report()), 9),
    "cost": (bill_page, 1),
    "study": (lambda: study_page(whole_study(HOSTILE)), 2),
}


def test_pages_are_whole_in_a_browser(chromium: Chromium, tmp_path: Path) -> None:
    """On a desktop, then on a phone in the dark: all plots are drawn, and nothing is cut, fails, or is fetched."""
    with chromium.page() as watched:  # what is cut is found
        watched.page.set_content("<p style='overflow: hidden; width: 30px; white-space: nowrap'>000 ms cut</p>")
        assert watched.clipped() == ['"000 ms cut" is cut by P']
    for name, (make, plots) in PAGES.items():
        file = tmp_path / "page.html"
        file.write_text(make(), encoding="utf-8")
        with chromium.page(DESKTOP) as watched:
            page = watched.page
            page.goto(file.as_uri())
            page.wait_for_selector("html[data-drawn]")
            light = page.evaluate(DRAWING)
            check(watched, f"{name} on a desktop", plots, DESKTOP)
            page.emulate_media(color_scheme="dark")
            page.set_viewport_size({"width": PHONE, "height": 800})
            page.wait_for_function(FITS)
            check(watched, f"{name} on a phone, dark", plots, PHONE)
            assert page.evaluate(DRAWING) != light, f"{name}: the plots keep the light colours"
            assert [url for url in watched.requests if url != file.as_uri()] == [], name


def check(watched: Watched, where: str, plots: int, width: int) -> None:
    """What must hold of a page at a width."""
    assert (watched.problems, watched.other_hosts) == ([], []), where
    assert watched.clipped() == [], where
    assert watched.page.locator("figure svg").count() >= plots, where
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width, where


@pytest.mark.parametrize("name", PAGES)
def test_what_comes_from_outside_stays_text(name: str) -> None:
    """No tag, no script's end and no password of a URL gets through, and no event handler is in the markup."""
    page = PAGES[name][0]()
    markup, _, scripts = page.partition('<script type="application/json"')
    data = scripts.partition("</script>")[0]
    assert "<img" not in markup + data
    assert "hunter2" not in markup + data
    assert page.count("</script>") == 3  # the data, ECharts, ours


def test_the_policy_lets_nothing_be_fetched() -> None:
    """Scripts run by their hash alone; a page without plots has none."""
    page = PAGES["cost"][0]()
    assert "default-src 'none'" in page
    assert "script-src 'sha256-" in page
    assert "unsafe-eval" not in page
    plain = Page("plain")
    plain.add(paragraph("words"))
    assert "script-src 'none'" in plain.html()
    assert "<script" not in plain.html()


def test_the_library_is_the_recorded_one() -> None:
    """The file has the hash that is recorded, names its version, and its licence lies beside it."""
    content = (FOLDER / ECHARTS).read_bytes()
    assert hashlib.sha256(content).hexdigest() == ECHARTS_SHA256
    assert f'"{ECHARTS_VERSION}"'.encode() in content
    assert ECHARTS_MARK.encode() in content
    assert "Apache License" in (FOLDER / "echarts-LICENSE.txt").read_text(encoding="utf-8")
    assert "Apache ECharts" in (FOLDER / "echarts-NOTICE.txt").read_text(encoding="utf-8")

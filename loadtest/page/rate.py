"""A search for the highest rate as a page: the answer, the curve, what was at its limit, the best step."""

from collections.abc import Iterable

from common.credentials import shown_url
from loadtest.find_rate import Found, Step, is_noisy
from loadtest.page import charts
from loadtest.page.charts import Line
from loadtest.page.document import Html, Page, bullets, header, paragraph, table, tiles, warning
from loadtest.page.run import milliseconds, sections, share, summary
from loadtest.report import Report

NOISY = "A rate was served worse than a higher one: others used the machine. Repeat the search on a quiet one."
NOT_SEEN = "Nothing that was measured was at its limit: what stopped it is not known from here."


def render(found: Found, report: Report) -> str:
    """The page; `report` is the one of the highest step that kept the bound, or of the last one."""
    settings = report.settings
    page = Page(f"Highest rate of {settings.model} at {shown_url(settings.url)} with p99 below {found.p99_ms:g} ms")
    page.add(header(page.title, *summary(report)), *_answer(found, report))
    page.section("Rates that were tried", *_curve(page, found))
    page.section("What was at its limit", bullets(found.saturated) if found.saturated else paragraph(NOT_SEEN))
    which = "kept the bound" if found.rate is not None else "was made last"
    page.add(Html(f"<h2>The step at {settings.rate:,.4g} requests/s, which {which}</h2>"))
    sections(page, report)
    return page.html()


def answer(found: Found) -> str:
    """The result in a sentence."""
    if found.rate is None:
        lowest = min(step.rate for step in found.steps)
        return f"No rate kept p99 below {found.p99_ms:g} ms; the lowest that was tried is {lowest:,.1f} requests/s."
    least = "at least " if found.at_least else ""
    return f"{least}{found.rate:,.1f} requests/s keep p99 below {found.p99_ms:g} ms ({found.ended}).".capitalize()


def _answer(found: Found, report: Report) -> Iterable[Html]:
    if any(step.generator_late for step in found.steps):
        yield warning(
            "The generator could not send the next rate on time: the server's limit was not reached. Run it on cores "
            "of its own, or on another machine."
        )
    if is_noisy(found.steps):
        yield warning(NOISY)
    kept = next((step for step in found.steps if step.rate == found.rate and step.broke is None), None)
    figure = "none" if found.rate is None else f"{'≥ ' if found.at_least else ''}{found.rate:,.1f}/s"
    yield tiles(
        (
            ("highest rate", figure, f"p99 below {found.p99_ms:g} ms"),
            ("p99 there", _ms(kept.p99_ms) if kept else "-", "from due to answered"),
            ("from a cache there", share(kept.hit_rate) if kept else "-", "of the texts"),
            ("steps", str(len(found.steps)), f"{report.settings.seconds:g} s each"),
        )
    )
    yield paragraph(answer(found))


def _curve(page: Page, found: Found) -> Iterable[Html]:
    known = sorted((step for step in found.steps if step.p99_ms is not None), key=lambda step: step.rate)
    if known:
        rates = [step.rate for step in known]
        chart = charts.curve(
            [
                (Line("p99", [step.p99_ms for step in known], "semantic"), rates),
                (Line("p50", [step.p50_ms for step in known], "local"), rates),
            ],
            "Latency against the offered rate",
            units=("per_s", "ms"),
            bound=(found.p99_ms, f"bound {found.p99_ms:g} ms"),
            mark_x=None if found.rate is None else (found.rate, "highest"),
            note="Offered requests a second; logarithmic latency axis.",
        )
        yield page.chart(chart)
    rows = (
        (
            f"{step.rate:,.1f}/s",
            f"{step.served_per_s:,.1f}/s",
            _ms(step.p50_ms),
            _ms(step.p99_ms),
            share(step.hit_rate),
            f"{step.failed:,}",
            f"{step.dropped:,}",
            verdict(step),
        )
        for step in found.steps
    )
    yield table(("offered", "served", "p50", "p99", "from a cache", "failed", "never sent", "bound"), rows)


def verdict(step: Step) -> str:
    """What a step showed."""
    if step.generator_late:
        return "not measured: the generator was late"
    return "kept" if step.broke is None else f"broken: {step.broke}"


def _ms(value: float | None) -> str:
    return "-" if value is None else milliseconds(value)

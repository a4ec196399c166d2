"""A bill, and a gateway's savings, as one page in the style of the load test's."""

from collections.abc import Iterable

from common.credentials import shown_url
from loadtest.cost.bill import API, LEFT_OUT, OWN, SAVED_API, SAVED_CACHE, UNCACHED, Bill, Figure
from loadtest.cost.inputs import Inputs
from loadtest.cost.live import Savings
from loadtest.page import charts
from loadtest.page.charts import DASHED, Line
from loadtest.page.document import Chart, Html, Page, bullets, header, paragraph, table, tiles

FIGURES = ("figure", "value", "how it is computed")
COLOURS = {API: "miss", OWN: "local", UNCACHED: "other"}


def render(given: Inputs, bill: Bill, live: Savings | None = None, url: str = "") -> str:
    """The whole page."""
    page = Page("What embeddings cost")
    page.add(header(page.title, "US dollars a month; each figure with its formula."))
    if live is not None:
        page.section(f"What {shown_url(url)} has saved since it started", *live_parts(live))
    if bill.figures:
        page.add(tiles(_headline(bill)))
    if bill.curve is not None:
        page.section("Over volume", page.chart(_curve(given, bill)))
    if bill.figures:
        page.section("Figures", table(FIGURES, _rows(bill.figures), "words"))
    if bill.missing:
        page.section("What is not said here, and why", bullets(bill.missing))
    page.section("Inputs", table(("", ""), list(inputs(given)), "words"), paragraph(LEFT_OUT, "note"))
    return page.html()


def live_parts(live: Savings) -> Iterable[Html]:
    """The tiers' savings, and what they are made of."""
    hits = sum(tier.texts for tier in live.tiers)
    yield tiles(
        (
            ("from caches", f"{hits / live.texts:.1%}", f"{hits:,.0f} of {live.texts:,.0f} texts"),
            ("engine time saved", seconds(live.net_s), "net of look-ups and checks"),
            (
                "an API would have charged",
                "not known" if live.api_usd is None else dollars(live.api_usd),
                "for these hits",
            ),
        )
    )
    yield table(
        ("tier", "texts", "share", "engine time saved", "spent for it", "net", "by the API"),
        [
            (
                tier.tier,
                f"{tier.texts:,.0f}",
                f"{tier.share:.1%}",
                *(seconds(value) for value in (tier.engine_s, tier.spent_s, tier.net_s)),
                "not known" if tier.api_usd is None else dollars(tier.api_usd),
            )
            for tier in live.tiers
        ],
    )
    yield table(FIGURES, _rows(live.figures), "words")
    if live.missing:
        yield bullets(live.missing)


def inputs(given: Inputs) -> Iterable[tuple[str, str]]:
    """What was given, and where it is from."""
    names = {
        "texts": "texts a month",
        "tokens": "tokens a text",
        "machines": "machines",
        "computed_per_s": "texts/s that one machine computes",
        "cached_per_s": "texts/s that one machine serves from caches",
        "peak": "peak rate over the mean",
        "other_monthly": "other costs a month, $",
    }
    for name, shown in names.items():
        value = getattr(given, name)
        origin = given.origins.get(name)
        yield shown, "not given" if value is None else number(value) + (f", from {origin}" if origin else "")
    if given.shares is None:
        yield "hit shares", "not given"
    else:
        shares = ", ".join(f"{tier} {share:.1%}" for tier, share in given.shares.items())
        origin = given.origins.get("shares")
        yield "hit shares", shares + (f", from {origin}" if origin else "")
    yield "API", "not given" if given.api is None else f"{given.api} (a million tokens)"
    yield "machine", "not given" if given.machine is None else f"{given.machine} (an hour)"


def number(value: float) -> str:
    """A quantity without an exponent."""
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:,.4g}"


def short(value: float) -> str:
    """A large quantity in three digits."""
    for unit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:,.0f}"


def dollars(value: float) -> str:
    """Money, small amounts with enough digits."""
    digits = 2 if abs(value) >= 1 or value == 0 else 6
    return f"-${-value:,.{digits}f}" if value < 0 else f"${value:,.{digits}f}"


def seconds(value: float | None) -> str:
    """A time that may be unknown or below nought."""
    return "not known" if value is None else f"{value:,.2f} s" if abs(value) < 3600 else f"{value / 3600:,.2f} h"


def shown(figure: Figure) -> str:
    """A figure's value with its unit."""
    match figure.unit:
        case "usd":
            return dollars(figure.value)
        case "s":
            return f"{figure.value:.6f} s" if figure.value < 1 else seconds(figure.value)
        case "per_s":
            return f"{figure.value:,.2f}/s"
        case _:
            return f"{figure.value:,.0f}" if figure.value >= 100 else f"{figure.value:,.4g}"


def _rows(figures: Iterable[Figure]) -> list[tuple[str, str, str]]:
    return [(figure.name, shown(figure), figure.formula) for figure in figures]


def _headline(bill: Bill) -> Iterable[tuple[str, str, str]]:
    for name, small in ((API, "a month"), (OWN, "a month"), (UNCACHED, "a month")):
        value = bill.value(name)
        if value is not None:
            yield name, dollars(value), small
    for name in (SAVED_API, SAVED_CACHE):
        value = bill.value(name)
        if value is not None:
            yield name, dollars(value), "a month" if value >= 0 else "a month: it costs more"
    even = "not known" if bill.break_even is None else short(bill.break_even)
    yield "break-even", even, "texts a month" if bill.break_even is not None else "see below"


def _curve(given: Inputs, bill: Bill) -> Chart:
    curve = bill.curve
    assert curve is not None
    lines = [
        (Line(name, values, COLOURS[name], DASHED if name == UNCACHED else charts.SOLID), curve.texts)
        for name, values in curve.lines.items()
    ]
    mark = None
    if bill.break_even is not None:
        mark = (bill.break_even, "break-even")
    elif given.texts is not None:
        mark = (given.texts, "this volume")
    note = "Dollars a month over texts a month; both axes are logarithmic. The hit shares are held as they are."
    return charts.curve(
        lines, "Cost over volume", units=("count", "money"), log=(True, True), mark_x=mark, note=note, symbols=False
    )

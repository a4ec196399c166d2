"""The `cost` command: inputs typed in, from a report, or from a running gateway; a bill out."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.credentials import shown_url
from common.gateway_url import base_url
from common.output_file import OutputFile
from common.prometheus_text import Samples
from loadtest.addresses import engine_beside
from loadtest.cost import page
from loadtest.cost.bill import LEFT_OUT, Bill, Figure, make_bill
from loadtest.cost.inputs import Inputs, Traffic, traffic_of_gateway, traffic_of_report
from loadtest.cost.live import Savings, savings
from loadtest.cost.prices import TYPED, CostError, Price, Prices, amount, find, read_prices
from loadtest.display import wide_console
from loadtest.exposition import MetricsUnreachable, fetch
from loadtest.report import ReportError, read_report
from loadtest.tiers import HITS

TIMEOUT_S = 10.0
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUTPUT = OutputFile()


@click.command("cost")
@click.option("--texts", type=float, help="Texts a month.")
@click.option("--requests", type=float, help="Requests a month, instead of --texts; with --texts-a-request.")
@click.option("--texts-a-request", type=float, help="With --requests; by --report where that is given.")
@click.option("--tokens", type=float, help="Tokens a text.")
@click.option("--local", type=float, help="Share of texts from the gateway's own memory, 0 to 1.")
@click.option("--exact", type=float, help="Share of texts from Redis, 0 to 1.")
@click.option("--semantic", type=float, help="Share of texts from the semantic tier, 0 to 1.")
@click.option("--report", "report_file", type=FILE, help="Shares and tokens of a `loadtest --json` report.")
@click.option("--live", "live_url", help="Shares and tokens of a running gateway's counters, and what it has saved.")
@click.option(
    "--engine-url",
    help="With --live: its engine, whose counters have the time of a text; by default that of `up` beside it.",
)
@click.option("--api", "api_name", help="An API of the prices, by name.")
@click.option("--api-price", type=float, help="Dollars for a million tokens.")
@click.option("--machine", "machine_name", help="A machine of the prices, by name.")
@click.option("--machine-price", type=float, help="Dollars for an hour.")
@click.option("--machines", type=int, help="How many; else from the three options below.")
@click.option("--computed-per-s", type=float, help="Texts that one machine computes in a second: loadtest --find-rate.")
@click.option("--cached-per-s", type=float, help="Texts that one machine serves from its caches in a second.")
@click.option("--peak", type=float, help="The highest rate to build for, in multiples of the mean.")
@click.option("--other-monthly", type=float, help="Dollars a month for what else is needed, such as Redis.")
@click.option("--prices", "prices_file", type=FILE, help="Your prices, as TOML: see --list-prices.")
@click.option("--list-prices", is_flag=True, help="Print the prices with their dates, and end.")
@click.option("--json", "json_file", type=OUTPUT, help="Write the bill as JSON.")
@click.option("--html", "html_file", type=OUTPUT, help="Write the bill as one HTML page with a plot.")
def cost(**options: Any) -> None:
    """What embeddings cost by an API and on own machines, what the caches save, and from which volume on.

    No input has a default: what was not given is named, and what depends on it is not said.
    """
    try:
        prices = read_prices(options["prices_file"])
        if options["list_prices"]:
            _list(prices)
            return
        _run(options, prices)
    except (CostError, ReportError, MetricsUnreachable, OSError) as error:
        raise click.ClickException(str(error)) from None
    except ValueError as error:  # of an address
        raise click.UsageError(str(error)) from None


def _run(options: dict[str, Any], prices: Prices) -> None:
    api = _price(prices, "api", options["api_name"], options["api_price"])
    machine = _price(prices, "machine", options["machine_name"], options["machine_price"])
    if options["report_file"] and options["live_url"]:
        raise CostError("--report and --live both give hit shares: leave one out")
    if options["engine_url"] and not options["live_url"]:
        raise CostError("--engine-url is of --live")
    traffic, live, url = None, None, ""
    if options["live_url"]:
        url = base_url(options["live_url"])
        gateway, engine, engine_url = asyncio.run(_scrape(url, options["engine_url"]))
        traffic = traffic_of_gateway(gateway, shown_url(url))
        live = savings(gateway, engine, api, machine, engine_url)
    elif options["report_file"]:
        traffic = traffic_of_report(read_report(options["report_file"]), options["report_file"].name)
    given = _inputs(options, traffic, api, machine)
    bill = make_bill(given)
    _show(given, bill, live, url)
    if options["json_file"] is not None:
        payload = {"inputs": given, "bill": bill, "live": live}
        options["json_file"].write_bytes(orjson.dumps(payload, option=orjson.OPT_INDENT_2))
    if options["html_file"] is not None:
        options["html_file"].write_text(page.render(given, bill, live, url), encoding="utf-8")


def _inputs(options: dict[str, Any], traffic: Traffic | None, api: Price | None, machine: Price | None) -> Inputs:
    origins = {}
    typed = {tier: options[tier] for tier in HITS if options[tier] is not None}
    shares: dict[str, float] | None = typed or None
    if traffic is not None:
        if typed:
            raise CostError(f"hit shares are typed in, and in {traffic.origin}: leave one out")
        shares, origins["shares"] = traffic.shares, traffic.origin
    tokens = options["tokens"]
    if tokens is None and traffic is not None and traffic.tokens is not None:
        tokens, origins["tokens"] = traffic.tokens, traffic.origin
    texts = options["texts"]
    if options["requests"] is not None:
        if texts is not None:
            raise CostError("--texts and --requests both say how much: leave one out")
        each = options["texts_a_request"]
        if each is None and traffic is not None:
            each = traffic.texts_a_request
        if each is None:
            raise CostError("--requests needs --texts-a-request")
        texts = amount("--requests", options["requests"]) * amount("--texts-a-request", each)
        origins["texts"] = f"{options['requests']:,.6g} requests x {each:,.4g} texts"
    names = ("machines", "computed_per_s", "cached_per_s", "peak", "other_monthly")
    return Inputs(
        texts=texts, tokens=tokens, shares=shares, api=api, machine=machine, origins=origins,
        **{name: options[name] for name in names},
    )  # fmt: skip


def _price(prices: Prices, kind: str, name: str | None, typed: float | None) -> Price | None:
    if name is not None and typed is not None:
        raise CostError(f"--{kind} and --{kind}-price both give a price: leave one out")
    if typed is not None:
        return Price(kind, amount(f"--{kind}-price", typed), "", TYPED)
    return find(prices, kind, name) if name is not None else None


async def _scrape(url: str, engine_url: str | None) -> tuple[Samples, Samples | None, str]:
    """Both servers' counters, and the engine's address. Raises MetricsUnreachable.

    Without `engine_url`, the engine beside a gateway of one model, if it answers: one of several has its model's times.
    """
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
        gateway = await _named(session, url)
        if engine_url:
            engine_url = base_url(engine_url)
            return gateway, await _named(session, engine_url), engine_url
        engine_url = engine_beside(url) if len(gateway.by("dejavec_cache_hits_total", "model")) <= 1 else ""
        try:
            return gateway, await _named(session, engine_url) if engine_url else None, engine_url
        except MetricsUnreachable:
            return gateway, None, ""


async def _named(session: aiohttp.ClientSession, url: str) -> Samples:
    try:
        return await fetch(session, url)
    except MetricsUnreachable as error:
        raise MetricsUnreachable(f"{shown_url(url)}: {error}") from None


def _list(prices: Prices) -> None:
    console = wide_console()
    for kind, unit in (("api", "a million tokens"), ("machine", "an hour")):
        for price in prices[kind].values():
            console.print(f"--{kind} {price.name!r}: ${price.usd:g} {unit}, {price.as_of}, {escape(price.source)}")


def _show(given: Inputs, bill: Bill, live: Savings | None, url: str) -> None:
    console = wide_console()
    _print(console, "Inputs", ("", ""), page.inputs(given))
    _print(console, "Figures", ("figure", "value", "how it is computed"), _rows(bill.figures))
    for line in bill.missing:
        console.print(escape(line))
    console.print(LEFT_OUT)
    if live is None:
        return
    rows = (
        (tier.tier, f"{tier.texts:,.0f}", f"{tier.share:.1%}",
         *(page.seconds(value) for value in (tier.engine_s, tier.spent_s, tier.net_s)),
         "not known" if tier.api_usd is None else page.dollars(tier.api_usd))
        for tier in live.tiers
    )  # fmt: skip
    head = ("tier", "texts", "share", "engine time saved", "spent for it", "net", "by the API")
    _print(console, f"What {shown_url(url)} has saved since it started", head, rows)
    _print(console, "Made of", ("figure", "value", "how it is computed"), _rows(live.figures))
    for line in live.missing:
        console.print(escape(line))


def _rows(figures: list[Figure]) -> list[tuple[str, str, str]]:
    return [(figure.name, page.shown(figure), figure.formula) for figure in figures]


def _print(console: Console, title: str, head: tuple[str, ...], rows: Any) -> None:
    table = Table(*head, show_header=any(head))
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(f"\n[bold]{escape(title)}[/]", table, sep="\n")

"""How a load test's figures look on a terminal."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.credentials import shown_url
from loadtest.figures import Latencies
from loadtest.find_rate import Found, is_noisy
from loadtest.page.rate import NOISY, NOT_SEEN, answer
from loadtest.page.rate import verdict as verdict_of
from loadtest.report import Report
from loadtest.tiers import HITS, MISS
from loadtest.verify import Verification

PIPE_WIDTH = 120


def wide_console() -> Console:
    """The terminal's own console; in a pipe or a file one wide enough for our tables."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH)


@contextmanager
def step(console: Console, text: str) -> Iterator[None]:
    """Say what runs until the block ends: a spinner on a terminal, else a line on standard error."""
    if console.is_terminal:
        with console.status(escape(text)):
            yield
    else:
        Console(stderr=True, width=PIPE_WIDTH).print(escape(text), highlight=False)
        yield


def show(report: Report, console: Console) -> None:
    """Print the whole report."""
    settings = report.settings
    console.print(
        f"\n[bold]{escape(settings.model)}[/] at {escape(shown_url(settings.url))}: {settings.workload} over "
        f"{settings.distinct_texts:,} distinct texts of {escape(settings.texts)}, {settings.batch} a request"
    )
    console.print(
        f"requested {settings.rate:,.1f} requests/s ({settings.pace}) for {settings.seconds:g} s "
        f"after {settings.warmup:g} s of warm-up; [bold]answered {report.answered_per_s:,.1f} requests/s[/], "
        f"{report.texts_per_s:,.1f} texts/s, {report.tokens_per_s:,.0f} tokens/s; "
        f"each text was requested {sum(report.items.values()) / settings.distinct_texts:.1f} times on average"
    )
    if report.interruption:
        console.print(f"[bold red]{report.interruption}[/]")
    if report.items:
        rate = "unknown" if report.hit_rate is None else f"{report.hit_rate:.1%}"
        _print(f"Texts by tier: hit rate {rate}", _tiers(report), console)
    if report.latency is not None:
        rows = {"all": report.latency, **report.latency_by_tier}
        if report.latency_from_sent is not None:
            rows["all, from sent"] = report.latency_from_sent
        whose = "" if report.is_the_servers else "; [red]not the server's, see below[/]"
        _print(f"Latency from the time a request was due, ms{whose}", _latency(rows), console)
    if report.errors:
        total = report.answered + report.failed
        _print(f"Failed: {report.failed:,} of {total:,} requests", _errors(report), console)
    if any(kind.startswith("401 ") for kind in report.errors):
        console.print("The server asks for an API key: --api-key, or setting client_api_key (DEJAVEC_CLIENT_API_KEY).")
    if report.verification is not None:
        _print(_false_reuse(report.verification), _verification(report.verification), console)
    for line in _generator(report):
        console.print(line)


def show_found(found: Found, console: Console) -> None:
    """Print a search for the highest rate: each step, what was at its limit, and the result."""
    table = _table(("offered/s", "served/s", "p99 ms", "from a cache", "bound"))
    for step in found.steps:
        p99 = "-" if step.p99_ms is None else _ms(step.p99_ms)
        hits = "unknown" if step.hit_rate is None else f"{step.hit_rate:.1%}"
        table.add_row(f"{step.rate:,.1f}", f"{step.served_per_s:,.1f}", p99, hits, escape(verdict_of(step)))
    console.print(table)
    for line in found.saturated or [NOT_SEEN]:
        console.print(f"at its limit: {escape(line)}" if found.saturated else line)
    if is_noisy(found.steps):
        console.print(f"[bold red]{NOISY}[/]")
    console.print(f"[bold]{escape(answer(found))}[/]")


def _print(title: str, table: Table, console: Console) -> None:
    """The title as a line of its own: rich would wrap it at the table's width."""
    console.print(f"\n[bold]{title}[/]", table, sep="\n")


def _table(columns: Iterable[str]) -> Table:
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _tiers(report: Report) -> Table:
    total = sum(report.items.values())
    table = _table(("tier", "texts", "share"))
    others = [tier for tier in report.items if tier not in (*HITS, MISS)]
    for tier in (*HITS, MISS, *others):
        count = report.items.get(tier, 0)
        table.add_row(escape(tier), f"{count:,}", f"{count / total:.1%}")
    return table


def _latency(rows: dict[str, Latencies]) -> Table:
    table = _table(("requests", "count", "p50", "p95", "p99", "max"))
    for name, row in rows.items():
        table.add_row(escape(name), f"{row.count:,}", *map(_ms, (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms)))
    return table


def _ms(value: float) -> str:
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _errors(report: Report) -> Table:
    table = _table(("kind", "requests"))
    for kind, count in report.errors.items():
        table.add_row(escape(kind), f"{count:,}")
    return table


def _false_reuse(verification: Verification) -> str:
    rate = verification.false_reuse_rate
    shown = "nothing to check" if rate is None else f"{rate:.2%} below {verification.fidelity:g}"
    return f"False reuse: {shown} ({verification.checked:,} served vectors computed again)"


def _verification(verification: Verification) -> Table:
    table = _table(("tier", "checked", "equal to the byte", "below fidelity", "lowest cosine"))
    for tier, verdict in verification.tiers.items():
        counts = (f"{verdict.checked:,}", f"{verdict.same_bytes:,}", f"{verdict.below_fidelity:,}")
        table.add_row(tier, *counts, f"{verdict.lowest_cosine:.6f}")
    if verification.unchecked:
        table.caption = f"{verification.unchecked:,} could not be computed again"
    return table


def _generator(report: Report) -> Iterable[str]:
    generator = report.generator
    if generator.lag is not None:
        lag = generator.lag
        late = f"{lag.p50_ms:.2f} ms late at the median, p99 {lag.p99_ms:.2f}, max {lag.max_ms:.2f}"
        yield f"generator: sent {late}"
    if generator.dropped:
        yield (
            f"[bold red]dropped by the generator: {generator.dropped:,} requests[/], because "
            f"{report.settings.max_in_flight:,} were in flight: the server does not keep up with the requested "
            "rate, and the latencies above leave the dropped ones out"
        )
    if generator.fell_behind:
        yield (
            "[bold red]The generator fell behind[/]: part of these latencies is its own lateness. "
            "Lower --rate, or run the load test on cores the server does not use."
        )

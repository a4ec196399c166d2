"""The bill: figures worked out by hand, and nothing said that the inputs do not give."""

import math
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from common.prometheus_text import parse
from loadtest.cost.bill import API, HOURS, OWN, SAVED_API, SAVED_CACHE, UNCACHED, make_bill
from loadtest.cost.cli import cost
from loadtest.cost.inputs import Inputs, traffic_of_gateway
from loadtest.cost.live import savings
from loadtest.cost.page import render
from loadtest.cost.prices import CostError, Price, read_prices
from tests.background import in_background
from tests.unit.test_loadtest_report import a_report
from tests.unit.test_loadtest_server_watch import Running, Server

API_PRICE = Price("an api", 0.02, "2026-11-26", "somewhere")
MACHINE = Price("a machine", 0.10, "2026-11-26", "somewhere")
WHOLE = Inputs(
    texts=1e9,
    tokens=100.0,
    shares={"local": 0.5, "exact": 0.1, "semantic": 0.08},
    api=API_PRICE,
    machine=MACHINE,
    computed_per_s=500.0,
    cached_per_s=5000.0,
    peak=3.0,
    other_monthly=50.0,
)


def test_a_whole_bill_by_hand() -> None:
    """A thousand million texts a month: each figure as on paper."""
    bill = make_bill(WHOLE)
    peak = 1e9 / (HOURS * 3600) * 3
    with_caches = math.ceil(peak * (0.32 / 500 + 0.68 / 5000))
    without = math.ceil(peak / 500)
    assert (with_caches, without) == (1, 3)
    assert bill.value(API) == pytest.approx(2000.0)
    assert bill.value("texts to compute a month") == pytest.approx(3.2e8)
    assert bill.value(OWN) == pytest.approx(0.10 * HOURS + 50)
    assert bill.value(UNCACHED) == pytest.approx(3 * 0.10 * HOURS)
    assert bill.value(SAVED_CACHE) == pytest.approx(2 * 0.10 * HOURS - 50)
    assert bill.value(SAVED_API) == pytest.approx(2000 - 0.10 * HOURS - 50)
    assert bill.break_even == pytest.approx((0.10 * HOURS + 50) / 2e-6)
    assert bill.missing == []


def test_at_break_even_both_cost_the_same() -> None:
    """The volume that is named is the one at which the two lines meet."""
    even = make_bill(WHOLE).break_even
    assert even is not None
    bill = make_bill(replace(WHOLE, texts=even))
    assert bill.value(API) == pytest.approx(bill.value(OWN))


def test_every_formula_has_its_numbers() -> None:
    """No figure stands without the numbers that it was made of."""
    for figure in make_bill(WHOLE).figures:
        assert any(character.isdigit() for character in figure.formula), figure


def test_a_bill_against_dejavec_is_shown_as_it_is() -> None:
    """Where hits are rare and volume small, the caches cost more than they save, and the API is cheaper."""
    bill = make_bill(replace(WHOLE, texts=1e6, shares={"local": 0.01}))
    assert bill.value(SAVED_CACHE) == pytest.approx(-50)
    assert (bill.value(SAVED_API) or 0) < 0
    assert "it costs more" in render(WHOLE, bill)


def test_no_break_even_is_said_where_there_is_none() -> None:
    """A machine that cannot earn its price at full load never does."""
    bill = make_bill(replace(WHOLE, computed_per_s=1.0, shares={"local": 0.0}))
    assert bill.break_even is None
    assert any("there is none" in line for line in bill.missing)


@pytest.mark.parametrize(
    ("without", "unsaid", "named"),
    [
        ("texts", (API, OWN, SAVED_API, SAVED_CACHE), "--texts"),
        ("tokens", (API, SAVED_API, "break-even, texts a month"), "--tokens"),
        ("api", (API, SAVED_API, "break-even, texts a month"), "--api-price"),
        ("machine", (OWN, SAVED_API, SAVED_CACHE, "break-even, texts a month"), "--machine-price"),
        ("computed_per_s", (OWN, SAVED_API, SAVED_CACHE), "--computed-per-s"),
        ("cached_per_s", (OWN, SAVED_API, SAVED_CACHE), "--cached-per-s"),
        ("peak", (OWN, SAVED_API, SAVED_CACHE), "--peak"),
        ("shares", (OWN, SAVED_API, SAVED_CACHE, "texts to compute a month"), "hit shares"),
        ("other_monthly", (), "--other-monthly"),
    ],
)
def test_what_depends_on_a_missing_input_is_not_said(without: str, unsaid: tuple[str, ...], named: str) -> None:
    """The figure is absent, and the message names the option that would give it."""
    bill = make_bill(replace(WHOLE, **{without: None}))
    assert [name for name in unsaid if bill.value(name) is not None] == []
    assert any(named in line for line in bill.missing)


def test_given_machines_say_nothing_of_what_the_caches_save() -> None:
    """With a number of machines there is a cost, but none without caches to compare with."""
    bill = make_bill(replace(WHOLE, machines=2, computed_per_s=None))
    assert bill.value(OWN) == pytest.approx(2 * 0.10 * HOURS + 50)
    assert bill.value(SAVED_CACHE) is None
    assert any("What the caches save of machines" in line for line in bill.missing)


@pytest.mark.parametrize("name", ["texts", "tokens", "computed_per_s", "cached_per_s", "peak", "other_monthly"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_numbers_that_are_none_are_refused(name: str, value: float) -> None:
    """Negative, infinite and no number at all."""
    with pytest.raises(CostError, match=name):
        replace(WHOLE, **{name: value})


@pytest.mark.parametrize("shares", [{"local": 1.1}, {"local": -0.1}, {"local": math.nan}, {"local": 0.6, "exact": 0.5}])
def test_shares_that_cannot_be_are_refused(shares: dict[str, float]) -> None:
    """A share lies from 0 to 1, and all of them together too."""
    with pytest.raises(CostError, match="share"):
        replace(WHOLE, shares=shares)


# --- prices


def test_the_packages_prices_have_dates_and_sources() -> None:
    """Every price says of which day it is and where it was read."""
    prices = read_prices()
    assert set(prices) == {"api", "machine"}
    for price in (*prices["api"].values(), *prices["machine"].values()):
        assert price.usd > 0
        assert price.as_of.startswith("20")
        assert price.source


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("x", "not TOML"),
        ("[gpu.a]\n", "neither"),
        ("[api.a]\nusd_per_million_tokens = -1\nas_of = '2026'\n", "give a number from 0 on"),
        ("[api.a]\nusd_per_million_tokens = nan\nas_of = '2026'\n", "give a number from 0 on"),
        ("[api.a]\nusd_per_million_tokens = true\nas_of = '2026'\n", "is not a number"),
        ("[api.a]\nusd_per_million_tokens = 1\n", "as_of is missing"),
        ("api = 1\n", "must hold tables"),
        ("[api]\na = 1\n", "is not a table"),
    ],
)
def test_unusable_prices_are_refused(tmp_path: Path, content: str, complaint: str) -> None:
    """The message names the file, the entry and what is wrong with it."""
    (tmp_path / "prices.toml").write_text(content)
    with pytest.raises(CostError, match=complaint):
        read_prices(tmp_path / "prices.toml")


# --- a running gateway

GATEWAY = """\
dejavec_cache_hits_total{model="docs",tier="local"} 500
dejavec_cache_hits_total{model="docs",tier="exact"} 150
dejavec_cache_hits_total{model="docs",tier="semantic"} 100
dejavec_cache_hits_total{model="docs",tier="miss"} 70
dejavec_cache_hits_total{model="code",tier="local"} 100
dejavec_cache_hits_total{model="code",tier="exact"} 50
dejavec_cache_hits_total{model="code",tier="miss"} 30
dejavec_tokens_total 20000
dejavec_exact_lookup_seconds_sum 0.4
dejavec_exact_lookup_seconds_count 400
dejavec_stage_seconds_sum{stage="semantic"} 0.2
dejavec_stage_seconds_count{stage="semantic"} 210
dejavec_semantic_lookups_total{outcome="hit"} 100
dejavec_semantic_labels_total{of="hit",verdict="good"} 9
dejavec_semantic_labels_total{of="hit",verdict="violation"} 1
dejavec_semantic_labels_total{of="miss",verdict="good"} 50
"""
ENGINE = "dejavec_engine_run_seconds_sum 1.1\ndejavec_engine_batch_rows_sum 110\n"


def test_what_a_gateway_has_saved_by_hand() -> None:
    """A text took 10 ms: hits save that, less 0.4 s of look-ups, 0.2 s of semantic ones and ten checks."""
    found = savings(parse(GATEWAY), parse(ENGINE), API_PRICE, MACHINE)
    assert [tier.net_s for tier in found.tiers] == pytest.approx([6.0, 2.0 - 0.4, 1.0 - 0.2 - 0.1])
    assert found.net_s == pytest.approx(8.3)
    assert found.api_usd == pytest.approx(900 * 20 / 1e6 * 0.02)
    assert found.machine_usd == pytest.approx(8.3 / 3600 * 0.10)
    assert found.missing == []


def test_semantic_look_ups_that_are_not_timed_are_not_left_out_silently() -> None:
    """An older gateway counts them without their time: what the tier saves is unknown."""
    untimed = "\n".join(line for line in GATEWAY.splitlines() if "stage_seconds" not in line)
    found = savings(parse(untimed), parse(ENGINE), API_PRICE, MACHINE)
    assert any("semantic look-ups" in line for line in found.missing)
    assert (found.tiers[2].net_s, found.net_s, found.machine_usd) == (None, None, None)


def test_the_traffic_of_a_gateway_is_that_of_all_its_models() -> None:
    """Shares by tier, summed over the models that the counter tells apart."""
    found = traffic_of_gateway(parse(GATEWAY), "http://host")
    assert found.shares == pytest.approx({"local": 0.6, "exact": 0.2, "semantic": 0.1})
    assert found.tokens == 20


def test_without_the_engines_counters_no_time_is_said() -> None:
    """What only the engine counts is not known, and the message says where it would come from."""
    found = savings(parse(GATEWAY), None, None, None)
    assert [tier.net_s for tier in found.tiers] == [None] * 3
    assert (found.net_s, found.api_usd, found.machine_usd) == (None, None, None)
    assert any("--engine-url" in line for line in found.missing)


def test_without_counted_look_ups_the_exact_tier_has_no_net() -> None:
    """A cost that was not counted is not taken for none."""
    text = "\n".join(line for line in GATEWAY.splitlines() if "lookup_seconds" not in line)
    found = savings(parse(text), parse(ENGINE), None, None)
    assert (found.tiers[1].net_s, found.net_s) == (None, None)


def test_a_gateway_that_served_nothing_has_saved_nothing() -> None:
    """Neither shares nor savings are made of no texts."""
    for read in (lambda: savings(parse(""), None, None, None), lambda: traffic_of_gateway(parse(""), "http://host")):
        with pytest.raises(CostError, match="has served no text"):
            read()


# --- the command


def run(*words: str) -> Result:
    """Run `dejavec cost`."""
    return CliRunner().invoke(cost, words, env={"COLUMNS": "200"})


def test_the_command_reads_a_report(tmp_path: Path) -> None:
    """Shares and tokens are the load test's, and the page names it."""
    (tmp_path / "report.json").write_bytes(a_report().to_json())
    files = ("--json", str(tmp_path / "bill.json"), "--html", str(tmp_path / "bill.html"))
    words = ("--report", str(tmp_path / "report.json"), "--texts", "1e6", "--api", "text-embedding-3-small")
    result = run(*words, *files)
    assert result.exit_code == 0, result.output
    given = orjson.loads((tmp_path / "bill.json").read_bytes())["inputs"]
    assert given["tokens"] == 5.0
    assert given["shares"] == pytest.approx({"local": 0.4, "exact": 0.2, "semantic": 0.0})
    assert "the load test report.json" in (tmp_path / "bill.html").read_text()


def test_the_command_reads_a_running_gateway() -> None:
    """Its counters give shares and what was saved, over HTTP."""

    class Counting(Server):
        async def metrics(self, request):  # type: ignore[no-untyped-def]
            from aiohttp import web

            return web.Response(text=GATEWAY + ENGINE)

    with in_background(Running(Counting())) as url:
        result = run("--live", url, "--engine-url", url, "--machine-price", "0.1", "--api-price", "0.02")
    assert result.exit_code == 0, result.output
    assert "local 60.0%, exact 20.0%, semantic 10.0%" in result.output
    assert "the counters of" in result.output
    assert "8.3 s / 3,600 x $0.1" in result.output


@pytest.mark.parametrize(
    ("models", "engine_port", "known"),
    [(("docs",), None, True), (("docs", "code"), None, False), (("docs",), 9, False)],
)
def test_the_engine_of_this_machine_is_found_by_itself(
    models: tuple[str, ...], engine_port: int | None, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the ports of the settings, where there is one model; where none answers, no time is said."""

    class Counting(Server):
        async def metrics(self, request):  # type: ignore[no-untyped-def]
            from aiohttp import web

            rows = [line for line in GATEWAY.splitlines() if "model=" not in line or any(m in line for m in models)]
            return web.Response(text="\n".join(rows) + "\n" + ENGINE)

    with in_background(Running(Counting())) as url:
        port = url.rpartition(":")[2]
        monkeypatch.setenv("DEJAVEC_GATEWAY_PORT", port)
        monkeypatch.setenv("DEJAVEC_ENGINE_PORT", str(engine_port or port))
        result = run("--live", url)
    assert result.exit_code == 0, result.output
    assert (f"110 texts computed, by {url}" in result.output) is known
    assert ("give --engine-url" in result.output) is not known


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--texts", "-1"), "texts is -1"),
        (("--tokens", "nan"), "tokens is nan"),
        (("--requests", "5"), "needs --texts-a-request"),
        (("--requests", "5", "--texts-a-request", "2", "--texts", "3"), "leave one out"),
        (("--api", "none-such"), "there are: text-embedding-3-small"),
        (("--api", "voyage-3", "--api-price", "1"), "leave one out"),
        (("--machine-price", "inf"), "give a number from 0 on"),
        (("--engine-url", "http://host"), "is of --live"),
        (("--live", "http://127.0.0.1:9"), "does not answer"),
        (("--local", "40"), "a share from 0 to 1"),
    ],
)
def test_unusable_options_are_one_message(words: tuple[str, ...], complaint: str) -> None:
    """It names the option and what to do, and no figure is printed."""
    result = run(*words)
    assert result.exit_code != 0
    assert complaint in result.output
    assert "Traceback" not in result.output


def test_prices_are_listed() -> None:
    """Each with its day."""
    result = run("--list-prices")
    assert "text-embedding-3-small" in result.output
    assert "2026-" in result.output

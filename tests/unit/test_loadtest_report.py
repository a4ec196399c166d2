"""From samples to the report, and how it is shown."""

import io
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from loadtest.client import Answer
from loadtest.display import show
from loadtest.open_loop import Sample
from loadtest.page import compare
from loadtest.page.run import render
from loadtest.report import Collector, Report, ReportError, Settings, read_report, summarise
from loadtest.timeline import MAX_ROWS, TimelineBuilder
from loadtest.verify import TierVerdict, Verification
from loadtest.workload import Arrival

SETTINGS = Settings(
    url="http://host:1",
    model="a<b>model",
    texts="texts.txt",
    distinct_texts=3,
    workload="replay",
    pace="constant",
    rate=2.0,
    seconds=4.0,
    warmup=1.0,
    batch="1",
    seed=0,
    connections=8,
    max_in_flight=9,
)


def sample(due_s: float, latency_s: float, *tiers: str, tier: str | None = None) -> Sample:
    """An answered request with 5 tokens a text."""
    answer = Answer(["v"] * len(tiers), tier or tiers[0], list(tiers), 5 * len(tiers))
    return Sample(due_s, 0.001, latency_s, answer)


def collected(*samples: Sample) -> Collector:
    """A collector that has seen these."""
    collector = Collector(SETTINGS.warmup)
    for one in samples:
        collector.add(one)
    return collector


def a_report() -> Report:
    """Two hits, one miss, one mixed request, one failure, after a warm-up."""
    return summarise(
        SETTINGS,
        collected(
            sample(0.5, 9.0, "miss"),
            sample(1.0, 0.010, "miss"),
            sample(2.0, 0.001, "local"),
            sample(3.0, 0.002, "exact"),
            sample(4.0, 0.004, "local", "miss", tier="mixed"),
            Sample(4.5, 0.001, 0.5, None, "503 overloaded"),
        ),
        dropped=[0.9, 4.6, 4.7],
        verification=Verification(0.92, {"semantic": TierVerdict(4, 0, 1, 0.5)}, unchecked=2),
    )


def test_figures() -> None:
    """Rates, tiers, errors and latencies leave the warm-up out."""
    report = a_report()
    assert (report.answered, report.failed, report.errors) == (4, 1, {"503 overloaded": 1})
    assert report.items == {"miss": 2, "local": 2, "exact": 1}
    assert report.hit_rate == pytest.approx(3 / 5)
    assert report.elapsed_s == pytest.approx(4.0)
    assert report.answered_per_s == pytest.approx(1.0)
    assert report.texts_per_s == pytest.approx(5 / 4)
    assert report.tokens_per_s == pytest.approx(25 / 4)
    assert report.latency is not None
    assert report.tokens == 25
    assert report.latency.max_ms == pytest.approx(10.0)
    assert {tier: figures.count for tier, figures in report.latency_by_tier.items()} == {
        "exact": 1,
        "local": 1,
        "miss": 1,
        "mixed": 1,
    }
    assert report.generator.dropped == 2


def test_late_answers_stretch_the_time() -> None:
    """An answer after the last arrival's time counts with the time it took, so that rates do not flatter."""
    report = summarise(SETTINGS, collected(sample(4.9, 5.1, "miss")), dropped=[])
    assert report.elapsed_s == pytest.approx(9.0)


def test_interrupted_run() -> None:
    """A run that was stopped early is measured over the time it had."""
    report = summarise(SETTINGS, collected(sample(1.5, 0.1, "miss")), dropped=[], sending_s=2.0)
    assert report.answered_per_s == pytest.approx(1.0)


def test_an_interrupted_run_is_said(tmp_path: Path) -> None:
    """It does not pass for a whole one: in print, on its page, beside another, in JSON; its latencies are real."""
    report = summarise(SETTINGS, collected(sample(1.5, 0.1, "miss")), dropped=[], sending_s=2.0)
    assert (report.interrupted_after_s, report.is_valid, report.is_the_servers) == (1.0, False, True)
    said = "Interrupted after 1.0 of 4 s: these figures are of that time alone."
    assert said in shown(report)
    assert said in render(report)
    planned = replace(SETTINGS, workload_sha256="0" * 64)
    whole = replace(a_report(), settings=planned)
    both = compare.render((("one", replace(report, settings=planned)), ("other", whole)))
    assert f"one: {said}" in both
    assert "Both began to send the same texts" in both
    assert "Both sent the same texts" in compare.render((("one", whole), ("other", whole)))
    assert "not the server" not in shown(report) + render(report)
    (tmp_path / "report.json").write_bytes(report.to_json())
    assert orjson.loads(report.to_json())["is_valid"] is False
    assert read_report(tmp_path / "report.json").interrupted_after_s == 1.0
    assert "Interrupted" not in shown(a_report()) + render(a_report())


def test_a_run_that_is_interrupted_in_its_warm_up_has_no_seconds() -> None:
    """Nothing was counted, and that is said."""
    report = summarise(SETTINGS, collected(), dropped=[], sending_s=0.5)
    assert "Interrupted after 0.0 of 4 s" in shown(report)


def test_nothing_answered() -> None:
    """A run without answers has no percentiles and no hit rate, and still a report."""
    report = summarise(SETTINGS, collected(), dropped=[])
    assert (report.answered, report.latency, report.hit_rate) == (0, None, None)
    assert shown(report)
    assert render(report)


def test_unstated_tiers_count_neither_as_hits_nor_as_misses() -> None:
    """The hit rate is over texts whose tier is known."""
    assert collected(sample(2, 0.1, "unstated"), sample(2, 0.1, "local")).hit_rate == 1.0


def test_a_late_generator_is_said() -> None:
    """Lag at the 99th percentile above the bound is a verdict, in print and in JSON."""
    late = Sample(2.0, 0.2, 0.3, Answer(["v"], "miss", ["miss"], 5))
    report = summarise(SETTINGS, collected(late), dropped=[])
    assert report.generator.fell_behind
    assert not report.is_valid
    assert "generator fell behind" in shown(report)
    assert "not the server's" in shown(report)
    assert orjson.loads(report.to_json())["generator"]["fell_behind"] is True


def test_json_holds_the_whole_report() -> None:
    """JSON carries settings, figures and verdicts."""
    payload = orjson.loads(a_report().to_json())
    assert payload["settings"]["seed"] == 0
    assert payload["latency_by_tier"]["exact"]["p50_ms"] == pytest.approx(2.0)
    assert payload["verification"]["false_reuse_rate"] == 0.25
    assert payload["generator"]["fell_behind"] is False


def test_print_names_every_figure() -> None:
    """The table shows hit rate by tier, latency by tier, failures, false reuse and dropped arrivals."""
    text = shown(a_report())
    for expected in (
        "hit rate 60.0%",
        "answered 1.0 requests/s",
        "mixed",
        "503 overloaded",
        "25.00% below 0.92",
        "2 could not be computed again",
        "dropped by the generator: 2 requests",
        "a<b>model",
    ):
        assert expected in text


def test_the_json_is_read_back_whole(tmp_path: Path) -> None:
    """What is written can be compared later: reading it gives the same report."""
    report = a_report()
    (tmp_path / "report.json").write_bytes(report.to_json(found={"rate": 1}))
    assert read_report(tmp_path / "report.json") == report


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"no json", "is not JSON"),
        (b"[]", "not a report of this version"),
        (b'{"answered": 4}', "not a report of this version"),
        (b'{"format": 2}', "settings: Field required"),
    ],
)
def test_other_files_are_no_reports(tmp_path: Path, content: bytes, complaint: str) -> None:
    """Another file, and a report of another version, is one message that names the field."""
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(ReportError, match=complaint):
        read_report(tmp_path / "report.json")


def test_kinds_are_counted_by_tier() -> None:
    """What a text was to the stream stands beside where its vector came from."""
    collector = Collector(0.0)
    answer = Answer(["v"] * 3, "mixed", ["miss", "local", "semantic"], 9)
    collector.add(Sample(1.0, 0.0, 0.1, answer), Arrival(1.0, ["a", "b", "c"], ["new", "repeat", "new"]))
    report = summarise(SETTINGS, collector, dropped=[])
    assert report.kinds == {"new": {"miss": 1, "semantic": 1}, "repeat": {"local": 1}}


def test_the_time_line_has_all_that_was_due_and_all_that_ended() -> None:
    """Offered counts when a request was due, dropped ones too; served when it ended; the warm-up is in it."""
    timeline = a_report().timeline
    assert (sum(row.offered for row in timeline.rows), sum(row.dropped for row in timeline.rows)) == (9, 3)
    assert (sum(row.served for row in timeline.rows), sum(row.failed for row in timeline.rows)) == (5, 1)
    late = int(9.5 / timeline.width_s)
    assert timeline.rows[late].served == 1  # due at 0.5 and answered 9 s later
    assert timeline.rows[int(0.5 / timeline.width_s)].max_ms == pytest.approx(9000)


def test_the_time_line_is_bounded() -> None:
    """A test of a day has no more rows than one of a minute, and what never ends counts in the last."""
    builder = TimelineBuilder(86_400.0, 0.0)
    for hour in range(24):
        builder.add(sample(3600.0 * hour, 1e7, "miss"))
    assert len(builder.build([]).rows) <= 2 * MAX_ROWS


def test_lag_is_kept_apart_from_latency() -> None:
    """What the generator sent late is in the latency from due, and not in that from sent."""
    late = Sample(2.0, 0.2, 0.3, Answer(["v"], "miss", ["miss"], 5))
    report = summarise(SETTINGS, collected(late), dropped=[])
    assert report.latency is not None
    assert report.latency_from_sent is not None
    assert report.latency.max_ms == pytest.approx(300)
    assert report.latency_from_sent.max_ms == pytest.approx(100)


def test_the_page_says_whose_latencies_they_are() -> None:
    """A late generator, and dropped requests, are a banner, and the headline says that it is not the server's."""
    late = Sample(2.0, 0.2, 0.3, Answer(["v"], "miss", ["miss"], 5))
    page = render(summarise(SETTINGS, collected(late), dropped=[3.0]))
    assert "The generator fell behind" in page
    assert "1 requests were never sent" in page
    assert page.count("not the server&#x27;s</small>") == 2


def shown(report: Report) -> str:
    """What `show` prints, as plain text."""
    console = Console(file=io.StringIO(), width=200)
    show(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()

"""Replayed streams: which texts are sent, what is said of the figures, the Markdown block and the picture."""

import asyncio
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from common.document_table import replace_table
from loadtest.bench.__main__ import bench
from loadtest.bench.machine import describe
from loadtest.bench.processes import BenchmarkError
from loadtest.bench.replays.picture import draw
from loadtest.bench.replays.report import HEAD, MARKER, Pass, Replayed, Replays, markdown, rows, worse
from loadtest.bench.replays.run import SEMANTIC_ON, SETTINGS, Sent
from loadtest.bench.replays.sources import FOLDER, Source, Stream, of_folder, parse
from loadtest.client import Answer, EmbeddingsClient, RequestFailed
from loadtest.figures import latencies
from loadtest.verify import Sampler, TierVerdict, Verification

TIERS = {
    "cache off": {"miss": 100},
    "exact only": {"local": 20, "exact": 10, "miss": 70},
    "everything on": {"local": 20, "exact": 10, "semantic": 10, "miss": 60},
}


def a_pass(tiers: Mapping[str, int], cpu_s: float, p99_ms: float = 10.0, violations: int = 0) -> Pass:
    """100 texts; every hit was checked."""
    latency = latencies([0.001] * 98 + [p99_ms / 1000] * 2)
    assert latency is not None
    hits = sum(tiers.values()) - tiers.get("miss", 0)
    checked = {"local": TierVerdict(hits, hits - violations, violations, 0.91 if violations else 1.0)} if hits else {}
    cpu = {"engine": cpu_s * 0.6, "gateway": cpu_s * 0.3, "redis": cpu_s * 0.1}
    return Pass(cpu, tiers, 2.0, latency, {}, Verification(0.92, checked, 0) if hits else None)


def some_replays(**changed: Pass) -> Replays:
    """Two streams in all settings, each cheaper than the one before; `changed` replaces a setting's pass."""
    cpu_s = {"cache off": 1.0, "exact only": 0.8, "everything on": 0.7}
    replayed = [
        Replayed(
            stream,
            name,
            100,
            1,
            8,
            0.3,
            [changed.get(name.replace(" ", "_"), a_pass(TIERS[name], cpu_s[name])) for _ in range(2)],
        )
        for stream in ("questions", "chunks & <more>")
        for name in TIERS
    ]
    machine = replace(describe(None, None, "own"), cpu="a CPU", kind="AVX2", load_before=0.1)
    return Replays("2026-01-02", machine, "python -m loadtest.bench replays --data FOLDER", 0.92, 0.25, replayed)


def test_nothing_worse_is_one_line() -> None:
    """Where caching cost nothing, that is said."""
    assert list(worse(some_replays())) == [
        "No setting took more CPU or time than without a cache, nothing failed, no violation was found."
    ]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"everything_on": a_pass(TIERS["everything on"], 1.1)}, "1.10 x the CPU of cache off."),
        ({"everything_on": a_pass(TIERS["everything on"], 0.9)}, "1.12 x the CPU of exact only."),
        ({"exact_only": a_pass(TIERS["exact only"], 0.8, p99_ms=40)}, "p99 40 ms against 10 of cache off."),
        ({"everything_on": a_pass(TIERS["exact only"], 0.7)}, "no semantic hit in 100 texts."),
        (
            {"everything_on": a_pass(TIERS["everything on"], 0.7, violations=3)},
            "6 of 80 checked hits were below a cosine of 0.92.",
        ),
        (
            {"cache_off": replace(a_pass(TIERS["cache off"], 1.0), failed={"503": 2})},
            "4 requests failed; the CPU they took counts.",
        ),
    ],
)
def test_what_is_worse_is_said(changed: Mapping[str, Pass], line: str) -> None:
    """Costs above those of less caching, slower answers, hits that violate, tiers that did nothing, failures."""
    (setting,) = changed
    found = list(worse(some_replays(**changed)))
    assert f"questions, {setting.replace('_', ' ')}: {line}" in found


def test_rows_have_every_figure() -> None:
    """CPU a text and beside no cache, rate, percentiles, shares by tier, computed texts, what was checked."""
    row = dict(zip(HEAD, rows(some_replays())[2], strict=True))
    assert row["setting"] == "everything on"
    assert (row["CPU ms a text"], row["of cache off"], row["texts/s"]) == ("7.00", "0.70", "50")
    assert (row["local"], row["exact"], row["semantic"], row["computed"]) == ("20.0%", "10.0%", "10.0%", "60")
    assert (row["violations of checked"], row["lowest cosine"]) == ("0 of 80", "1.0000")
    assert rows(some_replays())[0][-2:] == ["", ""]


def test_the_block_says_the_worst_first_and_how_it_was_measured() -> None:
    """Losses, then date, machine and noise, command, streams, table, picture; it takes the old block's place."""
    changed = some_replays(everything_on=a_pass(TIERS["everything on"], 1.1))
    noisy = replace(changed, machine=replace(changed.machine, load_before=4.0))
    block = markdown(noisy, "replays.svg")
    parts = ("1.10 x the CPU", "2026-01-02, a CPU (AVX2)", "NOT QUIET", "    python -m", "30% seen before", "| ---")
    places = [block.index(part) for part in (*parts, "](replays.svg)")]
    assert places == sorted(places)
    assert block.count("\n| ") == 2 + 6
    document = f"before\n<!-- {MARKER} -->\nold\n<!-- /{MARKER} -->\nafter\n"
    written = replace_table(document, MARKER, block)
    assert "old" not in written
    assert replace_table(written, MARKER, block) == written


def test_everything_is_written_as_json() -> None:
    """Passes, derived figures, and what is worse."""
    payload = orjson.loads(some_replays().to_json())
    assert payload["replayed"][1]["of_cache_off"] == pytest.approx(0.8)
    assert payload["replayed"][1]["shares"]["exact"] == pytest.approx(0.1)
    assert len(payload["replayed"][1]["passes"]) == 2
    assert payload["worse"]


def test_the_picture_is_well_formed_and_in_proportion() -> None:
    """A row for each stream and setting; bars of CPU are as long as the CPU, bars of tiers fill the width."""
    text = draw(some_replays())
    assert len(text) < 150_000
    root = ET.fromstring(text)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("everything on") == 2
    assert "chunks & <more>" in texts
    widths = [float(bar.attrib["width"]) for bar in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    off, exact = sum(widths[0:3]), sum(widths[3:6])
    assert exact / off == pytest.approx(0.8, abs=0.01)
    assert sum(widths[18:22]) == pytest.approx(sum(widths[22:26]), abs=0.3)


def test_a_stream_takes_as_much_of_each_file(tmp_path: Path) -> None:
    """Releases follow each other, each from its beginning; sizes and repeats are counted."""
    for name in "ab":
        (tmp_path / name).write_text("".join(f"{name} {number}\n" for number in range(9)))
    stream = Source("s", [tmp_path / "a", tmp_path / "b", tmp_path / "a"], size=2).read(6)
    assert stream.texts == ["a 0", "a 1", "b 0", "b 1", "a 0", "a 1"]
    assert [len(texts) for texts in stream.requests] == [2, 2, 2]
    assert stream.repeat_share == pytest.approx(1 / 3)
    assert len(Source("s", [tmp_path / "a"]).read(None).texts) == 9


def test_a_shuffled_stream_is_the_same_each_time(tmp_path: Path) -> None:
    """A file that is sorted by what is asked is not sent in that order."""
    (tmp_path / "a").write_text("".join(f"text {number}\n" for number in range(50)))
    first, second = (Source("s", [tmp_path / "a"], shuffled=True).read(20).texts for _ in range(2))
    assert first == second
    assert first != sorted(first, key=lambda text: int(text.split()[1]))


def test_the_folders_streams_are_those_that_are_there(tmp_path: Path) -> None:
    """One of the four is enough; none is refused with what was looked for."""
    with pytest.raises(BenchmarkError, match=r"banking77/train\.tsv"):
        of_folder(tmp_path)
    path = tmp_path / FOLDER[0].files[0]
    path.parent.mkdir()
    path.write_text("position\tquery\n1\tone query\n")
    (source,) = of_folder(tmp_path)
    assert source.read(None) == Stream("web query log", ["one query"], 1)


def test_streams_of_ones_own(tmp_path: Path) -> None:
    """A name and files, and if need be the field and the texts in a request."""
    for name in "ab":
        (tmp_path / name).write_text("text\n")
    source = parse(f"mine={tmp_path}/a,{tmp_path}/b:question:32")
    assert (source.name, source.field, source.size, len(source.files)) == ("mine", "question", 32, 2)
    assert parse(f"mine={tmp_path}/a").size == 1


@pytest.mark.parametrize("given", ["mine", "=a", "mine={}/a:f:x", "mine={}/a:f:0", "mine={}/a:f:1:2", "mine={}/none"])
def test_a_stream_that_cannot_be_read_is_named(given: str, tmp_path: Path) -> None:
    """The message has the option as it was given."""
    (tmp_path / "a").write_text("text\n")
    with pytest.raises(BenchmarkError, match="--stream"):
        parse(given.format(tmp_path))


class FakeClient(EmbeddingsClient):
    """Answers from the exact tier, a text that says so from the semantic one; one that says so fails."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.in_flight = self.most_in_flight = 0

    async def embed(self, texts: list[str], cache_control: str | None = None) -> Answer:  # type: ignore[override]
        """See the class."""
        self.sent += texts
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        if "fail" in texts[0]:
            raise RequestFailed("503")
        tiers = ["semantic" if "semantic" in text else "exact" for text in texts]
        return Answer(["AAAA"] * len(texts), "mixed", tiers, len(texts))


async def test_a_closed_loop_keeps_the_order_and_counts() -> None:
    """At most so many at a time, in order; failures by kind, texts by tier, all semantic hits kept for checking."""
    client = FakeClient()
    sampler = Sampler(1e-9, always=frozenset({"semantic"}))
    sent = Sent(client, None, sampler)
    requests: Iterator[list[str]] = iter([["a", "semantic b"], ["fail"], ["c"], ["semantic d"]])
    await sent.all(requests, 2)
    one = sent.passed({"engine": 1.0}, 1.0, None)
    assert client.sent == ["a", "semantic b", "fail", "c", "semantic d"]
    assert client.most_in_flight == 2
    assert one.failed == {"503": 1}
    assert one.tiers == {"exact": 2, "semantic": 2}
    assert {served.text for served in sampler.kept} == {"semantic b", "semantic d"}
    assert one.latency.count == 3


def test_nothing_is_kept_where_nothing_is_checked() -> None:
    """A share of nought is nought for the semantic tier too."""
    sampler = Sampler(0.0, always=frozenset({"semantic"}))
    sampler.offer(["a"], Answer(["AAAA"], "semantic", ["semantic"], 1))
    assert sampler.kept == []


def test_settings_differ_in_what_the_cache_may_do() -> None:
    """Nothing at all; the exact tiers; the product's own default; and, where asked for, hits without proof."""
    assert [(one.name, one.semantic_mode, one.cache_control) for one in (*SETTINGS, SEMANTIC_ON)] == [
        ("cache off", "off", "no-store"),
        ("exact only", "off", None),
        ("everything on", "auto", None),
        ("semantic_mode on", "on", None),
    ]


def test_the_command_refuses_before_it_starts_anything(tmp_path: Path) -> None:
    """No texts; a document without the markers."""
    (tmp_path / "model.onnx").touch()
    (tmp_path / "texts").write_text("a text\n")
    bundle = ["--bundle", str(tmp_path)]
    done = CliRunner().invoke(bench, ["replays", *bundle])
    assert done.exit_code == 2
    assert "--data or --stream" in done.output
    document = tmp_path / "document.md"
    document.write_text("no markers")
    stream = f"mine={tmp_path}/texts"
    done = CliRunner().invoke(bench, ["replays", *bundle, "--stream", stream, "--document", str(document)])
    assert done.exit_code == 1
    assert "<!-- replays -->" in done.output

"""What benchmarks send, how they compare rounds, and how they mind their children."""

import http.server
import io
import itertools
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
from click.testing import CliRunner
from rich.console import Console

from engine.feeds import feeds
from engine.protocol import Lane, decode_request
from loadtest.bench.__main__ import bench
from loadtest.bench.bare_apps import echo, route
from loadtest.bench.engine import RunCounts, RunMeter
from loadtest.bench.gateway import RATIOS
from loadtest.bench.generator import Measurement
from loadtest.bench.graph import feed_for, padded
from loadtest.bench.machine import describe
from loadtest.bench.norepeat import (
    AUTO,
    CACHE_OFF,
    ORDERS,
    SEMANTIC_OFF,
    CpuResult,
    Turn,
    cpu_seconds,
    distinct_texts,
    made_texts,
    role_of,
    send,
)
from loadtest.bench.options import Bench
from loadtest.bench.processes import BenchmarkError, Child, free_port, pinned, run_pinned
from loadtest.bench.rounds import (
    Contender,
    Difference,
    Ratio,
    Result,
    alternate,
    results_json,
    show,
)
from loadtest.bench.stack import Stack, check_bundle
from loadtest.bench.wire import batches, embeddings_body, http_request, vectors_body, whole
from loadtest.display import step
from loadtest.texts import read_texts

IDS = [[101, 7, 102], [101, 102], [101, 8, 9, 10, 102]]


def test_engine_requests_are_the_engines_protocol() -> None:
    """The engine reads back the token ids; a lone text is interactive, several are bulk."""
    batch = decode_request(vectors_body(IDS))
    assert batch.lengths.tolist() == [3, 2, 5]
    assert batch.input_ids.tolist() == [token for ids in IDS for token in ids]
    assert batch.lane is Lane.BULK
    assert decode_request(vectors_body(IDS[:1])).lane is Lane.INTERACTIVE


def test_graph_gets_what_the_engine_would_feed_it() -> None:
    """The bare graph runs on the very arrays that the engine makes, types included."""
    ours, theirs = feed_for(["slots"], IDS), feeds([np.array(ids, np.int32) for ids in IDS])
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        assert ours[name].tolist() == array.tolist()


def test_padded_graphs_get_ids_and_mask() -> None:
    """The usual form of graph gets a rectangle and says where the tokens are."""
    feed = padded(IDS)
    assert feed["input_ids"].tolist()[1] == [101, 102, 0, 0, 0]
    assert feed["attention_mask"].sum(axis=1).tolist() == [3, 2, 5]


def test_batches_and_whole_requests() -> None:
    """Batches may end short; whole requests never do, whatever the number of texts."""
    assert batches([1, 2, 3], 2) == [[1, 2], [3]]
    assert whole([1, 2, 3], 2) == [[1, 2]]
    assert whole([1, 2, 3, 4], 2) == [[1, 2], [3, 4]]
    assert whole([1], 3) == [[1, 1, 1]]


def test_http_request_bytes() -> None:
    """A request is complete: host, length, extra headers, body."""
    request = http_request("http://a:9", "/p", b"xyz", headers={"x-cache-control": "no-cache"})
    head, body = request.split(b"\r\n\r\n")
    assert body == b"xyz"
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /p HTTP/1.1"
    assert {b"host: a:9", b"content-length: 3", b"x-cache-control: no-cache"} <= set(lines)


def test_lone_texts_go_as_strings() -> None:
    """One text is a string, several are a list, as clients send them."""
    assert orjson.loads(embeddings_body("m", ["a"]))["input"] == "a"
    assert orjson.loads(embeddings_body("m", ["a", "b"]))["input"] == ["a", "b"]


def a_result(order: list[str] | None = None) -> Result:
    """Two contenders, the second half as fast, both slower in the second round."""
    speeds = iter([9.0, 9.0, 1.0, 1.0, 0.5, 0.5])  # the first round does not count

    def contender(name: str, rate: float, p50_ms: float, tier: str) -> Contender:
        def measure() -> Measurement:
            if order is not None:
                order.append(name)
            return Measurement(rate * next(speeds), p50_ms, 2 * p50_ms, tiers={tier: 5})

        return Contender(name, measure)

    contenders = [contender("slow", 100, 3.0, "exact"), contender("fast", 200, 1.0, "local")]
    outcomes = alternate(contenders, 2, quiet(), settle_s=0)
    return Result(
        "a [title]",
        describe(0, 1, "own"),
        outcomes,
        ratios=[Ratio("slow / fast", "slow", "fast", 0.6), Ratio("fast / slow", "fast", "slow", 2)],
        differences=[Difference("slow - fast", "slow", "fast", 1.0)],
        figures={"padding": 0.25},
    )


def quiet() -> Console:
    """A console that keeps what is printed."""
    return Console(file=io.StringIO(), width=160)


def test_rounds_alternate_and_ratios_pair_them() -> None:
    """Contenders take turns, and a drift between rounds leaves the ratio alone."""
    order: list[str] = []
    result = a_result(order)
    assert order == ["slow", "fast"] * 3
    ratio = result.ratio(result.ratios[0])
    assert (ratio.median, ratio.low, ratio.high) == (0.5, 0.5, 0.5)
    assert result.difference(result.differences[0]).median == 2.0


def test_progress_is_a_line_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """In a log one sees what runs, and the figures on standard output stay alone."""
    with step(Console(), "round 1 of 2: [peer]"):
        pass
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "round 1 of 2: [peer]\n")


def test_contenders_of_batches_count_texts() -> None:
    """A request of 32 counts as 32 texts a second."""
    outcomes = alternate([Contender("x", lambda: Measurement(2.0, 1.0, 1.0), 32)], 1, quiet(), settle_s=0)
    assert outcomes["x"].rates == [64.0]


def test_print_and_json() -> None:
    """Both show machine, contenders, ratios with verdicts, differences and shares."""
    console = quiet()
    show(a_result(), console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for expected in ("a [title]", "servers on core 0", "slow / fast", "≥ 0.6", "missed", "reached", "padding: 0.25"):
        assert expected in text
    payload = orjson.loads(results_json([a_result()]))[0]
    assert payload["ratios"]["slow / fast"]["median"] == 0.5
    assert payload["differences_ms"]["slow - fast"]["median"] == 2.0
    assert payload["contenders"]["fast"]["rounds"][0]["tiers"] == {"local": 5}


@pytest.mark.parametrize(("has_dot_products", "verdict"), [(True, "missed"), (False, "an aim for CPUs with INT8")])
def test_an_aim_set_for_other_cpus_gets_no_verdict(has_dot_products: bool, verdict: str) -> None:
    """It was measured with INT8 dot products; without them it is neither reached nor missed."""
    console, result = quiet(), a_result()
    ratio = replace(result.ratios[0], dot_products_only=True)
    machine = replace(result.machine, int8_dot_products=has_dot_products)
    show(replace(result, machine=machine, ratios=[ratio]), console)
    assert isinstance(console.file, io.StringIO)
    assert verdict in console.file.getvalue()


def test_failures_and_saturation_are_shown() -> None:
    """A contender that failed requests, or was limited by the generator, says so beside its figure."""
    bad = Measurement(1.0, 1.0, 1.0, failed={"503": 4}, busy=0.97)
    outcome = alternate([Contender("x", lambda: bad)], 1, quiet(), settle_s=0)["x"]
    assert "4 failed (503)" in outcome.remarks
    assert "generator saturated" in outcome.remarks


def test_aims_of_the_gateway() -> None:
    """The ratios promised for cached requests are the ones compared."""
    assert [ratio.aim for ratio in RATIOS] == [0.6, 0.7, 0.45, 0.30]


def test_run_meter() -> None:
    """Each contender is told the padding and the filling of its own runs; one that ran nothing is left out."""
    meter = RunMeter("unused", {"a": RunCounts(80.0, 100.0, 30.0, 2.0), "nothing": RunCounts(0, 0, 0, 0)})
    assert meter.figures() == {"padding share, a": pytest.approx(0.2), "texts in a run, a": 15.0}


def test_children_run_where_they_are_pinned() -> None:
    """A pinned child sees one core, and the parent keeps its own."""
    before = os.sched_getaffinity(0)
    core = min(before)
    script = "import os; print(*os.sched_getaffinity(0))"
    assert run_pinned((sys.executable, "-c", script), b"", core, 30).split() == [str(core).encode()]
    assert os.sched_getaffinity(0) == before


def test_unknown_core_is_named() -> None:
    """A core that is not there is one line."""
    with pytest.raises(BenchmarkError, match="core 4000 cannot be used"), pinned(4000):
        pass


def test_child_that_ends_is_told_with_its_last_lines(tmp_path: Path) -> None:
    """A server that dies at start is shown with what it said."""
    command = (sys.executable, "-c", "raise SystemExit('no such model')")
    with Child("server", command, tmp_path) as child, pytest.raises(BenchmarkError, match="no such model"):
        child.wait_for(f"http://127.0.0.1:{free_port()}/health", 120)


def test_missing_bundle_names_the_remedy() -> None:
    """Without a model the benchmark says how to get one."""
    with pytest.raises(BenchmarkError, match="make up"):
        check_bundle(Path("/nowhere"))


def test_children_do_not_inherit_the_users_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark measures the defaults and what it names itself."""
    monkeypatch.setenv("DEJAVEC_SEMANTIC_MODE", "observe")
    script = "import os; print({k: v for k, v in os.environ.items() if 'DEJAVEC' in k})"
    with Stack() as stack:
        child = stack.child("env", (sys.executable, "-c", script), {"DEJAVEC_CACHE_TTL_SECONDS": "9"})
        with pytest.raises(BenchmarkError, match="ended with 0"):
            child.wait_for(f"http://127.0.0.1:{free_port()}/health", 120)
        assert child.last_lines() == "{'DEJAVEC_CACHE_TTL_SECONDS': '9'}"


def a_cpu_result() -> CpuResult:
    """100 texts a turn; in the second round the machine is twice as slow for all."""

    def turns(gateway_s: float, tiers: dict[str, int]) -> list[Turn]:
        return [Turn({"gateway": slow * gateway_s, "engine": slow * 0.1}, tiers) for slow in (1, 2)]

    return CpuResult(
        "no [repeats]",
        describe(None, None, "own"),
        {
            CACHE_OFF: turns(0.1, {"miss": 100}),
            SEMANTIC_OFF: turns(0.12, {"miss": 100}),
            AUTO: turns(0.14, {"miss": 90, "semantic": 10}),
        },
    )


def test_cpu_a_text_and_its_ratios() -> None:
    """CPU of all processes over the texts of a turn; ratios pair the rounds, so a slow one changes nothing."""
    result = a_cpu_result()
    assert result.turns[AUTO][0].ms_per_text == pytest.approx(2.4)
    assert result.turns[AUTO][0].reused_share == 0.1
    assert result.ms_per_text(CACHE_OFF).high == pytest.approx(4)
    assert result.process_ms(CACHE_OFF, "engine") == pytest.approx(1.5)
    ratio = result.ratio(AUTO, CACHE_OFF)
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((1.2, 1.2, 1.2))
    added = result.added_ms(AUTO, CACHE_OFF)
    assert (added.low, added.high) == pytest.approx((0.4, 0.8))


def test_cpu_figures_are_printed_and_written() -> None:
    """The table names processes, ratios and what was reused; JSON holds every turn."""
    console = quiet()
    a_cpu_result().show(console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for expected in ("no [repeats]", "engine", "auto / cache off", "1.200", "10.0%"):
        assert expected in text
    payload = orjson.loads(results_json([a_cpu_result()]))[0]
    assert payload["ratios"]["auto / semantic off"]["median"] == pytest.approx(24 / 22)
    assert payload["contenders"][AUTO]["rounds"][1]["tiers"] == {"miss": 90, "semantic": 10}


def test_cache_off_never_follows_semantic_off_on_the_same_texts() -> None:
    """Both ask one gateway: what the second left would be found by the first, which must find nothing."""
    for order in ORDERS:
        assert sorted(order) == sorted((CACHE_OFF, SEMANTIC_OFF, AUTO))
        assert order.index(CACHE_OFF) < order.index(SEMANTIC_OFF)


def test_processes_are_told_apart_by_their_commands() -> None:
    """Redis by its server, ours by the command's name; anything else is not counted."""
    assert role_of(["/data/redis-server", "127.0.0.1:7000"]) == "redis"
    assert role_of(["python", "-P", "-m", "deploy.cli", "engine"]) == "engine"
    assert role_of(["python", "-P", "-m", "deploy.cli", "gateway"]) == "gateway"
    assert role_of(["sleep", "1"]) is None
    assert role_of([]) is None


def test_cpu_seconds_of_what_a_supervisor_started() -> None:
    """What a child and its own children used is put on that child's role."""
    burn = "import time\nwhile time.process_time() < 0.2: pass\nprint('burnt', flush=True); input()"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    supervisor = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {nested!r}, 'gateway'])"
    with subprocess.Popen(
        [sys.executable, "-c", supervisor], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "burnt\n"
        used = cpu_seconds(process.pid)
        process.communicate("end\n")
    assert used.keys() == {"gateway"}
    assert used["gateway"] >= 0.19


def test_made_texts_never_repeat() -> None:
    """Thousands of texts, none twice whatever their case, the same ones each time."""
    sources = read_texts(None)
    first, second = (list(itertools.islice(made_texts(sources, seed=3), 5000)) for _ in range(2))
    assert first == second
    assert len({text.casefold() for text in first}) == 5000
    assert all(len(text.split()) > 1 for text in first)


def test_a_file_with_too_few_texts_says_what_to_lower(tmp_path: Path) -> None:
    """Repeating some would measure the cache."""
    path = tmp_path / "texts.txt"
    path.write_text("one text\nand another\none text")
    with pytest.raises(BenchmarkError, match="2 distinct texts, and 3 are needed: lower --rounds"):
        distinct_texts(a_bench(path, count=None), 3)


class RepeatingGateway(http.server.BaseHTTPRequestHandler):
    """Says that it had every text in its exact tier."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b'{"data": [{"id": "m"}]}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer(b"{}")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("x-cache", "exact")
        self.send_header("x-cache-items", "miss,exact*31")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


def test_a_stream_that_repeats_is_refused() -> None:
    """Texts that come from the cache would make it look cheap."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), RepeatingGateway) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(BenchmarkError, match="31 of 32 texts were in the cache already"):
                send(f"http://127.0.0.1:{server.server_port}", [["text"] * 32], {})
        finally:
            server.shutdown()
            thread.join()


async def test_bare_apps_answer_as_the_gateway_does() -> None:
    """Echo and route give one base64 vector in OpenAI's shape."""
    for app in (echo, route):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://bare") as client:
            answer = await client.post("/v1/embeddings", content=embeddings_body("m", ["text"]))
        assert answer.status_code == 200
        assert len(answer.json()["data"][0]["embedding"]) == 2048


@pytest.mark.parametrize("command", ["gateway", "engine"])
def test_commands_want_both_urls(command: str) -> None:
    """Half a running stack is refused before anything starts."""
    option = "--l0-url" if command == "gateway" else "--engine-url"
    result = CliRunner().invoke(bench, [command, option, "http://127.0.0.1:1"])
    assert result.exit_code == 2
    assert "or neither" in result.output


def test_benchmarks_take_the_same_sample_each_time(tmp_path: Path) -> None:
    """Texts are distinct, in a seeded order that is not the file's, and cut to the count."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"text {number % 40}" for number in range(100)))
    first, second = (a_bench(path, count=30).texts() for _ in range(2))
    assert first == second
    assert len(set(first)) == 30
    assert first != sorted(first, key=lambda text: int(text.split()[1]))


def a_bench(texts_file: Path, count: int | None) -> Bench:
    """The options of a benchmark."""
    return Bench(
        core=None,
        generator_core=None,
        rounds=1,
        seconds=0.2,
        connections=1,
        texts_file=texts_file,
        field="text",
        count=count,
        bundle=Path("unused"),
        generator="own",
        json_file=None,
        machine=describe(None, None, "own"),
        console=quiet(),
    )

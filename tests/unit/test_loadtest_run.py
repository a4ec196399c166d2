"""Whole load tests against a stand-in gateway with a cache of its own."""

import asyncio
import base64
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from loadtest.cli import loadtest
from loadtest.client import EmbeddingsClient, RequestFailed, parse_answer
from loadtest.verify import Sampler, Served, judge, verify

MODEL = "stand-in"


def vector_of(text: str) -> str:
    """A unit vector that is the text's own."""
    values = np.random.default_rng(len(text) * 1000 + ord(text[0])).standard_normal(8)
    return base64.b64encode((values / np.linalg.norm(values)).astype("<f4").tobytes()).decode()


class StandIn:
    """Answers as the gateway does: the second time from `tier`, with `wrong` texts served another's vector."""

    def __init__(self, *, status: int = 200, tier: str = "local", wrong: frozenset[str] = frozenset()) -> None:
        self.status, self.tier, self.wrong = status, tier, wrong
        self.seen: set[str] = set()
        self.headers: list[dict[str, str]] = []

    def app(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/v1/models", self.models)
        application.router.add_post("/v1/embeddings", self.embeddings)
        return application

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def embeddings(self, request: web.Request) -> web.Response:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.status != 200:
            error = {"message": "no", "type": "overloaded", "param": None, "code": None}
            return web.json_response({"error": error}, status=self.status)
        payload = await request.json()
        assert payload["model"] == MODEL
        assert payload["encoding_format"] == "base64"
        texts = [payload["input"]] if isinstance(payload["input"], str) else payload["input"]
        fresh = request.headers.get("x-cache-control") == "no-store"
        tiers = [self.tier if text in self.seen and not fresh else "miss" for text in texts]
        self.seen.update(texts)
        items = [
            {"index": i, "embedding": vector_of("other" if text in self.wrong and tier != "miss" else text)}
            for i, (text, tier) in enumerate(zip(texts, tiers, strict=True))
        ]
        body = {"data": items[::-1], "usage": {"prompt_tokens": len(texts), "total_tokens": 3 * len(texts)}}
        overall = tiers[0] if len(set(tiers)) == 1 else "mixed"
        return web.json_response(body, headers={"x-cache": overall, "x-cache-items": ",".join(tiers)})


@contextmanager
def serving(stand_in: StandIn) -> Iterator[str]:
    """Serve in a thread of its own, since the command runs its own event loop; the URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = web.AppRunner(stand_in.app())

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()

    asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    host, port = runner.addresses[0]
    try:
        yield f"http://{host}:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def command(url: str, *options: str) -> Result:
    """Run `loadtest` for half a second at 60 requests a second."""
    fixed = ("--url", url, "--seconds", "0.5", "--rate", "60", "--pace", "constant")
    return CliRunner().invoke(loadtest, [*fixed, *options], env={"COLUMNS": "200"})


@pytest.fixture
def texts(tmp_path: Path) -> str:
    """A file of three texts."""
    path = tmp_path / "texts.txt"
    path.write_text("alpha\nbeta\ngamma rays\n")
    return str(path)


def test_command_reports_and_writes_files(texts: str, tmp_path: Path) -> None:
    """Three texts replayed thirty times: three misses, the rest hits, all of them right."""
    json_file, html_file = tmp_path / "report.json", tmp_path / "report.html"
    with serving(StandIn()) as url:
        outputs = ("--json", str(json_file), "--html", str(html_file))
        result = command(url, "--texts", texts, "--verify", "1", "--api-key", "secret", *outputs)
    assert result.exit_code == 0, result.output
    assert "hit rate 90.0%" in result.output
    report = orjson.loads(json_file.read_bytes())
    assert report["settings"]["model"] == MODEL
    assert report["answered"] == 30
    assert report["items"] == {"local": 27, "miss": 3}
    assert report["verification"]["tiers"]["local"] == {
        "checked": 27,
        "same_bytes": 27,
        "below_fidelity": 0,
        "lowest_cosine": 1.0,
        "cosine_counts": [0] * 100,
    }
    assert report["kinds"] == {"new": {"miss": 3}, "repeat": {"local": 27}}
    assert report["machine"]["cpu"]
    assert "</html>" in html_file.read_text()
    assert "secret" not in result.output + json_file.read_text() + html_file.read_text()


def test_command_sends_key_and_cache_control(texts: str) -> None:
    """The API key goes as a bearer token, the cache control as its header."""
    stand_in = StandIn()
    with serving(stand_in) as url:
        command(url, "--texts", texts, "--api-key", "secret", "--cache-control", "no-store")
    assert {headers["authorization"] for headers in stand_in.headers} == {"Bearer secret"}
    assert {headers["x-cache-control"] for headers in stand_in.headers} == {"no-store"}


def test_gateway_and_key_are_those_of_the_settings(texts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As other client commands have them; what is given goes before, and an empty key is none."""
    monkeypatch.setenv("DEJAVEC_CLIENT_API_KEY", "key-of-the-settings")
    words = ("--texts", texts, "--seconds", "0.1", "--rate", "60", "--pace", "constant")
    for more, sent in (((), "Bearer key-of-the-settings"), (("--api-key", "x"), "Bearer x"), (("--api-key", ""), None)):
        stand_in = StandIn()
        with serving(stand_in) as url:
            monkeypatch.setenv("DEJAVEC_CLIENT_URL", url)
            result = CliRunner().invoke(loadtest, [*words, *more])
        assert result.exit_code == 0, result.output
        assert {headers.get("authorization") for headers in stand_in.headers} == {sent}


def test_a_missing_key_is_named(texts: str) -> None:
    """Where the server refuses every request for want of a key, the option and the setting are said."""
    with serving(StandIn(status=401)) as url:
        result = command(url, "--texts", texts)
    assert "--api-key, or setting client_api_key (DEJAVEC_CLIENT_API_KEY)" in result.output


def test_warmup_is_not_counted(texts: str, tmp_path: Path) -> None:
    """What the warm-up filled the cache with makes no misses in the report."""
    json_file = tmp_path / "report.json"
    with serving(StandIn()) as url:
        command(url, "--texts", texts, "--warmup", "1.5", "--json", str(json_file))
    assert orjson.loads(json_file.read_bytes())["hit_rate"] == 1.0


def test_batches_report_each_text(texts: str, tmp_path: Path) -> None:
    """Tiers are counted by text, latencies by request."""
    json_file = tmp_path / "report.json"
    with serving(StandIn()) as url:
        command(url, "--texts", texts, "--batch", "2", "--json", str(json_file))
    report = orjson.loads(json_file.read_bytes())
    assert sum(report["items"].values()) == 2 * report["answered"] == 60
    assert "mixed" in report["latency_by_tier"]


def test_false_reuse_is_found(texts: str, tmp_path: Path) -> None:
    """A tier that serves another text's vector is caught when the text is computed again."""
    json_file = tmp_path / "report.json"
    with serving(StandIn(tier="semantic", wrong=frozenset({"beta"}))) as url:
        result = command(url, "--texts", texts, "--verify", "1", "--json", str(json_file))
    assert "False reuse" in result.output
    verification = orjson.loads(json_file.read_bytes())["verification"]
    assert verification["tiers"]["semantic"]["below_fidelity"] == 9
    assert verification["false_reuse_rate"] == pytest.approx(9 / 27)


def test_nothing_answered_is_exit_code_1(texts: str) -> None:
    """A server that refuses everything fails the command, and its errors are counted by status and type."""
    with serving(StandIn(status=503)) as url:
        result = command(url, "--texts", texts)
    assert result.exit_code == 1
    assert "503 overloaded" in result.output


def test_no_server_is_one_line(texts: str) -> None:
    """Without a server the command says so instead of running."""
    with serving(StandIn()) as url:
        pass
    result = command(url, "--texts", texts)
    assert result.exit_code == 1
    assert "is the server up?" in result.output
    assert "Traceback" not in result.output


async def test_lost_connections_are_failures() -> None:
    """A port where nobody listens is a failed request with a kind, not an exception of aiohttp's."""
    with serving(StandIn()) as url:
        pass
    async with aiohttp.ClientSession() as session:
        with pytest.raises(RequestFailed, match="cannot connect"):
            await EmbeddingsClient(session, url, MODEL).embed(["alpha"])


@pytest.mark.parametrize(
    ("body", "headers", "kind"),
    [
        (b"no json", {}, "documented shape"),
        (b'{"data": [{"index": 0}]}', {}, "documented shape"),
        (b'{"data": []}', {}, "wrong number"),
        (b'{"data": [{"index": 0, "embedding": ""}]}', {"x-cache-items": "miss*2"}, "contradictory"),
    ],
)
def test_broken_answers_are_failures(body: bytes, headers: dict[str, str], kind: str) -> None:
    """A 200 that breaks the contract counts as failed."""
    with pytest.raises(RequestFailed, match=kind):
        parse_answer(body, headers, 1)


async def test_verification_does_not_compare_the_cache_with_itself() -> None:
    """A server that ignores no-store leaves its vectors unchecked, and says how many."""

    class CachedAlways(StandIn):
        async def embeddings(self, request: web.Request) -> web.Response:
            response = await super().embeddings(request)
            response.headers.update({"x-cache": "local", "x-cache-items": "local"})
            return response

    with serving(CachedAlways()) as url:
        async with aiohttp.ClientSession() as session:
            client = EmbeddingsClient(session, url, MODEL)
            found = await verify(client, [Served("alpha", "local", vector_of("alpha"))], 0.92)
    assert (found.checked, found.unchecked, found.false_reuse_rate) == (0, 1, None)


def test_judge() -> None:
    """Equal bytes are cosine 1; another's vector is below any fidelity."""
    same, other = vector_of("alpha"), vector_of("gamma rays")
    verdict = judge([(same, same), (other, same)], 0.92)
    assert (verdict.checked, verdict.same_bytes, verdict.below_fidelity) == (2, 1, 1)
    assert verdict.lowest_cosine < 0.92


def test_sampler_keeps_hits_only() -> None:
    """Misses were computed and need no check; a share of 0 keeps nothing."""
    answer = parse_answer(
        orjson.dumps({"data": [{"index": i, "embedding": "v"} for i in range(3)]}),
        {"x-cache": "mixed", "x-cache-items": "miss,exact,local"},
        3,
    )
    sampler = Sampler(1.0)
    sampler.offer(["a", "b", "c"], answer)
    assert [(served.text, served.tier) for served in sampler.kept] == [("b", "exact"), ("c", "local")]
    nothing = Sampler(0.0)
    nothing.offer(["a", "b", "c"], answer)
    assert nothing.kept == []


def test_cosines_of_wrong_hits_are_distributed() -> None:
    """Vectors that are not equal to the byte are counted by cosine; the lowest bin has what lies below it."""
    same, other = vector_of("alpha"), vector_of("gamma rays")
    counts = judge([(same, same), (other, same)], 0.92).cosine_counts
    assert sum(counts) == 1
    assert sum(counts[-2:]) == 0


def test_a_workload_is_written_and_sent_again(texts: str, tmp_path: Path) -> None:
    """The second run has the same requests, by their hash, and both reports make one page."""
    workload, one, two, page = (tmp_path / name for name in ("w.jsonl", "one.json", "two.json", "page.html"))
    stand_in = StandIn()
    with serving(stand_in) as url:
        words = ("--workload", "zipf", "--write-workload", str(workload))
        first = command(url, "--texts", texts, *words, "--json", str(one))
        again = CliRunner().invoke(
            loadtest, ["--url", url, "--read-workload", str(workload), "--json", str(two)], env={"COLUMNS": "200"}
        )
    assert (first.exit_code, again.exit_code) == (0, 0), first.output + again.output
    reports = [orjson.loads(file.read_bytes()) for file in (one, two)]
    assert reports[0]["settings"]["workload_sha256"] == reports[1]["settings"]["workload_sha256"]
    assert reports[0]["answered"] == reports[1]["answered"] == 30
    assert reports[1]["settings"]["workload"] == "zipf 1"
    compared = CliRunner().invoke(loadtest, ["--compare", str(one), str(two), "--html", str(page)])
    assert compared.exit_code == 0, compared.output
    assert "Both sent the same texts at the same times" in page.read_text()


def test_the_highest_rate_is_searched_with_fresh_steps(texts: str, tmp_path: Path) -> None:
    """Steps are made until the bound breaks or the generator is late; the page and the JSON have them."""
    json_file, html_file = tmp_path / "found.json", tmp_path / "found.html"
    with serving(StandIn(status=503)) as url:
        words = ("--find-rate", "--p99-ms", "0.000001", "--rate", "400", "--seconds", "0.5")
        files = ("--json", str(json_file), "--html", str(html_file))
        result = CliRunner().invoke(loadtest, ["--url", url, "--texts", texts, *words, *files])
    assert result.exit_code == 1, result.output
    found = orjson.loads(json_file.read_bytes())["found"]
    assert found["rate"] is None
    assert all(step["broke"] for step in found["steps"])
    assert "No rate kept p99 below" in html_file.read_text()


class Interrupting(StandIn):
    """Presses Ctrl-C at one of the requests."""

    def __init__(self, at: int, **given: Any) -> None:
        super().__init__(**given)
        self.at = at

    async def embeddings(self, request: web.Request) -> web.Response:
        if len(self.headers) == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return await super().embeddings(request)


def test_an_interrupted_test_does_not_pass_for_a_whole_one(texts: str, tmp_path: Path) -> None:
    """Files are written and say how long it ran; the exit code is that of Ctrl-C."""
    json_file, html_file = tmp_path / "report.json", tmp_path / "report.html"
    with serving(Interrupting(at=9)) as url:
        words = ("--texts", texts, "--rate", "60", "--seconds", "600", "--pace", "constant")
        files = ("--json", str(json_file), "--html", str(html_file))
        result = CliRunner().invoke(loadtest, ["--url", url, *words, *files], env={"COLUMNS": "200"})
    assert result.exit_code == 130, result.output
    assert " of 600 s: these figures are of that time alone." in result.output
    report = orjson.loads(json_file.read_bytes())
    assert report["is_valid"] is False
    assert report["interrupted_after_s"] < 600
    assert report["answered"] >= 10
    assert "Interrupted after" in html_file.read_text()


def test_ctrl_c_after_the_last_request_changes_nothing(texts: str) -> None:
    """What was sent whole is whole."""
    with serving(Interrupting(at=29)) as url:
        result = command(url, "--texts", texts)
    assert result.exit_code == 0, result.output
    assert "Interrupted" not in result.output


def test_an_interrupted_search_ends_so(texts: str, tmp_path: Path) -> None:
    """With what it found until then, or without anything."""
    json_file = tmp_path / "found.json"
    words = ("--find-rate", "--p99-ms", "60000", "--rate", "400", "--seconds", "0.5", "--pace", "constant")
    for at, said in ((5, "interrupted before the first rate was measured"), (250, "(interrupted)")):
        with serving(Interrupting(at=at)) as url:
            files = ("--json", str(json_file))
            result = CliRunner().invoke(loadtest, ["--url", url, "--texts", texts, *words, *files])
        assert result.exit_code == 130, result.output
        assert said in result.output
    assert orjson.loads(json_file.read_bytes())["found"]["ended"] == "interrupted"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--cache-control", "zz"), "'zz' is not one of 'no-store', 'no-cache', 'exact-only'"),
        (("--repeat-share", "0.5"), "--repeat-share is of --workload zipf"),
        (("--compare", "{file}", "{file}"), "--compare makes a page"),
        (("--find-rate", "--rate", "1", "--seconds", "1"), "needs 200 requests a step"),
        (("--read-workload", "{file}", "--texts", "{file}"), "has its own texts"),
        (("--read-workload", "{file}"), "is not a workload"),
        (("--workload", "paraphrases"), "needs pairs"),
        (("--pace", "recorded"), "replays a file"),
        (("--batch", "0"), "sizes must lie from 1 to"),
        (("--workload", "unique", "--rate", "9000"), "distinct texts are used up"),
    ],
)
def test_options_that_cannot_be_are_refused(texts: str, words: tuple[str, ...], complaint: str) -> None:
    """One message, before anything is sent."""
    result = CliRunner().invoke(loadtest, [word.format(file=texts) for word in words])
    assert result.exit_code == 2, result.output
    assert complaint in result.output

"""What a text costs, as `loadtest.bench capacity` counts it, and the stand-in engine it counts with."""

import io
import json
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
from click.testing import CliRunner
from rich.console import Console

from engine.protocol import FINGERPRINT_HEADER, EngineInfo, decode_response, encode_request
from loadtest.bench import stand_in
from loadtest.bench.__main__ import bench
from loadtest.bench.capacity import CapacityResult, Cost, Seen, bytes_of, cost, fresh
from loadtest.bench.engines import CpuMeter
from loadtest.bench.machine import describe
from loadtest.bench.norepeat import made_texts
from loadtest.bench.processes import BenchmarkError
from loadtest.bench.rounds import results_json
from loadtest.bench.stack import Stack
from loadtest.bench.wire import http_request

BEFORE = Seen(gateway_s=1, redis_s=2, texts=100, commands=10, bytes_in=0, bytes_out=0, entries=0, memory=1000)
INFO = EngineInfo("tiny", "f" * 32, "fp32", 8, 16, 2048, 32768, static_embedding_sha256="a" * 64)


def test_cost_is_the_difference_for_each_text() -> None:
    """CPU, commands and bytes by texts served, memory by entries written."""
    after = Seen(1.02, 2.01, texts=300, commands=210, bytes_in=400, bytes_out=800, entries=200, memory=401_000)
    found = cost(BEFORE, after)
    assert found.gateway_us == pytest.approx(100)
    assert found.redis_us == pytest.approx(50)
    assert found.texts_per_core_s == pytest.approx(10_000)
    assert (found.commands, found.to_redis_bytes, found.from_redis_bytes) == (1, 2, 4)
    assert found.memory_bytes == 2000
    assert cost(BEFORE, replace(after, entries=3)).memory_bytes is None, "hits write nothing"


def test_a_round_without_texts_is_refused() -> None:
    """Nothing is divided by nought."""
    with pytest.raises(BenchmarkError, match="no text"):
        cost(BEFORE, BEFORE)


def test_least_of_the_rounds_is_shown_and_written() -> None:
    """What else ran in one round is not counted; the last memory is."""
    quiet, busy = Cost(100, 50, 1, 2, 4, 2000), Cost(150, 40, 1, 2, 4, 1900)
    result = CapacityResult("costs", describe(None, None, "own"), {"a [hit]": [quiet, busy]}, {"a [hit]": (200, 3000)})
    assert result.least("a [hit]") == Cost(100, 40, 1, 2, 4, 1900)
    console = Console(file=io.StringIO(), width=200)
    result.show(console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for expected in ("a [hit]", "10,000", "1,900", "200 + 3,000"):
        assert expected in shown
    assert json.loads(results_json([result]))[0]["kinds"]["a [hit]"]["least"]["redis_us"] == 40


def test_fresh_texts_never_come_again() -> None:
    """From one round to the next."""
    made = made_texts(["one two three", "four five six", "seven eight nine", "ten eleven twelve"], 0)
    first, second = fresh(made, 20), fresh(made, 20)
    assert len({*first, *second}) == 40


async def test_stand_in_answers_as_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one's identity without its static embedding, its tokenizer, and a unit vector for each text."""
    stand_in.prepare(tmp_path, INFO.to_json(), b"{}")
    monkeypatch.setenv(stand_in.FOLDER_VARIABLE, str(tmp_path))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=stand_in.app), base_url="http://engine") as client:
        assert EngineInfo.from_json((await client.get("/info")).content) == replace(INFO, static_embedding_sha256="")
        assert (await client.get("/tokenizer.json")).content == b"{}"
        assert (await client.get("/ready")).status_code == 200
        answer = await client.post("/vectors", content=encode_request([[1, 2], [3]]))
    assert answer.headers[FINGERPRINT_HEADER] == INFO.fingerprint
    vectors = decode_response(answer.content)
    assert vectors.shape == (2, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    with pytest.raises(ValueError, match="not a request"):
        stand_in.vectors(b"other", 8)


def test_bytes_of_a_request_and_its_answer() -> None:
    """Head and body of both, as they are on the wire."""
    with Stack() as stack:
        url = stack.bare_app("echo")
        asked, answered = bytes_of(url, request := http_request(url, "/v1/embeddings", orjson.dumps({"input": "a"})))
    assert asked == len(request)
    assert 2000 < answered < 4000


def test_cpu_a_text_is_the_least_of_the_rounds() -> None:
    """By contender; a round in which nothing was answered does not count."""
    meter = CpuMeter([], {"one": [(0.4, 100), (0.3, 100), (0.1, 0)]})
    assert meter.figures() == {"CPU of all servers, ms a text, one": pytest.approx(3)}


def test_engines_need_a_core_each() -> None:
    """Two engines on one core would measure nothing."""
    for options in ([], ["--core", "0"], ["--core", "0", "--generator-core", "0"]):
        result = CliRunner().invoke(bench, ["engines", *options])
        assert result.exit_code == 2
        assert "two different ones" in result.output

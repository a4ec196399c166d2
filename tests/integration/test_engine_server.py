"""The engine over real HTTP, around a tiny real graph or a model that misbehaves."""

import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from engine.configuration import ConfigurationError
from engine.model.session import HEARTBEAT_IDS
from engine.protocol import (
    CONTENT_TYPE,
    DEADLINE_HEADER,
    FINGERPRINT_HEADER,
    MAX_REQUEST_ITEMS,
    RATE_HEADER,
    EngineInfo,
    Float32Array,
    Int32Array,
    decode_response,
    encode_request,
)
from engine.serving import Engine
from tests.integration.engine_under_test import DIMENSIONS, MAX_TOKENS, engine_of, served, tiny_model

PATIENCE_S = 120.0
BINARY = {"content-type": CONTENT_TYPE}


class GatedRun:
    """A model that waits at a gate, except for the heartbeat's text; its vectors are first token and length."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.running = threading.Event()

    def __call__(self, texts: Sequence[Int32Array]) -> Float32Array:
        if any(int(ids[0]) != HEARTBEAT_IDS[0] for ids in texts):
            self.running.set()
            assert self.gate.wait(PATIENCE_S)
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        vectors[:, 0] = [ids[0] for ids in texts]
        return vectors


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an engine with the tiny bundle."""
    engine = engine_of(tiny_model(tmp_path_factory.mktemp("tiny")), heartbeat_interval_s=0.05)
    with served(engine) as url:
        until(lambda: httpx.get(url + "/ready").status_code == 200)
        yield url


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[tuple[str, Engine, GatedRun]]:
    """An engine whose model waits at a gate."""
    run = GatedRun()
    engine = engine_of(tiny_model(tmp_path, run))
    with served(engine) as url:
        yield url, engine, run
        run.gate.set()


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.002)


def post(url: str, texts: Sequence[Sequence[int]], **headers: str) -> httpx.Response:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(url + "/vectors", content=encode_request(texts), headers=BINARY | fields, timeout=PATIENCE_S)


def kind(response: httpx.Response) -> str:
    """The error's type, after checking that the reply is an error of the protocol and shows no code."""
    error = response.json()["error"]
    assert set(error) == {"message", "type"}
    assert "Traceback" not in response.text
    return str(error["type"])


def test_texts_token_ids_and_binary_give_the_same_vectors(tiny: str) -> None:
    """The three ways to send a text are answered with equal vectors, and JSON names the fingerprint."""
    binary = decode_response(post(tiny, [[2, 3, 4], [5]]).content)
    by_ids = httpx.post(tiny + "/vectors", json={"input_ids": [[2, 3, 4], [5]]}).json()
    by_text = httpx.post(tiny + "/vectors", json={"texts": ["a b c", "d"]}).json()
    assert by_ids == by_text
    assert np.array_equal(np.array(by_ids["embeddings"], np.float32), binary)
    assert by_ids["fingerprint"] == httpx.get(tiny + "/info").json()["fingerprint"]


def test_vectors_are_those_of_the_graph(tiny: str) -> None:
    """A request split over many batches comes back in order, each text with its own vector."""
    texts = [[1 + i % 27] * (1 + i % MAX_TOKENS) for i in range(600)]
    vectors = decode_response(post(tiny, texts).content)
    alone = {first: decode_response(post(tiny, [[first]]).content)[0] for first in range(1, 28)}
    expected = np.array([alone[ids[0]] for ids in texts])
    assert np.allclose(vectors, expected, atol=1e-6)


def test_an_answer_says_what_a_run_does(tiny: str) -> None:
    """Tokens a second of one run, so that a gateway knows what a text costs without its wait."""
    reply = httpx.post(tiny + "/vectors", content=encode_request([[1, 5, 2]]), headers=BINARY)
    assert float(reply.headers[RATE_HEADER]) > 0


def test_information_tokenizer_and_metrics(tiny: str, tmp_path: Path) -> None:
    """The engine says what it serves, gives its tokenizer away byte for byte, and counts what it does."""
    post(tiny, [[1, 2], [3]])
    info = EngineInfo.from_json(httpx.get(tiny + "/info").content)
    model = tiny_model(tmp_path)
    assert (info.model, info.dimensions, info.max_request_tokens) == ("tiny", DIMENSIONS, 2048 * MAX_TOKENS)
    assert info.fingerprint == model.fingerprint
    assert httpx.get(tiny + "/tokenizer.json").content == model.tokenizer_json
    metrics = httpx.get(tiny + "/metrics").text
    for name in (
        "embedding_batch_queue_size 0.0",
        "embedding_duration_seconds_count",
        "process_resident_memory_bytes",
        'dejavec_engine_requests_total{status="200"}',
        "dejavec_engine_tokens_total",
        "dejavec_engine_padding_share",
        "dejavec_engine_queue_tokens 0.0",
        "dejavec_engine_queue_seconds_count",
        "dejavec_engine_run_seconds_count",
        "dejavec_engine_tokenize_seconds_count",
        "dejavec_engine_batch_rows_count",
        "dejavec_engine_tokens_per_second",
    ):
        assert re.search(f"^{re.escape(name)}", metrics, re.MULTILINE), name


def test_long_texts_are_truncated_by_the_tokenizer(tiny: str) -> None:
    """A text sent as a string is cut at the model's maximum; the same as token ids is refused."""
    long, cut = "a " * 100, "a " * MAX_TOKENS
    answers = [httpx.post(tiny + "/vectors", json={"texts": [text]}).json() for text in (long, cut)]
    assert answers[0] == answers[1]
    refusal = post(tiny, [[1], [2] * (MAX_TOKENS + 1)])
    assert (refusal.status_code, kind(refusal)) == (400, "text_too_long")


JSON = {"content-type": "application/json"}
LARGE = b"x" * 8_000_000
REFUSED = {
    "nothing": (b"", BINARY, 400, "invalid_message"),
    "garbage": (b"garbage", BINARY, 400, "invalid_message"),
    "cut": (encode_request([[1, 2, 3]])[:-2], BINARY, 400, "invalid_message"),
    "no texts": (encode_request([]), BINARY, 400, "invalid_message"),
    "too many texts": (encode_request([[1]] * (MAX_REQUEST_ITEMS + 1)), BINARY, 400, "invalid_message"),
    "token above vocabulary": (encode_request([[28]]), BINARY, 400, "token_out_of_vocabulary"),
    "not JSON": (b"{", JSON, 400, "invalid_message"),
    "JSON of another shape": (b"[1]", JSON, 400, "invalid_message"),
    "both forms": (b'{"texts":["a"],"input_ids":[[1]]}', JSON, 400, "invalid_message"),
    "neither form": (b'{"input":"a"}', JSON, 400, "invalid_message"),
    "texts not a list": (b'{"texts":"a"}', JSON, 400, "invalid_message"),
    "texts empty": (b'{"texts":[]}', JSON, 400, "invalid_message"),
    "texts not strings": (b'{"texts":[1]}', JSON, 400, "invalid_message"),
    "a text without tokens": (b'{"texts":["a",""]}', JSON, 400, "invalid_message"),
    "a lone surrogate": (b'{"texts":["\\ud800"]}', JSON, 400, "invalid_message"),
    "ids flat": (b'{"input_ids":[1]}', JSON, 400, "invalid_message"),
    "ids empty": (b'{"input_ids":[[]]}', JSON, 400, "invalid_message"),
    "ids negative": (b'{"input_ids":[[-1]]}', JSON, 400, "invalid_message"),
    "ids not integers": (b'{"input_ids":[[1.5]]}', JSON, 400, "invalid_message"),
    "ids boolean": (b'{"input_ids":[[true]]}', JSON, 400, "invalid_message"),
    "ids huge": (b'{"input_ids":[[99999999999999999999]]}', JSON, 400, "invalid_message"),
    "another type": (b"a", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
    "no type": (b"a", {}, 415, "unsupported_media_type"),
    "another model": (encode_request([[1]]), BINARY | {FINGERPRINT_HEADER: "0" * 32}, 409, "fingerprint_mismatch"),
    "no time left": (encode_request([[1]]), BINARY | {DEADLINE_HEADER: "0"}, 503, "deadline_exceeded"),
    "no number": (encode_request([[1]]), BINARY | {DEADLINE_HEADER: "soon"}, 400, "invalid_message"),
    "NaN": (encode_request([[1]]), BINARY | {DEADLINE_HEADER: "nan"}, 503, "deadline_exceeded"),
    "large": (LARGE, BINARY, 413, "body_too_large"),
}


@pytest.mark.parametrize(("body", "headers", "status", "type_"), REFUSED.values(), ids=REFUSED.keys())
def test_a_request_that_cannot_be_answered_is_refused(
    tiny: str, body: bytes, headers: dict[str, str], status: int, type_: str
) -> None:
    """Each fault has its status and type, the reply is JSON, and the engine answers the next request."""
    try:
        response = httpx.post(tiny + "/vectors", content=body, headers=headers)
    except (httpx.WriteError, httpx.ReadError):  # the engine closed before all of a large body was written
        assert status == 413
    else:
        assert (response.status_code, kind(response)) == (status, type_)
        assert len(response.headers[FINGERPRINT_HEADER]) == 32
    assert post(tiny, [[1]]).status_code == 200


def test_random_bytes_never_break_the_engine(tiny: str) -> None:
    """Bodies of noise, with and without the magic, get 400."""
    noise = random.Random(1)
    with httpx.Client() as client:
        for _ in range(100):
            body = noise.choice([b"", b"DVQ1", b"DVQ1\0\0\0\0\1\0\0\0"]) + noise.randbytes(noise.randrange(64))
            assert client.post(tiny + "/vectors", content=body, headers=BINARY).status_code == 400


LARGE_BODIES = {
    "announced": "content-length: 99999999\r\n\r\n",
    "in chunks": "transfer-encoding: chunked\r\n\r\n600000\r\n" + "x" * 0x600000,
}


@pytest.mark.parametrize("rest", LARGE_BODIES.values(), ids=LARGE_BODIES.keys())
def test_a_large_body_is_refused_before_it_is_read(tiny: str, rest: str) -> None:
    """The announced length is enough for 413; a body sent in chunks gets it when it passes the limit."""

    def refusals() -> float:
        found = re.search(r'requests_total{status="413"} (\S+)', httpx.get(tiny + "/metrics").text)
        return float(found[1]) if found else 0.0

    host, port = tiny.removeprefix("http://").split(":")
    head = f"POST /vectors HTTP/1.1\r\nhost: x\r\ncontent-type: {CONTENT_TYPE}\r\n"
    before = refusals()
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        try:
            connection.sendall((head + rest).encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 413")
        except (ConnectionResetError, BrokenPipeError):  # closed while the body was still under way
            assert "chunked" in rest
    until(lambda: refusals() == before + 1)


@pytest.mark.parametrize(
    ("method", "path", "status", "type_"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/vectors", 405, "method_not_allowed"),
        ("POST", "/info", 405, "method_not_allowed"),
    ],
)
def test_unknown_paths_and_methods(tiny: str, method: str, path: str, status: int, type_: str) -> None:
    """404 and 405 come in the same JSON as every error."""
    response = httpx.request(method, tiny + path)
    assert (response.status_code, kind(response)) == (status, type_)


def test_a_caller_that_hangs_up_leaves_the_queue(gated: tuple[str, Engine, GatedRun]) -> None:
    """Closing the connection withdraws the texts before they cost anything."""
    url, engine, run = gated
    host, port = url.removeprefix("http://").split(":")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(post, url, [[5]])
        assert run.running.wait(PATIENCE_S)
        body = encode_request([[6], [7]])
        head = (
            f"POST /vectors HTTP/1.1\r\nhost: x\r\ncontent-type: {CONTENT_TYPE}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + body)
            until(lambda: engine.batcher.queued_rows == 2)
        until(lambda: engine.batcher.queued_rows == 0)
        run.gate.set()
        assert running.result().status_code == 200
    until(lambda: b'dejavec_engine_requests_total{status="499"} 1.0' in engine.metrics.render())


def test_a_full_queue_refuses_and_recovers(gated: tuple[str, Engine, GatedRun]) -> None:
    """Above the bound of queued tokens the answer is 429 with Retry-After; what was admitted is answered."""
    url, engine, run = gated
    largest = [[1 + i % 7] * MAX_TOKENS for i in range(MAX_REQUEST_ITEMS)]
    with ThreadPoolExecutor() as pool:
        running = pool.submit(post, url, [[5]])
        assert run.running.wait(PATIENCE_S)
        admitted = [pool.submit(post, url, largest) for _ in range(2)]
        until(lambda: engine.batcher.queued_rows == 2 * MAX_REQUEST_ITEMS)
        refused = post(url, [[1]])
        assert (refused.status_code, kind(refused)) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        run.gate.set()
        for answer in admitted:
            vectors = decode_response(answer.result().content)
            assert vectors[:, 0].tolist() == [ids[0] for ids in largest]
        assert running.result().status_code == 200
    assert post(url, [[1]]).status_code == 200


def test_a_queue_too_small_for_a_legal_request_is_refused_at_start(tmp_path: Path) -> None:
    """The bound must take twice the largest legal request, and the refusal says how much that is."""
    with pytest.raises(ConfigurationError, match=str(2 * MAX_REQUEST_ITEMS * MAX_TOKENS)):
        engine_of(tiny_model(tmp_path), max_queue_tokens=2 * MAX_REQUEST_ITEMS * MAX_TOKENS - 1)


def test_a_deadline_is_kept(gated: tuple[str, Engine, GatedRun]) -> None:
    """A caller that gives 20 ms hears deadline_exceeded, although the model is busy."""
    url, _, _ = gated
    late = post(url, [[5]], **{DEADLINE_HEADER: "20"})
    assert (late.status_code, kind(late)) == (503, "deadline_exceeded")


def test_a_model_that_fails_is_answered_for(tmp_path: Path) -> None:
    """A run that raises gives 503 engine_failed without a word of the code, and the next request works."""
    outcomes: list[Any] = [RuntimeError("secret detail"), np.full((1, DIMENSIONS), np.nan, np.float32)]
    working = tiny_model(tmp_path).runs[0]

    def run(texts: Sequence[Int32Array]) -> Any:
        if int(texts[0][0]) != 3 or not outcomes:
            return working(texts)
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with served(engine_of(tiny_model(tmp_path, run))) as url:
        for _ in range(2):
            failed = post(url, [[3]])
            assert (failed.status_code, kind(failed)) == (503, "engine_failed")
            assert "secret" not in failed.text
        assert post(url, [[3]]).status_code == 200


def test_ready_follows_the_heartbeat(tmp_path: Path) -> None:
    """Ready while test inferences pass, 503 with the reason once they have failed for three intervals."""
    working = tiny_model(tmp_path).runs[0]
    broken = threading.Event()

    def run(texts: Sequence[Int32Array]) -> Float32Array:
        if broken.is_set():
            raise RuntimeError("broken")
        return working(texts)

    with served(engine_of(tiny_model(tmp_path, run), heartbeat_interval_s=0.02)) as url:
        until(lambda: httpx.get(url + "/ready").status_code == 200)
        broken.set()
        until(lambda: httpx.get(url + "/ready").status_code == 503)
        refusal = httpx.get(url + "/ready")
        assert kind(refusal) == "not_ready"
        assert "test inference" in refusal.json()["error"]["message"]
        assert httpx.get(url + "/health").status_code == 200
        broken.clear()
        until(lambda: httpx.get(url + "/ready").status_code == 200)

"""What a stranger checks first: the official OpenAI client gets the model's true vectors, twice, with equal bytes."""

import base64
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import openai
import pytest

from tests.e2e.stack import Run, another_gateway, until

MODEL = "all-MiniLM-L6-v2"
GOLDEN = json.loads((Path(__file__).parent / "golden" / "minilm_fp32.json").read_text(encoding="utf-8"))["entries"]
GOLDEN_TEXTS = [entry["text"] for entry in GOLDEN]


@pytest.fixture(scope="module")
def http(stack: Run) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.port}", timeout=60) as client:
        yield client


def ask(http: httpx.Client, inputs: str | list[str], **headers: str) -> tuple[list[bytes], httpx.Response]:
    """float32 bytes of each vector, and the reply."""
    body = {"model": MODEL, "input": inputs, "encoding_format": "base64"}
    reply = http.post("/v1/embeddings", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    return [base64.b64decode(item["embedding"]) for item in reply.json()["data"]], reply


def numbers(vectors: list[bytes]) -> npt.NDArray[np.float32]:
    return np.stack([np.frombuffer(vector, dtype="<f4") for vector in vectors])


def test_openai_client_gets_vectors_true_to_fp32(stack: Run) -> None:
    """Against FP32 sentence-transformers vectors: cosine at least 0.999 on the mean and 0.995 at the lowest."""
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{stack.port}/v1", api_key="unused")
    with client:
        reply = client.embeddings.create(model=MODEL, input=GOLDEN_TEXTS)
    got = np.array([item.embedding for item in reply.data], dtype=np.float32)
    true = np.array([entry["vector"] for entry in GOLDEN], dtype=np.float32)
    cosines = np.sum(got * true, axis=1) / np.linalg.norm(true, axis=1)
    assert [item.index for item in reply.data] == list(range(len(GOLDEN_TEXTS)))
    assert cosines.mean() >= 0.999
    assert cosines.min() >= 0.995
    assert np.linalg.norm(got, axis=1) == pytest.approx(1, abs=1e-5)


def test_second_call_is_local_and_another_worker_answers_exact(stack: Run, http: httpx.Client, tmp_path: Path) -> None:
    """Miss, then local; from a second gateway process exact, from Redis; all three with the same bytes."""
    text = "How do I reset the password of my account?"
    first, miss = ask(http, text)
    second, local = ask(http, text)
    assert (miss.headers["x-cache"], local.headers["x-cache"]) == ("miss", "local")
    with another_gateway(stack, tmp_path, DEJAVEC_LOCAL_CACHE_MB="0") as other:
        until(lambda: ask(other, text)[1].headers["x-cache"] == "exact", "the write-back")
        third, _ = ask(other, text)
    assert first == second == third


def test_same_text_alone_and_in_any_batch_has_the_same_bytes(http: httpx.Client) -> None:
    """Computed anew each time, alone, in two shuffled batches and among long ones: identical to the byte."""
    texts = [*GOLDEN_TEXTS[:40], "short", "a " * 300, " ".join(f"word{number}" for number in range(120))]
    fresh = {"x-cache-control": "no-store"}
    alone = {text: ask(http, text, **fresh)[0][0] for text in texts}
    for seed in (1, 2):
        order = np.random.default_rng(seed).permutation(len(texts))
        batch = [texts[position] for position in order]
        vectors, reply = ask(http, batch, **fresh)
        assert reply.headers["x-cache"] == "miss"
        assert vectors == [alone[text] for text in batch]


def test_batch_of_duplicates_hits_and_misses_keeps_order(http: httpx.Client) -> None:
    """A mixed batch equals its texts asked one by one."""
    known = ["what is a cache?", "what is a gateway?"]
    ask(http, known)
    batch = ["new text one", known[0], "new text two", "new text one", known[1], "new text two", known[0]]
    vectors, reply = ask(http, batch)
    assert reply.headers["x-cache-items"] == "miss,local,miss*2,local,miss,local"
    assert vectors == [ask(http, text, **{"x-cache-control": "no-store"})[0][0] for text in batch]


def test_usage_counts_tokens_after_truncation(http: httpx.Client) -> None:
    """[CLS] and [SEP] count; a text over the limit counts as the limit, and is said to be cut."""
    _, reply = ask(http, ["hello world", "word " * 1000])
    assert reply.json()["usage"] == {"prompt_tokens": 4 + 256, "total_tokens": 4 + 256}
    assert reply.headers["x-truncated"] == "1"


def test_engine_killed_gives_typed_errors_then_answers(stack: Run, http: httpx.Client) -> None:
    """While the engine is dead cached texts are served and new ones get a 503; its replacement answers."""
    ask(http, "cached before the accident")
    stack.child("engine").kill()
    seen: set[Any] = set()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert ask(http, "cached before the accident")[1].headers["x-cache"] in ("local", "exact")
        body = {"model": MODEL, "input": f"new at {time.monotonic()}"}
        reply = http.post("/v1/embeddings", json=body)
        if reply.status_code == 200 and seen:
            break
        if reply.status_code != 200:
            assert reply.status_code == 503
            assert reply.headers["retry-after"]
            seen.add(reply.json()["error"]["code"])
        time.sleep(0.05)
    else:
        pytest.fail("the engine did not come back")
    assert seen <= {"engine_unavailable", "deadline_exceeded"}


def test_redis_killed_in_mid_traffic_fails_no_request(stack: Run, http: httpx.Client) -> None:
    """Requests go on while the supervisor brings Redis back with its data."""
    text = "kept across a crash of Redis"
    ask(http, text)
    time.sleep(1.5)  # the append-only file is on disk every second
    stack.child("redis-server").kill()
    replies = [ask(http, f"{text} {number % 7}")[1] for number in range(40)]
    assert {reply.status_code for reply in replies} == {200}
    until(lambda: http.get("/ready").json()["redis"] == "ok", "Redis")
    until(lambda: answers_exact_without_l0(stack, text), "the entry from before")


def answers_exact_without_l0(stack: Run, text: str) -> bool:
    """Whether Redis itself still has the text: asked through a purge-free path, a fresh gateway."""
    folder = Path(f"/proc/{stack.process.pid}/cwd").resolve()
    with another_gateway(stack, folder, DEJAVEC_LOCAL_CACHE_MB="0") as other:
        return ask(other, text)[1].headers["x-cache"] == "exact"


def test_garbage_on_the_port_harms_nobody(stack: Run) -> None:
    """Bytes that are no HTTP are refused, and the next request works."""
    for garbage in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"\x00" * 4096, b"POST /v1/embeddings HTTP/9.9\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", stack.port), timeout=5) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            assert b"Traceback" not in connection.recv(4096)
    assert answers_model(stack)


def answers_model(stack: Run) -> bool:
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.port}", timeout=60) as client:
        return ask(client, "still there?")[1].status_code == 200

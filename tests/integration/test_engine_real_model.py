"""The engine with its real model over HTTP: a text's bytes do not depend on its company."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from engine.bundle import parse_tokenizer
from engine.protocol import CONTENT_TYPE, Lane, decode_response, encode_request
from engine.serving import Engine, build_engine
from engine.settings import EngineSettings
from tests.integration.engine_under_test import served

WORDS = "card money account transfer the a my is not pending where why how when bank top up cash ATM refund "


@pytest.fixture(scope="module", params=[(1, 1), (2, 1), (1, 2)], ids=lambda p: f"{p[0]} sessions x {p[1]} threads")
def real(request: pytest.FixtureRequest, real_bundle: Path) -> Iterator[tuple[str, Engine]]:
    """URL of an engine with the real model."""
    sessions, threads = request.param
    engine = build_engine(
        EngineSettings(
            model_bundle=real_bundle, engine_sessions=sessions, engine_threads=threads, engine_deadline_s=600
        )
    )
    with served(engine) as url:
        yield url, engine


def vectors(url: str, texts: list[list[int]], lane: Lane) -> list[bytes]:
    headers = {"content-type": CONTENT_TYPE}
    response = httpx.post(url + "/vectors", content=encode_request(texts, lane), headers=headers, timeout=600)
    return [vector.tobytes() for vector in decode_response(response.content)]


def test_a_text_has_the_same_bytes_alone_and_in_any_company(real: tuple[str, Engine]) -> None:
    """Texts of 2 to 256 tokens, alone, in one request, and in many concurrent shuffled ones: equal to the byte."""
    url, engine = real
    chance = random.Random(5)
    lengths = [2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 129, 200, 255, 256] + [chance.randint(4, 40) for _ in range(25)]
    texts = [[101, *(chance.randint(1000, 30_000) for _ in range(length - 2)), 102] for length in lengths]
    alone = [vectors(url, [text], Lane.INTERACTIVE)[0] for text in texts]
    assert vectors(url, texts, Lane.BULK) == alone
    orders = [chance.sample(range(len(texts)), k=chance.randint(1, len(texts))) for _ in range(12)]
    lanes = [chance.choice(list(Lane)) for _ in orders]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda order, lane: vectors(url, [texts[i] for i in order], lane), orders, lanes))
    for order, found in zip(orders, together, strict=True):
        assert found == [alone[i] for i in order]
    assert engine.heartbeat.fault() is None


def test_texts_and_their_token_ids_have_the_same_vector(real: tuple[str, Engine]) -> None:
    """The engine's own tokenizer gives what a caller's copy of it gives; vectors have unit length."""
    url, _ = real
    texts = [WORDS, "", WORDS * 40]
    answer = httpx.post(url + "/vectors", json={"texts": texts}, timeout=600).json()
    rows = np.array(answer["embeddings"], np.float32)
    max_tokens = httpx.get(url + "/info").json()["max_tokens"]
    tokenizer = parse_tokenizer(httpx.get(url + "/tokenizer.json").content, max_tokens)
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    assert [row.tobytes() for row in rows] == vectors(url, ids, Lane.INTERACTIVE)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)

"""What gateway and engine log of requests: ids that lead from one to the other, and never a text or a key."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest

from common.logs import Flood, KeyValueFormatter, LogHandler
from engine.model.session import HEARTBEAT_IDS
from engine.protocol import Float32Array, Int32Array
from tests.free_ports import free_port
from tests.gateway_client import running_gateway, until_ready
from tests.integration.engine_under_test import DIMENSIONS, engine_of, served, tiny_model
from tests.running_redis import RunningRedis

SECRET_WORD = "zebra-crossing-at-midnight"
KEY, WRONG_KEY, TOKEN = "the-key-of-a-good-client", "a-key-that-was-guessed", "operator-of-these-tests"
FAILS = 7  # the token of "f"


def run(texts: Sequence[Int32Array]) -> Float32Array:
    """A model that fails at one token."""
    if any(FAILS in ids for ids in texts if ids[0] != HEARTBEAT_IDS[0]):
        raise RuntimeError("the graph failed")
    vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
    vectors[:, 0] = 1
    return vectors


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """All lines of this process as `configure("debug")` would write them."""
    root, stream = logging.getLogger(), io.StringIO()
    handler, level = LogHandler(stream), root.level
    handler.setFormatter(KeyValueFormatter())
    handler.addFilter(lambda record: not record.name.startswith("http"))  # the test's own client
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


async def test_a_request_has_one_id_in_both_logs(tmp_path: Path, written: io.StringIO) -> None:
    """The client's own, or one made for it, in the reply, in the engine's line and in the gateway's."""
    with served(engine_of(tiny_model(tmp_path, run))) as url:
        async with running_gateway(url) as client:
            await until_ready(client)
            given = await ask(client, "f", **{"x-request-id": "from-the-client-1"})
            made = await ask(client, "f e")
    assert [given.status_code, made.status_code] == [503, 503]
    assert given.headers["x-request-id"] == "from-the-client-1"
    for reply in (given, made):
        mine = [line for line in written.getvalue().splitlines() if reply.headers["x-request-id"] in line]
        loggers = [line.split("logger=")[1].split()[0] for line in mine]
        assert any(name.startswith("engine.") for name in loggers)
        assert "dejavec.gateway" in loggers
        assert all(f" request_id={reply.headers['x-request-id']} " in line for line in mine)


async def test_an_id_that_could_harm_is_replaced(tmp_path: Path) -> None:
    """Another one is made; the reply says which."""
    with served(engine_of(tiny_model(tmp_path))) as url:
        async with running_gateway(url) as client:
            await until_ready(client)
            reply = await ask(client, "a", **{"x-request-id": "two words"})
    assert reply.headers["x-request-id"].startswith("req-")


async def test_neither_texts_nor_keys_are_logged(
    tmp_path: Path, written: io.StringIO, redis: RunningRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the level debug, whatever is wrong with a request, the engine or Redis; and the flood is let through."""
    monkeypatch.setattr(Flood, "admits", lambda *_: True)
    settings = {"api_keys": {KEY: {"namespace": "a"}}, "admin_token": TOKEN}
    operator = {"authorization": f"Bearer {TOKEN}"}
    with served(engine_of(tiny_model(tmp_path, run))) as url:
        for redis_url in (redis.url, f"redis://:{KEY}@127.0.0.1:{free_port()}/0"):
            async with running_gateway(url, redis_url=redis_url, **settings) as client:
                await until_ready(client)
                texts = [SECRET_WORD, f"f {SECRET_WORD}", f"{SECRET_WORD} \ud800"]
                for text in texts:
                    await ask(client, text)
                    await ask(client, text, WRONG_KEY)
                    await ask(client, text, dimensions=f"{SECRET_WORD}")
                for body in (f'{{"input": "{SECRET_WORD}', f'["{SECRET_WORD}"]', f'{{"{SECRET_WORD}": 1}}'):
                    await client.post("/v1/embeddings", content=body, headers={"authorization": f"Bearer {KEY}"})
                await client.post(f"/{SECRET_WORD}", json={"input": SECRET_WORD})
                await client.post("/admin/explain", json={"namespace": "a", "text": SECRET_WORD}, headers=operator)
                await client.put("/admin/thresholds", json={SECRET_WORD: 1}, headers=operator)
    await asyncio.sleep(0)
    lines = written.getvalue()
    assert "the graph failed" in lines
    assert "Redis is away" in lines
    for secret in (SECRET_WORD, KEY, WRONG_KEY, TOKEN):
        assert secret not in lines


async def ask(
    client: httpx.AsyncClient, text: str, key: str = KEY, dimensions: object = None, **headers: str
) -> httpx.Response:
    body = {"model": "tiny", "input": text, **({"dimensions": dimensions} if dimensions else {})}
    content = json.dumps(body)
    head = {"authorization": f"Bearer {key}", "content-type": "application/json", **headers}
    return await client.post("/v1/embeddings", content=content, headers=head)

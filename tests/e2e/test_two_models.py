"""Two real models behind one URL, by `dejavec up` and the OpenAI client: names, tiers, usage, and one engine killed."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from deploy.embedded_redis import NotAvailable, locate
from tests.e2e.stack import Run, running, until
from tests.integration.engine_under_test import write_tiny_bundle

try:
    locate()
except NotAvailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

LONG_S = "60"  # before an engine that was killed is started again: the test is over by then


@pytest.fixture(scope="module")
def up(real_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("two")
    models = [str(real_bundle), str(write_tiny_bundle(folder / "small"))]
    settings = {
        "DEJAVEC_MODELS": json.dumps(models),
        "DEJAVEC_MODEL_ALIASES": json.dumps({"text-embedding-3-small": "small", "ada": "all-MiniLM-L6-v2"}),
        "DEJAVEC_RESTART_DELAY_S": LONG_S,
        "DEJAVEC_RESTART_DELAY_MAX_S": LONG_S,
    }
    with running(folder, **settings) as run:
        yield run


@pytest.fixture
def client(up: Run) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{up.port}/v1", api_key="unused", max_retries=0) as client:
        yield client


def tiers(client: openai.OpenAI, model: str, texts: list[str]) -> tuple[str, str, int, int]:
    """x-cache, the model's name, dimensions and tokens of one request."""
    raw = client.embeddings.with_raw_response.create(model=model, input=texts)
    reply = raw.parse()
    return raw.headers["x-cache"], reply.model, len(reply.data[0].embedding), reply.usage.total_tokens


def test_each_name_is_answered_by_its_model(up: Run, client: openai.OpenAI) -> None:
    """The same text is a miss of each model and then a hit of each, with its own dimensions and tokens."""
    assert "cores shared by what a token costs" in up.printed
    assert {one.id for one in client.models.list()} == {
        "all-MiniLM-L6-v2", "ada", "tiny", "small", "text-embedding-3-small",
    }  # fmt: skip
    text = ["a b c"]
    assert tiers(client, "all-MiniLM-L6-v2", text) == ("miss", "all-MiniLM-L6-v2", 384, 5)
    assert tiers(client, "small", text) == ("miss", "tiny", 8, 3)
    assert tiers(client, "ada", text) == ("local", "all-MiniLM-L6-v2", 384, 5)
    assert tiers(client, "text-embedding-3-small", text) == ("local", "tiny", 8, 3)
    assert tiers(client, "tiny", ["a b c", "c b a"])[0] == "mixed"
    with pytest.raises(openai.NotFoundError, match="known: all-MiniLM-L6-v2, ada, tiny, small"):
        tiers(client, "text-embedding-3-large", text)


def test_one_engine_killed_leaves_the_other(up: Run, client: openai.OpenAI) -> None:
    """What is cached of the dead one is served, the rest a typed 503; the other computes on, and /ready says which."""
    tiers(client, "small", ["a c"])
    engine = next(
        child for child in up.children() if child.cmdline()[-1:] == ["engine"]
        and child.environ()["DEJAVEC_MODEL_BUNDLE"].endswith("/small")
    )  # fmt: skip
    engine.send_signal(signal.SIGKILL)

    def states() -> dict[str, str]:
        found: dict[str, str] = httpx.get(f"http://127.0.0.1:{up.port}/ready").json()["models"]
        return found

    until(lambda: states()["small"] != "ready", "the gateway notices")
    assert states()["all-MiniLM-L6-v2"] == "ready"
    assert tiers(client, "small", ["a c"])[0] == "local"
    with pytest.raises(openai.InternalServerError) as refused:
        tiers(client, "small", ["c c a"])
    assert refused.value.status_code == 503
    assert tiers(client, "all-MiniLM-L6-v2", ["c c a"])[:3] == ("miss", "all-MiniLM-L6-v2", 384)

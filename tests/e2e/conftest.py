"""The whole product with its real model, started once for the tests that only use it."""

import gc
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.embedded_redis import NotAvailable, locate
from tests.e2e.plain_http import API_KEY, TEXTS
from tests.e2e.stack import Run, another_gateway, running

TELEMETRY_OFF = {
    "ANONYMIZED_TELEMETRY": "False",  # Chroma
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "IS_TESTING": "1",  # LlamaIndex: do not fetch a tokenizer for token counting
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LLAMA_INDEX_CACHE_DIR": "/nonexistent",
}


@pytest.fixture(scope="session")
def stack(real_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One `dejavec up` with the real model; tests leave it serving."""
    try:
        locate()
    except NotAvailable as reason:
        pytest.skip(str(reason))
    folder = tmp_path_factory.mktemp("stack")
    with running(folder, DEJAVEC_MODEL_BUNDLE=str(real_bundle), DEJAVEC_ADMIN_TOKEN="operator-of-these-tests") as run:
        yield run


@pytest.fixture
def root(stack: Run) -> str:
    """The gateway's address without a path."""
    return f"http://127.0.0.1:{stack.port}"


@pytest.fixture
def base_url(root: str) -> str:
    """What OpenAI's clients take for their base URL."""
    return f"{root}/v1"


@pytest.fixture(scope="session")
def keyed_root(stack: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of another gateway on the same engine and Redis, which wants an API key."""
    keys = json.dumps({API_KEY: {"namespace": "default"}})
    with another_gateway(stack, tmp_path_factory.mktemp("keyed"), DEJAVEC_API_KEYS=keys) as client:
        yield str(client.base_url)


@pytest.fixture
def quiet_client(stack: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A client's telemetry is off by its own variables; afterwards no log of the gateway holds what was embedded."""
    for name, value in TELEMETRY_OFF.items():
        monkeypatch.setenv(name, value)
    yield
    written = stack.printed + "".join(path.read_text() for path in (stack.home / "logs").iterdir())
    assert [text for text in TEXTS if text in written] == []


@pytest.fixture
def garbage_collected() -> Iterator[None]:
    """What a client left open is reported at the end of its own test, not in somebody else's."""
    yield
    gc.collect()

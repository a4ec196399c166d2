"""LiteLLM's providers that can be pointed at a server of one's own, unmodified; see `test_clients`.

Skipped where it is not installed: it takes 240 MB, so it is not among what tests install.
"""

from typing import Any

import pytest

from tests.e2e.plain_http import MODEL, TEXTS, assert_same, plain

pytestmark = [
    pytest.mark.usefixtures("quiet_client", "garbage_collected"),
    # Its own uses of what Pydantic and others have deprecated, and connections that it leaves to the collector.
    pytest.mark.filterwarnings("ignore"),
]
AZURE: dict[str, Any] = {"api_version": "2024-10-21"}
HUGGING_FACE: dict[str, Any] = {"input_type": "embed"}  # or it asks the hub, over the network, what the model is for


@pytest.fixture
def litellm() -> Any:
    return pytest.importorskip("litellm", reason="LiteLLM is not installed here: pip install litellm")


@pytest.mark.parametrize(
    ("provider", "path", "more"),
    [
        ("openai", "/v1", {}),
        ("hosted_vllm", "/v1", {}),
        ("litellm_proxy", "/v1", {}),
        ("infinity", "", {}),
        ("azure", "", AZURE),
        ("ollama", "", {}),
        ("huggingface", "", HUGGING_FACE),
        ("huggingface", "/embed", HUGGING_FACE),
    ],
)
async def test_providers(root: str, litellm: Any, provider: str, path: str, more: dict[str, Any]) -> None:
    """The same vectors, sync and async, with the parameters that it drops or sends along."""
    call = {"model": f"{provider}/{MODEL}", "input": TEXTS, "api_base": f"{root}{path}", "api_key": "unused"}
    expected = plain(root, TEXTS)
    reply = litellm.embedding(**call, **more, drop_params=True, timeout=120)
    assert_same([item["embedding"] for item in reply.data], expected)
    reply = await litellm.aembedding(**call, **more)
    assert_same([item["embedding"] for item in reply.data], expected)


def test_errors_are_its_own(base_url: str, litellm: Any) -> None:
    """A refusal becomes its typed exception."""
    with pytest.raises(litellm.NotFoundError, match=MODEL):
        litellm.embedding(model="openai/no-such-model", input="a", api_base=base_url, api_key="unused", max_retries=0)

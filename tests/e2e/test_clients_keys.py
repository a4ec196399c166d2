"""Where clients put their API key, each in its own header, and what they make of a wrong one; see `test_clients`."""

import ollama
import openai
import pytest
from huggingface_hub import InferenceClient

from tests.e2e.plain_http import API_KEY, MODEL, TEXTS, assert_same, plain

pytestmark = pytest.mark.usefixtures("quiet_client", "garbage_collected")


def test_openai(root: str, keyed_root: str) -> None:
    """In Authorization; a wrong key is its AuthenticationError."""
    with openai.OpenAI(base_url=f"{keyed_root}/v1", api_key=API_KEY) as client:
        reply = client.embeddings.create(model=MODEL, input=TEXTS)
    assert_same([item.embedding for item in reply.data], plain(root, TEXTS))
    with (
        openai.OpenAI(base_url=f"{keyed_root}/v1", api_key="another", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        client.embeddings.create(model=MODEL, input=TEXTS)
    assert refused.value.code == "invalid_api_key"


def test_azure(root: str, keyed_root: str) -> None:
    """In `api-key`; a wrong key is its AuthenticationError."""
    account = {"azure_endpoint": keyed_root, "api_version": "2024-10-21"}
    with openai.AzureOpenAI(**account, api_key=API_KEY) as client:
        reply = client.embeddings.create(model=MODEL, input=TEXTS)
    assert_same([item.embedding for item in reply.data], plain(root, TEXTS))
    with (
        openai.AzureOpenAI(**account, api_key="another", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.embeddings.create(model=MODEL, input=TEXTS)


def test_hugging_face(root: str, keyed_root: str) -> None:
    """Its token."""
    with InferenceClient(base_url=keyed_root, api_key=API_KEY, timeout=120) as client:
        assert_same(list(client.feature_extraction(TEXTS)), plain(root, TEXTS))


def test_ollama(root: str, keyed_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its variable; without it, its ResponseError."""
    with ollama.Client(host=keyed_root) as client, pytest.raises(ollama.ResponseError) as refused:
        client.embed(model=MODEL, input=TEXTS)
    assert refused.value.status_code == 401
    monkeypatch.setenv("OLLAMA_API_KEY", API_KEY)
    with ollama.Client(host=keyed_root) as client:
        assert_same(client.embed(model=MODEL, input=TEXTS).embeddings, plain(root, TEXTS))

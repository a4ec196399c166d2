"""Chroma's embedding functions and its collections' way to them, unmodified; see `test_clients`.

Skipped without the `chromadb` module, which the small package chromadb-client brings too.
"""

from typing import Any

import pytest

from tests.e2e.plain_http import MODEL, TEXTS, assert_same, plain

pytestmark = [
    pytest.mark.usefixtures("quiet_client", "garbage_collected"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its functions; they take a key from a variable, as it recommends."""
    for name in ("OPENAI_API_KEY", "HUGGINGFACE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHROMA_OPENAI_API_KEY", "unused")
    return pytest.importorskip(
        "chromadb.utils.embedding_functions", reason="Chroma is not installed here: pip install chromadb-client"
    )


def test_openai(root: str, base_url: str, functions: Any) -> None:
    """OpenAIEmbeddingFunction."""
    embed = functions.OpenAIEmbeddingFunction(model_name=MODEL, api_base=base_url)
    assert_same(embed(TEXTS), plain(root, TEXTS))


def test_azure(root: str, functions: Any) -> None:
    """OpenAIEmbeddingFunction for Azure."""
    embed = functions.OpenAIEmbeddingFunction(
        model_name=MODEL, api_base=root, api_type="azure", api_version="2024-10-21", deployment_id=MODEL
    )
    assert_same(embed(TEXTS), plain(root, TEXTS))


def test_ollama(root: str, functions: Any) -> None:
    """OllamaEmbeddingFunction, with a server's address and with its older form of it."""
    for url in (root, f"{root}/api/embeddings"):
        embed = functions.OllamaEmbeddingFunction(url=url, model_name=MODEL)
        assert_same(embed(TEXTS), plain(root, TEXTS))


def test_hugging_face_server(root: str, functions: Any) -> None:
    """HuggingFaceEmbeddingServer, with the route in its address and without."""
    for url in (root, f"{root}/embed"):
        embed = functions.HuggingFaceEmbeddingServer(url=url)
        assert_same(embed(TEXTS), plain(root, TEXTS))

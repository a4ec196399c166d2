"""Clients of Hugging Face's routes, unmodified; see `test_clients`."""

from collections.abc import Iterator

import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.e2e.plain_http import MODEL, QUERY, TEXTS, assert_same, plain

pytestmark = pytest.mark.usefixtures("quiet_client", "garbage_collected")


@pytest.fixture
def client(root: str) -> Iterator[InferenceClient]:
    with InferenceClient(base_url=root, timeout=120) as client:
        yield client


def test_feature_extraction(root: str, client: InferenceClient) -> None:
    """A list of texts gives a matrix, one text its row; with the options of text-embeddings-inference."""
    expected = plain(root, TEXTS)
    matrix = client.feature_extraction(TEXTS)
    assert (matrix.shape, matrix.dtype) == ((len(TEXTS), 384), np.float32)
    assert_same(list(matrix), expected)
    assert_same(list(client.feature_extraction(QUERY).reshape(-1, 384)), [expected[1]])
    assert_same(list(client.feature_extraction(TEXTS, normalize=True, truncate=True)), expected)
    assert_same(list(client.feature_extraction(TEXTS, dimensions=64)), plain(root, TEXTS, dimensions=64))


async def test_feature_extraction_by_address_async(root: str) -> None:
    """The address in place of the model, and the async client."""
    async with AsyncInferenceClient(timeout=120) as client:
        assert_same(list(await client.feature_extraction(TEXTS, model=root)), plain(root, TEXTS))


@pytest.mark.parametrize("path", [f"/pipeline/feature-extraction/{MODEL}", f"/models/sentence-transformers/{MODEL}"])
def test_feature_extraction_by_the_hubs_paths(root: str, path: str) -> None:
    """The paths that Hugging Face's own servers have for a model."""
    with InferenceClient(base_url=f"{root}{path}", timeout=120) as client:
        assert_same(list(client.feature_extraction(TEXTS)), plain(root, TEXTS))


async def test_langchain(root: str) -> None:
    """LangChain's HuggingFaceEndpointEmbeddings takes names on the hub alone, but a client of one's own choosing."""
    reason = "langchain-huggingface, which wants huggingface_hub 1, is not installed here"
    embeddings = pytest.importorskip("langchain_huggingface", reason=reason).HuggingFaceEndpointEmbeddings(model=MODEL)
    expected = plain(root, TEXTS)
    with InferenceClient(base_url=root) as embeddings.client:
        assert_same(embeddings.embed_documents(TEXTS), expected)
    async with AsyncInferenceClient(base_url=root) as embeddings.async_client:
        assert_same(await embeddings.aembed_documents(TEXTS), expected)


def test_errors_are_its_own(client: InferenceClient) -> None:
    """A refusal becomes its HfHubHTTPError, with our message."""
    with pytest.raises(HfHubHTTPError, match="prompt") as unknown:
        client.feature_extraction(TEXTS, prompt_name="no-such-prompt")
    assert unknown.value.response.status_code in {400, 422}

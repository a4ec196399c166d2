"""Clients of Ollama's routes, unmodified; see `test_clients`."""

import ollama
import pytest

from tests.e2e.plain_http import LONG, MODEL, QUERY, TEXTS, assert_same, plain

pytestmark = pytest.mark.usefixtures("quiet_client", "garbage_collected")


async def test_ollama(root: str) -> None:
    """Its `embed` and the older `embeddings`, sync and async; shortened vectors; the list of models."""
    expected = plain(root, TEXTS)
    with ollama.Client(host=root) as client:
        reply = client.embed(model=MODEL, input=TEXTS)
        assert_same(reply.embeddings, expected)
        assert reply.model == MODEL
        single = client.embed(model=MODEL, input=QUERY)
        assert_same(single.embeddings, [expected[1]])
        assert single.prompt_eval_count == 9  # [CLS] where do i change my address ? [SEP]
        assert_same(client.embed(model=f"{MODEL}:latest", input=TEXTS).embeddings, expected)
        assert_same(client.embed(model=MODEL, input=TEXTS, dimensions=64).embeddings, plain(root, TEXTS, dimensions=64))
        assert_same([client.embeddings(model=MODEL, prompt=QUERY).embedding], [expected[1]])
        assert f"{MODEL}:latest" in [model.model for model in client.list().models]
    async with ollama.AsyncClient(host=root) as client:
        assert_same((await client.embed(model=MODEL, input=TEXTS, truncate=True)).embeddings, expected)


def test_ollama_errors_are_its_own(root: str) -> None:
    """A refusal becomes its ResponseError, with our message and status."""
    with ollama.Client(host=root) as client:
        with pytest.raises(ollama.ResponseError, match=MODEL) as missing:
            client.embed(model="no-such-model", input="a")
        assert missing.value.status_code == 404
        assert "{" not in missing.value.error  # the message alone
        with pytest.raises(ollama.ResponseError) as long:
            client.embed(model=MODEL, input=LONG, truncate=False)
        assert long.value.status_code in {400, 413, 422}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_langchain(root: str) -> None:
    """LangChain's OllamaEmbeddings, with the options that it sends always; sync and async."""
    from langchain_ollama import OllamaEmbeddings

    embeddings = OllamaEmbeddings(model=MODEL, base_url=root, validate_model_on_init=True)
    expected = plain(root, TEXTS)
    assert_same(embeddings.embed_documents(TEXTS), expected)
    assert_same([embeddings.embed_query(QUERY)], [expected[1]])
    assert_same(await embeddings.aembed_documents(TEXTS), expected)

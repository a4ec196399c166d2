"""LangChain, LlamaIndex, Haystack and RedisVL, unmodified; see `test_clients`."""

import importlib.util
from pathlib import Path

import openai
import pytest

from tests.e2e.plain_http import MODEL, QUERY, TEXTS, assert_same, plain
from tests.e2e.stack import Run
from tests.gateway_client import running_gateway, until_ready

# The frameworks leave their connections to the garbage collector, which says so.
pytestmark = [
    pytest.mark.usefixtures("quiet_client", "garbage_collected"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tiktoken's real encodings, for want of a network: llama-index-core carries it."""
    spec = importlib.util.find_spec("llama_index.core")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "_static" / "tiktoken_cache"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
    return folder


async def test_langchain(root: str, base_url: str) -> None:
    """With its documented check_embedding_ctx_length=False, sync and async."""
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(model=MODEL, base_url=base_url, api_key="unused", check_embedding_ctx_length=False)
    expected = plain(root, TEXTS)
    assert_same(embeddings.embed_documents(TEXTS), expected)
    assert_same([embeddings.embed_query(QUERY)], [expected[1]])
    assert_same(await embeddings.aembed_documents(TEXTS), expected)
    assert_same([await embeddings.aembed_query(QUERY)], [expected[1]])


async def test_langchain_azure(root: str) -> None:
    """AzureOpenAIEmbeddings, sync and async."""
    from langchain_openai import AzureOpenAIEmbeddings

    embeddings = AzureOpenAIEmbeddings(
        azure_deployment=MODEL,
        azure_endpoint=root,
        api_key="unused",
        api_version="2024-10-21",
        check_embedding_ctx_length=False,
    )
    expected = plain(root, TEXTS)
    assert_same(embeddings.embed_documents(TEXTS), expected)
    assert_same(await embeddings.aembed_documents(TEXTS), expected)


def test_langchain_without_the_setting_is_told_of_it(base_url: str, encodings: Path) -> None:
    """LangChain's default sends token ids of another model's tokenizer: the refusal names the setting to change."""
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(model=MODEL, base_url=base_url, api_key="unused", max_retries=0)
    with pytest.raises(openai.BadRequestError, match=r"check_embedding_ctx_length=False"):
        embeddings.embed_documents(TEXTS)


async def test_langchain_without_the_setting_is_decoded_where_the_operator_says_so(
    root: str, stack: Run, encodings: Path
) -> None:
    """With token_input_encoding the ids become the text they were made of, and give that text's vectors."""
    from langchain_openai import OpenAIEmbeddings

    engine_url = f"http://127.0.0.1:{stack.engine_port}"
    decoding = {"token_input_encoding": "cl100k_base", "token_encoding_file": encodings}
    async with running_gateway(engine_url, **decoding) as client:
        await until_ready(client)
        embeddings = OpenAIEmbeddings(model=MODEL, base_url=f"{client.base_url}/v1", api_key="unused", max_retries=0)
        vectors = await embeddings.aembed_documents(TEXTS)
        await embeddings.async_client._client.close()  # or the gateway would wait for the open connection at its end
    assert_same(vectors, plain(root, TEXTS))


async def test_llama_index_openai_like(root: str, base_url: str) -> None:
    """Documents in batches of its own size, queries, sync and async."""
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    embedding = OpenAILikeEmbedding(model_name=MODEL, api_base=base_url, api_key="unused", embed_batch_size=4)
    expected = plain(root, TEXTS)
    assert_same(embedding.get_text_embedding_batch(TEXTS), expected)
    assert_same([embedding.get_query_embedding(QUERY)], [expected[1]])
    assert_same(await embedding.aget_text_embedding_batch(TEXTS), expected)


async def test_llama_index_text_embeddings_inference(root: str) -> None:
    """The same framework over `/embed`, as it speaks to text-embeddings-inference."""
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    embedding = TextEmbeddingsInference(
        model_name=MODEL, base_url=f"{root}/", text_instruction="", query_instruction=""
    )
    expected = plain(root, TEXTS)
    assert_same(embedding.get_text_embedding_batch(TEXTS), expected)
    assert_same([embedding.get_query_embedding(QUERY)], [expected[1]])
    assert_same(await embedding.aget_text_embedding_batch(TEXTS), expected)


async def test_haystack(root: str, base_url: str) -> None:
    """Its text and document embedders."""
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
    from haystack.utils import Secret

    secret = Secret.from_token("unused")
    expected = plain(root, TEXTS)
    text = OpenAITextEmbedder(api_key=secret, model=MODEL, api_base_url=base_url)
    reply = text.run(text=QUERY)
    assert_same([reply["embedding"]], [expected[1]])
    assert reply["meta"]["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    documents = [Document(content=content, meta={"position": position}) for position, content in enumerate(TEXTS)]
    embedder = OpenAIDocumentEmbedder(
        api_key=secret, model=MODEL, api_base_url=base_url, batch_size=4, progress_bar=False
    )
    embedded = embedder.run(documents=documents)["documents"]
    assert_same([document.embedding for document in embedded], expected)
    assert [document.meta["position"] for document in embedded] == list(range(len(TEXTS)))
    again = (await embedder.run_async(documents=documents))["documents"]
    assert_same([document.embedding for document in again], expected)


async def test_haystack_azure(root: str) -> None:
    """Its embedders for Azure, sync and async."""
    from haystack import Document
    from haystack.components.embedders import AzureOpenAIDocumentEmbedder, AzureOpenAITextEmbedder
    from haystack.utils import Secret

    account = {"azure_endpoint": root, "azure_deployment": MODEL, "api_key": Secret.from_token("unused")}
    expected = plain(root, TEXTS)
    assert_same([AzureOpenAITextEmbedder(**account).run(text=QUERY)["embedding"]], [expected[1]])
    embedder = AzureOpenAIDocumentEmbedder(**account, progress_bar=False)
    documents = [Document(content=content, meta={"position": position}) for position, content in enumerate(TEXTS)]
    assert_same([one.embedding for one in embedder.run(documents=documents)["documents"]], expected)
    again = (await embedder.run_async(documents=documents))["documents"]
    assert_same([document.embedding for document in again], expected)


async def test_redisvl(root: str, base_url: str) -> None:
    """Its vectorizer for OpenAI, one text and many, sync and async."""
    from redisvl.utils.vectorize import OpenAITextVectorizer

    vectorizer = OpenAITextVectorizer(model=MODEL, api_config={"base_url": base_url, "api_key": "unused"})
    expected = plain(root, TEXTS)
    assert vectorizer.dims == 384
    assert_same([vectorizer.embed(QUERY)], [expected[1]])
    assert_same(vectorizer.embed_many(TEXTS, batch_size=4), expected)
    assert_same(await vectorizer.aembed_many(TEXTS, batch_size=4), expected)

"""The clients that users arrive with, unmodified, against the whole product and its real model.

Each one must see exactly the vectors that plain HTTP gives, in its own order. Clients are imported in the tests,
after their telemetry is switched off by their own environment variables; none of them reaches beyond this machine.
"""

import base64
import gc
import json
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
import psutil
import pytest
import tiktoken

from tests.byte_encoding import NAME as ENCODING
from tests.byte_encoding import byte_encoding
from tests.e2e.stack import Run
from tests.gateway_client import running_gateway, until_ready

MODEL = "all-MiniLM-L6-v2"
QUERY = "Where do I change my address?"
TEXTS = ["Der Zug fährt um neun.", QUERY, "電車は九時に出ます。", "A cat sat.", QUERY, "a" * 3000]
# The frameworks leave their connections to the garbage collector, which says so.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
TELEMETRY_OFF = {
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_TRACING": "false",
    "LLAMA_INDEX_CACHE_DIR": "/nonexistent",
    "IS_TESTING": "1",  # LlamaIndex: do not fetch a tokenizer for token counting
    "DO_NOT_TRACK": "1",
}


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in TELEMETRY_OFF.items():
        monkeypatch.setenv(name, value)
    yield
    gc.collect()  # what a client left open is reported here, not in somebody else's test


@pytest.fixture
def root(stack: Run) -> str:
    return f"http://127.0.0.1:{stack.port}"


@pytest.fixture
def base_url(root: str) -> str:
    return f"{root}/v1"


def plain(root: str, texts: Sequence[str], **more: Any) -> list[np.ndarray[Any, Any]]:
    """What raw HTTP gives, as float32."""
    body = json.dumps({"model": MODEL, "input": list(texts), **more}).encode()
    request = urllib.request.Request(f"{root}/v1/embeddings", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return [np.array(item["embedding"], dtype=np.float32) for item in json.load(reply)["data"]]


def assert_same(vectors: Sequence[Sequence[float]], expected: Sequence[np.ndarray[Any, Any]]) -> None:
    """Bit for bit, in order."""
    got = [np.array(vector, dtype=np.float32).tobytes() for vector in vectors]
    assert got == [vector.tobytes() for vector in expected]


@pytest.mark.parametrize("encoding_format", ["float", "base64", None])
def test_openai(root: str, base_url: str, encoding_format: Any) -> None:
    """The SDK's default (base64) and both formats by name give the same vectors, model and exact usage."""
    more = {} if encoding_format is None else {"encoding_format": encoding_format}
    with openai.OpenAI(base_url=base_url, api_key="unused") as client:
        reply = client.embeddings.create(model=MODEL, input=TEXTS, **more)
        single = client.embeddings.create(model=MODEL, input=QUERY)
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).id == MODEL
    vectors: list[Any] = [item.embedding for item in reply.data]
    if encoding_format == "base64":  # asked for by name, the SDK leaves it encoded
        vectors = [np.frombuffer(base64.b64decode(vector), dtype="<f4") for vector in vectors]
    assert_same(vectors, plain(root, TEXTS))
    assert [item.index for item in reply.data] == list(range(len(TEXTS)))
    assert reply.model == MODEL
    assert single.usage.total_tokens == 9  # [CLS] where do i change my address ? [SEP]
    assert_same([single.data[0].embedding], plain(root, [QUERY]))


async def test_openai_async(root: str, base_url: str) -> None:
    """The async SDK, with shortened vectors; 2,048 inputs in one request come back in order."""
    many = [f"chunk {number % 50}" for number in range(2048)]
    async with openai.AsyncOpenAI(base_url=base_url, api_key="unused") as client:
        short = await client.embeddings.create(model=MODEL, input=TEXTS, dimensions=64)
        whole = await client.embeddings.create(model=MODEL, input=many)
    assert_same([item.embedding for item in short.data], plain(root, TEXTS, dimensions=64))
    by_text = dict(zip(many[:50], plain(root, many[:50]), strict=True))
    assert_same([item.embedding for item in whole.data], [by_text[text] for text in many])


def test_openai_errors_are_its_own(base_url: str) -> None:
    """Refusals become the SDK's typed exceptions, with our message, param and code, and the request's id."""
    with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match=MODEL) as missing:
            client.embeddings.create(model="no-such-model", input="a")
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        assert missing.value.request_id
        with pytest.raises(openai.BadRequestError) as empty:
            client.embeddings.create(model=MODEL, input=["a", ""])
        assert empty.value.param == "input"
        with pytest.raises(openai.BadRequestError, match="token ids"):
            client.embeddings.create(model=MODEL, input=[[1, 2, 3]])


@pytest.fixture
def local_encoding(monkeypatch: pytest.MonkeyPatch) -> tiktoken.Encoding:
    """tiktoken fetches its encodings; here one that is made locally stands under the name it is asked for."""
    encoding = byte_encoding()
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: {ENCODING: encoding}[name])
    return encoding


async def test_langchain(root: str, base_url: str) -> None:
    """With its documented check_embedding_ctx_length=False, sync and async."""
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(model=MODEL, base_url=base_url, api_key="unused", check_embedding_ctx_length=False)
    expected = plain(root, TEXTS)
    assert_same(embeddings.embed_documents(TEXTS), expected)
    assert_same([embeddings.embed_query(QUERY)], [expected[1]])
    assert_same(await embeddings.aembed_documents(TEXTS), expected)
    assert_same([await embeddings.aembed_query(QUERY)], [expected[1]])


def test_langchain_without_the_setting_is_told_of_it(base_url: str, local_encoding: tiktoken.Encoding) -> None:
    """LangChain's default sends token ids of another model's tokenizer: the refusal names the setting to change."""
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(model=MODEL, base_url=base_url, api_key="unused", max_retries=0)
    with pytest.raises(openai.BadRequestError, match=r"check_embedding_ctx_length=False"):
        embeddings.embed_documents(TEXTS)


async def test_langchain_without_the_setting_is_decoded_where_the_operator_says_so(
    root: str, stack: Run, local_encoding: tiktoken.Encoding
) -> None:
    """With token_input_encoding the ids become the text they were made of, and give that text's vectors."""
    from langchain_openai import OpenAIEmbeddings

    engine_url = f"http://127.0.0.1:{stack.engine_port}"
    async with running_gateway(engine_url, token_input_encoding=ENCODING) as client:
        await until_ready(client)
        embeddings = OpenAIEmbeddings(model=MODEL, base_url=f"{client.base_url}/v1", api_key="unused", max_retries=0)
        vectors = await embeddings.aembed_documents(TEXTS[:5])
        await embeddings.async_client._client.close()  # or the gateway would wait for the open connection at its end
    assert_same(vectors, plain(root, TEXTS[:5]))


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

    embedding = TextEmbeddingsInference(model_name=MODEL, base_url=root, text_instruction="", query_instruction="")
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


def test_nothing_was_logged_of_the_texts(stack: Run) -> None:
    """After all of that, neither the terminal nor a log file holds what was embedded."""
    folder = Path(psutil.Process(stack.process.pid).cwd()) / ".dejavec" / "logs"
    written = stack.printed + "".join(path.read_text() for path in folder.iterdir())
    assert [text for text in TEXTS if text in written] == []

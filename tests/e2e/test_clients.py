"""openai's Python package, unmodified, against the whole product and its real model.

A client must see exactly the vectors that plain HTTP gives, in its own order: here, and in the other files of this
name for other clients. Frameworks are imported in the tests, after their telemetry is switched off by their own
environment variables; none of them reaches beyond this machine.
"""

import base64
from typing import Any

import numpy as np
import openai
import pytest

from tests.e2e.plain_http import MODEL, QUERY, TEXTS, assert_same, plain

pytestmark = pytest.mark.usefixtures("quiet_client")


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


@pytest.mark.parametrize("path", ["", "/", "/v1/", "/openai/v1"])
def test_openai_with_other_addresses(root: str, path: str) -> None:
    """A base URL without the version, or with a slash too many, is understood."""
    with openai.OpenAI(base_url=f"{root}{path}", api_key="unused") as client:
        reply = client.embeddings.create(model=MODEL, input=TEXTS)
        assert client.models.retrieve(MODEL).id == MODEL
    assert_same([item.embedding for item in reply.data], plain(root, TEXTS))


async def test_openai_async(root: str, base_url: str) -> None:
    """The async SDK, with shortened vectors; 2,048 inputs in one request come back in order."""
    many = [f"chunk {number % 50}" for number in range(2048)]
    async with openai.AsyncOpenAI(base_url=base_url, api_key="unused") as client:
        short = await client.embeddings.create(model=MODEL, input=TEXTS, dimensions=64)
        whole = await client.embeddings.create(model=MODEL, input=many)
    assert_same([item.embedding for item in short.data], plain(root, TEXTS, dimensions=64))
    by_text = dict(zip(many[:50], plain(root, many[:50]), strict=True))
    assert_same([item.embedding for item in whole.data], [by_text[text] for text in many])


def test_azure(root: str) -> None:
    """AzureOpenAI, with the deployment in the path and with the model in the body, and its address without versions."""
    expected = plain(root, TEXTS)
    account = {"azure_endpoint": root, "api_key": "unused", "api_version": "2024-10-21"}
    with openai.AzureOpenAI(**account, azure_deployment=MODEL) as client:
        reply = client.embeddings.create(model="ignored by the SDK", input=TEXTS)
    assert_same([item.embedding for item in reply.data], expected)
    with openai.AzureOpenAI(**account) as client:  # the model's name becomes the deployment's
        reply = client.embeddings.create(model=MODEL, input=TEXTS, dimensions=64)
        assert_same([item.embedding for item in reply.data], plain(root, TEXTS, dimensions=64))
    with openai.OpenAI(base_url=f"{root}/openai/v1", api_key="unused", default_query={"api-version": "v1"}) as client:
        reply = client.embeddings.create(model=MODEL, input=TEXTS)
        assert_same([item.embedding for item in reply.data], expected)
        assert client.models.retrieve(MODEL).id == MODEL


async def test_azure_async(root: str) -> None:
    """The async one; a deployment that is not there is the SDK's NotFoundError."""
    async with openai.AsyncAzureOpenAI(azure_endpoint=root, api_key="unused", api_version="2024-10-21") as client:
        reply = await client.embeddings.create(model=MODEL, input=TEXTS)
        assert_same([item.embedding for item in reply.data], plain(root, TEXTS))
        with pytest.raises(openai.NotFoundError, match=MODEL):
            await client.embeddings.create(model="no-such-model", input=TEXTS)


@pytest.mark.parametrize("output_dtype", ["int8", "uint8", "binary", "ubinary"])
def test_openai_output_types(base_url: str, output_dtype: str) -> None:
    """With the SDK's default encoding, quantised vectors come as the numbers that they are."""
    with openai.OpenAI(base_url=base_url, api_key="unused") as client:
        quantised = client.embeddings.create(model=MODEL, input=TEXTS, extra_body={"output_dtype": output_dtype})
        whole = client.embeddings.create(model=MODEL, input=TEXTS)
    rows = np.array([item.embedding for item in quantised.data], dtype=np.int16)
    vectors = np.array([item.embedding for item in whole.data])
    if output_dtype.endswith("binary"):
        bits = np.unpackbits((rows + 128 * (output_dtype == "binary")).astype(np.uint8), axis=1)
        assert np.array_equal(bits, vectors > 0)
    else:
        numbers = rows - 128 * (output_dtype == "uint8")
        cosines = np.sum(numbers * vectors, axis=1) / np.linalg.norm(numbers, axis=1)
        assert cosines.min() > 0.999


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

"""One embeddings request over HTTP, and what came back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from common.gateway_url import base_url
from common.reply_parsing import error_in
from loadtest.tiers import TierError, item_tiers, request_tier

EMBEDDINGS_PATH = "/v1/embeddings"
MODELS_PATH = "/v1/models"
CACHE_CONTROL_HEADER = "x-cache-control"
MAX_KIND_LENGTH = 60


class RequestFailed(Exception):
    """A request without a usable answer; the message is its kind, short enough to count by."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request got: base64 float32 vectors, the tier of the request and of each text, its tokens."""

    vectors: list[str]
    tier: str
    tiers: list[str]
    tokens: int


class EmbeddingsClient:
    """Sends OpenAI embeddings requests to one server, whose URL may end in `/v1`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str) -> None:
        self._session = session
        self._url = base_url(url) + EMBEDDINGS_PATH
        self._model = model

    async def embed(self, texts: Sequence[str], cache_control: str | None = None) -> Answer:
        """Embed `texts`; a lone text goes as a string, as clients send it. Raises RequestFailed."""
        body = {
            "model": self._model,
            "input": texts[0] if len(texts) == 1 else list(texts),
            "encoding_format": "base64",
        }
        headers = {"content-type": "application/json"}
        if cache_control is not None:
            headers[CACHE_CONTROL_HEADER] = cache_control
        try:
            async with self._session.post(self._url, data=orjson.dumps(body), headers=headers) as response:
                content = await response.read()
                if response.status != 200:
                    raise RequestFailed(f"{response.status} {error_type(content)}".strip())
                return parse_answer(content, response.headers, len(texts))
        except TimeoutError:
            raise RequestFailed("timed out") from None
        except aiohttp.ClientConnectorError as error:
            raise RequestFailed(f"cannot connect: {error.os_error.strerror or error.os_error}") from None
        except aiohttp.ClientError as error:
            raise RequestFailed(f"connection lost: {type(error).__name__}") from None


def parse_answer(content: bytes, headers: Any, count: int) -> Answer:
    """Read a 200 answer to `count` texts, in the order of their `index`. Raises RequestFailed."""
    try:
        payload = orjson.loads(content)
        items = sorted(payload["data"], key=lambda item: item["index"])
        vectors = [item["embedding"] for item in items]
        if len(vectors) != count:
            raise RequestFailed("200 with the wrong number of vectors")
        return Answer(vectors, request_tier(headers), item_tiers(headers, count), tokens_of(payload))
    except TierError:
        raise RequestFailed("200 with contradictory x-cache headers") from None
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise RequestFailed("200 without the documented shape") from None


def tokens_of(payload: dict[str, Any]) -> int:
    """`usage.total_tokens`, 0 where a server does not count."""
    return int((payload.get("usage") or {}).get("total_tokens") or 0)


def error_type(content: bytes) -> str:
    """The `type` of an OpenAI error envelope, empty when the body is something else."""
    return str(error_in(content).get("type", ""))[:MAX_KIND_LENGTH]


async def first_model(session: aiohttp.ClientSession, url: str) -> str:
    """The first model that `GET /v1/models` lists. Raises RequestFailed naming the remedy."""
    address = base_url(url) + MODELS_PATH
    try:
        async with session.get(address) as response:
            content = await response.read()
            if response.status != 200:
                raise RequestFailed(f"{address} answers {response.status} {error_type(content)}".strip())
            return str(orjson.loads(content)["data"][0]["id"])
    except (aiohttp.ClientError, TimeoutError) as error:
        raise RequestFailed(f"{address} does not answer ({type(error).__name__}): is the server up?") from None
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
        raise RequestFailed(f"{address} lists no model: name one with --model") from None

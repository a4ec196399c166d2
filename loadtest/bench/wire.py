"""The HTTP requests that benchmarks send, as bytes, and single exchanges to prepare them. Pure but for `exchange`."""

import http.client
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import orjson

from loadtest.bench.processes import LOOPBACK, BenchmarkError

JSON_TYPE = "application/json"
BINARY_TYPE = "application/x-dejavec"
T = TypeVar("T")

INTERACTIVE_LANE, BULK_LANE = 0, 1


def http_request(
    url: str, path: str, body: bytes, content_type: str = JSON_TYPE, headers: Mapping[str, str] | None = None
) -> bytes:
    """One POST as it goes over the wire."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: {urlsplit(url).netloc}",
        f"content-type: {content_type}",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def embeddings_body(model: str, texts: Sequence[str]) -> bytes:
    """The body of `POST /v1/embeddings`; a lone text goes as a string."""
    return orjson.dumps(
        {"model": model, "input": texts[0] if len(texts) == 1 else list(texts), "encoding_format": "base64"}
    )


def vectors_body(input_ids: Sequence[Sequence[int]]) -> bytes:
    """The body of the engine's binary `POST /vectors`: see the docstring of engine/protocol.py."""
    lane = INTERACTIVE_LANE if len(input_ids) == 1 else BULK_LANE
    lengths = [len(ids) for ids in input_ids]
    words = [lane, len(input_ids), *lengths, *(token for ids in input_ids for token in ids)]
    return b"DVQ1" + np.array(words, dtype="<u4").tobytes()


def batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Consecutive groups of `size`; the last may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def whole(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Groups of exactly `size`, so that requests can be counted as `size` texts each; items repeat if too few."""
    enough = itertools.islice(itertools.cycle(items), max(size, len(items) // size * size))
    return batches(list(enough), size)


def exchange(
    url: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[bytes, Mapping[str, str]]:
    """One GET, or POST with a body, and its 200 answer. Raises BenchmarkError on anything else."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or LOOPBACK, parts.port or 80, timeout=60)
    try:
        connection.request(
            "GET" if body is None else "POST", path, body, {"content-type": JSON_TYPE, **(headers or {})}
        )
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise BenchmarkError(f"{url}{path} answers {response.status}: {content[:300]!r}")
        return content, {name.lower(): value for name, value in response.getheaders()}
    except (OSError, http.client.HTTPException) as error:
        raise BenchmarkError(f"{url}{path} does not answer: {error}") from None
    finally:
        connection.close()


def exchange_json(url: str, path: str, body: bytes | None = None) -> Any:
    """The JSON of one exchange. Raises BenchmarkError."""
    content, _ = exchange(url, path, body)
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        raise BenchmarkError(f"{url}{path} answers something that is not JSON") from None


def model_of(url: str) -> str:
    """The first model that a server lists. Raises BenchmarkError."""
    try:
        return str(exchange_json(url, "/v1/models")["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise BenchmarkError(f"{url}/v1/models lists no model") from None

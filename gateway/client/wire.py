"""What goes to `POST /v1/embeddings` and `GET /info`, and what comes back. Pure: bytes in, values out.

Nothing of an answer is used unless all of it holds: as many vectors as texts, each text's index once, one
length, all numbers finite.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from common.reply_parsing import tier_runs
from gateway.client.errors import InvalidReply, Unavailable
from gateway.client.transport import REQUEST_ID_HEADER, Reply

EMBEDDINGS_PATH = "/v1/embeddings"
INFO_PATH = "/info"
MAX_REQUEST_TEXTS = 2048  # OpenAI's limit on inputs in one request, and the gateway's
MAX_REQUEST_BYTES = 8 << 20  # of text in one request; a gateway takes bodies of 16 MiB unless set otherwise

FINGERPRINT_HEADER = "x-dejavec-fingerprint"
CACHE_HEADER = "x-cache"
CACHE_ITEMS_HEADER = "x-cache-items"
CACHE_CONTROL_HEADER = "x-cache-control"
MIN_FIDELITY_HEADER = "x-min-fidelity"
UNKNOWN_TIER = "unknown"  # of a mixed answer in more runs than the header holds
MIXED = "mixed"

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """The vectors of n texts, in their order, and where they came from.

    vectors: float32[n, dimensions]. tiers: n of "local", "exact", "semantic", "miss", or "unknown" where the
    gateway gave none. request_id: as the gateway logs it; several, joined by commas, when the texts took
    several requests.
    """

    vectors: Float32Array
    tiers: list[str]
    usage_tokens: int
    model: str
    request_id: str
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class GatewayInfo:
    """What a gateway reports of its model at `GET /info`."""

    model: str
    fingerprint: str
    dimensions: int
    max_tokens: int


def split(
    texts: Sequence[str], max_texts: int = MAX_REQUEST_TEXTS, max_bytes: int = MAX_REQUEST_BYTES
) -> list[Sequence[str]]:
    """The texts in order, in pieces of at most `max_texts` and `max_bytes` of UTF-8; a longer text is a piece alone."""
    pieces: list[Sequence[str]] = []
    start = filled_bytes = 0
    for index, text in enumerate(texts):
        text_bytes = len(text.encode(errors="replace"))
        if index > start and (index - start == max_texts or filled_bytes + text_bytes > max_bytes):
            pieces.append(texts[start:index])
            start, filled_bytes = index, 0
        filled_bytes += text_bytes
    return [*pieces, texts[start:]] if start < len(texts) else pieces


def embeddings_body(texts: Sequence[str], model: str, dimensions: int | None, prompt_name: str | None) -> bytes:
    """The body of one request; fields that are None are left to the gateway's defaults. Raises ValueError."""
    fields = {
        "input": list(texts),
        "encoding_format": "base64",
        "model": model,
        "dimensions": dimensions,
        "prompt_name": prompt_name,
    }
    try:
        return orjson.dumps({name: value for name, value in fields.items() if value is not None})
    except orjson.JSONEncodeError as error:
        raise ValueError(f"the texts cannot be sent as JSON: {error}") from None


def control_headers(cache_control: str | None, min_fidelity: float | None) -> dict[str, str]:
    """The request headers that select which caches may answer."""
    headers = {}
    if cache_control is not None:
        headers[CACHE_CONTROL_HEADER] = cache_control
    if min_fidelity is not None:
        headers[MIN_FIDELITY_HEADER] = repr(float(min_fidelity))
    return headers


def decode_embeddings(reply: Reply, count: int, dimensions: int | None) -> EmbedResult:
    """The vectors of `count` texts from a reply of status 200. Raises InvalidReply."""
    try:
        payload = orjson.loads(reply.body)
        vectors = _vectors(payload["data"], count)
        tokens, model = int(payload["usage"]["total_tokens"]), str(payload["model"])
    except (orjson.JSONDecodeError, binascii.Error, KeyError, TypeError, ValueError) as error:
        raise InvalidReply(f"{reply.url}: not an embeddings answer: {error!r}") from None
    if dimensions is not None and vectors.shape[1] != dimensions:
        raise InvalidReply(f"{reply.url}: vectors of {vectors.shape[1]} dimensions, not the requested {dimensions}")
    return EmbedResult(
        vectors=vectors,
        tiers=item_tiers(reply.headers.get(CACHE_HEADER), reply.headers.get(CACHE_ITEMS_HEADER), count),
        usage_tokens=tokens,
        model=model,
        request_id=reply.headers.get(REQUEST_ID_HEADER, ""),
        fingerprint=reply.headers.get(FINGERPRINT_HEADER),
    )


def decode_info(reply: Reply) -> GatewayInfo:
    """The gateway's information from a reply of status 200. Raises InvalidReply; Unavailable while it has no model."""
    try:
        entries = orjson.loads(reply.body)
        if entries["fingerprint"] is None:
            raise Unavailable(503, f"{reply.url}: no engine: {entries.get('engine', 'no reason given')}")
        return GatewayInfo(
            model=str(entries["model"]),
            fingerprint=str(entries["fingerprint"]),
            dimensions=int(entries["dimensions"]),
            max_tokens=int(entries["max_tokens"]),
        )
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidReply(f"{reply.url}: not a gateway's information: {error!r}") from None


def joined(results: Sequence[EmbedResult]) -> EmbedResult:
    """The results of consecutive pieces as one. Raises InvalidReply when their vectors differ in length."""
    if len(results) == 1:
        return results[0]
    if len({result.vectors.shape[1] for result in results}) != 1:
        raise InvalidReply("the parts of one call came back with vectors of different lengths")
    return EmbedResult(
        vectors=np.concatenate([result.vectors for result in results]),
        tiers=[tier for result in results for tier in result.tiers],
        usage_tokens=sum(result.usage_tokens for result in results),
        model=results[0].model,
        request_id=",".join(result.request_id for result in results),
        fingerprint=results[0].fingerprint,
    )


def item_tiers(summary: str | None, runs: str | None, count: int) -> list[str]:
    """The tier that served each of `count` texts; `unknown` for all of them when the headers name none.

    The headers are a diagnosis: when they are missing or do not add up, the vectors are as good as ever.
    """
    if runs is not None:
        tiers = parse_runs(runs, count)
        if tiers is not None:
            return tiers
    if summary is not None and summary != MIXED:
        return [summary.strip()] * count
    return [UNKNOWN_TIER] * count


def parse_runs(text: str, count: int) -> list[str] | None:
    """`local*3,miss` as ["local", "local", "local", "miss"]; None unless it adds up to `count`."""
    runs = tier_runs(text)
    if runs is None or sum(times for _, times in runs) != count:
        return None
    return [tier for tier, times in runs for _ in range(times)]


def _vectors(items: list[dict[str, Any]], count: int) -> Float32Array:
    """float32[count, dimensions] in the order of the texts. Raises ValueError."""
    if len(items) != count:
        raise ValueError(f"{len(items)} vectors for {count} texts")
    rows: list[bytes | None] = [None] * count
    for item in items:
        index = item["index"]
        if not (type(index) is int and 0 <= index < count and rows[index] is None):
            raise ValueError(f"index {index!r} is out of range or comes twice")
        rows[index] = base64.b64decode(item["embedding"], validate=True)
    whole = [row for row in rows if row]
    lengths = {len(row) for row in whole}
    if len(whole) != count or len(lengths) != 1:
        raise ValueError("vectors that are empty or of different lengths")
    vectors = np.frombuffer(b"".join(whole), dtype="<f4").reshape(count, -1).astype(np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError("a vector with a number that is not finite")
    return vectors

"""`POST /embed` in both its shapes: text-embeddings-inference's, and the plain one with `texts`."""

import time

from gateway.http import Exchange, Reply
from gateway.routes.embedding_call import INLINE_BODY_BYTES, EmbeddingCalls
from gateway.routes.schemas import EmbedTextsBody, array_reply, parse_embed, texts_reply


async def embed(calls: EmbeddingCalls, exchange: Exchange, model: str | None = None) -> Reply:
    """Answer either shape; a `model` of the path stands in place of the body's."""
    is_small = len(exchange.body) <= INLINE_BODY_BYTES
    body = parse_embed(exchange.body) if is_small else await calls.parsed(exchange, parse_embed)
    options = calls.options(exchange, body)
    if isinstance(body, EmbedTextsBody):
        answer = await calls.embed(exchange, model or body.model, body.texts, options, "texts")
        latency_ms = 1000 * (time.perf_counter() - exchange.started)
        content = texts_reply(answer.vectors, answer.result.model.model, latency_ms)
    else:
        answer = await calls.embed(exchange, model or body.model, body.inputs, options, "inputs")
        content = array_reply(answer.vectors)
    return Reply(content, answer.headers)

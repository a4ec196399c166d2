"""`POST /embed` in both its shapes: text-embeddings-inference's, and the plain one with `texts`."""

import time

from gateway.errors import BadRequest
from gateway.http import Exchange, Reply
from gateway.routes.embedding_call import INLINE_BODY_BYTES, EmbeddingCalls, result_headers
from gateway.routes.schemas import EmbedInputsBody, EmbedTextsBody, array_reply, parse_embed, texts_reply


async def embed(calls: EmbeddingCalls, exchange: Exchange) -> Reply:
    """Answer either shape."""
    is_small = len(exchange.body) <= INLINE_BODY_BYTES
    body = parse_embed(exchange.body) if is_small else await calls.parsed(exchange, parse_embed)
    if isinstance(body, EmbedTextsBody):
        return await _embed_texts(calls, exchange, body)
    return await _embed_inputs(calls, exchange, body)


async def _embed_inputs(calls: EmbeddingCalls, exchange: Exchange, body: EmbedInputsBody) -> Reply:
    if body.normalize is False:
        raise BadRequest("normalize: false is not possible: stored vectors have unit length", param="normalize")
    prompt = calls.names.prompt_named(body.prompt_name, calls.engine.model.info)
    result, vectors = await calls.run(exchange, body.inputs, prompt, body.dimensions, body.truncate, "inputs")
    return Reply(array_reply(vectors), result_headers(result))


async def _embed_texts(calls: EmbeddingCalls, exchange: Exchange, body: EmbedTextsBody) -> Reply:
    prompt = calls.names.prompt_named(body.prompt_name, calls.engine.model.info)
    result, vectors = await calls.run(exchange, body.texts, prompt, body.dimensions, field="texts")
    latency_ms = 1000 * (time.perf_counter() - exchange.started)
    return Reply(texts_reply(vectors, result.model.model, latency_ms), result_headers(result))

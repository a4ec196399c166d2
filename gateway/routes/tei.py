"""text-embeddings-inference's other routes: `/tokenize`, `/decode`, and its fields of `/info`.

    [[{"id": 101, "text": "[CLS]", "special": true, "start": null, "stop": null}, ...], ...]     /tokenize
    ["a text", ...]                                                                              /decode

Its `/embed` is in embed.py. Tokens are those of the whole text, whatever the model's limit; what one request may ask
for is bounded by MAX_CHARS, since a token takes twenty times its text in the reply.
"""

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Final

import orjson
from pydantic import Field
from tokenizers import Encoding, Tokenizer

from engine.protocol import EngineInfo
from gateway.errors import BadRequest, Unprocessable
from gateway.http import Exchange, Reply
from gateway.names import hub_id
from gateway.routes.embedding_call import EmbeddingCalls
from gateway.routes.fields import check_fields
from gateway.routes.schemas import MAX_INPUTS, Body, Texts, parse
from gateway.settings import GatewaySettings

MAX_CHARS: Final = 65_536
MAX_IDS: Final = 65_536
TOKEN_BYTES: Final = 80  # of a token in the reply, but for its text

TokenId = Annotated[int, Field(ge=0, lt=2**32, strict=True)]
Ids = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_IDS)]


class TokenizeBody(Body):
    """Body of `POST /tokenize`."""

    inputs: Texts
    model: str | None = None
    add_special_tokens: bool = True
    prompt_name: str | None = None


class DecodeBody(Body):
    """Body of `POST /decode`."""

    model: str | None = None
    ids: Ids | Annotated[list[Ids], Field(min_length=1, max_length=MAX_INPUTS)]
    skip_special_tokens: bool = True


async def tokenize(calls: EmbeddingCalls, exchange: Exchange) -> Reply:
    """`POST /tokenize`: a list of tokens for each text."""
    body = await calls.parsed(exchange, partial(parse, shape=TokenizeBody, refusal=Unprocessable))
    check_fields(body.model_extra, calls.settings.strict_fields)
    served, _ = calls.models.find(body.model)
    texts = [body.inputs] if isinstance(body.inputs, str) else list(body.inputs)
    if not all(isinstance(text, str) for text in texts):
        raise Unprocessable("`inputs` must hold strings", param="inputs")
    if body.prompt_name is not None:
        prompt = served.names.prompt_named(body.prompt_name, served.model.info)
        texts = [prompt + text for text in texts]
    chars = sum(map(len, texts))
    if chars > MAX_CHARS:
        raise BadRequest(f"{chars} characters to tokenize; send at most {MAX_CHARS} at once", param="inputs")
    exchange.place.expect_reply(chars * TOKEN_BYTES)
    tokenizer = await served.engine.tokenizer()
    steps = _token_steps(tokenizer, texts, body.add_special_tokens)
    lists = await calls.pool.collect(exchange.tenant.namespace, steps)
    return Reply(b"[" + b",".join(lists) + b"]")


async def decode(calls: EmbeddingCalls, exchange: Exchange) -> Reply:
    """`POST /decode`: the text of each list of token ids."""
    body = await calls.parsed(exchange, partial(parse, shape=DecodeBody, refusal=Unprocessable))
    check_fields(body.model_extra, calls.settings.strict_fields)
    served, _ = calls.models.find(body.model)
    lists: list[list[int]] = body.ids if isinstance(body.ids[0], list) else [body.ids]
    if sum(map(len, lists)) > MAX_IDS:
        raise BadRequest(f"too many token ids to decode; send at most {MAX_IDS} at once", param="ids")
    tokenizer = await served.engine.tokenizer()
    texts = await calls.pool.run(
        exchange.tenant.namespace,
        lambda: tokenizer.decode_batch(lists, skip_special_tokens=body.skip_special_tokens),
    )
    return Reply(orjson.dumps(texts))


def info_fields(info: EngineInfo, settings: GatewaySettings) -> dict[str, object]:
    """What its clients read of `/info`."""
    return {
        "model_id": hub_id(info),
        "model_sha": None,
        "model_dtype": info.kernel_class.partition("-")[0].replace("fp", "float"),
        "model_type": {"embedding": {"pooling": info.pooling} if info.pooling else {}},
        "max_concurrent_requests": settings.max_concurrent_requests,
        "max_input_length": info.max_tokens,
        "max_batch_tokens": info.max_request_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_inputs,
        "auto_truncate": settings.truncate_inputs,
        "tokenization_workers": 1,
    }


def _token_steps(tokenizer: Tokenizer, texts: list[str], with_special: bool) -> Iterator[list[bytes]]:
    for text in texts:
        yield [orjson.dumps(_tokens(text, tokenizer.encode(text, add_special_tokens=with_special)))]


def _tokens(text: str, encoding: Encoding) -> list[dict[str, Any]]:
    rows = zip(encoding.ids, encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True)
    return [
        {"id": id_, "text": token, "special": True, "start": None, "stop": None}
        if special
        else {"id": id_, "text": text[start:stop], "special": False, "start": start, "stop": stop}
        for id_, token, (start, stop), special in rows
    ]

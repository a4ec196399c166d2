"""Replies that are kept whole: a request like an earlier one, byte for byte, is answered without being read.

    request = kept.request_of(exchange, deployment)     # 16 bytes; None: such a request is always read
    reply = await kept.find(request, exchange)          # None: read it
    kept.keep(request, body.model, result, reply)

Kept are replies to a single text that L0 held, together with that text's entry there (`cache.local`), so a reply is
served only while L0 would serve its vector. What else it depends on is in the request's name (body, route, namespace
and both epochs) or is looked at again (the model that the name means, and whether its engines still have the same one).
Limits, usage and metrics are as if the request had been read.
"""

from dataclasses import dataclass
from typing import Final

from cache.epochs import Epochs
from cache.keys import Scope
from cache.local import LocalCache, LocalReply
from common import tracing
from common.asgi import Headers, Reply
from gateway.embed_request import EmbedResult
from gateway.engines.engine_set import Model
from gateway.errors import GatewayError
from gateway.http import Exchange
from gateway.models import Models, ServedModel
from gateway.routes.output_types import decodes_base64_as_float32

MAX_BODY_BYTES: Final = 16_384  # of a request; hashed in 20 us
MAX_REPLY_BYTES: Final = 65_536
MAX_SCOPES: Final = 4096


@dataclass(frozen=True, slots=True)
class _About:
    """What a kept reply is looked at for again."""

    requested: str | None
    served: ServedModel
    suffix: str
    model: Model
    headers: Headers
    result: EmbedResult  # for what it counts; without its vector


class KeptReplies:
    """The replies that one gateway worker keeps in its L0."""

    def __init__(self, local: LocalCache, epochs: Epochs, models: Models, secret: bytes) -> None:
        self._local = local
        self._epochs = epochs
        self._models = models
        self._secret = secret
        self._scopes: dict[tuple[str, tuple[str, str]], Scope] = {}

    def request_of(self, exchange: Exchange, deployment: str | None) -> bytes | None:
        """What names a request; `deployment` is the model in its path."""
        headers = exchange.headers
        if (
            tracing.tracer is not None
            or len(exchange.body) > MAX_BODY_BYTES
            or b"x-cache-control" in headers  # rare, like the next
            or b"x-min-fidelity" in headers
            or not self._local.enabled
        ):
            return None
        namespace = exchange.tenant.namespace
        epochs = self._epochs.at_hand(namespace)
        if epochs is None:
            return None
        scope = self._scopes.get((namespace, epochs))
        if scope is None:
            if len(self._scopes) >= MAX_SCOPES:
                self._scopes.clear()
            scope = self._scopes[namespace, epochs] = Scope(self._secret, "", namespace, epochs)
        kind = b"float32" if decodes_base64_as_float32(headers) else b""
        if deployment is not None:
            kind += b" " + deployment.encode()
        return scope.digest_of_request(kind, exchange.body)

    async def find(self, request: bytes, exchange: Exchange) -> Reply | None:
        """The reply to a request, counted as one. Raises GatewayError for its limits, and its model's name."""
        entry = self._local.get_by_request(request)
        if entry is None or entry.reply is None:
            return None
        about = entry.reply.about
        assert isinstance(about, _About)
        served, suffix = self._models.find(about.requested)
        if served is not about.served or suffix != about.suffix or served.engine.current_model is not about.model:
            return None
        body, result, tenant = entry.reply.body, about.result, exchange.tenant
        allowance = tenant.allowance(served.name)
        if allowance is not None:
            await allowance.take(result.tokens)
        served.service.count(result)
        tenant.usage.count(result.tokens, result.tiers)
        return Reply(body, about.headers)

    def keep(self, request: bytes, requested: str | None, result: EmbedResult, reply: Reply) -> None:
        """Keep a reply, if it is one that may be kept. `requested`: the model's name, as the request has it."""
        if len(result.tiers) != 1 or len(result.local_digests) != 1 or len(reply.body) > MAX_REPLY_BYTES:
            return
        try:
            served, suffix = self._models.find(requested)
        except GatewayError:  # it was removed meanwhile: the reply is the request's own, and no other's
            return
        model = served.engine.current_model
        if model is None or model.info is not result.model:
            return
        counted = EmbedResult(result.model, [], result.tiers, result.tokens, result.truncated)
        about = _About(requested, served, suffix, model, reply.headers, counted)
        self._local.keep_reply(result.local_digests[0], LocalReply(request, reply.body, about))

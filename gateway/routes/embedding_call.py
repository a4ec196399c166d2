"""What the embedding routes have in common: request headers in, the service call, reply headers out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Final, TypeVar

from common import tracing
from common.asgi import Headers
from engine.protocol import FINGERPRINT_HEADER, EngineInfo
from gateway import spans
from gateway.embed_request import CacheControl, EmbedRequest, EmbedResult
from gateway.errors import BadRequest
from gateway.http import Exchange
from gateway.kept_replies import KeptReplies
from gateway.models import Models
from gateway.routes.dimensions import check_shortening
from gateway.routes.fields import BASE64, FLOAT, PLAIN, PLAIN_BASE64, PLAIN_FIELDS, Options, options_of
from gateway.routes.output_types import as_json, check_dimensions
from gateway.routes.schemas import TokenIds, VectorsBody, shorten
from gateway.routes.token_input import Decode, decoding_steps, texts_of
from gateway.settings import GatewaySettings
from gateway.work_pool import WorkPool

INLINE_BODY_BYTES: Final = 65_536  # parsed in 0.1 ms, 10 ms at worst; more on the pool, off the event loop
INLINE_TOKEN_IDS: Final = 4096  # likewise
JSON_NUMBER_BYTES: Final = 13.0  # of a float32 and its comma
BASE64_NUMBER_BYTES: Final = 5.5  # of its share of a string
MAX_TIER_RUNS: Final = 64
FINGERPRINT_NAME: Final = FINGERPRINT_HEADER.encode()
REPLY_HEADERS: Final = (  # all that a reply may have beside HTTP's own; scripts of other origins may read them
    "x-cache",
    "x-cache-items",
    "x-cache-similarity",
    "x-cache-margin",
    "x-cache-threshold",
    "x-truncated",
    "x-dimensions",
    "x-ignored-fields",
    FINGERPRINT_HEADER,
    "server-timing",
)
T = TypeVar("T")
_CONTROLS: Final = {control.value.encode(): control for control in CacheControl}


@dataclass(slots=True)
class Answer:
    """What a route makes its reply of: each vector as a piece of JSON, and headers."""

    result: EmbedResult
    vectors: list[bytes]
    headers: Headers


@dataclass(frozen=True, slots=True)
class EmbeddingCalls:
    """Turns a parsed body into a service call, the same for every route."""

    settings: GatewaySettings
    models: Models
    decode: Decode | None
    pool: WorkPool
    kept: KeptReplies

    async def parsed(self, exchange: Exchange, parse: Callable[[bytes], T]) -> T:
        """What `parse` makes of the body, which is then freed; of a large one off the event loop. Raises GatewayError.

        The busiest routes parse a small one themselves, which saves a call.
        """
        if len(exchange.body) <= INLINE_BODY_BYTES:
            return parse(exchange.take_body())
        return await self.pool.run(exchange.tenant.namespace, partial(parse, exchange.take_body()))

    async def embed(
        self, exchange: Exchange, model: str | None, inputs: object, options: Options, field: str = "input"
    ) -> Answer:
        """The vectors of a request, for every route. Raises GatewayError; errors name `field`.

        The memory that they take in the reply is held before they are computed.
        """
        served, suffix = self.models.find(model)
        info = served.model.info
        prompt = served.names.prompt_of(suffix, options.prompt_name, info, options.input_type)
        dimensions, most, output = options.dimensions, info.dimensions, options.output
        headers = None if dimensions is None else self._shortening(dimensions, info)
        if output is not FLOAT and output is not BASE64:
            check_dimensions(output.types, dimensions or most)
        if isinstance(inputs, TokenIds):
            inputs = await self._decoded(exchange, inputs)
        texts = self._texts(inputs, field)
        number_bytes = BASE64_NUMBER_BYTES if output.as_base64 else JSON_NUMBER_BYTES
        exchange.place.expect_reply(int(len(texts) * (dimensions or most) * number_bytes))
        allowance = exchange.tenant.allowance(served.name)
        request = EmbedRequest(
            namespace=exchange.tenant.namespace,
            texts=texts,
            prompt=prompt,
            deadline=exchange.deadline,
            control=cache_control(exchange.headers.get(b"x-cache-control")),
            truncate=self.settings.truncate_inputs if options.truncate is None else options.truncate,
            min_fidelity=min_fidelity(exchange.headers.get(b"x-min-fidelity")),
            take_tokens=None if allowance is None else allowance.take,
        )
        try:
            embed = served.service.embed
            if tracing.tracer is None:
                result = await embed(request)
            else:
                result = await spans.embeddings(embed, request, info.model, model, dimensions or most)
        except BaseException:  # a client that leaves as well
            if allowance is not None:
                allowance.give_back()
            raise
        shorter = None if dimensions == most else dimensions
        vectors = shorten(result.vectors, shorter, layer_norm=result.model.matryoshka_layer_norm)
        exchange.tenant.usage.count(result.tokens, result.tiers)
        about = result_headers(result)
        if headers or options.headers:
            about += [*(headers or ()), *options.headers]
        return Answer(result, as_json(vectors, output.types[0], output.as_base64), about)

    def _shortening(self, dimensions: int, info: EngineInfo) -> Headers:
        return check_shortening(dimensions, info.dimensions, info.matryoshka_dims, self.settings.untrained_dimensions)

    def options(self, exchange: Exchange, body: VectorsBody) -> Options:
        """What a body's fields mean, by this gateway's settings. Raises BadRequest."""
        if body.model_fields_set <= PLAIN_FIELDS:  # nearly all requests
            return PLAIN_BASE64 if body.encoding_format == "base64" else PLAIN
        return options_of(body, exchange.headers, self.settings.strict_fields)

    async def _decoded(self, exchange: Exchange, token_ids: TokenIds) -> list[str]:
        if self.decode is None or sum(map(len, token_ids)) <= INLINE_TOKEN_IDS:
            return texts_of(token_ids, self.decode)
        return await self.pool.collect(exchange.tenant.namespace, decoding_steps(token_ids, self.decode))

    def _texts(self, inputs: object, field: str) -> Sequence[str]:
        if isinstance(inputs, str):
            texts = [inputs]
        else:
            assert isinstance(inputs, list)
            texts = inputs
        if len(texts) > self.settings.max_inputs:
            raise BadRequest(
                f"{len(texts)} inputs in one request; send at most {self.settings.max_inputs}", param=field
            )
        if len(max(texts, key=len)) > self.settings.max_input_chars:
            raise BadRequest(f"an input is over {self.settings.max_input_chars} characters; split it", param=field)
        return texts


def cache_control(value: bytes | None) -> CacheControl:
    """The value of `x-cache-control`. Raises BadRequest."""
    if value is None:
        return CacheControl.NORMAL
    control = _CONTROLS.get(value.strip().lower())
    if control is None:
        raise BadRequest("x-cache-control must be no-store, no-cache or exact-only", param="x-cache-control")
    return control


def min_fidelity(value: bytes | None) -> float:
    """The value of `x-min-fidelity`: the least cosine similarity to the recomputed vector. Raises BadRequest."""
    if value is None:
        return 0.0
    try:
        fidelity = float(value)
    except ValueError:
        fidelity = -1.0
    if not 0 <= fidelity <= 1:
        raise BadRequest("x-min-fidelity must be a number from 0 to 1", param="x-min-fidelity")
    return fidelity


def result_headers(result: EmbedResult) -> Headers:
    """`x-cache`, `x-cache-items`, the fingerprint, the predicted similarity of semantic hits, each stage's time."""
    runs = [(tier, len(list(group))) for tier, group in groupby(result.tiers)]
    overall = runs[0][0] if len({tier for tier, _ in runs}) == 1 else "mixed"
    headers = [(b"x-cache", overall.encode()), (FINGERPRINT_NAME, result.model.fingerprint.encode())]
    if len(runs) <= MAX_TIER_RUNS:
        text = ",".join(tier if count == 1 else f"{tier}*{count}" for tier, count in runs)
        headers.append((b"x-cache-items", text.encode()))
    if result.semantic_hits:
        shown = result.semantic_hits[:MAX_TIER_RUNS]
        similarities = ",".join(f"{one.choice.similarity:.4f}" for one in shown if one.choice is not None)
        thresholds = ",".join(sorted({f"{one.tau:.4f}" for one in shown if one.tau is not None}))
        margins = ",".join(f"{one.choice.margin:.4f}" for one in shown if one.choice is not None)
        headers += [(b"x-cache-similarity", similarities.encode()), (b"x-cache-margin", margins.encode())]
        headers.append((b"x-cache-threshold", thresholds.encode()))
    if result.truncated:
        headers.append((b"x-truncated", str(result.truncated).encode()))
    if result.stage_s:
        stages = ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in result.stage_s.items())
        headers.append((b"server-timing", stages.encode()))
    return headers

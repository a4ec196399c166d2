"""What the gateway's spans are called and hold, by OpenTelemetry's conventions. Called only while tracing is on.

POST /v1/embeddings                    the request (`common.traced_app`)
└── embeddings all-MiniLM-L6-v2        its texts' way through the tiers, by the conventions for generative AI
    ├── local, tokenize                stages
    ├── MGET                           exact entries: the wait for a look-up shared with other requests
    ├── FT.SEARCH                      semantic tier: neighbours and the vectors that are served
    ├── POST /vectors                  the call of the engine, which goes on with a span of its own
    └── engine                         the wait for it, also where another request had asked for the same text
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from common import tracing
from engine.text_encoder import EncodedText

if TYPE_CHECKING:
    from gateway.embed_request import EmbedRequest, EmbedResult

PROVIDER: Final = "dejavec"
# The stages that wait for Redis: what they are called as database calls.
REDIS_COMMANDS: Final = {"exact": "MGET", "semantic": "FT.SEARCH"}


async def embeddings(
    embed: "Callable[[EmbedRequest], Awaitable[EmbedResult]]",
    request: "EmbedRequest",
    model: str,
    requested_model: str | None,
    dimensions: int,
) -> "EmbedResult":
    """`embed(request)` in a span of its own."""
    asked = requested_model or model
    attributes = {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": asked,
        "gen_ai.embeddings.dimension.count": dimensions,
        "dejavec.texts": len(request.texts),
        "dejavec.namespace": request.namespace,
    }
    with tracing.span(f"embeddings {asked}", attributes) as span:
        result = await embed(request)
        span.set_attribute("gen_ai.response.model", result.model.model)
        span.set_attribute("gen_ai.usage.input_tokens", result.tokens)
        span.set_attributes({f"dejavec.texts.{tier}": texts for tier, texts in Counter(result.tiers).items()})
        return result


def stage(name: str, duration_s: float) -> None:
    """A stage of the request story that has just ended."""
    command = REDIS_COMMANDS.get(name)
    if command is None:
        tracing.record(name, duration_s, {})
        return
    attributes = {"db.system.name": "redis", "db.operation.name": command, "dejavec.stage": name}
    tracing.record(command, duration_s, attributes, "client")


def engine_call(texts: Sequence[EncodedText]) -> AbstractContextManager[Any]:
    """Around a call of the engine."""
    attributes: dict[str, str | int] = {"http.request.method": "POST", "dejavec.texts": len(texts)}
    attributes["dejavec.tokens"] = sum(one.tokens for one in texts)
    return tracing.span("POST /vectors", attributes, "client")

"""What a request for vectors asks of the service, and what it gets."""

import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from cache.semantic.tier import Lookup
from engine.protocol import EngineInfo


class CacheControl(enum.Enum):
    """What a request allows: NORMAL all tiers; EXACT_ONLY no semantic hits; NO_CACHE compute, then keep;
    NO_STORE compute, keep nothing."""

    NORMAL = "normal"
    EXACT_ONLY = "exact-only"
    NO_CACHE = "no-cache"
    NO_STORE = "no-store"

    @property
    def reads(self) -> bool:
        """Whether stored vectors may be served."""
        return self in (CacheControl.NORMAL, CacheControl.EXACT_ONLY)

    @property
    def writes(self) -> bool:
        """Whether computed vectors may be kept."""
        return self is not CacheControl.NO_STORE


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """What a client wants: vectors for `texts`, each behind `prompt`. `deadline` is in event-loop time.

    `take_tokens`, where there is one, is called with the number of its tokens before anything is computed, and may
    raise RateLimited.
    """

    namespace: str
    texts: Sequence[str]
    prompt: str
    deadline: float
    control: CacheControl = CacheControl.NORMAL
    truncate: bool = True
    min_fidelity: float = 0.0
    take_tokens: Callable[[int], Awaitable[None]] | None = None


@dataclass(slots=True)
class EmbedResult:
    """One float32 vector (as bytes, full length) and one tier a text, in the order of the request."""

    model: EngineInfo
    vectors: list[bytes]
    tiers: list[str]
    tokens: int = 0
    truncated: int = 0
    local_digests: list[bytes] = field(default_factory=list)  # of texts that L0 held at the first look
    semantic_hits: list[Lookup] = field(default_factory=list)  # one for each distinct text
    stage_s: dict[str, float] = field(default_factory=dict)

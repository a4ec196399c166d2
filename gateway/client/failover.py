"""Which of two URLs answers, and the rule that both must serve one model: vectors of two models never mix.

The first URL is always tried first (while its breaker is open that costs nothing). The fallback is used when
the first fails, after its `GET /info` has declared the fingerprint this client's vectors have; and every
answer, from either URL, is checked again.
"""

import logging
from collections.abc import Awaitable, Callable

from common.credentials import shown_url
from gateway.client.endpoint import URL_FAILURES, Endpoint
from gateway.client.errors import CircuitOpen, ClientError, FingerprintMismatch
from gateway.client.wire import EmbedResult, GatewayInfo

# Failures after which the fallback is used. Not RateLimited: a standby is no way around a limit.
FALLS_BACK: tuple[type[Exception], ...] = (*URL_FAILURES, CircuitOpen)

EmbedCall = Callable[[Endpoint], Awaitable[EmbedResult]]
InfoCall = Callable[[Endpoint], Awaitable[GatewayInfo]]

logger = logging.getLogger(__name__)


class Failover:
    """The first URL, the fallback if there is one, and the fingerprint both must have."""

    def __init__(self, primary: Endpoint, fallback: Endpoint | None, fingerprint: str | None) -> None:
        self.primary = primary
        self.fallback = fallback
        self.fingerprint = fingerprint
        self._fallback_verified = False

    async def embed(self, embed_at: EmbedCall, get_info: InfoCall) -> EmbedResult:
        """One answer from the first URL, else from the fallback. Raises ClientError.

        A FingerprintMismatch of the fallback has the first URL's failure as its cause.
        """
        try:
            result = await embed_at(self.primary)
        except FALLS_BACK as failure:
            if self.fallback is None:
                raise
            return await self._embed_by_fallback(self.fallback, embed_at, get_info, failure)
        self.require_same_model(self.primary, result.fingerprint)
        return result

    async def verify_fallback(self, fallback: Endpoint, get_info: InfoCall) -> None:
        """Check the fallback's fingerprint. Raises FingerprintMismatch, or another ClientError."""
        self._fallback_verified = False
        info = await get_info(fallback)
        self.require_same_model(fallback, info.fingerprint)
        self._fallback_verified = True

    def require_same_model(self, endpoint: Endpoint, found: str | None) -> None:
        """Keep the first fingerprint seen; raise FingerprintMismatch at another, or at none."""
        if self.fingerprint is None:
            self.fingerprint = found
        elif found != self.fingerprint:
            raise FingerprintMismatch(endpoint.url, self.fingerprint, found)

    async def _embed_by_fallback(
        self, fallback: Endpoint, embed_at: EmbedCall, get_info: InfoCall, failure: Exception
    ) -> EmbedResult:
        if self.fingerprint is None:
            failure.add_note(
                f"The fallback {shown_url(fallback.url)} was not used: no answer has shown a fingerprint yet. "
                "Pass fingerprint= to use the fallback from the first call on."
            )
            raise failure
        try:
            if not self._fallback_verified:
                await self.verify_fallback(fallback, get_info)
                shown = shown_url(self.primary.url), failure, shown_url(fallback.url)
                logger.warning("%s fails (%s); using the fallback %s", *shown)
            result = await embed_at(fallback)
            self.require_same_model(fallback, result.fingerprint)
        except CircuitOpen:
            raise failure from failure.__cause__  # the first URL's failure is the more useful one
        except FingerprintMismatch as mismatch:
            self._fallback_verified = False
            raise mismatch from failure
        except ClientError as error:
            self._fallback_verified = False  # it may come back as something else
            raise error from failure
        return result

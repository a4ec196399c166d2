"""Looks at Redis once when the gateway starts, and logs what does not suit: one warning line for each finding.

In the process that starts the workers, so that several of them do not log it several times.
"""

import asyncio
import logging
import threading

from cache.redis_care import judge
from cache.redis_report import CannotAsk, NotOneServer, ServerReport, ask_url
from common.findings import to_mend
from gateway.settings import GatewaySettings

TRIES = 12  # a minute: in a cluster, Redis may start after the gateway
BETWEEN_TRIES_S = 5.0

log = logging.getLogger("dejavec.gateway")


def start(settings: GatewaySettings) -> threading.Thread | None:
    """Look in the background; None where no Redis is set. The thread ends by itself and holds up no exit."""
    if settings.redis_url is None:
        return None
    thread = threading.Thread(target=_look, args=(settings, settings.redis_url), name="redis-watch", daemon=True)
    thread.start()
    return thread


def _look(settings: GatewaySettings, url: str) -> None:
    facts = asyncio.run(_facts(url))
    if facts is None:
        return  # the workers log that Redis is away
    for finding in to_mend(judge(facts, needs_search=needs_search(settings), timeout_s=lookup_timeout_s(settings))):
        log.warning("Redis: %s", finding.line())


async def _facts(url: str) -> ServerReport | None:
    for _ in range(TRIES):
        try:
            return await ask_url(url)
        except NotOneServer:
            return None
        except CannotAsk:
            await asyncio.sleep(BETWEEN_TRIES_S)
    return None


def needs_search(settings: GatewaySettings) -> bool:
    """Whether some namespace may use the semantic tier by these settings."""
    modes = {settings.semantic_mode, *(own.semantic_mode for own in settings.namespaces.values())}
    return modes - {"off", None} != set()


def lookup_timeout_s(settings: GatewaySettings) -> float:
    """The limit that look-ups have."""
    return settings.redis_timeout_ms / 1000

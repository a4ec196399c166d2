"""Looks at each Redis once when the gateway starts, and logs what does not suit: one warning line for each finding.

In the process that starts the workers, so that several of them do not log it several times.
"""

import asyncio
import logging
import threading

from cache.redis_care import inspect, judge
from cache.redis_report import CannotAsk, NotOneServer, ServerReport, ask_url
from common.findings import Finding, to_mend
from gateway.redis_links import tls_files
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


async def findings(settings: GatewaySettings, redis_url: str, searches: bool | None = None) -> list[Finding]:
    """What is found at `redis_url`, and at `semantic_redis_url` where that is set; takes 5 s at most for each.

    searches: whether the semantic tier is in use; None: by the settings.
    """
    found = []
    for url, searched in _servers(settings, redis_url, needs_search(settings) if searches is None else searches):
        found += await inspect(
            url,
            needs_search=searched,
            timeout_s=settings.redis_timeout_ms / 1000,
            tls=tls_files(settings),
        )
    return found


def _servers(settings: GatewaySettings, redis_url: str, searches: bool) -> list[tuple[str, bool]]:
    """Each address with whether the semantic tier searches there."""
    own = settings.semantic_redis_url
    return [(redis_url, searches)] if own is None else [(redis_url, False), (own, searches)]


def _look(settings: GatewaySettings, redis_url: str) -> None:
    for url, searched in _servers(settings, redis_url, needs_search(settings)):
        facts = asyncio.run(_facts(url, settings))
        if facts is None:
            continue  # the workers log that Redis is away
        for finding in to_mend(judge(facts, needs_search=searched, timeout_s=settings.redis_timeout_ms / 1000)):
            log.warning("Redis: %s", finding.line())


async def _facts(url: str, settings: GatewaySettings) -> ServerReport | None:
    for _ in range(TRIES):
        try:
            return await ask_url(url, tls=tls_files(settings))
        except NotOneServer:
            return None
        except CannotAsk:
            await asyncio.sleep(BETWEEN_TRIES_S)
    return None


def needs_search(settings: GatewaySettings) -> bool:
    """Whether some namespace may use the semantic tier by these settings."""
    modes = {settings.semantic_mode, *(own.semantic_mode for own in settings.namespaces.values())}
    return modes - {"off", None} != set()

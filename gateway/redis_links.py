"""The gateway's ways to Redis: one for entries, epochs and live values, one for the semantic index and what is learned.

They are the same unless `semantic_redis_url` is set.
"""

import logging

from cache.redis_facts import RedisFacts, find_facts
from cache.redis_link import RedisAway, RedisLink
from cache.redis_url import TlsFiles
from gateway.settings import GatewaySettings

log = logging.getLogger("dejavec.gateway")


def tls_files(settings: GatewaySettings) -> TlsFiles:
    """The files that the settings name for TLS to Redis."""
    return TlsFiles(settings.redis_ca_file, settings.redis_cert_file, settings.redis_key_file)


def redis_links(settings: GatewaySettings) -> tuple[RedisLink | None, RedisLink | None]:
    """For entries, and for the semantic tier; none without `redis_url`."""
    if settings.redis_url is None:
        return None, None
    timeout_s, files = settings.redis_timeout_ms / 1000, tls_files(settings)
    link = RedisLink(settings.redis_url, timeout_s, tls=files)
    own = settings.semantic_redis_url
    return link, RedisLink(own, timeout_s, tls=files) if own is not None else link


async def log_what_is_found(link: RedisLink, semantic_link: RedisLink) -> None:
    """One line for each link: what is there, and what follows for the tiers."""
    facts = await _facts(link, "redis_url")
    if semantic_link is link:
        if facts is not None:
            log.info("redis_url: %s: exact tier, %s", facts.described, _follows(facts))
        return
    if facts is not None:
        log.info("redis_url: %s: exact tier", facts.described)
    semantic_facts = await _facts(semantic_link, "semantic_redis_url")
    if semantic_facts is not None:
        log.info("semantic_redis_url: %s: %s", semantic_facts.described, _follows(semantic_facts))


def _follows(facts: RedisFacts) -> str:
    return f"no semantic tier: {facts.no_semantic_tier}" if facts.no_semantic_tier else "semantic tier"


async def _facts(link: RedisLink, setting: str) -> RedisFacts | None:
    try:
        return await find_facts(link)
    except RedisAway as error:
        log.warning("%s: does not answer (%s); what is there is not known yet", setting, error)
        return None

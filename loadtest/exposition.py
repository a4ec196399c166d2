"""A server's /metrics, fetched within bounds of time and size.

metrics = await fetch(session, "http://127.0.0.1:8080")
metrics.total("dejavec_cache_hits_total", tier="local")   # over all models; None where there is no such sample
"""

from urllib.parse import urlsplit

import aiohttp

from common.prometheus_text import Samples, parse

MAX_BYTES = 8 << 20
METRICS_PATH = "/metrics"


class MetricsUnreachable(Exception):
    """An address that gives no metrics; the message says why."""


async def fetch(session: aiohttp.ClientSession, url: str) -> Samples:
    """The metrics of the server at `url`. Raises MetricsUnreachable."""
    try:
        async with session.get(url + METRICS_PATH, allow_redirects=False) as response:
            if response.status != 200:
                raise MetricsUnreachable(f"{METRICS_PATH} answers {response.status}")
            content = await response.content.read(MAX_BYTES)
            while not response.content.at_eof() and len(content) < MAX_BYTES:
                content += await response.content.read(MAX_BYTES - len(content))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise MetricsUnreachable(f"{METRICS_PATH} does not answer ({type(error).__name__})") from None
    return parse(content.decode("utf-8", "replace"))


def is_on_this_machine(url: str) -> bool:
    """Whether a URL names the loopback interface."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")

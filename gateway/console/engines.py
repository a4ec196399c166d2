"""What each engine reports of itself, asked for when an operator looks: whether it is ready, its queue, its rate.

Bounded in time, in bytes and in the number of engines asked. An engine that does not answer is a state, not an error.
"""

import asyncio
from typing import Final

import aiohttp

from common.credentials import shown_url
from common.reply_parsing import error_in
from gateway.console import figures
from gateway.engines.engine_set import EngineSet

TIMEOUT_S: Final = 1.0
MAX_BYTES: Final = 1024 * 1024
MAX_ENGINES: Final = 64  # of one model, and those of all models that are asked

READY, NOT_READY, AWAY = "ready", "not ready", "away"


async def reports(http: aiohttp.ClientSession, engines: EngineSet) -> list[dict[str, object]]:
    """One report an engine, in order; one that is ready and gets no calls has the gateway's own word for why."""
    states = engines.states()
    found = await asyncio.gather(*(_report(http, url) for url in engines.urls[:MAX_ENGINES]))
    for report, seen in zip(found, states, strict=False):
        if report["state"] == READY and seen.state not in ("serving", "away"):
            report |= {"state": seen.state.replace("_", " "), "reason": seen.reason}
    return list(found)


async def _report(http: aiohttp.ClientSession, url: str) -> dict[str, object]:
    shown = {"url": shown_url(url)}
    try:
        async with asyncio.timeout(TIMEOUT_S):
            status, ready = await _get(http, f"{url}/ready")
            _, metrics = await _get(http, f"{url}/metrics")
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        why = "no answer within a second" if isinstance(error, TimeoutError) else "nothing answers there"
        return {**shown, "state": AWAY, "reason": why}
    state = {"state": READY, "reason": ""}
    if status != 200:
        state = {"state": NOT_READY, "reason": str(error_in(ready).get("message") or f"/ready answers {status}")[:300]}
    return {**shown, **state, **_figures(metrics)}


async def _get(http: aiohttp.ClientSession, url: str) -> tuple[int, bytes]:
    async with http.get(url, allow_redirects=False) as answer:
        return answer.status, await answer.content.read(MAX_BYTES)


def _figures(metrics: bytes) -> dict[str, object]:
    """Queue, rate and padding; nothing where the metrics are not an engine's."""
    try:
        samples = figures.read(metrics)
    except ValueError:
        return {}
    if not samples.has("embedding_batch_queue_size"):
        return {}
    found: dict[str, object] = {
        "queued_texts": samples.total("embedding_batch_queue_size"),
        "queued_tokens": samples.total("dejavec_engine_queue_tokens"),
        "tokens_per_s": samples.total("dejavec_engine_tokens_per_second"),
        "padding_share": samples.total("dejavec_engine_padding_share"),
        "tokens": samples.total("dejavec_engine_tokens_total"),
        "memory_bytes": samples.total("process_resident_memory_bytes"),
    }
    if samples.has("nvidia_gpu_memory_total_bytes"):
        found["gpu_used_bytes"] = samples.total("nvidia_gpu_memory_used_bytes")
        found["gpu_total_bytes"] = samples.total("nvidia_gpu_memory_total_bytes")
    return found

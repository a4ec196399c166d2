"""What each engine reports of itself, asked for when an operator looks: whether it is ready, its queue, its rate.

Bounded in time, in bytes and in the number of engines asked. An engine that does not answer is a state, not an error.
"""

import asyncio
from typing import Final

import aiohttp

from common.reply_parsing import error_in
from engine.protocol import ProtocolError
from gateway.console import figures
from gateway.engines.addresses import MAX_ENGINES
from gateway.engines.connection import READY_PATH, EngineConnection
from gateway.engines.engine_set import EngineSet

TIMEOUT_S: Final = 1.0
MAX_BYTES: Final = 1024 * 1024

READY, NOT_READY, AWAY = "ready", "not ready", "away"


async def reports(http: aiohttp.ClientSession, engines: EngineSet) -> list[dict[str, object]]:
    """One report an engine, in order, with the gateway's own word where it knows better.

    An engine that gets no calls has the reason for that. One that serves and did not report in time is ready, without
    figures.
    """
    asked, states = engines.connections[:MAX_ENGINES], engines.states()
    found = await asyncio.gather(*(_report(http, engine) for engine in asked))
    for report, seen in zip(found, states, strict=False):
        if report["state"] == NOT_READY or seen.state == "away":
            continue
        if seen.state != "serving":
            report |= {"state": seen.state.replace("_", " "), "reason": seen.reason}
        elif report["state"] == AWAY:
            report |= {"state": READY, "reason": f"it serves, and did not report: {report['reason']}"}
    return list(found)


async def _report(http: aiohttp.ClientSession, engine: EngineConnection) -> dict[str, object]:
    shown = {"url": engine.shown_url}
    try:
        async with asyncio.timeout(TIMEOUT_S):
            status, ready = await engine.report(http, READY_PATH, MAX_BYTES)
            _, metrics = await engine.report(http, "/metrics", MAX_BYTES)
    except TimeoutError:
        return {**shown, "state": AWAY, "reason": "no answer within a second"}
    except ProtocolError as error:
        return {**shown, "state": AWAY, "reason": str(error)}
    except (aiohttp.ClientError, OSError) as error:
        return {**shown, "state": AWAY, "reason": f"it cannot be reached ({type(error).__name__})"}
    state = {"state": READY, "reason": ""}
    if status != 200:
        state = {"state": NOT_READY, "reason": str(error_in(ready).get("message") or f"/ready answers {status}")[:300]}
    return {**shown, **state, **_figures(metrics)}


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

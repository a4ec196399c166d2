"""What `dejavec up` shows once everything answers: what was found, where it is, and a first request to copy."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from cache.redis_facts import find_facts
from cache.redis_link import RedisAway, RedisLink
from cache.redis_url import TlsFiles
from common.credentials import shown_url
from deploy.http_reading import get
from deploy.local import Plan
from deploy.page import show_rows
from engine.protocol import INFO_PATH, EngineInfo, ProtocolError
from gateway.redis_links import tls_files
from gateway.settings import DEFAULT_MODEL

TIMEOUT_S = 2.0
ENGINES_S = 6.0  # for asking all engines: the page does not wait for one after another that is frozen


@dataclass(frozen=True, slots=True)
class Found:
    """What the running processes report of themselves."""

    engines: dict[str, EngineInfo | None]  # by model; None: none of its engines answers
    redis: str


async def find(plan: Plan, redis_url: str | None, without_redis: str) -> Found:
    """Read engine and Redis for what they are; `without_redis` is the reason where there is no Redis."""
    infos = await asyncio.to_thread(_engine_infos, plan.engine_urls)
    if redis_url is None:
        return Found(infos, f"none, in-process cache alone: {without_redis}")
    return Found(infos, await describe_redis(redis_url, tls_files(plan.gateway)))


async def describe_redis(url: str, tls: TlsFiles | None = None) -> str:
    """What is there, at which address (without credentials), or why it does not answer."""
    address, link = shown_url(url), RedisLink(url, TIMEOUT_S, tls=tls)
    try:
        return f"{(await find_facts(link)).described} at {address}"
    except RedisAway as error:
        return f"does not answer at {address} ({error}); requests go to the engine until it does"
    finally:
        await link.aclose()


def show(plan: Plan, found: Found, console: Console | None = None) -> None:
    """Print the page."""
    console = console or Console(highlight=False)
    show_rows(console, "dejavec is up", _facts(plan, found))
    for text in _examples(plan, found):
        console.print(text, soft_wrap=True)  # a line broken by us could not be copied


def _facts(plan: Plan, found: Found) -> list[tuple[str, str]]:
    url = plan.gateway_url
    workers = plan.gateway.gateway_workers
    facts = [
        ("gateway", url if workers == 1 else f"{url}, {workers} workers"),
        ("look at", f"{url}/console  /docs  /metrics  /ready"),
    ]
    for name, urls in plan.engine_urls.items():
        facts.append(("engine", ", ".join(map(shown_url, urls))))
        if info := found.engines.get(name):
            called = info.model if name in (info.model, DEFAULT_MODEL) else f"{info.model} (`{name}`)"
            facts.append(("model", f"{called}, {info.dimensions} dimensions, up to {info.max_tokens} tokens"))
            facts.append(("computed", f"{info.kernel_class} on {info.device}, fingerprint {info.fingerprint[:12]}…"))
    facts.append(("redis", found.redis))
    facts.append(("data", f"{plan.data_dir} (logs in {plan.data_dir / 'logs'})"))
    return facts


def _examples(plan: Plan, found: Found) -> list[Text]:
    model = next((info.model for info in found.engines.values() if info), "all-MiniLM-L6-v2")
    header = "  -H 'authorization: Bearer YOUR-KEY' \\\n" if plan.gateway.api_keys else ""
    key = "YOUR-KEY" if plan.gateway.api_keys else "unused"
    curl = (
        f"curl -i {plan.gateway_url}/v1/embeddings \\\n{header}"
        "  -H 'content-type: application/json' \\\n"
        f"""  -d '{{"model": "{model}", "input": "How do I reset my password?"}}'"""
    )
    python = (
        "from openai import OpenAI\n"
        f'client = OpenAI(base_url="{plan.gateway_url}/v1", api_key="{key}")\n'
        f'reply = client.embeddings.create(model="{model}", input="Hello")\n'
        "print(len(reply.data[0].embedding))"
    )
    return [
        Text("\nSend it twice; the second answer comes from the cache (see its header x-cache):", style="bold"),
        Text(f"\n{curl}\n"),
        Text("With the OpenAI client for Python:", style="bold"),
        Text(f"\n{python}\n"),
        Text("Ctrl-C stops everything.", style="dim"),
    ]


def _engine_infos(urls: Mapping[str, Iterable[str]]) -> dict[str, EngineInfo | None]:
    """What the first engine of each model that answers in time says of itself."""
    deadline_s = time.monotonic() + ENGINES_S
    return {name: _engine_info(of_model, deadline_s) for name, of_model in urls.items()}


def _engine_info(urls: Iterable[str], deadline_s: float) -> EngineInfo | None:
    for url in urls:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            break
        answer = get(url.removeprefix("dns+"), INFO_PATH, timeout_s=min(TIMEOUT_S, left_s))
        if answer is not None and answer.status == 200:
            try:
                return EngineInfo.from_json(answer.body)
            except ProtocolError:
                continue
    return None

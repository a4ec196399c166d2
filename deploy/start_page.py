"""What `dejavec up` shows once everything answers: what was found, where it is, and a first request to copy."""

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

import redis
from rich.console import Console
from rich.text import Text

from common.credentials import shown_url, shown_urls_in
from deploy.local import Plan
from deploy.page import show_rows
from deploy.probes import get
from engine.protocol import INFO_PATH, EngineInfo, ProtocolError

TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Found:
    """What the running processes report of themselves."""

    engine: EngineInfo | None
    redis: str


async def find(plan: Plan, redis_url: str | None, without_redis: str) -> Found:
    """Read engine and Redis for what they are; `without_redis` is the reason where there is no Redis."""
    info = await _engine_info(plan.engine_url)
    if redis_url is None:
        return Found(info, f"none, in-process cache alone: {without_redis}")
    return Found(info, await asyncio.to_thread(describe_redis, redis_url))


def describe_redis(url: str) -> str:
    """Version, RediSearch and address (without credentials), or why it does not answer."""
    address = shown_url(url)
    try:
        with redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, protocol=2) as client:
            version = client.info("server")["redis_version"]
            modules = {module["name"] for module in client.info("modules").get("modules", ())}
    except (redis.RedisError, OSError) as error:
        return f"does not answer at {address} ({shown_urls_in(str(error))}); requests go to the engine until it does"
    search = "with RediSearch" if modules & {"search", "searchlight"} else "without RediSearch"
    return f"{version} {search} at {address}"


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
        ("look at", f"{url}/docs  /metrics  /ready"),
        ("engine", shown_url(plan.engine_url)),
    ]
    if info := found.engine:
        facts.append(("model", f"{info.model}, {info.dimensions} dimensions, up to {info.max_tokens} tokens"))
        facts.append(("computed", f"{info.kernel_class} on {info.device}, fingerprint {info.fingerprint[:12]}…"))
    facts.append(("redis", found.redis))
    facts.append(("data", f"{plan.data_dir} (logs in {plan.data_dir / 'logs'})"))
    return facts


def _examples(plan: Plan, found: Found) -> list[Text]:
    model = found.engine.model if found.engine else "all-MiniLM-L6-v2"
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


async def _engine_info(url: str) -> EngineInfo | None:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        return None
    answer = await get(parts.hostname, parts.port or 80, parts.path + INFO_PATH, TIMEOUT_S)
    if answer is None or answer.status != 200:
        return None
    try:
        return EngineInfo.from_json(answer.body)
    except ProtocolError:
        return None

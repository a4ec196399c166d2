"""The `status` command: what a running system found and chose, from its public routes; with the admin token, more."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import click
from rich.console import Console

from common.credentials import shown_url, shown_urls_in
from common.gateway_url import base_url
from common.prometheus_text import Samples, parse
from deploy.doctor.process_checks import Engine, find_engines, get_json
from deploy.doctor.setup import SetUp, Unreadable, find_set_up
from deploy.http_reading import get
from deploy.page import show_rows

TIERS: Final = {"local": "L0", "exact": "exact", "semantic": "semantic", "miss": "computed"}
NOT_RUNNING: Final = 1


@dataclass(frozen=True, slots=True)
class Status:
    """What was read; what was not to be had is empty. `models` and `engines` are lists, of one or of several."""

    url: str
    version: str
    is_ready: bool
    reason: str  # why it is not ready
    redis: str  # ok, away, none
    models: list[dict[str, Any]] = field(default_factory=list)
    engines: list[dict[str, Any]] = field(default_factory=list)
    cache: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)  # since the start, by tier
    requests: dict[str, int] = field(default_factory=dict)  # since the start, by HTTP status
    redis_facts: dict[str, str] = field(default_factory=dict)  # with the admin token: server, module, memory, ...
    redis_to_mend: int = 0
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)  # with the admin token


@click.command("status")
@click.option("--url", help="Gateway to look at (client_url, else where this machine's would be).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
def status(url: str | None, as_json: bool) -> None:
    """Show what a running system found and chose: models, engines, Redis, caches, hit shares, policies.

    Redis' facts and the policies need client_admin_token. Exit status: 0 ready, 1 not ready or not running.
    """
    try:
        set_up = find_set_up(base_url(url) if url else None)
        address = set_up.gateway_url
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--url") from None
    except Unreadable:
        raise click.ClickException("\n".join(set_up.faults)) from None
    found = read_status(set_up, address)
    if found is None:
        raise click.ClickException(f"no gateway answers at {shown_url(address)}; start one, or name it with --url")
    if as_json:
        click.echo(json.dumps(_document(found), indent=2))
    else:
        title = "dejavec is up" if found.is_ready else "dejavec is not ready"
        show_rows(Console(highlight=False), title, rows(found))
    sys.exit(0 if found.is_ready else NOT_RUNNING)


def read_status(set_up: SetUp, url: str) -> Status | None:
    """Ask a gateway and the engines that the settings name; None where no gateway answers."""
    ready = get(url, "/ready")
    if ready is None or "redis" not in ready.json():
        return None
    info = get_json(url, "/info")
    metrics = _metrics(url)
    token = set_up.client.client_admin_token if set_up.client else None
    secret = token.get_secret_value() if token else None
    redis = get_json(url, "/admin/redis", secret) if secret else {}
    thresholds = get_json(url, "/admin/thresholds", secret) if secret else {}
    local = get_json(url, "/admin/stats", secret).get("local", {}) if secret else {}
    findings = redis.get("findings", [])
    return Status(
        url=shown_url(url),
        version=str(info.get("version", "")),
        is_ready=ready.status == 200,
        reason="" if ready.status == 200 else shown_urls_in(str(ready.json().get("engine", ""))),
        redis=str(ready.json()["redis"]),
        models=_models(info),
        engines=[_engine(engine) for engine in _engines(set_up)],
        cache={**info.get("cache", {}), **({"l0_of_one_worker": local} if local else {})},
        texts=_by_label(metrics, "dejavec_cache_hits_total", "tier"),
        requests=_by_label(metrics, "embeddings_requests_total", "status"),
        redis_facts={one["check"]: shown_urls_in(one["what"]) for one in findings},
        redis_to_mend=sum(one["severity"] in {"warning", "fault"} for one in findings),
        policies=_policies(thresholds),
    )


def rows(found: Status) -> Iterator[tuple[str, str]]:
    """What is shown, row by row."""
    yield "gateway", f"{found.url}, version {found.version or 'unknown'}"
    yield "look at", f"{found.url}/console  /docs  /metrics  /ready"
    if found.reason:
        yield "not ready", found.reason
    for model in found.models:
        yield (
            "model",
            f"{model.get('model')}, {model.get('dimensions')} dimensions, up to {model.get('max_tokens')} tokens",
        )
        computed = f"{model.get('kernel_class')} on {model.get('device')}, fingerprint {model['fingerprint'][:12]}…"
        yield "computed", computed
    for engine in found.engines:
        yield "engine", _engine_text(engine)
    yield "redis", _redis_text(found)
    if found.cache:
        yield "cache", _cache_text(found.cache)
    yield "texts", _shares(found.texts)
    if found.requests:
        yield "requests", ", ".join(f"{number:,} of status {code}" for code, number in sorted(found.requests.items()))
    for name, policy in found.policies.items():
        yield "policy", _policy_text(name, policy)


def _document(found: Status) -> dict[str, Any]:
    return {name: getattr(found, name) for name in Status.__dataclass_fields__}


def _models(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The models of `/info`, which describes one, or lists several."""
    models = info.get("models")
    listed = list(models.values()) if isinstance(models, dict) else models if isinstance(models, list) else [info]
    names = ("model", "fingerprint", "kernel_class", "device", "dimensions", "max_tokens")
    return [
        {name: one.get(name) for name in names} for one in listed if isinstance(one, dict) and one.get("fingerprint")
    ]


def _engines(set_up: SetUp) -> list[Engine]:
    try:
        return find_engines(set_up)
    except Unreadable:
        return []


def _engine(engine: Engine) -> dict[str, Any]:
    """What an engine tells; addresses that this machine cannot reach tell nothing."""
    metrics = _metrics(engine.url)
    return {
        "model": engine.info.get("model", engine.model),
        "url": shown_url(engine.url),
        "state": _state(engine),
        "fingerprint": engine.info.get("fingerprint"),
        "kernel_class": engine.info.get("kernel_class"),
        "queued_texts": _whole(metrics.total("embedding_batch_queue_size")),
        "queued_tokens": _whole(metrics.total("dejavec_engine_queue_tokens")),
        "tokens_per_second": _whole(metrics.total("dejavec_engine_tokens_per_second")),
        "resident_bytes": _whole(metrics.total("process_resident_memory_bytes")),
    }


def _state(engine: Engine) -> str:
    if not engine.info:
        return "not reached from here"
    return "ready" if engine.ready is not None and engine.ready.status == 200 else "not ready"


def _engine_text(engine: Mapping[str, Any]) -> str:
    parts = [f"{engine['url']}, {engine['state']}"]
    if engine["queued_texts"] is not None:
        parts.append(f"{engine['queued_texts']:,} texts ({engine['queued_tokens'] or 0:,} tokens) waiting")
    if engine["tokens_per_second"]:
        parts.append(f"{engine['tokens_per_second']:,} tokens/s")
    if engine["resident_bytes"]:
        parts.append(f"{engine['resident_bytes'] / 2**20:,.0f} MiB")
    return ", ".join(parts)


def _redis_text(found: Status) -> str:
    state = {"ok": "answers", "away": "does not answer; requests go to the engine", "none": "none is set"}
    text = state.get(found.redis, found.redis)
    told = [
        found.redis_facts[name]
        for name in ("server", "search module", "memory", "latency")
        if name in found.redis_facts
    ]
    if told:
        text = f"{', '.join(told)}"
    if found.redis_to_mend:
        text += f"; {found.redis_to_mend} to mend: `dejavec doctor`"
    return text


def _cache_text(cache: Mapping[str, Any]) -> str:
    parts = [f"{cache['dtype']}, TTL {cache['ttl_seconds']} s"] if {"dtype", "ttl_seconds"} <= cache.keys() else []
    local = cache.get("l0_of_one_worker", {})
    if local:
        parts.append(f"L0 of one worker {local['entries']:,} entries, {local['bytes'] / 2**20:.1f} MiB")
    if cache.get("key_secret_differs"):
        parts.append("KEY SECRET DIFFERS from the other gateways'")
    return ", ".join(parts)


def _shares(texts: Mapping[str, int]) -> str:
    total = sum(texts.values())
    if not total:
        return "none since the start"
    parts = [f"{name} {texts.get(tier, 0) / total:.0%}" for tier, name in TIERS.items()]
    return f"{total:,} since the start: {', '.join(parts)}"


def _metrics(url: str) -> Samples:
    reply = get(url, "/metrics")
    return parse(reply.body.decode("utf-8", errors="replace") if reply is not None and reply.status == 200 else "")


def _by_label(metrics: Samples, metric: str, label: str) -> dict[str, int]:
    return {value: int(number) for value, number in metrics.by(metric, label).items()}


def _policies(thresholds: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each namespace's values in force, without where they come from."""
    return {
        name: {field: told["value"] for field, told in one["in_force"].items()}
        for name, one in thresholds.get("namespaces", {}).items()
    }


def _policy_text(name: str, policy: Mapping[str, Any]) -> str:
    mode = policy.get("semantic_mode")
    fields = {"fidelity": "semantic_fidelity", "alpha": "certificate_alpha"}
    if mode == "on":
        fields = {"fidelity": "semantic_fidelity", "threshold": "similarity_threshold"}
    if mode == "off":
        fields = {}
    return ", ".join(
        [f"{name}: {mode}", *(f"{word} {policy[field]}" for word, field in fields.items() if field in policy)]
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)

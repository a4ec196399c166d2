"""Ports, gateway, engines and Redis: what listens, whether it is ours, and whether the parts fit each other."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from common.credentials import shown_url
from common.findings import Finding
from common.gateway_url import url_of_listener
from deploy.doctor.setup import SetUp, Unreadable
from deploy.embedded_redis import NotAvailable, locate
from deploy.http_reading import Reply, get
from deploy.ports import LOOPBACK, refusal
from engine.configuration import ENV_PREFIX, config_file
from gateway.settings import DEFAULT_MODEL

CLOCK_TOLERANCE_S: Final = 5.0
START = "`dejavec up`"
ANOTHER_REDIS: Final = "the embedded Redis cannot be updated: set redis_url to your own, of a newer release"


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine as it was found; `info` is empty where it does not answer."""

    model: str  # its name in the settings
    url: str
    expected_fingerprint: str | None
    info: dict[str, Any]
    ready: Reply | None


def check_ports(set_up: SetUp) -> Iterator[Finding]:
    """Whether gateway and engine could listen, or already do."""
    plan = set_up.plan
    wanted = [("gateway", plan.gateway.gateway_host, plan.gateway.gateway_port)]
    wanted += [("engine", plan.engine.engine_host, port) for _, port in set_up.own_engines]
    if len({port for _, _, port in wanted}) < len(wanted):
        yield Finding(
            "ports",
            "fault",
            f"gateway and engine both want port {plan.gateway.gateway_port}",
            "the second of them does not start",
            "give one of gateway_port and engine_port another number",
        )
        return
    for name, host, port in wanted:
        why = refusal(port, host)
        if why is None:
            yield Finding(f"{name} port", "ok", f"{host}:{port} is free")
        elif _is_ours(name, host, port):
            yield Finding(f"{name} port", "ok", f"{host}:{port}, where our {name} listens")
        else:
            setting = f"{name}_port"
            yield Finding(
                f"{name} port",
                "fault",
                f"{host}:{port} cannot be used ({why}), and what listens there is no {name} of dejavec",
                f"the {name} does not start",
                f"stop what listens there, or set {setting} in {config_file()} ({ENV_PREFIX}{setting.upper()})",
            )


def check_gateway(set_up: SetUp) -> Iterator[Finding]:
    """Whether a gateway answers, is ready, and is of this version."""
    url = set_up.gateway_url
    health = get(url, "/health")
    if health is None or health.json().get("status") != "alive":
        yield Finding("gateway", "note", f"none answers at {shown_url(url)}", "", START)
        return
    own, running = version("dejavec"), str(get_json(url, "/info").get("version", ""))
    if running and running != own:
        yield Finding(
            "gateway",
            "warning",
            f"{shown_url(url)} runs {running}, this command is {own}",
            "what one of them writes, the other may ignore",
            "restart the gateway, or update this installation",
        )
    ready = get(url, "/ready")
    if ready is not None and ready.status == 200:
        yield Finding("gateway", "ok", f"{shown_url(url)} is ready, version {running or 'unknown'}")
    else:
        reason = ready.json().get("engine", "it does not answer") if ready else "it does not answer"
        yield Finding(
            "gateway",
            "fault",
            f"{shown_url(url)} is not ready: {reason}",
            "only cached texts are answered",
            "see the engine's findings, and the logs (.dejavec/logs)",
        )
    yield from _clock("gateway", health)


def check_engines(set_up: SetUp) -> Iterator[Finding]:
    """Whether each model's engines answer, and give the vectors that the gateway expects."""
    engines = find_engines(set_up)
    gateway = get(set_up.gateway_url, "/ready")
    fingerprints = gateway_fingerprints(get_json(set_up.gateway_url, "/info"))
    for engine in engines:
        yield from _engine(engine, gateway, fingerprints)
    for name in dict.fromkeys(engine.model for engine in engines):
        found = {str(one.info["fingerprint"]) for one in engines if one.model == name and "fingerprint" in one.info}
        if len(found) > 1:
            yield Finding(
                f"engines of {name}",
                "fault",
                f"different fingerprints: {', '.join(sorted(one[:12] for one in found))}",
                "their vectors may not be mixed, and share no cache",
                "give all engines of a model the same bundle and kind of device",
            )


def find_engines(set_up: SetUp) -> list[Engine]:
    """Ask every engine that the settings name what it is; of a name with several addresses the one that answers."""
    named = [(name, url.removeprefix("dns+"), fingerprint) for name, url, fingerprint in set_up.engine_urls]
    return [Engine(*one, get_json(one[1], "/info"), get(one[1], "/ready")) for one in named]


def gateway_fingerprints(info: dict[str, Any]) -> set[str]:
    """The fingerprints that a gateway's `/info` names, of one model or of several."""
    models = info.get("models")
    listed = list(models.values()) if isinstance(models, dict) else models if isinstance(models, list) else []
    found = [info, *(one for one in listed if isinstance(one, dict))]
    return {str(one["fingerprint"]) for one in found if one.get("fingerprint")}


def get_json(url: str, path: str, token: str | None = None) -> dict[str, Any]:
    """An object that a process answers with 200; empty without one."""
    reply = get(url, path, token)
    return reply.json() if reply is not None and reply.status == 200 else {}


def check_redis(set_up: SetUp) -> Iterator[Finding]:
    """The Redis in use: one of the settings, or the embedded one."""
    if set_up.gateway is None:
        raise Unreadable
    own = set_up.gateway.redis_url
    url = own or (embedded_url(set_up.plan.data_dir) if set_up.supervisor else None)
    if url is None:
        yield _embedded()
        return
    from cache.redis_care import KNOWN_FAULTS
    from gateway.redis_watch import findings

    yield Finding("address", "ok", shown_url(url))
    for finding in asyncio.run(findings(set_up.gateway, url)):
        is_given = own is None and finding.check == KNOWN_FAULTS  # nobody can update the server that a package brought
        yield replace(finding, remedy=ANOTHER_REDIS) if is_given else finding


def embedded_url(data_dir: Path) -> str | None:
    """The address of the embedded Redis of a data folder while it runs; None otherwise."""
    folder = data_dir / "redis"
    try:
        password = (folder / "password").read_text(encoding="ascii").strip()
        port = int((folder / "port").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return f"redis://:{password}@{LOOPBACK}:{port}/0" if refusal(port) else None


def _embedded() -> Finding:
    try:
        binaries = locate()
    except NotAvailable as reason:
        return Finding(
            "redis",
            "warning",
            str(reason),
            "without Redis there is the in-process cache alone: no sharing, no semantic hits, nothing after a restart",
            "set redis_url (DEJAVEC_REDIS_URL)",
        )
    if binaries.search_module is None:
        return Finding(
            "redis",
            "note",
            "the embedded one has no RediSearch on this platform",
            "exact tier only",
            "set redis_url to a Redis 8 for semantic hits",
        )
    return Finding("redis", "ok", "the embedded one, with RediSearch; it does not run now")


def _is_ours(name: str, host: str, port: int) -> bool:
    url = url_of_listener(host, port)
    if name == "gateway":
        health = get(url, "/health")
        return health is not None and health.json().get("status") == "alive"
    return "kernel_class" in get_json(url, "/info")


def _engine(engine: Engine, gateway: Reply | None, fingerprints: set[str]) -> Iterator[Finding]:
    """One engine, beside what the gateway's `/ready` answers (None: it does not run) and goes by."""
    name = f"engine of {engine.model}" if engine.model != DEFAULT_MODEL else "engine"
    address = shown_url(engine.url)
    if not engine.info:
        is_missed = gateway is not None and not _has_engine(gateway, engine.model)
        yield Finding(
            name,
            "fault" if is_missed else "note",
            f"none answers at {address}",
            "texts that are not cached are refused" if is_missed else "the gateway reaches one" if gateway else "",
            f"{START}, or `dejavec engine`; see engine_url and engines",
        )
        return
    fingerprint = str(engine.info.get("fingerprint", ""))
    what = f"{address}: {engine.info.get('model')}, {engine.info.get('kernel_class')} on {engine.info.get('device')}"
    what += f", fingerprint {fingerprint[:12]}…"
    if engine.ready is None or engine.ready.status != 200:
        yield Finding(name, "fault", f"{what}, not ready", "no inference passed lately", "see the engine's log")
    elif engine.expected_fingerprint and not fingerprint.startswith(engine.expected_fingerprint):
        yield Finding(
            name,
            "fault",
            f"{what}; the settings want {engine.expected_fingerprint[:12]}…",
            "the gateway does not use it",
            "serve the bundle with that fingerprint, or change `fingerprint` of this model",
        )
    elif fingerprints and fingerprint not in fingerprints:
        yield Finding(
            name,
            "warning",
            f"{what}; the gateway goes by {', '.join(sorted(one[:12] for one in fingerprints))}",
            "it asks another engine than the settings here name, or has not followed a new bundle yet",
            "run this with the gateway's own settings, or restart the gateway",
        )
    else:
        yield Finding(name, "ok", what)
    if engine.ready is not None:
        yield from _clock(name, engine.ready)


def _has_engine(gateway: Reply, model: str) -> bool:
    """Whether the gateway's `/ready` says that a model can be computed; with one model it names none."""
    models = gateway.json().get("models")
    if isinstance(models, dict) and model in models:
        return bool(models[model] == "ready")
    return gateway.status == 200


def _clock(name: str, reply: Reply) -> Iterator[Finding]:
    if reply.clock_s is not None and abs(reply.clock_s) > CLOCK_TOLERANCE_S:
        yield Finding(
            f"clock of the {name}",
            "warning",
            f"{abs(reply.clock_s):.0f} s {'ahead of' if reply.clock_s > 0 else 'behind'} this machine's",
            "log lines and metrics of the two cannot be put in order",
            "synchronise both clocks by NTP (`timedatectl set-ntp true`)",
        )

"""What runs on one machine, and with which environment: turns settings into the supervisor's children.

The environment carries what a child must find before it starts: the addresses of the others (that of Redis holds
a password, so it never goes on a command line), thread counts, and how the allocator behaves.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from common.gateway_url import in_url, reachable, url_of_listener
from deploy.child import ChildSpec
from deploy.embedded_redis import Instance, answers
from deploy.own_engines import OwnEngine, names_of
from deploy.ports import LOOPBACK, refusal
from deploy.probes import alive_probe, http_probe
from deploy.settings import SupervisorSettings
from engine.configuration import ENV_PREFIX, ConfigurationError, config_file
from engine.settings import EngineSettings
from gateway.settings import GatewaySettings

STOP_MARGIN_S = 10.0  # over a process's own drain limit, before it is killed
OVERCOMMIT_WARNING = "Memory overcommit must be enabled"  # needs root, and matters to far larger data
NOT_READY = '"not_ready"'  # in the engine's own reply: its model does not answer, so it is not merely full
REDIS_STOP_S = 30.0  # to write the end of its append-only file

# -P: a folder named `cache` or `engine` where the user stands is not ours.
DEJAVEC = (sys.executable, "-P", "-m", "deploy.cli")

BEFORE_START = {
    "OMP_NUM_THREADS": "1",  # for NumPy's BLAS; ONNX Runtime has pools of its own, sized by the engine
    "MALLOC_ARENA_MAX": "2",  # glibc gives each thread an arena otherwise, and memory is not given back
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of all processes of one machine, as `dejavec up` found them."""

    supervisor: SupervisorSettings
    engine: EngineSettings
    gateway: GatewaySettings
    sessions: Mapping[str, int] = field(default_factory=dict)  # by model, where several share the cores

    @property
    def data_dir(self) -> Path:
        """Where everything is kept."""
        return self.supervisor.data_dir.absolute()

    @property
    def model_bundle(self) -> Path:
        """The bundle to serve: as set, else in the data folder."""
        bundle = self.engine.model_bundle
        return bundle if "model_bundle" in self.engine.model_fields_set else self.data_dir / "models" / bundle.name

    @property
    def own_engines(self) -> list[OwnEngine]:
        """The engines to be started here; none where the settings name engines elsewhere and no `models`."""
        if self.supervisor.models:
            bundles = [bundle.absolute() for bundle in self.supervisor.models]
            children = [f"engine-{name}" for name in names_of(bundles)]
        elif self._is_served_elsewhere:
            return []
        else:
            bundles, children = [self.model_bundle], ["engine"]
        host = in_url(reachable(self.engine.engine_host))
        return [
            OwnEngine(
                name=bundle.name,
                child=child,
                bundle=bundle,
                port=self.engine.engine_port + place,
                url=f"http://{host}:{self.engine.engine_port + place}",
                refusal_file=self.data_dir / "run" / f"{child}-refusal.txt",
                sessions=self.sessions.get(bundle.name, 0),
            )
            for place, (bundle, child) in enumerate(zip(bundles, children, strict=True))
        ]

    @property
    def engine_urls(self) -> dict[str, list[str]]:
        """Where the gateway finds each model's engines, those elsewhere included."""
        own = {engine.name: [engine.url] for engine in self.own_engines}
        return own | {
            name: entry.urls for name, entry in self.gateway.models.items() if self.gateway.engines or not own
        }

    @property
    def _is_served_elsewhere(self) -> bool:
        if self.gateway.engines:
            return True
        local = {LOOPBACK, "localhost", "[::1]", in_url(reachable(self.engine.engine_host))}
        here = {f"http://{host}:{self.engine.engine_port}" for host in local}
        return "engine_url" in self.gateway.model_fields_set and self.gateway.engine_url not in here

    @property
    def gateway_url(self) -> str:
        """Where a client on this machine finds the gateway."""
        return url_of_listener(self.gateway.gateway_host, self.gateway.gateway_port)


def check_ports(plan: Plan) -> None:
    """Raises ConfigurationError naming a port that is taken and the setting that changes it."""
    for engine in plan.own_engines:
        _check_port("engine", plan.engine.engine_host, engine.port)
    _check_port("gateway", plan.gateway.gateway_host, plan.gateway.gateway_port)


def redis_child(instance: Instance, policy: SupervisorSettings) -> ChildSpec:
    """The embedded Redis."""
    probe = _redis_probe(instance, policy.watch_interval_s)
    return ChildSpec(
        "redis", instance.command, ready=probe, alive=probe, stop_timeout_s=REDIS_STOP_S, noise=OVERCOMMIT_WARNING
    )


def engine_child(plan: Plan, engine: OwnEngine) -> ChildSpec:
    """An engine; it is watched by the inference behind its /ready, so that a model that hangs is found.

    When it cannot be started again the gateway serves what is cached, and reports the reason in its own /ready.
    """
    host, port = reachable(plan.engine.engine_host), engine.port
    timeout_s = plan.supervisor.watch_interval_s
    own = {"MODEL_BUNDLE": str(engine.bundle), "ENGINE_PORT": str(port)}
    if engine.sessions:
        own |= {"ENGINE_SESSIONS": str(engine.sessions), "ENGINE_THREADS": "1"}
    return ChildSpec(
        engine.child,
        (*DEJAVEC, "engine"),
        ready=http_probe(host, port, "/ready", timeout_s),
        alive=alive_probe(host, port, "/ready", timeout_s, fault=NOT_READY),
        environment=_environment(own),
        prepare=partial(engine.refusal_file.unlink, missing_ok=True),
        on_refused=partial(_replace, engine.refusal_file),
        stop_timeout_s=plan.engine.engine_drain_s + STOP_MARGIN_S,
    )


def gateway_child(plan: Plan, redis_url: str | None) -> ChildSpec:
    """The gateway, watched by /health: that its engine or Redis is away, or that it is full, is no reason to end it."""
    host, port = reachable(plan.gateway.gateway_host), plan.gateway.gateway_port
    workers = plan.gateway.gateway_workers
    own = {"GATEWAY_PORT": str(port), "GATEWAY_WORKERS": str(workers)}
    if started := plan.own_engines:
        own["STARTED_ENGINES"] = json.dumps(
            {engine.name: {"urls": [engine.url], "refusal_file": str(engine.refusal_file)} for engine in started}
        )
    if redis_url:
        own["REDIS_URL"] = redis_url
    if "key_secret_file" not in plan.gateway.model_fields_set:
        own["KEY_SECRET_FILE"] = str(plan.data_dir / plan.gateway.key_secret_file.name)
    timeout_s = plan.supervisor.watch_interval_s
    return ChildSpec(
        "gateway",
        (*DEJAVEC, "gateway"),
        ready=http_probe(host, port, "/health", timeout_s),
        alive=alive_probe(host, port, "/health", timeout_s),
        environment=_environment(own),
        stop_timeout_s=plan.gateway.drain_timeout_s + STOP_MARGIN_S,
    )


def _environment(own: dict[str, str]) -> dict[str, str]:
    """What is set before a start, unless the user has set it, and this child's own settings."""
    kept = {name: value for name, value in BEFORE_START.items() if name not in os.environ}
    return kept | {ENV_PREFIX + name: value for name, value in own.items()}


def _redis_probe(instance: Instance, timeout_s: float) -> Callable[[], "asyncio.Future[bool]"]:
    def probe() -> "asyncio.Future[bool]":
        return asyncio.ensure_future(asyncio.to_thread(answers, instance, timeout_s))

    return probe


def _check_port(name: str, host: str, port: int) -> None:
    if why := refusal(port, host):
        setting = f"{name}_port"
        raise ConfigurationError(
            f"the {name} cannot listen on {host}:{port} ({why}). Stop what listens there, or choose another "
            f"port: {setting} in {config_file()}, or {ENV_PREFIX}{setting.upper()}={min(port + 10, 65535)}"
        )


def _replace(path: Path, content: str) -> None:
    """Write a file that is at no moment half written. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial_file = path.with_name(path.name + ".partial")
    partial_file.write_text(content, encoding="utf-8")
    partial_file.replace(path)

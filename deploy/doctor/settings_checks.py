"""Settings: whether they can be read, and which of them conflict."""

from collections.abc import Iterator

from common.findings import Finding
from deploy.config import settings_classes
from deploy.doctor.setup import SetUp
from engine.configuration import ConfigurationError, check_names, config_file, is_there
from engine.settings import EngineSettings
from gateway.settings import GatewaySettings


def check_settings(set_up: SetUp) -> Iterator[Finding]:
    """Names and values, as each process would read them."""
    names = {name for _, cls in settings_classes() for name in cls.model_fields}
    faults = list(set_up.faults)
    try:
        warnings = check_names(names)
    except ConfigurationError as error:
        warnings = []
        faults += [line for line in str(error).splitlines() if line not in faults]
    for fault in faults:
        yield Finding("settings", "fault", fault, "the process that reads it does not start", "see `dejavec config`")
    for warning in warnings:
        yield Finding("settings", "warning", warning, "it has no effect", "correct or remove it; see `dejavec config`")
    if not faults and not warnings:
        file = config_file()
        source = f"{file} and DEJAVEC_* variables" if is_there(file) else f"DEJAVEC_* variables; {file} does not exist"
        yield Finding("settings", "ok", source)


def check_conflicts(set_up: SetUp) -> Iterator[Finding]:
    """Settings that are valid each, and do not go together."""
    conflicts = [*_gateway_conflicts(set_up.gateway), *_engine_conflicts(set_up.engine)]
    if set_up.gateway and set_up.engine and set_up.supervisor:
        conflicts += _watch_conflicts(set_up)
    yield from conflicts
    if not conflicts:
        yield Finding("conflicts", "ok", "no settings that conflict")


def _gateway_conflicts(gateway: GatewaySettings | None) -> Iterator[Finding]:
    if gateway is None:
        return
    if gateway.is_exposed and not gateway.api_keys:
        yield Finding(
            "gateway_host, api_keys",
            "warning",
            f"the gateway listens on {gateway.gateway_host} and has no API keys",
            "whoever reaches the port can use the engine",
            'set api_keys, or gateway_host = "127.0.0.1"',
        )
    if "*" in gateway.cors_origins and not gateway.api_keys:
        yield Finding(
            "cors_origins, api_keys",
            "warning",
            "every web page may call a gateway without API keys",
            "a page that somebody on this network opens can embed at your cost",
            "name the origins, or set api_keys",
        )
    if gateway.local_cache_mb and gateway.local_cache_ttl_seconds > gateway.cache_ttl_seconds:
        yield Finding(
            "local_cache_ttl_seconds, cache_ttl_seconds",
            "warning",
            "L0 keeps an entry longer than Redis does",
            "a text can be served from L0 after its time to live",
            f"local_cache_ttl_seconds = {gateway.cache_ttl_seconds} or less",
        )
    for name, wait_ms in (
        ("redis_timeout_ms", gateway.redis_timeout_ms),
        ("semantic_timeout_ms", gateway.semantic_timeout_ms),
    ):
        if wait_ms >= gateway.request_timeout_s * 1000:
            yield Finding(
                f"{name}, request_timeout_s",
                "warning",
                f"a look-up may take {wait_ms} ms, a whole request {gateway.request_timeout_s * 1000:.0f} ms",
                "a slow Redis then fails requests instead of costing them a hit",
                f"lower {name}",
            )
    if gateway.semantic_mode == "on" and gateway.similarity_threshold < gateway.semantic_fidelity:
        yield Finding(
            "similarity_threshold, semantic_fidelity",
            "note",
            f"the threshold {gateway.similarity_threshold:g} is below the fidelity {gateway.semantic_fidelity:g}",
            "tau starts at the greater of the two",
        )
    if gateway.admin_token is None:
        yield Finding("admin_token", "note", "not set", "thresholds, purge and explain are closed")


def _engine_conflicts(engine: EngineSettings | None) -> Iterator[Finding]:
    if engine is None:
        return
    from engine.model.topology import choose, usable_cores

    if engine.batching_policy == "adaptive" and "batching_timeout_ms" in engine.model_fields_set:
        yield Finding(
            "batching_policy, batching_timeout_ms",
            "note",
            "batching_timeout_ms is set and adaptive batching does not use it",
            "",
            'batching_policy = "window", or remove batching_timeout_ms',
        )
    cores = usable_cores()
    chosen = choose(cores, engine.engine_sessions, engine.engine_threads)
    if chosen.sessions * chosen.threads > max(1.0, cores):
        yield Finding(
            "engine_sessions, engine_threads",
            "warning",
            f"{chosen.sessions} x {chosen.threads} threads on {cores:g} cores",
            "runs wait for each other, and latency grows",
            "leave both at 0 (automatic)",
        )
    if engine.allow_unverified_bundle:
        yield Finding(
            "allow_unverified_bundle",
            "warning",
            "the quality bar is off",
            "a bundle whose vectors are far from FP32's would be served",
            "run `dejavec model verify`, then remove it",
        )


def _watch_conflicts(set_up: SetUp) -> Iterator[Finding]:
    plan = set_up.plan
    watch_s = plan.supervisor.watch_interval_s * plan.supervisor.watch_failures
    if watch_s < plan.engine.engine_hang_s:
        yield Finding(
            "watch_interval_s, watch_failures, engine_hang_s",
            "note",
            f"a silent engine is killed after {watch_s:g} s, before it would itself report a hang "
            f"({plan.engine.engine_hang_s:g} s)",
        )
    if set_up.own_engines and plan.engine.engine_deadline_s < plan.gateway.request_timeout_s / 2:
        yield Finding(
            "engine_deadline_s, request_timeout_s",
            "note",
            f"the engine gives up after {plan.engine.engine_deadline_s:g} s, the gateway would wait "
            f"{plan.gateway.request_timeout_s:g} s",
        )

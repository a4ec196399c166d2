"""The `gateway` command: settings checked, workers started. Imports the application only in the workers."""

import logging
import os
from contextlib import nullcontext

import click

from cache.keys import SecretError, load_or_make_secret
from common import logs, open_files
from common.credentials import shown_url, shown_urls_in
from common.http_server import ConnectionLimits, ServerConfig, serve
from engine.configuration import ENV_PREFIX, ConfigurationError, check_port, load
from gateway import metrics_storage
from gateway.routes.token_input import TokenInputError, decoder_for
from gateway.settings import GatewaySettings

ENGINE_LOOKS = 256  # connections to engines besides one for each request
REDIS_CONNECTIONS = 256  # two pools, or those of a cluster, and what a change or a purge opens

log = logging.getLogger("dejavec.gateway")


@click.command("gateway", short_help="The HTTP gateway: cache in front, engine behind.")
@click.option("--host", help="Address to listen on (gateway_host).")
@click.option("--port", type=int, help="Port to listen on (gateway_port).")
@click.option("--workers", type=int, help="Worker processes (gateway_workers).")
@click.option("--engine-url", help="Where the engine answers (engine_url).")
def gateway(host: str | None, port: int | None, workers: int | None, engine_url: str | None) -> None:
    """Run the gateway.

    It answers POST /v1/embeddings and POST /embed from its caches, and sends the rest to the engine. Settings come
    from DEJAVEC_* variables and dejavec.toml (`dejavec config` lists them); the options here win over both.
    """
    overrides = {
        "gateway_host": host,
        "gateway_port": port,
        "gateway_workers": workers,
        "engine_url": engine_url,
    }
    settings = load(GatewaySettings, **overrides)
    # Workers are fresh processes and read their settings themselves: hand the options over as variables.
    os.environ.update({ENV_PREFIX + name.upper(): str(value) for name, value in overrides.items() if value is not None})
    logs.configure(settings.log_level, settings.log_format)
    check_port(settings.gateway_host, settings.gateway_port, "gateway_port")
    _check_worker_needs(settings)
    _log_start(settings)
    _look_at_redis(settings)
    needs_folder = settings.gateway_workers > 1 and metrics_storage.VARIABLE not in os.environ
    with metrics_storage.folder_for(settings.gateway_workers) if needs_folder else nullcontext() as folder:
        if folder is not None:
            os.environ[metrics_storage.VARIABLE] = str(folder)
        _serve(settings)


def _check_worker_needs(settings: GatewaySettings) -> None:
    """Find here, in one message, what each worker would end on with a trace. Raises ConfigurationError."""
    try:
        decoder_for(settings.token_input_encoding, settings.token_encoding_file, settings.token_encoding_fetch)
        if settings.key_secret is None:
            load_or_make_secret(settings.key_secret_file)
    except (TokenInputError, SecretError) as error:
        raise ConfigurationError(str(error)) from None
    for name in ("redis_url", "semantic_redis_url"):
        if (url := getattr(settings, name)) is not None:
            _check_redis_url(settings, name, url)
    _allow_connections(settings.max_connections, settings.max_concurrent_requests)


def _check_redis_url(settings: GatewaySettings, name: str, url: str) -> None:
    """Refuse what redis-py would refuse, or trip over, in each worker. Raises ConfigurationError."""
    from redis import RedisError  # noqa: PLC0415  takes a while to import, and most have no Redis set
    from redis.asyncio import Connection  # noqa: PLC0415

    from cache.redis_url import read_redis_url  # noqa: PLC0415
    from gateway.redis_links import tls_files  # noqa: PLC0415

    files = tls_files(settings)
    try:
        read = read_redis_url(url)
        if read.has_tls:
            files.check()
        options = dict(read.with_tls(files).options)
        options.pop("connection_class", Connection)(**options)  # an option that no connection has
    except (ValueError, TypeError, RedisError) as error:
        raise ConfigurationError(f"{name}: {shown_url(url)}: {shown_urls_in(str(error))}") from None


def _allow_connections(max_connections: int, max_concurrent_requests: int) -> None:
    """Let each worker, which inherits the limit, open as many. Raises ConfigurationError."""
    others = max_concurrent_requests + ENGINE_LOOKS + REDIS_CONNECTIONS + open_files.RESERVE
    try:
        open_files.allow(max_connections + others)
    except open_files.TooFewOpenFiles as error:
        raise ConfigurationError(
            f"max_connections: {max_connections} clients and {others} connections and files of our own are too many: "
            f"{error}, or set {ENV_PREFIX}MAX_CONNECTIONS lower"
        ) from None


def _look_at_redis(settings: GatewaySettings) -> None:
    if settings.redis_url is not None:
        from gateway import redis_watch  # noqa: PLC0415  imports redis, as above

        redis_watch.start(settings)


def _serve(settings: GatewaySettings) -> None:
    serve(
        ServerConfig(
            "gateway.worker:application",
            ConnectionLimits(settings.max_connections, settings.send_timeout_s),
            factory=True,
            host=settings.gateway_host,
            port=settings.gateway_port,
            workers=settings.gateway_workers,
            timeout_graceful_shutdown=int(settings.drain_timeout_s),
        )
    )


def _log_start(settings: GatewaySettings) -> None:
    log.info(
        "gateway on http://%s:%d, %d worker(s), %s, %s",
        settings.gateway_host,
        settings.gateway_port,
        settings.gateway_workers,
        "; ".join(f"{name}: {', '.join(map(shown_url, one.urls))}" for name, one in settings.models.items()),
        "exact tier in Redis" if settings.redis_url else "no Redis: in-process cache only",
    )
    if settings.is_exposed and not settings.api_keys:
        log.warning(
            "LISTENING ON %s WITHOUT API KEYS: anyone who reaches this address can use the engine. "
            "Set api_keys, or gateway_host = 127.0.0.1",
            settings.gateway_host,
        )

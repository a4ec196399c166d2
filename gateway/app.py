"""The gateway's application, assembled in one place: settings, lifespan, routes, errors.

Resources open in the lifespan, in order, and close in reverse; background loops start there and end with it.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version

import aiohttp
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from cache.epochs import Epochs
from cache.exact import ExactTier
from cache.keys import load_or_make_secret, parse_secret
from cache.local import LocalCache
from cache.redis_link import RedisAway, RedisLink
from cache.shared_limits import SharedLimits
from cache.shared_settings import SharedSettings
from cache.usage import LocalUsage, UsageStore
from common import tracing
from common.tasks import cancel_and_wait
from engine.configuration import config_file, load
from gateway import tallies
from gateway.background import keep_running
from gateway.browsers import BrowserGuard
from gateway.docs_page import router as docs_page
from gateway.engines.engine_set import EngineSet
from gateway.errors import GatewayError
from gateway.gauges import run_gauges
from gateway.http import Front, RequestIds
from gateway.kept_replies import KeptReplies
from gateway.limits import Limits
from gateway.models import SETTINGS as MODEL_SETTINGS
from gateway.models import Models, ServedModel
from gateway.names import ModelNames
from gateway.policies import SETTINGS as POLICY_SETTINGS
from gateway.policies import Policies
from gateway.redis_links import log_what_is_found, redis_links
from gateway.routes import admin, console, ollama, openai, status, thresholds, usage
from gateway.routes.admin import check_admin
from gateway.routes.client_routes import client_routes
from gateway.routes.embedding_call import REPLY_HEADERS, EmbeddingCalls
from gateway.routes.error_replies import KnownRoutes, on_fault, on_gateway_error, on_http_exception, on_invalid_body
from gateway.routes.openapi_document import describe
from gateway.routes.token_input import Decode, decoder_for
from gateway.routing import Router
from gateway.semantic_tiers import SemanticTiers, semantic_settings
from gateway.service import EmbeddingService
from gateway.settings import GatewaySettings, ModelEngines
from gateway.settings_file import SettingsFile, on_hangup
from gateway.state import Gateway
from gateway.tenants import Tenants
from gateway.usage import WRITE_S, Usage
from gateway.verifier import Verifier
from gateway.work_pool import WorkPool

FLUSH_TIMEOUT_S = 5.0
FIRST_LOOK_S = 10.0  # at most, before requests are accepted


def create_app(settings: GatewaySettings) -> ASGIApp:
    """The ASGI application of one gateway worker.

    The routes of clients are answered before the framework's own middleware and routing, which cost as much as a
    cached answer; the framework serves everything else, lists these routes for /docs and 405, and runs the lifespan.
    """
    app = FastAPI(
        title="dejavec",
        version=version("dejavec"),
        lifespan=partial(_lifespan, settings),
        docs_url=None,
        redoc_url=None,
    )
    app.router.redirect_slashes = False  # a redirect would go to whatever the Host header names
    app.state.limits = limits = Limits(settings.gateway_workers)
    app.state.tenants = tenants = Tenants(settings.api_keys, limits)
    app.state.pool = pool = WorkPool()
    app.state.front = front = Front(settings, tenants, pool)
    routes = client_routes(app, front)
    app.router.routes.extend(Route(path, route, methods=["POST"]) for path, route in routes.by_path.items())
    routers = [part.router for part in (openai, status, ollama, admin, thresholds, console, usage)] + [docs_page]
    for router in routers:
        app.include_router(router)
    known = KnownRoutes([*app.routes, *(route for router in routers for route in router.routes)])
    describe(app)

    app.add_exception_handler(GatewayError, on_gateway_error)
    app.add_exception_handler(HTTPException, partial(on_http_exception, known))
    app.add_exception_handler(RequestValidationError, on_invalid_body)
    app.add_exception_handler(Exception, on_fault)
    guarded = front.guarded(app, "/admin", partial(check_admin, settings.admin_token))
    whole: ASGIApp = Router(guarded, routes.by_path, routes.with_model)
    whole = BrowserGuard(whole, settings)
    if settings.cors_origins:
        whole = CORSMiddleware(
            whole,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "PUT"],
            allow_headers=["*"],
            expose_headers=[*REPLY_HEADERS, "x-request-id", "retry-after"],
        )
    return RequestIds(whole)


@asynccontextmanager
async def _lifespan(settings: GatewaySettings, app: FastAPI) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        stack.push_async_callback(tracing.aclose)
        stack.callback(tallies.hand_over)
        secret = _secret(settings)
        # As many as requests need, which are bounded: waiting for a free one, calls to an engine that hangs would hold
        # up those to others, and the looks at them.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)
        )
        link, semantic_link = redis_links(settings)
        exact = _exact_tier(settings, link, secret) if link else None
        epochs = Epochs(link, secret)
        local = LocalCache(settings.local_cache_mb * 1024 * 1024, settings.local_cache_ttl_seconds)
        namespaces = app.state.tenants.namespaces()
        limits: Limits = app.state.limits
        process = secrets.token_hex(8)
        limits.connect(SharedLimits(link, process) if link else None, secret)
        usage = Usage(UsageStore(link, process) if link else LocalUsage(), limits)
        policies = Policies(settings, namespaces, SharedSettings(link, secret) if link else None)
        pool: WorkPool = app.state.pool
        stack.callback(pool.close)

        hedge_s = settings.engine_hedge_ms / 1000 if settings.engine_hedge_ms else None

        def open_model(name: str, entry: ModelEngines) -> ServedModel:
            engine = EngineSet(entry.urls, http, entry.refusal_file, entry.fingerprint, hedge_s, name, secret)
            tiers = (
                SemanticTiers(semantic_link, secret, exact, semantic_settings(settings), policies, engine)
                if semantic_link and exact
                else None
            )
            verifier = Verifier(engine, settings.cache_dtype, settings.write_back_max_items)
            service = EmbeddingService(
                name=name,
                engine=engine,
                local=local,
                exact=exact,
                epochs=epochs,
                secret=secret,
                cache_dtype=settings.cache_dtype,
                cache_ttl_s=settings.cache_ttl_seconds,
                bulk_request_items=settings.bulk_request_items,
                pool=pool,
                tiers=tiers,
                verifier=verifier,
            )
            return ServedModel(name, entry, ModelNames({}), engine, service, tiers, [engine.run_watch, verifier.run])

        models = Models(open_model)
        gateway = Gateway(
            settings, models, epochs, local, exact, link, semantic_link, app.state.tenants, policies, usage
        )
        app.state.gateway = gateway
        app.state.calls = EmbeddingCalls(
            settings, models, _decoder(settings), pool, KeptReplies(local, epochs, models, secret)
        )
        file = SettingsFile(settings, config_file(), partial(load, GatewaySettings))
        file.follow(("api_keys",), partial(_adopt_keys, gateway, app.state.front))
        stack.enter_context(on_hangup(file.wake))
        file.follow(POLICY_SETTINGS, policies.adopt)
        file.follow(MODEL_SETTINGS, models.adopt)
        loops: list[Callable[[], Awaitable[None]]] = [
            file.run,
            partial(run_gauges, gateway),
            limits.run,
            partial(_run_usage, gateway),
        ]
        if link and exact and semantic_link:
            for one in {link, semantic_link}:
                stack.push_async_callback(one.aclose)
            await log_what_is_found(link, semantic_link)
            for namespace in namespaces:
                await epochs.ensure(namespace)
            with suppress(RedisAway):
                await policies.refresh()
            loops += [epochs.run_refresh, policies.run_follow, exact.run_writer]
        stack.push_async_callback(_write_usage, gateway)
        stack.push_async_callback(limits.aclose)
        stack.push_async_callback(models.aclose)
        models.adopt(settings)
        stack.push_async_callback(cancel_and_wait, [asyncio.create_task(keep_running(loop)) for loop in loops])
        if exact:
            stack.push_async_callback(exact.flush, FLUSH_TIMEOUT_S)
        await models.first_look(FIRST_LOOK_S)
        yield


def _adopt_keys(gateway: Gateway, front: Front, settings: GatewaySettings) -> None:
    """Go by the API keys of settings that were read again."""
    gateway.tenants.replace(settings.api_keys)
    front.tenants_changed()
    gateway.policies.set_namespaces(gateway.tenants.namespaces())


def _decoder(settings: GatewaySettings) -> Decode | None:
    return decoder_for(settings.token_input_encoding, settings.token_encoding_file, settings.token_encoding_fetch)


def _secret(settings: GatewaySettings) -> bytes:
    if settings.key_secret is not None:
        return parse_secret(settings.key_secret.get_secret_value())
    return load_or_make_secret(settings.key_secret_file)


def _exact_tier(settings: GatewaySettings, link: RedisLink, secret: bytes) -> ExactTier:
    return ExactTier(
        link,
        secret,
        ttl_s=settings.cache_ttl_seconds,
        ttl_jitter=settings.cache_ttl_jitter,
        dtype=settings.cache_dtype,
        max_queued_writes=settings.write_back_max_items,
    )


async def _run_usage(gateway: Gateway) -> None:
    while True:
        await gateway.usage.tick(gateway.tenants.changed_usage())
        await asyncio.sleep(WRITE_S)


async def _write_usage(gateway: Gateway) -> None:
    """What was counted last; bounded."""
    with suppress(RedisAway, TimeoutError):
        async with asyncio.timeout(FLUSH_TIMEOUT_S):
            await gateway.usage.write(gateway.tenants.changed_usage())

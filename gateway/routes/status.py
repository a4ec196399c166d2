"""What the gateway reports of itself: alive, ready, the model it serves, its metrics."""

from collections import Counter
from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from gateway.errors import EngineAway
from gateway.metrics import exposition
from gateway.models import ServedModel
from gateway.routes.tei import info_fields
from gateway.settings import GatewaySettings
from gateway.state import Gateway

router = APIRouter(tags=["State"])


@router.get("/", summary="What answers here", response_model=dict[str, str])
async def root(request: Request, response: Response) -> dict[str, str] | Response:
    """For clients that look whether anything answers before they send a text; a browser is led to the console."""
    if "text/html" in request.headers.get("accept", ""):
        return Response(status_code=307, headers={"location": "console", "vary": "accept"})
    response.headers["vary"] = "accept"
    return {"name": "dejavec", "version": request.app.version, "docs": "/docs", "console": "/console"}


@router.get("/health", summary="Alive: the event loop answers")
async def health() -> dict[str, str]:
    """Leaves out engine and Redis: restarting the gateway would not mend those."""
    return {"status": "alive"}


@router.get("/ready", summary="Ready: a real inference passed lately")
async def ready(request: Request, response: Response) -> dict[str, object]:
    """503 and the reason while no model can be computed; with several, those that can are served, and each is named.
    Redis being away is named too, `semantic_redis` as well where it is another one, and does not make the gateway
    unready. Where models have several engines, `engines`
    has their number by state: serving, silent, avoided, ejected, away, or left_out for another fingerprint.

    Whoever reaches the gateway may read this: the reason names no address or file. The log has those.
    """
    gateway: Gateway = request.app.state.gateway
    models = {
        served.name: "ready" if served.engine.is_ready else served.engine.away_reason for served in gateway.models
    }
    is_ready = "ready" in models.values()
    away = next((reason for reason in models.values() if reason != "ready"), "")
    response.status_code = 200 if is_ready else 503
    state: dict[str, object] = {
        "status": "ready" if is_ready else "not ready",
        "engine": "ready" if not away else away if len(models) == 1 or not is_ready else "not all are ready",
        **gateway.redis_states,
    }
    if len(models) > 1:
        state["models"] = models
    engines = {served.name: Counter(one.state for one in served.engine.states()) for served in gateway.models}
    if any(sum(counts.values()) > 1 for counts in engines.values()):
        state["engines"] = engines
    return state


@router.get("/info", summary="The models, their fingerprints and this gateway's cache")
async def info(request: Request, model: str | None = None) -> dict[str, object]:
    """Everything a client needs to know whether two gateways' vectors may mix: they may when fingerprints are equal.

    Of the model that is asked for by any of its names, else of the first; `models` has all where there are several.
    """
    gateway: Gateway = request.app.state.gateway
    served = gateway.models.named(model)
    found = _info_of(served, gateway.settings)
    if len(gateway.models) > 1:
        found["models"] = {one.name: _info_of(one, gateway.settings) for one in gateway.models}
    cache: dict[str, object] = {
        **gateway.redis_states,
        "key_secret_differs": gateway.epochs.secret_differs,
        "ttl_seconds": gateway.settings.cache_ttl_seconds,
        "dtype": gateway.settings.cache_dtype,
    }
    return {**found, "version": request.app.version, "cache": cache}


def _info_of(served: ServedModel, settings: GatewaySettings) -> dict[str, object]:
    try:
        info = served.model.info
    except EngineAway as error:
        return {"fingerprint": None, "engine": error.message}
    return asdict(info) | info_fields(info, settings)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics() -> Response:
    """All workers together."""
    content, kind = exposition()
    return Response(content, media_type=kind)

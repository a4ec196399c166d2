"""What the gateway reports of itself: alive, ready, the model it serves, its metrics."""

from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from gateway.errors import EngineAway
from gateway.metrics import exposition
from gateway.routes.tei import info_fields
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
    """503 and the reason while the engine is away. Redis being away is named, and does not make the gateway unready.

    Whoever reaches the gateway may read this: the reason names no address or file. The log has those.
    """
    gateway: Gateway = request.app.state.gateway
    engine = gateway.engine
    response.status_code = 200 if engine.is_ready else 503
    return {
        "status": "ready" if engine.is_ready else "not ready",
        "engine": "ready" if engine.is_ready else engine.away_reason,
        "redis": gateway.redis_state,
    }


@router.get("/info", summary="The model, its fingerprint and this gateway's cache")
async def info(request: Request) -> dict[str, object]:
    """Everything a client needs to know whether two gateways' vectors may mix: they may when fingerprints are equal."""
    gateway: Gateway = request.app.state.gateway
    cache: dict[str, object] = {
        "redis": gateway.redis_state,
        "key_secret_differs": gateway.epochs.secret_differs,
    }
    cache["ttl_seconds"] = gateway.settings.cache_ttl_seconds
    cache["dtype"] = gateway.settings.cache_dtype
    try:
        model: dict[str, object] = asdict(gateway.engine.model.info) | info_fields(request.app.state.calls)
    except EngineAway as error:
        model = {"fingerprint": None, "engine": error.message}
    return {**model, "version": request.app.version, "cache": cache}


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics() -> Response:
    """All workers together."""
    content, kind = exposition()
    return Response(content, media_type=kind)

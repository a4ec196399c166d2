"""The operator's page, and what it polls. The page itself needs no token and holds no figures; the figures need it."""

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from gateway.console.overview import Overview
from gateway.console.page import HEADERS, PAGE, load_assets
from gateway.errors import NotFound
from gateway.routes.admin import Admin
from gateway.state import Gateway

NO_STORE: Final = {"cache-control": "no-store"}

router = APIRouter(tags=["Console"])
_assets = load_assets()


@router.get("/console", summary="The operator's page", response_class=Response)
async def console(request: Request) -> Response:
    """Shows figures once the operator's token is typed in; keeps it in memory alone."""
    return _sent(request, PAGE)


@router.get("/console/", include_in_schema=False)
async def console_with_slash() -> Response:
    """Leads to the page: its files are named beside it."""
    return Response(status_code=308, headers={**HEADERS, "location": "../console"})


@router.get("/console/state", summary="What the page shows before the token")
async def state(request: Request, response: Response) -> dict[str, object]:
    """What `/ready` has, with status 200, and whether there is a token at all."""
    gateway: Gateway = request.app.state.gateway
    response.headers.update(NO_STORE)
    is_ready = any(served.engine.is_ready for served in gateway.models)
    reason = next((served.engine.away_reason for served in gateway.models if not served.engine.is_ready), "")
    return {
        "version": request.app.version,
        "admin": "closed" if gateway.settings.admin_token is None else "open",
        "engine": "ready" if not reason else reason if not is_ready else "not all are ready",
        "is_ready": is_ready,
        **gateway.redis_states,
    }


@router.get("/console/{name}", include_in_schema=False)
async def asset(request: Request, name: str) -> Response:
    """One file of the page."""
    return _sent(request, name)


@router.get("/admin/overview", summary="Everything at a glance, of all workers", tags=["Admin"])
async def overview(gateway: Admin, request: Request, response: Response) -> dict[str, Any]:
    """Counters and histograms since the start, summed over workers; each model's engines with queue and state; Redis.

    Made for polling: at most two readings a second are made, however many ask.
    """
    response.headers.update(NO_STORE)
    held: Overview | None = getattr(request.app.state, "overview", None)
    if held is None:
        held = request.app.state.overview = Overview(gateway)
    return await held.read()


def _sent(request: Request, name: str) -> Response:
    found = _assets.get(name)
    if found is None:
        raise NotFound(f"the console has no file {name[:100]!r}")
    headers = {**HEADERS, "etag": found.etag}
    if found.is_known(request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers, media_type=found.type)

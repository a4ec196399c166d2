"""What keys have used and may still use: `/v1/usage` for the owner of a key, `/admin/usage` for the operator."""

import asyncio
from collections.abc import Iterable
from operator import attrgetter
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request

from cache.redis_link import RedisAway
from cache.usage import DAYS, Counts, period_of_day, period_of_month
from gateway.errors import StateAway, Unauthorized
from gateway.http import Front
from gateway.presented_key import one_key
from gateway.routes.admin import Admin, known_namespace
from gateway.settings import NAMESPACE_PATTERN
from gateway.state import Gateway
from gateway.tenants import Tenant

MAX_KEYS: Final = 100  # on one page
READ_AT_ONCE: Final = 8
DAY_S: Final = 86_400

router = APIRouter()
Days = Annotated[int, Query(ge=0, le=DAYS, description="So many days, today's first")]


@router.get("/v1/usage", summary="What this API key has used, and what its limits have left", tags=["Usage"])
async def usage(request: Request, days: Days = 7) -> dict[str, object]:
    """By the key of the request, sent as for embeddings. UTC days and months, complete but for the last second or two.

    `left` of a minute's allowance is of this moment; `tokens_per_minute` holds for each model by itself.
    """
    gateway: Gateway = request.app.state.gateway
    front: Front = request.app.state.front
    headers: list[tuple[bytes, bytes]] = request.scope["headers"]
    try:
        tenant = gateway.tenants.of(one_key(headers, dict(headers)))
    except Unauthorized as error:
        raise front.failed(request.scope, error) from None
    return {"object": "usage", **await _shown(gateway, tenant, days)}


@router.get("/admin/usage", summary="What each API key has used, page by page", tags=["Admin"])
async def all_usage(
    gateway: Admin,
    namespace: Annotated[str | None, Query(pattern=NAMESPACE_PATTERN)] = None,
    days: Days = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_KEYS, description="Keys on a page")] = MAX_KEYS,
    after: Annotated[str | None, Query(pattern="^[0-9a-f]{16}$", description="`next` of the page before")] = None,
) -> dict[str, object]:
    """The keys of this gateway's settings in the order of their ids. An id is a keyed hash: it does not tell the key.

    `next` is null on the last page.
    """
    if namespace is not None:
        known_namespace(gateway, namespace)
    found = [tenant for tenant in gateway.tenants if namespace in (None, tenant.namespace)]
    found = sorted((tenant for tenant in found if after is None or tenant.key_id > after), key=attrgetter("key_id"))
    page = found[:limit]
    shown: dict[str, dict[str, object]] = {}
    waiting = iter(page)

    async def some() -> None:
        for tenant in waiting:
            shown[tenant.key_id] = await _shown(gateway, tenant, days)

    await asyncio.gather(*(some() for _ in range(READ_AT_ONCE)))
    more = page[-1].key_id if len(found) > limit else None
    return {"keys": [shown[tenant.key_id] for tenant in page], "next": more}


async def _shown(gateway: Gateway, tenant: Tenant, days: int) -> dict[str, object]:
    """One key: who it is, what it has used, what its limits are. Raises StateAway."""
    try:
        kept = await gateway.usage.of(tenant.usage)
    except RedisAway as error:
        raise StateAway("usage is kept in Redis, which is away; limits hold meanwhile", retry_after_s=1) from error
    now = gateway.usage.now()
    latest = [period_of_day(now - DAY_S * back) for back in range(days)]
    return {
        "key": tenant.key_id,
        "namespace": tenant.namespace,
        "today": _period("date", period_of_day(now), kept),
        "month": _period("month", period_of_month(now), kept),
        "days": [_period("date", day, kept) for day in latest],
        "limits": await _limits(tenant, [served.name for served in gateway.models]),
    }


def _period(name: str, period: str, kept: dict[str, Counts]) -> dict[str, object]:
    one = kept.get(period, Counts())
    texts = {"local": one.local, "exact": one.exact, "semantic": one.semantic, "miss": one.miss}
    return {name: period, "requests": one.requests, "refused": one.refused, "tokens": one.tokens, "texts": texts}


async def _limits(tenant: Tenant, models: Iterable[str]) -> dict[str, Any]:
    """The limits that there are, each with what is left."""
    rule = tenant.rule
    shown: dict[str, Any] = {}
    if tenant.requests is not None:
        shown["requests_per_minute"] = {"limit": rule.requests_per_minute, "left": await tenant.requests.left()}
    by_model = {name: limit for name in models if (limit := tenant.tokens_of(name)) is not None}
    left = {name: await limit.left() for name, limit in by_model.items()}
    if rule.tokens_per_minute:
        shown["tokens_per_minute"] = {"limit": rule.tokens_per_minute, "left": left}
    for name, most in (("day", rule.tokens_per_day), ("month", rule.tokens_per_month)):
        if most:
            used = tenant.budgets.used(name)
            renews = tenant.budgets.renews_at(name)
            shown[f"tokens_per_{name}"] = {
                "limit": most,
                "used": used,
                "left": max(0, most - used),
                "renews_at": renews,
            }
    return shown

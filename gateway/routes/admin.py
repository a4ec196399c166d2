"""The operator's routes, behind `admin_token`. Closed when none is set."""

import asyncio
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from cache.errors import PurgeFailed
from cache.keys import ALL_NAMESPACES, Scope
from cache.redis_care import inspect
from cache.semantic.tier import SemanticTier
from common.findings import worst
from engine.protocol import Lane
from gateway.engine_client import Model
from gateway.errors import BadRequest, EngineAway, Forbidden, NotFound, PurgeUnconfirmed, Unauthorized
from gateway.redis_watch import lookup_timeout_s, needs_search
from gateway.settings import DEFAULT_NAMESPACE, NAMESPACE_PATTERN
from gateway.state import Gateway
from gateway.tenants import bearer, same_secret


def check_admin(token: SecretStr | None, authorization: bytes | None) -> None:
    """Raises Forbidden while the interface is closed, Unauthorized without the right token."""
    if token is None:
        raise Forbidden("the admin interface is closed: set admin_token to open it")
    presented = bearer(authorization)
    if presented is None:
        raise Unauthorized("send the admin token as `Authorization: Bearer <token>`")
    if not same_secret(presented, token.get_secret_value()):
        raise Unauthorized("this admin token is not the one that is set as admin_token")


def _admin_only(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    check_admin(gateway.settings.admin_token, request.headers.get("authorization", "").encode("latin-1"))
    return gateway


def known_namespace(gateway: Gateway, namespace: str) -> str:
    """A namespace that a key leads to. Raises NotFound."""
    if namespace not in gateway.policies.namespaces:
        known = ", ".join(gateway.policies.namespaces[:20])
        raise NotFound(f"no API key leads to namespace {namespace!r}; there are: {known}", param="namespace")
    return namespace


def semantic_tier(gateway: Gateway, model: Model, namespace: str) -> SemanticTier:
    """The tier in service for a namespace. Raises NotFound where there is none."""
    tier = gateway.tiers.of(model, namespace) if gateway.tiers is not None else None
    if tier is None:
        raise NotFound(
            "there is no semantic tier: semantic_mode is off, no Redis is set, or the bundle has no static embedding"
        )
    return tier


Admin = Annotated[Gateway, Depends(_admin_only)]
router = APIRouter(prefix="/admin", tags=["Admin"])


class PurgeBody(BaseModel):
    """What to purge: a namespace, or with `all` every one."""

    model_config = ConfigDict(extra="forbid")

    namespace: str | None = Field(None, pattern=NAMESPACE_PATTERN)
    all: bool = False


class ExplainBody(BaseModel):
    """The text to explain, in whose namespace, and whether to have its vector recomputed (`truth`)."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1, max_length=100_000)
    namespace: str = Field(DEFAULT_NAMESPACE, pattern=NAMESPACE_PATTERN)
    truth: bool = False


@router.get("/stats", summary="What this worker holds and sees")
async def stats(gateway: Admin) -> dict[str, object]:
    """Figures of this worker; `/metrics` adds all workers up."""
    return {
        "redis": gateway.redis_state,
        "engine": "ready" if gateway.engine.is_ready else gateway.engine.away_detail,
        "local": {"entries": len(gateway.local), "bytes": gateway.local.used_bytes},
        "writes_queued": gateway.exact.queued_writes if gateway.exact else 0,
        "namespaces": gateway.tenants.namespaces(),
    }


@router.get("/redis", summary="Whether Redis suits what is kept in it")
async def redis(gateway: Admin) -> dict[str, object]:
    """What Redis is, and what about it does not suit: why that matters, and the command that mends it. 5 s at most."""
    settings = gateway.settings
    if settings.redis_url is None:
        raise NotFound("no Redis is set (redis_url)")
    found = await inspect(settings.redis_url, needs_search=needs_search(settings), timeout_s=lookup_timeout_s(settings))
    return {"worst": worst(found), "findings": [finding.to_dict() for finding in found]}


@router.post("/explain", summary="Whether a text would be a semantic hit, and why")
async def explain(gateway: Admin, body: ExplainBody) -> dict[str, object]:
    """Candidates, predicted similarity, margin, tau and its reasons, certificate, cost gate. Serves and keeps nothing.

    With `truth` the engine computes the text, and the true similarity stands beside the predicted one.
    """
    model = gateway.engine.model
    tier = semantic_tier(gateway, model, known_namespace(gateway, body.namespace))
    scope = await gateway.service.scope_of(model, body.namespace)
    (encoded,) = await gateway.service.encode(model, body.namespace, [body.text])

    async def recompute() -> bytes:
        deadline = asyncio.get_running_loop().time() + gateway.settings.request_timeout_s
        vectors = await gateway.engine.vectors(model, [encoded], Lane.BULK, deadline)
        return bytes(vectors[0].tobytes())

    ids = np.frombuffer(encoded.input_ids, dtype=np.int32)
    return await tier.explain(scope, ids, recompute if body.truth else None)


@router.post("/purge", summary="Make a namespace's entries unreachable, in O(1)")
async def purge(gateway: Admin, body: PurgeBody) -> dict[str, str | bool]:
    """Other gateways follow within two seconds. The entries' memory is freed by their TTL.

    `on_disk` false: in force, but Redis did not write it to its append-only file in time. Should it lose that, entries
    come back once no gateway remembers the purge.
    """
    if body.all == (body.namespace is not None):
        raise BadRequest("name a `namespace`, or send `all`: true", param="namespace")
    namespace = ALL_NAMESPACES if body.all else known_namespace(gateway, str(body.namespace))
    learned = await _learned(gateway, gateway.tenants.namespaces() if body.all else [namespace])
    try:
        epoch, is_on_disk = await gateway.epochs.purge(namespace)
    except PurgeFailed as error:
        raise PurgeUnconfirmed(str(error), retry_after_s=1) from error
    for tier, scope in learned:
        tier.forget(scope)
    return {"purged": "all" if body.all else namespace, "epoch": epoch, "on_disk": is_on_disk}


async def _learned(gateway: Gateway, namespaces: list[str]) -> list[tuple[SemanticTier, Scope]]:
    """The scopes of namespaces as they are now, each with its tier; none where no model is known."""
    try:
        model = gateway.engine.model
    except EngineAway:
        return []
    if gateway.tiers is None:
        return []
    tiers = [(gateway.tiers.of(model, namespace), namespace) for namespace in namespaces]
    return [(tier, await gateway.service.scope_of(model, name)) for tier, name in tiers if tier is not None]

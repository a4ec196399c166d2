"""The operator's routes, behind `admin_token`. Closed when none is set."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from cache.errors import PurgeFailed
from cache.keys import ALL_NAMESPACES, Scope
from cache.semantic.tier import SemanticTier
from common.findings import worst
from engine.protocol import Lane
from gateway.engines.engine_set import Model
from gateway.errors import BadRequest, Forbidden, NotFound, PurgeUnconfirmed, Unauthorized
from gateway.models import ServedModel
from gateway.redis_watch import findings
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


def semantic_tier(served: ServedModel, model: Model, namespace: str) -> SemanticTier:
    """The tier in service for a namespace. Raises NotFound where there is none."""
    tier = served.tiers.of(model, namespace) if served.tiers is not None else None
    if tier is None:
        raise NotFound(
            "there is no semantic tier: semantic_mode is off, no Redis is set, redis_url is a cluster (set "
            "semantic_redis_url to a single server with a search module), or the bundle has no static embedding"
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
    model: str | None = Field(None, description="For which model; left out: the first")
    truth: bool = False


@router.get("/stats", summary="What this worker holds and sees")
async def stats(gateway: Admin) -> dict[str, object]:
    """Figures of this worker; `/metrics` adds all workers up."""
    return {
        **gateway.redis_states,
        "models": {
            served.name: "ready" if served.engine.is_ready else served.engine.away_detail for served in gateway.models
        },
        "engines": {served.name: [asdict(one) for one in served.engine.states()] for served in gateway.models},
        "local": {"entries": len(gateway.local), "bytes": gateway.local.used_bytes},
        "writes_queued": gateway.exact.queued_writes if gateway.exact else 0,
        "namespaces": gateway.tenants.namespaces(),
    }


@router.get("/redis", summary="Whether Redis suits what is kept in it")
async def redis(gateway: Admin) -> dict[str, object]:
    """What Redis is, and what about it does not suit: why that matters, and what mends it. 5 s at most for each."""
    settings = gateway.settings
    if settings.redis_url is None:
        raise NotFound("no Redis is set (redis_url)")
    found = await findings(settings, settings.redis_url, gateway.policies.is_any_on)
    return {"worst": worst(found), "findings": [finding.to_dict() for finding in found]}


@router.post("/explain", summary="Whether a text would be a semantic hit, and why")
async def explain(gateway: Admin, body: ExplainBody) -> dict[str, object]:
    """Candidates, predicted similarity, margin, tau and its reasons, certificate, cost gate. Serves and keeps nothing.

    With `truth` the engine computes the text, and the true similarity stands beside the predicted one.
    """
    served = gateway.models.named(body.model)
    model = served.model
    tier = semantic_tier(served, model, known_namespace(gateway, body.namespace))
    scope = await served.service.scope_of(model, body.namespace)
    (encoded,) = await served.service.encode(model, body.namespace, [body.text])

    async def recompute() -> bytes:
        deadline = asyncio.get_running_loop().time() + gateway.settings.request_timeout_s
        vectors = await served.engine.vectors(model, [encoded], Lane.BULK, deadline)
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
    """The scopes of namespaces as they are now, each with its tier, of all models that are known."""
    found: list[tuple[SemanticTier, Scope]] = []
    for served in gateway.models:
        model = served.engine.current_model
        if model is None or served.tiers is None:
            continue
        tiers = [(served.tiers.of(model, name), name) for name in namespaces]
        found += [(tier, await served.service.scope_of(model, name)) for tier, name in tiers if tier is not None]
    return found

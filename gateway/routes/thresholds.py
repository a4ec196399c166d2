"""The operator's routes about semantic hits: each namespace's policy, changing it while running, what labels show."""

from collections.abc import Coroutine, Iterable
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from cache.keys import ALL_NAMESPACES, Scope
from cache.redis_link import RedisAway
from cache.semantic.tier import SemanticTier
from gateway.errors import BadRequest, EngineAway, NotFound, StateAway
from gateway.live_values import Change, shown
from gateway.policies import FIELDS, InForce
from gateway.routes.admin import Admin, known_namespace, semantic_tier
from gateway.settings import DEFAULT_NAMESPACE, NAMESPACE_PATTERN, NamespaceSettings
from gateway.state import Gateway

router = APIRouter(prefix="/admin", tags=["Admin"])

NamespaceQuery = Annotated[str, Query(pattern=NAMESPACE_PATTERN)]
ModelQuery = Annotated[str | None, Query(max_length=512)]  # any of its names; None: the first


class ThresholdsBody(NamespaceSettings):
    """Whose values to change, and the values. null: back to the configured one; left out: as it is."""

    namespace: str | None = Field(None, pattern=NAMESPACE_PATTERN)
    all: bool = Field(False, description="Change what holds where a namespace has no value of its own")


class UndoBody(BaseModel):
    """Whose last change to take back; with `revision` only if that is still the last one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    namespace: str | None = Field(None, pattern=NAMESPACE_PATTERN)
    all: bool = Field(False, description="Undo the last change of what holds for all")
    revision: int | None = Field(None, ge=1, le=2**53)


@router.get("/thresholds", summary="Each namespace's policy, and where each value comes from")
async def thresholds(
    gateway: Admin,
    namespace: Annotated[str | None, Query(pattern=NAMESPACE_PATTERN)] = None,
    model: ModelQuery = None,
) -> dict[str, object]:
    """Each value with its source: default, configuration or live; what was learned; the last 100 live changes.
    Values hold for all models; what was learned is that of `model`, or of the first.

    `learned` is null while a namespace is off, or where engine or Redis are away.
    """
    policies = gateway.policies
    if model is not None:
        gateway.models.named(model)
    with suppress(RedisAway):  # then as read last, at most a second before it went away
        await policies.refresh()
    asked = policies.namespaces if namespace is None else [known_namespace(gateway, namespace)]
    return {
        "all": policies.in_force(ALL_NAMESPACES).shown(),
        "namespaces": {name: await _shown(gateway, name, model) for name in asked},
        "changes": [
            one for one in policies.changes() if namespace is None or one["namespace"] in (namespace, ALL_NAMESPACES)
        ],
    }


@router.put("/thresholds", summary="Change policies, in every gateway, while running")
async def change_thresholds(gateway: Admin, body: ThresholdsBody) -> dict[str, object]:
    """Checked as the settings are, kept in Redis, followed by every gateway within two seconds, and recorded.

    A namespace's own value, configured or live, wins over a live one for all.
    """
    namespace = _whose(gateway, body)
    values = {name: getattr(body, name) for name in FIELDS if name in body.model_fields_set}
    if not values:
        raise BadRequest(f"name at least one of {', '.join(FIELDS)}", param=FIELDS[0])
    return await _changed(gateway, namespace, gateway.policies.change(namespace, values))


@router.post("/undo", summary="Take back the last change of policies made while running")
async def undo(gateway: Admin, body: UndoBody) -> dict[str, object]:
    """What was changed together is undone together: each field gets back the live value it had, or none.

    Undoing again takes back the change before. An undo is a change, recorded with the `revision` it undoes; it is taken
    back itself by naming its own revision. 404: nothing to undo; 409: another change came after `revision`.
    """
    namespace = _whose(gateway, body)
    return await _changed(gateway, namespace, gateway.policies.undo(namespace, body.revision))


@router.get("/calibration", summary="The labels of a namespace, and what any threshold would mean")
async def calibration(
    gateway: Admin, namespace: NamespaceQuery = DEFAULT_NAMESPACE, model: ModelQuery = None
) -> dict[str, object]:
    """Bins of z against true similarity, and the curve: for each tau the share of look-ups that would be hits
    and the share of those below a fidelity. Weights stand for look-ups; old ones fade.
    """
    policy = gateway.policies.in_force(known_namespace(gateway, namespace)).policy
    tier, scope = await _partition(gateway, namespace, model)
    try:
        return {"namespace": namespace, **await tier.calibration(scope, policy)}
    except RedisAway as error:
        raise StateAway("Redis is away, and with it what was learned", retry_after_s=1) from error


def _whose(gateway: Gateway, body: ThresholdsBody | UndoBody) -> str:
    """The namespace to change, or ALL_NAMESPACES. Raises BadRequest, and NotFound where nothing can be changed."""
    if body.all == (body.namespace is not None):
        raise BadRequest("name a `namespace`, or send `all`: true", param="namespace")
    if not gateway.has_live_values:
        raise NotFound("live values are kept in Redis, and none is set: change the configuration")
    return ALL_NAMESPACES if body.all else str(body.namespace)


async def _changed(gateway: Gateway, namespace: str, change: Coroutine[Any, Any, list[Change]]) -> dict[str, object]:
    """Make a change, and tell what changed, what is now in force, and what that entails."""
    policies = gateway.policies
    before = {name: policies.in_force(name) for name in policies.namespaces}
    changes = await change
    after = {name: policies.in_force(name) for name in policies.namespaces}
    fields = [one.field for one in changes]
    return {
        "changed": shown(changes),
        "in_force": policies.in_force(namespace).shown(),
        "note": _note(before, after, fields if namespace == ALL_NAMESPACES else []),
    }


async def _partition(gateway: Gateway, namespace: str, name: str | None) -> tuple[SemanticTier, Scope]:
    """The tier in service for a namespace and a model, and the namespace's scope. Raises NotFound, EngineAway."""
    served = gateway.models.named(name)
    model = served.model
    return semantic_tier(served, model, namespace), await served.service.scope_of(model, namespace)


async def _shown(gateway: Gateway, namespace: str, model: str | None) -> dict[str, object]:
    in_force = gateway.policies.in_force(namespace).shown()
    return {"in_force": in_force, "learned": await _learned(gateway, namespace, model)}


async def _learned(gateway: Gateway, namespace: str, model: str | None) -> dict[str, object] | None:
    try:
        tier, scope = await _partition(gateway, namespace, model)
        return await tier.learned(scope)
    except (NotFound, EngineAway, RedisAway):
        return None


def _note(before: dict[str, InForce], after: dict[str, InForce], of_all: Iterable[str]) -> str:
    """What a change entails: where certification starts anew, and which namespaces keep values of their own."""
    notes = ["Every gateway follows within two seconds."]
    anew = [name for name in after if before[name].policy.identity("") != after[name].policy.identity("")]
    if anew:
        notes.append(f"Certification and the moving threshold start anew in: {_list(anew)}.")
    own = {field: [name for name, one in after.items() if field in one.own] for field in of_all}
    notes += [f"A value of their own for {field} keep: {_list(names)}." for field, names in own.items() if names]
    return " ".join(notes)


def _list(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")

"""The operator's routes about reuse by meaning: what is promised, changing it while running, what the labels say."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from cache.keys import ALL_NAMESPACES
from cache.label_table import SHOWN_FIDELITIES, reading
from cache.promise import SemanticMode
from cache.redis_link import RedisAway
from cache.reuse_state import ScopeState
from gateway.errors import BadRequest, EngineAway, NotFound, StateAway
from gateway.promises import FIELDS, InForce
from gateway.routes_admin import Admin, known_namespace, semantic_tier
from gateway.settings import DEFAULT_NAMESPACE, NAMESPACE_PATTERN, NamespaceSettings
from gateway.state import Gateway

router = APIRouter(prefix="/admin", tags=["Admin"])

NamespaceQuery = Annotated[str, Query(pattern=NAMESPACE_PATTERN)]


class ThresholdsBody(NamespaceSettings):
    """Whose values to change, and the values. null: back to the configured one; left out: as it is."""

    namespace: str | None = Field(None, pattern=NAMESPACE_PATTERN)
    all: bool = Field(False, description="Change what holds where a namespace has no value of its own")


@router.get("/thresholds", summary="What reuse promises in each namespace, and where each value comes from")
async def thresholds(
    gateway: Admin, namespace: Annotated[str | None, Query(pattern=NAMESPACE_PATTERN)] = None
) -> dict[str, object]:
    """Each value with its source: default, configuration or live; what was learned; the last 100 live changes.

    `learned` is null while a namespace is off, or where engine or Redis are away.
    """
    promises = gateway.promises
    with suppress(RedisAway):  # then as read last, at most a second before it went away
        await promises.refresh()
    asked = promises.namespaces if namespace is None else [known_namespace(gateway, namespace)]
    return {
        "all": promises.in_force(ALL_NAMESPACES).shown(),
        "namespaces": {name: await _shown(gateway, name) for name in asked},
        "changes": [
            one for one in promises.changes() if namespace is None or one["namespace"] in (namespace, ALL_NAMESPACES)
        ],
    }


@router.put("/thresholds", summary="Change what reuse promises, in every gateway, while running")
async def change_thresholds(gateway: Admin, body: ThresholdsBody) -> dict[str, object]:
    """Checked as the settings are, kept in Redis, followed by every gateway within two seconds, and recorded.

    A namespace's own value, configured or live, wins over a live one for all.
    """
    if body.all == (body.namespace is not None):
        raise BadRequest("name a `namespace`, or send `all`: true", param="namespace")
    values = {name: getattr(body, name) for name in FIELDS if name in body.model_fields_set}
    if not values:
        raise BadRequest(f"name at least one of {', '.join(FIELDS)}", param=FIELDS[0])
    if gateway.tiers is None:
        raise NotFound("live values are kept in Redis, and none is set: change the configuration")
    promises = gateway.promises
    namespace = ALL_NAMESPACES if body.all else str(body.namespace)
    before = {name: promises.in_force(name) for name in promises.namespaces}
    changes = await promises.change(namespace, values)
    after = {name: promises.in_force(name) for name in promises.namespaces}
    return {
        "changed": [one.model_dump() for one in changes],
        "in_force": promises.in_force(namespace).shown(),
        "note": _note(before, after, values if body.all else []),
    }


@router.get("/calibration", summary="What the labels of a namespace say, and what any threshold would mean")
async def calibration(gateway: Admin, namespace: NamespaceQuery = DEFAULT_NAMESPACE) -> dict[str, object]:
    """Bins of z against true similarity, and the reuse curve: for each tau the share of look-ups that would be reused
    and the share of those below a fidelity. Weights stand for look-ups; old ones fade.
    """
    promise = gateway.promises.in_force(known_namespace(gateway, namespace)).promise
    state = await _state(gateway, namespace)
    table, fidelity = state.table, promise.fidelity
    tau = _tau(state)
    return {
        "namespace": namespace,
        "mode": promise.mode.value,
        "fidelity": fidelity,
        "tau": tau,
        "labels": round(table.labels),
        "lookups": round(table.total, 3),
        "without_candidate": round(table.empty, 3),
        "bins": table.bins(),
        "curve": table.curve(tuple(sorted({*SHOWN_FIDELITIES, fidelity}))),
        "reading": reading(table, tau, fidelity, promise.reuse.alpha),
    }


async def _state(gateway: Gateway, namespace: str) -> ScopeState:
    """What all gateways have learned for a namespace. Raises NotFound, EngineAway, StateAway."""
    model = gateway.engine.model
    tier = semantic_tier(gateway, model, namespace)
    try:
        return await tier.scopes.shared_state(await gateway.service.scope_of(model, namespace))
    except RedisAway as error:
        raise StateAway("Redis is away, and with it what was learned", retry_after_s=1) from error


def _tau(state: ScopeState) -> float | None:
    """From where on a namespace's candidates are served; None while they are not."""
    if state.promise.mode is SemanticMode.ON:
        return state.threshold.tau
    return state.reuse.tau if state.promise.mode is SemanticMode.AUTO else None


async def _shown(gateway: Gateway, namespace: str) -> dict[str, object]:
    return {"in_force": gateway.promises.in_force(namespace).shown(), "learned": await _learned(gateway, namespace)}


async def _learned(gateway: Gateway, namespace: str) -> dict[str, object] | None:
    try:
        state = await _state(gateway, namespace)
    except (NotFound, EngineAway, StateAway):
        return None
    return {
        "serving_from": _tau(state),
        "tau": state.threshold.tau,
        "reason": state.threshold.reason,
        "certificate_tau": state.reuse.tau,
        "certificate_phase": state.reuse.phase,
        **state.served_summary(),
    }


def _note(before: dict[str, InForce], after: dict[str, InForce], of_all: Iterable[str]) -> str:
    """What a change entails: where certification starts anew, and which namespaces keep values of their own."""
    said = ["Every gateway follows within two seconds."]
    anew = [name for name in after if before[name].promise.reuse != after[name].promise.reuse]
    if anew:
        said.append(f"Certification and the moving threshold start anew in: {_list(anew)}.")
    own = {field: [name for name, one in after.items() if field in one.own] for field in of_all}
    said += [f"A value of their own for {field} keep: {_list(names)}." for field, names in own.items() if names]
    return " ".join(said)


def _list(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")

"""The policy of each namespace, now: settings, and over them what an operator has changed while running.

For each value the most specific source wins:

    a namespace's live value > its configured one > the live value for all > the global setting

Live values and the last changes are one document in Redis (`cache.shared_settings`), which every worker of every
gateway reads once a second; requests only look up a dictionary. Until it has been read once there are no semantic
hits, so a gateway that starts never serves under an older, looser policy. A document that cannot be read, or that no
gateway with this key secret stored, is logged; one that is gone, or older than what was in force, is replaced by that.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError

from cache.errors import ChangeFailed
from cache.keys import ALL_NAMESPACES
from cache.metrics import REFUSED
from cache.redis_link import RedisAway
from cache.semantic.policy import Policy, SemanticMode
from cache.shared_settings import MAX_BYTES, SharedSettings
from gateway.errors import BadRequest, ChangeUnconfirmed, Conflict
from gateway.live_values import MAX_CHANGES, Change, Document, Live, Value, Values, shown, to_undo
from gateway.settings import GatewaySettings, NamespaceSettings

log = logging.getLogger("dejavec.gateway")

REFRESH_S: Final = 1.0
ATTEMPTS: Final = 5
ORDERED: Final = ("similarity_threshold", "threshold_floor", "threshold_ceiling")  # must go together
FIELDS: Final = tuple(NamespaceSettings.model_fields)

SETTINGS: Final = (*FIELDS, "certificate_beta", "namespaces")  # all that policies are made of

Plan = Callable[[], tuple[Document, list[Change]]]


@dataclass(frozen=True, slots=True)
class InForce:
    """A namespace's policy, its values by name, and where each comes from: default, configuration or live.

    `own`: the fields that are set for this very namespace, so that a value for all does not reach them.
    """

    policy: Policy
    values: Values
    sources: dict[str, str]
    own: frozenset[str]

    def shown(self) -> dict[str, dict[str, object]]:
        """Value and source of each field."""
        return {name: {"value": self.values[name], "source": self.sources[name]} for name in FIELDS}


class Policies:
    """What is in force for each namespace. Without Redis (`record` None) that is the configuration."""

    def __init__(self, settings: GatewaySettings, namespaces: Iterable[str], record: SharedSettings | None) -> None:
        self._settings = settings
        self._record = record
        self._stored: bytes | None = None  # as last read, whatever it was; None: never
        self._kept: bytes | None = None  # the last that could be read; None: none was
        self._exchange = asyncio.Lock()  # so that an answer never overtakes a later one
        self._document = Document()
        self._off = Policy(SemanticMode.OFF)
        self._followers: list[Callable[[], None]] = []
        self._reached = list(namespaces)
        self.namespaces = sorted({*self._reached, *settings.namespaces})
        self._go_by({})

    def of(self, namespace: str) -> Policy:
        """The policy in force; `off` until the live values are known. Costs a dictionary look-up."""
        return self.in_force(namespace).policy if self._is_known else self._off

    @property
    def is_any_on(self) -> bool:
        """Whether any namespace uses the semantic tier."""
        return self._is_known and self._is_any_on

    def set_namespaces(self, namespaces: Iterable[str]) -> None:
        """Other namespaces have API keys from now on; each has its policy at once."""
        self._reached = list(namespaces)
        self.namespaces = sorted({*self._reached, *self._settings.namespaces})
        self._go_by(self._document.values())

    def adopt(self, settings: GatewaySettings) -> None:
        """Go by other settings from now on; live values stay over them. What is then otherwise in force is logged."""
        before = {name: self.in_force(name) for name in (ALL_NAMESPACES, *self.namespaces)}
        self._settings = settings
        self.set_namespaces(self._reached)
        for name, known in before.items():
            now = self.in_force(name)
            for field in FIELDS:
                if known.values[field] != now.values[field]:
                    facts = (name, field, known.values[field], now.values[field])
                    log.info("policy changed in the settings file: namespace=%s field=%s old=%s new=%s", *facts)

    def on_change(self, follow: Callable[[], None]) -> None:
        """Call `follow`, from now on, whenever other values are in force."""
        self._followers.append(follow)

    def unfollow(self, follow: Callable[[], None]) -> None:
        """Do not call `follow` any more."""
        self._followers.remove(follow)

    def in_force(self, namespace: str) -> InForce:
        """What is in force for a namespace; for one that no key leads to, or ALL_NAMESPACES, what holds for all."""
        return self._in_force.get(namespace) or self._in_force[ALL_NAMESPACES]

    def changes(self) -> list[dict[str, Any]]:
        """The last changes made while running, the latest first."""
        return shown(self._document.changes)

    async def refresh(self) -> None:
        """Read the live values. Raises RedisAway."""
        if self._record is not None:
            async with self._exchange:
                with suppress(ChangeFailed):  # put back the next time
                    await self._read(self._record)

    async def run_follow(self) -> None:
        """Follow changes made on other gateways until cancelled."""
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self.refresh()
            except RedisAway:
                continue

    async def change(self, namespace: str, values: Mapping[str, str | float | None]) -> list[Change]:
        """Change some of a namespace's live values, or with ALL_NAMESPACES those for all; None takes one back.

        Returns what changed. Raises BadRequest for an unknown namespace or values that do not go together,
        ChangeUnconfirmed when Redis did not confirm it: then all of it is in force, or nothing.
        """
        return await self._replaced(lambda: self._changed(namespace, values))

    async def undo(self, namespace: str, revision: int | None = None) -> list[Change]:
        """Take back the last change of a namespace's live values, or with ALL_NAMESPACES of those for all.

        Each field gets back the live value it had, or none. `revision`: only if that is still the last change; it may
        be an undoing, which is then taken back. Returns what changed. Raises NotFound, Conflict, and as `change`.
        """
        return await self._replaced(lambda: self._undone(namespace, revision))

    async def _replaced(self, plan: Plan) -> list[Change]:
        assert self._record is not None, "live values need Redis"
        try:
            async with self._exchange:
                return await self._replace(self._record, plan)
        except RedisAway as error:
            raise ChangeUnconfirmed("Redis is away: nothing was changed", retry_after_s=1) from error
        except ChangeFailed as error:
            raise ChangeUnconfirmed(str(error), retry_after_s=1) from error

    async def _replace(self, record: SharedSettings, plan: Plan) -> list[Change]:
        """Read what is stored, and replace it by what is planned over it, until no other gateway comes between."""
        for _ in range(ATTEMPTS):
            await self._read(record)
            document, changes = plan()
            if not changes:
                return []
            content = document.model_dump_json(exclude_unset=True).encode()
            if len(content) > MAX_BYTES:
                raise BadRequest(f"live values may take {MAX_BYTES} bytes in all; put some into the configuration")
            sealed = record.seal(content)
            if await record.replace(self._stored or b"", sealed):
                self._adopt(record, sealed)
                return changes
        raise ChangeUnconfirmed("other gateways change values at this moment: try again", retry_after_s=1)

    @property
    def _is_known(self) -> bool:
        return self._record is None or self._kept is not None

    async def _read(self, record: SharedSettings) -> None:
        """Go by what is stored. Where nothing is any more, or something older (eviction, a Redis that lost its memory
        or was restored), put back what was: it may promise less than an operator has since. Raises RedisAway,
        ChangeFailed.
        """
        stored = await record.load()
        if (stored or not self._kept) and self._adopt(record, stored):
            return
        assert self._kept is not None
        if await record.replace(stored, self._kept):
            self._stored = self._kept
            log.warning("the live values were gone from Redis, or older ones were there; what was in force is put back")

    def _adopt(self, record: SharedSettings, stored: bytes) -> bool:
        """Go by what is stored, if it is new and can be read; every change that came with it is logged.

        False for what is older than what is in force.
        """
        if stored == self._stored:
            return True
        document = self._parsed(record, stored)
        if document is not None and self._kept is not None and document.changed_at < self._document.changed_at:
            REFUSED.labels("live", "older").inc()
            return False
        self._stored = stored
        if document is None:
            return True
        is_first, self._kept = self._kept is None, stored
        known, self._document = self._document, document
        self._go_by(document.values())
        if is_first:
            log.info("live values for: %s", ", ".join(document.live) or "none")
            return True
        for one in (change for change in reversed(document.changes) if change not in known.changes):
            facts = (one.namespace, one.field, one.old, one.new, " (undo)" if one.undoes else "")
            log.info("policy changed: namespace=%s field=%s old=%s new=%s%s", *facts)
        return True

    def _parsed(self, record: SharedSettings, stored: bytes) -> Document | None:
        """The document that is stored, an empty one where nothing is; None, and logged, where it cannot be read."""
        if not stored:
            return Document()
        content = record.open(stored)
        if content is None:
            fault = "no gateway with this key secret stored them"
        else:
            try:
                return Document.model_validate_json(content)
            except ValidationError as error:
                fault = _first(error)
        stays = "what was in force stays" if self._is_known else "there are no semantic hits until they are set anew"
        log.warning("the live values in Redis cannot be read, %s: %s", stays, fault)
        return None

    def _go_by(self, live: Live) -> None:
        """Put values in force; live ones that contradict the configuration are left out, and logged."""
        found = {}
        for namespace in (ALL_NAMESPACES, *self.namespaces):
            try:
                found[namespace] = in_force(self._settings, namespace, live)
            except ValueError as error:
                log.warning("live values for namespace %s are ignored: %s", namespace, error)
                found[namespace] = in_force(self._settings, namespace, {})
        self._in_force = found
        self._is_any_on = any(one.policy.mode is not SemanticMode.OFF for one in found.values())
        for follow in self._followers:
            follow()

    def _undone(self, namespace: str, revision: int | None) -> tuple[Document, list[Change]]:
        """The document after undoing, and what changes. Raises NotFound, Conflict, BadRequest."""
        taken_back = to_undo(self._document.changes, namespace, revision)
        own = self._document.values().get(namespace, {})
        if any(own.get(change.field) != change.own_new for change in taken_back):
            raise Conflict("the values there are not those that the last change set: set them anew")
        values = {change.field: change.own_old for change in taken_back}
        return self._changed(namespace, values, undoes=taken_back[0].revision)

    def _changed(
        self, namespace: str, values: Mapping[str, Value | None], undoes: int = 0
    ) -> tuple[Document, list[Change]]:
        """The document after a change, and what changes. Raises BadRequest."""
        live = self._document.values()
        if namespace not in (ALL_NAMESPACES, *self.namespaces, *live):
            known = ", ".join(self.namespaces[:20])
            raise BadRequest(f"no API key leads to namespace {namespace!r}; there are: {known}", param="namespace")
        own = {**live.get(namespace, {}), **values}
        after = {**live, namespace: {name: value for name, value in own.items() if value is not None}}
        for name in (ALL_NAMESPACES, *self.namespaces):
            try:
                in_force(self._settings, name, after)
            except ValueError as error:
                where = "for all namespaces" if name == ALL_NAMESPACES else f"in namespace {name}"
                raise BadRequest(f"{where}, {error}", param=next((n for n in ORDERED if n in values), None)) from None
        revision = max(self._document.changed_at + 1, time.time_ns() // 1_000_000)
        changes = [
            Change(**facts, revision=revision, undoes=undoes) for facts in self._changes(namespace, values, live, after)
        ]
        document = Document(
            live={name: NamespaceSettings.model_validate(own) for name, own in after.items() if own},
            changes=[*changes, *self._document.changes][:MAX_CHANGES],
            changed_at=revision,
        )
        return document, changes

    def _changes(self, namespace: str, fields: Iterable[str], before: Live, after: Live) -> Iterator[dict[str, Any]]:
        """What becomes of each field, with the values in force before and after, and the namespace's own."""
        old, new = self.in_force(namespace).values, in_force(self._settings, namespace, after).values
        at = datetime.now(UTC).isoformat(timespec="seconds")
        for name in fields:
            own_old, own_new = before.get(namespace, {}).get(name), after[namespace].get(name)
            if own_old != own_new:
                facts = {"old": old[name], "new": new[name], "own_old": own_old, "own_new": own_new}
                yield {"at": at, "namespace": namespace, "field": name, **facts}


def in_force(settings: GatewaySettings, namespace: str, live: Live) -> InForce:
    """A namespace's values from the settings and the live ones. Raises ValueError when they do not go together."""
    values: Values = {name: getattr(settings, name) for name in FIELDS}
    sources = {name: "configuration" if name in settings.model_fields_set else "default" for name in FIELDS}
    chosen = settings.namespaces.get(namespace)
    configured = chosen.stated() if chosen is not None else {}
    own = live.get(namespace, {})
    for source, layer in (("live", live.get(ALL_NAMESPACES, {})), ("configuration", configured), ("live", own)):
        values |= layer
        sources |= dict.fromkeys(layer, source)
    return InForce(_policy(settings, values), values, sources, frozenset({*configured, *own}))


def _policy(settings: GatewaySettings, values: Values) -> Policy:
    fidelity, alpha = float(values["semantic_fidelity"]), float(values["certificate_alpha"])
    threshold, floor, ceiling = (
        float(values[name]) for name in ("similarity_threshold", "threshold_floor", "threshold_ceiling")
    )
    mode = str(values["semantic_mode"])
    return Policy.of(mode, fidelity, alpha, settings.certificate_beta, threshold, floor, ceiling)


def _first(error: ValidationError) -> str:
    """The first fault, without the values it was found in."""
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in fault['loc']) or 'the document'}: {fault['msg']}"

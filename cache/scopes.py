"""The scopes that this gateway holds the learned state of, and their exchange with the other gateways.

A scope is a model's namespace in one epoch. Bounded: the least recently used are forgotten here, their state stays in
Redis. Knows nothing of look-ups.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from cache.governor import GovernorSettings
from cache.keys import Scope
from cache.lookup import Lookup
from cache.promise import Promise
from cache.redis_link import RedisAway, RedisLink
from cache.reuse_log import ReuseLog
from cache.reuse_state import ScopeState

SYNC_INTERVAL_S: Final = 0.5
IDLE_AFTER_S: Final = 60.0
FORGET_AFTER_S: Final = 90.0  # a purged scope: by then every gateway has followed and its scope is idle
MAX_ENDED: Final = 10_000
MAX_SCOPES: Final = 256  # each holds up to 1 MB of what it has learned


class Scopes:
    """States by the tag of their keys; `run_sync` must be running.

    `promise_of` names what is in force for a namespace; it is asked at every step, and an answer that has changed is
    adopted then.
    """

    def __init__(
        self,
        link: RedisLink,
        governor: GovernorSettings,
        probe_id: str,
        dimensions: int,
        promise_of: Callable[[str], Promise],
    ) -> None:
        self._link = link
        self._log = ReuseLog(link)
        self._governor = governor
        self._probe_id = probe_id
        self._dimensions = dimensions
        self._held: OrderedDict[str, ScopeState] = OrderedDict()
        self._ended: deque[tuple[float, str]] = deque(maxlen=MAX_ENDED)  # purged scopes: when, and their tag
        self.promise_of = promise_of

    def of(self, keys: Scope) -> ScopeState:
        """What is known of a scope, by the promise in force now; the least recently used ones are forgotten here, those
        first that have told all they know (their state stays in Redis)."""
        scope = self._held.get(keys.tag)
        if scope is None:
            scope = self._held[keys.tag] = self._new(keys)
            while len(self._held) > MAX_SCOPES:
                told = (tag for tag, one in self._held.items() if one is not scope and not one.has_news)
                self._held.pop(next(told, next(iter(self._held))))
        scope.used_at = time.monotonic()
        self._held.move_to_end(keys.tag)
        self.keep_promise(scope)
        return scope

    async def refresh(self, scope: ScopeState) -> None:
        """Take the shared state anew. Raises RedisAway."""
        await scope.load_state(self._log)

    def still_checks(self, keys: Scope, lookup: Lookup) -> None:
        """The check of a hit waits for the engine: it is not lost."""
        if (scope := self._held.get(keys.tag)) is not None:
            scope.on_the_way.still_waits(lookup.ticket)

    def forget(self, keys: Scope) -> None:
        """A purge has ended this scope: drop what was learned, in Redis once every gateway has left it."""
        self._held.pop(keys.tag, None)
        self._ended.append((time.monotonic(), keys.tag))

    async def shared_state(self, keys: Scope) -> ScopeState:
        """What all gateways together know of a scope, its map left out, read anew and kept by nobody.

        Raises RedisAway.
        """
        scope = self._new(keys)
        await scope.load_state(self._log)
        return scope

    async def run_sync(self) -> None:
        """Exchange labels and states with the other gateways until cancelled."""
        while True:
            await asyncio.sleep(SYNC_INTERVAL_S)
            now = time.monotonic()
            for scope in [one for one in self._held.values() if now - one.used_at < IDLE_AFTER_S or one.has_news]:
                self.keep_promise(scope)
                try:
                    await scope.sync(self._log)
                except RedisAway:
                    if self._link.state != "ok":
                        break
            while self._ended and now - self._ended[0][0] >= FORGET_AFTER_S:
                try:
                    await self._log.forget(self._ended[0][1])
                except RedisAway:
                    break
                self._ended.popleft()

    async def tell_all(self) -> None:
        """Send what is known here alone: the last thing before the end. Raises RedisAway."""
        for scope in list(self._held.values()):
            if scope.has_news:
                await scope.send(self._log)

    def keep_promise(self, scope: ScopeState) -> None:
        """Go by what is in force now."""
        promise = self.promise_of(scope.keys.namespace)
        if promise is not scope.promise:
            scope.adopt(promise)

    def _new(self, keys: Scope) -> ScopeState:
        promise = self.promise_of(keys.namespace)
        return ScopeState(keys, promise, self._governor, self._probe_id, self._dimensions)

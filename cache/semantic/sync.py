"""How gateways share what is learned: the partitions held here, and their exchange with the other gateways.

Events go to the exchange's stream; whichever gateway holds a partition's lease folds them into the state that all
read. The same writer fits the alignment matrix to the texts it has computed itself and stores it in one step with the
state that names it, so a gateway decides by a state and the matrix that belongs to it, or serves nothing.
"""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from cache.keys import Scope
from cache.metrics import REFUSED
from cache.redis_link import RedisAway
from cache.semantic.cost_gate import CostGateSettings
from cache.semantic.exchange import Exchange, Saved
from cache.semantic.lookup import Lookup
from cache.semantic.partition import Partition
from cache.semantic.policy import Policy

SYNC_INTERVAL_S: Final = 0.5
IDLE_AFTER_S: Final = 60.0
FORGET_AFTER_S: Final = 90.0  # a purged partition: by then every gateway has followed and its own is idle
MAX_ENDED: Final = 10_000
MAX_PARTITIONS: Final = 256  # each holds up to 1 MB of what was learned
EVENTS_AT_ONCE: Final = 256


async def send(partition: Partition, exchange: Exchange) -> None:
    """Send all events that wait now; those that come meanwhile wait for the next time. Raises RedisAway."""
    waiting = partition.outbox.waiting
    for _ in range(math.ceil(len(waiting) / EVENTS_AT_ONCE)):
        batch = waiting[:EVENTS_AT_ONCE]
        last_id = await exchange.append(partition.scope.tag, batch)
        partition.outbox.sent(len(batch), last_id)


async def load_state(partition: Partition, exchange: Exchange) -> bool:
    """Take the shared state without its alignment matrix, sending nothing. Raises RedisAway.

    False where it is older than one this gateway has seen: it is not gone by, and without a newer one soon nothing is
    served in `auto`.
    """
    saved = await exchange.load(partition.scope.tag)
    if saved is not None and saved.saved_at < partition.saved_at:
        REFUSED.labels("state", "older").inc()
        return False
    if saved is not None:
        partition.take(saved.state, saved.last_event)
        partition.saved_at = saved.saved_at
    elif partition.alignment is not None:
        partition.sums.due_at = 0  # Redis lost its data, the matrix too: the writer fits one anew and stores it
    partition.taken_now()
    return True


async def load(partition: Partition, exchange: Exchange) -> bool:
    """Take the shared state and its alignment matrix, sending nothing; False as in `load_state`. Raises RedisAway."""
    is_newest = await load_state(partition, exchange)
    if not partition.has_its_alignment:
        partition.take_alignment(await exchange.load_alignment(partition.scope.tag))
    return is_newest


async def synchronise(partition: Partition, exchange: Exchange) -> None:
    """Send own events, take the shared state, and fold all new events into it if this gateway is the writer.

    Raises RedisAway; events stay for the next time.
    """
    await send(partition, exchange)
    partition.is_writer, partition.gateways = await exchange.take_lease(partition.scope.tag)
    is_newest = await load(partition, exchange)
    if partition.is_writer and (is_newest or await _save(partition, exchange)):
        await _fold(partition, exchange)
    partition.outbox.counted(partition.last_event)


async def _fold(partition: Partition, exchange: Exchange) -> None:
    tag = partition.scope.tag
    if not partition.has_its_alignment:
        partition.drop_alignment()
    while events := await exchange.events_after(tag, partition.last_event):
        for event_id, event in events:
            if partition.counted.is_new(event):
                partition.apply(event)
            partition.last_event = event_id
        if not await _save(partition, exchange):
            return
    if content := partition.fit_alignment():
        await _save(partition, exchange, content)


async def _save(partition: Partition, exchange: Exchange, alignment: bytes = b"") -> bool:
    """Store what this gateway holds, as the newest state there is. Raises RedisAway."""
    saved_at = max(partition.saved_at + 1, time.time_ns() // 1_000_000)
    saved = Saved(partition.last_event, partition.to_state(), saved_at)
    if not await exchange.save(partition.scope.tag, saved, alignment):
        return False
    partition.saved_at = saved_at
    return True


class Partitions:
    """Partitions by the tag of their scopes; `run_sync` must be running.

    `policy_of` gives what is in force for a namespace; it is called at every step, and a changed policy is adopted
    then. Bounded: the least recently used are dropped here, their state stays in Redis.
    """

    def __init__(
        self,
        exchange: Exchange,
        cost_gate: CostGateSettings,
        embedding_id: str,
        dimensions: int,
        policy_of: Callable[[str], Policy],
        new: Callable[..., Partition] = Partition,
    ) -> None:
        self._exchange = exchange
        self._cost_gate = cost_gate
        self._embedding_id = embedding_id
        self._dimensions = dimensions
        self._held: OrderedDict[str, Partition] = OrderedDict()
        self._ended: deque[tuple[float, str]] = deque(maxlen=MAX_ENDED)  # purged partitions: when, and their tag
        self._make = new
        self.policy_of = policy_of

    def of(self, scope: Scope) -> Partition:
        """A scope's partition, under the policy in force now; when there are too many, the least recently used ones
        are dropped, those first that have sent everything."""
        partition = self._held.get(scope.tag)
        if partition is None:
            partition = self._held[scope.tag] = self._new(scope)
            while len(self._held) > MAX_PARTITIONS:
                sent = (tag for tag, one in self._held.items() if one is not partition and not one.has_news)
                self._held.pop(next(sent, next(iter(self._held))))
        partition.used_at = time.monotonic()
        self._held.move_to_end(scope.tag)
        self.follow_policy(partition)
        return partition

    def held(self) -> list[Partition]:
        """Those that are held here, the one used last at the end."""
        return list(self._held.values())

    def follow_policy(self, partition: Partition) -> None:
        """Decide under the policy in force now."""
        policy = self.policy_of(partition.scope.namespace)
        if policy is not partition.policy:
            partition.adopt(policy)

    def keep_pending(self, scope: Scope, lookup: Lookup) -> None:
        """The verification of a hit waits for the engine: it is not lost."""
        if (partition := self._held.get(scope.tag)) is not None:
            partition.pending.keep(lookup.ticket)

    def forget(self, scope: Scope) -> None:
        """A purge has ended this scope: drop what was learned, in Redis once every gateway has left it."""
        self._held.pop(scope.tag, None)
        self._ended.append((time.monotonic(), scope.tag))

    async def refresh(self, partition: Partition) -> None:
        """Take the shared state anew. Raises RedisAway."""
        await load_state(partition, self._exchange)

    async def shared(self, scope: Scope) -> Partition:
        """What all gateways together hold of a scope, its matrix left out, read anew and not kept. Raises RedisAway."""
        partition = self._new(scope)
        await load_state(partition, self._exchange)
        return partition

    async def run_sync(self) -> None:
        """Exchange events and states with the other gateways until cancelled."""
        while True:
            await asyncio.sleep(SYNC_INTERVAL_S)
            await self._sync_all()
            await self._forget_ended()

    async def flush(self) -> None:
        """Send what is held here alone: the final flush of a tier that ends. Raises RedisAway."""
        for partition in list(self._held.values()):
            if partition.has_news:
                await send(partition, self._exchange)

    async def _sync_all(self) -> None:
        now = time.monotonic()
        for partition in [one for one in self._held.values() if now - one.used_at < IDLE_AFTER_S or one.has_news]:
            self.follow_policy(partition)
            try:
                await synchronise(partition, self._exchange)
            except RedisAway:
                if not self._exchange.is_available:
                    return

    async def _forget_ended(self) -> None:
        while self._ended and time.monotonic() - self._ended[0][0] >= FORGET_AFTER_S:
            try:
                await self._exchange.forget(self._ended[0][1])
            except RedisAway:
                return
            self._ended.popleft()

    def _new(self, scope: Scope) -> Partition:
        policy = self.policy_of(scope.namespace)
        return self._make(scope, policy, self._cost_gate, self._embedding_id, self._dimensions)

"""One scope's learned state as a gateway holds it: map, threshold, certificate, label table, governor; its exchange.

Labels go to the shared stream; whoever holds the lease folds them into the state that all read. The same writer fits
the map (`cache.trend`) to the texts it has computed itself and stores it in one step with the state that names it, so
a gateway goes by a state and the map it belongs to, or serves nothing. The governor is this process's own: it measures
this process's costs. What was learned for another promise (fidelity, alpha) counts no more; the map and the label
table, which only say what is true, outlive a change of promise. Knows nothing of how z is made.
"""

import logging
import math
import time
from typing import Any

from cache.governor import Governor, GovernorSettings
from cache.keys import Scope
from cache.label_table import LabelTable
from cache.lookup import Lookup
from cache.metrics import SEMANTIC_QUEUE_DROPPED
from cache.on_the_way import HitsOnTheWay
from cache.promise import Promise, SemanticMode
from cache.reuse import AutoReuse, Label
from cache.reuse_events import count_event, count_of, label_event, label_of
from cache.reuse_log import ReuseLog, Saved
from cache.threshold import DynamicThreshold
from cache.trend import Trend, TrendLearner

log = logging.getLogger("dejavec.cache")

MAX_EVENTS_WAITING = 20_000
EVENTS_AT_ONCE = 256
STALE_AFTER_S = 10.0  # a shared state taken longer ago is taken anew before it serves
NO_VERSION = -1  # of labels that no certificate may go by


class ScopeState:
    """State of one (model, namespace, epoch), named in Redis by the tag of its keys."""

    reuse: AutoReuse
    threshold: DynamicThreshold
    served: dict[str, int]
    _pause_after: int | None  # number of the own event that tells of a violation, until it is sent
    _paused_until: str | None  # and from then on its id in the stream

    def __init__(
        self, keys: Scope, promise: Promise, governor: GovernorSettings, probe_id: str, dimensions: int
    ) -> None:
        self.keys = keys
        self.promise = promise
        self.used_at = time.monotonic()
        self.governor = Governor(governor)
        self.table = LabelTable()
        self.trend: Trend | None = None
        self.learner = TrendLearner(dimensions)
        self._named_trend: str | None = None  # by the shared state
        self._probe_id = probe_id
        self._last_event = "0-0"
        self._events: list[dict[str, Any]] = []
        self._events_sent = 0
        self.on_the_way = HitsOnTheWay()
        self._taken_at = -math.inf
        self._is_writer, self._gateways = False, 0  # as of the last exchange
        self._start_afresh()

    @property
    def is_paused(self) -> bool:
        """A violation was seen here that the shared state does not hold yet."""
        return self._pause_after is not None or self._paused_until is not None

    @property
    def has_its_trend(self) -> bool:
        """Whether the map that the shared state was learned with is at hand."""
        return self._named_trend == (None if self.trend is None else self.trend.id)

    @property
    def is_stale(self) -> bool:
        """Whether the shared state has not been read lately: others may have stopped serving since."""
        return time.monotonic() - self._taken_at > STALE_AFTER_S

    @property
    def version(self) -> int:
        """Which round a label of now tells of; none where z was made with another map than the shared state's."""
        return NO_VERSION if self.is_stale or not self.has_its_trend else self.reuse.version

    @property
    def has_news(self) -> bool:
        """Whether something is known here that the shared state does not hold yet."""
        return bool(self._events) or self.is_paused

    @property
    def index_share(self) -> float:
        """The share of computed texts that enter the index: in `on` all, else what the governor finds not too dear."""
        return 1.0 if self.promise.mode is SemanticMode.ON else self.governor.index_share

    def adopt(self, promise: Promise) -> None:
        """Go by another promise from now on: another fidelity or alpha starts afresh, other bounds move tau."""
        is_same_score = promise.is_cautious == self.promise.is_cautious
        if promise.reuse == self.promise.reuse and is_same_score:
            started_at, self.promise = self.promise.threshold.similarity_threshold, promise
            self.threshold = self._threshold_from(self.threshold.to_state(), started_at)
            return
        self.promise = promise
        self._start_afresh()
        if not is_same_score:
            self.table = LabelTable()

    def admits(self, lookup: Lookup) -> bool:
        """Whether the purse could pay if this hit and all checked ones on their way violated; if so it is one of them.

        Texts of one request, and requests of one moment, are all decided before any of them is checked.
        """
        if self.promise.mode is not SemanticMode.AUTO:
            return True
        if self.reuse.budget is None or not self._gateways:
            return False
        price, owed = 1 / lookup.probability, self.on_the_way.owed
        balance = self.reuse.budget.balance
        share = balance / self._gateways
        if price > share:  # too little to share: it is the writer's alone
            share = balance if self._is_writer else 0.0
        if owed + price > share and (owed or not share):
            return False
        if lookup.is_checked:
            self.on_the_way.add(lookup.ticket, price)
        return True

    def count_hits(self, hits: int) -> None:
        """Vectors were served."""
        if hits:
            self._record(count_event(self._identity, "hits", hits))

    def count_empty(self, lookups: int) -> None:
        """Look-ups found nothing that could have been served."""
        if lookups:
            self._record(count_event(self._identity, "empty", lookups))

    def add_label(self, pair: int, lookup: Lookup, similarity: float, was_hit: bool, is_violation: bool) -> None:
        """Record one comparison; it is shared at the next exchange."""
        assert lookup.choice is not None
        label = Label(pair, lookup.choice.z, similarity, lookup.version, was_hit, lookup.probability)
        event = label_event(lookup.promise.identity(self._probe_id), label)
        is_served_violation = was_hit and is_violation
        self._record(event, must_fit=is_served_violation)
        if is_served_violation and event["i"] == self._identity:
            self._pause_after = self._events_sent + len(self._events)

    def served_summary(self) -> dict[str, Any]:
        """Hits served in this scope by all gateways, how many were checked, and how many of those violated."""
        return dict(self.served)

    async def load_state(self, log: ReuseLog) -> None:
        """Take the shared state without its map, sending nothing. Raises RedisAway."""
        self._take(await log.load(self.keys.tag))
        self._taken_at = time.monotonic()

    async def load(self, log: ReuseLog) -> None:
        """Take the shared state and its map, sending nothing. Raises RedisAway."""
        await self.load_state(log)
        if not self.has_its_trend:
            self._take_trend(await log.load_trend(self.keys.tag))

    async def sync(self, log: ReuseLog) -> None:
        """Send own events; then fold all new ones in if this gateway is the writer, and take the shared state.

        Raises RedisAway; events stay for the next time.
        """
        await self.send(log)
        self._is_writer, self._gateways = await log.take_lease(self.keys.tag)
        await self.load(log)
        if self._is_writer:
            await self._fold(log)
        if self._paused_until and _order(self._last_event) >= _order(self._paused_until):
            self._paused_until = None

    @property
    def _identity(self) -> str:
        return self.promise.identity(self._probe_id)

    def _record(self, event: dict[str, Any], must_fit: bool = False) -> None:
        """Have an event sent at the next exchange; while Redis takes none, only so many wait."""
        if len(self._events) < MAX_EVENTS_WAITING or must_fit:
            self._events.append(event)
        else:
            SEMANTIC_QUEUE_DROPPED.inc()

    def _start_afresh(self) -> None:
        self.reuse = AutoReuse(self.promise.reuse)
        self.threshold = DynamicThreshold(self.promise.threshold)
        self.served = {"hits": 0, "checked": 0, "violations": 0}
        self._pause_after = self._paused_until = None

    async def send(self, log: ReuseLog) -> None:
        """All events that wait now; those that come meanwhile wait for the next time."""
        for _ in range(math.ceil(len(self._events) / EVENTS_AT_ONCE)):
            sent = self._events[:EVENTS_AT_ONCE]
            last = await log.append(self.keys.tag, sent)
            del self._events[: len(sent)]
            self._events_sent += len(sent)
            if self._pause_after is not None and self._events_sent >= self._pause_after:
                self._pause_after, self._paused_until = None, last

    async def _fold(self, log: ReuseLog) -> None:
        if not self.has_its_trend:
            self._give_up_trend()
        while events := await log.events_after(self.keys.tag, self._last_event):
            for event_id, event in events:
                self._apply(event)
                self._last_event = event_id
            if not await log.save(self.keys.tag, Saved(self._last_event, self._to_state())):
                return
        if self.learner.is_due:
            self.trend, content = self.learner.fit()
            self._named_trend = self.trend.id
            await log.save(self.keys.tag, Saved(self._last_event, self._to_state()), content)

    def _take_trend(self, content: bytes) -> None:
        """Go by the stored map if it is the one that the state names; learn on from its sums if they say more."""
        try:
            trend, learner = TrendLearner.resume(content, self.learner.dimensions)
        except ValueError:
            return
        if trend.id == self._named_trend:
            self.trend = trend
            if learner.texts >= self.learner.texts:
                self.learner = learner

    def _give_up_trend(self) -> None:
        """The named map is gone: what was proven with it says nothing of another one."""
        log.warning("the map of a semantic scope is gone from Redis: its certificate starts anew")
        self.trend = self._named_trend = None
        self.reuse.start_next_round()

    def _apply(self, event: dict[str, Any]) -> None:
        """One event into the state; a damaged one is skipped, and so is one whose z means something else.

        Of another promise only the label table learns: it holds what is true whatever is asked for.
        """
        if not self._has_own_score(event.get("i")):
            return
        is_own = event["i"] == self._identity
        try:
            if event.get("k") == "empty":
                self.table.add_empty(count_of(event))
            elif event.get("k") == "hits":
                self._add_hits(count_of(event) if is_own else 0)
            else:
                label = label_of(event)
                self.table.add(label.z, label.similarity, 1 / label.probability if label.was_hit else 1.0)
                if is_own:
                    self._add_label(label)
        except (KeyError, TypeError, ValueError, OverflowError):
            return

    def _add_hits(self, hits: int) -> None:
        self.served["hits"] += hits
        for _ in range(hits):
            self.reuse.add_hit()

    def _add_label(self, label: Label) -> None:
        self.reuse.add_label(label)
        self.threshold.add_label(label.z, label.similarity, label.was_hit)
        if label.was_hit:
            self.served["checked"] += 1
            self.served["violations"] += label.similarity < self.promise.fidelity

    def _take(self, saved: Saved | None) -> None:
        if saved is None:
            return
        state = saved.state
        if self._is_of_probe(state.get("identity")):
            self._named_trend = str(state["trend"]) if state.get("trend") else None
            if self._named_trend is None:
                self.trend = None
        if not self._has_own_score(state.get("identity")):
            return  # z meant something else then
        if state["identity"] != self._identity:
            self._start_afresh()  # what was proven for another promise says nothing now; nor do events up to here
        elif not self._resume(state):
            return
        self.table = _table(state.get("table"))
        self._last_event = saved.last_event

    def _resume(self, state: dict[str, Any]) -> bool:
        """Go on from a state; False for one of another version: the writer starts afresh, nothing is served before."""
        try:
            reuse = AutoReuse.from_state(self.promise.reuse, state["reuse"])
            threshold = self._threshold_from(state["threshold"], float(state.get("started_at", 0)))
            served = {name: int(state["served"][name]) for name in self.served}
        except (KeyError, TypeError, ValueError, OverflowError):
            return False
        self.reuse, self.threshold, self.served = reuse, threshold, served
        return True

    def _threshold_from(self, state: dict[str, Any], started_at: float) -> DynamicThreshold:
        """tau as it was, moved into the bounds of now; from its start where `similarity_threshold` was set anew."""
        settings = self.promise.threshold
        if started_at not in (0, settings.similarity_threshold):
            return DynamicThreshold(settings, reason="similarity_threshold was set")
        threshold = DynamicThreshold.from_state(settings, state)
        if threshold.tau != float(state["tau"]):
            threshold.reason = "moved into its bounds"
        return threshold

    def _is_of_probe(self, identity: object) -> bool:
        return isinstance(identity, str) and identity.partition(":")[0].removesuffix("+") == self._probe_id

    def _has_own_score(self, identity: object) -> bool:
        return isinstance(identity, str) and identity.startswith(f"{self.promise.score(self._probe_id)}:")

    def _to_state(self) -> dict[str, Any]:
        return {
            "identity": self._identity,
            "reuse": self.reuse.to_state(),
            "threshold": self.threshold.to_state(),
            "started_at": self.promise.threshold.similarity_threshold,
            "served": self.served,
            "table": self.table.to_state(),
            "trend": self._named_trend,
        }


def _table(state: Any) -> LabelTable:
    """The saved table; an empty one where there is none that can be read."""
    try:
        return LabelTable.from_state(state)
    except (KeyError, TypeError, ValueError, IndexError):
        return LabelTable()


def _order(event_id: str) -> tuple[int, int]:
    """Stream ids in their order."""
    milliseconds, _, sequence = event_id.partition("-")
    return int(milliseconds), int(sequence or 0)

"""What is learned of one namespace in one epoch of one model: its partition. Decisions and learning, without Redis.

A partition holds the alignment matrix, the certifier (`auto`), the moving threshold (`on`), the label table and the
cost gate. Labels and counts are recorded as events; `apply` takes an event, of any gateway, into the learned state.
`cache.semantic.sync` exchanges events and state with the other gateways. The cost gate is this process's own: it
measures this process's costs. What was learned under another fidelity or alpha counts no more; the matrix and the
label table hold under any policy and are kept.
"""

import logging
import math
import time
from typing import Any, Final

from cache.keys import Scope
from cache.semantic.alignment import Alignment, AlignmentSums
from cache.semantic.calibration import LabelTable
from cache.semantic.certifier import Certifier, Label
from cache.semantic.cost_gate import CostGate, CostGateSettings
from cache.semantic.error_budget import ErrorBudget
from cache.semantic.events import Counted, Event, Outbox, count_event, count_of, label_event, label_of
from cache.semantic.lookup import Lookup
from cache.semantic.policy import Policy, SemanticMode
from cache.semantic.threshold import DynamicThreshold, verify_probability
from cache.semantic.verification import PendingVerifications

log = logging.getLogger("dejavec.cache")

STALE_AFTER_S: Final = 10.0  # a shared state taken longer ago is taken anew before it serves
NO_VERSION: Final = -1  # of labels that no certificate may use


class Partition:
    """Learned state under one policy, named in Redis by its scope's tag.

    `saved_at`: of the newest shared state seen; `counted`: the events that are in it. `balance_on`: the error budget in
    mode `on`, where it opens no breaker and only bounds how many hits are pending.
    `is_writer`, `gateways`: whether this gateway folds events into the shared state, and how many exchange, as of the
    last exchange.
    """

    certifier: Certifier
    threshold: DynamicThreshold
    balance_on: ErrorBudget
    served: dict[str, int]

    def __init__(
        self, scope: Scope, policy: Policy, cost_gate: CostGateSettings, embedding_id: str, dimensions: int
    ) -> None:
        self.scope = scope
        self.policy = policy
        self.used_at = time.monotonic()
        self.cost_gate = CostGate(cost_gate)
        self.table = LabelTable()
        self.alignment: Alignment | None = None
        self.sums = AlignmentSums(dimensions)
        self.outbox = Outbox()
        self.pending = PendingVerifications()
        self.last_event, self.saved_at = "0-0", 0
        self.counted = Counted()
        self.is_writer, self.gateways = False, 0
        self._embedding_id = embedding_id
        self._named_alignment: str | None = None  # by the shared state
        self._taken_at = -math.inf
        self._start_afresh()

    @property
    def is_paused(self) -> bool:
        """A violation was found here that the shared state does not hold yet."""
        return self.outbox.is_uncounted

    @property
    def has_its_alignment(self) -> bool:
        """Whether the matrix that the shared state was learned with is at hand."""
        return self._named_alignment == (None if self.alignment is None else self.alignment.id)

    @property
    def is_stale(self) -> bool:
        """Whether the shared state has not been read lately: others may have stopped serving since."""
        return time.monotonic() - self._taken_at > STALE_AFTER_S

    @property
    def version(self) -> int:
        """The round that a label of now belongs to; none where z was made with another matrix than the shared one."""
        return NO_VERSION if self.is_stale or not self.has_its_alignment else self.certifier.version

    @property
    def has_news(self) -> bool:
        """Whether something is held here that the shared state does not hold yet."""
        return bool(self.outbox.waiting) or self.is_paused

    @property
    def identity(self) -> str:
        """What z means here, and under which policy."""
        return self.policy.identity(self._embedding_id)

    @property
    def lookup_share(self) -> float:
        """The share of texts to look up: in `on` all, else what the cost gate allows."""
        return 1.0 if self.policy.mode is SemanticMode.ON else self.cost_gate.lookup_share

    @property
    def index_share(self) -> float:
        """The share of computed texts that enter the index: in `on` all, else what the cost gate allows."""
        return 1.0 if self.policy.mode is SemanticMode.ON else self.cost_gate.index_share

    def adopt(self, policy: Policy) -> None:
        """Decide under another policy from now on: another fidelity or alpha starts afresh, other bounds move tau."""
        is_same_score = policy.is_cautious == self.policy.is_cautious
        if policy.certifier == self.policy.certifier and is_same_score:
            started_at, self.policy = self.policy.threshold.similarity_threshold, policy
            self.threshold = self._threshold_from(self.threshold.to_state(), started_at)
            return
        self.policy = policy
        self._start_afresh()
        if not is_same_score:
            self.table = LabelTable()

    def tau(self, policy: Policy) -> float | None:
        """From which z on a look-up begun under this policy may be served; None: nothing, also where it has changed."""
        if self.policy is not policy:
            return None
        if policy.mode is SemanticMode.ON:
            return self.threshold.tau
        may_serve = self.has_its_alignment and not self.is_stale and not self.is_paused
        if policy.mode is SemanticMode.AUTO and may_serve:
            return self.certifier.tau
        return None

    @property
    def serving_from(self) -> float | None:
        """The tau of the shared state: from where on neighbours are served; None while they are not."""
        if self.policy.mode is SemanticMode.ON:
            return self.threshold.tau
        return self.certifier.tau if self.policy.mode is SemanticMode.AUTO else None

    def verify_probability(self, least: float) -> float:
        """With which probability the next hit is checked; `least` is the floor in mode `on`."""
        if self.policy.mode is SemanticMode.ON:
            return verify_probability(self.served["checked"], least)
        return self.certifier.verify_probability

    def admits(self, lookup: Lookup) -> bool:
        """Whether the error budget covers this hit and all pending ones if all violate; if so it becomes one of them.

        Texts of one request, and requests of one moment, are all decided before any of them is checked. A lone hit is
        admitted where this gateway may serve at all.
        """
        cost, pending = 1 / lookup.probability, self.pending.cost
        share = self._share_on() if self.policy.mode is SemanticMode.ON else self._share(cost)
        if share is None or (pending and pending + cost > share):
            return False
        if lookup.is_checked:
            self.pending.add(lookup.ticket, cost)
        return True

    def _share(self, cost: float) -> float | None:
        """This gateway's share of the error budget in mode `auto`; None where it may serve nothing."""
        if self.certifier.budget is None or not self.gateways:
            return None
        balance = self.certifier.budget.balance
        share = balance / self.gateways
        if cost > share:  # too little to share: it is the writer's alone
            share = balance if self.is_writer else 0.0
        return share or None

    def _share_on(self) -> float:
        """This gateway's share of the error budget in mode `on`, in which each may always serve a hit at a time."""
        return self.balance_on.balance / max(1, self.gateways)

    def record_hits(self, hits: int) -> None:
        """Vectors were served."""
        if hits:
            self.outbox.add(count_event(self.identity, "hits", hits))

    def record_empty(self, lookups: int) -> None:
        """Look-ups found nothing that could have been served."""
        if lookups:
            self.outbox.add(count_event(self.identity, "empty", lookups))

    def record_label(self, pair: int, lookup: Lookup, similarity: float, was_hit: bool) -> bool:
        """One comparison of a look-up's neighbour with the computed vector; whether it is below the fidelity."""
        assert lookup.choice is not None
        is_violation = similarity < lookup.policy.fidelity
        label = Label(pair, lookup.choice.z, similarity, lookup.version, was_hit, lookup.probability)
        event = label_event(lookup.policy.identity(self._embedding_id), label)
        is_served_violation = was_hit and is_violation
        self.outbox.add(event, must_fit=is_served_violation)
        if is_served_violation and event["i"] == self.identity:
            self.outbox.await_last()
        return is_violation

    def apply(self, event: Event) -> None:
        """Take one event into the state; a damaged one is skipped, and so is one whose z means something else.

        One of another policy counts in the label table alone, which holds under any policy.
        """
        if not self._has_own_score(event.get("i")):
            return
        is_own = event["i"] == self.identity
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

    def fit_alignment(self) -> bytes:
        """Fit the matrix anew, if there are texts enough, and use it; its stored form, empty where none was due."""
        if not self.sums.is_due:
            return b""
        self.alignment, content = self.sums.fit()
        self._named_alignment = self.alignment.id
        return content

    def take_alignment(self, content: bytes) -> None:
        """Use the stored matrix if it is the one that the state names; go on from its sums if they hold more texts."""
        try:
            alignment, sums = AlignmentSums.resume(content, self.sums.dimensions)
        except ValueError:
            return
        if alignment.id == self._named_alignment:
            self.alignment = alignment
            if sums.texts >= self.sums.texts:
                self.sums = sums

    def drop_alignment(self) -> None:
        """The named matrix is gone: what was proven with it does not hold for another one."""
        log.warning("the alignment matrix of a partition is gone from Redis: its certificate starts anew")
        self.alignment = self._named_alignment = None
        self.certifier.start_next_round()

    def take(self, state: dict[str, Any], last_event: str) -> None:
        """Go on from the shared state, which holds all events up to `last_event`."""
        if self._is_of_embedding(state.get("identity")):
            self._named_alignment = str(state["alignment"]) if state.get("alignment") else None
            if self._named_alignment is None:
                self.alignment = None
        if not self._has_own_score(state.get("identity")):
            return  # z meant something else then
        if state["identity"] != self.identity:
            self._start_afresh()  # what was proven under another policy does not count now; nor do events up to here
        elif not self._resume(state):
            return
        self.table = _table(state.get("table"))
        self.counted = _counted(state.get("counted"))
        self.last_event = last_event

    def taken_now(self) -> None:
        """The shared state was read at this moment, whatever it held."""
        self._taken_at = time.monotonic()

    def to_state(self) -> dict[str, Any]:
        """A JSON object that `take` reads."""
        return {
            "identity": self.identity,
            "certifier": self.certifier.to_state(),
            "threshold": self.threshold.to_state(),
            "started_at": self.policy.threshold.similarity_threshold,
            "balance_on": self.balance_on.to_state(),
            "served": self.served,
            "counted": self.counted.to_state(),
            "table": self.table.to_state(),
            "alignment": self._named_alignment,
        }

    def _start_afresh(self) -> None:
        self.certifier = Certifier(self.policy.certifier)
        self.threshold = DynamicThreshold(self.policy.threshold)
        self.balance_on = ErrorBudget.start(self.policy.certifier.budget)
        self.served = {"hits": 0, "checked": 0, "violations": 0}
        self.outbox.await_nothing()

    def _add_hits(self, hits: int) -> None:
        self.served["hits"] += hits
        for _ in range(hits):
            self.certifier.add_hit()
            self.balance_on.add_hit()

    def _add_label(self, label: Label) -> None:
        self.certifier.add_label(label)
        self.threshold.add_label(label.z, label.similarity, label.was_hit)
        if label.was_hit:
            is_violation = label.similarity < self.policy.fidelity
            self.served["checked"] += 1
            self.served["violations"] += is_violation
            self.balance_on.add_check(is_violation, label.probability)
            self.balance_on.balance = max(0.0, self.balance_on.balance)

    def _resume(self, state: dict[str, Any]) -> bool:
        """Go on from a state; False for one of another version: the writer starts afresh, nothing is served before."""
        try:
            certifier = Certifier.from_state(self.policy.certifier, state["certifier"])
            threshold = self._threshold_from(state["threshold"], float(state.get("started_at", 0)))
            balance_on = ErrorBudget.from_state(self.policy.certifier.budget, state["balance_on"])
            served = {name: int(state["served"][name]) for name in self.served}
        except (KeyError, TypeError, ValueError, OverflowError):
            return False
        self.certifier, self.threshold, self.balance_on, self.served = certifier, threshold, balance_on, served
        return True

    def _threshold_from(self, state: dict[str, Any], started_at: float) -> DynamicThreshold:
        """tau as it was, moved into the bounds of now; from its start where `similarity_threshold` was set anew."""
        settings = self.policy.threshold
        if started_at not in (0, settings.similarity_threshold):
            return DynamicThreshold(settings, reason="similarity_threshold was set")
        threshold = DynamicThreshold.from_state(settings, state)
        if threshold.tau != float(state["tau"]):
            threshold.reason = "moved into its bounds"
        return threshold

    def _is_of_embedding(self, identity: object) -> bool:
        return isinstance(identity, str) and identity.partition(":")[0].removesuffix("+") == self._embedding_id

    def _has_own_score(self, identity: object) -> bool:
        return isinstance(identity, str) and identity.startswith(f"{self.policy.score(self._embedding_id)}:")


def _table(state: Any) -> LabelTable:
    """The saved table; an empty one where there is none that can be read."""
    try:
        return LabelTable.from_state(state)
    except (KeyError, TypeError, ValueError, IndexError):
        return LabelTable()


def _counted(state: Any) -> Counted:
    """The saved numbers; none where there are none that can be read."""
    try:
        return Counted.from_state(state)
    except (KeyError, TypeError, ValueError, AttributeError):
        return Counted()

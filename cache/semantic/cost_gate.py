"""The cost gate: whether a look-up is worth its time in a namespace. Seconds in, a share of requests out.

    gain of a look-up = hit share * (1 - checked share) * engine cost - look-up cost        [seconds]

The engine cost is measured, or a configured price for an expensive one. While nothing may be served (nothing is
certified) the gain is negative: the exploration overhead. Look-ups and index writes are rationed then, so that they
cost at most `overhead` of what the requests cost without them, and a tenth of that where even serving every near
neighbour would lose. Once serving is allowed every request is looked up while the gain is positive; where it is
negative the ration applies again, so that a change is noticed. Switching needs the gain to leave a dead band.
"""

import enum
from dataclasses import dataclass

NEAR_MEMORY = 50  # look-ups; short, so that a change of traffic is noticed within a few hundred requests


class CostGateState(enum.Enum):
    """EXPLORING: nothing may be served yet; PAYS: every request is looked up; RATIONED: a small share only."""

    EXPLORING = "exploring"
    PAYS = "pays"
    RATIONED = "rationed"


@dataclass(frozen=True, slots=True)
class CostGateSettings:
    """`overhead`: what exploration may cost, as a share of the engine's time; `least_overhead`: where even serving all
    near neighbours would lose, or where serving does; `index_overhead`: what index writes may, unless serving pays: a
    text that was left out is missing for good, so they are not cut further. `memory`: look-ups averaged over.

    `dead_band`: how far, as a share of the look-up's cost, the gain must pass zero to switch.
    `fewest`: look-ups before a decision. `least_share`: the least share of requests that is looked up.
    `first_lookups`: so many first texts of this process are all looked up, because a cost must be measured first.
    """

    overhead: float = 0.02
    least_overhead: float = 0.002
    index_overhead: float = 0.005
    memory: int = 400
    dead_band: float = 0.1
    fewest: int = 60
    least_share: float = 0.001
    engine_price_s: float | None = None
    first_lookups: int = 20


@dataclass(slots=True)
class CostGate:
    """One namespace's running averages."""

    settings: CostGateSettings
    state: CostGateState = CostGateState.EXPLORING
    lookup_s: float = 0.0
    engine_s: float = 0.0
    hit_share: float = 0.0
    checked_share: float = 0.0
    lookups: int = 0
    engine_calls: int = 0
    index_s: float = 0.0
    near_share: float = 1.0
    trial: int = 0  # look-ups since serving was allowed

    @property
    def lookup_share(self) -> float:
        """The share of requests that are looked up."""
        if self.state is CostGateState.PAYS or self.lookups < self.settings.first_lookups:
            return 1.0
        if not self.lookups or not self.engine_calls or self.lookup_s <= 0:
            return self.settings.overhead
        ration = self.overhead * self.engine_cost_s / self.lookup_s
        return min(1.0, max(self.settings.least_share, ration))

    @property
    def overhead(self) -> float:
        """What looking up and indexing may cost now, as a share of the engine's time."""
        promising = self.lookups < self.settings.fewest or self.near_share * self.engine_cost_s > self.lookup_s
        is_exploring = self.state is CostGateState.EXPLORING
        return self.settings.overhead if promising and is_exploring else self.settings.least_overhead

    @property
    def index_share(self) -> float:
        """The share of computed texts that enter the index: all, unless that costs more than `index_overhead`.

        To be drawn from the text's hash, so that a text is either in the index for good or never.
        """
        if self.state is CostGateState.PAYS or self.index_s <= 0 or not self.engine_calls:
            return 1.0
        ration = self.settings.index_overhead * self.engine_cost_s / self.index_s
        return min(1.0, max(self.settings.least_share, ration))

    def record_index_write(self, seconds: float) -> None:
        """Putting one text into the index took so long."""
        self.index_s = seconds if self.index_s == 0 else self.index_s + (seconds - self.index_s) / 50

    @property
    def engine_cost_s(self) -> float:
        """What a hit saves: the configured price, else the measured cost."""
        return self.settings.engine_price_s if self.settings.engine_price_s is not None else self.engine_s

    @property
    def gain_s(self) -> float:
        """Seconds a look-up gains on average; negative where it costs more than it saves."""
        return self.hit_share * (1 - self.checked_share) * self.engine_cost_s - self.lookup_s

    def record_engine(self, seconds: float) -> None:
        """The engine computed one text in so many seconds of its own time."""
        self.engine_calls += 1
        self.engine_s += (seconds - self.engine_s) / min(self.engine_calls, self.settings.memory)

    def record_lookup(
        self, seconds: float, was_hit: bool, checked: float, may_serve: bool, is_near: bool = True
    ) -> None:
        """One look-up took so long; whether its best neighbour cleared tau, and the chance that it is checked.

        `is_near`: the neighbour cleared the loosest level there is, proven or not: the most that could ever be served.
        """
        self.lookups += 1
        step = 1 / min(self.lookups, self.settings.memory)
        self.lookup_s += (seconds - self.lookup_s) * step
        if may_serve:
            self.trial += 1
            self.hit_share += (was_hit - self.hit_share) / min(self.trial, self.settings.memory)
        self.near_share += (is_near - self.near_share) * max(step, 1 / NEAR_MEMORY)
        if was_hit:
            self.checked_share += (checked - self.checked_share) * min(1.0, 10 * step)
        self._switch(may_serve)

    def _switch(self, may_serve: bool) -> None:
        if not may_serve:
            self.state = CostGateState.EXPLORING
            self.hit_share, self.trial = 0.0, 0
            return
        band = self.settings.dead_band * self.lookup_s
        if self.state is CostGateState.EXPLORING:
            self.state = CostGateState.PAYS  # a trial of `fewest` look-ups
            return
        if self.trial < self.settings.fewest:
            return
        if self.state is CostGateState.PAYS and self.gain_s < -band:
            self.state = CostGateState.RATIONED
        elif self.state is CostGateState.RATIONED and self.gain_s > band:
            self.state = CostGateState.PAYS

    @property
    def reason(self) -> str:
        """One line for people."""
        figures = (
            f"look-up {self.lookup_s * 1e3:.2f} ms, engine {self.engine_cost_s * 1e3:.2f} ms, "
            f"hits {self.hit_share:.1%}, checked {self.checked_share:.0%}"
        )
        if self.state is CostGateState.EXPLORING:
            return f"nothing certified: {self.lookup_share:.1%} of requests are looked up to explore ({figures})"
        verb = "gains" if self.gain_s >= 0 else "loses"
        if self.state is CostGateState.PAYS and self.gain_s < 0:
            verb = f"is on trial for {self.settings.fewest} look-ups or until it is clear: it {verb}"
        return f"a look-up {verb} {abs(self.gain_s) * 1e3:.2f} ms ({figures}); {self.lookup_share:.1%} are looked up"

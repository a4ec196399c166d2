"""A bill: figures, each with its formula and the numbers in it; and what cannot be said, for want of which input.

Nothing stands for a missing input. A figure that comes out against dejavec is shown as it is.
"""

import math
from dataclasses import dataclass, field

from loadtest.cost.inputs import Inputs

HOURS = 730.5  # of a month: 365.25 days x 24 / 12
SECONDS = HOURS * 3600
POINTS = 240  # of the curve, so that the steps from one machine to the next stand upright
LEFT_OUT = (
    "Not in these figures: people, network traffic, storage, and vectors of another model being better or worse. "
    "Machines are paid by the hour, busy or idle."
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number: what it is, its unit (`usd`, `count`, `share`, `per_s`), and how it was computed."""

    name: str
    value: float
    unit: str
    formula: str


@dataclass(frozen=True, slots=True)
class Curve:
    """Dollars a month over texts a month, by way of serving them."""

    texts: list[float]
    lines: dict[str, list[float]]


@dataclass
class Bill:
    """`break_even` is None where it cannot be said or where there is none; `missing` says which."""

    figures: list[Figure] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    break_even: float | None = None
    curve: Curve | None = None

    def value(self, name: str) -> float | None:
        """A figure's number."""
        return next((figure.value for figure in self.figures if figure.name == name), None)

    def add(self, name: str, value: float, unit: str, formula: str) -> float:
        """Append a figure."""
        self.figures.append(Figure(name, value, unit, formula))
        return value


API, OWN, UNCACHED = "by the API", "on own machines, with the caches", "on own machines, without caches"
SAVED_API, SAVED_CACHE = "saved against the API", "saved by the caches"


def make_bill(given: Inputs) -> Bill:
    """All figures that the inputs give."""
    bill = Bill()
    api = _api(bill, given)
    own = _own(bill, given)
    if api is not None and own is not None:
        bill.add(SAVED_API, api - own, "usd", f"{api:,.2f} - {own:,.2f}")
        if given.texts:
            per = 1000 / given.texts
            bill.add(f"1,000 texts {API}", api * per, "usd", f"{api:,.2f} / {given.texts:,.0f} x 1,000")
            bill.add(f"1,000 texts {OWN}", own * per, "usd", f"{own:,.2f} / {given.texts:,.0f} x 1,000")
    _break_even(bill, given)
    bill.curve = _curve(bill, given)
    if given.other_monthly is None and own is not None:
        bill.missing.append("What else is paid a month, such as Redis: not given (--other-monthly), and not counted.")
    return bill


def _api(bill: Bill, given: Inputs) -> float | None:
    lacking = _lacking(given, texts="--texts", tokens="--tokens", api="--api or --api-price")
    if lacking:
        bill.missing.append(f"What the API would charge: give {lacking}.")
        return None
    assert given.texts is not None and given.tokens is not None and given.api is not None  # noqa: PT018
    tokens = bill.add(
        "tokens a month", given.texts * given.tokens, "count", f"{given.texts:,.0f} x {given.tokens:,.2f}"
    )
    return bill.add(API, tokens / 1e6 * given.api.usd, "usd", f"{tokens:,.0f} / 1,000,000 x ${given.api.usd:g}")


def _own(bill: Bill, given: Inputs) -> float | None:
    if given.texts is not None and given.hits is not None:
        computed = given.texts * (1 - given.hits)
        bill.add("texts to compute a month", computed, "count", f"{given.texts:,.0f} x (1 - {given.hits:.4f})")
    lacking = _lacking(given, machine="--machine or --machine-price")
    machines = given.machines
    if machines is None:
        lacking = ", ".join(filter(None, (lacking, _lacking_capacity(given))))
    if lacking:
        bill.missing.append(
            f"What own machines cost: give {lacking}" + (", or --machines." if machines is None else ".")
        )
    if machines is not None or lacking:
        bill.missing.append(
            "What the caches save of machines: it needs how many would do without them; give "
            + (_lacking_capacity(given) or "a machine's price")
            + (", and leave --machines out." if machines is not None else ".")
        )
    if lacking:
        return None
    assert given.machine is not None
    price = given.machine.usd
    if machines is None:
        machines = _needed(bill, given, given.hits or 0.0, "machines with the caches")
        without = _needed(bill, given, 0.0, "machines without caches")
        bill.add(UNCACHED, without * price * HOURS, "usd", f"{without} x ${price:g} x {HOURS:g} h")
    other = given.other_monthly or 0.0
    own = bill.add(OWN, machines * price * HOURS + other, "usd", f"{machines} x ${price:g} x {HOURS:g} h + {other:g}")
    uncached = bill.value(UNCACHED)
    if uncached is not None:
        bill.add(SAVED_CACHE, uncached - own, "usd", f"{uncached:,.2f} - {own:,.2f}")
    return own


def _needed(bill: Bill, given: Inputs, hits: float, name: str) -> int:
    """Machines for the peak: the share of a second that each text of a second takes, rounded up."""
    assert given.texts is not None and given.peak is not None  # noqa: PT018
    assert given.computed_per_s is not None and given.cached_per_s is not None  # noqa: PT018
    rate = given.texts / SECONDS * given.peak
    if bill.value("texts/s at the peak") is None:
        bill.add("texts/s at the peak", rate, "per_s", f"{given.texts:,.0f} / {SECONDS:,.0f} s x {given.peak:g}")
    busy = _busy_s(given, hits)
    machines = max(math.ceil(round(rate * busy, 9)), 1)
    formula = (
        f"{rate:,.2f} x ({1 - hits:.4f} / {given.computed_per_s:g} + {hits:.4f} / {given.cached_per_s:g}), rounded up"
    )
    bill.add(name, machines, "count", formula)
    return machines


def _busy_s(given: Inputs, hits: float) -> float:
    """Seconds of one machine that a text takes on average."""
    assert given.computed_per_s is not None and given.cached_per_s is not None  # noqa: PT018
    return (1 - hits) / given.computed_per_s + hits / given.cached_per_s


def _break_even(bill: Bill, given: Inputs) -> None:
    """The least volume at which the API costs as much as own machines."""
    lacking = _lacking(given, tokens="--tokens", api="--api or --api-price", machine="--machine or --machine-price")
    fixed = given.machines
    capacity = given.computed_per_s, given.cached_per_s, given.peak, given.hits
    if fixed is None and None in capacity:
        lacking = ", ".join(filter(None, (lacking, _lacking_capacity(given, volume=False))))
    if lacking:
        bill.missing.append(f"The break-even volume: give {lacking}.")
        return
    assert given.tokens is not None and given.api is not None and given.machine is not None  # noqa: PT018
    a_text = given.tokens / 1e6 * given.api.usd
    machine, other = given.machine.usd * HOURS, given.other_monthly or 0.0
    if a_text == 0:
        bill.missing.append("The break-even volume: there is none, as the API costs nothing.")
        return
    machines = fixed
    if machines is None:
        most = SECONDS / ((given.peak or 1.0) * _busy_s(given, given.hits or 0.0))
        earned = most * a_text - machine
        if earned <= 0:
            bill.missing.append(
                f"The break-even volume: there is none. A machine can serve {most:,.0f} texts a month, for which "
                f"the API charges ${most * a_text:,.2f}, less than the machine's ${machine:,.2f}."
            )
            return
        machines = max(math.ceil(round(other / earned, 9)), 1)
    cost = machines * machine + other
    bill.break_even = cost / a_text
    formula = f"({machines} x ${given.machine.usd:g} x {HOURS:g} h + {other:g}) / ({given.tokens:,.2f} / 1,000,000 x ${given.api.usd:g})"  # noqa: E501
    bill.add("break-even, texts a month", bill.break_even, "count", formula)
    if fixed is not None:
        bill.missing.append(
            f"Whether {fixed} machine(s) can serve the break-even volume: their capacity was not given."
        )


def _curve(bill: Bill, given: Inputs) -> Curve | None:
    """Costs over two decades to either side of the volume, or of break-even."""
    middle = given.texts or bill.break_even
    if middle is None:
        return None
    low, high = math.log10(middle) - 2, math.log10(middle) + 2
    if bill.break_even:
        low, high = min(low, math.log10(bill.break_even) - 0.5), max(high, math.log10(bill.break_even) + 0.5)
    texts = [10 ** (low + (high - low) * place / (POINTS - 1)) for place in range(POINTS)]
    lines: dict[str, list[float]] = {}
    if given.api is not None and given.tokens is not None:
        lines[API] = [one * given.tokens / 1e6 * given.api.usd for one in texts]
    if given.machine is not None and given.machines is None and not _lacking_capacity(given, volume=False):
        price, other, peak = given.machine.usd * HOURS, given.other_monthly or 0.0, given.peak or 1.0
        for name, hits, more in ((OWN, given.hits or 0.0, other), (UNCACHED, 0.0, 0.0)):
            busy = _busy_s(given, hits)
            lines[name] = [max(math.ceil(round(one / SECONDS * peak * busy, 9)), 1) * price + more for one in texts]
    elif given.machine is not None and given.machines is not None:
        lines[OWN] = [given.machines * given.machine.usd * HOURS + (given.other_monthly or 0.0)] * POINTS
    return Curve(texts, lines) if lines else None


def _lacking(given: Inputs, **options: str) -> str:
    return ", ".join(option for name, option in options.items() if getattr(given, name) is None)


def _lacking_capacity(given: Inputs, volume: bool = True) -> str:
    options = {
        "computed_per_s": "--computed-per-s",
        "cached_per_s": "--cached-per-s",
        "peak": "--peak",
        "shares": "hit shares (--local, --exact, --semantic, --report or --live)",
    }
    return _lacking(given, **({"texts": "--texts"} if volume else {}), **options)

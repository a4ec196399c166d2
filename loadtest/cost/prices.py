"""Prices with their dates: of APIs by tokens, of machines by hours; from a file of the user's, or the package's own."""

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OWN = Path(__file__).with_name("prices.toml")
UNITS = {"api": "usd_per_million_tokens", "machine": "usd_per_hour"}
MAX_BYTES = 1 << 20
TYPED = "typed in"


class CostError(ValueError):
    """An input that cannot be used; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars: of a million tokens for an API, of an hour for a machine."""

    name: str
    usd: float
    as_of: str
    source: str

    def __str__(self) -> str:
        return f"{self.name}: ${self.usd:g}, {self.source}" + (f", {self.as_of}" if self.as_of else "")


Prices = dict[str, dict[str, Price]]


def read_prices(path: Path | None = None) -> Prices:
    """Prices by kind (`api`, `machine`) and name. Raises CostError and OSError."""
    path = path or OWN
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise CostError(f"{path} is larger than any list of prices")
    try:
        tables = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CostError(f"{path} is not TOML: {error}") from None
    if unknown := set(tables) - set(UNITS):
        raise CostError(f"{path}: [{min(unknown)}] is neither [api.NAME] nor [machine.NAME]")
    return {
        kind: {
            name: _price(path, kind, name, entry) for name, entry in _table(path, kind, tables.get(kind, {})).items()
        }
        for kind in UNITS
    }


def find(prices: Prices, kind: str, name: str) -> Price:
    """One price. Raises CostError, which lists those there are."""
    try:
        return prices[kind][name]
    except KeyError:
        known = ", ".join(prices[kind]) or "none"
        raise CostError(f"no {kind} {name!r} in the prices; there are: {known}; or give --{kind}-price") from None


def amount(name: str, value: float) -> float:
    """A number that may be a price or a quantity. Raises CostError where it is negative, infinite or no number."""
    if isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise CostError(f"{name} is {value:g}: give a number from 0 on")
    return float(value)


def _table(path: Path, kind: str, table: Any) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise CostError(f"{path}: {kind} must hold tables, [{kind}.NAME]")
    return table


def _price(path: Path, kind: str, name: str, entry: Any) -> Price:
    where, unit = f"{path}, [{kind}.{name}]", UNITS[kind]
    if not isinstance(entry, dict):
        raise CostError(f"{where} is not a table")
    usd = entry.get(unit)
    if isinstance(usd, bool) or not isinstance(usd, int | float):
        raise CostError(f"{where}: {unit} is not a number")
    as_of = entry.get("as_of")
    if not as_of:
        raise CostError(f"{where}: as_of is missing: say of which day the price is")
    return Price(name, amount(f"{where}: {unit}", usd), str(as_of), str(entry.get("source") or "no source given"))

"""The engines that `dejavec up` starts, one for each model, and how they share the machine's cores.

Each core computes one run of a model at a time. Where there are fewer cores than models each engine still has one run,
and the operating system lets them take turns.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.configuration import ConfigurationError

MEASURE_TIMEOUT_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class OwnEngine:
    """An engine of this machine. `name`: of its model in the gateway's settings; `child`: of its process in logs."""

    name: str
    child: str
    bundle: Path
    port: int
    url: str
    refusal_file: Path
    sessions: int = 0  # runs at the same time; 0: as the settings have it


def names_of(bundles: Sequence[Path]) -> list[str]:
    """What each bundle's model is called: its folder. Raises ConfigurationError where two have the same name."""
    names = [bundle.name for bundle in bundles]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ConfigurationError(f"models: two of the folders are called {double!r}; a model is named after its folder")
    return names


def measured_costs(bundles: Mapping[str, Path]) -> dict[str, float]:
    """Seconds of one core for a token of each model; empty where one cannot be measured."""
    costs = {}
    for name, bundle in bundles.items():
        command = [sys.executable, "-P", "-m", "engine.model.measure_speed", str(bundle)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=MEASURE_TIMEOUT_S, check=True)
            costs[name] = 1 / float(json.loads(done.stdout)["tokens_per_s"])
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, ZeroDivisionError):
            return {}
    return costs


def share_cores(cores: int, costs: Mapping[str, float]) -> dict[str, int]:
    """Runs at the same time for each model, in proportion to what a token costs: at least one each, `cores` in all."""
    shares = dict.fromkeys(costs, 1)
    for _ in range(cores - len(shares)):
        most_expensive = max(costs, key=lambda name: costs[name] / shares[name])
        shares[most_expensive] += 1
    return shares


def shown_shares(cores: int, costs: Mapping[str, float], shares: Mapping[str, int]) -> str:
    """What was chosen, in one line."""
    each = ", ".join(f"{name} {shares[name]} ({1 / cost:,.0f} tokens/s a core)" for name, cost in costs.items())
    return f"{cores} cores shared by what a token costs; runs at the same time: {each}"

"""Metrics in Prometheus' text form, read: the samples of each name, and sums over their labels.

    samples = parse(text)
    samples.total("embeddings_requests_total")                       # over all labels; None where there is none
    samples.total("dejavec_cache_hits_total", tier="local")          # over all models
    samples.by("dejavec_cache_hits_total", "tier")                   # {"local": 5.0, ...}, summed over the others

A name that is not there is no error: servers of other versions have other metrics.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

Sample = tuple[Mapping[str, str], float]

# A quoted value may hold braces, spaces and escaped quotes. A time may stand behind the number.
_SAMPLE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?[ \t]+(\S+)(?:[ \t]+-?\d+)?', re.DOTALL
)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of each name, with their labels; only finite values."""

    by_name: Mapping[str, list[Sample]]

    def total(self, name: str, **labels: str) -> float | None:
        """The sum of a name's samples that have these labels, whatever others they have; None where there is none."""
        wanted = labels.items()
        found = [value for held, value in self.by_name.get(name, ()) if wanted <= held.items()]
        return sum(found) if found else None

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sums of a name's samples by one label's values."""
        sums: dict[str, float] = defaultdict(float)
        for held, value in self.by_name.get(name, ()):
            if label in held:
                sums[held[label]] += value
        return dict(sums)


def parse(text: str) -> Samples:
    """Read what can be read; other lines, comments and numbers that are not finite are passed over."""
    by_name: dict[str, list[Sample]] = defaultdict(list)
    for line in text.split("\n"):  # a label may hold what `splitlines` takes for the end of one
        found = _SAMPLE.fullmatch(line.strip())
        if found is None:
            continue
        try:
            number = float(found[3])
        except ValueError:
            continue
        if math.isfinite(number):
            labels = {name: _ESCAPED.sub(_unescaped, value) for name, value in _LABEL.findall(found[2] or "")}
            by_name[found[1]].append((labels, number))
    return Samples(dict(by_name))


def _unescaped(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]

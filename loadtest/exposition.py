"""Prometheus' text form of metrics, as far as a load test and `dejavec cost` read it: names, labels, numbers.

metrics = parse(text)
metrics.value("dejavec_cache_hits_total", tier="local")   # None where there is no such sample
metrics.total("embeddings_requests_total")                # over all labels
"""

import math
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

MAX_BYTES = 8 << 20
METRICS_PATH = "/metrics"
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")

Labels = frozenset[tuple[str, str]]


class MetricsUnreachable(Exception):
    """An address that gives no metrics; the message says why."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Samples by name and labels."""

    samples: dict[str, dict[Labels, float]]

    def value(self, name: str, **labels: str) -> float | None:
        """The sample with these labels and no others."""
        return self.samples.get(name, {}).get(frozenset(labels.items()))

    def total(self, name: str, **labels: str) -> float | None:
        """The sum of all samples that have these labels; None where there is none."""
        wanted = set(labels.items())
        found = [value for held, value in self.samples.get(name, {}).items() if wanted <= held]
        return sum(found) if found else None


def parse(text: str) -> Metrics:
    """Read what can be read; other lines, comments and numbers that are not finite are passed over."""
    samples: dict[str, dict[Labels, float]] = {}
    for line in text.splitlines():
        found = None if line.startswith("#") else _SAMPLE.match(line)
        if found is None:
            continue
        try:
            number = float(found[3])
        except ValueError:
            continue
        if math.isfinite(number):
            labels = frozenset(
                (name, _ESCAPED.sub(_unescaped, value)) for name, value in _LABEL.findall(found[2] or "")
            )
            samples.setdefault(found[1], {})[labels] = number
    return Metrics(samples)


async def fetch(session: aiohttp.ClientSession, url: str) -> Metrics:
    """The metrics of the server at `url`. Raises MetricsUnreachable."""
    try:
        async with session.get(url + METRICS_PATH, allow_redirects=False) as response:
            if response.status != 200:
                raise MetricsUnreachable(f"{METRICS_PATH} answers {response.status}")
            content = await response.content.read(MAX_BYTES)
            while not response.content.at_eof() and len(content) < MAX_BYTES:
                content += await response.content.read(MAX_BYTES - len(content))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise MetricsUnreachable(f"{METRICS_PATH} does not answer ({type(error).__name__})") from None
    return parse(content.decode("utf-8", "replace"))


def is_on_this_machine(url: str) -> bool:
    """Whether a URL names the loopback interface."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _unescaped(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]

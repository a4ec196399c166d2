"""The `metrics` command: every metric with its type, labels, unit and meaning.

It prints the table of docs/metrics.md, and writes it there (`make docs`). The rows come from the metrics themselves.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from prometheus_client.metrics import MetricWrapperBase

from common.document_table import replace_table

UNITS: Final = ("seconds", "bytes", "tokens_per_second", "tokens", "rows", "share")
# What is made at each scrape, in no metric that could be asked.
COLLECTED: Final = (
    ("gateway, engine", "process_resident_memory_bytes", "gauge", "", "Resident memory; of all workers together"),
    ("engine", "nvidia_gpu_memory_used_bytes", "gauge", "gpu", "Memory of a GPU in use by anyone"),
    ("engine", "nvidia_gpu_memory_total_bytes", "gauge", "gpu", "Memory that a GPU has"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One metric, by the name that queries use (of a histogram without `_bucket`, `_sum`, `_count`)."""

    process: str
    name: str
    type: str
    labels: str
    meaning: str

    @property
    def unit(self) -> str:
        """What it counts in; empty for plain numbers."""
        name = self.name.removesuffix("_total").removesuffix("_max")
        return next((unit.replace("_per_", "/") for unit in UNITS if name.endswith(f"_{unit}")), "")


def rows() -> list[Row]:
    """All metrics of gateway and engine, by process and name."""
    from cache import metrics as of_cache
    from engine.metrics import EngineMetrics
    from gateway import metrics as of_gateway

    found = [Row(*one) for one in COLLECTED]
    for module in (of_gateway, of_cache):
        found += _rows_of("gateway", vars(module).values())
    found += _rows_of("engine", vars(EngineMetrics()).values())
    return sorted(found, key=lambda row: (row.process, row.name))


def markdown_table() -> str:
    """The table of docs/metrics.md."""
    lines = ["| metric | type | labels | unit | from | meaning |", "|---|---|---|---|---|---|"]
    for row in rows():
        labels = ", ".join(f"`{label}`" for label in row.labels.split())
        meaning = row.meaning.rstrip(".").replace("|", "\\|")
        lines.append(f"| `{row.name}` | {row.type} | {labels} | {row.unit} | {row.process} | {meaning} |")
    return "\n".join(lines)


def with_table(document: str) -> str:
    """A document with today's table between its markers. Raises click.ClickException where it has none."""
    return replace_table(document, "metrics", markdown_table())


@click.command("metrics")
@click.option(
    "--write",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Put the table between FILE's markers instead of printing it.",
    metavar="FILE",
)
def metrics(write: Path | None) -> None:
    """Print every Prometheus metric of gateway and engine: type, labels, unit, meaning."""
    if write:
        write.write_text(with_table(write.read_text(encoding="utf-8")), encoding="utf-8")
        return
    click.echo(markdown_table())


def _rows_of(process: str, values: Iterable[object]) -> Iterator[Row]:
    for one in values:
        if isinstance(one, MetricWrapperBase):
            (family,) = one.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield Row(process, name, family.type, " ".join(one._labelnames), family.documentation)

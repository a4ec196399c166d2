"""What every worker of an ingestion is told: the model, the options, the way to the vectors, the place for them."""

from dataclasses import dataclass, field
from enum import StrEnum

from common.texts import TextForm
from gateway.client.ingest import EmbedOptions
from gateway.client.journal import Origin


class OutFormat(StrEnum):
    """How a part's vectors are written."""

    PARQUET = "parquet"
    JSONL = "jsonl"


@dataclass(frozen=True, slots=True)
class GatewayWay:
    """Through a gateway, which has the caches. `concurrency`: requests of one actor at once."""

    url: str
    fallback_url: str | None
    api_key: str | None = field(repr=False)
    batch: int = 64
    concurrency: int = 8
    patience_s: float = 300.0


@dataclass(frozen=True, slots=True)
class BundleWay:
    """By an engine in each actor, without a cache. `bundle`: a folder at the same path on every node."""

    bundle: str
    cpus: int = 1
    batch: int = 64


@dataclass(frozen=True, slots=True)
class Job:
    """All of it. `text_form.format` is each file's own."""

    origin: Origin
    out: str
    out_format: OutFormat
    text_form: TextForm
    embed: EmbedOptions
    way: GatewayWay | BundleWay

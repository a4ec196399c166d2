"""What both ways to vectors give."""

from dataclasses import dataclass, field

from common.texts import BadLine
from gateway.client.wire import Float32Array


class AnotherModel(Exception):
    """A worker's bundle gives vectors of another fingerprint than the plan's."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """vectors: float32[n, dimensions], of the records in their order without the refused ones; a tier for each."""

    vectors: Float32Array
    tiers: list[str]
    tokens: int
    refused: list[BadLine] = field(default_factory=list)

"""One stream through `on` mode: the product's decision and its moving threshold, true vectors, exact neighbours."""

from collections import deque

import numpy as np

from cache.semantic.threshold import (
    DynamicThreshold,
    Predictor,
    ThresholdSettings,
    choose,
    on_mode_predictor,
    on_mode_verify_probability,
)
from cache.semantic.tier import SemanticSettings
from tests.simulation.replay import LABEL_LAG, Learning, Prepared

CHECKED_SHARE = SemanticSettings(min_text_length=0, ttl_s=0).verify_share


class OnRun:
    """State of one run; `served` holds the true similarity of every hit."""

    def __init__(
        self, stream: Prepared, predictor: Predictor, settings: ThresholdSettings, seed: int, neighbours: int
    ) -> None:
        self.stream, self.predictor, self.neighbours = stream, predictor, neighbours
        self.threshold = DynamicThreshold(settings)
        self.requests = 0
        self.served: list[float] = []
        self._checked = 0
        self._draw = np.random.default_rng(seed)
        self._stored = np.zeros(len(stream.probes), dtype=bool)
        self._indexed = np.zeros(len(stream.probes), dtype=bool)
        self._learning = Learning(stream)
        self._late: deque[tuple[float, float, bool]] = deque()

    def run(self) -> list[float]:
        """All requests in order."""
        for text in self.stream.order:
            if not self._stored[text]:
                self.requests += 1
                self._request(int(text))
            if len(self._late) > LABEL_LAG:
                self.threshold.add_label(*self._late.popleft())
        return self.served

    def _request(self, text: int) -> None:
        stream, near = self.stream, self.stream.near[text]
        near = near[near >= 0]
        near = near[self._indexed[near]][: self.neighbours]
        alignment = self._learning.alignment
        predictor = on_mode_predictor(self.predictor, has_map=alignment is not None)
        best = choose(predictor, stream.probes[text], stream.probes[near], stream.images[near], alignment)
        if best is None:
            self._compute(text)
            return
        neighbour = int(near[best.index])
        similarity = float(stream.vectors[text] @ stream.vectors[neighbour])
        if best.z < self.threshold.tau:
            self._late.append((best.z, similarity, False))
            self._compute(text)
            return
        self.served.append(similarity)
        if self._draw.random() < on_mode_verify_probability(self._checked, CHECKED_SHARE):
            self._checked += 1
            self._stored[text] = True
            self._late.append((best.z, similarity, True))
            if similarity < self.threshold.settings.fidelity:
                self._indexed[neighbour] = False
                self._compute(text)

    def _compute(self, text: int) -> None:
        self._stored[text] = self._indexed[text] = True
        self._learning.add(text)

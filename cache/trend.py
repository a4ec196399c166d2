"""What the probe means in a namespace: a linear map from probe to engine vector, learned from its own texts. No I/O.

    e ~ p M,    M = argmin over the texts seen of sum |e - p M|^2 + ridge |M - I|^2 = I + (A + ridge I)^-1 B
    A = sum p^T p,    B = sum p^T (e - p)

Ridge regression towards the identity, so an unseen direction stays as the probe has it (Hoerl and Kennard, 1970).
A word weighs otherwise in bank questions than in documentation: a map from 150 texts of a namespace's own is worth
more than a probe fitted to tens of thousands of foreign ones. `cache.kriging` uses M for what neighbours leave open.
A text enters the sums after its label was taken, so no label tests a map that has seen its text.

Stored form, one for all gateways of a namespace: .npz without pickle of M as float16[d, d], A as float32[d, d] and
the number of texts; B follows from both. A map has been through float16 before it is used, so all compute alike.
"""

import hashlib
import io
from dataclasses import dataclass, field

import numpy as np

from cache.probe import Float32Array

FIRST_FIT = 150  # texts
GROWTH = 1.5  # a new fit after so many times the texts of the last one
MEMORY = 6000  # texts; then all sums are halved, so that the map follows the traffic
RIDGE = np.float32(0.1)


@dataclass(frozen=True, slots=True)
class Trend:
    """A fitted map, float32[d, d], how many texts taught it, and the name of its stored form: 16 hex digits."""

    matrix: Float32Array
    texts: int
    id: str


@dataclass(slots=True)
class TrendLearner:
    """The sums of one namespace, float32[d, d] each; `texts`: how many they stand for."""

    dimensions: int
    texts: int = 0
    due_at: int = FIRST_FIT
    _moment: Float32Array = field(init=False)
    _residual: Float32Array = field(init=False)

    def __post_init__(self) -> None:
        self._moment = np.zeros((self.dimensions, self.dimensions), dtype=np.float32)
        self._residual = np.zeros_like(self._moment)

    @property
    def is_due(self) -> bool:
        """Whether enough was seen for a new map."""
        return self.texts >= self.due_at

    def add(self, probes: Float32Array, vectors: Float32Array) -> None:
        """Texts' probes and their engine vectors in the probe's space, float32[n, d] each, unit length."""
        self._moment += probes.T @ probes
        self._residual += probes.T @ (vectors - probes)
        self.texts += len(probes)
        if self.texts >= 2 * MEMORY:  # whoever is not the writer never fits, and sums too large have no inverse
            self._halve()

    def fit(self) -> tuple[Trend, bytes]:
        """The map of all texts so far, and its stored form; the next is due after half as many texts again.

        Takes about 3 ms at d = 256.
        """
        eye = np.eye(self.dimensions, dtype=np.float32)
        matrix = (eye + np.linalg.solve(self._moment + RIDGE * eye, self._residual)).astype(np.float16)
        buffer = io.BytesIO()
        np.savez(buffer, matrix=matrix, moment=self._moment, texts=np.array(self.texts))
        content = buffer.getvalue()
        trend = Trend(matrix.astype(np.float32), self.texts, _id(content))
        if self.texts >= MEMORY:
            self._halve()
        self.due_at = _next_fit(self.texts)
        return trend, content

    def _halve(self) -> None:
        self._moment /= 2
        self._residual /= 2
        self.texts //= 2

    @classmethod
    def resume(cls, content: bytes, dimensions: int) -> tuple[Trend, "TrendLearner"]:
        """The map that `fit` made and the sums behind it. Raises ValueError on anything else."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                matrix, moment, texts = arrays["matrix"], arrays["moment"], int(arrays["texts"])
        except Exception as error:  # a damaged archive raises whatever zipfile and numpy raise
            raise ValueError(f"not a stored map: {error}") from None
        size = (dimensions, dimensions)
        sound = matrix.shape == moment.shape == size and matrix.dtype == np.float16 and moment.dtype == np.float32
        if not sound or texts < FIRST_FIT or not (np.isfinite(matrix).all() and np.isfinite(moment).all()):
            raise ValueError("not a map of this probe")
        trend = Trend(matrix.astype(np.float32), texts, _id(content))
        learner = cls(dimensions, texts, _next_fit(texts))
        eye = np.eye(dimensions, dtype=np.float32)
        learner._moment = moment.copy()
        learner._residual = (moment + RIDGE * eye) @ (trend.matrix - eye)
        return trend, learner


def _id(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _next_fit(texts: int) -> int:
    return min(max(MEMORY, texts + 1), int(texts * GROWTH))

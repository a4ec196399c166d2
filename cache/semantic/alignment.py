"""The alignment matrix: a linear map from static to engine vectors, fitted to a namespace's own texts.

    e ~ p M,    M = argmin over the texts seen of sum |e - p M|^2 + ridge |M - I|^2 = I + (A + ridge I)^-1 B
    A = sum p^T p,    B = sum p^T (e - p)

Ridge regression towards the identity, so an unseen direction stays as the static embedding has it (Hoerl and
Kennard, 1970). A word weighs otherwise in bank questions than in documentation: a matrix from 150 texts of a
namespace's own is worth more than a static embedding fitted to tens of thousands of foreign ones.
`cache.semantic.predictor` uses M for what neighbours leave open. A text enters the sums after its label was taken, so
no label tests a matrix that was fitted to its text.

Stored form, one for all gateways of a namespace: .npz without pickle of M as float16[d, d], A as float32[d, d] and
the number of texts; B follows from both. M is rounded to float16 before it is used, so all gateways compute alike.
"""

import hashlib
import io
from dataclasses import dataclass, field

import numpy as np

from cache.semantic.static_embedding import Float32Array

FIRST_FIT = 150  # texts
GROWTH = 1.5  # a new fit after so many times the texts of the last one
MEMORY = 6000  # texts; then all sums are halved, so that the matrix follows the traffic
RIDGE = np.float32(0.1)


@dataclass(frozen=True, slots=True)
class Alignment:
    """A fitted matrix, float32[d, d], how many texts it was fitted to, and its stored form's name: 16 hex digits."""

    matrix: Float32Array
    texts: int
    id: str


@dataclass(slots=True)
class AlignmentSums:
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
        """Whether there are enough texts for a new matrix."""
        return self.texts >= self.due_at

    def add(self, static_vectors: Float32Array, projected: Float32Array) -> None:
        """Texts' static vectors and their engine vectors in the same space, float32[n, d] each, unit length."""
        self._moment += static_vectors.T @ static_vectors
        self._residual += static_vectors.T @ (projected - static_vectors)
        self.texts += len(static_vectors)
        if self.texts >= 2 * MEMORY:  # a gateway that is not the writer never fits, and sums too large have no inverse
            self._halve()

    def fit(self) -> tuple[Alignment, bytes]:
        """The matrix of all texts so far, and its stored form; the next is due after half as many texts again.

        Takes about 4 ms at d = 256.
        """
        eye = np.eye(self.dimensions, dtype=np.float32)
        matrix = (eye + np.linalg.solve(self._moment + RIDGE * eye, self._residual)).astype(np.float16)
        buffer = io.BytesIO()
        np.savez(buffer, matrix=matrix, moment=self._moment, texts=np.array(self.texts))
        content = buffer.getvalue()
        alignment = Alignment(matrix.astype(np.float32), self.texts, _id(content))
        if self.texts >= MEMORY:
            self._halve()
        self.due_at = _next_fit(self.texts)
        return alignment, content

    def _halve(self) -> None:
        self._moment /= 2
        self._residual /= 2
        self.texts //= 2

    @classmethod
    def resume(cls, content: bytes, dimensions: int) -> tuple[Alignment, "AlignmentSums"]:
        """The matrix that `fit` made and the sums behind it. Raises ValueError on anything else."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                matrix, moment, texts = arrays["matrix"], arrays["moment"], int(arrays["texts"])
        except Exception as error:  # a damaged archive raises whatever zipfile and numpy raise
            raise ValueError(f"not a stored alignment matrix: {error}") from None
        size = (dimensions, dimensions)
        sound = matrix.shape == moment.shape == size and matrix.dtype == np.float16 and moment.dtype == np.float32
        if not sound or texts < FIRST_FIT or not (np.isfinite(matrix).all() and np.isfinite(moment).all()):
            raise ValueError("not an alignment matrix of this static embedding")
        alignment = Alignment(matrix.astype(np.float32), texts, _id(content))
        sums = cls(dimensions, texts, _next_fit(texts))
        eye = np.eye(dimensions, dtype=np.float32)
        sums._moment = moment.copy()
        sums._residual = (moment + RIDGE * eye) @ (alignment.matrix - eye)
        return alignment, sums


def _id(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _next_fit(texts: int) -> int:
    return min(max(MEMORY, texts + 1), int(texts * GROWTH))

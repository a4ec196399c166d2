"""Some texts' vectors, kept in the bundle: what they were where it was built, and what FP32 gives.

Float kernels differ between CPU kinds in their last bits, and an activation that lies between two INT8 steps is then
rounded the other way, so a bundle's vectors differ a little from one kind to another. The engine computes these texts
at every start and refuses a bundle whose vectors are not, on this machine,

- within ACROSS_MACHINES of those of the machine that built it, so that all machines of a fleet may share a cache;
- over the bar that compares with FP32 (`engine.model.quality_bar`).

    check_vectors.npz   input_ids int32[T], lengths int32[n], built float32[n, dimensions], fp32 float32[n, dimensions]
"""

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.bundle import BundleError
from engine.feeds import Run
from engine.protocol import Float32Array, Int32Array

ACROSS_MACHINES = 0.999  # least cosine similarity of a text's vectors on two machines; docs/cpus.md has what was seen
MAX_TEXTS = 24
MAX_TOKENS = 1_500  # in all texts together, so that a start is not held up by a large model

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CheckVectors:
    """Texts as token ids, int32[length] each; `built` and `fp32`, float32[n, dimensions], their unit vectors."""

    texts: tuple[Int32Array, ...]
    built: Float32Array
    fp32: Float32Array

    def to_bytes(self) -> bytes:
        """The content of the bundle's file."""
        content = io.BytesIO()
        lengths = np.array([len(text) for text in self.texts], np.int32)
        np.savez_compressed(
            content, input_ids=np.concatenate(self.texts), lengths=lengths, built=self.built, fp32=self.fp32
        )
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "CheckVectors":
        """Read the bundle's file. Raises BundleError."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                ids, lengths, built, fp32 = (file[name] for name in ("input_ids", "lengths", "built", "fp32"))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise BundleError(f"the bundle's check vectors cannot be read; build it again: {error}") from None
        texts = tuple(np.split(ids.astype(np.int32), np.cumsum(lengths)[:-1]))
        if not texts or built.shape != fp32.shape or len(built) != len(texts):
            raise BundleError("the bundle's check vectors do not fit together; build it again")
        return cls(texts, built, fp32)


@dataclass(frozen=True, slots=True)
class Agreement:
    """This machine's vectors beside the builder's: the lowest cosine similarity, and whether all bytes are equal.

    fp32: mean and lowest cosine similarity to FP32. digest: of this machine's bytes; engines that log the same one
    give the same bytes.
    """

    lowest: float
    identical: bool
    fp32_mean: float
    fp32_lowest: float
    digest: str

    def __str__(self) -> str:
        return "byte for byte the builder's" if self.identical else f"cosine {self.lowest:.6f} or more to the builder's"


def choose_check_texts(texts: Sequence[Int32Array]) -> tuple[Int32Array, ...]:
    """At most MAX_TEXTS of `texts`, of all lengths, at most MAX_TOKENS together (but one text at least)."""
    ordered = sorted(texts, key=lambda text: (len(text), text.tobytes()))
    places = sorted({round(place) for place in np.linspace(0, len(ordered) - 1, min(MAX_TEXTS, len(ordered)))})
    chosen: list[Int32Array] = []
    for place in places:
        if chosen and sum(map(len, chosen)) + len(ordered[place]) > MAX_TOKENS:
            break
        chosen.append(ordered[place])
    return tuple(chosen)


def compare(run: Run, check: CheckVectors) -> Agreement:
    """Compute the texts here, each alone."""
    here = np.concatenate([run([text]) for text in check.texts])
    to_fp32 = _cosine(here, check.fp32)
    return Agreement(
        lowest=float(_cosine(here, check.built).min()),
        identical=here.tobytes() == check.built.tobytes(),
        fp32_mean=float(to_fp32.mean()),
        fp32_lowest=float(to_fp32.min()),
        digest=hashlib.blake2b(here.tobytes(), digest_size=8).hexdigest(),
    )


def cosine_similarity(one: Float32Array, other: Float32Array) -> Float64Array:
    """Of each row's two vectors, float32[n, dimensions] each -> float64[n]; 0 where one has no length."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray(np.sum(one * other, axis=1, dtype=np.float64) / np.maximum(norms, 1e-12))


def _cosine(here: Float32Array, expected: Float32Array) -> Float64Array:
    """As `cosine_similarity`; NaN where the vectors are of another size."""
    return np.full(len(here), np.nan) if here.shape != expected.shape else cosine_similarity(here, expected)

"""What the engine would say, read off the neighbours: kriging in the probe's space. Pure numpy; no I/O.

The probe p is a rough image of the engine's vector e. How far it is off changes slowly from text to text, and for the
neighbours it is known. So the neighbours' vectors are combined as their probes make up the text's probe, and what
they leave open is mapped by M, the namespace's trend (`cache.trend`; the identity before it is learned):

    e^ = w E + (p - w P) M,   w = k (K + noise I)^-1,   K_ij = exp(-|p_i - p_j| / reach),  k_j = exp(-|p - p_j| / reach)
    similarity_j = cos(e^, e_j),    spread = 1 - w k

the kriging predictor with trend p M and its variance (Rasmussen and Williams, 2006, eq. 2.25, 2.26 and 2.38), with the
Ornstein-Uhlenbeck kernel because the engine is not smooth. `spread` is 0 on top of a neighbour and 1 far from all.
This is the one step that a look-up gains most from. e^ is never served; only the engine's own vectors are.
"""

from dataclasses import dataclass

import numpy as np

from cache.probe import TINY, Float32Array


@dataclass(frozen=True, slots=True)
class Kernel:
    """`reach`: the distance over which differences stay alike; `noise`: what two equal probes may differ by."""

    reach: float = 2.0
    noise: float = 0.02


@dataclass(frozen=True, slots=True)
class Prediction:
    """For k candidates: probe similarity and predicted similarity, float32[k] each, and the common spread."""

    probe_similarity: Float32Array
    similarity: Float32Array
    spread: float


def predict(
    kernel: Kernel,
    probe: Float32Array,
    probes: Float32Array,
    vectors: Float32Array,
    trend: Float32Array | None = None,
) -> Prediction:
    """Predicted cosine of a text with each of its k candidates.

    probe: float32[d] of the text; probes: float32[k, d] and vectors: float32[k, d] of the candidates, the latter the
    engine's vectors in the probe's space (`Probe.project`). All unit length; k at least 1. trend: M, float32[d, d];
    None is the identity.
    """
    near = probes @ probe
    gram = probes @ probes.T
    covariance = np.exp(np.sqrt(np.maximum(2 - 2 * gram, 0)) * (-1 / kernel.reach))
    covariance[np.diag_indices_from(covariance)] = 1 + kernel.noise
    towards = np.exp(np.sqrt(np.maximum(2 - 2 * near, 0)) * (-1 / kernel.reach))
    weights = np.asarray(np.linalg.solve(covariance, towards), dtype=np.float32)
    left_open = probe - weights @ probes
    estimate = weights @ vectors + (left_open if trend is None else left_open @ trend)
    length = max(float(np.sqrt(estimate @ estimate)), TINY)
    return Prediction(near, (vectors @ estimate) / np.float32(length), max(float(1 - weights @ towards), 0.0))

"""An exported graph run as it came, with padded inputs as its exporter meant them: what an import is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from engine.build.errors import UnsupportedModel
from engine.build.graph.onnx_writer import Array
from engine.build.imported.contract import IDS, INTEGERS, MASK, POSITIONS, TYPES, Contract
from engine.build.imported.source import Source
from engine.build.running import Run
from engine.feeds import feeds
from engine.model.cpu_session import open_cpu_session
from engine.protocol import Float32Array, Int32Array

LARGEST_DIFFERENCE = 1e-4  # of the rewritten FP32 graph, relative to the largest number


@dataclass(frozen=True, slots=True)
class Original:
    """The graph in a session of its own."""

    session: ort.InferenceSession
    contract: Contract
    pad_token_id: int

    def run(self, texts: Sequence[Int32Array], output: str) -> tuple[Array, Array]:
        """An output for a batch of texts, and which places are tokens, bool[B, S]. Raises UnsupportedModel."""
        longest = max(map(len, texts))
        is_token = np.arange(longest) < np.array([len(text) for text in texts])[:, None]
        ids = np.full(is_token.shape, self.pad_token_id, np.int64)
        ids[is_token] = np.concatenate(texts)
        places = np.where(is_token, np.arange(longest), 0)
        arrays = {IDS: ids, MASK: is_token, TYPES: np.zeros_like(ids), POSITIONS: places}
        inputs = {name: arrays[name].astype(INTEGERS[kind]) for name, kind in self.contract.inputs.items()}
        try:
            return self.session.run([output], inputs)[0], is_token
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            raise UnsupportedModel(f"{_failed(texts)}: {_first_line(error)}") from None


def open_original(source: Source, contract: Contract, pad_token_id: int) -> Original:
    """Raises UnsupportedModel where ONNX Runtime cannot open the graph."""
    try:
        session = open_cpu_session(source.model.SerializeToString(), threads=0)
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        raise UnsupportedModel(f"ONNX Runtime cannot open {source.graph_file}: {_first_line(error)}") from None
    return Original(session, contract, pad_token_id)


def compare_with_original(original: Original, run: Run, output: str, texts: Sequence[Int32Array]) -> float:
    """The largest difference of `run`'s states or vectors from the original's, relative to the largest number there.

    Both run `texts` as one batch. Raises UnsupportedModel where either cannot be run, or they differ by more than
    LARGEST_DIFFERENCE: the graph then means something else by its inputs than the engine gives it.
    """
    expected, is_token = original.run(texts, output)
    expected = expected[is_token] if expected.ndim == 3 else expected
    try:
        found = run(feeds(texts))["embeddings"]
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        raise UnsupportedModel(f"with the engine's inputs, {_failed(texts)}: {_first_line(error)}") from None
    difference = _relative_difference(found, expected)
    if not difference <= LARGEST_DIFFERENCE:
        raise UnsupportedModel(
            f"with the engine's inputs the graph gives other numbers than with its own ({difference:.1e} of the largest"
            f" at up to {max(map(len, texts))} tokens): it depends on padding, or on inputs in another way than usual"
        )
    return difference


def _relative_difference(found: Float32Array, expected: Array) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))


def _failed(texts: Sequence[Int32Array]) -> str:
    return f"the graph fails on a batch with texts of up to {max(map(len, texts))} tokens (--max-tokens sets a limit)"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

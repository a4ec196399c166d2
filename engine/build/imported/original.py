"""An exported graph run as it came, with the inputs its exporter meant: what an import is compared with."""

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

    def run(self, text: Int32Array, output: str) -> Array:
        """An output for one text alone, without padding. Raises UnsupportedModel."""
        ids = text[None].astype(np.int64)
        arrays = {IDS: ids, MASK: np.ones_like(ids), TYPES: np.zeros_like(ids), POSITIONS: np.arange(len(text))[None]}
        inputs = {name: arrays[name].astype(INTEGERS[kind]) for name, kind in self.contract.inputs.items()}
        try:
            return np.asarray(self.session.run([output], inputs)[0])
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            raise UnsupportedModel(f"{_failed(text)}: {_first_line(error)}") from None


def open_original(source: Source, contract: Contract) -> Original:
    """Raises UnsupportedModel where ONNX Runtime cannot open the graph."""
    try:
        session = open_cpu_session(source.model.SerializeToString(), threads=0)
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        raise UnsupportedModel(f"ONNX Runtime cannot open {source.graph_file}: {_first_line(error)}") from None
    return Original(session, contract)


def compare_with_original(original: Original, run: Run, output: str, text: Int32Array) -> float:
    """The largest difference of `run`'s states or vectors from the original's, relative to the largest number there.

    Both run `text` alone: what padding and other texts do is for the measurement of batch-independence. Raises
    UnsupportedModel where either cannot be run, or they differ by more than LARGEST_DIFFERENCE: the graph then means
    something else by its inputs than the engine gives it.
    """
    expected = original.run(text, output)
    expected = expected[0] if expected.ndim == 3 else expected
    try:
        found = run(feeds([text], padded_to=1))["embeddings"]
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        raise UnsupportedModel(f"with the engine's inputs, {_failed(text)}: {_first_line(error)}") from None
    difference = _relative_difference(found, expected)
    if not difference <= LARGEST_DIFFERENCE:
        raise UnsupportedModel(
            f"with the engine's inputs the graph gives other numbers than with its own ({difference:.1e} of the largest"
            f" for a text of {len(text)} tokens)"
        )
    return difference


def run_each(run: Run) -> Run:
    """A graph run as the engine runs one whose vectors change with their batch: texts one by one, unpadded."""

    def each(inputs: dict[str, Array]) -> dict[str, Float32Array]:
        lengths = inputs["attention_mask"].sum(axis=1)
        texts = np.split(inputs["input_ids"], np.cumsum(lengths)[:-1])
        return {"embeddings": np.concatenate([run(feeds([text], padded_to=1))["embeddings"] for text in texts])}

    return each


def _relative_difference(found: Float32Array, expected: Array) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))


def _failed(text: Int32Array) -> str:
    return f"the graph fails on a text of {len(text)} tokens (--max-tokens sets a limit)"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

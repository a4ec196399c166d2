"""Tiny checkpoints with weights that depend on their tensors' names alone, and the golden files made from them."""

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).with_name("golden")


@dataclass(frozen=True, slots=True)
class Golden:
    """One case: a checkpoint, texts, and what transformers makes of all of them in one padded batch.

    tensors: name -> shape, as the checkpoint has them. mean, first, last: float32[n, hidden], of the last hidden
    states of each text.
    """

    config: dict[str, Any]
    tensors: dict[str, list[int]]
    lengths: list[int]
    mean: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def texts(self) -> list[np.ndarray]:
        """The texts' token ids."""
        return random_texts(self.lengths, self.config["vocab_size"])

    def write_checkpoint(self, folder: Path) -> None:
        """`config.json` and `model.safetensors`."""
        (folder / "config.json").write_text(json.dumps(self.config), encoding="utf-8")
        write_weights(folder / "model.safetensors", self.tensors)


def cases() -> list[str]:
    """The names of all cases."""
    return sorted(path.stem for path in GOLDEN.glob("*.json"))


def read_golden(name: str) -> Golden:
    """A case by its name."""
    content = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    vectors = {key: np.array(content.pop(key), dtype=np.float32) for key in ("mean", "first", "last")}
    return Golden(**content, **vectors)


def random_texts(lengths: list[int], vocab_size: int) -> list[np.ndarray]:
    """Token ids, none of them special."""
    rng = np.random.default_rng(1)
    return [rng.integers(5, vocab_size, length, dtype=np.int32) for length in lengths]


def write_weights(path: Path, tensors: dict[str, list[int]]) -> None:
    """A file with random tensors of these shapes; the same names and shapes give the same file everywhere."""
    save_file({name: random_tensor(name, shape) for name, shape in tensors.items()}, path)


def random_tensor(name: str, shape: list[int]) -> np.ndarray:
    """Norms around one, matrices that keep the size of what they multiply, biases that matter."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    kind = name.rsplit(".", 1)[-1]
    if len(shape) == 2 and "embedding" not in name and "relative" not in name:
        values *= 1.2 / math.sqrt(shape[1])
    elif kind == "weight" and len(shape) == 1:
        values = 1 + 0.2 * values
    elif kind == "bias":
        values *= 0.3
    return values.astype(np.float32)

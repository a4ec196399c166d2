"""The Dense modules of sentence-transformers: a linear layer on pooled vectors, in a folder of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from engine.build.checkpoint.files import PICKLE_FILE, WEIGHTS_FILE, Checkpoint
from engine.build.checkpoint.weights import Linear
from engine.build.errors import CheckpointError, UnsupportedModel

Activation = Literal["Tanh", "Identity"]
INPUT_KEYS = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}


@dataclass(frozen=True, slots=True)
class Dense:
    """`activation(x @ weight + bias)` on pooled vectors."""

    linear: Linear
    activation: Activation


def dense_activation(checkpoint: Checkpoint, folder: str) -> Activation:
    """The activation that `<folder>/config.json` names. Raises UnsupportedModel for one that has no graph."""
    file = f"{folder}/config.json"
    config: dict[str, Any] = checkpoint.json(file) or {}
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rsplit(".", 1)[-1]
    if name not in get_args(Activation):
        raise UnsupportedModel(f"{file} names {name}; supported are {', '.join(get_args(Activation))}")
    for key, value in INPUT_KEYS.items():
        if config.get(key) not in (None, value):
            raise UnsupportedModel(f"{file} has {key} {config[key]!r}; only {value!r} is supported")
    return cast(Activation, name)


def dense_weights(checkpoint: Checkpoint, folder: str) -> Path:
    """The module's weights. Raises CheckpointError where there are none that are safe to read."""
    path = checkpoint.file(f"{folder}/{WEIGHTS_FILE}")
    if path is None:
        found = f"; its {PICKLE_FILE} is never loaded" if checkpoint.file(f"{folder}/{PICKLE_FILE}") else ""
        raise CheckpointError(f"{checkpoint.folder / folder / WEIGHTS_FILE} is missing{found}")
    return path


def read_dense(checkpoint: Checkpoint, folders: tuple[str, ...], inputs: int) -> tuple[Dense, ...]:
    """The modules in order; the first takes vectors of `inputs` dimensions. Raises BuildError."""
    modules = []
    for folder in folders:
        path = dense_weights(checkpoint, folder)
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from None
        weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
        if weight is None or weight.ndim != 2 or weight.shape[1] != inputs:
            raise CheckpointError(f"{path} has no linear.weight for vectors of {inputs} dimensions")
        inputs = weight.shape[0]
        linear = Linear(
            np.ascontiguousarray(weight.T, dtype=np.float32), None if bias is None else bias.astype(np.float32)
        )
        modules.append(Dense(linear, dense_activation(checkpoint, folder)))
    return tuple(modules)

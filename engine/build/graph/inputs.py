"""The names of a graph's inputs."""

from dataclasses import dataclass

import numpy as np

from engine.build.graph.onnx_writer import GraphWriter


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a graph takes; shapes and meaning in `engine.feeds`."""

    input_ids: str
    position_ids: str
    rows: str
    slots: str
    attention_mask: str

    @classmethod
    def declare(cls, graph: GraphWriter) -> "Inputs":
        """Make all of them inputs of `graph`."""
        return cls(
            input_ids=graph.input("input_ids", np.int32, ["tokens"]),
            position_ids=graph.input("position_ids", np.int32, ["tokens"]),
            rows=graph.input("rows", np.int32, ["texts", "longest"]),
            slots=graph.input("slots", np.int32, ["tokens"]),
            attention_mask=graph.input("attention_mask", np.int32, ["texts", "longest"]),
        )

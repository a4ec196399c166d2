"""Runs in fixed shapes: on a CPU, where the same graph gives the right vectors whatever the shape."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.build import build_bundle
from engine.bundle import GRAPH_FILE
from engine.feeds import Feeds
from engine.model.cpu_session import open_cpu_session
from engine.model.fixed_shapes import (
    RUN_TOKENS,
    fixed_feeds,
    lengths_of_runs,
    rows_of_runs,
    run_in_shapes,
)
from engine.model.session import run_of
from engine.protocol import Float32Array, Int32Array
from tests.tiny_bert import WORDS, write_checkpoint

MAX_TOKENS = 24
FP32_NOISE = 1e-6


class WatchedSession:
    """A real session that keeps the shapes it was run in."""

    def __init__(self, graph: Path) -> None:
        self._session = open_cpu_session(graph)
        self.shapes: list[tuple[int, ...]] = []

    def get_outputs(self) -> Any:
        return self._session.get_outputs()

    def run(self, outputs: list[str], given: Feeds) -> list[Float32Array]:
        assert len(given["input_ids"]) == given["attention_mask"].size
        self.shapes.append(given["attention_mask"].shape)
        return self._session.run(outputs, given)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fixed")
    write_checkpoint(folder / "checkpoint", max_tokens=MAX_TOKENS)
    build_bundle(str(folder / "checkpoint"), folder / "bundle", precision="fp32", force=True)
    return folder / "bundle" / GRAPH_FILE


@pytest.fixture
def texts() -> list[Int32Array]:
    """Of all lengths, more of the shortest than a run has rows, in a random order."""
    rng = np.random.default_rng(5)
    lengths = rng.permutation([*range(1, MAX_TOKENS + 1), *[3] * (rows_of_runs(3) + 5)])
    return [rng.integers(0, len(WORDS), int(length), dtype=np.int32) for length in lengths]


def test_each_text_gets_its_own_vector(graph: Path, texts: list[Int32Array]) -> None:
    """Those of a run with other shapes, in the order of the texts."""
    expected = run_of(open_cpu_session(graph))(texts)
    vectors = run_in_shapes(open_cpu_session(graph), MAX_TOKENS)(texts)
    assert np.abs(vectors - expected).max() < FP32_NOISE


def test_a_texts_shape_is_its_own(graph: Path, texts: list[Int32Array]) -> None:
    """Alone and in any batch a run has one of the fixed shapes, and a text always the same one."""
    session = WatchedSession(graph)
    run = run_in_shapes(session, MAX_TOKENS)  # type: ignore[arg-type]
    fixed = {(rows_of_runs(length), length) for length in lengths_of_runs(MAX_TOKENS)}
    run(texts)
    assert set(session.shapes) == fixed
    for text in texts[:40]:
        session.shapes.clear()
        run([text])
        ((_, length),) = session.shapes
        assert length == min(fitting for fitting in lengths_of_runs(MAX_TOKENS) if fitting >= len(text))


@pytest.mark.parametrize(
    ("max_tokens", "lengths"),
    [(8, [8]), (16, [16]), (256, [16, 32, 64, 128, 256]), (384, [16, 32, 64, 128, 256, 384]), (500, None)],
)
def test_no_run_is_longer_than_the_model_takes(max_tokens: int, lengths: list[int] | None) -> None:
    """Positions past its last one would not be in the graph."""
    found = lengths_of_runs(max_tokens)
    assert found[-1] == max_tokens
    assert found == (lengths or [16, 32, 64, 128, 256, 500])
    assert all(rows_of_runs(length) * length <= max(RUN_TOKENS, length) for length in found)
    assert rows_of_runs(10 * RUN_TOKENS) == 1


@pytest.mark.parametrize("lengths", [[], [0], [5], [1, 1, 1]])
def test_what_does_not_fit_is_refused(lengths: list[int]) -> None:
    """No text, one without tokens, one too long, one too many."""
    with pytest.raises(ValueError, match="a run of 2 x 4 takes"):
        fixed_feeds([np.ones(length, np.int32) for length in lengths], 2, 4)
    with pytest.raises(ValueError, match="at least one text"):
        run_in_shapes(WatchedOutputs(), 4)([])  # type: ignore[arg-type]


class WatchedOutputs:
    """Enough of a session to be asked for its output's name."""

    def get_outputs(self) -> list[Any]:
        return [self]

    name = "embeddings"

"""The one place that opens sessions: exact products on this machine, and what happens where they are not."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.build.graph.kernel_check import extreme_weights, write_kernel_check
from engine.build.graph.onnx_writer import GraphWriter
from engine.model import cpu_session
from engine.model.cpu_session import (
    KERNEL_CHECK,
    UNSIGNED_WEIGHTS,
    InexactProducts,
    integer_products,
    open_cpu_session,
    require_exact_products,
    session_options,
)
from tests.pair_limit import exceeds_pair_limit


@pytest.fixture(autouse=True)
def measured_anew() -> Iterator[None]:
    """What one test made of the kernels is forgotten by the next."""
    integer_products.cache_clear()
    yield
    integer_products.cache_clear()


def test_products_within_the_bound_are_exact_here() -> None:
    """Whatever this machine is."""
    assert integer_products() in ("exact", "exact with uint8 weights")
    require_exact_products()


def test_the_check_that_is_shipped_is_the_one_that_is_written() -> None:
    """The engine needs no `onnx`, so the file is part of the package."""
    assert KERNEL_CHECK.read_bytes() == write_kernel_check().SerializeToString(deterministic=True)


def test_the_check_holds_weights_at_the_bound() -> None:
    """Pairs of 127 and 1, 64 and 64, and opposite extremes, and none beyond."""
    weights = extreme_weights().astype(int)
    assert not exceeds_pair_limit(extreme_weights())
    assert np.abs(weights[0::2] + weights[1::2]).max() == 128
    assert np.abs(weights[0::2] - weights[1::2]).max() == 254


@pytest.mark.parametrize("rows", [1, 2, 3, 16, 33])
@pytest.mark.parametrize("inputs", [3, 4, 63, 64, 384, 1520])
def test_bounded_products_are_exact_in_every_shape(rows: int, inputs: int) -> None:
    """Odd widths and single rows take other kernels."""
    rng = np.random.default_rng(rows * inputs)
    first = rng.integers(-127, 128, (inputs, 24))
    weight = np.where(np.arange(inputs)[:, None] % 2, np.sign(first) * 64, np.sign(first) * 64).astype(np.int8)
    graph = GraphWriter("product")
    a = graph.input("a", np.uint8, ["rows", inputs])
    graph.output(graph.op("MatMulInteger", a, graph.constant("w", weight)), "y", np.int32, ["rows", 24])
    session = open_cpu_session(graph.model().SerializeToString())
    given = np.full((rows, inputs), 255, np.uint8)
    assert np.array_equal(session.run(None, {"a": given})[0], given.astype(np.int32) @ weight.astype(np.int32))


def test_nothing_is_written_or_sent_about_its_use(tmp_path: Path) -> None:
    """ONNX Runtime would keep usage events under the home directory and upload them."""
    code = "from engine.model.cpu_session import integer_products; print(integer_products())"
    hidden = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_DATA_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    own = {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | own, capture_output=True, check=True, text=True
    )
    assert done.stdout.startswith("exact")
    assert list(tmp_path.iterdir()) == []


def test_inexact_kernels_get_unsigned_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is made twice, and the option is set for every session from then on."""
    answers = iter([False, True])
    monkeypatch.setattr(cpu_session, "_is_exact", lambda _: next(answers))
    assert session_options(1).get_session_config_entry(UNSIGNED_WEIGHTS) == "1"
    require_exact_products()


def test_exact_kernels_keep_signed_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast kernel."""
    monkeypatch.setattr(cpu_session, "_is_exact", lambda _: True)
    with pytest.raises(RuntimeError):
        session_options(1).get_session_config_entry(UNSIGNED_WEIGHTS)


def test_a_cpu_that_fails_both_ways_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the remedy; FP32 graphs open all the same."""
    monkeypatch.setattr(cpu_session, "_is_exact", lambda _: False)
    with pytest.raises(InexactProducts, match="--precision fp32"):
        require_exact_products()
    assert open_cpu_session(KERNEL_CHECK).get_inputs()[0].name == "a"


def test_the_check_finds_an_inexact_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is off by one in one place."""
    outputs = open_cpu_session(KERNEL_CHECK).run(
        ["integers", "floats", "weight"], {"a": np.full((2, 72), 255, np.uint8)}
    )
    given = np.full((2, 72), 255, np.uint8)
    assert cpu_session._multiplies_exactly(outputs, given)
    outputs[0][1, 3] += 1
    assert not cpu_session._multiplies_exactly(outputs, given)

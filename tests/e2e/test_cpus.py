"""The real INT8 graph on CPUs without VNNI, by user-mode emulation; `make test-cpus` is the long form."""

from pathlib import Path

import numpy as np
import pytest

from engine.bundle import GRAPH_FILE, read_bundle
from engine.protocol import Float32Array
from tests.cpus.comparison import compare
from tests.cpus.emulator import NATIVE, THIS_PYTHON, X86, Cpu, compute, reason_to_skip
from tests.cpus.products import write_products
from tests.cpus.texts import sample_texts
from tests.cpus.worker import Answer, Job

TIMEOUT_S = 240.0
EVERY = 6  # of the long form's words and questions; chunks take too long here
LONGEST = 24

Computed = tuple[Answer, Float32Array]


@pytest.fixture(scope="module")
def job(real_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A few words and questions, alone and all together, and the products of the graph's own weights."""
    if (precision := read_bundle(real_bundle).precision) != "int8":
        pytest.skip(f"the default bundle was built as {precision} on this machine")
    products = tmp_path_factory.mktemp("products")
    assert write_products(real_bundle / GRAPH_FILE, products) > 0
    texts = [ids for ids in sample_texts(real_bundle) if len(ids) <= LONGEST][::EVERY]
    return Job(str(real_bundle / GRAPH_FILE), texts, [list(range(len(texts)))], str(products))


@pytest.fixture(scope="module")
def native(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Float32Array:
    """What this machine's CPU makes of the same texts."""
    return compute(NATIVE, THIS_PYTHON, job, tmp_path_factory.mktemp("native"), TIMEOUT_S)[1]


@pytest.fixture(scope="module", params=X86, ids=lambda cpu: cpu.name)
def emulated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Computed:
    """What an older CPU makes of them: with AVX2 (Haswell), and without (Nehalem)."""
    cpu: Cpu = request.param
    if reason := reason_to_skip(cpu):
        pytest.skip(reason)
    return compute(cpu, THIS_PYTHON, request.getfixturevalue("job"), tmp_path_factory.mktemp(cpu.name), TIMEOUT_S)


def test_integer_products_are_exact(emulated: Computed) -> None:
    """Every product of the graph's own weights, with the fast kernel: weights need not become uint8."""
    answer, _ = emulated
    assert answer.products > 0
    assert answer.wrong_products == 0
    assert answer.kernel_check == "exact"


def test_a_text_has_the_same_bytes_alone_and_in_a_batch(emulated: Computed) -> None:
    """Texts of different lengths, padded to the longest."""
    assert emulated[0].batch_dependent == []


def test_vectors_are_those_of_this_cpu_but_for_rounding(emulated: Computed, native: Float32Array) -> None:
    """Float kernels differ by a last digit, which moves an activation to the next INT8 step now and then."""
    found = compare(emulated[1], native)
    assert np.isfinite(emulated[1]).all()
    assert found.cosine_min > 0.999

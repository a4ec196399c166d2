"""Which bundles the engine serves: by what the build measured, by a verification, or because a setting says so."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest

from engine.bundle import BundleError
from engine.model.check_vectors import Agreement
from engine.model.quality_bar import (
    Verification,
    admit,
    loss_shortfall,
    read_verification,
    shortfalls,
    verification_file,
)
from engine.model.session import open_model
from engine.serving import build_engine
from engine.settings import EngineSettings
from tests.integration.engine_under_test import ONE_CORE, write_tiny_bundle
from tests.unit.test_bundle import bundle

SAME = Agreement(lowest=1.0, identical=True, fp32_mean=0.9995, fp32_lowest=0.997, digest="00")
GOOD = {"cosine_mean": 0.9991, "cosine_min": 0.9952, "batch_dependent_texts": 0.0, "batch_checked_texts": 24.0}


def verification(shortfalls: list[str], graph: str = "3" * 64, kernel_class: str = "int8-exact") -> str:
    """A verdict file's content; the graph is that of `test_bundle.bundle`."""
    return Verification(
        graph_sha256=graph, kernel_class=kernel_class, onnxruntime="1", texts="mine", quality={}, shortfalls=shortfalls
    ).model_dump_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cosine_mean": 0.9989}, "0.99890 on average, the bar is 0.999"),
        ({"cosine_min": 0.9949}, "0.99490 at worst, the bar is 0.995"),
        ({"cosine_mean": math.nan}, "nan on average"),
        ({"batch_dependent_texts": 2.0}, "2 of 24 texts change"),
    ],
)
def test_a_figure_under_its_bar_is_named(change: dict[str, float], message: str) -> None:
    """With the figure and the bar."""
    assert shortfalls(GOOD) == []
    (found,) = shortfalls(GOOD | change)
    assert message in found


def test_what_was_never_measured_does_not_pass() -> None:
    """All of it is asked for."""
    assert len(shortfalls({})) == 3


def test_a_task_may_lose_two_tenths_of_a_point() -> None:
    """More than that is named; a gain is no loss."""
    assert loss_shortfall("STS", 82.0, 82.19) is None
    assert loss_shortfall("STS", 83.0, 82.0) is None
    assert "81.90, 0.30 below FP32" in (loss_shortfall("STS", 81.9, 82.2) or "")


def test_the_builds_own_figures_decide_at_first(tmp_path: Path) -> None:
    """The message names figure, bar and remedies."""
    admit(tmp_path, bundle(quality=GOOD), "int8-exact", SAME, allow_unverified=False)
    with pytest.raises(BundleError, match=r"bundle\.json: cosine to FP32 is 0\.99000.*ALLOW_UNVERIFIED_BUNDLE=true"):
        admit(tmp_path, bundle(quality=GOOD | {"cosine_mean": 0.99}), "int8-exact", SAME, allow_unverified=False)
    with pytest.raises(BundleError, match="is not known"):
        admit(tmp_path, bundle(quality={}), "int8-exact", SAME, allow_unverified=False)


def test_fp32_passes(tmp_path: Path) -> None:
    """It is the measure itself."""
    admit(tmp_path, bundle(precision="fp32"), "fp32", SAME, allow_unverified=False)


def test_a_setting_serves_it_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And the log says so."""
    admit(tmp_path, bundle(), "int8-exact", SAME, allow_unverified=True)
    assert "served because DEJAVEC_ALLOW_UNVERIFIED_BUNDLE is set" in caplog.text


def test_a_verification_wins_both_ways(tmp_path: Path) -> None:
    """It was made on this machine, with these kernels, perhaps on the user's own texts."""
    path = verification_file(tmp_path, "int8-exact")
    path.write_text(verification([]))
    admit(tmp_path, bundle(quality={}), "int8-exact", SAME, allow_unverified=False)
    path.write_text(verification(["retrieval is 3.00 below FP32"]))
    with pytest.raises(BundleError, match=r"verified-int8-exact\.json: retrieval is 3\.00 below FP32"):
        admit(tmp_path, bundle(quality=GOOD), "int8-exact", SAME, allow_unverified=False)


@pytest.mark.parametrize("content", ["{", verification([], graph="4" * 64), verification([], kernel_class="int8-x")])
def test_a_verification_of_something_else_is_none(tmp_path: Path, content: str) -> None:
    """Another graph, other kernels, half a file."""
    verification_file(tmp_path, "int8-exact").write_text(content)
    assert read_verification(tmp_path, bundle(), "int8-exact") is None


@pytest.mark.parametrize("lowest", [0.9989, math.nan])
def test_a_machine_with_other_vectors_is_refused(
    tmp_path: Path, lowest: float, caplog: pytest.LogCaptureFixture
) -> None:
    """They would share a cache with the builder's; FP32 is no exception, a setting is."""
    here = replace(SAME, lowest=lowest, identical=False)
    for precision, kernel_class in (("int8", "int8-exact"), ("fp32", "fp32")):
        other = bundle(quality=GOOD, precision=precision)
        with pytest.raises(BundleError, match=r"gives other vectors on this machine.*Build it here"):
            admit(tmp_path, other, kernel_class, here, allow_unverified=False)
    admit(tmp_path, bundle(quality=GOOD), "int8-exact", here, allow_unverified=True)
    assert "served because" in caplog.text


def test_what_this_machine_computes_wins_over_every_file(tmp_path: Path) -> None:
    """A bundle that passed elsewhere, and a verification from another machine."""
    here = replace(SAME, fp32_mean=0.9964, fp32_lowest=0.98)
    verification_file(tmp_path, "int8-exact").write_text(verification([]))
    with pytest.raises(BundleError, match=r"check_vectors\.npz on this machine: cosine to FP32 is 0\.99640"):
        admit(tmp_path, bundle(quality=GOOD), "int8-exact", here, allow_unverified=False)


def test_the_engine_asks_before_it_serves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An fp16 bundle that was never compared with FP32: refused, unless the setting allows it."""
    folder = write_tiny_bundle(tmp_path / "b", precision="fp16")
    with pytest.raises(BundleError, match="under the bar"):
        open_model(folder, "cpu", ONE_CORE)
    settings = EngineSettings(model_bundle=folder, device="cpu")
    with pytest.raises(BundleError, match="under the bar"):
        build_engine(settings)
    with caplog.at_level(logging.WARNING):
        build_engine(settings.model_copy(update={"allow_unverified_bundle": True}))
    assert "served because" in caplog.text

"""Which candidate is chosen, and how `on` mode's tau moves."""

import json

import numpy as np
import pytest

from cache.semantic.predictor import Kernel, Predictor, choose
from cache.semantic.threshold import DynamicThreshold, ThresholdSettings


def vectors(*angles: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)] for angle in angles], dtype=np.float32)


def test_no_candidate_no_choice() -> None:
    """An empty index chooses nothing."""
    assert choose(Predictor(), vectors(0)[0], vectors()[:0].reshape(0, 2), vectors()[:0].reshape(0, 2)) is None


def test_the_nearest_is_chosen() -> None:
    """The candidate with the highest predicted similarity is the one."""
    choice = choose(Predictor(), vectors(0)[0], vectors(1.0, 0.1, 0.5), vectors(1.0, 0.1, 0.5))
    assert choice is not None
    assert choice.index == 1


def test_the_margin_grows_with_the_distance_to_all_candidates() -> None:
    """Far from every neighbour the margin is larger than on top of one."""
    predictor = Predictor(Kernel(reach=0.5), margin=0.2)
    near = choose(predictor, vectors(0)[0], vectors(0.01), vectors(0.01))
    far = choose(predictor, vectors(0)[0], vectors(1.0), vectors(1.0))
    assert near is not None
    assert far is not None
    assert far.margin > near.margin
    assert near.z == pytest.approx(near.similarity - near.margin)


def test_prior_comes_from_the_static_embedding() -> None:
    """Reach, noise and margin are read from the file's meta."""
    predictor = Predictor.from_meta({"reach": 1.5, "noise": 0.1, "margin": 0.3})
    assert (predictor.kernel, predictor.margin) == (Kernel(1.5, 0.1), 0.3)


def test_on_mode_is_twice_as_cautious() -> None:
    """Without a certificate the margin counts double."""
    assert Predictor(margin=0.2).cautious.margin == 0.4


def test_tau_starts_at_the_setting() -> None:
    """similarity_threshold is where it starts; out of its bounds is an error."""
    assert DynamicThreshold(ThresholdSettings()).tau == 0.92
    with pytest.raises(ValueError, match="between"):
        ThresholdSettings(similarity_threshold=0.5)


def test_tau_never_starts_under_the_fidelity() -> None:
    """Where the fidelity is above similarity_threshold it is the start, up to the ceiling."""
    assert DynamicThreshold(ThresholdSettings(fidelity=0.95)).tau == 0.95
    assert DynamicThreshold(ThresholdSettings(fidelity=0.95, threshold_ceiling=0.94)).tau == 0.94
    assert DynamicThreshold(ThresholdSettings(fidelity=0.9)).tau == 0.92


def test_good_near_misses_lower_tau_to_the_floor() -> None:
    """Misses just under tau that would all have been good bring it down, never under the floor."""
    threshold = DynamicThreshold(ThresholdSettings())
    for _ in range(2000):
        threshold.add_label(threshold.tau - 0.005, 0.97, was_hit=False)
    assert threshold.tau == pytest.approx(0.88)
    assert "near misses" in threshold.reason


def test_far_misses_do_not_count() -> None:
    """Misses far under tau, however good, do not move it."""
    threshold = DynamicThreshold(ThresholdSettings())
    assert not any(threshold.add_label(0.8, 0.99, was_hit=False) for _ in range(500))


def test_violating_hits_raise_tau_to_the_ceiling() -> None:
    """Checked hits that violate bring it up quickly, never over the ceiling."""
    threshold = DynamicThreshold(ThresholdSettings())
    moves = [threshold.add_label(0.95, 0.5, was_hit=True) for _ in range(100)]
    assert moves.index(True) <= 2
    assert threshold.tau == pytest.approx(0.98)


def test_clean_hits_do_not_raise_it() -> None:
    """Hits within the policy leave tau alone."""
    threshold = DynamicThreshold(ThresholdSettings())
    assert not any(threshold.add_label(0.95, 0.96, was_hit=True) for _ in range(200))


def test_state_survives_json() -> None:
    """A threshold written and read back goes on, within the bounds that hold now."""
    threshold = DynamicThreshold(ThresholdSettings())
    for _ in range(30):
        threshold.add_label(threshold.tau - 0.005, 0.97, was_hit=False)
    state = json.loads(json.dumps(threshold.to_state()))
    assert DynamicThreshold.from_state(ThresholdSettings(), state) == threshold
    assert DynamicThreshold.from_state(ThresholdSettings(threshold_floor=0.92), state).tau == 0.92

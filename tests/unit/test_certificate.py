"""The betting test and the levels: what is proven, how soon, and how rarely it is wrong."""

import json
import math
import random
import time

import pytest

from cache.semantic.certificate import BettingTest, Certificate, binomial_cdf, upper_bound
from tests.bounds import clean_labels_needed

LEVELS = [0.98, 0.96, 0.94]


def fed(certificate: Certificate, z: float, labels: int, violations: int = 0) -> Certificate:
    for index in range(labels):
        certificate.add(z, index < violations)
    return certificate


def test_clean_labels_needed() -> None:
    """A lone level needs about 75 clean labels at alpha 5 % and under 400 at 1 %."""
    assert 59 <= clean_labels_needed(0.05, 0.05) <= 80
    assert 299 <= clean_labels_needed(0.01, 0.05) <= 400


def test_a_label_counts_for_every_level_it_clears() -> None:
    """z of 0.97 speaks for the levels at 0.96 and 0.94, not for 0.98."""
    certificate = fed(Certificate.start(LEVELS, 0.05, 0.05), 0.97, 3)
    assert [test.labels for test in certificate.tests] == [0, 3, 3]


def test_the_loosest_proven_level_is_tau() -> None:
    """Enough clean labels at the loosest level prove it, though the strictest has none."""
    certificate = fed(Certificate.start(LEVELS, 0.05, 0.05), 0.95, clean_labels_needed(0.05, 0.05, 3))
    assert certificate.tau == 0.94


def test_a_proven_level_hands_its_confidence_on() -> None:
    """Labels that prove the strictest level let the looser ones pass at a larger share of beta."""
    needed = clean_labels_needed(0.05, 0.05, 3)
    alone = fed(Certificate.start(LEVELS, 0.05, 0.05), 0.95, needed - 1)
    assert alone.tau is None
    both = fed(Certificate.start(LEVELS, 0.05, 0.05), 0.99, needed)
    assert both.tau == 0.94


def test_violations_prevent_a_proof() -> None:
    """A share of violations above alpha proves nothing, however many labels there are."""
    draw = random.Random(0)
    certificate = Certificate.start(LEVELS, 0.05, 0.05)
    for _ in range(3000):
        certificate.add(0.99, draw.random() < 0.08)
    assert certificate.tau is None


@pytest.mark.parametrize("weighted", [False, True])
def test_false_proofs_are_as_rare_as_stated(weighted: bool) -> None:
    """At exactly alpha, looking after every label, fewer than beta of the tests ever prove the claim."""
    draw, wrong, tests = random.Random(1), 0, 300
    for _ in range(tests):
        test = BettingTest(0.05)
        for _ in range(600):
            if not weighted:
                test.add(draw.random() < 0.05, 1.0)
            elif draw.random() < 0.5:  # half of the requests are always labelled and violate rarely
                test.add(draw.random() < 0.02, 0.25)
            elif draw.random() < 0.25:  # the others are labelled with probability 1/4 and violate often
                test.add(draw.random() < 0.08, 1.0)
        wrong += test.is_proven(0.1)
    assert binomial_cdf(wrong - 1, tests, 0.1) < 0.999


def test_a_small_weight_bets_little() -> None:
    """Four labels of weight 1/4 weigh about as much as one of weight 1."""
    quarter, whole = BettingTest(0.05), BettingTest(0.05)
    for _ in range(4):
        quarter.add(False, 0.25)
    whole.add(False, 1.0)
    assert quarter.log_total == pytest.approx(whole.log_total, rel=0.05)


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.5])
def test_weights_outside_their_range_are_refused(weight: float) -> None:
    """A weight above 1 would break the bound."""
    with pytest.raises(ValueError, match="weight"):
        Certificate.start(LEVELS, 0.05, 0.05).add(0.99, False, weight)


def test_levels_must_fall() -> None:
    """Levels given from loose to strict are an error."""
    with pytest.raises(ValueError, match="fall"):
        Certificate.start([0.9, 0.95], 0.05, 0.05)


def test_state_survives_json() -> None:
    """A certificate written as JSON and read back goes on as the same one."""
    certificate = fed(Certificate.start(LEVELS, 0.05, 0.05), 0.97, 50, violations=1)
    again = Certificate.from_state(json.loads(json.dumps(certificate.to_state())))
    assert again.to_state() == certificate.to_state()
    assert fed(again, 0.99, 300).tau == fed(certificate, 0.99, 300).tau


def test_upper_bound_matches_known_values() -> None:
    """Clopper and Pearson: no violation in 59 labels is under 5 %; 5 in 100 is under 10.2 % (one-sided 95 %)."""
    assert upper_bound(0, 59, 0.05) == pytest.approx(0.0495, abs=1e-3)
    assert upper_bound(5, 100, 0.05) == pytest.approx(0.1022, abs=2e-3)
    assert upper_bound(0, 0, 0.05) == 1.0


def test_the_bound_of_millions_of_labels_takes_no_time() -> None:
    """It is shown by the gateway's event loop, which answers nobody meanwhile; all terms took 13 s."""
    started = time.process_time()
    assert upper_bound(1_000_000, 3_000_000, 0.0375) == pytest.approx(0.3338182, abs=1e-6)
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize("share", [1e-9, 0.02, 0.3, 0.5, 0.97])
def test_the_binomial_tail_is_the_sum_of_its_terms(share: float) -> None:
    """Below, at and above the mean."""
    terms = [math.comb(300, k) * share**k * (1 - share) ** (300 - k) for k in range(301)]
    for successes in (0, 1, 5, 90, 150, 299):
        assert binomial_cdf(successes, 300, share) == pytest.approx(math.fsum(terms[: successes + 1]), rel=1e-9)

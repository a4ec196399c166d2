"""Mode auto: nothing is served unproven, violations open the breaker, and attacks do not get far."""

import json
import random

import pytest

from cache.semantic.certifier import Certifier, CertifierSettings, Label
from tests.bounds import violations_before_opening


def label(certifier: Certifier, pair: int, z: float = 0.98, similarity: float = 0.99, **more: float | bool) -> Label:
    return Label(pair, z, similarity, certifier.version, **more)  # type: ignore[arg-type]


def proven() -> Certifier:
    certifier = Certifier(CertifierSettings())
    for pair in range(200):
        certifier.add_label(label(certifier, pair))
    assert certifier.phase == "serving"
    return certifier


def test_nothing_is_served_before_a_proof() -> None:
    """A hundred clean labels are not enough to serve; two hundred are."""
    certifier = Certifier(CertifierSettings())
    for pair in range(100):
        certifier.add_label(label(certifier, pair))
    assert certifier.tau is None
    for pair in range(100, 200):
        certifier.add_label(label(certifier, pair))
    assert certifier.tau is not None


def test_repeated_pairs_count_once() -> None:
    """One pair shown a thousand times proves nothing."""
    certifier = Certifier(CertifierSettings())
    for _ in range(1000):
        certifier.add_label(label(certifier, 7))
    assert certifier.phase == "testing"


def test_labels_of_another_version_do_not_count() -> None:
    """What an earlier round decided does not count in this one."""
    certifier = Certifier(CertifierSettings())
    for pair in range(300):
        certifier.add_label(Label(pair, 0.98, 0.99, version=5))
    assert certifier.phase == "testing"


def test_violations_open_the_breaker_and_the_next_round_needs_more() -> None:
    """After the breaker has opened nothing is served, and a proof takes more labels than the first did."""
    certifier = proven()
    for pair in range(1000, 1006):
        certifier.add_hit()
        certifier.add_label(label(certifier, pair, similarity=0.5, was_hit=True, probability=1.0))
    assert (certifier.tau, certifier.openings, certifier.version) == (None, 1, 1)
    for pair in range(2000, 2000 + 130):
        certifier.add_label(label(certifier, pair))
    assert certifier.tau is None


def open_breaker(certifier: Certifier, first_pair: int) -> int:
    """Serve only violations, each checked, until the breaker opens; how many there were."""
    openings, served = certifier.openings, 0
    while certifier.openings == openings:
        served += 1
        certifier.add_hit()
        certifier.add_label(label(certifier, first_pair + served, similarity=0.5, was_hit=True, probability=1.0))
    return served


def test_each_opening_leaves_less_to_serve() -> None:
    """A comeback takes 300, 600, 1,200 clean labels; the budget starts at 2, then 1, 2/3, 1/2; also after a restart."""
    certifier, taken, served = proven(), [], []
    for openings in range(4):
        labels = 0
        while certifier.phase == "testing":
            labels += 1
            certifier.add_label(label(certifier, 100_000 * (openings + 1) + labels))
        taken.append(labels)
        certifier = Certifier.from_state(certifier.settings, json.loads(json.dumps(certifier.to_state())))
        served.append(open_breaker(certifier, 50_000 * (2 * openings + 1)))
    assert taken[1:] == [300, 600, 1200]
    assert served == [3, 2, 1, 1]


def test_a_round_without_a_proof_ends() -> None:
    """Labels that neither prove nor can prove anything lead to a new round."""
    certifier = Certifier(CertifierSettings(patience=100))
    for pair in range(100):
        certifier.add_label(label(certifier, pair, similarity=0.5 if pair % 5 == 0 else 0.99))
    assert certifier.version == 1


def test_misses_weigh_as_little_as_hits_are_checked() -> None:
    """While a tenth of the hits is checked, a miss's label bets a tenth."""
    assert Label(1, 0.9, 0.9, 0, was_hit=False, probability=0.1).weight == 0.1
    assert Label(1, 0.9, 0.9, 0, was_hit=True, probability=0.1).weight == 1.0


@pytest.mark.parametrize("honest_hits", [0, 200, 2000])
def test_a_tenant_that_turns_hostile(honest_hits: int) -> None:
    """Easy paraphrases first, then only violations: what is served before the breaker opens stays under the bound."""
    over, runs = 0, 60
    for seed in range(runs):
        draw, certifier = random.Random(seed), proven()
        assert certifier.budget is not None
        for hit in range(honest_hits + 500):
            is_hostile = hit >= honest_hits
            if hit == honest_hits:
                bound, served = violations_before_opening(certifier.settings.budget, certifier.budget.balance), 0
            probability = certifier.verify_probability
            certifier.add_hit()
            served = served + 1 if is_hostile else 0
            if draw.random() < probability:
                similarity = 0.5 if is_hostile else 0.99
                certifier.add_label(
                    label(certifier, 10_000 + hit, similarity=similarity, was_hit=True, probability=probability)
                )
            if certifier.openings:
                break
        assert certifier.openings == 1
        over += served > bound
    assert over <= 6


def test_fidelity_moves_the_levels() -> None:
    """Levels stand above the fidelity and never reach 1."""
    levels = CertifierSettings(fidelity=0.95).levels()
    assert levels[0] < 1
    assert levels[-1] == pytest.approx(0.97)
    assert levels == sorted(set(levels), reverse=True)


def test_state_survives_json() -> None:
    """A state written and read back serves at the same tau and goes on."""
    certifier = proven()
    certifier.add_hit()
    state = json.loads(json.dumps(certifier.to_state()))
    again = Certifier.from_state(CertifierSettings(), state)
    assert again.to_state() == certifier.to_state()
    assert again.summary() == certifier.summary()


@pytest.mark.parametrize(
    "changed", [CertifierSettings(fidelity=0.95), CertifierSettings(alpha=0.01), CertifierSettings(steps=(0.02,))]
)
def test_a_state_under_another_policy_is_refused(changed: CertifierSettings) -> None:
    """What was proven for another fidelity, alpha or other levels is proven no more."""
    with pytest.raises(ValueError, match="other"):
        Certifier.from_state(changed, proven().to_state())

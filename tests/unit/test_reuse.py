"""Auto mode's story: nothing is served unproven, violations trip it, and attacks do not get far."""

import json
import random

import pytest

from cache.budget import violations_before_trip
from cache.reuse import AutoReuse, Label, ReuseSettings


def label(reuse: AutoReuse, pair: int, z: float = 0.98, similarity: float = 0.99, **more: float | bool) -> Label:
    return Label(pair, z, similarity, reuse.version, **more)  # type: ignore[arg-type]


def proven() -> AutoReuse:
    reuse = AutoReuse(ReuseSettings())
    for pair in range(200):
        reuse.add_label(label(reuse, pair))
    assert reuse.phase == "serving"
    return reuse


def test_nothing_is_served_before_a_proof() -> None:
    """A hundred clean labels are not enough to serve; two hundred are."""
    reuse = AutoReuse(ReuseSettings())
    for pair in range(100):
        reuse.add_label(label(reuse, pair))
    assert reuse.tau is None
    for pair in range(100, 200):
        reuse.add_label(label(reuse, pair))
    assert reuse.tau is not None


def test_repeated_pairs_count_once() -> None:
    """One pair shown a thousand times proves nothing."""
    reuse = AutoReuse(ReuseSettings())
    for _ in range(1000):
        reuse.add_label(label(reuse, 7))
    assert reuse.phase == "testing"


def test_labels_of_another_version_do_not_count() -> None:
    """What an earlier round decided says nothing of this one."""
    reuse = AutoReuse(ReuseSettings())
    for pair in range(300):
        reuse.add_label(Label(pair, 0.98, 0.99, version=5))
    assert reuse.phase == "testing"


def test_violations_trip_it_and_the_next_round_needs_more() -> None:
    """After a trip nothing is served, and a proof takes more labels than the first did."""
    reuse = proven()
    for pair in range(1000, 1006):
        reuse.add_hit()
        reuse.add_label(label(reuse, pair, similarity=0.5, was_hit=True, probability=1.0))
    assert (reuse.tau, reuse.trips, reuse.version) == (None, 1, 1)
    for pair in range(2000, 2000 + 130):
        reuse.add_label(label(reuse, pair))
    assert reuse.tau is None


def trip(reuse: AutoReuse, first_pair: int) -> int:
    """Serve only violations, each checked, until it trips; how many there were."""
    trips, served = reuse.trips, 0
    while reuse.trips == trips:
        served += 1
        reuse.add_hit()
        reuse.add_label(label(reuse, first_pair + served, similarity=0.5, was_hit=True, probability=1.0))
    return served


def test_who_trips_again_and_again_serves_ever_less() -> None:
    """A comeback takes 300, 600, 1,200 clean labels; the purse is 2, then 1, 2/3, 1/2; also after a restart."""
    reuse, taken, served = proven(), [], []
    for trips in range(4):
        labels = 0
        while reuse.phase == "testing":
            labels += 1
            reuse.add_label(label(reuse, 100_000 * (trips + 1) + labels))
        taken.append(labels)
        reuse = AutoReuse.from_state(reuse.settings, json.loads(json.dumps(reuse.to_state())))
        served.append(trip(reuse, 50_000 * (2 * trips + 1)))
    assert taken[1:] == [300, 600, 1200]
    assert served == [3, 2, 1, 1]


def test_a_round_without_a_proof_ends() -> None:
    """Labels that neither prove nor can prove anything lead to a new round."""
    reuse = AutoReuse(ReuseSettings(patience=100))
    for pair in range(100):
        reuse.add_label(label(reuse, pair, similarity=0.5 if pair % 5 == 0 else 0.99))
    assert reuse.version == 1


def test_misses_weigh_as_little_as_hits_are_checked() -> None:
    """While a tenth of the hits is checked, a miss's label bets a tenth."""
    assert Label(1, 0.9, 0.9, 0, was_hit=False, probability=0.1).weight == 0.1
    assert Label(1, 0.9, 0.9, 0, was_hit=True, probability=0.1).weight == 1.0


@pytest.mark.parametrize("honest_hits", [0, 200, 2000])
def test_a_tenant_that_turns_hostile(honest_hits: int) -> None:
    """Easy paraphrases first, then only violations: what is served before the trip stays under the bound."""
    over, runs = 0, 60
    for seed in range(runs):
        draw, reuse = random.Random(seed), proven()
        assert reuse.budget is not None
        for hit in range(honest_hits + 500):
            is_hostile = hit >= honest_hits
            if hit == honest_hits:
                bound, served = violations_before_trip(reuse.settings.budget, reuse.budget.balance), 0
            probability = reuse.verify_probability
            reuse.add_hit()
            served = served + 1 if is_hostile else 0
            if draw.random() < probability:
                similarity = 0.5 if is_hostile else 0.99
                reuse.add_label(
                    label(reuse, 10_000 + hit, similarity=similarity, was_hit=True, probability=probability)
                )
            if reuse.trips:
                break
        assert reuse.trips == 1
        over += served > bound
    assert over <= 6


def test_fidelity_moves_the_levels() -> None:
    """Levels stand above the fidelity and never reach 1."""
    levels = ReuseSettings(fidelity=0.95).levels()
    assert levels[0] < 1
    assert levels[-1] == pytest.approx(0.97)
    assert levels == sorted(set(levels), reverse=True)


def test_state_survives_json() -> None:
    """A state written and read back serves at the same tau and goes on."""
    reuse = proven()
    reuse.add_hit()
    state = json.loads(json.dumps(reuse.to_state()))
    again = AutoReuse.from_state(ReuseSettings(), state)
    assert again.to_state() == reuse.to_state()
    assert again.summary() == reuse.summary()


@pytest.mark.parametrize(
    "changed", [ReuseSettings(fidelity=0.95), ReuseSettings(alpha=0.01), ReuseSettings(steps=(0.02,))]
)
def test_a_state_of_other_promises_is_refused(changed: ReuseSettings) -> None:
    """What was proven for another fidelity, alpha or other levels is proven no more."""
    with pytest.raises(ValueError, match="other"):
        AutoReuse.from_state(changed, proven().to_state())

"""What is counted in plain numbers reaches its metric, once."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from gateway.metrics import REQUESTS_NOW, answered, exposition, model_metrics
from gateway.tallies import Level, Tally, hand_over


def test_what_was_counted_is_added_once() -> None:
    """In several parts; a hand-over with nothing new changes nothing."""
    registry = CollectorRegistry()
    tally = Tally(Counter("x_total", "x", registry=registry))
    for part in (2, 3):
        tally.count += part
        hand_over()
        hand_over()
    assert registry.get_sample_value("x_total") == 5


def test_a_level_is_what_it_is_now() -> None:
    """Also when it has gone back to nought."""
    registry = CollectorRegistry()
    level = Level(Gauge("x", "x", registry=registry))
    for now in (3, 0):
        level.now = now
        hand_over()
        assert registry.get_sample_value("x") == now


def test_the_exposition_has_all_that_was_counted_before() -> None:
    """Without waiting for the hand-over of the second."""
    answered(418)
    REQUESTS_NOW.now += 7
    model_metrics("of-test-tallies").tokens.count += 11
    try:
        shown = exposition()[0].decode()
    finally:
        REQUESTS_NOW.now -= 7
    assert 'embeddings_requests_total{status="418"} 1.0' in shown
    assert 'dejavec_tokens_total{model="of-test-tallies"} 11.0' in shown
    assert "dejavec_requests_in_flight 7.0" in shown


def test_a_model_that_is_opened_again_counts_on() -> None:
    """With the same tallies, so that they do not grow in number."""
    assert model_metrics("again") is model_metrics("again")

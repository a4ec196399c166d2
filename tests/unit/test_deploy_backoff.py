"""Restart delays: doubled, bounded, jittered, and forgiven after a long run."""

import random

import pytest

from deploy.backoff import Backoff


def backoff() -> Backoff:
    return Backoff(first_s=0.5, max_s=8, stable_s=30, source=random.Random(7))


def test_delays_double_up_to_the_bound() -> None:
    """Each failure in a row doubles the delay; jitter takes away at most a quarter of it."""
    policy = backoff()
    for full in (0.5, 1, 2, 4, 8, 8, 8):
        assert 0.75 * full <= policy.next_delay_s(uptime_s=0) <= full


def test_a_long_run_is_forgiven() -> None:
    """After stable_s of running the next failure counts as the first again."""
    policy = backoff()
    for _ in range(6):
        policy.next_delay_s(uptime_s=1)
    assert policy.next_delay_s(uptime_s=30) <= 0.5
    assert policy.next_delay_s(uptime_s=0) == pytest.approx(1, rel=0.25)


def test_endless_failures_do_not_overflow() -> None:
    """A child that has failed for a year is still waited for no longer than max_s."""
    policy = backoff()
    policy.failures = 1_000_000
    assert policy.next_delay_s(uptime_s=0) <= 8


def test_two_children_do_not_come_back_together() -> None:
    """Delays of two children differ."""
    assert Backoff(1, 8, 30).next_delay_s(0) != Backoff(1, 8, 30).next_delay_s(0)

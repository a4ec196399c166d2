"""The number of requests at once: additive increase, multiplicative decrease."""

import asyncio

import pytest

from gateway.client.pacer import Pacer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_grows_by_one_a_round_up_to_the_ceiling():
    """As many answers as there are places make about one place more."""
    pacer = Pacer(4, Clock(), start=2)
    limits = []
    for _ in range(12):
        limits.append(pacer.limit)
        pacer.went_well()
    assert limits == sorted(limits)
    assert limits[0] == 2
    assert limits[2:4] != [4, 4]
    assert pacer.limit == 4


def test_it_halves_once_for_signs_that_come_together():
    """Eight refusals of one burst halve once; a second burst halves again; one place always stays."""
    clock = Clock()
    pacer = Pacer(8, clock, start=8)
    for expected in (4, 2, 1, 1):
        for _ in range(8):
            pacer.overloaded()
        assert pacer.limit == expected
        clock.now += 1


async def test_places_are_waited_for():
    """With both places taken, a third request waits until one is given back."""
    pacer = Pacer(2, Clock())
    await pacer.acquire()
    await pacer.acquire()
    third = asyncio.create_task(pacer.acquire())
    await asyncio.sleep(0)
    assert not third.done()
    pacer.release()
    await third


async def test_after_a_halving_places_come_back_only_below_the_new_limit():
    """Four out, limit halved to two: the next place is given when fewer than two are out."""
    pacer = Pacer(4, Clock(), start=4)
    for _ in range(4):
        await pacer.acquire()
    pacer.overloaded()
    waiting = asyncio.create_task(pacer.acquire())
    for _ in range(2):
        pacer.release()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
    pacer.release()
    await waiting


def test_no_places_at_all_is_refused():
    """A ceiling of zero would never send anything."""
    with pytest.raises(ValueError, match="at least one"):
        Pacer(0, Clock())

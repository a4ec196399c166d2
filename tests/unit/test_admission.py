"""What a tenant may hold of a worker's requests and bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission import Admission, Place
from gateway.errors import Overloaded


def entered(admission: Admission, tenant: str, size: int = 0) -> Place:
    place = Place(admission)
    place.enter(tenant)
    try:
        place.hold(size)
    except Overloaded:
        place.leave()
        raise
    return place


def fill(admission: Admission, tenant: str, size: int = 0) -> int:
    """Enter until refused; returns how many."""
    count = 0
    try:
        while True:
            entered(admission, tenant, size)
            count += 1
    except Overloaded:
        return count


def test_the_only_tenant_may_have_everything() -> None:
    """Requests and bytes alike."""
    assert fill(Admission(8, 1000, is_shared=False), "a") == 8
    assert fill(Admission(100, 1000, is_shared=False), "a", 100) == 10


def test_one_of_several_leaves_half_and_two_a_third() -> None:
    """However much is asked for, something is left for the next tenant."""
    for admission, size in ((Admission(1200, 1, is_shared=True), 0), (Admission(9999, 1200, is_shared=True), 1)):
        assert [fill(admission, tenant, size) for tenant in "abc"] == [600, 300, 150]


def test_what_is_left_is_given_back() -> None:
    """Bytes and requests, of a body, of a reply that is larger than there is room for, and only once."""
    admission = Admission(4, 100, is_shared=True)
    place = entered(admission, "a", 40)
    place.keep(500)
    with pytest.raises(Overloaded):
        entered(admission, "b", 1)
    place.leave()
    place.leave()
    assert (admission.requests, admission.size) == (0, 0)
    entered(admission, "b", 50).leave()


def test_a_place_that_never_was_entered_holds_nothing() -> None:
    """A request refused for its key has a reply all the same."""
    admission = Admission(1, 1, is_shared=False)
    place = Place(admission)
    place.keep(10)
    place.leave()
    assert (admission.requests, admission.size) == (0, 0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60), st.booleans()), max_size=60))
def test_no_sequence_exceeds_the_bounds(steps: list[tuple[str, int, bool]]) -> None:
    """Of requests and bytes; and when all have left, nothing is held."""
    admission, places = Admission(10, 100, is_shared=True), []
    for tenant, size, leaves in steps:
        if leaves and places:
            places.pop(size % len(places)).leave()
            continue
        try:
            places.append(entered(admission, tenant, size))
        except Overloaded:
            assert admission.requests >= 5 or admission.size + size > 50 - size
        assert 0 <= admission.requests <= 10
        assert 0 <= admission.size <= 100
    for place in places:
        place.leave()
    assert (admission.requests, admission.size) == (0, 0)

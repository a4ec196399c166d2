"""`dimensions` on models that were trained for it, that were not, and that do not say."""

import pytest

from engine.protocol import EngineInfo
from gateway.errors import BadRequest
from gateway.routes.dimensions import check_shortening


@pytest.mark.parametrize("trained", [None, (), (64, 128)])
def test_the_whole_vector_needs_no_word(trained: tuple[int, ...] | None) -> None:
    """No `dimensions`, or the model's own: nothing is cut off, whatever the setting."""
    for when in ("warn", "refuse"):
        assert check_shortening(None, 384, trained, when) == []
        assert check_shortening(384, 384, trained, when) == []


@pytest.mark.parametrize("dimensions", [64, 100, 128, 383])
def test_trained_sizes_and_those_between_pass(dimensions: int) -> None:
    """From the smallest trained size upward."""
    assert check_shortening(dimensions, 384, (128, 64), "refuse") == []


@pytest.mark.parametrize(
    ("trained", "dimensions", "header", "refusal"),
    [
        ((), 64, b"truncated, untrained", "was not trained for fewer dimensions than its 384"),
        (None, 64, b"truncated, training unknown", "is not known to have been trained"),
        ((64, 128), 63, b"truncated, untrained", "64, 128, 384 dimensions: send at least 64"),
    ],
)
def test_others_get_a_warning_or_are_refused(
    trained: tuple[int, ...] | None, dimensions: int, header: bytes, refusal: str
) -> None:
    """By the operator's setting; the refusal says what to do."""
    assert check_shortening(dimensions, 384, trained) == [(b"x-dimensions", header)]
    with pytest.raises(BadRequest, match=refusal) as refused:
        check_shortening(dimensions, 384, trained, "refuse")
    assert refused.value.param == "dimensions"


def test_more_than_there_is_is_refused() -> None:
    """Also with the setting that warns only."""
    with pytest.raises(BadRequest, match="at most 384"):
        check_shortening(385, 384, (64,))


def test_an_engine_that_says_nothing_is_unknown() -> None:
    """The field is optional, so that engines without it can be called."""
    info = EngineInfo.from_json(b'{"model":"m","fingerprint":"f","kernel_class":"fp32","dimensions":384,'
                                b'"max_tokens":256,"max_request_items":1,"max_request_tokens":256}')  # fmt: skip
    assert info.matryoshka_dims is None
    assert check_shortening(64, 384, info.matryoshka_dims) == [(b"x-dimensions", b"truncated, training unknown")]

"""From ragged token ids to the graph's packed inputs."""

import numpy as np
import pytest

from engine.feeds import feeds


def test_tokens_are_packed_one_text_after_the_other() -> None:
    """No padding is computed: there are as many ids and positions as tokens."""
    inputs = feeds([np.array([5, 6, 7], np.int32), np.array([8, 9], np.int32)])
    assert inputs["input_ids"].tolist() == [5, 6, 7, 8, 9]
    assert inputs["position_ids"].tolist() == [0, 1, 2, 0, 1]


def test_rows_and_slots_lead_there_and_back() -> None:
    """Padding a packed matrix by `rows` and packing it by `slots` gives it back; padding is a text's first token."""
    inputs = feeds([np.array([5], np.int32), np.array([6, 7, 8], np.int32), np.array([9, 9], np.int32)])
    packed = np.arange(6)
    padded = packed[inputs["rows"]]
    assert padded.tolist() == [[0, 0, 0, 0], [1, 2, 3, 1], [4, 5, 4, 4]]
    assert padded.reshape(-1)[inputs["slots"]].tolist() == packed.tolist()
    assert inputs["attention_mask"].tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]]


@pytest.mark.parametrize(("length", "padded"), [(1, 4), (3, 4), (4, 4), (5, 8), (255, 256), (256, 256)])
def test_the_padded_form_is_a_multiple_of_four_wide(length: int, padded: int) -> None:
    """Alone as in a batch, so that sums over a row are made in one order on every CPU."""
    assert feeds([np.arange(length, dtype=np.int32)])["rows"].shape == (1, padded)


def test_all_arrays_are_int32() -> None:
    """Whatever integers come in, the graph gets the type it declares."""
    inputs = feeds([np.array([5, 6], np.int64)])
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.int32)}


@pytest.mark.parametrize("texts", [[], [np.array([], np.int32)], [np.array([1], np.int32), np.array([], np.int32)]])
def test_empty_batch_and_empty_text_are_refused(texts: list[np.ndarray]) -> None:
    """There is nothing to compute for a text without tokens."""
    with pytest.raises(ValueError, match="at least one"):
        feeds(texts)

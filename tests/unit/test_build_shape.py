"""config.json of each family as its publishers write it, and the tables of positions that follow."""

from typing import Any

import numpy as np
import pytest

from engine.build.checkpoint.shape import Attention, Rotary, read_shape
from engine.build.errors import CheckpointError, UnsupportedModel
from engine.build.graph.positions import relative_table, rotary_tables

SIZES: dict[str, Any] = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "num_hidden_layers": 4,
    "intermediate_size": 1152,
    "max_position_embeddings": 8192,
    "vocab_size": 50368,
}
NOMIC: dict[str, Any] = {
    "model_type": "nomic_bert",
    "activation_function": "swiglu",
    "n_embd": 768,
    "n_head": 12,
    "n_inner": 3072,
    "n_layer": 12,
    "n_positions": 8192,
    "max_trained_positions": 2048,
    "rotary_emb_base": 1000,
    "vocab_size": 30528,
}


def test_modernbert_is_read_as_published_and_as_saved_again() -> None:
    """Every third layer sees the whole text; the others 64 tokens to either side, with a base of their own."""
    published = {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
    published |= {"local_attention": 128, "norm_eps": 1e-5, "position_embedding_type": "absolute"}
    saved = {
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "local_attention": 128,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    }
    whole, local = Attention(Rotary(160000.0)), Attention(Rotary(10000.0), window=64)
    for config in (published, saved):
        shape = read_shape(SIZES | config | {"model_type": "modernbert"})
        assert shape.attention == (whole, local, local, whole)
        assert (shape.activation, shape.epsilon) == ("gelu", 1e-5)


def test_nomics_scaling_limits_its_texts() -> None:
    """Off unless the configuration says so; on, it changes with the batch beyond the trained positions."""
    assert read_shape(NOMIC).max_positions == 8192
    assert read_shape(NOMIC | {"rotary_scaling_factor": None}).max_positions == 8192
    assert read_shape(NOMIC | {"rotary_scaling_factor": 2}).max_positions == 2048
    assert read_shape(NOMIC).activation == "silu"
    assert read_shape(NOMIC | {"activation_function": "geglu"}).activation == "gelu"


def test_gtes_ntk_scaling_is_a_larger_base_and_slower_turns() -> None:
    """As in the checkpoint's own code: base * factor, and all frequencies divided by factor^(2 / head size)."""
    config = SIZES | {"model_type": "new", "rope_theta": 500000, "rope_scaling": {"type": "ntk", "factor": 2.0}}
    rotary = read_shape(config).attention[0].rotary
    assert rotary is not None
    cosines, sines = rotary_tables(rotary, 64, 10)
    pairs = np.arange(0, 64, 2) / 64
    turns = 1 / (1_000_000**pairs) / 2 ** (2 / 64)
    np.testing.assert_allclose(cosines[7], np.cos(7 * turns), atol=1e-6)
    np.testing.assert_allclose(sines[7], np.sin(7 * turns), atol=1e-6)


def test_gtes_ntk_scaling_gives_the_numbers_of_its_own_code() -> None:
    """gte-base-en-v1.5: pairs 0, 1, 16 and 31 of a head of 64 at positions 1, 100 and 8,191.

    By torch 2.13 in float32, with the two lines of the checkpoint's NTKScalingRotaryEmbedding:
    inv_freq = 1 / (base * factor) ** (arange(0, 64, 2) / 64), then inv_freq / factor ** (2 / 64).
    """
    config = SIZES | {"model_type": "new", "rope_theta": 500000, "rope_scaling": {"type": "ntk", "factor": 2.0}}
    rotary = read_shape(config).attention[0].rotary
    assert rotary is not None
    cosines, sines = (table[[1, 100, 8191]][:, [0, 1, 16, 31]] for table in rotary_tables(rotary, 64, 8192))
    expected_cosines = [
        [0.5582079, 0.8047948, 0.9999995, 1.0],
        [-0.8925497, 0.7552139, 0.9952158, 1.0],
        [-0.2861987, -0.8721988, -0.1608011, 0.9999238],
    ]
    expected_sines = [
        [0.8297011, 0.5935532, 0.0009785719, 0.000001506929],
        [-0.4509490, 0.6554784, 0.0977011, 0.0001506929],
        [-0.9581703, 0.4891517, 0.9869868, 0.0123429],
    ]
    np.testing.assert_allclose(cosines, expected_cosines, atol=1e-3)  # float32's angle at 8,191 is 5e-4 apart
    np.testing.assert_allclose(sines, expected_sines, atol=1e-3)
    np.testing.assert_allclose(cosines[:2], expected_cosines[:2], atol=1e-5)
    np.testing.assert_allclose(sines[:2], expected_sines[:2], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 8, "activation_function": "gelu"}, "num_experts 8"),
        ({"prenorm": True}, "prenorm True"),
        ({"use_rms_norm": True}, "use_rms_norm True"),
        ({"rotary_emb_fraction": 0.5}, r"rotary_emb_fraction 0\.5"),
        ({"rotary_emb_interleaved": True}, "rotary_emb_interleaved True"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "'dynamic'"),
        ({"head_dim": 32}, "head_dim 32"),
    ],
)
def test_what_no_graph_does_is_refused_by_its_name(changes: dict[str, object], message: str) -> None:
    """A setting that would change vectors is never passed over."""
    with pytest.raises(UnsupportedModel, match=message):
        read_shape(NOMIC | changes)


def test_a_setting_that_is_missing_is_named() -> None:
    """By the first of the names that the family has for it."""
    with pytest.raises(CheckpointError, match="n_layer"):
        read_shape({key: value for key, value in NOMIC.items() if key != "n_layer"})


def test_relative_distances_share_buckets() -> None:
    """One bucket a distance below 8, ever wider ones up to 128, the rest in the last; keys to the right have others."""
    table = relative_table(np.arange(32, dtype=np.float32)[:, None], 200)[0]
    middle = 199
    assert table[[middle, middle - 7, middle + 7]].tolist() == [0, 7, 23]
    assert table[[middle - 8, middle - 16, middle - 32, middle - 64, middle - 127]].tolist() == [8, 10, 12, 14, 15]
    assert table[[middle - 199, middle + 199]].tolist() == [15, 31]

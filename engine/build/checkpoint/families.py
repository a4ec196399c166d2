"""The families of encoders that have a graph here: what their checkpoints call things, and how their layers differ.

One `Family` a model type, or several types where nothing but the name differs. `engine.build.checkpoint.shape` reads
a checkpoint's `config.json` by it, `engine.build.checkpoint.weights` its tensors, and `engine.build.graph` writes the
graph of any of them. What a family has in common for all of its models stands here; numbers are in `Shape`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Part = Literal["query", "key", "value", "attention_out", "up", "gate", "down"]
Positions = Literal["learned", "rotary"]

_BERT_KEYS: dict[str, tuple[str, ...]] = {
    "hidden": ("hidden_size",),
    "heads": ("num_attention_heads",),
    "layers": ("num_hidden_layers",),
    "intermediate": ("intermediate_size",),
    "positions": ("max_position_embeddings",),
    "activation": ("hidden_act",),
    "epsilon": ("layer_norm_eps",),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a checkpoint keeps its tensors, without the prefix it was saved with.

    A linear layer's tensor holds the parts named, one after the other along its outputs; `layer` has the number's
    place, and the names of `linears`, `attention_norm` and `norm` follow it. Token types and final norm: "" for none.
    """

    words: str
    embedding_norm: str
    layer: str
    linears: Mapping[str, tuple[Part, ...]]
    attention_norm: str
    norm: str
    positions: str = ""
    type_embeddings: str = ""
    relative_bias: str = ""
    final_norm: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """What the models of these types have in common.

    norms_first: a layer's norms stand before attention and feed-forward, and one more after the last layer; else each
    stands after the sum with what came in. gated: the feed-forward's `up` is multiplied by the activation of `gate`.
    biases: whether every linear layer and norm has one; else those in the file do.
    """

    types: tuple[str, ...]
    layouts: tuple[Layout, ...]
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _BERT_KEYS)  # of config.json, the first found
    positions: Positions = "learned"
    positions_after_padding: bool = False  # the first position is pad_token_id + 1
    norms_first: bool = False
    first_layer_norm: bool = True  # whether the first layer has a norm before its attention
    gated: bool = False
    biases: bool = True
    rotary_base: float = 0.0  # where config.json names none
    epsilon: float = 1e-12  # where config.json names none
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # values that a key may have, if it is there


_BERT = Layout(
    words="embeddings.word_embeddings.weight",
    positions="embeddings.position_embeddings.weight",
    type_embeddings="embeddings.token_type_embeddings.weight",
    embedding_norm="embeddings.LayerNorm",
    layer="encoder.layer.{}",
    linears={
        "attention.self.query": ("query",),
        "attention.self.key": ("key",),
        "attention.self.value": ("value",),
        "attention.output.dense": ("attention_out",),
        "intermediate.dense": ("up",),
        "output.dense": ("down",),
    },
    attention_norm="attention.output.LayerNorm",
    norm="output.LayerNorm",
)
_DISTILBERT = Layout(
    words=_BERT.words,
    positions=_BERT.positions,
    embedding_norm=_BERT.embedding_norm,
    layer="transformer.layer.{}",
    linears={
        "attention.q_lin": ("query",),
        "attention.k_lin": ("key",),
        "attention.v_lin": ("value",),
        "attention.out_lin": ("attention_out",),
        "ffn.lin1": ("up",),
        "ffn.lin2": ("down",),
    },
    attention_norm="sa_layer_norm",
    norm="output_layer_norm",
)
_MPNET = Layout(
    words=_BERT.words,
    positions=_BERT.positions,
    relative_bias="encoder.relative_attention_bias.weight",
    embedding_norm=_BERT.embedding_norm,
    layer=_BERT.layer,
    linears={
        "attention.attn.q": ("query",),
        "attention.attn.k": ("key",),
        "attention.attn.v": ("value",),
        "attention.attn.o": ("attention_out",),
        "intermediate.dense": ("up",),
        "output.dense": ("down",),
    },
    attention_norm="attention.LayerNorm",
    norm=_BERT.norm,
)
_LLAMA_LINEARS: dict[str, tuple[Part, ...]] = {  # how transformers names the layers of its own NomicBERT and GTE
    "self_attn.q_proj": ("query",),
    "self_attn.k_proj": ("key",),
    "self_attn.v_proj": ("value",),
    "self_attn.o_proj": ("attention_out",),
    "mlp.up_proj": ("up",),
    "mlp.gate_proj": ("gate",),
    "mlp.down_proj": ("down",),
}
_TRANSFORMERS_ROTARY = Layout(
    words=_BERT.words,
    type_embeddings=_BERT.type_embeddings,
    embedding_norm=_BERT.embedding_norm,
    layer="layers.{}",
    linears=_LLAMA_LINEARS,
    attention_norm="post_attention_layernorm",
    norm="post_mlp_layernorm",
)
_NOMIC = Layout(
    words=_BERT.words,
    type_embeddings=_BERT.type_embeddings,
    embedding_norm="emb_ln",
    layer="encoder.layers.{}",
    linears={
        "attn.Wqkv": ("query", "key", "value"),
        "attn.out_proj": ("attention_out",),
        "mlp.fc11": ("up",),
        "mlp.fc12": ("gate",),
        "mlp.fc2": ("down",),
    },
    attention_norm="norm1",
    norm="norm2",
)
_GTE = Layout(
    words=_BERT.words,
    type_embeddings=_BERT.type_embeddings,
    embedding_norm=_BERT.embedding_norm,
    layer=_BERT.layer,
    linears={
        "attention.qkv_proj": ("query", "key", "value"),
        "attention.o_proj": ("attention_out",),
        "mlp.up_gate_proj": ("up", "gate"),
        "mlp.down_proj": ("down",),
    },
    attention_norm="attn_ln",
    norm="mlp_ln",
)
_MODERN = Layout(
    words="embeddings.tok_embeddings.weight",
    embedding_norm="embeddings.norm",
    layer="layers.{}",
    linears={
        "attn.Wqkv": ("query", "key", "value"),
        "attn.Wo": ("attention_out",),
        "mlp.Wi": ("gate", "up"),
        "mlp.Wo": ("down",),
    },
    attention_norm="attn_norm",
    norm="mlp_norm",
    final_norm="final_norm",
)

_ABSOLUTE = {"position_embedding_type": ("absolute", None)}

FAMILIES = (
    Family(("bert",), (_BERT,), only=_ABSOLUTE),
    Family(("roberta", "xlm-roberta"), (_BERT,), positions_after_padding=True, only=_ABSOLUTE),
    Family(
        ("distilbert",),
        (_DISTILBERT,),
        keys={
            "hidden": ("dim", "hidden_size"),
            "heads": ("n_heads", "num_attention_heads"),
            "layers": ("n_layers", "num_hidden_layers"),
            "intermediate": ("hidden_dim", "intermediate_size"),
            "positions": ("max_position_embeddings",),
            "activation": ("activation", "hidden_act"),
            "epsilon": ("layer_norm_eps",),
        },
    ),
    Family(("mpnet",), (_MPNET,), positions_after_padding=True),
    Family(
        ("nomic_bert",),
        (_NOMIC, _TRANSFORMERS_ROTARY),
        keys={  # the published checkpoint's, then those of one that transformers has saved again
            "hidden": ("n_embd", "hidden_size"),
            "heads": ("n_head", "num_attention_heads"),
            "layers": ("n_layer", "num_hidden_layers"),
            "intermediate": ("n_inner", "intermediate_size"),
            "positions": ("n_positions", "max_position_embeddings"),
            "activation": ("activation_function", "hidden_act"),
            "epsilon": ("layer_norm_epsilon", "layer_norm_eps"),
            "base": ("rotary_emb_base",),
        },
        positions="rotary",
        gated=True,
        biases=False,
        rotary_base=1000.0,
        only={
            "num_experts": (0, 1, None),
            "prenorm": (False,),
            "causal": (False,),
            "parallel_block": (False,),
            "use_rms_norm": (False, None),
            "rotary_emb_fraction": (1, 1.0),
            "rotary_emb_interleaved": (False,),
            "rotary_emb_scale_base": (None,),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False, None),
        },
    ),
    Family(
        ("modernbert",),
        (_MODERN,),
        keys=_BERT_KEYS | {"activation": ("hidden_activation",), "epsilon": ("norm_eps",)},
        positions="rotary",
        norms_first=True,
        first_layer_norm=False,
        gated=True,
        biases=False,
        rotary_base=10_000.0,
        epsilon=1e-5,
    ),
    Family(
        ("new", "gte"),
        (_GTE, _TRANSFORMERS_ROTARY),
        keys=_BERT_KEYS | {"base": ("rope_theta",)},
        positions="rotary",
        gated=True,
        biases=False,
        rotary_base=160_000.0,
        only={
            "position_embedding_type": ("rope",),
            "layer_norm_type": ("layer_norm",),
            "logn_attention_scale": (False,),
            "pack_qkv": (True,),
        },
    ),
)


def family_of(model_type: object) -> Family | None:
    """The family of a `model_type`; None where it has no graph."""
    return next((family for family in FAMILIES if model_type in family.types), None)


def supported_types() -> list[str]:
    """Every `model_type` that has a graph, in the order of the table."""
    return [model_type for family in FAMILIES for model_type in family.types]

"""A random BERT of a few kilobytes, written as a checkpoint folder, and BERT itself in plain numpy to compare with."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(96))]
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "vocab_size": len(WORDS),
    "pad_token_id": 0,
}
LAYER_SHAPES = {
    "attention.self.query": ("hidden", "hidden"),
    "attention.self.key": ("hidden", "hidden"),
    "attention.self.value": ("hidden", "hidden"),
    "attention.output.dense": ("hidden", "hidden"),
    "intermediate.dense": ("wide", "hidden"),
    "output.dense": ("hidden", "wide"),
}


def tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under the names that transformers gives them."""
    rng = np.random.default_rng(seed)
    sizes = {"hidden": config["hidden_size"], "wide": config["intermediate_size"]}
    found: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int, scale: float = 1.0, around: float = 0.0) -> None:
        found[name] = (around + scale * rng.standard_normal(shape)).astype(np.float32)

    def add_norm(name: str) -> None:
        add(f"{name}.weight", sizes["hidden"], scale=0.2, around=1.0)
        add(f"{name}.bias", sizes["hidden"], scale=0.2)

    add("embeddings.word_embeddings.weight", config["vocab_size"], sizes["hidden"])
    add("embeddings.position_embeddings.weight", config["max_position_embeddings"], sizes["hidden"], scale=0.5)
    add("embeddings.token_type_embeddings.weight", config["type_vocab_size"], sizes["hidden"], scale=0.5)
    add_norm("embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        for name, (outputs, inputs) in LAYER_SHAPES.items():
            at = f"encoder.layer.{layer}.{name}"
            add(f"{at}.weight", sizes[outputs], sizes[inputs], scale=1.5 / math.sqrt(sizes[inputs]))
            add(f"{at}.bias", sizes[outputs], scale=0.3)
        add_norm(f"encoder.layer.{layer}.attention.output.LayerNorm")
        add_norm(f"encoder.layer.{layer}.output.LayerNorm")
    add("pooler.dense.weight", sizes["hidden"], sizes["hidden"])
    return found


def write_checkpoint(
    folder: Path,
    *,
    prefix: str = "",
    pooling: str | None = "pooling_mode_mean_tokens",
    normalize: bool = True,
    max_tokens: int | None = 24,
    **changes: Any,
) -> dict[str, Any]:
    """Write a checkpoint folder and return its config; `changes` go into `config.json`."""
    config = CONFIG | changes
    folder.mkdir(parents=True, exist_ok=True)
    save_file({prefix + name: value for name, value in tensors(config).items()}, folder / "model.safetensors")
    write_json(folder / "config.json", config)
    write_tokenizer(folder / "tokenizer.json")
    modules = ["Transformer", "Pooling", "Normalize"] if normalize else ["Transformer", "Pooling"]
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    if pooling is not None:
        kinds = [{"type": f"sentence_transformers.models.{kind}", "path": paths[kind]} for kind in modules]
        write_json(folder / "modules.json", kinds)
        write_json(
            folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, pooling: True, "other": False}
        )
    if max_tokens is not None:
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens})
    return config


def write_json(path: Path, content: Any) -> None:
    """Write JSON, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_tokenizer(path: Path) -> None:
    """A word-level tokenizer, saved like MiniLM's: cut at 8 tokens and padded to 8, both of which are traps."""
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair=None, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(max_length=8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(path))


def bert(config: dict[str, Any], input_ids: np.ndarray, offset: int = 0) -> np.ndarray:
    """BERT's last hidden states, float64[length, hidden], as its paper and transformers compute them."""
    weights = {name: value.astype(np.float64) for name, value in tensors(config).items()}

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        scaled = centred / np.sqrt(variance + config["layer_norm_eps"])
        return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])

    length, heads = len(input_ids), config["num_attention_heads"]
    positions = weights["embeddings.position_embeddings.weight"][offset : offset + length]
    x = weights["embeddings.word_embeddings.weight"][input_ids] + positions
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        query, key, value = (
            linear(x, f"{at}.attention.self.{name}").reshape(length, heads, -1).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        context = (shares / shares.sum(-1, keepdims=True) @ value).transpose(1, 0, 2).reshape(length, -1)
        x = norm(x + linear(context, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        wide = activation(linear(x, f"{at}.intermediate.dense"), config["hidden_act"])
        x = norm(x + linear(wide, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return x


def activation(x: np.ndarray, kind: str) -> np.ndarray:
    """GELU with the error function, its tanh form, or ReLU."""
    if kind == "relu":
        return np.maximum(x, 0)
    if kind == "gelu":
        return np.asarray(x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))
    return np.asarray(x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def ragged(lengths: list[int], seed: int = 1) -> list[np.ndarray]:
    """Random texts of the given lengths, int32 token ids."""
    rng = np.random.default_rng(seed)
    return [rng.integers(4, len(WORDS), length, dtype=np.int32) for length in lengths]

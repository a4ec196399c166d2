"""A BERT checkpoint as a GGUF file that llama.cpp reads: the matrices in Q8_0, the rest in FP32.

As llama.cpp's own converter lays it out, without PyTorch: tokens that begin a word carry a mark, others lose their
`##`, and the pooling layer that embeddings do not use is left out.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

BEGINS_A_WORD = "\u2581"
SPECIAL = {"[PAD]": "pad", "[UNK]": "unk", "[CLS]": "bos", "[SEP]": "sep", "[MASK]": "mask"}
NORMAL, CONTROL = 1, 3  # kinds of tokens in GGUF


def write(checkpoint: Path, file: Path) -> None:
    """Read config.json, vocab.txt and model.safetensors of `checkpoint`; write `file`, whole or not at all."""
    gguf = importlib.import_module("gguf")
    partial = file.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "bert")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    _settings(writer, config, gguf)
    _vocabulary(writer, (checkpoint / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n"))
    _weights(writer, checkpoint / "model.safetensors", config["num_hidden_layers"], gguf)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(file)


def _settings(writer: Any, config: dict[str, Any], gguf: Any) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def _vocabulary(writer: Any, tokens: list[str]) -> None:
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([marked(token) for token in tokens])
    writer.add_token_types([CONTROL if token in SPECIAL else NORMAL for token in tokens])
    for token, name in SPECIAL.items():
        getattr(writer, f"add_{name}_token_id")(tokens.index(token))
    writer.add_eos_token_id(tokens.index("[SEP]"))


def marked(token: str) -> str:
    """A token of a WordPiece vocabulary in llama.cpp's form."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token.removeprefix("##") if token.startswith("##") else BEGINS_A_WORD + token


def _weights(writer: Any, file: Path, layers: int, gguf: Any) -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, layers)
    kind = gguf.GGMLQuantizationType.Q8_0
    for found, given in importlib.import_module("safetensors.numpy").load_file(file).items():
        name = names.get_name(found.removeprefix("bert."), try_suffixes=(".weight", ".bias"))
        if name is None:
            continue  # position numbers, and the pooling layer
        weights = given.astype(np.float32)
        if weights.ndim == 2 and not name.startswith(("position_embd", "token_types")):
            writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, weights)

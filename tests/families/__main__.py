"""Write golden/ anew: `pip install -r tests/families/requirements.txt`, then `python -m tests.families`."""

import importlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from tests.families.cases import GOLDEN, random_tensor, random_texts, write_weights

# No dependency of the project, and so unknown to its type checks.
torch: Any = importlib.import_module("torch")
transformers: Any = importlib.import_module("transformers")

VOCAB = 100  # as many as the tokenizer of tests/tiny_bert.py has
DIGITS = 7
SHORT = [1, 2, 3, 4, 7, 15, 16, 17, 24, 31, 38]
LONG = [1, 2, 5, 33, 127, 128, 129, 193, 255, 256, 257, 300, 513, 600]


@dataclass(frozen=True, slots=True)
class Case:
    """A model to make. `published`: the configuration under the names of its first publisher.

    own_names: save the tensors as transformers names them inside, not as it saves them.
    """

    model: str
    options: Mapping[str, Any]
    lengths: list[int] = field(default_factory=lambda: SHORT)
    published: Mapping[str, Any] | None = None
    own_names: bool = False


def sizes(wide: bool, positions: int = 40) -> dict[str, Any]:
    """Two shapes: four heads of eight, and three heads of sixteen with one more layer."""
    hidden, heads, layers, intermediate = (48, 3, 3, 80) if wide else (32, 4, 2, 64)
    return {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "intermediate_size": intermediate,
        "max_position_embeddings": positions,
        "vocab_size": VOCAB,
    }


def distilbert(wide: bool) -> dict[str, Any]:
    given = sizes(wide)
    return {
        "dim": given["hidden_size"],
        "n_heads": given["num_attention_heads"],
        "n_layers": given["num_hidden_layers"],
        "hidden_dim": given["intermediate_size"],
        "max_position_embeddings": 40,
        "vocab_size": VOCAB,
        "sinusoidal_pos_embds": wide,
    }


def published_nomic(positions: int) -> dict[str, Any]:
    """The keys of nomic-embed-text-v1.5's own configuration."""
    given = sizes(False, positions)
    return {
        "model_type": "nomic_bert",
        "activation_function": "swiglu",
        "n_embd": given["hidden_size"],
        "n_head": given["num_attention_heads"],
        "n_layer": given["num_hidden_layers"],
        "n_inner": given["intermediate_size"],
        "n_positions": positions,
        "max_trained_positions": positions,
        "layer_norm_epsilon": 1e-12,
        "vocab_size": VOCAB,
        "type_vocab_size": 2,
        "prenorm": False,
        "causal": False,
        "parallel_block": False,
        "qkv_proj_bias": False,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "rotary_emb_base": 1000,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "rotary_scaling_factor": None,
        "use_rms_norm": False,
    }


MODERN = {"local_attention": 16, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}
MODERN |= {"bos_token_id": None, "eos_token_id": None}
BIASED = {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "hidden_activation": "gelu_new"}

CASES = {
    "bert": Case("Bert", sizes(False)),
    "roberta": Case("Roberta", sizes(True) | {"pad_token_id": 1, "max_position_embeddings": 42}),
    "distilbert": Case("DistilBert", distilbert(False)),
    "distilbert-wide": Case("DistilBert", distilbert(True)),
    "mpnet": Case("MPNet", sizes(False) | {"max_position_embeddings": 42}),
    "mpnet-long": Case("MPNet", sizes(True) | {"max_position_embeddings": 602}, LONG),
    "nomic-bert": Case("NomicBert", sizes(True)),
    "nomic-bert-published": Case("NomicBert", sizes(False, 600), LONG, published=published_nomic(600)),
    "nomic-bert-own-names": Case("NomicBert", sizes(False), own_names=True),
    "modernbert": Case("ModernBert", sizes(True) | MODERN),
    "modernbert-long": Case("ModernBert", sizes(True, 600) | MODERN | {"local_attention": 128}, LONG),
    "modernbert-biased": Case("ModernBert", sizes(False) | MODERN | BIASED),
    "gte": Case("Gte", sizes(True, 600), LONG),
    "gte-without-types": Case("Gte", sizes(False) | {"type_vocab_size": 0}, own_names=True),
}


def make(case: Case, folder: Path) -> dict[str, Any]:
    """The case's golden content."""
    config = getattr(transformers, f"{case.model}Config")(**case.options, attn_implementation="eager")
    kind = getattr(transformers, f"{case.model}Model")
    model = kind(config)
    model.save_pretrained(folder)
    names = {name: list(value.shape) for name, value in model.state_dict().items() if value.dtype == torch.float32}
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        saved = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    tensors = names if case.own_names else saved
    if case.own_names:
        model.load_state_dict({name: torch.from_numpy(random_tensor(name, shape)) for name, shape in names.items()})
    else:
        write_weights(folder / "model.safetensors", tensors)
        model = kind.from_pretrained(folder, attn_implementation="eager")
    states = hidden_states(model.eval(), random_texts(case.lengths, VOCAB), config.pad_token_id or 0)
    return {
        "config": case.published or json.loads((folder / "config.json").read_text(encoding="utf-8")),
        "tensors": tensors,
        "lengths": case.lengths,
        "mean": [rounded(each.mean(axis=0)) for each in states],
        "first": [rounded(each[0]) for each in states],
        "last": [rounded(each[-1]) for each in states],
    }


def hidden_states(model: Any, texts: list[Any], padding: int) -> list[Any]:
    """The last hidden states of each text, float32[length, hidden], all in one padded batch."""
    longest = max(map(len, texts))
    ids = np.full((len(texts), longest), padding, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    with torch.no_grad():
        output = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
    return [output.last_hidden_state[row, : len(text)].numpy() for row, text in enumerate(texts)]


def rounded(vector: Any) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in vector.tolist()]


def main() -> None:
    """Make every case."""
    GOLDEN.mkdir(exist_ok=True)
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            content = make(case, Path(folder))
        path = GOLDEN / f"{name}.json"
        path.write_text(json.dumps(content) + "\n", encoding="utf-8")
        print(f"{name}: {len(content['tensors'])} tensors, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

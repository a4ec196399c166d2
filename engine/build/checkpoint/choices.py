"""Pooling, normalisation, length and prompts: read from the checkpoint, else a table by its id, else a default.

Every choice carries its provenance, which is printed and kept in the bundle. The user is never prompted.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from engine.build.checkpoint.dense import dense_activation
from engine.build.checkpoint.files import Checkpoint
from engine.build.checkpoint.known_models import KnownModel, known_model
from engine.build.checkpoint.shape import read_shape
from engine.build.errors import CheckpointError, UnsupportedModel
from engine.bundle import Pooling

OVERRIDE = "given"
POOLING_MODES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
MODULE_ORDER = re.compile(r"Transformer Pooling( Dense)*( Normalize)?")
MAX_DIMENSIONS = 65_536
MAX_MATRYOSHKA_DIMS = 64
UNLIMITED_TOKENS = 1_000_000  # tokenizer_config.json writes 1e30 for no limit


@dataclass(frozen=True, slots=True)
class Choices:
    """What was chosen; `provenance` has an entry for each of the other fields that a user may wonder about."""

    pooling: Pooling
    normalize: bool
    dense: tuple[str, ...]  # folders of Dense modules
    max_tokens: int
    prompts: dict[str, str]
    default_prompt_name: str | None
    matryoshka_dims: list[int] | None
    matryoshka_layer_norm: bool
    provenance: dict[str, str]


def choose(
    checkpoint: Checkpoint,
    max_positions: int,
    pooling: Pooling | None = None,
    prompts: Mapping[str, str] | None = None,
) -> Choices:
    """All choices for a checkpoint; `pooling` and `prompts` given here win over its own.

    max_positions: the model's own limit in tokens. Raises UnsupportedModel or CheckpointError.
    """
    modules = _modules(checkpoint)
    known = known_model(checkpoint.name)
    chosen_pooling, pooling_from = (pooling, OVERRIDE) if pooling else _pooling(checkpoint, modules, known)
    normalize, normalize_from = _normalize(modules)
    dense = dense_folders(checkpoint)
    for folder in dense:
        dense_activation(checkpoint, folder)
    _refuse_lower_case(checkpoint)
    max_tokens, length_from = _max_tokens(checkpoint, max_positions)
    chosen_prompts, default_name, prompts_from = _prompts(checkpoint, prompts, known)
    matryoshka_dims, dims_from = _matryoshka_dims(checkpoint, known)
    provenance = {
        "pooling": pooling_from,
        "normalize": normalize_from,
        "max_tokens": length_from,
        "prompts": prompts_from,
        "matryoshka_dims": dims_from,
    }
    return Choices(
        pooling=chosen_pooling,
        normalize=normalize,
        dense=dense,
        max_tokens=max_tokens,
        prompts=chosen_prompts,
        default_prompt_name=default_name,
        matryoshka_dims=matryoshka_dims,
        matryoshka_layer_norm=known is not None and known.matryoshka_layer_norm,
        provenance=provenance,
    )


def refuse_unsupported(
    checkpoint: Checkpoint, pooling: Pooling | None = None, prompts: Mapping[str, str] | None = None
) -> None:
    """Raises UnsupportedModel or CheckpointError for what the files beside the weights show; options as in `choose`."""
    choose(checkpoint, read_shape(checkpoint.config).max_positions, pooling, prompts)


def dense_folders(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The folders of the Dense modules, in order. Raises as `choose`."""
    return tuple(path for kind, path in _modules(checkpoint) or () if kind == "Dense")


def _modules(checkpoint: Checkpoint) -> list[tuple[str, str]] | None:
    """`modules.json` as kinds and folders in order; None where there is no such file.

    Raises UnsupportedModel for a kind or an order that has no graph: nothing of a model is left out in silence.
    """
    entries = checkpoint.json("modules.json")
    if entries is None:
        return None
    try:
        types = [(str(entry["type"]), str(entry["path"])) for entry in entries]
    except (TypeError, KeyError) as error:
        raise CheckpointError(f"modules.json is not a list of modules: {error!r}") from None
    if own_code := sorted(kind for kind, _ in types if not kind.startswith("sentence_transformers.")):
        raise UnsupportedModel(f"modules.json names {', '.join(own_code)}: a checkpoint's own code is never run here")
    modules = [(kind.rsplit(".", 1)[-1], path) for kind, path in types]
    kinds = [kind for kind, _ in modules]
    if unknown := sorted(set(kinds) - {"Transformer", "Pooling", "Dense", "Normalize"}):
        raise UnsupportedModel(
            f"modules.json names {', '.join(unknown)}; supported are Transformer, Pooling, Dense and Normalize"
        )
    if not MODULE_ORDER.fullmatch(" ".join(kinds)):
        raise UnsupportedModel(
            f"modules.json has the order {', '.join(kinds)}; supported is Transformer, Pooling, any Dense, Normalize"
        )
    return modules


def _folder(modules: list[tuple[str, str]] | None, kind: str, default: str) -> str:
    return next((path for each, path in modules or () if each == kind), default)


def _pooling(
    checkpoint: Checkpoint, modules: list[tuple[str, str]] | None, known: KnownModel | None
) -> tuple[Pooling, str]:
    file = f"{_folder(modules, 'Pooling', '1_Pooling')}/config.json"
    config = checkpoint.json(file)
    if config is not None:
        return _pooling_mode(config, file), file
    if known is not None:
        return known.pooling, f"built-in table ({checkpoint.name})"
    return "mean", "default (the checkpoint names none)"


def _pooling_mode(config: Mapping[str, Any], file: str) -> Pooling:
    if config.get("include_prompt") is False:
        raise UnsupportedModel(
            f"{file} leaves prompts out of the pooling (include_prompt is false), for which there is no graph"
        )
    named = config.get("pooling_mode")  # newer files name the mode, older ones have a flag for each
    modes = [named] if isinstance(named, str) else [mode for mode, on in config.items() if on is True]
    modes = [mode for mode in modes if mode.startswith("pooling_mode_") or mode == named]
    known = [POOLING_MODES.get(mode, mode.replace("lasttoken", "last")) for mode in modes]
    if len(known) != 1 or known[0] not in get_args(Pooling):
        raise UnsupportedModel(f"{file} names pooling {modes}; supported is one of {', '.join(get_args(Pooling))}")
    return cast(Pooling, known[0])


def _normalize(modules: list[tuple[str, str]] | None) -> tuple[bool, str]:
    if modules is None:
        return True, "default (the checkpoint has no modules.json)"
    return any(kind == "Normalize" for kind, _ in modules), "modules.json"


def _refuse_lower_case(checkpoint: Checkpoint) -> None:
    """`do_lower_case` is for texts before they are tokenised; most tokenizers then do it themselves."""
    if not (checkpoint.json("sentence_bert_config.json") or {}).get("do_lower_case"):
        return
    normalizer = json.dumps((checkpoint.json("tokenizer.json") or {}).get("normalizer"))
    if '"lowercase": true' not in normalizer and '"type": "Lowercase"' not in normalizer:
        raise UnsupportedModel("sentence_bert_config.json has do_lower_case, which tokenizer.json does not do")


def _max_tokens(checkpoint: Checkpoint, max_positions: int) -> tuple[int, str]:
    limits = (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    )
    for file, key in limits:
        value = (checkpoint.json(file) or {}).get(key)
        if isinstance(value, int | float) and 0 < value < UNLIMITED_TOKENS:
            if value <= max_positions:
                return int(value), file
            return max_positions, f"config.json (its {max_positions} positions are fewer than {file}'s {int(value)})"
    return max_positions, "config.json (number of positions)"


def _prompts(
    checkpoint: Checkpoint, given: Mapping[str, str] | None, known: KnownModel | None
) -> tuple[dict[str, str], str | None, str]:
    if given is not None:
        return dict(given), None, OVERRIDE
    file = "config_sentence_transformers.json"
    config = checkpoint.json(file) or {}
    if config.get("truncate_dim"):
        raise UnsupportedModel(
            f"{file} has truncate_dim {config['truncate_dim']}; bundles give whole vectors: take the line out, and ask"
            " for `dimensions` in requests"
        )
    prompts = {str(name): str(text) for name, text in (config.get("prompts") or {}).items() if text}
    if prompts:
        default_name = config.get("default_prompt_name")
        return prompts, default_name if default_name in prompts else None, file
    if known is not None and known.prompts:
        return dict(known.prompts), None, f"built-in table ({checkpoint.name})"
    return {}, None, "none (neither the checkpoint nor the built-in table has any)"


def _matryoshka_dims(checkpoint: Checkpoint, known: KnownModel | None) -> tuple[list[int] | None, str]:
    """The sizes a model was trained for besides its own; None where neither its files nor the table say."""
    named = checkpoint.config.get("matryoshka_dimensions")
    if isinstance(named, list) and all(type(size) is int and 0 < size <= MAX_DIMENSIONS for size in named):
        return sorted(set(named), reverse=True)[:MAX_MATRYOSHKA_DIMS], "config.json"
    if known is not None:
        return list(known.matryoshka_dims), f"built-in table ({checkpoint.name})"
    return None, "unknown (neither the checkpoint nor the built-in table says)"

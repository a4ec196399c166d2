"""Pooling, normalisation, length and prompts: read from the checkpoint, else a table by its id, else a default.

Every choice carries its provenance, which is printed and kept in the bundle. The user is never prompted.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from engine.build.checkpoint.files import Checkpoint
from engine.build.errors import CheckpointError, UnsupportedModel
from engine.bundle import Pooling

OVERRIDE = "given"
POOLING_MODES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
UNLIMITED_TOKENS = 1_000_000  # tokenizer_config.json writes 1e30 for no limit

_PASSAGES = "Represent this sentence for searching relevant passages: "
_PASSAGES_ZH = "为这个句子生成表示以用于检索相关文章："  # noqa: RUF001  # the model's own punctuation


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What a model's card has and its files have not."""

    pattern: str  # of the id without its owner, matched whole, without regard to case
    pooling: Pooling
    prompts: Mapping[str, str] = field(default_factory=dict)


KNOWN_MODELS = (
    KnownModel(r"bge-(small|base|large)-en(-v1\.5)?", "cls", {"query": _PASSAGES}),
    KnownModel(r"bge-(small|base|large)-zh(-v1\.5)?", "cls", {"query": _PASSAGES_ZH}),
    KnownModel(r"bge-m3", "cls"),
    KnownModel(r"(multilingual-)?e5-(small|base|large)(-v2)?", "mean", {"query": "query: ", "document": "passage: "}),
    KnownModel(
        r"multilingual-e5-large-instruct",
        "mean",
        {"query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "},
    ),
    KnownModel(
        r"nomic-embed-text-v1(\.5)?",
        "mean",
        {
            "query": "search_query: ",
            "document": "search_document: ",
            "classification": "classification: ",
            "clustering": "clustering: ",
        },
    ),
    KnownModel(r"snowflake-arctic-embed-(xs|s|m|m-v1\.5|m-long|l)", "cls", {"query": _PASSAGES}),
    KnownModel(r"snowflake-arctic-embed-[ml]-v2\.0", "cls", {"query": "query: "}),
    KnownModel(r"mxbai-embed-large-v1", "cls", {"query": _PASSAGES}),
    KnownModel(r"gte-(small|base|large)", "mean"),
    KnownModel(r"(all|paraphrase|multi-qa)-MiniLM-.*", "mean"),
)


@dataclass(frozen=True, slots=True)
class Choices:
    """What was chosen; `provenance` has an entry for each of the other fields that a user may wonder about."""

    pooling: Pooling
    normalize: bool
    max_tokens: int
    prompts: dict[str, str]
    default_prompt_name: str | None
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
    known = _known(checkpoint.name)
    chosen_pooling, pooling_from = (pooling, OVERRIDE) if pooling else _pooling(checkpoint, modules, known)
    normalize, normalize_from = _normalize(modules)
    max_tokens, length_from = _max_tokens(checkpoint, max_positions)
    chosen_prompts, default_name, prompts_from = _prompts(checkpoint, prompts, known)
    provenance = {
        "pooling": pooling_from,
        "normalize": normalize_from,
        "max_tokens": length_from,
        "prompts": prompts_from,
    }
    return Choices(chosen_pooling, normalize, max_tokens, chosen_prompts, default_name, provenance)


def _known(name: str) -> KnownModel | None:
    return next((model for model in KNOWN_MODELS if re.fullmatch(model.pattern, name, re.IGNORECASE)), None)


def _modules(checkpoint: Checkpoint) -> dict[str, str] | None:
    """`modules.json` as kind -> folder; None where there is no such file."""
    entries = checkpoint.json("modules.json")
    if entries is None:
        return None
    try:
        modules = {str(entry["type"]).rsplit(".", 1)[-1]: str(entry["path"]) for entry in entries}
    except (TypeError, KeyError) as error:
        raise CheckpointError(f"modules.json is not a list of modules: {error!r}") from None
    if unknown := sorted(modules.keys() - {"Transformer", "Pooling", "Normalize"}):
        raise UnsupportedModel(
            f"modules.json names {', '.join(unknown)}; supported are Transformer, Pooling and Normalize"
        )
    return modules


def _pooling(checkpoint: Checkpoint, modules: dict[str, str] | None, known: KnownModel | None) -> tuple[Pooling, str]:
    file = f"{(modules or {}).get('Pooling', '1_Pooling')}/config.json"
    config = checkpoint.json(file)
    if config is not None:
        return _pooling_mode(config, file), file
    if known is not None:
        return known.pooling, f"built-in table ({checkpoint.name})"
    return "mean", "default (the checkpoint names none)"


def _pooling_mode(config: Mapping[str, Any], file: str) -> Pooling:
    named = config.get("pooling_mode")  # newer files name the mode, older ones have a flag for each
    modes = [named] if isinstance(named, str) else [mode for mode, on in config.items() if on is True]
    modes = [mode for mode in modes if mode.startswith("pooling_mode_") or mode == named]
    known = [POOLING_MODES.get(mode, mode.replace("lasttoken", "last")) for mode in modes]
    if len(known) != 1 or known[0] not in get_args(Pooling):
        raise UnsupportedModel(f"{file} names pooling {modes}; supported is one of {', '.join(get_args(Pooling))}")
    return cast(Pooling, known[0])


def _normalize(modules: dict[str, str] | None) -> tuple[bool, str]:
    if modules is None:
        return True, "default (the checkpoint has no modules.json)"
    return "Normalize" in modules, "modules.json"


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
    prompts = {str(name): str(text) for name, text in (config.get("prompts") or {}).items() if text}
    if prompts:
        default_name = config.get("default_prompt_name")
        return prompts, default_name if default_name in prompts else None, file
    if known is not None and known.prompts:
        return dict(known.prompts), None, f"built-in table ({checkpoint.name})"
    return {}, None, "none (neither the checkpoint nor the built-in table has any)"

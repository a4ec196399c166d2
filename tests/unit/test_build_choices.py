"""Pooling, normalisation, length and prompts: what wins over what, and where it says it came from."""

from pathlib import Path
from typing import Any

import pytest

from engine.build.checkpoint.choices import Choices, choose, refuse_unsupported
from engine.build.checkpoint.families import FAMILIES
from engine.build.checkpoint.files import Checkpoint
from engine.build.checkpoint.known_models import KNOWN_MODELS
from engine.build.errors import BuildError, UnsupportedModel
from tests.families.cases import cases, read_golden
from tests.tiny_bert import write_checkpoint, write_json

BGE_QUERY = "Represent this sentence for searching relevant passages: "


def chosen(folder: Path, model_id: str = "someone/unheard-of", max_positions: int = 512, **overrides: Any) -> Choices:
    """What is chosen for the checkpoint in `folder`, were it called `model_id`."""
    checkpoint = Checkpoint(folder, model_id, None, "0" * 64, {})
    return choose(checkpoint, max_positions, **overrides)


def test_the_checkpoints_own_files_come_first(tmp_path: Path) -> None:
    """CLS pooling in the files wins over the table, which knows E5 as mean-pooled."""
    write_checkpoint(tmp_path, pooling="pooling_mode_cls_token", max_tokens=24)
    write_json(
        tmp_path / "config_sentence_transformers.json",
        {"prompts": {"query": "ask: ", "document": ""}, "default_prompt_name": "query"},
    )
    choices = chosen(tmp_path, "intfloat/e5-small-v2")
    assert (choices.pooling, choices.normalize, choices.max_tokens) == ("cls", True, 24)
    assert (choices.prompts, choices.default_prompt_name) == ({"query": "ask: "}, "query")
    assert choices.provenance == {
        "pooling": "1_Pooling/config.json",
        "normalize": "modules.json",
        "max_tokens": "sentence_bert_config.json",
        "prompts": "config_sentence_transformers.json",
        "matryoshka_dims": "built-in table (e5-small-v2)",
    }


@pytest.mark.parametrize(
    ("model_id", "config", "expected"),
    [
        ("nomic-ai/nomic-embed-text-v1.5", {}, [512, 256, 128, 64]),
        ("nomic-ai/nomic-embed-text-v1", {}, []),
        ("sentence-transformers/all-MiniLM-L6-v2", {}, []),
        ("someone/unheard-of", {}, None),
        ("someone/unheard-of", {"matryoshka_dimensions": [32, 64, 128]}, [128, 64, 32]),
        ("someone/unheard-of", {"matryoshka_dimensions": "all"}, None),
        ("someone/unheard-of", {"matryoshka_dimensions": [0, True, 10**9]}, None),
    ],
)
def test_sizes_a_model_was_trained_for(
    tmp_path: Path, model_id: str, config: dict[str, Any], expected: list[int] | None
) -> None:
    """From the checkpoint's configuration, else the table; otherwise not known."""
    write_checkpoint(tmp_path)
    checkpoint = Checkpoint(tmp_path, model_id, None, "0" * 64, config)
    assert choose(checkpoint, 512).matryoshka_dims == expected


@pytest.mark.parametrize(
    ("model_id", "expected"),
    [("nomic-ai/nomic-embed-text-v1.5", True), ("nomic-ai/nomic-embed-text-v1", False), ("someone/else", False)],
)
def test_a_layer_norm_before_the_cut_is_known_by_name(tmp_path: Path, model_id: str, expected: bool) -> None:
    """The card's own recipe; no file says so."""
    write_checkpoint(tmp_path)
    assert chosen(tmp_path, model_id).matryoshka_layer_norm is expected


@pytest.mark.parametrize(
    ("model_id", "pooling", "query", "document"),
    [
        ("BAAI/bge-small-en-v1.5", "cls", BGE_QUERY, None),
        ("BAAI/bge-m3", "cls", None, None),
        ("intfloat/e5-base-v2", "mean", "query: ", "passage: "),
        ("intfloat/multilingual-e5-small", "mean", "query: ", "passage: "),
        ("nomic-ai/nomic-embed-text-v1.5", "mean", "search_query: ", "search_document: "),
        ("Snowflake/snowflake-arctic-embed-m", "cls", BGE_QUERY, None),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", "cls", "query: ", None),
        ("thenlper/gte-small", "mean", None, None),
        ("Alibaba-NLP/gte-base-en-v1.5", "cls", None, None),
        ("sentence-transformers/all-mpnet-base-v2", "mean", None, None),
        ("sentence-transformers/all-MiniLM-L6-v2", "mean", None, None),
    ],
)
def test_the_table_knows_what_the_cards_say(
    tmp_path: Path, model_id: str, pooling: str, query: str | None, document: str | None
) -> None:
    """A checkpoint whose files say nothing is known by its id."""
    write_checkpoint(tmp_path, pooling=None, max_tokens=None)
    choices = chosen(tmp_path, model_id)
    assert choices.pooling == pooling
    assert (choices.prompts.get("query"), choices.prompts.get("document")) == (query, document)
    assert choices.provenance["pooling"].startswith("built-in table")


def test_an_unknown_model_gets_defaults_that_say_so(tmp_path: Path) -> None:
    """Mean pooling, unit length, no prompts, as many tokens as there are positions."""
    write_checkpoint(tmp_path, pooling=None, max_tokens=None)
    choices = chosen(tmp_path, max_positions=40)
    assert (choices.pooling, choices.normalize, choices.max_tokens, choices.prompts) == ("mean", True, 40, {})
    assert choices.provenance["pooling"].startswith("default")
    assert choices.provenance["prompts"].startswith("none")


def test_what_is_given_wins(tmp_path: Path) -> None:
    """`--pooling` and `--prompts` are the user's last word."""
    write_checkpoint(tmp_path)
    choices = chosen(tmp_path, "BAAI/bge-small-en", pooling="last", prompts={})
    assert (choices.pooling, choices.prompts) == ("last", {})
    assert (choices.provenance["pooling"], choices.provenance["prompts"]) == ("given", "given")


def test_without_a_normalize_module_vectors_keep_their_length(tmp_path: Path) -> None:
    """Some checkpoints, paraphrase-MiniLM among them, do not normalise."""
    write_checkpoint(tmp_path, normalize=False)
    assert chosen(tmp_path).normalize is False


@pytest.mark.parametrize(
    ("tokenizer_limit", "expected", "origin"),
    [(30, 30, "tokenizer_config.json"), (10**30, 40, "config.json"), (64, 40, "config.json")],
)
def test_length_is_the_tokenizers_where_it_has_one(
    tmp_path: Path, tokenizer_limit: int, expected: int, origin: str
) -> None:
    """A limit of 1e30 means none; one beyond the positions cannot be kept."""
    write_checkpoint(tmp_path, max_tokens=None)
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": float(tokenizer_limit)})
    choices = chosen(tmp_path, max_positions=40)
    assert choices.max_tokens == expected
    assert choices.provenance["max_tokens"].startswith(origin)


def test_pooling_by_name_is_read(tmp_path: Path) -> None:
    """Newer files name the mode instead of raising a flag."""
    write_checkpoint(tmp_path)
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode": "cls", "include_prompt": True})
    assert chosen(tmp_path).pooling == "cls"


@pytest.mark.parametrize(
    "config",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_mean_tokens": False},
    ],
)
def test_pooling_that_has_no_graph_is_refused(tmp_path: Path, config: dict[str, bool]) -> None:
    """Max pooling, two modes at once, none at all."""
    write_checkpoint(tmp_path)
    write_json(tmp_path / "1_Pooling" / "config.json", config)
    with pytest.raises(UnsupportedModel, match="mean, cls, last"):
        chosen(tmp_path)


def modules(*kinds: str, package: str = "sentence_transformers.models") -> list[dict[str, str]]:
    """`modules.json` with these kinds in this order."""
    return [{"type": f"{package}.{kind}", "path": f"{place}_{kind}"} for place, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (modules("Transformer", "Pooling", "LSTM"), "names LSTM"),
        (modules("Transformer", "Pooling", "Normalize", "Dense"), "the order Transformer, Pooling, Normalize, Dense"),
        (modules("Transformer", "Pooling", package="custom_st"), r"custom_st\.Transformer: a checkpoint's own code"),
        ({"no": "list"}, "not a list of modules"),
    ],
)
def test_modules_that_have_no_graph_are_refused(tmp_path: Path, content: object, message: str) -> None:
    """A module would be left out in silence otherwise."""
    write_checkpoint(tmp_path)
    write_json(tmp_path / "modules.json", content)
    with pytest.raises(BuildError, match=message):
        chosen(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": False}, "include_prompt"),
        ("config_sentence_transformers.json", {"truncate_dim": 256}, "truncate_dim 256"),
        ("sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": True}, "do_lower_case"),
    ],
)
def test_what_a_bundle_cannot_do_is_refused_by_name(tmp_path: Path, file: str, content: object, message: str) -> None:
    """Prompts out of the pooling, shortened vectors, lower case that the tokenizer does not make."""
    write_checkpoint(tmp_path)
    write_json(tmp_path / file, content)
    with pytest.raises(UnsupportedModel, match=message):
        chosen(tmp_path)


def test_lower_case_that_the_tokenizer_makes_is_taken(tmp_path: Path) -> None:
    """The usual case: BERT's uncased normalizer."""
    write_checkpoint(tmp_path)
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": True})
    write_json(tmp_path / "tokenizer.json", {"normalizer": {"type": "BertNormalizer", "lowercase": True}})
    assert chosen(tmp_path).max_tokens == 24


@pytest.mark.parametrize("kind", sorted({kind for model in KNOWN_MODELS for kind in model.types}))
def test_every_known_model_can_be_built(tmp_path: Path, kind: str) -> None:
    """No name in the table is then refused for its type: a checkpoint of each passes all that is asked of it."""
    family = next(family for family in FAMILIES if kind in family.types)
    silu = {"hidden_act": "silu"} if kind == "nomic_bert" else {}
    config = write_checkpoint(tmp_path, model_type=kind, pad_token_id=1, **silu)
    refuse_unsupported(Checkpoint(tmp_path, "owner/model", None, "", config))
    assert any(read_golden(name).config["model_type"] in family.types for name in cases())  # vectors by transformers

"""Pooling, normalisation, length and prompts: what wins over what, and where it says it came from."""

from pathlib import Path
from typing import Any

import pytest

from engine.build.checkpoint.choices import Choices, choose
from engine.build.checkpoint.files import Checkpoint
from engine.build.errors import UnsupportedModel
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
    }


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


def test_a_further_module_is_refused(tmp_path: Path) -> None:
    """A Dense layer after pooling would be left out in silence otherwise."""
    write_checkpoint(tmp_path)
    write_json(tmp_path / "modules.json", [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}])
    with pytest.raises(UnsupportedModel, match="names Dense"):
        chosen(tmp_path)

"""What the cards of some models have and their files have not, by the model's id.

A name in this table can be built: a test checks that each of its types has a graph.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.bundle import Pooling

_PASSAGES = "Represent this sentence for searching relevant passages: "
_PASSAGES_ZH = "为这个句子生成表示以用于检索相关文章："  # noqa: RUF001  # the model's own punctuation
_QUERY = {"query": "query: "}
_SEARCH = {"query": "search_query: ", "document": "search_document: "}
_NOMIC = _SEARCH | {"classification": "classification: ", "clustering": "clustering: "}


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model, or several that are alike. `types`: the `model_type`s of their configurations."""

    pattern: str  # of the id without its owner, matched whole, without regard to case
    types: tuple[str, ...]
    pooling: Pooling
    prompts: Mapping[str, str] = field(default_factory=dict)
    matryoshka_dims: tuple[int, ...] = ()  # sizes it was trained for besides its own, as its card says
    matryoshka_layer_norm: bool = False  # the card takes a layer norm before it shortens


KNOWN_MODELS = (
    KnownModel(r"bge-(small|base|large)-en(-v1\.5)?", ("bert",), "cls", {"query": _PASSAGES}),
    KnownModel(r"bge-(small|base|large)-zh(-v1\.5)?", ("bert",), "cls", {"query": _PASSAGES_ZH}),
    KnownModel(r"bge-m3", ("xlm-roberta",), "cls"),
    KnownModel(
        r"(multilingual-)?e5-(small|base|large)(-v2)?",
        ("bert", "xlm-roberta"),
        "mean",
        {"query": "query: ", "document": "passage: "},
    ),
    KnownModel(
        r"multilingual-e5-large-instruct",
        ("xlm-roberta",),
        "mean",
        {"query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "},
    ),
    KnownModel(r"nomic-embed-text-v1", ("nomic_bert",), "mean", _NOMIC),
    KnownModel(r"nomic-embed-text-v1\.5", ("nomic_bert",), "mean", _NOMIC, (512, 256, 128, 64), True),
    KnownModel(r"modernbert-embed-(base|large)", ("modernbert",), "mean", _SEARCH, (256,)),
    KnownModel(r"snowflake-arctic-embed-(xs|s|m|l)", ("bert",), "cls", {"query": _PASSAGES}),
    KnownModel(r"snowflake-arctic-embed-m-v1\.5", ("bert",), "cls", {"query": _PASSAGES}, (256,)),
    KnownModel(r"snowflake-arctic-embed-m-long", ("nomic_bert",), "cls", {"query": _PASSAGES}),
    KnownModel(r"snowflake-arctic-embed-m-v2\.0", ("gte",), "cls", _QUERY, (256,)),
    KnownModel(r"snowflake-arctic-embed-l-v2\.0", ("xlm-roberta",), "cls", _QUERY, (256,)),
    KnownModel(r"mxbai-embed-large-v1", ("bert",), "cls", {"query": _PASSAGES}, (512,)),
    KnownModel(r"gte-(small|base|large)", ("bert",), "mean"),
    KnownModel(r"gte-(base|large)-en-v1\.5", ("new", "gte"), "cls"),
    KnownModel(r"gte-multilingual-base", ("new", "gte"), "cls", matryoshka_dims=(128,)),
    KnownModel(r"gte-modernbert-base", ("modernbert",), "cls"),
    KnownModel(r"(all|paraphrase|multi-qa)-MiniLM-.*", ("bert",), "mean"),
    KnownModel(r"(all|paraphrase)-mpnet-base-v[12]", ("mpnet",), "mean"),
    KnownModel(r"multi-qa-mpnet-base-dot-v1", ("mpnet",), "cls"),
    KnownModel(r"multi-qa-mpnet-base-cos-v1", ("mpnet",), "mean"),
    KnownModel(r"multi-qa-distilbert-(cos|dot)-v1", ("distilbert",), "mean"),
    KnownModel(r"all-distilroberta-v1", ("roberta",), "mean"),
)


def known_model(name: str) -> KnownModel | None:
    """What is known of a model by its id without the owner."""
    return next((model for model in KNOWN_MODELS if re.fullmatch(model.pattern, name, re.IGNORECASE)), None)

"""What a request's fields mean: synonyms, what is refused, what is ignored and counted."""

from typing import Any

import orjson
import pytest
from prometheus_client import REGISTRY

from gateway.errors import BadRequest
from gateway.names import InputType
from gateway.routes.fields import FIXED, HARMLESS, IGNORED_HEADER, MEANT, Options, options_of
from gateway.routes.output_types import Output, OutputType
from gateway.routes.schemas import EmbeddingsBody, parse


def options(is_strict: bool = False, headers: dict[bytes, bytes] | None = None, **fields: Any) -> Options:
    return options_of(parse(orjson.dumps({"input": "a", **fields}), EmbeddingsBody), headers or {}, is_strict)


def refusal(is_strict: bool = False, **fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        options(is_strict, **fields)
    return caught.value


def ignored(field: str) -> float:
    return REGISTRY.get_sample_value("dejavec_ignored_fields_total", {"field": field}) or 0.0


@pytest.mark.parametrize("name", sorted(HARMLESS))
@pytest.mark.parametrize("value", [None, 0, "x", {"a": [1]}, [None]])
def test_what_cannot_change_a_vector_is_ignored_and_counted(name: str, value: Any) -> None:
    """Whatever its value; the reply does not mention it."""
    before = ignored(name)
    assert options(**{name: value}) == Options()
    assert name == "user" or ignored(name) == before + 1  # `user` is OpenAI's own, so not worth counting


@pytest.mark.parametrize("name", ["late_chunking", "stream", "embedding_types", "task", "truncate", "nonsense"])
def test_null_is_as_if_it_were_not_there(name: str) -> None:
    """Frameworks send all fields they know."""
    assert options(**{name: None}) == Options()


def test_unknown_fields_are_ignored_and_named_in_the_reply() -> None:
    """One label for all of them, since their names are the clients'; a name that could break a header is not shown."""
    before = ignored("other")
    fields = {"made_up": 1, "a b": 1, "x\r\ny": 1, "é": 1, "n" * 100: 1, "also": None}
    assert options(**fields).headers == [(IGNORED_HEADER, b"made_up")]
    assert ignored("other") == before + 6
    many = options(**{f"field{number}x": 1 for number in range(40)})
    assert len(dict(many.headers)[IGNORED_HEADER].split(b", ")) == 16


@pytest.mark.parametrize("name", sorted(FIXED))
def test_what_would_need_another_vector_is_refused_by_name(name: str) -> None:
    """Late chunking, instructions, images, ...; the values that ask for what is so anyway pass."""
    for value in FIXED[name][0]:
        assert options(**{name: value}) == Options()
    assert refusal(**{name: "something else"}).param == name


@pytest.mark.parametrize(
    ("name", "meant"),
    [("dimension", "dimensions"), ("Dimensions", "dimensions"), ("dim", "dimensions"), ("inputType", "input_type"),
     ("encodingFormat", "encoding_format"), ("promptName", "prompt_name"), ("outputDtype", "output_dtype"),
     ("latechunking", "late_chunking")],
)  # fmt: skip
def test_a_misspelt_field_is_refused_with_its_spelling(name: str, meant: str) -> None:
    """It would be noticed when an index is full of vectors of the wrong size."""
    error = refusal(**{name: 64})
    assert error.param == name
    assert f"`{meant}`" in error.message


def test_spellings_do_not_hide_a_field_that_is_ignored() -> None:
    """No harmless field is taken for another one's misspelling."""
    assert not [name for name in HARMLESS if name.lower().replace("_", "").rstrip("s") in MEANT]


@pytest.mark.parametrize("name", ["output_dimension", "output_dimensions", "truncate_dim", "dimensions"])
def test_dimensions_by_every_name(name: str) -> None:
    """Voyage's, Mistral's and sentence-transformers' name; different sizes are refused, and so is what is no size."""
    assert options(**{name: 3}).dimensions == 3
    assert options(**{name: 3, "dimensions": 3}).dimensions == 3
    assert refusal(**{name: 0}).param == name
    if name != "dimensions":
        assert "differ" in refusal(**{name: 3, "dimensions": 4}).message


@pytest.mark.parametrize("name", ["input_type", "task", "task_type"])
def test_input_types_by_every_name(name: str) -> None:
    """The field is kept, for the error that names it."""
    assert options(**{name: "query"}).input_type == InputType(name, "query")
    assert refusal(**{name: 3}).param == name


@pytest.mark.parametrize(
    ("fields", "truncate"),
    [({"truncate": True}, True), ({"truncate": False}, False), ({"truncate": "NONE"}, False),
     ({"truncate": "END"}, True), ({"truncation": False}, False), ({"truncation": True}, True), ({}, None)],
)  # fmt: skip
def test_truncation_by_every_name(fields: dict[str, Any], truncate: bool | None) -> None:
    """Cohere's and NVIDIA's words, text-embeddings-inference's and Voyage's yes or no."""
    assert options(**fields).truncate is truncate


def test_cutting_at_the_start_is_refused() -> None:
    """It would be another vector."""
    assert refusal(truncate="START").param == "truncate"


@pytest.mark.parametrize(
    "fields", [{"output_dtype": "int8"}, {"embedding_type": "int8"}, {"embedding_types": ["int8"]}]
)
def test_output_types_by_every_name(fields: dict[str, Any]) -> None:
    """With openai's packages, which ask for base64 unasked, they come as lists."""
    assert options(**fields).output == Output((OutputType.INT8,))
    assert options(encoding_format="base64", **fields).output == Output((OutputType.INT8,), as_base64=True)
    sdk = {b"x-stainless-lang": b"python"}
    assert options(headers=sdk, encoding_format="base64", **fields).output == Output((OutputType.INT8,))
    assert options(encoding_format="base64").output == Output(as_base64=True)


@pytest.mark.parametrize("fields", [{"temperature": 1}, {"metadata": None}, {"made_up": 1}, {"timeout": None}])
def test_strict_fields_refuse_what_would_be_ignored(fields: dict[str, Any]) -> None:
    """In OpenAI's words; what has a meaning keeps it."""
    (name,) = fields
    error = refusal(True, **fields)
    assert (error.message, error.param) == (f"Unrecognized request argument supplied: {name}", name)
    assert options(True, output_dimension=3, stream=False, user="u").dimensions == 3


def test_many_fields_are_refused() -> None:
    """Nobody looks at thousands of them."""
    assert "65 fields" in refusal(**{f"field{number}": 1 for number in range(65)}).message

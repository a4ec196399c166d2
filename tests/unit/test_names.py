"""Model names, aliases, suffixes and prompts."""

from dataclasses import fields, replace

import pytest

from engine.protocol import EngineInfo
from gateway.errors import BadRequest
from gateway.names import InputType, ModelNames, hub_id

INFO = EngineInfo(
    model="e5-small",
    fingerprint="f",
    kernel_class="int8-exact",
    dimensions=8,
    max_tokens=16,
    max_request_items=1,
    max_request_tokens=16,
    prompts={"query": "query: ", "passage": "passage: "},
    default_prompt_name="passage",
)
ALIASES = {"text-embedding-3-small": "e5-small", "team/one:v1": "intfloat/e5-small", "stale": "another-model"}
NAMES = ModelNames(ALIASES)


class Sourced(EngineInfo):
    """What an engine says that knows what its model was built from."""

    def __init__(self, source: str) -> None:
        prompts = INFO.prompts | {"clustering": "cluster: "}
        super().__init__(**{**{f.name: getattr(INFO, f.name) for f in fields(INFO)}, "prompts": prompts})
        object.__setattr__(self, "source", source)


WITH_SOURCE = Sourced("intfloat/e5-small")


@pytest.mark.parametrize(
    ("requested", "prompt_name", "prompt"),
    [
        ("e5-small", None, "passage: "),
        ("e5-small:query", None, "query: "),
        ("e5-small:document", None, "passage: "),
        ("text-embedding-3-small:query", None, "query: "),
        ("intfloat/e5-small", "query", "query: "),
        ("e5-small:document", "query", "query: "),
    ],
)
def test_names_and_suffixes_choose_the_prompt(requested: str, prompt_name: str | None, prompt: str) -> None:
    """Own name, hub id and alias mean the model; an explicit prompt wins over a suffix, that over the default."""
    suffix = NAMES.find(requested, INFO)
    assert suffix is not None
    assert NAMES.prompt_of(suffix, prompt_name, INFO) == prompt


@pytest.mark.parametrize(
    "requested",
    ["", "e5", "E5-SMALL", "stale", "e5-small:passage", "e5-small:query:query", "evil/../e5-small", "../e5-small",
     "a/b/e5-small", "/e5-small", "e5-small/", "openai/", "openai/openai/e5-small", "intfloat/",
     "e5-small:latest:query",     "in tfloat/e5-small", ".hidden/e5-small", "a..b/e5-small", "x" * 600 + "/e5-small",
     "intfloat/text-embedding-3-small",
     "e5-small\n", "intfloat/e5-small\n", "stranger/e5-small"],
)  # fmt: skip
def test_what_is_no_name_of_the_model(requested: str) -> None:
    """Nor is another org's model of that name."""
    assert NAMES.find(requested, WITH_SOURCE) is None


@pytest.mark.parametrize("provider", ["", "openai/", "hosted_vllm/", "huggingface/"])
@pytest.mark.parametrize("suffix", ["", ":latest", ":query", ":document"])
@pytest.mark.parametrize(
    "name", ["e5-small", "intfloat/e5-small", "sentence-transformers/e5-small", "text-embedding-3-small", "team/one:v1"]
)
def test_every_name_has_every_form(provider: str, name: str, suffix: str) -> None:
    """Own name, hub id and aliases, behind a provider and with a suffix; so does the list of models, name by name."""
    expected = suffix if suffix in {":query", ":document"} else ""
    assert NAMES.find(provider + name + suffix, WITH_SOURCE) == expected.removeprefix(":")
    assert all(NAMES.find(known, WITH_SOURCE) == "" for known in NAMES.known(WITH_SOURCE))


def test_where_the_engine_does_not_say_its_source_any_org_will_do() -> None:
    """The gateway cannot know better; a path is still none."""
    assert NAMES.find("anyone/e5-small", INFO) == ""
    assert NAMES.find("evil/../e5-small", INFO) is None


def test_names_of_the_settings_are_known_before_the_engine_answers() -> None:
    """With suffixes and providers too; aliases may lead to a name of the settings. What the model is called is not."""
    names = ModelNames({"text-embedding-3-large": "docs"}, "docs", ["handbook"])
    assert names.known(None) == ["docs", "handbook", "text-embedding-3-large"]
    assert names.known(INFO) == ["e5-small", "docs", "handbook", "text-embedding-3-large"]
    for name in ("docs", "handbook:query", "openai/text-embedding-3-large"):
        assert names.find_configured(name, None) == names.find(name, INFO) == name.partition(":")[2]
    assert names.find_configured("e5-small", INFO) is None
    assert names.find("e5-small", None) is None


def test_unknown_prompt_is_named_with_the_known_ones() -> None:
    """A prompt the checkpoint does not have is refused."""
    with pytest.raises(BadRequest, match="passage, query"):
        NAMES.prompt_of("", "clustering", INFO)


@pytest.mark.parametrize(
    ("value", "prompt"),
    [("query", "query: "), ("search_query", "query: "), ("RETRIEVAL_QUERY", "query: "), ("retrieval.query", "query: "),
     ("document", "passage: "), ("search_document", "passage: "), ("passage", "passage: "),
     ("retrieval.passage", "passage: "), ("Clustering", "cluster: ")],
)  # fmt: skip
def test_input_types_choose_the_prompt(value: str, prompt: str) -> None:
    """By the names of Cohere, Voyage, NVIDIA, Jina and Google; it wins over a suffix."""
    given = InputType("input_type", value)
    assert NAMES.prompt_of("query", None, WITH_SOURCE, given) == prompt


def test_input_types_of_a_model_without_prompts() -> None:
    """Either side of a search is the text as it is; a task the model has no prompt for is refused by its field."""
    plain = replace(INFO, prompts={}, default_prompt_name=None)
    assert NAMES.prompt_of("", None, plain, InputType("input_type", "query")) == ""
    with pytest.raises(BadRequest, match="no prompt of that name; it has: none") as refused:
        NAMES.prompt_of("", None, plain, InputType("task", "classification"))
    assert refused.value.param == "task"


def test_prompt_name_and_input_type_must_agree() -> None:
    """Both are fine where they mean the same."""
    assert NAMES.prompt_of("", "query", INFO, InputType("input_type", "search_query")) == "query: "
    with pytest.raises(BadRequest, match="prompt_name and input_type ask for different prompts"):
        NAMES.prompt_of("", "passage", INFO, InputType("input_type", "query"))


@pytest.mark.parametrize(
    ("source", "shown"),
    [("intfloat/e5-small", "intfloat/e5-small"), ("e5-small", "e5-small"), ("/data/e5-small", "e5-small"),
     ("../e5-small", "e5-small"), ("a/b/c", "e5-small"), ("", "e5-small")],
)  # fmt: skip
def test_a_folder_is_no_hub_id(source: str, shown: str) -> None:
    """A bundle built from a folder has the folder's name as its source."""
    assert hub_id(Sourced(source)) == shown

"""Model names, aliases, suffixes and prompts."""

import pytest

from engine.protocol import EngineInfo
from gateway.errors import BadRequest, ModelNotFound
from gateway.names import ModelNames

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
NAMES = ModelNames({"text-embedding-3-small": "e5-small", "stale": "another-model"})


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
    assert NAMES.prompt_of(requested, prompt_name, INFO) == prompt


@pytest.mark.parametrize("requested", ["", "e5", "E5-SMALL", "stale", "e5-small:passage", "e5-small:query:query"])
def test_unknown_models_are_named_with_the_known_ones(requested: str) -> None:
    """What is not served is refused, and the message lists what is."""
    with pytest.raises(ModelNotFound, match="e5-small, text-embedding-3-small"):
        NAMES.prompt_of(requested, None, INFO)


def test_unknown_prompt_is_named_with_the_known_ones() -> None:
    """A prompt the checkpoint does not have is refused."""
    with pytest.raises(BadRequest, match="passage, query"):
        NAMES.prompt_of("e5-small", "clustering", INFO)

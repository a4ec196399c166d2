"""Which model and prompt a request means: one resolver for every route.

The names of a model in service, which are also those that `GET /v1/models/{name}` knows:

    all-MiniLM-L6-v2                            its own
    docs                                        what the settings call it, where there are several (`engines`)
    sentence-transformers/all-MiniLM-L6-v2      its hub id: the org it was built from, or sentence-transformers
    text-embedding-3-small                      an alias of the settings
    openai/...                                  any of these behind a provider, as LiteLLM writes them
    ...:query, ...:document                     any of these with a prompt of the checkpoint
    ...:latest                                  the same as without; Ollama's clients add it

A request without a name means the first model of the settings.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from engine.protocol import EngineInfo
from gateway.errors import BadRequest

QUERY: Final = ("query", "search_query")  # prompts of a checkpoint, the first one it has
DOCUMENT: Final = ("document", "passage", "search_document")
SUFFIXES: Final = {"query": QUERY, "document": DOCUMENT}
NO_SUFFIX: Final = "latest"
# What Cohere, Voyage, NVIDIA, Jina and Google call the two sides of a search; `-`, `.` and capitals are made `_` first.
INPUT_TYPES: Final = {
    **dict.fromkeys(("query", "search_query", "retrieval_query", "question_answering"), QUERY),
    **dict.fromkeys(("document", "passage", "search_document", "retrieval_document", "retrieval_passage"), DOCUMENT),
}
PROVIDERS: Final = frozenset(
    {"azure", "custom_openai", "hosted_vllm", "huggingface", "infinity", "litellm_proxy", "ollama", "openai"}
    | {"openai_like", "text-completion-openai", "vllm"}
)
COMMON_ORG: Final = "sentence-transformers"  # clients put it before any model of that library
ORG: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,95}")
MAX_NAME_CHARS: Final = 512


@dataclass(frozen=True, slots=True)
class InputType:
    """What a request says its texts are, and in which field."""

    field: str  # "input_type", "task", ...
    value: str


class ModelNames:
    """Resolves the names clients use of one model.

    `aliases`: other names of the settings, each to a name of any model; `own` and `own_aliases`: what the settings call
    this model. An info of None is that of a model whose engines have never answered.
    """

    def __init__(self, aliases: Mapping[str, str], own: str = "", own_aliases: Iterable[str] = ()) -> None:
        self._aliases = dict(aliases)
        self._shown = [*([own] if own else []), *own_aliases]
        self._own = frozenset(self._shown)

    def known(self, info: EngineInfo | None) -> list[str]:
        """The names to show: the model's own, then those of the settings."""
        aliases = (alias for alias, target in self._aliases.items() if self._is(target, info))
        return list(dict.fromkeys([*([info.model] if info is not None else []), *self._shown, *aliases]))

    def find_configured(self, requested: str, info: EngineInfo | None) -> str | None:
        """The suffix of a name that settings give this model, empty for none; None where it is not such a name."""
        if not self._own:  # one model by `engine_url`: nothing to take apart on every request
            return None
        return _suffix(requested, lambda name: name in self._own or self._aliases.get(name) in self._own)

    def find(self, requested: str, info: EngineInfo | None) -> str | None:
        """The suffix of a name of this model, empty for none; None where it is not its name."""
        if info is not None and requested == info.model:
            return ""
        return _suffix(requested, lambda name: self._is(self._aliases.get(name, name), info))

    def prompt_of(
        self, suffix: str, prompt_name: str | None, info: EngineInfo, input_type: InputType | None = None
    ) -> str:
        """The prompt text for a name's suffix, a prompt and an input type. Raises BadRequest.

        A field wins over a suffix, and that over the model's default prompt.
        """
        if input_type is not None:
            return self._prompt_for(input_type, prompt_name, info)
        if suffix and prompt_name is None:
            return _first_of(SUFFIXES[suffix], info)
        return self.prompt_named(prompt_name, info)

    def prompt_named(self, prompt_name: str | None, info: EngineInfo) -> str:
        """The text of a named prompt, of the model's default one for None. Raises BadRequest."""
        if prompt_name is None:
            return info.prompts.get(info.default_prompt_name or "", "")
        if prompt_name not in info.prompts:
            raise BadRequest(
                f"prompt_name `{prompt_name[:200]}` is not known; known: {_prompts(info)}", param="prompt_name"
            )
        return info.prompts[prompt_name]

    def _prompt_for(self, given: InputType, prompt_name: str | None, info: EngineInfo) -> str:
        """The prompt for an input type: none for either side of a search where the model has no such prompt."""
        value = re.sub(r"[-. ]", "_", given.value[:100].strip().lower())
        if value in INPUT_TYPES:
            text = _first_of(INPUT_TYPES[value], info)
        else:
            by_name = {re.sub(r"[-. ]", "_", name.lower()): text for name, text in info.prompts.items()}
            if value not in by_name:
                raise BadRequest(
                    f"{given.field} `{given.value[:100]}`: this model has no prompt of that name; it has: "
                    f"{_prompts(info)}, and takes query and document",
                    param=given.field,
                )
            text = by_name[value]
        if prompt_name is not None and self.prompt_named(prompt_name, info) != text:
            raise BadRequest(
                f"prompt_name and {given.field} ask for different prompts; send one of them", param=given.field
            )
        return text

    def _is(self, name: str, info: EngineInfo | None) -> bool:
        return name in self._own or (info is not None and _is(name, info))


def _suffix(requested: str, means: Callable[[str], bool]) -> str | None:
    """The suffix of a name, empty for none, where the rest `means` the model; None where it does not."""
    if len(requested) > MAX_NAME_CHARS:
        return None
    name = requested
    if (head := name.partition("/"))[0] in PROVIDERS and head[1]:
        name = head[2]
    if means(name):  # first, since an alias may have a colon
        return ""
    name, _, suffix = name.rpartition(":")
    if (suffix in SUFFIXES or suffix == NO_SUFFIX) and means(name):
        return "" if suffix == NO_SUFFIX else suffix
    return None


def hub_id(info: EngineInfo) -> str:
    """The model's `org/name` on the Hugging Face hub; its plain name where the engine does not say."""
    org, _, name = info.source.partition("/")
    return info.source if name and "/" not in name and ORG.fullmatch(org) else info.model


def _is(name: str, info: EngineInfo) -> bool:
    """Whether this is the model's own name or its hub id. Any org will do where the engine does not say its own."""
    org, slash, own = name.rpartition("/")
    if not slash:
        return name == info.model
    real = hub_id(info)
    if name == real:
        return True
    return own == info.model and (org == COMMON_ORG or (real == info.model and ORG.fullmatch(org) is not None))


def _first_of(names: tuple[str, ...], info: EngineInfo) -> str:
    named = next((name for name in names if name in info.prompts), None)
    return info.prompts[named] if named is not None else ""


def _prompts(info: EngineInfo) -> str:
    return ", ".join(sorted(info.prompts)) or "none"

"""Which model and prompt a request means."""

from collections.abc import Mapping
from typing import Final

from engine.protocol import EngineInfo
from gateway.errors import BadRequest, ModelNotFound

SUFFIXES: Final = {"query": ("query", "search_query"), "document": ("document", "passage", "search_document")}


class ModelNames:
    """Resolves the names clients use: the model's own, its hub id, an alias, each with an optional suffix."""

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self._aliases = dict(aliases)

    def known(self, info: EngineInfo) -> list[str]:
        """Every name this gateway answers to, the model's own first."""
        return [info.model, *(alias for alias, target in self._aliases.items() if self._is(target, info))]

    def prompt_of(self, requested: str, prompt_name: str | None, info: EngineInfo) -> str:
        """The prompt text for a requested model name and prompt. Raises ModelNotFound, BadRequest."""
        name, _, suffix = requested.partition(":")
        if not self._is(self._aliases.get(name, name), info) or (suffix and suffix not in SUFFIXES):
            known = ", ".join(self.known(info))
            raise ModelNotFound(
                f"the model `{requested[:200]}` does not exist here; known: {known} (also with :query or :document)",
                param="model",
            )
        if suffix and prompt_name is None:
            named = next((prompt for prompt in SUFFIXES[suffix] if prompt in info.prompts), None)
            return info.prompts[named] if named is not None else ""
        return self.prompt_named(prompt_name, info)

    def prompt_named(self, prompt_name: str | None, info: EngineInfo) -> str:
        """The text of a named prompt, of the model's default one for None. Raises BadRequest."""
        if prompt_name is None:
            return info.prompts.get(info.default_prompt_name or "", "")
        if prompt_name not in info.prompts:
            known = ", ".join(sorted(info.prompts)) or "none"
            raise BadRequest(f"prompt_name `{prompt_name[:200]}` is not known; known: {known}", param="prompt_name")
        return info.prompts[prompt_name]

    @staticmethod
    def _is(name: str, info: EngineInfo) -> bool:
        return name == info.model or name.rpartition("/")[2] == info.model

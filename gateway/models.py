"""The models behind this gateway: each with its engines, its names and all that belongs to it alone.

    models = Models(open_model)             # open_model(name, entry) -> ServedModel
    models.adopt(settings)                  # begins what is new, ends what is gone, while requests are answered
    served, suffix = models.find("text-embedding-3-small:query")

What models share (L0, the exact tier, namespaces, keys) tells them apart by the fingerprint in every key. A request
whose model is removed meanwhile is finished by the engine it has begun with.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from common.tasks import cancel_and_wait
from gateway.background import keep_running
from gateway.engines.engine_set import EngineSet, Model
from gateway.errors import EngineAway, ModelNotFound
from gateway.names import ModelNames
from gateway.semantic_tiers import SemanticTiers
from gateway.service import EmbeddingService
from gateway.settings import DEFAULT_MODEL, GatewaySettings, ModelEngines

log = logging.getLogger("dejavec.gateway")

SETTINGS: Final = ("engines", "model_aliases")  # what `adopt` goes by, and what may change while it runs
SHOWN_NAMES: Final = 50  # in an error


@dataclass(slots=True)
class ServedModel:
    """One model; `name` is the one it has in the settings. `names` is replaced when its aliases change."""

    name: str
    entry: ModelEngines
    names: ModelNames
    engine: EngineSet
    service: EmbeddingService
    tiers: SemanticTiers | None
    loops: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    _ending: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def model(self) -> Model:
        """The model as its engines have it. Raises EngineAway while none has ever been reached."""
        return self.engine.model

    def start(self) -> None:
        """Begin its background loops."""
        if self.tiers is not None:
            self._ending.push_async_callback(self.tiers.aclose)
        tasks = [asyncio.create_task(keep_running(loop)) for loop in self.loops]
        self._ending.push_async_callback(cancel_and_wait, tasks)

    async def aclose(self) -> None:
        """End them; bounded."""
        await self._ending.aclose()


class Models:
    """The models in service, in the order of the settings; the first answers requests that name none."""

    def __init__(self, open_model: Callable[[str, ModelEngines], ServedModel]) -> None:
        self._open = open_model
        self._served: dict[str, ServedModel] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._served)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._served.values())

    @property
    def first(self) -> ServedModel:
        """The one for requests that name no model."""
        return next(iter(self._served.values()))

    def find(self, requested: str | None) -> tuple[ServedModel, str]:
        """The model of this name, and the name's suffix (`query`, `document` or nothing); the first for None.

        A name that settings give wins over what a model calls itself. Raises ModelNotFound; EngineAway while the name
        may be that of a model whose engines have not answered yet.
        """
        if requested is None:
            return self.first, ""
        unknown: list[str] = []
        for find in (ModelNames.find_configured, ModelNames.find):
            for served in self:
                model = served.engine.current_model
                suffix = find(served.names, requested, model.info if model is not None else None)
                if suffix is not None:
                    return served, suffix
                if model is None and served.name not in unknown:
                    unknown.append(served.name)
        if len(unknown) == len(self._served):
            self.reached()
        if unknown:
            raise EngineAway(
                f"no model `{requested[:200]}` is known, and engines of {', '.join(unknown[:SHOWN_NAMES])} have not "
                "answered yet",
                retry_after_s=1,
            )
        known = ", ".join(self.known()[:SHOWN_NAMES])
        raise ModelNotFound(
            f"the model `{requested[:200]}` does not exist here; known: {known} (also with :query or :document)",
            param="model",
        )

    def known(self) -> list[str]:
        """All names to show, those of each model together, each name once.

        Raises EngineAway where there is nothing but a model whose engines have never answered.
        """
        names: dict[str, None] = {}
        for served in self:
            model = served.engine.current_model
            names |= dict.fromkeys(served.names.known(model.info if model is not None else None))
        if not names:
            self.reached()
        return list(names)

    def reached(self) -> list[ServedModel]:
        """Those whose engines have answered. Raises EngineAway where there are none."""
        reached = [served for served in self if served.engine.current_model is not None]
        if not reached:
            self.first.model  # noqa: B018  raises it
        return reached

    def named(self, name: str | None) -> ServedModel:
        """For operators: the model of this name, whatever its suffix. Raises as `find`."""
        return self.find(name)[0]

    def adopt(self, settings: GatewaySettings) -> None:
        """Go by these settings from now on. A model that stays keeps what it has; its engines may be others."""
        entries = settings.models
        opened = {name: self._open(name, entry) for name, entry in entries.items() if name not in self._served}
        before, self._served = self._served, {name: self._served.get(name) or opened[name] for name in entries}
        # Where there are several, one whose engine is slow may not take all places there are.
        most = max(1, settings.max_concurrent_requests // 2) if len(entries) > 1 else None
        for name, served in self._served.items():
            entry = entries[name]
            if served.entry != entry:
                served.engine.change(entry.urls, entry.fingerprint)
                served.entry = entry
            served.names = ModelNames(settings.model_aliases, "" if name == DEFAULT_MODEL else name, entry.aliases)
            served.service.max_computing = most
        for served in opened.values():
            served.start()
        for name in before.keys() - entries.keys():
            self._end(before[name])

    async def first_look(self, timeout_s: float) -> None:
        """Wait until all engines were asked what they serve, at most so long: a worker that accepts requests before
        would refuse them, while another worker of the same gateway is ready."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(served.engine.first_look() for served in self))

    async def aclose(self) -> None:
        """End all models, and wait for those that are ending; bounded."""
        for served in self:
            self._end(served)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _end(self, served: ServedModel) -> None:
        ending = asyncio.create_task(served.aclose())
        self._ending.add(ending)
        ending.add_done_callback(partial(_ended, self._ending))


def _ended(ending: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    ending.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a model did not end as it should: %s", error)

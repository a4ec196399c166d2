"""Several models: which one a name means, what is said of those that cannot be reached, and changing them."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cache.epochs import Epochs
from cache.local import LocalCache, LocalEntry
from common.asgi import Reply
from engine.protocol import EngineInfo
from gateway.embed_request import EmbedResult
from gateway.errors import EngineAway, ModelNotFound
from gateway.kept_replies import KeptReplies
from gateway.models import Models, ServedModel
from gateway.names import ModelNames
from gateway.settings import GatewaySettings, ModelEngines

A, B = "http://a:1", "http://b:1"
SECRET = b"s" * 32


def info(model: str) -> EngineInfo:
    return EngineInfo(model, model, "int8-exact", 8, 16, 1, 16, {"query": "q: "}, None, source=f"org/{model}")


class Engine:
    """As the engine client shows itself; `model` None: it has never answered."""

    def __init__(self, url: str, model: str | None) -> None:
        self.url = url
        self.current_model: Any = SimpleNamespace(info=info(model)) if model else None
        self.is_closed = False

    def change(self, urls: list[str], fingerprint: str | None) -> None:
        self.url = urls[0]

    @property
    def model(self) -> Any:
        if self.current_model is None:
            raise EngineAway("the engine cannot be reached yet: is it running?", retry_after_s=1)
        return self.current_model


class Opened:
    """Opens models whose engines serve what `serves` says, by URL, and keeps them."""

    def __init__(self, **serves: str | None) -> None:
        self.serves = serves
        self.all: list[ServedModel] = []

    def __call__(self, name: str, entry: ModelEngines) -> ServedModel:
        engine: Any = Engine(entry.urls[0], self.serves.get(entry.urls[0].split("/")[2][0]))
        service: Any = SimpleNamespace(max_computing=None)

        async def loop() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                engine.is_closed = True

        self.all.append(ServedModel(name, entry, ModelNames({}), engine, service, None, [loop]))
        return self.all[-1]


def settings(**values: Any) -> GatewaySettings:
    return GatewaySettings(
        **{"engines": {"docs": {"urls": [A], "aliases": ["handbook"]}, "code": {"urls": [B]}}, **values}
    )


async def test_each_name_means_one_model() -> None:
    """Names of the settings, of the models, aliases; with a suffix; the first without a name."""
    models = Models(Opened(a="e5", b="minilm"))
    models.adopt(settings(model_aliases={"text-embedding-3-small": "code", "ada": "e5"}))
    expected = {
        "docs": "docs", "handbook:query": "docs", "e5": "docs", "org/e5": "docs", "ada": "docs", None: "docs",
        "code": "code", "minilm": "code", "openai/text-embedding-3-small": "code", "minilm:document": "code",
    }  # fmt: skip
    assert {name: models.find(name)[0].name for name in expected} == expected
    assert models.find("handbook:query")[1] == "query"
    assert models.known() == ["e5", "docs", "handbook", "ada", "minilm", "code", "text-embedding-3-small"]
    with pytest.raises(ModelNotFound, match="known: e5, docs, handbook, ada, minilm, code, text-embedding-3-small"):
        models.find("e6")
    await models.aclose()


async def test_a_name_of_the_settings_wins_over_what_a_model_calls_itself() -> None:
    """Also over that of a model that stands before it; of two models of one name the first is meant."""
    models = Models(Opened(a="code", b="code"))
    models.adopt(settings())
    assert models.find("code")[0].name == "code"
    assert models.find("org/code")[0].name == "docs"
    await models.aclose()


async def test_models_that_were_never_reached() -> None:
    """Their names of the settings lead to them; an unknown name may be theirs, so it is no 404; others are answered."""
    opened = Opened(a=None, b="minilm")
    models = Models(opened)
    models.adopt(settings())
    assert models.find("handbook")[0].name == "docs"
    assert models.find("minilm")[0].name == "code"
    assert models.known() == ["docs", "handbook", "minilm", "code"]
    with pytest.raises(EngineAway, match="engines of docs have not answered yet"):
        models.find("e5")
    opened.all[1].engine.current_model = None  # type: ignore[misc]
    with pytest.raises(EngineAway, match="is it running"):
        models.find("e5")
    with pytest.raises(EngineAway, match="is it running"):
        models.reached()
    await models.aclose()


async def test_models_change_while_requests_are_answered() -> None:
    """What stays keeps its engine client, what goes ends its loops, other aliases hold at once."""
    opened = Opened(a="e5", b="minilm", c="bge")
    models = Models(opened)
    models.adopt(settings())
    await asyncio.sleep(0)
    docs, code = opened.all
    models.adopt(settings(engines={"docs": {"urls": [A], "aliases": ["manual"]}, "new": {"urls": ["http://c:1"]}}))
    assert [served.name for served in models] == ["docs", "new"]
    assert models.first is docs
    assert models.find("manual")[0] is docs
    for gone in ("handbook", "code", "minilm"):
        with pytest.raises(ModelNotFound):
            models.find(gone)
    async with asyncio.timeout(120):
        while not code.engine.is_closed:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
    assert not docs.engine.is_closed  # type: ignore[attr-defined]
    models.adopt(settings(engines={"docs": {"urls": [B]}}))
    assert models.first is docs  # with other engines, and what it has cached
    assert docs.engine.url == B  # type: ignore[attr-defined]
    await models.aclose()
    assert all(served.engine.is_closed for served in opened.all)  # type: ignore[attr-defined]


async def test_one_of_several_models_may_not_take_all_places() -> None:
    """Half at most wait for one engine; a single model may take all."""
    models = Models(Opened(a="e5", b="minilm"))
    models.adopt(settings(max_concurrent_requests=10))
    assert [served.service.max_computing for served in models] == [5, 5]
    models.adopt(settings(max_concurrent_requests=1))
    assert [served.service.max_computing for served in models] == [1, 1]
    models.adopt(settings(engines={"docs": {"urls": [A]}}, max_concurrent_requests=10))
    assert [served.service.max_computing for served in models] == [None]
    await models.aclose()


async def test_a_reply_of_a_model_that_is_gone_by_then_is_sent_and_not_kept() -> None:
    """A request is answered by the engine it began with, whatever the settings have become meanwhile."""
    models, local = Models(Opened(a="e5", b="minilm")), LocalCache(1 << 20, 60)
    models.adopt(settings())
    kept = KeptReplies(local, Epochs(None, SECRET), models, SECRET)
    local.put(b"digest", LocalEntry(b"vector", 1, False))
    result = EmbedResult(models.find("docs")[0].model.info, [b"vector"], ["local"], 1, local_digests=[b"digest"])
    models.adopt(settings(engines={"code": {"urls": [B]}}))
    kept.keep(b"request", "docs", result, Reply(b"{}"))
    assert local.get_by_request(b"request") is None
    await models.aclose()

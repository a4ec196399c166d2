"""`Client`: `AsyncClient` for code without an event loop; it runs the one client on a thread of its own.

Works where a loop already runs (a notebook), and from several threads at once.
"""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, Self, TypedDict, TypeVar, Unpack

from gateway.client.client import AsyncClient
from gateway.client.wire import EmbedResult, GatewayInfo

T = TypeVar("T")


class EmbedOptions(TypedDict, total=False):
    """The options of `AsyncClient.embed`."""

    model: str | None
    dimensions: int | None
    prompt_name: str | None
    cache_control: str | None
    min_fidelity: float | None


class Client:
    """A blocking client; options, errors and results are those of `AsyncClient`, here `asynchronous`."""

    def __init__(self, url: str, **options: Any) -> None:
        self.asynchronous = AsyncClient(url, **options)
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="dejavec-client", daemon=True)
        self._thread.start()
        self._run(self.asynchronous.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self.asynchronous.__aexit__(None, None, None))
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            loop.close()

    def embed(self, texts: Sequence[str], **options: Unpack[EmbedOptions]) -> EmbedResult:
        """See `AsyncClient.embed`."""
        return self._run(self.asynchronous.embed(texts, **options))

    def info(self, model: str | None = None) -> GatewayInfo:
        """See `AsyncClient.info`."""
        return self._run(self.asynchronous.info(model))

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            call.close()
            raise RuntimeError("the client is not open; use it in `with Client(...) as client:`")
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C here must not leave the request running there
            future.cancel()
            raise

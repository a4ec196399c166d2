"""This project's gateway and engine over HTTP, nothing from a cache; JSON with texts in, base64 vectors out.

The clock is the two servers' CPU time: what the client takes to write and read JSON is not theirs.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from threading import local
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson
from worker import cpu_seconds_of_children

from engine.bundle import GRAPH_FILE
from loadtest.bench.stack import Stack
from loadtest.bench.wire import embeddings_body, model_of
from loadtest.figures import decode_vector

PACKAGES = ("dejavec", "onnxruntime")
HEADERS = {"content-type": "application/json", "x-cache-control": "no-store"}
TIMEOUT_S = 120.0


class Encoder:
    """Redis, one engine and one gateway worker on this process's core.

    connections: None to send a batch as one request; else its texts as single requests over so many connections.
    """

    def __init__(self, options: dict[str, Any], connections: int | None = None) -> None:
        bundle = Path(options["bundle"])
        self._stack = Stack().__enter__()
        try:
            url = self._stack.gateway(self._stack.engine(bundle), self._stack.redis(), local_cache_mb=0)
            self._address, self._model = urlsplit(url), model_of(url)
        except BaseException:
            self.close()
            raise
        self._kept = local()
        self._pool = ThreadPoolExecutor(connections) if connections else None
        self.files = [bundle / GRAPH_FILE]
        self.clock: Callable[[], float] = cpu_seconds_of_children

    def encode(self, texts: list[str]) -> Any:
        """float32[n, dimensions]."""
        if self._pool is None:
            return self._ask(texts)
        return np.concatenate(list(self._pool.map(self._ask, [[text] for text in texts])))

    def close(self) -> None:
        """Stop the servers."""
        self._stack.__exit__()

    def _ask(self, texts: list[str]) -> Any:
        connection = getattr(self._kept, "connection", None)
        if connection is None:
            connection = HTTPConnection(self._address.hostname or "", self._address.port, timeout=TIMEOUT_S)
            self._kept.connection = connection
        body = embeddings_body(self._model, texts)
        try:
            status, content = _post(connection, body)
        except (BrokenPipeError, ConnectionResetError):  # it idled for too long while others took turns
            connection.close()
            status, content = _post(connection, body)
        if status != 200:
            raise RuntimeError(f"{status}: {content[:200]!r}")
        return np.stack([decode_vector(row["embedding"]) for row in orjson.loads(content)["data"]])


def _post(connection: HTTPConnection, body: bytes) -> tuple[int, bytes]:
    connection.request("POST", "/v1/embeddings", body, HEADERS)
    response = connection.getresponse()
    return response.status, response.read()


def load(options: dict[str, Any]) -> Encoder:
    """See worker.py."""
    return Encoder(options)

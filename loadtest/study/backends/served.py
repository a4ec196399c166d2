"""A server of embeddings that a backend starts: its process, and `POST` of texts as OpenAI's API has it."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

HOST = "127.0.0.1"
START_S = 300.0


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


class Served:
    """A server on this process's core, started by `command`, asked over one connection that is kept."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        files: list[Any],
        *,
        model: str = "study",
        path: str = "/embeddings",
        ready: str = "/health",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Raises TimeoutError where it does not answer."""
        self.files, self._model, self._path, self._port = files, model, path, port
        self._connection = http.client.HTTPConnection(HOST, port, timeout=START_S)
        self._process = subprocess.Popen(list(command), env={**os.environ, **(environment or {})}, stdout=2)  # noqa: S603  # a list
        deadline_s = time.monotonic() + START_S
        while not self._answers(ready):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.close()
                raise TimeoutError(f"{command[0]} does not serve")
            time.sleep(0.1)

    def encode(self, texts: list[str]) -> Any:
        """float32[n, dimensions]."""
        body = json.dumps({"model": self._model, "input": texts})
        try:
            status, content = self._post(body)
        except (BrokenPipeError, ConnectionResetError):  # servers end connections that idle while others take turns
            self._connection.close()
            status, content = self._post(body)
        if status != 200:
            raise RuntimeError(f"{status}: {content[:200]!r}")
        rows = sorted(json.loads(content)["data"], key=lambda row: row["index"])
        vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _post(self, body: str) -> tuple[int, bytes]:
        self._connection.request("POST", self._path, body, {"content-type": "application/json"})
        response = self._connection.getresponse()
        return response.status, response.read()

    def close(self) -> None:
        """Stop it."""
        self._connection.close()
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self, path: str) -> bool:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().status == 200
        return False

"""This project's gateway over HTTP, asked by its own client."""

from collections.abc import Callable
from typing import Any

from gateway.client import Client

PACKAGES = ("dejavec", "redis")


def open_cache(options: dict[str, Any], _embed: Callable[[list[str]], Any]) -> Callable[[list[str]], Any]:
    """See worker.py. What is missing is computed by the engine, not by `embed`."""
    client = Client(options["url"]).__enter__()
    return lambda texts: client.embed(texts).vectors

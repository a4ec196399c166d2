"""LangChain's CacheBackedEmbeddings over its Redis store of bytes: a string for each text, the vector as JSON."""

import importlib
from collections.abc import Callable
from typing import Any

PACKAGES = ("langchain-classic", "langchain-community", "langchain-core", "redis")


def open_cache(options: dict[str, Any], embed: Callable[[list[str]], Any]) -> Callable[[list[str]], Any]:
    """See worker.py. The namespace is the model's name: by default it is empty, and models share their vectors."""
    base = importlib.import_module("langchain_core.embeddings").Embeddings
    store = importlib.import_module("langchain_community.storage").RedisStore(
        redis_url=options["redis_url"], ttl=options["ttl_s"]
    )

    class Instant(base):  # type: ignore[misc,valid-type]
        def embed_documents(self, texts: list[str]) -> Any:
            return embed(texts)

        def embed_query(self, text: str) -> Any:
            return embed([text])[0]

    cached = importlib.import_module("langchain_classic.embeddings").CacheBackedEmbeddings.from_bytes_store(
        Instant(), store, namespace=f"langchain:{options['model']}:", key_encoder="sha256"
    )
    look_up: Callable[[list[str]], Any] = cached.embed_documents
    return look_up

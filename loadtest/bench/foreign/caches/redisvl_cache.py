"""RedisVL's EmbeddingsCache: a hash for each text, the vector as JSON, TTL set anew by every hit."""

import importlib
from collections.abc import Callable
from typing import Any

PACKAGES = ("redisvl", "redis")


def open_cache(options: dict[str, Any], embed: Callable[[list[str]], Any]) -> Callable[[list[str]], Any]:
    """See worker.py."""
    module = importlib.import_module("redisvl.extensions.cache.embeddings")
    cache = module.EmbeddingsCache("redisvl", ttl=options["ttl_s"], redis_url=options["redis_url"])
    model = options["model"]

    def look_up(texts: list[str]) -> Any:
        found = [cache.get(texts[0], model)] if len(texts) == 1 else cache.mget(texts, model)
        missing = list(dict.fromkeys(text for text, entry in zip(texts, found, strict=True) if entry is None))
        new = dict(zip(missing, embed(missing), strict=True)) if missing else {}
        if new:
            cache.mset([{"content": text, "model_name": model, "embedding": row} for text, row in new.items()])
        return [new[text] if entry is None else entry["embedding"] for text, entry in zip(texts, found, strict=True)]

    return look_up

"""GPTCache with answers and vector index in Redis, which needs its modules RediSearch and RedisJSON.

It looks up by similarity alone, at its own threshold, so it embeds a text before it can look its embedding up.
"""

import importlib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from gptcache_map import kept_as_json

PACKAGES = ("gptcache", "redis-om", "redis")


def open_cache(options: dict[str, Any], embed: Callable[[list[str]], Any]) -> Callable[[list[str]], Any]:
    """See worker.py. The key is the vector: GPTCache knows no models."""
    gptcache = importlib.import_module("gptcache")
    managers, prompt = importlib.import_module("gptcache.manager"), importlib.import_module("gptcache.processor.pre")
    distance = importlib.import_module("gptcache.similarity_evaluation").SearchDistanceEvaluation()
    at = urlsplit(options["redis_url"])
    manager = managers.manager_factory(
        "redis,redis",
        data_dir=options["folder"],
        scalar_params={"redis_host": at.hostname, "redis_port": at.port, "global_key_prefix": "gptcache"},
        vector_params={"host": at.hostname, "port": str(at.port), "dimension": options["dimensions"]},
    )
    cache = gptcache.Cache()
    cache.init(
        pre_embedding_func=prompt.get_prompt,
        embedding_func=lambda text, **_kept: np.array(embed([text])[0], dtype=np.float32),
        data_manager=manager,
        similarity_evaluation=distance,
    )

    answer: Callable[[list[str]], Any] = kept_as_json(cache, embed)
    return answer

"""GPTCache in its default form: a map in this process, exact match, 1,000 texts; no Redis.

Vectors are kept as JSON: of a list, GPTCache gives back the first number alone. One text at a time: it has no batches.
"""

import importlib
import json
from collections.abc import Callable
from typing import Any

PACKAGES = ("gptcache",)


def open_cache(options: dict[str, Any], embed: Callable[[list[str]], Any]) -> Callable[[list[str]], Any]:
    """See worker.py. The key is the text alone: GPTCache knows no models."""
    gptcache = importlib.import_module("gptcache")
    managers, prompt = importlib.import_module("gptcache.manager"), importlib.import_module("gptcache.processor.pre")
    cache = gptcache.Cache()
    cache.init(
        pre_embedding_func=prompt.get_prompt,
        data_manager=managers.manager_factory("map", data_dir=options["folder"], max_size=1000),
    )

    return kept_as_json(cache, embed)


def kept_as_json(cache: Any, embed: Callable[[list[str]], Any]) -> Callable[[list[str]], Any]:
    """The vectors of texts, one at a time, from this cache or computed and put there."""
    api = importlib.import_module("gptcache.adapter.api")

    def one(text: str) -> Any:
        found = api.get(text, cache_obj=cache)
        if found is not None:
            return json.loads(found)
        row = embed([text])[0]
        api.put(text, json.dumps(row), cache_obj=cache)
        return row

    return lambda texts: [one(text) for text in texts]

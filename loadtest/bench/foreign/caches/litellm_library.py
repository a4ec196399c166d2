"""LiteLLM as a library with its Redis cache: one entry for each whole request, as JSON."""

import importlib
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

PACKAGES = ("litellm", "redis")


def open_cache(options: dict[str, Any], embed: Callable[[list[str]], Any]) -> Callable[[list[str]], Any]:
    """See worker.py. The embedder is a provider of LiteLLM's, so a miss goes its whole way."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it is fetched
    litellm: Any = importlib.import_module("litellm")
    at = urlsplit(options["redis_url"])

    class Instant(litellm.CustomLLM):  # type: ignore[misc]
        def embedding(self, model: str, input: list[str], model_response: Any, **_kept: Any) -> Any:
            rows = enumerate(embed(input))
            model_response.data = [{"object": "embedding", "index": index, "embedding": row} for index, row in rows]
            model_response.model = model
            return model_response

    litellm.custom_provider_map = [{"provider": "instant", "custom_handler": Instant()}]
    litellm.suppress_debug_info = True
    litellm.cache = importlib.import_module("litellm.caching.caching").Cache(
        type="redis", host=at.hostname, port=str(at.port), ttl=options["ttl_s"], supported_call_types=["embedding"]
    )
    name = f"instant/{options['model']}"
    return lambda texts: [row["embedding"] for row in litellm.embedding(model=name, input=texts).data]

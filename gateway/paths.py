"""Which route a path means: the other spellings and other prefixes under which clients look for the same routes.

    canonical("//v1/embeddings/")  ->  "/v1/embeddings"
    canonical("/openai/v1/models") ->  "/v1/models"
    target("/openai/deployments/all-MiniLM-L6-v2/embeddings")  ->  ("/openai/deployments/{model}/embeddings", model)

Only a path that is not a route's own is looked at, by plain string methods. Operators' paths have no other spelling:
what a proxy in front keeps from the outside by its path must not be reached by another.
"""

import difflib
from collections.abc import Iterable
from typing import Final

MAX_PATH_CHARS: Final = 2048
MAX_COMPARED_CHARS: Final = 64
EXACT_ONLY: Final = ("/admin", "/console", "/metrics", "/docs", "/openapi.json")
SAME: Final = {  # other prefix to ours
    "/openai/v1/": "/v1/",
    "/embeddings": "/v1/embeddings",
    "/openai/embeddings": "/v1/embeddings",
    "/openai/models": "/v1/models",
    "/models": "/v1/models",
}
# Routes with a model in their path: name, what comes before it, what comes behind.
WITH_MODEL: Final = (
    ("/openai/deployments/{model}/embeddings", "/openai/deployments/", "/embeddings"),
    ("/pipeline/feature-extraction/{model}", "/pipeline/feature-extraction/", ""),
    ("/models/{model}/pipeline/feature-extraction", "/models/", "/pipeline/feature-extraction"),
    ("/models/{model}", "/models/", ""),
)
REFUSED: Final = {  # what clients of other servers ask for, and why it is not here
    "/embed_all": "the model gives one vector for each text, not one for each token; use /embed",
    "/embed_sparse": "the model gives dense vectors; use /embed",
    "/rerank": "this server has an embedding model, not a reranker",
    "/v1/rerank": "this server has an embedding model, not a reranker",
    "/predict": "this server has an embedding model, not a classifier",
    "/similarity": "compare the vectors of /embed: they have unit length, so their inner product is the cosine",
    "/v1/chat/completions": "this server has an embedding model; use /v1/embeddings",
    "/v1/completions": "this server has an embedding model; use /v1/embeddings",
    "/v1/responses": "this server has an embedding model; use /v1/embeddings",
    "/api/generate": "this server has an embedding model; use /api/embed",
    "/api/chat": "this server has an embedding model; use /api/embed",
    "/api/pull": "this server's models are loaded; /api/tags names them",
}


def canonical(path: str) -> str:
    """A path without doubled and trailing slashes, with our prefix; what is an operator's alone stays as it is."""
    plain = "/" + "/".join(part for part in path.split("/") if part)
    if plain.startswith(EXACT_ONLY):
        return path
    for prefix, ours in SAME.items():
        if plain == prefix or (plain.startswith(prefix) and (prefix.endswith("/") or plain[len(prefix)] == "/")):
            return ours + plain[len(prefix) :]
    return plain


def target(path: str) -> tuple[str, str] | None:
    """The route with a model in its path that this path is of, and the model; None where it is of none."""
    plain = "/" + "/".join(part for part in path.split("/") if part)
    for name, before, behind in WITH_MODEL:
        if plain.startswith(before) and plain.endswith(behind) and len(plain) > len(before) + len(behind):
            return name, plain[len(before) : len(plain) - len(behind)]
    return None


def nearest(path: str, routes: Iterable[str]) -> str | None:
    """The route that a path looks most like; None where it looks like none."""
    found = difflib.get_close_matches(path[:MAX_COMPARED_CHARS], list(routes), n=1, cutoff=0.6)
    return found[0] if found else None

"""The POST routes of clients, all thin shapes over the one service: which path is answered by what.

routes = client_routes(app, front)
routes.by_path["/v1/embeddings"]                                # an ASGI app
routes.with_model["/models/{model}"]("all-MiniLM-L6-v2")        # from the model to one
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from fastapi import FastAPI
from starlette.types import ASGIApp

from common.traced_app import traced
from gateway.errors import GatewayError, NotFound
from gateway.http import Exchange, Front, Reply
from gateway.paths import REFUSED
from gateway.routes import embed, ollama, openai, tei
from gateway.routes.embedding_call import EmbeddingCalls

Answering = Callable[..., Awaitable[Reply]]  # (calls, exchange), and the model where the path holds one

BY_PATH: Final[Mapping[str, Answering]] = {
    "/v1/embeddings": openai.embeddings,
    "/embeddings": openai.embeddings,
    "/openai/v1/embeddings": openai.embeddings,
    "/embed": embed.embed,
    "/": embed.embed,  # text-embeddings-inference's, and where Hugging Face's InferenceClient posts to
    "/pipeline/feature-extraction": embed.embed,
    "/tokenize": tei.tokenize,
    "/decode": tei.decode,
    "/api/embed": ollama.embed,
    "/api/embeddings": ollama.embeddings,
    "/api/show": ollama.show,
}
WITH_MODEL: Final[Mapping[str, Answering]] = {
    "/openai/deployments/{model}/embeddings": openai.embeddings,
    "/pipeline/feature-extraction/{model}": embed.embed,
    "/models/{model}/pipeline/feature-extraction": embed.embed,
    "/models/{model}": embed.embed,
}


@dataclass(frozen=True, slots=True)
class ClientRoutes:
    """Paths to ASGI apps; of those with a model in their path, functions from the model to one."""

    by_path: Mapping[str, ASGIApp]
    with_model: Mapping[str, Callable[[str], ASGIApp]]


def client_routes(app: FastAPI, front: Front) -> ClientRoutes:
    """The routes behind `front`; they find the calls in `app.state` when there is a request."""

    def route(path: str, answer: Answering, model: str | None = None) -> ASGIApp:
        more = () if model is None else (model,)

        def handler(exchange: Exchange) -> Awaitable[Reply]:
            calls: EmbeddingCalls = app.state.calls
            return answer(calls, exchange, *more) if more else answer(calls, exchange)

        shape = ollama.error_body if path.startswith(ollama.PREFIX) else GatewayError.body
        return traced(front.route(handler, shape), path)

    by_path = {path: route(path, answer) for path, answer in BY_PATH.items()}
    by_path |= {path: route(path, partial(_refuse, path, why)) for path, why in REFUSED.items()}
    return ClientRoutes(by_path, {path: partial(route, path, answer) for path, answer in WITH_MODEL.items()})


async def _refuse(path: str, why: str, calls: EmbeddingCalls, exchange: Exchange) -> Reply:
    raise NotFound(f"POST {path} is not possible here: {why}")

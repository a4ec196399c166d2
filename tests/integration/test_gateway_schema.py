"""The served OpenAPI document is true: schemathesis makes requests from it, right and wrong, and checks each reply.

No reply is a 5xx other than the documented 503, each has a documented status, and each has the documented shape.
"""

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.background import in_background
from tests.gateway_client import running_gateway, until_ready
from tests.running_redis import RunningRedis, running_redis
from tests.stand_in_engine import StandInEngine

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 20
KEYS = ["message", "type", "param", "code"]
BEARER = {"authorization": "Bearer operator-of-these-tests"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway with a Redis of its own: requests of all kinds change its live thresholds, for all namespaces."""
    with running_redis(tmp_path_factory.mktemp("redis")) as redis, in_background(_gateway(redis)) as url:
        yield url


@asynccontextmanager
async def _gateway(redis: RunningRedis) -> AsyncIterator[str]:
    async with (
        StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine,
        running_gateway(engine.url, redis_url=redis.url, admin_token="operator-of-these-tests") as client,
    ):
        await until_ready(client)
        yield str(client.base_url)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
def test_every_reply_is_as_documented(url: str, mode: GenerationMode) -> None:
    """Right and wrong requests to every route; every error has the envelope with all four keys."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    routes = [operation.ok() for operation in schema.get_all_operations()]
    assert len(routes) >= 30
    for route in routes:
        if mode is GenerationMode.NEGATIVE and not (route.body or route.headers):
            continue  # nothing to get wrong
        _try(route.as_strategy(generation_mode=mode), mode)


def _try(cases: SearchStrategy[schemathesis.Case], mode: GenerationMode) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def answers_as_documented(case: schemathesis.Case) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "tiny"  # the one name among all strings that is answered
        if mode is GenerationMode.POSITIVE and "model" in (case.path_parameters or {}):
            case.path_parameters["model"] = "tiny"
        response = case.call(headers=BEARER if case.path.startswith("/admin") else None)
        assert response.headers["x-request-id"]
        assert "Traceback" not in response.text
        if response.status_code >= 400 and case.path != "/ready":
            error = response.json()["error"]
            assert isinstance(error, str) if case.path.startswith("/api/") else list(error) == KEYS
        case.validate_response(response, checks=CHECKS)

    answers_as_documented()


def test_every_route_with_an_envelope_says_so(url: str) -> None:
    """Each documented error of each route refers to the one error shape."""
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    shape = "OllamaError" if path.startswith("/api/") else "ErrorReply"
                    assert shape in str(response["content"]), (path, status)

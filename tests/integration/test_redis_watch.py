"""The gateway looks at its Redis: warnings in its log when it starts, all findings for the operator."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from deploy.embedded_redis import locate
from tests.gateway_client import until_ready
from tests.integration.test_gateway_process import running, until
from tests.running_redis import RunningRedis, running_redis

ADMIN = {"authorization": "Bearer operator-of-these-tests"}


@pytest.fixture
def unsuited(tmp_path: Path) -> Iterator[RunningRedis]:
    """A Redis that may evict state and forgets all when it ends."""
    with running_redis(tmp_path / "redis") as server, Redis.from_url(server.url, protocol=2) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
        yield server


def test_what_does_not_suit_is_logged_once(tmp_path: Path, unsuited: RunningRedis) -> None:
    """One warning line for each finding, however many workers there are, with the remedy and without the password."""
    log = tmp_path / "log"
    with running(tmp_path, log, DEJAVEC_REDIS_URL=unsuited.url):
        until(lambda: "append-only file" in log.read_text(), "the warnings")
    lines = [line for line in log.read_text().splitlines() if "Redis: " in line]
    assert [line.split("Redis: ")[1].split(":")[0] for line in lines] == ["eviction policy", "append-only file"]
    assert all("level=warning" in line and "redis-cli CONFIG SET" in line for line in lines)
    assert unsuited.instance.password not in log.read_text()


async def test_an_operator_sees_all_findings(gateway: Callable[..., Any], unsuited: RunningRedis) -> None:
    """`GET /admin/redis`: the worst severity, and each finding with what mends it."""
    async with gateway(redis_url=unsuited.url) as client:
        assert (await client.get("/admin/redis")).status_code == 401
        told = (await client.get("/admin/redis", headers=ADMIN)).json()
    assert told["worst"] == "fault"
    by_check = {finding["check"]: finding for finding in told["findings"]}
    assert by_check["eviction policy"]["severity"] == "fault"
    assert "volatile-lru" in by_check["eviction policy"]["remedy"]
    assert by_check["latency"].keys() == {"check", "severity", "what"}


async def test_without_redis_there_is_nothing_to_see(gateway: Callable[..., Any]) -> None:
    """A 404 that names the setting."""
    async with gateway(redis_url=None) as client:
        reply = await client.get("/admin/redis", headers=ADMIN)
    assert reply.status_code == 404
    assert "redis_url" in reply.text


async def test_a_search_module_is_missed_where_the_tier_is_on_now(gateway: Callable[..., Any], tmp_path: Path) -> None:
    """By the policies in force, not by the settings at start: off is a note, switched on while running a warning."""
    binaries = locate()
    with running_redis(tmp_path / "redis", binaries=type(binaries)(binaries.server, None)) as plain:
        async with gateway(redis_url=plain.url, semantic_mode="off") as client:
            await until_ready(client)
            assert await search_finding(client) == "note"
            body = {"all": True, "semantic_mode": "on"}
            assert (await client.put("/admin/thresholds", json=body, headers=ADMIN)).status_code == 200
            assert await search_finding(client) == "warning"


async def search_finding(client: Any) -> str:
    told = (await client.get("/admin/redis", headers=ADMIN)).json()
    return next(one["severity"] for one in told["findings"] if one["check"] == "search module")

"""A real Redis is asked what it is: with all rights, with few, with none, and when it does not answer."""

import asyncio
import ssl
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from cache.redis_care import inspect
from cache.redis_report import CannotAsk, ask_url
from tests.free_ports import free_port
from tests.running_redis import RunningRedis
from tests.tls_front import make_certificates, tls_front

PASSWORD = "a-password-of-these-tests"


async def test_the_embedded_redis_suits(redis: RunningRedis) -> None:
    """Its own configuration raises neither warning nor fault, and everything about it is seen."""
    findings = await inspect(redis.url, needs_search=True, timeout_s=5.0)
    assert {finding.severity for finding in findings} <= {"ok", "note"}
    seen = {finding.check: finding.what for finding in findings}
    assert seen["server"].startswith("Redis 8.")
    assert seen["search module"].startswith("RediSearch 2.")
    assert seen["eviction policy"] == "volatile-lru"
    assert seen["append-only file"] == "on"


async def test_a_user_with_few_rights_is_no_fault(redis: RunningRedis) -> None:
    """A user that may only PING, as a provider may give out: what is refused is named, which is no fault."""
    admin = Redis.from_url(redis.url, protocol=2)
    await admin.execute_command("ACL", "SETUSER", "few", "on", f">{PASSWORD}", "~*", "+ping", "+client")
    try:
        findings = await inspect(
            redis.url.replace(f":{redis.instance.password}@", f"few:{PASSWORD}@"), needs_search=True, timeout_s=5.0
        )
    finally:
        await admin.execute_command("ACL", "DELUSER", "few")
        await admin.aclose()
    assert {finding.severity for finding in findings} <= {"ok", "note", "unseen"}
    (refused,) = [finding.what for finding in findings if finding.check == "commands"]
    assert all(name in refused for name in ("INFO", "TIME", "DBSIZE"))
    assert "MODULE LIST" not in refused  # HELLO has told


async def test_hello_tells_where_info_is_refused(redis: RunningRedis) -> None:
    """Version and search module, in the same words as INFO's."""
    admin = Redis.from_url(redis.url, protocol=2)
    await admin.execute_command("ACL", "SETUSER", "guest", "on", f">{PASSWORD}", "+ping", "+hello", "+client")
    try:
        whole = await ask_url(redis.url)
        told = await ask_url(redis.url.replace(f":{redis.instance.password}@", f"guest:{PASSWORD}@"))
    finally:
        await admin.execute_command("ACL", "DELUSER", "guest")
        await admin.aclose()
    assert (told.server, told.search, told.modules) == (whole.server, whole.search, whole.modules)
    assert "INFO" in told.refused


async def test_a_cluster_is_looked_at_with_the_options_of_its_url(redis: RunningRedis, tmp_path: Path) -> None:
    """Without `ssl_cert_reqs=none` this server's certificate would not do."""
    certificates = make_certificates(tmp_path)
    async with tls_front(redis.instance.port, certificates, ssl.CERT_NONE) as port:
        url = f"rediss+cluster://:{redis.instance.password}@127.0.0.1:{port}?ssl_cert_reqs=none"
        assert (await ask_url(f"{url}&ssl_check_hostname=false")).server.startswith("Redis 8.")


async def test_a_wrong_password_is_said_and_not_shown(redis: RunningRedis) -> None:
    """The one finding has the address, without what was tried."""
    url = redis.url.replace(redis.instance.password, PASSWORD)
    (finding,) = await inspect(url, needs_search=True, timeout_s=0.1)
    assert finding.severity == "fault"
    assert str(redis.instance.port) in finding.what
    assert PASSWORD not in finding.line()


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_no_server_is_one_fault(scheme: str) -> None:
    """Nothing listens there."""
    (finding,) = await inspect(f"{scheme}://:{PASSWORD}@127.0.0.1:{free_port()}/0", needs_search=True, timeout_s=0.1)
    assert finding.severity == "fault"
    assert PASSWORD not in finding.line()


async def test_a_server_that_never_answers_costs_a_bounded_time(tmp_path: Path) -> None:
    """A socket that accepts and says nothing: given up long before a person would."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    begun_s = time.monotonic()
    try:
        with pytest.raises(CannotAsk, match=str(port)):
            await ask_url(f"redis://127.0.0.1:{port}/0", timeout_s=2.0)
    finally:
        server.close()
    assert time.monotonic() - begun_s < 30

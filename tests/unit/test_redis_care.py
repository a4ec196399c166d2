"""What is said of a Redis, by what it tells of itself."""

from dataclasses import replace
from pathlib import Path

import pytest

from cache.redis_care import inspect, judge
from cache.redis_info import parse_version
from cache.redis_report import NotOneServer, ServerReport, client_of
from cache.redis_url import TlsFiles
from common.findings import Finding

WELL = ServerReport(
    info={
        "redis_version": "8.6.4",
        "maxmemory_policy": "volatile-lru",
        "maxmemory": str(4 * 2**30),
        "used_memory": str(2**30),
        "total_system_memory": str(16 * 2**30),
        "aof_enabled": "1",
        "aof_last_write_status": "ok",
        "rdb_last_bgsave_status": "ok",
        "role": "master",
        "connected_slaves": "0",
        "connected_clients": "10",
        "maxclients": "10000",
        "loading": "0",
    },
    modules={"search": (8, 6, 4)},
    latency_s=0.001,
    clock_s=0.0,
    documents=1000,
)


def told(facts: ServerReport, needs_search: bool = True) -> dict[str, Finding]:
    """The findings that are not simply well, by their check."""
    found = judge(facts, needs_search=needs_search, timeout_s=0.1)
    return {finding.check: finding for finding in found if finding.severity != "ok"}


def with_info(facts: ServerReport = WELL, **fields: object) -> ServerReport:
    return replace(facts, info={**facts.info, **{name: str(value) for name, value in fields.items()}})


def test_a_server_that_suits_is_left_alone() -> None:
    """Nothing to say, and everything named."""
    assert told(WELL) == {}
    assert {"server", "search module", "eviction policy", "memory", "append-only file", "latency", "clock"} == {
        finding.check for finding in judge(WELL, needs_search=True, timeout_s=0.1)
    }


@pytest.mark.parametrize(
    ("facts", "check", "severity"),
    [
        (with_info(maxmemory_policy="allkeys-lru"), "eviction policy", "fault"),
        (with_info(maxmemory_policy="noeviction"), "eviction policy", "warning"),
        (with_info(maxmemory_policy="noeviction", maxmemory=0), "eviction policy", "note"),
        (with_info(maxmemory=0), "memory", "warning"),
        (with_info(used_memory=int(3.9 * 2**30)), "memory", "warning"),
        (with_info(used_memory=int(3.9 * 2**30), maxmemory_policy="noeviction"), "memory", "fault"),
        (with_info(maxmemory=15 * 2**30), "memory", "warning"),
        (with_info(aof_enabled=0), "append-only file", "warning"),
        (with_info(aof_last_write_status="err"), "append-only file", "fault"),
        (with_info(aof_enabled=0, rdb_last_bgsave_status="err"), "snapshot", "warning"),
        (with_info(loading=1), "loading", "warning"),
        (with_info(role="slave"), "replication", "fault"),
        (with_info(connected_slaves=2), "replication", "note"),
        (with_info(cluster_enabled=1), "cluster", "note"),
        (with_info(connected_clients=9500), "connections", "warning"),
        (replace(WELL, modules={}), "search module", "warning"),
        (replace(WELL, modules=None), "search module", "unseen"),
        (replace(WELL, latency_s=0.06), "latency", "warning"),
        (replace(WELL, latency_s=0.2), "latency", "fault"),
        (replace(WELL, latency_s=None), "latency", "unseen"),
        (replace(WELL, clock_s=-90.0), "clock", "warning"),
        (replace(WELL, clock_s=None), "clock", "unseen"),
        (replace(WELL, has_password=False), "password", "note"),
        (replace(WELL, has_password=False, is_local=False), "password", "warning"),
        (replace(WELL, refused=("INFO", "INFO")), "commands", "unseen"),
    ],
)
def test_what_does_not_suit_is_said(facts: ServerReport, check: str, severity: str) -> None:
    """Each with its severity, and a warning or fault with why it matters and what mends it."""
    finding = told(facts)[check]
    assert finding.severity == severity
    if severity in {"warning", "fault"}:
        assert finding.why
        assert finding.remedy


@pytest.mark.parametrize(
    ("version", "is_affected"),
    [
        ("7.4.9", True),
        ("8.2.6", True),
        ("8.4.3", True),
        ("8.4.4", False),
        ("8.6.3", True),
        ("8.6.4", False),
        ("8.10.1", False),
    ],
)
def test_versions_that_expire_slowly(version: str, is_affected: bool) -> None:
    """EXPIRE under queries: a note with a small index, a warning with a large one, nothing without the module."""
    small = with_info(redis_version=version)
    large = replace(small, documents=2_000_000)
    assert [told(facts).get("known faults", Finding("", "ok", "")).severity for facts in (small, large)] == (
        ["note", "warning"] if is_affected else ["ok", "ok"]
    )
    assert "known faults" not in told(replace(large, modules={}), needs_search=False)


def test_missing_security_fixes_weigh_more_where_others_reach_the_server() -> None:
    """On this machine a note, elsewhere a warning; nothing for a series whose fixes are not known."""
    old = with_info(replace(WELL, modules={}), redis_version="8.2.3")
    assert told(old, needs_search=False)["known faults"].severity == "note"
    assert told(replace(old, is_local=False), needs_search=False)["known faults"].severity == "warning"
    assert "known faults" not in told(with_info(old, redis_version="7.2.4"), needs_search=False)


def test_valkey_is_not_judged_by_the_redis_version_it_claims() -> None:
    """It reports redis_version 7.2.4 for old clients; the faults of Redis are not its own."""
    valkey = with_info(redis_version="7.2.4", valkey_version="9.1.2")
    assert "known faults" not in told(valkey)
    assert judge(valkey, needs_search=True, timeout_s=0.1)[0].what == "Valkey 9.1.2"


def test_a_server_that_tells_nothing_is_no_fault() -> None:
    """Everything refused, as a managed service may: what could not be seen is said, and nothing is alarmed."""
    silent = ServerReport(refused=("PING", "INFO", "TIME", "DBSIZE", "MODULE LIST"))
    assert {finding.severity for finding in told(silent).values()} == {"unseen"}


def test_the_search_module_is_missed_only_where_it_is_used() -> None:
    """With the semantic tier off, its absence is a note."""
    assert told(replace(WELL, modules={}), needs_search=False)["search module"].severity == "note"


@pytest.mark.parametrize(
    ("text", "version"), [("8.2.3", (8, 2, 3)), ("7.4.0-rc1", (7, 4, 0)), ("8", (8,)), ("unknown", ())]
)
def test_versions_are_numbers(text: str, version: tuple[int, ...]) -> None:
    """What follows the numbers says nothing of the release."""
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://u:p@one:7000/2", {"host": "one", "port": 7000, "username": "u", "password": "p", "db": 2}),
        ("redis+cluster://u:p@one:7000,two:7001", {"host": "one", "port": 7000, "username": "u", "password": "p"}),
        ("rediss+cluster://[::1],two/0?ssl_cert_reqs=none", {"host": "::1", "port": 6379, "ssl_cert_reqs": "none"}),
        ("unix:///run/redis.sock?db=3", {"path": "/run/redis.sock", "db": 3}),
    ],
)
def test_one_server_is_looked_at_as_it_is_used(url: str, options: dict[str, object]) -> None:
    """Of a cluster the first address that its URL begins at; every option of the URL, and our certificates."""
    found = client_of(url, TlsFiles(ca=Path("/ca.pem"))).connection_pool.connection_kwargs
    assert options.items() <= found.items()
    assert found.get("ssl_ca_certs") == ("/ca.pem" if url.startswith("rediss") else None)


async def test_sentinels_are_not_looked_at() -> None:
    """They know of servers and are none: not seen, which is no fault; nothing of the URL is shown."""
    url = "redis+sentinel://u:hunter2@one:26379/mymaster"
    with pytest.raises(NotOneServer):
        client_of(url, TlsFiles())
    (finding,) = await inspect(url, needs_search=True, timeout_s=0.1)
    assert finding.severity == "unseen"
    assert "hunter2" not in finding.line()

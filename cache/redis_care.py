"""Whether a Redis suits what is kept in it: what was found, why it matters, and the command that mends it.

    findings = judge(await ask_url(url), needs_search=True, timeout_s=0.1)

Entries have a TTL and may be evicted. State has none and may not: epochs (a purge), live values, what was learned.
"""

from collections.abc import Iterator
from typing import Final

from cache.redis_info import Version
from cache.redis_report import CannotAsk, NotOneServer, ServerReport, ask_url
from cache.redis_url import TlsFiles
from common.findings import Finding

CLOCK_TOLERANCE_S: Final = 5.0
KNOWN_FAULTS: Final = "known faults"  # of a version: another release is the remedy
FULL: Final = 0.9  # of maxmemory, or of the clients allowed
LARGE_INDEX: Final = 100_000  # keys from which documents that expire under queries are felt
# By series, the first release with the fixes of May 2026 for code that a client may run in the server.
SECURITY_FIXES: Final[dict[Version, Version]] = {
    (7, 4): (7, 4, 9),
    (8, 2): (8, 2, 6),
    (8, 4): (8, 4, 3),
    (8, 6): (8, 6, 3),
}
REWRITE: Final = "then `redis-cli CONFIG REWRITE`, or set it in redis.conf or at your provider"


async def inspect(url: str, *, needs_search: bool, timeout_s: float, tls: TlsFiles | None = None) -> list[Finding]:
    """Ask the server at `url` and judge it; one fault where it does not answer. Takes 5 s at most.

    `timeout_s` is the limit that look-ups have, `redis_timeout_ms`; `tls`, files for certificates.
    """
    try:
        facts = await ask_url(url, tls=tls)
    except NotOneServer as error:
        return [Finding("server", "unseen", str(error), "", "look at a server by its own redis:// address")]
    except CannotAsk as error:
        return [
            Finding(
                "server",
                "fault",
                str(error),
                "without Redis every text is computed unless L0 of the same worker has it",
                "start it, or set redis_url (DEJAVEC_REDIS_URL)",
            )
        ]
    return judge(facts, needs_search=needs_search, timeout_s=timeout_s)


def judge(facts: ServerReport, *, needs_search: bool, timeout_s: float) -> list[Finding]:
    """All findings about a server, in the order of a report."""
    parts = (
        _server(facts),
        _search(facts, needs_search),
        _policy(facts),
        _memory(facts),
        _persistence(facts),
        _topology(facts),
        _latency(facts, timeout_s),
        _clock(facts),
        _access(facts),
    )
    return [finding for part in parts for finding in part]


def _server(facts: ServerReport) -> Iterator[Finding]:
    if not facts.server:
        yield Finding("server", "unseen", "the server does not tell its version (INFO is refused)")
        return
    yield Finding("server", "ok", facts.server)
    version = facts.redis_version
    if version is None:
        return
    fixed = SECURITY_FIXES.get(version[:2])
    if fixed and version < fixed:
        yield Finding(
            KNOWN_FAULTS,
            "note" if facts.is_local else "warning",
            f"{facts.server} lacks security fixes that {_dotted(fixed)} has",
            "who may send it commands may be able to run code in it (CVE-2026-23479, CVE-2026-25243)",
            f"update Redis to {_dotted(fixed)} or newer of its series",
        )
    if facts.search and _expires_slowly(version):
        documents = facts.documents or 0
        yield Finding(
            KNOWN_FAULTS,
            "warning" if documents >= LARGE_INDEX else "note",
            f"{facts.server} with a search index of up to {documents:,} documents",
            "before 8.4.4 and 8.6.4, queries suffer while documents of a large index expire",
            "update Redis to 8.4.4, 8.6.4 or newer",
        )


def _expires_slowly(version: Version) -> bool:
    return version < (8, 4, 4) or (8, 5) <= version < (8, 6, 4)


def _search(facts: ServerReport, needed: bool) -> Iterator[Finding]:
    if facts.search:
        yield Finding("search module", "ok", facts.search)
    elif facts.modules is None:
        yield Finding("search module", "unseen", "the server does not tell its modules")
    else:
        yield Finding(
            "search module",
            "warning" if needed else "note",
            "there is none",
            "the semantic tier needs it; the exact tier does not",
            'Redis 8 or Redis Stack has it; or set semantic_mode = "off"' if needed else "",
        )


def _policy(facts: ServerReport) -> Iterator[Finding]:
    policy = facts.info.get("maxmemory_policy", "")
    if not policy:
        yield Finding("eviction policy", "unseen", "the server does not tell it")
    elif policy.startswith("allkeys-"):
        yield Finding(
            "eviction policy",
            "fault",
            policy,
            "it may evict state that has no TTL: a purge would come undone, thresholds and what was learned be lost",
            f"`redis-cli CONFIG SET maxmemory-policy volatile-lru`, {REWRITE}",
        )
    elif policy == "noeviction":
        yield Finding(
            "eviction policy",
            "warning" if facts.number("maxmemory") else "note",
            policy,
            "a full server refuses every write, so that nothing new is cached until entries end by their TTL",
            f"`redis-cli CONFIG SET maxmemory-policy volatile-lru`, {REWRITE}",
        )
    else:
        yield Finding("eviction policy", "ok", policy)


def _memory(facts: ServerReport) -> Iterator[Finding]:
    used, limit = facts.number("used_memory"), facts.number("maxmemory")
    total = facts.number("total_system_memory")
    if used is None or limit is None:
        yield Finding("memory", "unseen", "the server does not tell it")
    elif not limit:
        yield Finding(
            "memory",
            "warning",
            f"{_mb(used)} used, no limit",
            "Redis grows until the machine has no memory left",
            f"`redis-cli CONFIG SET maxmemory 4gb` (what suits the machine), {REWRITE}",
        )
    elif used >= FULL * limit:
        evicted = int(facts.number("evicted_keys") or 0)
        refuses = facts.info.get("maxmemory_policy") == "noeviction"
        yield Finding(
            "memory",
            "fault" if refuses else "warning",
            f"{_mb(used)} of {_mb(limit)} used, {evicted:,} entries evicted",
            "writes are refused when it is full"
            if refuses
            else "entries are evicted before their TTL, which costs hits",
            'raise maxmemory, lower cache_ttl_seconds, or set cache_dtype = "float16"',
        )
    elif total and limit > FULL * total:
        yield Finding(
            "memory",
            "warning",
            f"maxmemory {_mb(limit)} of {_mb(total)} in the machine",
            "buffers and a rewrite of the append-only file need room beside it; the system may kill Redis",
            f"`redis-cli CONFIG SET maxmemory {int(total * 0.7 / 2**20)}mb`, {REWRITE}",
        )
    else:
        yield Finding("memory", "ok", f"{_mb(used)} of {_mb(limit)} used")


def _persistence(facts: ServerReport) -> Iterator[Finding]:
    enabled = facts.info.get("aof_enabled")
    if enabled is None:
        yield Finding("append-only file", "unseen", "the server does not tell it")
    elif enabled == "0":
        yield Finding(
            "append-only file",
            "warning",
            "off",
            "after a restart of Redis, purged entries may come back, and live thresholds and what was learned are lost",
            f"`redis-cli CONFIG SET appendonly yes`, {REWRITE}",
        )
    elif facts.info.get("aof_last_write_status", "ok") != "ok":
        yield Finding(
            "append-only file",
            "fault",
            "the last write failed",
            "Redis refuses writes until it can write its file",
            "look at the disk of Redis and at its log",
        )
    else:
        yield Finding("append-only file", "ok", "on")
    if facts.info.get("rdb_last_bgsave_status", "ok") != "ok" and enabled != "1":
        yield Finding(
            "snapshot",
            "warning",
            "the last one failed",
            "with stop-writes-on-bgsave-error, the default, Redis refuses writes",
            "look at the disk of Redis and at its log",
        )
    if facts.info.get("loading") == "1":
        yield Finding("loading", "warning", "Redis still loads its data", "it answers when it has", "wait")


def _topology(facts: ServerReport) -> Iterator[Finding]:
    if facts.info.get("role") == "slave":
        yield Finding(
            "replication",
            "fault",
            "this server is a replica",
            "it refuses writes: nothing is cached",
            "let redis_url name the primary",
        )
    elif replicas := int(facts.number("connected_slaves") or 0):
        yield Finding(
            "replication",
            "note",
            f"primary of {replicas}",
            "replicas are behind by moments: after a failover, purge again what was just purged",
        )
    if facts.info.get("cluster_enabled") == "1":
        yield Finding("cluster", "note", "this server is one node of a cluster; the others are not looked at")


def _latency(facts: ServerReport, timeout_s: float) -> Iterator[Finding]:
    if facts.latency_s is None:
        yield Finding("latency", "unseen", "PING is refused")
        return
    what = f"{facts.latency_s * 1000:.1f} ms a round trip"
    if facts.latency_s < timeout_s / 2:
        yield Finding("latency", "ok", what)
        return
    yield Finding(
        "latency",
        "fault" if facts.latency_s >= timeout_s else "warning",
        what,
        f"look-ups give up after {timeout_s * 1000:.0f} ms (redis_timeout_ms) and count as misses",
        "bring Redis closer, or raise redis_timeout_ms",
    )


def _clock(facts: ServerReport) -> Iterator[Finding]:
    if facts.clock_s is None:
        yield Finding("clock", "unseen", "TIME is refused")
    elif abs(facts.clock_s) <= CLOCK_TOLERANCE_S:
        yield Finding("clock", "ok", f"within {CLOCK_TOLERANCE_S:.0f} s of this machine's")
    else:
        direction = "ahead of" if facts.clock_s > 0 else "behind"
        yield Finding(
            "clock",
            "warning",
            f"{abs(facts.clock_s):.0f} s {direction} this machine's",
            "log lines cannot be put in order, and a clock that is set back delays TTLs and writes to the disk",
            "synchronise both clocks by NTP (`timedatectl set-ntp true`)",
        )


def _access(facts: ServerReport) -> Iterator[Finding]:
    if not facts.has_password:
        yield Finding(
            "password",
            "note" if facts.is_local else "warning",
            "Redis lets us in without one",
            "who reaches it can read the vectors, delete them and run commands",
            "set one (`requirepass`, or a user with ACL SETUSER) and put it into redis_url",
        )
    clients, most = facts.number("connected_clients"), facts.number("maxclients")
    if clients and most and clients >= FULL * most:
        yield Finding(
            "connections",
            "warning",
            f"{clients:.0f} of {most:.0f}",
            "new connections will be refused",
            f"`redis-cli CONFIG SET maxclients {2 * most:.0f}`, {REWRITE}",
        )
    if facts.refused:
        yield Finding(
            "commands", "unseen", f"refused to this user or unknown: {', '.join(dict.fromkeys(facts.refused))}"
        )


def _mb(size_bytes: float) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))

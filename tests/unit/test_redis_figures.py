"""Redis' figures of several servers together, and that asking for them does no harm."""

from cache.redis_figures import added_up, read_figures
from cache.redis_info import RedisInfo
from cache.redis_link import RedisLink
from tests.free_ports import free_port


def server(used: int, limit: int, **fields: object) -> RedisInfo:
    told = {"valkey_version": "9.1.2", "used_memory": used, "maxmemory": limit, **fields}
    return RedisInfo(info={name: str(value) for name, value in told.items()})


def test_servers_are_added_up_and_the_fullest_is_named() -> None:
    """By its share, which is what evicts: a small server may be full beside a large one."""
    large = server(600, 1000, evicted_keys=1, expired_keys=2, db0="keys=3,expires=1", db1="keys=4")
    found = added_up([large, server(90, 100, evicted_keys=10, db0="keys=30")])
    assert found is not None
    assert (found.server, found.servers, found.keys) == ("Valkey 9.1.2", 2, 37)
    assert (found.memory_bytes, found.memory_max_bytes) == (690, 1100)
    assert (found.fullest_memory_bytes, found.fullest_memory_max_bytes, found.fullest_share) == (90, 100, 0.9)
    assert (found.evicted_keys, found.expired_keys) == (11, 2)


def test_one_server_without_a_limit_leaves_none_for_all() -> None:
    """Its share is nought, however much it uses; nothing told is nothing."""
    found = added_up([server(50, 100), server(10_000, 0)])
    assert found is not None
    assert (found.memory_max_bytes, found.fullest_share) == (0, 0.5)
    assert added_up([]) is None


async def test_looking_opens_no_breaker() -> None:
    """However often nobody answers the observer: what requests do decides whether Redis is away."""
    link = RedisLink(f"redis://127.0.0.1:{free_port()}", timeout_s=1.0)
    for _ in range(10):
        assert await read_figures(link) is None
    assert link.state == "ok"
    await link.aclose()

"""What several kinds of tests share: a real Redis for those that ask for one."""

from collections.abc import Iterator

import pytest

from deploy.embedded_redis import RunningRedis, running_redis


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    """One real Redis with RediSearch for the whole run; tests use namespaces of their own and never flush it."""
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running

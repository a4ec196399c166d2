"""What several kinds of tests share: a real Redis for those that ask for one, and children with usual signals."""

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Before NumPy is imported: see `deploy.cli`. Beside busy processes, building a model took four times as long without.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from engine.build import build_bundle, default_checkpoint
from tests.browser import Chromium, running_chromium
from tests.running_redis import RunningRedis, running_redis, valkey_binaries
from tests.small_disk import small_disk_at

BUNDLE = Path(__file__).parents[1] / ".dejavec/models/all-MiniLM-L6-v2"


def pytest_configure() -> None:
    """Give back the usual signal handlers, which a shell's background job or `nohup` has not, and children inherit.

    A child that ignores SIGINT would never end where a test interrupts it.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def environment_as_before() -> Iterator[None]:
    """What a command called in this process sets for its children, such as its options, is no other test's."""
    before = _settings_in_environment()
    yield
    for name in _settings_in_environment().keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def real_bundle() -> Path:
    """The default model's bundle, built where `make up` builds it; unchanged inputs make this a look at a file."""
    BUNDLE.parent.mkdir(parents=True, exist_ok=True)
    with (BUNDLE.parent / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_bundle(str(default_checkpoint()), BUNDLE)
    return BUNDLE


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    """One real Redis with RediSearch for the whole run; tests use namespaces of their own and never flush it."""
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    """As `redis`, a real Valkey with the same RediSearch; skipped where it is not installed."""
    with running_redis(tmp_path_factory.mktemp("valkey"), binaries=valkey_binaries()) as running:
        yield running


@pytest.fixture
def chromium() -> Iterator[Chromium]:
    """A headless Chromium for one test, since its loop would be in others' way; skipped where there is none."""
    with running_chromium() as running:
        yield running


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; skipped where it cannot be mounted."""
    with small_disk_at(tmp_path / "disk") as place:
        yield place


def _settings_in_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("DEJAVEC_")}

"""The whole product with its real model, started once for the tests that only use it."""

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.embedded_redis import NotAvailable, locate
from engine.build import build_bundle, default_checkpoint
from tests.e2e.stack import Run, running

BUNDLE = Path(__file__).parents[2] / ".dejavec/models/all-MiniLM-L6-v2"


@pytest.fixture(scope="session")
def real_bundle() -> Path:
    """The default model's bundle, built where `make up` builds it; unchanged inputs make this a look at a file."""
    BUNDLE.parent.mkdir(parents=True, exist_ok=True)
    with (BUNDLE.parent / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_bundle(str(default_checkpoint()), BUNDLE)
    return BUNDLE


@pytest.fixture(scope="session")
def stack(real_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One `dejavec up` with the real model; tests leave it serving."""
    try:
        locate()
    except NotAvailable as reason:
        pytest.skip(str(reason))
    folder = tmp_path_factory.mktemp("stack")
    with running(folder, DEJAVEC_MODEL_BUNDLE=str(real_bundle), DEJAVEC_ADMIN_TOKEN="operator-of-these-tests") as run:
        yield run

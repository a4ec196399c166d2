"""Tracing is off without OTEL_* variables, and then costs a look at None; a collector that is away harms nothing."""

import os
import subprocess
import sys
import timeit
from pathlib import Path

import pytest

from common import tracing
from common.traced_app import traced
from tests.free_ports import free_port

ROOT = Path(__file__).parents[2]
IMPORTED = """
import asyncio, sys
from common import logs, tracing
logs.configure("info")
tracing.configure("test")
parts = "opentelemetry.sdk.trace", "opentelemetry.exporter"
print(tracing.tracer is not None, any(name.startswith(parts) for name in sys.modules))
"""
SENDS = """
import asyncio, time
from common import logs, tracing
logs.configure("info")
tracing.configure("test")
for _ in range(100):
    with tracing.span("work", {}):
        tracing.record("part", 0.001, {}, "client")
started = time.monotonic()
asyncio.run(tracing.aclose())
print(tracing.tracer, time.monotonic() - started < 30)
"""


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment = {**kept, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )


def test_off_means_that_nothing_is_imported() -> None:
    """Neither by gateway nor by engine; FastAPI and redis-py import parts that make no spans."""
    assert run(IMPORTED.replace("parts =", "import gateway.app, engine.server\nparts =")).stdout == "False False\n"


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    ],
    ids=["empty", "disabled", "another exporter"],
)
def test_opentelemetrys_variables_switch_it_off(variables: dict[str, str]) -> None:
    """As in any other program that uses it."""
    assert run(IMPORTED, **variables).stdout == "False False\n"


def test_without_the_package_a_line_says_what_to_install() -> None:
    """The process goes on without traces."""
    code = "import sys; sys.modules['opentelemetry.sdk.trace'] = None\n" + IMPORTED
    done = run(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert done.stdout.startswith("False")
    assert ".venv/bin/pip install -e '.[otel]'" in done.stderr


def test_a_collector_that_is_away_holds_up_neither_work_nor_end() -> None:
    """Spans are dropped; the end waits for a bounded time."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `otel` is not installed")
    done = run(SENDS, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    assert done.stdout == "None True\n", done.stderr


def test_an_application_is_itself_while_tracing_is_off() -> None:
    """No layer is put around it."""

    async def app(*_: object) -> None: ...

    assert tracing.tracer is None
    assert traced(app, "/v1/embeddings") is app


def measure(times: int = 1_000_000) -> float:
    """Nanoseconds that a request's look at `tracing.tracer` costs (docs/tracing.md): the best of ten."""
    look = "if tracing.tracer is not None: raise AssertionError"
    runs = (timeit.repeat(code, "from common import tracing", repeat=10, number=times) for code in (look, "pass"))
    looked, idle = map(min, runs)
    return 1e9 * (looked - idle) / times


if __name__ == "__main__":
    print(f"{measure():.0f} ns for each look; a request that is computed looks nine times")

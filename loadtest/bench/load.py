"""Drives one server for one round with the generator at hand: wrk when it is installed, else our own."""

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from loadtest.bench.generator import Measurement, Task
from loadtest.bench.processes import LOOPBACK, BenchmarkError, run_pinned

START_S = 60.0  # what a generator may take besides its measuring time

# A script for wrk: sends the requests in turn and prints what `Measurement` holds as JSON on the last line.
_LUA = """
local requests = { %s }
local at = 0
function request() at = at %% #requests + 1; return requests[at] end
function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests":%%d,"us":%%d,"p50_us":%%f,"p99_us":%%f,"status":%%d,"closed":%%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """How every contender of a run is driven: the same generator, core and duration for all."""

    seconds: float
    core: int | None = None
    use_wrk: bool = False

    def measure(self, url: str, requests: Sequence[bytes], connections: int) -> Measurement:
        """One round against one server. Raises BenchmarkError."""
        if self.use_wrk:
            return self._wrk(url, requests, connections)
        parts = urlsplit(url)
        task = Task(parts.hostname or LOOPBACK, parts.port or 80, list(requests), connections, self.seconds)
        command = (sys.executable, "-m", "loadtest.bench.generator")
        return Measurement(**orjson.loads(run_pinned(command, task.to_json(), self.core, self.seconds + START_S)))

    def _wrk(self, url: str, requests: Sequence[bytes], connections: int) -> Measurement:
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "requests.lua"
            script.write_text(_LUA % ",\n".join(map(lua_string, requests)), encoding="ascii")
            command = ("wrk", "-t1", f"-c{connections}", f"-d{max(1, round(self.seconds))}s", "-s", str(script), url)
            output = run_pinned(command, b"", self.core, self.seconds + START_S)
        return wrk_measurement(output)


def wrk_installed() -> bool:
    """Whether the `wrk` command is at hand."""
    return shutil.which("wrk") is not None


def lua_string(content: bytes) -> str:
    """Any bytes as a Lua string literal."""
    return '"' + "".join(f"\\{byte:03d}" for byte in content) + '"'


def wrk_measurement(output: bytes) -> Measurement:
    """Read the last line that our script makes wrk print. Raises BenchmarkError."""
    try:
        figures = json.loads(output.strip().splitlines()[-1])
        seconds = figures["us"] / 1e6
        counts = {"status": figures["status"], "closed": figures["closed"]}
        rate = (figures["requests"] - figures["status"]) / seconds
        failed = {kind: count for kind, count in counts.items() if count}
        return Measurement(rate, figures["p50_us"] / 1000, figures["p99_us"] / 1000, failed)
    except (ValueError, KeyError, IndexError, ZeroDivisionError):
        raise BenchmarkError(f"wrk printed something else than expected: {output[-500:]!r}") from None

"""The supervisor with real processes: restarts, hung children, order of stopping, and what is left behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from deploy.backoff import Backoff
from deploy.child import ChildSpec, WatchPolicy
from deploy.embedded_redis import NotAvailable, answers, configure, locate
from deploy.local import redis_child
from deploy.orphan_guard import OrphanGuard
from deploy.output import Output
from deploy.probes import alive_probe, http_probe
from deploy.settings import SupervisorSettings
from deploy.supervisor import Policy, StartRefused, Supervisor
from engine.exit_status import CANNOT_START
from tests.free_ports import free_port

SLEEP = "import time; time.sleep(60)"
REFUSE = f"print('Error: no bundle; build one'); raise SystemExit({CANNOT_START})"
FAST = Policy(WatchPolicy(start_timeout_s=60, interval_s=0.05, failures=3), lambda: Backoff(0.05, 0.2, 30))


async def well() -> bool:
    return True


async def unwell() -> bool:
    return False


def child(name: str, code: str, **more: object) -> ChildSpec:
    settings: dict[str, object] = {"ready": well, "alive": well, **more}
    return ChildSpec(name, (sys.executable, "-u", "-c", code), **settings)  # type: ignore[arg-type]


class Lines:
    """What was said, and waiting for a word of it."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def __call__(self, who: str, line: str) -> None:
        self.said.append((who, line))

    def of(self, who: str) -> list[str]:
        return [line for speaker, line in self.said if speaker == who]

    async def until(self, who: str, word: str, times: int = 1) -> str:
        async with asyncio.timeout(60):
            while len(found := [line for line in self.of(who) if word in line]) < times:
                await asyncio.sleep(0.01)
        return found[-1]


@asynccontextmanager
async def supervised(*specs: ChildSpec, lines: Lines) -> AsyncIterator[Supervisor]:
    guard = OrphanGuard()
    supervisor = Supervisor(FAST, guard, lines)
    try:
        await supervisor.start(specs)
        yield supervisor
    finally:
        await supervisor.stop()
        guard.close()


async def gone(process_id: int) -> bool:
    for _ in range(200):
        if not psutil.pid_exists(process_id) or psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE:
            return True
        await asyncio.sleep(0.02)
    return False


async def test_a_dead_child_comes_back_and_the_log_says_so() -> None:
    """The line has name, status and delay; the delays grow."""
    lines = Lines()
    async with supervised(child("engine", "print('hi'); raise SystemExit(7)"), lines=lines):
        line = await lines.until("dejavec", "engine exited with status 7")
        assert "starting it again in 0." in line
        await lines.until("engine", "hi", times=3)


@pytest.mark.parametrize(("number", "name"), [(signal.SIGKILL, "SIGKILL"), (40, "signal 40")])
async def test_a_killed_child_is_named_with_its_signal(number: int, name: str) -> None:
    """kill -9 from outside, or a signal without a name: it is in the log and another process takes over."""
    lines = Lines()
    async with supervised(child("engine", f"import os; print(os.getpid()); {SLEEP}"), lines=lines):
        first = int(await lines.until("engine", ""))
        os.kill(first, number)
        await lines.until("dejavec", f"engine was ended by {name}")
        assert int(await lines.until("engine", "", times=2)) != first


async def test_a_hung_child_is_killed_and_started_again() -> None:
    """Alive but failing its checks: ended, SIGTERM ignored or not."""
    lines = Lines()
    stubborn = f"import signal; signal.signal(15, signal.SIG_IGN); print('up'); {SLEEP}"
    async with supervised(child("engine", stubborn, alive=unwell), lines=lines):
        await lines.until("dejavec", "engine failed 3 checks in a row, so it was killed")
        await lines.until("engine", "up", times=2)


async def test_a_child_that_never_becomes_ready_is_restarted() -> None:
    """start_timeout_s bounds the wait, and the children after it are started all the same."""
    lines = Lines()
    policy = Policy(WatchPolicy(0.2, 0.05, 3), FAST.new_backoff)
    guard = OrphanGuard()
    supervisor = Supervisor(policy, guard, lines)
    await supervisor.start([child("engine", SLEEP, ready=unwell), child("gateway", SLEEP)])
    assert any("engine was not ready after 0.2 s" in line for line in lines.of("dejavec"))
    assert "gateway is up" in lines.of("dejavec")
    await supervisor.stop()
    guard.close()


async def test_children_stop_in_reverse_order_each_gone_before_the_next() -> None:
    """The gateway drains while engine and Redis still answer."""
    lines = Lines()
    farewell = "import signal, sys, time; signal.signal(15, lambda *_: (time.sleep(0.2), print('bye'), sys.exit()));"
    names = ("redis", "engine", "gateway")
    async with supervised(*(child(name, f"{farewell} print('up'); {SLEEP}") for name in names), lines=lines):
        for name in names:
            await lines.until(name, "up")
    told = [(who, line) for who, line in lines.said if "bye" in line or "stopping" in line]
    assert told == [step for name in reversed(names) for step in (("dejavec", f"stopping {name}"), (name, "bye"))]


async def test_a_child_that_ignores_the_request_is_killed() -> None:
    """Stopping ends after stop_timeout_s."""
    lines = Lines()
    stubborn = f"import signal, os; signal.signal(15, signal.SIG_IGN); print(os.getpid()); {SLEEP}"
    async with supervised(child("engine", stubborn, stop_timeout_s=0.2), lines=lines):
        process_id = int(await lines.until("engine", ""))
    assert await gone(process_id)


async def test_what_a_dead_child_leaves_behind_is_ended() -> None:
    """Workers of a killed gateway do not keep its port."""
    lines = Lines()
    code = f"""
import subprocess, sys, os
worker = subprocess.Popen([sys.executable, "-c", "{SLEEP}"])
print(worker.pid); os.kill(os.getpid(), 9)"""
    async with supervised(child("gateway", code), lines=lines):
        worker = int(await lines.until("gateway", ""))
        await lines.until("dejavec", "ended by SIGKILL")
        assert await gone(worker)


def first_then(marker: Path, first: str, later: str) -> str:
    """Code that does `first` in its first process and `later` in the others."""
    return f"""
from pathlib import Path
again = Path({str(marker)!r}).exists()
Path({str(marker)!r}).touch()
exec({later!r} if again else {first!r})"""


async def test_a_refused_configuration_ends_the_start() -> None:
    """CANNOT_START does not get better: the start fails with the child's own reason instead of trying for ever."""
    lines = Lines()
    with pytest.raises(StartRefused, match=r"^engine cannot start: no bundle; build one$"):
        async with supervised(child("engine", REFUSE, ready=unwell), child("gateway", SLEEP), lines=lines):
            pass
    assert lines.of("engine") == ["Error: no bundle; build one"]
    assert "starting gateway" not in lines.of("dejavec")


async def test_a_refusal_without_a_reason_ends_the_start() -> None:
    """The status alone is enough."""
    with pytest.raises(StartRefused, match="engine cannot start: its last lines above"):
        async with supervised(child("engine", f"raise SystemExit({CANNOT_START})", ready=unwell), lines=Lines()):
            pass


async def test_a_refusal_of_the_second_try_ends_the_start(tmp_path: Path) -> None:
    """A port taken between the check and the start: the first process fails, the next one reports it."""
    engine = child("engine", first_then(tmp_path / "started", "raise SystemExit(3)", REFUSE), ready=unwell)
    with pytest.raises(StartRefused, match="no bundle"):
        async with supervised(engine, child("gateway", SLEEP, ready=unwell), lines=Lines()):
            pass


async def test_what_follows_the_start_ends_with_a_refusal_too(tmp_path: Path) -> None:
    """Whoever waits for the children to serve does not wait for one that cannot start any more."""
    lines = Lines()
    engine = child("engine", first_then(tmp_path / "started", "raise SystemExit(1)", REFUSE))
    async with supervised(engine, lines=lines) as supervisor:
        with pytest.raises(StartRefused, match="no bundle"):
            await supervisor.unless_refused(asyncio.sleep(60))


async def test_the_others_go_on_without_a_child_that_cannot_start_again(tmp_path: Path) -> None:
    """Its reason is logged once and handed on, no process follows, and stopping stops the others."""
    lines, told = Lines(), asyncio.Queue[str]()
    engine = child(
        "engine", first_then(tmp_path / "started", "raise SystemExit(1)", REFUSE), on_refused=told.put_nowait
    )
    async with supervised(engine, child("gateway", f"print('up'); {SLEEP}"), lines=lines) as supervisor:
        watching = asyncio.create_task(supervisor.watch())
        async with asyncio.timeout(60):
            text = await told.get()
        assert text.startswith("engine cannot start: no bundle; build one. It is not started again")
        assert lines.of("dejavec").count(text) == 1
        assert sum("starting it again" in line for line in lines.of("dejavec")) == 1
        assert not watching.done()
        watching.cancel()
    assert "stopping gateway" in lines.of("dejavec")
    assert "stopping engine" not in lines.of("dejavec")


async def test_all_ends_when_a_child_that_is_needed_cannot_start_again(tmp_path: Path) -> None:
    """A spec without `on_refused`: nothing answers without it."""
    gateway = child("gateway", first_then(tmp_path / "started", "raise SystemExit(1)", REFUSE))
    async with supervised(gateway, lines=Lines()) as supervisor:
        with pytest.raises(StartRefused, match="gateway cannot start: no bundle; build one"):
            async with asyncio.timeout(60):
                await supervisor.watch()


async def test_a_reason_that_cannot_be_handed_on_is_logged(tmp_path: Path) -> None:
    """A full disk does not end what still serves."""

    def fail(_: str) -> None:
        raise OSError(28, "No space left on device")

    lines = Lines()
    engine = child("engine", first_then(tmp_path / "started", "raise SystemExit(1)", REFUSE), on_refused=fail)
    async with supervised(engine, lines=lines) as supervisor:
        watching = asyncio.create_task(supervisor.watch())
        await lines.until("dejavec", "No space left on device")
        watching.cancel()


async def test_a_program_that_does_not_exist_is_said() -> None:
    """Not a trace: a line, and another try later."""
    lines = Lines()
    spec = ChildSpec("redis", ("/nowhere/redis-server",), ready=well, alive=well)
    async with supervised(spec, lines=lines):
        await lines.until("dejavec", "redis could not be started", times=2)


async def test_long_and_broken_lines_are_passed_on() -> None:
    """A line longer than the buffer, bytes that are no UTF-8, a last line without its end."""
    lines = Lines()
    code = "import sys; w = sys.stdout.buffer.write; w(b'x' * 200_000 + b'\\n'); w(b'\\xff\\n'); w(b'end')"
    async with supervised(child("engine", code), lines=lines):
        await lines.until("engine", "end")
    said = lines.of("engine")
    assert sum(map(len, said)) >= 200_004
    assert "\ufffd" in said


async def test_noise_is_not_passed_on() -> None:
    """A line that would only frighten is left out; the others are not."""
    lines = Lines()
    async with supervised(
        child("redis", "print('WARNING overcommit'); print('ready')", noise="overcommit"), lines=lines
    ):
        await lines.until("redis", "ready")
    assert not any("overcommit" in line for line in lines.of("redis"))


async def test_kill_ends_everything_at_once() -> None:
    """The second Ctrl-C: no drain."""
    lines = Lines()
    slow = f"import signal; signal.signal(15, signal.SIG_IGN); print('up'); {SLEEP}"
    async with supervised(child("engine", slow, stop_timeout_s=60), lines=lines) as supervisor:
        await lines.until("engine", "up")
        stopping = asyncio.create_task(supervisor.stop())
        await asyncio.sleep(0.1)
        supervisor.kill()
        async with asyncio.timeout(120):
            await stopping


async def test_killed_redis_comes_back_with_its_data(tmp_path: Path) -> None:
    """kill -9 of the embedded Redis under the supervisor: same port, same data."""
    try:
        instance = configure(tmp_path, locate())
    except NotAvailable as reason:
        pytest.skip(str(reason))
    import redis

    lines = Lines()
    async with supervised(redis_child(instance, SupervisorSettings(watch_interval_s=0.2)), lines=lines):
        with redis.Redis.from_url(instance.url) as client:
            client.set("kept", "value")
            client.execute_command("WAITAOF", 1, 0, 2000)
            os.kill(client.info("server")["process_id"], signal.SIGKILL)
        await lines.until("dejavec", "redis was ended by SIGKILL")
        await lines.until("dejavec", "redis is up", times=2)
        with redis.Redis.from_url(instance.url) as client:
            assert client.get("kept") == b"value"
    assert not answers(instance)


def test_output_goes_to_terminal_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line once on the terminal with its process's name, once in that process's file."""
    output = Output(tmp_path / "logs", sys.stdout)
    output("engine", "ready to serve")
    output.close()
    assert "engine   │ ready to serve" in capsys.readouterr().out
    assert "ready to serve" in (tmp_path / "logs" / "engine.log").read_text()


def server(port: int, answer: str) -> str:
    """Code of a process that answers each connection with these bytes, at once; `silence`: with nothing, ever."""
    return f"""
import socket, time
listener = socket.create_server(("127.0.0.1", {port}), backlog=64)
kept = []
print("up")
while True:
    connection, _ = listener.accept()
    if {answer!r} == "silence":
        kept.append(connection)
        continue
    connection.recv(4096)
    connection.sendall({answer!r}.encode())
    connection.close()"""


FULL = {
    "full": "HTTP/1.0 503 Service Unavailable\r\n\r\nService Unavailable",
    "busy": "HTTP/1.0 429 Too Many Requests\r\n\r\n",
    "closed": "",
    "broken": "HTTP",
}


@pytest.mark.parametrize("answer", FULL.values(), ids=FULL)
async def test_a_child_that_is_full_is_not_killed(answer: str) -> None:
    """It refuses the check, or closes the connection that it has accepted: somebody is there who does."""
    checks, port = 0, free_port()
    probe = alive_probe("127.0.0.1", port, "/health", 30, fault='"not_ready"')

    async def counted() -> bool:
        nonlocal checks
        checks += 1
        return await probe()

    lines = Lines()
    async with supervised(child("gateway", server(port, answer), alive=counted), lines=lines):
        await lines.until("gateway", "up")
        async with asyncio.timeout(60):
            while checks < 5 * FAST.watch.failures:
                await asyncio.sleep(0.02)
    assert not [line for line in lines.of("dejavec") if "killed" in line]
    assert not await http_probe("127.0.0.1", port, "/health", 5)()


SILENT = {
    "silent": "silence",
    "faulty": 'HTTP/1.0 503 Service Unavailable\r\n\r\n{"error":{"message":"hung","type":"not_ready"}}',
}


@pytest.mark.parametrize("answer", SILENT.values(), ids=SILENT)
async def test_a_child_that_hangs_is_killed(answer: str) -> None:
    """Connections that the system accepts for it are no sign of life; nor is an answer that its model has hung."""
    lines, port = Lines(), free_port()
    probe = alive_probe("127.0.0.1", port, "/ready", 0.2, fault='"not_ready"')
    async with supervised(child("engine", server(port, answer), alive=probe), lines=lines):
        await lines.until("dejavec", "engine failed 3 checks in a row, so it was killed")


async def test_a_refused_connection_is_no_sign_of_life() -> None:
    """Nobody listens."""
    assert not await alive_probe("127.0.0.1", free_port(), "/health", 30)()


async def test_what_cannot_be_prepared_ends_the_start(tmp_path: Path) -> None:
    """A folder where a file was, or a read-only one: the reason at once, and no second try."""

    def prepare() -> None:
        tmp_path.unlink()

    lines = Lines()
    with pytest.raises(StartRefused, match=rf"engine cannot start: {tmp_path} cannot be used .*DEJAVEC_DATA_DIR"):
        async with supervised(child("engine", SLEEP, ready=unwell, prepare=prepare), lines=lines):
            pass
    assert not [line for line in lines.of("dejavec") if "again" in line]


def test_lines_reach_the_terminal_where_a_log_file_cannot_be_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No trace: it is reported once, and the others' files are written."""
    output = Output(tmp_path / "logs", sys.stdout)
    (tmp_path / "logs" / "engine.log").mkdir()
    for line in ("one", "two"):
        output("engine", line)
    output("gateway", "three")
    output.close()
    shown, trace = capsys.readouterr()
    assert [word in shown for word in ("one", "two", "three")] == [True] * 3
    assert shown.count("cannot be written to") == 1
    assert trace == ""
    assert "three" in (tmp_path / "logs" / "gateway.log").read_text()


def test_lines_on_a_full_disk_are_dropped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once there is room the file says how many are missing."""
    output = Output(tmp_path, sys.stdout)
    (tmp_path / "engine.log").symlink_to("/dev/full")
    for _ in range(3):
        output("engine", "lost")
    (tmp_path / "engine.log").unlink()
    output("engine", "found")
    output.close()
    assert capsys.readouterr().err == ""
    assert "3 log lines before this one could not be written" in (tmp_path / "engine.log").read_text()


def test_a_line_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences and half characters of any child, Redis included; a huge line is cut."""
    output = Output(tmp_path, sys.stdout)
    output("redis", "\x1b[2J\ud800 done")
    output("redis", "x" * 100_000)
    output.close()
    shown = capsys.readouterr().out
    assert "\\x1b[2J\\ud800 done" in shown
    assert "\x1b" not in shown
    assert len(shown) < 20_000
    assert "\\x1b[2J" in (tmp_path / "redis.log").read_text()


@pytest.mark.parametrize("target", ["/dev/full", "closed"])
def test_the_supervisors_process_outlives_its_terminal(tmp_path: Path, target: str) -> None:
    """Standard output on a full disk, or a pipe without a reader: no trace, and its own exit status."""
    code = (
        "import sys; from pathlib import Path; from deploy.output import Output; o = Output(Path(sys.argv[1]));"
        "[o('engine', 'x' * 1000) for _ in range(100)]; o.close(); sys.exit(3)"
    )
    reader, writer = os.pipe() if target == "closed" else (None, os.open(target, os.O_WRONLY))
    if reader is not None:
        os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (3, "")
    assert (tmp_path / "engine.log").read_text().count("xxx") >= 100

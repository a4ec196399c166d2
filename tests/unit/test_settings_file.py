"""Keys that change without a restart: what is adopted, what is not, and what is logged of it."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from common.tasks import cancel_and_wait
from engine.configuration import load
from gateway import settings_file
from gateway.policies import SETTINGS
from gateway.settings import GatewaySettings
from gateway.settings_file import SettingsFile, on_hangup

ONE = '[api_keys.sk-one-of-these-tests]\nnamespace = "a"\n'
TWO = ONE + '[api_keys.sk-two-of-these-tests]\nnamespace = "b"\nrequests_per_minute = 5\n'


class Gateway:
    """A worker as far as keys are concerned: settings from a real file, and the keys in force."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = load(GatewaySettings)
        self.adopted: list[list[str]] = []
        self.file = SettingsFile(self.settings, path, partial(load, GatewaySettings))
        self.file.follow(("api_keys",), self._adopt)

    def _adopt(self, settings: GatewaySettings) -> None:
        self.adopted.append(sorted(settings.api_keys))

    def write(self, content: str) -> None:
        """Write the file in place, with another time, however coarse the file system's clock is."""
        before = self.path.stat().st_mtime_ns if self.path.exists() else 0
        self.path.write_text(content, encoding="utf-8")
        os.utime(self.path, ns=(before + 1_000_000, before + 1_000_000))

    async def look(self, times: int = 2) -> None:
        """So many looks, as `run` would have them a second apart."""
        for _ in range(times):
            await self.file.look()


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """A gateway with one key in its file."""
    for name in [name for name in os.environ if name.startswith("DEJAVEC_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "dejavec.toml"
    monkeypatch.setenv("DEJAVEC_CONFIG", str(path))
    path.write_text(ONE, encoding="utf-8")
    return Gateway(path)


async def test_a_changed_file_is_adopted(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """Added, changed and removed keys; the log has numbers and no key."""
    caplog.set_level(logging.INFO)
    await gateway.look()
    assert gateway.adopted == []
    gateway.write(TWO)
    await gateway.look()
    gateway.write(TWO.replace("= 5", "= 6").replace("sk-one-of-these-tests", "sk-three-of-these-tests"))
    await gateway.look()
    assert gateway.adopted == [
        ["sk-one-of-these-tests", "sk-two-of-these-tests"],
        ["sk-three-of-these-tests", "sk-two-of-these-tests"],
    ]
    assert "1 added, 0 removed, 0 changed" in caplog.text
    assert "1 added, 1 removed, 1 changed" in caplog.text
    assert "sk-" not in caplog.text


async def test_a_change_between_start_and_first_look_is_seen(gateway: Gateway) -> None:
    """Settings are read at the start, the loop begins later."""
    gateway.write(TWO)
    await gateway.look()
    assert gateway.adopted == [["sk-one-of-these-tests", "sk-two-of-these-tests"]]


async def test_a_file_that_is_being_written_is_not_adopted(gateway: Gateway) -> None:
    """Only what is the same at two looks: half a file may be valid, and would lock keys out."""
    gateway.write(TWO)
    await gateway.look()
    gateway.write(ONE)
    await gateway.file.look()
    gateway.write(TWO + "# more to come\n")
    await gateway.file.look()
    gateway.write(TWO)
    await gateway.look()
    assert gateway.adopted == [["sk-one-of-these-tests", "sk-two-of-these-tests"]]


@pytest.mark.parametrize(
    ("content", "logged"),
    [
        (ONE + "[api_keys.sk-two-of-these-tests", "not valid TOML"),
        ('[api_keys.sk-two-of-these-tests]\nnamespace = "Not A Namespace"\n', "api_keys.<a key>.namespace"),
        (TWO + "[api_keys.sk-three-of-these-tests]\n", "namespace"),
        (TWO + '[api_keys.sk-three-of-these-tests]\nnamespace = "c"\nlimit = 3\n', "limit"),
        ("gateway_port = 99999\n" + TWO, "gateway_port"),
        ("# nothing\n", "would open the gateway"),
    ],
)
async def test_an_invalid_file_keeps_the_keys(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, content: str, logged: str
) -> None:
    """One line of log, once, without a key; the next valid file is adopted."""
    await gateway.look()
    gateway.write(content)
    await gateway.look(5)
    assert gateway.adopted == []
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert logged in record.message
    assert "\n" not in record.message
    assert "sk-t-of-these-tests" not in record.message
    gateway.write(TWO)
    await gateway.look()
    assert gateway.adopted == [["sk-one-of-these-tests", "sk-two-of-these-tests"]]


async def test_a_file_that_is_gone_keeps_the_keys(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """Logged once; when it is back it is read, also if its times are those it had."""
    await gateway.look()
    gateway.path.rename(gateway.path.with_suffix(".old"))
    await gateway.look(5)
    assert gateway.adopted == []
    assert caplog.text.count("cannot be read") == 1
    gateway.write(TWO)
    await gateway.look()
    assert gateway.adopted == [["sk-one-of-these-tests", "sk-two-of-these-tests"]]


async def test_a_replaced_file_is_seen(gateway: Gateway) -> None:
    """Another file under the name, with the same length and time, as editors and ConfigMaps have it."""
    await gateway.look()
    found = gateway.path.stat()
    other = gateway.path.with_suffix(".new")
    other.write_text(ONE.replace("one", "two"), encoding="utf-8")
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(gateway.path)
    await gateway.look()
    assert gateway.adopted == [["sk-two-of-these-tests"]]


async def test_other_settings_are_named_and_not_adopted(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """By name alone: their values may be secrets."""
    await gateway.look()
    gateway.write('max_body_mb = 3\nadmin_token = "hunter2-hunter2-hunter2"\n' + TWO)
    await gateway.look()
    assert gateway.adopted == [["sk-one-of-these-tests", "sk-two-of-these-tests"]]
    assert "needs a restart: admin_token, max_body_mb" in caplog.text
    assert "hunter2" not in caplog.text


async def test_settings_that_are_followed_reach_their_follower(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """Each follower is called for its own settings alone, once a change, and those need no restart."""
    caplog.set_level(logging.INFO)
    followed: list[float] = []
    gateway.file.follow(SETTINGS, lambda settings: followed.append(settings.semantic_fidelity))
    await gateway.look()
    gateway.write("semantic_fidelity = 0.95\nmax_body_mb = 3\n" + ONE)
    await gateway.look()
    assert (followed, gateway.adopted) == ([0.95], [])
    assert "needs a restart: max_body_mb (" in caplog.text
    gateway.write("semantic_fidelity = 0.95\nmax_body_mb = 3\n" + TWO)
    await gateway.look()
    assert (followed, len(gateway.adopted)) == ([0.95], 1)
    gateway.write("max_body_mb = 3\n[namespaces.a]\nsemantic_mode = 'on'\n" + TWO)
    await gateway.look()
    assert followed == [0.95, 0.92]


async def test_an_order_that_is_wrong_is_adopted_by_nobody(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """Valid keys beside values that do not go together: the file is adopted whole or not at all."""
    followed: list[float] = []
    gateway.file.follow(SETTINGS, lambda settings: followed.append(settings.threshold_floor))
    await gateway.look()
    gateway.write("threshold_floor = 0.97\n" + TWO)
    await gateway.look()
    assert (followed, gateway.adopted) == ([], [])
    assert "similarity_threshold must lie between" in caplog.text


async def test_what_is_not_the_gateways_is_named(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """Another process's setting, and a misspelt one, change nothing here: it is said, once, without the value."""
    gateway.write("engine_port = 9000\n" + ONE)
    await gateway.look()
    assert caplog.text == ""
    gateway.write('engine_port = 9001\nsemantic_fidelty = 0.95\n"sk-not a name" = 1\n' + ONE)
    await gateway.look(4)
    assert caplog.text.count("needs a restart of other processes, or is misspelt") == 1
    assert "misspelt: engine_port, semantic_fidelty (" in caplog.text
    assert "sk-" not in caplog.text


async def test_keys_of_the_environment_stay(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at a start they are in force beside the file's, which may then be without any."""
    monkeypatch.setenv("DEJAVEC_API_KEYS", '{"sk-env-of-these-tests": {"namespace": "a"}}')
    gateway = Gateway(gateway.path)
    assert sorted(gateway.settings.api_keys) == ["sk-env-of-these-tests", "sk-one-of-these-tests"]
    gateway.write(TWO)
    await gateway.look()
    gateway.write("# nothing\n")
    await gateway.look()
    assert gateway.adopted == [
        ["sk-env-of-these-tests", "sk-one-of-these-tests", "sk-two-of-these-tests"],
        ["sk-env-of-these-tests"],
    ]


async def test_no_file_is_nothing_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A gateway configured by variables alone; one that gets a file later follows it."""
    monkeypatch.setenv("DEJAVEC_CONFIG", str(tmp_path / "none.toml"))
    gateway = Gateway(tmp_path / "none.toml")
    await gateway.look(3)
    assert caplog.text == ""
    gateway.write(ONE)
    await gateway.look()
    assert gateway.adopted == [["sk-one-of-these-tests"]]


async def run_and_wait(gateway: Gateway, until: Callable[[], bool], act: Callable[[], Awaitable[None]]) -> None:
    """Run the loop, act, and wait for what must come of it."""
    task = asyncio.create_task(gateway.file.run())
    try:
        with on_hangup(gateway.file.wake):
            await act()
            async with asyncio.timeout(60):
                while not until():
                    await asyncio.sleep(0.01)
    finally:
        await cancel_and_wait([task])


async def test_the_loop_follows_the_file(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a signal, look after look."""
    monkeypatch.setattr(settings_file, "POLL_S", 0.01)

    async def write() -> None:
        gateway.write(TWO)

    await run_and_wait(gateway, lambda: gateway.adopted == [["sk-one-of-these-tests", "sk-two-of-these-tests"]], write)


async def test_a_hangup_reads_at_once(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real signal, with looks so far apart that none comes; the signal does not end the process."""
    monkeypatch.setattr(settings_file, "POLL_S", 3600)
    before = signal.getsignal(signal.SIGHUP)

    async def hang_up() -> None:
        await asyncio.sleep(0)
        gateway.write(TWO)
        os.kill(os.getpid(), signal.SIGHUP)

    await run_and_wait(
        gateway, lambda: gateway.adopted == [["sk-one-of-these-tests", "sk-two-of-these-tests"]], hang_up
    )
    assert signal.getsignal(signal.SIGHUP) == before


async def test_outside_the_main_thread_there_is_no_signal() -> None:
    """Where a handler cannot be set, nothing is, and nothing fails."""

    async def enter() -> bool:
        with on_hangup(lambda: None):
            return True

    assert await asyncio.to_thread(asyncio.run, enter())

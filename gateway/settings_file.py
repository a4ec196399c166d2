"""Settings changed without a restart: the settings file is read again when it changes, and on SIGHUP.

    file = SettingsFile(settings, config_file(), partial(load, GatewaySettings))
    file.follow(("api_keys",), adopt)                   # settings, and who goes by them
    file.follow(policies.SETTINGS, policies.adopt)
    file.follow(models.SETTINGS, models.adopt)
    with on_hangup(file.wake):
        await file.run()                    # in a background task, until it is cancelled

    def adopt(settings: GatewaySettings) -> None:
        tenants.replace(settings.api_keys)  # in one step; buckets of unchanged keys keep their level

Each worker follows the file by itself: it looks at the file once a second (`POLL_S`), and reads it when its time, size
or inode are others. A change is adopted when the content has been the same at two looks, so that a file that is being
written is not; SIGHUP reads at once. The new file is validated whole, as at a start, and adopted whole or not at all:
an invalid one, one that is gone, or one without any key where there were some, leaves everything as it was, and is
logged once. Keys are never logged. Settings that nobody follows are logged by name: they need a restart.

What stands in DEJAVEC_* variables is in force over the file's, as at a start; it cannot change while it runs.
"""

import asyncio
import hashlib
import logging
import signal
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from engine.configuration import PLAIN_NAME, ConfigurationError
from gateway.settings import GatewaySettings

log = logging.getLogger("dejavec.gateway")

POLL_S: Final = 1.0
MAX_FILE_BYTES: Final = 16 * 1024 * 1024
_NAMES: Final = tuple(GatewaySettings.model_fields)

Stamp = tuple[int, int, int]
Adopt = Callable[[GatewaySettings], None]


class SettingsFile:
    """Follows one settings file. `load` makes settings of all sources."""

    def __init__(
        self,
        settings: GatewaySettings,
        path: Path,
        load: Callable[[], GatewaySettings],
    ) -> None:
        self._settings = settings
        self._path = path
        self._load = load
        self._followers: list[tuple[tuple[str, ...], Adopt]] = []
        self._hangup = asyncio.Event()
        self._stamp: Stamp | None = None  # of the file when it was last read and found unchanging
        self._content = b""  # digest of what was read last, and of what was adopted or refused last
        self._decided = b""
        self._was_there = path.is_file()
        self._foreign: dict[str, object] | None = None  # what it had that is not the gateway's; None: not read yet

    def follow(self, names: Iterable[str], adopt: Adopt) -> None:
        """Call `adopt` with the new settings whenever one of these is another; after those that follow already."""
        self._followers.append((tuple(names), adopt))

    def wake(self) -> None:
        """Read the file now, whatever its time, and adopt it at once; for SIGHUP, from the event loop's thread."""
        self._hangup.set()

    async def run(self) -> None:
        """Follow the file until cancelled. The first look is at once: the file may have changed since the start."""
        at_once = False
        while True:
            await self.look(at_once)
            try:
                async with asyncio.timeout(POLL_S):
                    await self._hangup.wait()
            except TimeoutError:
                at_once = False
            else:
                self._hangup.clear()
                at_once = True

    async def look(self, at_once: bool = False) -> None:
        """One look at the file; `at_once` reads it in any case, and adopts it without a second look."""
        stamp = await asyncio.to_thread(_stamp_of, self._path)
        if stamp is not None and stamp == self._stamp and not at_once:
            return
        try:
            digest = await asyncio.to_thread(_digest_of, self._path)
        except OSError as error:
            self._missed(error)
            return
        self._was_there = True
        is_settled, self._content = digest == self._content, digest
        if not (is_settled or at_once):
            return
        self._stamp = stamp
        if digest != self._decided or at_once:
            self._decided = digest
            await self._read()

    def _missed(self, error: OSError) -> None:
        self._stamp, self._content, self._decided = None, b"", b""
        if self._was_there:  # once; a gateway without a settings file is nothing to report
            log.warning("settings stay as they are: %s cannot be read: %s", self._path, error.strerror)
        self._was_there = False

    async def _read(self) -> None:
        try:
            settings = await asyncio.to_thread(self._load)
        except (ConfigurationError, OSError) as error:
            log.error("settings stay as they are: %s", " | ".join(str(error).splitlines()))
            return
        before, after = self._settings.api_keys, settings.api_keys
        if before and not after:
            log.error(
                "settings stay as they are: %s has no API key, which would open the gateway; restart it for that",
                self._path,
            )
            return
        changed = {name for name in _NAMES if getattr(self._settings, name) != getattr(settings, name)}
        followed = {name for names, _ in self._followers for name in names}
        if others := sorted(changed - followed):
            log.warning("needs a restart: %s (changed in %s)", ", ".join(others), self._path)
        await self._look_at_foreign()
        kept = {name: getattr(settings, name) for name in changed & followed}
        # Nothing else of what was read: what needs a restart is as it was, also for those who follow other settings.
        self._settings = self._settings.model_copy(update=kept)
        for names, adopt in self._followers:
            if not changed.isdisjoint(names):
                try:
                    adopt(self._settings)
                except Exception:  # the others follow all the same
                    log.exception("%s of %s could not be adopted; restart the gateway", ", ".join(names), self._path)
        if before != after:
            log.info("API keys read again from %s: %s", self._path, _differences(before, after))

    async def _look_at_foreign(self) -> None:
        """Log what changed of settings that are another process's, or nobody's: a misspelt one changes nothing."""
        known, self._foreign = self._foreign, await asyncio.to_thread(_foreign_of, self._path)
        if known is not None:
            both = known.keys() | self._foreign.keys()
            if names := sorted(name for name in both if known.get(name) != self._foreign.get(name)):
                log.warning("needs a restart of other processes, or is misspelt: %s (%s)", ", ".join(names), self._path)


@contextmanager
def on_hangup(wake: Callable[[], None]) -> Iterator[None]:
    """Call `wake` on SIGHUP, where this is the main thread of a system that has it; else nothing.

    uvicorn's parent of several workers answers SIGHUP by starting them anew, which reads all settings.
    """
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGHUP, wake)
    except (AttributeError, NotImplementedError, RuntimeError, ValueError):
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def _stamp_of(path: Path) -> Stamp | None:
    """What changes when a file does, through links, as of a Kubernetes ConfigMap; None without a file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _digest_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.blake2b(file.read(MAX_FILE_BYTES), digest_size=32).digest()


def _foreign_of(path: Path) -> dict[str, object]:
    """What the file has of names that are no settings of the gateway."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in entries.items() if name not in _NAMES and PLAIN_NAME.fullmatch(name)}


def _differences(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    changed = sum(1 for key in before.keys() & after.keys() if before[key] != after[key])
    return f"{len(after.keys() - before.keys())} added, {len(before.keys() - after.keys())} removed, {changed} changed"

"""Namespace epochs: purge in O(1) by making old keys unreachable. Knows nothing of entries.

An epoch is `<milliseconds>-<random hex>` and part of every key's hash, so changing it makes a namespace's entries
unreachable at once; their TTL removes them. Epochs only move forward: every exchange with Redis keeps the greater of
its value and ours, so a Redis that lost its last second, or was restored from a backup, is brought up to date by any
gateway that remembers. All gateways follow a purge within `FOLLOW_S` (polled every `REFRESH_S`) while they reach Redis.
"""

import asyncio
import logging
import secrets
import time
from typing import Final

from redis.asyncio import Redis

from cache.errors import PurgeFailed
from cache.keys import ALL_NAMESPACES, SECRET_CHECK_KEY, epoch_key, secret_fingerprint
from cache.redis_link import RedisAway, RedisLink, script, script_on_disk

log = logging.getLogger("dejavec.cache")

PURGE_TIMEOUT_S: Final = 3.0
REFRESH_S: Final = 1.0
FOLLOW_S: Final = 2.0
MAX_NAMESPACES: Final = 10_000

# Keeps the greater of the stored and the offered epoch and returns it; an empty offer only reads.
ADVANCE: Final = """
local out = {}
for i, key in ipairs(KEYS) do
  local stored = redis.call('GET', key)
  local offered = ARGV[i]
  if offered ~= '' and (not stored or stored < offered) then
    redis.call('SET', key, offered)
    stored = offered
  end
  out[i] = stored or ''
end
return out
"""


def new_epoch(after: str | None = None) -> str:
    """A fresh epoch that sorts after `after`, whatever this machine's clock says."""
    now_ms = time.time_ns() // 1_000_000
    if after:
        now_ms = max(now_ms, int(after.split("-", 1)[0]) + 1)
    return f"{now_ms:015d}-{secrets.token_hex(8)}"


class Epochs:
    """Current epochs as this gateway knows them. Without Redis they are this process's own."""

    def __init__(self, link: RedisLink | None, secret: bytes) -> None:
        self._link = link
        self._secret = secret
        self._known: dict[str, str] = {}
        self._own = new_epoch()  # used where Redis has never told one: L0 works, the exact tier is bypassed
        self._secret_checked = False
        self.secret_differs = False

    def current(self, namespace: str) -> tuple[str, str] | None:
        """(epoch of all, epoch of this namespace), or None while Redis has not told them."""
        everything, own = self._known.get(ALL_NAMESPACES), self._known.get(namespace)
        return None if everything is None or own is None else (everything, own)

    def private(self) -> tuple[str, str]:
        """Epochs of this process alone, for what never leaves it."""
        return self._own, self._own

    async def ensure(self, namespace: str) -> tuple[str, str] | None:
        """As `current`, asking Redis for what is unknown; None when it does not answer."""
        if self._link is None:
            return None
        if len(self._known) >= MAX_NAMESPACES and namespace not in self._known:
            return None
        try:
            await self._exchange([ALL_NAMESPACES, namespace], create=True)
        except RedisAway:
            return None
        return self.current(namespace)

    async def purge(self, namespace: str) -> str:
        """Give a namespace (or ALL_NAMESPACES) a new epoch, on disk before this returns where Redis keeps an AOF.

        Raises PurgeFailed when Redis did not confirm it.
        """
        if self._link is None:
            self._own = new_epoch(self._own)
            return self._own
        try:
            await self._exchange([namespace], create=True)
            epoch = new_epoch(self._known[namespace])
            self._known[namespace] = epoch
            await self._advance([namespace], [epoch], until_on_disk=True)
        except RedisAway as error:
            raise PurgeFailed("Redis did not confirm the purge: try again when /ready names it ok") from error
        return self._known[namespace]

    async def run_refresh(self) -> None:
        """Follow other gateways' purges until cancelled."""
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self._exchange(list(self._known) or [ALL_NAMESPACES], create=not self._known)
            except RedisAway:
                continue

    async def _exchange(self, namespaces: list[str], create: bool) -> None:
        """Tell Redis our epochs, learn the greater ones; with `create`, unknown ones come into being."""
        assert self._link is not None
        await self._check_secret()
        for start in range(0, len(namespaces), 256):
            part = namespaces[start : start + 256]
            if create and any(name not in self._known for name in part):
                await self._advance(part, [self._known.get(n, "") for n in part])
            offers = [self._known.get(n) or (new_epoch() if create else "") for n in part]
            await self._advance(part, offers)

    async def _advance(self, namespaces: list[str], offers: list[str], until_on_disk: bool = False) -> None:
        assert self._link is not None
        keys = [epoch_key(name) for name in namespaces]

        run, timeout_s = (script_on_disk, PURGE_TIMEOUT_S) if until_on_disk else (script, None)
        told = await self._link.call(lambda redis: run(redis, ADVANCE, keys, list(offers)), timeout_s=timeout_s)
        for name, value in zip(namespaces, told, strict=True):
            epoch = value.decode("ascii", "replace")
            if epoch and epoch > self._known.get(name, ""):
                self._known[name] = epoch

    async def _check_secret(self) -> None:
        """Once a connection: do all gateways on this Redis hash with one secret?"""
        if self._secret_checked:
            return
        assert self._link is not None
        mine = secret_fingerprint(self._secret)

        async def compare(redis: Redis) -> bool:
            await redis.set(SECRET_CHECK_KEY, mine, nx=True)
            return bool(await redis.get(SECRET_CHECK_KEY) == mine)

        same = await self._link.call(compare)
        self._secret_checked = True
        self.secret_differs = not same
        if not same:
            log.error(
                "this gateway's key secret differs from the one used on this Redis before: they share no entries. "
                "Give all gateways the same key_secret (or key_secret_file), or purge %s",
                SECRET_CHECK_KEY.decode(),
            )

"""Namespace epochs: purge in O(1) by making old keys unreachable. Knows nothing of entries.

An epoch is `<milliseconds>-<random hex>` and part of every key's hash, so changing it makes a namespace's entries
unreachable at once; their TTL removes them. Epochs only move forward: every exchange with Redis keeps the greater of
its value and ours, so a Redis that lost its last second, or was restored from a backup, is brought up to date by any
gateway that remembers. All gateways follow a purge within two seconds (they ask every `REFRESH_S`) while they reach
Redis.

In a cluster one server has a namespace's epoch and all have its entries. A gateway that does not reach that one serves
the entries for `UNTOLD_S` more, and then none until it is told an epoch: another may have purged them.

In Redis an epoch stands with its MAC, `<epoch>-<MAC hex>`, so that only gateways can move one. Whatever else lies under
its key counts as nothing and is replaced. A new epoch is greater than the one before whatever the clock says: a gateway
whose clock was wrong leaves epochs of another time, and all go on from there.
"""

import asyncio
import itertools
import logging
import re
import secrets
import time
from typing import Final

from cache.authentication import Seal
from cache.errors import PurgeFailed
from cache.keys import ALL_NAMESPACES, SECRET_CHECK_KEY, epoch_key, secret_fingerprint
from cache.redis_link import RedisAway, RedisLink, script, script_on_disk

log = logging.getLogger("dejavec.cache")

PURGE_TIMEOUT_S: Final = 3.0
REFRESH_S: Final = 1.0
MAX_NAMESPACES: Final = 10_000
UNTOLD_S: Final = 30.0  # longer than a failover usually takes

SEALED: Final = re.compile(r"([0-9]{15}-[0-9a-f]{16})-([0-9a-f]{32})")
EPOCH_CHARS: Final = 32  # of the epoch alone
MAX_STORED: Final = 128  # bytes read of what lies under an epoch's key; an epoch with its MAC has 65
ATTEMPTS: Final = 3  # to replace what is no epoch, while somebody puts it there again

# Whether what gateways leave there is ours; where nothing is, or something of another type, ours is put.
COMPARE: Final = """
if redis.call('TYPE', KEYS[1]).ok ~= 'string' then redis.call('SET', KEYS[1], ARGV[1]) end
return redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0
"""

# Keeps the greater of the stored and the offered epoch and returns it; an empty offer only reads. `refused` is what was
# found before and is no epoch, or is of another type: it gives way to any offer.
ADVANCE: Final = """
local out = {}
for i, key in ipairs(KEYS) do
  local stored = false
  local kind = redis.call('TYPE', key).ok
  if kind == 'string' then stored = redis.call('GETRANGE', key, 0, ARGV[1] - 1) end
  local offered, refused = ARGV[2 * i], ARGV[2 * i + 1]
  if offered ~= '' and (not stored or stored == refused or stored < offered) then
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
        self._seal = Seal(secret, "epoch")
        self._known: dict[str, str] = {}  # each with its MAC, as it lies in Redis, so that most need no new one
        self._told_at: dict[str, float] = {}
        self._own = new_epoch()  # used while Redis has not told one: L0 works, the exact tier is bypassed
        self._secret_checked = False
        self.secret_differs = False

    def current(self, namespace: str) -> tuple[str, str] | None:
        """(epoch of all, epoch of this namespace), or None while Redis has not told them."""
        everything, own = self._known.get(ALL_NAMESPACES), self._known.get(namespace)
        if everything is None or own is None or (self._link and self._link.is_cluster and self._is_untold(namespace)):
            return None
        return everything[:EPOCH_CHARS], own[:EPOCH_CHARS]

    def private(self) -> tuple[str, str]:
        """Epochs of this process alone, for what never leaves it."""
        return self._own, self._own

    def at_hand(self, namespace: str) -> tuple[str, str] | None:
        """The epochs to go by, where that is known without asking Redis."""
        return self.private() if self._link is None else self.current(namespace)

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

    async def purge(self, namespace: str) -> tuple[str, bool]:
        """Give a namespace (or ALL_NAMESPACES) a new epoch; that, and whether it is on disk where Redis keeps an AOF.

        What was stored before can then no longer be served by any gateway that reaches Redis. Raises PurgeFailed when
        Redis did not confirm it.
        """
        if self._link is None:
            self._own = new_epoch(self._own)
            return self._own, True
        try:
            await self._exchange([namespace], create=True)
            epoch = self._sealed(namespace, new_epoch(self._known.get(namespace)))
            self._move_to(namespace, epoch)
            is_on_disk = await self._advance([namespace], [epoch], until_on_disk=True)
        except RedisAway as error:
            raise PurgeFailed("Redis did not confirm the purge: try again when /ready names it ok") from error
        if not is_on_disk:
            log.warning("a purge of %s is in force, but Redis did not write it to disk in time", namespace)
        return self._known[namespace][:EPOCH_CHARS], is_on_disk

    async def run_refresh(self) -> None:
        """Follow other gateways' purges until cancelled."""
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self._exchange(list(self._known) or [ALL_NAMESPACES], create=not self._known)
            except RedisAway:
                continue

    def _is_untold(self, namespace: str) -> bool:
        """Whether the cluster has not told one of its epochs for too long."""
        earliest = time.monotonic() - UNTOLD_S
        return any(self._told_at.get(name, earliest) <= earliest for name in (ALL_NAMESPACES, namespace))

    async def _exchange(self, namespaces: list[str], create: bool) -> None:
        """Tell Redis our epochs, learn the greater ones; with `create`, unknown ones come into being."""
        assert self._link is not None
        await self._check_secret()
        for start in range(0, len(namespaces), 256):
            part = namespaces[start : start + 256]
            if create and any(name not in self._known for name in part):
                await self._advance(part, [self._known.get(n, "") for n in part])
            offers = [self._known.get(n) or (self._sealed(n, new_epoch()) if create else "") for n in part]
            await self._advance(part, offers)

    async def _advance(self, namespaces: list[str], offers: list[str], until_on_disk: bool = False) -> bool:
        """Offer epochs ("" only reads) and learn what is stored; whether that is on disk.

        Raises RedisAway, also where an offer is neither stored nor below what is: somebody writes something else there
        all the time.
        """
        left = dict(zip(namespaces, offers, strict=True))
        refused: dict[str, bytes] = {}
        for _ in range(ATTEMPTS):
            found, is_on_disk = await self._tell(left, refused, until_on_disk)
            refused = {}
            for name, stored in found.items():
                if not self._learn(name, stored):
                    refused[name] = stored
            left = {name: left[name] for name in refused if left[name]}
            if not left:
                return is_on_disk
        raise RedisAway("an epoch is overwritten again and again")

    async def _tell(
        self, offers: dict[str, str], refused: dict[str, bytes], until_on_disk: bool
    ) -> tuple[dict[str, bytes], bool]:
        """What is stored after these offers, where anything is, and whether it is on disk. Raises RedisAway."""
        assert self._link is not None
        keys = [epoch_key(name) for name in offers]
        pairs: list[tuple[str | bytes, ...]] = [(offer, refused.get(name, b"")) for name, offer in offers.items()]
        words: list[str | bytes | int] = [MAX_STORED, *itertools.chain.from_iterable(pairs)]
        if until_on_disk:
            assert len(keys) == 1, "one key, so that it is of one server in a cluster as well"
            told, is_on_disk = await self._link.call(
                lambda redis: script_on_disk(redis, ADVANCE, keys, words), timeout_s=PURGE_TIMEOUT_S, key=keys[0]
            )
        else:
            told, is_on_disk = (
                await self._link.on_each(
                    keys,
                    lambda redis: script(redis, ADVANCE, keys, words),
                    lambda place: (b"EVAL", ADVANCE, 1, keys[place], MAX_STORED, *pairs[place]),
                ),
                False,
            )
            told = [one[0] if isinstance(one, list) and one else one for one in told]
        if (
            not isinstance(told, list)
            or len(told) != len(keys)
            or any(one and not isinstance(one, bytes) for one in told)
        ):
            raise RedisAway("not a reply for each epoch")
        return {name: stored for name, stored in zip(offers, told, strict=True) if stored}, is_on_disk

    def _sealed(self, namespace: str, epoch: str) -> str:
        return f"{epoch}-{self._seal.mac(namespace.encode(), epoch.encode()).hex()}"

    def _learn(self, namespace: str, stored: bytes) -> bool:
        """Go by a greater epoch; False where this is none that a gateway stored for this namespace."""
        known, text = self._known.get(namespace, ""), stored.decode("ascii", "replace")
        if text == known:
            self._told_at[namespace] = time.monotonic()
            return True
        match = SEALED.fullmatch(text)
        if match is None:
            self._seal.refuse("format")
            return False
        epoch, mac = match.groups()
        if not self._seal.fits(namespace.encode(), epoch.encode(), bytes.fromhex(mac)):
            return False
        if text > known:
            self._move_to(namespace, text)
        self._told_at[namespace] = time.monotonic()
        return True

    def _move_to(self, namespace: str, sealed: str) -> None:
        """Go by this epoch: a purge, of what is kept under this process's own epochs as well."""
        self._known[namespace] = sealed
        self._own = new_epoch(self._own)

    async def _check_secret(self) -> None:
        """Once, when Redis first answers: do all gateways on it hash with one secret?"""
        if self._secret_checked:
            return
        assert self._link is not None
        mine = secret_fingerprint(self._secret)

        try:
            same = await self._link.call(
                lambda redis: script(redis, COMPARE, [SECRET_CHECK_KEY], [mine]), key=SECRET_CHECK_KEY
            )
        except RedisAway:
            if self._link.is_cluster:
                return  # that server of the cluster; epochs are of others, and it is checked the next time
            raise
        self._secret_checked = True
        self.secret_differs = not same
        if not same:
            log.error(
                "this gateway's key secret differs from the one used on this Redis before: they share neither "
                "entries nor live values. Give all gateways the same key_secret (or key_secret_file), or purge %s",
                SECRET_CHECK_KEY.decode(),
            )

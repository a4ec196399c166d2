"""What each API key has used, by day and month, in Redis: written in batches by every process, read whole.

    store = UsageStore(link, "6f1c...")
    await store.record("<key id>", batch=7, {"2026-11-26": Counts(requests=3, tokens=42), "2026-11": ...})
    await store.read("<key id>")                    # {"2026-11-26": Counts(...), ...}

    dv1:{k:<id>}:usage           one field a day and a month, `requests refused tokens local exact semantic miss`;
                                 no TTL, the latest 35 days and 13 months
    dv1:{k:<id>}:u:<process>     the number of the last batch of a process, for ten minutes

A batch whose answer did not come is sent again under its number, and counts once.
"""

import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Final

from redis.asyncio import Redis

from cache.keys import PROCESSES_KEY, api_key_key
from cache.redis_link import RedisLink, script
from cache.shared_limits import READ

DAYS: Final = 35
MONTHS: Final = 13
PRESENT_S: Final = 10  # a process that has not been heard of for so long counts no longer
BATCH_KEPT_S: Final = 600
MAX_FIELDS: Final = 256  # of a hash that is read; there are 48 at most
MAX_FIELD_BYTES: Final = 256

RECORD: Final = (
    READ
    + """
own(KEYS[1], 'hash') own(KEYS[2], 'string')
if redis.call('GET', KEYS[2]) == ARGV[1] then return 0 end
for place = 5, #ARGV, 2 do
  local field, sum, old = ARGV[place], {}, {}
  local stored = redis.call('HGET', KEYS[1], field) or ''
  for word in string.gmatch(string.sub(stored, 1, 256), '%S+') do old[#old + 1] = number(word, 0) end
  for word in string.gmatch(ARGV[place + 1], '%S+') do
    sum[#sum + 1] = string.format('%.0f', math.max(0, old[#sum + 1] or 0) + tonumber(word))
  end
  redis.call('HSET', KEYS[1], field, table.concat(sum, ' '))
end
if redis.call('HLEN', KEYS[1]) > ARGV[3] + ARGV[4] then
  local days, months = {}, {}
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.match(field, '^%d%d%d%d%-%d%d%-%d%d$') then days[#days + 1] = field
    elseif string.match(field, '^%d%d%d%d%-%d%d$') then months[#months + 1] = field
    else redis.call('HDEL', KEYS[1], field) end
  end
  for _, kept in ipairs({{days, ARGV[3]}, {months, ARGV[4]}}) do
    table.sort(kept[1])
    for place = 1, #kept[1] - kept[2] do redis.call('HDEL', KEYS[1], kept[1][place]) end
  end
end
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
return 1
"""
)

# Nothing where there is no hash, or one that no gateway has made.
LOAD: Final = """
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' or redis.call('HLEN', KEYS[1]) > tonumber(ARGV[1]) then return {} end
local found = redis.call('HGETALL', KEYS[1])
for place, value in ipairs(found) do found[place] = string.sub(value, 1, ARGV[2]) end
return found
"""

PRESENT: Final = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' and kind ~= 'zset' then redis.call('DEL', KEYS[1]) end
local now = redis.call('TIME')[1]
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('EXPIRE', KEYS[1], 3600)
return redis.call('ZCARD', KEYS[1])
"""


@dataclass(slots=True)
class Counts:
    """What was answered: requests, tokens, texts by tier; and requests that were refused by a limit."""

    requests: int = 0
    refused: int = 0
    tokens: int = 0
    local: int = 0
    exact: int = 0
    semantic: int = 0
    miss: int = 0

    def add(self, more: "Counts") -> None:
        """Count these as well."""
        self.requests += more.requests
        self.refused += more.refused
        self.tokens += more.tokens
        self.local += more.local
        self.exact += more.exact
        self.semantic += more.semantic
        self.miss += more.miss


class UsageStore:
    """Counts of API keys in Redis. Every method raises RedisAway."""

    def __init__(self, link: RedisLink, process: str) -> None:
        self._link = link
        self._process = process

    async def record(self, key_id: str, batch: int, counts: Mapping[str, Counts]) -> None:
        """Add to days and months. A batch of a number that was recorded last is not counted again."""
        keys = [api_key_key(key_id, "usage"), api_key_key(key_id, f"u:{self._process}")]
        words: list[str | int] = [batch, BATCH_KEPT_S, DAYS, MONTHS]
        for period, one in counts.items():
            words += [period, " ".join(map(str, astuple(one)))]
        await self._link.call(lambda redis: script(redis, RECORD, keys, words), self._link.write_timeout_s, keys[0])

    async def read(self, key_id: str) -> dict[str, Counts]:
        """All that is kept, by day (`2026-11-26`) and month (`2026-11`); what is no count is left out."""
        key = api_key_key(key_id, "usage")

        async def load(redis: Redis) -> dict[str, Counts]:
            found: list[bytes] = await script(redis, LOAD, [key], [MAX_FIELDS, MAX_FIELD_BYTES])
            pairs = zip(found[::2], found[1::2], strict=True)
            read = ((field.decode("ascii", "replace"), _counts(value)) for field, value in pairs)
            return {period: one for period, one in read if one is not None}

        return await self._link.call(load, self._link.write_timeout_s, key)

    async def present(self) -> int:
        """Say that this process counts limits, and how many do: those of the last ten seconds."""

        async def tell(redis: Redis) -> int:
            return int(await script(redis, PRESENT, [PROCESSES_KEY], [self._process, PRESENT_S]))

        return await self._link.call(tell, key=PROCESSES_KEY)


class LocalUsage:
    """The same in this process alone, where there is no Redis: since it was started."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Counts]] = {}

    async def record(self, key_id: str, batch: int, counts: Mapping[str, Counts]) -> None:
        """Add to days and months."""
        kept = self._kept.setdefault(key_id, {})
        for period, one in counts.items():
            kept.setdefault(period, Counts()).add(one)
        for width, most in ((len("2026-11-26"), DAYS), (len("2026-11"), MONTHS)):
            for period in sorted(period for period in kept if len(period) == width)[:-most]:
                del kept[period]

    async def read(self, key_id: str) -> dict[str, Counts]:
        """All that is kept, by day and month."""
        return dict(self._kept.get(key_id, {}))

    async def present(self) -> int:
        """This process alone."""
        return 1


def period_of_day(seconds: float) -> str:
    """The UTC day of a time in seconds since 1970, such as `2026-11-26`."""
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def period_of_month(seconds: float) -> str:
    """The UTC month of a time in seconds since 1970, such as `2026-11`."""
    return time.strftime("%Y-%m", time.gmtime(seconds))


def _counts(value: bytes) -> Counts | None:
    words = value.split()
    if len(words) != len(Counts.__slots__) or not all(word.isdigit() and len(word) < 17 for word in words):
        return None
    return Counts(*map(int, words))

"""What API keys may still take, counted in Redis for all gateways: token buckets of a minute, counts of day and month.

    limits = SharedLimits(link, "6f1c...")            # the name of this process
    answer = await limits.ask(Ask(number, "<key id>", "requests", capacity=60, need=1, ahead=0, ...))

An ask takes `need`, or nothing; then for other requests that wait, as far as there is; and up to `ahead` more of what
is plentiful (a quarter of what is over), for its process to spend without asking. What is not spent comes back with a
later ask. So what was admitted is never more than what was taken here.

    dv1:{k:<id>}:<what>             the bucket: level and the server's time of it; TTL until it is full
    dv1:{k:<id>}:budget             tokens taken by day and month, no TTL, so that eviction under volatile-* leaves it
    dv1:{k:<id>}:a:<process>:<what> the last ask of a process and its answer, for ten minutes

An ask whose answer did not come is sent again as it was: when it had been done, its answer is repeated and nothing is
taken twice. Nothing here is sealed: whoever can write to Redis can lift limits, see docs/security.md. What is no number
counts as nothing.
"""

from dataclasses import dataclass
from typing import Final

from cache.keys import api_key_key
from cache.redis_link import RedisAway, RedisLink, script

ANSWER_KEPT_S: Final = 600

# Shared by the scripts: a key of another type gives way, and what is no number of a sane size is a default.
READ: Final = """
local function own(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= kind then redis.call('DEL', key) end
end
local function number(value, default)
  local read = value and #value < 32 and tonumber(value)
  if not read or read ~= read or math.abs(read) > 1e15 then return default end
  return read
end
"""

# `known` is what this gateway last saw of a count: it begins with that where Redis has lost it.
ASK: Final = (
    READ
    + """
own(KEYS[1], 'hash') own(KEYS[2], 'hash') own(KEYS[3], 'string')
local asked, capacity, rate = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local back, returned = tonumber(ARGV[4]), tonumber(ARGV[5])
local need, ahead = tonumber(ARGV[6]), tonumber(ARGV[7])
local before = redis.call('GET', KEYS[3])
if before then
  local number_before, answer = string.match(before, '^(%d+) (.*)$')
  if number_before == asked then return answer end
end

local level, over, refused = 0, 1e15, '-'
if capacity > 0 then
  local clock = redis.call('TIME')
  local now = clock[1] + clock[2] / 1e6
  local stored = redis.call('HMGET', KEYS[1], 'level', 'at')
  local since = math.max(0, now - number(stored[2], now))
  level = math.min(capacity, number(stored[1], capacity) + since * rate + back)
  if level < math.min(need, capacity) - 1e-6 then refused = 'minute' end
  over = level - need
  redis.call('HSET', KEYS[1], 'at', string.format('%.6f', now))
end
local used = {}
for place, period in ipairs({'day', 'month'}) do
  local field, most, known = ARGV[5 + 3 * place], tonumber(ARGV[6 + 3 * place]), tonumber(ARGV[7 + 3 * place])
  used[place] = 0
  if most > 0 then
    local stored = redis.call('HGET', KEYS[2], field)
    if not stored then
      if redis.call('HLEN', KEYS[2]) > 16 then redis.call('DEL', KEYS[2]) end
      stored = ARGV[7 + 3 * place]
    end
    used[place] = math.max(0, number(stored, known) - returned)
    if need > most - used[place] then refused = period end
    over = math.min(over, most - used[place] - need)
  end
end
local granted = 0
if refused == '-' then
  local others = math.floor(math.max(0, math.min(tonumber(ARGV[15]), over)))
  granted = need + others + math.floor(math.min(ahead, math.max(0, (over - others) / 4)))
end
if capacity > 0 then
  level = level - granted
  redis.call('HSET', KEYS[1], 'level', string.format('%.6f', level))
  redis.call('EXPIRE', KEYS[1], math.min(3e6, math.ceil((capacity - level) / rate) + 60))
end
for place = 1, 2 do
  if tonumber(ARGV[6 + 3 * place]) > 0 then
    used[place] = used[place] + granted
    redis.call('HSET', KEYS[2], ARGV[5 + 3 * place], string.format('%.0f', used[place]))
  end
end
local answer = string.format('%s %.0f %.6f %.0f %.0f', refused, granted, level, used[1], used[2])
redis.call('SET', KEYS[3], asked .. ' ' .. answer, 'EX', ARGV[14])
return answer
"""
)


@dataclass(frozen=True, slots=True)
class Count:
    """A budget of a calendar period: its field, the most there may be (0: no budget), what was last known of it."""

    field: str
    most: int = 0
    known: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """What a process wants of one limit, and gives back.

    `number` tells the asks of one process for one limit apart. `capacity`: of the bucket, a minute's allowance, 0 for
    none. `back` returns to the bucket (below 0: it was spent without asking), `returned` likewise to day and month.
    """

    number: int
    key_id: str
    what: str
    capacity: int
    need: int
    waiting: int
    ahead: int
    back: float
    returned: int
    day: Count
    month: Count


@dataclass(frozen=True, slots=True)
class Answer:
    """What was granted, and what there is now. `refused`: the limit that had too little: minute, day, month, or ""."""

    refused: str
    granted: int
    level: float  # of the bucket, after it
    used_day: int
    used_month: int


class SharedLimits:
    """Asks Redis, within the link's time limit and behind its breaker. Raises RedisAway."""

    def __init__(self, link: RedisLink, process: str) -> None:
        self._link = link
        self._process = process

    async def ask(self, ask: Ask) -> Answer:
        """Do one ask, or repeat the answer of one that was done. Raises RedisAway: it may have been done or not."""
        keys = [
            api_key_key(ask.key_id, ask.what),
            api_key_key(ask.key_id, "budget"),
            api_key_key(ask.key_id, f"a:{self._process}:{ask.what}"),
        ]
        words: list[str | int | float] = [ask.number, ask.capacity, ask.capacity / 60, ask.back, ask.returned]
        words += [ask.need, ask.ahead]
        for count in (ask.day, ask.month):
            words += [count.field, count.most, count.known]
        words += [ANSWER_KEPT_S, ask.waiting]
        answer = await self._link.call(lambda redis: script(redis, ASK, keys, words), key=keys[0])
        return _parsed(answer)


def _parsed(answer: bytes) -> Answer:
    """An answer as Redis gives it. Raises RedisAway for what is none: somebody wrote over one that was repeated."""
    try:
        refused, granted, level, used_day, used_month = answer.decode("ascii").split(" ")
        return Answer("" if refused == "-" else refused, int(granted), float(level), int(used_day), int(used_month))
    except ValueError:
        raise RedisAway("a limit's last answer was overwritten") from None

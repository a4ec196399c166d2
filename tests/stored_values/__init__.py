"""What a release stores in Redis, kept so that later ones can be shown to read or ignore it.

python -m tests.stored_values tests/stored_values/0.1.0.json   # once for each release, with that release's code
"""

import base64
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

SECRET = "5e" * 32
FINGERPRINT = "57" * 16
KEY, NAMESPACE = "key-of-namespace-a", "a"
SETTINGS: dict[str, Any] = {
    "semantic_mode": "on",
    "api_keys": {KEY: {"namespace": NAMESPACE}},
    "admin_token": "operator-of-these-tests",
    "key_secret": SECRET,
    "local_cache_mb": 0,
    "semantic_timeout_ms": 2000,
}
BASES = [" ".join(f"w{12 * base + word}" for word in range(12)) for base in range(13)]
TEXTS = [*BASES, *(f"{base} w{200 + number}" for base in BASES for number in range(12))]
ASKED = [f"{base} w{300 + number}" for base in BASES for number in range(2)]
LIVE = {"semantic_fidelity": 0.93, "certificate_alpha": 0.06}


@dataclass
class StoredValues:
    """Every key with its value, by its type, and what is known of them. Bytes are base64."""

    version: str
    learned: dict[str, Any]  # as `GET /admin/thresholds` shows it
    values: dict[str, dict[str, Any]]

    @classmethod
    def load(cls, path: Path) -> "StoredValues":
        """What `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def save(self, path: Path) -> None:
        """Write a file that `load` reads."""
        path.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf-8")


async def dump(redis: Redis, learned: dict[str, Any]) -> StoredValues:
    """All that lies in Redis now; lives are left out."""
    values = {key.decode(): await _value(redis, key) for key in sorted(await redis.keys("*"))}
    return StoredValues(version("dejavec"), learned, values)


async def restore(redis: Redis, stored: StoredValues) -> None:
    """Put all of it into an empty Redis."""
    for key, value in stored.values.items():
        content = value["content"]
        match value["type"]:
            case "string":
                await redis.set(key, _bytes(content))
            case "hash":
                await redis.hset(key, mapping={name: _bytes(one) for name, one in content.items()})  # type: ignore[misc]
            case "stream":
                for event_id, fields in content:
                    await redis.xadd(key, {name: _bytes(one) for name, one in fields.items()}, id=event_id)
            case "zset":
                await redis.zadd(key, content)


async def _value(redis: Redis, key: bytes) -> dict[str, Any]:
    kind = (await redis.type(key)).decode()
    content: Any
    match kind:
        case "string":
            content = _text(await redis.get(key))
        case "hash":
            content = _texts(await redis.hgetall(key))  # type: ignore[misc]
        case "stream":
            content = [[event_id.decode(), _texts(fields)] for event_id, fields in await redis.xrange(key)]
        case "zset":
            content = {name.decode(): score for name, score in await redis.zrange(key, 0, -1, withscores=True)}
        case _:
            raise AssertionError(f"{key!r} has the type {kind}, which is not known here")
    return {"type": kind, "content": content}


def _texts(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): _text(value) for name, value in fields.items()}


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(content: str) -> bytes:
    return base64.b64decode(content)

"""What clients read from an HTTP reply: the error envelope, Retry-After, x-cache-items."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import orjson

MAX_COUNT_DIGITS = 9


def error_in(body: bytes) -> Mapping[str, object]:
    """The object under `error` of an error reply; empty when the body is something else."""
    try:
        entry = orjson.loads(body)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return {}
    return entry if isinstance(entry, dict) else {}


def retry_after_s(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds to wait by a Retry-After header, seconds or a date; None when absent or unreadable."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:  # "-0000": UTC of unknown origin
        moment = moment.replace(tzinfo=UTC)
    return max((moment - (now or datetime.now(UTC))).total_seconds(), 0.0)


def tier_runs(value: str) -> list[tuple[str, int]] | None:
    """x-cache-items, such as `local*3,miss`, as [("local", 3), ("miss", 1)]; None when it has another form."""
    runs: list[tuple[str, int]] = []
    for run in value.split(","):
        tier, star, length = run.strip().partition("*")
        if star and not (length.isascii() and length.isdigit() and len(length) <= MAX_COUNT_DIGITS):
            return None
        count = int(length) if star else 1
        if not tier or count < 1:
            return None
        runs.append((tier, count))
    return runs

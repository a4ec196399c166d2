"""API keys, their namespaces and their rate limits.

Keys are compared by hash in constant time, all of them on every request, so neither a key's prefix nor which key
matched can be read from the time taken. Limits are token buckets of each worker, holding one minute's allowance;
with several workers each gets its share.

Each model has its own allowance of a key's tokens a minute, so that one model's traffic leaves the others theirs.

A request's tokens are taken when they have been counted, before anything is computed, and given back when it fails. It
passes when the bucket has them all, so requests at the same time cannot take more than there is, and the wait is at
most a minute. A request of more tokens than the bucket can hold passes when the bucket is full, and leaves it in debt:
the next one waits until that is paid at the allowance's rate.
"""

import hashlib
import hmac
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.errors import RateLimited, Unauthorized
from gateway.settings import DEFAULT_NAMESPACE, ApiKey


class Bucket:
    """A token bucket holding one minute's allowance."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = max(per_minute, 1.0)
        self._rate_per_s = per_minute / 60
        self._level = self._capacity
        self._clock = clock
        self._at = clock()

    def wait_s(self, amount: float = 1) -> float:
        """Seconds until so much may be taken; 0 when it may now. More than a minute's needs a full bucket."""
        now = self._clock()
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate_per_s)
        self._at = now
        return max(0.0, (min(amount, self._capacity) - self._level) / self._rate_per_s)

    def take(self, amount: float) -> None:
        """Take an amount."""
        self._level -= amount

    def give_back(self, amount: float) -> None:
        """Put back what was taken and not used."""
        self._level = min(self._capacity, self._level + amount)


@dataclass(frozen=True, slots=True)
class Tenant:
    """The caller: a namespace and the limits of its key."""

    namespace: str
    requests: Bucket | None = field(default=None, compare=False)
    tokens_per_minute: float = field(default=0, compare=False)  # of each model; 0: no limit
    _tokens: dict[str, Bucket] = field(default_factory=dict, compare=False)

    def admit(self) -> None:
        """Count one request. Raises RateLimited when that limit is used up."""
        if self.requests is not None:
            _check(self.requests, 1, "requests")
            self.requests.take(1)

    def allowance(self, model: str) -> "Allowance | None":
        """What a request may take of this model's tokens; None without a limit. Raises RateLimited when they are used
        up. `model` is a name of the settings, so there are few."""
        if not self.tokens_per_minute:
            return None
        bucket = self._tokens.get(model)
        if bucket is None:
            bucket = self._tokens[model] = Bucket(self.tokens_per_minute)
        _check(bucket, 1, "tokens")
        return Allowance(bucket)


class Allowance:
    """The tokens that one request has taken from its tenant's bucket."""

    __slots__ = ("_bucket", "_taken")

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._taken = 0

    def take(self, tokens: int) -> None:
        """Take a request's tokens, in place of what it had taken. Raises RateLimited when there are not so many."""
        self.give_back()
        _check(self._bucket, tokens, "tokens")
        self._bucket.take(tokens)
        self._taken = tokens

    def give_back(self) -> None:
        """Put back what was taken: the request was not answered."""
        self._bucket.give_back(self._taken)
        self._taken = 0


class Tenants:
    """Finds the tenant of a request from its API key."""

    def __init__(self, api_keys: Mapping[str, ApiKey], workers: int = 1) -> None:
        self._workers = workers
        self._rules: dict[bytes, ApiKey] = {}
        self._tenants: dict[bytes, Tenant] = {}
        self.open: Tenant | None = None  # of everybody, where there are no keys
        self.replace(api_keys)

    def replace(self, api_keys: Mapping[str, ApiKey]) -> None:
        """Go by other keys from now on. A key whose rule is the same keeps its tenant, and what its limits have left.

        Requests in work go on as who they came as.
        """
        rules = {_hash(key): rule for key, rule in api_keys.items()}
        self._tenants = {
            digest: self._tenants[digest] if self._rules.get(digest) == rule else _tenant(rule, self._workers)
            for digest, rule in rules.items()
        }
        self._rules = rules
        self.open = None if rules else Tenant(DEFAULT_NAMESPACE)

    def of(self, presented: str | None) -> Tenant:
        """The tenant of this API key; where there are none, whatever is presented. Raises Unauthorized."""
        if self.open is not None:
            return self.open
        if presented is None:
            raise Unauthorized("send your API key as `Authorization: Bearer <key>`, `api-key` or `x-api-key`")
        digest = _hash(presented)
        found = None
        for known, tenant in self._tenants.items():
            if hmac.compare_digest(known, digest):
                found = tenant
        if found is None:
            raise Unauthorized("this API key is not known")
        return found

    @property
    def are_several(self) -> bool:
        """Whether there is more than one tenant."""
        return len(self.namespaces()) > 1

    def namespaces(self) -> list[str]:
        """Every namespace there is, for warming their epochs at start."""
        if self.open is not None:
            return [self.open.namespace]
        return sorted({tenant.namespace for tenant in self._tenants.values()})


def _check(bucket: Bucket, amount: float, unit: str) -> None:
    if (wait_s := bucket.wait_s(amount)) > 0:
        raise RateLimited(
            f"this key's limit of {unit} a minute is used up; try again in {math.ceil(wait_s)} s", retry_after_s=wait_s
        )


def bearer(authorization: bytes | None) -> str | None:
    """The token of a `Bearer` header; None when there is none."""
    if authorization is None or authorization[:7].lower() != b"bearer ":
        return None
    return authorization[7:].strip().decode("latin-1") or None


def same_secret(presented: str | None, expected: str) -> bool:
    """Compare in constant time, whatever the lengths."""
    return presented is not None and hmac.compare_digest(_hash(presented), _hash(expected))


def _hash(value: str) -> bytes:
    return hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=32).digest()


def _tenant(rule: ApiKey, workers: int) -> Tenant:
    requests = Bucket(rule.requests_per_minute / workers) if rule.requests_per_minute else None
    return Tenant(rule.namespace, requests, rule.tokens_per_minute / workers)

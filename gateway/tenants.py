"""API keys: their namespaces, their limits, and what they have used.

Keys are compared by hash in constant time, all of them on every request, so neither a key's prefix nor which key
matched can be read from the time taken. Limits are token buckets holding one minute's allowance, and budgets of a day
and a month, shared by all workers and gateways on one Redis (`gateway.limits`).

Each model has its own allowance of a key's tokens a minute, so that one model's traffic leaves the others theirs;
budgets are of all models together.

A request's tokens are taken when they have been counted, before anything is computed, and given back when it fails. It
passes when the bucket has them all, so requests at the same time cannot take more than there is, and the wait is at
most a minute. A request of more tokens than the bucket can hold passes when the bucket is full, and leaves it in debt:
the next one waits until that is paid at the allowance's rate. A budget has no debts.
"""

import hashlib
import hmac
from collections.abc import Iterator, Mapping

from gateway.buckets import Budgets
from gateway.errors import RateLimited, Unauthorized
from gateway.limits import Limit, Limits
from gateway.settings import DEFAULT_NAMESPACE, ApiKey
from gateway.usage import KeyUsage

OPEN = ApiKey.model_validate({"namespace": DEFAULT_NAMESPACE})  # of everybody, where there are no keys


class Tenant:
    """The caller: a namespace, the limits of its key and what it has used. Without limits `requests` is None."""

    __slots__ = ("_digest", "_limits", "_tokens", "budgets", "namespace", "requests", "rule", "usage")

    def __init__(self, rule: ApiKey, limits: Limits, digest: bytes = b"", usage: KeyUsage | None = None) -> None:
        self.namespace = rule.namespace
        self.rule = rule
        self.usage = usage or KeyUsage(digest)
        self.budgets = Budgets(rule.tokens_per_day, rule.tokens_per_month, limits.now)
        self._limits, self._digest = limits, digest
        per_minute = rule.requests_per_minute
        self.requests = (
            self._limit("requests", "requests", per_minute, Budgets(0, 0, limits.now)) if per_minute else None
        )
        self._tokens: dict[str, Limit] = {}

    @property
    def key_id(self) -> str:
        """What its key is called where it is shown."""
        return self._limits.key_id(self._digest)

    async def admit(self) -> None:
        """Count one request. Raises RateLimited when that limit is used up."""
        if self.requests is not None:
            try:
                await self.requests.take(1)
            except RateLimited:
                self.usage.count_refusal()
                raise

    def allowance(self, model: str) -> "Allowance | None":
        """What a request may take of this model's tokens; None without a limit. Raises RateLimited when they are used
        up. `model` is a name of the settings, so there are few."""
        limit = self.tokens_of(model)
        if limit is None:
            return None
        allowance = Allowance(limit, self.usage)
        allowance.check()
        return allowance

    def tokens_of(self, model: str) -> Limit | None:
        """The limit of this model's tokens; None without one."""
        if not (self.rule.tokens_per_minute or self.budgets.is_any):
            return None
        limit = self._tokens.get(model)
        if limit is None:
            what = "t:" + hashlib.blake2b(model.encode(), digest_size=8).hexdigest()
            limit = self._tokens[model] = self._limit(what, "tokens", self.rule.tokens_per_minute, self.budgets)
        return limit

    def _limit(self, what: str, unit: str, per_minute: int, budgets: Budgets) -> Limit:
        return self._limits.limit(self._digest, what, unit, per_minute, budgets)


class Allowance:
    """The tokens that one request has taken of its tenant's."""

    __slots__ = ("_limit", "_taken", "_usage")

    def __init__(self, limit: Limit, usage: KeyUsage) -> None:
        self._limit = limit
        self._usage = usage
        self._taken = 0

    def check(self) -> None:
        """Raises RateLimited where it is known that there are none."""
        try:
            self._limit.check(1)
        except RateLimited:
            self._usage.count_refusal()
            raise

    async def take(self, tokens: int) -> None:
        """Take a request's tokens, in place of what it had taken. Raises RateLimited when there are not so many."""
        self.give_back()
        try:
            await self._limit.take(tokens)
        except RateLimited:
            self._usage.count_refusal()
            raise
        self._taken = tokens

    def give_back(self) -> None:
        """Put back what was taken: the request was not answered."""
        self._limit.give_back(self._taken)
        self._taken = 0


class Tenants:
    """Finds the tenant of a request from its API key."""

    def __init__(self, api_keys: Mapping[str, ApiKey], limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._rules: dict[bytes, ApiKey] = {}
        self._tenants: dict[bytes, Tenant] = {}
        self._gone: list[KeyUsage] = []  # of keys that are no more, until it is written
        self.open: Tenant | None = None  # of everybody, where there are no keys
        self.replace(api_keys)

    def replace(self, api_keys: Mapping[str, ApiKey]) -> None:
        """Go by other keys from now on. A key whose rule is the same keeps its tenant, and what its limits have left;
        one with another rule keeps what it has used.

        Requests in work go on as who they came as.
        """
        rules = {_hash(key): rule for key, rule in api_keys.items()}
        self._gone += [tenant.usage for digest, tenant in self._tenants.items() if digest not in rules]
        self._tenants = {
            digest: self._tenants[digest] if self._rules.get(digest) == rule else self._tenant(rule, digest)
            for digest, rule in rules.items()
        }
        self._rules = rules
        if not rules:
            self.open = self.open or Tenant(OPEN, self._limits)
        else:
            self.open = None

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

    def __iter__(self) -> Iterator[Tenant]:
        """Every tenant, in no particular order."""
        return iter([self.open] if self.open is not None else list(self._tenants.values()))

    def changed_usage(self) -> list[KeyUsage]:
        """What the tenants that were served since the last write have used."""
        self._gone = [usage for usage in self._gone if usage.is_changed]
        return [*self._gone, *(tenant.usage for tenant in self if tenant.usage.is_changed)]

    def _tenant(self, rule: ApiKey, digest: bytes) -> Tenant:
        before = self._tenants.get(digest)
        usage = before.usage if before is not None else None
        for place, gone in enumerate(self._gone):
            if gone.digest == digest:  # the key is back before that was written
                usage = self._gone.pop(place)
                break
        return Tenant(rule, self._limits, digest, usage)


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

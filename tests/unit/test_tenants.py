"""API keys, namespaces and rate limits."""

import itertools
from collections.abc import Callable

import pytest

from gateway.buckets import Bucket
from gateway.errors import QuotaExceeded, RateLimited, Unauthorized
from gateway.limits import Limits
from gateway.settings import ApiKey
from gateway.tenants import Allowance, Tenant, Tenants, bearer, same_secret

KEYS = {"key-a": ApiKey(namespace="a"), "key-b": ApiKey(namespace="b", requests_per_minute=2)}


def test_keys_lead_to_their_namespaces() -> None:
    """A known key names its namespace; without keys everybody shares one."""
    tenants = Tenants(KEYS)
    assert tenants.of("key-a").namespace == "a"
    assert tenants.of("key-b").namespace == "b"
    assert tenants.namespaces() == ["a", "b"]
    assert Tenants({}).of(None).namespace == "default"


@pytest.mark.parametrize("key", [None, "", "key", "key-a ", "KEY-A", "\u00ff\u00fe"])
def test_anything_else_is_unauthorized(key: str | None) -> None:
    """No key, a part of one and broken bytes are all refused."""
    with pytest.raises(Unauthorized):
        Tenants(KEYS).of(key)


async def test_other_keys_keep_what_is_left_of_the_limits_of_those_that_stay() -> None:
    """Rotation neither fills a bucket nor lets an old key in; a key with another rule starts anew."""
    keys = {"stays": ApiKey(namespace="a", requests_per_minute=1), "goes": ApiKey(namespace="b")}
    tenants = Tenants(keys)
    await tenants.of("stays").admit()
    tenants.replace({"stays": keys["stays"], "comes": ApiKey(namespace="c")})
    with pytest.raises(RateLimited):
        await tenants.of("stays").admit()
    with pytest.raises(Unauthorized):
        tenants.of("goes")
    assert (tenants.of("comes").namespace, tenants.namespaces()) == ("c", ["a", "c"])
    tenants.replace({"stays": ApiKey(namespace="a", requests_per_minute=2)})
    await tenants.of("stays").admit()


def test_what_removed_keys_have_used_waits_until_it_is_written() -> None:
    """Also where more keys go before that; a key that comes back goes on with it."""
    tenants = Tenants({name: ApiKey(namespace=name) for name in ("one", "two", "stays")})
    one, two = (tenants.of(name).usage for name in ("one", "two"))
    for usage in (one, two):
        usage.count(tokens=5, tiers=["miss"])
    tenants.replace({name: ApiKey(namespace=name) for name in ("two", "stays")})
    tenants.replace({"stays": ApiKey(namespace="stays")})
    assert tenants.changed_usage() == [one, two]
    tenants.replace({name: ApiKey(namespace="other") for name in ("one", "stays")})
    assert tenants.of("one").usage is one
    assert sorted(map(id, tenants.changed_usage())) == sorted(map(id, [one, two]))
    for usage in (one, two):
        usage.close_day(0)
        usage.batch(itertools.count())
        usage.written()
    assert tenants.changed_usage() == []


def test_first_keys_close_an_open_gateway() -> None:
    """What everybody shared is nobody's once there are keys."""
    tenants = Tenants({})
    assert tenants.open is not None
    tenants.replace(KEYS)
    with pytest.raises(Unauthorized):
        tenants.of(None)


async def test_request_limit_refuses_with_the_wait() -> None:
    """The third request within a minute is refused; half a minute later one more passes."""
    now = [0.0]
    tenant = Tenant(ApiKey(namespace="a", requests_per_minute=2), Limits(clock=lambda: now[0]))
    await tenant.admit()
    await tenant.admit()
    with pytest.raises(RateLimited) as refused:
        await tenant.admit()
    assert refused.value.retry_after_s == pytest.approx(30)
    now[0] = 30.0
    await tenant.admit()


def limited(tokens_per_minute: int, clock: Callable[[], float], workers: int = 1) -> Tenant:
    """A tenant with a limit of tokens of one model, `m`."""
    return Tenant(ApiKey(namespace="a", tokens_per_minute=tokens_per_minute), Limits(workers, clock))


def allowance_of(tenant: Tenant) -> Allowance:
    """What a request may take of model `m`; like one that came before the others took theirs."""
    limit = tenant.tokens_of("m")
    assert limit is not None
    return Allowance(limit, tenant.usage)


async def test_tokens_are_taken_before_the_answer_and_given_back_without_one() -> None:
    """Requests of the same moment cannot take more than there is; one that fails leaves its tokens to the next."""
    tenant = limited(1000, lambda: 0.0)
    first, second = allowance_of(tenant), allowance_of(tenant)
    await first.take(600)
    with pytest.raises(RateLimited) as refused:
        await second.take(600)
    assert refused.value.retry_after_s == pytest.approx(12)
    first.give_back()
    await second.take(600)
    first.give_back()
    with pytest.raises(RateLimited):
        await first.take(600)


async def test_a_request_that_is_done_again_takes_its_tokens_once() -> None:
    """With another model they may be others."""
    tenant = limited(1000, lambda: 0.0)
    allowance = allowance_of(tenant)
    await allowance.take(800)
    await allowance.take(900)
    await allowance_of(tenant).take(100)


async def test_the_wait_is_a_minute_at_most() -> None:
    """Whatever was asked before: what is refused takes nothing."""
    tenant = limited(1000, lambda: 0.0)
    await allowance_of(tenant).take(1000)
    for _ in range(20):
        with pytest.raises(RateLimited) as refused:
            await allowance_of(tenant).take(1000)
        assert refused.value.retry_after_s == pytest.approx(60)


async def test_a_request_larger_than_a_minutes_tokens_passes_alone_and_pays_for_itself() -> None:
    """It needs a full bucket; until its debt is paid nothing passes."""
    now = [0.0]
    tenant = limited(600, lambda: now[0])
    await allowance_of(tenant).take(100)
    with pytest.raises(RateLimited) as refused:
        await allowance_of(tenant).take(1200)
    assert refused.value.retry_after_s == pytest.approx(10)
    now[0] = 10.0
    await allowance_of(tenant).take(1200)
    with pytest.raises(RateLimited):
        tenant.allowance("m")
    now[0] = 70.1
    assert tenant.allowance("m") is not None


async def test_each_model_has_its_own_tokens() -> None:
    """One model's traffic leaves the others theirs; without a limit there is no allowance."""
    tenant = limited(100, lambda: 0.0)
    await allowance_of(tenant).take(100)
    with pytest.raises(RateLimited, match="tokens"):
        tenant.allowance("m")
    other = tenant.allowance("n")
    assert other is not None
    await other.take(100)
    assert Tenant(ApiKey(namespace="a"), Limits()).allowance("m") is None


async def test_a_share_below_one_a_minute_still_lets_requests_pass() -> None:
    """With more workers than requests a minute, each worker still admits one in time."""
    now = [0.0]
    bucket = Bucket(0.25, clock=lambda: now[0])
    assert bucket.wait_s() == 0
    bucket.take(1)
    assert bucket.wait_s() == pytest.approx(240)
    await allowance_of(limited(1, lambda: 0.0, workers=4)).take(1)


@pytest.fixture
def clock() -> list[float]:
    """Seconds since 1970: noon of the last day of November 2026."""
    return [1796040000.0]


def budgeted(clock: list[float], workers: int = 1, **rule: int) -> Tenant:
    """A tenant whose key has budgets."""
    return Tenant(ApiKey(namespace="a", **rule), Limits(workers, lambda: 0.0, lambda: clock[0]))


async def test_a_days_budget_renews_at_midnight_utc(clock: list[float]) -> None:
    """Used up, it names itself and its renewal in OpenAI's words; at midnight there is all of it again."""
    tenant = budgeted(clock, tokens_per_day=100)
    await allowance_of(tenant).take(90)
    with pytest.raises(QuotaExceeded) as refused:
        await allowance_of(tenant).take(11)
    assert "budget of 100 tokens a day; it renews at 2026-12-01T00:00:00Z" in refused.value.message
    assert (refused.value.status, refused.value.type) == (429, "insufficient_quota")
    headers = dict(refused.value.headers())
    assert (headers[b"retry-after"], headers[b"x-should-retry"]) == (b"43200", b"false")
    await allowance_of(tenant).take(10)
    clock[0] += 43_199
    with pytest.raises(QuotaExceeded):
        tenant.allowance("m")
    clock[0] += 1
    await allowance_of(tenant).take(100)


async def test_a_months_budget_is_of_all_models_and_days(clock: list[float]) -> None:
    """The longest wait is what is told; what fails is given back; a request over a whole budget never passes."""
    tenant = budgeted(clock, tokens_per_day=100, tokens_per_month=100, tokens_per_minute=10_000)
    other = tenant.allowance("n")
    assert other is not None
    await other.take(60)
    await allowance_of(tenant).take(40)
    with pytest.raises(QuotaExceeded, match="a month; it renews at 2026-12-01"):
        tenant.allowance("n")
    other.give_back()
    with pytest.raises(QuotaExceeded):
        await allowance_of(tenant).take(61)
    await allowance_of(tenant).take(60)
    clock[0] += 86_400
    with pytest.raises(QuotaExceeded, match="100 tokens a month"):
        await allowance_of(tenant).take(101)
    await allowance_of(tenant).take(100)


async def test_december_is_followed_by_january(clock: list[float]) -> None:
    """The next month may be of the next year."""
    clock[0] += 31 * 86_400
    budgets = budgeted(clock, tokens_per_month=1).budgets
    assert (budgets.renews_at("month"), budgets.renews_at("day")) == ("2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z")


async def test_workers_without_redis_share_a_budget(clock: list[float]) -> None:
    """Each has its part of it, as of a minute's allowance."""
    tenant = budgeted(clock, workers=4, tokens_per_day=100)
    await allowance_of(tenant).take(25)
    with pytest.raises(QuotaExceeded):
        await allowance_of(tenant).take(1)


def test_a_key_is_shown_by_a_hash_under_the_secret() -> None:
    """The same key with the same secret has one id everywhere; nobody without the secret can make it."""
    ids = []
    for secret in (b"a" * 32, b"a" * 32, b"b" * 32):
        limits = Limits()
        limits.connect(None, secret)
        ids += [tenant.key_id for tenant in Tenants({"key-a": ApiKey(namespace="a")}, limits)]
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == 16


def test_bearer_and_secret_comparison() -> None:
    """Tokens are cut from their scheme and compared whole."""
    assert bearer(b"Bearer  x ") == "x"
    assert same_secret("token", "token")
    assert not same_secret("toke", "token")
    assert not same_secret(None, "token")

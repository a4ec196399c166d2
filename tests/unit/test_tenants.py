"""API keys, namespaces and rate limits."""

from collections.abc import Callable

import pytest

from gateway.errors import RateLimited, Unauthorized
from gateway.settings import ApiKey
from gateway.tenants import Allowance, Bucket, Tenant, Tenants, bearer, same_secret

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


def test_other_keys_keep_what_is_left_of_the_limits_of_those_that_stay() -> None:
    """Rotation neither fills a bucket nor lets an old key in; a key with another rule starts anew."""
    keys = {"stays": ApiKey(namespace="a", requests_per_minute=1), "goes": ApiKey(namespace="b")}
    tenants = Tenants(keys)
    tenants.of("stays").admit()
    tenants.replace({"stays": keys["stays"], "comes": ApiKey(namespace="c")})
    with pytest.raises(RateLimited):
        tenants.of("stays").admit()
    with pytest.raises(Unauthorized):
        tenants.of("goes")
    assert (tenants.of("comes").namespace, tenants.namespaces()) == ("c", ["a", "c"])
    tenants.replace({"stays": ApiKey(namespace="a", requests_per_minute=2)})
    tenants.of("stays").admit()


def test_first_keys_close_an_open_gateway() -> None:
    """What everybody shared is nobody's once there are keys."""
    tenants = Tenants({})
    assert tenants.open is not None
    tenants.replace(KEYS)
    with pytest.raises(Unauthorized):
        tenants.of(None)


def test_request_limit_refuses_with_the_wait() -> None:
    """The third request within a minute is refused; half a minute later one more passes."""
    now = [0.0]
    tenant = Tenant("a", requests=Bucket(2, clock=lambda: now[0]))
    tenant.admit()
    tenant.admit()
    with pytest.raises(RateLimited) as refused:
        tenant.admit()
    assert refused.value.retry_after_s == pytest.approx(30)
    now[0] = 30.0
    tenant.admit()


def limited(tokens_per_minute: float, clock: Callable[[], float]) -> Tenant:
    """A tenant with a limit of tokens of one model, `m`."""
    tenant = Tenant("a", tokens_per_minute=tokens_per_minute)
    tenant._tokens["m"] = Bucket(tokens_per_minute, clock)
    return tenant


def allowance_of(tenant: Tenant) -> Allowance:
    """What a request may take of model `m`; like one that came before the others took theirs."""
    return Allowance(tenant._tokens["m"])


def test_tokens_are_taken_before_the_answer_and_given_back_without_one() -> None:
    """Requests of the same moment cannot take more than there is; one that fails leaves its tokens to the next."""
    tenant = limited(1000, lambda: 0.0)
    first, second = allowance_of(tenant), allowance_of(tenant)
    first.take(600)
    with pytest.raises(RateLimited) as refused:
        second.take(600)
    assert refused.value.retry_after_s == pytest.approx(12)
    first.give_back()
    second.take(600)
    first.give_back()
    with pytest.raises(RateLimited):
        first.take(600)


def test_a_request_that_is_done_again_takes_its_tokens_once() -> None:
    """With another model they may be others."""
    tenant = limited(1000, lambda: 0.0)
    allowance = allowance_of(tenant)
    allowance.take(800)
    allowance.take(900)
    allowance_of(tenant).take(100)


def test_the_wait_is_a_minute_at_most() -> None:
    """Whatever was asked before: what is refused takes nothing."""
    tenant = limited(1000, lambda: 0.0)
    allowance_of(tenant).take(1000)
    for _ in range(20):
        with pytest.raises(RateLimited) as refused:
            allowance_of(tenant).take(1000)
        assert refused.value.retry_after_s == pytest.approx(60)


def test_a_request_larger_than_a_minutes_tokens_passes_alone_and_pays_for_itself() -> None:
    """It needs a full bucket; until its debt is paid nothing passes."""
    now = [0.0]
    tenant = limited(600, lambda: now[0])
    allowance_of(tenant).take(100)
    with pytest.raises(RateLimited) as refused:
        allowance_of(tenant).take(1200)
    assert refused.value.retry_after_s == pytest.approx(10)
    now[0] = 10.0
    allowance_of(tenant).take(1200)
    with pytest.raises(RateLimited):
        tenant.allowance("m")
    now[0] = 70.1
    assert tenant.allowance("m") is not None


def test_each_model_has_its_own_tokens() -> None:
    """One model's traffic leaves the others theirs; without a limit there is no allowance."""
    tenant = limited(100, lambda: 0.0)
    allowance_of(tenant).take(100)
    with pytest.raises(RateLimited, match="tokens"):
        tenant.allowance("m")
    other = tenant.allowance("n")
    assert other is not None
    other.take(100)
    assert Tenant("a").allowance("m") is None


def test_a_share_below_one_a_minute_still_lets_requests_pass() -> None:
    """With more workers than requests a minute, each worker still admits one in time."""
    now = [0.0]
    bucket = Bucket(0.25, clock=lambda: now[0])
    assert bucket.wait_s() == 0
    bucket.take(1)
    assert bucket.wait_s() == pytest.approx(240)


def test_bearer_and_secret_comparison() -> None:
    """Tokens are cut from their scheme and compared whole."""
    assert bearer(b"Bearer  x ") == "x"
    assert same_secret("token", "token")
    assert not same_secret("toke", "token")
    assert not same_secret(None, "token")

"""Wrong keys by address: refused, counted, and logged once."""

import logging

import pytest

from gateway.auth_failures import MAX_A_MINUTE, MAX_ADDRESSES, AuthFailures
from gateway.errors import RateLimited, Unauthorized

WRONG = Unauthorized("this API key is not known")


def test_the_minute_after_too_many_wrong_keys_is_429(caplog: pytest.LogCaptureFixture) -> None:
    """Up to the limit the error stays; then it is 429 until the minute ends, with one log line; then all over again."""
    now = [100.0]
    failures = AuthFailures(lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert all(failures.count("10.0.0.1", WRONG) is WRONG for _ in range(MAX_A_MINUTE))
            now[0] += 20
            for _ in range(100):
                refused = failures.count("10.0.0.1", WRONG)
                assert isinstance(refused, RateLimited)
                assert refused.retry_after_s == pytest.approx(40)
            now[0] += 40
    assert [record.getMessage() for record in caplog.records] == [
        f"{MAX_A_MINUTE} wrong keys from 10.0.0.1 within a minute: further ones get 429"
    ] * 2


def test_addresses_are_counted_apart() -> None:
    """Except those of one IPv6 network, which one client has, and an IPv4 address in IPv6's clothes."""

    def after(*hosts: str) -> type[Exception]:
        failures = AuthFailures(lambda: 0.0)
        for host in hosts[:-1]:
            for _ in range(MAX_A_MINUTE):
                failures.count(host, WRONG)
        return type(failures.count(hosts[-1], WRONG))

    assert after("10.0.0.1", "10.0.0.2") is Unauthorized
    assert after("2001:db8::1", "2001:db8::ffff:1") is RateLimited
    assert after("2001:db8::1", "2001:db8:0:1::1") is Unauthorized
    assert after("10.0.0.1", "::ffff:10.0.0.1") is RateLimited
    assert after("fe80::1%eth0", "fe80::1%eth0") is RateLimited
    assert after("", "") is RateLimited


def test_the_table_is_bounded() -> None:
    """The address longest quiet is forgotten, not the one that goes on."""
    failures = AuthFailures(lambda: 0.0)
    for number in range(3 * MAX_ADDRESSES):
        failures.count(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", WRONG)
        if number % 1000 == 0:
            for _ in range(MAX_A_MINUTE):
                failures.count("busy", WRONG)
    assert isinstance(failures.count("busy", WRONG), RateLimited)
    assert failures.count("10.0.0.0", WRONG) is WRONG
    assert len(failures._windows) == MAX_ADDRESSES

"""A gateway's address as people write it."""

import pytest

from common.gateway_url import base_url


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080",
        "http://127.0.0.1:8080/",
        "http://127.0.0.1:8080/v1",
        "http://127.0.0.1:8080/v1//",
        "http://127.0.0.1:8080/v1/embeddings",
        " http://127.0.0.1:8080/embeddings/ ",
    ],
)
def test_all_are_the_same_address(url: str) -> None:
    """With or without the path that OpenAI clients need, and slashes."""
    assert base_url(url) == "http://127.0.0.1:8080"


def test_what_is_before_the_version_stays() -> None:
    """A gateway may lie behind a prefix, and a host may be called v1."""
    assert base_url("https://host/prefix/v1/") == "https://host/prefix"
    assert base_url("https://[::1]:8443/v1") == "https://[::1]:8443"
    assert base_url("http://v1") == "http://v1"


@pytest.mark.parametrize(
    "url", ["", "host:8080", "ftp://host", "http://", "http://host:port", "http://[::1", "http:/v1"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    """By its name."""
    with pytest.raises(ValueError, match="is not an http"):
        base_url(url)


@pytest.mark.parametrize("url", ["http://host/v1?key=a", "http://host#a"])
def test_a_query_is_refused(url: str) -> None:
    """Nothing could be put behind it."""
    with pytest.raises(ValueError, match="query or a fragment"):
        base_url(url)

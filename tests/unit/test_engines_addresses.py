"""Engines behind a DNS name."""

import socket

import pytest

from gateway.engines.addresses import Address, addresses_of, is_dns
from gateway.settings import ModelEngines


async def lookup(host: str, port: int) -> list[str]:
    """Two addresses, whatever the name; checks what is asked for."""
    assert (host, port) in {("engines.example", 8081), ("engines.example", 443)}
    return ["10.0.0.1", "fd00::1"]


async def test_each_address_is_an_engine() -> None:
    """Port, path and credentials stay; a v6 address stands in brackets; the name is kept for certificates."""
    assert await addresses_of("dns+http://me:secret@engines.example:8081/v", lookup) == [
        Address("http://me:secret@10.0.0.1:8081/v", "engines.example"),
        Address("http://me:secret@[fd00::1]:8081/v", "engines.example"),
    ]
    assert (await addresses_of("dns+https://engines.example", lookup))[0] == Address(
        "https://10.0.0.1", "engines.example"
    )


async def test_real_lookup_lists_each_address_once() -> None:
    """The machine's own resolver is asked off the event loop."""
    found = await addresses_of("dns+http://localhost:8081")
    assert Address("http://127.0.0.1:8081", "localhost") in found
    assert len(found) == len(set(found))


async def test_name_that_is_not_known_raises() -> None:
    """The caller keeps what it had."""

    async def unknown(_: str, __: int) -> list[str]:
        raise socket.gaierror("no such name")

    with pytest.raises(OSError, match="no such name"):
        await addresses_of("dns+http://engines.example:8081", unknown)


def test_settings_take_the_scheme() -> None:
    """`dns+` stands before http or https, and nothing else."""
    urls = ModelEngines(urls=["dns+http://engines:8081/", "http://one:8081"]).urls
    assert urls == ["dns+http://engines:8081", "http://one:8081"]
    assert [is_dns(url) for url in urls] == [True, False]
    for bad in ("dns+engines:8081", "dns+ftp://engines", "dns://engines:8081", "dns+dns+http://engines:8081"):
        with pytest.raises(ValueError, match="http://"):
            ModelEngines(urls=[bad])

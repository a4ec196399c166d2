"""Why an engine is away, as clients read it."""

import errno
from ssl import SSLError

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from engine.bundle import BundleError
from engine.protocol import ProtocolError
from gateway.engines.addresses import Address
from gateway.engines.connection import BROKE_OFF, LATE, NO_ENGINE, UNREACHABLE, EngineConnection

PLACE = ConnectionKey("gpu.internal", 8081, False, True, None, None, None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (aiohttp.ClientConnectorError(PLACE, OSError(errno.ECONNREFUSED, "refused")), UNREACHABLE),
        (aiohttp.ClientConnectorDNSError(PLACE, OSError(-2, "Name or service not known")), UNREACHABLE),
        (aiohttp.ClientConnectorSSLError(PLACE, SSLError(1, "gpu.internal")), UNREACHABLE),
        (OSError(errno.EMFILE, "Too many open files"), UNREACHABLE),
        (aiohttp.ServerDisconnectedError(), BROKE_OFF),
        (aiohttp.ClientOSError(errno.ECONNRESET, "reset by gpu.internal"), BROKE_OFF),
        (aiohttp.ClientPayloadError("gpu.internal"), BROKE_OFF),
        (aiohttp.ConnectionTimeoutError("gpu.internal"), LATE),
        (aiohttp.SocketTimeoutError("gpu.internal"), LATE),
        (TimeoutError(), LATE),
        (ProtocolError("/info answers 404"), NO_ENGINE),
        (BundleError("tokenizer.json of gpu.internal"), NO_ENGINE),
        (aiohttp.ClientError("gpu.internal"), NO_ENGINE),
    ],
)
async def test_clients_read_fixed_words_and_operators_the_error(error: Exception, words: str) -> None:
    """No class, host or file for the first; class and address for the second, and never credentials."""
    async with aiohttp.ClientSession() as http:
        one = EngineConnection(Address("http://me:hunter2@gpu.internal:8081"), http)
        one.failed(error)
        assert one.reason == words
        assert one.detail.startswith(f"http://***@gpu.internal:8081: {type(error).__name__}")

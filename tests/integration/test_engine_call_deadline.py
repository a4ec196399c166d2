"""A call to an engine has one deadline, however many connections it takes."""

import asyncio
from contextlib import suppress

import aiohttp
import numpy as np
import pytest

from engine.protocol import Lane
from engine.text_encoder import EncodedText
from gateway.engines.addresses import Address
from gateway.engines.connection import Call, CallFailed, EngineConnection
from gateway.errors import DeadlineExceeded

CALL_S = 1.0
FIRST_S = 0.6


async def test_a_second_connection_has_the_time_that_is_left() -> None:
    """The first one is closed after a while without an answer, the second never answers."""
    told_ms: list[int] = []
    ended = asyncio.Semaphore(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        told_ms.append(int(head.lower().partition(b"x-dejavec-deadline-ms:")[2].split(b"\r\n")[0]))
        if len(told_ms) == 1:
            await asyncio.sleep(FIRST_S)
        else:
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.release()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = "http://{}:{}".format(*server.sockets[0].getsockname()[:2])
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession() as http:
        text = EncodedText(np.ones(3, dtype=np.int32).tobytes(), 3, False)
        call = Call("f" * 32, 8, [text], Lane.BULK, loop.time() + CALL_S, 3)
        with pytest.raises(CallFailed) as failed:
            await EngineConnection(Address(url), http).vectors(call, CALL_S)
    late_s = loop.time() - call.deadline
    server.close()
    for _ in told_ms:
        await ended.acquire()
    assert isinstance(failed.value.error, DeadlineExceeded)
    assert told_ms[1] <= told_ms[0] - 1000 * FIRST_S + 50
    assert late_s < FIRST_S - 0.1

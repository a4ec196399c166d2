"""Connections to one Redis server, cheaper than by redis-py's own pool and packing.

A lone look-up is one command, so what surrounds it decides its price: 66 us of CPU in this process instead of 132
(`python -m tests.measure_writes`). `exchange` sends one command and reads its reply; a client made `from_pool` works as
ever.

An idle connection is handed out as it is where it is connected and nothing waits in it. Everything else (connecting,
waiting for a free one, replacing a broken one) is redis-py's.
"""

from typing import Any

import hiredis
from redis.asyncio import BlockingConnectionPool, Connection, Redis
from redis.asyncio.connection import AbstractConnection
from redis.connection import HiredisRespSerializer

_SERIALIZER = HiredisRespSerializer()


class ConnectionPool(BlockingConnectionPool):
    """At most `max_connections`; who finds none free waits, `timeout` seconds at most. Options are redis-py's."""

    def __init__(self, connection_class: type[AbstractConnection] = Connection, **options: Any) -> None:
        super().__init__(connection_class=_packed_by_hiredis(connection_class), **options)
        self._callers_waiting = 0

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> AbstractConnection:
        """A connection for one caller, until `release`."""
        if self._available_connections and not self._callers_waiting:
            connection = self._available_connections[-1]
            if connection.is_connected and await _is_clean(connection) and self._take(connection):
                return connection
        self._callers_waiting += 1
        try:
            found: AbstractConnection = await super().get_connection()  # type: ignore[no-untyped-call]
        finally:
            self._callers_waiting -= 1
        return found

    async def release(self, connection: Any) -> None:
        """Give a connection back."""
        if self._callers_waiting or connection.should_reconnect():
            await super().release(connection)
            return
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)

    def _take(self, connection: AbstractConnection) -> bool:
        """Take the connection that is next, unless it is another one by now."""
        if not self._available_connections or self._available_connections[-1] is not connection:
            return False
        self._in_use_connections.add(self._available_connections.pop())
        return True


async def exchange(redis: Redis, *words: Any) -> Any:
    """One command and its reply as it came, without the client's retries and conversions.

    Words are str, bytes, int or float; the command's name is one word. A connection that was left within a command is
    closed. Raises what `execute_command` does.
    """
    pool = redis.connection_pool
    connection = await pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        await connection.send_packed_command(hiredis.pack_command(words))
        return await connection.read_response()
    finally:
        await pool.release(connection)


async def _is_clean(connection: AbstractConnection) -> bool:
    """Whether it is open, and no reply waits in it that nobody read."""
    try:
        return not await connection.can_read()
    except Exception:  # whatever is wrong with it: redis-py's own check follows, and connects it anew
        return False


def _packed_by_hiredis(connection_class: type[AbstractConnection]) -> type[AbstractConnection]:
    """The same kind of connection, whose commands hiredis packs."""

    class Packed(connection_class):  # type: ignore[valid-type, misc]
        def pack_command(self, *args: Any) -> list[bytes]:
            packed: list[bytes] = _SERIALIZER.pack(*args)
            return packed

    return Packed

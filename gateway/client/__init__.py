"""The client library of a gateway: `AsyncClient`, `Client`, ingestion.

The package needs aiohttp, numpy, orjson and tenacity; only its command line (`cli`, `settings`, `progress`)
needs more.
"""

from common.breaker import BreakerPolicy, CircuitState
from gateway.client.client import AsyncClient
from gateway.client.errors import (
    CircuitOpen,
    ClientError,
    ConnectFailed,
    ConnectionLost,
    FingerprintMismatch,
    GatewayFault,
    InvalidReply,
    RateLimited,
    Refused,
    RequestRefused,
    TimedOut,
    TransportError,
    Unauthorized,
    Unavailable,
)
from gateway.client.faults import Fault
from gateway.client.retry import RetryPolicy
from gateway.client.sync import Client
from gateway.client.wire import EmbedResult, GatewayInfo

__all__ = [
    "AsyncClient",
    "BreakerPolicy",
    "CircuitOpen",
    "CircuitState",
    "Client",
    "ClientError",
    "ConnectFailed",
    "ConnectionLost",
    "EmbedResult",
    "Fault",
    "FingerprintMismatch",
    "GatewayFault",
    "GatewayInfo",
    "InvalidReply",
    "RateLimited",
    "Refused",
    "RequestRefused",
    "RetryPolicy",
    "TimedOut",
    "TransportError",
    "Unauthorized",
    "Unavailable",
]

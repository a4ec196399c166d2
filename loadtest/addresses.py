"""Which gateway, key and engine a command means where they are not given: those of the settings."""

from urllib.parse import urlsplit

from pydantic import Field

from common.gateway_url import in_url
from engine.configuration import Configuration, load
from gateway.client.settings import ClientSettings
from loadtest.exposition import is_on_this_machine

DEFAULT_PORTS = (8080, 8081)  # of gateway and engine, as `dejavec up` starts them


class Ports(Configuration):
    """Where gateway and engine of this machine listen: of the settings of both, no more than that."""

    gateway_port: int = Field(DEFAULT_PORTS[0], ge=1, le=65535)
    engine_port: int = Field(DEFAULT_PORTS[1], ge=1, le=65535)


def gateway_and_key(url: str | None, api_key: str | None) -> tuple[str, str]:
    """What was given, else client_url and client_api_key; an empty key is none. Raises ConfigurationError."""
    settings = load(ClientSettings, client_url=url)
    if api_key is None and settings.client_api_key is not None:
        api_key = settings.client_api_key.get_secret_value()
    return settings.gateway_url, api_key or ""


def engine_beside(url: str) -> str:
    """The engine that `dejavec up` starts beside a gateway at this base URL; empty where the port is not `up`'s.

    On this machine the ports are those of the settings, elsewhere the defaults. Raises ConfigurationError.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.path or parts.hostname is None:
        return ""
    ports = load(Ports)
    if is_on_this_machine(url) and parts.port == ports.gateway_port:
        port = ports.engine_port
    elif parts.port == DEFAULT_PORTS[0]:
        port = DEFAULT_PORTS[1]
    else:
        return ""
    return f"http://{in_url(parts.hostname)}:{port}"

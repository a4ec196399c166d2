"""The settings of commands that talk to a gateway from outside. Only the command line reads them, not the library."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from common.credentials import check_token
from common.gateway_url import url_of_listener
from engine.configuration import Configuration, load
from gateway.client.errors import ClientError, Unauthorized


def _sendable(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        check_token(value.get_secret_value(), at_least=1)
    return value


Credential = Annotated[SecretStr | None, AfterValidator(_sendable)]


class ClientSettings(Configuration):
    """Where the gateway is, and the key to use."""

    client_url: str | None = Field(
        None,
        description="Gateway that client commands talk to. Unset: this machine's, by `gateway_host` and `gateway_port`",
    )
    client_fallback_url: str | None = Field(
        None, description="Second gateway, used when the first fails, and only if it serves the same fingerprint"
    )
    client_api_key: Credential = Field(None, description="API key that client commands send")
    client_admin_token: Credential = Field(
        None, description="The gateway's `admin_token`, for `dejavec cache` and `dejavec usage --all`"
    )

    @property
    def gateway_url(self) -> str:
        """`client_url`, else where this machine's gateway listens. Raises ConfigurationError."""
        return self.client_url if self.client_url is not None else load(_OwnGateway).url


def explained(error: ClientError, api_key: str | None) -> str:
    """What a command prints of an error: of a missing or refused key also the setting it comes from."""
    if not isinstance(error, Unauthorized):
        return str(error)
    place = "client_api_key (DEJAVEC_CLIENT_API_KEY)"
    return f"{error}; {f'the key sent is the setting {place}' if api_key else f'no key was sent: set {place}'}"


class _OwnGateway(Configuration):
    """Of the gateway's settings where it listens. Read only where no URL is given, so that one set wrongly is harmless.

    In a pod, Kubernetes may set DEJAVEC_GATEWAY_PORT to a URL, of a Service that is called dejavec-gateway.
    """

    gateway_host: str = "127.0.0.1"
    gateway_port: int = Field(8080, ge=1, le=65535)

    @property
    def url(self) -> str:
        return url_of_listener(self.gateway_host, self.gateway_port)

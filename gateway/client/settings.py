"""The settings of commands that talk to a gateway from outside. Only the command line reads them, not the library."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from common.credentials import check_token
from engine.configuration import Configuration


def _sendable(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        check_token(value.get_secret_value(), at_least=1)
    return value


Credential = Annotated[SecretStr | None, AfterValidator(_sendable)]


class ClientSettings(Configuration):
    """Where the gateway is, and the key to use."""

    client_url: str = Field("http://127.0.0.1:8080", description="Gateway that client commands talk to")
    client_fallback_url: str | None = Field(
        None, description="Second gateway, used when the first fails, and only if it serves the same fingerprint"
    )
    client_api_key: Credential = Field(None, description="API key that client commands send")
    client_admin_token: Credential = Field(
        None, description="The gateway's `admin_token`, for `dejavec cache` and `dejavec usage --all`"
    )

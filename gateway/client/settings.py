"""The settings of commands that talk to a gateway from outside. Only the command line reads them, not the library."""

from pydantic import Field, SecretStr

from engine.configuration import Configuration


class ClientSettings(Configuration):
    """Where the gateway is, and the key to use."""

    client_url: str = Field("http://127.0.0.1:8080", description="Gateway that client commands talk to")
    client_fallback_url: str | None = Field(
        None, description="Second gateway, used when the first fails, and only if it serves the same fingerprint"
    )
    client_api_key: SecretStr | None = Field(None, description="API key that client commands send")
    client_admin_token: SecretStr | None = Field(None, description="The gateway's `admin_token`, for `dejavec cache`")

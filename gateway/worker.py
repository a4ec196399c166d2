"""What each worker process of the gateway loads: storage for its metrics first, then the application.

Metrics are made when their modules are imported, so the application may not be imported at the top of this module.
"""

from starlette.types import ASGIApp

from common import logs, tracing
from engine.configuration import load
from gateway import metrics_storage
from gateway.settings import GatewaySettings


def application() -> ASGIApp:
    """One worker's application, with settings from file and environment. Raises ConfigurationError."""
    settings = load(GatewaySettings)
    logs.configure(settings.log_level, settings.log_format)
    tracing.configure("dejavec-gateway")
    metrics_storage.reserve()
    from gateway.app import create_app  # noqa: PLC0415  see above

    return create_app(settings)

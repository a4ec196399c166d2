"""What each worker process of the gateway loads: storage for its metrics first, then the application.

Metrics are made when their modules are imported, so the application may not be imported at the top of this module.
"""

import gc
from typing import Final

from starlette.types import ASGIApp

from common import logs, tracing
from engine.configuration import load
from gateway import metrics_storage
from gateway.settings import GatewaySettings

GC_THRESHOLD: Final = 2000  # CPython's own from 3.13 on; with 700 it was 6 % of the CPU time of computed single texts


def application() -> ASGIApp:
    """One worker's application, with settings from file and environment. Raises ConfigurationError."""
    settings = load(GatewaySettings)
    logs.configure(settings.log_level, settings.log_format)
    tracing.configure("dejavec-gateway")
    metrics_storage.reserve()
    from gateway.app import create_app  # noqa: PLC0415  see above

    app = create_app(settings)
    gc.freeze()  # what the start left lives as long as the process; no need to scan it again and again
    gc.set_threshold(GC_THRESHOLD)
    return app

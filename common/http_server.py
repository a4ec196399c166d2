"""uvicorn with limits on what a connection may cost, for both servers.

    serve(ServerConfig("module:factory", ConnectionLimits(4096, stalled_send_s=30), host=..., port=..., workers=2))

What is limited, and what is refused: `common.http_protocol`.
"""

import sys
from contextlib import suppress
from typing import Any, Final

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from common.http_protocol import ConnectionLimits, LimitedProtocol

__all__ = ["ConnectionLimits", "ServerConfig", "serve"]

KEEP_ALIVE_S: Final = 75  # longer than clients keep idle connections, so that they close first and meet no reset


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration for a dejavec server; `settings` go to uvicorn.Config as they are."""

    def __init__(self, app: Any, limits: ConnectionLimits, **settings: Any) -> None:
        self.limits = limits
        super().__init__(
            app,
            http=LimitedProtocol,
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,  # the caller's address is the connection's
            timeout_keep_alive=KEEP_ALIVE_S,
            **settings,
        )


def serve(config: ServerConfig) -> None:
    """Run the configured application until a signal ends it, in `config.workers` processes.

    Ends the process with uvicorn's status where the application does not start.
    """
    with suppress(KeyboardInterrupt):
        if config.workers > 1:
            Multiprocess(config, sockets=[config.bind_socket()]).run()
            return
        server = uvicorn.Server(config)
        server.run()
        if not server.started:
            sys.exit(STARTUP_FAILURE)

"""A process for tests: an engine on a given port whose run never ends once it meets token 3, or just takes long.

Usage: engine_that_hangs.py FOLDER PORT HANG_S SLEEP_S
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from engine import server
from engine.protocol import Float32Array, Int32Array
from engine.serving import Engine
from engine.settings import EngineSettings
from tests.integration.engine_under_test import ONE_CORE, tiny_model


def main(folder: str, port: str, hang_s: str, sleep_s: str) -> None:
    """Serve until told to stop."""
    working = tiny_model(Path(folder)).runs[0]

    def run(texts: Sequence[Int32Array]) -> Float32Array:
        if any(int(ids[0]) == 3 for ids in texts):
            time.sleep(float(sleep_s))
        return working(texts)

    settings = EngineSettings(engine_port=int(port), engine_hang_s=float(hang_s), heartbeat_interval_s=0.2)
    server.build_engine = lambda _: Engine(settings, tiny_model(Path(folder), run), ONE_CORE)
    server.run(settings)


if __name__ == "__main__":
    main(*sys.argv[1:])

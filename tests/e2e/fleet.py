"""Three gateways, three engines and a Redis Cluster of six, each a process of its own that can be killed or frozen.

    with fleet(folder, binaries) as running: running.gateways[0].kill(), running.is_sound()

The engines serve a tiny random model, so that three of them fit on two cores; it comes with two sets of weights, and
so two fingerprints.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import numpy as np
from tokenizers import Tokenizer

from deploy.embedded_redis import Binaries
from engine.build.running import open_graph
from engine.bundle import GRAPH_FILE, TOKENIZER_FILE, read_bundle
from engine.feeds import feeds
from tests.e2e.load import Texts, Truth
from tests.e2e.stack import until
from tests.free_ports import free_port
from tests.integration.engine_under_test import VOCABULARY, write_tiny_bundle
from tests.redis_cluster import RunningCluster, running_cluster

ENGINES = GATEWAYS = 3
DEADLINE_S = 10.0
LETTERS = VOCABULARY[2:]
WORDS = [" ".join((LETTERS[n % 26], LETTERS[n // 26], *LETTERS[: n % 7])) for n in range(120)]
TEXTS = Texts("tiny", WORDS[:60], WORDS[60:])
TELL_S = 5.0  # a process that is asked how it is has so long


class Server:
    """One `dejavec` process: where it answers, and what it is started with."""

    def __init__(self, folder: Path, command: str, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = settings | {f"DEJAVEC_{command.upper()}_PORT": str(self.port)}
        self._command = (sys.executable, "-m", "deploy.cli", command)
        self._folder = folder
        self.start()

    def start(self) -> None:
        """Start it, again on the same port; it is ready later."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DEJAVEC_")}
        own = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        with (self._folder / f"{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self._folder, env=kept | own | self.settings, stdout=log, stderr=log
            )

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal that ends it, and wait until it is gone."""
        self.send(number)
        self.process.wait(60)

    def ready(self) -> dict[str, object]:
        """What its /ready has; nothing where it does not answer, or is not."""
        try:
            with urllib.request.urlopen(f"{self.url}/ready", timeout=TELL_S) as reply:
                found = json.loads(reply.read() or b"{}")
        except (URLError, OSError, ValueError):
            return {}
        return {"status": "ready"} | found if isinstance(found, dict) else {}

    def wait_ready(self) -> None:
        """Until it is."""
        until(lambda: bool(self.ready()), f"{self._command[-1]} is ready")


class Fleet:
    """All processes, and the two bundles that engines are started with."""

    def __init__(self, folder: Path, cluster: RunningCluster) -> None:
        self.cluster = cluster
        self.bundles = [write_tiny_bundle(folder / f"bundle-{seed}", seed=seed) for seed in (7, 8)]
        self.engines: list[Server] = []
        self.gateways: list[Server] = []
        self._folder = folder

    def start(self) -> None:
        """Start engines and gateways, and wait until all see each other."""
        for _ in range(ENGINES):
            self.engines.append(Server(self._folder, "engine", DEJAVEC_MODEL_BUNDLE=str(self.bundles[0])))
        settings = {
            "DEJAVEC_ENGINES": json.dumps({"tiny": {"urls": [engine.url for engine in self.engines]}}),
            "DEJAVEC_REDIS_URL": self.cluster.url,
            "DEJAVEC_KEY_SECRET": secrets.token_hex(32),
            "DEJAVEC_LOCAL_CACHE_MB": "0",  # so that each hit is Redis'
            "DEJAVEC_REQUEST_TIMEOUT_S": str(DEADLINE_S),
        }
        for _ in range(GATEWAYS):
            self.gateways.append(Server(self._folder, "gateway", **settings))
        until(self.is_sound, "the fleet is sound")

    def stop(self) -> None:
        """End all of them, stopped ones too."""
        for server in (*self.gateways, *self.engines):
            server.end()

    def is_sound(self) -> bool:
        """Whether each gateway sees all engines serve and all of Redis, and the cluster is whole."""
        return self.cluster.is_sound(self.cluster.nodes) and all(map(self._sees_all, self.gateways))

    def wait_engines_seen(self) -> None:
        """Until no gateway takes an engine for one that is away."""
        until(lambda: all("away" not in self._engines_of(gateway) for gateway in self.gateways), "engines are seen")

    def _sees_all(self, gateway: Server) -> bool:
        return gateway.ready().get("redis") == "ok" and self._engines_of(gateway) == {"serving": ENGINES}

    def _engines_of(self, gateway: Server) -> dict[str, int]:
        """How many engines a gateway sees in each state."""
        found = gateway.ready().get("engines")
        return found["tiny"] if isinstance(found, dict) else {"away": ENGINES}

    def truth(self) -> Truth:
        """Each text's vector by each bundle's graph, computed alone in this process, under the bundle's fingerprint."""
        with urllib.request.urlopen(f"{self.engines[0].url}/info", timeout=TELL_S) as reply:
            kernel_class = json.loads(reply.read())["kernel_class"]
        return {read_bundle(folder).fingerprint(kernel_class): vectors_of(folder) for folder in self.bundles}


def vectors_of(bundle: Path) -> dict[str, bytes]:
    """All texts' vectors."""
    run = open_graph((bundle / GRAPH_FILE).read_bytes(), 1)
    tokenizer = Tokenizer.from_file(str(bundle / TOKENIZER_FILE))
    ids = {text: np.array(tokenizer.encode(text).ids, np.int32) for text in (*TEXTS.known, *TEXTS.fresh)}
    return {text: run(feeds([one]))["embeddings"][0].astype("<f4").tobytes() for text, one in ids.items()}


@contextmanager
def fleet(folder: Path, binaries: Binaries) -> Iterator[Fleet]:
    """All processes for as long as the block runs."""
    (folder / "cluster").mkdir()
    with running_cluster(folder / "cluster", binaries) as cluster:
        running = Fleet(folder, cluster)
        try:
            running.start()
            yield running
        finally:
            running.stop()

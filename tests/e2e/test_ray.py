"""`dejavec ingest --engine ray` with a real Ray on this machine: a kill in the middle, engines in its actors, and a
cluster of two nodes that loses one.

Ray is started with one CPU a node, and without a dashboard. What Ray
starts carries a mark in its environment, by which it is found, and ended should it be left over.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from tests.integration.engine_under_test import write_tiny_bundle
from tests.integration.standin_gateway import StandIn, vector_of

pytest.importorskip("ray.data", reason="needs the extra `ray`")

ROOT = Path(__file__).parents[2]
MARK = "DEJAVEC_RAY_TEST"
STARTS = 2  # Ray gives its agent 15 s and its node 30 s to start, constants that a busy machine does not keep
NOT_STARTED = f"Ray did not start in {STARTS} tries: this machine is too busy"
LIMIT_S = 150.0
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
TEXTS = [f"{chr(97 + i)} {chr(98 + i)}" for i in range(18)]
TWO_COMMANDS = """
import sys
from bulk.cli import ingest
from bulk.over_ray import Pool, RayFailed, connected
try:
    with connected(Pool(None, 1, 1)):
        for words in sys.argv[1].split(";"):
            try:
                ingest.main(words.split(), standalone_mode=True)
            except SystemExit as end:
                if end.code:
                    raise
except RayFailed as error:
    sys.exit(print(error) or 7)
"""


def marked() -> list[psutil.Process]:
    """What Ray has started here, and is still running."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(os.getpid()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def none_is_left(within_s: float = 60.0) -> bool:
    until = time.monotonic() + within_s
    while marked():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


@pytest.fixture
def variables() -> Iterator[dict[str, str]]:
    """The environment of the commands; Ray's own files are in a folder with a short name, as its sockets need."""
    folder = tempfile.mkdtemp(prefix="dvr")
    try:
        yield {
            **os.environ,
            MARK: str(os.getpid()),
            "PYTHONPATH": str(ROOT),
            "HOME": folder,
            "RAY_TMPDIR": folder,
            "RAY_ADDRESS": "",
        }
    finally:
        for process in marked():
            process.kill()
        none_is_left()
        shutil.rmtree(folder, ignore_errors=True)


async def started(variables: dict[str, str], *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, *words), env=variables, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


async def run(variables: dict[str, str], *words: str) -> tuple[int, str]:
    """Exit status and all output of a Python process; started again where Ray did not start."""
    for _ in range(STARTS):
        process = await started(variables, *words)
        output, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
        if process.returncode != 7:
            break
    return process.returncode or 0, output.decode()


def rows_of(out: Path) -> list[dict]:
    return pq.read_table(str(out)).sort_by("line").to_pylist()


async def test_killed_resumed_and_in_process(tmp_path: Path, variables: dict[str, str]) -> None:
    """A killed run leaves no process of Ray's, and the next one does what is left alone; engines in actors give the
    engine's own bytes.
    """
    source, out = tmp_path / "texts.jsonl", tmp_path / "out"
    source.write_text("".join(json.dumps({"id": text, "text": text}) + "\n" for text in TEXTS))
    common = f"{source} --engine ray --part-texts 4 --actors 1"
    async with StandIn() as gateway:
        words = f"{common} --out {out} --url {gateway.url} --batch 4 --concurrency 1"
        gateway.hang_after = 2
        for _ in range(STARTS):
            killed = await started(variables, "-m", "deploy.cli", "ingest", *words.split())
            ended, hangs = asyncio.create_task(killed.communicate()), asyncio.create_task(gateway.hanging.wait())
            await asyncio.wait([ended, hangs], timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                break
            hangs.cancel()
            assert b"Ray did not start" in ended.result()[0]
        else:
            pytest.skip(NOT_STARTED)
        assert hangs.done()
        os.kill(killed.pid, signal.SIGKILL)
        await ended
        assert await asyncio.to_thread(none_is_left)
        assert sorted(path.name for path in out.glob("*.parquet")) == ["part-000000.parquet", "part-000001.parquet"]

        gateway.hang_after, asked = None, len(gateway.requests)
        bundle = write_tiny_bundle(tmp_path / "bundle")
        in_process = f"{common} --out {tmp_path / 'by-engines'} --bundle {bundle} --batch 5"
        status, output = await run(variables, "-c", TWO_COMMANDS, f"{words};{in_process}")
        if status == 7 and "Ray did not start" in output:
            pytest.skip(NOT_STARTED)
        assert status == 0, output
        assert "Traceback" not in output
        assert f"{out}: 18 vectors" in output
        assert sorted(text for request in gateway.requests[asked:] for text in request["input"]) == sorted(TEXTS[8:])
    rows = rows_of(out)
    assert [row["id"] for row in rows] == TEXTS
    assert all(np.array_equal(np.array(row["vector"], np.float32), vector_of(row["id"], 8)) for row in rows)
    assert await asyncio.to_thread(none_is_left)

    fingerprint, expected = await of_an_engine(bundle)
    found = rows_of(tmp_path / "by-engines")
    assert np.array([row["vector"] for row in found], np.float32).tobytes() == expected.tobytes()
    metadata = pq.read_schema(tmp_path / "by-engines/part-000000.parquet").metadata
    assert metadata[b"dejavec.fingerprint"].decode() == fingerprint


async def test_a_node_that_is_lost(tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a cluster's two nodes one is killed with a part in hand: the other one does all that is left."""
    from ray.cluster_utils import Cluster

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    source, out = tmp_path / "texts.jsonl", tmp_path / "out"
    source.write_text("".join(json.dumps({"id": text, "text": text}) + "\n" for text in TEXTS))
    on_sigterm = signal.getsignal(signal.SIGTERM)  # which Ray takes
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        lost = cluster.add_node(**NODE)
        async with StandIn() as gateway:
            gateway.hang_after = 2
            words = (
                f"ingest {source} --engine ray --ray-address {cluster.address} --actors 2 --part-texts 4 --out {out}"
            )
            to_gateway = f"--url {gateway.url} --batch 4 --concurrency 1"
            command = await started(variables, "-m", "deploy.cli", *words.split(), *to_gateway.split())
            ended = asyncio.create_task(command.communicate())
            until = time.monotonic() + LIMIT_S
            while gateway.in_flight < 2:  # a part on each node
                assert not ended.done(), ended.result()[0].decode()
                assert time.monotonic() < until
                await asyncio.sleep(0.05)
            await asyncio.to_thread(cluster.remove_node, lost, allow_graceful=False)
            gateway.released.set()
            output, _ = await asyncio.wait_for(ended, LIMIT_S)
            assert command.returncode == 0, output.decode()
    finally:
        await asyncio.to_thread(cluster.shutdown)
        signal.signal(signal.SIGTERM, on_sigterm)
    rows = rows_of(out)
    assert [row["id"] for row in rows] == TEXTS
    assert all(np.array_equal(np.array(row["vector"], np.float32), vector_of(row["id"], 8)) for row in rows)


async def of_an_engine(bundle: Path) -> tuple[str, np.ndarray]:
    """The fingerprint of an engine with this bundle, and its vectors of the texts, each computed alone."""
    from engine.serving import build_engine
    from engine.settings import EngineSettings

    async with build_engine(EngineSettings(model_bundle=bundle)).opened() as engine:
        ids = await engine.tokenize(TEXTS)
        return engine.info.fingerprint, np.stack([(await engine.batcher.submit([row]))[0] for row in ids])

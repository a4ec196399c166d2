"""`dejavec cache` against a running gateway."""

import asyncio
import json
import os
import secrets
import sys
from pathlib import Path

import httpx

from deploy.embedded_redis import RunningRedis
from tests.gateway_client import running_gateway, until_ready
from tests.stand_in_engine import StandInEngine

ROOT = Path(__file__).parents[2]


async def run(client: httpx.AsyncClient, folder: Path, *words: str, token: str = "operator") -> tuple[int, str, str]:
    own = {"DEJAVEC_CLIENT_URL": str(client.base_url), "DEJAVEC_CLIENT_ADMIN_TOKEN": token, "PYTHONPATH": str(ROOT)}
    command = (sys.executable, "-m", "deploy.cli", "cache", *words)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env={**os.environ, **own}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_warm_stats_purge(redis: RunningRedis, tmp_path: Path) -> None:
    """Warmed texts are hits; stats count them; after a purge they are gone; a wrong token is one message."""
    texts = tmp_path / "texts.txt"
    texts.write_text("a b\n\nc d\ne f\n")
    async with (
        StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine,
        running_gateway(engine.url, redis_url=redis.url, admin_token="operator") as client,
    ):
        await until_ready(client)
        assert await run(client, tmp_path, "warm", str(texts)) == (0, "3 texts: miss 3\n", "")
        assert (await run(client, tmp_path, "warm", str(texts)))[1] == "3 texts: local 3\n"
        status, out, _ = await run(client, tmp_path, "stats")
        assert (status, json.loads(out)["local"]["entries"]) == (0, 3)
        assert (await run(client, tmp_path, "purge", "--namespace", "default"))[0] == 0
        assert (await run(client, tmp_path, "warm", str(texts)))[1] == "3 texts: miss 3\n"
        status, _, err = await run(client, tmp_path, "stats", token="wrong")
        assert (status, err) == (1, "Error: send the admin token as `Authorization: Bearer <token>`\n")
        assert (await run(client, tmp_path, "purge"))[0] == 2

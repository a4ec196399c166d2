"""`dejavec cache` against a running gateway."""

import asyncio
import json
import re
import secrets
from pathlib import Path

import httpx

from tests import command_line
from tests.gateway_client import running_gateway, until_ready
from tests.running_redis import RunningRedis, running_redis
from tests.stand_in_engine import StandInEngine

OPERATOR = {"authorization": "Bearer operator-of-these-tests"}


async def run(
    client: httpx.AsyncClient, folder: Path, *words: str, token: str = "operator-of-these-tests"
) -> tuple[int, str, str]:
    variables = {"DEJAVEC_CLIENT_URL": str(client.base_url), "DEJAVEC_CLIENT_ADMIN_TOKEN": token}
    return await command_line.dejavec(folder, "cache", *words, **variables)


async def test_warm_stats_purge(redis: RunningRedis, tmp_path: Path) -> None:
    """Warmed texts are hits; stats count them; after a purge they are gone; a wrong token is one message."""
    texts = tmp_path / "texts.txt"
    texts.write_text("a b\n\nc d\ne f\n")
    async with (
        StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine,
        running_gateway(engine.url, redis_url=redis.url, admin_token="operator-of-these-tests") as client,
    ):
        await until_ready(client)
        lines = "4 lines read, 3 used, 1 skipped: 1 blank\n"
        assert await run(client, tmp_path, "warm", str(texts)) == (0, f"3 texts: miss 3\n{lines}", "")
        assert (await run(client, tmp_path, "warm", str(texts)))[1] == f"3 texts: local 3\n{lines}"
        status, out, _ = await run(client, tmp_path, "stats")
        assert (status, json.loads(out)["local"]["entries"]) == (0, 3)
        assert (await run(client, tmp_path, "purge", "--namespace", "default"))[0] == 0
        assert (await run(client, tmp_path, "warm", str(texts)))[1] == f"3 texts: miss 3\n{lines}"
        status, _, err = await run(client, tmp_path, "stats", token="wrong")
        assert (status, err) == (1, "Error: this admin token is not the one that is set as admin_token\n")
        assert (await run(client, tmp_path, "purge"))[0] == 2


async def test_thresholds_are_shown_and_changed(tmp_path: Path) -> None:
    """A table with each value's source; --set changes it for all gateways; mistakes are one kind message."""
    with running_redis(tmp_path / "redis") as redis:
        async with (
            StandInEngine(fingerprint=secrets.token_hex(16), has_static_embedding=True).running() as engine,
            running_gateway(
                engine.url, redis_url=redis.url, admin_token="operator-of-these-tests", similarity_threshold=0.93
            ) as client,
        ):
            await until_ready(client)
            status, out, _ = await run(client, tmp_path, "thresholds")
            assert status == 0
            heads, everywhere, own = out.splitlines()[:3]
            assert heads.split()[:3] == ["namespace", "semantic_mode", "semantic_fidelity"]
            assert everywhere.split()[:5] == ["(all)", "auto", "0.92", "0.05", "0.93*"]
            assert own.split()[0] == "default"

            words = ("--namespace", "default", "--set", "fidelity=0.95", "--set", "semantic_mode=on")
            status, out, _ = await run(client, tmp_path, "thresholds", *words)
            assert status == 0
            assert "start anew in: default" in out.splitlines()[0]
            assert out.splitlines()[3].split()[:3] == ["default", "on!", "0.95!"]
            assert any(line.split()[1:5] == ["default", "semantic_mode", "auto", "on"] for line in out.splitlines())
            status, out, _ = await run(client, tmp_path, "thresholds", "--all", "--set", "fidelity=0.9")
            assert "A value of their own for semantic_fidelity keep: default." in out
            words = ("--namespace", "default", "--set", "fidelity=configured")
            status, out, _ = await run(client, tmp_path, "thresholds", *words)
            assert out.splitlines()[3].split()[2] == "0.9!"

            for words, message in (
                (("--set", "fidelity=0.95"), "name a --namespace to change, or give --all"),
                (("--all", "--set", "fidelity"), "give FIELD=VALUE"),
                (("--all", "--set", "speed=1"), "give FIELD=VALUE"),
                (("--all", "--set", "fidelity=much"), "'much' is no number"),
                (("--all", "--set", "fidelity=7"), "semantic_fidelity"),
                (("--namespace", "nobody"), "no API key leads to namespace 'nobody'"),
            ):
                status, out, err = await run(client, tmp_path, "thresholds", *words)
                assert status != 0
                assert message in err
                assert "Traceback" not in err


async def test_thresholds_are_undone(tmp_path: Path) -> None:
    """--undo goes one change back each time, the list tells what was undone, and an undo's revision takes it back."""
    with running_redis(tmp_path / "redis") as redis:
        async with (
            StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine,
            running_gateway(engine.url, redis_url=redis.url, admin_token="operator-of-these-tests") as client,
        ):
            await until_ready(client)
            whose = ("thresholds", "--namespace", "default")

            async def fidelity(*words: str) -> str:
                status, out, err = await run(client, tmp_path, *whose, *words)
                assert status == 0, err
                return next(line for line in out.splitlines() if line.startswith("default")).split()[2]

            assert await fidelity("--set", "fidelity=0.95") == "0.95!"
            assert await fidelity("--set", "fidelity=0.9", "--set", "alpha=0.1") == "0.9!"
            status, out, _ = await run(client, tmp_path, *whose, "--undo")
            assert (
                status,
                out.startswith("Undone: semantic_fidelity 0.9 -> 0.95, certificate_alpha 0.1 -> 0.05. "),
            ) == (
                0,
                True,
            )
            assert await fidelity("--undo") == "0.92"
            status, out, err = await run(client, tmp_path, *whose, "--undo")
            assert (status, "no live change that could be undone" in err) == (1, True)
            changes = (await client.get("/admin/thresholds", headers=OPERATOR)).json()["changes"]
            status, out, err = await run(client, tmp_path, *whose, "--undo", "--revision", str(changes[-1]["revision"]))
            assert (status, "is not the last change" in err) == (1, True)
            assert await fidelity("--undo", "--revision", str(changes[0]["revision"])) == "0.95!"
            for words, message in (
                (("--undo",), "name a --namespace to change, or give --all"),
                (("--all", "--undo", "--set", "fidelity=0.9"), "--set or --undo, not both"),
                (("--all", "--revision", "3"), "--revision goes with --undo"),
                (("--all", "--undo"), "no live change that could be undone"),
            ):
                status, _, err = await run(client, tmp_path, "thresholds", *words)
                assert status != 0
                assert message in err


async def test_calibration_is_a_reading_and_a_curve(redis: RunningRedis, tmp_path: Path) -> None:
    """Before there are labels it says so; then each threshold has its share and its violations."""
    async with (
        StandInEngine(fingerprint=secrets.token_hex(16), has_static_embedding=True).running() as engine,
        running_gateway(
            engine.url,
            redis_url=redis.url,
            admin_token="operator-of-these-tests",
            semantic_mode="observe",
            engine_price_ms=10_000,
        ) as client,
    ):
        await until_ready(client)
        status, out, _ = await run(client, tmp_path, "calibration")
        assert (status, out.splitlines()[1]) == (0, "no labels yet: nothing can be said")

        words = [f"w{number}" for number in range(300)]
        async with asyncio.timeout(60):
            while (await client.get("/admin/calibration", headers=OPERATOR)).json()["labels"] < 5:
                text = " ".join([*words[:12], words.pop()])
                await client.post("/v1/embeddings", json={"model": "tiny", "input": text})
                await asyncio.sleep(0.05)
        status, out, _ = await run(client, tmp_path, "calibration")
        lines = out.splitlines()
        few = re.match(r"only (\d+) labels: too few", lines[1])  # how many came in time depends on the machine
        assert few, lines[1]
        assert int(few[1]) >= 5
        assert lines[2].split()[:4] == ["tau", "reused", "below", "0.9"]
        assert lines[3].split()[0] == "0.800"
        assert (await run(client, tmp_path, "calibration", "--namespace", "nobody"))[0] == 1

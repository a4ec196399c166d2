"""`dejavec doctor` and `dejavec status` as commands, beside a gateway, an engine and a Redis that run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.findings import SEVERITIES
from deploy.doctor.cli import SECTIONS
from tests.command_line import dejavec
from tests.free_ports import free_port
from tests.gateway_client import running_gateway, until_ready
from tests.running_redis import RunningRedis
from tests.stand_in_engine import StandInEngine

TOKEN = "operator-of-these-tests"
SECRETS = {
    "key": "a-key-of-a-tenant-that-nobody-may-see",
    "token": "a-token-of-an-operator-nobody-may-see",
    "redis": "a-password-of-redis-nobody-may-see",
    "engine": "a-password-of-an-engine-nobody-may-see",
}


async def findings(folder: Path, *words: str, **variables: str) -> tuple[int, list[dict[str, str]]]:
    status, out, _ = await dejavec(folder, "doctor", "--json", *words, **variables)
    document = json.loads(out)
    assert document["worst"] in SEVERITIES
    return status, document["findings"]


async def test_a_running_system(
    tmp_path: Path, gateway: Callable[..., Any], engine: StandInEngine, redis: RunningRedis
) -> None:
    """The doctor finds gateway, engine and Redis, and no fault in them; status shows what was served."""
    async with gateway(redis_url=redis.url) as client:
        await until_ready(client)
        reply = await client.post("/v1/embeddings", json={"model": "tiny", "input": ["a b", "a b", "c"]})
        assert reply.status_code == 200, reply.text
        there = {
            "DEJAVEC_ENGINE_URL": engine.url,
            "DEJAVEC_REDIS_URL": redis.url,
            "DEJAVEC_CLIENT_URL": str(client.base_url),
            "DEJAVEC_CLIENT_ADMIN_TOKEN": TOKEN,
            "DEJAVEC_GATEWAY_PORT": str(free_port()),
        }
        status, told = await findings(tmp_path, **there)
        by_section = {section: [one for one in told if one["section"] == section] for section in ("gateway", "engines")}
        assert [one["severity"] for one in by_section["gateway"]] == ["ok"]
        assert [one["severity"] for one in by_section["engines"]] == ["ok"]
        assert {one["check"] for one in told if one["section"] == "redis"} >= {"server", "eviction policy", "latency"}
        assert {one["section"] for one in told} == {section.name for section in SECTIONS}
        assert status in {0, 1}, told

        code, out, _ = await dejavec(tmp_path, "status", "--json", **there)
        shown = json.loads(out)
        assert code == 0
        assert sum(shown["texts"].values()) >= 3
        assert [one["fingerprint"] for one in shown["models"]] == [engine.fingerprint]
        assert [one["state"] for one in shown["engines"]] == ["ready"]
        assert shown["policies"]["default"]["semantic_mode"] == "auto"
        assert shown["redis_facts"]["server"].startswith("Redis ")

        code, out, _ = await dejavec(tmp_path, "status", **there)
        assert code == 0
        assert "dejavec is up" in out
        assert engine.fingerprint[:12] in out
        assert redis.instance.password not in out


async def test_an_engine_that_is_away(tmp_path: Path, gateway: Callable[..., Any], engine: StandInEngine) -> None:
    """A fault where the gateway misses it; a note where the gateway has one that is not reached from here."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    async with gateway(redis_url=None) as client:
        await until_ready(client)
        here = {"DEJAVEC_ENGINE_URL": nowhere, "DEJAVEC_GATEWAY_PORT": str(free_port())}
        _, told = await findings(tmp_path, "--url", str(client.base_url), **here)
        assert [one["severity"] for one in told if one["section"] in {"gateway", "engines"}] == ["ok", "note"]
        engine.ready = False
        await until_ready(client, 503)
        status, told = await findings(tmp_path, "--url", str(client.base_url), **here)
        assert [one["severity"] for one in told if one["section"] in {"gateway", "engines"}] == ["fault", "fault"]
        assert status == 2


async def test_a_model_without_its_engine_is_a_fault(tmp_path: Path, engine: StandInEngine) -> None:
    """Though the gateway is ready by its other model; an engine that has another beside it stays a note."""
    settings = {"docs": {"urls": [engine.url, "http://127.0.0.2:9"]}, "code": {"urls": ["http://127.0.0.3:9"]}}
    async with running_gateway(None, engines=settings) as client:
        await until_ready(client)
        here = {"DEJAVEC_ENGINES": json.dumps(settings), "DEJAVEC_GATEWAY_PORT": str(free_port())}
        _, told = await findings(tmp_path, "--url", str(client.base_url), **here)
    found = [(one["check"], one["severity"]) for one in told if one["section"] == "engines"]
    assert found == [("engine of docs", "ok"), ("engine of docs", "note"), ("engine of code", "fault")]


async def test_nothing_runs(tmp_path: Path) -> None:
    """Before the first start the doctor has nothing to mend, and status says how to get one."""
    where = {"DEJAVEC_GATEWAY_PORT": str(free_port()), "DEJAVEC_ENGINE_PORT": str(free_port())}
    code, out, _ = await dejavec(tmp_path, "doctor", **where)
    assert code == 0, out
    assert "Nothing to mend." in out
    code, _, err = await dejavec(tmp_path, "status", **where)
    assert code == 1
    assert "no gateway answers" in err


async def test_no_secret_is_printed(tmp_path: Path) -> None:
    """Wherever a secret stands, and whether it can be used or not: neither form of the report has it."""
    (tmp_path / "dejavec.toml").write_text(
        f'admin_token = "{SECRETS["token"]}"\n'
        f'redis_url = "redis://user:{SECRETS["redis"]}@127.0.0.1:{free_port()}/0"\n'
        f'engine_url = "http://user:{SECRETS["engine"]}@127.0.0.1:{free_port()}"\n'
        f'[api_keys.{SECRETS["key"]}]\nnamespace = "team-a"\n'
    )
    where = {"DEJAVEC_GATEWAY_PORT": str(free_port())}
    for words in ([], ["--json"]):
        code, out, err = await dejavec(tmp_path, "doctor", *words, **where)
        assert code == 2  # no Redis answers there
        assert "127.0.0.1" in out
        assert [name for name, secret in SECRETS.items() if secret in out + err] == []


async def test_faults_and_warnings_have_their_exit_status(tmp_path: Path) -> None:
    """1 where there are warnings alone, 2 with a fault."""
    where = {"DEJAVEC_GATEWAY_PORT": str(free_port()), "DEJAVEC_ENGINE_PORT": str(free_port())}
    assert (await findings(tmp_path, DEJAVEC_ALLOW_UNVERIFIED_BUNDLE="true", **where))[0] == 1
    status, told = await findings(tmp_path, DEJAVEC_GATEWAY_WORKERS="0", **where)
    assert status == 2
    assert any("gateway_workers" in one["what"] for one in told)

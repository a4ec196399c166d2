"""The console's page and routes over real HTTP: what is sent, what is refused, and what the figures are."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.console import figures
from gateway.console.page import HEADERS, PAGE, TYPES, load_assets
from tests.gateway_client import running_gateway, until_ready
from tests.integration.test_semantic_tier import OPERATOR, until
from tests.integration.test_thresholds import redis  # noqa: F401  a Redis of the test's own
from tests.running_redis import RunningRedis, running_redis
from tests.stand_in_engine import StandInEngine

CSS_COLOUR = re.compile(r"--([a-z-]+): (#[0-9a-f]{3,6});")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A gateway without Redis."""
    async with (
        StandInEngine().running() as engine,
        running_gateway(engine.url, admin_token="operator-of-these-tests") as client,
    ):
        await until_ready(client)
        yield client


async def overview(client: httpx.AsyncClient) -> dict[str, Any]:
    reply = await client.get("/admin/overview", headers=OPERATOR)
    assert reply.status_code == 200, reply.text
    assert reply.headers["cache-control"] == "no-store"
    return dict(reply.json())


async def test_every_file_has_its_type_and_the_policy(client: httpx.AsyncClient) -> None:
    """No other host, no inline script, no sniffing, no frame; the same file is a 304; HEAD has no body."""
    paths = {"/console": PAGE, **{f"/console/{name}": name for name in load_assets()}}
    assert len(paths) > 5
    for path, name in paths.items():
        reply = await client.get(path)
        assert reply.status_code == 200, path
        assert reply.headers["content-type"] == TYPES[Path(name).suffix]
        for header, value in HEADERS.items():
            assert reply.headers[header] == value
        known = {"if-none-match": reply.headers["etag"]}
        same = await client.get(path, headers=known)
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", reply.headers["etag"])
        assert (await client.get(path, headers={"if-none-match": '"another"'})).status_code == 200
        head = await client.head(path)
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", reply.headers["etag"])


def test_the_page_names_nothing_but_its_own_files() -> None:
    """Without a network it is whole: each file named is there, no address of another host, nothing inline."""
    assets = load_assets()
    page = assets[PAGE].content.decode()
    assert set(re.findall(r'(?:src|href)="console/([^"]+)"', page)) <= set(assets)
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", page)
    for name, asset in assets.items():
        text = asset.content.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?|wss?)://|@import|[\"'(]//", text), name
        for imported in re.findall(r'from "\./([^"]+)"', text):
            assert imported in assets
        assert "innerHTML =" not in text
        assert not re.search(r"localStorage|sessionStorage|document\.cookie|indexedDB|eval\(", text)


@pytest.mark.parametrize(("palette", "least"), [(0, 4.5), (1, 4.5)])
def test_texts_have_contrast(palette: int, least: float) -> None:
    """WCAG 2: at least 4.5 to 1 between each colour of text and what it stands on, in both palettes."""
    blocks = load_assets()["console.css"].content.decode().split("prefers-color-scheme: dark", 1)
    colours = dict(CSS_COLOUR.findall(blocks[palette].split("* { box-sizing")[0]))
    for ink in ("ink", "quiet", "accent", "good", "warn", "bad"):
        for ground in ("surface", "ground"):
            assert contrast(colours[ink], colours[ground]) >= least, (ink, ground)
    assert contrast(colours["on-accent"], colours["accent"]) >= least
    for mark in ("local", "exact", "semantic", "miss"):
        assert contrast(colours[mark], colours["surface"]) >= 3, mark


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    "path",
    [
        "/console/none.js",
        "/console/../settings.py",
        "/console/%2e%2e/page.py",
        "/console/a/b",
        "/Console",
        "/console/x/",
    ],
)
async def test_nothing_else_is_there(client: httpx.AsyncClient, path: str) -> None:
    """A 404 in the envelope; no file beside the page's own, and no other spelling."""
    reply = await client.get(path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


async def test_the_root_leads_browsers_to_the_console(client: httpx.AsyncClient) -> None:
    """By a relative address, so that it works behind a prefix; a client that looks what answers gets JSON."""
    browser = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    reply = await client.get("/", headers=browser)
    assert (reply.status_code, reply.headers["location"], reply.headers["vary"]) == (307, "console", "accept")
    for headers in ({}, {"accept": "*/*"}, {"accept": "application/json"}):
        reply = await client.get("/", headers=headers)
        assert (reply.status_code, reply.json()["name"]) == (200, "dejavec")
    reply = await client.get("/console/")
    assert (reply.status_code, reply.headers["location"]) == (308, "../console")


async def test_without_the_token_there_is_no_more_than_ready_tells(client: httpx.AsyncClient) -> None:
    """The page's state has what /ready has and whether there is a token; figures want the token."""
    state = (await client.get("/console/state")).json()
    ready = (await client.get("/ready")).json()
    assert state == {
        "version": state["version"],
        "admin": "open",
        "engine": ready["engine"],
        "is_ready": True,
        "redis": ready["redis"],
    }
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic b3BlcmF0b3I="}):
        assert (await client.get("/admin/overview", headers=headers)).status_code == 401
        assert (await client.post("/admin/undo", json={"all": True}, headers=headers)).status_code == 401


async def test_without_admin_token_it_is_closed() -> None:
    """The page is told so, since it says how to open it; the figures are a 403 whatever is presented."""
    async with StandInEngine().running() as engine, running_gateway(engine.url) as client:
        await until_ready(client)
        assert (await client.get("/console/state")).json()["admin"] == "closed"
        assert (await client.get("/admin/overview", headers=OPERATOR)).status_code == 403


async def test_a_page_of_another_origin_gets_nothing(client: httpx.AsyncClient) -> None:
    """Its preflight is not answered, and what needs none is refused; this origin's calls work."""
    evil = {"origin": "https://evil.example"}
    ask = {"access-control-request-method": "PUT", "access-control-request-headers": "authorization, content-type"}
    for path in ("/admin/overview", "/admin/thresholds", "/admin/undo", "/console", "/console/state"):
        reply = await client.options(path, headers=evil | ask)
        assert "access-control-allow-origin" not in reply.headers
        reply = await client.get(path, headers=evil | OPERATOR)
        assert "access-control-allow-origin" not in reply.headers
    reply = await client.post("/admin/undo", content=b'{"all": true}', headers=evil | OPERATOR)
    assert reply.status_code == 415
    own = {"origin": str(client.base_url).rstrip("/"), "content-type": "application/json"}
    reply = await client.post("/admin/undo", content=b'{"all": true}', headers=own | OPERATOR)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")  # no Redis, so nothing to undo
    assert (await client.get("/console", headers={"host": "evil.example"})).status_code == 403


async def test_the_overview_counts_what_was_answered(client: httpx.AsyncClient) -> None:
    """Texts by tier as differences of sums; histograms that end in all requests; each engine by its address."""
    before = await overview(client)
    for text in ("a b", "c d", "a b", "a b"):
        assert (await client.post("/v1/embeddings", json={"model": "tiny", "input": text})).status_code == 200

    def counted(reading: dict[str, Any]) -> list[int]:
        """Texts from L0, texts computed, requests, tokens: since this process started, whichever test sent them."""
        last_bound, requests = (reading["latency"].get("request") or [[None, 0]])[-1]
        assert last_bound is None
        return [reading["texts"].get("local", 0), reading["texts"].get("miss", 0), requests, reading["tokens"]]

    expected = [count + more for count, more in zip(counted(before), (2, 2, 4, 16), strict=True)]
    async with asyncio.timeout(120):  # a reading may be half a second old, L0's figures a second
        while counted(after := await overview(client)) != expected or after["local"]["entries"] != 2:
            await asyncio.sleep(0.05)
    assert after["redis"] == {"state": "none"}
    [model] = after["models"]
    assert (model["name"], model["is_ready"], model["reason"], model["dimensions"]) == ("tiny", True, "", 8)
    [engine] = model["engines"]
    assert engine["state"] == "ready"
    assert engine["url"].startswith("http://127.0.0.1:")


async def test_readings_are_shared(client: httpx.AsyncClient) -> None:
    """Many that ask at once get one reading, so that polling costs no more than one page's."""
    readings = await asyncio.gather(*(overview(client) for _ in range(20)))
    assert len({reading["at"] for reading in readings}) <= 3
    assert len(json.dumps(readings[0])) < 40_000


async def test_an_engine_that_is_away_is_a_state() -> None:
    """The overview answers, and says of the engine what the operator may know."""
    engine = StandInEngine()
    async with engine.running():
        url = engine.url
        async with running_gateway(url, admin_token="operator-of-these-tests") as client:
            await until_ready(client)
            engine.ready = False
            await until_ready(client, 503)
            [model] = (await overview(client))["models"]
            assert (model["is_ready"], model["engines"][0]["state"]) == (False, "not ready")
    async with running_gateway(url, admin_token="operator-of-these-tests") as client:
        [model] = (await overview(client))["models"]
        assert (model["fingerprint"], model["is_ready"], model["engines"][0]["state"]) == (None, False, "away")
        assert model["reason"]
        assert (await client.get("/console/state")).json()["is_ready"] is False


async def test_redis_is_seen_and_missed(
    gateway: Callable[..., Any],
    redis: RunningRedis,  # noqa: F811
) -> None:
    """Memory, keys and evictions of the server while it answers; `away` afterwards, and the overview still answers."""
    async with gateway() as client:
        await until_ready(client)
        found = (await overview(client))["redis"]
        assert found["state"] == "ok"
        assert found["memory_bytes"] > 0
        assert {"keys", "evicted_keys", "expired_keys", "memory_max_bytes"} <= found.keys()
        assert found["server"].startswith("Redis 8.")
        redis.kill()

        async def away() -> bool:
            await client.post("/v1/embeddings", json={"model": "tiny", "input": "a b"})
            return bool((await overview(client))["redis"]["state"] == "away")

        await until(away)


async def test_the_semantic_tiers_own_redis_is_seen_and_missed(
    gateway: Callable[..., Any],
    redis: RunningRedis,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Wherever Redis is named: while it is gone, entries and their Redis are as before."""
    with running_redis(tmp_path / "semantic") as own:
        async with gateway(semantic_redis_url=own.url, semantic_mode="on") as client:
            await until_ready(client)
            assert (await overview(client))["semantic_redis"]["memory_bytes"] > 0
            own.kill()

            async def away() -> bool:
                await client.post("/v1/embeddings", json={"model": "tiny", "input": "a b"})
                return bool((await client.get("/ready")).json()["semantic_redis"] == "away")

            await until(away)
            seen = [
                (await client.get("/ready")).json(),
                (await client.get("/info")).json()["cache"],
                (await client.get("/admin/stats", headers=OPERATOR)).json(),
                (await client.get("/console/state")).json(),
            ]
            assert [(one["redis"], one["semantic_redis"]) for one in seen] == [("ok", "away")] * 4

            async def shown() -> bool:
                now, text = await overview(client), (await client.get("/metrics")).text
                is_ok = dict(re.findall(r"^dejavec_(redis|semantic_redis)_ok (\S+)$", text, re.MULTILINE))
                states = (now["redis"]["state"], now["semantic_redis"])
                return states == ("ok", {"state": "away"}) and is_ok == {"redis": "1.0", "semantic_redis": "0.0"}

            await until(shown)


async def undo(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post("/admin/undo", json=body, headers=OPERATOR)


async def test_undo_reaches_every_gateway_and_is_listed(gateway: Callable[..., Any]) -> None:
    """Undone at one, followed by the other; the list has the change, its undo, and which is which."""
    async with gateway() as first, gateway() as second:
        await until_ready(first)
        await until_ready(second)
        body = {"namespace": "default", "semantic_fidelity": 0.95}
        [change] = (await first.put("/admin/thresholds", json=body, headers=OPERATOR)).json()["changed"]
        reply = await undo(first, namespace="default", revision=change["revision"])
        assert reply.status_code == 200, reply.text
        assert reply.json()["in_force"]["semantic_fidelity"] == {"value": 0.92, "source": "default"}
        assert reply.json()["changed"][0]["undoes"] == change["revision"]

        async def followed() -> bool:
            shown = (await second.get("/admin/thresholds", headers=OPERATOR)).json()
            return [(one["undoes"], one["undone"]) for one in shown["changes"]] == [
                (change["revision"], False),
                (0, True),
            ]

        await until(followed)
        reply = await undo(second, namespace="default", revision=change["revision"])
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "changed_meanwhile")
        reply = await undo(second, namespace="default")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "namespace"),
        ({"namespace": "default", "all": True}, 400, "namespace"),
        ({"namespace": "Team A"}, 422, "namespace"),
        ({"namespace": "nobody"}, 404, "namespace"),
        ({"namespace": "default", "revision": 0}, 422, "revision"),
        ({"namespace": "default", "revision": "1"}, 422, "revision"),
        ({"namespace": "default", "revision": 10**30}, 422, "revision"),
        ({"namespace": "default", "field": "semantic_mode"}, 422, "field"),
        ({"namespace": "default", "revision": 17}, 409, None),
        ([], 422, None),
    ],
)
async def test_a_wrong_undo_is_refused_by_name(
    gateway: Callable[..., Any], body: Any, status: int, param: str | None
) -> None:
    """4xx naming the field; nothing is changed."""
    async with gateway() as client:
        await until_ready(client)
        reply = await client.post("/admin/undo", json=body, headers=OPERATOR)
        assert (reply.status_code, reply.json()["error"]["param"]) == (status, param), reply.text
        reply = await client.post("/admin/undo", content=b"{nonsense", headers=OPERATOR)
        assert reply.status_code == 400
        assert (await client.get("/admin/thresholds", headers=OPERATOR)).json()["changes"] == []


async def test_undo_while_redis_is_away_changes_nothing(
    gateway: Callable[..., Any],
    redis: RunningRedis,  # noqa: F811
) -> None:
    """503, as a change has it; what is in force stays."""
    async with gateway() as client:
        await until_ready(client)
        body = {"namespace": "default", "semantic_fidelity": 0.95}
        assert (await client.put("/admin/thresholds", json=body, headers=OPERATOR)).status_code == 200
        redis.kill()
        reply = await undo(client, namespace="default")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "change_unconfirmed")
        shown = (await client.get("/admin/thresholds", headers=OPERATOR)).json()
        assert shown["namespaces"]["default"]["in_force"]["semantic_fidelity"]["value"] == 0.95


def test_figures_are_sums_over_labels() -> None:
    """Labels that this reader does not know add up; what is not there is nought; NaN is left out."""
    samples = figures.read(
        b'hits_total{tier="local",model="a"} 2\nhits_total{tier="local",model="b"} 3\nhits_total{tier="miss"} 1\n'
        b'gauge NaN\nseconds_bucket{le="0.5",m="a"} 1\nseconds_bucket{le="+Inf",m="a"} 2\n'
        b'seconds_bucket{le="0.5",m="b"} 4\nseconds_bucket{le="+Inf",m="b"} 4\n'
    )
    assert samples.by("hits_total", "tier") == {"local": 5, "miss": 1}
    assert samples.total("hits_total", model="b") == 3
    assert samples.histogram("seconds") == [[0.5, 5], [None, 6]]
    assert samples.histogram("seconds", m="b") == [[0.5, 4], [None, 4]]
    assert (samples.total("gauge"), samples.has("gauge"), samples.histogram("none")) == (0, False, [])
    assert figures.read(b"<html>not metrics</html>").by_name == {}
    with pytest.raises(ValueError, match="utf-8"):
        figures.read(b"\xff")

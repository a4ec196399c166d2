"""Several engines of one model over real HTTP: slow, killed, frozen, failing, full, and of another fingerprint."""

import asyncio
import re
import secrets
import signal
from array import array
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import numpy as np
import pytest

from engine.protocol import TOKENIZER_PATH, Float32Array, Lane
from engine.text_encoder import EncodedText
from gateway.engines.connection import NO_ENGINE, UNREACHABLE
from gateway.engines.engine_set import EngineSet
from gateway.errors import EngineAway, EngineFailed, GatewayError, ModelChanged, Overloaded
from tests.free_ports import free_port
from tests.gateway_client import running_gateway, until_ready
from tests.stand_in_engine import EngineProcess, StandInEngine, engine_process, vector_of

OLD, NEW = "0" * 32, "e" * 32


def text(number: int) -> EncodedText:
    """A text of one word."""
    return EncodedText(array("i", [1, 200 + number, 2]).tobytes(), 3, truncated=False)


async def ask(engines: EngineSet, number: int, deadline_s: float = 20.0) -> Float32Array:
    """The vector of one text, which is checked."""
    deadline = asyncio.get_running_loop().time() + deadline_s
    vectors = await engines.vectors(engines.model, [text(number)], Lane.INTERACTIVE, deadline)
    np.testing.assert_array_equal(vectors, [vector_of([1, 200 + number, 2])])
    return vectors


@asynccontextmanager
async def engine_set(*urls: str, hedge_after_s: float | None = None, **options: str) -> AsyncIterator[EngineSet]:
    """A watched set that has found its model."""
    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        engines = EngineSet(list(urls), http, hedge_after_s=hedge_after_s, **options)  # type: ignore[arg-type]
        watch = group.create_task(engines.run_watch())
        try:
            await until(lambda: engines.current_model is not None)
            yield engines
        finally:
            watch.cancel()


async def until(condition: object) -> None:
    """Wait until `condition()` holds."""
    assert callable(condition)
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.01)


def state_of(engines: EngineSet, engine: StandInEngine | EngineProcess) -> str:
    """How the set sees an engine."""
    return next(one.state for one in engines.states() if one.url == engine.url)


async def serving(engines: EngineSet, *expected: StandInEngine | EngineProcess) -> None:
    """Wait until all of these serve."""
    await until(lambda: all(state_of(engines, engine) == "serving" for engine in expected))


@asynccontextmanager
async def running(*engines: StandInEngine) -> AsyncIterator[None]:
    """All of them."""
    async with AsyncExitStack() as stack:
        for engine in engines:
            await stack.enter_async_context(engine.running())
        yield


async def test_no_request_is_lost_to_slow_killed_frozen_and_foreign_engines() -> None:
    """Under load one of five engines is slow, one is killed, one freezes and one has another fingerprint: every request
    is answered within its deadline, with its own vector, and the foreign engine computes nothing."""
    slow, foreign, healthy = (StandInEngine(fingerprint=name, tokens_per_s="1000") for name in (OLD, NEW, OLD))
    slow.delay_s, slow.tokens_per_s = 0.3, "10"
    two_processes = engine_process(OLD, "1000"), engine_process(OLD, "1000")
    async with running(slow, foreign, healthy), two_processes[0] as killed, two_processes[1] as frozen:
        urls = [one.url for one in (slow, killed, frozen, foreign, healthy)]
        async with engine_set(*urls) as engines:
            await serving(engines, slow, killed, frozen, healthy)
            await until(lambda: state_of(engines, foreign) == "left_out")
            tasks = []
            for number in range(300):
                tasks.append(asyncio.create_task(ask(engines, number)))
                if number == 100:
                    frozen.process.send_signal(signal.SIGSTOP)
                if number == 150:
                    killed.process.kill()
                await asyncio.sleep(0.005)
            await asyncio.gather(*tasks)
            await until(lambda: state_of(engines, frozen) in {"silent", "ejected", "away"})
            await until(lambda: state_of(engines, killed) == "away")
            assert not foreign.computed
            frozen.process.send_signal(signal.SIGCONT)
            async with asyncio.timeout(120):
                while state_of(engines, frozen) != "serving":  # an ejected one comes back by a call
                    await ask(engines, 0)
                    await asyncio.sleep(0.01)


async def test_call_on_an_engine_that_freezes_moves_within_a_short_deadline() -> None:
    """With a deadline shorter than it takes to call an engine frozen, a call moves at half of it."""
    one, two = StandInEngine(), StandInEngine()
    async with running(one, two), engine_set(one.url, two.url) as engines:
        await serving(engines, one, two)
        for number in range(3):
            one.frozen, two.frozen = number % 2 == 0, number % 2 == 1
            await ask(engines, number, deadline_s=3)
        one.frozen = two.frozen = False


async def test_failing_engine_is_ejected_and_comes_back() -> None:
    """An engine that is ready and fails its calls gets none after a few; once it is healthy it serves again."""
    failing, healthy = StandInEngine(refusal=(500, "engine_failed", {})), StandInEngine()
    async with running(failing, healthy), engine_set(failing.url, healthy.url) as engines:
        await serving(engines, failing, healthy)
        async with asyncio.timeout(120):
            while state_of(engines, failing) != "ejected":
                await ask(engines, 0)
                await asyncio.sleep(0.01)
        assert len(failing.lanes) == 3, "failures in a row, with a pause after each"
        failing.refusal = None

        async def used_again() -> None:
            while not failing.computed:
                await ask(engines, 0)
                await asyncio.sleep(0.02)

        await asyncio.wait_for(used_again(), 120)
        await serving(engines, failing)


async def test_text_that_no_engine_can_compute_ejects_none() -> None:
    """A request that fails everywhere gets its error, and counts against no engine: it may be the text's fault."""
    engines_ = [StandInEngine(refusal=(500, "engine_failed", {})) for _ in range(4)]
    async with running(*engines_), engine_set(*(one.url for one in engines_)) as engines:
        await serving(engines, *engines_)
        for number in range(20):
            with pytest.raises(EngineFailed):
                await ask(engines, number)
        assert sum(len(one.lanes) for one in engines_) == 60, "a text that ends engines ends no more than three"
        await serving(engines, *engines_)


async def test_draining_and_full_engines_pass_a_call_on() -> None:
    """An engine that shuts down or is full did not begin: another answers; where all are full, that is the answer."""
    one, two = StandInEngine(), StandInEngine()
    async with running(one, two), engine_set(one.url, two.url) as engines:
        await serving(engines, one, two)
        one.refusal = (503, "draining", {})
        for number in range(5):
            await ask(engines, number)
        one.refusal = (429, "queue_full", {"Retry-After": "7"})
        await serving(engines, one, two)
        for number in range(20):
            await ask(engines, number)
        two.refusal = one.refusal
        with pytest.raises(Overloaded) as raised:
            await ask(engines, 1)
        assert raised.value.retry_after_s == 7


async def test_where_all_are_away_requests_fail_at_once() -> None:
    """With no engine left an error comes at once, not at the deadline; the reasons name no address for clients."""
    one, two = StandInEngine(), StandInEngine()
    async with running(one, two), engine_set(one.url, two.url) as engines:
        await serving(engines, one, two)
        one.ready = two.ready = False
        await until(lambda: not engines.is_ready)
        assert engines.away_reason == "its /ready answers 503"
        assert one.url in engines.away_detail
        assert two.url in engines.away_detail
        began_at = asyncio.get_running_loop().time()
        with pytest.raises(EngineAway, match="/ready answers 503"):
            await ask(engines, 1, deadline_s=60)
        assert asyncio.get_running_loop().time() - began_at < 30


async def test_rolling_change_of_model_serves_throughout_and_changes_once() -> None:
    """Engine after engine restarts with another fingerprint: each request gets the vector of the model it asked for or
    is done again with the new one, no time without an answer, and the model changes once."""
    fleet = [StandInEngine(fingerprint=OLD) for _ in range(3)]
    async with running(*fleet), engine_set(*(one.url for one in fleet)) as engines:
        await serving(engines, *fleet)
        seen = [engines.model.info.fingerprint]
        engines.on_change(lambda: seen.append(engines.model.info.fingerprint))

        async def ask_again(number: int) -> None:
            try:
                await ask(engines, number)
            except ModelChanged:
                await engines.refresh()
                await ask(engines, number)

        for one in fleet:
            one.ready = False
            for number in range(30):
                await ask_again(number)
                await asyncio.sleep(0.01)
            one.fingerprint, one.ready = NEW, True
            for number in range(60):
                await ask_again(number)
                await asyncio.sleep(0.01)
        await until(lambda: engines.model.info.fingerprint == NEW)
        await serving(engines, *fleet)
        assert seen == [OLD, NEW]


async def test_last_engine_of_a_model_passes_its_call_to_the_next_model() -> None:
    """A call that the last engine of the old model refuses, as it shuts down, is to be done again with the new one."""
    old, new = StandInEngine(fingerprint=OLD), StandInEngine(fingerprint=NEW, ready=False)
    async with running(old, new), engine_set(old.url, new.url) as engines:
        await serving(engines, old)
        new.ready = True
        await until(lambda: state_of(engines, new) == "left_out")
        old.refusal = (503, "draining", {})
        with pytest.raises(ModelChanged):
            await ask(engines, 1)
        await engines.refresh()
        await ask(engines, 1)
        assert engines.model.info.fingerprint == NEW


async def test_configured_fingerprint_serves_and_the_majority_is_left_out() -> None:
    """However many engines have another one."""
    one, two, mine = StandInEngine(fingerprint=NEW), StandInEngine(fingerprint=NEW), StandInEngine(fingerprint=OLD)
    async with running(one, two, mine), engine_set(one.url, two.url, mine.url, fingerprint=OLD) as engines:
        await serving(engines, mine)
        await until(lambda: {state_of(engines, one), state_of(engines, two)} == {"left_out"})
        for number in range(10):
            await ask(engines, number)
        assert not one.computed
        assert not two.computed
        mine.ready = False
        await until(lambda: not engines.is_ready)
        assert "another fingerprint" in engines.away_reason
        with pytest.raises(EngineAway):
            await ask(engines, 1)


async def test_hedge_is_off_unless_set() -> None:
    """A slow answer is waited for; with hedging, another engine is asked as well, and the slow call is withdrawn."""
    slow, fast = StandInEngine(tokens_per_s="1000000"), StandInEngine(tokens_per_s="1000")
    async with running(slow, fast), engine_set(slow.url, fast.url) as engines:
        await serving(engines, slow, fast)
        await ask(engines, 0)
        slow.delay_s = 0.4
        before = len(fast.lanes)
        await ask(engines, 1)
        assert len(fast.lanes) == before
    slow.delay_s = 0
    async with running(slow, fast), engine_set(slow.url, fast.url, hedge_after_s=0.05) as engines:
        await serving(engines, slow, fast)
        await ask(engines, 0)
        slow.gate = asyncio.Event()
        before = len(fast.lanes)
        await ask(engines, 1)
        assert len(fast.lanes) == before + 1
        await until(lambda: slow.cancelled == 1)


async def test_name_with_several_addresses_is_several_engines() -> None:
    """Each address of a name gets calls; one that vanishes gets none; an answer of nothing changes nothing."""
    one = StandInEngine()
    addresses = ["127.0.0.1"]

    async def lookup(_: str, __: int) -> list[str]:
        return addresses

    async with one.running(), aiohttp.ClientSession() as http:
        port = int(one.url.rpartition(":")[2])
        engines = EngineSet([f"dns+http://engines.example:{port}"], http, lookup=lookup)
        with pytest.raises(EngineAway, match="yet"):
            engines.model  # noqa: B018  raises
        assert "no addresses" in engines.away_reason
        await engines.refresh()
        assert [state.url for state in engines.states()] == [one.url]
        addresses[:] = ["127.0.0.1", "127.0.0.2"]
        await engines._find_addresses(again=True)
        kept = engines._engines[0]
        names = [state.name for state in engines.states()]
        assert len(set(names)) == 2
        assert all(re.fullmatch("engine-[0-9a-f]{8}", name) for name in names)
        assert [state.url for state in engines.states()] == [one.url, one.url.replace("0.0.1", "0.0.2")]
        addresses[:] = ["127.0.0.1"]
        await engines._find_addresses(again=True)
        assert engines._engines == [kept]
        addresses[:] = []
        await engines._find_addresses(again=True)
        assert engines._engines == [kept]
        addresses[:] = [f"127.0.1.{number}" for number in range(200)]
        await engines._find_addresses(again=True)
        assert len(engines._engines) == 64
        engines.change([one.url], None)
        assert [state.url for state in engines.states()] == [one.url]


async def test_the_model_is_read_from_an_engine_that_gives_it() -> None:
    """One of two has no tokenizer, and comes first: the model is the other's, and both compute for it."""
    lacking, whole = StandInEngine(missing=TOKENIZER_PATH), StandInEngine()
    async with running(lacking, whole), engine_set(lacking.url, whole.url) as engines:
        await serving(engines, lacking, whole)
        await ask(engines, 1)


async def test_no_model_where_no_engine_gives_it() -> None:
    """Then the reason is that engine's own, and nobody else's."""
    lacking, away = StandInEngine(missing=TOKENIZER_PATH), f"http://127.0.0.1:{free_port()}"
    async with running(lacking), aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        engines = EngineSet([lacking.url, away], http)
        watch = group.create_task(engines.run_watch())
        await engines.first_look()
        await until(lambda: "ProtocolError" in engines.connections[0].detail)
        assert "ClientConnectorError" in engines.connections[1].detail
        assert engines.away_reason == f"{NO_ENGINE}; {UNREACHABLE}"
        assert engines.current_model is None
        watch.cancel()


async def test_states_show_no_credentials() -> None:
    """An engine's URL with a password is shown without it, in states, reasons and metrics."""
    async with engine_with_password() as (engines, url):
        assert "hunter2" in url
        shown = repr(engines.states()) + engines.away_detail + engines.away_reason
        assert "hunter2" not in shown
        assert "***@127.0.0.1" in shown


@asynccontextmanager
async def engine_with_password() -> AsyncIterator[tuple[EngineSet, str]]:
    """A set of an engine that is not there."""
    url = "http://me:hunter2@127.0.0.1:9"
    async with aiohttp.ClientSession() as http:
        engines = EngineSet([url, "http://127.0.0.1:7"], http)
        with pytest.raises(EngineAway):
            await engines.refresh()
        await asyncio.gather(*(engine.look() for engine in engines._engines))
        yield engines, url


async def test_gateway_with_several_engines_answers_while_one_is_killed() -> None:
    """Through the whole gateway: no request fails while one of two engines goes, and metrics name each engine."""
    fingerprint = secrets.token_hex(16)
    two, foreign = StandInEngine(fingerprint=fingerprint), StandInEngine(fingerprint=NEW)
    async with running(two, foreign), engine_process(fingerprint, "1000") as one:
        urls = [one.url, two.url, foreign.url]
        async with running_gateway(None, engines={"tiny": {"urls": urls}}, local_cache_mb=0) as client:
            await until_ready(client)

            async def embed(number: int) -> int:
                answer = await client.post("/v1/embeddings", json={"model": "tiny", "input": f"w{number}"})
                return answer.status_code

            tasks = [asyncio.create_task(embed(number)) for number in range(50)]
            await asyncio.sleep(0.05)
            one.process.kill()
            tasks += [asyncio.create_task(embed(100 + number)) for number in range(50)]
            assert set(await asyncio.gather(*tasks)) == {200}
            async with asyncio.timeout(60):
                while True:
                    exposition = (await client.get("/metrics")).text
                    seen = re.findall(r'engine="tiny-[0-9a-f]{8}",state="(\w+)"} 1.0', exposition)
                    if sorted(seen) == ["away", "left_out", "serving"]:
                        break
                    await asyncio.sleep(0.1)
            assert "127.0.0.1" not in exposition, "whoever reads metrics needs no key"
            assert not foreign.computed


async def test_cancelled_request_leaves_no_engine_with_it() -> None:
    """A client that leaves withdraws its call from the engine that has it, and nothing stays in flight."""
    one, two = StandInEngine(), StandInEngine()
    async with running(one, two), engine_set(one.url, two.url) as engines:
        await serving(engines, one, two)
        one.gate = two.gate = asyncio.Event()
        task = asyncio.create_task(ask(engines, 1))
        await until(lambda: one.lanes or two.lanes)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: one.cancelled + two.cancelled == 1)
        assert sum(state.tokens for state in engines.states()) == 0


async def test_every_error_is_a_gateway_error() -> None:
    """Nothing an engine answers reaches a client as anything but a typed error."""
    one, two = StandInEngine(), StandInEngine()
    async with running(one, two), engine_set(one.url, two.url) as engines:
        for status in (204, 302, 400, 404, 408, 413, 415, 418, 500, 503):
            one.refusal = two.refusal = (status, "whatever", {})
            await serving(engines, one, two)
            with pytest.raises(GatewayError):
                await ask(engines, 1)

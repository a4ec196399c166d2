"""The client against a real HTTP server that fails in every way a network and a gateway can.

No test waits: the client's sleep is replaced by one that only moves its clock.
"""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import numpy as np
import pytest
from aiohttp import web

from gateway.client import (
    AsyncClient,
    BreakerPolicy,
    CircuitOpen,
    CircuitState,
    Client,
    ConnectFailed,
    ConnectionLost,
    FingerprintMismatch,
    GatewayFault,
    InvalidReply,
    RateLimited,
    RequestRefused,
    RetryPolicy,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from tests.fake_time import Time
from tests.integration.standin_gateway import StandIn, garbage, hang, reset_mid_body, status, vector_of


@pytest.fixture
async def gateway() -> AsyncIterator[StandIn]:
    async with StandIn() as server:
        yield server


@pytest.fixture
async def standby() -> AsyncIterator[StandIn]:
    async with StandIn() as server:
        yield server


@pytest.fixture
def time() -> Time:
    return Time()


def client_of(time: Time, url: str, **options) -> AsyncClient:
    return AsyncClient(url, clock=time.clock, sleep=time.sleep, **options)


def dead_url() -> str:
    """A URL where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def expected(texts: list[str], dimensions: int = 8) -> np.ndarray:
    return np.array([vector_of(text, dimensions) for text in texts])


async def test_an_answer_holds_all_the_gateway_says(gateway, time):
    """Vectors, tiers, usage, model, request id and fingerprint; the key and the headers arrive at the gateway."""
    async with client_of(time, gateway.url + "/v1", api_key="secret") as client:
        result = await client.embed(
            ["a", "b", "c"], model="m", dimensions=4, prompt_name="query", cache_control="no-store", min_fidelity=0.95
        )
    assert np.array_equal(result.vectors, expected(["a", "b", "c"], 4))
    assert result.tiers == ["exact", "miss", "miss"]
    assert (result.usage_tokens, result.model, result.request_id) == (3, "stand-in", "r1")
    assert result.fingerprint == client.fingerprint == "f1"
    assert gateway.headers[0]["Authorization"] == "Bearer secret"
    assert gateway.headers[0]["x-cache-control"] == "no-store"
    assert gateway.headers[0]["x-min-fidelity"] == "0.95"
    sent = gateway.requests[0]
    assert (sent["model"], sent["dimensions"], sent["prompt_name"]) == ("m", 4, "query")


@pytest.mark.parametrize(
    "misdeed",
    [status(429, "2"), status(503, "2"), status(502), status(504), reset_mid_body, hang],
    ids=["429", "503", "502", "504", "reset mid-body", "slow"],
)
async def test_what_passes_is_retried_to_the_right_answer(gateway, time, misdeed):
    """Two failures of each transient kind, then the answer, whole and in order."""
    gateway.misdeeds.extend([misdeed] * 2)
    async with client_of(time, gateway.url, retry=RetryPolicy(timeout_s=0.5)) as client:
        result = await client.embed(["a", "b"])
    assert np.array_equal(result.vectors, expected(["a", "b"]))
    assert len(gateway.requests) == 3
    assert len(time.waits) == 2


async def test_retry_after_is_honoured(gateway, time):
    """The wait after a 429 is at least what it asked for."""
    gateway.misdeeds.append(status(429, "7"))
    async with client_of(time, gateway.url) as client:
        await client.embed(["a"])
    assert time.waits[0] >= 7


@pytest.mark.parametrize(
    ("misdeed", "error"),
    [
        (status(400), RequestRefused),
        (status(401), Unauthorized),
        (status(404), RequestRefused),
        (status(422), RequestRefused),
        (status(500), GatewayFault),
        (status(302), RequestRefused),
        (garbage, InvalidReply),
    ],
    ids=["400", "401", "404", "422", "500", "302", "garbage"],
)
async def test_what_does_not_pass_is_raised_at_once(gateway, time, misdeed, error):
    """One request, one typed error, no wait."""
    gateway.misdeeds.append(misdeed)
    async with client_of(time, gateway.url) as client:
        with pytest.raises(error):
            await client.embed(["a"])
    assert len(gateway.requests) == 1
    assert time.waits == []


async def test_a_redirect_is_not_followed(gateway, standby, time):
    """Texts and key go where the caller sent them, and nowhere else."""

    async def redirect(request):
        return web.Response(status=307, headers={"Location": standby.url + "/v1/embeddings"})

    gateway.misdeeds.append(redirect)
    async with client_of(time, gateway.url, api_key="secret") as client:
        with pytest.raises(RequestRefused, match="307"):
            await client.embed(["a"])
    assert standby.requests == []


async def test_a_wrong_count_of_vectors_is_never_used(gateway, time):
    """One vector too few for the texts is an error, not a shorter answer."""
    gateway.vectors_short_by = 1
    async with client_of(time, gateway.url) as client:
        with pytest.raises(InvalidReply, match="1 vectors for 2 texts"):
            await client.embed(["a", "b"])


@pytest.mark.parametrize(
    ("misdeed", "error"),
    [(status(429), RateLimited), (status(503), Unavailable), (reset_mid_body, ConnectionLost), (hang, TimedOut)],
    ids=["429", "503", "reset mid-body", "slow"],
)
async def test_what_never_passes_ends_in_its_own_error(gateway, time, misdeed, error):
    """When the attempts are used up, the last failure is raised as what it was."""
    gateway.misdeeds.extend([misdeed] * 9)
    async with client_of(time, gateway.url, retry=RetryPolicy(attempts=3, timeout_s=0.3)) as client:
        with pytest.raises(error):
            await client.embed(["a"])
    assert len(gateway.requests) == 3


async def test_nobody_there(time):
    """A refused connection is ConnectFailed, naming the URL, after the retries."""
    url = dead_url()
    async with client_of(time, url, retry=RetryPolicy(attempts=2)) as client:
        with pytest.raises(ConnectFailed, match=url):
            await client.embed(["a"])
    assert len(time.waits) == 1


async def test_the_circuit_opens_tries_once_and_closes(gateway, time):
    """Repeated failures open it; then nothing is sent until open_s has passed; one good trial closes it."""
    policies = {"retry": RetryPolicy(attempts=1), "breaker": BreakerPolicy(failures_to_open=3, open_s=10)}
    gateway.misdeeds.extend([status(503)] * 3)
    async with client_of(time, gateway.url, **policies) as client:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await client.embed(["a"])
        assert client.circuits == {gateway.url: CircuitState.OPEN}
        with pytest.raises(CircuitOpen, match="503"):
            await client.embed(["a"])
        assert len(gateway.requests) == 3
        time.now += 10
        assert client.circuits == {gateway.url: CircuitState.HALF_OPEN}
        await client.embed(["a"])
        assert client.circuits == {gateway.url: CircuitState.CLOSED}


async def test_half_open_sends_one_trial_however_many_ask(gateway, time):
    """Of ten concurrent calls at a half-open circuit, one reaches the gateway."""
    policies = {"retry": RetryPolicy(attempts=1), "breaker": BreakerPolicy(failures_to_open=1, open_s=10)}
    gateway.misdeeds.append(status(503))
    async with client_of(time, gateway.url, **policies) as client:
        with pytest.raises(Unavailable):
            await client.embed(["a"])
        time.now += 10
        results = await asyncio.gather(*(client.embed(["a"]) for _ in range(10)), return_exceptions=True)
    assert sorted(type(r).__name__ for r in results) == ["CircuitOpen"] * 9 + ["EmbedResult"]
    assert len(gateway.requests) == 2


async def test_a_limit_does_not_open_the_circuit(gateway, time):
    """429 means that somebody is there: the circuit stays closed."""
    gateway.misdeeds.extend([status(429)] * 5)
    async with client_of(time, gateway.url, breaker=BreakerPolicy(failures_to_open=1)) as client:
        await client.embed(["a"])
        assert client.circuits[gateway.url] is CircuitState.CLOSED


@pytest.mark.parametrize(("fault", "error"), [("connect", ConnectFailed), ("timeout", TimedOut), ("503", Unavailable)])
async def test_a_failure_can_be_rehearsed(gateway, time, fault, error):
    """An injected fault fails like the real one, opens the circuit, and ends when cleared."""
    policies = {"retry": RetryPolicy(attempts=1), "breaker": BreakerPolicy(failures_to_open=2, open_s=10)}
    async with client_of(time, gateway.url, **policies) as client:
        client.inject_fault(fault)
        for _ in range(2):
            with pytest.raises(error):
                await client.embed(["a"])
        assert client.circuits[gateway.url] is CircuitState.OPEN
        client.clear_faults()
        time.now += 10
        await client.embed(["a"])
    assert len(gateway.requests) == 1


async def test_a_rehearsal_of_n_calls_ends_by_itself(gateway, time):
    """`calls=2` fails two requests; the third passes, within one embed call."""
    async with client_of(time, gateway.url) as client:
        client.inject_fault("connect", calls=2)
        await client.embed(["a"])
    assert len(time.waits) == 2
    assert len(gateway.requests) == 1


async def test_the_fallback_answers_when_it_serves_the_same_model(gateway, standby, time):
    """Once the first answer has shown the fingerprint, a failure goes to the standby, after one look at its /info."""
    async with client_of(time, gateway.url, fallback_url=standby.url) as client:
        await client.embed(["a"])
        client.inject_fault("connect")
        for _ in range(3):
            result = await client.embed(["b", "c"])
            assert np.array_equal(result.vectors, expected(["b", "c"]))
        client.clear_faults()
        await client.embed(["d"])
    assert (len(gateway.requests), len(standby.requests), standby.infos) == (2, 3, 1)
    assert time.waits == []


async def test_a_fallback_of_another_model_is_refused_unasked(gateway, standby, time):
    """A standby that declares another fingerprint gets no text, and the error says why."""
    standby.fingerprint = "f2"
    async with client_of(time, gateway.url, fallback_url=standby.url, retry=RetryPolicy(attempts=2)) as client:
        await client.embed(["a"])
        client.inject_fault("503")
        with pytest.raises(FingerprintMismatch, match="must never mix") as caught:
            await client.embed(["b"])
    assert isinstance(caught.value.__cause__, Unavailable)
    assert (caught.value.expected, caught.value.found) == ("f1", "f2")
    assert standby.requests == []


async def test_a_mismatched_fallback_does_not_cost_the_retries(gateway, standby, time):
    """A first URL that answers again after a moment still answers, whatever the standby serves."""
    standby.fingerprint = "f2"
    async with client_of(time, gateway.url, fallback_url=standby.url) as client:
        await client.embed(["a"])
        client.inject_fault("connect", calls=2)
        result = await client.embed(["b"])
    assert np.array_equal(result.vectors, expected(["b"]))


async def test_a_fallback_that_changes_its_model_is_caught_on_the_answer(gateway, standby, time):
    """The check of /info is not the last word: every answer's own fingerprint is."""
    async with client_of(time, gateway.url, fallback_url=standby.url, retry=RetryPolicy(attempts=1)) as client:
        await client.embed(["a"])
        client.inject_fault("connect")
        await client.embed(["b"])
        standby.fingerprint = "f2"
        with pytest.raises(FingerprintMismatch):
            await client.embed(["c"])


async def test_a_first_url_that_changes_its_model_is_caught(gateway, time):
    """A gateway restarted with another model does not get to continue an old client's vectors."""
    async with client_of(time, gateway.url) as client:
        await client.embed(["a"])
        gateway.fingerprint = "f2"
        with pytest.raises(FingerprintMismatch):
            await client.embed(["b"])
        gateway.fingerprint = None
        with pytest.raises(FingerprintMismatch, match="no fingerprint"):
            await client.embed(["c"])


async def test_a_pinned_fingerprint_holds_from_the_first_answer(gateway, time):
    """Vectors made earlier pin the model."""
    async with client_of(time, gateway.url, fingerprint="f0") as client:
        with pytest.raises(FingerprintMismatch):
            await client.embed(["a"])


async def test_the_fallback_may_answer_first_once_info_has_shown_the_model(gateway, standby, time):
    """A first URL whose /info answers but whose embeddings fail is enough to know the fingerprint."""
    gateway.misdeeds.append(status(503))
    async with client_of(time, gateway.url, fallback_url=standby.url) as client:
        await client.embed(["a"])
    assert len(standby.requests) == 1


async def test_an_unknown_fingerprint_keeps_the_fallback_out(standby, time):
    """Before any answer there is nothing to compare with: the failure is raised, and says what to set."""
    async with client_of(time, dead_url(), fallback_url=standby.url, retry=RetryPolicy(attempts=1)) as client:
        with pytest.raises(ConnectFailed) as caught:
            await client.embed(["a"])
    assert "fingerprint=" in caught.value.__notes__[0]
    assert standby.requests == []


async def test_a_pinned_fingerprint_lets_the_fallback_in_from_the_start(standby, time):
    """With the fingerprint given, a standby may answer the very first call."""
    async with client_of(time, dead_url(), fallback_url=standby.url, fingerprint="f1") as client:
        assert len((await client.embed(["a"])).vectors) == 1


async def test_both_urls_down_is_the_failure_itself(time):
    """Two dead URLs end in ConnectFailed, with the first URL's failure as its cause."""
    policy = RetryPolicy(attempts=2)
    async with client_of(time, dead_url(), fallback_url=dead_url(), fingerprint="f1", retry=policy) as client:
        with pytest.raises(ConnectFailed) as caught:
            await client.embed(["a"])
    assert isinstance(caught.value.__cause__, ConnectFailed)


async def test_a_limit_is_not_escaped_to_the_fallback(gateway, standby, time):
    """429 waits; it does not move the load to the standby."""
    gateway.misdeeds.append(status(429, "1"))
    async with client_of(time, gateway.url, fallback_url=standby.url, fingerprint="f1") as client:
        await client.embed(["a"])
    assert standby.requests == []


async def test_the_fallback_can_be_verified_ahead(gateway, standby, time):
    """`verify_fallback` says at deployment what would otherwise be found out in the outage."""
    async with client_of(time, gateway.url, fallback_url=standby.url) as client:
        await client.verify_fallback()
        standby.fingerprint = "f2"
        with pytest.raises(FingerprintMismatch):
            await client.verify_fallback()


async def test_many_texts_become_several_requests_in_order(gateway, time):
    """5,000 texts are three requests; vectors, tiers and tokens come back as if it had been one."""
    texts = [f"text {i}" for i in range(5000)]
    async with client_of(time, gateway.url, max_parallel_requests=2) as client:
        result = await client.embed(texts)
    assert np.array_equal(result.vectors, expected(texts))
    assert sorted(len(r["input"]) for r in gateway.requests) == [904, 2048, 2048]
    assert result.usage_tokens == sum(map(len, texts))
    assert result.request_id.count(",") == 2
    assert gateway.most_in_flight <= 2


async def test_one_failed_part_fails_the_call(gateway, time):
    """A refusal of one of several requests is raised itself, not as a group."""
    gateway.misdeeds.append(status(400, param="input"))
    async with client_of(time, gateway.url) as client:
        with pytest.raises(RequestRefused) as caught:
            await client.embed(["x"] * 3000)
    assert caught.value.param == "input"


async def test_wrong_use_is_said(gateway, time):
    """No texts, a bare string, a client that was not opened, a fault on a fallback that is not there."""
    client = client_of(time, gateway.url)
    with pytest.raises(RuntimeError, match="async with"):
        await client.embed(["a"])
    async with client:
        for wrong in ([], "a text"):
            with pytest.raises(ValueError, match="list of at least one text"):
                await client.embed(wrong)
        with pytest.raises(ValueError, match="no fallback"):
            client.inject_fault("503", fallback=True)
        with pytest.raises(ValueError, match="no fallback"):
            await client.verify_fallback()


async def test_info_is_asked_with_retries(gateway, time):
    """`info()` answers what /info declares."""
    async with client_of(time, gateway.url) as client:
        client.inject_fault("503", calls=1)
        info = await client.info()
    assert (info.model, info.fingerprint, info.dimensions, info.max_tokens) == ("stand-in", "f1", 8, 99)


async def test_an_engine_that_is_away_is_waited_for(gateway, time):
    """A gateway without an engine says so in /info; that passes, and is retried."""

    async def sleep(seconds: float) -> None:
        gateway.engine_away = False

    gateway.engine_away = True
    async with AsyncClient(gateway.url, sleep=sleep) as client:
        assert (await client.info()).fingerprint == "f1"


async def test_the_model_is_asked_for_once_and_only_when_not_named(gateway, time):
    """The contract wants a model's name: without one the client uses what /info gives."""
    async with client_of(time, gateway.url) as client:
        await client.embed(["a"], model="named")
        assert gateway.infos == 0
        await client.embed(["a"])
        await client.embed(["a"])
    assert gateway.infos == 1
    assert [request["model"] for request in gateway.requests] == ["named", "stand-in", "stand-in"]


async def test_the_blocking_client_is_the_same_client(gateway):
    """`Client` gives the same results and raises the same errors, also next to a running loop."""

    def use() -> None:
        with Client(gateway.url, retry=RetryPolicy(attempts=1)) as client:
            assert np.array_equal(client.embed(["a", "b"], dimensions=4).vectors, expected(["a", "b"], 4))
            assert client.info().fingerprint == "f1"
            client.asynchronous.inject_fault("connect", calls=1)
            with pytest.raises(ConnectFailed):
                client.embed(["a"])

    await asyncio.to_thread(use)
    with pytest.raises(RuntimeError, match="with Client"):
        Client(gateway.url).embed(["a"])


def test_importing_the_client_imports_no_server():
    """`import gateway.client` brings in neither the server's modules nor its dependencies."""
    script = (
        "import sys, gateway.client\n"
        "ours = {m for m in sys.modules if m.split('.')[0] in ('gateway', 'cache', 'engine', 'deploy', 'loadtest')}\n"
        "assert all(m == 'gateway' or m.startswith('gateway.client') for m in ours), ours\n"
        "assert not {'fastapi', 'redis', 'pydantic', 'tokenizers', 'click', 'rich'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)

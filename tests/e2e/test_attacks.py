"""Hostile and unlucky traffic against the real product: semantic hits keep to the policy.

An attacker is a tenant like any other: it earns a certificate with easy paraphrases, then sends look-alikes. The
worst of them are the words of a stored text in another order: the static embedding, a sum over tokens, gives them one
vector, the model does not. Every semantic hit is compared with the engine's own vector.

With a young error budget every hit is checked, so a test can wait for each label, and no clock decides how many
violations there are.
"""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from redis import Redis

from cache.semantic.error_budget import ErrorBudgetSettings
from deploy.embedded_redis import NotAvailable, locate
from tests.bounds import violations_before_opening
from tests.e2e.stack import Run, another_gateway, running, until
from tests.simulation.attacks import TRICKS, attack_texts

MODEL = "all-MiniLM-L6-v2"
FIDELITY = 0.92
BUDGET = ErrorBudgetSettings()
UNLIKELY = 0.001  # probability that a sound error budget exceeds the bound asserted here
PENDING = 4  # hits whose labels may be pending where a test does not wait for each
OPERATOR = {"authorization": "Bearer operator-of-these-tests"}
NO_STORE = {"x-cache-control": "no-store"}
TENANTS = ("look-alikes", "scrambled", "saved", "burst", "victim", "attacker", "switch", "shared", "pairs", "odd")
SETTINGS = {
    "DEJAVEC_ADMIN_TOKEN": "operator-of-these-tests",
    "DEJAVEC_API_KEYS": json.dumps({f"key-of-namespace-{name}": {"namespace": name} for name in TENANTS}),
    "DEJAVEC_ENGINE_PRICE_MS": "10000",  # the cost gate finds every look-up worth its price
    "DEJAVEC_LOCAL_CACHE_MB": "0",
    "DEJAVEC_REDIS_TIMEOUT_MS": "5000",
    "DEJAVEC_SEMANTIC_TIMEOUT_MS": "5000",
}
SENTENCES = (
    "the old red train left platform nine before noon without any passengers",
    "our neighbour's black cat chased three grey pigeons across the wet roof",
    "the young judge asked the tired lawyer to read the letter aloud again",
    "two small boats crossed the cold lake while the storm was still far away",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One text's tier and vector, its reply's headers, and the cosine to the engine's vector of a semantic hit."""

    text: str
    tier: str
    vector: bytes
    headers: httpx.Headers
    true_similarity: float = 1.0

    @property
    def is_violation(self) -> bool:
        return self.true_similarity < FIDELITY


@dataclass
class Tenant:
    """One namespace at one gateway: asks, compares semantic hits with the engine's vectors, and keeps count."""

    http: httpx.Client
    namespace: str
    checks_every_hit: bool = False
    hits: int = 0
    violations: int = 0
    computed: set[bytes] = field(default_factory=set)  # the vectors that may be in its index
    sent: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._labels_before = self.labels()

    def ask(self, *texts: str) -> list[Answer]:
        """Ask in one request; at most 64 texts, because longer replies need not name every tier."""
        reply = self.post(list(texts))
        assert reply.status_code == 200, reply.text
        tiers = expanded(reply.headers["x-cache-items"])
        answers = [Answer(*one, reply.headers) for one in zip(texts, tiers, vectors_of(reply), strict=True)]
        hits = [answer for answer in answers if answer.tier == "semantic"]
        true = self.true_vectors([answer.text for answer in hits])
        answers = [compared(one, true[one.text]) if one in hits else one for one in answers]
        self.hits += len(hits)
        self.violations += sum(answer.is_violation for answer in answers)
        self.computed |= {answer.vector for answer in answers if answer.tier == "miss"}
        self.computed |= {true[answer.text] for answer in answers if answer.is_violation}
        self.sent |= set(texts)
        return answers

    def true_vectors(self, texts: list[str]) -> dict[str, bytes]:
        """The engine's own vectors, by text; the gateway neither keeps them nor learns from them."""
        return dict(zip(texts, vectors_of(self.post(texts, **NO_STORE)), strict=True)) if texts else {}

    def post(self, inputs: object, **headers: str) -> httpx.Response:
        body = {"model": MODEL, "input": inputs, "encoding_format": "base64"}
        headers["authorization"] = f"Bearer key-of-namespace-{self.namespace}"
        return self.http.post("/v1/embeddings", content=json.dumps(body), headers=headers)

    def explain(self, text: str = SENTENCES[0]) -> dict[str, Any]:
        reply = self.http.post("/admin/explain", json={"text": text, "namespace": self.namespace}, headers=OPERATOR)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    @property
    def openings(self) -> int:
        return int(self.explain()["certificate"]["breaker_openings"])

    def labels(self) -> dict[str, int]:
        """How many hits this gateway has checked since it started, of all tenants, by verdict."""
        lines = self.http.get("/metrics").text.splitlines()
        found = {"good": 0, "violation": 0}
        for line in lines:
            if line.startswith('dejavec_semantic_labels_total{of="hit"'):
                found[line.split('verdict="')[1].split('"')[0]] = int(float(line.rsplit(" ", 1)[1]))
        return found

    def checked(self) -> dict[str, int]:
        """The same since this tenant came; tenants come one after the other."""
        return {verdict: count - self._labels_before[verdict] for verdict, count in self.labels().items()}

    def settle(self) -> None:
        """Wait until every hit has its label, where the error budget has every hit checked."""
        if self.checks_every_hit or BUDGET.verify_probability(BUDGET.limit(self.hits)) >= 1:
            until(lambda: sum(self.checked().values()) >= self.hits, "a label for each hit")


def expanded(runs: str) -> list[str]:
    """The tiers of `x-cache-items`, one for each text."""
    pairs = [run.partition("*") for run in runs.split(",")]
    return [tier for tier, _, count in pairs for _ in range(int(count or 1))]


def vectors_of(reply: httpx.Response) -> list[bytes]:
    return [base64.b64decode(item["embedding"]) for item in reply.json()["data"]]


def compared(answer: Answer, true: bytes) -> Answer:
    served, truth = (np.frombuffer(vector, dtype="<f4").astype(np.float64) for vector in (answer.vector, true))
    cosine = float(served @ truth / (np.linalg.norm(served) * np.linalg.norm(truth)))
    return Answer(answer.text, answer.tier, answer.vector, answer.headers, cosine)


def paraphrases(seed: int) -> list[str]:
    """Thousands of distinct ways to say sixteen things."""
    return list(dict.fromkeys(attack_texts("numbers", seed, honest=4000, hostile=0)))


def look_alikes(seed: int, of_each: int) -> list[str]:
    """The same things turned around: opposites, with and without, other numbers, swapped words; interleaved."""
    kinds = [attack_texts(trick, seed, honest=0, hostile=of_each) for trick in TRICKS]
    return list(dict.fromkeys(text for group in zip(*kinds, strict=True) for text in group))


def scrambled(texts: Sequence[str], seed: int) -> list[str]:
    """Each text's words in another order."""
    draw = np.random.default_rng(seed)
    shuffled = [" ".join(draw.permutation(text.split())) for text in texts]
    return [text for text in dict.fromkeys(shuffled) if text not in set(texts)]


def earn_certificate(tenant: Tenant, texts: Sequence[str], hits: int = 1) -> list[str]:
    """Send easy paraphrases until so many more were semantic hits; returns those that were not needed."""
    wanted = tenant.hits + hits
    for start in range(0, len(texts), 16):
        answers = tenant.ask(*texts[start : start + 16])
        tenant.settle()
        if any(answer.is_violation for answer in answers):
            until_counted(tenant)
        if tenant.hits >= wanted and (shown := tenant.explain()["certificate"])["phase"] == "serving":
            assert shown["tau"] is not None
            return list(texts[start + 16 :])
    pytest.fail(f"no certificate after {len(texts)} texts: {tenant.explain()}")


def until_counted(tenant: Tenant) -> None:
    """A violation pauses the gateway until the shared state has counted it."""
    until(lambda: not tenant.explain()["paused"], "the shared state counts the violation")


def attack(tenant: Tenant, texts: Sequence[str]) -> list[Answer]:
    """Send look-alikes one at a time until the breaker opens; each found violation is counted before the next text.

    While the gateway is paused the attacker waits, so that no look-alike is wasted on the engine.
    """
    openings, answers = tenant.openings, []
    for text in texts:
        answers += tenant.ask(text)
        tenant.settle()
        if answers[-1].is_violation:
            until_counted(tenant)
            if tenant.openings > openings:
                break
    return answers


def assert_within_budget(answers: Sequence[Answer], hits_before: int, more: int = 0, openings_before: int = 0) -> None:
    """No more violations than the fullest error budget allows, with what the attack's own hits add."""
    hits, budget = sum(answer.tier == "semantic" for answer in answers), BUDGET.after(openings_before)
    violations = sum(answer.is_violation for answer in answers)
    bound = violations_before_opening(budget, budget.limit(hits_before), delta=UNLIKELY) + budget.alpha * hits
    assert violations <= bound + more, f"{violations} of {hits} hits violate; at most {bound:.1f} + {more} may"


def assert_serves_nothing(tenant: Tenant, texts: Sequence[str]) -> None:
    assert "semantic" not in {tenant.ask(text)[0].tier for text in texts}


@pytest.fixture(scope="module")
def auto(real_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The whole product in mode `auto`, with a namespace for each test."""
    try:
        locate()
    except NotAvailable as reason:
        pytest.skip(str(reason))
    with running(tmp_path_factory.mktemp("attacks"), DEJAVEC_MODEL_BUNDLE=str(real_bundle), **SETTINGS) as run:
        yield run


@pytest.fixture(scope="module")
def tenant(auto: Run) -> Iterator[Callable[[str], Tenant]]:
    """A tenant by its name, at the gateway in mode `auto`."""
    with httpx.Client(base_url=f"http://127.0.0.1:{auto.port}", timeout=60) as http:
        yield lambda name: Tenant(http, name)


@contextmanager
def in_mode_on(auto: Run, folder: Path, name: str) -> Iterator[Tenant]:
    """A tenant at a gateway in mode `on` that checks every hit."""
    settings = {**SETTINGS, "DEJAVEC_SEMANTIC_MODE": "on", "DEJAVEC_VERIFY_SHARE": "1"}
    with another_gateway(auto, folder, **settings) as http:
        tenant = Tenant(http, name, checks_every_hit=True)
        until(lambda: tenant.explain()["index"]["kind"] != "none", "the index is usable")
        yield tenant


def test_look_alikes_after_a_certificate(tenant: Callable[[str], Tenant]) -> None:
    """Opposites, with and without, other numbers, swapped words: some are served, few of them below the fidelity."""
    attacker = tenant("look-alikes")
    earn_certificate(attacker, paraphrases(seed=1))
    hits_before = attacker.hits
    answers = attack(attacker, look_alikes(seed=1, of_each=75))
    assert attacker.hits > hits_before
    assert_within_budget(answers, hits_before)


def test_scrambled_words_open_the_breaker_every_time(tenant: Callable[[str], Tenant]) -> None:
    """Nearly every hit violates: a handful is served, then nothing until a new certificate, which is attacked again.

    Each round takes more honest texts and serves fewer violations.
    """
    attacker = tenant("scrambled")
    honest, taken = paraphrases(seed=2), []
    for openings in (1, 2, 3):
        left = earn_certificate(attacker, honest)
        taken.append(len(honest) - len(left))
        known, honest = honest[: len(honest) - len(left)], left
        hits_before, hostile = attacker.hits, scrambled(known, seed=openings)
        answers = attack(attacker, hostile)
        assert attacker.openings == openings
        assert_within_budget(answers, hits_before, openings_before=openings - 1)
        assert_serves_nothing(attacker, hostile[len(answers) :][:20])
    assert taken[2] >= 600  # a comeback wants twice the labels of the one before


def test_a_long_clean_past_buys_little(tenant: Callable[[str], Tenant]) -> None:
    """After two hundred clean hits only a share of them is checked; the error budget still ends the attack."""
    attacker = tenant("saved")
    honest = paraphrases(seed=3)
    left = earn_certificate(attacker, honest, hits=200)
    assert BUDGET.verify_probability(BUDGET.limit(attacker.hits)) < 1
    hits_before = attacker.hits
    answers = attack(attacker, scrambled(honest[: len(honest) - len(left)], seed=3))
    assert attacker.openings == 1
    assert_within_budget(answers, hits_before, more=PENDING)


def test_a_burst_gets_no_more_than_the_error_budget(tenant: Callable[[str], Tenant]) -> None:
    """All texts of a request are decided before any is checked: no more are served than the error budget covers."""
    attacker = tenant("burst")
    honest = paraphrases(seed=4)
    left = earn_certificate(attacker, honest)
    hostile = scrambled(honest[: len(honest) - len(left)], seed=4)
    budget = BUDGET.limit(attacker.hits)
    burst = attacker.ask(*hostile[:64])
    assert sum(answer.tier == "semantic" for answer in burst) <= max(1, budget)
    attacker.settle()
    until(lambda: not attacker.explain()["paused"], "the state has counted what was found")
    answers = [*burst, *attack(attacker, hostile[64:])]
    assert attacker.openings == 1
    assert_within_budget(answers, attacker.hits)
    assert_serves_nothing(attacker, hostile[64 + len(answers) - len(burst) :][:20])


def test_a_tenant_moves_nobody_else(auto: Run, tenant: Callable[[str], Tenant]) -> None:
    """While one tenant is attacked another's stored state keeps its bytes, and no vector crosses over."""
    with Redis.from_url(auto.redis_url) as redis:
        before = set(redis.scan_iter(b"dv1:p:*"))
        victim = tenant("victim")
        left = earn_certificate(victim, paraphrases(seed=5))
        next(text for text in left if victim.ask(text)[0].tier == "semantic")  # its label is the last of all
        until(lambda: victim.explain()["threshold"]["checked"] == victim.hits, "all labels are in the state")
        (state_key,) = set(redis.scan_iter(b"dv1:p:*")) - before
        state, shown = redis.get(state_key), [victim.explain()[part] for part in ("tau", "threshold", "certificate")]
        attacker = tenant("attacker")
        honest = paraphrases(seed=6)
        earn_certificate(attacker, honest)
        attack(attacker, scrambled(honest[:600], seed=6))
        assert attacker.openings == 1
        assert redis.get(state_key) == state
        assert [victim.explain()[part] for part in ("tau", "threshold", "certificate")] == shown
    for text in sorted(attacker.sent - victim.sent)[:100]:
        (answer,) = victim.ask(text)
        assert answer.tier in ("miss", "semantic")
        assert answer.vector in victim.computed


def test_a_topic_switch_is_noticed(tenant: Callable[[str], Tenant]) -> None:
    """Certified on one family of texts, then asked another, where likeness misleads."""
    unlucky = tenant("switch")
    earn_certificate(unlucky, paraphrases(seed=7))
    hits_before = unlucky.hits
    unlucky.ask(*SENTENCES)
    answers = attack(unlucky, [text for seed in range(60) for text in scrambled(SENTENCES, seed)])
    assert unlucky.hits > hits_before
    assert_within_budget(answers, hits_before)


def test_two_gateways_share_one_error_budget(auto: Run, tmp_path: Path, tenant: Callable[[str], Tenant]) -> None:
    """The one that sees a violation pauses at once, the other when it has read so; together they keep to the bound."""
    first = tenant("shared")
    honest = paraphrases(seed=8)
    left = earn_certificate(first, honest)
    hostile = scrambled(honest[: len(honest) - len(left)], seed=8)
    hits_before, answers, pauses = first.hits, [], 0
    with another_gateway(auto, tmp_path, **SETTINGS) as http:
        second = Tenant(http, "shared")
        until(lambda: second.explain()["tau"] is not None, "the other gateway knows the certificate")
        for number, text in enumerate(hostile):
            one = (first, second)[number % 2]
            answers += one.ask(text)
            one.settle()
            if answers[-1].is_violation and not (shown := one.explain())["paused"]:
                assert shown["threshold"]["violations"] >= one.violations
            elif answers[-1].is_violation:
                pauses += 1
            if first.openings == second.openings == 1:
                break
        assert pauses > 0
        assert second.violations > 0
        assert first.openings == second.openings == 1
        assert_within_budget(answers, hits_before, more=1)  # the second gateway has not heard of the last one yet
        for one in (first, second):
            assert_serves_nothing(one, hostile[len(answers) :][:10])


def test_on_mends_what_a_look_alike_broke(auto: Run, tmp_path: Path) -> None:
    """In mode `on` tricky pairs are served, and say so; a violating neighbour leaves the index, and tau rises."""
    known = paraphrases(seed=9)[:16]
    with in_mode_on(auto, tmp_path, "pairs") as tenant:
        tenant.ask(*known)
        until(lambda: len(tenant.explain()["candidates"]) == len(known), "the known texts are candidates")
        for text in [*scrambled(known, seed=9), *look_alikes(seed=9, of_each=10)]:
            shown = tenant.explain(text)
            (answer,) = tenant.ask(text)
            tenant.settle()
            if answer.tier != "semantic":
                continue
            predicted, tau = (float(answer.headers[f"x-cache-{name}"]) for name in ("similarity", "threshold"))
            assert 0.88 <= tau <= predicted <= 1
            if answer.is_violation:
                until(lambda text=text: tenant.ask(text)[0].tier == "exact", "the true vector is stored")
                assert tenant.ask(text)[0].vector == tenant.true_vectors([text])[text]
                assert shown["best"]["entry"] not in {one["entry"] for one in tenant.explain(text)["candidates"]}
        tenant.settle()
        assert tenant.violations >= 3
        assert tenant.checked()["violation"] == tenant.violations
        until(lambda: tenant.explain()["threshold"]["tau"] > 0.92, "tau rises")


PLAIN = "please reset the password of my account before noon"
SAME_TO_THE_MODEL = [PLAIN.upper(), PLAIN.title(), f"  {PLAIN}\n", PLAIN.replace(" ", "   ")]
ODD = [
    PLAIN.replace("password", "pass\x00word"),
    "\u202e" + PLAIN,
    "\u200d".join(PLAIN),
    "".join(letter + "\u0301" for letter in PLAIN),
    PLAIN.replace("a", "\u0430"),
    PLAIN.replace("reset", "r\u00ades\u00adet"),
    "".join(chr(ord(letter) + 0xFEE0) if letter.isalpha() else letter for letter in PLAIN),
    f"{PLAIN} \U0001f642\U0001f643",
    f"{PLAIN} " * 2000,
    f"{PLAIN} not, on no account whatsoever",
    "x" * 100_000,
    "\x00" * 1000,
    "\u2067" * 1000,
    "7" * 10_000,
    " ".join(reversed(PLAIN.split())),
    "",
    "   ",
    "\ud800 half a pair of surrogates",
    [101, 2054, 2003, 102],
    [[101, 2054, 2003, 102], [2**31]],
]


def test_odd_texts_are_counted_or_refused(auto: Run, tmp_path: Path) -> None:
    """Nothing odd is a server error; what the model reads alike is exact; a hit below the fidelity is counted."""
    with in_mode_on(auto, tmp_path, "odd") as tenant:
        tenant.ask(PLAIN)
        until(lambda: len(tenant.explain()["candidates"]) == 1, "the plain text is a candidate")
        until(lambda: tenant.ask(PLAIN)[0].tier == "exact", "its vector is stored")
        plain = tenant.ask(PLAIN)[0].vector
        for text in SAME_TO_THE_MODEL:
            (answer,) = tenant.ask(text)
            assert (answer.tier, answer.vector) == ("exact", plain)
        for inputs in ODD * 2:
            reply = tenant.post(inputs, **NO_STORE)
            assert reply.status_code in (200, 400, 413, 422), (inputs, reply.text)
            if reply.status_code == 200 and isinstance(inputs, str):
                tenant.ask(inputs)
            else:
                assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        tenant.settle()
        assert tenant.hits > 0
        assert tenant.checked()["violation"] == tenant.violations

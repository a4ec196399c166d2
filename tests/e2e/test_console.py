"""The console in a real Chromium: it opens without a network, and an operator's whole walk through it.

Screenshots go into the folder that CONSOLE_SCREENSHOTS names, else into the test's own.
"""

import json
import random
import re
import secrets
import signal
import string
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from cache.semantic.calibration import LabelTable
from deploy.embedded_redis import NotAvailable, locate
from engine.build.static_embedding.quick import StaticEmbedding
from engine.bundle import BUNDLE_FILE, STATIC_EMBEDDING_FILE, sha256_of
from tests.background import in_background
from tests.browser import Chromium, Watched, running_chromium
from tests.e2e.console_page import PATIENCE_MS, TOKEN, looks_right, set_slider, shoot, shown, unlock
from tests.e2e.stack import Run, running, until
from tests.gateway_client import running_gateway
from tests.integration.engine_under_test import DIMENSIONS, VOCABULARY, write_tiny_bundle
from tests.stand_in_engine import StandInEngine

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTHS = (390, 1440)
WHAT_IF = """async ([calibration, taus, fidelities]) => {
    const { whatIf } = await import('./console/calibration.js');
    return taus.map(tau => fidelities.map(fidelity => whatIf(calibration, tau, fidelity)));
}"""

RATES = """async () => {
    const { History, hitShare, quantile } = await import('./console/figures.js');
    const history = new History();
    const reading = (at, exact, miss) => (
        { at, texts: { exact, miss }, latency: { request: [[0.01, exact], [null, exact + miss]] } });
    history.add(reading(100, 10, 10));
    history.add(reading(110, 40, 20));
    const rate = history.rates().at(-1);
    const { by, seconds } = history.texts();
    const answer = [rate.exact, rate.miss, rate.local, hitShare(by), hitShare(rate), seconds,
        quantile(history.buckets('request'), 0.5), quantile([[0.1, 0], [null, 0]], 0.5)];
    history.add(reading(112, 1, 0));
    return [...answer, history.readings.length];
}"""


def tiny_bundle(folder: Path) -> Path:
    """The tiny model, with its own token vectors as a static embedding, so that it has semantic hits."""
    write_tiny_bundle(folder)
    table = np.random.default_rng(7).normal(size=(len(VOCABULARY), DIMENSIONS)).astype(np.float32)
    embedding = StaticEmbedding(table, np.eye(DIMENSIONS, dtype=np.float32), {"margin": 0.01})
    (folder / STATIC_EMBEDDING_FILE).write_bytes(embedding.to_bytes())
    bundle = json.loads((folder / BUNDLE_FILE).read_text())
    bundle["static_embedding_sha256"] = sha256_of(folder / STATIC_EMBEDDING_FILE)
    (folder / BUNDLE_FILE).write_text(json.dumps(bundle))
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """One for all tests here: they are plain functions, so its loop is in nobody's way."""
    with running_chromium() as running:
        yield running


@pytest.fixture
def stack(tmp_path: Path, chromium: Chromium) -> Iterator[Run]:
    """`dejavec up` with two workers and a configuration file that the test may edit."""
    try:
        locate()
    except NotAvailable as reason:
        pytest.skip(str(reason))
    (tmp_path / "dejavec.toml").write_text('semantic_mode = "on"\nlocal_cache_mb = 0\n')
    own = {
        "DEJAVEC_MODEL_BUNDLE": str(tiny_bundle(tmp_path / "tiny")),
        "DEJAVEC_ADMIN_TOKEN": TOKEN,
        "DEJAVEC_GATEWAY_WORKERS": "2",
        "DEJAVEC_REDIS_TIMEOUT_MS": "5000",
        "DEJAVEC_SEMANTIC_TIMEOUT_MS": "5000",
        "DEJAVEC_WATCH_FAILURES": "1000",
    }
    with running(tmp_path, **own) as run:
        yield run


class Texts:
    """Texts of twelve letters, each one letter away from one of a few; sent one by one."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._draw = random.Random(5)
        self._bases = ["".join(self._draw.sample(string.ascii_lowercase, 12)) for _ in range(4)]
        self.sent = 0

    def send(self, texts: int) -> list[str]:
        """Send so many new ones; the tier of each."""
        return [self._one() for _ in range(texts)]

    def _one(self) -> str:
        letters = list(self._draw.choice(self._bases))
        for _ in range(3):
            letters[self._draw.randrange(12)] = self._draw.choice(string.ascii_lowercase)
        body = json.dumps({"model": "tiny", "input": " ".join(letters)}).encode()
        headers = {"content-type": "application/json"}
        url = f"http://127.0.0.1:{self._run.port}/v1/embeddings"
        reply = httpx.post(url, content=body, headers=headers, timeout=60)
        assert reply.status_code == 200, f"text {self.sent + 1}: {reply.text}"
        self.sent += 1
        return str(reply.headers["x-cache"])


def admin(run: Run, path: str) -> dict[str, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{run.port}{path}", headers={"authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return dict(json.load(reply))


def test_an_operators_walk(stack: Run, chromium: Chromium, tmp_path: Path) -> None:
    """Traffic, token, curve, a threshold moved and undone, the audit line, an engine killed and seen, a file edited."""
    texts = Texts(stack)
    tiers = texts.send(250)
    assert "semantic" in tiers
    until(lambda: admin(stack, "/admin/calibration")["labels"] > 50, "labels")
    with chromium.page(width=1440) as watched:
        page = watched.page
        unlock(page, f"http://127.0.0.1:{stack.port}/")
        assert page.url.endswith("/console")
        shown(page, "#pulse", "Hit share")
        until(lambda: sum(admin(stack, "/admin/overview")["texts"].values()) == texts.sent, "the sum of both workers")
        shown(page, "#engines", "ready")
        shown(page, "#labels", r"\d+ labels")
        shoot(watched, tmp_path, "desk")
        looks_right(watched)
        the_token_is_in_memory_alone(page)
        the_curve_is_read(page, stack)
        a_threshold_is_moved_and_undone(watched, texts, tmp_path)
        a_text_is_explained(page)
        assert watched.problems == []
        an_engine_is_killed(watched, stack, tmp_path)
        the_file_is_edited(page, stack, tmp_path)
        assert watched.other_hosts == []


def the_token_is_in_memory_alone(page: "Page") -> None:
    kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href, document.title]")
    assert kept[:3] == [0, 0, ""]
    assert TOKEN not in f"{kept} {page.content()}"


def the_curve_is_read(page: "Page", stack: Run) -> None:
    """What the sliders say is what the gateway's own curve has at that place."""
    points = {point["tau"]: point for point in admin(stack, "/admin/calibration")["curve"]}
    set_slider(page, "#tau", 0.9)
    set_slider(page, "#fidelity", 0.92)
    point = points[0.9]
    shown(page, "#whatif-reused", re.escape(f"{100 * point['reused']:.1f}"))
    low, high = point["intervals"]["0.92"]
    shown(page, "#whatif", re.escape(f"{100 * low:.1f}") + ".*" + re.escape(f"{100 * high:.1f}"))
    before = page.locator("#whatif-reused").inner_text()
    set_slider(page, "#tau", 1)
    assert page.locator("#whatif-reused").inner_text() != before
    assert page.locator("#curve svg").get_attribute("aria-label").startswith("At threshold 1.000")


def a_threshold_is_moved_and_undone(watched: Watched, texts: Texts, folder: Path) -> None:
    """Proposed by the sliders, changed in both workers, seen in what is served; back with one click, and recorded."""
    page = watched.page
    page.get_by_role("button", name="Propose this").click()
    page.get_by_role("button", name="Change it in all gateways").click()
    shown(page, "#policy .message", r"Threshold 0\.92 → 1.*Every gateway follows")
    shown(page, "#served", r"Serving from 1\.000")
    shown(page, "#audit", r"Threshold")
    shoot(watched, folder, "changed")
    until(lambda: "semantic" not in texts.send(10), "both workers follow: nothing is a semantic hit any more")
    page.locator("#audit").get_by_role("button", name=re.compile("^Undo")).first.click()
    shown(page, "#audit", "undone")
    shown(page, "#served", r"Serving from 0\.9")
    shown(page, "#policy .message", r"Undone: Threshold 1 → 0\.92")
    until(lambda: "semantic" in texts.send(10), "semantic hits again")
    page.locator("#audit").get_by_role("button", name=re.compile("^Redo")).wait_for()
    shoot(watched, folder, "undone")


def a_text_is_explained(page: "Page") -> None:
    page.fill("#text", "a b c d e f g h i j k l")
    page.get_by_text("let the engine compute it").click()
    page.get_by_role("button", name="Explain").click()
    shown(page, "#explain", r"A hit|Not served|No neighbour")
    shown(page, "#explain", "Neighbour, by its key")


def an_engine_is_killed(watched: Watched, stack: Run, folder: Path) -> None:
    """The supervisor is held meanwhile, so that it cannot start another one at once."""
    page = watched.page
    engine = stack.child("engine")
    stack.process.send_signal(signal.SIGSTOP)
    try:
        engine.kill()
        shown(page, "#engines", "it cannot be reached")
        shown(page, "#pills", "Engine.*away")
        shoot(watched, folder, "engine-away")
        assert page.locator("#engines .state.bad").count() == 1
    finally:
        stack.process.send_signal(signal.SIGCONT)
    shown(page, "#engines", "ready")
    shown(page, "#pills", "Engine.*ready")


def the_file_is_edited(page: "Page", stack: Run, folder: Path) -> None:
    """A policy in it is followed, and seen on the page; what cannot be followed is named in the log."""
    (folder / "dejavec.toml").write_text(
        'semantic_mode = "on"\nlocal_cache_mb = 1\n[namespaces.default]\nsemantic_fidelity = 0.94\n'
    )
    until(lambda: page.input_value("#semantic_fidelity") == "0.94", "the page shows what the file has")
    stack.wait_for("needs a restart: local_cache_mb", times=2)
    stack.wait_for("in the settings file: namespace=default field=semantic_fidelity old=0.92 new=0.94", times=2)


@contextmanager
def gateway_at(chromium: Chromium, **settings: Any) -> Iterator[str]:
    """The address of a gateway in a thread, with an engine that has no semantic tier; `chromium` is there first."""
    engine = StandInEngine(fingerprint=secrets.token_hex(16))
    with in_background(engine.running()), in_background(running_gateway(engine.url, **settings)) as client:
        yield str(client.base_url).rstrip("/")


@pytest.fixture(scope="module")
def gateway(chromium: Chromium) -> Iterator[str]:
    """The address of a gateway without Redis, for the tests that only look at it."""
    with gateway_at(chromium, admin_token=TOKEN) as url:
        yield url


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_is_named(chromium: Chromium, gateway: str, tmp_path: Path, width: int, dark: bool) -> None:
    """Phone and desktop, light and dark, with nothing learned and no Redis: no errors, and each state teaches."""
    with chromium.page(width=width, dark=dark) as watched:
        page = watched.page
        unlock(page, f"{gateway}/console")
        shown(page, "#caches", "No Redis is set")
        shown(page, "#curve", "cannot be read now|Semantic hits are off")
        shown(page, "#audit", "No policy was changed")
        page.locator("#traffic svg[role=img]").wait_for(timeout=PATIENCE_MS)
        looks_right(watched)
        shoot(watched, tmp_path, f"empty-{width}-{'dark' if dark else 'light'}")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == dark


def test_the_sign_in(chromium: Chromium, gateway: str) -> None:
    """A wrong token is said to be one, Lock forgets the right one, and the page asks its own gateway alone."""
    with chromium.page() as watched:
        page = watched.page
        unlock(page, f"{gateway}/console", "not-the-token-of-this-one")
        shown(page, "#token-trouble", "is not the one that is set")
        assert page.locator("#desk").is_hidden()
        assert all("401" in problem for problem in watched.problems)
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        shown(page, "#pulse", "Hit share")
        page.get_by_role("button", name="Lock").click()
        page.wait_for_selector("#token")
        assert page.locator("#desk").is_hidden()
        asked = len(watched.requests)
        page.wait_for_timeout(3000)
        assert [url for url in watched.requests[asked:] if "/admin/" in url] == []
        assert all(one.startswith(gateway) for one in watched.requests)


def test_a_closed_console_says_how_to_open_it(chromium: Chromium, tmp_path: Path) -> None:
    """Without admin_token there is no field to type in, and no request that would be refused."""
    with gateway_at(chromium) as url:
        for width in WIDTHS:
            with chromium.page(width=width) as watched:
                watched.page.goto(f"{url}/console")
                shown(watched.page, "#sign-in", "closed.*admin_token")
                assert watched.page.locator("#token").count() == 0
                shoot(watched, tmp_path, f"closed-{width}")
                looks_right(watched)


def test_a_gateway_that_ends_is_seen(chromium: Chromium) -> None:
    """The page says so, and of when its figures are; it does not go blank."""
    with chromium.page() as watched:
        with gateway_at(chromium, admin_token=TOKEN) as url:
            unlock(watched.page, f"{url}/console")
            shown(watched.page, "#pulse", "Hit share")
        shown(watched.page, "#banner", r"does not answer.*\d\d:\d\d:\d\d")
        assert watched.page.locator("#desk").is_visible()


def test_the_keyboard_reaches_everything(chromium: Chromium, gateway: str) -> None:
    """Tab goes through every control that is shown, each with an outline; the sliders move by arrow keys."""
    with chromium.page() as watched:
        page = watched.page
        unlock(page, f"{gateway}/console")
        shown(page, "#audit", "No policy was changed")
        wanted = {"lock", "chosen", "tau", "fidelity", "price", "semantic_mode", "semantic_fidelity", "text", "truth"}
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            found = page.evaluate(
                "() => { const n = document.activeElement; return [n.id, getComputedStyle(n).outlineStyle]; }"
            )
            if found[0] in wanted:
                assert found[1] != "none", found
            reached.add(found[0])
        assert wanted <= reached
        page.focus("#tau")
        before = page.locator("output[for=tau]").inner_text()
        page.keyboard.press("ArrowRight")
        assert page.locator("output[for=tau]").inner_text() != before


def test_the_page_computes_what_the_gateway_does(chromium: Chromium, gateway: str) -> None:
    """The slider's arithmetic and the label table's, over thresholds, fidelities and weights of all kinds."""
    draw = random.Random(3)
    table = LabelTable()
    for _ in range(500):
        z = draw.uniform(0.7, 1.0)
        table.add(z, min(1.0, z + draw.gauss(0, 0.03)), draw.choice([1.0, 1.0, 4.0, 13.0]))
    table.add_empty(40)
    calibration = {"bins": table.bins(), "lookups": table.total}
    taus, fidelities = [0.5, 0.8, 0.8123, 0.9, 0.92, 0.9249, 0.995, 1.0], [0.8, 0.9, 0.9173, 0.99]
    with chromium.page() as watched:
        watched.page.goto(f"{gateway}/console")
        answers = watched.page.evaluate(WHAT_IF, [calibration, taus, fidelities])
    for tau, row in zip(taus, answers, strict=True):
        for fidelity, answer in zip(fidelities, row, strict=True):
            expected = table.what_if(tau, fidelity)
            assert answer["reused"] == pytest.approx(expected.reused, abs=1e-4)
            if expected.violations is None:
                assert (answer["wrong"], answer["interval"]) == (None, None)
                continue
            assert answer["wrong"] == pytest.approx(expected.violations, abs=1e-3)
            assert answer["labels"] == pytest.approx(expected.labels, rel=1e-2)
            assert answer["interval"] == pytest.approx(expected.interval, abs=1e-3)


def test_a_cluster_and_a_second_redis_are_shown(chromium: Chromium, gateway: str) -> None:
    """Sums with the fullest server, what `partly away` costs, and the semantic tier's own Redis under its own name."""
    figures = {"servers": 2, "server": "Valkey 9.1.2", "memory_bytes": 3 << 20, "memory_max_bytes": 8 << 20, "keys": 7}
    fullest = {"fullest_memory_bytes": 2 << 20, "fullest_memory_max_bytes": 4 << 20}
    counts = {"evicted_keys": 1, "expired_keys": 2}
    reading = {
        "redis": {"state": "partly away", **figures, **fullest, **counts},
        "semantic_redis": {"state": "away"},
        "local": {"workers": 1, "entries": 0, "bytes": 0, "max_bytes": 0},
        **{"written": 0, "write_dropped": 0, "cache_errors": 0, "models": []},
    }
    with chromium.page() as watched:
        watched.page.goto(f"{gateway}/console")
        text, pills, version = watched.page.evaluate(
            """async (reading) => {
                const live = await import('./console/live.js');
                live.caches(reading);
                live.pills(reading);
                return ['caches', 'pills', 'redis-version'].map(id => document.getElementById(id).textContent);
            }""",
            reading,
        )
    assert version == "Valkey 9.1.2"
    assert re.search(r"Some servers of the Redis cluster do not answer.*\(semantic_redis_url\) does not answer", text)
    assert re.search(r"2 servers: memory.*of.*the fullest server 50", text)
    assert re.search(r"Redis ▲ partly away.*Semantic Redis ✕ away", pills)


def test_rates_and_percentiles(chromium: Chromium, gateway: str) -> None:
    """Out of readings of sums: texts a second by tier, the share of hits, a quantile within its bucket, a restart."""
    with chromium.page() as watched:
        watched.page.goto(f"{gateway}/console")
        found = watched.page.evaluate(RATES)
    assert found == pytest.approx([3, 1, 0, 0.75, 0.75, 10, 0.01 * 20 / 30, None, 1])

"""`python -m loadtest.bench caches`: what is said of caches whose faults are known, and the peers' adapters' form."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from click.testing import CliRunner
from redis import Redis
from rich.console import Console

from loadtest.bench import caches
from loadtest.bench.__main__ import bench
from loadtest.bench.cache_process import ADAPTERS, CacheProcess, Stored, options_for
from loadtest.bench.cache_result import CacheResult, Measured, Round, fact, speeds
from loadtest.bench.machine import describe
from loadtest.bench.processes import BenchmarkError
from loadtest.bench.stack import Stack
from loadtest.study.candidates import KNOWN
from loadtest.study.peer_help import PEERS

TEXTS = [f"text {number}" for number in range(40)]
# Keeps vectors in a dict: under the text alone, so under any model's name; a text is embedded as often as it is asked
# for while it is missing; {lost} is added to each number; it fails after {lasts} look-ups.
NAIVE = """
PACKAGES = ("numpy", "not-there")
kept, asked = {{}}, []

def open_cache(options, embed):
    if options["redis_url"].startswith("redis://127.0.0.1:1/"):
        raise ConnectionError("no Redis")

    def look_up(texts):
        print("libraries print what they like")
        asked.append(texts)
        if len(asked) > {lasts}:
            raise TimeoutError("no more")
        missing = [text for text in texts if text not in kept]
        kept.update(zip(missing, embed(missing)) if missing else ())
        return [[number + {lost} for number in kept[text]] for text in texts]

    return look_up
"""
# One string for each text and model, for an hour.
IN_REDIS = """
import numpy, redis

PACKAGES = ("redis",)

def open_cache(options, embed):
    server = redis.Redis.from_url(options["redis_url"])

    def look_up(texts):
        keys = ["cached:" + options["model"] + ":" + text for text in texts]
        found = server.mget(keys)
        for place, (text, key) in enumerate(zip(texts, keys)):
            if found[place] is None:
                found[place] = numpy.array(embed([text])[0], "<f4").tobytes()
                server.set(key, found[place], ex=3600)
        return [numpy.frombuffer(one, "<f4") for one in found]

    return look_up
"""


def stored() -> Stored:
    rng = np.random.default_rng(0)
    return Stored(TEXTS, rng.normal(size=(len(TEXTS), 8)).astype(np.float32))


def process(folder: Path, code: str, redis_url: str = "redis://127.0.0.1:2/0") -> CacheProcess:
    """An adapter of our own, with this Python."""
    options = options_for(stored(), folder, model="a-model", ttl_s=60, redis_url=redis_url, url="")
    file = folder / "adapter.py"
    file.write_text(code, encoding="utf-8")
    return CacheProcess(sys.executable, file, options, None, ours=False)


def test_faults_are_found(tmp_path: Path) -> None:
    """A cache that keeps bytes is exact; what it embeds more than once, or for no other model, is counted."""
    with process(tmp_path, NAIVE.format(lost=0, lasts=1000)) as cache:
        assert cache.packages.keys() == {"numpy"}
        assert cache.ask("time", TEXTS[:30], batch=4)["embedded"] == 30
        assert cache.ask("time", TEXTS[:30], batch=1)["embedded"] == 0
        found = cache.ask("exact", TEXTS[:30], batch=7)
        assert (found["exact"], found["embedded"]) == (1.0, 0)
        assert found["cosine"] == pytest.approx(1)
        assert cache.ask("threads", TEXTS[:30]) == {"exact": 1.0}
        assert cache.ask("repeated", TEXTS[30:31]) == {"embedded": 8}
        assert cache.ask("at_once", TEXTS[31:32]) == {"embedded": 8}
        assert cache.ask("other_model", TEXTS[:4]) == {"embedded": 0}
        assert cache.ask("without_redis", TEXTS[:1]) == {"error": "ConnectionError"}
        with pytest.raises(BenchmarkError, match="KeyError"):
            cache.ask("exact", ["never seen"], batch=1)


def test_vectors_that_come_back_changed_are_not_exact(tmp_path: Path) -> None:
    """Not one of them, and the cosine says by how much."""
    with process(tmp_path, NAIVE.format(lost=0.01, lasts=1000)) as cache:
        found = cache.ask("exact", TEXTS, batch=1)
    assert found["exact"] == 0
    assert 0.99 < found["cosine"] < 1
    assert fact(found) == f"0% exact, cosine {found['cosine']:.4f}, 40 embedded"


def test_a_cache_that_does_not_open_says_why(tmp_path: Path) -> None:
    """Its last lines are the reason; so is a Python that is none."""
    with pytest.raises(BenchmarkError, match="No module named 'not_there'"):
        process(tmp_path, "import not_there")
    options = options_for(stored(), tmp_path, model="m", ttl_s=1, redis_url="", url="")
    with pytest.raises(BenchmarkError, match="cannot be started"):
        CacheProcess(str(tmp_path / "python"), tmp_path / "adapter.py", options, None, ours=False)


def test_entries_and_turns_on_a_real_redis(tmp_path: Path) -> None:
    """Entries' bytes and TTL are read from Redis; each round has all CPU times; one that fails is taken out."""
    with Stack() as stack:
        url = stack.redis()
        names = {"good": IN_REDIS, "bad": NAIVE.format(lost=0, lasts=70)}
        for name in names:
            (tmp_path / name).mkdir()
        with process(tmp_path / "good", IN_REDIS, url) as good, process(tmp_path / "bad", names["bad"], url) as bad:
            contenders = [
                caches.Contender(caches.Known("good", ""), good, [stack.pids[0]]),
                caches.Contender(caches.Known("bad", "", in_redis=False), bad, []),
            ]
            for contender in contenders:
                caches.fill(contender, TEXTS[:32], url)
            assert contenders[0].measured.has_ttl
            assert 32 < (contenders[0].measured.bytes_a_text or 0) < 400
            assert contenders[1].measured.bytes_a_text is None
            with Redis.from_url(url) as redis:
                assert redis.dbsize() == 32
            failed = caches.look_up_in_turn(contenders, TEXTS[:32], 64, 2, url, Console(file=io.StringIO()))
            assert failed == {"bad": "TimeoutError: no more"}
            assert good.ask("other_model", TEXTS[:4]) == {"embedded": 4}
            measured = contenders[0].measured
    assert [one.texts for one in (*measured.singles, *measured.batches)] == [64] * 4
    assert all(one.client_s > 0 and one.redis_s > 0 and one.wall_s > 0 for one in measured.singles)


def test_rates_count_client_server_and_redis() -> None:
    """Hits of one core are texts over all CPU time; tables and JSON have everything."""
    one = Measured("a [cache]", {"it": "1.0"}, [Round(100, 0.1, 0.05, 0.05, 9.0)] * 3, [Round(100, 0.05, 0, 0.05, 9.0)])
    assert speeds(one) == ["500", "500", "1,000", "500", "500", "1,000", "1,000"]
    one.bytes_a_text, one.has_ttl = 2000.0, False
    one.facts = {"exact": {"exact": 1.0, "cosine": 1.0, "embedded": 0}, "without Redis": {"error": "Refused: long"}}
    result = CacheResult("title", describe(None, None, "none"), [one], {"another": "its reason"})
    shown = io.StringIO()
    result.show(Console(file=shown, width=250))
    for part in ("a [cache]", "it 1.0", "2,000", "100% exact, 0 embedded", "Refused", "left out: another: its reason"):
        assert part in shown.getvalue()
    assert orjson.loads(orjson.dumps(result.to_dict()))["caches"][0]["singles"][0]["client_s"] == 0.1


def test_peers_that_cannot_be_understood_are_one_line(tmp_path: Path) -> None:
    """Unknown names and Pythons that are none; the help has a command for every peer."""
    for wrong in (f"nothing={sys.executable}", "redisvl", "redisvl=/no/python"):
        refused = CliRunner().invoke(bench, ["caches", "--peer", wrong])
        assert refused.exit_code == 1
        assert f"--peer {wrong}: give NAME=PYTHON" in refused.output
    shown = CliRunner().invoke(bench, ["caches", "--help"]).output
    assert all(key in shown for key in caches.PEERS)
    assert all((ADAPTERS / known.adapter).is_file() for known in (*caches.PEERS.values(), *caches.OURS))
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    assert caches.named([f"redisvl={python}"]) == {"redisvl": str(python)}


def test_every_known_candidate_has_its_command() -> None:
    """`dejavec study --list-peers` shows how to name each."""
    assert all(f"--peer {key}=" in PEERS for key, known in KNOWN.items() if known.group != "ours")


def test_too_few_texts_are_said(tmp_path: Path) -> None:
    """Before anything is asked of a server."""
    with pytest.raises(BenchmarkError, match="3 distinct texts, and 160 are needed"):
        caches.stored_from("http://127.0.0.1:1", TEXTS[:3])


def test_server_computed_texts_are_counted_by_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that fails is answered by its failure; libraries are asked two more."""
    counts = iter(range(0, 1000, 5))
    asked: list[str] = []

    class Process:
        packages: dict[str, str] = {}  # noqa: RUF012  # a stand-in

        def ask(self, do: str, texts: list[str], **_more: Any) -> dict[str, Any]:
            asked.append(do)
            if do == "threads":
                raise BenchmarkError("it broke: badly")
            return {"exact": 1.0}

    def run_counts(_url: str) -> Any:
        return type("Counts", (), {"texts": next(counts)})

    monkeypatch.setattr(caches, "run_counts", run_counts)
    many = Stored([str(number) for number in range(200)], np.zeros((200, 2), np.float32))
    served, library = (caches.Contender(caches.Known("x", ""), Process(), pids) for pids in ([1], []))  # type: ignore[arg-type]
    caches.find_facts(served, many, 0, "")
    assert served.measured.facts["repeated"] == {"exact": 1.0, "embedded": 5}
    assert served.measured.facts["threads"] == {"error": "it broke: badly"}
    assert "other model" not in served.measured.facts
    caches.find_facts(library, many, 1, "")
    assert library.measured.facts["exact"] == {"exact": 1.0}
    assert asked[-2:] == ["other_model", "without_redis"]

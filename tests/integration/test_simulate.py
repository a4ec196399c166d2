"""`dejavec cache simulate` against a stand-in engine."""

import json
import random
from pathlib import Path

from engine.protocol import Lane
from tests import command_line
from tests.stand_in_engine import StandInEngine


async def simulate(folder: Path, url: str, *words: str, stdin: bytes | None = None) -> tuple[int, str, str]:
    variables = {"DEJAVEC_ENGINE_URL": url, "DEJAVEC_MIN_TEXT_LENGTH": "3"}
    return await command_line.dejavec(folder, "cache", "simulate", *words, stdin=stdin, **variables)


def near_texts(count: int) -> list[str]:
    """Texts of ten words of five topics, most of them a word apart from others."""
    draw = random.Random(1)
    topics = [[f"w{draw.randrange(400)}" for _ in range(12)] for _ in range(5)]
    texts = []
    for _ in range(count):
        words = list(draw.choice(topics))
        words[draw.randrange(12)] = f"w{draw.randrange(400)}"
        texts.append(" ".join(words))
    return texts


async def test_several_files_with_bad_lines(tmp_path: Path) -> None:
    """What was left out, a row for each replay, the same figures as JSON; the engine gets bulk requests alone."""
    texts = near_texts(300)
    repeats = 302 - len({*texts})
    first, second, report = tmp_path / "first.txt", tmp_path / "second.jsonl", tmp_path / "report.json"
    first.write_text("\n".join([*texts[:200], "", texts[0], texts[1]]) + "\n")
    lines = [json.dumps({"text": text}) for text in texts[200:]]
    second.write_text("\n".join(["{", *lines, '{"txt": 1}']) + "\n")
    async with StandInEngine(has_static_embedding=True, tokens_per_s="1000").running() as engine:
        status, out, err = await simulate(
            tmp_path, engine.url, str(first), str(second), "--json", str(report), "--engine-price-ms", "50"
        )
        assert (status, err) == (0, "")
        assert set(engine.lanes) == {Lane.BULK}
        assert len(engine.computed) == len({*engine.computed}) == 302 - repeats
    assert out.startswith(f"302 texts, {repeats / 302:.1%} of them exact repeats\n")
    counts = "305 lines read, 302 used, 3 skipped: 1 blank, 1 not JSON"
    assert f"{counts} (first: {second}, line 1: not JSON: " in out
    found = json.loads(report.read_text())
    assert (found["log"]["lines"]["read"], found["requests"], found["exact_repeats"]) == (305, 302, repeats)
    assert found["engine_s"] == 0.014  # 14 tokens
    replays = found["replays"]
    assert [(row["mode"], row["fidelity"]) for row in replays] == [
        ("auto", 0.95),
        ("auto", 0.92),
        ("auto", 0.9),
        ("on", 0.92),
    ]
    on = replays[-1]
    assert on["hits"] > 20
    assert on["mean_similarity"] >= 0.92
    assert on["violations"] < 0.05 * on["hits"]
    assert on["saved_at_price_s"] > on["saved_s"] > 0
    assert on["first_hit_at"] < 100
    assert found["curve"][0]["tau"] == 0.8
    assert found["curve"][-1]["tau"] == 0.99
    assert found["curve"][0]["reused"] > found["curve"][-1]["reused"]
    assert not any(text in out + report.read_text() for text in texts)


async def test_standard_input_and_limit(tmp_path: Path) -> None:
    """- is standard input, in plain text; a log that is cut says so; --fidelity replaces the usual three."""
    async with StandInEngine(has_static_embedding=True).running() as engine:
        content = "\n".join(near_texts(30)).encode()
        status, out, err = await simulate(
            tmp_path, engine.url, "-", "--limit", "20", "--fidelity", "0.9", stdin=content
        )
        assert (status, err) == (0, "")
        assert out.startswith("20 texts (cut: --limit reads more), 0.0% of them exact repeats\n")
        assert out.count("\n auto ") == 1
        assert len(engine.computed) <= 20


async def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    """No usable text, no engine, no static embedding: exit status 1 and the reason."""
    log, empty = tmp_path / "log.txt", tmp_path / "empty.jsonl"
    log.write_text("a b c\n")
    empty.write_text("[]\n\n")
    nowhere = "http://127.0.0.1:1"
    status, out, err = await simulate(tmp_path, nowhere, str(empty))
    assert (status, out) == (1, "")
    assert err.startswith(
        f"Error: no text in {empty}: 2 lines read, 0 used, 2 skipped: 1 no text (first: line 1: not a JSON"
    )
    status, out, err = await simulate(tmp_path, nowhere, str(log))
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"Error: the engine at {nowhere} cannot be reached: ")
    async with StandInEngine().running() as engine:
        status, out, err = await simulate(tmp_path, engine.url, str(log))
    assert (status, out) == (1, "")
    assert err == "Error: the engine's bundle has no static embedding: build it again to get one\n"

"""The commands that read files of texts, as processes, against a real gateway: no line is lost without a word.

What ingestion does under faults is in test_ingest_faults.py, what the reader does in tests/unit/test_texts.py.
"""

import codecs
import gzip
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import orjson
import pyarrow
import pyarrow.parquet
import pytest

from tests import command_line
from tests.gateway_client import running_gateway, until_ready
from tests.stand_in_engine import StandInEngine

TEXTS = ["a b", "c d", "e f g", "h one two"]
MAX_CHARACTERS = 100
LONG = "a b " * MAX_CHARACTERS


@pytest.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine:
        yield engine


@pytest.fixture
async def gateway(engine: StandInEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with running_gateway(engine.url, max_input_chars=MAX_CHARACTERS) as client:
        await until_ready(client)
        yield client


async def dejavec(
    gateway: httpx.AsyncClient, folder: Path, *words: object, stdin: bytes | None = None
) -> tuple[int, str, str]:
    """Exit status and what the command prints."""
    return await command_line.dejavec(folder, *words, stdin=stdin, DEJAVEC_CLIENT_URL=f"{gateway.base_url}/v1/")


def json_lines(texts: list[str]) -> bytes:
    return b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts)


PLAIN = "\n".join(TEXTS).encode()
FILES = {
    "bom.txt": codecs.BOM_UTF8 + PLAIN,
    "bom.jsonl": codecs.BOM_UTF8 + json_lines(TEXTS),
    "packed.txt": gzip.compress(PLAIN),
    "texts.jsonl.gz": gzip.compress(json_lines(TEXTS)),
    "utf16.jsonl": json_lines(TEXTS).decode().encode("utf-16"),
    "crlf.txt": PLAIN.replace(b"\n", b"\r\n"),
    "texts.csv": ("text,n\n" + "".join(f'"{text}",1\n' for text in TEXTS)).encode(),
    "texts.tsv": ("n\ttext\n" + "".join(f"1\t{text}\n" for text in TEXTS)).encode(),
    "strings.jsonl": b"\n".join(map(orjson.dumps, TEXTS)),
}


# --- cache warm


@pytest.mark.parametrize("name", FILES)
async def test_warm_reads_what_people_have(gateway, engine, tmp_path, name):
    """Every text of every file reaches the engine, the first one too."""
    (tmp_path / name).write_bytes(FILES[name])
    status, out, err = await dejavec(gateway, tmp_path, "cache", "warm", name)
    assert (status, out.splitlines(), err) == (0, ["4 texts: miss 4", "4 lines read, 4 used"], "")
    assert len(engine.computed) == 4


async def test_warm_reads_parquet_and_standard_input(gateway, engine, tmp_path):
    """The latter as plain lines, or in the format that is named, packed or not."""
    pyarrow.parquet.write_table(pyarrow.table({"body": TEXTS[:2]}), tmp_path / "a.parquet")
    status, out, _ = await dejavec(gateway, tmp_path, "cache", "warm", "a.parquet", "--field", "body")
    assert (status, out.splitlines()[0]) == (0, "2 texts: miss 2")
    status, out, _ = await dejavec(gateway, tmp_path, "cache", "warm", "-", stdin=PLAIN)
    assert (status, out.splitlines()[0]) == (0, "4 texts: local 2, miss 2")
    packed = gzip.compress(json_lines(["b c"]))
    status, out, _ = await dejavec(gateway, tmp_path, "cache", "warm", "-", "--format", "jsonl", stdin=packed)
    assert (status, out.splitlines()[0]) == (0, "1 texts: miss 1")
    assert len(engine.computed) == 5


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "wrong_field.jsonl",
            b'{"body": "a"}\n{"body": "b"}\n',
            ["2 lines read, 0 used", "2 no text", "'text' is mis"],
        ),
        ("wrong_field.csv", b"body\na\n", ["the header names no column 'text'; it has body"]),
        ("zstd.txt", b"\x28\xb5\x2f\xfdxxxx", ["zstd -dc"]),
        ("cut.txt.gz", gzip.compress(PLAIN, mtime=0)[:-12], ["is damaged", "0 used"]),
        ("empty.txt", b"", ["0 lines read, 0 used"]),
        ("blank.txt", b"\n \n", ["2 lines read, 0 used", "2 blank"]),
        ("latin1.txt", "é\n".encode("latin-1"), ["1 not UTF-8", "line 1: not UTF-8"]),
    ],
)
async def test_warm_is_not_well_when_nothing_was_usable(gateway, tmp_path, name, content, words):
    """Exit status 1, with the reason and its first line."""
    (tmp_path / name).write_bytes(content)
    status, out, err = await dejavec(gateway, tmp_path, "cache", "warm", name)
    assert (status, out) == (1, "")
    assert [word for word in words if word not in err] == []


async def test_warm_counts_every_line(gateway, engine, tmp_path):
    """Six of fourteen lines can be used: the other eight are counted by reason and listed, without their texts.

    One is too long for the gateway, and its neighbours are computed all the same.
    """
    lines = [
        *(orjson.dumps({"text": text}) for text in TEXTS[:3]),
        orjson.dumps({"text": LONG}),
        b"", b'{"text": "secret"', b'{"body": "secret"}', b'{"text": ["secret"]}', b'{"text": " "}', b"\xff\xfe", b"[]",
        orjson.dumps(TEXTS[3]), orjson.dumps({"text": "two three"}), orjson.dumps({"text": "three two"}),
    ]  # fmt: skip
    (tmp_path / "texts.jsonl").write_bytes(b"\n".join(lines))
    status, out, err = await dejavec(gateway, tmp_path, "cache", "warm", "texts.jsonl", "--bad-lines", "bad.jsonl")
    assert (status, err) == (0, "")
    assert len(engine.computed) == 6
    first, second = out.splitlines()
    assert first == "6 texts: miss 6"
    assert second.startswith("14 lines read, 6 used, 8 skipped: 3 no text (first: line 7: ")
    for fault in (
        "1 blank",
        "1 not JSON (first: line 6: ",
        "1 empty text (first: line 9: ",
        "1 not UTF-8 (first: line",
    ):
        assert fault in second
    assert "1 refused by the gateway (first: line 4: refused by the gateway: an input is over 100 characters" in second
    bad = [orjson.loads(line) for line in (tmp_path / "bad.jsonl").read_bytes().splitlines()]
    assert sorted(one["line"] for one in bad) == [4, 6, 7, 8, 9, 10, 11]
    assert "secret" not in out + (tmp_path / "bad.jsonl").read_text()


async def test_warm_goes_on_behind_a_line_of_any_length(gateway, engine, tmp_path):
    """One above the reader's limit is passed over as any other line that cannot be used."""
    (tmp_path / "texts.txt").write_bytes(b"a b\n" + b"x" * (3 << 20) + b"\nc d\n")
    status, out, _ = await dejavec(gateway, tmp_path, "cache", "warm", "texts.txt")
    assert (status, out.splitlines()[0]) == (0, "2 texts: miss 2")
    assert "1 too long (first: line 2: too long: more than 1,048,576 bytes)" in out
    assert len(engine.computed) == 2


async def test_warm_says_how_far_it_came(gateway, tmp_path):
    """When the gateway refuses, or the file ends in damage, what was done is named."""
    (tmp_path / "texts.txt").write_bytes(b"\n".join(b"w%d" % number for number in range(150)))
    status, _, err = await dejavec(gateway, tmp_path, "cache", "warm", "texts.txt", "--url", "http://127.0.0.1:1")
    assert status == 1
    assert "Before that: 0 texts: none" in err
    packed = gzip.compress((tmp_path / "texts.txt").read_bytes())
    (tmp_path / "cut.gz").write_bytes(packed[:-8])
    status, _, err = await dejavec(gateway, tmp_path, "cache", "warm", "cut.gz")
    assert status == 1
    assert "is damaged behind line" in err
    assert "Before that: 128 texts: miss 128" in err


# --- ingest


def rows(path: Path) -> list[dict]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize("name", ["texts.jsonl.gz", "texts.csv", "crlf.txt"])
async def test_ingest_reads_what_people_have(gateway, tmp_path, name):
    """The same vectors from each file; those of text lines when the format is named."""
    (tmp_path / name).write_bytes(FILES[name])
    words = ("--format", "text") if "txt" in name else ()
    status, out, err = await dejavec(gateway, tmp_path, "ingest", name, "--out", "v.npy", *words)
    assert (status, out) == (0, "")
    assert "4 lines read, 4 used" in err
    reply = await gateway.post("/v1/embeddings", json={"model": "tiny", "input": TEXTS})
    expected = np.array([one["embedding"] for one in reply.json()["data"]], dtype=np.float32)
    assert np.array_equal(np.load(tmp_path / "v.npy"), expected)


async def test_ingest_from_parquet_to_parquet(gateway, tmp_path):
    """Ids and vectors in one file, with the same vectors as in an array."""
    table = pyarrow.table({"text": [*TEXTS, None], "key": [5, 6, 7, 8, 9]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    for out in ("a.parquet", "b.npy"):
        words = ("ingest", "in.parquet", "--output", out, "--id-field", "key")
        status, _, err = await dejavec(gateway, tmp_path, *words)
        assert status == 0, err
        assert "5 lines read, 4 used, 1 skipped: 1 no text" in err
    made = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert made["id"].to_pylist() == ["5", "6", "7", "8"]
    assert made["vector"].to_pylist() == np.load(tmp_path / "b.npy").tolist()
    status, _, err = await dejavec(gateway, tmp_path, "ingest", "in.parquet", "--out", "a.npy", "--id-field", "key")
    assert status == 3
    assert "a.ids.jsonl and a.bad.jsonl belong to a.parquet, and a.npy would replace them" in err
    assert "--start-over" not in err


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
async def test_ingest_goes_on_with_a_file_that_has_grown(gateway, engine, tmp_path, suffix, pack):
    """The new lines alone are asked for; a run without new lines asks for none; the ids go on."""
    source, out = tmp_path / "in.jsonl", tmp_path / f"v.{suffix}"
    words = ("ingest", source, "--out", out)
    for count in (2, 2, 3, 4, 4):
        source.write_bytes(pack(json_lines(TEXTS[:count])))
        status, _, err = await dejavec(gateway, tmp_path, *words)
        assert status == 0, err
        assert f"{count} lines read, {count} used" in err
        assert len(engine.computed) == count
        assert [row["line"] for row in rows(tmp_path / "v.ids.jsonl")] == list(range(1, count + 1))
    fresh = tmp_path / f"fresh.{suffix}"
    assert (await dejavec(gateway, tmp_path, "ingest", source, "--out", fresh))[0] == 0
    assert out.read_bytes() == fresh.read_bytes()
    whole = out.read_bytes()
    source.write_bytes(pack(json_lines(["b a", *TEXTS[1:], "new"])))
    status, _, err = await dejavec(gateway, tmp_path, *words)
    assert status == 3
    assert "the input is another one: its first 4 lines" in err
    assert out.read_bytes() == whole


async def test_ingest_from_standard_input(gateway, engine, tmp_path):
    """JSON Lines; a longer stream that begins with the same lines goes on behind them."""
    for count in (3, 4):
        words = ("ingest", "-", "--out", "v.npy")
        status, _, err = await dejavec(gateway, tmp_path, *words, stdin=gzip.compress(json_lines(TEXTS[:count])))
        assert status == 0, err
        assert len(engine.computed) == count
        assert np.load(tmp_path / "v.npy").shape[0] == count


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{\n[]\n\n", "3 lines read, 0 used, 3 skipped: 1 "),
        (b"", "0 lines read, 0 used"),
        (json_lines([LONG]), "1 refused by the gateway"),
    ],
)
async def test_ingest_is_not_well_when_every_line_is_bad(gateway, tmp_path, content, words):
    """Exit status 6, also when it is run again; then good lines that are appended make it well."""
    (tmp_path / "in.jsonl").write_bytes(content)
    for _ in range(2):
        status, _, err = await dejavec(gateway, tmp_path, "ingest", "in.jsonl", "--out", "v.npy")
        assert status == 6
        assert "Error: no line of in.jsonl was usable." in err
        assert words in err
    with (tmp_path / "in.jsonl").open("ab") as file:
        file.write(json_lines(TEXTS))
    assert (await dejavec(gateway, tmp_path, "ingest", "in.jsonl", "--out", "v.npy"))[0] == 0
    assert len(np.load(tmp_path / "v.npy")) == 4


async def test_ingest_names_what_it_skipped(gateway, tmp_path):
    """In the summary by reason, in the file of bad lines one by one."""
    (tmp_path / "in.csv").write_bytes(b'id,text\nk1,a b\nk2,\nk3\nk4,"c d"x\nk5,\xff\nk6,e f\n')
    status, _, err = await dejavec(gateway, tmp_path, "ingest", "in.csv", "--out", "v.npy")
    assert status == 0
    assert "6 lines read, 2 used, 4 skipped: " in err
    for fault in ("1 empty text", "1 no text", "1 not CSV", "1 not UTF-8"):
        assert fault in err
    assert rows(tmp_path / "v.ids.jsonl") == [{"id": "k1", "line": 2}, {"id": "k6", "line": 7}]
    assert [row["line"] for row in rows(tmp_path / "v.bad.jsonl")] == [3, 4, 5, 6]


async def test_ingest_to_another_name_is_refused(gateway, tmp_path):
    """Only formats that can be written."""
    (tmp_path / "in.jsonl").write_bytes(json_lines(TEXTS))
    status, _, err = await dejavec(gateway, tmp_path, "ingest", "in.jsonl", "--out", "v.csv")
    assert status == 2
    assert "v.csv does not end in .npy or .parquet" in err


# --- loadtest


async def test_loadtest_with_the_address_of_openai_clients(gateway, tmp_path):
    """/v1 at the end of the URL is the same gateway; lines that are skipped are counted."""
    (tmp_path / "texts.jsonl").write_bytes(codecs.BOM_UTF8 + json_lines(TEXTS) + b"{\n")
    words = ("--url", f"{gateway.base_url}/v1", "--rate", "50", "--seconds", "0.4", "--texts", "texts.jsonl")
    status, _, err = await dejavec(gateway, tmp_path, "loadtest", *words, "--json", "report.json")
    assert status == 0, err
    assert "5 lines read, 4 used, 1 skipped: 1 not JSON (first: line 5: " in err
    report = orjson.loads((tmp_path / "report.json").read_bytes())
    assert report["answered"] > 0
    status, _, err = await dejavec(gateway, tmp_path, "loadtest", "--url", "gateway:8080")
    assert status == 2
    assert "is not an http:// or https:// URL" in err


async def test_loadtest_without_a_usable_line(gateway, tmp_path):
    """Exit status 1 before anything is sent."""
    (tmp_path / "texts.jsonl").write_bytes(b"{}\n")
    status, _, err = await dejavec(gateway, tmp_path, "loadtest", "--url", gateway.base_url, "--texts", "texts.jsonl")
    assert status == 1
    assert "texts.jsonl holds no usable text: 1 lines read, 0 used, 1 skipped: 1 no text" in err


async def test_admin_commands_take_the_same_address(gateway, tmp_path):
    """`client_url` ends in /v1/ here; the gateway's own refusal shows that it was reached."""
    status, _, err = await dejavec(gateway, tmp_path, "cache", "stats")
    assert status == 1
    assert "does not answer" not in err
    assert "admin" in err

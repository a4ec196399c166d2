"""`dejavec ingest` against a real HTTP server: order, bad lines, overload, kills, and everything it must refuse.

Interrupted runs are real processes, killed while the server holds their requests back; what they leave behind is
continued and compared byte for byte with a run that nobody disturbed.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from common.texts import Format, TextForm
from gateway.client import FingerprintMismatch, InvalidReply, RequestRefused, Unauthorized, Unavailable
from gateway.client.ingest import EmbedOptions, Plan, ingest
from gateway.client.journal import CannotResume
from gateway.client.pacer import Pacer
from tests.integration.standin_gateway import StandIn, garbage, reset_mid_body, status, vector_of

COMMAND = (
    "import gateway.client.ingest as i; i.COMMIT_EVERY_S = {commit}; from gateway.client.cli import ingest; ingest()"
)


class Quiet:
    """An observer that only remembers."""

    def __init__(self) -> None:
        self.limits: list[int] = []
        self.waited = 0

    def began(self, journal, file) -> None:
        self.resumed_at = journal.counts.rows

    def wrote(self, journal, limit) -> None:
        self.limits.append(limit)

    def waits(self, error, wait_s) -> None:
        self.waited += 1


@pytest.fixture
async def gateway() -> AsyncIterator[StandIn]:
    async with StandIn() as server:
        yield server


def write_lines(path: Path, count: int, bad_every: int = 10) -> list[str]:
    """A JSONL file with a bad line now and then; the texts of its good lines."""
    draw = random.Random(count)
    texts, lines = [], []
    for number in range(count):
        if bad_every and number % bad_every == 3:
            lines.append(draw.choice([b"{broken", b"{}", b'{"text": ""}', b"[]"]))
        else:
            texts.append(f"text {number} " + "é" * draw.randrange(20))
            lines.append(orjson.dumps({"id": f"doc-{number}", "text": texts[-1]}))
    path.write_bytes(b"\n".join(lines) + b"\n")
    return texts


def plan_of(folder: Path, gateway: StandIn, **options) -> Plan:
    return Plan(folder / "in.jsonl", folder / "v.npy", gateway.url, **{"batch": 8, **options})


def outputs(folder: Path, journal: bool = True) -> dict[str, bytes]:
    names = ["v.npy", "v.ids.jsonl", "v.bad.jsonl"] + ["v.ingest.json"] * journal
    return {name: (folder / name).read_bytes() for name in names}


async def start(folder: Path, url: str, *options: str, commit: float = 0.0) -> asyncio.subprocess.Process:
    """The real command in a process of its own."""
    arguments = [str(folder / "in.jsonl"), "--out", str(folder / "v.npy"), "--url", url, "--batch", "8", *options]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", COMMAND.format(commit=commit), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


async def finished(process: asyncio.subprocess.Process) -> tuple[int, str]:
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def held_back(process: asyncio.subprocess.Process, gateway: StandIn) -> None:
    """Wait until the server has stopped answering the process, and so holds it in the middle of its work."""
    hanging, ended = asyncio.create_task(gateway.hanging.wait()), asyncio.create_task(process.wait())
    await asyncio.wait([hanging, ended], return_when=asyncio.FIRST_COMPLETED)
    if not hanging.done():
        pytest.fail(f"ended early: {await finished(process)}")
    ended.cancel()


async def test_every_text_gets_its_vector_in_the_order_of_the_lines(gateway, tmp_path):
    """Requests overlap and finish in any order; rows, ids and bad lines come out in the order of the file."""
    texts = write_lines(tmp_path / "in.jsonl", 500)
    journal = await ingest(plan_of(tmp_path, gateway), Quiet())
    assert np.array_equal(np.load(tmp_path / "v.npy"), [vector_of(text, 8) for text in texts])
    ids = [orjson.loads(line) for line in (tmp_path / "v.ids.jsonl").read_bytes().splitlines()]
    assert [row["id"] for row in ids] == [f"doc-{row['line'] - 1}" for row in ids]
    assert [row["line"] for row in ids] == [n for n in range(1, 501) if n % 10 != 4]
    bad = [orjson.loads(line) for line in (tmp_path / "v.bad.jsonl").read_bytes().splitlines()]
    assert [row["line"] for row in bad] == list(range(4, 501, 10))
    assert (journal.counts.rows, journal.counts.bad_lines, journal.complete) == (450, 50, True)
    assert sum(journal.counts.tiers.values()) == 450
    assert 2 <= gateway.most_in_flight <= 8


async def test_options_reach_the_gateway(gateway, tmp_path):
    """Model, dimensions, prompt and cache control go with every request."""
    write_lines(tmp_path / "in.jsonl", 20)
    options = EmbedOptions(model="m:document", dimensions=4, prompt_name="document", cache_control="no-store")
    await ingest(plan_of(tmp_path, gateway, embed=options, api_key="k"), Quiet())
    assert np.load(tmp_path / "v.npy").shape == (18, 4)
    assert {request["model"] for request in gateway.requests} == {"m:document"}
    assert {request["prompt_name"] for request in gateway.requests} == {"document"}
    assert {headers["x-cache-control"] for headers in gateway.headers} == {"no-store"}
    assert {headers["Authorization"] for headers in gateway.headers} == {"Bearer k"}


async def test_texts_the_gateway_refuses_are_narrowed_down_and_set_aside(gateway, tmp_path):
    """Two refused texts among many cost two bad lines, with the gateway's reason, and nothing else."""
    texts = write_lines(tmp_path / "in.jsonl", 64, bad_every=0)
    gateway.refused_texts = {texts[10], texts[40]}
    await ingest(plan_of(tmp_path, gateway, batch=16), Quiet())
    kept = [text for text in texts if text not in gateway.refused_texts]
    assert np.array_equal(np.load(tmp_path / "v.npy"), [vector_of(text, 8) for text in kept])
    bad = [orjson.loads(line) for line in (tmp_path / "v.bad.jsonl").read_bytes().splitlines()]
    assert [row["line"] for row in bad] == [11, 41]
    assert all("not welcome" in row["reason"] for row in bad)


async def test_a_request_too_large_is_halved(gateway, tmp_path):
    """413 is the fault of the batch, not of its lines: smaller requests carry them all."""
    texts = write_lines(tmp_path / "in.jsonl", 32, bad_every=0)
    gateway.misdeeds.append(status(413))
    await ingest(plan_of(tmp_path, gateway, batch=32), Quiet())
    assert np.array_equal(np.load(tmp_path / "v.npy"), [vector_of(text, 8) for text in texts])
    assert [len(request["input"]) for request in gateway.requests] == [32, 16, 16]


async def test_a_refusal_of_the_options_stops_it(gateway, tmp_path):
    """A wrong prompt name is not blamed on the lines."""
    write_lines(tmp_path / "in.jsonl", 64)
    gateway.misdeeds.extend([status(400, param="prompt_name")] * 99)
    with pytest.raises(RequestRefused):
        await ingest(plan_of(tmp_path, gateway), Quiet())
    assert (tmp_path / "v.bad.jsonl").read_bytes() == b""


async def test_overload_slows_it_down_and_loses_nothing(gateway, tmp_path, monkeypatch):
    """After 429s fewer requests are out at once; every text still gets its vector."""
    texts = write_lines(tmp_path / "in.jsonl", 400)
    gateway.misdeeds.extend([None] * 30 + [status(429)] * 4)
    limits = []

    class WatchedPacer(Pacer):
        def overloaded(self) -> None:
            before = self.limit
            super().overloaded()
            limits.append((before, self.limit))

    monkeypatch.setattr("gateway.client.ingest.Pacer", WatchedPacer)
    observer = Quiet()
    await ingest(plan_of(tmp_path, gateway, concurrency=4), observer)
    assert np.array_equal(np.load(tmp_path / "v.npy"), [vector_of(text, 8) for text in texts])
    assert observer.waited == 4
    assert limits[0][1] == limits[0][0] // 2
    assert len(limits) == 4


async def test_passing_faults_pass(gateway, tmp_path):
    """Unavailable and cut connections in the middle change nothing in the result."""
    texts = write_lines(tmp_path / "in.jsonl", 200)
    gateway.misdeeds.extend([status(503), reset_mid_body, status(502)])
    await ingest(plan_of(tmp_path, gateway), Quiet())
    assert np.array_equal(np.load(tmp_path / "v.npy"), [vector_of(text, 8) for text in texts])


async def test_kill_nine_again_and_again_changes_no_byte(gateway, tmp_path):
    """Killed three times with requests in flight, resumed each time: the files are those of a run left in peace."""
    (tmp_path / "peace").mkdir()
    (tmp_path / "war").mkdir()
    for name in ("peace", "war"):
        write_lines(tmp_path / name / "in.jsonl", 900)
    await ingest(plan_of(tmp_path / "peace", gateway), Quiet())
    committed = []
    for commit in (0.0, 0.02, 0.0):
        gateway.hang_after = len(gateway.requests) + 25
        gateway.hanging.clear()
        process = await start(tmp_path / "war", gateway.url, commit=commit)
        await held_back(process, gateway)
        process.kill()
        assert (await finished(process))[0] == -signal.SIGKILL
        with (tmp_path / "war" / "v.npy.partial").open("ab") as file:
            file.write(b"half a vector")
        committed.append(orjson.loads((tmp_path / "war" / "v.ingest.json").read_bytes())["counts"]["rows"])
        assert not (tmp_path / "war" / "v.npy").exists()
    assert committed == sorted(committed)
    assert committed[-1] > committed[0] > 0
    gateway.hang_after = None
    code, said = await finished(await start(tmp_path / "war", gateway.url))
    assert code == 0, said
    assert "810 vectors of 8 dimensions" in said
    assert outputs(tmp_path / "war") == outputs(tmp_path / "peace")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_an_interruption_says_how_to_go_on_and_going_on_works(gateway, tmp_path, sent, code):
    """Ctrl-C and SIGTERM commit what is answered, say so, and the next run finishes the same files."""
    texts = write_lines(tmp_path / "in.jsonl", 300)
    gateway.hang_after = 12
    process = await start(tmp_path, gateway.url, commit=999)
    await held_back(process, gateway)
    process.send_signal(sent)
    status_code, said = await finished(process)
    assert status_code == code, said
    assert "Run the same command again" in said
    assert "Traceback" not in said
    assert orjson.loads((tmp_path / "v.ingest.json").read_bytes())["counts"]["rows"] > 0
    gateway.hang_after = None
    code, said = await finished(await start(tmp_path, gateway.url))
    assert code == 0, said
    assert np.array_equal(np.load(tmp_path / "v.npy"), [vector_of(text, 8) for text in texts])


async def test_a_pipe_that_nobody_writes_to_can_be_left(gateway, tmp_path):
    """Ctrl-C ends a run that waits for standard input; what came before is written, and the same input goes on."""
    texts = write_lines(tmp_path / "in.jsonl", 80)
    content = (tmp_path / "in.jsonl").read_bytes()
    words = ("-", "--out", str(tmp_path / "v.npy"), "--url", gateway.url, "--batch", "8", "--concurrency", "2")
    command = (sys.executable, "-c", COMMAND.format(commit=0), *words)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    process.stdin.write(content[:1500])
    await process.stdin.drain()
    async with asyncio.timeout(60):
        while not gateway.requests:
            await asyncio.sleep(0.02)
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(60):
        said = (await process.stdout.read()).decode()
        assert (await process.wait(), "Run the same command again" in said) == (130, True), said
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    said, _ = await process.communicate(content)
    assert process.returncode == 0, said
    assert np.array_equal(np.load(tmp_path / "v.npy"), [vector_of(text, 8) for text in texts])


async def test_a_second_run_finds_it_done(gateway, tmp_path):
    """Nothing is asked for again, and the files stay as they are."""
    write_lines(tmp_path / "in.jsonl", 50)
    await ingest(plan_of(tmp_path, gateway), Quiet())
    asked, whole = len(gateway.requests), outputs(tmp_path)
    code, said = await finished(await start(tmp_path, gateway.url))
    assert code == 0, said
    assert len(gateway.requests) == asked
    assert outputs(tmp_path) == whole


async def test_batch_and_concurrency_may_differ_when_resuming(gateway, tmp_path):
    """They change how fast, not what: the result is the same."""
    texts = write_lines(tmp_path / "in.jsonl", 200)
    gateway.hang_after = 5
    process = await start(tmp_path, gateway.url)
    await held_back(process, gateway)
    process.kill()
    await finished(process)
    gateway.hang_after = None
    await ingest(plan_of(tmp_path, gateway, batch=3, concurrency=2), Quiet())
    assert np.array_equal(np.load(tmp_path / "v.npy"), [vector_of(text, 8) for text in texts])


async def interrupted(gateway: StandIn, folder: Path) -> None:
    """An ingestion that stopped half-way."""
    write_lines(folder / "in.jsonl", 100)
    original, gateway.hang_after = gateway.hang_after, 4
    task = asyncio.create_task(ingest(plan_of(folder, gateway), Quiet()))
    await gateway.hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gateway.hang_after = original


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g, f: write_lines(f / "in.jsonl", 101), "input is another one"),
        (lambda g, f: setattr(g, "fingerprint", "f2"), "must not mix"),
        (lambda g, f: setattr(g, "dimensions", 4), "dimensions is 4"),
    ],
    ids=["input", "fingerprint", "dimensions"],
)
async def test_it_refuses_to_resume_onto_something_else(gateway, tmp_path, change, message):
    """Another input, model or length of vectors: refused, nothing touched, and starting over works."""
    await interrupted(gateway, tmp_path)
    left = (tmp_path / "v.npy.partial").read_bytes()
    change(gateway, tmp_path)
    with pytest.raises(CannotResume, match=message):
        await ingest(plan_of(tmp_path, gateway), Quiet())
    assert (tmp_path / "v.npy.partial").read_bytes() == left


async def test_a_refused_resumption_says_how_to_start_over(gateway, tmp_path):
    """Exit status 3 names the option, and the option works."""
    await interrupted(gateway, tmp_path)
    write_lines(tmp_path / "in.jsonl", 101)
    code, said = await finished(await start(tmp_path, gateway.url))
    assert code == 3, said
    assert "--start-over" in said
    code, said = await finished(await start(tmp_path, gateway.url, "--start-over"))
    assert code == 0, said


async def test_it_refuses_other_options(gateway, tmp_path):
    """Another field or fidelity would make another file."""
    await interrupted(gateway, tmp_path)
    with pytest.raises(CannotResume, match="text_field"):
        await ingest(plan_of(tmp_path, gateway, form=TextForm(Format.JSONL, "body", "id")), Quiet())
    with pytest.raises(CannotResume, match="min_fidelity"):
        await ingest(plan_of(tmp_path, gateway, embed=EmbedOptions(min_fidelity=0.9)), Quiet())


async def test_a_model_that_changes_half_way_stops_it(gateway, tmp_path):
    """Vectors of the new model are not appended to those of the old one."""
    write_lines(tmp_path / "in.jsonl", 200)

    async def swap(request):
        gateway.fingerprint = "f2"
        return await status(503)(request)

    gateway.misdeeds.append(swap)
    with pytest.raises(FingerprintMismatch):
        await ingest(plan_of(tmp_path, gateway, concurrency=1), Quiet())
    assert orjson.loads((tmp_path / "v.ingest.json").read_bytes())["complete"] is False


async def test_a_model_that_changes_before_the_first_vector_stops_it(gateway, tmp_path):
    """The journal's fingerprint is the one /info gave; the first answer must have it too."""

    class Swapping(Quiet):
        def began(self, journal, file) -> None:
            gateway.fingerprint = "f2"

    write_lines(tmp_path / "in.jsonl", 20)
    with pytest.raises(FingerprintMismatch):
        await ingest(plan_of(tmp_path, gateway, embed=EmbedOptions(model="stand-in")), Swapping())
    assert orjson.loads((tmp_path / "v.ingest.json").read_bytes())["counts"]["rows"] == 0


@pytest.mark.parametrize(
    ("misdeed", "error"),
    [(status(401), Unauthorized), (garbage, InvalidReply), (status(503, "9999"), Unavailable)],
    ids=["401", "garbage", "asked to wait too long"],
)
async def test_what_does_not_pass_stops_it_resumably(gateway, tmp_path, misdeed, error):
    """A wrong key, a page from something else, an unbearable Retry-After: typed, and resumable."""
    texts = write_lines(tmp_path / "in.jsonl", 100)
    gateway.misdeeds.append(misdeed)
    with pytest.raises(error):
        await ingest(plan_of(tmp_path, gateway), Quiet())
    await ingest(plan_of(tmp_path, gateway), Quiet())
    assert np.array_equal(np.load(tmp_path / "v.npy"), [vector_of(text, 8) for text in texts])


async def test_an_input_that_grows_meanwhile_loses_nothing(gateway, tmp_path):
    """Lines that are appended while the file is read are in this run or in the next."""
    texts = write_lines(tmp_path / "in.jsonl", 50)

    async def grow(request):
        with (tmp_path / "in.jsonl").open("ab") as file:
            file.write(b'{"text": "late"}\n')
        return await status(503)(request)

    gateway.misdeeds.append(grow)
    for _ in range(2):
        await ingest(plan_of(tmp_path, gateway), Quiet())
    assert np.array_equal(np.load(tmp_path / "v.npy"), [vector_of(text, 8) for text in [*texts, "late"]])


async def test_an_input_that_is_cut_short_meanwhile_is_not_called_complete(gateway, tmp_path):
    """What was read of it is no longer there."""
    write_lines(tmp_path / "in.jsonl", 50)

    async def cut(request):
        os.truncate(tmp_path / "in.jsonl", 100)
        return await status(503)(request)

    gateway.misdeeds.append(cut)
    with pytest.raises(CannotResume, match="has become shorter"):
        await ingest(plan_of(tmp_path, gateway), Quiet())
    assert not (tmp_path / "v.npy").exists()


async def test_exit_codes(gateway, tmp_path):
    """Each way to fail has its own status and one plain message."""
    write_lines(tmp_path / "in.jsonl", 20)
    cases = [
        ([], status(401), 5, "no key was sent: set client_api_key (DEJAVEC_CLIENT_API_KEY)"),
        (["--patience", "0.2"], status(503, "60"), 4, "Run the same command again"),
    ]
    for options, misdeed, expected, words in cases:
        gateway.misdeeds.extend([misdeed] * 9)
        code, said = await finished(await start(tmp_path, gateway.url, *options))
        assert (code, words in said, "Traceback" in said) == (expected, True, False), said
        gateway.misdeeds.clear()
    code, said = await finished(await start(tmp_path, "ftp://nowhere"))
    assert (code, "not an http" in said) == (2, True), said
    code, said = await finished(await start(tmp_path, gateway.url, "--out", str(tmp_path / "missing" / "v.npy")))
    assert code == 1
    assert said == f"Error: {tmp_path}/missing/v.npy cannot be written: there is no folder {tmp_path}/missing\n"

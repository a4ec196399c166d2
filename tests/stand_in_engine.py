"""A stand-in for the engine in gateway tests: the real wire, a tiny tokenizer, and vectors that are a hash of the ids.

Real inference is tested in tests/e2e. Here a test needs an engine it can switch off, slow down and count. With
`engine_process` it is a process of its own, which can be killed and frozen.
"""

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from subprocess import PIPE

import numpy as np
from aiohttp import web
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from engine import protocol
from engine.build.static_embedding.quick import StaticEmbedding
from engine.protocol import EngineInfo, Float32Array

DIMENSIONS = 8
MAX_TOKENS = 16
FIRST_NUMBERED, NUMBERED = 200, 400  # words w0, w1, ...
WIDTH = 32  # of the engine that has a static embedding
NEGATION = 113  # the word "x": to that engine the opposite, to its static embedding nothing


def tiny_tokenizer() -> Tokenizer:
    """Splits on whitespace; each word is a token by its letters; [CLS] and [SEP] around."""
    words = {word: 100 + position for position, word in enumerate("a b c d e f g h one two three query : x".split())}
    words |= {f"w{number}": FIRST_NUMBERED + number for number in range(NUMBERED)}
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, **words}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def vector_of(input_ids: list[int]) -> Float32Array:
    """The unit vector this engine gives for token ids."""
    raw = np.random.default_rng(input_ids).standard_normal(DIMENSIONS).astype(np.float32)
    return (raw / np.linalg.norm(raw)).astype(np.float32)


@cache
def meaning_table() -> Float32Array:
    """A direction a token, float32[V, WIDTH]; special tokens and the negation have none."""
    table = np.random.default_rng(7).standard_normal((FIRST_NUMBERED + NUMBERED, WIDTH)).astype(np.float32)
    table[[0, 1, 2, NEGATION]] = 0
    return table


def meaning_of(input_ids: list[int]) -> Float32Array:
    """The unit vector of an engine to which texts of like words are alike, and "x" turns all around."""
    raw = meaning_table()[input_ids].sum(axis=0)
    return np.asarray(raw / np.linalg.norm(raw) * (-1 if NEGATION in input_ids else 1), dtype=np.float32)


def static_embedding_bytes() -> bytes:
    """That engine's static embedding: it is exact, but for the negation, so it asks for little margin."""
    return StaticEmbedding(meaning_table(), np.eye(WIDTH, dtype=np.float32), {"margin": 0.01}).to_bytes()


@dataclass
class StandInEngine:
    """What it has computed, and how it should misbehave."""

    fingerprint: str = "f" * 32
    model: str = "tiny"
    computed: list[tuple[int, ...]] = field(default_factory=list)
    lanes: list[protocol.Lane] = field(default_factory=list)
    cancelled: int = 0
    ready: bool = True
    gate: asyncio.Event | None = None  # when set, answers wait for it
    refusal: tuple[int, str, dict[str, str]] | None = None  # status, error type, headers
    spoil: bytes | None = None  # answered instead of vectors
    tokens_per_s: str | None = None  # the rate it says it has
    delay_s: float = 0.0  # before each answer with vectors
    frozen: bool = False  # answers nothing at all, on any route
    missing: str = ""  # the path that it does not have
    asked: int = 0  # for its state, on any route
    has_static_embedding: bool = False  # serve `meaning_of` and its static embedding instead of hashes
    url: str = ""

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            model=self.model,
            fingerprint=self.fingerprint,
            kernel_class="int8-exact",
            dimensions=WIDTH if self.has_static_embedding else DIMENSIONS,
            max_tokens=MAX_TOKENS,
            max_request_items=2048,
            max_request_tokens=2048 * MAX_TOKENS,
            prompts={"query": "query : ", "document": ""},
            static_embedding_sha256=self.static_embedding_sha256,
        )

    @property
    def static_embedding_sha256(self) -> str:
        return hashlib.sha256(static_embedding_bytes()).hexdigest() if self.has_static_embedding else ""

    def vector(self, input_ids: list[int]) -> Float32Array:
        """What it gives for token ids."""
        return meaning_of(input_ids) if self.has_static_embedding else vector_of(input_ids)

    async def vectors(self, request: web.Request) -> web.Response:
        batch = protocol.decode_request(await request.read())
        self.lanes.append(batch.lane)
        await self._until_thawed()
        await asyncio.sleep(self.delay_s)
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        headers = {protocol.FINGERPRINT_HEADER: self.fingerprint}
        if self.tokens_per_s is not None:
            headers[protocol.RATE_HEADER] = self.tokens_per_s
        if request.headers.get(protocol.FINGERPRINT_HEADER) != self.fingerprint:
            return web.Response(status=409, body=protocol.error_body("another model", "fingerprint_mismatch"))
        if self.refusal is not None:
            status, kind, more = self.refusal
            return web.Response(status=status, body=protocol.error_body("refused", kind), headers=more)
        texts = [ids.tolist() for ids in np.split(batch.input_ids, np.cumsum(batch.lengths)[:-1])]
        self.computed += [tuple(ids) for ids in texts]
        body = protocol.encode_response(np.stack([self.vector(ids) for ids in texts]))
        return web.Response(body=self.spoil or body, headers=headers)

    async def _until_thawed(self) -> None:
        while self.frozen:
            await asyncio.sleep(0.01)

    async def state(self, request: web.Request) -> web.Response:
        self.asked += 1
        await self._until_thawed()
        if request.path == self.missing:
            return web.Response(status=404)
        if request.path == protocol.INFO_PATH:
            return web.Response(body=self.info.to_json())
        if request.path == protocol.TOKENIZER_PATH:
            return web.Response(body=tiny_tokenizer().to_str().encode())
        if request.path == protocol.STATIC_EMBEDDING_PATH:
            return web.Response(body=static_embedding_bytes())
        rate = {protocol.RATE_HEADER: self.tokens_per_s} if self.tokens_per_s is not None else {}
        return web.Response(status=200 if self.ready else 503, headers=rate)

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator["StandInEngine"]:
        """Serve on a free port (or the given one) until the block ends."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post(protocol.VECTORS_PATH, self.vectors)
        app.router.add_get("/{tail:.*}", self.state)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


@dataclass(frozen=True)
class EngineProcess:
    """A stand-in that runs as a process: where it answers, and the process to send signals to."""

    url: str
    process: asyncio.subprocess.Process


@asynccontextmanager
async def engine_process(fingerprint: str, tokens_per_s: str) -> AsyncIterator[EngineProcess]:
    """A stand-in engine in a process of its own until the block ends."""
    command = (sys.executable, "-m", "tests.stand_in_engine", fingerprint, tokens_per_s)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    try:
        assert process.stdout is not None
        yield EngineProcess((await process.stdout.readline()).decode().strip(), process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _serve(fingerprint: str, tokens_per_s: str) -> None:
    async with StandInEngine(fingerprint=fingerprint, tokens_per_s=tokens_per_s).running() as engine:
        print(engine.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))

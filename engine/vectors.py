"""`POST /vectors`: a message in, through the batcher, vectors out. A bare ASGI callable, as it is the only hot path."""

import asyncio
import itertools
import logging
import time
from typing import Any

import numpy as np
import orjson
from starlette.types import Receive, Scope, Send

from common import asgi, tracing
from common.asgi import BodyLimits, ClientGone, Headers, Reply, media_type, read_body, send_reply
from common.disconnects import DisconnectWatch
from engine.errors import (
    BodyTimeout,
    BodyTooLarge,
    DeadlineExceeded,
    EngineError,
    EngineFailed,
    FingerprintMismatch,
    InvalidMessage,
    TextTooLong,
    TokenOutOfVocabulary,
    UnsupportedMediaType,
)
from engine.protocol import (
    ALL_RUNS_RATE_HEADER,
    CONTENT_TYPE,
    DEADLINE_HEADER,
    FINGERPRINT_HEADER,
    MAX_REQUEST_ITEMS,
    QUEUE_HEADER,
    RATE_HEADER,
    Float32Array,
    Int32Array,
    Lane,
    ProtocolError,
    decode_request,
    encode_response,
)
from engine.replies import error_reply, fault_reply
from engine.serving import Engine

logger = logging.getLogger(__name__)

CLIENT_CLOSED = 499  # nginx's number for a client that left; only seen in metrics
BODY_TIMEOUT_S = 30.0
WATCH_AFTER_S = 0.025  # a client that leaves is noticed within twice that
_BINARY = CONTENT_TYPE.encode()
_FINGERPRINT = FINGERPRINT_HEADER.encode()
_DEADLINE = DEADLINE_HEADER.encode()
_RATE = RATE_HEADER.encode()
_ALL_RUNS_RATE = ALL_RUNS_RATE_HEADER.encode()
_QUEUE = QUEUE_HEADER.encode()


class VectorsEndpoint:
    """Answers `POST /vectors` from one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._limits = BodyLimits(engine.max_body_bytes, BODY_TIMEOUT_S)
        self._watch = DisconnectWatch(WATCH_AFTER_S)
        self._fingerprint = engine.info.fingerprint.encode()
        self._common: Headers = [(_FINGERPRINT, self._fingerprint)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens to it."""
        started_s = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            reply = await self._answer(scope, headers, receive)
        except ClientGone:
            self._engine.metrics.request_done(CLIENT_CLOSED, time.perf_counter() - started_s)
            return
        except TimeoutError:
            reply = error_reply(DeadlineExceeded("the deadline passed while the texts were tokenized"), self._common)
        except EngineError as error:
            if isinstance(error, EngineFailed | DeadlineExceeded):
                logger.warning("a request failed: %s", error)
            reply = error_reply(error, self._common)
        except Exception:
            logger.exception("a request failed in an unforeseen way")
            reply = fault_reply(500, "the engine failed in an unforeseen way", "internal_error", self._common)
        self._engine.metrics.request_done(reply.status, time.perf_counter() - started_s)
        await send_reply(reply, send)

    async def _answer(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> Reply:
        if scope["method"] != "POST":
            reply = fault_reply(405, "use POST", "method_not_allowed", self._common)
            reply.headers.append((b"allow", b"POST"))
            return reply
        self._check_fingerprint(headers)
        kind = media_type(headers)
        deadline_s = _deadline_s(headers)
        if kind == _BINARY:
            texts, lane = self._decode(await self._read_body(scope, headers, receive))
            vectors = await self._compute(texts, lane, deadline_s, receive)
            return Reply(encode_response(vectors), [*self._common, *self._load()], content_type=_BINARY)
        if kind == asgi.JSON:
            body = await self._read_body(scope, headers, receive)
            until = None if deadline_s is None else asyncio.get_running_loop().time() + deadline_s
            with self._watch.guard(receive, until):
                texts = await self._decode_json(body)
            vectors = await self._compute(texts, Lane.INTERACTIVE, deadline_s, receive)
            return Reply(self._encode_json(vectors), self._common)
        raise UnsupportedMediaType(f"send {CONTENT_TYPE} or {asgi.JSON.decode()}")

    def _load(self) -> Headers:
        """What the caller chooses between engines by."""
        batcher = self._engine.batcher
        return [
            (_RATE, b"%.0f" % batcher.run_tokens_per_s),
            (_ALL_RUNS_RATE, b"%.0f" % batcher.tokens_per_s),
            (_QUEUE, b"%d" % batcher.queued_tokens),
        ]

    def _check_fingerprint(self, headers: dict[bytes, bytes]) -> None:
        expected = headers.get(_FINGERPRINT)
        if expected is not None and expected != self._fingerprint:
            raise FingerprintMismatch(f"this engine's fingerprint is {self._engine.info.fingerprint}")

    async def _read_body(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The whole body. Raises BodyTooLarge before reading more than the limit, BodyTimeout, ClientGone."""
        try:
            return await read_body(headers, receive, self._limits, scope)
        except asgi.BodyTooLarge:
            raise BodyTooLarge(f"the body has more than {self._limits.max_bytes} bytes") from None
        except asgi.BodyTimeout:
            raise BodyTimeout(f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from None

    def _decode(self, body: bytes) -> tuple[list[Int32Array], Lane]:
        try:
            batch = decode_request(body)
        except ProtocolError as error:
            raise InvalidMessage(str(error)) from None
        lengths = batch.lengths.tolist()
        self._check_tokens(batch.input_ids, max(lengths))
        ends = itertools.accumulate(lengths)
        return [batch.input_ids[end - n : end] for n, end in zip(lengths, ends, strict=True)], batch.lane

    async def _decode_json(self, body: bytes) -> list[Int32Array]:
        try:
            message = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidMessage(f"the body is not JSON: {error}") from None
        if not isinstance(message, dict) or len(message.keys() & {"texts", "input_ids"}) != 1:
            raise InvalidMessage('send {"texts": [...]} or {"input_ids": [[...]]}')
        if "texts" in message:
            rows = await self._engine.tokenize(_texts(message["texts"]))
            if not all(map(len, rows)):
                raise InvalidMessage("a text has no tokens at all")
            return rows
        rows = [_token_ids(row) for row in _list(message["input_ids"], "input_ids")]
        self._check_tokens(np.concatenate(rows), max(map(len, rows)))
        return rows

    def _check_tokens(self, input_ids: Int32Array, longest: int) -> None:
        bundle = self._engine.model.bundle
        if longest > bundle.max_tokens:
            raise TextTooLong(f"a text has {longest} tokens; this model takes {bundle.max_tokens}")
        if int(input_ids.max()) >= bundle.vocab_size:
            raise TokenOutOfVocabulary(f"a token id is not below {bundle.vocab_size}, the size of the vocabulary")

    async def _compute(
        self, texts: list[Int32Array], lane: Lane, deadline_s: float | None, receive: Receive
    ) -> Float32Array:
        """Wait for the vectors; a client that leaves withdraws its texts. Raises ClientGone, EngineError."""
        if tracing.tracer is not None:
            tracing.describe(
                {"dejavec.texts": len(texts), "dejavec.tokens": sum(map(len, texts)), "dejavec.lane": lane.name}
            )
        future = self._engine.batcher.submit(texts, lane, deadline_s)
        with self._watch.guard(receive):
            return await future

    def _encode_json(self, vectors: Float32Array) -> bytes:
        answer = {"embeddings": vectors, "fingerprint": self._engine.info.fingerprint}
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _deadline_s(headers: dict[bytes, bytes]) -> float | None:
    value = headers.get(_DEADLINE)
    if value is None:
        return None
    try:
        deadline_ms = float(value)
    except ValueError:
        raise InvalidMessage(f"{DEADLINE_HEADER} is not a number") from None
    if not deadline_ms > 0:
        raise DeadlineExceeded("the deadline had passed on arrival")
    return min(deadline_ms / 1000, 86_400.0)


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_REQUEST_ITEMS:
        raise InvalidMessage(f"{name} must be a list of 1 to {MAX_REQUEST_ITEMS}")
    return value


def _texts(value: Any) -> list[str]:
    texts = _list(value, "texts")
    if not all(isinstance(text, str) for text in texts):
        raise InvalidMessage("texts must be strings")
    return texts


def _token_ids(row: Any) -> Int32Array:
    if not isinstance(row, list) or not row or not all(type(token) is int and 0 <= token < 2**31 for token in row):
        raise InvalidMessage("each of input_ids must be a list of token ids, not empty")
    return np.array(row, dtype=np.int32)

"""The client of the engine: its identity, whether it is ready, and vectors for token ids.

One background loop (`run_watch`) reads every second which model the engine serves, and whether a real inference passed
lately. While the engine is away, requests fail at once with EngineAway instead of each waiting for its own time-out.

Why it is away is kept twice: as a few fixed words for clients, who need no key to read `/ready`, and with address,
paths and the engine's own words for the log and for operators.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import aiohttp
import numpy as np
from multidict import CIMultiDictProxy
from tokenizers import Tokenizer

from common import request_ids, tracing
from common.credentials import shown_url, shown_urls_in
from common.reply_parsing import error_in, retry_after_s
from engine import protocol
from engine.bundle import BundleError, parse_tokenizer
from engine.text_encoder import EncodedText, TextEncoder
from gateway.errors import BadRequest, DeadlineExceeded, EngineAway, EngineFailed, ModelChanged, Overloaded

log = logging.getLogger("dejavec.gateway")

WATCH_INTERVAL_S: Final = 1.0
WATCH_TIMEOUT_S: Final = 3.0
CONNECT_TIMEOUT_S: Final = 1.0
MAX_CONNECTIONS: Final = 256
MAX_REASON_CHARS: Final = 4000
REFUSED: Final = "it cannot start again; the log of its supervisor has the reason"


class Model:
    """The engine's model as this gateway read it: its identity, its tokenizer and its static embedding."""

    def __init__(self, info: protocol.EngineInfo, encoder: TextEncoder, static_embedding: bytes | None) -> None:
        self.info = info
        self.encoder = encoder
        self.static_embedding = static_embedding  # the bundle's file, for the semantic tier


class EngineClient:
    """One engine behind one URL; `refusal_file` appears when its supervisor does not start it again."""

    def __init__(self, url: str, http: aiohttp.ClientSession, refusal_file: Path | None = None) -> None:
        self._url = url
        self._http = http
        self._refusal_file = refusal_file
        self._model: Model | None = None
        self._tokens_per_s: float | None = None
        self._away_since: float | None = time.monotonic()
        self._away_reason = self._away_detail = "it has not answered yet"
        self._refreshing = asyncio.Lock()
        self._tokenizer: tuple[Model, Tokenizer] | None = None
        self._followers: list[Callable[[], None]] = []

    @property
    def model(self) -> Model:
        """The model in service. Raises EngineAway while the engine has never been reached."""
        if self._model is None:
            raise EngineAway("the engine cannot be reached yet: is it running?", retry_after_s=1)
        return self._model

    @property
    def current_model(self) -> Model | None:
        """The model in service; None while the engine has never been reached."""
        return self._model

    def on_change(self, follow: Callable[[], None]) -> None:
        """Call `follow`, from now on, whenever the engine turns out to serve another model."""
        self._followers.append(follow)

    def run_s(self, tokens: int) -> float | None:
        """Seconds the engine computes for so many tokens, waiting left out, as it reported last; None before it did."""
        return None if self._tokens_per_s is None else tokens / self._tokens_per_s

    @property
    def is_ready(self) -> bool:
        """Whether a real inference passed lately."""
        return self._away_since is None

    @property
    def away_reason(self) -> str:
        """Why it is not ready, for clients; empty when it is."""
        return "" if self.is_ready else self._away_reason

    @property
    def away_detail(self) -> str:
        """Why it is not ready, for operators: may name hosts and files, never credentials; empty when it is."""
        return "" if self.is_ready else self._away_detail

    async def vectors(
        self, model: Model, texts: Sequence[EncodedText], lane: protocol.Lane, deadline: float
    ) -> protocol.Float32Array:
        """float32[n, dimensions] for the token ids, in order; `deadline` is in event-loop time.

        Raises EngineAway, EngineFailed, Overloaded, DeadlineExceeded, ModelChanged.
        """
        if self._away_since is not None:
            raise EngineAway(f"the engine is not ready: {self._away_reason}", retry_after_s=1)
        remaining_s = deadline - asyncio.get_running_loop().time()
        if remaining_s <= 0:
            raise DeadlineExceeded("the request's deadline passed before the engine was called")
        body = protocol.encode_request([np.frombuffer(t.input_ids, dtype=np.int32) for t in texts], lane)
        headers = {
            "content-type": protocol.CONTENT_TYPE,
            protocol.FINGERPRINT_HEADER: model.info.fingerprint,
            protocol.DEADLINE_HEADER: str(int(remaining_s * 1000)),
        }
        if request_id := request_ids.current.get():
            headers[request_ids.HEADER] = request_id
        if tracing.tracer is not None:
            tracing.inject(headers)
        status, answer_headers, answer = await self._post(body, headers, remaining_s)
        if status != 200:
            raise self._refusal(status, answer_headers, answer)
        if answer_headers.get(protocol.FINGERPRINT_HEADER) != model.info.fingerprint:
            raise ModelChanged
        self._tokens_per_s = _rate(answer_headers) or self._tokens_per_s
        return _sound_vectors(answer, (len(texts), model.info.dimensions))

    async def _static_embedding(self, info: protocol.EngineInfo) -> bytes | None:
        """The file that the engine names; None where it names none. Raises ProtocolError for another one."""
        if not info.static_embedding_sha256:
            return None
        content = await self._get(protocol.STATIC_EMBEDDING_PATH)
        if hashlib.sha256(content).hexdigest() != info.static_embedding_sha256:
            raise protocol.ProtocolError("the static embedding is not the one that the engine names")
        return content

    async def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model in service, which cuts nothing off; read when it is first asked for.

        Raises EngineAway.
        """
        model = self.model
        if self._tokenizer is None or self._tokenizer[0] is not model:
            try:
                content = await self._get(protocol.TOKENIZER_PATH)
            except (aiohttp.ClientError, OSError, TimeoutError, protocol.ProtocolError) as error:
                raise EngineAway("the engine, which has the tokenizer, cannot be reached", retry_after_s=1) from error
            tokenizer = await asyncio.to_thread(parse_tokenizer, content, model.info.max_tokens)
            tokenizer.no_truncation()
            self._tokenizer = model, tokenizer
        return self._tokenizer[1]

    async def refresh(self) -> None:
        """Read the engine's identity, and its tokenizer when the model is another. Raises EngineAway."""
        async with self._refreshing:
            try:
                info = protocol.EngineInfo.from_json(await self._get(protocol.INFO_PATH))
                known = self._model.info if self._model else None
                if info != known:
                    encoder = TextEncoder(await self._get(protocol.TOKENIZER_PATH), info.max_tokens)
                    self._model = Model(info, encoder, await self._static_embedding(info))
                    log.info("engine: %s, fingerprint %s, %s", info.model, info.fingerprint, info.kernel_class)
                    for follow in self._followers:
                        follow()
            except (aiohttp.ClientError, OSError, TimeoutError, protocol.ProtocolError, BundleError) as error:
                reason = type(error).__name__
                raise EngineAway(f"the engine cannot be reached ({reason})", retry_after_s=1) from error

    async def run_watch(self) -> None:
        """Keep identity and readiness true until cancelled."""
        while True:
            await self._look()
            await asyncio.sleep(WATCH_INTERVAL_S if self.is_ready else WATCH_INTERVAL_S / 4)

    async def _look(self) -> None:
        try:
            await self.refresh()
            timeout = aiohttp.ClientTimeout(total=WATCH_TIMEOUT_S)
            async with self._http.get(self._url + "/ready", timeout=timeout) as answer:
                content = await answer.content.read(2048)
            if answer.status == 200:
                self._back()
            else:
                self._away(f"its /ready answers {answer.status}", _message_of(content))
        except EngineAway as error:
            self._away(error.message, str(error.__cause__))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._away(type(error).__name__, str(error))

    def _away(self, reason: str, detail: str = "") -> None:
        refusal = self._supervisor_reason()
        reason = REFUSED if refusal else reason
        detail = f"{shown_url(self._url)}: {shown_urls_in(refusal or detail) or reason}"[:MAX_REASON_CHARS]
        if self._away_since is None or reason != self._away_reason:
            log.warning("the engine is away: %s (%s)", reason, detail)
        self._away_since = self._away_since or time.monotonic()
        self._away_reason, self._away_detail = reason, detail

    def _supervisor_reason(self) -> str:
        """Why its supervisor does not start the engine again; empty while it does."""
        if self._refusal_file is None:
            return ""
        try:
            return self._refusal_file.read_text(encoding="utf-8", errors="replace").strip()[:MAX_REASON_CHARS]
        except OSError:
            return ""

    def _back(self) -> None:
        if self._away_since is not None:
            log.info("the engine is ready after %.1f s", time.monotonic() - self._away_since)
        self._away_since = None

    async def _get(self, path: str) -> bytes:
        timeout = aiohttp.ClientTimeout(total=WATCH_TIMEOUT_S)
        async with self._http.get(self._url + path, timeout=timeout) as answer:
            if answer.status != 200:
                raise protocol.ProtocolError(f"{path} answers {answer.status}")
            return await answer.read()

    async def _post(
        self, body: bytes, headers: dict[str, str], remaining_s: float
    ) -> tuple[int, CIMultiDictProxy[str], bytes]:
        """One request; a kept connection that the engine had closed meanwhile is tried once more on a fresh one."""
        timeout = aiohttp.ClientTimeout(total=remaining_s, sock_connect=CONNECT_TIMEOUT_S)
        for attempt in (1, 2):
            try:
                async with self._http.post(
                    self._url + protocol.VECTORS_PATH, data=body, headers=headers, timeout=timeout
                ) as answer:
                    return answer.status, answer.headers, await answer.read()
            except aiohttp.ConnectionTimeoutError as error:
                raise self._lost(error) from error
            except TimeoutError as error:
                raise DeadlineExceeded("the engine did not answer within the request's deadline") from error
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if attempt == 2 or isinstance(error, aiohttp.ClientConnectorError):
                    raise self._lost(error) from error
            except aiohttp.ClientError as error:
                raise self._lost(error) from error
        raise AssertionError("unreachable")

    def _lost(self, error: Exception) -> EngineAway:
        self._away(type(error).__name__)
        return EngineAway("the engine cannot be reached; what is cached is still served", retry_after_s=1)

    def _refusal(self, status: int, headers: CIMultiDictProxy[str], answer: bytes) -> Exception:
        """The engine's refusal as one of ours."""
        message, kind = _message_of(answer), _type_of(answer)
        if status == 409:
            return ModelChanged()
        if status == 429:
            return Overloaded(
                f"the engine is full: {message}", retry_after_s=retry_after_s(headers.get("Retry-After")) or 1.0
            )
        if status in {400, 413}:
            return BadRequest(f"the engine refuses this input: {message}", param="input")
        if kind == "deadline_exceeded":
            return DeadlineExceeded("the engine could not answer within the request's deadline", retry_after_s=1)
        if kind == "draining":
            self._away("it is shutting down")
            return EngineAway("the engine is restarting", retry_after_s=1)
        return EngineFailed("the engine could not compute this request", retry_after_s=1)


def _sound_vectors(answer: bytes, shape: tuple[int, int]) -> protocol.Float32Array:
    """The vectors, or EngineFailed when shape or values are wrong: a wrong vector is worse than an error."""
    try:
        vectors = protocol.decode_response(answer)
    except protocol.ProtocolError as error:
        raise EngineFailed("the engine's answer is damaged", retry_after_s=1) from error
    if vectors.shape != shape or not np.isfinite(vectors).all():
        raise EngineFailed("the engine's answer has the wrong shape or is not finite", retry_after_s=1)
    return vectors


def _message_of(content: bytes) -> str:
    return str(error_in(content).get("message", ""))[:500]


def _type_of(content: bytes) -> str:
    return str(error_in(content).get("type", ""))


def _rate(headers: CIMultiDictProxy[str]) -> float | None:
    try:
        rate = float(headers[protocol.RATE_HEADER])
    except (KeyError, ValueError):
        return None
    return rate if 0 < rate < float("inf") else None

"""One engine over HTTP: its identity, whether it is ready, and vectors for token ids.

Why it is away is kept twice: as a few fixed words for clients, who need no key to read `/ready`, and with address,
paths and the engine's own words for the log and for operators.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import numpy as np
from multidict import CIMultiDictProxy

from common.credentials import shown_url, shown_urls_in
from common.reply_parsing import error_in, retry_after_s
from engine import protocol
from engine.text_encoder import EncodedText
from gateway.engines.addresses import Address
from gateway.engines.balance import AVOID_S, EngineLoad
from gateway.errors import (
    BadRequest,
    DeadlineExceeded,
    EngineAway,
    EngineFailed,
    GatewayError,
    ModelChanged,
    Overloaded,
)

log = logging.getLogger("dejavec.gateway")

WATCH_TIMEOUT_S: Final = 3.0
SECOND_LOOK_S: Final = 1.0  # at most, after one that was late
FILE_TIMEOUT_S: Final = 60.0  # of a file that keeps coming: a static embedding may have over 100 MB
CONNECT_TIMEOUT_S: Final = 1.0
MAX_REASON_CHARS: Final = 4000
REFUSED: Final = "it cannot start again; the log of its supervisor has the reason"
UNREACHABLE: Final = "it cannot be reached"
BROKE_OFF: Final = "its connection broke off"
LATE: Final = "it does not answer in time"
NO_ENGINE: Final = "what answers there does not answer as an engine"
READY_PATH: Final = "/ready"


@dataclass(frozen=True, slots=True)
class Call:
    """Texts of one or several requests for one engine. `deadline` is in event-loop time.

    headers: the request's id and trace, for the engine's log and spans; of several requests the first one's.
    """

    fingerprint: str
    dimensions: int
    texts: Sequence[EncodedText]
    lane: protocol.Lane
    deadline: float
    tokens: int
    headers: Mapping[str, str] = field(default_factory=dict)


class CallFailed(Exception):
    """An engine did not answer a call; `error` is the client's, unless another engine answers.

    elsewhere: another engine may. ran: this one may have begun. blame: it counts against this engine once another has
    answered the same call; until then the call itself may be what no engine can answer.
    """

    def __init__(
        self, error: GatewayError | ModelChanged, *, elsewhere: bool = True, ran: bool = False, blame: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.elsewhere = elsewhere
        self.ran = ran
        self.blame = blame


class EngineConnection:
    """One engine behind one address; `refusal_file` appears when its supervisor does not start it again."""

    def __init__(
        self,
        address: Address,
        http: aiohttp.ClientSession,
        clock: Callable[[], float] = time.monotonic,
        refusal_file: Path | None = None,
        label: str = "engine-1",
    ) -> None:
        self.address = address
        self.label = label  # in metrics
        self.shown_url = shown_url(address.url)
        self.load = EngineLoad(clock)
        self.info: protocol.EngineInfo | None = None  # None before it answered, and when it turned out to be another
        self.was_seen = False  # one look, whatever it found
        self._late_looks = 0  # in a row
        # An engine found by a name shows a certificate for that name, not for its address.
        self._tls_name = address.name if address.url.startswith("https:") else None
        self._http = http
        self._clock = clock
        self._refusal_file = refusal_file
        self._away_since: float | None = clock()
        self._reason = self._detail = "it has not answered yet"

    @property
    def is_ready(self) -> bool:
        """Whether a real inference passed lately."""
        return self._away_since is None

    @property
    def is_late(self) -> bool:
        """Whether the last look at it got no answer in time."""
        return self._late_looks > 0

    @property
    def reason(self) -> str:
        """Why it is not ready, for clients; empty when it is."""
        return "" if self.is_ready else self._reason

    @property
    def detail(self) -> str:
        """Why it is not ready, for operators: may name hosts and files, never credentials; empty when it is."""
        return "" if self.is_ready else self._detail

    async def read_info(self, timeout_s: float | None = None) -> protocol.EngineInfo:
        """The engine's identity, asked now. Raises EngineAway."""
        try:
            self.info = protocol.EngineInfo.from_json(await self.get(protocol.INFO_PATH, timeout_s))
        except (aiohttp.ClientError, OSError, TimeoutError, protocol.ProtocolError) as error:
            raise EngineAway(f"the engine is not ready: {plain_reason(error)}", retry_after_s=1) from error
        return self.info

    async def look(self) -> None:
        """Find out identity and readiness; what goes wrong is kept as the reason.

        An engine that was ready and is late gets a second, shorter look before it is away: on a busy machine a reply of
        a moment can take seconds, and being away fails every request that needs the engine.
        """
        timeout_s = SECOND_LOOK_S if self.is_late else WATCH_TIMEOUT_S
        try:
            await self.read_info(timeout_s)
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with self._http.get(
                self.address.url + READY_PATH, timeout=timeout, server_hostname=self._tls_name
            ) as answer:
                content = await answer.content.read(2048)
            self.load.heard_at = self._clock()
            self._late_looks = 0
            if answer.status == 200:
                self._read_load(answer.headers)
                self._back()
            else:
                self.away(f"its /ready answers {answer.status}", _message_of(content))
        except EngineAway as error:
            self._missed(error.__cause__ or error)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._missed(error)
        finally:
            self.was_seen = True

    def _missed(self, error: BaseException) -> None:
        self._late_looks = self._late_looks + 1 if isinstance(error, TimeoutError) else 0
        if self._late_looks != 1 or not self.is_ready:
            self.failed(error)

    async def static_embedding(self, info: protocol.EngineInfo) -> bytes | None:
        """The file that `info` names; None where it names none. Raises ProtocolError for another one."""
        if not info.static_embedding_sha256:
            return None
        content = await self.get(protocol.STATIC_EMBEDDING_PATH, FILE_TIMEOUT_S)
        if hashlib.sha256(content).hexdigest() != info.static_embedding_sha256:
            raise protocol.ProtocolError("the static embedding is not the one that the engine names")
        return content

    async def get(self, path: str, timeout_s: float | None = None) -> bytes:
        """The body of a path: all of it within `timeout_s`, by default that of a look, and each part within that.

        Raises ClientError, OSError, TimeoutError, ProtocolError.
        """
        timeout = aiohttp.ClientTimeout(total=timeout_s or WATCH_TIMEOUT_S, sock_read=WATCH_TIMEOUT_S)
        async with self._http.get(self.address.url + path, timeout=timeout, server_hostname=self._tls_name) as answer:
            if answer.status != 200:
                raise protocol.ProtocolError(f"{path} answers {answer.status}")
            content = await answer.read()
        self.load.heard_at = self._clock()
        return content

    async def report(self, http: aiohttp.ClientSession, path: str, max_bytes: int) -> tuple[int, bytes]:
        """Status and body of a path, over a session of the caller's, so that it takes no connection from calls.

        Raises ClientError, OSError, TimeoutError, and ProtocolError for a body over `max_bytes`.
        """
        url = self.address.url + path
        async with http.get(url, allow_redirects=False, server_hostname=self._tls_name) as answer:
            content = bytearray()
            async for part in answer.content.iter_any():
                content += part
                if len(content) > max_bytes:
                    raise protocol.ProtocolError(f"{path} answers more than {max_bytes} bytes")
            return answer.status, bytes(content)

    async def vectors(self, call: Call, remaining_s: float) -> protocol.Float32Array:
        """float32[n, dimensions] for a call's texts, in order. Raises CallFailed."""
        load = self.load
        load.tokens += call.tokens
        try:
            status, headers, answer = await self._post(call, remaining_s)
        finally:
            load.tokens -= call.tokens
        load.heard_at = load.answered_at = self._clock()
        if status != 200:
            raise self._refusal(status, headers, answer)
        if headers.get(protocol.FINGERPRINT_HEADER) != call.fingerprint:
            raise self._changed()
        self._read_load(headers)
        try:
            return _sound_vectors(answer, (len(call.texts), call.dimensions))
        except EngineFailed as error:
            raise CallFailed(error, ran=True, blame=True) from error

    def failed(self, error: BaseException) -> None:
        """It is away for what this error says: in fixed words for clients, with the error's own for operators."""
        self.away(plain_reason(error), f"{type(error).__name__}: {error}".removesuffix(": "))

    def away(self, reason: str, detail: str = "") -> None:
        """It cannot serve, for a reason: from now until a look finds it ready it gets no call."""
        refusal = self._supervisor_reason()
        reason = REFUSED if refusal else reason
        detail = f"{self.shown_url}: {shown_urls_in(refusal or detail) or reason}"[:MAX_REASON_CHARS]
        if self._away_since is None or reason != self._reason:
            log.warning("the engine is away: %s (%s)", reason, detail)
        self._away_since = self._away_since or self._clock()
        self._reason, self._detail = reason, detail

    def _back(self) -> None:
        if self._away_since is not None:
            log.info("the engine is ready after %.1f s (%s)", self._clock() - self._away_since, self.shown_url)
        self._away_since = None

    def _supervisor_reason(self) -> str:
        """Why its supervisor does not start the engine again; empty while it does."""
        if self._refusal_file is None:
            return ""
        try:
            return self._refusal_file.read_text(encoding="utf-8", errors="replace").strip()[:MAX_REASON_CHARS]
        except OSError:
            return ""

    async def _post(self, call: Call, remaining_s: float) -> tuple[int, CIMultiDictProxy[str], bytes]:
        """One request; a kept connection that the engine had closed meanwhile is tried once more on a fresh one, in
        the time that is left."""
        body = protocol.encode_request([np.frombuffer(t.input_ids, dtype=np.int32) for t in call.texts], call.lane)
        headers = {
            "content-type": protocol.CONTENT_TYPE,
            protocol.FINGERPRINT_HEADER: call.fingerprint,
            **call.headers,
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        url = self.address.url + protocol.VECTORS_PATH
        loop_time = asyncio.get_running_loop().time
        deadline = loop_time() + remaining_s
        for attempt in (1, 2):
            headers[protocol.DEADLINE_HEADER] = str(max(0, int((deadline - loop_time()) * 1000)))
            try:
                async with (
                    asyncio.timeout_at(deadline),
                    self._http.post(
                        url, data=body, headers=headers, timeout=timeout, server_hostname=self._tls_name
                    ) as answer,
                ):
                    return answer.status, answer.headers, await answer.read()
            except aiohttp.ConnectionTimeoutError as error:
                raise self._lost(error, ran=False) from error
            except TimeoutError as error:
                late = DeadlineExceeded("the engine did not answer within the request's deadline")
                raise CallFailed(late, elsewhere=False, ran=True) from error
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if attempt == 2 or isinstance(error, aiohttp.ClientConnectorError):
                    raise self._lost(error, ran=attempt == 2) from error
            except aiohttp.ClientError as error:
                raise self._lost(error, ran=True) from error
        raise AssertionError("unreachable")

    def _lost(self, error: Exception, *, ran: bool) -> CallFailed:
        self.failed(error)
        lost = EngineAway("the engine cannot be reached; what is cached is still served", retry_after_s=1)
        return CallFailed(lost, ran=ran, blame=True)

    def _changed(self) -> CallFailed:
        """It serves another fingerprint: which one, the next look finds out."""
        self.info = None
        return CallFailed(ModelChanged())

    def _refusal(self, status: int, headers: CIMultiDictProxy[str], answer: bytes) -> CallFailed:
        """The engine's refusal as one of ours."""
        message, kind = _message_of(answer), _type_of(answer)
        if status == 409:
            return self._changed()
        if status == 429:
            after_s = retry_after_s(headers.get("Retry-After")) or 1.0
            self.load.avoid_until = self._clock() + min(after_s, AVOID_S)
            return CallFailed(Overloaded(f"the engine is full: {message}", retry_after_s=after_s))
        if status in {400, 413}:
            return CallFailed(BadRequest(f"the engine refuses this input: {message}", param="input"), elsewhere=False)
        if kind == "deadline_exceeded":
            late = DeadlineExceeded("the engine could not answer within the request's deadline", retry_after_s=1)
            return CallFailed(late, elsewhere=False, ran=True)
        if kind == "draining":
            self.away("it is shutting down")
            return CallFailed(EngineAway("the engine is restarting", retry_after_s=1))
        failed = EngineFailed("the engine could not compute this request", retry_after_s=1)
        return CallFailed(failed, ran=True, blame=True)

    def _read_load(self, headers: Mapping[str, str]) -> None:
        run_rate = _positive(headers.get(protocol.RATE_HEADER))
        rate = _positive(headers.get(protocol.ALL_RUNS_RATE_HEADER)) or run_rate
        if rate is not None:
            queued = _positive(headers.get(protocol.QUEUE_HEADER)) or 0.0
            self.load.report(queued, rate, run_rate, self._clock())


def plain_reason(error: BaseException) -> str:
    """Why an engine could not be asked, in words that name no class, host or file."""
    if isinstance(error, TimeoutError):
        return LATE
    if isinstance(error, aiohttp.ClientConnectorError):
        return UNREACHABLE
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError):
        return BROKE_OFF
    return UNREACHABLE if isinstance(error, OSError) else NO_ENGINE


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


def _positive(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None

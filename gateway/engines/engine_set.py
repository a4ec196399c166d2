"""The engines of one model behind one interface: the model, whether any engine is ready, and vectors for token ids.

Background loops (`run_watch`) look at each engine every second: which model it serves, and whether a real inference
passed lately. Engines of the fingerprint in service get calls; others are left out, and named in `states`. While no
engine can serve, requests fail at once with EngineAway instead of each waiting for its own time-out.

With one URL there is nothing to choose: calls go to that engine and fail as it fails.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp
from tokenizers import Tokenizer

from common import request_ids, tracing
from common.breaker import CircuitState
from common.credentials import shown_url
from common.tasks import cancel_and_wait
from engine import protocol
from engine.bundle import BundleError, parse_tokenizer
from engine.text_encoder import EncodedText, TextEncoder
from gateway.background import keep_running
from gateway.engines.addresses import MAX_ENGINES, RESOLVE_EVERY_S, Address, Lookup, addresses_of, is_dns, look_up
from gateway.engines.attempts import Attempts
from gateway.engines.connection import FILE_TIMEOUT_S, MAX_REASON_CHARS, Call, EngineConnection, plain_reason
from gateway.engines.fingerprints import FingerprintChoice
from gateway.engines.joining import Joiner
from gateway.errors import EngineAway, ModelChanged
from gateway.metrics import ENGINE_STATE, ENGINE_STATES, ENGINE_TOKENS, forget_engine, shown_engine

log = logging.getLogger("dejavec.gateway")

WATCH_INTERVAL_S: Final = 1.0
_READ_ERRORS: Final = (aiohttp.ClientError, OSError, TimeoutError, protocol.ProtocolError, BundleError)


class Model:
    """The engines' model as this gateway read it: its identity, its tokenizer and its static embedding."""

    def __init__(self, info: protocol.EngineInfo, encoder: TextEncoder, static_embedding: bytes | None) -> None:
        self.info = info
        self.encoder = encoder
        self.static_embedding = static_embedding  # the bundle's file, for the semantic tier


@dataclass(frozen=True, slots=True)
class EngineState:
    """One engine for an operator. `state`: one of ENGINE_STATES; `tokens`: sent from here and not answered."""

    name: str  # in metrics
    url: str  # without credentials
    state: str
    reason: str  # empty where it serves; may name hosts and files
    fingerprint: str | None
    tokens: int
    tokens_per_s: float | None


class EngineSet:
    """Engines behind `urls`, each one engine, or with `dns+` before it all addresses of its host's name.

    fingerprint: the only one that may serve; None: what most engines have. hedge_after_s: seconds after which a call
    is sent to a second engine as well; None: never. refusal_file: see EngineConnection, for one URL. name: what its
    engines are called in metrics, with a hash of their address under `label_key`.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        http: aiohttp.ClientSession,
        refusal_file: Path | None = None,
        fingerprint: str | None = None,
        hedge_after_s: float | None = None,
        name: str = "engine",
        label_key: bytes = b"",
        lookup: Lookup = look_up,
    ) -> None:
        self._http = http
        self._lookup = lookup
        self._clock = time.monotonic
        self._name, self._label_key = name, label_key
        self._refusal_file = refusal_file
        self._engines: list[EngineConnection] = []
        self._names: dict[str, list[Address]] = {}
        self._choice = FingerprintChoice(fingerprint, self._clock)
        self.change([urls] if isinstance(urls, str) else list(urls), fingerprint)
        self._attempts = Attempts(self._candidates, self._clock, hedge_after_s)
        self._joiner = Joiner(self._send, self._room)
        self._model: Model | None = None
        self._refreshing, self._settling = asyncio.Lock(), asyncio.Lock()
        self._tokenizer: tuple[Model, Tokenizer] | None = None
        self._followers: list[Callable[[], None]] = []
        self._watches: dict[EngineConnection, asyncio.Task[None]] = {}
        self._was_looked_at = asyncio.Event()

    def change(self, urls: Sequence[str], fingerprint: str | None) -> None:
        """Go by other engines from now on: those that stay keep what is known of them, those that are gone finish the
        calls they have, and the model stays until another one is chosen."""
        self._names = {url: self._names.get(url, []) for url in urls if is_dns(url)}
        self._fixed = [Address(url) for url in urls if not is_dns(url)][:MAX_ENGINES]
        self._is_one = len(urls) == 1 and not self._names and fingerprint is None
        self._choice = FingerprintChoice(fingerprint, self._clock, self._choice.current)
        self._take_addresses()

    @property
    def model(self) -> Model:
        """The model in service. Raises EngineAway while no engine that may serve has ever been reached."""
        if self._model is None:
            found = {engine.info.fingerprint for engine in self._engines if engine.info is not None}
            if found and self._choice.current is not None and self._choice.current not in found:
                raise EngineAway("no engine has the fingerprint that is configured", retry_after_s=1)
            raise EngineAway("the engine cannot be reached yet: is it running?", retry_after_s=1)
        return self._model

    @property
    def current_model(self) -> Model | None:
        """The model in service; None while no engine has ever been reached."""
        return self._model

    def on_change(self, follow: Callable[[], None]) -> None:
        """Call `follow`, from now on, whenever another model is in service."""
        self._followers.append(follow)

    def run_s(self, tokens: int) -> float | None:
        """Seconds an engine computes for so many tokens, waiting left out, as reported last; None before that."""
        rates = [rate for engine in self._serving() if (rate := engine.load.run_rate) is not None]
        return tokens * len(rates) / sum(rates) if rates else None

    @property
    def is_ready(self) -> bool:
        """Whether an engine of the model in service passed a real inference lately."""
        return self._model is not None and bool(self._serving())

    @property
    def away_reason(self) -> str:
        """Why none is ready, for clients; empty when one is."""
        return (
            ""
            if self.is_ready
            else "; ".join(dict.fromkeys(self._reason(engine) for engine in self._engines))
            or ("the engines' name has no addresses yet")
        )

    @property
    def away_detail(self) -> str:
        """Why none is ready, for operators: may name hosts and files, never credentials; empty when one is."""
        if self.is_ready:
            return ""
        details = [engine.detail or f"{engine.shown_url}: {self._reason(engine)}" for engine in self._engines]
        return "; ".join(details)[:MAX_REASON_CHARS] or self.away_reason

    @property
    def connections(self) -> list[EngineConnection]:
        """The way to each engine, in the order of `states`."""
        return [*self._engines]

    def states(self) -> list[EngineState]:
        """All engines as they are now, those left out included."""
        return [
            EngineState(
                name=engine.label,
                url=engine.shown_url,
                state=(state := self._state_of(engine)),
                reason="" if state == "serving" else engine.detail or self._reason(engine),
                fingerprint=engine.info.fingerprint if engine.info is not None else None,
                tokens=engine.load.tokens,
                tokens_per_s=engine.load.rate,
            )
            for engine in self._engines
        ]

    async def vectors(
        self, model: Model, texts: Sequence[EncodedText], lane: protocol.Lane, deadline: float
    ) -> protocol.Float32Array:
        """float32[n, dimensions] for the token ids, in order; `deadline` is in event-loop time.

        Raises EngineAway, EngineFailed, Overloaded, DeadlineExceeded, ModelChanged.
        """
        info = model.info
        headers: dict[str, str] = {}
        if request_id := request_ids.current.get():
            headers[request_ids.HEADER] = request_id
        if tracing.tracer is not None:
            tracing.inject(headers)
        tokens = sum(text.tokens for text in texts)
        call = Call(info.fingerprint, info.dimensions, texts, lane, deadline, tokens, headers)
        self._candidates(call)
        return await self._joiner.run(call)

    async def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model in service, which cuts nothing off; read when it is first asked for.

        Raises EngineAway.
        """
        model = self.model
        if self._tokenizer is None or self._tokenizer[0] is not model:
            try:
                source = (self._serving() or self._engines)[0]
                content = await source.get(protocol.TOKENIZER_PATH)
            except (*_READ_ERRORS, IndexError) as error:
                raise EngineAway("the engine, which has the tokenizer, cannot be reached", retry_after_s=1) from error
            tokenizer = await asyncio.to_thread(parse_tokenizer, content, model.info.max_tokens)
            tokenizer.no_truncation()
            self._tokenizer = model, tokenizer
        return self._tokenizer[1]

    async def refresh(self) -> None:
        """Read the engines' identity, and the tokenizer when the model is another. Raises EngineAway."""
        async with self._refreshing:
            await self._find_addresses()
            now = self._clock()
            asked = [one for one in self._engines if one.is_ready and not one.load.is_silent(now)] or self._engines
            found = await asyncio.gather(*(engine.read_info() for engine in asked), return_exceptions=True)
            failed = [outcome for outcome in found if isinstance(outcome, BaseException)]
            if failed and len(failed) == len(found):
                raise failed[0]
            await self._settle()

    async def first_look(self) -> None:
        """Return as soon as one can serve, or each was asked once; `run_watch` is what asks. Each question is bounded,
        so an engine that answers nothing delays this for seconds, and one that refuses the connection not at all."""
        await self._was_looked_at.wait()

    async def run_watch(self) -> None:
        """Keep addresses, identities and readiness true until cancelled."""
        resolved_at = self._clock()
        try:
            await self._find_addresses()
            while True:
                for engine in self._engines:
                    if engine not in self._watches:
                        self._watches[engine] = asyncio.create_task(keep_running(partial(self._watch, engine)))
                if self._names and self._clock() - resolved_at >= RESOLVE_EVERY_S:
                    resolved_at = self._clock()
                    await self._find_addresses(again=True)
                gone = [self._watches.pop(engine) for engine in [*self._watches] if engine not in self._engines]
                await cancel_and_wait(gone)
                self._show()
                self._tell_of_first_look()
                await asyncio.sleep(WATCH_INTERVAL_S)
        finally:
            watches = [*self._watches.values()]
            self._watches.clear()
            await cancel_and_wait(watches)
            for engine in self._engines:
                forget_engine(engine.label)

    async def _watch(self, engine: EngineConnection) -> None:
        while True:
            await engine.look()
            with suppress(EngineAway):
                await self._settle()
            self._tell_of_first_look()
            is_well = engine.is_ready and not engine.is_late
            await asyncio.sleep(WATCH_INTERVAL_S if is_well else WATCH_INTERVAL_S / 4)

    def _tell_of_first_look(self) -> None:
        if self.is_ready or all(engine.was_seen for engine in self._engines):
            self._was_looked_at.set()

    async def _find_addresses(self, again: bool = False) -> None:
        """Look DNS names up; an engine whose address is gone gets no more calls, and finishes those it has."""
        if not self._names or (self._engines and not again):
            return
        for url in self._names:
            try:
                found = await addresses_of(url, self._lookup)
            except (OSError, TimeoutError) as error:
                log.warning("engines: %s cannot be looked up: %s", shown_url(url), type(error).__name__)
                continue
            self._names[url] = found or self._names[url]
        self._take_addresses()

    def _take_addresses(self) -> None:
        """Make the engines those of the addresses as they are now: known ones stay as they are."""
        wanted = dict.fromkeys([*self._fixed, *(one for found in self._names.values() for one in found)])
        known = {engine.address: engine for engine in self._engines}
        for address in known.keys() - wanted.keys():
            log.info("engines: %s is no longer among the addresses", known[address].shown_url)
            forget_engine(known[address].label)
        refusal_file = self._refusal_file if len(wanted) == 1 else None
        self._engines = [
            known.get(address) or EngineConnection(address, self._http, self._clock, refusal_file, self._label(address))
            for address in [*wanted][:MAX_ENGINES]
        ]

    def _label(self, address: Address) -> str:
        """What an engine is called in metrics, which whoever reads them may see: the same in all gateways."""
        digest = hashlib.blake2b(
            address.url.encode(), digest_size=4, key=self._label_key, person=b"dejavec-engine"
        ).hexdigest()
        return shown_engine(f"{self._name}-{digest}")

    async def _settle(self) -> None:
        """Choose the fingerprint in service, and read its model, where that is another, from an engine that gives it.

        Those that do not are away until the next look at them. Raises EngineAway where none gives it.
        """
        async with self._settling:
            current = self._chosen()
            having = [(one, one.info) for one in self._engines if one.info and one.info.fingerprint == current]
            having.sort(key=lambda pair: not pair[0].is_ready)
            if self._model is not None and self._model.info in [info for _, info in having]:
                return
            failure: EngineAway | None = None
            for engine, info in having:
                try:
                    return await self._read_model(engine, info)
                except EngineAway as error:
                    engine.failed(error.__cause__ or error)
                    failure = error
            if failure is not None:
                raise failure

    def _chosen(self) -> str | None:
        """The fingerprint in service, as the engines are at this moment."""
        known = [(one.info.fingerprint, one.is_ready) for one in self._engines if one.info is not None]
        return self._choice.update(known, all(one.was_seen or one.info is not None for one in self._engines))

    async def _read_model(self, source: EngineConnection, info: protocol.EngineInfo) -> None:
        try:
            encoder = TextEncoder(await source.get(protocol.TOKENIZER_PATH, FILE_TIMEOUT_S), info.max_tokens)
            self._model = Model(info, encoder, await source.static_embedding(info))
        except _READ_ERRORS as error:
            raise EngineAway(f"the engine is not ready: {plain_reason(error)}", retry_after_s=1) from error
        log.info("engine: %s, fingerprint %s, %s", info.model, info.fingerprint, info.kernel_class)
        for follow in self._followers:
            follow()

    def _serving(self) -> list[EngineConnection]:
        """Ready engines of the model in service."""
        if self._is_one:
            return [engine for engine in self._engines if engine.is_ready]
        fingerprint = self._model.info.fingerprint if self._model is not None else None
        return self._of(fingerprint)

    def _of(self, fingerprint: str | None) -> list[EngineConnection]:
        return [one for one in self._engines if one.is_ready and one.info and one.info.fingerprint == fingerprint]

    def _candidates(self, call: Call) -> list[EngineConnection]:
        """The engines that may compute a call. Raises EngineAway, and ModelChanged for a model no longer in service."""
        found = [one for one in self._engines if one.is_ready] if self._is_one else self._of(call.fingerprint)
        if found:
            return found
        if not self._is_one and self._of(current := self._chosen()) and current != call.fingerprint:
            raise ModelChanged
        raise EngineAway(f"the engine is not ready: {self.away_reason}", retry_after_s=1)

    async def _send(self, call: Call) -> protocol.Float32Array:
        if self._is_one:
            return await self._attempts.only(self._candidates(call)[0], call)
        return await self._attempts.send(call)

    def _room(self, call: Call) -> int:
        """How many small calls keep the engines busy: one for each run of the model, and one that waits."""
        engines = self._engines if self._is_one else self._of(call.fingerprint)
        return sum(engine.load.runs + 1 for engine in engines)

    def _state_of(self, engine: EngineConnection) -> str:
        now, load = self._clock(), engine.load
        if not engine.is_ready:
            return "away"
        if not self._is_one and self._is_left_out(engine):
            return "left_out"
        if load.breaker.state is not CircuitState.CLOSED:
            return "ejected"
        if load.is_silent(now):
            return "silent"
        return "avoided" if load.is_suspect(now) else "serving"

    def _is_left_out(self, engine: EngineConnection) -> bool:
        return self._model is None or engine.info is None or engine.info.fingerprint != self._model.info.fingerprint

    def _reason(self, engine: EngineConnection) -> str:
        """Why an engine gets no calls, for clients."""
        return engine.reason or {
            "left_out": "an engine serves another fingerprint than the one in service",
            "ejected": "an engine failed several calls in a row",
            "silent": "an engine has stopped answering",
            "avoided": "an engine was full, or failed a call, a moment ago",
        }.get(self._state_of(engine), "")

    def _show(self) -> None:
        """Set the metrics of each engine."""
        for engine in self._engines:
            label, now_is = engine.label, self._state_of(engine)
            ENGINE_TOKENS.labels(label).set(engine.load.tokens)
            for state in ENGINE_STATES:
                ENGINE_STATE.labels(label, state).set(state == now_is)

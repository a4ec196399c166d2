"""The gateway's settings. Read once at start and passed down; see engine.configuration for where they come from."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from cache.keys import parse_secret
from cache.redis_url import split_redis_url
from common.credentials import check_token
from engine.configuration import Configuration
from gateway.engines.addresses import DNS_PREFIX


def _http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("give a URL that starts with http:// or https://")
    parts = _parts(value)
    if not parts.hostname or parts.query or parts.fragment:
        raise ValueError("it needs a host, and may not have a query or fragment")
    return value.rstrip("/")


def _engine_url(value: str) -> str:
    """An engine's URL, or one that stands for all addresses of its host's name."""
    return DNS_PREFIX + _http_url(value.removeprefix(DNS_PREFIX)) if value.startswith(DNS_PREFIX) else _http_url(value)


def _redis_url(value: str | None) -> str | None:
    if not value:
        return None
    scheme = value.partition("://")[0]
    if "+" not in scheme:
        parts = _parts(value)
        database = parts.path.strip("/")
        if parts.scheme in {"redis", "rediss"} and database and not database.isdigit():
            raise ValueError("what follows the port is the number of a database, such as /0")
    else:  # several addresses: each is looked at by `split_redis_url`, the rest here
        _parts(re.sub(r"//([^/?#]*@)?[^/?#]*", r"//\1host", value, count=1))
    split_redis_url(value)
    return value


def _parts(url: str) -> SplitResult:
    """A URL's parts. Raises ValueError, which does not hold the URL, for one that would be read in two ways."""
    if not url.isprintable() or " " in url:
        raise ValueError("it may hold no spaces or control characters; write them as %20 and the like")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  looks at it
    except ValueError:
        raise ValueError("its host or port cannot be read; the port is a number from 0 to 65535") from None
    if "@" in parts.path:
        raise ValueError("there is an @ behind its host; write /, ? and # in a password as %2F, %3F and %23")
    return parts


def _secret(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        parse_secret(value.get_secret_value())
    return value


def _alias(value: str) -> str:
    """A name that can stand in the path of `/v1/models/{name}`."""
    if not 0 < len(value) <= 200 or not value.isprintable() or not {"", ".", ".."}.isdisjoint(value.split("/")):
        raise ValueError("a name has 1 to 200 printable characters, and no empty, `.` or `..` part between slashes")
    return value


DEFAULT_NAMESPACE: Final = "default"  # of everybody, where there are no API keys
NAMESPACE_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"

Namespace = Annotated[str, Field(pattern=NAMESPACE_PATTERN)]
Mode = Literal["off", "observe", "auto", "on"]
Fidelity = Annotated[float, Field(ge=0.8, le=0.99, allow_inf_nan=False)]
Alpha = Annotated[float, Field(ge=0.005, le=0.2, allow_inf_nan=False)]
Similarity = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class ApiKey(BaseModel):
    """What one API key may do: which namespace it reads and writes, and how fast."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: Namespace
    requests_per_minute: int = Field(0, ge=0)
    tokens_per_minute: int = Field(0, ge=0)  # of each model
    tokens_per_day: int = Field(0, ge=0, le=10**15)  # of all models, in a UTC calendar day
    tokens_per_month: int = Field(0, ge=0, le=10**15)


class NamespaceSettings(BaseModel):
    """What a namespace may have otherwise than the rest: names and bounds of the global settings; None: as those."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    semantic_mode: Mode | None = Field(None, description="off, observe, auto or on")
    semantic_fidelity: Fidelity | None = Field(None, description="Least cosine similarity to the recomputed vector")
    certificate_alpha: Alpha | None = Field(None, description="Largest share of violations")
    similarity_threshold: Similarity | None = Field(None, description="Mode `on`: where tau starts")
    threshold_floor: Similarity | None = Field(None, description="Mode `on`: lowest tau")
    threshold_ceiling: Similarity | None = Field(None, description="Mode `on`: highest tau")

    def stated(self) -> dict[str, str | float]:
        """The values that are not left to the global settings."""
        return self.model_dump(exclude_none=True, include=set(NamespaceSettings.model_fields))


class ModelEngines(BaseModel):
    """One model: where its engines answer, and what else it is called."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    urls: list[Annotated[str, AfterValidator(_engine_url)]] = Field(min_length=1, max_length=64, repr=False)
    aliases: list[Annotated[str, AfterValidator(_alias)]] = Field(default_factory=list, max_length=64)
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16,128}$")] | None = None
    refusal_file: Path | None = None  # where `dejavec up` writes why it does not restart the engine


ModelName = Annotated[str, AfterValidator(_alias), Field(max_length=64)]  # a label in metrics, too
MAX_MODELS: Final = 32
DEFAULT_MODEL: Final = "default"  # what `engine_url` serves, where there are no `engines`


class GatewaySettings(Configuration):
    """Names and bounds of everything an operator can set on the gateway."""

    secret_tables = frozenset({"api_keys"})

    gateway_host: str = Field("127.0.0.1", description="Address the gateway listens on; by default this machine alone")
    gateway_port: int = Field(8080, ge=1, le=65535, description="Port the gateway listens on")
    gateway_workers: int = Field(1, ge=1, le=64, description="Gateway worker processes sharing the port")
    engine_url: Annotated[str, AfterValidator(_http_url)] = Field(
        "http://127.0.0.1:8081", repr=False, description="Where the engine answers"
    )
    engines: dict[ModelName, ModelEngines] = Field(
        default_factory=dict,
        description="Several models behind this gateway, each with `urls` of its engines, `aliases` and, where only "
        "one may serve, its `fingerprint`: `[engines.docs]`. The first answers requests that name no model. Takes "
        "the place of `engine_url`",
    )
    started_engines: dict[ModelName, ModelEngines] = Field(
        default_factory=dict,
        description="Set by `dejavec up`: the engines it has started. Those of `engines` serve beside them",
    )
    engine_hedge_ms: int = Field(
        0,
        ge=0,
        le=60_000,
        description="Time after which a call to one of several engines is sent to a second one as well, for at most a "
        "tenth of the calls; 0: never",
    )
    redis_url: Annotated[str | None, AfterValidator(_redis_url)] = Field(
        None,
        repr=False,
        description="Your own Redis or Valkey: one server, a cluster or Sentinels, see [redis.md](redis.md). Unset: "
        "`dejavec up` starts an embedded one; a gateway alone has only L0",
    )
    semantic_redis_url: Annotated[str | None, AfterValidator(_redis_url)] = Field(
        None,
        repr=False,
        description="Another one for the semantic index and what is learned, where `redis_url` is a cluster or has no "
        "search module",
    )
    redis_ca_file: Path | None = Field(
        None, description="Authorities to trust for `rediss://`, as PEM, beside the system's"
    )
    redis_cert_file: Path | None = Field(None, description="Certificate to show to Redis, as PEM")
    redis_key_file: Path | None = Field(None, description="Key of that certificate, where its file does not hold it")
    cache_ttl_seconds: int = Field(3600, ge=1, le=31_536_000, description="Time to live of an exact entry")
    cache_ttl_jitter: float = Field(0.1, ge=0, le=0.5, description="Share by which that time varies at random")
    cache_dtype: Literal["float32", "float16"] = Field(
        "float32",
        description="How vectors are stored; `float16` halves the memory and rounds the vectors served by every tier",
    )
    local_cache_mb: int = Field(
        64,
        ge=0,
        le=65_536,
        description="In-process cache (L0) of each worker, at most a quarter of it whole replies; 0 switches it off",
    )
    local_cache_ttl_seconds: float = Field(60, gt=0, le=86_400, description="Time to live of an L0 entry")
    redis_timeout_ms: int = Field(100, ge=1, le=10_000, description="Longest wait for a look-up before it is a miss")
    write_back_max_items: int = Field(
        8192, ge=1, le=1_000_000, description="Largest number of vectors waiting to be written; more are dropped"
    )
    semantic_mode: Mode = Field(
        "auto",
        description="Semantic tier. `off`; `observe`: collects labels, serves nothing; `auto`: serves when certified "
        "and worth its cost; `on`: serves above a moving threshold",
    )
    semantic_fidelity: Fidelity = Field(
        0.92,
        description="A semantic hit whose cosine similarity to the engine's own vector is lower is a violation",
    )
    certificate_alpha: Alpha = Field(
        0.05, description="Largest share of violations among semantic hits: certified in `auto`, aimed at in `on`"
    )
    certificate_beta: float = Field(0.05, ge=0.001, le=0.2, description="Mode `auto`: risk that a certificate is wrong")
    similarity_threshold: Similarity = Field(
        0.92,
        description="Mode `on`: where the threshold starts; predicted similarity less its margin must reach it",
    )
    threshold_floor: Similarity = Field(0.88, description="Mode `on`: lowest the threshold may go")
    threshold_ceiling: Similarity = Field(0.98, description="Mode `on`: highest the threshold may go")
    namespaces: dict[Namespace, NamespaceSettings] = Field(
        default_factory=dict,
        description="A namespace's own values of `semantic_mode`, `semantic_fidelity`, `certificate_alpha` and the "
        "three thresholds: `[namespaces.team-a]`",
    )
    min_text_length: int = Field(
        10, ge=1, description="Length in characters from which a text is looked up in the semantic tier"
    )
    verify_share: float = Field(
        0.1, gt=0, le=1, description="Mode `on`: least share of semantic hits that are recomputed and compared"
    )
    semantic_timeout_ms: int = Field(50, ge=1, le=10_000, description="Longest wait for a KNN look-up")
    semantic_candidates: int = Field(16, ge=1, le=64, description="Neighbours retrieved for each text")
    hnsw_from: int = Field(
        20_000, ge=1000, description="Number of documents from which the semantic index is HNSW instead of flat"
    )
    engine_price_ms: float | None = Field(
        None,
        ge=0,
        description="What computing one text is worth, in place of the measured time; for paid or remote engines",
    )
    key_secret: Annotated[SecretStr | None, AfterValidator(_secret)] = Field(
        None,
        description="Secret of the key hashes, 32 to 128 hex digits; the same for all gateways on one Redis",
    )
    key_secret_file: Path = Field(
        Path(".dejavec/key-secret"),
        description="File holding that secret (0600), made at first start when key_secret is unset",
    )
    api_keys: dict[str, ApiKey] = Field(
        default_factory=dict,
        repr=False,
        description="API keys of at least 16 visible ASCII characters, each with `namespace`, `requests_per_minute`, "
        "`tokens_per_minute`, `tokens_per_day`, `tokens_per_month`. None: open to all",
    )
    admin_token: SecretStr | None = Field(
        None, description="Bearer token of `/admin`, at least 16 visible ASCII characters. Unset: `/admin` is closed"
    )
    cors_origins: list[str] = Field(default_factory=list, description="Origins that browsers may call from")
    allowed_hosts: list[str] = Field(
        default_factory=list,
        description="Names by which a gateway on loopback without API keys may be called, besides those of its machine",
    )
    model_aliases: dict[Annotated[str, AfterValidator(_alias)], str] = Field(
        default_factory=dict, description="Other names the model answers to, e.g. `text-embedding-3-small`"
    )
    strict_fields: bool = Field(
        False,
        description="Refuse request fields that would be ignored: unknown ones, null, and those that cannot change a "
        "vector",
    )
    untrained_dimensions: Literal["warn", "refuse"] = Field(
        "warn",
        description="`dimensions` below those the model was trained for: a header `x-dimensions`, or refused",
    )
    truncate_inputs: bool = Field(
        True, description="Cut inputs at the model's limit (`x-truncated` has their number); `false`: refuse them"
    )
    token_input_encoding: str | None = Field(
        None,
        description="Decode token-id input by this tiktoken encoding (extra `tiktoken`), such as `cl100k_base`. Unset: "
        "it is refused",
    )
    token_encoding_file: Path | None = Field(
        None, description="That encoding's file, or a folder that has it; unset: where tiktoken keeps its files"
    )
    token_encoding_fetch: bool = Field(
        False, description="Let tiktoken fetch an encoding's file that is not on this machine"
    )
    max_inputs: int = Field(2048, ge=1, le=2048, description="Largest number of inputs in one request")
    max_input_chars: int = Field(200_000, ge=1, description="Longest input, in characters")
    max_body_mb: int = Field(16, ge=1, le=1024, description="Largest request body")
    max_bodies_mb: int = Field(
        0,
        ge=0,
        description="Bodies of requests in progress, and their replies, in one worker; more get 429. At least twice "
        "`max_body_mb`; 0: sixteen times it",
    )
    max_concurrent_requests: int = Field(
        1024,
        ge=1,
        description="Requests in progress in one worker; more get 429. Of several tenants one may have as many as it "
        "leaves free, alone half; the same of `max_bodies_mb`",
    )
    max_connections: int = Field(
        4096,
        ge=1,
        description="Open connections of one worker. Beyond them the one that has waited longest without a request "
        "makes room for a new one; where all have a request in work, new ones get 503",
    )
    bulk_request_items: int = Field(
        16, ge=2, description="Requests with at least this many inputs to compute take the bulk lane"
    )
    request_timeout_s: float = Field(30, gt=0, le=600, description="Deadline of a request, queueing included")
    body_timeout_s: float = Field(10, gt=0, le=600, description="Longest time to receive a request's body")
    send_timeout_s: float = Field(
        30, gt=0, le=600, description="Longest wait for a client that does not read its reply"
    )
    drain_timeout_s: float = Field(20, ge=0, le=600, description="On SIGTERM, longest wait for requests in progress")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line to log")
    log_format: Literal["text", "json"] = Field("text", description="`text`, for people; `json`, one object a line")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_order(self, self)
        for name, own in self.namespaces.items():
            _check_order(own, self, f"namespaces.{name}: ")
        reached = {key.namespace for key in self.api_keys.values()} or {DEFAULT_NAMESPACE}
        if unreached := sorted(set(self.namespaces) - reached):
            raise ValueError(f"namespaces: no API key leads to {', '.join(map(repr, unreached))}")
        for key, rule in self.api_keys.items():
            _check_token(key, f"api_keys: a key of namespace {rule.namespace!r}")
        if self.admin_token is not None:
            _check_token(self.admin_token.get_secret_value(), "admin_token")
            if self.admin_token.get_secret_value() in self.api_keys:
                raise ValueError("admin_token must not be one of api_keys")
        if self.engines and "engine_url" in self.model_fields_set:
            raise ValueError("engine_url and engines are both set: leave one of them out")
        if both := sorted(self.started_engines.keys() & self.engines.keys()):
            raise ValueError(f"engines.{both[0]}: `dejavec up` has started an engine of that name; take another")
        if len(self.models) > MAX_MODELS:
            raise ValueError(f"engines: at most {MAX_MODELS} models")
        _check_engines(self.models, self.model_aliases)
        if 0 < self.max_bodies_mb < 2 * self.max_body_mb:
            raise ValueError(f"max_bodies_mb must be at least {2 * self.max_body_mb}, twice max_body_mb, or 0")
        return self

    @property
    def models(self) -> dict[str, ModelEngines]:
        """Every model by its name in these settings; the first answers requests that name none."""
        named = {**self.started_engines, **self.engines}
        return named or {DEFAULT_MODEL: ModelEngines(urls=[self.engine_url])}

    @property
    def max_bodies_bytes(self) -> int:
        """What `max_bodies_mb` comes to."""
        return (self.max_bodies_mb or 16 * self.max_body_mb) * 1024 * 1024

    @property
    def is_exposed(self) -> bool:
        """Whether the gateway listens beyond this machine."""
        return self.gateway_host not in {"127.0.0.1", "::1", "localhost"}


def _check_token(value: str, name: str) -> None:
    """Raises ValueError, which names the setting and not the value."""
    try:
        check_token(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _check_engines(engines: Mapping[str, ModelEngines], aliases: Iterable[str]) -> None:
    """Raises ValueError for a name or an engine that two models have."""
    owners = dict.fromkeys(aliases, "model_aliases")
    at: dict[str, str] = {}
    for name, entry in engines.items():
        for own in {name, *entry.aliases}:
            if owners.setdefault(own, name) != name:
                raise ValueError(f"engines.{name}: the name {own!r} is also one of {owners[own]}")
        for url in entry.urls:
            if url in at:
                raise ValueError(f"engines.{name}: an engine of its urls is also one of {at[url]}")
            at[url] = name


def _check_order(own: NamespaceSettings | GatewaySettings, rest: GatewaySettings, where: str = "") -> None:
    """Raises ValueError unless floor <= threshold <= ceiling, each from `rest` where `own` leaves it out."""
    names = ("threshold_floor", "similarity_threshold", "threshold_ceiling")
    floor, threshold, ceiling = (
        getattr(rest, name) if getattr(own, name) is None else getattr(own, name) for name in names
    )
    if not floor <= threshold <= ceiling:
        raise ValueError(f"{where}similarity_threshold must lie between threshold_floor and threshold_ceiling")

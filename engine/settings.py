"""The engine's settings: every name it reads from `dejavec.toml` or DEJAVEC_*, with its bounds.

The table of docs/configuration.md is made from these descriptions.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from engine.configuration import Configuration

BatchingPolicy = Literal["adaptive", "window"]
Device = Literal["auto", "cpu", "cuda"]
LogLevel = Literal["debug", "info", "warning", "error"]


class EngineSettings(Configuration):
    """Settings of one engine process. A 0 described as "automatic" is resolved at start and logged."""

    engine_host: str = Field("127.0.0.1", description="Address the engine listens on.")
    engine_port: int = Field(8081, ge=1, le=65535, description="Port the engine listens on.")
    model_bundle: Path = Field(
        Path(".dejavec/models/all-MiniLM-L6-v2"), description="Folder of the model bundle to serve."
    )
    allow_unverified_bundle: bool = Field(
        False,
        description="Serve a bundle even if its vectors are too far from FP32's, or were never compared with them; "
        "see `dejavec model verify`.",
    )
    allow_batch_dependent_bundle: bool = Field(
        False,
        description="Serve an imported bundle whose vectors change with what they are batched with; every text then "
        "runs alone, which costs throughput.",
    )
    device: Device = Field(
        "auto",
        description="Where the model runs: `cpu`, `cuda`, or `auto`: CUDA where ONNX Runtime and the bundle can.",
    )
    batching_policy: BatchingPolicy = Field(
        "adaptive",
        description="`adaptive`: an idle worker starts at once, batches form while all are busy; "
        "`window`: texts are collected for `batching_timeout_ms` or until a batch is full.",
    )
    batching_timeout_ms: float = Field(
        5.0, ge=0, le=1000, description="Policy `window`: longest time the oldest text waits for a batch to fill."
    )
    max_batch_size: int = Field(128, ge=1, le=4096, description="Largest number of texts in one run of the model.")
    max_batch_tokens: int = Field(
        4096,
        ge=1,
        le=1_048_576,
        description="Largest number of tokens in one run, padding included; a single longer text runs alone.",
    )
    max_queue_tokens: int = Field(
        0,
        ge=0,
        description="Largest number of tokens that may wait; a request that would exceed it gets 429 with Retry-After. "
        "0: automatic, twice the largest legal request, which is also the least allowed.",
    )
    engine_deadline_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Longest time a request may wait when its caller sets no deadline, besides twice the time its own "
        "texts take by their lengths.",
    )
    engine_sessions: int = Field(
        0,
        ge=0,
        le=256,
        description="Runs of the model at the same time. 0: automatic, from the cgroup's cores.",
    )
    engine_threads: int = Field(
        0, ge=0, le=256, description="Threads of each run. 0: automatic, from the cgroup's cores."
    )
    engine_max_body_bytes: int = Field(
        0, ge=0, description="Largest request body. 0: automatic, room for the largest legal request."
    )
    engine_max_connections: int = Field(
        4096,
        ge=1,
        description="Open connections. Beyond them the one that has waited longest makes room for a new one.",
    )
    engine_drain_s: float = Field(
        20.0, ge=0, le=3600, description="Longest time queued work may take to finish at shutdown."
    )
    engine_hang_s: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="A run that takes longer than this and four times what its texts' lengths allow for has hung: the "
        "engine ends all waiting requests with an error and exits, to be restarted.",
    )
    heartbeat_interval_s: float = Field(
        5.0,
        gt=0,
        le=300,
        description="Time between test inferences; `/ready` needs one that passed within three intervals, besides the "
        "time in which every run was busy with long texts.",
    )
    log_level: LogLevel = Field("info", description="Least severe log records to write.")
    log_format: Literal["text", "json"] = Field("text", description="`text`, for people; `json`, one object a line.")

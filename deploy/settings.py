"""The settings of the supervisor (`dejavec up`) itself; gateway and engine have settings of their own."""

from pathlib import Path

from pydantic import Field

from engine.configuration import Configuration


class SupervisorSettings(Configuration):
    """Settings of the supervisor and of the Redis it starts."""

    data_dir: Path = Field(
        Path(".dejavec"),
        description="Folder of what `dejavec up` keeps: embedded Redis, model bundle, key secret, logs.",
    )
    models: list[Path] = Field(
        default_factory=list,
        max_length=16,
        description="Folders of the model bundles that `dejavec up` serves, each by an engine of its own, on the ports "
        "from `engine_port` on; a model is named after its folder. Unset: `model_bundle` alone.",
    )
    redis_maxmemory_mb: int = Field(
        1024, ge=16, description="Memory of the embedded Redis; beyond it the least recently used entries are evicted."
    )
    start_timeout_s: float = Field(
        120,
        gt=0,
        le=3600,
        description="Longest time a process may take to become ready before it is restarted.",
    )
    watch_interval_s: float = Field(5, gt=0, le=300, description="Time between two checks of a running process.")
    watch_failures: int = Field(
        12,
        ge=1,
        le=1000,
        description="Failed checks in a row after which a process counts as hung and is restarted.",
    )
    restart_delay_s: float = Field(
        0.5, gt=0, le=60, description="First delay before a restart; it doubles with each failure in a row."
    )
    restart_delay_max_s: float = Field(30, gt=0, le=3600, description="Longest delay before a restart.")
    restart_stable_s: float = Field(
        30, gt=0, le=3600, description="A process that ran at least this long is restarted after the first delay again."
    )

"""What a benchmark ran on: figures mean nothing without it."""

import os
import platform
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

VNNI_FLAGS, DOT_FLAGS = {"avx512_vnni", "avx_vnni"}, {"asimddp"}
VNNI, AVX2, ARM_DOT, OTHER = "VNNI", "AVX2", "arm64 with dot products", "neither AVX2 nor INT8 dot products"
NOISY_LOAD = 0.5
PACKAGES = ("uvicorn", "uvloop", "httptools", "fastapi", "redis", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Machine:
    """The processor, how much of it, and the software whose speed shows in the figures."""

    cpu: str
    cores: int
    int8_dot_products: bool  # VNNI on x86-64, dot-product instructions on arm64
    server_core: int | None
    generator_core: int | None
    generator: str
    load_before: float  # processes that were runnable in the minute before: noise in every figure
    python: str
    packages: dict[str, str]
    kind: str = ""  # by what its integer products need: VNNI, AVX2, ...; empty in older reports

    @property
    def is_noisy(self) -> bool:
        """Whether others were using the machine, so that only the ratios mean something, and they vaguely."""
        return self.load_before > NOISY_LOAD

    @property
    def warning(self) -> str:
        """What must be said where others were using the machine; else nothing."""
        if not self.is_noisy:
            return ""
        return (
            f"NOT QUIET: load {self.load_before:g} before the start. CPU times bear that better than wall times, but "
            "shared caches and memory do not: only large ratios mean something."
        )

    def __str__(self) -> str:
        pins = "nothing pinned"
        if self.server_core is not None or self.generator_core is not None:
            pins = f"servers on core {_core(self.server_core)}, generator on core {_core(self.generator_core)}"
        int8 = "with" if self.int8_dot_products else "without"
        busy = f"; NOT QUIET: load {self.load_before:g} before the start" if self.is_noisy else ""
        packages = ", ".join(f"{name} {number}" for name, number in self.packages.items())
        return (
            f"{self.cpu}, {self.cores} cores usable, {int8} INT8 dot products; {pins}; "
            f"generator: {self.generator}{busy}\nPython {self.python}, {packages}"
        )


def describe(server_core: int | None, generator_core: int | None, generator: str) -> Machine:
    """This machine, and how the benchmark uses it."""
    fields = _cpu_fields()
    flags = {*fields.get("flags", "").split(), *fields.get("features", "").split()}
    kind = kind_of(flags)
    return Machine(
        cpu=fields.get("model name") or platform.processor() or platform.machine(),
        cores=len(usable_cores()),
        int8_dot_products=kind in (VNNI, ARM_DOT),
        server_core=server_core,
        generator_core=generator_core,
        generator=generator,
        load_before=round(os.getloadavg()[0], 2),
        python=platform.python_version(),
        packages={name: number for name in PACKAGES if (number := _version(name))},
        kind=kind,
    )


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def kind_of(flags: Collection[str]) -> str:
    """A CPU's kind by its flags in /proc/cpuinfo."""
    if VNNI_FLAGS & set(flags):
        return VNNI
    if DOT_FLAGS & set(flags):
        return ARM_DOT
    return AVX2 if "avx2" in flags else OTHER


def _core(number: int | None) -> str:
    return "any" if number is None else str(number)


def _cpu_fields() -> dict[str, str]:
    """The first processor of /proc/cpuinfo, keys in lower case; empty elsewhere than on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""

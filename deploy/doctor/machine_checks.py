"""This machine: CPU, memory, open files, disk, and who may read what is secret."""

import os
import platform
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from common.credentials import is_writable_by_all
from common.findings import Finding
from common.open_files import RESERVE
from deploy.doctor.setup import SetUp
from deploy.embedded_redis import NotAvailable, locate
from engine.configuration import config_file

GIB: Final = 2**30
LOW_DISK_BYTES: Final = GIB
FULL_DISK_BYTES: Final = 100 * 2**20
OWN_CONNECTIONS: Final = 512  # of a gateway worker, to Redis and for looks at engines; see gateway.cli
MEMORY_SHARE: Final = 0.8  # of the machine's; what is left is for processes, models and the system's own cache
# Features as Linux names them, the best first, and what follows.
CPU_KINDS: Final = (
    ("avx512_vnni", "AVX-512 with VNNI", "the fastest INT8 kernel of ONNX Runtime"),
    ("avx_vnni", "AVX2 with VNNI", "the fastest INT8 kernel of ONNX Runtime without AVX-512"),
    ("avx512f", "AVX-512 without VNNI", "INT8 is exact here, by the kernel without VNNI, which is slower"),
    ("avx2", "AVX2 without VNNI", "INT8 is exact here, by the kernel without VNNI, which is slower"),
    ("i8mm", "arm64 with i8mm", "the fastest INT8 kernel of ONNX Runtime on arm64"),
    ("asimddp", "arm64 with dot product", "a fast INT8 kernel"),
    ("asimd", "arm64 without dot product", "INT8 is exact here, by a slower kernel"),
)


def check_cpu(set_up: SetUp, cpuinfo: Path = Path("/proc/cpuinfo")) -> Iterator[Finding]:
    """Which instructions the CPU has for INT8, and how many cores may be used."""
    from engine.model.topology import choose, usable_cores

    yield _cpu_kind(cpuinfo)
    cores = usable_cores()
    workers = set_up.gateway.gateway_workers if set_up.gateway else 1
    what = f"{cores:g} usable"
    if set_up.engine is not None:
        chosen = choose(cores, set_up.engine.engine_sessions, set_up.engine.engine_threads)
        what += f"; the engine runs {chosen.sessions} x {chosen.threads} threads, the gateway {workers} worker(s)"
    if cores < 1:
        yield Finding(
            "cores", "warning", what, "less than one core serves engine, gateway and Redis", "raise the CPU limit"
        )
    else:
        yield Finding("cores", "ok", what)


def _cpu_kind(cpuinfo: Path) -> Finding:
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Finding("cpu", "unseen", f"{platform.machine()}; its features are not told on this system")
    features = {
        word
        for line in text.splitlines()
        if line.lower().startswith(("flags", "features"))
        for word in line.partition(":")[2].split()
    }
    for feature, name, follows in CPU_KINDS:
        if feature in features:
            return Finding("cpu", "ok", f"{name}: {follows}")
    return Finding(
        "cpu",
        "warning",
        f"{platform.machine()} without AVX2",
        "computing a text is several times slower than on a CPU with AVX2",
        "use a machine type with AVX2 or better; what is cached is served as fast",
    )


def check_memory(set_up: SetUp) -> Iterator[Finding]:
    """What the bounds of all processes here add up to, against the memory there is."""
    plan = set_up.plan
    total = memory_bytes()
    if total is None:
        yield Finding("memory", "unseen", "this system does not tell its memory")
        return
    workers = plan.gateway.gateway_workers
    parts = {
        f"L0 of {workers} worker(s)": workers * plan.gateway.local_cache_mb * 2**20,
        "request bodies": workers * plan.gateway.max_bodies_bytes,
    }
    if plan.gateway.redis_url is None and _has_embedded_redis():
        parts["embedded Redis"] = plan.supervisor.redis_maxmemory_mb * 2**20
    if bundles := [bundle for bundle, _ in set_up.own_engines if bundle.is_dir()]:
        files = [path for bundle in bundles for path in bundle.iterdir() if path.is_file()]
        parts["models"] = sum(path.stat().st_size for path in files)
    needed = sum(parts.values())
    listed = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items())
    what = f"{_gib(total)}; the bounds add up to {_gib(needed)} ({listed})"
    if needed <= MEMORY_SHARE * total:
        yield Finding("memory", "ok", what)
        return
    yield Finding(
        "memory",
        "warning",
        what,
        "if all are reached, the system kills a process",
        "lower redis_maxmemory_mb, local_cache_mb, max_bodies_mb or gateway_workers, or add memory",
    )


def memory_bytes() -> int | None:
    """The machine's memory, or the limit of this process's cgroup where that is less; None where neither is told."""
    found: list[int] = []
    with suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            found.append(int(Path(path).read_text(encoding="ascii")))
    return min(found, default=None)


def check_open_files(set_up: SetUp) -> Iterator[Finding]:
    """Whether as many connections may be open as the settings allow."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needs = {}
    if set_up.gateway is not None:
        requests = set_up.gateway.max_concurrent_requests
        needs["max_connections"] = set_up.gateway.max_connections + requests + OWN_CONNECTIONS + RESERVE
    if set_up.engine is not None:
        needs["engine_max_connections"] = set_up.engine.engine_max_connections + RESERVE
    for name, needed in needs.items():
        if hard not in {resource.RLIM_INFINITY} and needed > hard:
            yield Finding(
                "open files",
                "fault",
                f"{name} needs {needed}, {hard} are allowed",
                "the process does not start",
                f"lower {name}, or raise the limit (systemd: LimitNOFILE={needed}, Docker: --ulimit nofile={needed})",
            )
            return
    limit = "no limit" if hard == resource.RLIM_INFINITY else f"{hard} allowed"
    yield Finding("open files", "ok", f"{limit}, at most {max(needs.values(), default=0)} needed by one process")


def check_disk(set_up: SetUp) -> Iterator[Finding]:
    """Whether the data folder can be written to, and has room."""
    if set_up.supervisor is None:
        return
    folder = set_up.supervisor.data_dir.absolute()
    place = next(path for path in (folder, *folder.parents) if path.exists())
    why, remedy = "`dejavec up` does not start", "mend that, or set data_dir (DEJAVEC_DATA_DIR)"
    try:
        with tempfile.TemporaryFile(dir=place) as trial:
            trial.write(b"there is room")
            trial.flush()
        free = shutil.disk_usage(place).free
    except OSError as error:
        yield Finding("data folder", "fault", f"{place} cannot be written to ({error.strerror})", why, remedy)
        return
    exists = "" if place == folder else " (made at the first start)"
    what = f"{folder}{exists}, {_gib(free)} free"
    if free < FULL_DISK_BYTES:
        yield Finding("data folder", "fault", what, "Redis stops writing when its disk is full", "free some space")
    elif free < LOW_DISK_BYTES:
        yield Finding("data folder", "warning", what, "model, Redis and logs need about 1 GiB", "free some space")
    else:
        yield Finding("data folder", "ok", what)


def check_secrets(set_up: SetUp) -> Iterator[Finding]:
    """Modes and owners of the files that hold secrets; what is in them is not read."""
    files: dict[str, Path] = {"settings file": config_file()}
    if set_up.gateway is not None and set_up.gateway.key_secret is None:
        files["key secret"] = set_up.gateway.key_secret_file
    if set_up.supervisor is not None:
        folder = set_up.supervisor.data_dir
        if set_up.gateway is not None and "key_secret_file" not in set_up.gateway.model_fields_set:
            files["key secret"] = folder / set_up.gateway.key_secret_file.name
        files["Redis password"] = folder / "redis" / "password"
    faults = [found for name, path in files.items() if (found := _mode(name, path)) is not None]
    yield from faults
    seen = [name for name, path in files.items() if os.path.exists(path)]  # false in a closed folder
    if not faults:
        yield Finding("files of secrets", "ok", f"closed to others: {', '.join(seen)}" if seen else "none yet")


def _mode(name: str, path: Path) -> Finding | None:
    try:
        found = path.stat()
    except OSError:
        return None
    mode = stat.S_IMODE(found.st_mode)
    remedy = f"`chmod 600 {path.absolute()}`"
    if is_writable_by_all(path):
        return Finding(name, "fault", f"{path} can be changed by every user ({mode:04o})", "it is refused", remedy)
    if mode & stat.S_IROTH:
        if name == "settings file" and not _holds_secrets(path):
            return None
        return Finding(name, "warning", f"{path} can be read by every user ({mode:04o})", "it holds secrets", remedy)
    if found.st_uid not in {os.geteuid(), 0} and os.geteuid() != 0:
        return Finding(name, "warning", f"{path} belongs to another user", "who can change it", f"`chown` {path}")
    return None


def _holds_secrets(path: Path) -> bool:
    """Whether the settings file names a setting whose value is a secret."""
    import tomllib

    names = {"api_keys", "admin_token", "client_api_key", "client_admin_token", "key_secret", "redis_url"}
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return any(name in names and (name != "redis_url" or "@" in str(value)) for name, value in entries.items())


def _has_embedded_redis() -> bool:
    try:
        locate()
    except NotAvailable:
        return False
    return True


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / GIB:.1f} GiB"

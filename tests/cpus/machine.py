"""What kind of CPU this is, in a few words for tables."""

import platform
from pathlib import Path

KINDS = (
    ("avx512_vnni", "AVX512-VNNI"),
    ("avx_vnni", "AVX-VNNI"),
    ("avx512f", "AVX-512, no VNNI"),
    ("avx2", "AVX2, no VNNI"),
)


def describe_cpu() -> str:
    """Model and instruction set, "AMD EPYC, AVX2, no VNNI"; on other systems than Linux the architecture alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    entries = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if value}
    flags = entries.get("flags", "").split()
    kind = next((words for flag, words in KINDS if flag in flags), platform.machine())
    return f"{entries.get('model name', platform.machine())}, {kind}"

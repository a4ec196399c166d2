"""GPU memory as NVIDIA's management library reports it, under the names that existing alerts use.

`pynvml` comes with the extra `cuda` and is looked for when an engine starts; without it, or without a driver, there
are no such metrics. Read anew at each scrape, of all GPUs that the driver shows to this process, with their
index as `gpu`.
"""

import importlib
import logging
from collections.abc import Iterable
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)


class GpuMemory(Collector):
    """`nvidia_gpu_memory_used_bytes` and `_total_bytes` of each GPU. `nvml` is the module pynvml, initialised."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Both families; none while the driver does not answer."""
        used = GaugeMetricFamily("nvidia_gpu_memory_used_bytes", "Memory of a GPU in use by anyone.", labels=["gpu"])
        total = GaugeMetricFamily("nvidia_gpu_memory_total_bytes", "Memory that a GPU has.", labels=["gpu"])
        try:
            for index in range(self._nvml.nvmlDeviceGetCount()):
                memory = self._nvml.nvmlDeviceGetMemoryInfo(self._nvml.nvmlDeviceGetHandleByIndex(index))
                used.add_metric([str(index)], memory.used)
                total.add_metric([str(index)], memory.total)
        except self._nvml.NVMLError as error:
            logger.warning("GPU memory cannot be read: %s", error)
            return []
        return [used, total]


def find_gpu_memory() -> GpuMemory | None:
    """A collector where NVML and its driver are there, else None."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:  # no driver: a machine without a GPU
        logger.info("no GPU memory in the metrics: %s", error)
        return None
    return GpuMemory(nvml)

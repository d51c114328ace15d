"""The device: its name, how fast it multiplies matrices (the yardstick for everything else), its memory."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.bench.timing import settle

if TYPE_CHECKING:
    import torch

GIB = 2.0**30


def matmul_flops(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Best floating-point operations per second seen in square matrix products for about ``seconds``."""
    import torch

    wait = settle(device)
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    c = a @ b  # the first call plans and allocates
    wait()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        torch.mm(a, b, out=c)
        wait()
        best = min(best, time.perf_counter() - begin)
    return 2.0 * size**3 / best


def pretty_flops(flops: float) -> str:
    """With a fitting prefix."""
    return f"{flops / 1e12:.1f} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:.0f} GFLOP/s"


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def environment(device: torch.device) -> dict[str, Any]:
    """What a figure depends on beside the code."""
    import torch
    import transformers

    return {
        "device": device_name(device),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "cpus_usable": usable_cpus(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def usable_cpus() -> float:
    """How many CPUs this process may use: those it may run on, or the share its container is allowed."""
    count = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return count if quota == "max" else min(count, float(quota) / float(period))
    except (OSError, ValueError):
        return count


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new measurement of the peak; a process's own peak (CPU) cannot be reset."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Most bytes held: of the device since the last reset, or of this process ever (CPU)."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def memory_of_at_most(device: torch.device, size: float) -> Iterator[None]:
    """Let torch allocate at most ``size`` bytes of a GPU: what a smaller one would do."""
    import torch

    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, size / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "CPU"

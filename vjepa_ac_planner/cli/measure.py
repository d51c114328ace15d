"""How fast this machine multiplies matrices: the yardstick for everything else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was told."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_flops(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Best floating-point operations per second seen in square matrix products for about ``seconds``."""
    import torch

    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    c = a @ b  # the first call plans and allocates
    synchronize(device)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        torch.mm(a, b, out=c)
        synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2.0 * size**3 / best


def pretty_flops(flops: float) -> str:
    """With a fitting prefix."""
    return f"{flops / 1e12:.1f} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:.0f} GFLOP/s"

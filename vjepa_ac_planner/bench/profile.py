"""Where the time of a rollout goes: PyTorch's own profiler, its operators put into groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.bench.engine import score

if TYPE_CHECKING:
    from vjepa_ac_planner.world_model import WorldModel

GROUPS: Mapping[str, tuple[str, ...]] = {
    "linear layers": ("addmm", "mm", "linear", "_linear_pointwise", "_scaled_mm", "mkldnn"),
    "attention": ("scaled_dot_product", "flash_attention", "bmm", "softmax", "efficient_attention"),
    "GELU": ("gelu",),
    "layer norms": ("layer_norm", "native_layer_norm"),
    "rotary positions and residual sums": (
        "mul", "addcmul", "add", "sub", "neg", "sin", "cos", "einsum", "stack", "repeat", "flip",
    ),
    "copies": ("copy", "cat", "clone", "contiguous", "fill", "to", "index", "masked_fill", "zeros"),
}  # fmt: skip
"""Group -> what its operators' names begin with, after ``aten::`` and underscores; the longest fits."""
OTHER = "dispatch and the rest"


def of_scoring(model: WorldModel, many: int) -> dict[str, dict[str, float]]:
    """:func:`operator_groups` of scoring one candidate and many, at horizons 1 and 4."""
    found = {}
    for horizon in (1, 4):
        for samples in (1, many):
            found[f"{samples} candidates, horizon {horizon}"] = operator_groups(
                score(model, horizon, samples)
            )
    return found


def operator_groups(function: Callable[[], object], calls: int = 3) -> dict[str, float]:
    """Seconds of one call by group of operators, and the total; the first call, unrecorded, warms up.

    Recording itself costs a few microseconds an operator, so what is left of the wall time beside the
    operators is an upper bound of what dispatching them costs.
    """
    import time

    from torch.profiler import ProfilerActivity, profile

    function()
    begin = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU, *_cuda()]) as recorded:
        for _ in range(calls):
            function()
    wall = (time.perf_counter() - begin) / calls
    groups = dict.fromkeys((*GROUPS, OTHER), 0.0)
    for event in recorded.key_averages():
        groups[group_of(event.key)] += _self_time(event) / 1e6 / calls
    groups[OTHER] += max(0.0, wall - sum(groups.values()))
    return {**groups, "total": sum(groups.values())}


def group_of(operator: str) -> str:
    """The group of an operator such as ``aten::addmm``."""
    name = operator.removeprefix("aten::").removeprefix("mkldnn::").lstrip("_")
    best, length = OTHER, 0
    for group, beginnings in GROUPS.items():
        for beginning in beginnings:
            if name.startswith(beginning.lstrip("_")) and len(beginning) > length:
                best, length = group, len(beginning)
    return best


def _self_time(event: Any) -> float:
    """Microseconds in this operator alone: on the GPU where it has a part, else on the CPU."""
    return float(getattr(event, "self_device_time_total", 0.0) or event.self_cpu_time_total)


def _cuda() -> list[Any]:
    import torch
    from torch.profiler import ProfilerActivity

    return [ProfilerActivity.CUDA] if torch.cuda.is_available() else []

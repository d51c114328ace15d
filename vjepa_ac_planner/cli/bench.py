"""``vjepa-ac bench``: how fast plans are made here, beside what the device could do at best.

The unit of work is one candidate step: one latent with its action and state through the predictor. All
figures of one run are taken in turn on the same machine, so their ratios can be trusted even where the
figures themselves depend on what else is running.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.cli.arguments import add_json, add_model, add_preset, at_least, command
from vjepa_ac_planner.cli.console import say, table, write_json
from vjepa_ac_planner.cli.measure import matmul_flops, pretty_flops, synchronize

if TYPE_CHECKING:
    from torch import Tensor

    from vjepa_ac_planner.models import ModelDescription
    from vjepa_ac_planner.nn.predictor import PredictorConfig
    from vjepa_ac_planner.planning.planner import Planner
    from vjepa_ac_planner.world_model import WorldModel

DETAILS = """\
Images are random: the time does not depend on what they show.

examples:
  vjepa-ac bench
  vjepa-ac bench --model vjepa2-ac-vitg --untrained --device cuda --preset paper --plans 5
  vjepa-ac bench --samples 16 --ratios --json bench.json
"""


def add_parser(commands: Any) -> None:
    """Add ``bench``."""
    parser = command(commands, "bench", run, "measure planning speed on this machine", DETAILS)
    add_model(parser)
    parser.add_argument(
        "--untrained", action="store_true", help="random weights in place of the model's own"
    )
    add_preset(parser)
    parser.add_argument(
        "--samples", type=at_least(2), help="candidates per iteration (default: the preset's)"
    )
    parser.add_argument("--horizon", type=at_least(1), help="actions planned ahead (default: the preset's)")
    parser.add_argument(
        "--plans", type=at_least(1), default=20, help="plans to time (default: %(default)s)"
    )
    parser.add_argument(
        "--ratios",
        action="store_true",
        help="also time cached against uncached rollouts, and float32 against bfloat16",
    )
    parser.add_argument("--threads", type=at_least(1), help="CPU threads (default: torch's choice)")
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    import numpy as np
    import torch

    from vjepa_ac_planner.planning.planner import Planner
    from vjepa_ac_planner.planning.presets import PlannerConfig

    if args.threads:
        torch.set_num_threads(args.threads)
    model = _load(args, args.dtype)
    device, description = model.device, model.description
    preset = args.preset or description.preset
    options: dict[str, Any] = {}
    if args.samples:
        options["cem"] = {"samples": args.samples, "elites": min(10, max(2, args.samples // 8))}
    if args.horizon:
        options["horizon"] = args.horizon
    planner = Planner(model, PlannerConfig.preset(preset, options))
    config = planner.config
    rng = np.random.default_rng(0)
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )

    peaks = {str(dtype): matmul_flops(device, dtype, 1.0) for dtype in (torch.float32, torch.bfloat16)}
    peak = peaks[str(model.dtype)]
    say(f"{description.name} in {str(model.dtype).removeprefix('torch.')} on {name}; preset {preset}")
    say(f"matrix products here: {', '.join(f'{pretty_flops(v)} {k[6:]}' for k, v in peaks.items())}")

    figures = _plans(planner, args.plans, rng)
    steps = config.cem.samples * config.cem.iterations * config.horizon
    flops = rollout_flops(description.predictor, config.horizon) / config.horizon
    rate = figures["evaluations"] * config.horizon / figures["optimise_s"]
    figures |= {
        "model": description.name,
        "preset": preset,
        "device": name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "candidate_steps_per_s": rate,
        "flops_per_candidate_step": flops,
        "flops": rate * flops,
        "matmul_flops": peaks,
        "share_of_matmul": rate * flops / peak,
        "peak_memory_bytes": _peak_memory(device),
    }
    rows = [
        ["encode one frame", f"{figures['encode_s'] * 1e3:.1f} ms"],
        ["plan", f"p50 {figures['p50_plan_s'] * 1e3:.1f} ms, p95 {figures['p95_plan_s'] * 1e3:.1f} ms"],
        [
            "",
            f"{config.cem.samples} x {config.cem.iterations} x H={config.horizon}: {steps} candidate steps",
        ],
        ["candidate steps", f"{rate:.0f}/s, {flops / 1e9:.2f} GFLOP each"],
        [
            "predictor",
            f"{pretty_flops(rate * flops)}, {100 * rate * flops / peak:.0f}% of the matrix products",
        ],
        ["peak memory", f"{figures['peak_memory_bytes'] / 2**30:.2f} GiB"],
    ]
    say(table(rows))
    if args.ratios:
        figures["ratios"] = _ratios(args, model, rng)
    if args.json:
        write_json(args.json, figures)
    return 0


def rollout_flops(config: PredictorConfig, horizon: int) -> float:
    """Multiplications and additions of one cached rollout of ``horizon`` steps, matrix products only."""
    frame, d = config.tokens, config.dim
    tokens = frame + 2  # action and state
    linear = 2.0 * tokens * d * (4 * d + 2 * config.mlp_hidden)  # qkv, output, MLP
    ends = 2.0 * 2 * frame * config.latent_dim * d  # embedding and projection back
    total = 0.0
    for step in range(1, horizon + 1):
        attention = 2.0 * 2 * tokens * (tokens * step) * d
        total += config.depth * (linear + attention) + ends
    return total


def uncached_rollout(model: WorldModel, z0: Tensor, s0: Tensor, actions: Tensor) -> Tensor:
    """The rollout as its definition reads: every step evaluates the whole clip again. [K, H, N, D]."""
    import torch

    from vjepa_ac_planner import geometry
    from vjepa_ac_planner.nn.layers import latent_norm

    with torch.inference_mode():
        states = geometry.integrate(s0, actions)
        z = z0.expand(len(actions), 1, *z0.shape)
        for t in range(actions.shape[1]):
            following = model.predictor(z, states[:, : t + 1].to(z), actions[:, : t + 1].to(z))
            z = torch.cat((z, latent_norm(following[:, -1:])), dim=1)
        return z[:, 1:]


def _load(args: argparse.Namespace, dtype: str) -> WorldModel:
    from vjepa_ac_planner.models import find_model
    from vjepa_ac_planner.world_model import WorldModel, choose_device

    if not args.untrained:
        return WorldModel.load(args.model, device=args.device, dtype=dtype)  # type: ignore[arg-type]
    description = find_model(args.model).description
    return WorldModel.untrained(description, device=choose_device(args.device), dtype=dtype)  # type: ignore[arg-type]


def _plans(planner: Planner, count: int, rng: Any) -> dict[str, Any]:
    """Time whole plans, from a new frame each time; the first two warm up."""
    from vjepa_ac_planner.types import Goal, Observation, RobotState

    model = planner.world_model
    state = RobotState([0.5, 0.0, 0.35, 3.1, 0.0, -0.8, 0.0])  # type: ignore[arg-type]
    goal = Goal(_frame(rng, model.description))
    times: list[dict[str, float]] = []
    evaluations = 0
    for index in range(count + 2):
        plan = planner.plan(Observation(_frame(rng, model.description), state), goal, seed=index)
        evaluations = plan.evaluations
        times.append(plan.timings)
    totals = sorted(t["total"] for t in times[2:])
    return {
        "plans": count,
        "evaluations": evaluations,
        "encode_s": statistics.median(t["encode"] for t in times[2:]),
        "optimise_s": statistics.median(t["optimise"] for t in times[2:]),
        "p50_plan_s": statistics.median(totals),
        "p95_plan_s": totals[min(len(totals) - 1, round(0.95 * (len(totals) - 1)))],
    }


def _frame(rng: Any, description: ModelDescription) -> Any:
    from vjepa_ac_planner.types import Frame

    size = description.image_size
    return Frame(rng.integers(0, 256, (size, size, 3), dtype="uint8"))


def _ratios(args: argparse.Namespace, model: WorldModel, rng: Any) -> dict[str, float]:
    """Two ways of doing the same thing, timed in turn."""
    import torch

    horizon, candidates = 4, args.samples or 16
    device = model.device
    s0 = torch.zeros(7, device=device)
    actions = 0.05 * torch.randn(
        candidates, horizon, 7, device=device, generator=torch.Generator(device).manual_seed(0)
    )
    z0 = model.encode([_frame(rng, model.description)])[0]
    cached, uncached = _in_turn(
        device,
        lambda: model.rollout(z0, s0, actions),
        lambda: uncached_rollout(model, z0, s0, actions),
    )
    ratios = {"uncached_over_cached": uncached / cached}
    _say_ratio(f"rollout, H={horizon}", "uncached", uncached, "cached", cached)
    full, half = (_load(args, dtype) for dtype in ("float32", "bfloat16"))
    first, second = _in_turn(
        device,
        lambda: full.rollout(z0.float(), s0, actions),
        lambda: half.rollout(z0.bfloat16(), s0, actions),
    )
    ratios["float32_over_bfloat16"] = first / second
    _say_ratio(f"rollout, H={horizon}", "float32", first, "bfloat16", second)
    return ratios


def _say_ratio(what: str, slow: str, slow_s: float, fast: str, fast_s: float) -> None:
    times = f"{slow} {slow_s * 1e3:.0f} ms, {fast} {fast_s * 1e3:.0f} ms"
    say(f"  {what}: {times}: {slow_s / fast_s:.2f}x")


def _in_turn(device: Any, *functions: Callable[[], Any], rounds: int = 5) -> list[float]:
    """Median seconds of each, measured alternately so that a disturbance meets all alike."""
    times: list[list[float]] = [[] for _ in functions]
    for index in range(rounds + 1):
        for record, function in zip(times, functions, strict=True):
            synchronize(device)
            begin = time.perf_counter()
            function()
            synchronize(device)
            if index:  # the first round warms up
                record.append(time.perf_counter() - begin)
    return [statistics.median(record) for record in times]


def _peak_memory(device: Any) -> int:
    """Most memory held so far: of the device, or of this process on the CPU."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""The evaluation engine: candidates a second, and the share of the device's own matrix products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from vjepa_ac_planner.bench.device import peak_memory, reset_peak_memory
from vjepa_ac_planner.bench.flops import encode_flops, rollout_flops
from vjepa_ac_planner.bench.timing import Budget, in_turn, quantile, settle

if TYPE_CHECKING:
    from torch import Tensor

    from vjepa_ac_planner.planning.energy import LatentEnergy
    from vjepa_ac_planner.world_model import WorldModel

T = TypeVar("T")

MOST_SAMPLES = 800


def problem(model: WorldModel, horizon: int, samples: int) -> tuple[LatentEnergy, Tensor]:
    """A scorer and candidates [K, H, 7]: the time does not depend on what latents and actions hold."""
    import torch

    from vjepa_ac_planner.nn.layers import latent_norm
    from vjepa_ac_planner.planning.energy import LatentEnergy

    description, device = model.description, model.device
    generator = torch.Generator().manual_seed(0)

    def latent() -> Tensor:
        noise = torch.randn(description.tokens, description.latent_dim, generator=generator)
        return latent_norm(noise).to(device, model.dtype)

    s0 = torch.tensor([0.5, 0.0, 0.35, 3.1, 0.0, -0.8, 0.0], device=device)
    actions = 0.05 * torch.randn(samples, horizon, 7, generator=generator)
    return LatentEnergy(model, latent(), s0, latent()), actions.to(device)


def score_rate(
    model: WorldModel, horizon: int, samples: int | None, peak: float, budget: Budget, rounds: int = 20
) -> dict[str, Any]:
    """How fast candidates of one horizon are scored.

    Args:
        model: what scores them.
        horizon: actions of a candidate.
        samples: candidates scored together; None takes as many as a quarter of the budget allows.
        peak: the device's matrix products in this dtype [FLOP/s].
        budget: how long to measure.
        rounds: at most so often.
    """
    wait = settle(model.device)
    if samples is None:
        samples = affordable(lambda k: score(model, horizon, k), budget, wait)
    reset_peak_memory(model.device)
    (times,) = in_turn(score(model, horizon, samples), budget=budget, rounds=rounds, settle=wait)
    seconds = quantile(times, 0.5)
    rate = samples / seconds
    flops = rate * rollout_flops(model.description.predictor, horizon)
    return {
        "samples": samples,
        "horizon": horizon,
        "rounds": len(times),
        "seconds": seconds,
        "candidates_per_s": rate,
        "candidate_steps_per_s": rate * horizon,
        "tflops": flops / 1e12,
        "percent_of_peak": 100.0 * flops / peak,
        "peak_memory_bytes": peak_memory(model.device),
    }


def affordable(
    work: Callable[[int], Callable[[], object]], budget: Budget, wait: Callable[[], object]
) -> int:
    """How many candidates a quarter of the budget's time is enough for: found by doubling from one."""
    clock, allowed, samples = budget.clock, budget.left / 4, 1
    work(1)()  # what a first call takes says nothing
    while samples < MOST_SAMPLES:
        function = work(samples)
        begin = clock()
        function()
        wait()
        if clock() - begin > allowed / 2.5:  # the next, of twice as many, would be too long
            break
        samples = min(MOST_SAMPLES, samples * 2)
    return samples


def encoder_rate(model: WorldModel, peak: float, budget: Budget) -> dict[str, Any]:
    """How long one camera frame takes, from its pixels to its latent."""
    import numpy as np

    size = model.description.image_size
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    (times,) = in_turn(lambda: model.encode(image), budget=budget, rounds=50, settle=settle(model.device))
    p50 = quantile(times, 0.5)
    flops = encode_flops(model.description.encoder) / p50
    return {
        "p50_s": p50,
        "p95_s": quantile(times, 0.95),
        "rounds": len(times),
        "tflops": flops / 1e12,
        "percent_of_peak": 100.0 * flops / peak,
    }


def sweep(
    measure: Callable[[T, Budget], dict[str, Any]], values: Sequence[T], budget: Budget
) -> list[dict[str, Any]]:
    """A measurement at every value, each with an equal share of what is left, until nothing is."""
    rows: list[dict[str, Any]] = []
    for number, value in enumerate(values):
        if budget.left <= 0 and rows:
            break
        rows.append(measure(value, budget.share(1, len(values) - number)))
    return rows


def score(model: WorldModel, horizon: int, samples: int) -> Callable[[], object]:
    """What scores so many candidates of that horizon when called."""
    energy, actions = problem(model, horizon, samples)
    return lambda: energy(actions)

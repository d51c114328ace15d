"""How the engine's speed goes with candidates, image tokens, devices and threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.bench.device import matmul_flops
from vjepa_ac_planner.bench.engine import score_rate, sweep
from vjepa_ac_planner.bench.timing import Budget

if TYPE_CHECKING:
    from vjepa_ac_planner.bench.models import Models

ROUNDS = 5


def scaling(models: Models, peak: float, budget: Budget, *, few: bool) -> dict[str, Any]:
    """All four, each with its share of the time; those for which none is left are missing.

    Args:
        models: the model under test.
        peak: matrix products of its device, in its dtype [FLOP/s].
        budget: how long to measure, all together.
        few: fewer values of each.
    """
    counts = (1, 4, 16, 64) if few else (1, 2, 4, 8, 16, 32, 64, 128, 256, 400, 800)
    sides = (4, 8) if few else (4, 6, 8, 12, 16)
    parts = {
        "samples": lambda share: by_samples(models, counts, peak, share),
        "image_tokens": lambda share: by_tokens(models, sides, peak, share),
        "devices": lambda share: by_device(models, share, cpu_too=not few),
        "threads": lambda share: by_threads(models, share),
    }
    found = {}
    for number, (name, part) in enumerate(parts.items()):
        if budget.left > 0:
            found[name] = part(budget.share(1, len(parts) - number))
    return found


def by_samples(models: Models, samples: Sequence[int], peak: float, budget: Budget) -> list[dict[str, Any]]:
    """The same horizon of 1 with ever more candidates."""

    def one(count: int, share: Budget) -> dict[str, Any]:
        return score_rate(models.model, 1, count, peak, share, rounds=ROUNDS)

    return sweep(one, samples, budget)


def by_tokens(models: Models, sides: Sequence[int], peak: float, budget: Budget) -> list[dict[str, Any]]:
    """The same networks, untrained, on images with so many tokens along one side."""
    description = models.model.description

    def one(side: int, share: Budget) -> dict[str, Any]:
        encoder = replace(description.encoder, image_size=side * description.encoder.patch_size)
        predictor = replace(description.predictor, grid=(side, side))
        model = models.untrained(replace(description, encoder=encoder, predictor=predictor))
        return {"tokens": side * side, **score_rate(model, 1, None, peak, share, rounds=ROUNDS)}

    return sweep(one, sides, budget)


def by_device(models: Models, budget: Budget, *, cpu_too: bool) -> list[dict[str, Any]]:
    """Every GPU there is, one after the other, and beside them the CPU if that is asked for."""
    import torch

    description = models.model.description
    others = ["cpu"] if models.model.device.type == "cuda" and cpu_too else []

    def one(name: str, share: Budget) -> dict[str, Any]:
        device = torch.device(name)
        model = models.untrained(description, device)
        peak = matmul_flops(device, model.dtype, 0.5)
        return {"device": name, **score_rate(model, 1, None, peak, share, rounds=ROUNDS)}

    return sweep(one, [f"cuda:{i}" for i in range(torch.cuda.device_count())] + others, budget)


def by_threads(models: Models, budget: Budget) -> list[dict[str, Any]]:
    """A CPU with 1, 2, 4 ... threads."""
    import torch

    model = models.model
    if model.device.type != "cpu":
        return []
    usual = torch.get_num_threads()

    def one(count: int, share: Budget) -> dict[str, Any]:
        torch.set_num_threads(count)
        peak = matmul_flops(model.device, model.dtype, 0.2)
        return {"threads": count, **score_rate(model, 1, 16, peak, share, rounds=ROUNDS)}

    try:
        return sweep(one, sorted({*(2**n for n in range(10) if 2**n < usual), usual}), budget)
    finally:
        torch.set_num_threads(usual)

"""How fast a predictor trains here and how much memory that takes: real steps on random latents."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch

from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor, PredictorConfig
from vjepa_ac_planner.training.estimate import median_time, memory
from vjepa_ac_planner.training.finetune import FinetuneConfig, Objective, adapt_as
from vjepa_ac_planner.training.trainable import checkpoint_activations, new_predictor


def forward_flops(config: FinetuneConfig, predictor: PredictorConfig) -> float:
    """Floating-point operations of one clip's loss, forwards: those of matrix products."""
    dim, hidden, tokens = predictor.dim, predictor.mlp_hidden, predictor.tokens
    total = 0.0
    for steps in (config.clip_length - 1, *range(2, config.rollout_steps + 1)):
        length = steps * (tokens + 2)
        linear = 2 * length * (4 * dim * dim + 2 * dim * hidden)
        attention = 4 * length * length * dim
        ends = 2 * 2 * steps * tokens * predictor.latent_dim * dim
        total += predictor.depth * (linear + attention) + ends
    return total


def measure(
    config: FinetuneConfig, predictor: PredictorConfig, device: torch.device, *, steps: int, warm_up: int
) -> dict[str, Any]:
    """Run optimiser steps of a new predictor on random clips that are on the device already.

    Args:
        config: what is trained, batch and precision.
        predictor: sizes.
        device: where.
        steps: that are timed.
        warm_up: before them.

    Returns:
        Seconds of a step (median), by the clock and of all this process's threads; clips, frames and
        model FLOP per second (three times the forward pass, whatever is computed again); peak memory
        beside what was estimated; the losses.
    """
    torch.manual_seed(0)
    model = new_predictor(predictor, config.loop.seed)
    trained = adapt_as(config, model)
    if config.checkpoint_activations:
        checkpoint_activations(model)
    objective = Objective(model.to(device), config)
    optimiser = torch.optim.AdamW(trained.values(), lr=1e-5)
    batch = _random_clips(config, predictor, device)
    parts = config.parts(1)
    times, cpu_times, losses = [], [], []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(warm_up + steps):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        total = 0.0
        for _ in range(parts):
            loss = objective(*batch)[0] / parts
            loss.backward()
            total += loss.item()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
        cpu_times.append(time.process_time() - cpu_begin)
        losses.append(total)
    seconds = sorted(times[warm_up:])[steps // 2]
    flops = 3 * forward_flops(config, predictor) * config.batch
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_parameters": sum(parameter.numel() for parameter in trained.values()),
        "step_s": seconds,
        "step_cpu_s": sorted(cpu_times[warm_up:])[steps // 2],
        "steps_timed": steps,
        "clips_per_s": config.batch / seconds,
        "frames_per_s": config.batch * config.clip_length / seconds,
        "model_flops_per_step": flops,
        "model_flops_per_s": flops / seconds,
        "peak_memory_bytes": _peak_memory(device),
        "estimated_memory_bytes": memory(config, predictor).total,
        "losses": losses,
    }


def time_micro_batch(
    config: FinetuneConfig, predictor: ActionConditionedPredictor, device: torch.device
) -> float:
    """Seconds of one micro-batch, forwards and backwards, on random latents.

    Args:
        config: what is trained.
        predictor: with plain weights; used up.
        device: where.
    """
    predictor.cpu()
    adapt_as(config, predictor)
    if config.checkpoint_activations:
        checkpoint_activations(predictor)
    objective = Objective(predictor.to(device), config)
    batch = _random_clips(config, predictor.config, device)
    return median_time(lambda: objective(*batch)[0].backward(), device)


def _random_clips(
    config: FinetuneConfig, predictor: PredictorConfig, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    clips, frames = config.micro_batch, config.clip_length
    z = torch.randn(clips, frames, predictor.tokens, predictor.latent_dim, generator=generator)
    states = 0.3 * torch.randn(clips, frames, 7, generator=generator)
    actions = 0.03 * torch.randn(clips, frames - 1, 7, generator=generator)
    return z.to(device), states.to(device), actions.to(device)


def _peak_memory(device: torch.device) -> int:
    """Of the device; of this whole process on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, kilobytes elsewhere

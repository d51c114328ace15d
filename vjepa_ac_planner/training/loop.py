"""One resumable optimisation loop for all stages: schedule, checkpoints, metrics, progress."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vjepa_ac_planner.config import check_range, to_mapping
from vjepa_ac_planner.errors import CheckpointError, MissingDependencyError, PlannerError


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to optimise.

    Raises:
        ConfigError: a value is out of range.
    """

    iterations: int = 1000
    """Optimiser steps in all."""
    lr: float = 1e-3
    """Learning rate of the constant phase."""
    warmup: float = 0.05
    """Share of the iterations in which the rate rises linearly from 0."""
    decay: float = 0.3
    """Share of the iterations, at the end, in which the rate falls linearly to 0."""
    weight_decay: float = 0.01
    clip_grad: float = 1.0
    """Largest norm of the gradient."""
    seed: int = 0
    checkpoint_every: int = 200
    log_every: int = 20

    def __post_init__(self) -> None:
        check_range("iterations", self.iterations, 1, 10**9)
        check_range("lr", self.lr, 0.0, 1.0)
        check_range("warmup", self.warmup, 0.0, 1.0)
        check_range("decay", self.decay, 0.0, 1.0)
        check_range("weight_decay", self.weight_decay, 0.0, 10.0)
        check_range("clip_grad", self.clip_grad, 1e-6, 1e6)
        check_range("checkpoint_every", self.checkpoint_every, 1, 10**9)
        check_range("log_every", self.log_every, 1, 10**9)

    def rate(self, iteration: int) -> float:
        """Learning rate of one iteration: warm-up, constant, decay."""
        warm = (iteration + 1) / max(1.0, self.warmup * self.iterations)
        cool = (self.iterations - iteration) / max(1.0, self.decay * self.iterations)
        return self.lr * min(1.0, warm, cool)


class Stage(Protocol):
    """What one kind of training brings: its modules and its loss."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Everything that a checkpoint must hold; parameters that ask for gradients are optimised."""
        ...

    def loss(self, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw a batch, return what to minimise and what to log; progress runs from 0 to 1."""

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step, for moving averages."""


def optimise(
    stage: Stage,
    config: LoopConfig,
    folder: Path,
    describe: Any,
    *,
    evaluate: Callable[[], dict[str, float]] | None = None,
    evaluate_every: int = 0,
) -> None:
    """Run a stage to its end, going on from ``folder/state.pt`` if that is there.

    Chance is seeded by (seed, iteration), so a run that was killed and resumed draws the batches that
    the unbroken one draws. Metrics go to ``folder/metrics.jsonl``, one JSON object a line.

    Args:
        stage: modules and loss.
        config: length and rates.
        folder: where checkpoints and metrics go; made if need be.
        describe: the stage's whole configuration; a checkpoint of another one is refused.
        evaluate: figures on held-out data, logged every ``evaluate_every`` iterations and at the end.
        evaluate_every: 0 for at the end only.

    Raises:
        CheckpointError: the folder holds another configuration's checkpoint, or a broken one.
        PlannerError: the loss is not finite; the last checkpoint stays.
        MissingDependencyError: tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise MissingDependencyError(
            "training needs tqdm: pip install 'vjepa_ac_planner[training]'"
        ) from error

    folder.mkdir(parents=True, exist_ok=True)
    parameters = [p for m in stage.modules.values() for p in m.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(
        groups,
        lr=config.lr,
        weight_decay=config.weight_decay,
        betas=(0.9, 0.98),
    )
    description = json.loads(json.dumps(to_mapping(describe)))
    start = _restore(folder / "state.pt", stage, optimiser, description)

    bar = tqdm(range(start, config.iterations), initial=start, total=config.iterations, desc=folder.name)
    for iteration in bar:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + iteration)
        for group in optimiser.param_groups:
            group["lr"] = config.rate(iteration)
        progress = iteration / config.iterations
        loss, metrics = stage.loss(generator, progress)
        if not math.isfinite(loss.item()):
            raise PlannerError(
                f"iteration {iteration}: the loss is {loss.item()}; lower lr (now {config.lr}) and run "
                f"again: it resumes from the checkpoint in {folder}"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, config.clip_grad)
        optimiser.step()
        stage.after_step(progress)

        last = iteration + 1 == config.iterations
        if iteration % config.log_every == 0 or last:
            line = {name: round(value.item(), 5) for name, value in metrics.items()}
            bar.set_postfix(line)
            _log(folder, {"iteration": iteration, "loss": loss.item(), "grad": norm.item(), **line})
        if last or (iteration + 1) % config.checkpoint_every == 0:
            _save(folder / "state.pt", stage, optimiser, description, iteration + 1)
        if evaluate and (last or (evaluate_every and (iteration + 1) % evaluate_every == 0)):
            figures = evaluate()
            tqdm.write(f"{iteration + 1}: " + "  ".join(f"{k} {v:.4f}" for k, v in figures.items()))
            _log(folder, {"iteration": iteration, "held_out": figures})


def load_modules(path: Path) -> dict[str, dict[str, Tensor]]:
    """The modules' state dicts of a run's ``state.pt``.

    Raises:
        CheckpointError: missing or broken.
    """
    return _read(path)["modules"]


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such checkpoint; run the stage before this one first")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise CheckpointError(f"{path}: cannot be read ({error}); delete it to start again") from error


def _restore(path: Path, stage: Stage, optimiser: torch.optim.Optimizer, description: Any) -> int:
    if not path.exists():
        return 0
    state = _read(path)
    if state["config"] != description:
        raise CheckpointError(
            f"{path}: was made with another configuration; delete the folder or choose another --out"
        )
    for name, module in stage.modules.items():
        module.load_state_dict(state["modules"][name])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["iteration"])


def _save(path: Path, stage: Stage, optimiser: torch.optim.Optimizer, description: Any, done: int) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(
        {
            "iteration": done,
            "config": description,
            "modules": {name: module.state_dict() for name, module in stage.modules.items()},
            "optimiser": optimiser.state_dict(),
        },
        temporary,
    )
    os.replace(temporary, path)


def _log(folder: Path, line: dict[str, Any]) -> None:
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def with_iterations(config: LoopConfig, iterations: int | None) -> LoopConfig:
    """The same configuration with another length, or as it is for None."""
    return config if iterations is None else dataclasses.replace(config, iterations=iterations)

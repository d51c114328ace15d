"""One resumable optimisation loop for all stages: schedule, checkpoints, metrics, progress."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from vjepa_ac_planner.config import check_range, to_mapping
from vjepa_ac_planner.errors import CheckpointError, MissingDependencyError, PlannerError
from vjepa_ac_planner.outputs import make_folder
from vjepa_ac_planner.training import checkpoints
from vjepa_ac_planner.training.logs import RunLog


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

    def chance(self, iteration: int) -> torch.Generator:
        """The source of chance of one iteration: a resumed run draws what the unbroken one draws."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + iteration)


class Stage(Protocol):
    """What one kind of training brings, however its gradients come about."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Everything that a checkpoint must hold; parameters that ask for gradients are optimised."""
        ...

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step, for moving averages; progress runs from 0 to 1."""


class WholeStage(Stage, Protocol):
    """A stage that computes a batch at once."""

    def loss(self, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw a batch, return what to minimise and what to log."""
        ...


AnyStage = TypeVar("AnyStage", bound=Stage)
ItsStage = TypeVar("ItsStage", bound=Stage, contravariant=True)


class Engine(Protocol[ItsStage]):
    """How the gradients of one optimiser step come about, for stages of a kind."""

    @property
    def main(self) -> bool:
        """Whether this process writes checkpoints and metrics: one of several does."""
        ...

    def gradients(
        self, stage: ItsStage, config: LoopConfig, iteration: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Leave the gradients in the parameters; return the loss and what to log, of the whole batch."""
        ...

    def wait(self) -> None:
        """Until all processes have come here."""


class WholeEngine:
    """In one process, from one batch."""

    main = True

    def gradients(
        self, stage: WholeStage, config: LoopConfig, iteration: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`Engine.gradients`."""
        loss, metrics = stage.loss(config.chance(iteration), iteration / config.iterations)
        loss.backward()
        return loss.detach(), metrics

    def wait(self) -> None:
        """There is no other process."""


def optimise(
    stage: AnyStage,
    config: LoopConfig,
    folder: Path,
    describe: Any,
    engine: Engine[AnyStage],
    *,
    evaluate: Callable[[], dict[str, float]] | None = None,
    evaluate_every: int = 0,
    tensorboard: bool = False,
) -> None:
    """Run a stage to its end, going on from the last checkpoint in ``folder`` if there is one.

    Chance is seeded by (seed, iteration), so a run that was killed and resumed draws the batches that
    the unbroken one draws. Metrics go to ``folder/metrics.jsonl``, one JSON object a line.

    Args:
        stage: modules and where their gradients come from.
        config: length and rates.
        folder: where checkpoints and metrics go; made if need be.
        describe: the stage's whole configuration; a checkpoint of another one is refused.
        engine: how gradients come about.
        evaluate: figures on held-out data, logged every ``evaluate_every`` iterations and at the end.
        evaluate_every: 0 for at the end only.
        tensorboard: write metrics for TensorBoard as well.

    Raises:
        CheckpointError: the folder holds another configuration's checkpoint, or only broken ones.
        InputError: the folder cannot be made.
        PlannerError: the loss or its gradient is not finite; the last checkpoint stays.
        MissingDependencyError: tqdm (or TensorBoard, where it is asked for) is not installed.
    """
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise MissingDependencyError(
            "training needs tqdm: pip install 'vjepa_ac_planner[training]'"
        ) from error

    make_folder(folder)
    parameters = [p for m in stage.modules.values() for p in m.parameters() if p.requires_grad]
    optimiser = _adamw(parameters, config)
    description = json.loads(json.dumps(to_mapping(describe)))
    start, note = _restore(folder, stage, optimiser, description)
    engine.wait()  # nobody writes before all have read
    log = RunLog(folder, start, tensorboard=tensorboard) if engine.main else None
    if note and engine.main:
        tqdm.write(note)

    bar = tqdm(
        range(start, config.iterations),
        initial=start,
        total=config.iterations,
        desc=folder.name,
        disable=not engine.main,
    )
    for iteration in bar:
        for group in optimiser.param_groups:
            group["lr"] = config.rate(iteration)
        optimiser.zero_grad(set_to_none=True)
        loss, metrics = engine.gradients(stage, config, iteration)
        norm = nn.utils.clip_grad_norm_(parameters, config.clip_grad)
        _check_finite(loss, norm, iteration, config, folder)
        optimiser.step()
        stage.after_step(iteration / config.iterations)

        last = iteration + 1 == config.iterations
        if log is not None:
            if iteration % config.log_every == 0 or last:
                line = {name: round(value.item(), 5) for name, value in metrics.items()}
                bar.set_postfix(line)
                log.write(iteration, {"loss": loss.item(), "grad": norm.item(), **line})
            if evaluate and (last or (evaluate_every and (iteration + 1) % evaluate_every == 0)):
                figures = evaluate()
                tqdm.write(f"{iteration + 1}: " + "  ".join(f"{k} {v:.4f}" for k, v in figures.items()))
                log.write(iteration, {"held_out": figures})
            # Last, so that what a checkpoint follows has been written down.
            if last or (iteration + 1) % config.checkpoint_every == 0:
                _save(folder, stage, optimiser, description, iteration + 1)
    if log is not None:
        log.close()
    engine.wait()


def load_modules(path: Path) -> dict[str, dict[str, Tensor]]:
    """The modules' state dicts of a run's ``state.pt``.

    Raises:
        CheckpointError: missing or broken.
    """
    modules: dict[str, dict[str, Tensor]] = checkpoints.read(path)["modules"]
    return modules


def _adamw(parameters: list[nn.Parameter], config: LoopConfig) -> torch.optim.AdamW:
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.98))


def _check_finite(loss: Tensor, norm: Tensor, iteration: int, config: LoopConfig, folder: Path) -> None:
    for what, value in (("the loss", loss.item()), ("the norm of its gradient", norm.item())):
        if not math.isfinite(value):
            raise PlannerError(
                f"iteration {iteration}: {what} is {value}; lower lr (now {config.lr}) and run again: it "
                f"resumes from the checkpoint in {folder}"
            )


def _restore(
    folder: Path, stage: Stage, optimiser: torch.optim.Optimizer, description: Any
) -> tuple[int, str]:
    state, note = checkpoints.read_last(folder)
    if state is None:
        return 0, ""
    if state["config"] != description:
        differing = _differences(state["config"], description)
        raise CheckpointError(
            f"{folder / checkpoints.LAST}: was made with another configuration ({differing}); delete the "
            "folder or choose another --out"
        )
    for name, module in stage.modules.items():
        module.load_state_dict(state["modules"][name])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["iteration"]), note


def _differences(found: Any, wanted: Any, where: str = "") -> str:
    """Names of the options that differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
        return ", ".join(_differences(found.get(key), wanted.get(key), f"{where}{key}.") for key in keys)
    return where.rstrip(".") or "all of it"


def _save(
    folder: Path, stage: Stage, optimiser: torch.optim.Optimizer, description: Any, done: int
) -> None:
    checkpoints.save(
        folder,
        {
            "iteration": done,
            "config": description,
            "modules": {name: module.state_dict() for name, module in stage.modules.items()},
            "optimiser": optimiser.state_dict(),
        },
    )

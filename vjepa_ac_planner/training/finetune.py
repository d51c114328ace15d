"""Fine-tune a predictor on latents of a frozen encoder: the published one, our small one, or a new one.

A run folder holds ``run.json`` (what is trained, on what), ``state.pt`` and ``previous.pt`` (checkpoints),
``best.safetensors`` (the weights that predicted held-out clips best), ``before.json`` (the same figures of
the model that the run began with), ``metrics.jsonl`` and, if asked for, ``tensorboard/``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vjepa_ac_planner.config import check_ranges, ranged, to_mapping
from vjepa_ac_planner.errors import CheckpointError, ConfigError
from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor, PredictorConfig
from vjepa_ac_planner.nn.storage import StoredTensor, replacing, write_safetensors
from vjepa_ac_planner.outputs import make_folder
from vjepa_ac_planner.training.data import Trajectories, rewrap_roll
from vjepa_ac_planner.training.dataset import ClipIndex, Dataset
from vjepa_ac_planner.training.evaluate import prediction_errors, ranking_figures
from vjepa_ac_planner.training.latents import Latents
from vjepa_ac_planner.training.loop import LoopConfig
from vjepa_ac_planner.training.losses import prediction_loss
from vjepa_ac_planner.training.scaling import InputScales
from vjepa_ac_planner.training.trainable import Part, adapt, checkpoint_activations, load_trained

RUN, BEST, BEFORE = "run.json", "best.safetensors", "before.json"
METRICS = ("teacher_forcing", "rollout", "copy")
Precision = Literal["float32", "bfloat16"]

# Figures of held-out clips.
_CLIPS, _FRAMES, _STEPS = 64, 16, 4
_DRAWN, _AT_ONCE = 192, 16


@dataclass(frozen=True)
class FinetuneConfig:
    """What is trained, and how.

    Raises:
        ConfigError: a value is out of range, or values do not fit each other.
    """

    train: Part = "all"
    """``all`` weights of the predictor, the ``last`` blocks, ``lora`` matrices beside them, or ``scratch``:
    a new predictor."""
    last_blocks: int = ranged(4, low=1, high=1024)
    """Blocks that are trained with ``last``."""
    lora_rank: int = ranged(16, low=1, high=1024)
    """Of the matrices with ``lora``."""
    lora_alpha: int = ranged(32, low=1, high=10000)
    """LoRA's product is scaled by alpha / rank."""
    scales: InputScales | None = None
    """What actions and states are scaled by while training; null: nothing, as for the published model."""
    clip_length: int = ranged(8, low=2, high=64)
    """Frames of a clip."""
    rollout_steps: int = ranged(2, low=1, high=16)
    """Steps of the rollout loss."""
    batch: int = ranged(32, low=1, high=65536)
    """Clips of one optimiser step, over all processes."""
    micro_batch: int = ranged(4, low=1, high=65536)
    """Clips that one device computes at a time; what memory allows. Gradients of several add up."""
    checkpoint_activations: bool = False
    """Compute blocks again in the backward pass instead of keeping their insides: less memory, a third more
    time."""
    precision: Precision = "float32"
    """Of the arithmetic; weights, their gradients and the optimiser stay in float32."""
    held_out: float = ranged(0.1, low=0.0, high=0.9)
    """Share of the recordings that is kept back to judge by."""
    evaluate_every: int = ranged(200, low=1, high=10**9)
    """Iterations between two looks at the held-out clips."""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(lr=1e-4))

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.rollout_steps >= self.clip_length:
            raise ConfigError(
                f"rollout_steps: received {self.rollout_steps}, allowed less than clip_length "
                f"({self.clip_length})"
            )

    def parts(self, processes: int) -> int:
        """Micro-batches of one process in one iteration.

        Raises:
            ConfigError: the batch cannot be divided so.
        """
        at_once = processes * self.micro_batch
        if self.batch % at_once:
            raise ConfigError(
                f"batch: received {self.batch} clips, allowed are multiples of {at_once} "
                f"({processes} processes x micro_batch {self.micro_batch})"
            )
        return self.batch // at_once

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of the forward pass."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


@dataclass(frozen=True)
class RunDescription:
    """What a run is; what must agree for one to go on is :meth:`identity`."""

    model: str
    """The model that the run began with, as it was named."""
    weights: str
    """Digest of its predictor."""
    encoder: str
    """Key of its encoder, see :mod:`.latents`."""
    data: str
    """Digest of what it is trained on."""
    config: FinetuneConfig

    def identity(self) -> dict[str, Any]:
        """All but what changes rounding or logging only."""
        plain = to_mapping(self)
        for name in ("micro_batch", "checkpoint_activations"):
            del plain["config"][name]
        for name in ("log_every", "checkpoint_every"):
            del plain["config"]["loop"][name]
        del plain["model"]
        return plain


def begin_run(folder: Path, description: RunDescription, about: Mapping[str, Any]) -> None:
    """Write ``run.json``, which the export reads, and take away what another run has left behind."""
    make_folder(folder)
    for name in (BEST, BEFORE):
        (folder / name).unlink(missing_ok=True)
    with replacing(folder / RUN) as file:
        file.write((json.dumps({**to_mapping(description), **about}, indent=2) + "\n").encode())


class Objective(nn.Module):
    """The loss of a micro-batch as a module, so that it can be wrapped for several processes."""

    def __init__(self, predictor: ActionConditionedPredictor, config: FinetuneConfig) -> None:
        super().__init__()
        self.predictor, self._config = predictor, config

    def forward(self, z: Tensor, states: Tensor, actions: Tensor) -> Tensor:
        """[4] loss and :data:`METRICS` of latents [B, T, N, D], states [B, T, 7], actions [B, T - 1, 7]."""
        z = z.float()
        with self._config.autocast(z.device):
            loss = prediction_loss(self.predictor, z, states, actions, self._config.rollout_steps)
        copy = (z[:, 1:] - z[:, :-1]).abs().mean()
        return torch.stack([loss.total, loss.teacher_forcing.detach(), loss.rollout.detach(), copy])


class FinetuneStage:
    """The stage for :func:`~vjepa_ac_planner.training.loop.optimise` with an accelerated engine.

    All processes draw the same clips for an iteration and each reads its share of them, so the batch does
    not depend on how many there are. The next iteration's clips are read while this one computes.

    Args:
        config: what to train, and how.
        predictor: with plain weights, on the CPU; adapted and moved in place.
        index: clips to draw from.
        latents: of the same data set.
        device: where to compute.
        rank: of this process.
        processes: how many there are.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        predictor: ActionConditionedPredictor,
        index: ClipIndex,
        latents: Latents,
        device: torch.device,
        *,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.config, self.predictor = config, predictor
        self._index, self._latents = index, latents
        self._rank, self._parts = rank, config.parts(processes)
        self.device = device
        self.trained = adapt_as(config, predictor)
        predictor.to(device)
        if config.checkpoint_activations:
            checkpoint_activations(predictor)
        self.objective = Objective(predictor, config)
        # Parameters under names that a module may have.
        held = nn.ParameterDict({name.replace(".", "/"): p for name, p in self.trained.items()})
        self.modules: Mapping[str, nn.Module] = {"predictor": held}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="clips")
        self._next: tuple[int, Future[list[tuple[Tensor, ...]]]] | None = None

    def batches(self, iteration: int) -> Sequence[tuple[Tensor, ...]]:
        """This process's micro-batches: latents, states and actions, on the device."""
        if self._next is not None and self._next[0] == iteration:
            parts = self._next[1].result()
        else:
            parts = self._read(iteration)
        self._next = None
        if iteration + 1 < self.config.loop.iterations:
            self._next = (iteration + 1, self._reader.submit(self._read, iteration + 1))
        return [tuple(part.to(self.device, non_blocking=True) for part in parts) for parts in parts]

    def after_step(self, progress: float) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Stop reading ahead."""
        self._reader.shutdown(cancel_futures=True)

    def _read(self, iteration: int) -> list[tuple[Tensor, ...]]:
        generator = self.config.loop.chance(iteration)
        length = self._index.length
        chosen = self._index.draw(self.config.batch, generator)
        states = torch.stack([episode.states[first : first + length] for episode, first in chosen])
        states = rewrap_roll(states, generator)
        actions = torch.stack([episode.actions[first : first + length - 1] for episode, first in chosen])
        share, size = self._parts * self.config.micro_batch, self.config.micro_batch
        starts = range(self._rank * share, (self._rank + 1) * share, size)
        return [
            (
                self._latents.clips(self._index, chosen[start : start + size]),
                states[start : start + size],
                actions[start : start + size],
            )
            for start in starts
        ]


def adapt_as(config: FinetuneConfig, predictor: ActionConditionedPredictor) -> dict[str, nn.Parameter]:
    """:func:`~vjepa_ac_planner.training.trainable.adapt` as a configuration asks for it."""
    return adapt(
        predictor,
        config.train,
        last_blocks=config.last_blocks,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        scales=config.scales,
        seed=config.loop.seed,
    )


def judged_bytes(predictor: PredictorConfig) -> int:
    """Most that a :class:`Judge` keeps on its device: the latents of all its clips."""
    return 2 * _CLIPS * _FRAMES * predictor.tokens * predictor.latent_dim


class Judge:
    """Figures of a predictor on held-out clips, which stay in memory.

    Args:
        dataset: held-out episodes.
        latents: of the data set that they are of.
        device: where the predictor is.

    Raises:
        InputError: no episode is long enough.
    """

    def __init__(self, dataset: Dataset, latents: Latents, device: torch.device) -> None:
        longest = max(map(len, dataset.episodes))
        index = ClipIndex(dataset, min(_FRAMES, max(longest, _STEPS + 1)))
        chosen = index.spread(_CLIPS)
        self.clips = len(chosen)
        self._latents = latents.clips(index, chosen).to(device)
        states = [episode.states[first : first + index.length] for episode, first in chosen]
        # Any: prediction_errors asks for PlayData, and uses what Trajectories has.
        self._data: Any = Trajectories(torch.stack(states).to(device))

    def encoder_figures(self) -> dict[str, float]:
        """How well the latents rank nearness, before any predictor; see :func:`.evaluate.ranking`."""
        return ranking_figures(self._latents, self._data.states[..., :3])

    def __call__(self, predictor: ActionConditionedPredictor) -> dict[str, float]:
        """One-step and 4-step L1, beside a copy of the latent and actions of other clips."""
        rounds = -(-_DRAWN // _AT_ONCE)
        total: dict[str, float] = {}
        # In float32 whatever it is trained in: poses, which are added up on the way, need it.
        for seed in range(rounds):
            figures = prediction_errors(
                predictor, self._latents, self._data, clips=_AT_ONCE, steps=_STEPS, seed=seed
            )
            for name, value in figures.items():
                total[name] = total.get(name, 0.0) + value / rounds
        return total


class BestKeeper:
    """Judges a stage as it is trained, and keeps the weights that did best.

    Args:
        stage: under training.
        judge: of held-out clips.
        folder: of the run.
    """

    def __init__(self, stage: FinetuneStage, judge: Judge, folder: Path) -> None:
        self._stage, self._judge, self._folder = stage, judge, folder

    def before(self) -> dict[str, float]:
        """Figures of the model that the run began with; measured once, before the first step."""
        path = self._folder / BEFORE
        if path.exists():
            figures: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
            return figures
        figures = {**self._judge(self._stage.predictor), **self._judge.encoder_figures()}
        with replacing(path) as file:
            file.write((json.dumps(figures, indent=2) + "\n").encode())
        return figures

    def __call__(self) -> dict[str, float]:
        """Figures of now; the weights are kept if they are the best so far."""
        figures = self._judge(self._stage.predictor)
        best = best_figures(self._folder)
        if best is None or score(figures) < score(best):
            tensors = {name: StoredTensor.of(value) for name, value in self._stage.trained.items()}
            about = {"figures": json.dumps(figures)}
            write_safetensors(self._folder / BEST, tensors, torch.float32, about)
        return figures


def score(figures: Mapping[str, float]) -> float:
    """What is kept as best: the sum of one-step and 4-step error, less is better."""
    return figures["one_step"] + figures["rollout"]


def best_figures(folder: Path) -> dict[str, float] | None:
    """Held-out figures of the best weights of a run, or None before the first look."""
    from safetensors import SafetensorError, safe_open

    path = folder / BEST
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            figures: dict[str, float] = json.loads(file.metadata()["figures"])
            return figures
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); delete it, and resume the run") from error


def load_best(folder: Path, trained: Mapping[str, nn.Parameter]) -> None:
    """Put the best weights of a run into a predictor that was adapted in the same way.

    Raises:
        CheckpointError: there are none yet, or they cannot be read.
    """
    from vjepa_ac_planner.nn.storage import read_safetensors

    path = folder / BEST
    if not path.exists():
        raise CheckpointError(
            f"{path}: not there; run `vjepa-ac train finetune` at least to its first look at held-out "
            "clips (evaluate_every)"
        )
    load_trained(trained, {name: stored.read() for name, stored in read_safetensors(path).items()})

"""What a run will take before it begins: memory of the device, room on the disk, time.

Memory is counted, not guessed: weights, gradients and AdamW's two moments by their sizes, and what the
backward pass keeps by running the loss of one clip on tensors without storage. Time is measured, by a few
real steps.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor, PredictorConfig
from vjepa_ac_planner.training.finetune import FinetuneConfig, judged_bytes
from vjepa_ac_planner.training.losses import prediction_loss
from vjepa_ac_planner.training.trainable import adapt

GB = 1e9
_RESERVE = 1.15
"""Allocators and libraries take more than what is asked of them."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimiser: int
    activations: int
    """Of one micro-batch, at the end of the forward pass."""
    judged: int = 0
    """Latents of the clips that are judged by, at most."""

    @property
    def total(self) -> int:
        """With what allocators need beyond it."""
        trained = self.weights + self.gradients + self.optimiser
        return round(_RESERVE * (trained + self.activations + self.judged))


def memory(config: FinetuneConfig, predictor: PredictorConfig, *, judged: bool = False) -> MemoryEstimate:
    """Of training on one device, and of what judges the result there."""
    with torch.device("meta"):
        model = ActionConditionedPredictor(predictor)
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = _trained_numbers(config, predictor)
    return MemoryEstimate(
        weights=4 * (total + (trained if config.train == "lora" else 0)),
        gradients=4 * trained,
        optimiser=8 * trained,
        activations=activation_bytes(config, predictor),
        judged=judged_bytes(predictor) if judged else 0,
    )


@lru_cache(maxsize=64)
def activation_bytes(config: FinetuneConfig, predictor: PredictorConfig) -> int:
    """What a micro-batch keeps for the backward pass.

    Blocks are alike, so predictors of one and two of them tell what each keeps and what the rest does.
    (Frozen blocks keep something too: the rollout's gradient passes through them.) With activations
    checkpointed, each block keeps what enters it, and one at a time the rest.
    """
    one, two = (_kept_bytes(config, predictor, depth, depth) for depth in (1, 2))
    block, outside = two - one, one - (two - one)
    blocks = min(config.last_blocks, predictor.depth) if config.train == "last" else predictor.depth
    if not config.checkpoint_activations:
        frozen = _kept_bytes(config, predictor, 2, 1) - one if blocks < predictor.depth else 0
        return outside + blocks * block + (predictor.depth - blocks) * frozen
    width = 2 if config.precision == "bfloat16" else 4
    tokens = config.micro_batch * (predictor.tokens + 2) * sum(_passes(config))
    copies = 2 * blocks * _block_numbers(predictor) if width == 2 else 0  # autocast keeps casts of weights
    return outside + predictor.depth * tokens * predictor.dim * width + block + copies


def cache_bytes(frames: int, latent_dim: int, tokens: int) -> int:
    """Latents of frames on disk."""
    return 2 * frames * latent_dim * tokens


def free_bytes(folder: Path) -> int:
    """Of the disk that a folder, there yet or not, lies on."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def available_memory(device: torch.device) -> int | None:
    """What a device has left [bytes]; None where that cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def median_time(work: Callable[[], Any], device: torch.device, repeats: int = 3) -> float:
    """Seconds that some work takes, after once to warm up."""
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return sorted(times[1:])[repeats // 2]


def _trained_numbers(config: FinetuneConfig, predictor: PredictorConfig) -> int:
    """How many numbers are trained, counted on an adapted model without storage."""
    if config.train == "lora":
        # Each linear layer of a block gets two matrices: rank x inputs and outputs x rank.
        dim, hidden = predictor.dim, predictor.mlp_hidden
        sides = (dim + 3 * dim) + (dim + dim) + 2 * (dim + hidden)
        condition = 2 * (7 * dim + dim)
        return predictor.depth * config.lora_rank * sides + condition
    with torch.device("meta"):
        model = ActionConditionedPredictor(predictor)
        trained = adapt(model, config.train, last_blocks=min(config.last_blocks, predictor.depth))
    return sum(parameter.numel() for parameter in trained.values())


def _passes(config: FinetuneConfig) -> list[int]:
    """Steps of each pass through the predictor: teacher forcing, then the rollout."""
    return [config.clip_length - 1, *range(2, config.rollout_steps + 1)]


def _block_numbers(predictor: PredictorConfig) -> int:
    with torch.device("meta"):
        block = ActionConditionedPredictor(replace(predictor, depth=1)).blocks[0]
    return sum(parameter.numel() for parameter in block.parameters())


def _kept_bytes(config: FinetuneConfig, predictor: PredictorConfig, depth: int, last_blocks: int) -> int:
    """Bytes that autograd keeps of a micro-batch, for a predictor of some blocks; nothing is computed."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        with torch.device("meta"):  # so that it does not draw initial weights, which cannot be faked
            model = ActionConditionedPredictor(replace(predictor, depth=depth))
        empty = {name: torch.empty(weight.shape) for name, weight in model.state_dict().items()}
        model.load_state_dict(empty, assign=True)
        if config.train == "last":
            adapt(model, "last", last_blocks=last_blocks)
        clips, frames = config.micro_batch, config.clip_length
        z = torch.zeros(clips, frames, predictor.tokens, predictor.latent_dim)
        states, actions = torch.zeros(clips, frames, 7), torch.zeros(clips, frames - 1, 7)
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        with _counting(weights) as sizes, config.autocast(torch.device("cpu")), _Float32Norms():
            loss = prediction_loss(model, z, states, actions, config.rollout_steps)
        del loss
    return sum(sizes.values())


class _Float32Norms(TorchFunctionMode):
    """Layer norms in float32, as a GPU's autocast computes them; a CPU's computes them in bfloat16."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.layer_norm:
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return func(args[0].float(), *args[1:], **(kwargs or {}))


@contextmanager
def _counting(ignored: set[int]) -> Iterator[dict[int, int]]:
    """Sizes of the storages that the backward pass keeps, each counted once."""
    sizes: dict[int, int] = {}
    held: list[Tensor] = []  # a storage that is let go could be counted again under its old address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in ignored:
            sizes[storage._cdata] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes


def pretty_time(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"

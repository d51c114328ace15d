"""Which weights of a predictor are trained: all, the last blocks, LoRA beside them, or all from scratch.

Whatever is trained, :func:`finish` leaves the plain architecture with plain weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import ConfigError, MissingDependencyError
from vjepa_ac_planner.nn.layers import Block, RopeTable
from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor, PredictorConfig
from vjepa_ac_planner.training.predictor import start_from_copy
from vjepa_ac_planner.training.scaling import InputScales, fold_scales, unfold_scales

Part = Literal["all", "last", "lora", "scratch"]

_LORA_LAYERS = r"blocks\.\d+\.(attention\.(qkv|out)|mlp\.(up|down))"
_CONDITION = ("action_embed.", "state_embed.")
"""Where actions and states come in; small, and trained with LoRA as they are."""
_OUTPUT = ("norm.", "out.")


def new_predictor(config: PredictorConfig, seed: int) -> ActionConditionedPredictor:
    """An untrained predictor; it begins by copying the latent where its width allows that."""
    torch.manual_seed(seed)
    predictor = ActionConditionedPredictor(config)
    return start_from_copy(predictor) if config.dim >= config.latent_dim else predictor


def adapt(
    predictor: ActionConditionedPredictor,
    part: Part,
    *,
    last_blocks: int = 4,
    lora_rank: int = 16,
    lora_alpha: int = 32,
    scales: InputScales | None = None,
    seed: int = 0,
) -> dict[str, nn.Parameter]:
    """Prepare a predictor for training, in place.

    Args:
        predictor: with plain weights, on the CPU.
        part: ``all`` or ``scratch``: everything; ``last``: the last blocks and the output; ``lora``:
            low-rank matrices beside the linear layers of all blocks, and the action and state layers.
        last_blocks: how many, for ``last``.
        lora_rank: of the matrices, for ``lora``.
        lora_alpha: the matrices' product is scaled by alpha / rank, for ``lora``.
        scales: what actions and states are scaled by while training; the function stays the same.
        seed: of LoRA's matrices.

    Returns:
        What is trained, by name; everything else is frozen.

    Raises:
        ConfigError: more blocks than there are.
        MissingDependencyError: ``lora`` without peft.
    """
    if scales is not None:
        unfold_scales(predictor, scales)
    if part == "lora":
        _add_lora(predictor, lora_rank, lora_alpha, seed)
    depth = predictor.config.depth
    if part == "last":
        check_range("last_blocks", last_blocks, 1, depth)
    ends = tuple(f"blocks.{number}." for number in range(depth - last_blocks, depth))
    starts: tuple[str, ...] = {
        "all": ("",),
        "scratch": ("",),
        "last": (*ends, *_OUTPUT),
        "lora": _CONDITION,
    }[part]
    trained = {}
    for name, parameter in predictor.named_parameters():
        parameter.requires_grad_(name.startswith(starts) or ".lora_" in name)
        if parameter.requires_grad:
            trained[name] = parameter
    return trained


def load_trained(trained: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Put values into what :func:`adapt` returned.

    Raises:
        ConfigError: other names.
    """
    if set(trained) != set(values):
        differing = sorted(set(trained) ^ set(values))
        raise ConfigError(f"trained weights: {len(differing)} names differ, such as {differing[0]}")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(values[name])


def finish(predictor: ActionConditionedPredictor) -> ActionConditionedPredictor:
    """Merge LoRA and fold scales into the plain weights, in place; it computes what it did before."""
    layers = [
        (name, layer) for name, layer in predictor.named_modules() if hasattr(layer, "get_base_layer")
    ]
    for name, layer in layers:
        merging: Any = layer
        merging.merge()
        parent, _, own = name.rpartition(".")
        setattr(predictor.get_submodule(parent), own, merging.get_base_layer())
    return fold_scales(predictor).requires_grad_(False).eval()


def checkpoint_activations(predictor: ActionConditionedPredictor) -> None:
    """Keep only what enters each block during training and compute the rest again, in place.

    A step takes about a third longer and needs a fraction of the memory; the result is the same.
    """
    for block in predictor.blocks:
        block.__class__ = _Checkpointed  # a forward of its own would refer to the block, and keep it alive


class _Checkpointed(Block):
    def forward(self, x: Tensor, rope: RopeTable, mask: Tensor | None = None) -> Tensor:
        # Nothing in a block draws from chance, so no state of it need be kept.
        found: Tensor = checkpoint(
            super().forward, x, rope, mask, use_reentrant=False, preserve_rng_state=False
        )
        return found


def _add_lora(predictor: ActionConditionedPredictor, rank: int, alpha: int, seed: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingDependencyError("LoRA needs peft: pip install 'vjepa_ac_planner[training]'") from error
    torch.manual_seed(seed)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=_LORA_LAYERS), predictor)

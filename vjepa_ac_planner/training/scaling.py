"""Input scales for training, folded into the first linear layers on export.

Actions and states are small numbers beside latents, and a layer that must grow large weights to see
them learns slowly. During training the weights are kept as ``weight = raw * scale`` per input; folding
leaves the plain published architecture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor

Scales = tuple[float, float, float, float, float, float, float]


@dataclass(frozen=True)
class InputScales:
    """What the inputs are multiplied by, about 1 / their standard deviation."""

    action: Scales = (25.0, 25.0, 25.0, 10.0, 10.0, 10.0, 3.0)
    state: Scales = (8.0, 5.0, 6.0, 0.3, 2.0, 2.0, 2.0)

    def __post_init__(self) -> None:
        for name in ("action", "state"):
            for value in getattr(self, name):
                check_range(f"{name} scale", value, 1e-3, 1e3)


class _ScaledColumns(nn.Module):
    scale: Tensor

    def __init__(self, scale: Scales) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def forward(self, raw: Tensor) -> Tensor:
        return raw * self.scale


def scale_inputs(predictor: ActionConditionedPredictor, scales: InputScales) -> ActionConditionedPredictor:
    """Make the predictor's action and state layers train at the given scales, in place."""
    parametrize.register_parametrization(
        predictor.action_embed, "weight", _ScaledColumns(scales.action), unsafe=True
    )
    parametrize.register_parametrization(
        predictor.state_embed, "weight", _ScaledColumns(scales.state), unsafe=True
    )
    return predictor


def unfold_scales(predictor: ActionConditionedPredictor, scales: InputScales) -> ActionConditionedPredictor:
    """Go on training a folded predictor at the given scales, in place: the opposite of folding."""
    with torch.no_grad():
        predictor.action_embed.weight.div_(torch.tensor(scales.action))
        predictor.state_embed.weight.div_(torch.tensor(scales.state))
    return scale_inputs(predictor, scales)


def fold_scales(predictor: ActionConditionedPredictor) -> ActionConditionedPredictor:
    """Fold the scales into the weights, in place; the predictor computes the same as before."""
    for layer in (predictor.action_embed, predictor.state_embed):
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight")
    return predictor

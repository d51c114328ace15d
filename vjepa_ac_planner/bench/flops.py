"""How much arithmetic a piece of work is: matrix products only, a multiplication and an addition each."""

from __future__ import annotations

from vjepa_ac_planner.nn.encoder import EncoderConfig
from vjepa_ac_planner.nn.predictor import CONDITION_TOKENS, PredictorConfig


def rollout_flops(config: PredictorConfig, horizon: int) -> float:
    """Of one candidate's cached rollout of ``horizon`` steps, each token through the whole network.

    What the engine saves by sharing work between candidates is not taken off, so shares of a device's
    peak stay comparable between engines.
    """
    frame, d = config.tokens, config.dim
    tokens = frame + CONDITION_TOKENS
    linear = 2.0 * tokens * d * (4 * d + 2 * config.mlp_hidden)  # qkv, output, MLP
    ends = 2.0 * 2 * frame * config.latent_dim * d  # embedding and projection back
    total = 0.0
    for step in range(1, horizon + 1):
        attention = 2.0 * 2 * tokens * (tokens * step) * d
        total += config.depth * (linear + attention) + ends
    return total


def encode_flops(config: EncoderConfig) -> float:
    """Of encoding one frame."""
    n, d = config.tokens, config.dim
    hidden = int(d * config.mlp_ratio)
    patches = 2.0 * n * d * 3 * config.tubelet * config.patch_size**2
    return patches + config.depth * (2.0 * n * d * (4 * d + 2 * hidden) + 2.0 * 2 * n * n * d)

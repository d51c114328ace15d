"""Going on from a finished model, as deep as it was or deeper."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vjepa_ac_planner.errors import ConfigError

_BLOCK = re.compile(r"(?:^|\.)(?:layer|blocks)\.(\d+)\.")
_LAST_OF_A_BRANCH = ("attention.proj.", "mlp.fc2.", "attention.out.", "mlp.down.")
"""The layers whose output is added to the tokens, in the encoder and in the predictor."""


@torch.no_grad()
def load_grown(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the weights of a model of the same widths; blocks that it does not have begin as the identity.

    The new blocks come last and add nothing to the tokens at first, so that training goes on from
    exactly what the finished model computes.

    Args:
        module: a :class:`FrameEncoder` or :class:`ActionConditionedPredictor`, freshly made.
        state: the state dict of another one.

    Raises:
        ConfigError: it is deeper than ``module``, or of other sizes.
    """
    own = module.state_dict()
    depth = 1 + max((int(found[1]) for name in state if (found := _BLOCK.search(name))), default=-1)
    grown = {name for name in own if (found := _BLOCK.search(name)) and int(found[1]) >= depth}
    for name in sorted({*state, *(own.keys() - grown)}):
        received, wanted = (tuple(part[name].shape) if name in part else None for part in (state, own))
        if received != wanted:
            raise ConfigError(
                f"start_from: {name} is {received or 'missing'} there and {wanted or 'missing'} here; "
                "allowed is a model of the same widths, as deep or less deep"
            )
    start = {name: value.clone() for name, value in own.items()}
    start.update(state)
    for name in grown:
        if any(part in name for part in _LAST_OF_A_BRANCH):
            start[name].zero_()
    module.load_state_dict(start)

"""The action-conditioned predictor of V-JEPA 2-AC: imagines the next latent of an action.

Per time step the transformer sees one block of tokens ``[action, state, N frame tokens]``, and every
token of step t sees all tokens of steps <= t. (V-JEPA 2, arXiv 2506.09985, section 3.1.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.nn.layers import Block, RopeTable, attend, latent_norm, rope_table
from vjepa_ac_planner.types import ACTION_DIM, STATE_DIM

__all__ = ["ActionConditionedPredictor", "Halves", "PredictorConfig", "RolloutCache", "latent_norm"]

CONDITION_TOKENS = 2
"""Action and state: the tokens before the frame tokens of a step."""


@dataclass(frozen=True)
class PredictorConfig:
    """Sizes of an :class:`ActionConditionedPredictor`; the defaults are the published model's.

    Raises:
        ConfigError: a size is out of range, or ``dim`` is not a multiple of ``heads``.
    """

    latent_dim: int = 1408
    """Channels of a latent token, as the encoder makes them."""
    dim: int = 1024
    """Width of the transformer."""
    depth: int = 24
    """Number of blocks."""
    heads: int = 16
    """Attention heads; dim / heads must be even and at least 6, for the rotary positions."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLPs as a multiple of dim."""
    grid: tuple[int, int] = (16, 16)
    """Rows and columns of latent tokens of one frame."""

    def __post_init__(self) -> None:
        check_range("latent_dim", self.latent_dim, 1, 65536)
        check_range("dim", self.dim, 1, 65536)
        check_range("depth", self.depth, 1, 1024)
        check_range("heads", self.heads, 1, 1024)
        check_range("mlp_ratio", self.mlp_ratio, 0.01, 64)
        check_range("grid rows", self.grid[0], 1, 1024)
        check_range("grid columns", self.grid[1], 1, 1024)
        if self.dim % self.heads or self.head_dim % 2 or self.head_dim < 6:
            raise ConfigError(
                f"dim: received {self.dim} for {self.heads} heads; allowed are multiples of heads "
                "that give every head an even number of channels, at least 6"
            )

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.heads

    @property
    def tokens(self) -> int:
        """N, latent tokens of one frame."""
        return self.grid[0] * self.grid[1]

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the MLPs."""
        return int(self.dim * self.mlp_ratio)


class Halves(NamedTuple):
    """The two halves of every block as functions, for those who have faster ones of the same meaning."""

    project: Callable[[Block, Tensor, RopeTable], tuple[Tensor, Tensor, Tensor]] = Block.project
    finish: Callable[[Block, Tensor, Tensor], Tensor] = Block.finish


PLAIN = Halves()


class RolloutCache:
    """Keys and values of the steps already imagined, so that a horizon of H costs H step evaluations.

    Memory layout: for each of the ``depth`` blocks one tensor of keys (already rotated) and one of
    values, each ``[B, heads, capacity * S, head_dim]`` in the compute dtype, S = N + 2 tokens a step.
    Time runs along the third dimension: step t occupies rows ``t*S .. (t+1)*S``, in the order action,
    state, frame tokens. Attention reads the prefix up to the present step as a view: nothing is
    copied but the new rows, once. That the rows of one head lie together makes attention on a CPU up to
    1.7 times as fast. In all ``2 * depth * B * capacity * S * dim`` numbers: at full size (depth 24,
    dim 1024, S = 258, bf16) 25.4 MB per candidate and step.

    The tensors are allocated when the first step is stored; on a GPU not at all for a capacity of 1,
    where there is no past to keep. A cache serves one rollout of one batch, all of it with gradients
    enabled or all of it without.

    Args:
        depth: number of blocks.
        capacity: number of steps of the rollout.
    """

    def __init__(self, depth: int, capacity: int) -> None:
        if capacity < 1:
            raise InputError(f"horizon: received {capacity}, allowed 1 or more")
        self.capacity = capacity
        self.steps = 0
        """Steps stored so far."""
        self.layers = tuple(_LayerStore(capacity) for _ in range(depth))


class _LayerStore:
    """One block's share of a :class:`RolloutCache`."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0  # rows filled
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take this step's [B, heads, S, head_dim]; return past and present together, oldest first."""
        if self.capacity == 1 and keys.is_cuda:
            return keys, values
        if torch.is_grad_enabled():  # what autograd has saved must not be written over
            if self.keys is not None and self.values is not None:
                keys = torch.cat((self.keys, keys), dim=2)
                values = torch.cat((self.values, values), dim=2)
            self.keys, self.values = keys, values
            return keys, values
        batch, heads, rows, head_dim = keys.shape
        if self.keys is None or self.values is None:
            shape = (batch, heads, self.capacity * rows, head_dim)
            self.keys, self.values = keys.new_empty(shape), values.new_empty(shape)
        end = self.length + rows
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class ActionConditionedPredictor(nn.Module):
    """Predicts the latent of the next frame from latents, states and actions up to now.

    All parameters are used. (The published checkpoint also holds an ``extrinsics_encoder`` that the
    released model never calls; it is dropped when a checkpoint is read, see ``checkpoint.py``.)
    Weights may be held in float32 or bfloat16; inputs are cast to the weights' dtype.
    """

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.latent_dim, config.dim)
        self.action_embed = nn.Linear(ACTION_DIM, config.dim)
        self.state_embed = nn.Linear(STATE_DIM, config.dim)
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.mlp_hidden) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.out = nn.Linear(config.dim, config.latent_dim)
        # Tables are looked up by device and dtype, and are no buffers: they are no part of a checkpoint.
        self._rope_tables: dict[tuple[torch.device, torch.dtype], RopeTable] = {}
        self._masks: dict[tuple[int, torch.device], Tensor] = {}
        if not self.embed.weight.is_meta:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise for training: truncated normal (0.02), residual outputs scaled down with depth."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        for number, block in enumerate(self.blocks, start=1):
            assert isinstance(block, Block)
            for layer in (block.attention.out, block.mlp.down):
                layer.weight.data.div_(math.sqrt(2.0 * number))

    def forward(self, z: Tensor, states: Tensor, actions: Tensor) -> Tensor:
        """Predict the next latent of every step of a clip at once, each from the steps up to it.

        Args:
            z: [B, T, N, D] normalised latents.
            states: [B, T, 7].
            actions: [B, T, 7]; action t leads from step t to t + 1.

        Returns:
            [B, T, N, D] raw predictions of the latents of steps 1..T, before :func:`latent_norm`.

        Raises:
            InputError: shapes that do not fit each other or the model.
        """
        self._check(z, states, actions)
        steps = z.shape[1]
        x = self._tokens(z, states, actions)  # [B, T, S, dim]
        rope = self._rope(0, steps, x)
        mask = self._mask(steps, x.device) if steps > 1 else None
        x = x.flatten(1, 2)
        for block in self.blocks:
            x = block(x, rope, mask)
        return self._read(x.unflatten(1, (steps, -1)))

    def start_rollout(self, horizon: int) -> RolloutCache:
        """An empty cache for :meth:`forward_step`, good for one rollout of ``horizon`` steps."""
        return RolloutCache(self.config.depth, horizon)

    def forward_step(
        self, z: Tensor, state: Tensor, action: Tensor, cache: RolloutCache, halves: Halves = PLAIN
    ) -> Tensor:
        """Predict the next latent, attending to the earlier steps of a rollout through ``cache``.

        Equal to the last step of :meth:`forward` on the whole rollout so far, at the cost of one step, or
        less: what all candidates share is projected once in the first block, and from the last block
        only frame tokens go on. Where gradients are enabled they flow through all steps (the cache is
        then grown by copying).

        Args:
            z: [B, N, D] normalised latents of this step; [1, N, D] when all candidates share it, which
                then is embedded once.
            state: [B, 7] or [1, 7].
            action: [B, 7].
            cache: from :meth:`start_rollout`; advanced by one step.
            halves: how the halves of the blocks are computed.

        Returns:
            [B, N, D] raw prediction, before :func:`latent_norm`.

        Raises:
            InputError: shapes that do not fit, or a cache that is full.
        """
        if cache.steps >= cache.capacity:
            raise InputError(
                f"rollout: the cache holds {cache.capacity} steps and is full; start a new rollout"
            )
        self._check(z.unsqueeze(1), state.unsqueeze(1), action.unsqueeze(1))
        own, frame = self._step_tokens(z, state, action)  # [B, 2, dim], [B or 1, N, dim]
        rope = self._rope(cache.steps, 1, own)
        x = _joined(own, frame)  # [B, S, dim]
        for number, (block, store) in enumerate(zip(self.blocks, cache.layers, strict=True), start=1):
            assert isinstance(block, Block)
            if number == 1 and len(frame) < len(own):
                parts = (halves.project(block, *part) for part in _split(own, frame, rope))
                q, k, v = (_joined(*pair) for pair in zip(*parts, strict=True))
            else:
                q, k, v = halves.project(block, x, rope)  # [B, heads, S, head_dim]
            k, v = store.extend(k, v)  # [B, heads, steps * S, head_dim]
            if number == len(self.blocks):  # nobody will look at the others again
                x, q = x[:, CONDITION_TOKENS:], q[:, :, CONDITION_TOKENS:]
            x = halves.finish(block, x, attend(q, k, v))
        cache.steps += 1
        return self.out(self.norm(x))

    def _tokens(self, z: Tensor, states: Tensor, actions: Tensor) -> Tensor:
        """[B, T, S, dim] = action, state and frame tokens of each step; a batch of 1 is expanded."""
        dtype = self.embed.weight.dtype
        parts = (
            self.action_embed(actions.to(dtype)).unsqueeze(2),
            self.state_embed(states.to(dtype)).unsqueeze(2),
            self.embed(z.to(dtype)),
        )
        return torch.cat([part.expand(len(actions), -1, -1, -1) for part in parts], dim=2)

    def _step_tokens(self, z: Tensor, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of one step: action and state [B, 2, dim], and the frame's [B or 1, N, dim]."""
        dtype = self.embed.weight.dtype
        conditions = (self.action_embed(action.to(dtype)), self.state_embed(state.to(dtype)))
        own = torch.stack([part.expand(len(action), -1) for part in conditions], dim=1)
        return own, self.embed(z.to(dtype))

    def _read(self, x: Tensor) -> Tensor:
        """[..., S, dim] -> [..., N, D]: only frame tokens are read out."""
        return self.out(self.norm(x[..., CONDITION_TOKENS:, :]))

    def _rope(self, start: int, steps: int, like: Tensor) -> RopeTable:
        """Rotary factors of the tokens of steps start .. start + steps, as views of one table."""
        size = self.config.tokens + CONDITION_TOKENS
        key = (like.device, like.dtype)
        table = self._rope_tables.get(key)
        if table is None or len(table.own) < (start + steps) * size:
            # Tensors made in inference mode could not be used for training later.
            with torch.inference_mode(False), torch.no_grad():
                capacity = max(8, 2 ** math.ceil(math.log2(start + steps)))
                full = rope_table(self._positions(capacity), self.config.head_dim)
                table = full.map(lambda factor: factor.to(device=like.device, dtype=like.dtype))
            self._rope_tables[key] = table
        rows = slice(start * size, (start + steps) * size)
        return table.map(lambda factor: factor[rows])

    def _positions(self, steps: int) -> Tensor:
        """[T * S, 3] time, row and column of every token; action and state have a time only."""
        rows, columns = self.config.grid
        position = torch.zeros(steps, CONDITION_TOKENS + rows * columns, 3, dtype=torch.float64)
        position[..., 0] = torch.arange(steps)[:, None]
        position[:, CONDITION_TOKENS:, 1] = torch.arange(rows).repeat_interleave(columns)
        position[:, CONDITION_TOKENS:, 2] = torch.arange(columns).repeat(rows)
        return position.flatten(0, 1)

    def _mask(self, steps: int, device: torch.device) -> Tensor:
        """[T*S, T*S] bool, block-causal: True where the key's step is not after the query's."""
        key = (steps, device)
        if key not in self._masks:
            with torch.inference_mode(False):
                step = torch.arange(steps, device=device).repeat_interleave(
                    self.config.tokens + CONDITION_TOKENS
                )
                self._masks[key] = step[:, None] >= step[None, :]
        return self._masks[key]

    def _check(self, z: Tensor, states: Tensor, actions: Tensor) -> None:
        config = self.config
        if z.ndim != 4 or z.shape[2:] != (config.tokens, config.latent_dim):
            raise InputError(
                f"latents: expected [batch, steps, {config.tokens}, {config.latent_dim}], "
                f"received {tuple(z.shape)}"
            )
        batch, steps = actions.shape[0], z.shape[1]
        for name, value in (("states", states), ("actions", actions)):
            if value.ndim != 3 or value.shape[1:] != (steps, 7) or value.shape[0] not in (1, batch):
                raise InputError(f"{name}: expected [{batch}, {steps}, 7], received {tuple(value.shape)}")
        if z.shape[0] not in (1, batch):
            raise InputError(f"latents: {z.shape[0]} for {batch} actions; expected as many, or 1")


def _joined(own: Tensor, frame: Tensor) -> Tensor:
    """A step's tokens [B, ..., S, channels]: action's and state's, and the frame's, which may be shared."""
    return torch.cat((own, frame.expand(len(own), *frame.shape[1:])), dim=-2)


def _split(own: Tensor, frame: Tensor, rope: RopeTable) -> tuple[tuple[Tensor, RopeTable], ...]:
    """Both parts of a step's tokens, each with its rows of the table."""
    return (
        (own, rope.map(lambda factor: factor[:CONDITION_TOKENS])),
        (frame, rope.map(lambda factor: factor[CONDITION_TOKENS:])),
    )

"""Transformer parts of the predictor: rotary positions, attention, MLP, block.

The maths of V-JEPA 2 (arXiv 2506.09985); plain modules, written for reading. Speed comes from fused
attention and from tables that are computed once, outside the hot path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT_EPS = 1e-5


def latent_norm(x: Tensor) -> Tensor:
    """Parameter-free LayerNorm over the channel: the form in which latents are compared.

    Args:
        x: [..., D] raw output of the encoder or the predictor.

    Returns:
        [..., D], same dtype.
    """
    return F.layer_norm(x, x.shape[-1:], eps=LATENT_EPS)


class RopeTable(NamedTuple):
    """Rotary factors of L tokens, to broadcast against queries and keys [B, L, 2, heads, head_dim]."""

    own: Tensor
    """[L, 1, 1, head_dim] factor of a channel's own value."""
    right: Tensor
    """[L, 1, 1, head_dim - 1] factor of the right neighbour, but for the last; 0 for odd ones."""
    left: Tensor
    """[L, 1, 1, head_dim - 1] factor of the left neighbour, but for the first; 0 for even ones."""

    def map(self, function: Callable[[Tensor], Tensor]) -> RopeTable:
        """Every factor through one function: cast, move, select rows."""
        return RopeTable(*(function(factor) for factor in self))


def rope_table(positions: Tensor, head_dim: int) -> RopeTable:
    """Rotary factors for tokens at positions (time, row, column).

    A head has three groups of ``2 * (head_dim // 3 // 2)`` channels, rotated by time, row and column;
    the channels left over pass unrotated. (64 channels: 20, 20, 20 and 4.)

    Args:
        positions: [L, 3] float64; a token without a place in the image has row = column = 0.
        head_dim: channels of one head, even.

    Returns:
        The table in float64, for the caller to cast.
    """
    group = 2 * (head_dim // 3 // 2)
    omega = 10000.0 ** -(torch.arange(group // 2, dtype=torch.float64) / (group / 2))
    angles = positions[:, :, None] * omega  # [L, 3, group / 2]
    # The reference tiles the angles ([a0..a9, a0..a9]) but rotates neighbours (2j, 2j+1) together, so
    # the two channels of a pair turn by different angles and the map is no pure rotation. The
    # published weights were trained with it: do not repair it.
    angles = torch.cat((angles, angles), dim=-1).flatten(1)  # [L, 3 * group]
    angles = F.pad(angles, (0, head_dim - 3 * group)).view(-1, 1, 1, head_dim)
    even = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(head_dim // 2)
    right, left = -angles.sin() * even, angles.sin() * (1 - even)
    return RopeTable(angles.cos(), right[..., :-1].contiguous(), left[..., 1:].contiguous())


def apply_rope(x: Tensor, table: RopeTable) -> Tensor:
    """Rotate queries or keys [B, L, 2, heads, head_dim] by their tokens' positions.

    Neighbours are read through shifted views: swapping them in memory first costs several times more.
    """
    y = x * table.own
    y[..., :-1].addcmul_(x[..., 1:], table.right)
    y[..., 1:].addcmul_(x[..., :-1], table.left)
    return y


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention of every head by itself.

    Args:
        q: [B, heads, Lq, head_dim] queries, rotated.
        k: [B, heads, L, head_dim] keys, rotated.
        v: [B, heads, L, head_dim] values.
        mask: [Lq, L] bool, True where a query (row) may see a key (column); None = everything.

    Returns:
        [B, Lq, dim], the heads side by side.
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """The projections of multi-head self-attention with rotary positions; see :func:`attend`.

    Args:
        dim: width of the tokens.
        heads: number of heads; ``dim / heads`` is the head's width.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def project(self, x: Tensor, rope: RopeTable) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised tokens [B, L, dim] -> queries, keys and values, each [B, heads, L, head_dim]."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # [B, L, 3, heads, head_dim]
        q, k = apply_rope(qkv[:, :, :2], rope).transpose(1, 3).unbind(2)
        return q, k, qkv[:, :, 2].transpose(1, 2)


class MLP(nn.Module):
    """Two linear layers with an exact (erf) GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., dim]."""
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """One pre-norm transformer block.

    Its two halves can be called by themselves, since what stands between them is not its own: attention
    may look at earlier tokens too, and not every token that is looked at has to go on.
    """

    def __init__(self, dim: int, heads: int, mlp_hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, mlp_hidden)

    def forward(self, x: Tensor, rope: RopeTable, mask: Tensor | None = None) -> Tensor:
        """[B, L, dim] -> [B, L, dim]; ``rope`` is these tokens', ``mask`` as in :func:`attend`."""
        return self.finish(x, attend(*self.project(x, rope), mask))

    def project(self, x: Tensor, rope: RopeTable) -> tuple[Tensor, Tensor, Tensor]:
        """Before attention: [B, L, dim] -> queries, keys and values, each [B, heads, L, head_dim]."""
        return self.attention.project(self.norm1(x), rope)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """After attention: tokens and what they attended to, each [B, L, dim] -> [B, L, dim]."""
        x = x + self.attention.out(attended)
        return x + self.mlp(self.norm2(x))

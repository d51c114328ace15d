"""The frozen image encoder: one camera frame to one grid of latent tokens.

The vision transformer is :class:`transformers.VJEPA2Model`'s encoder, which equals the reference
implementation bit for bit. This file adds what V-JEPA 2-AC puts around it: a single frame is encoded
as a clip of itself, and the result passes a parameter-free LayerNorm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.nn.layers import latent_norm


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of a :class:`FrameEncoder`; the defaults are the published ViT-g's.

    Raises:
        ConfigError: a size is out of range, or sizes do not divide each other.
    """

    image_size: int = 256
    """Width and height of the (square) input [pixels]."""
    patch_size: int = 16
    """Width and height of the square of pixels behind one token."""
    tubelet: int = 2
    """Frames behind one token; a single frame is repeated this often."""
    dim: int = 1408
    """Width of the transformer, which is the number of channels of a latent token."""
    depth: int = 40
    """Number of blocks."""
    heads: int = 22
    """Attention heads; dim / heads must be even and at least 6, for the rotary positions."""
    mlp_ratio: float = 48 / 11
    """Hidden width of the MLPs as a multiple of dim (6144 for ViT-g)."""

    def __post_init__(self) -> None:
        check_range("image_size", self.image_size, 16, 4096, "pixels")
        check_range("patch_size", self.patch_size, 1, self.image_size, "pixels")
        check_range("tubelet", self.tubelet, 1, 64)
        check_range("dim", self.dim, 1, 65536)
        check_range("depth", self.depth, 1, 1024)
        check_range("heads", self.heads, 1, 1024)
        check_range("mlp_ratio", self.mlp_ratio, 0.01, 64)
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"image_size: received {self.image_size} pixels, allowed are multiples of "
                f"patch_size ({self.patch_size})"
            )
        head_dim = self.dim // self.heads
        if self.dim % self.heads or head_dim % 2 or head_dim < 6:
            raise ConfigError(
                f"dim: received {self.dim} for {self.heads} heads; allowed are multiples of heads "
                "that give every head an even number of channels, at least 6"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of latent tokens."""
        side = self.image_size // self.patch_size
        return side, side

    @property
    def tokens(self) -> int:
        """N, latent tokens of one frame."""
        return self.grid[0] * self.grid[1]

    def transformers_config(self, **overrides: Any) -> Any:
        """The ``transformers.VJEPA2Config`` of this encoder.

        Args:
            overrides: further options, such as the sizes of the mask predictor (``pred_*``) for
                pre-training.
        """
        from transformers import VJEPA2Config

        return VJEPA2Config(
            **{
                "patch_size": self.patch_size,
                "crop_size": self.image_size,
                "frames_per_clip": self.tubelet,
                "tubelet_size": self.tubelet,
                "hidden_size": self.dim,
                "num_hidden_layers": self.depth,
                "num_attention_heads": self.heads,
                "mlp_ratio": self.mlp_ratio,
                "attn_implementation": "sdpa",
                **overrides,
            }
        )


class FrameEncoder(nn.Module):
    """Frames to normalised latents.

    Its parameters are those of ``VJEPA2Model(...).encoder``, under the same names with ``vit.`` before
    them. Built under ``torch.device("meta")`` it allocates nothing.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        from transformers import VJEPA2Model

        self.config = config
        # The mask predictor belongs to pre-training: built as small as can be, and let go at once.
        smallest = {"pred_hidden_size": 6, "pred_num_attention_heads": 1, "pred_num_hidden_layers": 0}
        self.vit = VJEPA2Model(config.transformers_config(**smallest)).encoder

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode a batch of frames.

        Args:
            pixels: [B, 3, S, S] frames as :mod:`vjepa_ac_planner.preprocess` makes them.

        Returns:
            [B, N, D] normalised latents, in the dtype of the weights.

        Raises:
            InputError: frames of another size or layout.
        """
        size = self.config.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
            raise InputError(f"frames: expected [batch, 3, {size}, {size}], received {tuple(pixels.shape)}")
        clip = pixels.unsqueeze(1).expand(-1, self.config.tubelet, -1, -1, -1)  # [B, tubelet, 3, S, S]
        return latent_norm(self.vit(pixel_values_videos=clip).last_hidden_state)

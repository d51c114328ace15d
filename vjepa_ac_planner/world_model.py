"""The world model: camera frames to latents, and latents and actions to imagined futures.

The edge between plain networks (``nn/``) and planning: device, dtype and compilation are chosen here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vjepa_ac_planner import geometry
from vjepa_ac_planner.errors import InputError, MissingDependencyError
from vjepa_ac_planner.models import ModelDescription, find_model
from vjepa_ac_planner.nn import checkpoint
from vjepa_ac_planner.nn.encoder import FrameEncoder
from vjepa_ac_planner.nn.layers import latent_norm
from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor
from vjepa_ac_planner.preprocess import frames_to_pixels
from vjepa_ac_planner.types import Frame

Dtype = Literal["auto", "float32", "bfloat16"]


class WorldModel:
    """Encodes frames and rolls actions out in latent space.

    Latents come in the compute dtype, which halves their memory in bfloat16; that is enough, as long as
    differences are averaged in float32: the rounding of a latent's 10^4 to 10^5 numbers averages out,
    and moves the energy by less than 1e-4 of its value. States are always float32.

    Running out of device memory is left as :class:`torch.OutOfMemoryError` for the caller, who knows
    how to ask for less.

    Args:
        description: what the model is.
        encoder: frames to latents.
        predictor: latents, states and actions to the next latents.
        compile: let ``torch.compile`` fuse both networks: slower at first, then faster (GPU).
    """

    def __init__(
        self,
        description: ModelDescription,
        encoder: FrameEncoder,
        predictor: ActionConditionedPredictor,
        *,
        compile: bool = False,  # noqa: A002 (the name of what it does)
    ) -> None:
        self.description = description
        self.encoder = encoder.eval()
        self.predictor = predictor.eval()
        self._encode: Callable[..., Tensor] = torch.compile(encoder) if compile else encoder
        self._step: Callable[..., Tensor] = (
            torch.compile(predictor.forward_step) if compile else predictor.forward_step
        )

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device = "auto",
        dtype: Dtype = "auto",
        compile: bool = False,  # noqa: A002 (the name of what it does)
    ) -> WorldModel:
        """Load a model by name, folder, description or weights file.

        Args:
            name_or_path: see :func:`~vjepa_ac_planner.models.find_model`.
            device: "auto" takes CUDA where there is one, else the CPU; or a device of torch.
            dtype: "auto" takes bfloat16 where the device has instructions for it, else float32.
            compile: see :class:`WorldModel`.

        Raises:
            ConfigError: no such model, or a description that is not valid.
            CheckpointError: weights that are missing, damaged, unsafe or another model's.
            DeviceMemoryError: the device cannot hold them.
            MissingDependencyError: the device asked for is not there.
            InputError: a device or dtype of an unknown name.
        """
        files = find_model(name_or_path)
        path = files.require_weights()
        target = choose_device(device)
        description = files.description
        encoder, predictor = checkpoint.load(
            checkpoint.read_weights(path),
            description.encoder,
            description.predictor,
            target,
            choose_dtype(dtype, target),
            str(path),
        )
        return cls(description, encoder, predictor, compile=compile)

    @classmethod
    def untrained(
        cls,
        description: ModelDescription,
        *,
        device: str | torch.device = "cpu",
        dtype: Dtype = "float32",
        seed: int = 0,
    ) -> WorldModel:
        """The same architecture with random weights, for benchmarks and tests."""
        target = choose_device(device)
        modules = checkpoint.build(description.encoder, description.predictor)
        generator = torch.Generator(target).manual_seed(seed)
        for module in modules:
            module.to(choose_dtype(dtype, target)).to_empty(device=target).requires_grad_(False)
            for name, parameter in module.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
                else:
                    parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        return cls(description, *modules)

    @property
    def device(self) -> torch.device:
        """Where latents live."""
        return self.predictor.embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What latents are computed and held in."""
        return self.predictor.embed.weight.dtype

    @torch.inference_mode()
    def encode(self, images: Sequence[Frame] | npt.NDArray[np.uint8] | Tensor) -> Tensor:
        """Latents of camera images of any size; they are cropped and resized as at training.

        Args:
            images: frames, or an array or tensor [B, H, W, 3] uint8 RGB.

        Returns:
            [B, N, D] normalised latents, in the compute dtype.

        Raises:
            InputError: something that is not an RGB image.
        """
        pixels = frames_to_pixels(images, self.description.image_size, self.device)
        latents: Tensor = self._encode(pixels.to(self.dtype))
        return latents

    def rollout(self, z0: Tensor, s0: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Imagine the futures of K action sequences from one observation.

        Each candidate is computed from its own actions alone. Gradients flow to the actions if they
        require them; otherwise nothing is recorded.

        Args:
            z0: [N, D] latent of the observation.
            s0: [7] state of the observation.
            actions: [K, H, 7] action sequences.

        Returns:
            Imagined latents [K, H, N, D], normalised, in the compute dtype, and states [K, H + 1, 7],
            float32, the observed one first.

        Raises:
            InputError: shapes that do not fit the model.
            torch.OutOfMemoryError: K is too large for the device.
        """
        if z0.ndim != 2 or s0.shape != (7,) or actions.ndim != 3:
            raise InputError(
                "rollout: expected z0 [tokens, channels], s0 [7] and actions [candidates, horizon, 7], "
                f"received {tuple(z0.shape)}, {tuple(s0.shape)} and {tuple(actions.shape)}"
            )
        record = torch.is_grad_enabled() and actions.requires_grad
        if record:
            z0, s0 = z0.clone(), s0.clone()  # what encode() returns is not allowed in autograd as it is
        with torch.inference_mode(not record):
            actions = actions.to(self.device, torch.float32)
            states = geometry.integrate(s0.to(self.device, torch.float32), actions)  # [K, H + 1, 7]
            z = z0.to(self.device, self.dtype)[None]  # [1, N, D] until candidates differ
            cache = self.predictor.start_rollout(actions.shape[1])
            latents = []
            for t in range(actions.shape[1]):
                z = latent_norm(self._step(z, states[:, t], actions[:, t], cache))  # [K, N, D]
                latents.append(z)
            return (latents[0].unsqueeze(1) if len(latents) == 1 else torch.stack(latents, 1)), states


def choose_device(device: str | torch.device) -> torch.device:
    """The device of this name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        InputError: no device of torch is called so.
        MissingDependencyError: CUDA is asked for and not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(
            f"device: received {device!r}, allowed 'auto', 'cpu', 'cuda' or 'cuda:N'"
        ) from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise MissingDependencyError(
            f"device: {device} is not there ({torch.cuda.device_count()} CUDA devices visible, torch "
            f"{torch.__version__}); use 'cpu' or 'auto', or install a CUDA build of torch and its driver"
        )
    return chosen


def choose_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The compute dtype; "auto" is bfloat16 where ``device`` multiplies in it, else float32.

    Raises:
        InputError: another name.
    """
    if dtype == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = device.type == "cpu" and _cpu_has_bfloat16()
        return torch.bfloat16 if fast else torch.float32
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype: received {dtype!r}, allowed 'auto', 'float32', 'bfloat16'")
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices natively: emulation is slower than float32."""
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16", "sve_bf16"))
    # Older torch has no public name for it.
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)

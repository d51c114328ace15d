"""The world model: camera frames to latents, and latents and actions to imagined futures.

The edge between plain networks (``nn/``) and planning: device, dtype, compilation and the number of
candidates computed at a time are chosen here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
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
from vjepa_ac_planner.nn.layers import Block, latent_norm
from vjepa_ac_planner.nn.predictor import CONDITION_TOKENS, PLAIN, ActionConditionedPredictor, Halves
from vjepa_ac_planner.preprocess import frames_to_pixels
from vjepa_ac_planner.types import Frame

Dtype = Literal["auto", "float32", "bfloat16", "float8"]

_CPU_ROWS = 1280
"""Tokens that a CPU computes together: enough for its matrix products, few enough for its caches."""
_SHARE_OF_MEMORY = 0.7
"""Of what a GPU has free, the part that a rollout plans with; the rest is for latents and energies."""
TORCHAO = "0.13"
"""Least version of torchao: older ones have no least scale, or ask for compute capability 9.0."""


class WorldModel:
    """Encodes frames and rolls actions out in latent space.

    Latents come in the compute dtype, which halves their memory in bfloat16. That keeps the order of
    candidates, as long as differences are averaged in float32, but not their energies: with the shipped
    model, computing in bfloat16 moves typical ones by up to 1e-2 of their value and doubles or triples
    those at the goal, which are nearly 0, while 48 candidates on 16 problems are ranked as in float32 (a
    rank correlation of 0.999 or more, and as good a best one). States are always float32.

    Running out of device memory is left as :class:`torch.OutOfMemoryError` for the caller, who knows
    how to ask for less.

    Args:
        description: what the model is.
        encoder: frames to latents.
        predictor: latents, states and actions to the next latents.
        compile: let ``torch.compile`` fuse what stands between matrix products: the first two plans take
            long, the later ones are faster on a GPU. Nothing is captured as a CUDA graph, since a graph
            belongs to the thread that captured it, and whoever loads a model need not be who plans.
        memory_limit: most memory of a GPU that weights and a rollout together may take [bytes]; None
            takes what is free when it is first needed.
    """

    def __init__(
        self,
        description: ModelDescription,
        encoder: FrameEncoder,
        predictor: ActionConditionedPredictor,
        *,
        compile: bool = False,  # noqa: A002 (the name of what it does)
        memory_limit: int | None = None,
    ) -> None:
        self.description = description
        self.encoder = encoder.eval()
        self.predictor = predictor.eval()
        self._encode: Callable[..., Tensor] = encoder
        self._halves = PLAIN
        if compile:
            # One block's code serves all of them, so compiling takes seconds and not minutes; attention
            # between the halves is a fused kernel already, and the only part that the horizon changes.
            self._halves = Halves(torch.compile(Block.project), torch.compile(Block.finish))
            self._encode = torch.compile(encoder)
        self._memory_limit = memory_limit
        self._memory: float | None = None

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device = "auto",
        dtype: Dtype = "auto",
        compile: bool = False,  # noqa: A002 (the name of what it does)
        memory_limit: int | None = None,
    ) -> WorldModel:
        """Load a model by name, folder, description or weights file.

        Args:
            name_or_path: see :func:`~vjepa_ac_planner.models.find_model`.
            device: "auto" takes CUDA where there is one, else the CPU; or a device of torch.
            dtype: "auto" takes bfloat16 where the device has instructions for it, else float32;
                "float8" multiplies in the predictor's blocks in float8, scaled row by row as it goes,
                and is bfloat16 elsewhere (needs torchao, and a GPU of compute capability 8.9); it has
                no gradients.
            compile: see :class:`WorldModel`.
            memory_limit: see :class:`WorldModel`.

        Raises:
            ConfigError: no such model, or a description that is not valid.
            CheckpointError: weights that are missing, damaged, unsafe or another model's.
            DeviceMemoryError: the device cannot hold them.
            MissingDependencyError: the device or the library asked for is not there.
            InputError: a device or dtype of an unknown name.
        """
        files = find_model(name_or_path)
        path = files.require_weights()
        target = choose_device(device)
        torchao = float8_library(target) if dtype == "float8" else None
        description = files.description
        encoder, predictor = checkpoint.load(
            checkpoint.read_weights(path),
            description.encoder,
            description.predictor,
            target,
            choose_dtype(dtype, target),
            str(path),
        )
        if torchao is not None:
            use_float8(predictor, torchao)
        return cls(description, encoder, predictor, compile=compile, memory_limit=memory_limit)

    @classmethod
    def untrained(
        cls,
        description: ModelDescription,
        *,
        device: str | torch.device = "cpu",
        dtype: Dtype = "float32",
        seed: int = 0,
        compile: bool = False,  # noqa: A002 (the name of what it does)
        memory_limit: int | None = None,
    ) -> WorldModel:
        """The same architecture with random weights, for benchmarks and tests; else as :meth:`load`."""
        target = choose_device(device)
        torchao = float8_library(target) if dtype == "float8" else None
        modules = checkpoint.build(description.encoder, description.predictor)
        generator = torch.Generator(target).manual_seed(seed)
        for module in modules:
            module.to(choose_dtype(dtype, target)).to_empty(device=target).requires_grad_(False)
            for name, parameter in module.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
                else:
                    parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        if torchao is not None:
            use_float8(modules[1], torchao)
        return cls(description, *modules, compile=compile, memory_limit=memory_limit)

    @property
    def device(self) -> torch.device:
        """Where latents live."""
        return self.predictor.embed.weight.device

    @property
    def compiled(self) -> bool:
        """Whether ``torch.compile`` fuses the networks."""
        return self._halves is not PLAIN

    @property
    def differentiable(self) -> bool:
        """Whether energies have gradients: products in float8, weights of torchao's own type, have none."""
        return not any(_is_quantised(weight) for weight in self.predictor.parameters())

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

        Each candidate is computed from its own actions alone, so that as many are computed together as
        suits the device (:meth:`candidates_at_once`). Gradients flow to the actions if they require
        them (then all are computed together); otherwise nothing is recorded.

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
            z0 = z0.to(self.device, self.dtype)
            chunk = len(actions) if record else self.candidates_at_once(actions.shape[1])
            parts = max(1, -(-len(actions) // chunk))
            # Near-equal parts: no odd last one.
            pairs = zip(states.tensor_split(parts), actions.tensor_split(parts), strict=True)
            latents = [self._imagine(z0, *pair) for pair in pairs]
            return (latents[0] if parts == 1 else torch.cat(latents)), states

    def candidates_at_once(self, horizon: int) -> int:
        """How many candidates :meth:`rollout` computes together: what caches or the GPU's memory hold.

        Args:
            horizon: H, actions of a candidate.
        """
        if self.device.type != "cuda":
            return max(1, _CPU_ROWS // (self.description.tokens + CONDITION_TOKENS))
        if self._memory is None:
            self._memory = _SHARE_OF_MEMORY * self._free_memory()
        return max(1, int(self._memory / self.rollout_bytes(horizon)))

    def rollout_bytes(self, horizon: int) -> int:
        """Memory that one candidate's rollout takes on the device at its widest [bytes]: an upper bound.

        The cache of keys and values (none for a horizon of 1), the latents, and the activations of one
        block: tokens, their norm, and the MLP before and after its GELU, or queries, keys and values
        before and after rotation.
        """
        config = self.description.predictor
        tokens = config.tokens + CONDITION_TOKENS
        cache = 2 * config.depth * horizon * tokens * config.dim if horizon > 1 else 0
        latents = (horizon + 3) * config.tokens * config.latent_dim
        widest = max(2 * config.mlp_hidden, 6 * config.dim)
        return (cache + latents + tokens * (3 * config.dim + widest)) * self.dtype.itemsize

    def _imagine(self, z0: Tensor, states: Tensor, actions: Tensor) -> Tensor:
        """[k, H, N, D] latents of some candidates, all together."""
        horizon = actions.shape[1]
        cache = self.predictor.start_rollout(horizon)
        z, latents = z0[None], []  # [1, N, D] until candidates differ
        for t in range(horizon):
            step = self.predictor.forward_step(z, states[:, t], actions[:, t], cache, self._halves)
            z = latent_norm(step)  # [k, N, D]
            latents.append(z)
        return z.unsqueeze(1) if horizon == 1 else torch.stack(latents, 1)

    def _free_memory(self) -> float:
        """Memory of the GPU that a rollout may take [bytes]: what is free, or what the limit leaves."""
        held = torch.cuda.memory_allocated(self.device)
        if self._memory_limit is not None:
            return max(0.0, self._memory_limit - held)
        free, _ = torch.cuda.mem_get_info(self.device)
        return float(free + torch.cuda.memory_reserved(self.device) - held)


def float8_library(device: torch.device) -> ModuleType:
    """What quantises to float8.

    Raises:
        MissingDependencyError: the device has no float8 products, or torchao is not installed.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    if capability < (8, 9):
        raise MissingDependencyError(
            f"dtype float8: {device} has no float8 products (they need an NVIDIA GPU of compute capability "
            "8.9 or above: Ada, Hopper, Blackwell); use bfloat16 or auto"
        )
    try:
        return importlib.import_module("torchao.quantization")
    except ImportError as error:
        raise MissingDependencyError(
            f"dtype float8: needs torchao {TORCHAO} or later, which is not installed: pip install torchao"
        ) from error


def use_float8(predictor: ActionConditionedPredictor, torchao: ModuleType) -> None:
    """Let the blocks' linear layers multiply in float8: weights converted now, inputs as they come.

    Raises:
        MissingDependencyError: torchao is too old.
    """
    try:
        # A row's scale is its largest value over 448: that of a row of zeros (the action of standing still
        # under biases of 0) must not be 0 too.
        config = torchao.Float8DynamicActivationFloat8WeightConfig(
            granularity=torchao.PerRow(), activation_value_lb=1e-12
        )
    except TypeError as error:
        raise MissingDependencyError(
            f"dtype float8: needs torchao {TORCHAO} or later, an older one is installed: "
            "pip install --upgrade torchao"
        ) from error
    torchao.quantize_(predictor.blocks, config)


def plain(weight: Tensor) -> Tensor:
    """A weight as a plain tensor, whatever it is stored as."""
    return weight.detach().dequantize() if _is_quantised(weight) else weight.detach()


def _is_quantised(weight: Tensor) -> bool:
    return type(weight.detach()) is not Tensor


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
    if dtype == "float8":  # outside the blocks' matrix products
        return torch.bfloat16
    if dtype == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = device.type == "cpu" and _cpu_has_bfloat16()
        return torch.bfloat16 if fast else torch.float32
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype: received {dtype!r}, allowed 'auto', 'float32', 'bfloat16', 'float8'")
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices natively: emulation is slower than float32."""
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16", "sve_bf16"))
    # Older torch has no public name for it.
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)

"""The public reference implementation beside ours: its own code from a checkout, with our weights.

Nothing of it is part of this package. A checkout (github.com/facebookresearch/vjepa2) is imported into
this process, its predictor takes over our weights, and its own planner (``notebooks/utils``) runs one
iteration of its cross-entropy method: sampling, rollout, energies, elites. Ours does the same with the
same candidates; both answers are compared before anything is timed.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vjepa_ac_planner.world_model import WorldModel

HOME = "https://github.com/facebookresearch/vjepa2"
PREDICTOR = "src/models/ac_predictor.py"
PLANNER = "notebooks/utils/world_model_wrapper.py"


class Reference:
    """The reference's predictor and planner, on the weights of ``model``.

    Args:
        checkout: root of a checkout.
        model: whose float32 weights are shared, not copied.

    Raises:
        InputError: no checkout, or an architecture that the reference does not have.
        MissingDependencyError: the checkout needs a package that is not installed.
    """

    def __init__(self, checkout: Path, model: WorldModel) -> None:
        require_checkout(checkout)
        with _imported_from(checkout):
            predictor = _import("src.models.ac_predictor")
            self._planner: Any = _import("notebooks.utils.world_model_wrapper").WorldModel
        self.predictor = _with_our_weights(predictor, model)
        self.tokens = model.description.tokens
        self.device = model.device

    def predict(self, z: Tensor, states: Tensor, actions: Tensor) -> Tensor:
        """Raw predictions [B, T, N, D] for a clip, as our predictor's ``forward`` gives them."""
        steps = z.shape[1]
        with _quiet():
            prediction: Tensor = self.predictor(z.flatten(1, 2), actions, states)
        return prediction.unflatten(1, (steps, -1))

    def plan(
        self,
        z0: Tensor,
        s0: Tensor,
        z_goal: Tensor,
        *,
        horizon: int,
        samples: int,
        elites: int,
        bound: float,
    ) -> Tensor:
        """One iteration of its planner: [H, 7] actions. It draws from torch's global generator."""
        planner = self._planner(
            encoder=None,
            predictor=self.predictor,
            tokens_per_frame=self.tokens,
            transform=None,
            mpc_args={
                "rollout": horizon,
                "samples": samples,
                "topk": elites,
                "cem_steps": 1,
                "momentum_mean": 0.15,
                "momentum_std": 0.15,
                "maxnorm": bound,
            },
            device=str(self.device),
        )
        with _quiet():
            actions: Tensor = planner.infer_next_action(z0[None], s0[None, None], z_goal[None])
        return actions


def require_checkout(path: Path) -> None:
    """Raise InputError unless ``path`` holds the reference."""
    for name in (PREDICTOR, PLANNER):
        if not (path / name).is_file():
            raise InputError(f"reference: {path} has no {name}; expected a checkout of {HOME}")


def autocast(device: torch.device, dtype: torch.dtype) -> Any:
    """The context in which the reference computes in ``dtype``: its weights stay float32."""
    import torch

    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def noise_of(
    seed: int, horizon: int, samples: int, device: torch.device
) -> tuple[Tensor, Callable[[], None]]:
    """The noise [1, K, H, 4] that the reference will draw, and what sets its generator to draw it."""
    import torch

    def begin() -> None:
        torch.manual_seed(seed)

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        begin()
        steps = [torch.randn(samples, 4, device=device) for _ in range(horizon)]
    return torch.stack(steps, dim=1)[None], begin


def _with_our_weights(module: Any, model: WorldModel) -> Any:
    """Its predictor in our architecture, every parameter that it uses being one of ours."""
    from torch import nn

    from vjepa_ac_planner.nn.checkpoint import our_name

    encoder, config = model.description.encoder, model.description.predictor
    if config.grid[0] != config.grid[1]:
        raise InputError(
            f"reference: received a grid {config.grid}; its rotary positions need a square one"
        )
    predictor = module.VisionTransformerPredictorAC(
        img_size=(encoder.image_size, encoder.image_size),
        patch_size=encoder.patch_size,
        num_frames=64,
        tubelet_size=encoder.tubelet,
        embed_dim=config.latent_dim,
        predictor_embed_dim=config.dim,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    ours = {f"predictor.{name}": value for name, value in model.predictor.state_dict().items()}
    theirs = {}
    for name, value in predictor.state_dict().items():
        unused = name.startswith("extrinsics_encoder.")
        theirs[name] = value if unused else ours.pop(our_name("predictor", name)).float()
    if ours:
        raise InputError(f"reference: has no place for our {', '.join(sorted(ours)[:5])}")
    predictor.load_state_dict(theirs, assign=True)
    predictor.attn_mask = predictor.attn_mask.to(model.device)
    device: torch.device = model.device
    return predictor.to(device).eval().requires_grad_(False)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or str(error)).partition(".")[0]
        raise MissingDependencyError(
            f"reference: its {name} needs {missing!r}, which is not installed: pip install {missing}"
        ) from error


@contextmanager
def _imported_from(checkout: Path) -> Iterator[None]:
    """Its top-level packages ``src`` and ``notebooks`` for as long as they are needed, and no longer."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    path, ours = list(sys.path), _take_out("src", "notebooks")
    stand_in = _stand_in_for_timm()
    sys.path.insert(0, str(checkout.resolve()))
    try:
        with _quiet():
            yield
    finally:
        sys.path[:] = path
        _take_out("src", "notebooks", *stand_in)
        sys.modules.update(ours)
        root.handlers[:], root.level = handlers, level  # its import turns all logging on


def _take_out(*packages: str) -> dict[str, types.ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] in packages]
    return {name: sys.modules.pop(name) for name in names}


def _stand_in_for_timm() -> tuple[str, ...]:
    """Its layers import ``timm`` for one function of training, stochastic depth, which is off here.

    So that nobody has to install timm and torchvision for it, a module whose function refuses to be
    called stands in where timm is missing.
    """
    if importlib.util.find_spec("timm") is not None:
        return ()

    def drop_path(*_: object, **__: object) -> None:
        raise MissingDependencyError("reference: stochastic depth needs 'timm': pip install timm")

    for name in ("timm", "timm.models", "timm.models.layers"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["timm.models.layers"].drop_path = drop_path  # type: ignore[attr-defined]
    return ("timm",)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without its log lines and the deprecation warnings of what it calls."""
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)

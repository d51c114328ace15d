"""Weights in and out: the published checkpoint, the Hugging Face encoder, and our own files.

Three layouts are read, each into the same names (``encoder.*`` as in transformers, ``predictor.*`` as
in :mod:`vjepa_ac_planner.nn.predictor`); only ours is written. Loading is strict: what is missing,
unexpected or of another shape is an error that says so.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from vjepa_ac_planner.config import to_mapping
from vjepa_ac_planner.errors import CheckpointError, DeviceMemoryError
from vjepa_ac_planner.nn.encoder import EncoderConfig, FrameEncoder
from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor, PredictorConfig
from vjepa_ac_planner.nn.storage import (
    StoredTensor,
    all_finite,
    read_safetensors,
    replacing,
    write_safetensors,
)

Weights = Mapping[str, StoredTensor]
_COMPARED = 24
"""Most tensors of two encoders that are compared; they lie in all its layers."""

# Published name -> ours, tried in order on a key stripped of its wrappers.
_ENCODER_NAMES = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.proj."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"layer.\1.attention.proj."),
    (r"^blocks\.(\d+)\.", r"layer.\1."),
    (r"^norm\.", "layernorm."),
)
_PREDICTOR_NAMES = (
    (r"^predictor_embed\.", "embed."),
    (r"^action_encoder\.", "action_embed."),
    (r"^state_encoder\.", "state_embed."),
    (r"^predictor_blocks\.(\d+)\.attn\.qkv\.", r"blocks.\1.attention.qkv."),
    (r"^predictor_blocks\.(\d+)\.attn\.proj\.", r"blocks.\1.attention.out."),
    (r"^predictor_blocks\.(\d+)\.mlp\.fc1\.", r"blocks.\1.mlp.up."),
    (r"^predictor_blocks\.(\d+)\.mlp\.fc2\.", r"blocks.\1.mlp.down."),
    (r"^predictor_blocks\.(\d+)\.", r"blocks.\1."),
    (r"^predictor_norm\.", "norm."),
    (r"^predictor_proj\.", "out."),
)


def build(
    encoder: EncoderConfig, predictor: PredictorConfig
) -> tuple[FrameEncoder, ActionConditionedPredictor]:
    """Both networks without memory for their weights (on the meta device)."""
    with torch.device("meta"):
        return FrameEncoder(encoder).eval(), ActionConditionedPredictor(predictor).eval()


def read_weights(path: Path, *, with_encoder: bool = True) -> dict[str, StoredTensor]:
    """Weights of a model file, lazily: ours (``.safetensors``) or as published (``.pt``, ``.pth``).

    Args:
        path: the file.
        with_encoder: see :func:`read_published`.

    Raises:
        CheckpointError: the file is missing, truncated, unsafe or something else.
    """
    return read_safetensors(path) if path.suffix == ".safetensors" else read_published(path, with_encoder)


def read_published(path: Path, with_encoder: bool = True) -> dict[str, StoredTensor]:
    """Encoder and predictor of a checkpoint in the published layout, under our names, lazily.

    The file is mapped, not read: its optimizer state and the like cost nothing. Left out are the stray
    ``pos_embed`` that some files hold and ``extrinsics_encoder``, which the released model never calls.

    Args:
        path: the file.
        with_encoder: whether it must hold the encoder; else that may be missing.

    Raises:
        CheckpointError: missing, truncated, with code in it, or not of this layout.
    """
    checkpoint = _torch_load(path)
    weights: dict[str, StoredTensor] = {}
    for part in ("encoder", "predictor"):
        absent: dict[str, Any] | None = {} if part == "encoder" and not with_encoder else None
        state = checkpoint.get(part, absent) if isinstance(checkpoint, dict) else None
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            found = list(checkpoint) if isinstance(checkpoint, dict) else type(checkpoint).__name__
            raise CheckpointError(
                f"{path}: is no V-JEPA 2-AC checkpoint: expected a dict with state dicts 'encoder' and "
                f"'predictor', received {found}"
            )
        for key, tensor in state.items():
            weights.update(_from_published(part, re.sub(r"^((module|backbone)\.)+", "", key), tensor))
    return weights


def read_huggingface_encoder(path: Path) -> dict[str, StoredTensor]:
    """The encoder of ``transformers.VJEPA2Model`` weights, such as ``facebook/vjepa2-vitg-fpc64-256``.

    Args:
        path: a safetensors file, or the folder of a model (sharded or not).

    Raises:
        CheckpointError: missing, truncated, or without an encoder.
    """
    weights = {
        name: tensor
        for name, tensor in read_safetensors(path).items()
        if name.startswith("encoder.")  # beside it lies the mask predictor of pre-training
    }
    if not weights:
        raise CheckpointError(f"{path}: holds no encoder.* tensors; expected weights of a VJEPA2Model")
    return weights


def load(
    weights: Weights,
    encoder: EncoderConfig,
    predictor: PredictorConfig,
    device: torch.device,
    dtype: torch.dtype,
    where: str,
) -> tuple[FrameEncoder, ActionConditionedPredictor]:
    """Build both networks with these weights, one tensor at a time, each cast and moved on its way.

    Args:
        weights: from :func:`read_weights`.
        encoder: architecture of the encoder.
        predictor: architecture of the predictor.
        device: where the weights go.
        dtype: what they are held in.
        where: what to call the source in errors.

    Returns:
        The networks in evaluation mode, without gradients.

    Raises:
        CheckpointError: names or shapes differ from the architecture's, or values are not finite.
        DeviceMemoryError: the device is full.
    """
    check(weights, encoder, predictor, where)
    modules = build(encoder, predictor)
    finite = {}
    try:
        for module, ours, theirs in zip(modules, ("vit.", ""), ("encoder.", "predictor."), strict=True):
            state = {}
            for name in module.state_dict():
                stored = weights[theirs + name.removeprefix(ours)].read()
                state[name] = stored.to(device=device, dtype=dtype, copy=True)
                finite[theirs + name.removeprefix(ours)] = all_finite(state[name])
            module.load_state_dict(state, assign=True)
            module.requires_grad_(False)
    except (
        RuntimeError
    ) as error:  # torch.OutOfMemoryError is one; the CPU's allocator has no type of its own
        if "memory" not in str(error):
            raise
        raise DeviceMemoryError(
            f"{where}: the weights do not fit on {device} as {dtype}; "
            "free the device, or use bfloat16 or the CPU"
        ) from error
    if not torch.stack(list(finite.values())).all():
        bad = [name for name, good in finite.items() if not good]
        raise CheckpointError(f"{where}: NaN or infinite values in {_some(bad)}; fetch or convert it again")
    return modules


def check(weights: Weights, encoder: EncoderConfig, predictor: PredictorConfig, where: str) -> None:
    """Compare names and shapes with an architecture.

    Raises:
        CheckpointError: listing what is missing, unexpected, and of another shape.
    """
    problems = _differences(weights, _expected(encoder, predictor))
    if problems:
        raise CheckpointError(
            f"{where}: does not fit the architecture described. {' '.join(problems)} "
            "Is it another model's file, or has its description been changed?"
        )


def convert(
    source: Path,
    target: Path,
    encoder: EncoderConfig,
    predictor: PredictorConfig,
    dtype: torch.dtype = torch.bfloat16,
    encoder_source: Path | None = None,
) -> str:
    """Strip a published checkpoint to the weights that are used: about 2.6 of its 11.8 GB in bfloat16.

    Streamed tensor by tensor: beside the mapped source, one tensor is in memory at a time.

    Args:
        source: checkpoint in the published layout, or one of our safetensors files.
        target: safetensors file to write; it appears only when complete.
        encoder: architecture of the encoder.
        predictor: architecture of the predictor.
        dtype: bfloat16 (what the model computes in on a GPU) or float32.
        encoder_source: Hugging Face weights to take the encoder from instead; the source then needs none.

    Returns:
        What a user should know: that the encoder taken is not the one that the source holds; else "".

    Raises:
        CheckpointError: the source cannot be used, or the target cannot be written.
    """
    weights, note = read_weights(source, with_encoder=encoder_source is None), ""
    if encoder_source is not None:
        taken = read_huggingface_encoder(encoder_source)
        note = _other_encoder(taken, weights, encoder_source, source)
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("encoder.")}
        weights = {**taken, **weights}
    check(weights, encoder, predictor, str(source))
    write_safetensors(target, weights, dtype, {"format": "pt", "source": source.name})
    return note


def _other_encoder(taken: Weights, held: Weights, encoder_source: Path, source: Path) -> str:
    """Whether an encoder is another than the one beside the predictor, told by some tensors of both."""
    both = [name for name in taken if name in held and taken[name].shape == held[name].shape]
    some = both[:: -(-len(both) // _COMPARED)] if both else []
    # As bfloat16, since either may have been stored as that.
    differ = [n for n in some if not torch.equal(*(w[n].read().bfloat16() for w in (taken, held)))]
    if not differ:
        return ""
    return (
        f"the encoder of {encoder_source} is not the one in {source}: {len(differ)} of {len(some)} tensors "
        f"compared differ, such as {differ[0]}. The predictor was trained on latents of the latter; leave "
        "out --encoder to keep it"
    )


def save_model(
    folder: str | Path,
    description: Any,
    encoder_state: Mapping[str, Tensor],
    predictor_state: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model folder: ``model.safetensors`` (or what the description calls it) and ``model.yaml``.

    Each file appears only when complete; the weights come first, so a description never precedes them.

    Args:
        folder: such as ``models/panda-sim``; made if needed.
        description: a :class:`~vjepa_ac_planner.models.ModelDescription`.
        encoder_state: of :class:`FrameEncoder`, or of the ``encoder`` of a ``VJEPA2Model``.
        predictor_state: of :class:`ActionConditionedPredictor`.
        dtype: what to store the weights in.

    Raises:
        CheckpointError: the weights do not fit the description, are not finite, or cannot be written.
    """
    folder = Path(folder)
    weights = {
        **{f"encoder.{name.removeprefix('vit.')}": StoredTensor.of(t) for name, t in encoder_state.items()},
        **{f"predictor.{name}": StoredTensor.of(t) for name, t in predictor_state.items()},
    }
    check(weights, description.encoder, description.predictor, f"model {description.name!r}")
    write_safetensors(
        folder / description.weights, weights, dtype, {"format": "pt", "model": description.name}
    )
    with replacing(folder / "model.yaml") as file:
        file.write(yaml.safe_dump(to_mapping(description), sort_keys=False, width=100).encode())


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        culprit = found[1] if found else "Python objects"
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values ({culprit}), and reading that would run "
            "code from the file; refused. Get the checkpoint from its publisher"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "use_new_zipfile_serialization" in reason:
            reason = "not a zip archive as torch.save writes it"
        raise CheckpointError(
            f"{path}: is truncated or no PyTorch checkpoint ({reason[:160]}); "
            "fetch it again and compare its size"
        ) from error


def _from_published(part: str, key: str, tensor: Tensor) -> dict[str, StoredTensor]:
    """One published tensor under our name: none if unused, three for the encoder's fused qkv."""
    if key == "pos_embed" or (part == "predictor" and key.startswith("extrinsics_encoder.")):
        return {}
    fused = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", key) if part == "encoder" else None
    if fused and len(tensor) % 3 == 0:
        names = (
            f"encoder.layer.{fused[1]}.attention.{name}.{fused[2]}" for name in ("query", "key", "value")
        )
        return {name: StoredTensor.of(third) for name, third in zip(names, tensor.chunk(3), strict=True)}
    return {our_name(part, key): StoredTensor.of(tensor)}


def our_name(part: str, key: str) -> str:
    """Our name of a parameter of the published "encoder" or "predictor" (which fuses the encoder's qkv)."""
    for pattern, replacement in _ENCODER_NAMES if part == "encoder" else _PREDICTOR_NAMES:
        renamed = re.sub(pattern, replacement, key)
        if renamed != key:
            return f"{part}.{renamed}"
    return f"{part}.{key}"


def _expected(encoder: EncoderConfig, predictor: PredictorConfig) -> dict[str, tuple[int, ...]]:
    frame_encoder, action_predictor = build(encoder, predictor)
    shapes = {f"encoder.{n.removeprefix('vit.')}": tuple(p.shape) for n, p in _parameters(frame_encoder)}
    shapes.update({f"predictor.{n}": tuple(p.shape) for n, p in _parameters(action_predictor)})
    return shapes


def _parameters(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return module.state_dict().items()


def _differences(weights: Weights, expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    shapes = [
        f"{name} is {'x'.join(map(str, weights[name].shape))}, not {'x'.join(map(str, shape))}"
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]
    parts = {"Missing": missing, "Unexpected": unexpected, "Other shape": shapes}
    return [f"{title}: {_some(names)}." for title, names in parts.items() if names]


def _some(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more ({len(names)} in all)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more

"""Tensors on disk: read lazily, written one by one, so that memory never holds a whole model twice.

safetensors is the only format written. Its layout (https://github.com/huggingface/safetensors): eight
bytes with the length of the header, little endian; the header, JSON with dtype, shape and byte range of
every tensor, padded with spaces; then the tensors' bytes, one after the other.
"""

from __future__ import annotations

import json
import math
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from vjepa_ac_planner.errors import CheckpointError

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
_STALE_S = 3600.0
"""No file takes this long to write: older unfinished ones were left by a process that was killed [s]."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that stays on disk until it is read."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    """Reads it into a tensor on the CPU; may alias the mapped file, so copy before keeping it."""

    @classmethod
    def of(cls, tensor: Tensor) -> StoredTensor:
        """A tensor in memory, or mapped from a file, under the same interface."""
        return cls(tuple(tensor.shape), lambda: tensor)


def write_safetensors(
    path: Path, tensors: Mapping[str, StoredTensor], dtype: torch.dtype, metadata: Mapping[str, str]
) -> None:
    """Write tensors in their given order, holding one at a time; the file appears only when complete.

    Args:
        path: target; an existing file is replaced.
        tensors: by name.
        dtype: every tensor is cast to this floating dtype.
        metadata: strings kept in the header.

    Raises:
        CheckpointError: the file cannot be written (nothing is left of it then), or a tensor holds
            NaN or infinite values.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + math.prod(tensor.shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts aligned
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name, stored in tensors.items():
            values = stored.read().detach().to("cpu", dtype).contiguous()
            if not all_finite(values):
                raise CheckpointError(
                    f"{path}: not written, since {name} holds NaN or infinite values; "
                    "the source is damaged or its training diverged"
                )
            file.write(values.flatten().view(torch.uint8).numpy().data)


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, or of all files of a folder (a sharded model), by name.

    Raises:
        CheckpointError: missing, truncated, or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise CheckpointError(f"{path}: holds no *.safetensors file")
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        try:
            handle = safe_open(file, framework="pt", device="cpu")
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read ({error.strerror or error})") from error
        except SafetensorError as error:
            raise CheckpointError(
                f"{file}: is truncated or no safetensors file ({error}); fetch or convert it again"
            ) from error
        for name in handle.keys():  # noqa: SIM118 (the handle is no mapping)
            shape = tuple(handle.get_slice(name).get_shape())
            tensors[name] = StoredTensor(shape, partial(handle.get_tensor, name))
    return tensors


def all_finite(values: Tensor) -> Tensor:
    """Whether a tensor holds neither NaN nor infinite values, as a bool tensor on its device.

    Either makes the sum NaN or infinite too, and a sum is several times quicker than a look at each of a
    billion weights. (Weights so large that they overflow it are no weights.)
    """
    return values.float().sum().isfinite()


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name only once it is complete and on disk.

    Raises:
        CheckpointError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):  # it is renamed, or was never made
            temporary.unlink()


def remove_stale(folder: Path) -> None:
    """Delete what :func:`replacing` has left in a folder where its process was killed."""
    for path in folder.glob(".*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > _STALE_S:
                path.unlink()
        except FileNotFoundError:
            continue  # another process was quicker

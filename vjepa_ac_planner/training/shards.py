"""Files of tensors that are verified: safetensors with a digest of their content in the header.

Frames, states and latents are kept in such files. One is written under another name and renamed once it
is whole, so a process that is killed leaves no half file; and every byte is compared with the digest
before anything is taken from it, so a damaged one is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.nn.storage import replacing

_DIGEST = "digest"


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes of tensors, whatever their order; in hexadecimal."""
    content = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content.update(tensor.flatten().view(torch.uint8).numpy().data)
    return content.hexdigest()


def write_shard(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write tensors and some strings; the file appears only when complete.

    Raises:
        CheckpointError: it cannot be written; nothing is left of it then.
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as file:
        file.write(save(plain, {**about, _DIGEST: digest(plain)}))


class Shard:
    """One file, mapped; rows are read when they are asked for.

    Args:
        path: of a file that :func:`write_shard` made.

    Raises:
        InputError: missing, truncated, or no such file.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        try:
            self._file: Any = safe_open(path, framework="pt", device="cpu")
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read ({error})") from error
        self.about: dict[str, str] = self._file.metadata() or {}
        """The strings that were written with the tensors."""
        if _DIGEST not in self.about:
            raise InputError(f"{path}: is none of this package's shards (no digest in its header)")

    @property
    def digest(self) -> str:
        """Of the content, as written; :meth:`verify` says whether it still holds."""
        return self.about[_DIGEST]

    def verify(self) -> None:
        """Read everything and compare it with the digest.

        Raises:
            InputError: the content has changed since it was written.
        """
        if digest({name: self._file.get_tensor(name) for name in self.names}) != self.digest:
            raise InputError(f"{self.path}: is damaged (its content does not fit its digest)")

    @property
    def names(self) -> list[str]:
        """Of the tensors."""
        return list(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor, without reading it."""
        return tuple(self._file.get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """One tensor, whole."""
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of one tensor."""
        tensor: Tensor = self._file.get_slice(name)[start:stop]
        return tensor

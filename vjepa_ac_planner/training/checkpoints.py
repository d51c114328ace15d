"""Checkpoints of a run: whole or not there, compared with their digest when read, the last two kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vjepa_ac_planner.errors import CheckpointError

LAST, PREVIOUS = "state.pt", "previous.pt"
_DIGEST = "digest"


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Write ``state.pt``; the one before becomes ``previous.pt``. At every moment one of them is whole.

    Args:
        folder: of the run.
        state: tensors, numbers, strings, and dicts and lists of them.

    Raises:
        CheckpointError: it cannot be written; what was there stays.
    """
    last, temporary = folder / LAST, folder / f".{LAST}.tmp"
    try:
        with temporary.open("wb") as file:
            torch.save({**state, _DIGEST: content_digest(state)}, file)
            file.flush()
            os.fsync(file.fileno())
        if last.exists():
            _keep(last, folder / PREVIOUS)
        temporary.replace(last)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter where the disk is full
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{last}: cannot be written ({error})") from error


def read(path: Path) -> dict[str, Any]:
    """One checkpoint, on the CPU.

    Raises:
        CheckpointError: missing or damaged.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such checkpoint; run the stage before this one first")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        expected = state.pop(_DIGEST, None)
    except Exception as error:  # torch raises many kinds for a broken file, some with pages of advice
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise CheckpointError(f"{path}: cannot be read ({reason}); delete it to start again") from error
    # Files from before digests were written have none.
    if expected is not None and content_digest(state) != expected:
        raise CheckpointError(f"{path}: cannot be read (it is damaged); delete it to start again")
    return state


def read_last(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The newest checkpoint of a run that is whole.

    Returns:
        The checkpoint, or None if there is none at all; and what the user should know, or "".

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    if not last.exists() and not previous.exists():
        return None, ""
    try:
        return read(last), ""
    except CheckpointError as error:
        if not previous.exists():
            raise
        try:
            return read(previous), f"{error}; going on from {previous.name}"
        except CheckpointError:
            raise error from None


def content_digest(state: Any) -> str:
    """SHA-256 of every value of a checkpoint, in hexadecimal."""
    content = hashlib.sha256()
    _feed(content, state)
    return content.hexdigest()


def _feed(content: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        content.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        content.update(plain.flatten().view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            content.update(f"{key!r}:".encode())
            _feed(content, item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            _feed(content, item)
    else:
        content.update(repr(value).encode())
    content.update(b";")


def _keep(last: Path, previous: Path) -> None:
    """Let a second name point to the last checkpoint, so that there is no moment without one."""
    link = previous.with_name(f".{previous.name}.tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(last, link)
    except OSError:  # a file system without hard links: for a moment, only previous.pt is there
        last.replace(previous)
    else:
        link.replace(previous)

"""Places to write to, looked at before the work whose result they are to take."""

from __future__ import annotations

import tempfile
from pathlib import Path

from vjepa_ac_planner.errors import InputError


def require_file(path: str | Path) -> Path:
    """A path at which a file can be written; nothing is left there by the look.

    Raises:
        InputError: something other than a file is there, or its folder cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: cannot be written (it is a folder, not a file)")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: cannot be written (it is not a regular file)")
    _require_place(path.parent, path)
    return path


def require_folder(path: str | Path) -> Path:
    """A path that is a folder that can be written, or could be made; nothing is left there by the look.

    Raises:
        InputError: it is a file, or cannot be written.
    """
    path = Path(path)
    _require_place(path, path)
    return path


def make_folder(path: str | Path) -> Path:
    """Make a folder, and those above it, where it is not there yet.

    Raises:
        InputError: it cannot be made.
    """
    path = require_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    return path


def _require_place(folder: Path, path: Path) -> None:
    """Whether something can be made in ``folder``, or in the first one above it that exists."""
    try:
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise InputError(f"{path}: cannot be written ({folder} is a file, not a folder)")
        # Tried, not asked: permissions do not tell of read-only file systems, or of /proc.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".vjepa-ac-"):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error

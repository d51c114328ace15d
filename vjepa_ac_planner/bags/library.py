"""The libraries of the ``bags`` and ``convert`` extras, imported when they are first needed."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from vjepa_ac_planner.errors import MissingDependencyError

_MODULES = {
    "zstd": ("bags", "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"),
    "lz4": ("bags", "lz4.frame"),
    "typesys": ("bags", "rosbags.typesys"),
    "mcap": ("bags", "mcap.writer"),
    "h5py": ("convert", "h5py"),
    "parquet": ("convert", "pyarrow.parquet"),
    "av": ("convert", "av"),
}


def need(name: str) -> Any:
    """A module of an extra, by short name.

    Raises:
        MissingDependencyError: it is not installed.
    """
    extra, module = _MODULES[name]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        what = "reading and writing bags" if extra == "bags" else "converting data sets"
        raise MissingDependencyError(
            f"{what} needs {module!r}, which is not installed; "
            f"install the extra: pip install 'vjepa_ac_planner[{extra}]'"
        ) from error

"""The libraries of the ``bags`` extra, imported when they are first needed."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from vjepa_ac_planner.errors import MissingDependencyError

_MODULES = {
    "zstd": "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd",
    "lz4": "lz4.frame",
    "typesys": "rosbags.typesys",
    "mcap": "mcap.writer",
}


def need(name: str) -> Any:
    """A module of the extra, by short name.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module(_MODULES[name])
    except ImportError as error:
        raise MissingDependencyError(
            f"reading and writing bags needs {_MODULES[name]!r}, which is not installed; "
            "install the extra: pip install 'vjepa_ac_planner[bags]'"
        ) from error

"""Where the files that come with the package lie: in a source tree, or where they were installed."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = "vjepa_ac_planner"


def resource_folders(kind: str) -> tuple[Path, ...]:
    """Places where ``config`` or ``models`` may lie, the first find winning; they need not exist.

    In order: the source tree, then ``share/vjepa_ac_planner`` of the ROS workspaces in use and of every
    prefix above the package (a virtual environment, a system, ``--user``, ``--target``).

    Args:
        kind: name of the folder, such as ``models``.
    """
    package = Path(__file__).resolve().parent
    # A source tree, not site-packages.
    source = [package.parent / kind] if (package.parent / "package.xml").is_file() else []
    workspaces = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    installed = [prefix / "share" / PACKAGE / kind for prefix in (*workspaces, *package.parents)]
    return tuple(dict.fromkeys((*source, *installed)))

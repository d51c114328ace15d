"""Message packages that not every machine has: imported when needed, missed by name."""

from __future__ import annotations

import importlib
import os
from typing import Any

from vjepa_ac_planner.errors import MissingDependencyError

SOURCES = {
    "franka_msgs": "https://github.com/frankarobotics/franka_ros2",
    "control_msgs": "https://github.com/ros-controls/control_msgs",
}
"""Repositories of the message packages that have no wheel."""


def import_messages(module: str, needed_for: str) -> Any:
    """The module ``<package>.msg``, ``.srv`` or ``.action``, imported.

    Args:
        module: such as ``franka_msgs.action``.
        needed_for: what is lost without it, to begin the error with.

    Raises:
        MissingDependencyError: it is not installed; the text names the apt package and the source.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        apt = f"ros-{os.environ.get('ROS_DISTRO', '$ROS_DISTRO')}-{package.replace('_', '-')}"
        source = SOURCES.get(package)
        build = f", or build {package} of {source} in your workspace" if source else ""
        raise MissingDependencyError(
            f"{needed_for} needs the message package {package}, which cannot be imported ({error}): "
            f"sudo apt install {apt}{build}, then source the workspace's setup file"
        ) from error

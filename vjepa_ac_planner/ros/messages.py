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
NOT_IN_APT = ("franka_msgs",)
"""Packages that apt has for no release that the planner runs on."""


def import_messages(module: str, needed_for: str) -> Any:
    """The module ``<package>.msg``, ``.srv`` or ``.action``, imported.

    Args:
        module: such as ``franka_msgs.action``.
        needed_for: what is lost without it, to begin the error with.

    Raises:
        MissingDependencyError: it is not installed; the text says where it is to be had.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        ways = []
        if package not in NOT_IN_APT:
            apt = f"ros-{os.environ.get('ROS_DISTRO', '$ROS_DISTRO')}-{package.replace('_', '-')}"
            ways.append(f"sudo apt install {apt}")
        if package in SOURCES:
            ways.append(f"build {package} of {SOURCES[package]} in your workspace")
        raise MissingDependencyError(
            f"{needed_for} needs the message package {package}, which cannot be imported ({error}): "
            f"{', or '.join(ways)}, then source the workspace's setup file"
        ) from error

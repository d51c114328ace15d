"""One family of errors: what was received, what is allowed, what to do.

Every error that this package raises on purpose derives from :class:`PlannerError` and carries the
exit code that the command line returns for it, so that a script can tell a typing mistake (2) from
a machine that lacks something (3).
"""

from __future__ import annotations

import sys
from typing import ClassVar

_PACKAGES = {
    "torch": "torch",
    "transformers": "transformers",
    "numpy": "numpy",
    "cv2": "opencv-python-headless",
    "yaml": "pyyaml",
    "safetensors": "safetensors",
}
"""Modules that everything needs, and what pip calls them."""


def first_line(error: BaseException) -> str:
    """What an error says, without the rest."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def counted(count: int, noun: str) -> str:
    """``1 episode``, ``2 episodes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class PlannerError(Exception):
    """Base of every error raised on purpose by this package."""

    exit_code: ClassVar[int] = 2


class InputError(PlannerError, ValueError):
    """A frame, state, goal, action or argument is not usable as it is."""


class ConfigError(PlannerError, ValueError):
    """A configuration file or option has an unknown key or a value outside its range."""


class CheckpointError(PlannerError):
    """A checkpoint or model folder cannot be loaded: missing keys, wrong shapes, truncated, unsafe."""


class BagError(PlannerError):
    """A recording cannot be read or written: damaged, of an unknown kind, or lacking what is wanted."""


class PlanningError(PlannerError):
    """No plan could be made: the robot must hold."""

    exit_code = 1


class PlanCancelled(PlanningError):
    """The plan was cancelled before its first iteration was complete."""


class SafetyError(PlannerError):
    """A command or limit was refused by the safety layer."""

    exit_code = 1


class NotReadyError(PlannerError):
    """Something that must be there first is not: a topic, a goal, a state; the text names it."""

    exit_code = 1


class MissingDependencyError(PlannerError, ImportError):
    """An optional part (an extra, a system library, a device) is absent; the text says how to get it."""

    exit_code = 3


class DeviceMemoryError(PlannerError):
    """The device ran out of memory even for the smallest chunk of work."""

    exit_code = 3


def missing_package(error: ModuleNotFoundError) -> MissingDependencyError | None:
    """The same as one of ours, with what to install; None where the missing module is not one we depend on.

    A colcon workspace installs the package without what it needs.
    """
    package = _PACKAGES.get(error.name or "")
    if package is None:
        return None
    text = f"{error.name} is not installed ({sys.executable}): pip install {package}"
    return MissingDependencyError(text)

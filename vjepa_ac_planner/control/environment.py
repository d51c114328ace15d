"""What a world must offer to be controlled: the simulator, a bag, or a robot behind ROS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from vjepa_ac_planner.types import Command, Observation

MODES = (
    "other",
    "idle",
    "move",
    "guiding",
    "reflex",
    "user_stopped",
    "automatic_error_recovery",
)
"""Modes of a robot; a Franka's ``robot_mode`` has the numbers 0 .. 6."""
COMMANDABLE = ("idle", "move")
"""Modes in which an arm may ever be commanded. In ``reflex``, ``user_stopped`` and
``automatic_error_recovery`` it does not follow, and would jump to the target once it does again; in
``guiding`` a person's hand is on it; ``other`` is anything."""


class Environment(Protocol):
    """A world with one camera and one arm."""

    def observe(self) -> Observation:
        """The newest frame and state."""
        ...

    def apply(self, command: Command) -> None:
        """Carry a command out, and return when its duration is over."""
        ...


@dataclass(frozen=True)
class RobotStatus:
    """What a robot says about itself beside its pose."""

    mode: str = "move"
    """Lower-case name of the robot's mode, such as ``move``, ``idle``, ``reflex``, ``user_stopped``."""
    errors: tuple[str, ...] = ()
    """Names of the errors that are active."""
    command_publishers: int = 1
    """How many sources send commands to the arm, us included."""


@runtime_checkable
class ReportsStatus(Protocol):
    """An environment that also knows its robot's status."""

    def status(self) -> RobotStatus:
        """The newest status."""
        ...


@runtime_checkable
class MovesOn(Protocol):
    """An environment that does not wait while a plan is made: a robot, or a simulator in real time."""

    def newest(self) -> Observation:
        """The newest frame and the newest state, at once, whether or not they belong together."""
        ...

"""The state message of franka_ros2: pose, mode and errors of a Franka arm."""

from __future__ import annotations

from typing import Any, NamedTuple

from vjepa_ac_planner.control.environment import MODES, RobotStatus
from vjepa_ac_planner.errors import MissingDependencyError
from vjepa_ac_planner.ros.frames import FrameChain
from vjepa_ac_planner.ros.messages import import_messages
from vjepa_ac_planner.ros.stamps import to_seconds

END_EFFECTOR_SLACK = (0.002, 0.02)
"""How far the robot's own end-effector frame may lie from the profile's [m, rad]."""
END_EFFECTOR_ERROR = "end_effector_frame_differs_from_profile"
"""Beginning of the error that it does not; what both are follows."""


class FrankaState(NamedTuple):
    """What one message says."""

    status: RobotStatus
    """Mode and active errors; command publishers are for the node to count."""
    pose: Any
    """``geometry_msgs/PoseStamped``: measured pose of the state frame, for ``FrameChain.robot_state``."""
    stamp: float
    """Time of measurement [s]."""


def state_message() -> Any:
    """The class ``franka_msgs/FrankaRobotState``.

    Raises:
        MissingDependencyError: franka_msgs is not installed, or is that of another driver.
    """
    needed_for = "topic robot_state (null in the robot's profile does without the arm's mode and errors)"
    messages = import_messages("franka_msgs.msg", needed_for)
    try:
        return messages.FrankaRobotState
    except AttributeError as error:
        raise MissingDependencyError(
            f"{needed_for} needs franka_msgs/FrankaRobotState, which this franka_msgs has not "
            f"({messages.__file__}): use the franka_msgs of frankarobotics/franka_ros2, or set "
            "topics.robot_state: null"
        ) from error


def read_state(message: Any, frames: FrameChain) -> FrankaState:
    """What a ``franka_msgs/FrankaRobotState`` says.

    The arm computes its end-effector pose with the tool that was set in its own web interface (Desk). If
    that is not where the profile has its state frame, every pose is wrong by the difference, and so is the
    distance to the table: this counts as an error of the robot, which :data:`END_EFFECTOR_ERROR` begins.

    Args:
        message: the message.
        frames: of the robot's profile; its model frame must be the flange, link8.

    Raises:
        InputError: the pose is in another frame than the base frame.
    """
    frames.check_base(message.o_t_ee.header.frame_id)
    errors = active_errors(message.current_errors)
    if not frames.agrees(message.f_t_ee.pose, *END_EFFECTOR_SLACK):
        told = frames.difference(message.f_t_ee.pose)
        errors = (*errors, f"{END_EFFECTOR_ERROR}: {told}; set it in Desk, or correct transforms")
    status = RobotStatus(mode=mode_name(message.robot_mode), errors=errors)
    return FrankaState(status, message.o_t_ee, to_seconds(message.o_t_ee.header.stamp))


def mode_name(number: int) -> str:
    """Name of a ``robot_mode``; a number from a newer release becomes ``unknown_<number>``."""
    return MODES[number] if 0 <= number < len(MODES) else f"unknown_{number}"


def active_errors(errors: Any) -> tuple[str, ...]:
    """Names of the fields of a ``franka_msgs/Errors`` that are true."""
    return tuple(name for name in errors.get_fields_and_field_types() if getattr(errors, name) is True)

"""The state message of franka_ros2: pose, mode and errors of a Franka arm."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vjepa_ac_planner.control.environment import RobotStatus
from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.ros.frames import FrameChain, pose_to_matrix
from vjepa_ac_planner.ros.messages import import_messages
from vjepa_ac_planner.ros.stamps import to_seconds
from vjepa_ac_planner.types import FloatArray

MODES = (
    "other",
    "idle",
    "move",
    "guiding",
    "reflex",
    "user_stopped",
    "automatic_error_recovery",
)
"""Names of the numbers 0 .. 6 in ``robot_mode``."""
END_EFFECTOR_SLACK = (0.002, 0.02)
"""How far the robot's own end-effector frame may lie from the profile's [m, rad]."""
END_EFFECTOR_ERROR = "end_effector_frame_differs_from_profile"
"""Name of the error that it does not."""


class FrankaState(NamedTuple):
    """What one message says."""

    status: RobotStatus
    """Mode and active errors; command publishers are for the node to count."""
    pose: FloatArray
    """[4, 4] measured pose of the *state* frame in the base frame."""
    stamp: float
    """Time of measurement [s]."""


def state_message() -> Any:
    """The class ``franka_msgs/FrankaRobotState``.

    Raises:
        MissingDependencyError: franka_msgs is not installed.
    """
    return import_messages("franka_msgs.msg", "topic robot_state").FrankaRobotState


def read_state(message: Any, frames: FrameChain) -> FrankaState:
    """What a ``franka_msgs/FrankaRobotState`` says.

    The arm computes its end-effector pose with the tool that was set in its own web interface (Desk). If
    that is not where the profile has its state frame, every pose is wrong by the difference, and so is the
    distance to the table: this counts as an error of the robot, named :data:`END_EFFECTOR_ERROR`.

    Args:
        message: the message.
        frames: of the robot's profile.

    Raises:
        InputError: a pose in another frame than the base frame, or that is none.
    """
    frames.check_base(message.o_t_ee.header.frame_id)
    errors = active_errors(message.current_errors)
    if not end_effector_agrees(message.f_t_ee.pose, frames):
        errors = (*errors, END_EFFECTOR_ERROR)
    return FrankaState(
        RobotStatus(mode=mode_name(message.robot_mode), errors=errors),
        pose_to_matrix(message.o_t_ee.pose),
        to_seconds(message.o_t_ee.header.stamp),
    )


def mode_name(number: int) -> str:
    """Name of a ``robot_mode``; a number from a newer release becomes ``unknown_<number>``."""
    return MODES[number] if 0 <= number < len(MODES) else f"unknown_{number}"


def active_errors(errors: Any) -> tuple[str, ...]:
    """Names of the fields of a ``franka_msgs/Errors`` that are true."""
    return tuple(name for name in errors.get_fields_and_field_types() if getattr(errors, name) is True)


def end_effector_agrees(flange_to_ee: Any, frames: FrameChain) -> bool:
    """Whether the robot's own transform from flange to end effector is the profile's.

    Args:
        flange_to_ee: ``geometry_msgs/Pose`` of the message's ``f_t_ee``. The flange is link8.
        frames: of the robot's profile, whose model frame is link8.
    """
    try:
        theirs = pose_to_matrix(flange_to_ee)
    except InputError:
        return False
    ours = frames.state_in_model
    metres, radians = END_EFFECTOR_SLACK
    distance = np.linalg.norm(theirs[:3, 3] - ours[:3, 3])
    # |R - R'| is 2 sqrt(2) sin(angle / 2), so this is the angle, while that is small.
    chord = np.linalg.norm(theirs[:3, :3] - ours[:3, :3]) / np.sqrt(2)
    return bool(distance <= metres and chord <= radians)

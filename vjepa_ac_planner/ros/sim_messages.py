"""Messages that only the simulated robot sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo, JointState

from vjepa_ac_planner.ros.frames import FrameChain, matrix_to_pose
from vjepa_ac_planner.ros.franka import MODES, state_message


def joint_state(stamp: Any, names: Sequence[str], positions: npt.NDArray[np.float64]) -> JointState:
    """A ``sensor_msgs/JointState`` of positions [rad, m]."""
    message = JointState(name=list(names), position=positions.tolist())
    message.header.stamp = stamp
    return message


def camera_info(width: int, height: int, fovy: float, stamp: Any, frame_id: str) -> CameraInfo:
    """A ``sensor_msgs/CameraInfo`` of an ideal pinhole; the centre of the top-left pixel is (0, 0).

    Args:
        width: of the image [pixels].
        height: of the image [pixels].
        fovy: vertical field of view [degrees].
        stamp: ``builtin_interfaces/Time`` of exposure.
        frame_id: name of the optical frame.
    """
    focal = height / 2 / np.tan(np.radians(fovy) / 2)
    x, y = (width - 1) / 2, (height - 1) / 2
    message = CameraInfo(height=height, width=width, distortion_model="plumb_bob")
    message.header.stamp, message.header.frame_id = stamp, frame_id
    message.d = [0.0] * 5
    message.k = [focal, 0.0, x, 0.0, focal, y, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [focal, 0.0, x, 0.0, 0.0, focal, y, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def franka_state(frames: FrameChain) -> Any:
    """A ``franka_msgs/FrankaRobotState`` of an arm that may be moved, but for its pose and stamp.

    Args:
        frames: of the arm; its end effector is set as the profile has it.

    Raises:
        MissingDependencyError: franka_msgs is not installed.
    """
    message = state_message()(robot_mode=MODES.index("move"))
    message.o_t_ee.header.frame_id = frames.config.base_frame
    message.f_t_ee.pose = matrix_to_pose(frames.state_in_model)
    return message

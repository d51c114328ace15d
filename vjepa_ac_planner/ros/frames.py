"""Poses of messages in the model's frame, and the model's poses in the frame of the robot's controller.

Three frames are fixed to the hand. The *model* frame is the one whose pose the world model calls its
state (``link8`` for models trained on DROID). The *state* frame is the one whose pose the robot reports,
the *command* frame the one whose pose its controller takes; on a Franka with its hand both are
``hand_tcp``, turned by -45 degrees about z against link8 and 0.1034 m along z away from it. All poses are
relative to one *base* frame. A translation moves all three alike; a rotation does not, it moves the TCP
on a circle about link8.

The transforms between the three are stated in the robot's profile and not read from TF: they are fixed
to the millimetre by the hardware, while TF is whatever its publishers say, late, missing, or of another
robot; and that must never move an arm.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vjepa_ac_planner.config import check_ranges, ranged
from vjepa_ac_planner.control.rotation import euler_to_matrix, matrix_to_euler
from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.ros.stamps import to_seconds
from vjepa_ac_planner.types import FloatArray, RobotState

_UNIT_SLACK = 0.05
"""Quaternions are normalised, but one whose norm is further from 1 than this is no rounding error."""


@dataclass(frozen=True)
class StaticTransform:
    """Where a frame sits on its parent."""

    parent: str
    """Name of the frame that it is fixed to."""
    xyz: tuple[float, float, float] = ranged((0.0, 0.0, 0.0), low=-1.0, high=1.0, unit="m")
    """Its origin in the parent's axes [m]."""
    rpy: tuple[float, float, float] = ranged((0.0, 0.0, 0.0), low=-6.2832, high=6.2832, unit="rad")
    """Its rotation: angles about the parent's fixed x, y and z axes [rad], as in URDF."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def matrix(self) -> FloatArray:
        """[4, 4] from this frame's coordinates to the parent's."""
        return _matrix(np.array((*self.xyz, *self.rpy)))


@dataclass(frozen=True)
class FramesConfig:
    """Names of the frames, and how those on the hand are fixed to each other.

    Raises:
        ConfigError: two of them are not connected, or the transforms run in a circle.
    """

    base_frame: str
    """What poses are relative to; messages must name it, or one of ``base_aliases``, in
    ``header.frame_id``."""
    model_ee_frame: str
    """The frame whose pose is the model's state; link8 of the arm for models trained on DROID."""
    state_ee_frame: str
    """The frame whose pose the robot reports."""
    command_frame: str
    """The frame whose pose the robot's controller is given."""
    transforms: dict[str, StaticTransform] = field(default_factory=dict)
    """By frame: what it is fixed to and where; measured or from the robot's description, never from TF."""
    base_aliases: tuple[str, ...] = ()
    """Other names that messages may give the base frame; only of frames that coincide with it. franka_ros2
    sends the root of the robot's description, which some releases call ``base``. An empty name takes
    poses without a frame on trust; it is refused otherwise, because such a pose could be in any frame."""

    def __post_init__(self) -> None:
        for name in ("base_frame", "model_ee_frame", "state_ee_frame", "command_frame"):
            if not getattr(self, name):
                raise ConfigError(f"{name}: received '', allowed is the name of a frame")
        FrameChain(self)


class FrameChain:
    """Converts between poses in messages and states of the model.

    Args:
        config: frames and transforms.

    Raises:
        ConfigError: see :class:`FramesConfig`.
    """

    def __init__(self, config: FramesConfig) -> None:
        self.config = config
        self.state_in_model = self._between(config.state_ee_frame, config.model_ee_frame)
        """[4, 4] pose of the state frame in the model frame."""
        self._model_in_state = invert(self.state_in_model)
        self._state_position = self.state_in_model[:3, 3].tolist()
        self._state_turn = _quaternion(self.state_in_model[:3, :3]).tolist()
        self._command_in_model = self._between(config.command_frame, config.model_ee_frame)

    def robot_state(self, pose: Any, closedness: float) -> RobotState:
        """The model's state that a ``geometry_msgs/PoseStamped`` of the state frame stands for.

        Args:
            pose: measured pose in the base frame; its stamp becomes the state's.
            closedness: of the gripper, 0 open .. 1 closed.

        Raises:
            InputError: a pose in another frame, a quaternion that is none, or values no state may have.
        """
        self.check_base(pose.header.frame_id)
        matrix = pose_to_matrix(pose.pose) @ self._model_in_state
        return RobotState(np.append(_vector(matrix), closedness), to_seconds(pose.header.stamp))

    def command_pose(self, target: FloatArray, stamp: Any) -> Any:
        """The ``geometry_msgs/PoseStamped`` of the command frame at a state of the model.

        Args:
            target: [7] state in the model frame, as it leaves the safety layer.
            stamp: ``builtin_interfaces/Time`` to put into the header.
        """
        from geometry_msgs.msg import PoseStamped

        message = PoseStamped(pose=self.pose(target))
        message.header.stamp, message.header.frame_id = stamp, self.config.base_frame
        return message

    def pose(self, state: FloatArray) -> Any:
        """The ``geometry_msgs/Pose`` of the command frame at a state [7] of the model."""
        return matrix_to_pose(_matrix(np.asarray(state)[:6]) @ self._command_in_model)

    def command_twist(self, twist: FloatArray, state: FloatArray, stamp: Any) -> Any:
        """The ``geometry_msgs/TwistStamped`` of the command frame, in the axes of the base frame.

        Both frames turn alike, but the command frame's origin also moves on a circle about the model's.

        Args:
            twist: [6] velocity of the model frame [m/s, rad/s], base axes.
            state: [7] measured state of the model.
            stamp: ``builtin_interfaces/Time`` to put into the header.
        """
        from geometry_msgs.msg import TwistStamped

        arm = _matrix(np.asarray(state)[:6])[:3, :3] @ self._command_in_model[:3, 3]
        linear, angular = np.asarray(twist[:3]) + np.cross(twist[3:6], arm), twist[3:6]
        message = TwistStamped()
        message.header.stamp, message.header.frame_id = stamp, self.config.base_frame
        for part, values in ((message.twist.linear, linear), (message.twist.angular, angular)):
            part.x, part.y, part.z = map(float, values)
        return message

    def check_base(self, frame_id: str) -> None:
        """Refuse a pose that is not relative to the base frame.

        Raises:
            InputError: it names another frame.
        """
        config = self.config
        if frame_id == config.base_frame or frame_id in config.base_aliases:
            return
        allowed = ", ".join(map(repr, (config.base_frame, *config.base_aliases)))
        raise InputError(
            f"pose: received header.frame_id {frame_id!r}, allowed {allowed}; publish poses relative to "
            "the robot's base, or correct base_frame or base_aliases in the robot's profile"
        )

    def agrees(self, pose: Any, metres: float, radians: float) -> bool:
        """Whether a ``geometry_msgs/Pose`` is that of the state frame in the model frame, give or take.

        A pose that is none does not agree.
        """
        position, turn = pose.position, pose.orientation
        given = (turn.x, turn.y, turn.z, turn.w)
        norm = math.hypot(*given)
        if not abs(norm - 1.0) <= _UNIT_SLACK:
            return False
        distance = math.dist((position.x, position.y, position.z), self._state_position)
        cosine = abs(sum(map(operator.mul, given, self._state_turn))) / norm
        return distance <= metres and 2 * math.acos(min(1.0, cosine)) <= radians

    def difference(self, pose: Any) -> str:
        """What a ``geometry_msgs/Pose`` of the state frame in the model frame is, and what is stated."""
        try:
            received = _shown(pose_to_matrix(pose))
        except InputError as error:
            received = str(error)
        return (
            f"received {received}; the profile has {self.config.state_ee_frame} at "
            f"{_shown(self.state_in_model)} of {self.config.model_ee_frame}"
        )

    def _between(self, frame: str, other: str) -> FloatArray:
        """[4, 4] pose of ``frame`` in ``other``: from the coordinates of the one to those of the other."""
        up, down = dict(self._ancestors(frame)), dict(self._ancestors(other))
        shared = next((name for name in up if name in down), None)
        if shared is None:
            given = ", ".join(f"{name} on {to.parent}" for name, to in self.config.transforms.items())
            raise ConfigError(
                f"transforms: none leads from {frame!r} to {other!r}; given are {given or 'none'}"
            )
        return invert(down[shared]) @ up[shared]

    def _ancestors(self, frame: str) -> Iterator[tuple[str, FloatArray]]:
        """The frame itself and everything it is fixed to, with the [4, 4] pose of ``frame`` there."""
        matrix, seen = np.eye(4), [frame]
        yield frame, matrix
        while (transform := self.config.transforms.get(frame)) is not None:
            frame, matrix = transform.parent, transform.matrix() @ matrix
            if frame in seen:
                raise ConfigError(f"transforms: {' on '.join([*seen, frame])} is a circle")
            seen.append(frame)
            yield frame, matrix


def pose_to_matrix(pose: Any) -> FloatArray:
    """[4, 4] homogeneous matrix of a ``geometry_msgs/Pose``; the quaternion is normalised.

    Raises:
        InputError: a value is NaN or infinite, or the quaternion's norm is not 1 within 5 %: the
            all-zero one of a message that nobody filled in, or one that was scaled or mixed up.
    """
    position, orientation = pose.position, pose.orientation
    values = np.array(
        [position.x, position.y, position.z, orientation.x, orientation.y, orientation.z, orientation.w],
        dtype=np.float64,
    )
    if not np.isfinite(values).all():
        raise InputError(
            f"pose: every value must be finite, received {values.tolist()} (xyz, quaternion xyzw)"
        )
    norm = math.hypot(*values[3:])
    if abs(norm - 1.0) > _UNIT_SLACK:
        raise InputError(
            f"pose: the quaternion's norm must be 1, received {norm:.3g} of xyzw {values[3:].tolist()}"
        )
    x, y, z, w = values[3:] / norm
    matrix = np.eye(4)
    matrix[:3, 3] = values[:3]
    matrix[:3, :3] = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return matrix


def matrix_to_pose(matrix: FloatArray) -> Any:
    """The ``geometry_msgs/Pose`` of a homogeneous matrix [4, 4].

    Of the two quaternions it is the one whose largest component is positive: for a hand that points down
    w is about 0, and choosing by its sign would make the stream flicker between the two.
    """
    from geometry_msgs.msg import Pose

    message = Pose()
    position, orientation = message.position, message.orientation
    position.x, position.y, position.z = map(float, matrix[:3, 3])
    orientation.x, orientation.y, orientation.z, orientation.w = _quaternion(matrix[:3, :3]).tolist()
    return message


def invert(matrix: FloatArray) -> FloatArray:
    """The inverse of a homogeneous matrix [4, 4] without scale."""
    rotation = matrix[:3, :3].T
    inverse = np.eye(4)
    inverse[:3, :3], inverse[:3, 3] = rotation, -rotation @ matrix[:3, 3]
    return inverse


def _quaternion(rotation: FloatArray) -> FloatArray:
    """[4] x, y, z, w of a rotation matrix [3, 3]."""
    # Each column of this matrix is the quaternion times one of its own components: the longest column
    # is that of the largest component, so nothing is ever divided by something small.
    (a, b, c), (d, e, f), (g, h, i) = rotation
    columns = np.array(
        (
            (1 + a - e - i, b + d, c + g, h - f),
            (b + d, 1 - a + e - i, f + h, c - g),
            (c + g, f + h, 1 - a - e + i, d - b),
            (h - f, c - g, d - b, 1 + a + e + i),
        )
    )
    column = columns[np.argmax(np.diagonal(columns))]
    return np.asarray(column / np.linalg.norm(column))


def _matrix(vector: FloatArray) -> FloatArray:
    """[4, 4] of a pose vector [6]: position [m] and Euler angles [rad]."""
    matrix = np.eye(4)
    matrix[:3, 3] = vector[:3]
    matrix[:3, :3] = euler_to_matrix(vector[3:6])
    return matrix


def _shown(matrix: FloatArray) -> str:
    """A pose [4, 4] for people."""
    xyz, rpy = np.split(_vector(matrix) + 0.0, 2)
    return f"xyz {np.round(xyz, 4).tolist()} m, rpy {np.round(rpy, 4).tolist()} rad"


def _vector(matrix: FloatArray) -> FloatArray:
    """[6] of a homogeneous matrix [4, 4]: the inverse of :func:`_matrix`."""
    return np.concatenate((matrix[:3, 3], matrix_to_euler(matrix[:3, :3])))

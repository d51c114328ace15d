"""Robot profiles: where a robot's topics are, how its frames lie, what it is allowed to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from vjepa_ac_planner.config import check_ranges, from_mapping, load_yaml, ranged
from vjepa_ac_planner.control.safety import SafetyConfig
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.resources import resource_folders
from vjepa_ac_planner.ros.frames import FrameChain, FramesConfig
from vjepa_ac_planner.ros.gripper import GripperConfig
from vjepa_ac_planner.types import FloatArray

Transport = Literal["raw", "compressed"]


@dataclass(frozen=True)
class TopicsConfig:
    """Names of the topics, relative ones so that a namespace works; all can be remapped at launch."""

    image: str = "camera/image_raw"
    """sensor_msgs/Image of the exterior camera; its compressed form is at ``<image>/compressed``."""
    image_transport: Transport = "raw"
    """Which form of the camera image to take."""
    ee_pose: str = "franka_robot_state_broadcaster/current_pose"
    """geometry_msgs/PoseStamped: measured pose of the state frame in the base frame."""
    robot_state: str | None = None
    """franka_msgs/FrankaRobotState: mode and errors of a Franka; null for robots without."""
    gripper: str | None = "franka_gripper/joint_states"
    """sensor_msgs/JointState with the finger joints; null for an arm without gripper, taken as open."""
    goal_image: str = "goal_image"
    """sensor_msgs/Image of a goal; its compressed form is at ``<goal_image>/compressed``."""
    goal_image_transport: Transport = "raw"
    """Which form of the goal image to take."""
    target_pose: str = "target_pose"
    """geometry_msgs/PoseStamped out: setpoints of the command frame in the base frame. crisp_controllers
    listen to target_pose, FZI's cartesian controllers to <controller>/target_frame, MoveIt Servo to
    servo_node/pose_target_cmds."""
    delta_twist_cmds: str = "delta_twist_cmds"
    """geometry_msgs/TwistStamped out: velocities of the command frame, base axes. MoveIt Servo listens to
    servo_node/delta_twist_cmds."""

    def __post_init__(self) -> None:
        for name, topic in vars(self).items():
            if topic == "":
                raise ConfigError(f"{name}: received '', allowed is the name of a topic")

    @property
    def image_topic(self) -> str:
        """Where the camera image comes from, by its transport."""
        return _transported(self.image, self.image_transport)

    @property
    def camera_info(self) -> str:
        """sensor_msgs/CameraInfo beside the camera image, where drivers put it; not needed to plan."""
        return "".join(self.image.rpartition("/")[:2]) + "camera_info"

    @property
    def goal_image_topic(self) -> str:
        """Where goal images come from, by their transport."""
        return _transported(self.goal_image, self.goal_image_transport)


@dataclass(frozen=True)
class TwistConfig:
    """What the numbers of a twist command mean to its receiver."""

    units: Literal["speed", "unitless"] = "speed"
    """speed: m/s and rad/s. unitless: -1 .. 1 of the scales below, the default of MoveIt Servo's
    ``command_in_type``. The two must agree with the receiver, or the arm is faster than allowed."""
    linear_scale: float = ranged(0.4, low=0.001, high=10.0, unit="m/s")
    """With ``unitless``: speed of a 1 [m/s]; ``scale.linear`` of MoveIt Servo."""
    rotational_scale: float = ranged(0.8, low=0.001, high=20.0, unit="rad/s")
    """With ``unitless``: rotational speed of a 1 [rad/s]; ``scale.rotational`` of MoveIt Servo."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def command(self, twist: FloatArray) -> FloatArray:
        """[6] numbers to send for a velocity [6] in m/s and rad/s; unitless ones are cut to length 1."""
        if self.units == "speed":
            return np.array(twist, dtype=np.float64)
        parts = np.asarray(twist[:3]) / self.linear_scale, np.asarray(twist[3:6]) / self.rotational_scale
        return np.concatenate([part / max(1.0, float(np.linalg.norm(part))) for part in parts])


@dataclass(frozen=True)
class RobotProfile:
    """Everything the planner node must know about a robot.

    Raises:
        ConfigError: a value out of range, or a robot that moves without a place to send commands to.
    """

    name: str
    """How the profile is called; that of its file."""
    description: str
    """One sentence: which robot, which driver, which controller."""
    frames: FramesConfig
    """Names of the frames and how those on the hand are fixed to each other."""
    safety: SafetyConfig
    """Limits, ages and modes; ``dry_run`` plans and checks everything but only holds."""
    model: str = "vjepa2-ac-vitg"
    """The world model for it, by name or path."""
    topics: TopicsConfig = field(default_factory=TopicsConfig)
    """Names of the topics."""
    output: Literal["pose", "twist", "none"] = "pose"
    """What is sent to the arm: poses, velocities, or nothing at all; never both."""
    stream_hz: float = ranged(50.0, low=20.0, high=1000.0, unit="Hz")
    """Rate of the setpoints, however slow planning is [Hz]; MoveIt Servo halts after 0.1 s without one."""
    twist: TwistConfig = field(default_factory=TwistConfig)
    """With ``output: twist``: units of the velocities."""
    gripper: GripperConfig = field(default_factory=GripperConfig)
    """How the gripper is told to close and open."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.gripper.backend != "none" and self.topics.gripper is None:
            raise ConfigError(
                f"gripper: backend {self.gripper.backend!r} moves a gripper whose state no topic tells; "
                "name topics.gripper, or choose backend 'none'"
            )

    def chain(self) -> FrameChain:
        """The conversion between the frames."""
        return FrameChain(self.frames)


def profile_names() -> tuple[str, ...]:
    """Names of all profiles that come with the package or lie in a sourced workspace."""
    return tuple(sorted(_known()))


def load_profile(name_or_path: str | Path) -> RobotProfile:
    """The profile of this name, or in this YAML file.

    Raises:
        ConfigError: no such profile (the known ones are listed), unknown keys, or values out of range.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        known = _known()
        if str(name_or_path) not in known:
            raise ConfigError(
                f"robot: received {str(name_or_path)!r}, which is neither a YAML file nor a known name; "
                f"known: {', '.join(sorted(known)) or 'none'}"
            )
        path = known[str(name_or_path)]
    return from_mapping(RobotProfile, load_yaml(path), str(path))


def _known() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in resource_folders("config"):
        for path in sorted((folder / "robots").glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def _transported(topic: str, transport: Transport) -> str:
    return topic if transport == "raw" else f"{topic}/compressed"

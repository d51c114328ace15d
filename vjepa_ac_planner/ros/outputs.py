"""What goes out: setpoints for the arm, and each plan on topics that a bag or a viewer can take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseArray, PoseStamped, TwistStamped
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, String

from vjepa_ac_planner.control.stream import Setpoint
from vjepa_ac_planner.ros.profile import RobotProfile
from vjepa_ac_planner.types import ACTION_NAMES, Plan, RobotState

SETPOINTS = QoSProfile(reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=1)
LATCHED = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
)
"""Whoever comes late still learns the newest status."""


class Outputs:
    """All publishers of the planner node but diagnostics.

    Args:
        node: the lifecycle node.
        profile: topics and frames of the robot.
        now: the time as a message stamp.
        state: newest robot state.
    """

    def __init__(
        self,
        node: Any,
        profile: RobotProfile,
        now: Callable[[], Any],
        state: Callable[[], RobotState | None],
    ) -> None:
        self._node, self._profile, self._now, self._state = node, profile, now, state
        self._chain = profile.chain()
        self._command: Any = None
        """Not there in a dry run: a controller that obeys one publisher only (CRISP) would no longer obey
        anybody else."""
        self._action = node.create_publisher(JointState, "~/action", 10)
        self._plan = node.create_publisher(PoseArray, "~/plan", 10)
        self._energy = node.create_publisher(Float64, "~/energy", 10)
        self._text = node.create_publisher(String, "~/status", LATCHED)
        self._last_text = ""

    def open_command(self) -> None:
        """Publish on the topic that moves the arm from now on, if the profile has one."""
        if self._command is None and self.command_topic:
            kind = TwistStamped if self.twists else PoseStamped
            self._command = self._node.create_publisher(kind, self.command_topic, SETPOINTS)

    def close_command(self) -> None:
        """Publish there no more; to be called when no setpoint is sent any more."""
        command, self._command = self._command, None
        if command is not None:
            self._node.destroy_publisher(command)

    @property
    def command_topic(self) -> str:
        """Full name of the topic that moves the arm; empty if there is none."""
        topics, output = self._profile.topics, self._profile.output
        names = {"pose": topics.target_pose, "twist": topics.delta_twist_cmds}
        return str(self._node.resolve_topic_name(names[output])) if output in names else ""

    @property
    def twists(self) -> bool:
        """Whether the arm is commanded by velocities."""
        return self._profile.output == "twist"

    def command_publishers(self) -> int:
        """How many publishers that topic has, us included even before there is anything to send."""
        topic = self.command_topic
        return (self._command is None) + (int(self._node.count_publishers(topic)) if topic else 0)

    def setpoint(self, setpoint: Setpoint) -> None:
        """Send one element of the stream."""
        command = self._command
        if command is None:
            return
        if self._profile.output == "pose":
            command.publish(self._chain.command_pose(setpoint.pose, self._now()))
            return
        state = self._state()
        measured = setpoint.pose if state is None else state.vector
        message = self._chain.command_twist(setpoint.twist, measured, self._now())
        linear, angular = message.twist.linear, message.twist.angular
        parts = linear.x, linear.y, linear.z, angular.x, angular.y, angular.z
        numbers = self._profile.twist.command(np.array(parts))
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = map(float, numbers)
        command.publish(message)

    def plan(self, plan: Plan) -> None:
        """Publish a plan: its first action, the predicted poses of the command frame, its energy."""
        stamp = self._now()
        action = JointState(name=list(ACTION_NAMES), position=plan.action.tolist())
        action.header.stamp, action.header.frame_id = stamp, self._profile.frames.base_frame
        poses = PoseArray(poses=[self._chain.pose(state) for state in plan.predicted_states])
        poses.header = action.header
        self._action.publish(action)
        self._plan.publish(poses)
        self._energy.publish(Float64(data=plan.current_energy))

    def status(self, text: str) -> None:
        """Publish the status, when it has changed."""
        if text != self._last_text:
            self._last_text = text
            self._text.publish(String(data=text))

    def close(self) -> None:
        """Take the publishers down."""
        self.close_command()
        for publisher in (self._action, self._plan, self._energy, self._text):
            self._node.destroy_publisher(publisher)

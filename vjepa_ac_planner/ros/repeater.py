"""The simulated arm's state as often as a real one sends it: a Franka does 1000 times a second."""

from __future__ import annotations

import threading
import time
from importlib.util import find_spec
from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message

from vjepa_ac_planner.ros.profile import RobotProfile
from vjepa_ac_planner.ros.reader import LeftToReader, Reader
from vjepa_ac_planner.ros.sim_messages import franka_state
from vjepa_ac_planner.ros.stamps import to_stamp

POSE, STATE = "repeated/current_pose", "repeated/robot_state"


def sends_robot_state() -> bool:
    """Whether the repeater sends mode and errors, too: where franka_msgs is installed."""
    return find_spec("franka_msgs") is not None


class Repeater:
    """Sends the newest pose of the simulator again and again, with the time of sending as its stamp.

    Args:
        node: to listen and publish with; need not be spun.
        profile: of the simulated robot.
        rate: messages a second on each topic [Hz].
    """

    def __init__(self, node: Any, profile: RobotProfile, rate: float) -> None:
        self._node, self._period = node, 1.0 / rate
        self.sent = 0
        """Messages on each topic so far."""
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._pose: PoseStamped | None = None
        self._heard = node.create_subscription(
            PoseStamped, profile.topics.ee_pose, self._hear, qos, callback_group=LeftToReader()
        )
        self._reader = Reader(node.get_logger().error)
        self._reader.add(self._heard, self._hear)
        self._reader.start()
        self._poses = node.create_publisher(PoseStamped, POSE, qos)
        self._states, self._state = None, b""
        if sends_robot_state():
            message = franka_state(profile.chain())
            # Always the same one, so it is packed once: 1000 a second would take this process a core.
            self._state = serialize_message(message)
            self._states = node.create_publisher(type(message), STATE, QoSProfile(depth=1))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="repeater", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send nothing any more."""
        self._closed.set()
        self._thread.join(5.0)
        self._reader.close()
        for publisher in (self._poses, self._states):
            if publisher is not None:
                self._node.destroy_publisher(publisher)
        self._node.destroy_subscription(self._heard)

    def _hear(self, pose: PoseStamped) -> None:
        self._pose = pose

    def _run(self) -> None:
        due = time.monotonic()
        while not self._closed.is_set():
            pose = self._pose
            if pose is not None:
                pose.header.stamp = to_stamp(time.time())
                self._poses.publish(pose)
                if self._states is not None:
                    self._states.publish(self._state)
                self.sent += 1
            due = max(due + self._period, time.monotonic() - 10.0 * self._period)
            time.sleep(max(0.0, due - time.monotonic()))

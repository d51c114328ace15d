"""The simulated Panda as a ROS robot: the same topics as the real stack, so the planner cannot tell.

It publishes what a camera driver and franka_ros2 would (image, camera info, pose, joint and finger
states) and, unless told otherwise, ``/clock``; it takes poses as a Cartesian controller would. What no
robot has stands under the node's own name: ``~/reset``, ``~/publish_goal``, ``~/score``, ``~/statistics``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import Trigger

from vjepa_ac_planner.errors import ConfigError, InputError, MissingDependencyError, PlannerError
from vjepa_ac_planner.ros.frames import FrameChain
from vjepa_ac_planner.ros.gripper import GripperConfig
from vjepa_ac_planner.ros.images import compress, from_rgb
from vjepa_ac_planner.ros.profile import load_profile
from vjepa_ac_planner.ros.sim_messages import camera_info, franka_state, joint_state
from vjepa_ac_planner.ros.sim_options import declare
from vjepa_ac_planner.ros.stamps import to_seconds, to_stamp
from vjepa_ac_planner.sim.live import LiveArm, LiveCamera, Tick
from vjepa_ac_planner.sim.panda import PandaSim, SimConfig
from vjepa_ac_planner.sim.setpoints import StreamStatistics
from vjepa_ac_planner.sim.tasks import Task, make_task

T = TypeVar("T")

CAMERA_FRAME = "exterior_optical_frame"
JOINT_NAMES = tuple(f"panda_joint{i}" for i in range(1, 8))
DRAWING_NICENESS = 5
JOINTS_EVERY = 3
"""Joint, finger and robot states come at every third tick: 33 times a second, as the real hand sends."""

BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


class SimNode(Node):
    """The node ``sim``.

    Args:
        **options: passed on to ``rclpy.node.Node``.

    Raises:
        PlannerError: a parameter or the robot profile is not usable, or this machine cannot render.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("sim", **options)
        declare(self)
        profile = load_profile(self._value("robot"))
        self._topics, frames = profile.topics, profile.frames
        # The robot's side of the chain: it reports the state frame, and understands the command frame.
        self._reported = FrameChain(replace(frames, command_frame=frames.state_ee_frame))
        self._commanded = FrameChain(replace(frames, state_ee_frame=frames.command_frame))
        self._period = 1.0 / profile.stream_hz
        self._trial, self._total = StreamStatistics(self._period), StreamStatistics(self._period)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)

        factor = self._value("real_time_factor")
        self._scene = self._chosen_scene()
        self._sim = PandaSim(self._scene)
        clock = None if self._value("publish_clock") else self._system_time
        self._arm = LiveArm(self._sim, self._on_tick, clock=clock, rate=factor)
        self._camera = LiveCamera(
            self._arm, self._scene, self._value("rate") * factor, self._on_picture, self._watched
        )
        self._ticks = 0
        self._task: Task | None = None
        self._make_publishers(profile.gripper.finger_joints)
        self._make_subscriptions(profile.gripper)
        self.create_service(Trigger, "~/reset", self._reset)
        self.create_service(Trigger, "~/publish_goal", self._publish_goal)
        self.create_service(Trigger, "~/score", self._score)
        self.create_timer(1.0, self._publish_statistics, clock=self._steady)

    def start(self) -> None:
        """Draw the first picture, put the arm at the start of the task, and let time run.

        Raises:
            PlannerError: no GL context can be made, or there is no such task.
        """
        self._camera.start()
        self._camera.ask(lambda _: _give_way()).result()
        self._begin(self._camera.ask(self._wanted_task()).result())
        self._arm.start()
        self.get_logger().info(
            f"simulated Panda: {self._scene.width}x{self._scene.height} at {self._value('rate'):g} Hz, "
            f"{self._task_name()}"
        )

    @property
    def healthy(self) -> bool:
        """Whether physics and camera run."""
        return self._arm.alive and self._camera.alive

    def stop(self) -> None:
        """Stop time and camera, and join their threads; raises what ended one of them before its time."""
        try:
            self._arm.stop()
        finally:
            self._camera.stop()

    # What a robot and its camera publish.

    def _make_publishers(self, fingers: Sequence[str]) -> None:
        topics = self._topics
        self._fingers = tuple(fingers)
        self._image = self.create_publisher(Image, topics.image, RELIABLE)
        self._compressed = self.create_publisher(CompressedImage, f"{topics.image}/compressed", RELIABLE)
        # As image_transport finds it: beside the image.
        beside = f"{topics.image.rpartition('/')[0]}/camera_info".lstrip("/")
        self._info = self.create_publisher(CameraInfo, beside, RELIABLE)
        self._pose = self.create_publisher(PoseStamped, topics.ee_pose, BEST_EFFORT)
        gripper = topics.gripper or "franka_gripper/joint_states"
        self._gripper = self.create_publisher(JointState, gripper, RELIABLE)
        self._joints = self.create_publisher(JointState, "joint_states", RELIABLE)
        self._state: Any = None
        if topics.robot_state is not None:
            try:
                self._state = franka_state(self._reported)
                self._states = self.create_publisher(type(self._state), topics.robot_state, RELIABLE)
            except MissingDependencyError as error:
                self.get_logger().warning(f"the arm's mode is not sent: {error}")
        self._goal = self.create_publisher(Image, topics.goal_image, RELIABLE)
        self._statistics = self.create_publisher(String, "~/statistics", LATCHED)
        self._clock_publisher = None
        if self._value("publish_clock"):
            self._clock_publisher = self.create_publisher(ClockMessage, "/clock", BEST_EFFORT)

    def _on_tick(self, tick: Tick) -> None:
        """In the physics thread: the clock first, then what was measured at that time."""
        stamp = to_stamp(tick.time)
        if self._clock_publisher is not None:
            self._clock_publisher.publish(ClockMessage(clock=stamp))
        pose = self._reported.command_pose(tick.state, stamp)
        self._pose.publish(pose)
        self._ticks += 1
        if self._ticks % JOINTS_EVERY == 0:
            if self._state is not None:
                self._state.o_t_ee = pose
                self._states.publish(self._state)
            names = (*JOINT_NAMES, *self._fingers)
            self._joints.publish(joint_state(stamp, names, tick.joints))
            self._gripper.publish(joint_state(stamp, self._fingers, tick.joints[7:]))

    def _watched(self) -> bool:
        return any(publisher.get_subscription_count() for publisher in (self._image, self._compressed))

    def _on_picture(self, seconds: float, rgb: npt.NDArray[np.uint8]) -> None:
        """In the camera's thread."""
        stamp = to_stamp(seconds)
        if self._image.get_subscription_count():
            self._image.publish(from_rgb(rgb, stamp, CAMERA_FRAME))
        if self._compressed.get_subscription_count():
            self._compressed.publish(compress(rgb, stamp, CAMERA_FRAME))
        if self._info.get_subscription_count():
            self._info.publish(self._camera_info(stamp))

    def _camera_info(self, stamp: Any) -> CameraInfo:
        scene = self._scene
        return camera_info(scene.width, scene.height, scene.camera_fovy, stamp, CAMERA_FRAME)

    # What it takes.

    def _make_subscriptions(self, gripper: GripperConfig) -> None:
        # Deeper than the controller of a real arm, so that the statistics miss nothing.
        stream = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)
        self.create_subscription(PoseStamped, self._topics.target_pose, self._on_target, stream)
        if gripper.backend == "float_array":
            self.create_subscription(Float64MultiArray, gripper.target, self._on_gripper, RELIABLE)

    def _on_target(self, message: PoseStamped) -> None:
        now, stamp = time.monotonic(), to_seconds(message.header.stamp)
        for statistics in (self._trial, self._total):
            statistics.arrived(now, stamp, self._now() - stamp)
        try:
            pose = self._commanded.robot_state(message, 0.0).vector[:6]
        except InputError as error:
            self._refuse("unusable", str(error))
            return
        if problem := self._arm.send(pose):
            self._refuse(problem.split()[0], problem)

    def _on_gripper(self, message: Float64MultiArray) -> None:
        values = list(message.data)
        if len(values) != 1:
            self._refuse("gripper", f"{len(values)} values, allowed 1: 0 closed .. 1 open")
        elif problem := self._arm.grip(1.0 - values[0]):
            self._refuse("gripper", problem)

    def _refuse(self, kind: str, text: str) -> None:
        for statistics in (self._trial, self._total):
            statistics.refuse(kind)
        self.get_logger().warning(
            f"command refused, the arm keeps its last target: {text}", throttle_duration_sec=1.0
        )

    # What only a simulated robot has.

    async def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """The arm to the start of the task that the parameters name."""

        async def reset() -> dict[str, Any]:
            self._begin(await _result(self._camera.ask(self._wanted_task())))
            return self._measured()

        return await _answer(response, reset)

    async def _publish_goal(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """The goal image of the task that the parameters name; the arm stays where it is."""

        async def publish() -> dict[str, Any]:
            task = await _result(self._camera.ask(self._wanted_task()))
            goal = task.goals[-1].frame.image
            self._goal.publish(from_rgb(goal, to_stamp(self._now()), CAMERA_FRAME))
            return {
                "task": task.name,
                "seed": task.seed,
                "goal_position": task.goal_position.tolist(),
                "subscribers": self._goal.get_subscription_count(),
            }

        return await _answer(response, publish)

    async def _score(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """How far the world is from the goal, which the planner is never told."""

        async def score() -> dict[str, Any]:
            return self._measured()

        return await _answer(response, score)

    def _wanted_task(self) -> Callable[[PandaSim], Task]:
        name, seed, last = self._value("task"), self._value("seed"), self._task
        if last is not None and (last.name, last.seed) == (name, seed):
            return lambda _: last
        return lambda sim: make_task(name, seed, sim)

    def _begin(self, task: Task) -> None:
        self._task = task
        self._arm.begin(task.start)
        self._trial = StreamStatistics(self._period)
        self._total.interrupt()

    def _measured(self) -> dict[str, Any]:
        assert self._task is not None
        task = self._task
        error, success, state = self._arm.measure(
            lambda sim: (task.error(sim), task.success(sim), sim.state().tolist())
        )
        return {
            "task": task.name,
            "seed": task.seed,
            "error_m": error,
            "success": success,
            "state": state,
            "setpoints": self._trial.record(),
        }

    def _publish_statistics(self) -> None:
        record = {
            "trial": self._trial.record(),
            "total": self._total.record(),
            "behind_s": self._arm.behind,
        }
        self._statistics.publish(String(data=json.dumps(record)))

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _chosen_scene(self) -> SimConfig:
        scene = SimConfig(width=self._value("width"), height=self._value("height"))
        details = {"full": scene, "low": replace(scene, faces=4000, shadow_size=0)}
        detail = self._value("detail")
        if detail not in details:
            raise ConfigError(f"detail: received {detail!r}, allowed {', '.join(details)}")
        return details[detail]

    def _task_name(self) -> str:
        return "no task" if self._task is None else f"task {self._task.name}, seed {self._task.seed}"

    def _now(self) -> float:
        return self._arm.time

    def _system_time(self) -> float:
        return float(self.get_clock().now().nanoseconds) * 1e-9


def _give_way() -> None:
    """Let this thread, which draws, wait for those that move the arm when cores are short."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), DRAWING_NICENESS)


async def _result(future: Future[T]) -> T:
    """Wait for another thread without blocking the executor."""
    bridge: rclpy.Future[None] = rclpy.Future()
    future.add_done_callback(lambda _: bridge.set_result(None))
    await bridge
    return future.result()


async def _answer(
    response: Trigger.Response, work: Callable[[], Awaitable[dict[str, Any]]]
) -> Trigger.Response:
    """The outcome as JSON, or the error as text."""
    try:
        response.message, response.success = json.dumps(await work()), True
    except PlannerError as error:
        response.message, response.success = str(error), False
    return response


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code.

    Args:
        argv: arguments after the program's name, ``--ros-args`` and all; None takes the process's own.
    """
    # Software rendering is no faster with threads of its own, and the planner needs the cores.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    # The physics must not wait 5 ms for each turn of the interpreter.
    sys.setswitchinterval(0.001)
    # Not an Event: a second signal while its lock is held would wait for ever.
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: signals.append(received))
    # With rclpy's own handlers the context would be gone before the threads that publish are.
    rclpy.init(
        args=None if argv is None else ["sim", *argv], signal_handler_options=SignalHandlerOptions.NO
    )
    try:
        return _run(signals)
    except PlannerError as error:
        rclpy.logging.get_logger("sim").fatal(" ".join(str(error).split()))
        return error.exit_code
    finally:
        rclpy.try_shutdown()


def _run(signals: Sequence[int]) -> int:
    """Spin until told to stop; threads are joined before what they publish with is destroyed."""
    executor = SingleThreadedExecutor()
    node = SimNode()
    try:
        executor.add_node(node)
        node.start()
        while node.healthy and not signals:
            executor.spin_once(timeout_sec=0.1)
        return 0 if signals else 1
    finally:
        try:
            node.stop()
        finally:
            executor.shutdown()
            node.destroy_node()


if __name__ == "__main__":
    raise SystemExit(main())

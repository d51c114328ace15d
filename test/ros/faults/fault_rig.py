"""The robot's side of the fault tests: a fake robot that misbehaves on demand, and a planner process.

The robot is a real ROS node in the process of the tests; the planner is always a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from ros_domains import own_domain
from sensor_msgs.msg import Image, JointState
from stalls import UnsafeCommand
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

import vjepa_ac_planner
from vjepa_ac_planner.control.limits import MotionLimits, pose_distance
from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.ros import franka
from vjepa_ac_planner.ros.frames import FrameChain, matrix_to_pose
from vjepa_ac_planner.ros.images import from_rgb
from vjepa_ac_planner.ros.profile import RobotProfile, load_profile
from vjepa_ac_planner.ros.stamps import to_seconds, to_stamp

HERE = Path(__file__).parent
ROOT = Path(vjepa_ac_planner.__file__).parents[1]
DRIVER = HERE / "fault_planner.py"
MODEL = {
    "name": "mini-ac",
    "summary": "Small random weights in the published layout.",
    "encoder": {"image_size": 64, "dim": 128, "depth": 2, "heads": 2},
    "predictor": {"latent_dim": 128, "dim": 128, "depth": 2, "heads": 2, "grid": [4, 4]},
    "weights": str(HERE.parents[1] / "data" / "mini-ac.pt"),
    "preset": "demo",
    "workspace": [[0.40, -0.20, 0.20], [0.66, 0.20, 0.50]],
}
START = np.array([0.53, 0.0, 0.32, np.pi, 0.0, 0.0, 0.0])
"""Where the arm is at first: model frame, hand down, gripper open."""
SLACK = 0.6
"""Time by which a busy machine may be late [s], on top of every bound of the configuration."""
STEP = 0.25
"""Time of one step of the model [s]: a command that was given before a fault moves on for so long."""
PATIENCE = float(os.environ.get("FAULT_PATIENCE", "30"))
"""For what has to happen, but may be late on a busy machine [s]."""
SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
PARAMETER_TYPES = {
    bool: (ParameterType.PARAMETER_BOOL, "bool_value"),
    int: (ParameterType.PARAMETER_INTEGER, "integer_value"),
    float: (ParameterType.PARAMETER_DOUBLE, "double_value"),
    str: (ParameterType.PARAMETER_STRING, "string_value"),
    list: (ParameterType.PARAMETER_DOUBLE_ARRAY, "double_array_value"),
}


def write_profile(folder: Path, **changes: Any) -> Path:
    """A profile for the tests; ``changes`` replace its top-level entries, mappings key by key."""
    data = yaml.safe_load((HERE.parents[2] / "config" / "robots" / "sim.yaml").read_text())
    model = folder / "mini.yaml"
    model.write_text(yaml.safe_dump(MODEL))
    data |= {"name": "fault", "model": str(model), "gripper": {"backend": "none"}}
    data["safety"] = {
        # The model's numbers mean nothing here: what it says must not keep the arm from moving.
        "stand_still_when_no_better": False,
        "max_surprise": None,
        "max_energy_rise": None,
        "limits": {
            "workspace_low": [0.40, -0.20, 0.20],
            "workspace_high": [0.66, 0.20, 0.50],
            "max_translation": 0.06,
            "max_rotation": 0.2,
            "max_speed": 0.3,
            "max_rotation_speed": 0.8,
        },
    }
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) else value
    path = folder / "fault.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


class Sent(NamedTuple):
    """A setpoint as the robot received it."""

    arrived: float
    """Steady clock [s]."""
    stamp: float
    message: Any


@dataclass
class Faults:
    """How the robot misbehaves; all off at first."""

    camera: bool = True
    same_stamp: bool = False
    same_pixels: bool = False
    state: bool = True
    gripper: bool = True
    image_offset: float = 0.0
    """Added to the stamps of images [s]."""
    state_offset: float = 0.0
    """Added to the stamps of states [s]."""
    spoil_pose: Callable[[Any], None] | None = None
    """Changes the pose message before it is sent."""
    spoil_image: Callable[[Any], None] | None = None
    """Changes the image message before it is sent."""
    robot_state: bool = True
    mode: str = "move"
    errors: tuple[str, ...] = ()


class FakeRobot:
    """An arm that is at once where it is told to be, its camera, and a person with a terminal.

    Args:
        profile: of the planner; gives frames and limits.
        domain: ROS domain.
        sim_time: whether to publish ``/clock`` and stamp by it.
        state_kind: how mode and errors are told: ``franka_msgs``, ``stand-in``, or empty for not at all.
    """

    def __init__(
        self, profile: RobotProfile, domain: int, *, sim_time: bool = False, state_kind: str = ""
    ) -> None:
        self.profile, self.chain = profile, FrameChain(profile.frames)
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        self.node = node = rclpy.create_node("fake_robot", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(node)
        self.faults = Faults()
        self.follows = True
        self.sim_time, self.clock_offset, self.clock_runs = sim_time, 0.0, True
        self.images_sent = 0
        self.commands: list[Sent] = []
        self.statuses: list[tuple[float, str]] = []
        self.diagnostics: list[tuple[float, dict[str, tuple[int, str, dict[str, str]]]]] = []
        self.actions: list[tuple[float, Any]] = []
        self._vector = START.copy()
        self._random = np.random.default_rng(0)
        self._texture = self._random.integers(0, 200, (96, 96, 3), dtype=np.uint8)
        self._last_image = self._texture
        self._last_stamp = 0.0
        topics = profile.topics
        self._image = node.create_publisher(Image, topics.image_topic, SENSOR)
        self._pose = node.create_publisher(PoseStamped, topics.ee_pose, SENSOR)
        self._fingers = node.create_publisher(JointState, topics.gripper, SENSOR)
        self._state_kind = state_kind
        if state_kind:
            kind = franka.state_message() if state_kind == "franka_msgs" else String
            self._robot_state = node.create_publisher(kind, topics.robot_state, 1)
        self.goal = node.create_publisher(Image, topics.goal_image_topic, 1)
        if sim_time:
            from rosgraph_msgs.msg import Clock

            self._clock_message, self._clock = Clock, node.create_publisher(Clock, "/clock", 10)
        node.create_subscription(PoseStamped, topics.target_pose, self._on_target, 100)
        node.create_subscription(String, "planner/status", self._on_status, LATCHED)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        node.create_subscription(JointState, "planner/action", self._on_action, 10)
        self._clients: dict[str, Any] = {
            "set_enabled": node.create_client(SetBool, "planner/set_enabled"),
            "set_parameters": node.create_client(SetParameters, "planner/set_parameters"),
            "change_state": node.create_client(ChangeState, "planner/change_state"),
            "get_state": node.create_client(GetState, "planner/get_state"),
        }
        for name in ("plan_once", "set_goal_from_current", "reset"):
            self._clients[name] = node.create_client(Trigger, f"planner/{name}")
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._spin, lambda: self._every(0.01, self._send_state), self._film)
        ]
        if sim_time:
            self._threads.append(
                threading.Thread(target=lambda: self._every(0.005, self._send_clock), daemon=True)
            )
        for thread in self._threads:
            thread.start()

    # What it does by itself.

    @staticmethod
    def clock() -> float:
        """The clock of ``arrived`` [s]."""
        return time.monotonic()

    def now(self) -> float:
        """The time that is stamped [s]."""
        return (time.monotonic() if self.sim_time else time.time()) + self.clock_offset

    @property
    def vector(self) -> np.ndarray:
        """[7] where the arm is, model frame."""
        return self._vector

    def put(self, vector: np.ndarray) -> None:
        """Somebody carries the arm elsewhere."""
        self._vector = np.array(vector)

    def heal(self) -> None:
        """No faults any more."""
        self.faults, self.follows = Faults(), True

    def _spin(self) -> None:
        while not self._stop.is_set():
            try:
                self.executor.spin_once(timeout_sec=0.05)
            except ExternalShutdownException:
                return

    def _every(self, period: float, action: Callable[[], None]) -> None:
        while not self._stop.wait(period):
            action()

    def _film(self) -> None:
        self._every(1.0 / 20.0, self._send_image)

    def _send_clock(self) -> None:
        if self.clock_runs:
            self._clock.publish(self._clock_message(clock=to_stamp(self.now())))

    def _send_state(self) -> None:
        faults = self.faults
        if faults.gripper:
            self._fingers.publish(
                JointState(name=list(self.profile.gripper.finger_joints), position=[0.04, 0.04])
            )
        if self._state_kind and faults.robot_state:
            self._robot_state.publish(self._mode_message())
        if faults.state:
            message = self.chain.command_pose(self._vector, to_stamp(self.now() + faults.state_offset))
            if faults.spoil_pose is not None:
                faults.spoil_pose(message)
            self._pose.publish(message)

    def _mode_message(self) -> Any:
        faults = self.faults
        if self._state_kind == "stand-in":
            return String(data=json.dumps({"mode": faults.mode, "errors": faults.errors}))
        message = franka.state_message()()
        message.robot_mode = franka.MODES.index(faults.mode)
        for name in faults.errors:
            setattr(message.current_errors, name, True)
        message.o_t_ee = self.chain.command_pose(self._vector, to_stamp(self.now()))
        message.f_t_ee.pose = matrix_to_pose(self.chain.state_in_model)
        return message

    def picture(self) -> np.ndarray:
        """What the camera sees: a texture that moves with the arm, and noise."""
        shift = np.round(self._vector[:2] * 200).astype(int)
        image = np.roll(self._texture, shift, (0, 1)) + np.uint8(self._vector[2] * 80)
        return image + self._random.integers(0, 8, image.shape, dtype=np.uint8)

    def _send_image(self) -> None:
        faults = self.faults
        if not faults.camera:
            return
        if not faults.same_pixels:
            self._last_image = self.picture()
        if not faults.same_stamp:
            self._last_stamp = self.now() + faults.image_offset
        message = from_rgb(self._last_image, to_stamp(self._last_stamp), "camera")
        if faults.spoil_image is not None:
            faults.spoil_image(message)
        self._image.publish(message)
        self.images_sent += 1

    def _on_target(self, message: Any) -> None:
        self.commands.append(Sent(self.clock(), to_seconds(message.header.stamp), message))
        if self.follows:
            self._vector = self.chain.robot_state(message, 0.0).vector

    def _on_status(self, message: Any) -> None:
        self.statuses.append((self.clock(), message.data))

    def _on_diagnostics(self, message: Any) -> None:
        parts = {
            entry.name.removeprefix("planner: "): (
                entry.level[0],
                entry.message,
                {pair.key: pair.value for pair in entry.values},
            )
            for entry in message.status
            if entry.name.startswith("planner: ")
        }
        self.diagnostics.append((self.clock(), parts))

    def _on_action(self, message: Any) -> None:
        self.actions.append((self.clock(), message))

    # What a person does.

    def send_goal(self, spoil: Callable[[Any], None] = lambda message: None) -> None:
        """Publish a goal image, spoilt if wanted."""
        self.wait(lambda: self.goal.get_subscription_count() > 0, "the planner listens to goals")
        message = from_rgb(np.roll(self._texture, 20, 0), to_stamp(self.now()), "goal")
        spoil(message)
        self.goal.publish(message)

    def ask(self, name: str, request: Any) -> Any:
        """A future of the answer of a service of the planner."""
        client = self._clients[name]
        assert client.wait_for_service(PATIENCE), f"no service {name}"
        return client.call_async(request)

    def call(self, name: str, request: Any, seconds: float = PATIENCE) -> Any:
        """The answer of a service of the planner."""
        done = threading.Event()
        future = self.ask(name, request)
        future.add_done_callback(lambda _: done.set())
        assert done.wait(seconds), f"{name} was not answered within {seconds} s; {self.story()}"
        return future.result()

    def trigger(self, name: str) -> tuple[bool, str]:
        """Success and message of ``plan_once``, ``set_goal_from_current`` or ``reset``."""
        answer = self.call(name, Trigger.Request())
        return answer.success, answer.message

    def enable(self, data: bool = True) -> tuple[bool, str]:
        """Success and message of ``set_enabled``."""
        answer = self.call("set_enabled", SetBool.Request(data=data))
        return answer.success, answer.message

    def set(self, **values: Any) -> list[tuple[bool, str]]:
        """Set parameters, ``__`` for a dot; success and reason of each."""
        parameters = []
        for name, value in values.items():
            kind, attribute = PARAMETER_TYPES[type(value)]
            wrapped = ParameterValue(type=kind, **{attribute: value})
            parameters.append(Parameter(name=name.replace("__", "."), value=wrapped))
        answer = self.call("set_parameters", SetParameters.Request(parameters=parameters))
        return [(result.successful, result.reason) for result in answer.results]

    def change_state(self, transition: int) -> bool:
        """Success of a lifecycle transition, by its number in ``lifecycle_msgs/Transition``."""
        request = ChangeState.Request()
        request.transition.id = transition
        return bool(self.call("change_state", request, 90.0).success)

    def state(self) -> str:
        """Lifecycle state of the planner."""
        return str(self.call("get_state", GetState.Request()).current_state.label)

    # What it saw.

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        """Wait until something is true, and return it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := condition():
                return value
            time.sleep(0.01)
        raise AssertionError(f"waited {seconds} s in vain: {what}; {self.story()}")

    def wait_status(self, pattern: str, since: float, seconds: float = PATIENCE) -> float:
        """When a status that matches came; it may also have come before, if it still stands."""
        return self.wait(
            lambda: next((t for t, text in self.said(since) if re.search(pattern, text)), None),
            f"status {pattern!r}",
            seconds,
        )

    def wait_diagnostic(
        self, part: str, pattern: str, level: int | None, since: float, seconds: float = PATIENCE
    ) -> float:
        """When a diagnostic of this part and level (None: any) that matches came."""

        def found() -> float | None:
            for arrived, parts in list(self.diagnostics):
                if arrived < since or part not in parts:
                    continue
                if level in (None, parts[part][0]) and re.search(pattern, parts[part][1]):
                    return arrived
            return None

        return self.wait(found, f"diagnostic {part!r}, level {level}, {pattern!r}", seconds)

    def wait_motion(self, since: float, metres: float = 0.02) -> None:
        """Wait until setpoints that came after a time have moved this far."""

        def moved() -> bool:
            path = self.positions(since)
            return len(path) > 1 and float(np.linalg.norm(path - path[0], axis=1).max()) >= metres

        self.wait(moved, f"setpoints that move {metres} m")

    def sent(self, since: float, until: float = np.inf) -> list[Sent]:
        """Setpoints that arrived within a time."""
        return [one for one in list(self.commands) if since <= one.arrived <= until]

    def positions(self, since: float, until: float = np.inf) -> np.ndarray:
        """[N, 3] positions of these, command frame."""
        poses = [one.message.pose.position for one in self.sent(since, until)]
        return np.array([(pose.x, pose.y, pose.z) for pose in poses]).reshape(-1, 3)

    def motion(self, since: float, until: float = np.inf) -> float:
        """How far the setpoints within a time lie apart [m]."""
        path = self.positions(since, until)
        return float(np.ptp(path, axis=0).max()) if len(path) else 0.0

    def story(self) -> str:
        """The last things that were said, for failures."""
        parts = self.diagnostics[-1][1] if self.diagnostics else {}
        lines = [f"{name}: {level} {text}" for name, (level, text, _) in parts.items()]
        return "\n".join(
            [f"{len(self.commands)} setpoints", *(text for _, text in self.statuses[-6:]), *lines]
        )

    def said(self, since: float) -> Iterator[tuple[float, str]]:
        """The status that stood at a time, and those that came after, with their times."""
        texts = list(self.statuses)
        standing = [(since, text) for arrived, text in texts if arrived < since][-1:]
        yield from [*standing, *((arrived, text) for arrived, text in texts if arrived >= since)]

    def close(self) -> None:
        """End threads and node."""
        self._stop.set()
        for thread in self._threads:
            thread.join(5.0)
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@dataclass
class PlannerProcess:
    """The planner node in a process of its own; ``orders`` None runs the package's own module."""

    arguments: Sequence[str]
    domain: int
    folder: Path
    orders: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._log = self.folder / f"planner-{time.monotonic_ns()}.log"
        first = ["-m", "vjepa_ac_planner.ros.planner_node"]
        if self.orders is not None:
            first = [str(DRIVER), str(self.orders)]
        environment = os.environ | {
            "ROS_DOMAIN_ID": str(self.domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            # The package that is tested here, however this process came by it.
            "PYTHONPATH": os.pathsep.join(
                path for path in (str(ROOT), os.environ.get("PYTHONPATH")) if path
            ),
            **self.environment,
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *first, "--ros-args", *self.arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    @property
    def output(self) -> str:
        """Everything it wrote."""
        return self._log.read_text(errors="replace")

    def wait_output(self, text: str, seconds: float = 60.0) -> None:
        """Wait until it has written this."""
        end = time.monotonic() + seconds
        while text not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, f"no {text!r} within {seconds} s: {self.output}"
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code."""
        return self.process.wait(seconds)

    def end(self) -> None:
        """SIGINT; it must end by itself, with 0 and without a traceback of the interpreter."""
        self.signal(signal.SIGINT)
        code = self.wait()
        assert code == 0, f"exit code {code}: {self.output}"
        assert re.search(r"^Traceback", self.output, re.MULTILINE) is None, self.output

    def kill(self) -> None:
        """For the end of a test, whatever has happened."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def memory(self) -> float:
        """Resident memory [MB]."""
        text = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))


class Rig:
    """A robot and a planner process in a domain of their own.

    Args:
        profile: of the robot.
        folder: for logs and orders.
        real: run the package's own module instead of the driver that takes orders.
        sim_time: robot and planner live by ``/clock``.
        state_kind: see :class:`FakeRobot`.
        arguments: further ROS arguments of the planner.
    """

    def __init__(
        self,
        profile: Path,
        folder: Path,
        *,
        real: bool = False,
        sim_time: bool = False,
        state_kind: str = "",
        arguments: Sequence[str] = (),
    ) -> None:
        self.path, self.folder = profile, folder
        self.profile = load_profile(profile)
        self.limits: MotionLimits = self.profile.safety.limits
        self._orders = None if real else folder / "orders.json"
        self._arguments = ["-p", f"robot:={profile}", "-p", "threads:=1", *arguments]
        if sim_time:
            self._arguments += ["-p", "use_sim_time:=true"]
        self._domain = own_domain()
        self.domain = self._domain.__enter__()
        self.planners: list[PlannerProcess] = []
        self._environment = {"FAULT_STATE": state_kind} if state_kind else {}
        self.robot = FakeRobot(self.profile, self.domain, sim_time=sim_time, state_kind=state_kind)
        self.order()

    @property
    def planner(self) -> PlannerProcess:
        """The process started last."""
        return self.planners[-1]

    def spawn(self, *arguments: str) -> PlannerProcess:
        """Another planner process."""
        self.planners.append(
            PlannerProcess(
                [*self._arguments, *arguments], self.domain, self.folder, self._orders, self._environment
            )
        )
        return self.planner

    def start(self) -> None:
        """A planner process, active, with a goal; the arm at its start."""
        begin = self.robot.clock()
        self.spawn().wait_output("first plan took", 120.0)
        self.robot.wait_status("idle: waiting", begin)
        self.teach()

    def teach(self) -> None:
        """Give it a goal."""
        self.robot.wait(lambda: self.robot.trigger("set_goal_from_current")[0], "a goal is taught")

    def order(self, **orders: Any) -> None:
        """What the planner is to do from the next plan on; without anything the arm wanders about."""
        if self._orders is not None:
            partial = self._orders.with_suffix(".partial")
            partial.write_text(json.dumps({"plan": "wander"} | orders))
            partial.replace(self._orders)

    def heal(self) -> None:
        """No faults, no orders."""
        assert self.planner.process.poll() is None, f"the planner has ended: {self.planner.output}"
        self.robot.heal()
        self.order()

    def prepare(self) -> None:
        """No faults, no orders, nothing sent, the arm at its start."""
        robot = self.robot
        self.heal()
        robot.trigger("reset")
        self.wait_silence()
        robot.put(START)
        self.teach()

    def run(self) -> None:
        """Enable, and wait until the arm moves."""
        begin = self.robot.clock()
        # The first states and frames of a fresh start may be some milliseconds away.
        self.robot.wait(lambda: self.robot.enable()[0], "enabled")
        self.robot.wait_motion(begin)

    def wait_silence(self, seconds: float = 0.4) -> None:
        """Wait until nothing has been sent for a time."""

        def silent() -> bool:
            commands = self.robot.commands
            return not commands or self.robot.clock() - commands[-1].arrived > seconds

        self.robot.wait(silent, "silence on the command topic")

    def check_commands(self, since: float) -> None:
        """Whatever was sent since then was finite, in the base frame, in the workspace and slow enough."""
        try:
            check_commands(self.robot.sent(since), self.robot.chain, self.limits)
        except UnsafeCommand as error:
            UnsafeCommand.seen.append(str(error))
            raise

    def check_leaps(self, since: float) -> None:
        """As :meth:`check_commands`, for stamps that leap themselves: by the time of arrival."""
        sent = [one._replace(stamp=one.arrived) for one in self.robot.sent(since)]
        try:
            check_commands(sent, self.robot.chain, self.limits, slow=0.15)
        except UnsafeCommand as error:  # where the machine stood still, all that waited arrives at once
            raise AssertionError(f"as they arrived: {error}") from error

    def check_rest(self, begin: float, bound: float, says: str) -> None:
        """What happened at ``begin`` is said within ``bound`` [s], and the arm is held from then on."""
        held = self.robot.wait_status(says, begin)
        assert held - begin < bound + SLACK, f"said after {held - begin:.2f} s: {says}"
        self.check_still(held + 0.1)
        self.check_streaming(held)

    def check_still(self, since: float, seconds: float = 0.5) -> None:
        """Watch: no setpoint that came after a time differs from another."""
        remaining = since + seconds - self.robot.clock()
        time.sleep(max(remaining, 0.2))
        moved = self.robot.motion(since)
        assert moved < 1e-4, f"setpoints move on by {moved:.4f} m; {self.robot.story()}"

    def check_streaming(self, since: float) -> None:
        """Setpoints still come, without long gaps."""
        times = [one.arrived for one in self.robot.sent(since)]
        assert len(times) > 5, f"{len(times)} setpoints; {self.robot.story()}"
        assert max(np.diff(times)) < 0.2 + SLACK, f"a gap of {max(np.diff(times)):.2f} s"

    def close(self) -> None:
        """Kill what runs, whatever has happened."""
        for planner in self.planners:
            planner.kill()
        self.robot.close()
        self._domain.__exit__(None, None, None)


def check_commands(
    commands: Sequence[Sent], chain: FrameChain, limits: MotionLimits, slow: float = 0.05
) -> None:
    """See :meth:`Rig.check_commands`; ``slow``: how long before its stamp a setpoint may be made [s]."""
    previous: tuple[float, np.ndarray] | None = None
    for one in commands:
        try:
            state = chain.robot_state(one.message, 0.0).vector
        except InputError as error:  # not finite, or of another frame
            raise UnsafeCommand(str(error)) from error
        if limits.outside(state[:3]) >= 1e-6:
            raise UnsafeCommand(f"outside the workspace: {state}")
        if previous is not None:
            metres, radians = pose_distance(previous[1], state)
            dt = one.stamp - previous[0] + slow
            if metres > limits.translation(dt) + 1e-6:
                raise UnsafeCommand(f"{metres:.4f} m within {dt:.4f} s")
            if radians > limits.rotation(dt) + 1e-4:
                raise UnsafeCommand(f"{radians:.4f} rad within {dt:.4f} s")
        previous = one.stamp, state

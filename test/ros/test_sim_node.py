"""The simulated robot, seen from another process: what it publishes, obeys, refuses, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from ros_domains import own_domain

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy", reason="needs the ros extra")
if find_spec("mujoco") is None or find_spec("gymnasium_robotics") is None:
    pytest.skip("needs the sim extra", allow_module_level=True)

from geometry_msgs.msg import PoseStamped  # noqa: E402
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState  # noqa: E402
from std_msgs.msg import Float64MultiArray, String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from vjepa_ac_planner.control.environment import RobotStatus  # noqa: E402
from vjepa_ac_planner.errors import ConfigError  # noqa: E402
from vjepa_ac_planner.ros import franka  # noqa: E402
from vjepa_ac_planner.ros.frames import FrameChain  # noqa: E402
from vjepa_ac_planner.ros.gripper import closedness  # noqa: E402
from vjepa_ac_planner.ros.images import to_rgb  # noqa: E402
from vjepa_ac_planner.ros.profile import load_profile  # noqa: E402
from vjepa_ac_planner.ros.sim_node import SimNode  # noqa: E402
from vjepa_ac_planner.ros.stamps import to_seconds, to_stamp  # noqa: E402
from vjepa_ac_planner.sim.panda import PandaSim, SimConfig  # noqa: E402
from vjepa_ac_planner.sim.tasks import make_task  # noqa: E402

SENSOR = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
SIZE = 64
IMPORTED = time.time()


def start(*parameters: str) -> subprocess.Popen[str]:
    """The node in a process of its own."""
    options = [part for parameter in parameters for part in ("-p", parameter)]
    command = [sys.executable, "-m", "vjepa_ac_planner.ros.sim_node", "--ros-args", *options]
    return subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen[str], number: int = signal.SIGINT) -> str:
    """Stop the node; it must end by itself, and well. Returns what it wrote."""
    process.send_signal(number)
    try:
        output = process.communicate(timeout=20)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, output
    return output


class Client:
    """A planner's eyes and hands: everything that came, newest last, and a way to send."""

    def __init__(self, context: Any) -> None:
        self.node = rclpy.create_node("client", context=context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.got: dict[str, list[Any]] = {}
        self.target = self.node.create_publisher(PoseStamped, "target_pose", 1)
        self.gripper = self.node.create_publisher(
            Float64MultiArray, "gripper/gripper_position_controller/commands", 1
        )
        self.services = {
            name: self.node.create_client(Trigger, f"sim/{name}")
            for name in ("reset", "publish_goal", "score")
        }
        self.set_parameters = self.node.create_client(SetParameters, "sim/set_parameters")
        profile = load_profile("sim")
        self.chain = FrameChain(profile.frames)

    def listen(self, kind: Any, topic: str, qos: Any = SENSOR) -> list[Any]:
        """Every message of a topic from now on."""
        if topic not in self.got:
            self.got[topic] = []
            self.node.create_subscription(kind, topic, self.got[topic].append, qos)
        return self.got[topic]

    def spin(self, seconds: float = 0.0, until: Callable[[], bool] | None = None) -> bool:
        """Let messages come in, for a time or until something is true; says whether it is."""
        finish = time.monotonic() + seconds
        while time.monotonic() < finish and not (until is not None and until()):
            self.executor.spin_once(timeout_sec=0.02)
        return until is None or until()

    def call(self, name: str) -> tuple[bool, Any]:
        """Success, and the message as JSON if it is."""
        client = self.services[name]
        assert client.wait_for_service(20.0)
        future = client.call_async(Trigger.Request())
        assert self.spin(20.0, until=future.done), name
        result = future.result()
        return result.success, json.loads(result.message) if result.success else result.message

    def choose(self, task: str, seed: int) -> None:
        """Set the parameters of the task."""
        values = [
            Parameter(
                name="task", value=ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=task)
            ),
            Parameter(
                name="seed", value=ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=seed)
            ),
        ]
        assert self.set_parameters.wait_for_service(20.0)
        future = self.set_parameters.call_async(SetParameters.Request(parameters=values))
        assert self.spin(10.0, until=future.done)
        assert all(result.successful for result in future.result().results)

    def state(self) -> np.ndarray:
        return np.array(self.call("score")[1]["state"])

    def send(self, state: np.ndarray, frame_id: str | None = None) -> None:
        """One setpoint."""
        message = self.chain.command_pose(state, to_stamp(time.time()))
        if frame_id is not None:
            message.header.frame_id = frame_id
        self.target.publish(message)

    def stream(self, start: np.ndarray, way: np.ndarray, count: int = 50) -> np.ndarray:
        """A straight line in ``count`` setpoints at 50 Hz; returns where it ends."""
        for k in range(1, count + 1):
            self.send(np.append(start[:3] + way * k / count, start[3:]))
            self.spin(0.02)
        return start[:3] + way


@pytest.fixture(scope="module")
def node() -> Iterator[subprocess.Popen[str]]:
    process = start(f"width:={SIZE}", f"height:={SIZE}", "detail:=low", "seed:=7")
    yield process
    output = end(process)
    assert "Traceback" not in output


@pytest.fixture(scope="module")
def shared_client(node: subprocess.Popen[str]) -> Iterator[Client]:
    context = rclpy.Context()
    rclpy.init(context=context)
    client = Client(context)
    yield client
    client.executor.shutdown()
    client.node.destroy_node()
    rclpy.try_shutdown(context=context)


@pytest.fixture
def client(shared_client: Client) -> Client:
    shared_client.choose("reach", 7)
    assert shared_client.call("reset")[0]
    return shared_client


@pytest.fixture(scope="module")
def twin() -> Iterator[PandaSim]:
    """The same scene in this process."""
    with PandaSim(SimConfig(width=SIZE, height=SIZE, faces=4000, shadow_size=0)) as sim:
        yield sim


def test_it_publishes_what_a_franka_and_a_camera_would(client: Client) -> None:
    images = client.listen(Image, "camera/image_raw")
    poses = client.listen(PoseStamped, "franka_robot_state_broadcaster/current_pose")
    fingers = client.listen(JointState, "franka_gripper/joint_states")
    joints = client.listen(JointState, "joint_states")
    assert client.spin(10.0, until=lambda: all((len(images) > 3, poses, fingers, joints)))
    image = images[-1]
    assert (image.width, image.height, image.encoding) == (SIZE, SIZE, "rgb8")
    assert poses[-1].header.frame_id == "panda_link0"
    assert list(fingers[-1].name) == ["panda_finger_joint1", "panda_finger_joint2"]
    assert sum(fingers[-1].position) == pytest.approx(0.08, abs=1e-4)
    assert len(joints[-1].name) == len(joints[-1].position) == 9


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A domain in which the other simulator of these tests is not."""
    with own_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        yield


def test_a_franka_says_its_mode_where_there_are_messages_for_it(elsewhere: None) -> None:
    """With a profile of hardware the planner waits for it, in simulation too."""
    process = start("robot:=fr3", f"width:={SIZE}", f"height:={SIZE}", "publish_clock:=false")
    context = rclpy.Context()
    rclpy.init(context=context)
    client, profile = Client(context), load_profile("fr3")
    installed = find_spec("franka_msgs") is not None
    try:
        poses = client.listen(PoseStamped, profile.topics.ee_pose)
        assert client.spin(60.0, until=lambda: bool(poses))
        assert poses[-1].header.frame_id == "fr3_link0"
        if installed:
            states = client.listen(franka.state_message(), profile.topics.robot_state)
            assert client.spin(10.0, until=lambda: bool(states))
            told = franka.read_state(states[-1], profile.chain())
            assert told.status == RobotStatus(mode="move", errors=())
            # The pose that a planner which knows the frames would make of it is the arm's.
            ours = profile.chain().robot_state(told.pose, 0.0).vector
            np.testing.assert_allclose(ours[:3], client.state()[:3], atol=1e-3)
    finally:
        client.executor.shutdown()
        client.node.destroy_node()
        rclpy.try_shutdown(context=context)
        output = end(process)
    assert ("the arm's mode is not sent" in output) == (not installed)


def test_it_takes_the_place_of_a_panda_by_name(elsewhere: None) -> None:
    process = start("robot:=panda", f"width:={SIZE}", f"height:={SIZE}", "publish_clock:=false")
    context = rclpy.Context()
    rclpy.init(context=context)
    client, profile = Client(context), load_profile("panda")
    try:
        poses = client.listen(PoseStamped, profile.topics.ee_pose)
        fingers = client.listen(JointState, profile.topics.gripper)
        assert client.spin(60.0, until=lambda: bool(poses and fingers))
        assert poses[-1].header.frame_id == "panda_link0"
        assert closedness(fingers[-1], profile.gripper) == pytest.approx(0.0, abs=0.01)
        ours = profile.chain().robot_state(poses[-1], 0.0).vector
        np.testing.assert_allclose(ours[:3], client.state()[:3], atol=1e-3)
    finally:
        client.executor.shutdown()
        client.node.destroy_node()
        rclpy.try_shutdown(context=context)
        output = end(process)
    assert "the arm's mode is not sent" not in output


def test_the_reported_pose_is_that_of_the_tool_centre_point(client: Client) -> None:
    poses = client.listen(PoseStamped, "franka_robot_state_broadcaster/current_pose")
    state = client.state()
    client.spin(0.5)
    measured = client.chain.robot_state(poses[-1], 0.0).vector
    assert np.linalg.norm(measured[:3] - state[:3]) < 1e-3
    # The hand points down: the tool centre point is 10.34 cm below link8.
    assert poses[-1].pose.position.z == pytest.approx(state[2] - 0.1034, abs=1e-3)


def test_the_picture_is_the_simulators_own(client: Client, twin: PandaSim) -> None:
    make_task("reach", 7, twin).begin(twin)
    expected = twin.render().astype(int)
    images = client.listen(Image, "camera/image_raw")
    count = len(images)
    assert client.spin(10.0, until=lambda: len(images) > count + 2)
    assert np.abs(to_rgb(images[-1]).astype(int) - expected).mean() < 0.2


def test_the_clock_runs_on_over_a_reset_and_stamps_are_on_it(client: Client) -> None:
    clock = client.listen(Clock, "/clock")
    poses = client.listen(PoseStamped, "franka_robot_state_broadcaster/current_pose")
    images = client.listen(Image, "camera/image_raw")
    client.spin(0.5)
    client.call("reset")
    client.spin(0.5)
    for stamps in (
        [to_seconds(message.clock) for message in clock],
        [to_seconds(message.header.stamp) for message in poses],
        [to_seconds(message.header.stamp) for message in images],
    ):
        assert (np.diff(stamps) > 0).all() and len(stamps) > 5
        assert abs(to_seconds(clock[-1].clock) - stamps[-1]) < 0.5
    # It began at the time of the machine; one that cannot keep up lags behind that, and none runs ahead.
    assert to_seconds(clock[0].clock) > IMPORTED - 1.0 and to_seconds(clock[-1].clock) < time.time() + 0.1


def test_it_goes_where_the_stream_leads_and_stays_when_it_stops(client: Client) -> None:
    begin = client.state()
    goal = client.stream(begin, np.array([0.04, -0.05, 0.03]))
    assert client.spin(3.0, until=lambda: bool(np.linalg.norm(client.state()[:3] - goal) < 3e-3))
    client.spin(1.0)
    assert np.linalg.norm(client.state()[:3] - goal) < 3e-3
    setpoints = client.call("score")[1]["setpoints"]
    assert setpoints["received"] == 50 and setpoints["refused"] == {}
    assert 0.015 < setpoints["mean_gap_s"] < 0.06


def not_a_number(client: Client, state: np.ndarray) -> None:
    message = client.chain.command_pose(state, to_stamp(time.time()))
    message.pose.position.x = float("nan")
    client.target.publish(message)


def infinite_quaternion(client: Client, state: np.ndarray) -> None:
    message = client.chain.command_pose(state, to_stamp(time.time()))
    message.pose.orientation.w = float("inf")
    client.target.publish(message)


def wrong_frame(client: Client, state: np.ndarray) -> None:
    client.send(state, frame_id="camera")


def leap(client: Client, state: np.ndarray) -> None:
    client.send(state + np.array([0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (not_a_number, "unusable"),
        (infinite_quaternion, "unusable"),
        (wrong_frame, "unusable"),
        (leap, "leap"),
    ],
)
def test_what_no_robot_may_obey_is_counted_and_moves_nothing(client: Client, bad, kind: str) -> None:
    begin = client.state()
    for _ in range(5):
        bad(client, begin)
        client.spin(0.05)
    score = client.call("score")[1]
    assert score["setpoints"]["refused"] == {kind: 5}
    assert np.linalg.norm(np.array(score["state"])[:3] - begin[:3]) < 2e-3
    # It is still willing.
    goal = client.stream(begin, np.array([0.0, 0.0, 0.03]), count=20)
    assert client.spin(3.0, until=lambda: bool(np.linalg.norm(client.state()[:3] - goal) < 3e-3))


def test_the_gripper_closes_at_zero_and_opens_at_one(client: Client) -> None:
    for openness in (0.0, 1.0):
        client.gripper.publish(Float64MultiArray(data=[openness]))
        assert client.spin(5.0, until=lambda: bool(abs(client.state()[6] - (1.0 - openness)) < 0.02))  # noqa: B023


@pytest.mark.parametrize("data", [[], [0.5, 0.5], [2.0], [float("nan")]])
def test_gripper_commands_of_no_use_are_refused(client: Client, data: list[float]) -> None:
    client.gripper.publish(Float64MultiArray(data=data))
    assert client.spin(5.0, until=lambda: client.call("score")[1]["setpoints"]["refused"] == {"gripper": 1})
    assert client.state()[6] < 0.01


def test_a_goal_image_shows_the_goal_and_the_arm_stays(client: Client, twin: PandaSim) -> None:
    goals = client.listen(Image, "goal_image", 1)
    begin = client.state()
    client.choose("reach", 8)
    ok, answer = client.call("publish_goal")
    assert ok and (answer["task"], answer["seed"]) == ("reach", 8)
    assert client.spin(5.0, until=lambda: bool(goals))
    task = make_task("reach", 8, twin)
    assert (to_rgb(goals[-1]) == task.goals[-1].frame.image).all()
    assert answer["goal_position"] == pytest.approx(task.goal_position.tolist())
    assert np.linalg.norm(client.state()[:3] - begin[:3]) < 1e-3
    # The arm goes to that task's start when it is told to, and only then.
    ok, answer = client.call("reset")
    assert ok and answer["seed"] == 8
    assert answer["error_m"] == pytest.approx(task.error(twin), abs=2e-3)


def test_an_unknown_task_is_an_answer_not_a_crash(client: Client) -> None:
    client.choose("dance", 7)
    ok, text = client.call("reset")
    assert not ok and "received 'dance', allowed reach" in text
    client.choose("reach", 7)
    assert client.call("reset")[0]


def test_compressed_images_and_camera_info_come_when_asked_for(client: Client, twin: PandaSim) -> None:
    compressed = client.listen(CompressedImage, "camera/image_raw/compressed")
    infos = client.listen(CameraInfo, "camera/camera_info")
    assert client.spin(10.0, until=lambda: bool(compressed and infos))
    assert to_rgb(compressed[-1]).shape == (SIZE, SIZE, 3)
    # Pixels of ROS have their centres at whole numbers, those of the simulator at halves.
    point = np.array(twin.config.camera_target) + np.array([0.05, -0.1, 0.02])
    camera = np.array(twin.config.camera_position)
    forward = (np.array(twin.config.camera_target) - camera) / np.linalg.norm(
        np.array(twin.config.camera_target) - camera
    )
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    optical = np.stack([right, np.cross(forward, right), forward]) @ (point - camera)
    pixel = np.array(infos[-1].k).reshape(3, 3) @ optical
    assert pixel[:2] / pixel[2] == pytest.approx(twin.project([point])[0] - 0.5, abs=1e-6)


def test_statistics_are_published_by_themselves(client: Client) -> None:
    statistics = client.listen(String, "sim/statistics", 1)
    assert client.spin(5.0, until=lambda: bool(statistics))
    record = json.loads(statistics[-1].data)
    assert set(record) == {"trial", "total", "behind_s"} and record["total"]["received"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order_and_a_second_one_changes_nothing(number: int) -> None:
    process = start(f"width:={SIZE}", f"height:={SIZE}", "detail:=low")
    assert process.stdout is not None
    assert "simulated Panda" in process.stdout.readline()
    process.send_signal(number)
    process.send_signal(number)
    end(process, number)


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        ("robot:=atlas", "robot: received 'atlas'"),
        ("task:=dance", "task: received 'dance'"),
    ],
)
def test_a_parameter_that_cannot_be_ends_it_with_a_reason(parameter: str, text: str) -> None:
    process = start("height:=64", "detail:=low", parameter)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2 and text in output and "Traceback" not in output, output


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        ("detail:=some", "detail: received 'some', allowed full, low"),
        ("width:=3", "parameter width: .* 3"),
    ],
)
def test_parameters_are_checked_before_anything_is_built(parameter: str, text: str) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        with pytest.raises(ConfigError, match=text):
            SimNode(context=context, cli_args=["--ros-args", "-p", parameter])
    finally:
        rclpy.shutdown(context=context)

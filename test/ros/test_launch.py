"""The launch files, read and really run; skipped where launch is not installed (it has no wheel)."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy", reason="needs the ros extra")
if find_spec("launch_ros") is None:
    pytest.skip("needs launch and launch_ros, of a ROS installation", allow_module_level=True)
launch = pytest.importorskip("launch", reason="needs a ROS installation")
pytest.importorskip("launch.actions", reason="needs a ROS installation")
pytest.importorskip("mujoco", reason="needs the sim extra")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from launch import LaunchContext  # noqa: E402
from launch.actions import DeclareLaunchArgument, ExecuteProcess  # noqa: E402
from lifecycle_msgs.srv import GetState  # noqa: E402
from rcl_interfaces.srv import GetParameters  # noqa: E402

from vjepa_ac_planner.ros.sim_options import OPTIONS  # noqa: E402

FOLDER = Path(__file__).parents[2] / "launch"
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
path, *words = sys.argv[1:]
service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(path),
    launch_arguments=[tuple(word.split(":=", 1)) for word in words])]))
sys.exit(service.run())
"""


def load(name: str) -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / f"{name}.launch.py"))


def arguments(name: str) -> dict[str, str | None]:
    """Declared arguments and their defaults."""
    description = load(name)["generate_launch_description"]()
    found = {}
    for entity in description.entities:
        if isinstance(entity, DeclareLaunchArgument):
            default = entity.default_value
            found[entity.name] = None if default is None else "".join(part.text for part in default)
    return found


def started(name: str, **values: str) -> list[Any]:
    """What a launch file starts with these arguments."""
    context = LaunchContext()
    defaults = {key: value for key, value in arguments(name).items() if value is not None}
    context.launch_configurations.update({**defaults, **values})
    actions: list[Any] = load(name)["start"](context)
    return actions


def test_the_simulators_launch_offers_every_parameter_with_its_default() -> None:
    offered = {name: default for name, (_, default, _) in load("sim")["PARAMETERS"].items()}
    assert offered == {
        name: str(option.default).lower() if isinstance(option.default, bool) else str(option.default)
        for name, option in OPTIONS.items()
    }
    assert set(arguments("sim")) == {*OPTIONS, "namespace", "python"}


def test_the_planners_launch_has_the_arguments_that_are_documented() -> None:
    names = (
        "config robot model task dry_run pipelined record use_sim_time autostart run_when_ready "
        "sim sim_task namespace python"
    )
    assert set(arguments("plan")) == set(names.split())
    text = (FOLDER.parent / "docs" / "ros.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| `plan.launch.py`"))
    assert all(f"`{name}`" in row for name in names.split())
    row = next(line for line in text.splitlines() if line.startswith("| `replay.launch.py`"))
    assert all(f"`{name}`" in row for name in arguments("replay"))


def test_the_robot_is_added_when_asked_for() -> None:
    assert len(started("plan")) == 1
    assert len(started("plan", sim="true")) == 2


@pytest.mark.parametrize(
    "name", ["sim", "autostart", "run_when_ready", "dry_run", "pipelined", "use_sim_time"]
)
def test_a_truth_value_is_never_guessed(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: received 'maybe', allowed true, false"):
        started("plan", **{name: "maybe"})


@pytest.mark.parametrize("name", ["lab.yaml", "~/lab.yaml"])
def test_a_configuration_that_is_no_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"config: received '{name}', which is no file; allowed is the"):
        started("plan", config=name)
    Path("lab.yaml").write_text("/**: {ros__parameters: {seed: 5}}\n", encoding="utf-8")
    assert len(started("plan", config=name)) == 1


@pytest.mark.parametrize(
    "configured",
    [
        ["/**", "planner"],
        ["planner", "/**"],
        ["/**/planner", "/**", "/planner"],
        ["/lab/planner", "/*/planner"],
    ],
)
def test_an_argument_wins_over_the_configuration_file(tmp_path: Path, configured: list[str]) -> None:
    """By the parser of rcl, whose order of precedence is not that of the files."""
    config = tmp_path / "lab.yaml"
    entries = {name: {"ros__parameters": {"dry_run": False, "seed": 5}} for name in configured}
    config.write_text(yaml.safe_dump(entries, sort_keys=False), encoding="utf-8")
    ours = load("plan")["winning"]({"dry_run": True, "model": "on"})
    files = ("--ros-args", "--params-file", str(config), "--params-file", ours)
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        for namespace in ("/lab", "/") if "/lab/planner" not in configured else ("/lab",):
            node = rclpy.create_node(
                "planner",
                namespace=namespace,
                context=context,
                cli_args=list(files),
                automatically_declare_parameters_from_overrides=True,
            )
            values = {name: node.get_parameter(name).value for name in ("dry_run", "seed", "model")}
            node.destroy_node()
            assert values == {"dry_run": True, "seed": 5, "model": "on"}
    finally:
        rclpy.shutdown(context=context)


def played(**values: str) -> list[str]:
    """The command that plays the bag."""
    player = next(action for action in started("replay", **values) if isinstance(action, ExecuteProcess))
    return ["".join(part.text for part in word) for word in player.cmd]


def test_a_bag_is_there_and_the_player_is_told_no_delay_of_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.mcap").write_bytes(b"")
    assert str(tmp_path / "run.mcap") in played(bag="~/run.mcap", delay="2.5")
    assert played(bag="~/run.mcap", delay="2.5")[-4:-2] == ["--delay", "2.5"]
    for zero in ("0", "0.0"):
        assert "--delay" not in played(bag="~/run.mcap", delay=zero)
    for delay in ("-1", "soon", "nan"):
        with pytest.raises(ValueError, match=f"delay: received '{delay}', allowed 0 .. 3600"):
            started("replay", bag="~/run.mcap", delay=delay)
    with pytest.raises(
        ValueError, match=r"bag: received '~/ran.mcap', which is not there; allowed a folder"
    ):
        started("replay", bag="~/ran.mcap")


@contextmanager
def running(name: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A launch file in a process of its own; it must end well when it is interrupted."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(FOLDER / f"{name}.launch.py"), *words],
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == 0, output
        assert "process has died" not in output and "Traceback" not in output, output
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


class Observer:
    """Sees the ROS graph."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("observer", context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not condition():
            self.executor.spin_once(timeout_sec=0.1)
        return condition()

    def ask(self, kind: Any, name: str, request: Any, seconds: float = 60.0) -> Any:
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(seconds), name
        future = client.call_async(request)
        assert self.until(future.done, seconds), name
        return future.result()

    def active(self, node: str) -> bool:
        return self.ask(GetState, f"{node}/get_state", GetState.Request()).current_state.label == "active"

    def parameters(self, node: str, *names: str) -> list[Any]:
        answer = self.ask(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=list(names)))
        return [value.string_value or value.bool_value or value.integer_value for value in answer.values]

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name] = {pair.key: pair.value for pair in status.values}

    def received(self, part: str) -> int:
        return int(self.diagnostics.get(f"planner: {part}", {}).get("received", 0))

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def observer() -> Iterator[Observer]:
    observer = Observer()
    yield observer
    observer.close()


def test_planner_and_simulated_robot_come_up_in_a_namespace_and_see_each_other(observer: Observer) -> None:
    words = ("sim:=true", "seed:=9", "namespace:=lab", "detail:=low", "dry_run:=true")
    with running("plan", *words):
        assert observer.until(lambda: observer.active("/lab/planner"), 120.0)
        assert observer.parameters("/lab/planner", "robot", "use_sim_time", "dry_run") == [
            "sim", True, True,
        ]  # fmt: skip
        assert observer.parameters("/lab/sim", "seed", "robot", "publish_clock") == [9, "sim", True]
        assert observer.until(
            lambda: observer.received("camera") > 5 and observer.received("gripper") > 5, 30.0
        )
        topics = dict(observer.node.get_topic_names_and_types())
        assert "/lab/camera/image_raw" in topics and "/clock" in topics


def test_a_planner_that_may_not_start_by_itself_waits(observer: Observer, tmp_path: Path) -> None:
    config = tmp_path / "lab.yaml"
    text = (
        "/**:\n  ros__parameters: {robot: fr3, seed: 5}\nplanner:\n  ros__parameters: {autostart: true}\n"
    )
    config.write_text(text, encoding="utf-8")
    with running("plan", "autostart:=false", f"config:={config}"):
        state = observer.ask(GetState, "/planner/get_state", GetState.Request()).current_state.label
        assert state == "unconfigured"
        # The file decides what the command line leaves open, and nothing else.
        assert observer.parameters("/planner", "robot", "seed") == ["fr3", 5]


def test_a_bag_is_replayed_into_a_dry_planner_in_the_bags_time(observer: Observer, tmp_path: Path) -> None:
    pytest.importorskip("rosbags", reason="needs the bags extra")
    bag = record(tmp_path / "run.mcap")
    with running("replay", f"bag:={bag}", "robot:=sim", "loop:=true", "delay:=1"):
        assert observer.until(lambda: observer.active("/planner"), 120.0)
        assert observer.until(
            lambda: min(map(observer.received, ("camera", "end-effector pose", "gripper"))) > 3, 60.0
        )
        assert observer.parameters("/planner", "dry_run", "use_sim_time", "robot") == [True, True, "sim"]
        assert "/target_pose" not in [
            name for name, _ in observer.node.get_publisher_names_and_types_by_node("play", "/")
        ]


def record(path: Path) -> Path:
    """Two seconds of a robot that stands still, with a command that nobody may repeat."""
    import numpy as np

    from vjepa_ac_planner.bags.writer import BagWriter

    with BagWriter(path) as writer:
        make = writer.types
        for k in range(40):
            stamp = 1_700_000_000_000_000_000 + k * 50_000_000
            when = make["builtin_interfaces/msg/Time"](*divmod(stamp, 10**9))
            header = make["std_msgs/msg/Header"](when, "panda_link0")
            pixels = np.full(64 * 64 * 3, 90 + k, dtype=np.uint8)
            image = make["sensor_msgs/msg/Image"](header, 64, 64, "rgb8", 0, 64 * 3, pixels)
            point = make["geometry_msgs/msg/Point"](0.5, 0.0, 0.3)
            turn = make["geometry_msgs/msg/Quaternion"](1.0, 0.0, 0.0, 0.0)
            pose = make["geometry_msgs/msg/PoseStamped"](
                header, make["geometry_msgs/msg/Pose"](point, turn)
            )
            empty = np.zeros(0)
            fingers = make["sensor_msgs/msg/JointState"](
                header,
                ["panda_finger_joint1", "panda_finger_joint2"],
                np.array([0.04, 0.04]),
                empty,
                empty,
            )
            writer.write("/camera/image_raw", "sensor_msgs/msg/Image", image, stamp)
            for topic in ("/franka_robot_state_broadcaster/current_pose", "/target_pose"):
                writer.write(topic, "geometry_msgs/msg/PoseStamped", pose, stamp)
            writer.write("/franka_gripper/joint_states", "sensor_msgs/msg/JointState", fingers, stamp)
    return path

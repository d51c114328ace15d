"""The planner, and with ``sim:=true`` a simulated robot beside it.

    ros2 launch vjepa_ac_planner plan.launch.py robot:=fr3 config:=lab.yaml
    ros2 launch vjepa_ac_planner plan.launch.py sim:=true seed:=7

From a plain pip installation: ``ros2 launch <prefix>/share/vjepa_ac_planner/launch/plan.launch.py``.
"""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile

import yaml
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction, Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

ARGUMENTS = {
    "config": "parameters of the planner node, a YAML file",
    "robot": "robot profile: panda, fr3, sim or a YAML file (default: fr3; with sim:=true sim)",
    "model": "world model, a name or a folder (default: the profile's)",
    "task": "task YAML with goal images (default: wait for a goal on goal_image)",
    "dry_run": "plan and check everything, move nothing: true or false (default: the profile's)",
    "record": "folder into which every run is recorded as a bag; true takes ./recordings",
    "pipelined": "make the next plan while the arm moves: true or false (default: false)",
    "autostart": "configure and activate at start: true or false (default: true)",
    "run_when_ready": "begin without ~/set_enabled; in a dry run only (default: false)",
    "use_sim_time": "take time from /clock: true or false (default: that of sim)",
}
"""Empty unless given: then the configuration file, the profile or the node decides."""


def interpreter() -> str:
    """The Python that has the package: this one, else that of the active environment."""
    if find_spec("vjepa_ac_planner") and find_spec("torch"):
        return sys.executable
    return shutil.which("python3") or sys.executable


def truth(name: str, text: str) -> bool:
    """A boolean argument; anything but true and false is refused, not guessed."""
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{name}: received {text!r}, allowed true, false")
    return text.lower() == "true"


def existing(name: str, text: str) -> str:
    """The path of a file that is there; launch would go on without it."""
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValueError(f"{name}: received {text!r}, which is no file; allowed is the path of a YAML file")
    return str(path)


def winning(parameters: dict[str, object]) -> str:
    """A parameter file whose values count, whatever other files say.

    Of the entries that match a node, the one counts whose name came up last, not whose file did. This name
    matches the planner in every namespace, and nobody else writes it so: it comes up here.
    """
    with NamedTemporaryFile("w", prefix="planner_", suffix=".yaml", delete=False) as file:
        yaml.safe_dump({"/**/**/planner": {"ros__parameters": parameters}}, file)
    return file.name


def start(context: LaunchContext) -> list[Action]:
    """The nodes, now that the arguments are known."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    files = [existing("config", given["config"])] if given["config"] else []
    if given["record"].lower() in ("true", "false"):
        given["record"] = "recordings" if truth("record", given["record"]) else ""
    sim = truth("sim", LaunchConfiguration("sim").perform(context))
    parameters: dict[str, object] = {
        name: given[name] for name in ("robot", "model", "task", "record") if given[name]
    }
    for name in ("dry_run", "pipelined", "autostart", "run_when_ready"):
        if given[name]:
            parameters[name] = truth(name, given[name])
    if sim:
        parameters.setdefault("robot", "sim")
    if given["use_sim_time"] or sim:
        parameters["use_sim_time"] = truth("use_sim_time", given["use_sim_time"] or "true")

    planner = Node(
        # By its module: `pip install` puts no executable where launch looks for those of a package.
        executable=LaunchConfiguration("python"),
        arguments=["-m", "vjepa_ac_planner.ros.planner_node"],
        exec_name="planner",
        namespace=LaunchConfiguration("namespace"),
        parameters=[*files, *([winning(parameters)] if parameters else [])],
        output="screen",
        emulate_tty=True,
        # It holds first and then frees the model; the default of 5 s is short for a large one.
        sigterm_timeout="20",
        on_exit=Shutdown(reason="the planner has ended"),
    )
    if not sim:
        return [planner]
    robot = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name("sim.launch.py"))),
        launch_arguments={
            "robot": str(parameters["robot"]),
            "task": LaunchConfiguration("sim_task"),
            "namespace": LaunchConfiguration("namespace"),
            "python": LaunchConfiguration("python"),
            "publish_clock": str(parameters["use_sim_time"]).lower(),
        }.items(),
    )
    return [robot, planner]


def generate_launch_description() -> LaunchDescription:
    """Arguments and what follows from them."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value="", description=text)
                for name, text in ARGUMENTS.items()
            ),
            DeclareLaunchArgument(
                "sim", default_value="false", description="start the simulated robot, too"
            ),
            DeclareLaunchArgument(
                "sim_task", default_value="reach", description="task of the simulated robot"
            ),
            DeclareLaunchArgument(
                "namespace", default_value="", description="of the nodes and their topics"
            ),
            DeclareLaunchArgument(
                "python", default_value=interpreter(), description="which Python runs them"
            ),
            OpaqueFunction(function=start),
        ]
    )

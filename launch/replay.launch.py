"""The planner in a dry run, fed by a recorded bag in the bag's own time.

    ros2 launch vjepa_ac_planner replay.launch.py bag:=runs/2026-05-01 robot:=fr3 task:=pick.yaml

The bag is played by ``ros2 bag play`` where it is installed, else by this package. Commands, and what
a planner published when the bag was recorded, are left out of it.
"""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

NOT_PLAYED = (
    r"^/?(.*/)?(planner/.*|target_pose|delta_twist_cmds|clock|diagnostics|rosout|parameter_events)$"
)
ARGUMENTS = ("robot", "config", "model", "task", "record", "namespace")
"""Those of plan.launch.py that are passed on."""


def interpreter() -> str:
    """The Python that has the package: this one, else that of the active environment."""
    if find_spec("vjepa_ac_planner") and find_spec("torch"):
        return sys.executable
    return shutil.which("python3") or sys.executable


def existing(text: str) -> str:
    """The bag, which must be there: the planner would load for nothing."""
    path = Path(text).expanduser()
    if not path.exists():
        raise ValueError(
            f"bag: received {text!r}, which is not there; allowed a folder, .mcap or .db3 file"
        )
    return str(path)


def waiting(text: str) -> list[str]:
    """The option for the delay; `ros2 bag play` takes none of 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= 3600.0:
        raise ValueError(f"delay: received {text!r}, allowed 0 .. 3600 [s]")
    return ["--delay", str(seconds)] if seconds else []


def start(context: LaunchContext) -> list[Action]:
    """Player and planner, now that the arguments are known."""
    value = {
        name: LaunchConfiguration(name).perform(context)
        for name in ("bag", "rate", "loop", "clock", "delay", "python")
    }
    player = (
        ["ros2", "bag", "play"]
        if find_spec("ros2bag")
        else [value["python"], "-m", "vjepa_ac_planner.ros.play"]
    )
    play = ExecuteProcess(
        cmd=[
            *player,
            existing(value["bag"]),
            *("--clock", value["clock"], "--rate", value["rate"]),
            *waiting(value["delay"]),
            *("--exclude-regex", NOT_PLAYED),
            *(["--loop"] if value["loop"].lower() == "true" else []),
        ],
        name="play",
        output="screen",
        on_exit=[EmitEvent(event=Shutdown(reason="the bag has ended"))],
    )
    plan = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name("plan.launch.py"))),
        launch_arguments={
            **{name: LaunchConfiguration(name) for name in ARGUMENTS},
            "python": value["python"],
            "dry_run": "true",
            "run_when_ready": "true",
            "use_sim_time": "true",
        }.items(),
    )
    return [plan, play]


def generate_launch_description() -> LaunchDescription:
    """Arguments and what follows from them."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="folder, .mcap or .db3 file"),
            DeclareLaunchArgument("rate", default_value="1.0", description="speed of the playback"),
            DeclareLaunchArgument("loop", default_value="false", description="begin again at the end"),
            DeclareLaunchArgument("clock", default_value="100", description="rate of /clock [Hz]"),
            DeclareLaunchArgument(
                "delay",
                default_value="10.0",
                description="time for the planner to load [s]; `ros2 bag play` waits before every loop",
            ),
            DeclareLaunchArgument(
                "python", default_value=interpreter(), description="which Python runs it"
            ),
            *(
                DeclareLaunchArgument(name, default_value="", description="as of plan.launch.py")
                for name in ARGUMENTS
            ),
            OpaqueFunction(function=start),
        ]
    )

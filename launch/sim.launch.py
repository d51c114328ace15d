"""The simulated Panda as a ROS robot.

    ros2 launch vjepa_ac_planner sim.launch.py seed:=7

From a plain pip installation: ``ros2 launch <prefix>/share/vjepa_ac_planner/launch/sim.launch.py``.
"""

import shutil
import sys
from importlib.util import find_spec

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PARAMETERS = {
    "robot": (str, "sim", "robot profile whose topics and frames it has: panda, fr3, sim or a YAML file"),
    "task": (
        str,
        "reach",
        "reach, grasp_cup, grasp_box, reach_with_object, pick_place_cup, pick_place_box",
    ),
    "seed": (int, "0", "start, goal and the places of cup and box"),
    "width": (int, "192", "image width [pixels]"),
    "height": (int, "192", "image height [pixels]"),
    "detail": (str, "full", "full: as the shipped model was trained; low: drawn in a third of the time"),
    "rate": (float, "15.0", "images per second [Hz]"),
    "publish_clock": (bool, "true", "publish /clock and stamp on it"),
    "real_time_factor": (float, "1.0", "simulated seconds per second"),
}


def interpreter() -> str:
    """The Python that has the package: this one, else that of the active environment."""
    if find_spec("vjepa_ac_planner") and find_spec("torch"):
        return sys.executable
    return shutil.which("python3") or sys.executable


def generate_launch_description() -> LaunchDescription:
    """Arguments and the node."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (_, default, text) in PARAMETERS.items()
    ]
    arguments += [
        DeclareLaunchArgument("namespace", default_value="", description="of the node and its topics"),
        DeclareLaunchArgument("python", default_value=interpreter(), description="which Python runs it"),
    ]
    node = Node(
        # By its module: `pip install` puts no executable where launch looks for those of a package.
        executable=LaunchConfiguration("python"),
        arguments=["-m", "vjepa_ac_planner.ros.sim_node"],
        exec_name="sim",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            {
                name: ParameterValue(LaunchConfiguration(name), value_type=kind)
                for name, (kind, _, _) in PARAMETERS.items()
            }
        ],
        output="screen",
        emulate_tty=True,
        sigterm_timeout="20",
    )
    return LaunchDescription([*arguments, node])

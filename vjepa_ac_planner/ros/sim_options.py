"""Parameters of the simulated robot's node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException

from vjepa_ac_planner.errors import ConfigError


@dataclass(frozen=True)
class Option:
    """One parameter of the node."""

    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    read_only: bool = True


OPTIONS = {
    "robot": Option("sim", "robot profile: topics and frames; a name in config/robots or a YAML file"),
    "task": Option(
        "reach",
        "reach, grasp_cup, grasp_box, reach_with_object, pick_place_cup or pick_place_box; for ~/reset",
        read_only=False,
    ),
    "seed": Option(
        0, "start, goal and the places of cup and box; takes effect at ~/reset", 0, 2**31 - 1, False
    ),
    "width": Option(192, "image width [pixels]; panda-sim was trained on images of 192", 16, 4096),
    "height": Option(192, "image height [pixels]", 16, 4096),
    "detail": Option(
        "full", "full: as trained; low: no shadows, few triangles, drawn in a third of the time"
    ),
    "rate": Option(15.0, "images per simulated second [Hz]", 0.1, 60.0),
    "publish_clock": Option(True, "publish /clock, and stamp on it; else everything has system time"),
    "real_time_factor": Option(1.0, "simulated seconds per second", 0.05, 10.0),
}


def declare(node: Any) -> None:
    """Declare all parameters on a node.

    Raises:
        ConfigError: an override of the wrong type or outside of its range.
    """
    for name, option in OPTIONS.items():
        _declare(node, name, option)


def _declare(node: Any, name: str, option: Option) -> None:
    descriptor = ParameterDescriptor(description=option.description, read_only=option.read_only)
    if option.low is not None and option.high is not None:
        if isinstance(option.default, int):
            low, high = int(option.low), int(option.high)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=option.low, to_value=option.high)
            ]
    try:
        node.declare_parameter(name, option.default, descriptor)
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        raise ConfigError(f"parameter {name}: {error}") from error

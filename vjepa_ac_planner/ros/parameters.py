"""ROS parameters of the planner node, made from the configuration objects of the core.

Every parameter is a field of a configuration dataclass: its name is the path to the field, its
description the sentence under it, its range the one beside its default. There is no second place where a
value is checked: a change is accepted exactly when the dataclasses can be built with it.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from vjepa_ac_planner.config import check_ranges, descriptions, from_mapping, ranged, to_mapping
from vjepa_ac_planner.control.mpc import LoopConfig
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.ros.profile import RobotProfile, load_profile

T = TypeVar("T")

RENAMED = {"safety.dry_run": "dry_run"}
"""Fields whose parameter has another name than their path: the switch people look for first."""
HIDDEN = ("name", "description", "frames.transforms", "safety.limits.step_seconds")
"""Fields that are no parameters: labels, tables that only a profile holds, what the model decides."""
LIVE = ("safety.", "deadline_s", "settled_holds", "seed")
"""Beginnings of the paths of what may be changed while the node runs."""


@dataclass(frozen=True)
class NodeConfig:
    """What the node itself is told, beside the robot's profile."""

    robot: str = "fr3"
    """Robot profile: a name in config/robots, or a YAML file."""
    preset: str = ""
    """How to search (config/planner.yaml); empty takes the model's."""
    device: str = "auto"
    """Where the model runs: auto, cpu, cuda, cuda:1 ..."""
    dtype: str = "auto"
    """Number format of the model: auto, bfloat16, float32, float8."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether torch.compile fuses the networks, which makes configuring longer; auto: on a GPU."""
    threads: int = ranged(0, low=0, high=256)
    """CPU threads of the model; 0 leaves it to PyTorch."""
    task: str = ""
    """Task YAML with goal images; empty waits for a goal on the goal topic."""
    autostart: bool = True
    """Configure and activate at start; the arm stands still until ~/set_enabled all the same."""
    run_when_ready: bool = False
    """Begin a run without ~/set_enabled as soon as everything is there, for bags that are played back;
    refused unless dry_run is on. The arm's mode is not waited for then, and no gripper is told anything."""
    stamps: Literal["header", "arrival"] = "header"
    """Whose time counts: the stamps in the messages, or when they arrive here (for cameras whose clock is
    not synchronised; their latency is then invisible)."""
    record: str = ""
    """Folder into which every run is recorded as a bag; empty records nothing."""
    pipelined: bool = False
    """Make the next plan while the arm moves, for where it is expected to be, and confirm it by the next
    frame (docs/pipelining.md)."""
    deadline_s: float | None = ranged(None, low=0.001, high=600.0, unit="s")
    """Time one plan may take [s]; -1 waits for it."""
    settled_holds: int | None = ranged(None, low=1, high=1000)
    """End a run after this many holds in a row because nothing improves on standing still; -1 goes on."""
    seed: int = ranged(0, low=0, high=2**62)
    """Step i of a run plans with seed + i."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def loop(self) -> LoopConfig:
        """How the receding horizon runs: a robot's never gives up by itself."""
        return LoopConfig(self.deadline_s, self.settled_holds, max_failures=None, seed=self.seed)


@dataclass(frozen=True)
class Parameter:
    """One parameter: a leaf of a configuration object."""

    name: str
    path: str
    """Dotted path of the field."""
    kind: Literal["bool", "int", "float", "str", "floats", "strings"]
    value: Any
    """Default, as ROS holds it: None is -1 or an empty string, tuples are lists."""
    optional: bool
    description: str
    choices: tuple[str, ...] = ()
    bounds: tuple[float, float, str] | None = None

    @property
    def read_only(self) -> bool:
        """Whether a change needs a restart of the node."""
        return not self.path.startswith(LIVE)

    @property
    def switches(self) -> bool:
        """Whether on and off are among the choices."""
        return {"on", "off"} <= set(self.choices)


def parameters(config: Any, prefix: str = "") -> Iterator[Parameter]:
    """All parameters of a configuration object, nested ones with dotted names."""
    hints, texts = typing.get_type_hints(type(config)), descriptions(type(config))
    for field in dataclasses.fields(config):
        path, value, hint = prefix + field.name, getattr(config, field.name), hints[field.name]
        if path in HIDDEN:
            continue
        if dataclasses.is_dataclass(value):
            yield from parameters(value, f"{path}.")
            continue
        hint, optional = _required(hint)
        kind, choices = _kind(hint, path)
        if value is None:
            value = "" if kind == "str" else type(_zero(kind))(-1)
        yield Parameter(
            RENAMED.get(path, path),
            path,
            kind,
            list(value) if isinstance(value, tuple) else value,
            optional,
            texts.get(field.name, ""),
            choices,
            field.metadata.get("range"),
        )


def rebuild(cls: type[T], base: T, values: Mapping[str, Any], where: str = "parameters") -> T:
    """A configuration object with other values for some of its parameters.

    Args:
        cls: its class.
        base: where everything else comes from.
        values: parameter name -> value as ROS holds it.
        where: what to call the values in errors.

    Raises:
        ConfigError: a value of the wrong type, or one that the class refuses.
    """
    data = to_mapping(base)
    for parameter in parameters(base):
        if parameter.name in values:
            *folders, leaf = parameter.path.split(".")
            target = data
            for folder in folders:
                target = target[folder]
            target[leaf] = _plain(parameter, values[parameter.name])
    return from_mapping(cls, data, where)


def resolve(values: Mapping[str, Any]) -> tuple[NodeConfig, RobotProfile]:
    """The node's configuration and its robot's profile, with all parameters applied.

    Raises:
        ConfigError: what is wrong, by the parameter's name.
    """
    node = rebuild(NodeConfig, NodeConfig(), values)
    profile = rebuild(RobotProfile, load_profile(node.robot), values)
    if node.run_when_ready and not profile.safety.dry_run:
        raise ConfigError("run_when_ready: received true, allowed only with dry_run: an arm starts by hand")
    return node, played_back(profile) if node.run_when_ready else profile


def played_back(profile: RobotProfile) -> RobotProfile:
    """The profile of a robot that is a recording: it has no mode of its own and no gripper that listens."""
    return replace(
        profile,
        topics=replace(profile.topics, robot_state=None),
        gripper=replace(profile.gripper, backend="none"),
    )


def declare(node: Any, wanted: Iterable[Parameter]) -> dict[str, Any]:
    """Declare parameters on a ROS node and return their values, overrides applied.

    Raises:
        ConfigError: an override of the wrong type or outside its range.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
    from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException

    values = {}
    for parameter in wanted:
        descriptor = ParameterDescriptor(
            description=parameter.description,
            read_only=parameter.read_only,
            # Whole numbers are welcome where fractions are allowed, an empty list has no type in ROS, and
            # an unquoted on or off is a truth value there: our own check looks at the value.
            dynamic_typing=parameter.kind in ("float", "floats", "strings") or parameter.switches,
            additional_constraints=f"one of {', '.join(parameter.choices)}" if parameter.choices else "",
        )
        if parameter.bounds is not None and parameter.kind in ("int", "float"):
            low, high, _ = parameter.bounds
            low = min(low, -1) if parameter.optional else low
            if parameter.kind == "int":
                descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
            else:
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(low), to_value=float(high))
                ]
        try:
            values[parameter.name] = node.declare_parameter(
                parameter.name, parameter.value, descriptor
            ).value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise ConfigError(f"parameter {parameter.name}: {error}") from error
    return values


def table(robot: str = "fr3") -> str:
    """The parameters as a Markdown table, with the defaults of a robot profile."""
    lines = ["| Parameter | Default | Range | Live | What it is |", "|---|---|---|---|---|"]
    for parameter in (*parameters(NodeConfig()), *parameters(load_profile(robot))):
        cells = (
            f"`{parameter.name}`",
            _shown(parameter),
            _allowed(parameter),
            "" if parameter.read_only else "yes",
            parameter.description.replace("|", "\\|"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _shown(parameter: Parameter) -> str:
    """The default as one would write it on a command line."""
    value = parameter.value
    if parameter.optional and value == -1:
        return "`-1` (off)"
    if parameter.optional and value == "":
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`" if value != "" else ""


def _allowed(parameter: Parameter) -> str:
    if parameter.bounds is None:
        return "a name, or null" if parameter.optional else ", ".join(parameter.choices)
    low, high, unit = parameter.bounds
    if high >= 2**31:
        return f"from {low:g}"
    return f"{low:g} .. {high:g} {unit}".strip() + (", or -1" if parameter.optional else "")


def _plain(parameter: Parameter, value: Any) -> Any:
    """From ROS's way of holding a value to the configuration's."""
    if parameter.optional and value in (-1, "", "null"):
        return None
    if parameter.switches and isinstance(value, bool):
        return "on" if value else "off"
    if parameter.kind in ("floats", "strings"):
        return tuple(value or ())
    return value


def _required(hint: Any) -> tuple[Any, bool]:
    """The type without ``None``, and whether None was allowed."""
    if get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint):
        (rest,) = (arg for arg in get_args(hint) if arg is not type(None))
        return rest, True
    return hint, False


def _kind(hint: Any, path: str) -> tuple[Any, tuple[str, ...]]:
    if get_origin(hint) is Literal:
        return "str", get_args(hint)
    if get_origin(hint) is tuple:
        return ("floats" if get_args(hint)[0] is float else "strings"), ()
    kinds = {bool: "bool", int: "int", float: "float", str: "str"}
    if hint not in kinds:
        raise TypeError(f"{path}: no ROS parameter can hold {hint}")
    return kinds[hint], ()


def _zero(kind: str) -> Any:
    return {"int": 0, "float": 0.0}[kind]

"""Parameters are the configuration objects, flattened: there and back, and nothing that those refuse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from vjepa_ac_planner.config import to_mapping
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.ros.parameters import NodeConfig, declare, parameters, rebuild, resolve
from vjepa_ac_planner.ros.profile import RobotProfile, load_profile, profile_names


def values_of(config):
    return {parameter.name: parameter.value for parameter in parameters(config)}


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_comes_back_from_its_parameters_as_it_was(name):
    profile = load_profile(name)
    assert rebuild(RobotProfile, profile, values_of(profile)) == profile
    assert resolve({**values_of(profile), "robot": name}) == (NodeConfig(robot=name), profile)


def test_the_node_comes_back_too():
    config = NodeConfig(robot="sim", deadline_s=0.5, settled_holds=4, seed=9, threads=2)
    assert rebuild(NodeConfig, NodeConfig(), values_of(config)) == config


@pytest.mark.parametrize("name", profile_names())
def test_every_field_of_a_profile_is_a_parameter_or_hidden_on_purpose(name):
    profile = load_profile(name)
    hidden = {"name", "description", "frames.transforms", "safety.limits.step_seconds"}

    def leaves(data, prefix=""):
        for key, value in data.items():
            path = prefix + key
            if isinstance(value, dict) and path not in hidden:
                yield from leaves(value, f"{path}.")
            else:
                yield path

    paths = {parameter.path for parameter in parameters(profile)}
    assert set(leaves(to_mapping(profile))) - paths <= hidden


@pytest.mark.parametrize("config", [NodeConfig(), load_profile("panda")], ids=["node", "profile"])
def test_every_parameter_is_described_and_of_a_kind_that_ros_has(config):
    for parameter in parameters(config):
        assert len(parameter.description) > 10, parameter.name
        kinds = {"bool": bool, "int": int, "float": float, "str": str, "floats": list, "strings": list}
        assert type(parameter.value) is kinds[parameter.kind], parameter.name
        if parameter.bounds is not None and not parameter.optional and parameter.kind in ("int", "float"):
            assert parameter.bounds[0] <= parameter.value <= parameter.bounds[1], parameter.name


def test_the_names_of_both_do_not_collide():
    node, profile = set(values_of(NodeConfig())), set(values_of(load_profile("panda")))
    assert not node & profile


def test_what_may_change_while_running_is_what_the_running_node_reads():
    live = {
        p.name for p in (*parameters(NodeConfig()), *parameters(load_profile("panda"))) if not p.read_only
    }
    assert {"dry_run", "safety.limits.max_speed", "safety.max_image_age", "deadline_s", "seed"} <= live
    assert not live & {"robot", "model", "topics.target_pose", "frames.base_frame", "output", "stream_hz"}


@pytest.mark.parametrize(
    ("name", "value", "attribute"),
    [
        ("safety.max_surprise", -1.0, None),
        ("safety.max_surprise", -1, None),
        ("safety.max_surprise", 0.5, 0.5),
        ("safety.max_image_age", 1, 1.0),
        ("dry_run", True, True),
        ("safety.allowed_modes", ["idle"], ("idle",)),
        ("safety.limits.workspace_low", [0.3, -0.2, 0.2], (0.3, -0.2, 0.2)),
    ],
)
def test_values_as_ros_holds_them(name, value, attribute):
    profile = rebuild(RobotProfile, load_profile("panda"), {name: value})
    target = profile
    for part in {"dry_run": "safety.dry_run"}.get(name, name).split("."):
        target = getattr(target, part)
    assert target == attribute and type(target) is type(attribute)


def test_none_of_a_text_is_empty():
    profile = rebuild(RobotProfile, load_profile("panda"), {"topics.robot_state": "arm/state"})
    assert profile.topics.robot_state == "arm/state"
    assert rebuild(RobotProfile, profile, {"topics.robot_state": ""}).topics.robot_state is None
    assert rebuild(RobotProfile, profile, {"topics.robot_state": "null"}).topics.robot_state is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("safety.max_image_age", -1.0, "max_image_age"),
        ("safety.max_image_age", 0.0, "max_image_age"),
        ("safety.max_image_age", math.nan, "max_image_age"),
        ("safety.max_image_age", math.inf, "max_image_age"),
        ("safety.max_image_age", "soon", "max_image_age"),
        ("safety.max_image_age", None, "max_image_age"),
        ("safety.max_image_age", True, "max_image_age"),
        ("safety.limits.max_speed", 50.0, "max_speed: received 50.0"),
        ("safety.limits.workspace_low", [0.3, -0.2], "workspace_low"),
        ("safety.limits.workspace_low", [0.3, 0.5, 0.2], "workspace y"),
        ("safety.limits.workspace_low", [0.3, math.nan, 0.2], "workspace_low"),
        ("safety.base", "guessed", "guessed"),
        ("safety.energy_rise_plans", 1.5, "energy_rise_plans"),
        ("dry_run", 1, "dry_run"),
        ("output", "torque", "torque"),
        ("stream_hz", 5.0, "stream_hz"),
    ],
)
def test_what_the_configuration_refuses_is_refused_here(name, value, says):
    with pytest.raises(ConfigError, match=says):
        rebuild(RobotProfile, load_profile("panda"), {name: value})


def test_an_unknown_robot_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"known: .*fr3.*panda.*sim"):
        resolve({"robot": "ur5"})


def test_a_recording_has_no_mode_to_wait_for_and_no_gripper_to_move():
    values = {"robot": "fr3", "dry_run": True}
    _, live = resolve(values)
    _, played = resolve({**values, "run_when_ready": True})
    assert live.topics.robot_state and live.gripper.backend == "grasp"
    assert played.topics.robot_state is None and played.gripper.backend == "none"
    assert played.topics.ee_pose == live.topics.ee_pose and played.frames == live.frames


def test_a_value_that_is_refused_leaves_the_base_alone():
    base = load_profile("panda")
    before = replace(base)
    with pytest.raises(ConfigError):
        rebuild(RobotProfile, base, {"safety.limits.max_speed": 50.0})
    assert base == before


@pytest.fixture
def node(ros):
    import rclpy

    node = rclpy.create_node("parameters")
    yield node
    node.destroy_node()


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_can_be_declared_on_a_real_node(node, name):
    wanted = list(parameters(load_profile(name)))
    assert declare(node, wanted) == {parameter.name: parameter.value for parameter in wanted}


def test_ros_knows_ranges_read_only_and_descriptions(node):
    declare(node, [*parameters(NodeConfig()), *parameters(load_profile("panda"))])
    speed = node.describe_parameter("safety.limits.max_speed")
    assert (speed.floating_point_range[0].from_value, speed.floating_point_range[0].to_value) == (
        0.001,
        1.7,
    )
    assert "speed" in speed.description and not speed.read_only
    assert node.describe_parameter("robot").read_only
    # -1 stands for none, so it must be in range where none is allowed.
    assert node.describe_parameter("settled_holds").integer_range[0].from_value == -1
    assert "measured, commanded" in node.describe_parameter("safety.base").additional_constraints


@pytest.mark.parametrize(
    ("word", "value"),
    [("off", "off"), ("on", "on"), ("auto", "auto"), ("'off'", "off"), ("false", "off")],
)
def test_compiling_is_switched_by_words_that_are_truth_values_to_ros(ros, word, value):
    assert resolve(given(f"compile:={word}", "robot:=sim"))[0].compile == value


@pytest.mark.parametrize("word", ["3", "maybe"])
def test_compiling_takes_no_other_word(ros, word):
    with pytest.raises(ConfigError, match=rf"compile: received '?{word}'?, allowed 'auto', 'on', 'off'"):
        resolve(given(f"compile:={word}", "robot:=sim"))


def test_topics_and_the_gripper_are_switched_off_on_the_command_line(ros):
    words = (
        "topics.robot_state:=null",
        "topics.gripper:=null",
        "gripper.name:=null",
        "gripper.backend:=none",
    )
    _, profile = resolve(given("robot:=fr3", *words))
    assert (profile.topics.robot_state, profile.topics.gripper, profile.gripper.name) == (None, None, None)


def given(*words):
    """Values of the parameters after ``--ros-args -p``, by ROS's own parser."""
    import rclpy

    arguments = ["--ros-args", *(part for word in words for part in ("-p", word))]
    node = rclpy.create_node("words", cli_args=arguments)
    try:
        first = declare(node, parameters(NodeConfig()))
        return {**first, **declare(node, parameters(load_profile(first["robot"])))}
    finally:
        node.destroy_node()


@pytest.mark.parametrize(
    ("name", "value"), [("threads", "many"), ("threads", -5), ("autostart", 1), ("robot", 3)]
)
def test_an_override_that_cannot_be_is_named(ros, name, value):
    import rclpy
    from rclpy.parameter import Parameter

    node = rclpy.create_node("overrides", parameter_overrides=[Parameter(name, value=value)])
    try:
        with pytest.raises(ConfigError, match=f"parameter {name}"):
            declare(node, parameters(NodeConfig()))
    finally:
        node.destroy_node()

"""Robot profiles: what is shipped, what is refused, how they are found."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from vjepa_ac_planner.config import descriptions, from_mapping, to_mapping
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.ros.frames import FramesConfig, StaticTransform
from vjepa_ac_planner.ros.gripper import GripperConfig
from vjepa_ac_planner.ros.parameters import NodeConfig, table
from vjepa_ac_planner.ros.profile import (
    RobotProfile,
    TopicsConfig,
    TwistConfig,
    load_profile,
    profile_names,
)

HARDWARE = ("panda", "fr3")
YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_what_is_shipped():
    assert profile_names() == ("fr3", "panda", "sim")


@pytest.mark.parametrize("name", ["panda", "fr3", "sim"])
def test_each_is_called_as_its_file_and_survives_yaml(name):
    profile = load_profile(name)
    assert profile.name == name
    assert from_mapping(RobotProfile, yaml.safe_load(yaml.safe_dump(to_mapping(profile)))) == profile


@pytest.mark.parametrize("name", ["panda", "fr3", "sim"])
def test_the_hand_sits_on_link8_as_franka_says(name):
    tcp = load_profile(name).chain().state_in_model
    half = math.sqrt(0.5)
    np.testing.assert_allclose(tcp[:3, :3], [[half, half, 0], [-half, half, 0], [0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(tcp[:3, 3], [0, 0, 0.1034], atol=1e-12)


@pytest.mark.parametrize("name", HARDWARE)
def test_on_hardware_nothing_moves_at_first_and_then_slowly(name):
    safety = load_profile(name).safety
    assert safety.dry_run
    assert safety.limits.max_speed <= 0.1
    assert safety.limits.translation(safety.limits.step_seconds) <= 0.03
    assert set(safety.allowed_modes) == {"idle", "move"}
    # The finger tips stay above the base plane when the hand points down.
    assert safety.limits.low[2] - 0.1034 > 0.04


@pytest.mark.parametrize("name", HARDWARE)
def test_frames_and_joints_carry_the_name_of_the_arm(name):
    profile = load_profile(name)
    frames = profile.frames
    names = (frames.base_frame, frames.model_ee_frame, frames.state_ee_frame, frames.command_frame)
    assert names == (f"{name}_link0", f"{name}_link8", f"{name}_hand_tcp", f"{name}_hand_tcp")
    assert profile.gripper.finger_joints == (f"{name}_finger_joint1", f"{name}_finger_joint2")
    assert profile.gripper.backend == "grasp"
    assert profile.topics.gripper == f"{profile.gripper.target}/joint_states"


def test_each_driver_has_topics_of_its_own():
    # Without the arm's own word a mode is never refused.
    fr3 = load_profile("fr3")
    assert fr3.topics.robot_state == "franka_robot_state_broadcaster/robot_state"
    assert fr3.topics.ee_pose == "franka_robot_state_broadcaster/current_pose"
    assert fr3.gripper.target == "franka_gripper"
    # That of a Panda sends another message on the topic of this name, and no pose.
    panda = load_profile("panda")
    assert (panda.topics.robot_state, panda.topics.ee_pose) == (None, "current_pose")
    assert panda.gripper.target == "panda_gripper"


def test_what_the_first_hour_says_of_each_controller_is_a_profile():
    text = (Path(__file__).parents[2] / "docs" / "first-hour.md").read_text(encoding="utf-8")
    crisp, servo, limits = (changed("fr3", yaml.safe_load(block)) for block in YAML.findall(text))
    assert limits.safety.limits.max_speed == 0.05
    assert (crisp.topics.ee_pose, crisp.topics.robot_state) == ("current_pose", None)
    assert crisp.gripper.target == "gripper/gripper_position_controller/commands"
    assert crisp.topics.gripper == load_profile("fr3").topics.gripper
    assert "base" in crisp.frames.base_aliases
    # Servo's poses are those of the flange: 0.1034 m away from the tool centre point's.
    state = np.array([0.5, 0.1, 0.4, math.pi, 0.0, 0.0, 0.0])
    poses = [profile.chain().pose(state).position for profile in (servo, load_profile("fr3"))]
    np.testing.assert_allclose([(p.x, p.y, p.z) for p in poses], [state[:3], [0.5, 0.1, 0.2966]], atol=1e-9)
    assert servo.topics.target_pose == "servo_node/pose_target_cmds"


def changed(name, changes):
    """A shipped profile with other values for some of its keys."""

    def merge(old, new):
        if not isinstance(new, dict):
            return new
        return {**old, **{key: merge(old[key], value) for key, value in new.items()}}

    return from_mapping(RobotProfile, merge(to_mapping(load_profile(name)), changes))


def test_the_robot_that_franka_ros2_drives_is_the_one_unless_told_otherwise():
    assert NodeConfig().robot == "fr3"
    assert table() == table("fr3") != table("panda")


def test_the_planner_cannot_tell_the_simulator_by_its_topics_and_frames():
    sim, fr3 = load_profile("sim"), load_profile("fr3")
    # Its mode apart, which needs messages that not every machine has.
    assert sim.topics == replace(fr3.topics, robot_state=None)
    assert sim.frames == load_profile("panda").frames
    assert (sim.output, sim.stream_hz) == (fr3.output, fr3.stream_hz)


def test_the_simulators_limits_are_those_of_the_simulator():
    safety = pytest.importorskip("vjepa_ac_planner.sim.safety", exc_type=ImportError).sim_safety()
    profile = load_profile("sim")
    assert not profile.safety.dry_run
    ours, theirs = profile.safety.limits, safety.limits
    np.testing.assert_allclose(ours.low, theirs.low, atol=1e-9)
    np.testing.assert_allclose(ours.high, theirs.high, atol=1e-9)
    same = {"workspace_low": theirs.workspace_low, "workspace_high": theirs.workspace_high}
    assert {**to_mapping(ours), **to_mapping(same)} == to_mapping(theirs)
    assert {**to_mapping(profile.safety), "limits": 0} == {**to_mapping(safety), "limits": 0}


def test_the_simulators_hand_is_the_profiles():
    model = pytest.importorskip("vjepa_ac_planner.sim.model", exc_type=ImportError)
    profile = load_profile("sim")
    assert profile.frames.transforms["panda_hand_tcp"].xyz == (0.0, 0.0, model.TCP_OFFSET)
    assert profile.gripper.stroke == model.GRIPPER_WIDTH


@pytest.mark.parametrize(
    "cls", [RobotProfile, TopicsConfig, TwistConfig, GripperConfig, FramesConfig, StaticTransform]
)
def test_every_option_has_its_sentence(cls):
    assert set(descriptions(cls)) == set(cls.__dataclass_fields__)


def test_topics_by_transport():
    assert TopicsConfig().image_topic == "camera/image_raw"
    assert TopicsConfig(image_transport="compressed").image_topic == "camera/image_raw/compressed"
    assert TopicsConfig(goal_image_transport="compressed").goal_image_topic == "goal_image/compressed"
    for image, info in (
        ("camera/image_raw", "camera/camera_info"),
        ("image", "camera_info"),
        ("/i", "/camera_info"),
    ):
        assert TopicsConfig(image=image).camera_info == info


def test_a_profile_of_ones_own(tmp_path):
    data = to_mapping(load_profile("fr3"))
    data["gripper"].update(backend="gripper_command", name=None)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    assert load_profile(path).gripper.target == load_profile(str(path)).gripper.target
    assert load_profile(path).gripper.target == "franka_gripper/gripper_action"


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"robot: received 'pnada', .*; known: fr3, panda, sim$"):
        load_profile("pnada")
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_profile(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("stream_hz", 5, r"stream_hz: received 5.0 Hz, allowed 20.0 \.\. 1000.0 Hz"),
        ("output", "both", "output: received 'both', allowed 'pose', 'twist', 'none'"),
        ("topics.image", "", "topics: image: received '', allowed is the name of a topic"),
        (
            "topics.image_transport",
            "theora",
            "image_transport: received 'theora', allowed 'raw', 'compressed'",
        ),
        ("topics.imgae", "x", r"topics: unknown imgae \(did you mean 'image'\?\)"),
        ("topics.gripper", None, "gripper: backend 'grasp' moves a gripper whose state no topic tells"),
        (
            "frames.command_frame",
            "tool",
            "none leads from 'tool' to 'panda_link8'; given are panda_hand on",
        ),
        ("gripper.force", 0, r"gripper: force: received 0.0 N, allowed 0.1 \.\. 140.0 N"),
        ("gripper.speed", 5, "gripper: speed: received 5.0 m/s"),
        (
            "gripper.open_width",
            0.09,
            "open_width: received 0.09 m, allowed above closed_width 0.0 m, up to",
        ),
        ("gripper.open_below", 0.6, "open_below: received 0.6, allowed below close_above 0.35"),
        ("gripper.finger_joints", [], "finger_joints: received none"),
        ("gripper.name", "", "name: received '', allowed a name, or null"),
        ("gripper.backend", "robotiq", "backend: received 'robotiq', allowed 'none', 'grasp',"),
        ("twist.linear_scale", 0, "twist: linear_scale: received 0.0 m/s"),
        ("safety.limits.max_speed", 9, "safety: limits: max_speed: received 9.0 m/s"),
    ],
)
def test_what_is_refused_and_how(path, value, text):
    data = to_mapping(load_profile("panda"))
    *folders, leaf = path.split(".")
    target = data
    for folder in folders:
        target = target[folder]
    target[leaf] = value
    with pytest.raises(ConfigError, match=text):
        from_mapping(RobotProfile, data, "f")


def test_twists_by_their_units():
    twist = np.array([0.1, 0.0, 0.0, 0.0, 0.4, 0.0])
    np.testing.assert_array_equal(TwistConfig().command(twist), twist)
    unitless = TwistConfig(units="unitless", linear_scale=0.4, rotational_scale=0.8)
    np.testing.assert_allclose(unitless.command(twist), [0.25, 0, 0, 0, 0.5, 0])
    # More than 1 would be refused by the receiver; the direction is kept.
    np.testing.assert_allclose(unitless.command(twist * [8, 0, 0, 0, 8, 0]), [1, 0, 0, 0, 1, 0])

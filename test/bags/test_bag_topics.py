from __future__ import annotations

import pytest

pytest.importorskip("rosbags")

from vjepa_ac_planner.bags.messages import COMPRESSED_IMAGE, FRANKA_STATE, IMAGE, JOINTS, POSE
from vjepa_ac_planner.bags.storage import TopicInfo
from vjepa_ac_planner.bags.topics import TopicNames, choose_topics
from vjepa_ac_planner.errors import BagError


def choose(topics, asked=None, fingers=(), counts=None):
    infos = {name: TopicInfo(name, kind, (counts or {}).get(name, 5)) for name, kind in topics.items()}
    return choose_topics(asked or TopicNames(), infos, lambda name: name in fingers)


@pytest.mark.parametrize(
    ("topics", "image"),
    [
        ({"/cam/color": IMAGE}, "/cam/color"),
        ({"/cam/color": COMPRESSED_IMAGE}, "/cam/color"),
        ({}, None),
        ({"/a": IMAGE, "/ns/camera/image_raw": IMAGE}, "/ns/camera/image_raw"),
        ({"/a": IMAGE, "/camera/image_raw/compressed": COMPRESSED_IMAGE}, "/camera/image_raw/compressed"),
        ({"/a": IMAGE, "/a/compressed": COMPRESSED_IMAGE}, "/a"),
        (
            {"/camera/image_raw": IMAGE, "/camera/image_raw/compressed": COMPRESSED_IMAGE},
            "/camera/image_raw",
        ),
        ({"/cam/color": IMAGE, "/cam/depth/image_rect_raw": IMAGE, "/cam/infra1": IMAGE}, "/cam/color"),
        ({"/cam/color": IMAGE, "/goal_image": IMAGE}, "/cam/color"),
        ({"/cam/color": IMAGE, "/planner/preview": IMAGE}, "/cam/color"),
    ],
)
def test_the_camera_is_found(topics, image):
    assert choose(topics).image == image


@pytest.mark.parametrize(
    ("topics", "pose"),
    [
        ({"/ee": POSE}, "/ee"),
        ({"/ee": POSE, "/target_pose": POSE, "/goal_pose": POSE}, "/ee"),
        ({"/state": FRANKA_STATE}, "/state"),
        ({"/ee": POSE, "/state": FRANKA_STATE}, "/ee"),
        (
            {"/a": POSE, "/arm/franka_robot_state_broadcaster/current_pose": POSE},
            "/arm/franka_robot_state_broadcaster/current_pose",
        ),
    ],
)
def test_the_pose_is_found(topics, pose):
    assert choose(topics).pose == pose


def test_the_gripper_is_the_one_with_fingers():
    joints = {"/joint_states": JOINTS, "/gripper/states": JOINTS, "/base": JOINTS}
    assert choose(joints).gripper is None
    assert choose(joints, fingers={"/joint_states"}).gripper == "/joint_states"
    assert choose(joints, fingers={"/joint_states", "/gripper/states"}).gripper == "/gripper/states"


def test_a_goal_is_a_goal_by_its_name():
    assert choose({"/cam": IMAGE}).goal is None
    assert choose({"/cam": IMAGE, "/arm/goal_image": IMAGE}).goal == "/arm/goal_image"


def test_topics_without_messages_do_not_count():
    assert choose({"/a": IMAGE, "/b": IMAGE}, counts={"/a": 0}).image == "/b"


@pytest.mark.parametrize("role", ["image", "pose", "gripper"])
def test_ambiguity_names_the_candidates_and_the_way_out(role):
    kind = {"image": IMAGE, "pose": POSE, "gripper": JOINTS}[role]
    with pytest.raises(
        BagError, match=rf"{role}: several topics fit: /a .*5 messages.*, /b .*--{role}-topic"
    ):
        choose({"/a": kind, "/b": kind}, fingers={"/a", "/b"})


def test_a_name_that_is_given_holds():
    topics = {"/a": IMAGE, "/camera/image_raw": IMAGE, "/depth": IMAGE}
    assert choose(topics, TopicNames(image="/depth")).image == "/depth"
    assert choose(topics, TopicNames(image="a")).image == "/a"  # as in ROS, the slash may be left out


def test_a_name_that_is_not_there_or_of_another_type():
    with pytest.raises(BagError, match=r"'/x' is not in the recording; it has /a, /ee"):
        choose({"/a": IMAGE, "/ee": POSE}, TopicNames(image="/x"))
    with pytest.raises(BagError, match=r"image topic '/ee' is geometry_msgs/msg/PoseStamped, allowed"):
        choose({"/a": IMAGE, "/ee": POSE}, TopicNames(image="/ee"))

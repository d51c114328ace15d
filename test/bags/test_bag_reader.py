from __future__ import annotations

import math
import sys

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags")

from vjepa_ac_planner.bags.poses import HAND_TCP_TO_LINK8, matrix_to_quaternion, quaternion_to_matrix
from vjepa_ac_planner.bags.reader import Bag, ResampleRules, TopicNames
from vjepa_ac_planner.bags.resample import GAP
from vjepa_ac_planner.errors import BagError, ConfigError, InputError, MissingDependencyError

T0 = 1_700_000_000_000_000_000
PERIOD = 0.25


def samples(path, rules=None, topics=None, period=PERIOD):
    with Bag.open(path, topics) as bag:
        found = list(bag.samples(period, rules))
        return found, bag


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_every_fourth_frame_of_a_15_hz_camera(make, drive, picture, tmp_path, storage):
    found, bag = samples(make.write(tmp_path / "bag", drive(3.0), storage))
    assert [s.index for s in found] == list(range(12)) and {s.segment for s in found} == {0}
    for number, sample in enumerate(found):
        frame, state = sample.observation.frame, sample.observation.state
        np.testing.assert_array_equal(frame.image, picture(4 * number))
        assert frame.stamp == sample.time == (T0 + 4 * number * 66_666_667) / 1e9
        assert frame.frame_id == "camera"
        assert abs(state.stamp - frame.stamp) <= 0.005
        elapsed = state.stamp - T0 / 1e9
        np.testing.assert_allclose(state.vector[:3], [0.3 + 0.05 * elapsed, 0, 0.4], atol=1e-6)
        np.testing.assert_allclose(state.vector[3:6], [math.pi, 0, 0], atol=1e-12)
        # The newest gripper message that is not after the frame.
        width = 0.08 - 0.001 * math.floor((frame.stamp - T0 / 1e9) * 10 + 1e-6)
        assert state.gripper == pytest.approx(1 - width / 0.08, abs=1e-9)
    assert not bag.skipped and not bag.notes
    assert bag.topics == TopicNames("/camera/image_raw", "/ee_pose", "/franka_gripper/joint_states")
    assert (bag.start, bag.end) == (T0 / 1e9, pytest.approx(T0 / 1e9 + 2.99))


def test_samples_can_be_read_again(make, drive, tmp_path):
    with Bag.open(make.write(tmp_path / "bag", drive(2.0))) as bag:
        first, second = list(bag.samples(PERIOD)), list(bag.samples(PERIOD))
    assert [s.time for s in first] == [s.time for s in second] and len(first) == 8


def test_compressed_images_are_decoded(make, drive, picture, tmp_path):
    done, png = cv2.imencode(".png", picture(3)[..., ::-1])
    assert done
    messages = [m for m in drive(1.0) if "camera" not in m[0]]
    for i in range(15):
        stamp = T0 + i * 66_666_667
        messages.append(
            ("/cam/compressed", make.compressed(stamp, png.tobytes(), "rgb8; png compressed"), stamp)
        )
    found, _ = samples(make.write(tmp_path / "bag", sorted(messages, key=lambda m: m[2])))
    assert len(found) == 4
    np.testing.assert_array_equal(found[0].observation.frame.image, picture(3))


def test_without_gripper_it_counts_as_open_and_says_so(make, drive, tmp_path):
    messages = [m for m in drive(1.0) if "gripper" not in m[0]]
    found, bag = samples(make.write(tmp_path / "bag", messages))
    assert {s.observation.state.gripper for s in found} == {0.0}
    assert len(bag.notes) == 1 and "no gripper topic" in bag.notes[0]


def test_franka_state_is_decoded_by_the_definition_in_the_bag(make_franka, drive, tmp_path):
    messages = [m for m in drive(1.0) if "pose" not in m[0]]
    for i in range(100):
        stamp = T0 + i * 10_000_000
        messages.append(("/franka/robot_state", make_franka.franka(stamp, (0.3 + 0.01 * i, 0, 0.5)), stamp))
    path = make_franka.write(tmp_path / "bag", sorted(messages, key=lambda m: m[2]))
    found, bag = samples(path)
    assert bag.topics.pose == "/franka/robot_state" and len(found) == 4
    assert any("hand_tcp" in note and "offset" in note for note in bag.notes)
    np.testing.assert_allclose(found[1].observation.state.position, [0.57, 0, 0.5], atol=1e-9)


def test_old_franka_state_is_column_major(make_franka):
    from vjepa_ac_planner.bags.messages import FRANKA_STATE, Decoder
    from vjepa_ac_planner.bags.storage import TopicInfo

    definition = "std_msgs/Header header\nfloat64[16] o_t_ee\n"
    decoder = Decoder({"/s": TopicInfo("/s", FRANKA_STATE, 1, definition, "ros2msg")})
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    matrix[:3, 3] = 1, 2, 3
    head = b"\0\1\0\0" + bytes(8) + b"\1\0\0\0\0" + bytes(3)
    data = memoryview(head + matrix.T.astype("<f8").tobytes())
    position, rotation = decoder.pose("/s", data)
    np.testing.assert_array_equal(position, [1, 2, 3])
    np.testing.assert_array_equal(rotation, matrix[:3, :3])


@pytest.mark.parametrize(
    "rotation", [np.zeros((3, 3)), np.diag([-1, 1, 1]), 3 * np.eye(3), np.full((3, 3), np.nan)]
)
def test_an_old_franka_state_without_a_rotation_is_refused(rotation):
    from vjepa_ac_planner.bags.messages import FRANKA_STATE, Decoder
    from vjepa_ac_planner.bags.storage import TopicInfo

    definition = "std_msgs/Header header\nfloat64[16] o_t_ee\n"
    decoder = Decoder({"/s": TopicInfo("/s", FRANKA_STATE, 1, definition, "ros2msg")})
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    head = b"\0\1\0\0" + bytes(8) + b"\1\0\0\0\0" + bytes(3)
    with pytest.raises(InputError, match="pose: the rotation must be orthonormal and right-handed"):
        decoder.pose("/s", memoryview(head + matrix.T.astype("<f8").tobytes()))


def test_the_definition_of_a_custom_type_must_be_there(make, drive, tmp_path):
    from vjepa_ac_planner.bags.messages import FRANKA_STATE, Decoder
    from vjepa_ac_planner.bags.storage import TopicInfo

    decoder = Decoder({"/s": TopicInfo("/s", FRANKA_STATE, 1)})
    with pytest.raises(BagError, match="no definition of franka_msgs/msg/FrankaRobotState"):
        decoder.message("/s", memoryview(bytes(100)))


@pytest.mark.parametrize(
    "definition", ["std_msgs/Header header\nfloat64[99999999] x\n", "evil; import os\n", "=" * 80, "\0"]
)
def test_a_damaged_definition_is_refused(definition):
    from vjepa_ac_planner.bags.messages import FRANKA_STATE, Decoder
    from vjepa_ac_planner.bags.storage import TopicInfo

    decoder = Decoder({"/s": TopicInfo("/s", FRANKA_STATE, 1, definition, "ros2msg")})
    with pytest.raises(BagError, match="is damaged"):
        decoder.message("/s", memoryview(bytes(100)))


def test_the_offset_leads_from_the_tcp_to_link8(make, drive, tmp_path):
    path = make.write(tmp_path / "bag", drive(1.0))
    plain, _ = samples(path)
    moved, _ = samples(path, ResampleRules(offset=HAND_TCP_TO_LINK8))
    # The hand points down: link8 is above its TCP, and turned by 45 degrees about the vertical.
    np.testing.assert_allclose(
        moved[0].observation.state.position - plain[0].observation.state.position, [0, 0, 0.1034], atol=1e-9
    )
    turned = moved[0].observation.state.vector[3:6] - [math.pi, 0, -math.pi / 4]
    np.testing.assert_allclose(np.exp(1j * turned), 1, atol=1e-9)


def test_frames_without_pose_begin_a_new_segment_after_the_gap(make, drive, tmp_path):
    messages = [m for m in drive(4.0) if "pose" not in m[0] or not T0 + 10**9 < m[2] < T0 + 2 * 10**9]
    found, bag = samples(make.write(tmp_path / "bag", messages))
    assert sorted({s.segment for s in found}) == [0, 1]
    last = max(s.time for s in found if s.segment == 0)
    first = min(s.time for s in found if s.segment == 1)
    assert first - last > 0.9 and bag.skipped[GAP] == 1
    assert bag.skipped["frame without a pose near it"] > 0
    for segment in (0, 1):
        times = [s.time for s in found if s.segment == segment]
        assert np.abs(np.diff(times) - PERIOD).max() <= 0.25 * PERIOD


def test_lost_frames_within_the_tolerance_are_no_gap(make, drive, tmp_path):
    messages = drive(4.0)
    images = [m for m in messages if "camera" in m[0]]
    lost = images[8]  # the frame two periods on: its neighbours are 67 ms away, a quarter of the period
    found, bag = samples(
        make.write(tmp_path / "a", [m for m in messages if m is not lost]), ResampleRules(tolerance=0.3)
    )
    assert {s.segment for s in found} == {0} and GAP not in bag.skipped


def test_undecodable_frames_are_replaced_by_the_next_nearest_and_counted(make, drive, picture, tmp_path):
    messages = []
    for number, (topic, message, received) in enumerate(drive(3.0)):
        if "camera" in topic and message.header.stamp.nanosec == (T0 + 8 * 66_666_667) % 10**9:
            message = make.image(T0 + 8 * 66_666_667, picture(0), encoding="yuv422")
        messages.append((topic, message, received))
        del number
    found, bag = samples(make.write(tmp_path / "bag", messages), ResampleRules(tolerance=0.33))
    assert {s.segment for s in found} == {0}
    assert bag.skipped == {"unusable message: image": 1}
    assert "encoding 'yuv422'" in bag.resampler.first_error


def test_out_of_order_within_the_window_makes_no_difference(make, drive, tmp_path):
    messages = drive(3.0)
    straight, _ = samples(make.write(tmp_path / "a", messages))
    rng = np.random.default_rng(0)
    late = sorted(
        ((t, m, r + int(rng.integers(0, 300_000_000))) for t, m, r in messages), key=lambda i: i[2]
    )
    assert [i[1] for i in late] != [i[1] for i in messages]
    shuffled, bag = samples(make.write(tmp_path / "b", late))
    assert [s.time for s in shuffled] == [s.time for s in straight]
    for one, other in zip(straight, shuffled, strict=True):
        np.testing.assert_array_equal(one.observation.state.vector, other.observation.state.vector)
    assert not bag.skipped


def test_what_comes_too_late_and_what_comes_twice_is_counted(make, drive, picture, tmp_path):
    messages = drive(3.0)
    messages.append(("/camera/image_raw", make.image(T0 + 5, picture(0)), T0 + 3 * 10**9))
    messages.append(("/ee_pose", make.pose(T0), T0 + 5))
    messages.append(("/ee_pose", make.pose(0), T0 + 6))
    _, bag = samples(make.write(tmp_path / "bag", sorted(messages, key=lambda m: m[2])))
    assert bag.skipped == {"stamp out of order": 1, "duplicate stamp": 1, "stamp of 0": 1}


def test_clocks_that_differ_are_explained_and_receive_times_help(make, drive, tmp_path):
    messages = []
    for topic, message, received in drive(2.0):
        if "camera" in topic:
            message.header.stamp.sec -= 1_600_000_000  # the camera counts from its start
        messages.append((topic, message, received))
    path = make.write(tmp_path / "bag", messages)
    with pytest.raises(
        BagError, match=r"not one sample.*without a pose near it.*/camera/image_raw from 100000000.*receive"
    ):
        samples(path)
    found, _ = samples(path, ResampleRules(clock="receive"))
    assert len(found) == 8


@pytest.mark.parametrize("missing", ["camera", "pose"])
def test_a_recording_without_camera_or_pose_says_what_it_has(make, drive, tmp_path, missing):
    path = make.write(tmp_path / "bag", [m for m in drive(1.0) if missing not in m[0]])
    with (
        Bag.open(path) as bag,
        pytest.raises(BagError, match=r"no topic shows .* it has .*/franka_gripper"),
    ):
        next(bag.samples(PERIOD))


def test_an_empty_recording(make, tmp_path):
    path = make.write(tmp_path / "bag", [])
    with pytest.raises(BagError, match="no message"):
        Bag.open(path)


def test_frames_by_time_and_the_last_one(make, drive, picture, tmp_path):
    with Bag.open(make.write(tmp_path / "bag", drive(3.0, delay=100_000_000))) as bag:
        np.testing.assert_array_equal(bag.last_frame().image, picture(44))
        np.testing.assert_array_equal(bag.frame_at(T0 / 1e9 + 1.01).image, picture(15))
        np.testing.assert_array_equal(bag.frame_at(T0 / 1e9 + 1.11, clock="receive").image, picture(15))
        with pytest.raises(BagError, match="within 1 s of"):
            bag.frame_at(T0 / 1e9 + 60)
        assert bag.goals() == () and list(bag.plans()) == [] and bag.run is None


def test_the_last_frame_is_the_last_that_can_be_decoded(make, drive, picture, tmp_path):
    messages = drive(3.0)
    end = T0 + 3 * 10**9
    messages.append(("/camera/image_raw", make.image(end, picture(0), encoding="yuv422"), end))
    with Bag.open(make.write(tmp_path / "bag", messages)) as bag:
        np.testing.assert_array_equal(bag.last_frame().image, picture(44))
        assert bag.skipped == {"unusable message: image": 1}


def test_poses_that_are_none_are_counted(make, drive, tmp_path):
    messages = [
        (t, make.pose(T0 + i, quaternion=(0, 0, 0, 0)) if "pose" in t else m, r)
        for i, (t, m, r) in enumerate(drive(1.0))
    ]
    with pytest.raises(BagError, match=r"unusable message: pose.*quaternion must have length 1"):
        samples(make.write(tmp_path / "bag", messages))


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({"tolerance": 0.5}, "tolerance"),
        ({"max_skew_s": -1.0}, "max_skew_s"),
        ({"offset": (0, 0, 0, 0, 0, 0, 0)}, "quaternion must have length 1"),
        ({"offset": (0, 0, 0)}, "7 finite numbers"),
    ],
)
def test_rules_are_checked(rules, text):
    with pytest.raises(ConfigError, match=text):
        ResampleRules(**rules)


def test_quaternions_and_matrices():
    rng = np.random.default_rng(0)
    for _ in range(200):
        q = rng.normal(size=4)
        q *= np.sign(q[3]) / np.linalg.norm(q)
        matrix = quaternion_to_matrix(q)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1)
        np.testing.assert_allclose(matrix_to_quaternion(matrix), q, atol=1e-12)
    with pytest.raises(InputError, match="length 1"):
        quaternion_to_matrix([math.nan, 0, 0, 1])


def test_without_the_extra_the_error_says_what_to_install(make, drive, tmp_path, monkeypatch):
    path = make.write(tmp_path / "bag", drive(1.0))
    monkeypatch.setitem(sys.modules, "rosbags.typesys", None)
    with pytest.raises(MissingDependencyError, match=r"vjepa_ac_planner\[bags\]"):
        Bag.open(path)


def test_memory_does_not_grow_with_the_recording(make, picture, tmp_path):
    import tracemalloc

    pixels = picture(0, 200, 200)  # 120 kB
    peaks = []
    for seconds in (6, 18):
        messages = []
        for i in range(seconds * 100):
            stamp = T0 + i * 10_000_000
            messages.append(("/ee_pose", make.pose(stamp), stamp))
            messages.append(("/hand", make.fingers(stamp, 0.02), stamp))
            if i % 3 == 0:
                messages.append(("/camera", make.image(stamp, pixels), stamp))
        path = make.write(tmp_path / str(seconds), messages)
        with Bag.open(path) as bag:
            tracemalloc.start()
            count = sum(1 for _ in bag.samples(PERIOD))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert count >= seconds * 3.5
    # One second of frames is 4 MB, the longer recording 72 MB.
    assert peaks[1] < 1.25 * peaks[0] and peaks[1] < 12e6, peaks


IDL = """\
#include "geometry_msgs/msg/PoseStamped.idl"
#include "std_msgs/msg/Header.idl"
module franka_msgs {
  module msg {
    @verbatim (language="comment", text="State of the robot")
    struct FrankaRobotState {
      std_msgs::msg::Header header;
      geometry_msgs::msg::PoseStamped o_t_ee;
    };
  };
};
"""


@pytest.mark.parametrize("text", [IDL, "=" * 80 + "\nIDL: franka_msgs/msg/FrankaRobotState\n" + IDL])
def test_definitions_in_idl_are_understood(make, text):
    from vjepa_ac_planner.bags.messages import FRANKA_STATE, Decoder
    from vjepa_ac_planner.bags.storage import TopicInfo

    pose = bytes(make.store.serialize_cdr(make.pose(7, (1, 2, 3)), "geometry_msgs/msg/PoseStamped"))[4:]
    # A header of 16 bytes (no name, and room up to the next multiple of four), then the pose's own header.
    header = np.array([0, 7, 1, 0], dtype="<u4").tobytes()
    message = memoryview(b"\0\1\0\0" + header + pose)
    decoder = Decoder({"/s": TopicInfo("/s", FRANKA_STATE, 1, text, "ros2idl")})
    position, rotation = decoder.pose("/s", message)
    np.testing.assert_array_equal(position, [1, 2, 3])
    np.testing.assert_allclose(rotation, np.diag([1, -1, -1]), atol=1e-12)

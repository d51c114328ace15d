"""Bags written with the writers of ``rosbags``, not with our own: what robots record, in both storages."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

T0 = 1_700_000_000_000_000_000
FRANKA = "franka_msgs/msg/FrankaRobotState"
FRANKA_DEFINITION = """\
std_msgs/Header header
float64[7] measured_joints
geometry_msgs/PoseStamped o_t_ee
geometry_msgs/PoseStamped o_t_ee_d
uint8 ROBOT_MODE_MOVE=2
uint8 robot_mode
franka_msgs/Errors current_errors
================================================================================
MSG: franka_msgs/Errors
bool reflex
bool[3] others
"""


class Maker:
    """Builds messages and writes them as a bag."""

    def __init__(self, *definitions: tuple[str, str]) -> None:
        typesys = pytest.importorskip("rosbags.typesys")
        self.rosbag2 = pytest.importorskip("rosbags.rosbag2")
        self.store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
        for text, kind in definitions:
            self.store.register(typesys.get_types_from_msg(text, kind))

    def __call__(self, kind: str, *values):
        return self.store.types[kind](*values)

    def header(self, stamp: int, frame: str = "frame"):
        time = self("builtin_interfaces/msg/Time", *divmod(stamp, 10**9))
        return self("std_msgs/msg/Header", time, frame)

    def image(self, stamp: int, pixels, encoding: str = "rgb8", step: int | None = None, data=None):
        height, width = pixels.shape[:2]
        row = int(np.prod(pixels.shape[1:]))
        if data is None:
            step = step or row
            rows = np.zeros((height, step), dtype=np.uint8)
            rows[:, :row] = pixels.reshape(height, row)
            data = rows.reshape(-1)
        return self(
            "sensor_msgs/msg/Image",
            self.header(stamp, "camera"),
            height,
            width,
            encoding,
            0,
            step or row,
            data,
        )

    def compressed(self, stamp: int, data: bytes, name: str = "jpeg"):
        array = np.frombuffer(data, dtype=np.uint8)
        return self("sensor_msgs/msg/CompressedImage", self.header(stamp, "camera"), name, array)

    def pose(self, stamp: int, xyz=(0.5, 0.0, 0.4), quaternion=(1.0, 0.0, 0.0, 0.0)):
        point = self("geometry_msgs/msg/Point", *map(float, xyz))
        turn = self("geometry_msgs/msg/Quaternion", *map(float, quaternion))
        pose = self("geometry_msgs/msg/Pose", point, turn)
        return self("geometry_msgs/msg/PoseStamped", self.header(stamp, "base"), pose)

    def joints(self, stamp: int, names, positions):
        empty = np.zeros(0)
        values = np.asarray(positions, dtype=np.float64)
        return self("sensor_msgs/msg/JointState", self.header(stamp), list(names), values, empty, empty)

    def fingers(self, stamp: int, width: float):
        return self.joints(stamp, ["panda_finger_joint1", "panda_finger_joint2"], [width / 2, width / 2])

    def franka(self, stamp: int, xyz):
        errors = self("franka_msgs/msg/Errors", False, np.zeros(3, dtype=bool))
        poses = self.pose(stamp, xyz), self.pose(stamp, (9, 9, 9))
        return self(FRANKA, self.header(stamp), np.zeros(7), *poses, 2, errors)

    def write(self, path: Path, messages, storage: str = "mcap", compression: str = "NONE") -> Path:
        """Write (topic, message, received) as a bag folder; compression NONE, FILE, MESSAGE or STORAGE."""
        plugin = self.rosbag2.StoragePlugin[storage.upper()]
        writer = self.rosbag2.Writer(path, version=9, storage_plugin=plugin)
        if compression != "NONE":
            mode = self.rosbag2.CompressionMode[compression]
            writer.set_compression(mode, self.rosbag2.CompressionFormat.ZSTD)
        with writer:
            self.fill(writer, messages)
        return path

    def fill(self, writer, messages) -> None:
        connections = {}
        for topic, message, received in messages:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=self.store)
            writer.write(connections[topic], received, self.store.serialize_cdr(message, kind))


@pytest.fixture(scope="session")
def make() -> Maker:
    return Maker()


@pytest.fixture(scope="session")
def make_franka() -> Maker:
    return Maker((FRANKA_DEFINITION, FRANKA))


@pytest.fixture(scope="session")
def picture():
    """A different, textured image for every number."""

    def draw(number: int, height: int = 24, width: int = 32) -> np.ndarray:
        rng = np.random.default_rng(number)
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)

    return draw


@pytest.fixture(scope="session")
def drive(make, picture):
    """Messages of a robot: camera at 15 Hz, pose at 100 Hz, gripper at 10 Hz, moving along x."""

    def messages(
        seconds: float = 3.0, *, image: str = "/camera/image_raw", delay: int = 0, start: int = T0
    ):
        items = []
        for i in range(round(seconds * 15)):
            stamp = start + i * 66_666_667
            items.append((image, make.image(stamp, picture(i)), stamp + delay))
        for i in range(round(seconds * 100)):
            stamp = start + i * 10_000_000
            items.append(("/ee_pose", make.pose(stamp, (0.3 + 0.0005 * i, 0.0, 0.4)), stamp))
        for i in range(round(seconds * 10)):
            stamp = start + i * 100_000_000
            items.append(("/franka_gripper/joint_states", make.fingers(stamp, 0.08 - 0.001 * i), stamp))
        return sorted(items, key=lambda item: item[2])

    return messages


@pytest.fixture(scope="session")
def overlapping():
    """Writes chunks that all span the same time, each with a large message between two small ones."""
    from vjepa_ac_planner.bags.library import need

    zstd = need("zstd")

    def write(path: Path, chunks: int, size: int, small: str = "/small") -> None:
        def part(operation: int, content: bytes) -> bytes:
            return struct.pack("<BQ", operation, len(content)) + content

        def text(value: str) -> bytes:
            return struct.pack("<I", len(value)) + value.encode()

        def channel(number: int, topic: str) -> bytes:
            return part(4, struct.pack("<HH", number, 1) + text(topic) + text("cdr") + bytes(4))

        def message(number: int, time: int, data: bytes) -> bytes:
            return part(5, struct.pack("<HIQQ", number, 0, time, time) + data)

        string = b"\0\1\0\0" + text("x\0")
        out = b"\x89MCAP0\r\n" + part(1, text("ros2") + text(""))
        out += part(
            3, struct.pack("<H", 1) + text("std_msgs/msg/String") + text("ros2msg") + text("string data")
        )
        out += channel(1, small) + channel(2, "/large")
        for i in range(chunks):
            plain = (
                message(1, 1 + i, string) + message(2, 1 + i, bytes(size)) + message(1, 10**9 + i, string)
            )
            packed = zstd.compress(plain)
            head = struct.pack("<QQQI", 1, 10**9 + chunks, len(plain), 0)
            out += part(6, head + text("zstd") + struct.pack("<Q", len(packed)) + packed)
        path.write_bytes(out)

    return write

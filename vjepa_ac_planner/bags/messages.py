"""What the messages of a recording say: stamps, images, poses, grippers.

Standard messages are decoded by the definitions that ``rosbags`` brings along; others, such as
``franka_msgs/FrankaRobotState``, by the definition stored in the recording.
"""

from __future__ import annotations

import re
import struct
from functools import cache
from typing import Any

import numpy as np

from vjepa_ac_planner.bags.images import Image, decode_compressed, decode_image
from vjepa_ac_planner.bags.library import need
from vjepa_ac_planner.bags.poses import Vector, checked_rotation, quaternion_to_matrix
from vjepa_ac_planner.bags.storage import TopicInfo
from vjepa_ac_planner.errors import BagError, InputError

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
POSE = "geometry_msgs/msg/PoseStamped"
FRANKA_STATE = "franka_msgs/msg/FrankaRobotState"
JOINTS = "sensor_msgs/msg/JointState"
STRING = "std_msgs/msg/String"
IMAGES = (IMAGE, COMPRESSED_IMAGE)
POSES = (POSE, FRANKA_STATE)
STAMPED = (*IMAGES, *POSES, JOINTS)
"""Types whose first field is a header."""

FINGER_TRAVEL = 0.08
"""Width between the open fingers of a Franka hand [m]."""
_TYPE_NAME = re.compile(r"[a-z][a-z0-9_]*/(msg/)?[A-Za-z][A-Za-z0-9_]*")
_FIXED_ARRAY = re.compile(r"\[\s*(?:<=)?\s*(\d+)\s*\]|,\s*(\d+)\s*>|\w\s+\w+\[(\d+)\]")
_LARGEST_ARRAY = 4096
"""Code is generated for every element of some arrays: more is taken for damage."""


class Decoder:
    """Decodes the messages of one recording.

    Args:
        topics: what the recording says of its topics.

    Raises:
        MissingDependencyError: the ``bags`` extra is not installed.
    """

    def __init__(self, topics: dict[str, TopicInfo]) -> None:
        self._topics = topics
        self._typesys = need("typesys")
        self._store = standard_types()

    def message(self, topic: str, data: memoryview) -> Any:
        """One message as an object with the fields of its type.

        Raises:
            BagError: the type is unknown, or the data do not fit it.
        """
        info = self._topics[topic]
        self._learn(info)
        try:
            return self._store.deserialize_cdr(data, info.type)
        except Exception as error:  # generated code on foreign bytes: anything may be raised
            raise BagError(f"{topic}: message cannot be decoded as {info.type} ({error!r})") from error

    def image(self, topic: str, data: memoryview) -> tuple[Image, str]:
        """[H, W, 3] uint8 RGB and the frame id of an image message, raw or compressed.

        Raises:
            BagError: the message is damaged.
            InputError: its pixels cannot be used.
        """
        message = self.message(topic, data)
        if self._topics[topic].type == COMPRESSED_IMAGE:
            pixels = decode_compressed(message.data, message.format)
        else:
            pixels = decode_image(
                message.encoding, message.height, message.width, message.step, message.data
            )
        # A view of the message would keep the whole chunk that it lies in for as long as the frame is kept.
        return pixels if pixels.flags.owndata else pixels.copy(), str(message.header.frame_id)

    def pose(self, topic: str, data: memoryview) -> tuple[Vector, Vector]:
        """Position [3] [m] and rotation [3, 3] of a pose or Franka state message.

        Raises:
            BagError: the message is damaged, or of a layout that is not known.
            InputError: the quaternion or matrix is no rotation.
        """
        message = self.message(topic, data)
        if self._topics[topic].type == FRANKA_STATE:
            message = getattr(message, "o_t_ee", None)
            if isinstance(message, np.ndarray) and message.shape == (16,):
                matrix = message.astype(np.float64).reshape(4, 4).T  # libfranka is column-major
                return matrix[:3, 3], checked_rotation(matrix[:3, :3])
        try:
            pose = message.pose
            p, q = pose.position, pose.orientation
            return np.array([p.x, p.y, p.z]), quaternion_to_matrix([q.x, q.y, q.z, q.w])
        except AttributeError as error:
            raise BagError(f"{topic}: this {FRANKA_STATE} has no pose in o_t_ee") from error

    def closedness(self, topic: str, data: memoryview) -> float:
        """Gripper closedness of a joint state message, 0 open .. 1 closed.

        ``1 - sum(fingers) / 0.08``, the fingers being joints with ``finger`` in their name; a single one
        stands for both.

        Raises:
            BagError: the message is damaged.
            InputError: no finger among its joints, or a width that is not finite.
        """
        message = self.message(topic, data)
        fingers = finger_indices(message.name)
        if not fingers or max(fingers) >= len(message.position):
            raise InputError(f"gripper: no finger position among the joints {list(message.name)}")
        width = float(sum(message.position[i] for i in fingers)) * (2 if len(fingers) == 1 else 1)
        if not np.isfinite(width):
            raise InputError(f"gripper: the width must be finite, received {width}")
        # A calibrated hand reads a little beyond its travel at both ends.
        return min(max(1.0 - width / FINGER_TRAVEL, 0.0), 1.0)

    def _learn(self, info: TopicInfo) -> None:
        """Take a type's definition from the recording, unless it is known."""
        if info.type in self._store.fielddefs:
            return
        if not info.definition:
            raise BagError(
                f"{info.name}: the recording has no definition of {info.type}; record as MCAP, which "
                "stores it, or name a topic of a standard type"
            )
        sizes = [int(n) for groups in _FIXED_ARRAY.findall(info.definition) for n in groups if n]
        if not _TYPE_NAME.fullmatch(info.type) or max(sizes, default=0) > _LARGEST_ARRAY:
            raise BagError(f"{info.name}: the definition of {info.type!r} is damaged")
        try:
            if info.definition_format == "ros2msg":
                types = self._typesys.get_types_from_msg(info.definition, info.type)
            else:
                types = {}
                for part in re.split(r"^=+\n", info.definition, flags=re.MULTILINE):
                    # Not part of the language: titles of the parts, and includes (all parts are here).
                    text = re.sub(r"^(IDL: |\s*#).*$", "", part, flags=re.MULTILINE).strip()
                    if text:
                        types.update(self._typesys.get_types_from_idl(text))
            if self._store is standard_types():  # which others use too
                self._store = self._typesys.get_typestore(self._typesys.Stores.ROS2_HUMBLE)
            known = self._store.fielddefs
            self._store.register({name: fields for name, fields in types.items() if name not in known})
            if info.type not in known:
                raise KeyError(info.type)
        except Exception as error:  # a parser on foreign text: anything may be raised
            raise BagError(
                f"{info.name}: the definition of {info.type!r} is damaged ({error!r})"
            ) from error


@cache
def standard_types() -> Any:
    """The types of ROS 2 Humble; those used here have not changed since. Decoders are made once for all."""
    typesys = need("typesys")
    return typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)


def header_stamp(data: memoryview) -> int:
    """Stamp [ns] of a message that begins with a header, without decoding the rest.

    Raises:
        BagError: too short, or not a time.
    """
    if len(data) < 12 or data[0] != 0 or data[1] > 1:
        raise BagError("message is too short, or not CDR")
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] else ">iI", data, 4)
    if nanoseconds >= 1_000_000_000:
        raise BagError("message has a stamp that is no time")
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def finger_indices(names: list[str]) -> list[int]:
    """Which joints are the fingers of a parallel gripper."""
    return [i for i, name in enumerate(names) if "finger" in name.lower()]

"""Bags written: one MCAP file, whole under its name or not there.

The file is written with the ``mcap`` library and not with the writer of ``rosbags``: the latter makes a
folder, whose index and metadata exist only after a clean end, and writes chunks without checksums. Here
every chunk goes to the operating system as soon as it is closed, so that after a kill everything up to the
last chunk is there, in ``FILE.partial``; this package reads such a file as it is, and so does
``mcap recover``. Definitions of all types are stored, so that Foxglove and ROS 2 open it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.bags.library import need
from vjepa_ac_planner.bags.messages import FINGER_TRAVEL, standard_types
from vjepa_ac_planner.bags.poses import state_quaternion
from vjepa_ac_planner.errors import BagError

STEP_BYTES = 4096
"""Chunks this small are closed by any image of 40x40 pixels: what was written before it in the same step
goes to the disk with it."""


class BagWriter:
    """Writes one MCAP file of ROS 2 messages; a context manager.

    Leaving the block without an error completes the file and gives it its name; an error leaves what was
    written as ``FILE.partial``.

    Args:
        path: the file; neither it nor ``FILE.partial`` may exist.
        compress: compress chunks (zstd); JPEG images gain nothing by it.
        chunk_bytes: size at which a chunk is closed and written.

    Raises:
        BagError: the file exists, ``FILE.partial`` is left of a run that was killed or is being written,
            or it cannot be written.
        MissingDependencyError: the ``bags`` extra is not installed.
    """

    def __init__(self, path: str | Path, *, compress: bool = True, chunk_bytes: int = STEP_BYTES) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        mcap = need("mcap")
        self._store = standard_types()
        self.types = self._store.types
        """Message classes by name, to build messages with."""
        self._channels: dict[str, tuple[int, str]] = {}
        self._schemas: dict[str, int] = {}
        self._closed = False
        if self.path.exists():
            raise self._taken()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.partial.open("xb", buffering=0)
        except OSError as error:
            if os.path.lexists(self.partial):
                raise BagError(
                    f"{self.partial}: exists, left by a run that was killed, or being written by another; "
                    "choose another name, or rename it (it is a bag as far as it goes) or remove it"
                ) from error
            raise BagError(f"{self.path}: cannot be written ({error.strerror})") from error
        compression = mcap.CompressionType.ZSTD if compress else mcap.CompressionType.NONE
        self._mcap = mcap.Writer(_Whole(self._file), chunk_size=chunk_bytes, compression=compression)
        self._guarded(self._mcap.start, "ros2", "vjepa_ac_planner")

    def write(self, topic: str, kind: str, message: Any, stamp: int) -> None:
        """Write one message.

        Args:
            topic: its topic; all messages of a topic are of one type.
            kind: ROS name of the type, such as ``std_msgs/msg/String``.
            message: an object with the fields of the type, see ``types``.
            stamp: time at which it counts as recorded [ns].

        Raises:
            BagError: it cannot be written (the disk is full), or does not fit its type.
        """
        try:
            data = self._store.serialize_cdr(message, kind)
        except Exception as error:  # generated code on any object
            raise BagError(f"{topic}: message does not fit {kind} ({error!r})") from error
        self.write_raw(topic, kind, data, stamp)

    def write_raw(self, topic: str, kind: str, data: bytes | memoryview, stamp: int) -> None:
        """Write one message that is CDR already; see :meth:`write`."""
        if self._closed:
            raise BagError(f"{self.path}: is closed")
        if topic not in self._channels:
            self._channels[topic] = self._guarded(self._register, topic, kind), kind
        channel, known = self._channels[topic]
        if known != kind:
            raise BagError(f"{topic}: holds {known}, received {kind}")
        if not 0 <= stamp < 1 << 63:
            raise BagError(f"{topic}: the time must lie in 0 .. 2^63 ns, received {stamp}")
        self._guarded(self._mcap.add_message, channel, stamp, data, stamp)

    def _register(self, topic: str, kind: str) -> int:
        if kind not in self._schemas:
            text, _ = self._store.generate_msgdef(kind, ros_version=2)
            self._schemas[kind] = self._mcap.register_schema(kind, "ros2msg", text.encode())
        # An empty list of profiles: a player then offers what the publisher's defaults are.
        metadata = {"offered_qos_profiles": ""}
        number: int = self._mcap.register_channel(topic, "cdr", self._schemas[kind], metadata)
        return number

    def _guarded(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except OSError as error:
            raise BagError(f"{self.partial}: cannot be written ({error.strerror or error})") from error

    def close(self) -> None:
        """Complete the file and give it its name; safe to call twice.

        Raises:
            BagError: the disk is full, or another took the name meanwhile; what was written stays as
                ``FILE.partial``.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._guarded(self._mcap.finish)
        finally:
            self._file.close()
        self._guarded(self._name)

    def _name(self) -> None:
        """Give the file its name, unless that is taken."""
        try:
            os.link(self.partial, self.path)
        except FileExistsError as error:
            raise self._taken() from error
        except OSError:  # no hard links here, such as on a USB stick's FAT: a look before must do
            if self.path.exists():
                raise self._taken() from None
            self.partial.rename(self.path)
        else:
            self.partial.unlink()

    def _taken(self) -> BagError:
        return BagError(f"{self.path}: exists; recordings are never overwritten, choose another name")

    def abandon(self) -> None:
        """Stop writing without completing the file: it stays readable as ``FILE.partial``."""
        if not self._closed:
            self._closed = True
            with suppress(Exception):  # what is in the last chunk is worth having, but no more
                self._mcap.finish()
            self._file.close()

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()

    # Messages that several writers need.

    def time(self, stamp: int) -> Any:
        """A ``builtin_interfaces/Time`` of nanoseconds."""
        return self.types["builtin_interfaces/msg/Time"](*divmod(stamp, 1_000_000_000))

    def header(self, stamp: int, frame_id: str) -> Any:
        """A ``std_msgs/Header``."""
        return self.types["std_msgs/msg/Header"](self.time(stamp), frame_id)

    def image(self, topic: str, pixels: npt.NDArray[np.uint8], stamp: int, frame_id: str) -> None:
        """Write [H, W, 3] uint8 RGB as a raw ``sensor_msgs/Image``."""
        height, width, _ = pixels.shape
        data = np.ascontiguousarray(pixels).reshape(-1)
        message = self.types["sensor_msgs/msg/Image"](
            self.header(stamp, frame_id), height, width, "rgb8", 0, 3 * width, data
        )
        self.write(topic, "sensor_msgs/msg/Image", message, stamp)

    def compressed(self, topic: str, data: bytes, stamp: int, frame_id: str) -> None:
        """Write the bytes of a JPEG or PNG file as a ``sensor_msgs/CompressedImage``."""
        kind = "png" if data[:4] == b"\x89PNG" else "jpeg"
        message = self.types["sensor_msgs/msg/CompressedImage"](
            self.header(stamp, frame_id),
            f"rgb8; {kind} compressed bgr8",
            np.frombuffer(data, dtype=np.uint8),
        )
        self.write(topic, "sensor_msgs/msg/CompressedImage", message, stamp)

    def pose(self, topic: str, state: npt.ArrayLike, stamp: int, frame_id: str = "base") -> None:
        """Write the pose of a state [>=6] as a ``geometry_msgs/PoseStamped``."""
        message = self.types["geometry_msgs/msg/PoseStamped"](
            self.header(stamp, frame_id), self.pose_of(state)
        )
        self.write(topic, "geometry_msgs/msg/PoseStamped", message, stamp)

    def pose_of(self, state: npt.ArrayLike) -> Any:
        """A ``geometry_msgs/Pose`` of a state [>=6]."""
        values = np.asarray(state, dtype=np.float64)
        point = self.types["geometry_msgs/msg/Point"](*values[:3].tolist())
        turn = self.types["geometry_msgs/msg/Quaternion"](*state_quaternion(values[3:6]).tolist())
        return self.types["geometry_msgs/msg/Pose"](point, turn)

    def poses(self, topic: str, states: npt.ArrayLike, stamp: int, frame_id: str = "base") -> None:
        """Write the poses of states [T, >=6] as a ``geometry_msgs/PoseArray``."""
        message = self.types["geometry_msgs/msg/PoseArray"](
            self.header(stamp, frame_id), [self.pose_of(state) for state in np.asarray(states)]
        )
        self.write(topic, "geometry_msgs/msg/PoseArray", message, stamp)

    def gripper(self, topic: str, closedness: float, stamp: int) -> None:
        """Write a closedness, clipped to 0 .. 1, as the positions of a Franka hand's two fingers."""
        finger = (1.0 - min(max(closedness, 0.0), 1.0)) * FINGER_TRAVEL / 2
        self.joints(topic, ["panda_finger_joint1", "panda_finger_joint2"], [finger, finger], stamp)

    def joints(
        self, topic: str, names: list[str], values: npt.ArrayLike, stamp: int, frame_id: str = ""
    ) -> None:
        """Write positions by name as a ``sensor_msgs/JointState``."""
        empty = np.zeros(0)
        message = self.types["sensor_msgs/msg/JointState"](
            self.header(stamp, frame_id), names, np.asarray(values, dtype=np.float64), empty, empty
        )
        self.write(topic, "sensor_msgs/msg/JointState", message, stamp)

    def text(self, topic: str, text: str, stamp: int) -> None:
        """Write a ``std_msgs/String``."""
        self.write(topic, "std_msgs/msg/String", self.types["std_msgs/msg/String"](text), stamp)

    def number(self, topic: str, value: float, stamp: int) -> None:
        """Write a ``std_msgs/Float64``."""
        self.write(topic, "std_msgs/msg/Float64", self.types["std_msgs/msg/Float64"](float(value)), stamp)


class _Whole:
    """An unbuffered file that writes all of what it is given, and so nothing is left in this process."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        view = memoryview(data)
        done = 0
        while done < len(view):
            done += self._file.write(view[done:])
        return done

    def tell(self) -> int:
        return int(self._file.tell())

    def flush(self) -> None:
        self._file.flush()

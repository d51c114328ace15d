"""What the converters share: one episode of somebody else's data becomes one bag.

Topics are those of the live node. The camera is ``/camera/image_raw/compressed`` (JPEG, quality 95, at the
size and rate of the source), the pose ``/franka_robot_state_broadcaster/current_pose``, the gripper
``/franka_gripper/joint_states`` (closedness 0 open .. 1 closed, written as the width of fingers that open
0.08 m, whatever gripper it was), and ``/source`` (String, JSON) says where it is from. Times are kept;
sampling to 4 Hz happens when the bag is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vjepa_ac_planner.bags.images import Image
from vjepa_ac_planner.bags.record import RecordTopics, to_json
from vjepa_ac_planner.bags.records import SOURCE_TOPIC
from vjepa_ac_planner.bags.writer import BagWriter
from vjepa_ac_planner.errors import BagError
from vjepa_ac_planner.outputs import make_folder
from vjepa_ac_planner.types import FloatArray

QUALITY = 95
_CHUNK_BYTES = 1 << 20


class Moment(NamedTuple):
    """One step of an episode."""

    state: FloatArray
    """[7] of the source's end-effector frame."""
    state_stamp: int
    """[ns]"""
    image: Image | bytes | None
    """[H, W, 3] uint8 RGB, or a JPEG or PNG file's bytes; None where the frame is missing."""
    image_stamp: int
    """[ns]"""


@dataclass
class Converted:
    """What became of one episode."""

    source: str
    """Name of the episode."""
    path: Path
    """The bag."""
    steps: int = 0
    """Steps written."""
    frames: int = 0
    """Frames written."""
    existed: bool = False
    """Whether the bag was there already, and so was left alone."""
    notes: list[str] = field(default_factory=list)
    """What a user should know."""
    problem: str = ""
    """Why there is no bag."""


def write_episode(result: Converted, about: dict[str, Any], moments: Iterable[Moment]) -> None:
    """Write one episode; the bag appears when it is whole.

    Args:
        result: where to write, and where steps and frames are counted.
        about: where the data are from, as JSON.
        moments: the steps, streamed.

    Raises:
        BagError: it cannot be written, or holds no frame.
    """
    import cv2

    topics = RecordTopics()
    make_folder(result.path.parent)
    begun = False
    # Left by a conversion that was killed: it can be made again.
    result.path.with_name(result.path.name + ".partial").unlink(missing_ok=True)
    bag = BagWriter(result.path, compress=False, chunk_bytes=_CHUNK_BYTES)
    try:
        for moment in moments:
            if not begun:
                bag.text(SOURCE_TOPIC, to_json(about), min(moment.state_stamp, moment.image_stamp))
                begun = True
            bag.pose(topics.pose, moment.state, moment.state_stamp)
            bag.gripper(topics.gripper, float(moment.state[6]), moment.state_stamp)
            result.steps += 1
            if moment.image is None:
                continue
            data = moment.image
            if not isinstance(data, bytes):
                done, encoded = cv2.imencode(
                    ".jpg", cv2.cvtColor(data, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
                )
                if not done:
                    raise BagError(f"{result.source}: a frame of {data.shape} cannot be encoded")
                data = encoded.tobytes()
            bag.compressed(topics.image + "/compressed", data, moment.image_stamp, "camera")
            result.frames += 1
        if not result.frames:
            raise BagError(f"{result.source}: holds no frame")
        bag.close()
    except BaseException:
        bag.abandon()
        bag.partial.unlink(missing_ok=True)
        raise


def nearest_times(wanted: Sequence[float], tolerance: float, frames: Iterable[tuple[float, Image]]) -> Any:
    """For each wanted time, the frame nearest to it, streamed; None where none is near.

    Args:
        wanted: increasing times [s].
        tolerance: how far a frame may be [s].
        frames: (time, image), increasing.
    """
    source = iter(frames)
    before: tuple[float, Image] | None = None
    after = next(source, None)
    for time in wanted:
        while after is not None and after[0] < time:
            before, after = after, next(source, None)
        near = [
            frame for frame in (before, after) if frame is not None and abs(frame[0] - time) <= tolerance
        ]
        best = min(near, key=lambda frame: abs(frame[0] - time), default=None)
        yield None if best is None else best[1]


def checked(state: Any, where: str) -> FloatArray:
    """A state [7] that is finite, its closedness clipped: sensors read a little beyond both ends.

    Raises:
        BagError: not 7 finite numbers.
    """
    vector = np.array(state, dtype=np.float64)
    if vector.shape != (7,) or not np.isfinite(vector).all():
        raise BagError(f"{where}: expected 7 finite numbers, received {vector.tolist()}")
    vector[6] = min(max(vector[6], 0.0), 1.0)
    return vector

"""DROID's raw episodes (``trajectory.h5`` and MP4 recordings) as bags.

Layout of an episode (https://droid-dataset.github.io, "Accessing raw data")::

    trajectory.h5            observation/robot_state/cartesian_position  [N, 6] m, extrinsic-xyz Euler [rad]
                             observation/robot_state/gripper_position    [N] 0 open .. 1 closed
                             observation/timestamp/robot_state/read_{start,end}          [N] ms
                             observation/timestamp/cameras/<serial>_estimated_capture    [N] ms
                             observation/camera_type/<serial>            [N] 0 on the wrist, else outside
    recordings/MP4/<serial>.mp4            left image of each stereo camera; frame i belongs to step i
    recordings/MP4/<serial>-stereo.mp4     both images side by side; not used
    metadata_*.json                        left_mp4_path: the camera on the robot's left

The pose is that of ``panda_link8`` in the base frame, the frame of V-JEPA 2-AC's states: no offset is
needed. Both stamps are on the clock of the computer that recorded: the camera's is the estimated exposure,
the robot's the middle of the read-out (its own ``robot_timestamp`` is on the clock of another computer). So
a frame is paired with the state nearest to its exposure, some 40 ms before the step that it came with.
V-JEPA 2-AC was trained on frames and states paired by index instead, which ``pairing="index"`` gives:
frames then carry the stamp of their step's state.

Its published loader (``app/vjepa_droid/droid.py``) counts frames: every ``ceil(rate of the MP4 / 4)``-th.
These files say 60 frames per second and were grabbed at 15 Hz (droid-dataset/droid, issue 13), so that is
every 15th, about 1 s apart and not 0.25 s (facebookresearch/vjepa2, issue 183; whether the released weights
were trained on files that say so is not known). ``stride=15`` gives these.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vjepa_ac_planner.bags.convert import Converted, Moment, checked, write_episode
from vjepa_ac_planner.bags.library import need
from vjepa_ac_planner.bags.video import video_frames
from vjepa_ac_planner.errors import BagError, PlannerError

Pairing = Literal["time", "index"]
RATE_HZ = 15.0
"""At which frames were grabbed, about; the MP4 files say 60 [Hz]."""
_MILLI = 1_000_000


def convert_droid(
    source: str | Path,
    out: str | Path,
    camera: str | None = None,
    pairing: Pairing = "time",
    stride: int = 1,
) -> Iterator[Converted]:
    """Convert every episode below a folder; those that were converted before are left alone.

    Args:
        source: an episode's folder, or any folder above episodes.
        out: folder for the bags, one ``.mcap`` per episode, named after the episode's path.
        camera: serial number of the camera; None takes the one on the robot's left if the metadata name
            it, else the first one that is not on the wrist.
        pairing: stamp frames with their exposure (``time``), or with their step's state (``index``).
        stride: keep every so-manieth step only, beginning with the first.

    Yields:
        What became of each episode; one that cannot be converted has a ``problem``, and the rest go on.

    Raises:
        BagError: no episode there.
        MissingDependencyError: the ``convert`` extra is not installed.
    """
    need("h5py"), need("av")
    root, target = Path(source), Path(out)
    episodes = sorted(path.parent for path in root.rglob("trajectory.h5")) if root.is_dir() else []
    if not episodes:
        raise BagError(f"{root}: no trajectory.h5 in it or below; is it a folder of raw DROID episodes?")
    for folder in episodes:
        parts = folder.relative_to(root).parts or (folder.resolve().name,)
        result = Converted("/".join(parts), target / ("-".join(parts).replace(":", "_") + ".mcap"))
        if result.path.exists():
            result.existed = True
        else:
            try:
                _convert(folder, result, camera, pairing, stride)
            except PlannerError as error:
                result.problem = str(error)
        yield result


def _convert(folder: Path, result: Converted, camera: str | None, pairing: Pairing, stride: int) -> None:
    h5py = need("h5py")
    try:
        with h5py.File(folder / "trajectory.h5", "r") as file:
            serial = _serial(folder, file, camera)
            video = folder / "recordings" / "MP4" / f"{serial}.mp4"
            if not video.is_file():
                raise BagError(f"{result.source}: no recording {video.relative_to(folder)}")
            about = {
                "format": "DROID raw",
                "episode": result.source,
                "camera": serial,
                "ee_frame": "panda_link8",
                "pairing": pairing,
                "stride": stride,
                "task": _plain(file.attrs.get("current_task", "")),
                "success": _plain(file.attrs.get("success", None)),
            }
            moments = _moments(file, serial, video, result, pairing)
            write_episode(result, about, islice(moments, None, None, stride))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BagError(f"{result.source}: trajectory.h5 cannot be read ({error})") from error


def _serial(folder: Path, file: Any, camera: str | None) -> str:
    kinds = {
        str(name): int(np.ravel(data[:1])[0]) for name, data in file["observation/camera_type"].items()
    }
    outside = sorted(name for name, kind in kinds.items() if kind != 0)
    if camera is not None:
        if camera not in kinds:
            raise BagError(f"camera: received {camera!r}, this episode has {', '.join(sorted(kinds))}")
        return camera
    for path in sorted(folder.glob("metadata_*.json")):
        try:
            left = Path(str(json.loads(path.read_text(encoding="utf-8"))["left_mp4_path"])).stem
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if left in kinds:
            return left
    if not outside:
        raise BagError(f"{folder.name}: has no camera outside the wrist; name one ({', '.join(kinds)})")
    return outside[0]


def _moments(file: Any, serial: str, video: Path, result: Converted, pairing: Pairing) -> Iterator[Moment]:
    robot = file["observation/robot_state"]
    poses, grippers = robot["cartesian_position"], robot["gripper_position"]
    clock = file["observation/timestamp"]
    starts, ends = (clock[f"robot_state/{name}"][:] for name in ("read_start", "read_end"))
    captures = _captures(clock["cameras"], serial, result)
    steps = min(len(poses), len(grippers), len(starts), len(ends), len(captures))
    frames = video_frames(video)
    number = -1
    for number in range(steps):
        frame = next(frames, None)
        if frame is None:
            result.notes.append(f"{steps - number} steps without a frame at the end, left out")
            return
        state = checked([*poses[number], np.ravel(grippers[number])[0]], f"{result.source}: step {number}")
        middle = (int(starts[number]) + int(ends[number])) * _MILLI // 2
        exposure = int(captures[number]) * _MILLI if pairing == "time" else middle
        yield Moment(state, middle, frame[1], exposure)
    if next(frames, None) is not None:
        result.notes.append(f"the recording goes on after the last of {steps} steps; its end is left out")


def _captures(cameras: Any, serial: str, result: Converted) -> Any:
    for name in ("estimated_capture", "frame_received", "read_end"):
        if f"{serial}_{name}" in cameras:
            if name != "estimated_capture":
                result.notes.append(f"no estimated capture times: {name} is used, some 40 ms late")
            return cameras[f"{serial}_{name}"][:]
    raise BagError(f"{result.source}: no times of camera {serial}")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value

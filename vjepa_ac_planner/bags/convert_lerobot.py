"""LeRobot data sets (v2.0, v2.1 and v3.0: parquet, and MP4 or embedded images) as bags, one per episode.

Layouts (https://huggingface.co/docs/lerobot)::

    v2.x  meta/info.json  meta/episodes.jsonl
          data/chunk-000/episode_000000.parquet
          videos/chunk-000/<camera>/episode_000000.mp4
    v3.0  meta/info.json  meta/episodes/chunk-000/file-000.parquet
          data/chunk-000/file-000.parquet                   several episodes in one file
          videos/<camera>/chunk-000/file-000.mp4            likewise, from from_timestamp on

What the numbers mean is not fixed by the format, so it is found by name or told:

- Pose: ``observation.state.cartesian_position`` (as in LeRobot's DROID: x, y, z, roll, pitch, yaw of
  ``panda_link8``), else a state vector whose elements are named x, y, z and roll, pitch, yaw (or rx, ry,
  rz; both extrinsic-xyz Euler angles [rad]), or x, y, z and qx, qy, qz, qw. Where it is the pose of another
  frame than link8, give the reader's ``offset``.
- Gripper: ``observation.state.gripper_position``, else an element whose name has ``grip`` in it, taken for
  closedness, 0 open .. 1 closed (DROID's convention), unless told to be ``openness`` or ``width`` [m].
- Times: ``timestamp`` of each row, from 1 s on (a stamp of 0 means unset in ROS).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vjepa_ac_planner.bags.convert import Converted, Moment, checked, nearest_times, write_episode
from vjepa_ac_planner.bags.library import need
from vjepa_ac_planner.bags.messages import FINGER_TRAVEL
from vjepa_ac_planner.bags.poses import quaternion_to_matrix, state_pose
from vjepa_ac_planner.bags.video import video_frames
from vjepa_ac_planner.errors import BagError, PlannerError

Gripper = Literal["closedness", "openness", "width"]
_START = 1_000_000_000
_POSE, _GRIPPER = "observation.state.cartesian_position", "observation.state.gripper_position"
_POSITION = ("x", "y", "z")
_ROTATIONS = (("roll", "pitch", "yaw"), ("rx", "ry", "rz"), ("qx", "qy", "qz", "qw"))


@dataclass(frozen=True)
class LeRobotNames:
    """Features to read; None means found by name (see this module)."""

    camera: str | None = None
    """A feature of images or video, such as ``observation.images.exterior_1_left``."""
    pose: str | None = None
    """A feature with the pose among its elements."""
    gripper: str | None = None
    """A feature with the gripper among its elements."""
    gripper_means: Gripper = "closedness"
    """What the gripper's number says: closedness, openness (both 0 .. 1), or the width [m]."""


def convert_lerobot(
    source: str | Path,
    out: str | Path,
    names: LeRobotNames | None = None,
    episodes: range | None = None,
) -> Iterator[Converted]:
    """Convert episodes of a data set on this disk; those that were converted before are left alone.

    Args:
        source: the data set's folder, with ``meta/info.json`` in it.
        out: folder for the bags, ``episode_000000.mcap`` and so on.
        names: features to read.
        episodes: which ones; None takes all.

    Yields:
        What became of each episode; one that cannot be converted has a ``problem``, and the rest go on.

    Raises:
        BagError: not such a data set, another version, or features that cannot be told.
        MissingDependencyError: the ``convert`` extra is not installed.
    """
    need("parquet"), need("av")
    data = _DataSet(Path(source), names or LeRobotNames())
    for row in data.episodes():
        try:
            index = int(row["episode_index"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BagError(
                f"{data.root}: the list of episodes is damaged: expected an object with a number "
                f"episode_index, received {str(row)[:80]}"
            ) from error
        if episodes is not None and index not in episodes:
            continue
        result = Converted(f"episode {index}", Path(out) / f"episode_{index:06d}.mcap")
        if result.path.exists():
            result.existed = True
        else:
            try:
                about = {
                    "format": f"LeRobot {data.version}",
                    "data_set": data.root.resolve().name,
                    "episode": index,
                    "camera": data.camera,
                    "tasks": list(row.get("tasks") or []),
                    "robot": data.info.get("robot_type"),
                }
                write_episode(result, about, data.moments(row, result))
            except PlannerError as error:
                result.problem = str(error)
            except (OSError, LookupError, TypeError, ValueError, ArithmeticError) as error:
                result.problem = f"{result.source}: cannot be read ({error!r})"
        yield result


class _DataSet:
    """Where things are in one data set."""

    def __init__(self, root: Path, names: LeRobotNames) -> None:
        self.root, self._names = root, names
        self._parquet = need("parquet")
        try:
            self.info = json.loads((root / "meta" / "info.json").read_text(encoding="utf-8"))
            self.version = str(self.info["codebase_version"])
            self._features: dict[str, Any] = dict(self.info["features"])
            self._fps = float(self.info["fps"])
            for name, feature in self._features.items():
                if not isinstance(feature, dict):
                    raise TypeError(f"feature {name}: expected an object, received {str(feature)[:80]}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BagError(
                f"{root}: meta/info.json of a LeRobot data set is missing or damaged ({error})"
            ) from error
        if self.version not in ("v2.0", "v2.1", "v3.0"):
            raise BagError(f"{root}: is LeRobot {self.version}, allowed v2.0, v2.1, v3.0; convert it first")
        if not self._fps > 0:
            raise BagError(f"{root}: fps must be positive, received {self._fps}")
        self.camera = self._find_camera()
        self._pose, self._indices, self._quaternion = self._find_pose()
        self._gripper, self._grip = self._find_gripper()

    def episodes(self) -> Iterator[dict[str, Any]]:
        """What is known of each episode, streamed."""
        try:
            if self.version == "v3.0":
                files = sorted((self.root / "meta" / "episodes").glob("*/*.parquet"))
                if not files:
                    raise BagError(f"{self.root}: no file in meta/episodes")
                for path in files:
                    file = self._parquet.ParquetFile(path)
                    columns = [c for c in file.schema_arrow.names if not c.startswith("stats/")]
                    for batch in file.iter_batches(batch_size=256, columns=columns):
                        yield from batch.to_pylist()
            else:
                with (self.root / "meta" / "episodes.jsonl").open(encoding="utf-8") as lines:
                    yield from (json.loads(line) for line in lines if line.strip())
        except (OSError, ValueError) as error:
            raise BagError(f"{self.root}: the list of episodes cannot be read ({error})") from error

    def moments(self, row: dict[str, Any], result: Converted) -> Iterator[Moment]:
        """The steps of one episode."""
        index = int(row["episode_index"])
        embedded = self._features[self.camera]["dtype"] == "image"
        path = self._data_path(row)
        columns = [*dict.fromkeys((self._pose, *((self._gripper,) if self._gripper else ()))), "timestamp"]
        table = self._parquet.read_table(path, columns=columns, filters=[("episode_index", "==", index)])
        times = np.asarray(table["timestamp"].to_pylist(), dtype=np.float64).ravel()
        if not times.size or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise BagError(f"{result.source}: its timestamps do not increase, or there are none")
        if self._gripper is None:
            result.notes.append("no gripper feature: it counts as open throughout")
        if embedded:
            images = self._embedded(path, index)
        else:
            video, start = self._video(row)
            frames = video_frames(video, max(0.0, start - 0.5 / self._fps))
            images = nearest_times((start + times).tolist(), 0.5 / self._fps, frames)
        poses = table[self._pose].to_pylist()
        grippers = poses if self._gripper == self._pose else None
        if self._gripper is not None and grippers is None:
            grippers = table[self._gripper].to_pylist()
        missing = 0
        for number, (time, image) in enumerate(zip(times, images, strict=False)):
            grip = np.ravel(grippers[number])[self._grip] if grippers is not None else None
            state = self._state(np.ravel(poses[number]), grip, f"{result.source}: row {number}")
            stamp = _START + round(time * 1e9)
            missing += image is None
            yield Moment(state, stamp, image, stamp)
        if missing:
            result.notes.append(f"{missing} of {len(times)} rows have no frame in the video")

    def _state(self, pose: Any, grip: Any, where: str) -> Any:
        values = [float(pose[i]) for i in self._indices]
        if self._quaternion:
            values = list(state_pose(values[:3], quaternion_to_matrix(values[3:])))
        closed = 0.0 if grip is None else float(grip)
        if self._names.gripper_means == "openness" and grip is not None:
            closed = 1.0 - closed
        elif self._names.gripper_means == "width" and grip is not None:
            closed = 1.0 - closed / FINGER_TRAVEL
        return checked([*values, closed], where)

    def _data_path(self, row: dict[str, Any]) -> Path:
        index = int(row["episode_index"])
        if self.version == "v3.0":
            where = {"chunk_index": int(row["data/chunk_index"]), "file_index": int(row["data/file_index"])}
        else:
            where = {
                "episode_chunk": index // int(self.info.get("chunks_size", 1000)),
                "episode_index": index,
            }
        return self._inside(str(self.info["data_path"]).format(**where))

    def _video(self, row: dict[str, Any]) -> tuple[Path, float]:
        """The video file of an episode, and where in it the episode begins [s]."""
        index, key = int(row["episode_index"]), self.camera
        where: dict[str, Any] = {"video_key": key}
        start = 0.0
        if self.version == "v3.0":
            where["chunk_index"] = int(row[f"videos/{key}/chunk_index"])
            where["file_index"] = int(row[f"videos/{key}/file_index"])
            start = float(row[f"videos/{key}/from_timestamp"])
        else:
            where["episode_chunk"] = index // int(self.info.get("chunks_size", 1000))
            where["episode_index"] = index
        return self._inside(str(self.info["video_path"]).format(**where)), start

    def _inside(self, name: str) -> Path:
        path = self.root / name
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise BagError(f"{self.root}: info.json leads outside, to {name!r}")
        if not path.is_file():
            raise BagError(f"{self.root}: no file {name}")
        return path

    def _embedded(self, path: Path, index: int) -> Iterator[bytes | None]:
        columns = [self.camera, "episode_index"]
        for batch in self._parquet.ParquetFile(path).iter_batches(batch_size=16, columns=columns):
            for row in batch.to_pylist():
                if row["episode_index"] == index:
                    yield (row[self.camera] or {}).get("bytes")

    def _find_camera(self) -> str:
        cameras = [
            name
            for name, feature in self._features.items()
            if feature.get("dtype") in ("video", "image") and not _is_depth(feature) and "depth" not in name
        ]
        if self._names.camera is not None:
            return self._named("camera", self._names.camera, cameras)
        outside = [name for name in cameras if not any(w in name for w in ("wrist", "hand", "gripper"))]
        fitting = outside or cameras
        if len(fitting) != 1:
            raise BagError(f"camera: cannot be told, name one of {', '.join(cameras) or 'none'}")
        return fitting[0]

    def _find_pose(self) -> tuple[str, tuple[int, ...], bool]:
        if self._names.pose is None and _POSE in self._features:
            return _POSE, tuple(range(6)), False
        vectors = [name for name, f in self._features.items() if str(f.get("dtype")).startswith("float")]
        asked = self._names.pose
        candidates = (
            [name for name in vectors if name.startswith("observation")]
            if asked is None
            else [self._named("pose", asked, vectors)]
        )
        for name in candidates:
            elements = _elements(self._features[name])
            for rotation in _ROTATIONS:
                wanted = (*_POSITION, *rotation)
                if all(element in elements for element in wanted):
                    return name, tuple(elements.index(element) for element in wanted), len(rotation) == 4
        if asked is not None and self._features[asked].get("shape") in ([6], [7]):
            return asked, tuple(range(6)), False  # told: x, y, z, Euler angles, and maybe the gripper
        raise BagError(
            f"pose: no feature is {_POSE} or has elements named x, y, z and roll, pitch, yaw (or rx, ry, "
            f"rz, or qx, qy, qz, qw); vectors here: {', '.join(vectors) or 'none'}"
        )

    def _find_gripper(self) -> tuple[str | None, int]:
        asked = self._names.gripper
        if asked is None and _GRIPPER in self._features:
            return _GRIPPER, 0
        for name in (self._pose,) if asked is None else (asked,):
            if name not in self._features:
                self._named("gripper", name, list(self._features))
            elements = _elements(self._features[name])
            grips = [i for i, element in enumerate(elements) if "grip" in element]
            if grips:
                return name, grips[0]
            if asked is not None and self._features[name].get("shape") == [1]:
                return name, 0
        if asked is not None:
            raise BagError(f"gripper: {asked} has no element with 'grip' in its name")
        return None, 0

    def _named(self, role: str, name: str, allowed: list[str]) -> str:
        if name not in allowed:
            raise BagError(f"{role}: received {name!r}, this data set has {', '.join(allowed) or 'none'}")
        return name


def _elements(feature: dict[str, Any]) -> list[str]:
    """Names of a vector's elements: a list, or a list under some heading."""
    names = feature.get("names")
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    return [str(name).lower() for name in names] if isinstance(names, list) else []


def _is_depth(feature: dict[str, Any]) -> bool:
    infos = [info for info in (feature.get("video_info"), feature.get("info")) if isinstance(info, dict)]
    return any(info.get("video.is_depth_map") or info.get("is_depth_map") for info in infos)

"""Converters, on small data sets written here in exactly the layouts of DROID and LeRobot."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")
h5py = pytest.importorskip("h5py")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
av = pytest.importorskip("av")

from vjepa_ac_planner.bags.convert_droid import convert_droid  # noqa: E402
from vjepa_ac_planner.bags.convert_lerobot import LeRobotNames, convert_lerobot  # noqa: E402
from vjepa_ac_planner.bags.reader import Bag  # noqa: E402
from vjepa_ac_planner.errors import BagError  # noqa: E402

STEPS = 24
CHOSEN = [0, 4, 8, 12, 16, 20, 23]
"""Of 15 Hz at 4 Hz; after the last whole period the last frame is the nearest there is."""
EPOCH_MS = 1_690_000_000_000


def frame(number: int) -> np.ndarray:
    """A flat colour that video keeps apart from its neighbours."""
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    image[..., 0] = 8 * number % 256
    image[..., 1] = 255 - 8 * number % 256
    image[..., 2] = 60
    return image


def write_video(path: Path, numbers, fps: int = 15, codec: str = "libx264") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in numbers:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame(number), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def shows(image: np.ndarray, number: int) -> bool:
    return np.abs(image.astype(int) - frame(number)).mean() < 4


def states() -> np.ndarray:
    """[N, 7] that differ in every step."""
    t = np.arange(STEPS)[:, None]
    return np.hstack(
        [0.4 + 0.005 * t, -0.2 + 0.004 * t, 0.3 + 0 * t, 3.0 + 0 * t, 0.01 * t, -0.5 + 0 * t, t / STEPS]
    )


def write_droid(folder: Path, *, metadata: bool = True, extra_frames: int = 0) -> Path:
    folder.mkdir(parents=True)
    vectors = states()
    clock = EPOCH_MS + np.round(np.arange(STEPS) * 1000 / 15).astype(np.int64)
    with h5py.File(folder / "trajectory.h5", "w") as file:
        file.attrs["current_task"] = "put the cup on the plate"
        file.attrs["success"] = True
        robot = file.create_group("observation/robot_state")
        robot["cartesian_position"], robot["gripper_position"] = vectors[:, :6], vectors[:, 6]
        robot["joint_positions"] = np.zeros((STEPS, 7))
        stamps = file.create_group("observation/timestamp")
        stamps["robot_state/read_start"], stamps["robot_state/read_end"] = clock - 1, clock + 1
        stamps["robot_state/robot_timestamp_seconds"] = np.arange(STEPS)
        for serial, kind in (("11", 1), ("22", 0), ("33", 2)):
            stamps[f"cameras/{serial}_frame_received"] = clock
            stamps[f"cameras/{serial}_estimated_capture"] = clock - 41
            file[f"observation/camera_type/{serial}"] = np.full(STEPS, kind)
        file["action/cartesian_position"] = vectors[:, :6]
    for offset, serial in enumerate(("11", "22", "33")):
        numbers = [number + offset for number in range(STEPS + extra_frames)]
        write_video(folder / "recordings" / "MP4" / f"{serial}.mp4", numbers)
        write_video(folder / "recordings" / "MP4" / f"{serial}-stereo.mp4", [0])
    if metadata:
        about = {"left_mp4_path": "success/x/recordings/MP4/33.mp4", "ext1_cam_serial": "11"}
        (folder / "metadata_LAB+x.json").write_text(json.dumps(about))
    return folder


class TestDroid:
    def test_an_episode_becomes_a_bag(self, tmp_path):
        folder = write_droid(tmp_path / "raw" / "LAB" / "Fri_Jul__7_09:42:23_2023")
        (result,) = convert_droid(tmp_path / "raw", tmp_path / "out")
        assert not result.problem and not result.notes and (result.steps, result.frames) == (STEPS, STEPS)
        assert result.path.name == "LAB-Fri_Jul__7_09_42_23_2023.mcap"
        with Bag.open(result.path) as bag:
            found = list(bag.samples(0.25))
            assert not bag.skipped and {s.segment for s in found} == {0}
        for step, sample in zip(CHOSEN, found, strict=True):
            assert shows(sample.observation.frame.image, step + 2)  # camera 33, on the left by the metadata
            capture = EPOCH_MS + round(step * 1000 / 15) - 41
            assert sample.time == pytest.approx(capture / 1000, abs=1e-6)
            # The state is the one nearest to the exposure: here the one of the step before, 26 ms away.
            near = max(step - 1, 0)
            np.testing.assert_allclose(sample.observation.state.vector, states()[near], atol=1e-9)
        assert folder.exists()

    def test_the_camera_can_be_named_and_is_never_the_wrist_by_itself(self, tmp_path):
        write_droid(tmp_path / "raw", metadata=False)
        (first,) = convert_droid(tmp_path / "raw", tmp_path / "a")
        (named,) = convert_droid(tmp_path / "raw", tmp_path / "b", camera="22")
        with Bag.open(first.path) as one, Bag.open(named.path) as other:
            assert shows(one.last_frame().image, STEPS - 1) and shows(other.last_frame().image, STEPS)
        (wrong,) = convert_droid(tmp_path / "raw", tmp_path / "c", camera="99")
        assert "received '99', this episode has 11, 22, 33" in wrong.problem

    def test_frames_and_states_can_be_paired_by_index_as_at_training(self, tmp_path):
        write_droid(tmp_path / "raw")
        (result,) = convert_droid(tmp_path / "raw", tmp_path / "out", "11", "index")
        with Bag.open(result.path) as bag:
            for step, sample in zip(CHOSEN, bag.samples(0.25), strict=True):
                assert shows(sample.observation.frame.image, step)
                np.testing.assert_allclose(sample.observation.state.vector, states()[step], atol=1e-9)

    def test_steps_can_be_counted_as_the_published_loader_does(self, tmp_path):
        write_droid(tmp_path / "raw")
        (result,) = convert_droid(tmp_path / "raw", tmp_path / "out", "11", "index", 15)
        assert (result.steps, result.frames) == (2, 2)
        with Bag.open(result.path) as bag:
            found = list(bag.samples(1.0))
        for step, sample in zip((0, 15), found, strict=True):
            assert shows(sample.observation.frame.image, step)
            np.testing.assert_allclose(sample.observation.state.vector, states()[step], atol=1e-9)

    def test_a_second_run_does_nothing_again(self, tmp_path):
        write_droid(tmp_path / "raw" / "one")
        (first,) = convert_droid(tmp_path / "raw", tmp_path / "out")
        before = first.path.stat().st_mtime_ns
        (second,) = convert_droid(tmp_path / "raw", tmp_path / "out")
        assert second.existed and second.path.stat().st_mtime_ns == before

    def test_a_conversion_that_was_killed_goes_on(self, tmp_path):
        write_droid(tmp_path / "raw" / "one")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "one.mcap.partial").write_bytes(b"\x89MCAP0\r\n")
        (result,) = convert_droid(tmp_path / "raw", tmp_path / "out")
        assert not result.problem and [p.name for p in (tmp_path / "out").iterdir()] == ["one.mcap"]

    def test_what_is_wrong_with_one_episode_does_not_stop_the_others(self, tmp_path):
        write_droid(tmp_path / "raw" / "a")
        (tmp_path / "raw" / "a" / "trajectory.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
        write_droid(tmp_path / "raw" / "b", extra_frames=3)
        write_droid(tmp_path / "raw" / "c")
        video = tmp_path / "raw" / "c" / "recordings" / "MP4" / "33.mp4"
        video.write_bytes(video.read_bytes()[:200])
        write_droid(tmp_path / "raw" / "d")
        (tmp_path / "raw" / "d" / "recordings" / "MP4" / "33.mp4").unlink()
        a, b, c, d = convert_droid(tmp_path / "raw", tmp_path / "out")
        assert "trajectory.h5 cannot be read" in a.problem
        assert not b.problem and "goes on after the last of 24 steps" in b.notes[0]
        assert "cannot be decoded" in c.problem
        assert "no recording recordings/MP4/33.mp4" in d.problem
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["b.mcap"]

    def test_a_folder_without_episodes(self, tmp_path):
        with pytest.raises(BagError, match=r"no trajectory\.h5"):
            list(convert_droid(tmp_path, tmp_path / "out"))


DROID_FEATURES = {
    "observation.images.wrist_left": {
        "dtype": "video",
        "shape": [48, 64, 3],
        "names": ["height", "width", "channels"],
    },
    "observation.images.exterior_1_left": {"dtype": "video", "shape": [48, 64, 3], "names": None},
    "observation.images.depth": {
        "dtype": "video",
        "shape": [48, 64, 3],
        "info": {"video.is_depth_map": True},
    },
    "observation.state.cartesian_position": {
        "dtype": "float32",
        "shape": [6],
        "names": {"axes": ["x", "y", "z", "roll", "pitch", "yaw"]},
    },
    "observation.state.gripper_position": {
        "dtype": "float32",
        "shape": [1],
        "names": {"axes": ["gripper"]},
    },
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
}
CAMERA = "observation.images.exterior_1_left"


def rows(episode: int, vectors: np.ndarray, fps: int = 15) -> dict:
    count = len(vectors)
    return {
        "observation.state.cartesian_position": [v[:6].astype(np.float32).tolist() for v in vectors],
        "observation.state.gripper_position": pa.array([float(v[6]) for v in vectors], pa.float32()),
        "timestamp": pa.array(np.arange(count) / fps, pa.float32()),
        "frame_index": list(range(count)),
        "episode_index": [episode] * count,
        "index": list(range(count)),
        "task_index": [0] * count,
    }


def write_v21(root: Path, features=None, make_rows=rows, episodes: int = 2) -> Path:
    info = {
        "codebase_version": "v2.1",
        "robot_type": "Franka",
        "fps": 15,
        "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features or DROID_FEATURES,
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    lines = [{"episode_index": i, "tasks": ["pick"], "length": STEPS} for i in range(episodes)]
    (root / "meta" / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "data" / "chunk-000").mkdir(parents=True)
    for i in range(episodes):
        table = pa.table(make_rows(i, states()))
        pq.write_table(table, root / "data" / "chunk-000" / f"episode_{i:06d}.parquet")
        write_video(
            root / "videos" / "chunk-000" / CAMERA / f"episode_{i:06d}.mp4", [n + i for n in range(STEPS)]
        )
    return root


def write_v30(root: Path, episodes: int = 3, codec: str = "libx264") -> Path:
    info = {
        "codebase_version": "v3.0",
        "robot_type": "Franka",
        "fps": 15,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": DROID_FEATURES,
    }
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    table = {
        "episode_index": list(range(episodes)),
        "tasks": [["pick"]] * episodes,
        "length": [STEPS] * episodes,
        "data/chunk_index": [0] * episodes,
        "data/file_index": [0] * episodes,
        f"videos/{CAMERA}/chunk_index": [0] * episodes,
        f"videos/{CAMERA}/file_index": [0] * episodes,
        f"videos/{CAMERA}/from_timestamp": [i * STEPS / 15 for i in range(episodes)],
        f"videos/{CAMERA}/to_timestamp": [(i + 1) * STEPS / 15 for i in range(episodes)],
        "stats/action/mean": [[0.0]] * episodes,
    }
    pq.write_table(pa.table(table), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    parts = [pa.table(rows(i, states() + [0.01 * i, 0, 0, 0, 0, 0, 0])) for i in range(episodes)]
    (root / "data" / "chunk-000").mkdir(parents=True)
    pq.write_table(pa.concat_tables(parts), root / "data" / "chunk-000" / "file-000.parquet")
    numbers = [n + i for i in range(episodes) for n in range(STEPS)]
    write_video(root / "videos" / CAMERA / "chunk-000" / "file-000.mp4", numbers, codec=codec)
    return root


def check(path: Path, shift: int = 0, dx: float = 0.0) -> None:
    with Bag.open(path) as bag:
        found = list(bag.samples(0.25))
        assert not bag.skipped and {s.segment for s in found} == {0}
    for step, sample in zip(CHOSEN, found, strict=True):
        assert shows(sample.observation.frame.image, step + shift), (step, shift)
        assert sample.time == pytest.approx(1 + step / 15, abs=1e-6)
        expected = states()[step] + [dx, 0, 0, 0, 0, 0, 0]
        np.testing.assert_allclose(sample.observation.state.vector, expected, atol=1e-6)


class TestLeRobot:
    def test_v21(self, tmp_path):
        results = list(convert_lerobot(write_v21(tmp_path / "set"), tmp_path / "out"))
        assert [r.path.name for r in results] == ["episode_000000.mcap", "episode_000001.mcap"]
        for shift, result in enumerate(results):
            assert (
                not result.problem and not result.notes and (result.steps, result.frames) == (STEPS, STEPS)
            )
            check(result.path, shift)

    @pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
    def test_v30_with_several_episodes_in_one_file(self, tmp_path, codec):
        if codec not in av.codecs_available:
            pytest.skip(f"this FFmpeg cannot write {codec}")
        root = write_v30(tmp_path / "set", codec=codec)  # AV1 is what LeRobot writes by itself
        results = list(convert_lerobot(root, tmp_path / "out", episodes=range(1, 3)))
        assert [r.source for r in results] == ["episode 1", "episode 2"]
        for number, result in enumerate(results, start=1):
            assert (
                not result.problem and not result.notes and (result.steps, result.frames) == (STEPS, STEPS)
            )
            check(result.path, number, 0.01 * number)

    def test_named_elements_quaternions_and_embedded_images(self, tmp_path):
        from vjepa_ac_planner.bags.poses import state_quaternion

        names = ["q1", "x", "y", "z", "qx", "qy", "qz", "qw", "gripper_width"]
        features = {
            "image": {"dtype": "image", "shape": [48, 64, 3]},
            "observation.state": {"dtype": "float32", "shape": [9], "names": {"motors": names}},
        }

        def make_rows(episode, vectors):
            table = rows(episode, vectors)
            width = [0.08 * (1 - v[6]) for v in vectors]
            table["observation.state"] = [
                [9.0, *v[:3], *state_quaternion(v[3:6]), w] for v, w in zip(vectors, width, strict=True)
            ]
            pngs = [cv2.imencode(".png", frame(i)[..., ::-1])[1].tobytes() for i in range(len(vectors))]
            table["image"] = [{"bytes": png, "path": f"{i}.png"} for i, png in enumerate(pngs)]
            return table

        root = write_v21(tmp_path / "set", features, make_rows, episodes=1)
        (result,) = convert_lerobot(root, tmp_path / "out", LeRobotNames(gripper_means="width"))
        assert not result.problem and result.frames == STEPS
        check(result.path)

    def test_openness(self, tmp_path):
        root = write_v21(tmp_path / "set", episodes=1)
        (result,) = convert_lerobot(root, tmp_path / "out", LeRobotNames(gripper_means="openness"))
        with Bag.open(result.path) as bag:
            assert next(bag.samples(0.25)).observation.state.gripper == pytest.approx(1.0)

    def test_a_data_set_without_pose_or_with_several_cameras_says_so(self, tmp_path):
        joints = {"observation.state": {"dtype": "float32", "shape": [7], "names": ["q1"] * 7}}
        root = write_v21(tmp_path / "a", {CAMERA: DROID_FEATURES[CAMERA], **joints}, episodes=0)
        with pytest.raises(BagError, match=r"pose: no feature .* vectors here: observation.state"):
            list(convert_lerobot(root, tmp_path / "out"))
        two = {**DROID_FEATURES, "observation.images.exterior_2_left": DROID_FEATURES[CAMERA]}
        root = write_v21(tmp_path / "b", two, episodes=0)
        with pytest.raises(
            BagError, match=r"camera: cannot be told, name one of .*exterior_1_left, .*exterior_2_left"
        ):
            list(convert_lerobot(root, tmp_path / "out"))
        assert list(convert_lerobot(root, tmp_path / "out", LeRobotNames(camera=CAMERA))) == []

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"codebase_version": "v1.6"}, "allowed v2.0, v2.1, v3.0"),
            ({"fps": 0}, "fps must be positive"),
            ({"features": None}, "missing or damaged"),
            ({"features": {"c": "image"}}, "feature c: expected an object, received image"),
            ({"features": {CAMERA: DROID_FEATURES[CAMERA], "s": {"dtype": None}}}, "pose: no feature"),
            ({"features": {CAMERA: {"dtype": "video", "info": "deep"}}}, "pose: no feature"),
        ],
    )
    def test_info_that_cannot_be_used(self, tmp_path, change, text):
        root = write_v21(tmp_path / "set", episodes=0)
        info = json.loads((root / "meta" / "info.json").read_text()) | change
        (root / "meta" / "info.json").write_text(json.dumps(info))
        with pytest.raises(BagError, match=text):
            list(convert_lerobot(root, tmp_path / "out"))

    @pytest.mark.parametrize("line", ['{"episode": 0}', "[1]", '{"episode_index": null}'])
    def test_an_episode_without_a_number_is_named(self, tmp_path, line):
        root = write_v21(tmp_path / "set", episodes=0)
        (root / "meta" / "episodes.jsonl").write_text(line)
        with pytest.raises(
            BagError, match=r"the list of episodes is damaged.*a number episode_index, received"
        ):
            list(convert_lerobot(root, tmp_path / "out"))

    def test_damage_in_one_episode_does_not_stop_the_others(self, tmp_path):
        root = write_v21(tmp_path / "set", episodes=3)
        data = root / "data" / "chunk-000" / "episode_000000.parquet"
        data.write_bytes(data.read_bytes()[:100])
        (root / "videos" / "chunk-000" / CAMERA / "episode_000001.mp4").unlink()
        one, two, three = convert_lerobot(root, tmp_path / "out")
        assert one.problem and "no file videos" in two.problem and not three.problem
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["episode_000002.mcap"]

    def test_paths_do_not_leave_the_data_set(self, tmp_path):
        root = write_v21(tmp_path / "set", episodes=1)
        info = json.loads((root / "meta" / "info.json").read_text())
        (root / "meta" / "info.json").write_text(json.dumps(info | {"data_path": "../../etc/passwd"}))
        (result,) = convert_lerobot(root, tmp_path / "out")
        assert "leads outside" in result.problem

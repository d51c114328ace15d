"""Recordings of every kind become training data; what cannot be read is skipped, counted and reported."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from vjepa_ac_planner.bags.convert_lerobot import LeRobotNames
from vjepa_ac_planner.bags.reader import Bag
from vjepa_ac_planner.bags.writer import BagWriter
from vjepa_ac_planner.errors import BagError, InputError
from vjepa_ac_planner.preprocess import IMAGENET_STD, preprocess, shrink
from vjepa_ac_planner.training import importing
from vjepa_ac_planner.training.dataset import Dataset
from vjepa_ac_planner.training.importing import Imported, Report, finish, import_recordings
from vjepa_ac_planner.training.sources import (
    Reading,
    Recording,
    Step,
    from_bags,
    from_droid,
    from_lerobot,
    from_play,
    source_kind,
)

READING = Reading(size=32)
RATE = 8
"""Frames per second of the recordings here: every other one is a sample."""


def picture(number: int) -> np.ndarray:
    """A flat colour that JPEG keeps apart from its neighbours."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:] = (8 * number % 256, 255 - 8 * number % 256, 60)
    return image


def state(number: int) -> np.ndarray:
    return np.array([0.4 + 0.01 * number, -0.2, 0.3, 3.0, 0.0, -0.5, 0.5])


def write_bag(path: Path, frames: int, pause_after: int | None = None) -> Path:
    """An MCAP recording; with a pause of 2 s, which ends an episode."""
    with BagWriter(path) as bag:
        for number in range(frames):
            late = 2.0 if pause_after is not None and number > pause_after else 0.0
            stamp = 1_700_000_000_000_000_000 + round((number / RATE + late) * 1e9)
            bag.pose("/ee_pose", state(number), stamp)
            bag.joints("/gripper/joint_states", ["panda_finger_joint1"], [0.02], stamp)
            _, data = cv2.imencode(".png", picture(number)[..., ::-1])
            bag.compressed("/camera/image_raw/compressed", data.tobytes(), stamp, "camera")
    return path


def as_sqlite(mcap: Path, folder: Path) -> Path:
    """The same messages in an SQLite bag, written by rosbags."""
    from rosbags import rosbag2
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    with (
        Bag.open(mcap) as bag,
        rosbag2.Writer(folder, version=9, storage_plugin=rosbag2.StoragePlugin.SQLITE3) as writer,
    ):
        connections = {}
        for topic, stamp, data in bag.messages():
            if topic.name not in connections:
                connections[topic.name] = writer.add_connection(topic.name, topic.type, typestore=store)
            writer.write(connections[topic.name], stamp, bytes(data))
    return folder


def run(recordings, out: Path) -> Report:
    report = Report()
    for _ in import_recordings(recordings, out, 0.25, report):
        pass
    finish(report, out)
    return report


def test_bags_of_both_kinds_become_the_same_data(tmp_path) -> None:
    mcap = write_bag(tmp_path / "run.mcap", 17)
    sqlite = as_sqlite(mcap, tmp_path / "run_sqlite")
    report = run(from_bags([mcap, sqlite], READING), tmp_path / "data")
    assert (report.usable, report.frames, report.problems) == (2, 18, [])
    data = Dataset.open(tmp_path / "data")
    one, other = data.episodes
    assert torch.equal(one.states, other.states)
    expected = np.stack([state(number) for number in range(0, 17, 2)])
    np.testing.assert_allclose(one.states.numpy(), expected, atol=1e-6)
    images = data.shards[0].read("images")
    assert torch.equal(images, data.shards[1].read("images"))
    assert images.shape == (9, 32, 32, 3)
    assert np.abs(images[3].numpy().astype(int) - picture(6)[0, 0]).max() <= 1
    assert data.recordings == ["run.mcap", "run_sqlite"]


def test_a_pause_ends_an_episode(tmp_path) -> None:
    bag = write_bag(tmp_path / "run.mcap", 24, pause_after=11)
    run(from_bags([bag], READING), tmp_path / "data")
    data = Dataset.open(tmp_path / "data")
    assert [len(episode) for episode in data.episodes] == [6, 6]
    assert data.recordings == ["run.mcap"]
    report = json.loads((tmp_path / "data" / "import.json").read_text())
    assert report["recordings"][0]["skipped"] == {
        "gap: no usable frame one period after the last sample": 1
    }


def test_stored_frames_give_what_the_planner_sees() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 72, 128, 3), np.uint8))
    ours, theirs = preprocess(shrink(images, 32), 32), preprocess(images, 32)
    assert float((ours - theirs).abs().max()) <= 0.5 / 255 / min(IMAGENET_STD) + 1e-5


def test_damaged_recordings_are_skipped_and_reported(tmp_path) -> None:
    good = write_bag(tmp_path / "good.mcap", 17)
    cut = write_bag(tmp_path / "cut.mcap", 41)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    nothing = tmp_path / "nothing.mcap"
    nothing.write_bytes(b"no recording at all")
    report = run(from_bags([nothing, cut, good], READING), tmp_path / "data")
    broken, part, whole = report.recordings
    assert "neither an MCAP file nor an SQLite database" in broken.problem and broken.frames == 0
    assert 2 < part.frames < 21  # what was readable is kept, and the damage is counted
    assert part.problem or part.skipped
    assert (whole.frames, whole.problem, whole.skipped) == (9, "", {})
    assert report.usable == 2
    assert Dataset.open(tmp_path / "data").recordings == ["cut.mcap", "good.mcap"]
    assert json.loads((tmp_path / "data" / "import.json").read_text())["problems"] >= 1


def test_nothing_usable_is_an_error_that_says_why(tmp_path) -> None:
    (tmp_path / "a.mcap").write_bytes(b"no recording at all")
    with pytest.raises(InputError, match=r"usable in 1 recording: [^ ]*/a\.mcap: [^:]*neither an"):
        run(from_bags([tmp_path / "a.mcap"], READING), tmp_path / "data")
    with pytest.raises(InputError, match="the sources hold no recording"):
        run([], tmp_path / "data")


def test_a_second_import_does_nothing_again_and_takes_what_is_new(tmp_path) -> None:
    one = write_bag(tmp_path / "a" / "run.mcap", 17)
    run(from_bags([one], READING), tmp_path / "data")
    (shard,) = (tmp_path / "data").glob("*.safetensors")
    before = shard.stat().st_mtime_ns
    other = write_bag(tmp_path / "b" / "run.mcap", 9)  # another recording of the same name
    report = run(from_bags([one, other], READING), tmp_path / "data")
    assert [result.existed for result in report.recordings] == [True, False]
    assert shard.stat().st_mtime_ns == before
    assert sorted(len(episode) for episode in Dataset.open(tmp_path / "data").episodes) == [5, 9]


def test_a_long_recording_is_several_shards_and_the_first_comes_last(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(importing, "PART_FRAMES", 4)
    bag = write_bag(tmp_path / "long.mcap", 21)
    renamed: list[str] = []
    replace = Path.replace

    def note(self: Path, target: Path) -> Path:
        renamed.append(Path(target).name)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", note)
        run(from_bags([bag], READING), tmp_path / "data")
    assert renamed == ["long_mcap.002.safetensors", "long_mcap.001.safetensors", "long_mcap.safetensors"]
    data = Dataset.open(tmp_path / "data")
    assert sorted(len(episode) for episode in data.episodes) == [3, 4, 4]
    assert data.recordings == ["long.mcap"]
    # Killed before the first part had its name: the recording counts as missing, and is imported again.
    (tmp_path / "data" / "long_mcap.safetensors").unlink()
    report = run(from_bags([bag], READING), tmp_path / "data")
    assert not report.recordings[0].existed
    assert Dataset.open(tmp_path / "data").frames == 11


def test_a_recording_that_broke_off_is_read_again(tmp_path, monkeypatch) -> None:
    """It is replaced once more comes of it, by shards of the same names; until then it is left as it is."""
    monkeypatch.setattr(importing, "PART_FRAMES", 4)
    image = torch.zeros(32, 32, 3, dtype=torch.uint8)
    folder = tmp_path / "data"

    def go(episodes: int, problem: str = "") -> Imported:
        def read():
            for number in range(episodes):
                yield iter([Step(image, torch.full((7,), float(number)))] * 3)
            if problem:
                raise BagError(problem)

        return run([Recording("run", "/robot/run", read)], folder).recordings[0]

    def shards() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}

    first = go(5, "run: cannot be read at byte 123")
    assert (first.frames, first.existed) == (15, False) and len(shards()) == 3
    before = shards()
    for episodes in (5, 2, 0):  # no more than what is there
        again = go(episodes, "run: cannot be read at byte 123")
        assert (again.frames, again.existed, again.problem) == (0, True, first.problem)
        assert shards() == before and not list(folder.glob(".*.tmp"))
    assert go(6, "run: cannot be read at byte 200").frames == 18
    assert Dataset.open(folder).frames == 18
    assert go(9).frames == 27
    whole = shards()
    assert len(whole) == 5 and Dataset.open(folder).frames == 27
    last = go(9)
    assert (last.existed, last.problem) == (True, "") and shards() == whole


def test_what_came_whole_in_the_end_may_be_shorter(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(importing, "PART_FRAMES", 4)
    image, folder = torch.zeros(32, 32, 3, dtype=torch.uint8), tmp_path / "data"

    def read(count: int, problem: str):
        for _ in range(count):
            yield iter([Step(image, torch.zeros(7))] * 4)
        if problem:
            raise BagError(problem)

    for count, problem in ((3, "broken"), (2, "")):
        run([Recording("run", "/robot/run", partial(read, count, problem))], folder)
    assert Dataset.open(folder).frames == 8 and len(list(folder.glob("*.safetensors"))) == 2


def test_play_data_of_the_simulator(tmp_path, moving_square) -> None:
    episodes = [moving_square(5, seed) for seed in range(3)]
    folder = tmp_path / "play"
    folder.mkdir()
    for name, part in (("shard-00000", episodes[:2]), ("shard-00001", episodes[2:])):
        np.save(folder / f"{name}-images.npy", np.stack([images for images, _ in part]))
        np.save(folder / f"{name}-states.npy", np.stack([states for _, states in part]))
    np.save(folder / "shard-00002-images.npy", np.zeros((1, 5, 32, 32, 3), np.uint8))  # states are missing
    assert source_kind(folder) == "play"
    report = run(from_play(folder, READING), tmp_path / "data")
    assert "shard-00002" in report.problems[0].problem
    data = Dataset.open(tmp_path / "data")
    assert len(data.episodes) == 3
    for episode, (images, states) in zip(data.episodes, episodes, strict=True):
        assert torch.equal(episode.states, states)
        shard = data.shards[episode.shard]
        assert torch.equal(shard.rows("images", episode.start, episode.start + 5), images)


def write_lerobot(root: Path, episodes: int, steps: int) -> Path:
    """LeRobot v2.1 with embedded images."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("av")
    (root / "meta").mkdir(parents=True)
    info = {
        "codebase_version": "v2.1",
        "fps": RATE,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": None,
        "features": {
            "observation.images.front": {"dtype": "image", "shape": [48, 64, 3]},
            "observation.state.cartesian_position": {"dtype": "float32", "shape": [6]},
            "observation.state.gripper_position": {"dtype": "float32", "shape": [1]},
        },
    }
    (root / "meta" / "info.json").write_text(json.dumps(info))
    lines = [
        json.dumps({"episode_index": index, "tasks": [], "length": steps}) for index in range(episodes)
    ]
    (root / "meta" / "episodes.jsonl").write_text("\n".join(lines))
    for index in range(episodes):
        encoded = [cv2.imencode(".png", picture(n)[..., ::-1])[1].tobytes() for n in range(steps)]
        table = {
            "observation.images.front": [{"bytes": data, "path": None} for data in encoded],
            "observation.state.cartesian_position": [state(n)[:6].tolist() for n in range(steps)],
            "observation.state.gripper_position": [[0.5]] * steps,
            "timestamp": [n / RATE for n in range(steps)],
            "episode_index": [index] * steps,
        }
        path = root / info["data_path"].format(episode_chunk=0, episode_index=index)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), path)
    return root


def test_lerobot_episodes_and_one_that_is_corrupt(tmp_path) -> None:
    root = write_lerobot(tmp_path / "set", episodes=3, steps=17)
    (root / "data" / "chunk-000" / "episode_000001.parquet").write_bytes(b"PAR1 no more")
    assert source_kind(root) == "lerobot"

    def go() -> Report:
        work = tmp_path / "data" / ".bags"
        return run(from_lerobot(root, READING, work, LeRobotNames()), tmp_path / "data")

    report = go()
    assert [result.frames for result in report.recordings] == [9, 0, 9]
    assert "episode 1: cannot be read" in report.problems[0].problem
    data = Dataset.open(tmp_path / "data")
    np.testing.assert_allclose(
        data.episodes[1].states[:, 0], [state(n)[0] for n in range(0, 17, 2)], atol=1e-6
    )
    kept = [path.stat().st_size for path in (tmp_path / "data" / ".bags").rglob("*.mcap")]
    assert kept == [0, 0]  # bags are emptied once they are imported
    assert [result.existed for result in go().recordings] == [True, False, True]


def test_droid_episodes_and_one_that_is_corrupt(tmp_path) -> None:
    h5py, av = pytest.importorskip("h5py"), pytest.importorskip("av")
    steps = 17
    clock = 1_690_000_000_000 + np.round(np.arange(steps) * 1000 / RATE).astype(np.int64)
    for name in ("a", "b"):
        folder = tmp_path / "raw" / name
        (folder / "recordings" / "MP4").mkdir(parents=True)
        with h5py.File(folder / "trajectory.h5", "w") as file:
            robot = file.create_group("observation/robot_state")
            robot["cartesian_position"] = np.stack([state(n)[:6] for n in range(steps)])
            robot["gripper_position"] = np.full(steps, 0.5)
            stamps = file.create_group("observation/timestamp")
            stamps["robot_state/read_start"], stamps["robot_state/read_end"] = clock - 1, clock + 1
            stamps["cameras/11_estimated_capture"] = clock - 40
            file["observation/camera_type/11"] = np.ones(steps)
        with av.open(str(folder / "recordings" / "MP4" / "11.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=RATE)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(steps):
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    (tmp_path / "raw" / "a" / "trajectory.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert source_kind(tmp_path / "raw") == "droid"
    report = run(from_droid(tmp_path / "raw", READING, tmp_path / "work"), tmp_path / "data")
    assert [result.frames for result in report.recordings] == [0, 9]
    assert "trajectory.h5 cannot be read" in report.problems[0].problem
    data = Dataset.open(tmp_path / "data")
    # By index: the frame of a step with the state of the same step, as the published model was trained.
    np.testing.assert_allclose(
        data.episodes[0].states[:, 0], [state(n)[0] for n in range(0, steps, 2)], atol=1e-6
    )
    colours = data.shards[0].read("images")[:, 16, 16].numpy().astype(int)
    assert all(np.abs(colour - picture(2 * i)[0, 0]).mean() < 6 for i, colour in enumerate(colours))

    # Counted, and a step of the model near enough to that many frames: every one that was counted.
    counted, report = replace(READING, stride=5, step_seconds=0.6), Report()
    recordings = from_droid(tmp_path / "raw", counted, tmp_path / "work")
    list(import_recordings(recordings, tmp_path / "counted", 0.6, report))
    states = Dataset.open(tmp_path / "counted").episodes[0].states
    np.testing.assert_allclose(states[:, 0], [state(n)[0] for n in (0, 5, 10, 15)], atol=1e-6)


def test_a_source_that_is_not_there(tmp_path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        source_kind(tmp_path / "nowhere")

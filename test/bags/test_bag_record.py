from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from vjepa_ac_planner.bags.reader import Bag
from vjepa_ac_planner.bags.record import RunInfo, RunRecorder, plan_record
from vjepa_ac_planner.bags.writer import BagWriter
from vjepa_ac_planner.control.limits import Finding
from vjepa_ac_planner.control.mpc import Step
from vjepa_ac_planner.errors import BagError
from vjepa_ac_planner.types import Command, Frame, Goal, Observation, Plan, RobotState

RUN = RunInfo(
    "model", "00ff", {"horizon": 2, "cem": {"samples": 8}}, 7, 0.25, {"torch": "2"}, extra={"task": "x"}
)
STATE = np.array([0.5 + 1e-17, 0.1 / 3, 0.4, np.pi, -0.0, 1 / 7, 0.25])


def observation(index: int, size: int = 64) -> Observation:
    rng = np.random.default_rng(index)
    image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    stamp = 10 + 0.25 * index
    state = STATE + np.array([0.01 * index, 0, 0, 0, 0, 0, 0])
    return Observation(Frame(image, stamp, "exterior"), RobotState(state, stamp))


def make_step(index: int, goal: Goal, planned: bool = True) -> Step:
    seen = observation(index)
    rng = np.random.default_rng([index, 1])
    plan = Plan(
        actions=rng.normal(0, 0.02, (2, 7)),
        predicted_states=np.tile(seen.state.vector, (3, 1)),
        energy=1 / 3,
        zero_energy=0.5,
        current_energy=float(rng.uniform()),
        iterations=(),
        evaluations=16,
        seed=7 + index,
        stop_reason="iterations",
        timings={"total": 0.1},
        surprise=None if index == 0 else 0.125,
    )
    command = Command(
        "move" if planned else "hold", seen.state.vector, 0.25, reason="" if planned else "why"
    )
    return Step(
        index,
        seen,
        goal,
        plan if planned else None,
        command,
        (),
        "" if planned else "PlanningError: no",
        "",
        {"plan": 0.2},
    )


def record(path: Path, count: int = 5) -> list[Step]:
    goal = Goal(observation(99).frame, "the cup")
    steps = [make_step(index, goal, planned=index != 3) for index in range(count)]
    with RunRecorder(path, RUN) as recorder:
        recorder.goals([goal])
        for step in steps:
            recorder.on_step(step)
        recorder.end(observation(count))
    return steps


def test_what_is_recorded_is_read_back(tmp_path):
    steps = record(tmp_path / "run.mcap")
    with Bag.open(tmp_path / "run.mcap") as bag:
        assert bag.run == RUN
        samples = list(bag.samples(0.25))
        plans = list(bag.plans())
        goals = bag.goals()
        last = bag.last_frame()
    assert len(samples) == 6 and {s.segment for s in samples} == {0} and not bag.skipped
    for step, sample in zip(steps, samples, strict=False):
        np.testing.assert_array_equal(sample.observation.frame.image, step.observation.frame.image)
        assert sample.observation.frame.stamp == step.observation.frame.stamp == sample.time
        np.testing.assert_allclose(
            sample.observation.state.vector, step.observation.state.vector, atol=1e-12
        )
    np.testing.assert_array_equal(last.image, observation(5).frame.image)
    assert [goal.name for goal in goals] == ["the cup"]
    np.testing.assert_array_equal(goals[0].frame.image, observation(99).frame.image)
    for step, plan in zip(steps, plans, strict=True):
        np.testing.assert_array_equal(plan.state, step.observation.state.vector)  # every bit
        assert plan.stamp == step.observation.frame.stamp and plan.index == step.index
        assert (plan.goal, plan.goal_index) == ("the cup", 0)
        assert plan.planned == (step.plan is not None) and plan.error == step.error
        assert plan.command == step.command.kind and plan.reason == step.command.reason
        if step.plan is not None:
            np.testing.assert_array_equal(plan.actions, step.plan.actions)
            np.testing.assert_array_equal(plan.predicted_states, step.plan.predicted_states)
            assert (plan.energy, plan.current_energy) == (step.plan.energy, step.plan.current_energy)
            assert plan.seed == 7 + step.index and plan.warm_started == (step.index > 0)
            assert plan.timings == {"plan": 0.2, "plan.total": 0.1}


def test_other_libraries_read_it(tmp_path):
    from mcap.reader import make_reader
    from rosbags.highlevel import AnyReader

    record(tmp_path / "run.mcap")
    with (tmp_path / "run.mcap").open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        topics = {channel.topic: schema.name for schema, channel, _ in reader.iter_messages()}
        assert reader.get_header().profile == "ros2"
    assert topics == {
        "/planner/run": "std_msgs/msg/String",
        "/planner/plan_record": "std_msgs/msg/String",
        "/planner/action": "sensor_msgs/msg/JointState",
        "/planner/plan": "geometry_msgs/msg/PoseArray",
        "/planner/energy": "std_msgs/msg/Float64",
        "/camera/image_raw": "sensor_msgs/msg/Image",
        "/franka_robot_state_broadcaster/current_pose": "geometry_msgs/msg/PoseStamped",
        "/franka_gripper/joint_states": "sensor_msgs/msg/JointState",
        "/goal_image": "sensor_msgs/msg/Image",
        "/target_pose": "geometry_msgs/msg/PoseStamped",
    }
    with AnyReader([tmp_path / "run.mcap"]) as reader:
        for connection, _, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            if connection.topic == "/planner/action":
                assert list(message.name) == ["dx", "dy", "dz", "drx", "dry", "drz", "dgrip"]


def test_a_recording_is_never_overwritten_nor_half_named(tmp_path):
    record(tmp_path / "run.mcap")
    with pytest.raises(BagError, match="never overwritten"):
        RunRecorder(tmp_path / "run.mcap", RUN)
    assert [p.name for p in tmp_path.iterdir()] == ["run.mcap"]
    recorder = RunRecorder(tmp_path / "next.mcap", RUN)
    recorder.on_step(make_step(0, Goal(observation(9).frame)))
    assert (tmp_path / "next.mcap.partial").exists() and not (tmp_path / "next.mcap").exists()
    recorder.close()
    recorder.close()
    assert (tmp_path / "next.mcap").exists() and not (tmp_path / "next.mcap.partial").exists()


def test_a_run_that_fails_is_recorded_all_the_same(tmp_path):
    with pytest.raises(RuntimeError, match="arm"), RunRecorder(tmp_path / "run.mcap", RUN) as recorder:
        recorder.on_step(make_step(0, Goal(observation(9).frame)))
        raise RuntimeError("arm")
    with Bag.open(tmp_path / "run.mcap") as bag:
        assert len(list(bag.plans())) == 1


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BagError, match="cannot be written"):
        RunRecorder(tmp_path / "file" / "run.mcap", RUN)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_with_a_name(tmp_path):
    with (
        pytest.raises(BagError, match="No space left"),
        RunRecorder(tmp_path / "run.mcap", RUN) as recorder,
        open("/dev/full", "wb") as full,
    ):
        os.dup2(full.fileno(), recorder._bag._file.fileno())
        recorder.on_step(make_step(0, Goal(observation(9, 256).frame)))
        recorder.on_step(make_step(1, Goal(observation(9, 256).frame)))
    assert not (tmp_path / "run.mcap").exists()


def test_what_a_killed_run_left_is_never_overwritten(tmp_path):
    record(tmp_path / "run.mcap")
    kept = (tmp_path / "run.mcap").rename(tmp_path / "run.mcap.partial").read_bytes()
    with pytest.raises(BagError, match=r"run.mcap.partial: exists, left by a run that was killed.*rename"):
        RunRecorder(tmp_path / "run.mcap", RUN)
    assert (tmp_path / "run.mcap.partial").read_bytes() == kept


@pytest.mark.parametrize("links", [True, False])
def test_two_writers_of_one_name_do_not_mix(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:  # as on FAT
        monkeypatch.setattr(os, "link", refuse)
    first = BagWriter(tmp_path / "run.mcap")
    with pytest.raises(BagError, match="being written by another"):
        BagWriter(tmp_path / "run.mcap")
    first.text("/first", "x", 1)
    # The name may be taken in between all the same, by a file that was moved there.
    (tmp_path / "run.mcap").write_text("other")
    with pytest.raises(BagError, match=r"run.mcap: exists; recordings are never overwritten"):
        first.close()
    assert (tmp_path / "run.mcap").read_text() == "other"
    with Bag.open(tmp_path / "run.mcap.partial") as bag:
        assert bag.infos["/first"].count == 1
    (tmp_path / "run.mcap").unlink()
    (tmp_path / "run.mcap.partial").unlink()
    with BagWriter(tmp_path / "run.mcap") as bag:
        bag.text("/first", "x", 1)
    assert [p.name for p in tmp_path.iterdir()] == ["run.mcap"]


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    from vjepa_ac_planner.bags.record import to_json

    text = to_json({"a": float("nan"), "b": np.float64(0.1), "c": np.arange(2), "d": (1, Path("x"))})
    assert json.loads(text) == {"a": None, "b": 0.1, "c": [0, 1], "d": [1, "x"]}


def test_findings_are_recorded_in_words():
    finding = Finding(*["x"] * len(Finding.__dataclass_fields__))
    step = make_step(0, Goal(observation(9).frame))
    object.__setattr__(step, "findings", (finding,))
    assert plan_record(step).findings == (str(finding),)


KILLED = """\
import sys, time
sys.path.insert(0, {folder!r})
from test_bag_record import *
goal = Goal(observation(99).frame, "the cup")
recorder = RunRecorder({path!r}, RUN)
recorder.goals([goal])
for index in range(1000):
    recorder.on_step(make_step(index, goal))
    print(index, flush=True)
time.sleep(60)
"""


def test_a_killed_recorder_leaves_every_finished_step(tmp_path):
    code = textwrap.dedent(KILLED).format(
        folder=str(Path(__file__).parent), path=str(tmp_path / "run.mcap")
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = -1
    for line in process.stdout:
        last = int(line)
        if last >= 20:
            break
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait(timeout=10)
    last = int(rest[-1]) if rest else last
    time.sleep(0.01)
    partial = tmp_path / "run.mcap.partial"
    with Bag.open(partial) as bag:
        assert bag.run == RUN
        samples, plans = list(bag.samples(0.25)), list(bag.plans())
        assert len(samples) >= last + 1 and len(plans) >= last + 1
        np.testing.assert_array_equal(samples[last].observation.frame.image, observation(last).frame.image)
        assert bag.skipped["file cut short: read up to the cut"] == 1


@pytest.mark.skipif(find_spec("mujoco") is None, reason="needs the sim extra")
def test_a_simulated_episode_can_be_planned_again_to_the_last_bit(tmp_path):
    from vjepa_ac_planner.models import find_model
    from vjepa_ac_planner.planning.planner import Planner
    from vjepa_ac_planner.planning.presets import PlannerConfig
    from vjepa_ac_planner.sim.evaluate import run_episode
    from vjepa_ac_planner.sim.panda import PandaSim, SimConfig
    from vjepa_ac_planner.sim.tasks import make_task
    from vjepa_ac_planner.world_model import WorldModel

    model = WorldModel.load("panda-sim", device="cpu")
    planner = Planner(model, PlannerConfig.preset("demo", {"cem": {"samples": 12, "iterations": 3}}))
    run = RunInfo.of(planner, find_model("panda-sim").weights, seed=0, task="reach")
    size = 2 * model.description.image_size
    with PandaSim(SimConfig(width=size, height=size)) as sim:
        task = make_task("reach", 7, sim)
        with RunRecorder(tmp_path / "run.mcap", run) as recorder:
            recorder.goals([task.goals[-1]])
            episode = run_episode(sim, task, planner, max_steps=4, on_step=recorder.on_step)
            recorder.end(episode.final)

    with Bag.open(tmp_path / "run.mcap") as bag:
        assert bag.run == run and len(run.model_sha256) == 64
        samples, plans, (goal,) = list(bag.samples(run.step_seconds)), list(bag.plans()), bag.goals()
    assert len(plans) == len(episode.steps) and len(samples) == len(episode.steps) + 1
    again = Planner(model, PlannerConfig.preset("demo", {"cem": {"samples": 12, "iterations": 3}}))
    previous = None
    for step, record_, sample in zip(episode.steps, plans, samples, strict=False):
        np.testing.assert_array_equal(sample.observation.frame.image, step.observation.frame.image)
        assert sample.observation.frame.stamp == pytest.approx(step.observation.frame.stamp, abs=1e-9)
        state = RobotState(np.array(record_.state), record_.state_stamp)
        plan = again.plan(
            Observation(sample.observation.frame, state),
            goal,
            warm_start=previous if record_.warm_started else None,
            seed=record_.seed,
        )
        np.testing.assert_array_equal(plan.actions, step.plan.actions)
        np.testing.assert_array_equal(record_.actions, step.plan.actions)
        assert (plan.energy, plan.current_energy, plan.surprise) == (
            record_.energy,
            record_.current_energy,
            record_.surprise,
        )
        previous = plan

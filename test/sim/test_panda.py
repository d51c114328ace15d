"""The simulated arm: tracking, limits, determinism, projection, gripper, errors."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.sim.model import JOINT_HIGH, JOINT_LOW, JOINT_SPEED, TCP_OFFSET
from vjepa_ac_planner.sim.panda import (
    WORKSPACE,
    ObjectPose,
    PandaSim,
    SimConfig,
    down_state,
    random_objects,
)
from vjepa_ac_planner.types import Command

AWAY = {"cup": ObjectPose((0.2, -0.5, 0.035)), "box": ObjectPose((0.2, 0.5, 0.0275))}
"""Objects out of the arm's way."""


def move(sim: PandaSim, state: np.ndarray, seconds: float = 0.25) -> None:
    sim.apply(Command("move", state, seconds))


def random_states(count: int, seed: int = 0) -> list[np.ndarray]:
    """A walk of full-size steps inside the workspace."""
    rng = np.random.default_rng(seed)
    position = np.array([0.53, 0.0, 0.35])
    states = []
    for _ in range(count):
        position = WORKSPACE.clip(position + rng.uniform(-0.075, 0.075, 3))
        states.append(down_state(position))
    return states


def test_each_step_ends_within_a_few_millimetres_of_its_target(sim: PandaSim) -> None:
    sim.reset_to(down_state([0.53, 0.0, 0.35]), AWAY)
    errors = []
    for state in random_states(40):
        move(sim, state)
        errors.append(np.linalg.norm(sim.state()[:3] - state[:3]))
    assert np.mean(errors) < 0.003
    assert np.max(errors) < 0.010


def test_a_step_keeps_the_hand_straight_down(sim: PandaSim) -> None:
    sim.reset_to(down_state([0.53, 0.0, 0.35]), AWAY)
    for state in random_states(20, seed=1):
        move(sim, state)
        roll, pitch, yaw = sim.state()[3:6]
        assert np.pi - abs(roll) < 0.02 and abs(pitch) < 0.02 and abs(yaw + np.pi / 4) < 0.02


def test_joints_stay_within_published_limits_all_over_the_workspace(sim: PandaSim) -> None:
    high = (*WORKSPACE.high[:2], 0.48)
    corners = np.array(np.meshgrid(*zip(WORKSPACE.low, high, strict=True))).T.reshape(-1, 3)
    for corner in corners:
        for yaw in (-0.5, 0.0, 0.5):
            state = down_state(corner, yaw=yaw)
            assert sim.reachable(state)
            sim.reset_to(state, AWAY)
            assert np.linalg.norm(sim.state()[:3] - corner) < 1e-3
            joints = sim._data.qpos[:7]
            assert (joints > JOINT_LOW).all() and (joints < JOINT_HIGH).all()


def test_the_far_upper_corner_is_known_to_be_out_of_reach(sim: PandaSim) -> None:
    assert not sim.reachable(down_state(WORKSPACE.high))
    assert sim.reachable(down_state(np.array(WORKSPACE.high) - 0.03))


def test_setpoints_never_outrun_the_joints(sim: PandaSim) -> None:
    sim.reset_to(down_state([0.4, -0.3, 0.2]), AWAY)
    before = sim._arm._q.copy()
    move(sim, down_state([0.68, 0.3, 0.5]))  # 70 cm in a quarter of a second
    assert (np.abs(sim._arm._q - before) <= JOINT_SPEED * 0.25 + 1e-9).all()


def test_one_pose_looks_the_same_whichever_way_the_arm_came(sim: PandaSim) -> None:
    goal = down_state([0.55, 0.1, 0.3])
    sim.reset_to(goal, AWAY)
    placed = sim._data.qpos[:7].copy()
    sim.reset_to(down_state([0.45, -0.2, 0.45]), AWAY)
    for t in np.linspace(0.2, 1.0, 5):
        move(sim, down_state([0.45 + 0.1 * t, -0.2 + 0.3 * t, 0.45 - 0.15 * t]))
    move(sim, goal)
    assert np.abs(sim._data.qpos[:7] - placed).max() < 0.01


def test_hold_stays_where_the_arm_was_told_to_be(sim: PandaSim) -> None:
    state = down_state([0.5, 0.1, 0.3], gripper=0.5)
    sim.reset_to(state, AWAY)
    far = down_state([0.6, -0.2, 0.4], gripper=1.0)
    for _ in range(8):
        sim.apply(Command("hold", far, 0.25, reason="test"))
    assert np.abs(sim.state() - state)[[0, 1, 2, 6]].max() < 2e-3


def test_closedness_is_zero_open_and_one_closed(sim: PandaSim) -> None:
    for gripper in (0.0, 0.3, 1.0):
        sim.reset_to(down_state([0.5, 0.0, 0.4], gripper=gripper), AWAY)
        assert sim.state()[6] == pytest.approx(gripper, abs=1e-6)
        width = sim._data.qpos[7] + sim._data.qpos[8]
        assert 1.0 - width / 0.08 == pytest.approx(gripper, abs=1e-6)
    sim.reset_to(down_state([0.5, 0.0, 0.4], gripper=0.0), AWAY)
    for _ in range(4):
        move(sim, down_state([0.5, 0.0, 0.4], gripper=1.0))
    assert sim.state()[6] > 0.99


def test_time_runs_by_the_commands_duration(sim: PandaSim) -> None:
    start = sim.time
    move(sim, down_state([0.5, 0.0, 0.4]), 0.25)
    assert sim.time - start == pytest.approx(0.25)
    observation = sim.observe()
    assert observation.frame.stamp == observation.state.stamp == sim.time


def test_tool_centre_point_is_below_the_flange(sim: PandaSim) -> None:
    sim.reset_to(down_state([0.5, 0.0, 0.4], gripper=1.0), AWAY)
    tips = np.mean([sim._data.geom(f"{side}_pad").xpos for side in ("left", "right")], axis=0)
    assert tips[:2] == pytest.approx([0.5, 0.0], abs=2e-3)
    assert tips[2] == pytest.approx(0.4 - TCP_OFFSET, abs=5e-3)


def test_projection_of_the_point_looked_at_is_the_image_centre(sim: PandaSim) -> None:
    pixels = sim.project([sim.config.camera_target])
    assert pixels == pytest.approx(np.array([[32.0, 32.0]]), abs=1e-6)


def test_projection_finds_the_box_in_the_image() -> None:
    with PandaSim(SimConfig(width=128, height=128, faces=2000, shadow_size=0)) as sim:
        sim.reset_to(down_state([0.45, -0.2, 0.5]), {"box": ObjectPose((0.55, 0.2, 0.0275))})
        image = sim.render().astype(int)
        blue = (image[..., 2] > 90) & (image[..., 2] > 2 * image[..., 0])
        rows, columns = np.nonzero(blue)
        seen = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
        assert np.abs(sim.project([[0.55, 0.2, 0.0275]])[0] - seen).max() < 1.5


def test_points_behind_the_camera_have_no_pixel(sim: PandaSim) -> None:
    assert np.isnan(sim.project([[3.0, 3.0, 2.0]])).all()


def test_snapshot_brings_back_picture_and_motion(sim: PandaSim) -> None:
    sim.reset_to(down_state([0.5, 0.0, 0.3]))
    move(sim, down_state([0.55, 0.05, 0.3]))
    kept, image = sim.snapshot(), sim.render()
    move(sim, down_state([0.6, 0.1, 0.25]))
    after = sim.state()
    sim.restore(kept)
    assert (sim.render() == image).all()
    move(sim, down_state([0.6, 0.1, 0.25]))
    assert (sim.state() == after).all()


_FRAME_HASH = """
import hashlib, numpy as np
from vjepa_ac_planner.sim.panda import PandaSim, SimConfig, down_state
from vjepa_ac_planner.types import Command
with PandaSim(SimConfig(width=96, height=96, seed=11, faces=2000, shadow_size=256)) as sim:
    digest = hashlib.sha256(sim.render().tobytes())
    for x in (0.5, 0.55, 0.6):
        sim.apply(Command("move", down_state([x, 0.05, 0.3], gripper=x), 0.25))
        digest.update(sim.render().tobytes())
        digest.update(sim.state().tobytes())
print(digest.hexdigest())
"""


def test_same_seed_same_frames_in_every_process(capsys: pytest.CaptureFixture[str]) -> None:
    """In one that has drawn other scenes before, and in a fresh one."""
    command = [sys.executable, "-c", _FRAME_HASH]
    elsewhere = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
    exec(_FRAME_HASH, {})
    assert capsys.readouterr().out == elsewhere != hashlib.sha256().hexdigest() + "\n"


def test_another_seed_is_another_scene(sim: PandaSim) -> None:
    sim.reset(1)
    first = sim.objects()
    sim.reset(2)
    assert sim.objects() != first


def test_objects_stand_apart_and_inside_the_workspace() -> None:
    for seed in range(200):
        poses = random_objects(np.random.default_rng(seed))
        cup, box = (np.array(poses[name].position) for name in ("cup", "box"))
        assert np.linalg.norm(cup[:2] - box[:2]) >= 0.14
        for position in (cup, box):
            assert (position[:2] >= WORKSPACE.low[:2]).all() and (position[:2] <= WORKSPACE.high[:2]).all()


def test_out_of_reach_says_how_far_it_gets(sim: PandaSim) -> None:
    with pytest.raises(InputError, match=r"cannot put link8 at \[1.5, 0.0, 0.3\].*m and .*rad away"):
        sim.reset_to(down_state([1.5, 0.0, 0.3]))


def test_unknown_object_is_refused(sim: PandaSim) -> None:
    with pytest.raises(InputError, match=r"received \['ball'\], allowed cup, box"):
        sim.reset_to(down_state([0.5, 0.0, 0.3]), {"ball": ObjectPose((0.5, 0.0, 0.1))})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"width": 4}, "width: received 4 pixels, allowed 16"),
        ({"shadow_size": -1}, "shadow_size: received -1"),
        ({"camera_fovy": float("nan")}, "camera_fovy: received nan"),
        ({"seed": -3}, "seed: received -3, allowed 0 and above"),
    ],
)
def test_impossible_configuration_is_refused(options: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        SimConfig(**options)


def test_closing_twice_is_harmless() -> None:
    sim = PandaSim(SimConfig(width=32, height=32, faces=2000, shadow_size=0))
    sim.render()
    sim.close()
    sim.close()
    assert sim.render().shape == (32, 32, 3)  # a new context, not a crash
    sim.close()

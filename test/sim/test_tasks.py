"""Tasks and their scripted solutions. Evaluation seeds (100000 and above) are never used here."""

from __future__ import annotations

import numpy as np
import pytest

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.sim import oracle
from vjepa_ac_planner.sim.model import TCP_OFFSET
from vjepa_ac_planner.sim.panda import WORKSPACE, ObjectPose, PandaSim, down_state
from vjepa_ac_planner.sim.randomise import PLAIN
from vjepa_ac_planner.sim.tasks import SAFE_HEIGHT, TASKS, make_task, run


@pytest.mark.parametrize("name", TASKS)
def test_oracle_solves_a_few_scenes(sim: PandaSim, name: str) -> None:
    for seed in range(2):
        assert solved(sim, name, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_oracle_solves_at_least_95_of_100_scenes(sim: PandaSim, name: str) -> None:
    assert sum(solved(sim, name, seed) for seed in range(100)) >= 95


def solved(sim: PandaSim, name: str, seed: int) -> bool:
    task = make_task(name, seed, sim)
    assert not task.success(sim)  # a task that is done before it begins would prove nothing
    steps = run(sim, task.oracle(sim))
    return task.success(sim) and steps <= task.max_steps


def test_reach_starts_and_goals_are_as_promised(sim: PandaSim) -> None:
    distances = []
    for seed in range(30):
        task = make_task("reach", seed, sim)
        start, goal = sim.state(), task.goal_states[0]
        distances.append(np.linalg.norm(goal[:3] - start[:3]))
        assert task.error(sim) == pytest.approx(distances[-1], abs=1e-9)
        for state in (start, goal):
            assert WORKSPACE.contains(state[:3], 1e-3)
            assert state[2] - TCP_OFFSET > SAFE_HEIGHT - 1e-3
        down = down_state(goal[:3])
        assert goal == pytest.approx(down)
        # Only the arm differs: the goal image was made with the same objects.
        assert np.abs(np.abs(start[3:6]) - np.abs(down[3:6])).max() < 1e-2 and start[6] == goal[6] == 0.0
    assert 0.15 <= min(distances) < 0.20 and 0.30 < max(distances) <= 0.351


def test_a_task_is_a_function_of_its_seed(sim: PandaSim) -> None:
    first = make_task("pick_place_box", 3, sim)
    make_task("reach", 4, sim)
    again = make_task("pick_place_box", 3, sim)
    assert (first.start == again.start).all() and first.goal_object == again.goal_object
    for one, other in zip(first.goals, again.goals, strict=True):
        assert (one.frame.image == other.frame.image).all()


def test_goal_image_is_what_the_camera_sees_at_the_goal(sim: PandaSim) -> None:
    task = make_task("reach", 7, sim)
    assert (sim.render() != task.goals[0].frame.image).any()
    sim.reset_to(task.goal_states[0])
    assert (sim.render() == task.goals[0].frame.image).all()


def test_begin_goes_back_to_the_start(sim: PandaSim) -> None:
    task = make_task("grasp_cup", 1, sim)
    image = sim.render()
    run(sim, task.oracle(sim))
    assert (sim.render() != image).any()
    task.begin(sim)
    assert (sim.render() == image).all() and not task.success(sim)


def test_pick_and_place_has_two_sub_goals_and_a_final_one(sim: PandaSim) -> None:
    task = make_task("pick_place_cup", 2, sim)
    assert [goal.name for goal in task.goals] == ["grasped", "near", "placed"]
    assert task.goal_states[0][6] > 0.2 and task.goal_states[1][6] > 0.2 and task.goal_states[2][6] < 0.05


def test_unknown_task_lists_the_known_ones(sim: PandaSim) -> None:
    with pytest.raises(InputError, match="received 'dance', allowed reach, grasp_cup"):
        make_task("dance", 0, sim)


def test_fine_sub_goals_show_the_hand_above_then_the_object_grasped_and_lifted(sim: PandaSim) -> None:
    task = make_task("pick_place_box", 2, sim, sub_goals="fine")
    assert [goal.name for goal in task.goals] == ["above", "grasped", "lifted", "near", "placed"]
    assert [stage.grip for stage in task.stages] == ["", "close", "", "", "open"]
    above, grasped, lifted, _, placed = task.goal_states
    assert above[2] - grasped[2] > 0.06 and lifted[2] - grasped[2] > 0.08
    assert above[6] < 0.05 and grasped[6] > 0.2 and placed[6] < 0.05
    paper = make_task("pick_place_box", 2, sim)
    assert (paper.start == task.start).all() and paper.goal_object == task.goal_object


@pytest.mark.parametrize("name", TASKS[1:])
def test_oracle_solves_fine_sub_goals_and_other_looks(sim: PandaSim, name: str) -> None:
    for seed in range(2):
        task = make_task(name, seed, sim, sub_goals="fine", randomise=1.0)
        task.begin(sim)
        assert not task.success(sim)
        assert run(sim, task.oracle(sim)) <= task.max_steps and task.success(sim)


def test_each_seed_has_its_own_look_which_begin_puts_on(sim: PandaSim) -> None:
    one, other = (make_task("grasp_cup", seed, sim, randomise=1.0) for seed in (3, 4))
    assert one.appearance != other.appearance != PLAIN
    one.begin(sim)
    assert sim.appearance == one.appearance
    make_task("grasp_cup", 3, sim)
    assert sim.appearance == PLAIN


def test_a_cup_that_lies_beside_its_place_is_not_placed(sim: PandaSim) -> None:
    task = make_task("pick_place_cup", 1, sim)
    assert task.goal_object is not None
    stands = task.goal_object
    aside = ObjectPose((stands.position[0], stands.position[1] + 0.06, stands.position[2]))
    near = ObjectPose((stands.position[0], stands.position[1] + 0.04, stands.position[2]))
    high = down_state([0.5, 0.0, 0.5])
    sim.reset_to(high, {"cup": near})
    assert task.success(sim)
    sim.reset_to(high, {"cup": aside})
    assert task.success(sim) is False  # a bool of Python's own: it is written down as JSON
    lifted = ObjectPose((*stands.position[:2], stands.position[2] + 0.05))
    sim.reset_to(high, {"cup": lifted})
    assert not task.success(sim)


def test_the_lift_test_tells_a_grip_from_a_touch(sim: PandaSim) -> None:
    task = make_task("grasp_cup", 2, sim)
    run(sim, oracle.grasp(sim, "cup", lift=False, align=False))
    task.lift(sim)
    assert task.success(sim) and task.lifted(sim)
    task.begin(sim)
    run(sim, oracle.hover(sim, "cup"))
    task.lift(sim)
    assert not task.success(sim)

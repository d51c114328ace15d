"""Goal chains: when a sub-goal gives way to the next, and task files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vjepa_ac_planner.control.goals import GoalChain, SubGoal, SwitchRule, load_task
from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.types import Frame, Goal

TASKS = Path(__file__).parents[2] / "config" / "tasks"


def goal(name):
    return Goal(Frame(np.zeros((16, 16, 3), dtype=np.uint8)), name)


def chain(**rule):
    return GoalChain([SubGoal(goal("first"), SwitchRule(**rule)), goal("last")])


def run(goals, energies, seconds=1.0):
    """What update() says for one energy after another."""
    return [goals.update(energy, 10.0 + i * seconds) for i, energy in enumerate(energies)]


def test_a_single_goal_is_never_left():
    goals = GoalChain(goal("only"))
    assert run(goals, [0.5, 0.0, 0.0, 9.0]) == [None] * 4
    assert (goals.current.name, goals.index, goals.done, len(goals)) == ("only", 0, False, 1)


def test_the_paper_switches_by_step_count():
    counts = (4, 10, 4)
    goals = GoalChain([SubGoal(goal(str(n)), SwitchRule(max_steps=n)) for n in counts])
    said = run(goals, [0.5] * 18)
    assert [i + 1 for i, reason in enumerate(said) if reason] == [4, 14, 18]
    assert said[3] == "4 steps were taken"
    assert goals.done
    assert goals.current.name == "4"
    assert goals.update(0.5, 99.0) is None


def test_energy_that_has_come_down_switches():
    goals = chain(energy_fraction=0.25)
    said = run(goals, [0.8, 0.4, 0.21, 0.2])
    assert said == [None, None, None, "energy 0.2000 is at most 0.25 of its first 0.8000"]
    assert goals.current.name == "last"


def test_energy_that_has_stopped_falling_switches():
    goals = chain(plateau_steps=3, plateau_tolerance=0.1)
    said = run(goals, [1.0, 0.8, 0.75, 0.65, 0.6, 0.7, 0.58])
    assert said == [None] * 6 + ["energy has not fallen below 0.6500 for 3 steps"]


def test_time_switches_and_time_running_backwards_begins_again():
    goals = chain(timeout_s=2.5)
    assert run(goals, [0.5] * 3) == [None] * 3
    assert goals.update(0.5, 1.0) is None  # the bag began again
    assert goals.update(0.5, 3.0) is None
    assert goals.update(0.5, 3.5) == "2.5 s have passed"


def test_a_new_goal_starts_its_own_count_and_reset_starts_the_first():
    goals = GoalChain([SubGoal(goal(n), SwitchRule(max_steps=2, energy_fraction=0.5)) for n in "ab"])
    assert run(goals, [1.0, 0.9, 0.4, 0.3]) == [None, "2 steps were taken", None, "2 steps were taken"]
    goals.reset()
    assert (goals.current.name, goals.done) == ("a", False)


def test_chains_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="goals: received none"):
        GoalChain([])
    with pytest.raises(ConfigError, match="'first' is followed by another goal but is never left; give it"):
        chain()
    with pytest.raises(ConfigError, match="max_steps: received 0, allowed 1"):
        SwitchRule(max_steps=0)
    with pytest.raises(ConfigError, match="energy_fraction: received"):
        SwitchRule(energy_fraction=1.5)


def test_the_example_task_loads():
    read = []

    def read_image(path):
        read.append(path)
        return goal("").frame

    task, goals = load_task(TASKS / "pick-and-place.yaml", read_image)
    assert task.name == "pick-and-place"
    assert [path.name for path in read] == ["grasped.png", "near-target.png", "placed.png"]
    assert read[0].parent == TASKS / "images"
    assert (goals.sub_goal.gripper, goals.sub_goal.full_grip) == ("settle_first", True)
    said = run(goals, [1.0 / (i + 1) for i in range(26)])
    assert [i + 1 for i, reason in enumerate(said) if reason] == [8, 18, 26]
    assert goals.done
    goals.reset()
    assert goals.update(0.5, 0.0, settled=True) == "no plan gained anything for 1 steps, energy 0.5000"


def test_task_files_that_cannot_work_are_refused(tmp_path):
    def no_image(path):
        raise InputError(f"{path}: no such image")

    path = tmp_path / "task.yaml"
    path.write_text("name: t\ngoals: [{image: a.png, steps: 4}]\n")
    with pytest.raises(ConfigError, match=r"goals\[0\]: unknown steps .*; valid: image, name, until"):
        load_task(path, no_image)
    path.write_text("name: t\ngoals: []\n")
    with pytest.raises(ConfigError, match=r"task\.yaml: goals: received none"):
        load_task(path, no_image)
    path.write_text("name: t\ngoals: [{image: a.png}]\n")
    with pytest.raises(InputError, match=r"a\.png: no such image"):
        load_task(path, no_image)


def test_nothing_more_to_gain_switches_when_it_lasts():
    goals = chain(settled_steps=2)
    said = [goals.update(0.5, float(i), settled=settled) for i, settled in enumerate([1, 0, 1, 1])]
    assert said == [None, None, None, "no plan gained anything for 2 steps, energy 0.5000"]
    assert goals.current.name == "last" and goals.last


def test_a_goal_can_be_left_for_the_next_but_the_last_one_stays():
    goals = chain(max_steps=9)
    assert not goals.last
    assert goals.leave("enough") == "enough"
    assert goals.current.name == "last"
    assert goals.leave("enough") is None and not goals.done


def test_a_task_file_names_gripper_grip_and_state(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text(
        "name: t\n"
        "goals:\n"
        "  - {image: a.png, until: {settled_steps: 1, settled_below: 0.004}, gripper: settle_first,"
        " full_grip: true}\n"
        "  - {image: b.png, gripper: open, state: [0.5, 0.0, 0.3, 3.1, 0.0, -0.7, 0.0]}\n"
    )
    _, goals = load_task(path, lambda path: goal("").frame)
    first = goals.sub_goal
    assert (first.gripper, first.full_grip, first.goal.state) == ("settle_first", True, None)
    goals.leave("")
    last = goals.sub_goal
    assert (last.gripper, last.full_grip) == ("open", False)
    assert last.goal.state.position.tolist() == [0.5, 0.0, 0.3]

    path.write_text("name: t\ngoals: [{image: a.png, gripper: squeeze}]\n")
    with pytest.raises(ConfigError, match=r"gripper: received 'squeeze', allowed 'preset', 'plan', 'hold'"):
        load_task(path, lambda path: goal("").frame)
    path.write_text("name: t\ngoals: [{image: a.png, state: [0.5, 0.0]}]\n")
    with pytest.raises(InputError, match=r"state: expected shape 7, received \(2,\)"):
        load_task(path, lambda path: goal("").frame)

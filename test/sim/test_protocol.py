"""From a task and a protocol to goals with rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.sim.panda import PandaSim
from vjepa_ac_planner.sim.protocol import PROTOCOLS, Protocol, goal_chain, loop_config, max_steps
from vjepa_ac_planner.sim.tasks import make_task

LONG, PAPER = PROTOCOLS["long"], PROTOCOLS["paper"]


def handled(sim: PandaSim, name: str, protocol: Protocol) -> list[tuple[str, str]]:
    """Name and gripper of every goal in turn."""
    chain = goal_chain(make_task(name, 1, sim, sub_goals=protocol.sub_goals), protocol)
    found = [(chain.current.name, chain.sub_goal.gripper)]
    while chain.leave("next") is not None:
        found.append((chain.current.name, chain.sub_goal.gripper))
    return found


def test_the_gripper_is_touched_only_where_it_has_something_to_do(sim: PandaSim) -> None:
    settle = replace(LONG, gripper="settle_first")
    assert handled(sim, "pick_place_cup", settle) == [
        ("above", "hold"),
        ("grasped", "settle_first"),
        ("lifted", "hold"),
        ("near", "hold"),
        ("placed", "settle_first"),
    ]
    schedule = replace(LONG, gripper="schedule")
    assert [grip for _, grip in handled(sim, "pick_place_cup", schedule)] == [
        "hold", "close", "hold", "hold", "open",
    ]  # fmt: skip
    assert handled(sim, "reach_with_object", schedule) == [("carried", "hold")]


def test_the_papers_protocol_is_the_papers(sim: PandaSim) -> None:
    assert handled(sim, "pick_place_box", PAPER) == [
        ("grasped", "plan"),
        ("near", "plan"),
        ("placed", "plan"),
    ]
    assert handled(sim, "grasp_box", PAPER) == [("grasped", "plan")]
    task = make_task("pick_place_box", 1, sim)
    chain = goal_chain(task, PAPER)
    said = [chain.update(0.5, float(i), settled=True) is not None for i in range(22)]
    assert [i + 1 for i, left in enumerate(said) if left] == [6, 16, 22] and chain.done
    assert loop_config(task, PAPER, 5).settled_holds is None and loop_config(task, PAPER, 5).seed == 5


def test_with_energy_a_goal_is_left_when_nothing_is_gained(sim: PandaSim) -> None:
    task = make_task("grasp_cup", 1, sim, sub_goals="fine")
    chain = goal_chain(task, LONG)
    assert [chain.update(0.5, float(i), settled=True) is not None for i in range(3)] == [True] * 3
    assert loop_config(task, LONG, 0).settled_holds is not None


def test_where_the_energy_decides_a_sub_goal_has_some_steps_to_spare(sim: PandaSim) -> None:
    task = make_task("pick_place_cup", 1, sim)
    assert (max_steps(task, PAPER), max_steps(task, replace(PAPER, switch="energy"))) == (22, 34)
    for name in ("reach", "reach_with_object"):
        assert max_steps(make_task(name, 1, sim), LONG) == 12


def test_a_reach_is_one_goal_that_is_never_left(sim: PandaSim) -> None:
    task = make_task("reach", 1, sim)
    for protocol in PROTOCOLS.values():
        chain = goal_chain(task, protocol)
        assert len(chain) == 1 and chain.sub_goal.gripper == "preset" and not chain.sub_goal.until.ever
        assert loop_config(task, protocol, 0).settled_holds is not None


def test_states_are_told_only_where_asked_for(sim: PandaSim) -> None:
    task = make_task("grasp_cup", 1, sim, sub_goals="fine")
    assert all(goal.state is None for goal in goal_chain(task, LONG).goals)
    told = goal_chain(task, replace(LONG, known_states=True)).goals
    assert [goal.state.vector.tolist() for goal in told] == [state.tolist() for state in task.goal_states]  # type: ignore[union-attr]


def test_what_a_protocol_refuses() -> None:
    with pytest.raises(ConfigError, match=r"randomise: received 1\.5, allowed 0"):
        Protocol(randomise=1.5)

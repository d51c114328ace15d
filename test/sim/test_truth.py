"""Causes of failure, judged from what really happened."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from vjepa_ac_planner.sim import oracle
from vjepa_ac_planner.sim.panda import PandaSim, down_state
from vjepa_ac_planner.sim.safety import Guarded
from vjepa_ac_planner.sim.tasks import Task, make_task, run
from vjepa_ac_planner.sim.truth import Moment, Witness, cause

ENDED = SimpleNamespace(stop_reason="goals done")


def acted(sim: PandaSim, task: Task, script: oracle.Script) -> str:
    """Why a script that does the wrong thing fails."""
    task.begin(sim)
    witness, arm = Witness(sim, task), Guarded(sim)
    for target in script:
        arm.move(target)
        witness.on_step(None)  # type: ignore[arg-type]
    task.lift(sim)
    assert not task.success(sim)
    return cause(task, ENDED, witness.moments, witness.look())  # type: ignore[arg-type]


@pytest.fixture
def grasp(sim: PandaSim) -> Task:
    return make_task("grasp_cup", 1, sim)


def test_grasps_that_fail(sim: PandaSim, grasp: Task) -> None:
    hand = sim.state()[:3]
    x, y, _ = sim.objects()["cup"].position

    def closing_up_here() -> oracle.Script:
        for _ in range(3):
            yield down_state(hand, gripper=1.0)

    def hovering() -> oracle.Script:
        yield from oracle.hover(sim, "cup")

    def pushing() -> oracle.Script:
        yield from oracle.reach(sim, down_state([x, y - 0.12, 0.14], gripper=0.0))
        yield from oracle.reach(sim, down_state([x, y, 0.14]), max_step=0.02)

    def dropping() -> oracle.Script:
        yield from oracle.grasp(sim, "cup", align=False)
        for _ in range(3):
            yield down_state(sim.state()[:3], gripper=0.0)

    assert acted(sim, grasp, closing_up_here()) == "closed too early"
    assert acted(sim, grasp, hovering()) == "never closed"
    assert acted(sim, grasp, pushing()) in ("pushed away", "knocked over")
    assert acted(sim, grasp, dropping()) == "dropped"


def test_held_but_not_lifted(sim: PandaSim) -> None:
    task = make_task("grasp_box", 1, sim, sub_goals="fine")
    script = oracle.grasp(sim, "box", lift=False, align=False)
    assert acted(sim, task, script) == "held, not lifted"


def test_placements_that_fail(sim: PandaSim) -> None:
    task = make_task("pick_place_box", 1, sim)
    assert task.goal_object is not None
    x, y, _ = task.goal_object.position

    def held() -> oracle.Script:
        yield from oracle.grasp(sim, "box", align=False)
        yield from oracle.carry(sim, (x, y))

    def beside() -> oracle.Script:
        aside = (x, y - 0.08 if y > 0 else y + 0.08)
        yield from oracle.grasp(sim, "box", align=False)
        yield from oracle.carry(sim, aside)
        yield from oracle.put_down(sim, aside)

    assert acted(sim, task, held()) == "not released"
    assert acted(sim, task, beside()) == "released away from the place"


def test_the_planners_own_end_and_reaches(sim: PandaSim) -> None:
    task = make_task("reach", 1, sim)
    moment = Moment(0.2, 0.0, (0.5, 0.0, 0.2), None, 0.0, False)

    def why(reason: str) -> str:
        return cause(task, SimpleNamespace(stop_reason=reason), [moment], moment)  # type: ignore[arg-type]

    assert why("paused") == "stopped by safety or planner (paused)"
    assert why("settled") == "settled away from the goal"
    assert why("max steps") == "out of steps"
    carried = make_task("reach_with_object", 1, sim)
    held = replace(moment, held=True)
    ended = SimpleNamespace(stop_reason="max steps")
    assert cause(carried, ended, [held], moment) == "dropped"  # type: ignore[arg-type]
    assert cause(carried, ended, [held], held) == "out of steps"  # type: ignore[arg-type]


def test_the_witness_sees_what_is_there(sim: PandaSim) -> None:
    task = make_task("grasp_cup", 2, sim)
    task.begin(sim)
    witness = Witness(sim, task)
    run(sim, oracle.grasp(sim, "cup", align=False))
    witness.end()
    (now,) = witness.moments
    assert now.held and now.told > 0.9 and now.tilt < 0.2 and now.error == task.error(sim)
    assert now.object == sim.objects()["cup"].position and witness.errors == (now.error,)

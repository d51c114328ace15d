"""Time that goes on while a planner thinks, in simulated seconds."""

from __future__ import annotations

import numpy as np
import pytest

from vjepa_ac_planner.control.mpc import LoopConfig
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.sim.latency import MovingOn, run_with_latency
from vjepa_ac_planner.sim.panda import PandaSim, SimConfig
from vjepa_ac_planner.sim.tasks import make_task
from vjepa_ac_planner.types import Command
from vjepa_ac_planner.world_model import WorldModel

LOOK, STEP = 0.03, 0.25


@pytest.fixture(scope="module")
def pictures():
    """A simulation whose pictures the shipped model knows."""
    with PandaSim(SimConfig(width=192, height=192)) as sim:
        yield sim


@pytest.fixture(scope="module")
def planner():
    model = WorldModel.load("panda-sim", device="cpu", dtype="float32")
    return Planner(model, PlannerConfig.preset("demo"))


@pytest.mark.parametrize(("thought", "taken"), [(0.0, 0.25), (0.1, 0.25), (0.25, 0.25), (0.5, 0.5)])
def test_thinking_during_a_motion_costs_only_what_it_takes_longer(sim, thought, taken):
    world = MovingOn(sim)
    target = sim.state() + np.array([0.03, 0.02, 0.0, 0.0, 0.0, 0.0, 0.0])
    world.begin(Command("move", target, STEP))
    world.think(thought)
    world.finish()
    assert world.time == sim.time == pytest.approx(taken)
    assert np.linalg.norm(world.newest().state.position - target[:3]) < 0.005


def test_thinking_at_rest_holds_the_arm(sim):
    world = MovingOn(sim)
    before = world.observe()
    world.think(0.4)
    after = world.newest()
    assert after.state.stamp - before.state.stamp == pytest.approx(0.4)
    assert np.linalg.norm(after.state.position - before.state.position) < 0.002
    assert world.observe() is after  # no time has passed


@pytest.mark.parametrize("plan_s", [0.1, 0.5])
def test_a_pipelined_step_takes_the_longer_of_plan_and_motion(pictures, planner, plan_s):
    task = make_task("reach", 72003, pictures)
    loop = LoopConfig(seed=1)
    plain, none = run_with_latency(pictures, task, planner, plan_s=plan_s, max_steps=3, loop=loop)
    ahead, pipeline = run_with_latency(
        pictures, task, planner, plan_s=plan_s, max_steps=3, loop=loop, pipelined=True
    )
    assert none is None
    assert pipeline.fates == {"confirmed": 2}
    assert [step.command.kind for step in (*plain.steps, *ahead.steps)] == ["move"] * 6
    stamps = [
        np.diff([seen.frame.stamp for seen in (*(s.observation for s in run.steps), run.final)])
        for run in (plain, ahead)
    ]
    np.testing.assert_allclose(stamps[0], LOOK + plan_s + STEP, atol=0.011)
    # The first plan of a run is made at rest.
    first, later = LOOK + plan_s + max(plan_s, STEP), LOOK + max(plan_s, STEP)
    np.testing.assert_allclose(stamps[1], [first, later, later], atol=0.011)

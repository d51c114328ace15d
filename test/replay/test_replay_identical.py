"""Runs recorded by the loop itself, and planned again from the file alone."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("mcap")
from vjepa_ac_planner.bags.reader import Bag
from vjepa_ac_planner.bags.record import RunInfo, RunRecorder
from vjepa_ac_planner.control.goals import GoalChain
from vjepa_ac_planner.control.mpc import LoopConfig, RecedingHorizon
from vjepa_ac_planner.replay.identical import check_identical
from vjepa_ac_planner.types import Goal

SHA = "0" * 64


class World:
    """Carries every command out exactly."""

    def __init__(self, observe, start):
        self._observe, self.state, self.time = observe, np.array(start), 100.0

    def observe(self):
        return self._observe(self.state, self.time)

    def apply(self, command):
        self.state, self.time = command.target, self.time + 0.25


@pytest.fixture
def record(tmp_path, make_planner, safety, walk):
    """Drives the small world to a goal, with a recorder; returns the file."""

    def make(pipelined=False, device="cpu", **options):
        planner = make_planner(**options)
        path = tmp_path / "run.mcap"
        seen = walk([[0.02, 0.03, 0.01]] * 10).observations
        goal = Goal(seen[-1].frame, "there")
        world = World(observe, seen[0].state.vector)
        run = RunInfo(
            model="point",
            model_sha256=SHA,
            planner=json.loads(json.dumps(RunInfo.of(planner).planner)),
            seed=40,
            step_seconds=0.25,
            device=device,
            extra={"pipelined": pipelined},
        )
        with RunRecorder(path, run) as recorder:
            recorder.goals([goal])
            loop = RecedingHorizon(planner, safety, GoalChain(goal), LoopConfig(seed=40))
            loop.run(world, 6, on_step=recorder.on_step)
        return path

    from vjepa_ac_planner.types import Frame, Observation, RobotState

    picture = walk([]).picture

    def observe(state, stamp):
        return Observation(Frame(picture(state[:3]), stamp), RobotState(state, stamp))

    return make


@pytest.mark.parametrize("warm", [False, True])
def test_every_plan_is_made_again_bit_for_bit(record, point_model, warm):
    with Bag.open(record(warm_start=warm)) as bag:
        found = check_identical(bag, point_model, SHA)
    assert found.recorded == 6 and found.equal == 6 and found.all_equal
    assert found.largest == 0.0 and "6 of 6 recorded plans were made again bit for bit" in str(found)


def test_plans_after_steps_that_were_cut_are_made_again_too(record, point_model, safety):
    """They were begun from what was carried out of the plan before, not from the plan."""
    limits = dataclasses.replace(safety.config.limits, max_translation=0.02)
    safety.config = dataclasses.replace(safety.config, limits=limits)
    with Bag.open(record(warm_start=True)) as bag:
        found = check_identical(bag, point_model, SHA)
        steps = list(bag.plans())
    assert sum("max_translation" in str(step.findings) and step.command == "move" for step in steps) >= 5
    assert all(step.warm_started for step in steps[1:])
    assert found.all_equal


def test_a_model_that_answers_otherwise_is_found_out(record, point_model):
    class Other(type(point_model)):
        def rollout(self, z0, s0, actions):
            latents, states = super().rollout(z0, s0, actions)
            return latents * 1.001, states

    with Bag.open(record()) as bag:
        found = check_identical(bag, Other(), SHA)
    assert found.different == 6 and not found.all_equal and found.largest > 0
    assert "came out otherwise" in str(found)


def test_a_model_with_other_weights_is_not_compared(record, point_model):
    with Bag.open(record()) as bag:
        found = check_identical(bag, point_model, "1" * 64)
    assert found.equal == found.different == 0 and not found.all_equal
    assert "by another model (point, weights 000000000000)" in str(found)


def test_plans_of_a_pipelined_run_are_not_compared(record, point_model):
    """They were searched for from what was expected, which no frame in the bag shows."""
    with Bag.open(record(pipelined=True)) as bag:
        found = check_identical(bag, point_model, SHA)
    assert (found.equal, found.different) == (0, 0)
    assert "searched for before their frame was seen (pipelined)" in str(found)


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize("optimiser", ["cem", "gradient", "hybrid"])
def test_plans_by_gradients_are_compared_but_on_a_gpu(record, point_model, device, optimiser):
    with Bag.open(record(device=device, optimiser=optimiser)) as bag:
        found = check_identical(bag, point_model, SHA)
    if device == "cpu" or optimiser == "cem":
        assert found.all_equal
        return
    assert (found.equal, found.different) == (0, 0) and not found.all_equal
    assert "6 by gradients on a GPU, which come out otherwise every time" in str(found)


def test_a_bag_of_another_origin_has_nothing_to_compare(tmp_path, point_model):
    from vjepa_ac_planner.bags.writer import BagWriter

    with BagWriter(tmp_path / "plain.mcap") as bag:
        bag.pose("/pose", np.zeros(7), 10**9)
    with Bag.open(tmp_path / "plain.mcap") as bag:
        assert check_identical(bag, point_model, SHA) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stop_reason": "deadline"}, "stopped by the clock"),
        ({"goal_index": -1}, "for a goal image that is not in the bag"),
        ({"stamp": 100.1}, "from a frame that is not in the bag"),
        ({"state": (99.0, 0, 0, 0, 0, 0, 0)}, "because state"),
    ],
)
def test_what_cannot_be_made_again_is_said(record, point_model, monkeypatch, change, reason):
    from dataclasses import replace

    with Bag.open(record()) as bag:
        records = list(bag.plans())
        records[2] = replace(records[2], **change)
        monkeypatch.setattr(bag, "plans", lambda: iter(records))
        found = check_identical(bag, point_model, SHA)
    assert any(text.startswith(reason) for text in found.skipped)
    assert found.equal + found.different + sum(found.skipped.values()) == 6 and not found.all_equal


@pytest.mark.parametrize(("names", "made"), [(("first", "there"), 6), (("there", "there"), 0)])
def test_a_goal_that_cannot_be_read_does_not_move_the_others(record, point_model, monkeypatch, names, made):
    """The second of two images is left: it is told by its name, if that is its own."""
    from dataclasses import replace

    with Bag.open(record()) as bag:
        records = [replace(plan, goal_index=1) for plan in bag.plans()]
        other = replace(records[-1], index=6, goal=names[0], goal_index=0)
        bag.infos[bag.topics.goal] = replace(bag.infos[bag.topics.goal], count=2)
        monkeypatch.setattr(bag, "plans", lambda: iter([*records, other]))
        found = check_identical(bag, point_model, SHA)
    assert (found.equal, found.different) == (made, 0)
    assert found.skipped == {"for a goal image that is not in the bag": 7 - made}

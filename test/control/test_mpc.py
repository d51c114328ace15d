"""The receding-horizon loop, on a world small enough to know what must happen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from point_world import PointModel, picture

from vjepa_ac_planner import geometry
from vjepa_ac_planner.control.environment import RobotStatus
from vjepa_ac_planner.control.goals import GoalChain, SubGoal, SwitchRule
from vjepa_ac_planner.control.limits import MotionLimits
from vjepa_ac_planner.control.mpc import LoopConfig, RecedingHorizon, carried_out
from vjepa_ac_planner.control.safety import SafetyConfig, SafetyLayer
from vjepa_ac_planner.errors import ConfigError, PlanningError
from vjepa_ac_planner.planning.cem import CEMConfig
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.planning.proposals import SearchConfig
from vjepa_ac_planner.types import Frame, Goal, Observation, RobotState

LIMITS = MotionLimits((0.3, -0.3, 0.1), (0.7, 0.3, 0.6))
START = (0.4, -0.2, 0.2, 3.1, 0.0, -0.7, 0.0)
TARGET = (0.6, 0.2, 0.4)


class PointWorld:
    """A world that carries every command out exactly, in its own time."""

    def __init__(self, state=START):
        self.state, self.time, self.commands = np.array(state), 50.0, []

    def observe(self):
        return Observation(Frame(picture(self.state[:3]), self.time), RobotState(self.state, self.time))

    def apply(self, command):
        self.commands.append(command)
        self.state, self.time = np.array(command.target), self.time + command.duration

    def reached(self, observation):
        return bool(np.linalg.norm(observation.state.position - TARGET) < 0.02)


def goal(position=TARGET, name="goal"):
    return Goal(Frame(picture(position)), name)


def loop(goals=None, safety=None, config=None, model=None, **search):
    planner = Planner(
        model or PointModel(),
        PlannerConfig(
            search=SearchConfig(axes="xyz", xyz=0.075),
            cem=CEMConfig(samples=64, elites=8, iterations=5, include_zero=True),
            **search,
        ),
    )
    return RecedingHorizon(
        planner, SafetyLayer(safety or SafetyConfig(LIMITS)), goals or GoalChain(goal()), config
    )


def test_it_reaches_the_goal_and_records_everything():
    world, told = PointWorld(), []
    episode = loop().run(world, 12, reached=world.reached, on_step=told.append)
    assert episode.stop_reason == "reached"
    assert world.reached(episode.final)
    assert 3 <= len(episode.steps) <= 8
    assert told == list(episode.steps)
    assert all(a > b for a, b in zip(episode.energies, episode.energies[1:], strict=False))
    for index, step in enumerate(episode.steps):
        assert (step.index, step.moved, step.error, step.switched) == (index, True, "", "")
        assert step.plan.improves
        assert step.plan.seed == index
        assert set(step.timings) == {"observe", "plan", "safety", "apply"}
        assert step.plan.surprise is None if index == 0 else step.plan.surprise < 0.01
    assert [command.kind for command in world.commands] == ["move"] * len(episode.steps) + ["hold"]
    assert len(episode.plan_seconds) == len(episode.steps)


def test_same_seed_same_episode():
    first, second = (loop().run(PointWorld(), 4) for _ in range(2))
    for one, other in zip(first.steps, second.steps, strict=True):
        np.testing.assert_array_equal(one.command.target, other.command.target)


def test_it_settles_where_no_plan_is_better_than_standing_still():
    world = PointWorld((*TARGET, *START[3:]))
    episode = loop().run(world, 20)
    assert episode.stop_reason == "settled"
    assert episode.detail == "no plan improved on standing still 3 times in a row"
    last = episode.steps[-3:]
    assert all(not step.plan.improves and "standing still" in step.command.reason for step in last)
    assert np.linalg.norm(world.state[:3] - TARGET) < 0.01
    np.testing.assert_array_equal(world.state, last[0].observation.state.vector)


def test_a_chain_visits_its_goals_in_order():
    corner = (0.4, 0.2, 0.2)
    rule = SwitchRule(energy_fraction=0.1, max_steps=10)
    goals = GoalChain([SubGoal(goal(corner, "corner"), rule), SubGoal(goal(TARGET, "end"), rule)])
    world = PointWorld()
    episode = loop(goals).run(world, 40)
    assert episode.stop_reason == "goals done"
    names = [step.goal.name for step in episode.steps]
    assert names == sorted(names)
    switch = next(step for step in episode.steps if step.switched)
    assert "of its first" in switch.switched
    assert np.linalg.norm(switch.observation.state.position - corner) < 0.06
    after = episode.steps[switch.index + 1]
    assert after.plan.surprise is None  # another goal: nothing is carried over
    assert np.linalg.norm(world.state[:3] - TARGET) < 0.06


def test_the_step_limit_ends_with_a_hold():
    world = PointWorld()
    episode = loop().run(world, 2)
    assert (episode.stop_reason, len(episode.steps)) == ("max steps", 2)
    assert world.commands[-1].kind == "hold"
    assert "2 steps were taken" in world.commands[-1].reason


class Failing(PointModel):
    """Its predictions turn NaN."""

    def rollout(self, z0, s0, actions):
        latents, states = super().rollout(z0, s0, actions)
        return latents * torch.nan, states


def test_failing_plans_hold_and_are_recorded():
    world = PointWorld()
    episode = loop(model=Failing()).run(world, 10)
    assert (episode.stop_reason, len(episode.steps)) == ("failing", 3)
    for step in episode.steps:
        assert step.plan is None
        assert step.error.startswith("PlanningError: none of 320 candidate")
        assert step.command.kind == "hold"
        assert step.error.split(";")[0] in step.command.reason
    np.testing.assert_allclose(world.state, START)


@pytest.mark.parametrize("error", [ZeroDivisionError("a defect"), KeyboardInterrupt()])
def test_a_defect_or_an_interrupt_holds_first_and_is_passed_on(error):
    world = PointWorld()
    steps = []

    def on_step(step):
        steps.append(step)
        if len(steps) == 2:
            raise error

    with pytest.raises(type(error)):
        loop().run(world, 10, on_step=on_step)
    assert [command.kind for command in world.commands] == ["move", "move", "hold"]
    assert type(error).__name__ in world.commands[-1].reason


def test_cancel_ends_with_a_hold():
    world = PointWorld()
    episode = loop().run(world, 10, cancel=lambda: len(world.commands) >= 2)
    assert episode.stop_reason == "cancelled"
    assert [command.kind for command in world.commands] == ["move", "move", "hold"]


SLOW = MotionLimits((0.3, -0.3, 0.1), (0.7, 0.3, 0.6), max_translation=0.02)


class Pushed(PointWorld):
    """Someone moves the arm after every step."""

    def apply(self, command):
        super().apply(command)
        self.state[:3] = 0.35, 0.25, 0.5


def test_a_plan_that_was_cut_short_is_compared_with_what_was_carried_out():
    world = PointWorld()
    episode = loop(safety=SafetyConfig(SLOW, max_surprise=0.01)).run(world, 5)
    assert all("max_translation" in step.command.reason and step.moved for step in episode.steps)
    assert episode.steps[0].plan.surprise is None
    assert all(step.plan.surprise < 0.005 for step in episode.steps[1:])
    wanted = [step.plan.predicted_states[1, :3] - step.observation.state.position for step in episode.steps]
    assert min(map(np.linalg.norm, wanted)) > 0.03  # the plans themselves foretold something else


def test_a_surprise_pauses_although_the_step_before_was_cut_short():
    episode = loop(safety=SafetyConfig(SLOW, max_surprise=0.05)).run(Pushed(), 10)
    assert (episode.stop_reason, len(episode.steps)) == ("paused", 2)
    assert "max_translation" in episode.steps[0].command.reason
    assert episode.detail.startswith("safety paused: max_surprise: 0.")


@pytest.mark.parametrize(("told", "change"), [(0.0, 0.0), (0.5, 0.5)])
def test_a_gripper_that_was_left_alone_was_not_closed_however_it_measures(told, change):
    plan = loop().planner.plan(PointWorld().observe(), goal())
    plan = replace(plan, actions=np.append(plan.action[:6], told)[None])
    action = carried_out(plan, np.array(START), np.array([*TARGET, *START[3:6], 0.5]))
    np.testing.assert_allclose(action, [0.2, 0.4, 0.2, 0, 0, 0, change], atol=1e-9)


def test_a_run_begins_where_arm_and_gripper_are():
    """Between two runs a person has moved the arm, and opened the gripper."""
    world = PointWorld((*TARGET, *START[3:6], 1.0))
    horizon = loop()
    horizon.safety.judge(None, world.observe(), 50.0, failure="closed", grip=1.0)
    assert horizon.run(world, 20).stop_reason == "settled"
    moved = np.array([*TARGET, 3.1, 0.1, -0.7, 0.0])
    world.state, world.commands = moved.copy(), []
    assert horizon.run(world, 20).stop_reason == "settled"
    for command in world.commands:
        np.testing.assert_allclose(command.target, moved, atol=2e-3)
        assert not command.moves_gripper


def test_a_run_that_is_resumed_goes_on_with_the_goal_it_had():
    def chain():
        rule = SwitchRule(max_steps=2)
        return GoalChain([SubGoal(goal((0.4, 0.2, 0.2), name), rule) for name in "abc"])

    horizon = loop(chain())
    assert [step.goal.name for step in horizon.run(PointWorld(), 3).steps] == ["a", "a", "b"]
    assert [step.goal.name for step in horizon.run(PointWorld(), 4, resume=True).steps] == list("bbcc")
    assert [step.goal.name for step in horizon.run(PointWorld(), 1, resume=True).steps] == ["a"]
    horizon.run(PointWorld(), 3)
    assert [step.goal.name for step in horizon.run(PointWorld(), 1).steps] == ["a"]


def test_a_surprise_pauses_and_ends_the_run():
    episode = loop(safety=SafetyConfig(LIMITS, max_surprise=0.05)).run(Pushed(), 10)
    assert (episode.stop_reason, len(episode.steps)) == ("paused", 2)
    assert episode.detail.startswith("safety paused: max_surprise: 0.")
    assert not episode.steps[-1].moved


def test_a_robot_that_reports_an_error_pauses():
    class Robot(PointWorld):
        def status(self):
            return RobotStatus("reflex") if len(self.commands) >= 2 else RobotStatus()

    world = Robot()
    episode = loop().run(world, 10)
    assert episode.stop_reason == "paused"
    assert [command.kind for command in world.commands] == ["move", "move", "hold"]
    assert "robot mode: reflex" in episode.detail


def test_a_clock_that_says_the_data_is_old_holds():
    world = PointWorld()
    runner = loop()
    aged = RecedingHorizon(runner.planner, runner.safety, runner.goals, clock=lambda: world.time + 5.0)
    episode = aged.run(world, 2)
    assert all("max_state_age: 5.000 s" in step.command.reason for step in episode.steps)
    np.testing.assert_allclose(world.state, START)


def test_a_second_run_starts_with_the_first_goal():
    rule = SwitchRule(max_steps=1)
    runner = loop(GoalChain([SubGoal(goal(name="a"), rule), SubGoal(goal(name="b"), rule)]))
    for _ in range(2):
        episode = runner.run(PointWorld(), 10)
        assert [step.goal.name for step in episode.steps] == ["a", "b"]


def test_what_the_configuration_refuses():
    with pytest.raises(ConfigError, match=r"settled_holds: received 0, allowed 1"):
        LoopConfig(settled_holds=0)
    with pytest.raises(ConfigError, match=r"max_steps: received 0, allowed 1"):
        loop().run(PointWorld(), 0)
    with pytest.raises(ConfigError, match=r"deadline_s: received 0\.0 s"):
        LoopConfig(deadline_s=0.0)


def test_the_planner_is_not_asked_to_swallow_errors():
    with pytest.raises(PlanningError):
        loop(model=Failing()).planner.plan(PointWorld().observe(), goal())


def test_what_rules_motion_out_beforehand_costs_no_plan_and_is_no_failure():
    class Late(PointWorld):
        """Frames arrive two seconds late, for the first three steps."""

        def observe(self):
            stamp = self.time - (2.0 if len(self.commands) < 3 else 0.0)
            return Observation(Frame(picture(self.state[:3]), stamp), RobotState(self.state, self.time))

    world = Late()
    episode = loop(config=LoopConfig(max_failures=1)).run(world, 6)
    assert [step.plan is None for step in episode.steps] == [True] * 3 + [False] * 3
    assert all(step.error == "" for step in episode.steps)
    assert episode.steps[0].command.reason.startswith("max_image_age: 2.000 s, allowed 0.500 s (hold)")
    assert [command.kind for command in world.commands][:4] == ["hold"] * 3 + ["move"]


def test_a_world_that_moves_on_is_judged_by_its_newest_state():
    class MovingOn(PointWorld):
        """Something carries the arm while the plan is made."""

        drift = 0.0

        def newest(self):
            state = np.array(self.state)
            state[1] += self.drift
            return Observation(
                Frame(picture(self.state[:3]), self.time - 0.3), RobotState(state, self.time)
            )

    world = MovingOn()
    world.drift = 0.02
    step = loop().run(world, 1).steps[0]
    expected = START[1] + 0.02 + step.plan.action[1]
    assert step.command.target[1] == pytest.approx(expected, abs=1e-6)
    # The newest frame and state are not of one moment, and need not be.
    assert step.moved and step.findings == ()


def test_without_a_step_limit_it_goes_on_until_cancelled():
    world = PointWorld((*TARGET, *START[3:]))
    config = LoopConfig(settled_holds=None)
    episode = loop(config=config).run(world, None, cancel=lambda: len(world.commands) >= 30)
    assert (episode.stop_reason, len(world.commands)) == ("cancelled", 30)
    # Every step keeps its frame: a robot that runs for hours must not keep them all.
    assert [step.index for step in episode.steps] == [27, 28, 29]


def test_failing_plans_never_end_a_run_that_must_go_on():
    world = PointWorld()
    config = LoopConfig(max_failures=None)
    episode = loop(model=Failing(), config=config).run(world, 9)
    assert (episode.stop_reason, len(episode.steps)) == ("max steps", 9)
    np.testing.assert_allclose(world.state, START)


class HandModel(PointModel):
    """The latent shows position and closedness; an arm that is off weighs more than fingers that are."""

    def encode(self, images):
        closed = torch.tensor([float(frame.image[0, 2, 0]) for frame in images]) / 200.0
        places = super().encode(images)
        return torch.cat((places, closed[:, None, None]), dim=-1)

    def rollout(self, z0, s0, actions):
        states = geometry.integrate(s0, actions)
        moved = torch.cat((actions[..., :3], actions[..., 6:]), dim=-1).cumsum(1)
        return z0 + moved[..., None, :], states


class HandWorld(PointWorld):
    def observe(self):
        image = hand_picture(self.state[:3], self.state[6])
        return Observation(Frame(image, self.time), RobotState(self.state, self.time))


def hand_picture(position, closedness):
    image = picture(position)
    image[0, 2, 0] = round(200 * closedness)
    return image


def grasp(mode, *, full_grip=False, settled_steps=1):
    rule = SwitchRule(max_steps=15, settled_steps=settled_steps, settled_below=0.006)
    frame = Frame(hand_picture(TARGET, 0.5))
    return GoalChain(SubGoal(Goal(frame, "closed"), rule, mode, full_grip))


def gripper_loop(goals):
    runner = loop(goals, model=HandModel(), hold_margin=0.02)
    return runner.run(HandWorld(), 20)


def test_settle_first_closes_only_where_the_arm_has_settled():
    episode = gripper_loop(grasp("settle_first"))
    assert episode.stop_reason == "goals done" and "no plan gained anything" in episode.detail
    closing = [
        step for step in episode.steps if step.command.target[6] > step.observation.state.gripper + 0.01
    ]
    assert closing
    for step in closing:
        assert np.linalg.norm(step.observation.state.position - TARGET) < 0.02
        assert step.plan.gripper == "only" and step.moved
    assert episode.final.state.gripper == pytest.approx(0.5, abs=0.1)
    for step in episode.steps[: closing[0].index]:
        assert step.plan.gripper == "without" and step.command.target[6] == 0.0

    together = gripper_loop(grasp("plan"))
    first = next(step for step in together.steps if step.command.target[6] > 0.01)
    assert np.linalg.norm(first.observation.state.position - TARGET) > 0.1  # what settle_first is there for


def test_a_full_grip_commands_closed_where_the_plan_finds_the_touch():
    episode = gripper_loop(grasp("settle_first", full_grip=True))
    told = [step for step in episode.steps if step.plan.gripper == "only"]
    assert told[0].plan.action[6] == pytest.approx(0.5, abs=0.1)
    assert told[0].command.target[6] == pytest.approx(1.0)


def test_a_schedule_closes_and_goes_on_through_the_safety_layer():
    episode = gripper_loop(grasp("close"))
    grips = [step for step in episode.steps if step.scheduled]
    assert len(grips) == 3 and episode.stop_reason == "goals done"
    assert all(step.command.kind == "move" and step.command.target[6] == 1.0 for step in grips)
    assert all(np.linalg.norm(step.observation.state.position - TARGET) < 0.02 for step in grips)
    # What was not carried out must not be compared with what comes next.
    assert all(episode.steps[step.index + 1].plan.surprise is None for step in grips[:-1])

    paused = loop(grasp("close"), SafetyConfig(LIMITS, dry_run=True), model=HandModel())
    world = HandWorld((*TARGET, *START[3:]))
    dry = paused.run(world, 6)
    assert any(step.scheduled for step in dry.steps) and not any(step.moved for step in dry.steps)
    assert world.state[6] == 0.0


def test_a_sub_goal_at_which_nothing_is_gained_gives_way_instead_of_ending_the_run():
    here = goal((0.4, -0.2, 0.2), "here")
    rule = SwitchRule(timeout_s=3000.0)  # never, here
    world = PointWorld((0.402, -0.2, 0.2, *START[3:]))
    episode = loop(GoalChain([SubGoal(here, rule), goal(TARGET, "end")])).run(world, 30)
    switch = next(step for step in episode.steps if step.switched)
    assert switch.goal.name == "here" and "standing still" in switch.switched
    assert episode.stop_reason == "settled"
    assert np.linalg.norm(world.state[:3] - TARGET) < 0.02

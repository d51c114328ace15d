"""Planning ahead while the arm moves, in a world small enough to know what must happen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from point_world import PointModel, picture

from vjepa_ac_planner.control.environment import RobotStatus
from vjepa_ac_planner.control.goals import GoalChain, SubGoal, SwitchRule
from vjepa_ac_planner.control.limits import MotionLimits
from vjepa_ac_planner.control.mpc import LoopConfig, RecedingHorizon
from vjepa_ac_planner.control.pipeline import Pipeline, PipelineConfig
from vjepa_ac_planner.control.safety import SafetyConfig, SafetyLayer
from vjepa_ac_planner.errors import ConfigError, PlanningError
from vjepa_ac_planner.planning.cem import CEMConfig
from vjepa_ac_planner.planning.energy import latent_energy
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.planning.proposals import SearchConfig
from vjepa_ac_planner.types import Frame, Goal, Observation, RobotState

LIMITS = MotionLimits((0.3, -0.3, 0.1), (0.7, 0.3, 0.6))
SAFETY = SafetyConfig(LIMITS, max_energy_rise=None)
START = (0.4, -0.2, 0.2, 3.1, 0.0, -0.7, 0.0)
TARGET = (0.6, 0.2, 0.4)


class Arm:
    """A world in which things can be done while a command is carried out; notes the order of events."""

    def __init__(self, state=START, miss=0.0):
        self.state, self.time, self.events = np.array(state), 50.0, []
        self.miss = np.array([miss, 0.0, 0.0])
        self.commands, self._command = [], None

    def observe(self):
        self.events.append("observe")
        return self.newest()

    def newest(self):
        return Observation(Frame(picture(self.state[:3]), self.time), RobotState(self.state, self.time))

    def status(self):
        return RobotStatus()

    def begin(self, command):
        assert self._command is None
        self.events.append(f"begin {command.kind}")
        self.commands.append(command)
        self._command = command

    def finish(self):
        command, self._command = self._command, None
        self.events.append("finish")
        if command.kind == "move":
            self.state = np.array(command.target)
            self.state[:3] += self.miss
        self.time += command.duration

    def apply(self, command):
        self.begin(command)
        self.finish()


class Noted:
    """A planner that notes when it searches, and from where."""

    def __init__(self, world, planner=None):
        self._planner = planner or Planner(
            PointModel(),
            PlannerConfig(
                search=SearchConfig(axes="xyz", xyz=0.075),
                cem=CEMConfig(samples=64, elites=8, iterations=5, include_zero=True),
            ),
        )
        self._world, self.asked, self.trouble = world, [], None

    def plan(self, observation, goal, **options):
        self._world.events.append("search")
        self.asked.append((observation, goal, options))
        if self.trouble is not None and len(self.asked) in self.trouble:
            raise self.trouble[len(self.asked)]
        return self._planner.plan(observation, goal, **options)

    def carried_out(self, plan, action):
        return self._planner.carried_out(plan, action)

    def energy(self, observation, goal):
        return self._planner.energy(observation, goal)


def goal(position=TARGET, name="goal"):
    return Goal(Frame(picture(position)), name)


def pieces(world, *, goals=None, safety=SAFETY, config=None, loop=None):
    planner = Noted(world)
    pipeline = Pipeline(planner, world, config)
    chain = goals or GoalChain(goal())
    return planner, pipeline, RecedingHorizon(pipeline, SafetyLayer(safety), chain, loop)


def test_it_reaches_the_goal_and_plans_while_the_arm_moves():
    world = Arm()
    planner, pipeline, loop = pieces(world)
    reached = lambda seen: np.linalg.norm(seen.state.position - TARGET) < 0.02  # noqa: E731
    episode = loop.run(pipeline, 12, reached=reached)
    assert episode.stop_reason == "reached"
    moves = len(episode.steps)
    assert 3 <= moves <= 8
    assert pipeline.fates == {"confirmed": moves - 1}
    # Only the first search keeps the arm waiting; every other one is made while it moves.
    events = " ".join(world.events)
    assert events.startswith("observe search begin move search finish observe begin move search finish")
    assert world.events.count("search") == 1 + moves
    seeds = [options["seed"] for _, _, options in planner.asked]
    assert seeds == list(range(moves + 1))


def test_it_goes_the_same_way_as_without():
    """Where the world does as the model says, planning ahead changes nothing but the waiting."""
    world, still = Arm(), Arm()
    _, pipeline, loop = pieces(world)
    ahead = loop.run(pipeline, 5)
    plain = RecedingHorizon(Noted(still), SafetyLayer(SAFETY), GoalChain(goal())).run(still, 5)
    assert len(ahead.steps) == len(plain.steps) == 5
    for one, other in zip(ahead.steps, plain.steps, strict=True):
        np.testing.assert_allclose(one.command.target, other.command.target, atol=0.012)


def test_what_is_expected_is_the_end_of_the_command_as_sent():
    """A step that the safety layer cut short leads elsewhere than the plan meant."""
    world = Arm()
    short = replace(SAFETY, limits=replace(LIMITS, max_translation=0.05))
    planner, pipeline, loop = pieces(world, safety=short)
    episode = loop.run(pipeline, 3)
    assert all("max_translation" in step.command.reason and step.moved for step in episode.steps)
    for step, (expected, _, options) in zip(episode.steps, planner.asked[1:], strict=True):
        np.testing.assert_allclose(expected.state.vector, step.command.target, atol=1e-5)
        moved = step.command.target[:3] - step.observation.state.position
        shown = PointModel().encode([step.observation.frame])[0]
        np.testing.assert_allclose(expected.latent, shown + torch.tensor(moved).float(), atol=1e-5)
        assert expected.frame is step.observation.frame  # its age is that of what it rests on
        np.testing.assert_allclose(options["warm_start"].action[:3], moved, atol=1e-6)


def test_the_evidence_of_a_confirmed_plan_is_of_the_real_frame():
    world = Arm(miss=0.004)
    planner, pipeline, loop = pieces(world)
    episode = loop.run(pipeline, 3)
    assert pipeline.fates["confirmed"] == 2
    for step, (expected, *_) in zip(episode.steps[1:], planner.asked[1:], strict=False):
        energy = planner.energy(step.observation, step.goal)
        actions = torch.tensor(step.plan.actions).float()
        evidence = energy.evaluate(torch.stack((actions, torch.zeros_like(actions))))
        assert [step.plan.energy, step.plan.zero_energy] == pytest.approx(evidence.energies.tolist())
        assert step.plan.current_energy == pytest.approx(latent_energy(energy.z0, energy.z_goal).item())
        assert step.plan.surprise == pytest.approx(latent_energy(energy.z0, expected.latent).item())
        assert step.plan.surprise > 0.0005
        np.testing.assert_allclose(step.plan.predicted_states[0], step.observation.state.vector, atol=1e-6)
        torch.testing.assert_close(step.plan.predicted_latent, evidence.latents[0, 0])
        assert step.plan.stamp == step.observation.frame.stamp
        assert "confirm" in step.plan.timings


def test_the_target_stays_where_it_was_when_the_arm_missed():
    world = Arm(miss=0.01)
    planner, pipeline, loop = pieces(world)
    episode = loop.run(pipeline, 2)
    (expected, _, options) = planner.asked[1]
    meant = Planner(PointModel(), planner._planner.config).plan(expected, goal(), seed=options["seed"])
    step = episode.steps[1]
    np.testing.assert_allclose(
        step.observation.state.position, expected.state.position + [0.01, 0, 0], atol=1e-6
    )
    np.testing.assert_allclose(step.command.target[:3], meant.predicted_states[1, :3], atol=1e-5)


@pytest.mark.parametrize(
    ("config", "fate"),
    [
        (PipelineConfig(max_surprise=0.3), "surprised"),
        (PipelineConfig(max_deviation=0.05), "elsewhere"),
    ],
)
def test_a_plan_for_another_world_is_dropped(config, fate):
    class Pushed(Arm):
        """Someone moves the arm after its first step."""

        def finish(self):
            super().finish()
            if len(self.commands) == 1:
                self.state[1] += 0.1

    world = Pushed()
    planner, pipeline, loop = pieces(world, config=config)
    episode = loop.run(pipeline, 2)
    assert pipeline.fates == {fate: 1}
    # Searched again from what is really seen, with the seed of that step.
    seen, _, options = planner.asked[2]
    np.testing.assert_array_equal(seen.state.vector, episode.steps[1].observation.state.vector)
    np.testing.assert_allclose(seen.latent, PointModel().encode([seen.frame])[0])
    assert options["seed"] == 1
    assert episode.steps[1].plan.stamp == episode.steps[1].observation.frame.stamp
    assert episode.steps[1].moved


def test_the_safety_layer_sees_the_surprise():
    class Teleported(Arm):
        def finish(self):
            super().finish()
            self.state[:3] = 0.35, 0.25, 0.5

    world = Teleported()
    _, pipeline, loop = pieces(world, safety=replace(SAFETY, max_surprise=0.05))
    episode = loop.run(pipeline, 6)
    assert episode.stop_reason == "paused"
    assert world.commands[-1].kind == "hold"


def test_a_plan_that_gains_nothing_from_here_is_made_again():
    """The arm is carried past where the plan leads: a new one, from there, decides."""

    class Carried(Arm):
        def finish(self):
            super().finish()
            self.state[:3] = TARGET + np.array((0.0, 0.03, 0.0))

    world = Carried()
    trusting = PipelineConfig(max_surprise=100.0, max_deviation=0.5)
    planner, pipeline, loop = pieces(world, config=trusting)
    episode = loop.run(pipeline, 2)
    assert pipeline.fates == {"no gain": 1}
    np.testing.assert_array_equal(planner.asked[2][0].state.vector, world.state)
    assert episode.steps[1].moved
    assert np.linalg.norm(episode.steps[1].command.target[:3] - TARGET) < 0.015


def test_at_the_goal_it_settles_as_without_a_pipeline():
    world = Arm((*TARGET, *START[3:]))
    _, pipeline, loop = pieces(world)
    assert loop.run(pipeline, 20).stop_reason == "settled"
    assert world.commands[-1].kind == "hold"


def test_nothing_is_planned_while_the_arm_holds():
    world = Arm()
    _, pipeline, loop = pieces(world, safety=replace(SAFETY, dry_run=True))
    loop.run(pipeline, 3)
    assert " ".join(world.events).startswith("observe search begin hold finish observe search begin hold")
    assert not pipeline.fates


def test_another_goal_makes_the_plan_worthless():
    world = Arm()
    rule = SwitchRule(max_steps=1)
    goals = GoalChain([SubGoal(goal((0.4, 0.2, 0.2), "corner"), rule), SubGoal(goal(TARGET, "end"))])
    planner, pipeline, loop = pieces(world, goals=goals)
    episode = loop.run(pipeline, 2)
    assert [step.goal.name for step in episode.steps] == ["corner", "end"]
    assert pipeline.fates == {"other goal": 1}
    assert [asked[1].name for asked in planner.asked] == ["corner", "corner", "end", "end"]


def test_old_observations_rule_motion_out_as_ever():
    """Frames stop: nothing is confirmed, and the plan made ahead is forgotten."""

    class Frozen(Arm):
        def newest(self):
            seen = super().newest()
            if len(self.commands) in (1, 2):
                seen = replace(seen, frame=Frame(seen.frame.image, seen.frame.stamp - 2.0))
            return seen

    world = Frozen()
    planner, pipeline, loop = pieces(world)
    episode = loop.run(pipeline, 4)
    assert [step.command.kind for step in episode.steps] == ["move", "hold", "hold", "move"]
    assert "max_image_age: 2.000 s" in episode.steps[1].command.reason
    assert episode.steps[3].plan.stamp == episode.steps[3].observation.frame.stamp
    assert not pipeline.fates
    assert [options["seed"] for _, _, options in planner.asked] == [0, 1, 3, 4]


def test_a_command_is_judged_by_what_is_newest_when_it_is_sent():
    """The arm is pushed down while a plan is confirmed."""

    class Late(Arm):
        """Someone moves the arm between what is observed and what is newest."""

        def observe(self):
            seen = super().observe()
            if len(self.commands) == 1:
                self.state[2] = 0.05
            return seen

    world = Late()
    _, pipeline, loop = pieces(world)
    episode = loop.run(pipeline, 2)
    assert pipeline.fates == {"confirmed": 1}
    step = episode.steps[1]
    assert step.observation.state.position[2] > 0.2
    assert step.command.target[2] == pytest.approx(0.05 + step.plan.action[2], abs=1e-6)


def test_a_failure_ahead_is_no_failure_yet():
    world = Arm()
    planner, pipeline, loop = pieces(world, loop=LoopConfig(max_failures=1))
    planner.trouble = {2: PlanningError("none of the candidates")}
    episode = loop.run(pipeline, 2)
    assert [step.error for step in episode.steps] == ["", ""]
    assert all(step.moved for step in episode.steps)
    assert pipeline.fates == {"failed": 1}
    assert world.events[:6] == ["observe", "search", "begin move", "search", "finish", "observe"]
    assert world.events[6] == "search"


def test_a_defect_ahead_ends_the_command_and_holds_before_it_is_passed_on():
    world = Arm()
    planner, pipeline, loop = pieces(world)
    planner.trouble = {2: ZeroDivisionError("a defect")}
    with pytest.raises(ZeroDivisionError):
        loop.run(pipeline, 5)
    assert world.events[-3:] == ["finish", "begin hold", "finish"]


def test_a_cancel_reaches_the_plan_made_ahead():
    world = Arm()
    _, pipeline, loop = pieces(world)
    episode = loop.run(pipeline, 10, cancel=lambda: bool(world.commands))
    assert episode.stop_reason == "cancelled"
    assert [command.kind for command in world.commands] == ["move", "hold"]


def test_options_are_checked():
    with pytest.raises(ConfigError, match=r"max_surprise: received -1, allowed 0.0 .. 100.0"):
        PipelineConfig(max_surprise=-1)

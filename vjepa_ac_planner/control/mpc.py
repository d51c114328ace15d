"""Receding horizon: observe, plan, pass the safety layer, apply one step, and again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Reversible
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event
from typing import Literal, Protocol

from torch import Tensor

from vjepa_ac_planner.config import check_range, check_ranges, ranged
from vjepa_ac_planner.control.environment import Environment, MovesOn, ReportsStatus, RobotStatus
from vjepa_ac_planner.control.goals import GoalChain
from vjepa_ac_planner.control.gripping import GRIP_STEPS, Decision, decide, full_grip
from vjepa_ac_planner.control.limits import Finding
from vjepa_ac_planner.control.rotation import pose_difference
from vjepa_ac_planner.control.safety import SafetyLayer, Verdict
from vjepa_ac_planner.errors import PlannerError
from vjepa_ac_planner.planning.optimiser import Cancel
from vjepa_ac_planner.planning.proposals import GripperSearch
from vjepa_ac_planner.types import Command, FloatArray, Goal, Observation, Plan

StopReason = Literal["reached", "settled", "goals done", "max steps", "paused", "cancelled", "failing"]


class Plans(Protocol):
    """The part of :class:`~vjepa_ac_planner.planning.planner.Planner` that the loop needs."""

    def plan(
        self,
        observation: Observation,
        goal: Goal | Tensor,
        *,
        warm_start: Plan | None = None,
        deadline_s: float | None = None,
        cancel: Cancel | None = None,
        seed: int | None = None,
        gripper: GripperSearch | None = None,
    ) -> Plan:
        """See :meth:`vjepa_ac_planner.planning.planner.Planner.plan`."""
        ...

    def carried_out(self, plan: Plan, action: FloatArray) -> Plan:
        """See :meth:`vjepa_ac_planner.planning.planner.Planner.carried_out`."""
        ...


@dataclass(frozen=True)
class LoopConfig:
    """How the loop runs and when it ends."""

    deadline_s: float | None = ranged(None, low=0.001, high=600.0, unit="s")
    """Time one plan may take [s]; null waits for it."""
    settled_holds: int | None = ranged(3, low=1, high=1000)
    """After this many holds in a row because no plan improves on standing still, as near to the goal as
    this model can tell, end the run, or go on to the next goal of a chain. null goes on."""
    max_failures: int | None = ranged(3, low=1, high=1000)
    """End after this many failed plans in a row; null goes on trying."""
    seed: int = ranged(0, low=0, high=2**62)
    """Step i plans with seed + i."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Step:
    """One turn of the loop, with everything a report needs."""

    index: int
    observation: Observation
    """What was seen before the step."""
    goal: Goal
    plan: Plan | None
    """None when planning failed, and ``error`` then says why; or when ``findings`` ruled motion out
    beforehand."""
    command: Command
    findings: tuple[Finding, ...]
    """What the safety layer objected to."""
    error: str
    switched: str
    """Why the goal was left after this step; empty if it was not."""
    timings: dict[str, float]
    """Seconds by stage: ``observe``, ``plan``, ``safety``, ``apply``."""
    scheduled: bool = False
    """Whether the gripper was opened or closed because the goal says so, and the plan left undone."""

    @property
    def moved(self) -> bool:
        """Whether the robot was told to move."""
        return self.command.kind == "move"


@dataclass(frozen=True)
class Episode:
    """A whole run."""

    steps: tuple[Step, ...]
    final: Observation
    """What was seen when the run had ended."""
    stop_reason: StopReason
    detail: str
    """The reason in words."""

    @property
    def energies(self) -> tuple[float, ...]:
        """Observed energy |z_0 - z_goal| of every step that has a plan."""
        return tuple(step.plan.current_energy for step in self.steps if step.plan is not None)

    @property
    def plan_seconds(self) -> tuple[float, ...]:
        """Time of every planning call."""
        return tuple(step.timings["plan"] for step in self.steps)


class RecedingHorizon:
    """The loop over any :class:`Environment`.

    A plan that fails is a hold and a line in the record. Any other error, and an interrupt, sends one
    hold before it is passed on: the arm is never left with a motion command.

    Args:
        planner: makes the plans.
        safety: every command passes it.
        goals: what to reach.
        config: deadlines and when to end.
        clock: time on the clock of the observations' stamps [s]; None takes the newest stamp for now,
            which is right for a simulator that stands still while planning.
    """

    def __init__(
        self,
        planner: Plans,
        safety: SafetyLayer,
        goals: GoalChain,
        config: LoopConfig | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.planner, self.safety, self.goals = planner, safety, goals
        self.config = config or LoopConfig()
        self._clock = clock

    def run(
        self,
        environment: Environment,
        max_steps: int | None,
        *,
        reached: Callable[[Observation], bool] | None = None,
        on_step: Callable[[Step], None] | None = None,
        cancel: Cancel | None = None,
        resume: bool = False,
    ) -> Episode:
        """Run towards the goals until they are reached, nothing more is gained, or the steps are used up.

        Args:
            environment: the world.
            max_steps: most commands sent; None goes on, and the episode then holds the last steps only:
                every one keeps its frame, and memory must not grow for as long as a robot runs.
            reached: the world's own test of success, asked before every step and at the end.
            on_step: called with every finished step.
            cancel: an event, or a callable that says whether to stop; the last command is then a hold.
            resume: begin with the goal at which the last run stopped, unless all were done; else with the
                first one.
        """
        if max_steps is not None:
            check_range("max_steps", max_steps, 1, 1_000_000)
        steps: deque[Step] = deque(maxlen=None if max_steps is not None else self._looks_back())
        index = 0
        if resume:
            self.goals.resume()
        else:
            self.goals.reset()
        self.safety.begin_run()
        observation, seconds = _timed(environment.observe)
        try:
            while True:
                stop = self._stop(steps, observation, reached)
                if stop is None and _is_cancelled(cancel):
                    stop = "cancelled", "cancelled from outside"
                if stop is None and index == max_steps:
                    stop = "max steps", f"{max_steps} steps were taken"
                if stop is not None:
                    break
                step = self._step(environment, observation, index, steps, cancel)
                step.timings["observe"] = seconds
                steps.append(step)
                index += 1
                if on_step is not None:
                    on_step(step)
                observation, seconds = _timed(environment.observe)
        except BaseException as error:
            failure = f"{type(error).__name__}: {error}"
            with suppress(Exception):  # the first error tells more than a second one
                environment.apply(self._judge(environment, None, observation, failure).command)
            raise
        if steps and steps[-1].moved:
            environment.apply(self._judge(environment, None, observation, stop[1]).command)
        return Episode(tuple(steps), observation, *stop)

    def _looks_back(self) -> int:
        """How many of the last steps the rules of this loop need."""
        return max(self.config.max_failures or 1, self.config.settled_holds or 1, GRIP_STEPS)

    def _step(
        self,
        environment: Environment,
        observation: Observation,
        index: int,
        steps: deque[Step],
        cancel: Cancel | None,
    ) -> Step:
        goal = self.goals.current
        begin = time.perf_counter()
        status = _status(environment)
        decision, error = None, ""
        verdict = self.safety.refuse(observation, self._now(observation), status)
        if verdict is None:
            decision, error = self._decide(observation, goal, index, steps, cancel)
        planned = time.perf_counter()
        if verdict is None:
            verdict = self._verdict(environment, decision, observation, error)
        judged = time.perf_counter()
        environment.apply(verdict.command)
        applied = time.perf_counter()
        step = Step(
            index,
            observation,
            goal,
            None if decision is None else decision.plan,
            verdict.command,
            verdict.findings,
            error,
            "",
            {"plan": planned - begin, "safety": judged - planned, "apply": applied - judged},
            scheduled=decision is not None and decision.grip is not None,
        )
        switched = None if decision is None else self._switch(step, decision, steps)
        return replace(step, switched=switched or "")

    def _decide(
        self,
        observation: Observation,
        goal: Goal,
        index: int,
        steps: deque[Step],
        cancel: Cancel | None,
    ) -> tuple[Decision | None, str]:
        """What to do, or why there is no plan."""
        limit, begin = self.config.deadline_s, time.monotonic()

        def search(gripper: GripperSearch | None) -> Plan:
            # A second search of one step has what the first one left of the time.
            left = None if limit is None else max(limit - (time.monotonic() - begin), 0.001)
            return self.planner.plan(
                observation,
                goal,
                warm_start=previous,
                deadline_s=left,
                cancel=cancel,
                seed=self.config.seed + index,
                gripper=gripper,
            )

        grips = _count_back(steps, _grips)
        try:
            previous = self._previous(steps)
            return decide(search, self.goals.sub_goal, observation.state, grips), ""
        except PlannerError as problem:
            return None, f"{type(problem).__name__}: {problem}"

    def _previous(self, steps: deque[Step]) -> Plan | None:
        """The last plan, as it was carried out, towards the goal that still holds."""
        step = steps[-1] if steps else None
        if step is None or step.plan is None or not step.moved or step.switched or step.scheduled:
            return None
        if not step.findings:
            return step.plan
        # A step that was cut is none that the plan has foretold.
        return self.planner.carried_out(
            step.plan, carried_out(step.plan, step.observation.state.vector, step.command.target)
        )

    def _verdict(
        self,
        environment: Environment,
        decision: Decision | None,
        observation: Observation,
        error: str,
    ) -> Verdict:
        if decision is None:
            return self._judge(environment, None, observation, error)
        plan = decision.plan
        if self.goals.sub_goal.full_grip:
            plan = full_grip(plan, observation.state)
        return self._judge(environment, plan, observation, error, decision.grip)

    def _switch(self, step: Step, decision: Decision, steps: deque[Step]) -> str | None:
        """Why the goal is left after this step, if it is."""
        now, energy = self._now(step.observation), decision.plan.current_energy
        reason = self.goals.update(energy, now, settled=decision.settled)
        holds, limit = 1 + _count_back(steps, _stands_still), self.config.settled_holds
        if reason is None and limit is not None and holds >= limit and _stands_still(step):
            # At the last goal this ends the run; before it, there is somewhere else to go.
            reason = self.goals.leave(f"no plan improved on standing still {holds} times in a row")
        if reason is not None:
            self.safety.new_goal()
        return reason

    def _judge(
        self,
        environment: Environment,
        plan: Plan | None,
        observation: Observation,
        failure: str,
        grip: float | None = None,
    ) -> Verdict:
        moved_on = isinstance(environment, MovesOn)
        if isinstance(environment, MovesOn):
            observation = environment.newest()
        now, status = self._now(observation), _status(environment)
        return self.safety.judge(plan, observation, now, status, failure, paired=not moved_on, grip=grip)

    def _now(self, observation: Observation) -> float:
        if self._clock is not None:
            return self._clock()
        return max(observation.frame.stamp, observation.state.stamp)

    def _stop(
        self,
        steps: deque[Step],
        observation: Observation,
        reached: Callable[[Observation], bool] | None,
    ) -> tuple[StopReason, str] | None:
        config = self.config
        if reached is not None and reached(observation):
            return "reached", "the goal was seen to be reached"
        if self.safety.paused is not None:
            return "paused", f"safety paused: {self.safety.paused}"
        if self.goals.done:
            return "goals done", f"last goal: {steps[-1].switched}"
        if config.max_failures is not None:
            failures = _count_back(steps, lambda step: bool(step.error))
            if failures >= config.max_failures:
                return "failing", f"{failures} plans failed in a row, last: {steps[-1].error}"
        if config.settled_holds is not None:
            holds = _count_back(steps, _stands_still)
            if holds >= config.settled_holds:
                return "settled", f"no plan improved on standing still {holds} times in a row"
        return None


def _status(environment: Environment) -> RobotStatus | None:
    return environment.status() if isinstance(environment, ReportsStatus) else None


def carried_out(plan: Plan, state: FloatArray, target: FloatArray) -> FloatArray:
    """[7] action that a command makes of a plan's first one.

    Args:
        plan: what was planned.
        state: [7] of the arm when it was planned.
        target: [7] of the command.
    """
    action = pose_difference(state, target)
    if plan.action[6] == 0.0:  # what the gripper was told before is no change, however it measures
        action[6] = 0.0
    return action


def _grips(step: Step) -> bool:
    """Whether a step towards the goal that still holds was given to the gripper alone."""
    searched = step.plan is not None and step.plan.gripper == "only"
    return (searched or step.scheduled) and not step.switched


def _stands_still(step: Step) -> bool:
    """Whether nothing was gained by moving, towards the goal that still holds."""
    return step.plan is not None and not (step.plan.improves or step.moved or step.switched)


def _is_cancelled(cancel: Cancel | None) -> bool:
    if cancel is None:
        return False
    return cancel.is_set() if isinstance(cancel, Event) else cancel()


def _count_back(steps: Reversible[Step], test: Callable[[Step], bool]) -> int:
    """How many of the last steps in a row pass a test."""
    count = 0
    for step in reversed(steps):
        if not test(step):
            break
        count += 1
    return count


def _timed(observe: Callable[[], Observation]) -> tuple[Observation, float]:
    begin = time.perf_counter()
    return observe(), time.perf_counter() - begin

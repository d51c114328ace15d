"""What the worker thread does: run towards the goals, or plan once and move nothing."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from vjepa_ac_planner.control.goals import GoalChain
from vjepa_ac_planner.control.mpc import Episode, RecedingHorizon, Step
from vjepa_ac_planner.control.pipeline import Pipeline
from vjepa_ac_planner.control.safety import SafetyLayer
from vjepa_ac_planner.errors import PlannerError
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.ros.environment import RosEnvironment
from vjepa_ac_planner.ros.outputs import Outputs
from vjepa_ac_planner.ros.parameters import NodeConfig
from vjepa_ac_planner.ros.recording import Recordings
from vjepa_ac_planner.ros.runner import GuardedPlanner
from vjepa_ac_planner.ros.status import StatusLine

_STATES = {"paused": "paused", "settled": "settled", "goals done": "done"}
"""What the node is after a run, by why the run stopped."""


class Jobs:
    """See the module.

    Args:
        config: of the node; may be replaced between two jobs.
        goals: to run towards; may be replaced between two jobs.
        planner: makes the plans.
        environment: the robot.
        safety: judges every plan.
        recordings: keep the runs.
        outputs: show every plan as soon as it is made.
        status: told how it goes.
        clock: time on the clock of the stamps [s].
        log: of the node.
    """

    def __init__(
        self,
        config: NodeConfig,
        goals: GoalChain | None,
        planner: Planner,
        environment: RosEnvironment,
        safety: SafetyLayer,
        recordings: Recordings,
        outputs: Outputs,
        status: StatusLine,
        clock: Callable[[], float],
        log: Any,
    ) -> None:
        self.config, self.goals = config, goals
        self._environment, self._safety, self._recordings = environment, safety, recordings
        self._status, self._clock, self._log = status, clock, log
        self.pipeline = Pipeline(planner, environment) if config.pipelined else None
        """The planner's way ahead of the robot; None where it plans when the robot has arrived."""
        self.planner = GuardedPlanner(
            self.pipeline or planner, self._planning_failed, self._arrival, outputs.plan
        )
        self.last: Step | None = None
        """The newest step of any run."""
        self.steps = 0
        """How many there were."""
        self._goes_on = False
        """Whether the next run begins where the last one was stopped."""

    def prepare(self) -> None:
        """Set the thread up, before its first job."""
        # Its priority is not lowered: it often holds the interpreter's lock, and the setpoint thread
        # would then wait for a thread that waits for a core.
        if self.config.threads:
            torch.set_num_threads(self.config.threads)

    def first_goal(self) -> None:
        """Have the next run begin with the first goal, wherever the last one stopped."""
        self._goes_on = False

    def run(self) -> None:
        """Run towards the goals until they are done, something stops it, or it is cancelled.

        A run that was stopped goes on with the goal it had: a task that began anew would grasp what it
        already holds.
        """
        goals = self.goals
        assert goals is not None
        if not self._goes_on:
            goals.reset()
        self._goes_on = True
        horizon = RecedingHorizon(self.planner, self._safety, goals, self.config.loop(), clock=self._clock)
        if self.pipeline is not None:
            self.pipeline.forget()
        self._status.say_of_run("running", f"towards {goals.current.name!r}")
        with self._recordings.run(goals, self.config.seed) as record:

            def on_step(step: Step) -> None:
                self._on_step(step)
                record(step)

            cancel = self._environment.cancel
            world = self.pipeline or self._environment
            episode = horizon.run(world, None, on_step=on_step, cancel=cancel, resume=True)
        self._ended(episode)

    def plan_once(self) -> tuple[str, bool]:
        """What a plan from what is seen now would do, in words, and whether there is one."""
        assert self.goals is not None
        try:
            observation = self._environment.observe()
            plan = self.planner.plan(
                observation, self.goals.current, seed=self.config.seed, cancel=self._environment.cancel
            )
            newest = self._environment.newest()
        except PlannerError as error:
            return f"{type(error).__name__}: {error}", False
        shadow = SafetyLayer(replace(self._safety.config, dry_run=False))
        verdict = shadow.judge(plan, newest, self._clock(), self._environment.status(), paired=False)
        action = ", ".join(f"{value:+.4f}" for value in plan.action)
        return (
            f"energy {plan.energy:.4f}, standing still {plan.zero_energy:.4f}; action [{action}]; "
            f"would {verdict.command.kind}{': ' if verdict.command.reason else ''}{verdict.command.reason}",
            True,
        )

    def failed(self, error: BaseException) -> None:
        """Say that a job has raised an error; cancelled ones may."""
        self._status.say_of_run("failing", f"{type(error).__name__}: {error}")
        if not self._environment.cancel.is_set():
            self._complain(error)

    def _planning_failed(self, error: Exception) -> None:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            torch.cuda.empty_cache()
        self._complain(error)

    def _complain(self, error: BaseException) -> None:
        self._log.error("".join(traceback.format_exception(error)), throttle_duration_sec=5.0)

    def _arrival(self) -> float | None:
        pending = self._environment.frame
        return None if pending is None else pending.arrived

    def _on_step(self, step: Step) -> None:
        self.last, self.steps = step, self.steps + 1
        state = "moving" if step.moved else "holding"
        dry = self._safety.config.dry_run and not step.error
        self._status.say_of_run("dry run" if dry else state, step.command.reason)

    def _ended(self, episode: Episode) -> None:
        if episode.stop_reason in ("settled", "goals done"):
            self._goes_on = False
        if episode.stop_reason != "cancelled":
            self._status.say_of_run(_STATES.get(episode.stop_reason, "stopped"), episode.detail)

"""What a configured node consists of: model, mailbox, worker, actuation, and the rules between them.

A *run* begins with :meth:`Session.enable` and ends with :meth:`Session.disable`; inside it the receding
horizon plans towards the goals, pauses when the safety layer says so, and holds when it is done.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import torch
from rclpy.task import Future

from vjepa_ac_planner.control.environment import RobotStatus
from vjepa_ac_planner.control.goals import GoalChain
from vjepa_ac_planner.control.safety import SafetyConfig, SafetyLayer
from vjepa_ac_planner.errors import InputError, NotReadyError
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.ros import diagnostics
from vjepa_ac_planner.ros.actuation import Actuation
from vjepa_ac_planner.ros.environment import RosEnvironment
from vjepa_ac_planner.ros.gripper import GripperConfig
from vjepa_ac_planner.ros.health import Health
from vjepa_ac_planner.ros.inputs import Inputs
from vjepa_ac_planner.ros.jobs import Jobs
from vjepa_ac_planner.ros.loading import load_goals, load_planner
from vjepa_ac_planner.ros.outputs import Outputs
from vjepa_ac_planner.ros.parameters import NodeConfig
from vjepa_ac_planner.ros.profile import RobotProfile
from vjepa_ac_planner.ros.recording import Recordings
from vjepa_ac_planner.ros.runner import Job, Runner
from vjepa_ac_planner.ros.status import StatusLine
from vjepa_ac_planner.types import Frame, Goal


class Session:
    """See the module.

    Args:
        node: the lifecycle node; gives clock, log, and everything to publish and subscribe with.
        config: of the node.
        profile: of the robot.

    Raises:
        PlannerError: model, task or robot cannot be used as configured.
    """

    def __init__(self, node: Any, config: NodeConfig, profile: RobotProfile) -> None:
        self._node, self.config, self.profile = node, config, profile
        self._log = node.get_logger()
        self.planner: Planner = load_planner(config, profile, self._log.info)
        goals = load_goals(config.task) if config.task else None
        recordings = Recordings(config, profile, self.planner, self._log.error)
        self.safety = SafetyLayer(self._limits(profile))
        # Whom these call is made below, and nothing is called before the executor's next turn.
        self.environment = RosEnvironment(
            self._clock,
            lambda command: self._actuation.command(command),
            self._robot_now,
            lambda what, why: self._inputs.looked_at(what, why),
            profile.safety.max_image_age,
        )
        self._begun = False
        """Whether there has been a run since activation."""
        self._runner: Runner | None = None
        self._once: Any = None
        """Whoever waits for a single plan."""
        with ExitStack() as undo:  # a publisher left behind would count as somebody else's later on
            self._outputs = Outputs(node, profile, self._stamp, lambda: self.environment.state)
            undo.callback(self._outputs.close)
            self._status = StatusLine(self._outputs.status, lambda: self.environment.cancel.is_set())
            self._actuation = Actuation(
                node,
                profile.gripper if profile.output != "none" else GripperConfig(),
                self.safety,
                self.environment,
                self._outputs,
                lambda: self._inputs.status(),
                self._clock,
            )
            undo.callback(self._actuation.close)
            self._inputs = Inputs(
                node, profile, self.environment, config.stamps, self._clock, self._new_goal_image
            )
            undo.callback(self._inputs.close)
            self._jobs = Jobs(
                config,
                goals,
                self.planner,
                self.environment,
                self.safety,
                recordings,
                self._outputs,
                self._status,
                self._clock,
                self._log,
            )
            undo.pop_all()
        self._status.say("inactive", "configured")

    # What the node's transitions and services call; all in the executor's thread.

    def activate(self) -> None:
        """Be ready to run."""
        self._begun = False
        self._jobs.first_goal()
        # A plan of before that did not end keeps the old event, which stays set.
        self.environment.cancel = threading.Event()
        self._runner = Runner(self.environment.cancel, self._jobs.failed, self._jobs.prepare)
        self._actuation.activate(1.0 / self.profile.stream_hz)
        self._status.say("idle", "waiting for ~/set_enabled")

    def deactivate(self) -> None:
        """Hold, fall silent, and end the threads."""
        self._actuation.disable()
        self._settle_once("the node was deactivated")
        if self._runner is not None and not self._runner.close():
            self._log.error("the plan under way does not end; no command is sent any more")
        self._runner = None
        self._actuation.deactivate()
        self._status.say("inactive", "deactivated")

    def close(self) -> None:
        """End everything and free the model's memory."""
        if self._runner is not None:
            self.deactivate()
        self._actuation.close()
        self._inputs.close()
        self._outputs.close()
        cuda = self.planner.world_model.device.type == "cuda"
        del self.planner, self._jobs
        if cuda:
            torch.cuda.empty_cache()

    def enable(self) -> str:
        """Begin to run towards the goals; also ends a pause.

        Raises:
            NotReadyError: what is missing, topic by topic.
        """
        runner = self._active()
        self._check_ready()
        self.safety.resume()
        self._begun = True
        self._actuation.enable()
        self._post(runner, self._jobs.run)
        return "dry run: plans are made, nothing is sent" if self.profile.safety.dry_run else "running"

    def attend(self) -> None:
        """Begin by itself, once, where that is asked for; called now and then."""
        if self.config.run_when_ready and not self._begun and self._runner is not None:
            with suppress(NotReadyError):
                self.enable()

    def disable(self) -> str:
        """Hold, then send nothing any more."""
        runner = self._active()
        self._actuation.disable()
        self._post(runner, None)
        self._status.say("idle", "disabled")
        return "holding, then silent"

    def reset(self) -> str:
        """As after activation: disabled, not paused, first goal, no memory of what was seen."""
        if self._runner is not None:
            self.disable()
            self._runner.wait_idle(5.0)
        self._jobs.first_goal()
        self.safety.resume()
        self.safety.reset()
        self.environment.reset()
        return "reset; enable to run again"

    def goal_from_current(self) -> str:
        """Take what the camera sees now as the goal.

        Raises:
            NotReadyError: the camera sends nothing, or nothing usable.
        """
        camera, bound = self._inputs.topics["camera"], self.profile.safety.max_image_age
        pending = self.environment.frame
        if pending is None or camera.age > bound:
            raise NotReadyError(camera.missing(bound) or f"camera: nothing received on {camera.name}")
        try:
            frame = pending.get()
        except InputError as error:
            raise NotReadyError(f"camera: {error}") from error
        if frame is None:
            raise NotReadyError(f"camera: the newest frame is unusable: {camera.last_bad}")
        self._set_goals(GoalChain(Goal(frame, "taught")))
        return f"goal taught from the frame at {frame.stamp:.3f} s"

    def plan_once(self) -> Any:
        """Plan from what is seen now and move nothing; a future of (success, message).

        Raises:
            NotReadyError: what is missing; or a run is under way.
        """
        runner = self._active()
        if self._actuation.enabled:
            raise NotReadyError("a run is under way and publishes its plans; disable it first")
        self._check_ready(moving=False)
        self._settle_once("replaced by a newer request")
        future = self._once = Future(executor=self._node.executor)
        self._post(runner, lambda: _settle(future, *self._jobs.plan_once()), future)
        return future

    def reconfigure(self, config: NodeConfig, profile: RobotProfile) -> None:
        """Take over changed parameters, between two plans and two setpoints."""
        was_dry = self.profile.safety.dry_run
        self.config = self._jobs.config = config
        self.profile = profile
        self.safety.config = self._limits(profile)
        self.environment.patience = profile.safety.max_image_age
        if profile.safety.dry_run != was_dry:
            self._actuation.follow_dry_run()

    def time_jumped(self) -> None:
        """Stamps of before mean nothing any more."""
        self.environment.reset()
        self._log.warning("time has jumped: waiting for new frames and states")

    def diagnostics(self) -> Any:
        """The message for ``/diagnostics``."""
        self._actuation.count_publishers()
        self.environment.look()
        health = Health(
            status=self._status,
            topics=self._inputs.topics,
            model=self.planner.world_model,
            jobs=self._jobs,
            safety=self.safety,
            actuation=self._actuation,
        )
        return diagnostics.array(self._stamp(), health.statuses(), self.profile.name)

    # Between the parts.

    def _new_goal_image(self, frame: Frame) -> None:
        self._set_goals(GoalChain(Goal(frame, "goal")))

    def _set_goals(self, goals: GoalChain) -> None:
        self._jobs.goals = goals
        self._log.info(f"new goal: {goals.current.name}")
        if self._actuation.enabled and self._runner is not None:
            self._post(self._runner, self._jobs.run)

    def _post(self, runner: Runner, job: Job | None, once: Any = None) -> None:
        if once is None:
            self._settle_once("replaced by a newer request")
        runner.post(job)

    def _settle_once(self, message: str) -> None:
        """Answer whoever waits for a single plan: there will be none."""
        future, self._once = self._once, None
        if future is not None:
            _settle(future, message, False)

    def _active(self) -> Runner:
        if self._runner is None:
            raise NotReadyError("the node is not active: `ros2 lifecycle set planner activate` first")
        return self._runner

    def _robot_now(self) -> RobotStatus:
        self._inputs.look()
        return self._actuation.status()

    def _check_ready(self, *, moving: bool = True) -> None:
        self._inputs.look()
        self.environment.look()
        missing = list(self._inputs.missing())
        if self._jobs.goals is None:
            topic = self._inputs.topics["goal"].name
            missing.append(f"goal: none; publish one on {topic}, call ~/set_goal_from_current, or set task")
        if moving:
            publishers = self._outputs.command_publishers()
            if publishers > 1 and not self.profile.safety.dry_run:
                missing.append(
                    f"{self._outputs.command_topic}: {publishers} publishers, allowed 1, this one"
                )
        if missing:
            raise NotReadyError("; ".join(missing))

    def _limits(self, profile: RobotProfile) -> SafetyConfig:
        """The profile's limits with the model's step."""
        limits = replace(
            profile.safety.limits, step_seconds=self.planner.world_model.description.step_seconds
        )
        return replace(profile.safety, limits=limits)

    def _clock(self) -> float:
        return float(self._node.get_clock().now().nanoseconds) * 1e-9

    def _stamp(self) -> Any:
        return self._node.get_clock().now().to_msg()


def _settle(future: Any, message: str, success: bool) -> None:
    if not future.done():
        future.set_result((success, message))

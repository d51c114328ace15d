"""What a configured node consists of: model, mailbox, worker, setpoints, and the rules between them.

A *run* begins with :meth:`Session.enable` and ends with :meth:`Session.disable`; inside it the receding
horizon plans towards the goals, pauses when the safety layer says so, and holds when it is done.
"""

from __future__ import annotations

import threading
import traceback
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import torch
from rclpy.task import Future

from vjepa_ac_planner.control.environment import RobotStatus
from vjepa_ac_planner.control.goals import GoalChain
from vjepa_ac_planner.control.mpc import Episode, RecedingHorizon, Step
from vjepa_ac_planner.control.pipeline import Pipeline
from vjepa_ac_planner.control.safety import SafetyLayer
from vjepa_ac_planner.control.stream import Setpoint, SetpointStream
from vjepa_ac_planner.errors import InputError, NotReadyError, PlannerError
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.ros import diagnostics
from vjepa_ac_planner.ros.environment import RosEnvironment
from vjepa_ac_planner.ros.gripper import make_gripper
from vjepa_ac_planner.ros.health import Health
from vjepa_ac_planner.ros.inputs import Inputs
from vjepa_ac_planner.ros.loading import load_goals, load_planner
from vjepa_ac_planner.ros.outputs import Outputs
from vjepa_ac_planner.ros.parameters import NodeConfig
from vjepa_ac_planner.ros.profile import RobotProfile
from vjepa_ac_planner.ros.recording import Recordings
from vjepa_ac_planner.ros.runner import GuardedPlanner, Job, Runner
from vjepa_ac_planner.ros.setpoints import SetpointThread
from vjepa_ac_planner.types import Command, Frame, Goal, Observation, Plan


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
        self._goals: GoalChain | None = load_goals(config.task) if config.task else None
        self._recordings = Recordings(config, profile, self.planner, self._log.error)
        self.safety = SafetyLayer(self._limits(profile))
        self.environment = RosEnvironment(
            self._clock, self._command, self._status, self._looked_at, profile.safety.max_image_age
        )
        self._pipeline = Pipeline(self.planner, self.environment) if config.pipelined else None
        self._guarded = GuardedPlanner(
            self._pipeline or self.planner,
            self._failed,
            self._arrival,
            lambda plan: self._outputs.plan(plan),
        )
        self._state, self._reason = "inactive", ""
        self._enabled = False
        self._begun = False
        """Whether there has been a run since activation."""
        self._publishers = 1
        self._runner: Runner | None = None
        self._setpoints: SetpointThread | None = None
        self._once: Any = None
        self._last: Step | None = None
        self._steps = 0
        self._saying = threading.Lock()
        with ExitStack() as undo:  # a publisher left behind would count as somebody else's later on
            self._outputs = Outputs(node, profile, self._stamp, lambda: self.environment.state)
            undo.callback(self._outputs.close)
            self._gripper = make_gripper(node, profile.gripper)
            undo.callback(self._gripper.close)
            self._inputs = Inputs(
                node, profile, self.environment, config.stamps, self._clock, self._new_goal_image
            )
            undo.pop_all()
        self._say("inactive", "configured")

    # What the node's transitions and services call; all in the executor's thread.

    def activate(self) -> None:
        """Be ready to run."""
        self._begun = False
        # A plan of before that did not end keeps the old event, which stays set.
        self.environment.cancel = threading.Event()
        self._runner = Runner(self.environment.cancel, self._job_failed, self._prepare_worker)
        self._setpoints = SetpointThread(
            SetpointStream(self.safety),
            1.0 / self.profile.stream_hz,
            clock=self._clock,
            state=lambda: self.environment.state,
            status=self._known_status,
            publish=self._publish,
            on_error=lambda text: self._log.error(f"setpoint stream: {text}", throttle_duration_sec=1.0),
        )
        self._say("idle", "waiting for ~/set_enabled")

    def deactivate(self) -> None:
        """Hold, fall silent, and end the threads."""
        self._enabled = False
        self._gripper.hold()
        if self._setpoints is not None:
            self._setpoints.stop()
        self._settle_once("the node was deactivated")
        if self._runner is not None and not self._runner.close():
            self._log.error("the plan under way does not end; no command is sent any more")
        if self._setpoints is not None:
            self._setpoints.close()
        self._runner = self._setpoints = None
        self._say("inactive", "deactivated")

    def close(self) -> None:
        """End everything and free the model's memory."""
        if self._runner is not None:
            self.deactivate()
        self._gripper.close()
        self._inputs.close()
        self._outputs.close()
        cuda = self.planner.world_model.device.type == "cuda"
        del self.planner, self._guarded, self._pipeline
        if cuda:
            torch.cuda.empty_cache()

    def enable(self) -> str:
        """Begin to run towards the goals; also ends a pause.

        Raises:
            NotReadyError: what is missing, topic by topic.
        """
        runner, setpoints = self._active()
        self._check_ready()
        self.safety.resume()
        self._enabled = self._begun = True
        if not self.profile.safety.dry_run:
            setpoints.start()
        self._post(runner, self._run)
        return "dry run: plans are made, nothing is sent" if self.profile.safety.dry_run else "running"

    def attend(self) -> None:
        """Begin by itself, once, where that is asked for; called now and then."""
        if self.config.run_when_ready and not self._begun and self._runner is not None:
            with suppress(NotReadyError):
                self.enable()

    def disable(self) -> str:
        """Hold, then send nothing any more."""
        runner, setpoints = self._active()
        self._enabled = False
        setpoints.stop()
        self._gripper.hold()
        self._post(runner, None)
        self._say("idle", "disabled")
        return "holding, then silent"

    def reset(self) -> str:
        """As after activation: disabled, not paused, first goal, no memory of what was seen."""
        if self._runner is not None:
            self.disable()
            self._runner.wait_idle(5.0)
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
        runner, _ = self._active()
        if self._enabled:
            raise NotReadyError("a run is under way and publishes its plans; disable it first")
        self._check_ready(moving=False)
        self._settle_once("replaced by a newer request")
        future = self._once = Future(executor=self._node.executor)
        self._post(runner, lambda: _settle(future, *self._planned_once()), future)
        return future

    def reconfigure(self, config: NodeConfig, profile: RobotProfile) -> None:
        """Take over changed parameters, between two plans and two setpoints."""
        was_dry = self.profile.safety.dry_run
        self.config, self.profile = config, profile
        self.safety.config = self._limits(profile)
        self.environment.patience = profile.safety.max_image_age
        if self._enabled and self._setpoints is not None and profile.safety.dry_run != was_dry:
            if profile.safety.dry_run:
                self._setpoints.stop()
            else:
                self._setpoints.start()

    def time_jumped(self) -> None:
        """Stamps of before mean nothing any more."""
        self.environment.reset()
        self._log.warning("time has jumped: waiting for new frames and states")

    def diagnostics(self) -> Any:
        """The message for ``/diagnostics``."""
        self._publishers = self._outputs.command_publishers()
        self.environment.look()
        health = Health(
            state=self._state,
            reason=self._reason,
            topics=self._inputs.topics,
            limits=self.profile.safety,
            model=self.planner.world_model,
            planner=self._guarded,
            ahead=None if self._pipeline is None else self._pipeline.fates,
            goals=self._goals,
            last=self._last,
            steps=self._steps,
            enabled=self._enabled,
            robot=self._known_status(),
            publishers=self._publishers,
            paused=self.safety.paused,
            setpoints=self._setpoints,
            gripper=self._gripper,
        )
        return diagnostics.array(self._stamp(), health.statuses(), self.profile.name)

    # Goals.

    def _new_goal_image(self, frame: Frame) -> None:
        self._set_goals(GoalChain(Goal(frame, "goal")))

    def _set_goals(self, goals: GoalChain) -> None:
        self._goals = goals
        self._log.info(f"new goal: {goals.current.name}")
        if self._enabled and self._runner is not None:
            self._post(self._runner, self._run)

    # In the worker thread.

    def _prepare_worker(self) -> None:
        # Its priority is not lowered: it often holds the interpreter's lock, and the setpoint thread
        # would then wait for a thread that waits for a core.
        if self.config.threads:
            torch.set_num_threads(self.config.threads)

    def _run(self) -> None:
        goals = self._goals
        assert goals is not None
        horizon = RecedingHorizon(self._guarded, self.safety, goals, self.config.loop(), clock=self._clock)
        if self._pipeline is not None:
            self._pipeline.forget()
        self._say_of_run("running", f"towards {goals.current.name!r}")
        with self._recordings.run(goals, self.config.seed) as record:

            def on_step(step: Step) -> None:
                self._on_step(step)
                record(step)

            cancel = self.environment.cancel
            world = self._pipeline or self.environment
            episode = horizon.run(world, None, on_step=on_step, cancel=cancel)
        self._ended(episode)

    def _ended(self, episode: Episode) -> None:
        if episode.stop_reason == "cancelled":
            return
        states = {"paused": "paused", "settled": "settled", "goals done": "done"}
        self._say_of_run(states.get(episode.stop_reason, "stopped"), episode.detail)

    def _on_step(self, step: Step) -> None:
        self._last, self._steps = step, self._steps + 1
        state = "moving" if step.moved else "holding"
        self._say_of_run(
            "dry run" if self.profile.safety.dry_run and not step.error else state, step.command.reason
        )

    def _planned_once(self) -> tuple[str, bool]:
        """What a plan would do, in words, and whether there is one."""
        assert self._goals is not None
        try:
            observation: Observation = self.environment.observe()
            plan: Plan = self._guarded.plan(
                observation, self._goals.current, seed=self.config.seed, cancel=self.environment.cancel
            )
            newest = self.environment.newest()
        except PlannerError as error:
            return f"{type(error).__name__}: {error}", False
        shadow = SafetyLayer(replace(self.safety.config, dry_run=False))
        verdict = shadow.judge(plan, newest, self._clock(), self._status(), paired=False)
        action = ", ".join(f"{value:+.4f}" for value in plan.action)
        return (
            f"energy {plan.energy:.4f}, standing still {plan.zero_energy:.4f}; action [{action}]; "
            f"would {verdict.command.kind}{': ' if verdict.command.reason else ''}{verdict.command.reason}",
            True,
        )

    def _settle_once(self, message: str) -> None:
        """Answer whoever waits for a single plan: there will be none."""
        future, self._once = self._once, None
        if future is not None:
            _settle(future, message, False)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            torch.cuda.empty_cache()
        self._log.error("".join(traceback.format_exception(error)), throttle_duration_sec=5.0)

    def _job_failed(self, error: BaseException) -> None:
        self._say_of_run("failing", f"{type(error).__name__}: {error}")
        if not self.environment.cancel.is_set():
            self._log.error("".join(traceback.format_exception(error)), throttle_duration_sec=5.0)

    # Between the parts.

    def _post(self, runner: Runner, job: Job | None, once: Any = None) -> None:
        if once is None:
            self._settle_once("replaced by a newer request")
        runner.post(job)

    def _active(self) -> tuple[Runner, SetpointThread]:
        if self._runner is None or self._setpoints is None:
            raise NotReadyError("the node is not active: `ros2 lifecycle set planner activate` first")
        return self._runner, self._setpoints

    def _check_ready(self, *, moving: bool = True) -> None:
        self.environment.look()
        missing = list(self._inputs.missing())
        if self._goals is None:
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

    def _limits(self, profile: RobotProfile) -> Any:
        """The profile's limits with the model's step."""
        limits = replace(
            profile.safety.limits, step_seconds=self.planner.world_model.description.step_seconds
        )
        return replace(profile.safety, limits=limits)

    def _command(self, command: Command) -> None:
        """Hand a command to arm and gripper, unless the run has ended."""
        # A plan that was cut short is not carried out, not even for the moment until the hold.
        cancelled = command.kind == "move" and self.environment.cancel.is_set()
        if self._setpoints is None or not self._enabled or cancelled:
            return
        self._setpoints.command(command)
        state = self.environment.state
        if command.kind == "hold" or state is None:
            self._gripper.hold()
            return
        try:
            self._gripper.send(float(command.target[6]), state.gripper)
        except InputError as error:
            self._log.error(f"gripper: {error}", throttle_duration_sec=1.0)

    def _publish(self, setpoint: Setpoint) -> None:
        # Somebody else commands the arm: two streams would pull it to and fro.
        if self._publishers <= 1:
            self._outputs.setpoint(setpoint)

    def _status(self) -> RobotStatus:
        """What the robot says, and whether we alone command it, as of now."""
        self._publishers = self._outputs.command_publishers()
        return self._known_status()

    def _known_status(self) -> RobotStatus:
        dry = self.profile.safety.dry_run
        status = self._inputs.status() or RobotStatus()
        return replace(status, command_publishers=1 if dry else self._publishers)

    def _looked_at(self, what: str, why: str | None) -> None:
        self._inputs.looked_at(what, why)

    def _arrival(self) -> float | None:
        pending = self.environment.frame
        return None if pending is None else pending.arrived

    def _clock(self) -> float:
        return float(self._node.get_clock().now().nanoseconds) * 1e-9

    def _stamp(self) -> Any:
        return self._node.get_clock().now().to_msg()

    def _say(self, state: str, reason: str) -> None:
        with self._saying:
            self._say_at_once(state, reason)

    def _say_of_run(self, state: str, reason: str) -> None:
        """Say it in the worker thread, unless the run has been cancelled: then others have the word."""
        with self._saying:
            if not self.environment.cancel.is_set():
                self._say_at_once(state, reason)

    def _say_at_once(self, state: str, reason: str) -> None:
        if (state, reason) != (self._state, self._reason):
            self._state, self._reason = state, reason
            self._outputs.status(f"{state}: {reason}" if reason else state)


def _settle(future: Any, message: str, success: bool) -> None:
    if not future.done():
        future.set_result((success, message))

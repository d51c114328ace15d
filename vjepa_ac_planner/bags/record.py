"""A run recorded as it happens: what was seen, planned and commanded, in one MCAP file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from vjepa_ac_planner.bags.records import PLAN_TOPIC, RUN_TOPIC, PlanRecord, RunInfo
from vjepa_ac_planner.bags.writer import BagWriter
from vjepa_ac_planner.config import json_data
from vjepa_ac_planner.control.mpc import Step
from vjepa_ac_planner.errors import BagError
from vjepa_ac_planner.types import ACTION_NAMES, Goal, Observation, Plan

__all__ = ["PlanRecord", "RecordTopics", "RunInfo", "RunRecorder"]


@dataclasses.dataclass(frozen=True)
class RecordTopics:
    """Where a run is recorded: the names of the live node."""

    image: str = "/camera/image_raw"
    """sensor_msgs/Image, rgb8: lossless."""
    pose: str = "/franka_robot_state_broadcaster/current_pose"
    """geometry_msgs/PoseStamped of the model's frame (link8) in the base frame."""
    gripper: str = "/franka_gripper/joint_states"
    """sensor_msgs/JointState of the two fingers."""
    goal: str = "/goal_image"
    """sensor_msgs/Image; the frame id is the goal's name."""
    target: str = "/target_pose"
    """geometry_msgs/PoseStamped, what was commanded."""
    node: str = "/planner"
    """Prefix of ``action`` (JointState), ``plan`` (PoseArray), ``energy`` (Float64), ``run`` and
    ``plan_record`` (String, JSON)."""


class RunRecorder:
    """Writes one run to one MCAP file; a context manager.

    Hand :meth:`on_step` to :meth:`~vjepa_ac_planner.control.mpc.RecedingHorizon.run`. Every step is on its
    way to the disk when it returns: what a killed process leaves as ``FILE.partial`` ends with the last
    step. The poses are for people and players; what plans are made from is in the JSON of the plan record,
    exact to the last bit.

    Args:
        path: the file; it must not exist.
        run: what decides the run's plans.
        topics: names of the topics.
        base_frame: frame id of the poses.

    Raises:
        BagError: the file exists or cannot be written.
        MissingDependencyError: the ``bags`` extra is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        run: RunInfo,
        topics: RecordTopics | None = None,
        base_frame: str = "base",
    ) -> None:
        self._topics = topics or RecordTopics()
        self._base = base_frame
        self._run: RunInfo | None = run
        self._goals: list[Goal] = []
        self._unwritten: list[Goal] = []
        self._now = 0
        self._bag = BagWriter(path)

    @property
    def path(self) -> Path:
        """The file, once the recording is closed."""
        return self._bag.path

    def goals(self, goals: Sequence[Goal]) -> None:
        """Record goal images; they are written before the next step, at its time."""
        new = [goal for goal in goals if not any(goal is known for known in self._goals)]
        self._goals += new
        self._unwritten += new

    def on_step(self, step: Step) -> None:
        """Record one step.

        Raises:
            BagError: it cannot be written.
        """
        self._advance(step.observation)
        record = plan_record(step, self._goals)
        self._bag.text(self._node(PLAN_TOPIC), to_json(dataclasses.asdict(record)), self._now)
        self._bag.pose(self._topics.target, step.command.target, self._now, self._base)
        if step.plan is not None:
            self._write_plan(step.plan)
        self._write_observation(step.observation)

    def end(self, observation: Observation) -> None:
        """Record what was seen when the run had ended (``Episode.final``): what the last action led to.

        Raises:
            BagError: it cannot be written.
        """
        self._advance(observation)
        self._write_observation(observation)

    def close(self) -> None:
        """Complete the file and give it its name; safe to call twice.

        Raises:
            BagError: the disk is full; what was written stays as ``FILE.partial``.
        """
        self._begin(self._now)
        self._write_goals()
        self._bag.close()

    def discard(self) -> None:
        """Stop, and leave no file: the run will be made again under this name."""
        self._bag.abandon()
        self._bag.partial.unlink(missing_ok=True)

    def __enter__(self) -> RunRecorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A run that ended by an error or an interrupt is a run all the same; its own error comes first.
        with suppress(BagError) if error is not None else nullcontext():
            self.close()

    def _node(self, topic: str) -> str:
        return f"{self._topics.node}/{topic.split('/')[-1]}"

    def _begin(self, now: int) -> None:
        if self._run is not None:
            self._bag.text(self._node(RUN_TOPIC), to_json(dataclasses.asdict(self._run)), now)
            self._run = None

    def _write_goals(self) -> None:
        for goal in self._unwritten:
            self._bag.image(self._topics.goal, goal.frame.image, self._now, goal.name)
        self._unwritten = []

    def _advance(self, observation: Observation) -> None:
        # The recorder's clock is that of the observations, and never goes back.
        stamps = nanoseconds(observation.frame.stamp), nanoseconds(observation.state.stamp)
        self._now = max(self._now, *stamps)
        self._begin(self._now)
        self._write_goals()

    def _write_observation(self, observation: Observation) -> None:
        topics, bag = self._topics, self._bag
        frame, state = observation.frame, observation.state
        stamp = nanoseconds(state.stamp)
        bag.pose(topics.pose, state.vector, stamp, self._base)
        bag.gripper(topics.gripper, state.gripper, stamp)
        # Last, because it closes the chunk: all of the step goes to disk together.
        bag.image(topics.image, frame.image, nanoseconds(frame.stamp), frame.frame_id)

    def _write_plan(self, plan: Plan) -> None:
        bag, node = self._bag, self._topics.node
        bag.joints(f"{node}/action", list(ACTION_NAMES), plan.action, self._now, self._base)
        bag.poses(f"{node}/plan", plan.predicted_states, self._now, self._base)
        bag.number(f"{node}/energy", plan.current_energy, self._now)


def plan_record(step: Step, goals: Sequence[Goal] = ()) -> PlanRecord:
    """The record of one step, exact.

    Args:
        step: what happened.
        goals: the recorded goal images, of which the step's is one.
    """
    frame, state, plan = step.observation.frame, step.observation.state, step.plan
    index = next((i for i, goal in enumerate(goals) if goal is step.goal), -1)
    record = PlanRecord(
        index=step.index,
        stamp=float(frame.stamp),
        frame_id=frame.frame_id,
        state=_floats(state.vector),
        state_stamp=float(state.stamp),
        goal=step.goal.name,
        goal_index=index,
        command=step.command.kind,
        target=_floats(step.command.target),
        duration=float(step.command.duration),
        reason=step.command.reason,
        error=step.error,
        switched=step.switched,
        findings=tuple(str(finding) for finding in step.findings),
        timings={name: float(value) for name, value in step.timings.items()},
    )
    if plan is None:
        return record
    return dataclasses.replace(
        record,
        planned=True,
        seed=plan.seed,
        gripper=plan.gripper,
        # Surprise is what a plan handed over left to be compared, so it is there if one was.
        warm_started=plan.surprise is not None,
        actions=tuple(map(_floats, plan.actions)),
        predicted_states=tuple(map(_floats, plan.predicted_states)),
        energy=float(plan.energy),
        zero_energy=float(plan.zero_energy),
        current_energy=float(plan.current_energy),
        predicted_energies=_floats(np.asarray(plan.predicted_energies, dtype=np.float64)),
        surprise=None if plan.surprise is None else float(plan.surprise),
        iterations=len(plan.iterations),
        evaluations=plan.evaluations,
        stop_reason=plan.stop_reason,
        timings={**record.timings, **{f"plan.{k}": float(v) for k, v in plan.timings.items()}},
    )


def nanoseconds(stamp: float) -> int:
    """A stamp [s] as an integer [ns], not below 0."""
    return max(0, round(stamp * 1e9))


def to_json(record: Any) -> str:
    """JSON in which every float reads back as it was; what JSON does not know (NaN) becomes null."""
    return json.dumps(json_data(record), allow_nan=False, default=str)


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)

"""The recording with what the planner would have done beside it: an MCAP file for Foxglove.

Camera, pose and gripper are on the topics of the live node, one message per sample (images as JPEG), and
so are ``/planner/action``, ``/planner/plan`` and ``/planner/energy``: a layout made for the robot shows a
replay too. What only a replay knows is under ``/replay``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from vjepa_ac_planner.bags.record import RecordTopics, nanoseconds
from vjepa_ac_planner.bags.writer import BagWriter
from vjepa_ac_planner.replay.goals import ReplayGoal
from vjepa_ac_planner.replay.lockstep import Moment
from vjepa_ac_planner.replay.scores import cosines
from vjepa_ac_planner.types import ACTION_NAMES, Frame, Plan

FLOATS = {
    "energy_planned": "/replay/energy/planned",
    "energy_recorded": "/replay/energy/recorded",
    "energy_zero": "/replay/energy/standing_still",
    "energy_random": "/replay/energy/random",
    "distance": "/replay/distance",
    "plan_seconds": "/replay/plan_seconds",
}
"""Columns of the step table that become topics, std_msgs/Float64 each."""
SURPRISES = {
    "surprise": "/replay/surprise",
    "surprise_copy": "/replay/surprise/no_change",
    "surprise_shuffled": "/replay/surprise/other_action",
}
"""The same for those that are known one sample later, with the frame that surprised."""
_JPEG_QUALITY = 90


class AnnotatedBag:
    """Writes the annotated file, moment by moment; a context manager.

    Args:
        path: the file; it must not exist.
        goals: goal images; each is written when it becomes the goal.

    Raises:
        BagError: it cannot be written.
        MissingDependencyError: the ``bags`` extra is not installed.
    """

    def __init__(self, path: str | Path, goals: Sequence[ReplayGoal]) -> None:
        self._topics = RecordTopics()
        self._goals = tuple(goals)
        self._goal: int | None = None
        self._before: Moment | None = None
        # Large chunks: what a killed replay leaves is of no use, so nothing hurries to the disk.
        self._bag = BagWriter(path, chunk_bytes=1 << 20)

    def __enter__(self) -> AnnotatedBag:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bag.__exit__(kind, error, traceback)

    def on_moment(self, moment: Moment) -> None:
        """Write one sample and what belongs to it.

        Raises:
            BagError: it cannot be written.
        """
        bag, topics = self._bag, self._topics
        observation = moment.sample.observation
        now = nanoseconds(moment.sample.time)
        self._image(f"{topics.image}/compressed", observation.frame, now, observation.frame.frame_id)
        bag.pose(topics.pose, observation.state.vector, now)
        bag.gripper(topics.gripper, observation.state.gripper, now)
        if moment.goal is not None and moment.goal != self._goal:
            self._goal = moment.goal
            goal = self._goals[moment.goal].goal
            self._image(f"{topics.goal}/compressed", goal.frame, now, goal.name)
        if moment.recorded is not None:
            bag.joints("/replay/recorded_action", list(ACTION_NAMES), moment.recorded, now, "base")
        if moment.plan is not None:
            self._plan(moment.plan, moment.recorded, now)
        for column, topic in FLOATS.items():
            self._float(topic, moment.row.get(column, math.nan), now)
        before = self._before
        if before is not None and before.sample.segment == moment.sample.segment:
            for column, topic in SURPRISES.items():
                self._float(topic, before.row.get(column, math.nan), now)
        if moment.verdict is not None:
            command = moment.verdict.command
            said = {"command": command.kind, "reason": command.reason, "error": moment.error}
            bag.text("/replay/safety", json.dumps(said), now)
        self._before = moment

    def verdict(self, text: str) -> None:
        """Write the result in words, at the last sample's time."""
        if self._before is not None:
            self._bag.text("/replay/verdict", text, nanoseconds(self._before.sample.time))

    def _plan(self, plan: Plan, recorded: np.ndarray | None, now: int) -> None:
        bag, node = self._bag, self._topics.node
        bag.joints(f"{node}/action", list(ACTION_NAMES), plan.action, now, "base")
        bag.poses(f"{node}/plan", plan.predicted_states, now)
        self._float(f"{node}/energy", plan.current_energy, now)
        if recorded is not None:
            values, counted = cosines(recorded[None], plan.action[None])
            if counted[0]:
                self._float("/replay/cosine", float(values[0]), now)

    def _float(self, topic: str, value: float, now: int) -> None:
        if math.isfinite(value):
            self._bag.number(topic, value, now)

    def _image(self, topic: str, frame: Frame, now: int, frame_id: str) -> None:
        pixels = np.ascontiguousarray(frame.image[..., ::-1])
        done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        if not done:
            raise RuntimeError(f"image of shape {frame.image.shape} could not be encoded as JPEG")
        self._bag.compressed(topic, data.tobytes(), now, frame_id)

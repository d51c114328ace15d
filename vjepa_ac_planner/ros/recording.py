"""A live run as a bag: everything that is needed to plan it again to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from vjepa_ac_planner.bags.record import RecordTopics, RunRecorder
from vjepa_ac_planner.bags.records import RunInfo
from vjepa_ac_planner.config import to_mapping
from vjepa_ac_planner.control.goals import GoalChain
from vjepa_ac_planner.control.mpc import Step
from vjepa_ac_planner.errors import PlannerError
from vjepa_ac_planner.models import find_model
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.ros.parameters import NodeConfig
from vjepa_ac_planner.ros.profile import RobotProfile


class Recordings:
    """Opens one bag for every run, if the configuration names a folder for them.

    Args:
        config: of the node; names the folder.
        profile: of the robot.
        planner: what plans.
        complain: told when a recording fails; the run goes on without it.

    Raises:
        BagError: the model's weights cannot be read.
        MissingDependencyError: the ``bags`` extra is not installed.
    """

    def __init__(
        self, config: NodeConfig, profile: RobotProfile, planner: Planner, complain: Callable[[str], None]
    ) -> None:
        self._folder = Path(config.record).expanduser() if config.record else None
        self._profile, self._planner, self._complain = profile, planner, complain
        self._weights = find_model(profile.model).require_weights()
        self._pipelined = config.pipelined
        self._info: RunInfo | None = self._describe(config.seed) if self._folder else None

    @contextmanager
    def run(self, goals: GoalChain, seed: int) -> Iterator[Callable[[Step], None]]:
        """Takes the steps of one run; a disk that is full ends the recording and not the run."""
        recorder = self._open(goals, seed)
        failed = recorder is None

        def record(step: Step) -> None:
            nonlocal failed
            if recorder is not None and not failed:
                try:
                    recorder.on_step(step)
                except PlannerError as error:
                    failed = True
                    self._complain(f"the recording ends here: {error}")

        try:
            yield record
        finally:
            if recorder is not None:
                try:
                    recorder.close()
                except PlannerError as error:
                    self._complain(str(error))

    def _open(self, goals: GoalChain, seed: int) -> RunRecorder | None:
        if self._folder is None:
            return None
        if self._info is None or self._info.seed != seed:
            self._info = self._describe(seed)
        names = self._profile.topics
        topics = RecordTopics(
            image=_absolute(names.image),
            pose=_absolute(names.ee_pose),
            gripper=_absolute(names.gripper or "gripper/joint_states"),
            goal=_absolute(names.goal_image),
            target=_absolute(names.target_pose),
        )
        now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            recorder = RunRecorder(
                self._folder / f"run-{now}.mcap", self._info, topics, self._profile.frames.base_frame
            )
            recorder.goals(goals.goals)
        except (PlannerError, OSError) as error:
            self._complain(f"this run is not recorded: {error}")
            return None
        return recorder

    def _describe(self, seed: int) -> RunInfo:
        robot = to_mapping(self._profile)
        extra = {"robot": robot, "source": "planner node", "pipelined": self._pipelined}
        return RunInfo.of(self._planner, self._weights, seed, **extra)


def _absolute(name: str) -> str:
    return name if name.startswith("/") else f"/{name}"

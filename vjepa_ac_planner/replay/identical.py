"""Plans that were recorded live, made again: equal to the last bit, or how they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vjepa_ac_planner.bags.reader import MOST_GOALS, Bag
from vjepa_ac_planner.bags.records import PlanRecord
from vjepa_ac_planner.config import from_mapping
from vjepa_ac_planner.control.mpc import carried_out
from vjepa_ac_planner.errors import PlannerError
from vjepa_ac_planner.planning.planner import DESCENDING, Planner, PlanningModel
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.types import Frame, Goal, Observation, Plan, RobotState

_STAMP_SLACK = 1e-6
"""Stamps pass through whole nanoseconds on their way into a bag [s]."""


@dataclass(frozen=True)
class Identical:
    """How the plans made again compare with the recorded ones."""

    recorded: int
    """Plans in the recording."""
    equal: int
    """Made again with the same actions and energies, bit for bit."""
    different: int
    """Made again, and different."""
    skipped: dict[str, int]
    """Why others could not be made again, and how many."""
    largest: float
    """Largest difference between two actions, in metres, radians or closedness."""
    note: str = ""
    """What else differs between then and now."""

    @property
    def all_equal(self) -> bool:
        """Whether every recorded plan was made again, bit for bit."""
        return self.recorded > 0 and self.equal == self.recorded

    def __str__(self) -> str:
        """One sentence or two."""
        if not self.recorded:
            return f"No plan was recorded.{self.note and ' ' + self.note}"
        text = f"{self.equal} of {self.recorded} recorded plans were made again bit for bit"
        if self.different:
            text += f", {self.different} came out otherwise (by at most {self.largest:.2g})"
        if self.skipped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
            text += f"; not made again: {reasons}"
        return f"{text}.{self.note and ' ' + self.note}"

    def record(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {
            "recorded": self.recorded,
            "equal": self.equal,
            "different": self.different,
            "not_made_again": self.skipped,
            "largest_difference": self.largest,
            "note": self.note,
        }


def check_identical(
    bag: Bag,
    model: PlanningModel,
    model_sha256: str,
    on_plan: Callable[[PlanRecord, Plan], None] | None = None,
) -> Identical | None:
    """Make every recorded plan again from the recorded frame, state, goal, seed and configuration.

    The plans of another model cannot be compared, those that stopped at a deadline or were cancelled
    depend on the clock, those of a pipelined run were searched for before their frame was seen, and
    gradients on a GPU do not come out twice; they are counted as not made again.

    Args:
        bag: the recording.
        model: the world model; plans are made with the recorded configuration, whatever the preset.
        model_sha256: hash of its weights file.
        on_plan: called with every record and the plan made again.

    Returns:
        None if the bag was not recorded by this package.
    """
    if bag.run is None:
        return None
    records = [record for record in bag.plans() if record.planned]
    note = _differences(bag, model)
    if bag.run.model_sha256 and bag.run.model_sha256 != model_sha256:
        reason = f"by another model ({bag.run.model}, weights {bag.run.model_sha256[:12]})"
        return Identical(len(records), 0, 0, {reason: len(records)} if records else {}, 0.0)
    if bag.run.extra.get("pipelined"):
        reason = "searched for before their frame was seen (pipelined)"
        return Identical(len(records), 0, 0, {reason: len(records)} if records else {}, 0.0, note)
    config = from_mapping(PlannerConfig, bag.run.planner, "recorded configuration")
    if config.optimiser in DESCENDING and any("cuda" in str(d) for d in (bag.run.device, model.device)):
        reason = "by gradients on a GPU, which come out otherwise every time"
        return Identical(len(records), 0, 0, {reason: len(records)} if records else {}, 0.0, note)
    planner = Planner(model, config)
    goals = _goals(bag, records)
    skipped: dict[str, int] = {}
    equal = different = 0
    largest = 0.0
    before: tuple[PlanRecord, Plan] | None = None
    for record in records:
        warm = _warm_start(planner, *before) if before and before[0].index == record.index - 1 else None
        made = _again(bag, planner, goals, record, warm)
        if isinstance(made, str):
            skipped[made] = skipped.get(made, 0) + 1
            continue
        before = record, made
        if on_plan is not None:
            on_plan(record, made)
        same = _equal(record, made)
        equal, different = equal + same, different + (not same)
        recorded = np.asarray(record.actions)
        if recorded.shape == made.actions.shape:
            largest = max(largest, float(np.abs(recorded - made.actions).max()))
    return Identical(len(records), equal, different, skipped, largest, note)


def _goals(bag: Bag, records: Sequence[PlanRecord]) -> dict[int, Goal]:
    """Goal images by the index that the records give them.

    One that cannot be read leaves no place, and all after it move up. The images are then told by their
    names, and where several have one name they are left out.
    """
    goals = bag.goals()
    if bag.topics.goal is None or len(goals) >= min(bag.infos[bag.topics.goal].count, MOST_GOALS):
        return dict(enumerate(goals))
    named = {(record.goal_index, record.goal) for record in records if record.goal_index >= 0}
    fits = {name: [goal for goal in goals if goal.name == name] for _, name in named}
    told = Counter(name for _, name in named)
    return {index: fits[name][0] for index, name in named if told[name] == len(fits[name]) == 1}


def _warm_start(planner: Planner, record: PlanRecord, plan: Plan) -> Plan:
    """What the plan after this one was begun from."""
    if not record.findings:
        return plan
    return planner.carried_out(plan, carried_out(plan, np.array(record.state), np.array(record.target)))


def _again(
    bag: Bag, planner: Planner, goals: Mapping[int, Goal], record: PlanRecord, warm: Plan | None
) -> Plan | str:
    """The plan, or why it cannot be made again."""
    if record.stop_reason in ("deadline", "cancelled"):
        return "stopped by the clock"
    if record.goal_index not in goals:
        return "for a goal image that is not in the bag"
    if record.warm_started and warm is None:
        return "begun from a plan that could not be made again"
    try:
        frame = _frame(bag, record)
        if frame is None:
            return "from a frame that is not in the bag"
        observation = Observation(frame, RobotState(np.array(record.state), record.state_stamp))
        return planner.plan(
            observation,
            goals[record.goal_index],
            warm_start=warm if record.warm_started else None,
            seed=record.seed,
            gripper=record.gripper,
        )
    except PlannerError as error:
        return f"because {error}"


def _frame(bag: Bag, record: PlanRecord) -> Frame | None:
    frame = bag.frame_at(record.stamp)
    return frame if abs(frame.stamp - record.stamp) <= _STAMP_SLACK else None


def _equal(record: PlanRecord, plan: Plan) -> bool:
    then = (record.energy, record.zero_energy, record.current_energy, *record.predicted_energies)
    now = (plan.energy, plan.zero_energy, plan.current_energy, *plan.predicted_energies)
    return then == now and np.array_equal(np.asarray(record.actions), plan.actions)


def _differences(bag: Bag, model: PlanningModel) -> str:
    """What is known to change the last bits: device, precision and versions."""
    import torch

    run = bag.run
    assert run is not None
    dtype = str(getattr(model, "dtype", torch.float32)).removeprefix("torch.")
    now = {"device": str(model.device), "dtype": dtype, "torch": str(torch.__version__)}
    then = {"device": run.device, "dtype": run.dtype, "torch": run.versions.get("torch", "")}
    changed = [f"{name} {then[name]} then, {now[name]} now" for name in now if then[name] != now[name]]
    return f"Not the same as when it was recorded: {'; '.join(changed)}." if changed else ""

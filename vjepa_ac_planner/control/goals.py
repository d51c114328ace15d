"""What to reach: one goal image, or a chain of sub-goals and the rules by which each gives way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vjepa_ac_planner.config import check_ranges, from_mapping, load_yaml, ranged
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.types import Frame, Goal, RobotState

Gripper = Literal["preset", "plan", "hold", "settle_first", "open", "close"]
"""How a sub-goal treats the gripper:

``preset``: as the planner's preset says.
``plan``: searched together with the arm, as in the paper.
``hold``: it keeps what it has.
``settle_first``: the arm goes first; once no plan gains anything more, the gripper alone is searched.
``open``, ``close``: the arm goes first; then the gripper is opened or closed, whatever the energy says.
"""


@dataclass(frozen=True)
class SwitchRule:
    """When a sub-goal is done with; the first rule that applies counts, none means never."""

    max_steps: int | None = ranged(None, low=1, high=10_000)
    """After this many steps (the paper: 4 to grasp, 10 to carry, 4 to place)."""
    energy_fraction: float | None = ranged(None, low=0.0, high=1.0)
    """When the energy has come down to this fraction of its first value."""
    plateau_steps: int | None = ranged(None, low=1, high=1000)
    """When the energy has not found a new low for this many steps."""
    plateau_tolerance: float = ranged(0.02, low=0.0, high=1.0)
    """How much lower a new low must be, as a fraction of the first energy."""
    settled_steps: int | None = ranged(None, low=1, high=1000)
    """When for this many steps in a row no plan, neither for arm nor gripper, gained anything."""
    settled_below: float = ranged(0.0, low=0.0, high=0.1, unit="m")
    """A plan that would move the hand by less than this gains nothing [m]; 0 leaves it to the energy."""
    timeout_s: float | None = ranged(None, low=0.01, high=3600.0, unit="s")
    """After this time [s]."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def ever(self) -> bool:
        """Whether there is a rule at all."""
        rules = (
            self.max_steps,
            self.energy_fraction,
            self.plateau_steps,
            self.settled_steps,
            self.timeout_s,
        )
        return any(rule is not None for rule in rules)


@dataclass(frozen=True)
class SubGoal:
    """A goal, how the gripper is to be treated on the way, and when to leave it."""

    goal: Goal
    until: SwitchRule = field(default_factory=SwitchRule)
    gripper: Gripper = "preset"
    """See :data:`Gripper`."""
    full_grip: bool = False
    """Whether every planned change of the gripper goes all the way: an object is held by force, and the
    closedness at which the fingers meet it, which is what a plan finds, holds nothing."""


class GoalChain:
    """Goals one after another.

    Args:
        goals: at least one; a plain :class:`Goal` is never left by itself.

    Raises:
        ConfigError: no goal, or a goal that can never be left before the last one.
    """

    def __init__(self, goals: Goal | SubGoal | Sequence[Goal | SubGoal]) -> None:
        chain = [goals] if isinstance(goals, (Goal, SubGoal)) else list(goals)
        self._chain = [SubGoal(item) if isinstance(item, Goal) else item for item in chain]
        if not self._chain:
            raise ConfigError("goals: received none, at least one is needed")
        for item in self._chain[:-1]:
            if not item.until.ever:
                raise ConfigError(
                    f"goals: {item.goal.name!r} is followed by another goal but is never left; give it "
                    "max_steps, energy_fraction, plateau_steps, settled_steps or timeout_s"
                )
        self.reset()

    def __len__(self) -> int:
        """Number of goals."""
        return len(self._chain)

    @property
    def goals(self) -> tuple[Goal, ...]:
        """All goals in order."""
        return tuple(item.goal for item in self._chain)

    @property
    def index(self) -> int:
        """Number of goals left behind; equals ``len(self)`` when all are done."""
        return self._index

    @property
    def done(self) -> bool:
        """Whether the last goal's own rule has applied."""
        return self._index == len(self._chain)

    @property
    def last(self) -> bool:
        """Whether no other goal follows the current one."""
        return self._index >= len(self._chain) - 1

    @property
    def sub_goal(self) -> SubGoal:
        """The goal to plan for with its rules; the last one once all are done."""
        return self._chain[min(self._index, len(self._chain) - 1)]

    @property
    def current(self) -> Goal:
        """The goal to plan for; the last one once all are done."""
        return self.sub_goal.goal

    def reset(self) -> None:
        """Begin again with the first goal."""
        self._index = 0
        self._progress = _Progress()

    def resume(self) -> None:
        """Begin the current goal anew; the first one if all are done."""
        self._index = 0 if self.done else self._index
        self._progress = _Progress()

    def update(self, energy: float, now: float, *, settled: bool = False) -> str | None:
        """Take note of one more step towards the current goal, and leave it if its rule says so.

        Args:
            energy: |z - z_goal| of the observed latent, before the step.
            now: time on any steady clock [s].
            settled: whether no plan of this step gained anything.

        Returns:
            Why the goal was left, or None.
        """
        if self.done:
            return None
        rule = self._chain[self._index].until
        if now < self._progress.since:  # time went backwards: a bag began again
            self._progress = _Progress()
        self._progress.note(energy, now, settled, rule.plateau_tolerance)
        reason = self._progress.reason(rule, energy, now)
        if reason is not None:
            self._index += 1
            self._progress = _Progress()
        return reason

    def leave(self, reason: str) -> str | None:
        """Go on to the next goal, whatever the rule says; the last goal is not left.

        Args:
            reason: why.

        Returns:
            The reason, or None if there is no next goal.
        """
        if self.last:
            return None
        self._index += 1
        self._progress = _Progress()
        return reason


class _Progress:
    """What has happened since the current goal was set."""

    def __init__(self) -> None:
        self.since = -math.inf
        self.steps = 0
        self.steps_since_low = 0
        self.settled_steps = 0
        self.first = self.lowest = math.inf

    def note(self, energy: float, now: float, settled: bool, tolerance: float) -> None:
        if self.steps == 0:
            self.since, self.first = now, energy
        self.steps += 1
        self.settled_steps = self.settled_steps + 1 if settled else 0
        if self.steps == 1 or energy < self.lowest - tolerance * self.first:
            self.lowest, self.steps_since_low = energy, 0
        else:
            self.steps_since_low += 1

    def reason(self, rule: SwitchRule, energy: float, now: float) -> str | None:
        if rule.energy_fraction is not None and energy <= rule.energy_fraction * self.first:
            return f"energy {energy:.4f} is at most {rule.energy_fraction:g} of its first {self.first:.4f}"
        if rule.settled_steps is not None and self.settled_steps >= rule.settled_steps:
            return f"no plan gained anything for {self.settled_steps} steps, energy {energy:.4f}"
        if rule.plateau_steps is not None and self.steps_since_low >= rule.plateau_steps:
            return f"energy has not fallen below {self.lowest:.4f} for {self.steps_since_low} steps"
        if rule.max_steps is not None and self.steps >= rule.max_steps:
            return f"{self.steps} steps were taken"
        if rule.timeout_s is not None and now - self.since >= rule.timeout_s:
            return f"{now - self.since:.1f} s have passed"
        return None


@dataclass(frozen=True)
class GoalFile:
    """One goal of a task file."""

    image: str
    """Image file, relative to the task file."""
    name: str = ""
    """What to call it; empty takes the file's name."""
    until: SwitchRule = field(default_factory=SwitchRule)
    """When to go on to the next goal; at the last one, when the task is over."""
    gripper: Gripper = "preset"
    """What the gripper does on the way: ``preset`` (as the planner's preset says), ``plan`` (searched
    together with the arm, as in the paper), ``hold``, ``settle_first`` (searched alone once the arm has
    nothing to gain), ``open`` or ``close`` (then, whatever the energy says)."""
    full_grip: bool = False
    """Whether a planned change of the gripper goes all the way, to closed with force or to open."""
    state: tuple[float, ...] | None = None
    """The arm's state in the image where it is known: x, y, z [m], rx, ry, rz [rad], closedness 0..1; a
    planner with ``state_weight`` above 0 uses it."""


@dataclass(frozen=True)
class TaskConfig:
    """A task: goal images in order."""

    name: str
    """What to call the task."""
    goals: tuple[GoalFile, ...]
    """Goals in order; the last one is the aim."""
    description: str = ""
    """A sentence for people."""

    def __post_init__(self) -> None:
        if not self.goals:
            raise ConfigError("goals: received none, at least one is needed")


def load_task(path: str | Path, read_image: Callable[[Path], Frame]) -> tuple[TaskConfig, GoalChain]:
    """Read a task file and its goal images.

    Args:
        path: YAML file, see ``config/tasks/``.
        read_image: reads one image file; the caller's, so that control knows no file formats.

    Raises:
        ConfigError: unknown options, impossible values, or a goal that is never left.
        InputError: (from ``read_image``) an image that cannot be used; a state that is none.
    """
    path = Path(path)
    task = from_mapping(TaskConfig, load_yaml(path), str(path))
    return task, GoalChain([_sub_goal(goal, path.parent, read_image) for goal in task.goals])


def _sub_goal(file: GoalFile, folder: Path, read_image: Callable[[Path], Frame]) -> SubGoal:
    state = None if file.state is None else RobotState(file.state)  # type: ignore[arg-type]
    goal = Goal(read_image(folder / file.image), file.name or Path(file.image).stem, state)
    return SubGoal(goal, file.until, file.gripper, file.full_grip)
